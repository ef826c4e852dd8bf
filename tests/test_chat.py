"""Talk to the base, the base with the rule, and the trained model: in the terminal and on the page."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from helpers import tiny
from helpers.page_runs import make_run
from helpers.waiting import LONG, until
from nlft import cli
from nlft.chat.next_round import BAD, NextRound
from nlft.chat.score import pairings
from nlft.chat.session import Session
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import Ask, Sides
from nlft.chat.talk import Mark, Talk, choose
from nlft.chat.target import find_target
from nlft.chat.terminal import Terminal, quoted
from nlft.chat.worker import Worker
from nlft.core.spans import Span
from nlft.data.records import Question, completion_text, read_examples
from nlft.errors import UserError
from nlft.models.answerer import CompletionRequest, Generated
from nlft.models.local import LocalModel, base_of
from nlft.page.connections import listen
from nlft.page.conversation import Conversation
from nlft.page.live import LiveRun
from nlft.page.replies import MOST_WAITING
from nlft.page.server import PageServer
from nlft.page.serving import web_server
from nlft.runs.run_dir import RunDir

pytest_plugins = ["helpers.browser"]

LETTERS = b"abcdefghijklmnopqrstuvwxyz "
RULE = "Never say so."
OPTIONS = {"rule": RULE, "max_new_tokens": 12}


def writing(family: str = "llama", seed: int = 3) -> Any:
    """A tiny model that writes small letters and spaces only, so that its words can be struck."""
    net = tiny.model(family, seed)
    ids = [tiny.tokenizer().convert_tokens_to_ids("Ġ" if letter == 32 else chr(letter)) for letter in LETTERS]
    others = torch.ones(net.config.vocab_size, dtype=torch.bool)
    others[ids] = False
    with torch.no_grad():
        net.get_output_embeddings().weight[others] = 0
    return net


def save_model(folder: Path, net: Any) -> Path:
    net.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def save_adapter(folder: Path, net: Any, **options: Any) -> Path:
    """An adapter with weights that change what the model says, as a training would leave it."""
    torch.manual_seed(3)
    whole = get_peft_model(net, LoraConfig(**{"r": 4, "target_modules": "all-linear", **options}))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    whole.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), writing())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunDir:
    """A run as a training leaves it, with a system prompt."""
    run = RunDir(tmp_path_factory.mktemp("runs") / "a")
    save_adapter(run.adapter_path, writing())
    run.write_settings(record(model))
    return run


def record(model: Path, **more: Any) -> dict[str, Any]:
    about = {"model_name_or_path": str(model), "model": {"model_name_or_path": str(model), "dtype": "float32"}}
    return {"method": "nlft", "scheme": "strike", **about, "training": {"system_prompt": "Be brief."}, **more}


@pytest.fixture
def run(trained: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the run, so that no test finds another one's files beside it."""
    shutil.copytree(trained.path, tmp_path / "runs" / "a")
    return RunDir(tmp_path / "runs" / "a")


@pytest.fixture(scope="module")
def sides(trained: RunDir) -> Sides:
    return Sides(find_target(str(trained.path), None), ChatSettings(**OPTIONS))


def session(run: RunDir, **options: Any) -> Session:
    return Session(str(run.path), ChatSettings(**{**OPTIONS, **options}))


def replies(one: Session, *prompts: str) -> list[dict[str, str]]:
    """What each side replies to each prompt, by side."""
    talk = one.talk()
    for prompt in prompts:
        turn = talk.ask(prompt)
        list(one.write(talk, turn.order))
    return [{side: reply.text for side, reply in turn.replies.items()} for turn in talk.turns]


# The base is the base


def sides_of(folder: Path, net: Any, **adapter: Any) -> Sides:
    model = save_model(folder / "model", net)
    place = save_adapter(folder / "adapter", type(net).from_pretrained(model), **adapter)
    return Sides(find_target(str(place), str(model)), ChatSettings(**OPTIONS))


def test_with_the_adapter_off_the_base_is_proven_by_weights_switches_and_every_log_probability(sides: Sides) -> None:
    proof = sides.proof
    assert (proof.holds, sides.leak, sides.shared) == (True, None, True)
    assert proof.tensors > 20
    assert proof.layers == 14, "seven linear layers in each of two"
    assert proof.tokens > 100
    assert proof.difference == 0
    assert proof.tuned > 0.1
    told = "\n".join(sides.lines())
    assert str(proof.tensors) in told
    assert str(proof.layers) in told
    assert str(proof.tokens) in told


def test_whole_layers_and_tokens_of_an_adapter_are_switched_off_too(tmp_path: Path) -> None:
    tokens = {"embed_tokens": [70, 71, 72]}
    parts = {"target_modules": ["up_proj"], "modules_to_save": ["lm_head"], "trainable_token_indices": tokens}
    sides = sides_of(tmp_path, writing(), **parts)
    assert sides.proof.layers >= 4, "two linear layers, the head, the embedding"
    assert sides.proof.holds
    check_base(sides, tmp_path / "model")


def check_base(sides: Sides, model: Path) -> None:
    """The base side says what the base's own files say, token by token."""
    request = CompletionRequest("1#base", [{"role": "user", "content": "hello"}])
    net = AutoModelForCausalLM.from_pretrained(model)
    fresh = LocalModel(net, sides.encoder, max_new_tokens=12, batch_size=1)
    ((_, expected),) = next(iter(fresh.answer([request])))
    assert whole(sides, "base") == expected.text
    assert whole(sides, "tuned") != expected.text


def whole(sides: Sides, side: str) -> str:
    asks = {side: Ask([{"role": "user", "content": "hello"}], "1#base")}
    (answer,) = [piece for _, piece in sides.write(asks) if isinstance(piece, Generated)]
    return answer.text


def test_an_adapter_that_leaks_into_the_base_is_found_and_the_base_loaded_beside_it(tmp_path: Path) -> None:
    sides = sides_of(tmp_path, writing("gpt2"), target_modules=["c_fc"], fan_in_fan_out=True, bias="all")
    assert not sides.proof.holds
    assert any("bias" in name for name in sides.proof.changed)
    assert sides.proof.difference > 1e-4
    assert not sides.shared
    assert "weights of the base" in (sides.leak or "")
    check_base(sides, tmp_path / "model")


def test_an_adapter_with_an_embedding_of_its_own_on_a_tied_model_does_not_change_the_base(tmp_path: Path) -> None:
    net = writing()
    net.config.tie_word_embeddings = True
    net.tie_weights()
    sides = sides_of(
        tmp_path, net, target_modules=["up_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    assert sides.proof.holds
    assert sides.proof.tuned > 0.1
    check_base(sides, tmp_path / "model")


def test_a_layer_that_stays_on_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LoraLayer.enable_adapters
    monkeypatch.setattr(LoraLayer, "enable_adapters", lambda self, enabled: original(self, True))
    sides = sides_of(tmp_path, writing(), target_modules=["up_proj"])
    assert len(sides.proof.still_on) == 2
    assert sides.proof.difference > 0.01
    assert not sides.shared
    monkeypatch.undo()
    check_base(sides, tmp_path / "model")


# What is talked to


def test_each_side_streams_what_the_model_answers_to_its_own_prompt(sides: Sides) -> None:
    asked: list[Any] = [{"role": "user", "content": "hello"}]
    ruled: list[Any] = [{"role": "user", "content": f"hello\n\n{RULE}"}]
    base = base_of(sides.tuned)
    expected = {}
    for side, answerer, prompt in [("base", base, asked), ("rule", base, ruled), ("tuned", sides.tuned, asked)]:
        ((_, answer),) = next(iter(answerer.answer([CompletionRequest("x", prompt)])))
        expected[side] = answer.text
    assert len(set(expected.values())) == 3
    for burst in (None, 1, 5):
        pieces: dict[str, list[str]] = {side: [] for side in sides.names}
        for side, piece in sides.write({side: Ask(asked, "x") for side in sides.names}, burst):
            if isinstance(piece, Generated):
                assert piece.text == expected[side]
            else:
                pieces[side].append(piece)
        assert {side: "".join(parts) for side, parts in pieces.items()} == expected
        assert min(len(parts) for parts in pieces.values()) > 5, "they come token by token"


def test_a_reply_that_is_given_up_leaves_the_adapter_on(sides: Sides) -> None:
    before = whole(sides, "tuned")
    stream = sides.write({"base": Ask([{"role": "user", "content": "hello"}], "x")})
    next(stream)
    stream.close()
    assert whole(sides, "tuned") == before


def test_a_run_its_adapter_and_its_checkpoints_are_found_with_base_and_settings(
    run: RunDir, model: Path, tmp_path: Path
) -> None:
    asked = ChatSettings()
    for place in (run.path, run.adapter_path):
        target = find_target(str(place), None)
        assert (target.home, target.base, target.unfinished) == (run.path, str(model), False)
        assert target.templates(asked).system_prompt == "Be brief."
        assert target.templates(ChatSettings(system_prompt="No.")).system_prompt == "No."
    checkpoint = run.checkpoints_path / "checkpoint-7"
    shutil.move(run.adapter_path, checkpoint)
    target = find_target(str(run.path), None)
    assert (target.tuned, target.unfinished) == (str(checkpoint), True), "a run that has not finished"
    assert "not finished" in target.line()
    shutil.rmtree(run.checkpoints_path)
    with pytest.raises(UserError, match="neither a checkpoint nor its adapter"):
        find_target(str(run.path), None)
    with pytest.raises(UserError, match="--model_name_or_path"):
        find_target(str(model), None)
    with pytest.raises(UserError, match="does not exist"):
        find_target(str(tmp_path / "no"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"run\.yaml"):
        find_target(str(tmp_path / "empty"), None)


def test_a_run_of_all_weights_has_its_base_loaded_beside_it(run: RunDir, model: Path) -> None:
    shutil.rmtree(run.adapter_path)
    save_model(run.adapter_path, writing(seed=5))
    sides = Sides(find_target(str(run.path), None), ChatSettings(**OPTIONS))
    assert not sides.shared
    assert sides.proof.tuned > 0.1
    check_base(sides, model)


def test_the_rule_comes_from_the_user_or_from_the_rules_of_the_run(run: RunDir, model: Path, capsys: Any) -> None:
    rules = run.path.parent / "rules.yaml"
    rules.write_text("rules:\n- name: praise\n  rule: No praise\n  words: [sleek]\n")
    run.write_settings(record(model, rules=str(rules)))
    target = find_target(str(run.path), None)
    assert target.rule(ChatSettings()) == "No praise. Never use these words: sleek."
    assert target.rule(ChatSettings(rule="Mine.")) == "Mine."
    with pytest.raises(UserError, match="--rules"):
        target.rule(ChatSettings(rule="Mine.", rules=str(rules)))
    rules.unlink()
    assert target.rule(ChatSettings()) is None
    assert "--rules" in capsys.readouterr().out


# Conversations


def test_each_side_remembers_its_own_replies_and_never_another_ones() -> None:
    talk = Talk(["base", "tuned"])
    first = talk.ask("one")
    first.replies["base"].end(Generated("from base", 2, "stop"))
    first.replies["tuned"].end(Generated("", 1, "stop"))
    talk.ask("two")
    assert [m["content"] for m in talk.messages("base")] == ["one", "from base", "two"]
    assert [m["content"] for m in talk.messages("tuned")] == ["two"], "a reply without text is left out"
    talk.ask(Question("q", "three"))
    assert [m["content"] for m in talk.messages("base")] == ["three"], "a held-out prompt begins anew"


def test_blind_order_is_drawn_for_each_prompt_and_names_stay_hidden_until_the_choice() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        talk = Talk(["base", "rule", "tuned"], seed=seed, blind=True)
        return [talk.ask(f"prompt {at}").order for at in range(60)]

    assert orders(0) == orders(0) != orders(1)
    assert len(set(orders(0))) == 6
    talk = Talk(["base", "rule", "tuned"], blind=True)
    turn = talk.ask("hello")
    assert [turn.heading(side) for side in turn.order] == ["A", "B", "C"]
    assert turn.side("tuned") is None
    assert turn.side("b") == turn.order[1]
    with pytest.raises(UserError, match="not complete"):
        choose(turn, ["tuned"])
    for reply in turn.replies.values():
        reply.end(Generated("x", 1, "stop"))
    choose(turn, ["tuned", "base"])
    assert turn.heading(turn.order[0]) == f"A: {turn.order[0]}"
    with pytest.raises(UserError, match="already"):
        choose(turn, ["tuned"])
    with pytest.raises(UserError, match="/blind"):
        choose(Talk(["base", "tuned"]).ask("hello"), ["tuned"])


def test_the_score_counts_ties_and_prompts_and_has_both_intervals() -> None:
    def row(prompt: int, *chosen: str) -> dict[str, Any]:
        return {"prompt": str(prompt), "order": ["base", "rule", "tuned"], "chosen": list(chosen)}

    rows = [row(at, "tuned") for at in range(9)] + [row(9, "base"), row(10, "tuned", "base"), row(11, "rule")]
    found = {(one.ours, one.theirs): one for one in pairings(rows)}
    assert set(found) == {("tuned", "rule"), ("tuned", "base"), ("rule", "base")}
    one = found["tuned", "base"]
    assert (one.better, one.worse, one.tied, one.neither) == (9, 1, 1, 1)
    assert (one.share.count, one.share.n) == (9, 10)
    assert one.share.low == pytest.approx(0.596, abs=0.001), "Wilson's"
    assert one.difference.value == pytest.approx(8 / 12)
    assert 0 < one.difference.low < 8 / 12 < one.difference.high <= 1
    (same,) = [one for one in pairings([{**each, "prompt": "one"} for each in rows]) if one.theirs == "base"][:1]
    assert same.difference.low < one.difference.low, "twelve choices about one prompt are not twelve prompts"


# What a reader says becomes an example


def marked(*, text: str, reason: Any = "stop", turns: int = 1) -> tuple[Talk, Any, Any]:
    talk = Talk(["base", "tuned"])
    for at in range(turns):
        turn = talk.ask(f"prompt {at}")
        turn.replies["tuned"].end(Generated(text, 3, reason))
    return talk, turn, turn.replies["tuned"]


def test_every_mark_is_an_example_at_once_and_a_later_mark_takes_its_place(tmp_path: Path) -> None:
    other = '{"id": "mine", "prompt": "p", "completion": "c",   "label": true}\n'
    (tmp_path / "next.jsonl").write_text(other)
    kept = NextRound(tmp_path / "next.jsonl")
    talk, turn, reply = marked(text="a sleek Größe 😀 chair", turns=2)
    about = {"tuned": "runs/a", "base": "m", "weights": "0"}
    kept.keep(talk, turn, reply, Mark(False), about)
    assert read_examples(kept.path)[1].judgment == BAD
    kept.keep(talk, turn, reply, Mark(False, "It praises.", (Span(2, 7), Span(8, 15, "size 9"))), about)
    mine, found = read_examples(kept.path)
    assert kept.path.read_text().startswith(other), "other lines stay byte for byte"
    assert (mine.id, found.id, found.label, found.judgment) == ("mine", reply.id, False, "It praises.")
    assert [reply.text[s.start : s.end] for s in found.spans] == ["sleek", "Größe 😀"]
    assert found.spans[1].replace == "size 9"
    assert [m["content"] for m in found.prompt] == ["prompt 0", reply.text, "prompt 1"]
    assert found.extra["said_by"] == {"side": "tuned", "blind": False, **about}
    kept.keep(talk, turn, reply, Mark(True, "Short."), about)
    (_, found) = read_examples(kept.path)
    assert (found.label, found.feedback, found.judgment, found.spans) == (True, "Short.", None, ())
    kept.keep(talk, turn, reply, Mark(), about)
    assert kept.path.read_text() == other, "taken back"


def test_a_mark_that_makes_no_example_is_refused_and_the_earlier_one_stays(tmp_path: Path) -> None:
    kept = NextRound(tmp_path / "next.jsonl")
    talk, turn, reply = marked(text="some words")
    kept.keep(talk, turn, reply, Mark(True), {})
    with pytest.raises(UserError, match="overlap"):
        kept.keep(talk, turn, reply, Mark(False, "", (Span(0, 4), Span(2, 6))), {})
    assert reply.mark == Mark(True)
    assert [one.label for one in read_examples(kept.path)] == [True]
    empty = marked(text=" ")
    with pytest.raises(UserError, match="empty"):
        kept.keep(*empty, Mark(True), {})
    (tmp_path / "questions.jsonl").write_text('{"id": 1, "prompt": "p"}\n')
    with pytest.raises(UserError, match="--out"):
        NextRound(tmp_path / "questions.jsonl")
    with pytest.raises(UserError, match=r"\.jsonl"):
        NextRound(tmp_path / "next.txt")


def test_words_are_read_with_and_without_quotation_marks() -> None:
    assert quoted('"a => b"') == ("a => b", None)
    assert quoted('"some words" => "other words"') == ("some words", "other words")
    assert quoted("some words") == ("some words", None)
    assert quoted("some => other") == ("some", "other")
    assert quoted('"gone" => ""') == ("gone", "")


def test_files_that_are_inputs_are_not_written_to(run: RunDir, model: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": 1, "prompt": "p"}\n')
    with pytest.raises(UserError, match="--out"):
        session(run, prompts=str(prompts), out=str(prompts))
    run.write_settings(record(model, data={"file": str(tmp_path / "train.jsonl")}))
    (tmp_path / "train.jsonl").write_text('{"id": 1, "prompt": "p", "completion": "c", "label": true}\n')
    with pytest.raises(UserError, match="--out"):
        session(run, out=str(tmp_path / "train.jsonl"))


# In the terminal


def type_in(one: Session, text: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    capsys.readouterr()
    Terminal(one).run()
    said: str = capsys.readouterr().out
    return said


def test_a_scripted_conversation_keeps_feedback_and_choices_and_ends_with_a_line_that_trains(
    run: RunDir, model: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "held-out.jsonl"
    prompts.write_text('{"id": "chair", "prompt": "Describe a chair."}\n')
    expected, second = replies(session(run), "hello", "again")
    word = expected["tuned"].split()[-1]
    lines = ["hello", f'/strike "{word}"', "/why It goes on.", "/good base Clear."]
    lines += [f'/write rule "{expected["rule"]}" => "no"', "again", "/bad", "/undo", "/nothing", "/bad base why"]
    lines += ["/new", "/blind", "/prompt", "/good", "/choose A B", "/quit"]
    command = [sys.executable, "-m", "nlft", "chat", str(run.path), "--prompts", str(prompts), "--rule", RULE]
    done = subprocess.run(
        [*command, "--max_new_tokens", "12"], input="\n".join(lines), capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")
    for text in [*expected.values(), *second.values()]:
        assert text in done.stdout
    places = [done.stdout.index(f"── {side} ") for side in ("base", "rule", "tuned")]
    assert places == sorted(places)
    assert all(f"── {letter} " in done.stdout for letter in "ABC")
    assert "/nothing" in done.stdout
    out = run.path.parent / "examples-next.jsonl"
    examples = read_examples(out)
    found = {one.extra["said_by"]["side"]: one for one in examples[:3]}
    assert {side: completion_text(one) for side, one in found.items()} == expected
    assert (found["base"].label, found["base"].feedback) == (True, "Clear.")
    assert [completion_text(one) for one in examples[3:]] == [second["base"]], "the thumb that was taken back is gone"
    assert found["tuned"].judgment == "It goes on."
    assert {expected["tuned"][s.start : s.end] for s in found["tuned"].spans} == {word}
    assert {s.replace for s in found["rule"].spans} == {"no"}
    (choice,) = [json.loads(line) for line in (run.path / "chat-choices.jsonl").read_text().splitlines()]
    assert choice["chosen"] == choice["order"][:2]
    assert "score of 1 blind" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("next: nlft train ")
    words = shlex.split(last.removeprefix("next: nlft "))
    more = ["--max_steps", "1", "--use_cpu", "--disable_tqdm", "true", "--watch", "0", "--dtype", "float32"]
    assert cli.main([*words, *more]) == 0
    again = RunDir(run.path.with_name("a-2"))
    assert again.settings()["training"]["system_prompt"] == "Be brief."
    assert again.settings()["scheme"] == "strike"


def test_ctrl_c_stops_the_replies_and_not_the_program(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    one = session(run, rule=None)
    whole = replies(one, "hello")[0]
    write = Session.write

    def interrupted(self: Session, talk: Talk, asked: Any, burst: Any = None) -> Any:
        for count, piece in enumerate(write(self, talk, asked, burst)):
            if count == 3 and talk.number == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield piece

    monkeypatch.setattr(Session, "write", interrupted)
    said = type_in(one, "hello\n/new\nhello\n/good\n", monkeypatch, capsys)
    first, rest = said.split("Stopped.")
    assert whole["base"][:3] in first
    assert whole["base"] not in first
    assert "── tuned" not in first
    assert whole["base"] in rest
    assert whole["tuned"] in rest
    assert "there is no side `rule`" in said.lower()
    (kept,) = read_examples(run.path.parent / "examples-next.jsonl")
    assert kept.completion == whole["tuned"]


def test_mistakes_are_told_in_a_sentence_and_the_conversation_goes_on(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    one = session(run)
    lines = [
        "/good",
        "/prompt",
        "/choose A",
        "hello",
        "/strike",
        '/strike "zzzzzz"',
        "/why so",
        "/blind",
        "hi",
        "/good",
        "/help",
    ]
    said = type_in(one, "\n".join(lines), monkeypatch, capsys)
    for part in (
        "no reply yet",
        "--prompts",
        '/strike "words"',
        "zzzzzz",
        "/good, /bad or /strike",
        "A, B, C",
        "/undo",
    ):
        assert part in said
    assert not one.next_round.examples()
    assert one.next_line() == f"nlft map {run.path}"


def test_a_rule_is_given_while_one_talks_and_stands_in_what_is_written(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    one = session(run, rule=None)
    (expected,) = replies(session(run), "again")
    lines = ["/rule", "hello", f"/rule {RULE}", "/new", "again", "/good rule", "/blind", "third", "/choose A"]
    lines += ["/rule Speak.", "fourth", "/choose A", "/score", "/rule off", "/open", "fifth"]
    said = type_in(one, "\n".join(lines), monkeypatch, capsys)
    first, second = said.split(RULE, 1)
    assert "── rule " not in first
    assert expected["rule"] in second, "as if the rule had been given at the start"
    assert "── rule " not in second.split("/open")[-1].rsplit("no side `rule`", 1)[-1]
    (kept,) = read_examples(run.path.parent / "examples-next.jsonl")
    assert (kept.completion, kept.extra["said_by"]["rule"]) == (expected["rule"], RULE)
    choices = [json.loads(line) for line in (run.path / "chat-choices.jsonl").read_text().splitlines()]
    assert [row["rule"] for row in choices] == [RULE, "Speak."]
    counted = {line.split(":")[0].strip(): line for line in one.choices.lines("Speak.") if " against " in line}
    assert sum(map(int, re.findall(r"(?:better|worse|tied|neither) (\d+)", counted["tuned against base"]))) == 2
    assert sum(map(int, re.findall(r"(?:better|worse|tied|neither) (\d+)", counted["tuned against rule"]))) == 1
    assert one.choices.lines("Speak.")[-1].endswith("`rule`: 1.")


def test_what_the_file_held_before_is_counted_and_trained_on(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    first = session(run)
    type_in(first, "hello\n/bad\n/good base\n", monkeypatch, capsys)
    again = session(run)
    said = type_in(again, "hi\n/good\n/undo\n", monkeypatch, capsys)
    opening = said.split("Type a prompt")[0]
    assert "2 examples in" in opening
    assert "examples-next.jsonl" in opening
    assert "3 examples" in said
    assert "1 rejected without a reason" in again.kept_line()
    assert "2 examples" in again.kept_line()
    assert again.next_line().startswith("nlft train ")


def test_the_file_a_run_was_trained_on_is_not_the_next_round_of_it(run: RunDir, model: Path) -> None:
    beside = run.path.parent
    (beside / "examples-next.jsonl").write_text('{"id": 1, "prompt": "p", "completion": "c", "label": true}\n')
    run.write_settings(record(model, data={"file": str(beside / "examples-next.jsonl")}))
    one = session(run)
    assert one.next_round.path.resolve() == (beside / "examples-next-2.jsonl").resolve()
    assert one.kept_line().startswith("0 examples")


# On the page


STUB = """
import json, sys
print("a library says hello\\n{and a set}")
ready = {"ready": {"lines": [], "questions": [], "blind": False, "score": []}}
ready["ready"].update({"rule": None, "kept": "0 examples in next.jsonl", "next": "nlft map a"})
print(json.dumps(ready), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("do") == "about":
        print(json.dumps({"n": asked["n"], **ready}), flush=True)
        continue
    open(sys.argv[1], "a").write(line)
    if asked.get("do") == "ask":
        print(json.dumps({"n": asked["n"], "turn": 1, "headings": ["base", "tuned"], "hidden": False}), flush=True)
    elif "do" in asked:
        print('{"n": 1, "pie', end="", flush=True)
        sys.exit()
"""


FAILING = """
import json, sys
print(json.dumps({"error": "the run has no <adapter> yet"}), flush=True)
sys.stdin.read()
"""


@contextmanager
def served(page: PageServer) -> Iterator[int]:
    """Serve a page; yield its port."""
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(page, listening, "token", set())
    serving = threading.Thread(target=server.serve_until_stopped, daemon=True)
    serving.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.stop()
        serving.join(20)
        assert not serving.is_alive()


@pytest.fixture
def stubbed(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """A page's server whose models' process begins replies and never ends them; its port, and what the process read."""
    log = tmp_path / "asked.jsonl"
    command = [sys.executable, "-c", STUB, str(log)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: process)
    conversation = Conversation(run.path, {}, at_once=True)
    monkeypatch.undo()
    with served(PageServer([LiveRun(run)], who="ann", conversation=conversation)) as port:
        yield port, log
    conversation.close()


def test_a_reader_who_leaves_stops_the_replies_and_a_crowd_is_refused(
    stubbed: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nlft.page.replies.BEAT_EVERY", 0)
    port, log = stubbed
    body = {"talk": "t", "text": "hello"}
    bearer = {"Authorization": "Bearer token"}
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api", headers=bearer, timeout=20) as client,
        ExitStack() as all,
    ):
        until(lambda: "ready" in client.get("/chat").json())
        assert client.post("/chat/ask", json={"talk": 3}).status_code == 400
        assert httpx.post(f"{client.base_url}chat/ask", json=body).status_code == 401
        assert client.post("/chat/ask", json=body, headers={"Origin": "http://evil.example"}).status_code == 403
        reading = []
        leaving = all.enter_context(ExitStack())
        for at in range(MOST_WAITING):
            stack = leaving if at < 2 else all
            response = stack.enter_context(client.stream("POST", "/chat/ask", json=body))
            reading.append(response.iter_lines())
            assert json.loads(next(reading[at]))["turn"] == 1
        assert client.post("/chat/ask", json=body).status_code == 429
        leaving.close()
        until(lambda: log.read_text().count("cancel") == 2)
        response = all.enter_context(client.stream("POST", "/chat/ask", json=body))
        assert json.loads(next(response.iter_lines()))["turn"] == 1, "there is room again"
        assert next(reading[2]) == "", "a stream without news has heartbeats"
        gone = client.post("/chat/mark", json={"talk": "t", "turn": 1, "at": 0, "good": True})
        assert (gone.status_code, "has ended" in gone.json()["error"]) == (422, True)
        assert "has ended" in json.loads(next(filter(None, reading[2])))["error"], "whoever waits is told"
        assert client.post("/chat/ask", json=body).status_code == 422


def test_the_worker_stops_what_nobody_waits_for_and_answers_marks_meanwhile(run: RunDir) -> None:
    said: list[dict[str, Any]] = []
    worker = Worker(session(run, rule=None, max_new_tokens=40), said.append)

    def answer(*requests: dict[str, Any]) -> list[dict[str, Any]]:
        said.clear()
        worker.read(json.dumps(one) for one in requests)
        worker.cancelled.discard(-1)
        worker.write_replies()
        return list(said)

    ask = {"do": "ask", "talk": "t", "text": "hello"}
    assert answer({"n": 1, **ask}, {"cancel": 1}) == [], "cancelled before it began"
    *_, last = answer({"n": 2, **ask})
    assert last == {"n": 2, "done": True, "stopped": False}
    ends = [line for line in said if "end" in line]
    assert all(("cut" in line) == (line["end"] == "length") for line in ends)
    assert any("--max_new_tokens 80" in line.get("cut", "") for line in ends), "twice the 40 of this start"
    worker.say = lambda line: (said.append(line), worker.cancelled.add(3) if "piece" in line else None)
    stopped = answer({"n": 3, **ask})
    assert stopped[-1] == {"n": 3, "done": True, "stopped": True}
    assert sum("piece" in line for line in stopped) == 1
    worker.say = said.append
    turn = worker.talks["t"].turns[-1]
    (seen,) = (line["piece"] for line in stopped if "piece" in line)
    reply, complete = turn.replies[turn.order[0]], worker.talks["t"].turns[0].replies["tuned"].text
    reply.text = f"{seen} and what nobody saw"  # the model writes on until it hears of the stop
    answer({"n": 11, "do": "mark", "talk": "t", "turn": 2, "at": 0, "shown": len(seen), "good": False, "why": "Short."})
    assert reply.text == seen
    (short,) = read_examples(run.path.parent / "examples-next.jsonl")
    assert (completion_text(short), short.judgment) == (seen, "Short.")
    reply.text = f"{seen} and what nobody saw"
    answer(
        {"n": 12, **ask, "turn": 2, "shown": [len(seen), 0]}, {"n": 13, "do": "mark", "talk": "t", "turn": 2, "at": 0}
    )
    assert reply.text == seen
    assert worker.talks["t"].turns[0].replies["tuned"].text == complete
    mark = {"do": "mark", "talk": "t", "turn": 1, "at": 1}
    spans = [{"start": 0, "end": 2, "replace": "x"}]
    kept, wrong, unknown = answer(
        {"n": 4, **mark, "good": None, "why": "", "spans": spans},
        {"n": 5, **mark, "good": "yes"},
        {"n": 6, **mark, "turn": 9, "good": True},
    )
    assert kept["n"] == 4
    assert "nlft train" in kept["next"]
    assert "Reload" in wrong["error"]
    assert "memory" in unknown["error"]
    (example,) = read_examples(run.path.parent / "examples-next.jsonl")
    assert (example.label, example.spans) == (False, (Span(0, 2, "x"),))
    headings = answer({"n": 7, **ask, "rule": " Be kind. "})[0]["headings"]
    assert headings == ["base", "rule", "tuned"]
    assert worker.talks["t"].turns[-1].rule == "Be kind."
    assert answer({"n": 8, **ask, "rule": ""})[0]["headings"] == ["base", "tuned"]
    (lost,) = answer({"n": 9, "do": "ask", "talk": "gone", "turn": 3, "text": "hello"})
    assert "memory" in lost["error"], "its turns would get the numbers of others"
    (about,) = answer({"n": 10, "do": "about"})
    restarted = Worker(session(run, rule=None), said.append)
    for ready in (about["ready"], restarted.ready()):
        assert ready["kept"].startswith("1 example in")
        assert "examples-next.jsonl" in ready["kept"]
        assert "nlft train" in ready["next"]


def test_one_talks_on_the_page_while_its_server_holds_no_torch(run: RunDir, chromium: Any, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    from helpers.browser import Watch  # not above: pytest is to import its plugin first

    prompts = tmp_path / "held-out.jsonl"
    prompts.write_text('{"id": "chair", "prompt": "Describe <b>a chair</b>."}\n')
    expected, second = replies(session(run), "hello", "again")
    (held,) = replies(session(run), "Describe <b>a chair</b>.")
    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0", "--chat", "--rule", RULE]
    server = subprocess.Popen(
        [*command, "--max_new_tokens", "12", "--prompts", str(prompts)], stdout=subprocess.PIPE, text=True
    )
    watch = Watch()
    page = chromium.new_page(viewport={"width": 1200, "height": 900})
    watch.follow(page)
    try:
        assert server.stdout
        page.goto(server.stdout.readline().split()[1])
        page.get_by_role("tab", name="Replies").click()
        form = page.locator(".reply-form")
        expect(form).to_be_visible(timeout=LONG * 1000)
        expect(page.locator(".reply-about")).to_contain_text("Base checked")
        maps = Path(f"/proc/{server.pid}/maps")
        assert not maps.is_file() or "libtorch" not in maps.read_text()

        form.get_by_label("Prompt", exact=True).fill("hello")
        form.get_by_role("button", name="Send").click()
        turn = page.locator(".reply-turn").last
        for at, side in enumerate(("base", "rule", "tuned")):
            expect(turn.locator("h3").nth(at)).to_have_text(side)
            expect(turn.locator(".reply-text").nth(at)).to_have_text(expected[side])
        tuned, base = turn.locator(".reply").nth(2), turn.locator(".reply").nth(0)
        out = run.path.parent / "examples-next.jsonl"

        tuned.locator(".reply-text").evaluate(
            "(one) => getSelection().setBaseAndExtent(one.firstChild, 1, one.firstChild, 4)"
        )
        expect(tuned.get_by_label("Words, reply 3")).to_have_value(expected["tuned"][1:4].strip())
        tuned.get_by_label("Instead, reply 3").fill("<i>😀</i>")
        tuned.get_by_role("button", name="Write over").click()
        expect(page.locator(".reply-kept")).to_contain_text("1 example")
        expect(tuned.locator("s")).to_have_text(expected["tuned"][1:4].strip())
        tuned.get_by_label("Why, reply 3").fill("It goes on.")
        base.get_by_role("button", name="Like").click()
        expect(page.locator(".reply-kept")).to_contain_text("2 examples")
        expect(page.locator(".reply-next")).to_contain_text("nlft train")
        found = {one.extra["said_by"]["side"]: one for one in read_examples(out)}
        assert (found["base"].label, found["base"].completion) == (True, expected["base"])
        assert (found["tuned"].label, found["tuned"].judgment) == (False, "It goes on.")
        (span,) = found["tuned"].spans
        assert (expected["tuned"][span.start : span.end], span.replace) == (expected["tuned"][1:4].strip(), "<i>😀</i>")

        form.get_by_label("Prompt", exact=True).fill("again")
        form.get_by_role("button", name="Send").click()
        expect(page.locator(".reply-turn").last.locator(".reply-text").nth(0)).to_have_text(second["base"])

        form.get_by_label("Hide the names").check()
        form.get_by_role("button", name="Ask this prompt").click()
        turn = page.locator(".reply-turn").last
        expect(turn.get_by_role("button", name="Choose")).to_be_visible()
        expect(page.locator(".reply-turn")).to_have_count(1)
        assert turn.locator("h3").all_inner_texts() == ["A", "B", "C"]
        turn.get_by_role("checkbox").nth(1).check()
        turn.get_by_role("button", name="Choose").click()
        expect(turn.locator("h3").nth(1)).to_contain_text("B: ")
        (choice,) = [json.loads(line) for line in (run.path / "chat-choices.jsonl").read_text().splitlines()]
        assert turn.locator("h3").all_inner_texts() == [
            f"{a}: {b}" for a, b in zip("ABC", choice["order"], strict=True)
        ]
        assert choice["chosen"] == [choice["order"][1]]
        assert turn.locator(".reply-text").all_inner_texts() == [held[side] for side in choice["order"]]
        expect(page.locator(".reply-score")).to_contain_text("score of 1 blind")

        rule = form.get_by_label("Rule", exact=True)
        expect(rule).to_have_value(RULE)
        rule.fill("Say <b>more</b>.")
        form.get_by_label("Hide the names").uncheck()
        form.get_by_label("Prompt", exact=True).fill("last")
        form.get_by_role("button", name="Send").click()
        turn = page.locator(".reply-turn").last
        expect(turn.locator(".reply-actions").nth(2)).to_be_visible()
        turn.get_by_role("button", name="Like").nth(1).click()
        expect(page.locator(".reply-kept")).to_contain_text("3 examples")
        assert read_examples(out)[-1].extra["said_by"]["rule"] == "Say <b>more</b>."
        cut = turn.locator(".reply-end").filter(has_text="--max_new_tokens 24")
        assert cut.count() > 0, "twice the 12 of this start"
        page.reload()
        expect(page.locator(".reply-kept")).to_contain_text("3 examples")
        expect(page.locator(".reply-kept")).to_contain_text("examples-next.jsonl")
        expect(page.locator(".reply-score")).to_contain_text("score of 1 blind")
        expect(rule).to_have_value("Say <b>more</b>.")
        assert watch.complaints == []
    finally:
        page.close()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


def test_the_page_says_what_it_shows_of_a_stopped_reply_and_keeps_its_log_if_a_prompt_is_refused(
    run: RunDir, chromium: Any
) -> None:
    from playwright.sync_api import expect

    questions = [{"id": "q1", "text": "What is red?"}]
    ready = {"lines": [], "questions": questions, "blind": False, "score": [], "rule": None, "kept": "", "next": ""}
    begun = {"turn": 1, "headings": ["base", "tuned"], "hidden": False}
    streams = [
        [begun, {"at": 0, "piece": "😀 so"}, {"at": 1, "piece": "No"}, {"at": 1, "end": "stop", "text": "No."}],
        [{"error": "4 prompts are waiting for the model."}],
        [{**begun, "turn": 2}, *({"at": at, "end": "stop", "text": "Yes."} for at in (0, 1))],
    ]
    sent: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        sent.append(json.loads(route.request.post_data))
        if route.request.url.endswith("/mark"):
            return route.fulfill(json={"kept": "1 example", "next": ""})
        # An empty line says that the server is still there.
        return route.fulfill(body="\n" + "".join(json.dumps(line) + "\n" for line in streams.pop(0)))

    page = chromium.new_page()
    page.route("**/api/chat", lambda route: route.fulfill(json={"ready": ready}))
    page.route(re.compile("/api/chat/(ask|mark)$"), answer)
    with served(PageServer([LiveRun(run)], who="ann", conversation=Conversation(run.path, {}, at_once=False))) as port:
        page.goto(f"http://127.0.0.1:{port}/?token=token#replies")
        page.get_by_label("Prompt", exact=True).fill("hello")
        page.get_by_role("button", name="Send").click()
        expect(page.locator(".reply-end").first).to_have_text("stopped")
        page.get_by_role("button", name="Like").first.click()
        expect(page.locator(".reply-kept")).to_have_text("1 example")
        ask = page.get_by_role("button", name="Ask this prompt")
        ask.click()
        expect(page.locator(".reply-status")).to_contain_text("4 prompts are waiting")
        expect(page.locator(".reply-turn")).to_have_count(1)
        expect(page.locator(".reply-text").first).to_have_text("😀 so")
        ask.click()
        expect(page.locator(".reply-text").first).to_have_text("Yes.")
        expect(page.locator(".reply-turn")).to_have_count(1)
    page.close()
    assert [one.get("shown") for one in sent] == [[], 4, [4, 3], [4, 3]]


def test_models_that_were_not_started_are_started_from_the_page_and_failures_are_shown(
    run: RunDir, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    scripts, begin = [FAILING, STUB], subprocess.Popen
    begun: list[Any] = []

    def start(*_: Any, **__: Any) -> Any:
        command = [sys.executable, "-c", scripts[len(begun)], str(tmp_path / "asked.jsonl")]
        begun.append(begin(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    conversation = Conversation(run.path, {}, at_once=False)
    page = chromium.new_page()
    with served(PageServer([LiveRun(run)], who="ann", conversation=conversation)) as port:
        url, bearer = f"http://127.0.0.1:{port}", {"Authorization": "Bearer token"}
        ask = f"{url}/api/chat/ask"
        assert httpx.post(f"{url}/api/chat/start", json={}).status_code == 401
        evil = {**bearer, "Origin": "http://evil.example"}
        assert httpx.post(f"{url}/api/chat/start", json={}, headers=evil).status_code == 403
        assert httpx.post(f"{url}/api/chat/start", data={"a": "b"}, headers=bearer).status_code >= 400
        assert httpx.get(f"{url}/api/chat/start", headers=bearer).status_code == 405
        early = httpx.post(ask, json={"talk": "t", "text": "hello"}, headers=bearer)
        assert (early.status_code, "Start the models" in early.json()["error"]) == (409, True)
        assert begun == [], "nothing is loaded before a reader asks for it"
        page.goto(f"{url}/?token=token#replies")
        button, said = page.get_by_role("button", name="Start the models"), page.locator(".reply-status")
        expect(said).to_contain_text("not loaded")
        expect(page.locator(".reply-form")).to_be_hidden()
        button.click()
        expect(said).to_contain_text("the run has no <adapter> yet")
        button.click()
        expect(page.locator(".reply-form")).to_be_visible()
        expect(button).to_be_hidden()
        page.reload()
        expect(page.locator(".reply-form")).to_be_visible()
        assert len(begun) == 2
        again = httpx.post(f"{url}/api/chat/start", json={}, headers=bearer).json()
        assert ("ready" in again, len(begun)) == (True, 2), "models that are loaded are not loaded once more"
    conversation.close()
    with served(PageServer([LiveRun(run)], who="ann", read_only=True, conversation=conversation)) as port:
        page.goto(f"http://127.0.0.1:{port}/?token=token#replies")
        expect(page.locator("#panel-replies")).to_contain_text("--read_only")
        bearer = {"Authorization": "Bearer token"}
        assert httpx.post(f"http://127.0.0.1:{port}/api/chat/start", json={}, headers=bearer).status_code == 404
    page.close()


def test_an_exported_page_has_no_replies_and_flags_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: Any
) -> None:
    run = make_run(tmp_path / "farm", steps=1, examples=1)
    assert cli.main(["map", str(run.path), "--html", str(tmp_path / "map.html")]) == 0
    saved = (tmp_path / "map.html").read_text()
    assert not re.search(r"mountReplies|chat/ask", saved)
    assert "saved page" in saved
    for flags, said in [
        (["--rule", "x"], "--chat"),
        (["--chat", "--read_only"], "--read_only"),
        (["--chat", "--max_new_tokens", "0"], "max_new_tokens"),
        (["--chat", "--prompts", str(tmp_path / "no.jsonl")], "no.jsonl"),
    ]:
        assert cli.main(["map", str(run.path), *flags]) == 2
        assert said in capsys.readouterr().err
