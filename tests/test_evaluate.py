"""Evaluation and generation: evidence, intervals, resuming, and rows that do not disturb each other."""

import json
import subprocess
import sys
import time
from collections import deque
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    MiniMaxConfig,
    MptConfig,
)

from helpers import tiny
from helpers.fault_proxy import AnsweringServer, answer_to
from nlft import cli
from nlft.collect.sampling import SamplingSettings
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.data.records import Question
from nlft.errors import ProblemsError, UserError
from nlft.models import decoding
from nlft.models.answerer import CompletionRequest
from nlft.models.decoding import Decoder
from nlft.models.local import LocalModel, _Draw, greedy
from nlft.results.evaluate import EvaluationSettings, evaluate, graders
from nlft.results.settings import as_asked
from nlft.results.stats import paired_difference, wilson

QUESTIONS = [Question(f"q{i}", f"What is {i}?" + " Say it." * (i % 4), f"#### {i}") for i in range(9)]


def local(**options):
    settings = {"max_new_tokens": 12, "batch_size": 4, **options}
    return LocalModel(tiny.model(), ConditionEncoder(tiny.tokenizer()), **settings)


def answers(model, prompts):
    found = {}
    for batch in model.answer([CompletionRequest(*prompt) for prompt in prompts]):
        found.update(dict(batch))
    return [found[i] for i in range(len(prompts))]


PROMPTS = [(q.id, q.prompt) for q in QUESTIONS]


def test_greedy_answers_are_those_of_generate():
    model = local(batch_size=3)
    ours = answers(model, PROMPTS)
    for (_, prompt), answer in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([model.encoder.prompt_ids(prompt)])
        out = model.model.generate(
            ids, max_new_tokens=12, do_sample=False, eos_token_id=model.encoder.end_of_turn_id, pad_token_id=0
        )[0, ids.shape[1] :]
        assert answer.text == model.encoder.tokenizer.decode(out, skip_special_tokens=True).strip()
        assert answer.tokens == len(out)
        assert answer.finish_reason == ("stop" if out[-1] == model.encoder.end_of_turn_id else "length")


def test_a_rows_end_does_not_disturb_the_rows_that_go_on():
    """Rows leave the batch at different lengths; each answer is what it is alone."""
    model = local(max_new_tokens=40, batch_size=9, temperature=1.5)
    together = answers(model, PROMPTS)
    assert len({a.tokens for a in together}) > 2, "rows should end at different lengths"
    alone = [answers(model, [p])[0] for p in PROMPTS]
    assert together == alone


def test_sampling_depends_on_seed_question_and_position_alone():
    first = answers(local(temperature=1.0), PROMPTS)
    assert answers(local(temperature=1.0), PROMPTS[::-1])[::-1] == first
    assert answers(local(temperature=1.0, seed=1), PROMPTS) != first


def test_draws_follow_the_tempered_distribution():
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]])
    draw = _Draw(["a"], 0, temperature=0.7)
    counts = np.bincount([int(draw(logits, [0])) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, (logits[0] / 0.7).softmax(0), atol=0.03)


@pytest.mark.parametrize("temperature", [1e-310, 5e-324, 1e-30])
def test_a_tiny_temperature_draws_the_likeliest_token(temperature):
    logits = torch.tensor([[1.0, 0.0, -float("inf"), 2.0], [3.0, 1.0, 2.0, -90.0]])
    assert _Draw(["a", "b"], 0, temperature)(logits, [0, 1]).tolist() == [3, 0]


SHOTS = [
    {"role": "user", "content": "What is 1?"},
    {"role": "assistant", "content": "It is 1, as it says."},
]


def read_by(model, prompts):
    """The answers, and how many tokens the model's embeddings were given before the first answered one."""
    read = []
    hook = model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    try:
        return answers(model, prompts), sum(size for size in read if size > len(prompts))
    finally:
        hook.remove()


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_earlier_turns_that_all_share_are_read_once_and_change_no_answer(monkeypatch, family):
    model = LocalModel(tiny.model(family), ConditionEncoder(tiny.tokenizer()), max_new_tokens=12, batch_size=9)
    asked = [(q.id, [*SHOTS, {"role": "user", "content": q.prompt}]) for q in QUESTIONS]
    prefix = len(tiny.tokenizer().apply_chat_template(SHOTS)["input_ids"])
    found, read = read_by(model, asked)
    monkeypatch.setattr(LocalModel, "_shared", lambda *_: 0)
    plain, read_plain = read_by(model, asked)
    assert found == plain
    if family == "gemma2":  # keeps a window of its prompts
        assert read == read_plain
    else:
        assert read_plain - read == len(asked) * (prefix + 1) - (prefix + 1)


def decoded(family, size, shared=0):
    """Rows that end after 1 to 11 tokens, at most `size` at a time; and the rows of each of the model's calls."""
    model = LocalModel(tiny.model(family), ConditionEncoder(tiny.tokenizer()), max_new_tokens=12, batch_size=size)
    asked = [[*SHOTS, {"role": "user", "content": "?" * at}] for at in range(9)]
    prompts = [model.encoder.prompt_ids(one) for one in asked]
    calls = []
    with model._answering():
        model._reader.learn()
    hook = model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    decoder = model._decoder(prompts, greedy, lambda row, ids: len(ids) == 1 + 5 * row % 11, shared)
    waiting = deque(range(9))
    with model._answering():
        while waiting or decoder.alive:
            decoder.run(waiting)
    hook.remove()
    return decoder.written, calls


@pytest.mark.parametrize("family", list(tiny.FAMILIES))
def test_waiting_prompts_take_the_places_of_finished_ones_and_change_no_answer(family):
    alone, _ = decoded(family, 1)
    assert [len(alone[row]) for row in range(9)] == [1 + 5 * row % 11 for row in range(9)]
    shared = len(tiny.tokenizer().apply_chat_template(SHOTS)["input_ids"])
    for start in (0, shared):
        together, calls = decoded(family, 4, start)
        assert together == alone
        assert max(calls) == 4
    in_turns = sum(max(len(alone[row]) for row in range(at, min(at + 4, 9))) for at in (0, 4, 8))
    if family == "gemma2":  # keeps a window of its prompts, so a new batch begins when the one before has ended
        assert len(decoded(family, 4)[1]) == in_turns
    else:
        reads = len(alone) - 3  # each prompt that joins later is read in a call of its own
        assert len(decoded(family, 4)[1]) < in_turns + reads
        assert sum(decoded(family, 4)[1]) == sum(map(len, alone.values()))


def test_a_finished_row_is_returned_while_a_slower_one_of_the_last_batch_goes_on(monkeypatch):
    model, prompts, returned = local(batch_size=8), [[5, 6, 7, 8]] * 4, []
    monkeypatch.setattr(decoding, "PAUSE", 0)
    decoder, waiting = (
        model._decoder(prompts, greedy, lambda row, ids: len(ids) == (9, 2, 4, 2)[row], 0),
        deque([0, 1, 2, 3]),
    )
    with model._answering():
        while waiting or decoder.alive:
            done = decoder.run(waiting)
            returned.append((done, len(decoder.written[0])))
    assert returned == [([1, 3], 2), ([2], 4), ([0], 9)]


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_for_which_rotary_angles_change_leave_the_others_as_they_are(kind):
    """Rows that stay below the 32 tokens, that grow beyond, and that begin beyond: each is decoded as if alone."""
    lengths = [60, 45, 36, 32, 28, 28, 24, 23, 20, 12, 5]
    prompts = [[5 + (row + at) % 60 for at in range(length)] for row, length in enumerate(lengths)]
    model = LocalModel(tiny.turning(kind), ConditionEncoder(tiny.tokenizer()), max_new_tokens=9, batch_size=4)
    sizes = []
    hook = model.model.get_input_embeddings().register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    decoder, waiting = model._decoder(prompts, greedy, lambda row, ids: len(ids) == 9 - row % 3, 0), deque(range(11))
    with model._answering():
        while waiting or decoder.alive:
            decoder.run(waiting)
    hook.remove()
    assert max(sizes) == 4, "rows below the 32 tokens are decoded together"
    for row, prompt in enumerate(prompts):
        alone = tiny.turning(kind).generate(
            torch.tensor([prompt]), max_new_tokens=9 - row % 3, do_sample=False, pad_token_id=0, eos_token_id=None
        )
        assert decoder.written[row] == alone[0, len(prompt) :].tolist(), row


def other(family):
    """Models that count places by index, or keep more than keys and values; a window shorter than the prompts."""
    torch.manual_seed(0)
    config = {
        "gpt_neo": lambda: GPTNeoConfig(
            vocab_size=tiny.VOCAB, hidden_size=32, num_layers=2, num_heads=4, window_size=40,
            attention_types=[[["global", "local"], 1]], max_position_embeddings=512,
        ),
        "mpt": lambda: MptConfig(vocab_size=tiny.VOCAB, d_model=32, n_layers=2, n_heads=4, max_seq_len=512),
        "minimax": lambda: MiniMaxConfig(
            vocab_size=tiny.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=512,
            block_size=16,
        ),
    }[family]()  # fmt: skip
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    net = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return net.eval()


@pytest.mark.parametrize("family", ["gpt_neo", "mpt", "minimax"])
def test_models_for_which_pads_in_the_middle_are_not_nothing_share_nothing(monkeypatch, family):
    model = LocalModel(other(family), ConditionEncoder(tiny.tokenizer()), max_new_tokens=12, batch_size=4)
    asked = [(q.id, [*SHOTS, {"role": "user", "content": q.prompt}]) for q in QUESTIONS]
    found = answers(model, asked)
    assert not model._reader.joins
    monkeypatch.setattr(LocalModel, "_shared", lambda *_: 0)
    assert found == answers(model, asked)


def test_prompts_that_begin_differently_share_nothing_and_like_texts_do_not_count():
    model = local()
    asked = [CompletionRequest("a", "What is 1?"), CompletionRequest("b", "What is 2?")]
    encoded = [model.encoder.prompt_ids(request.prompt) for request in asked]
    mark = len(model.encoder.tokenizer("<s><|user|>", add_special_tokens=False)["input_ids"])
    assert model._shared(asked, encoded) == mark
    mixed = [CompletionRequest("c", [*SHOTS, {"role": "user", "content": "What is 2?"}]), *asked]
    assert model._shared(mixed, [model.encoder.prompt_ids(request.prompt) for request in mixed]) == 0
    assert model._shared([], []) == 0


def run(tmp_path, settings=None, about=None, questions=QUESTIONS, model=None):
    settings = settings or EvaluationSettings(max_new_tokens=8, eval_batch_size=3)
    out = tmp_path / "evaluation.json"
    about = about or {"model": "tiny"}
    return evaluate(model or tiny.model(), questions, settings, out, tokenizer=tiny.tokenizer(), about=about)


def test_every_question_is_kept_with_its_evidence(tmp_path):
    summary = run(tmp_path)
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert [q["id"] for q in found["questions"]] == [q.id for q in QUESTIONS]
    for q in found["questions"]:
        assert {"prompt", "answer", "output", "tokens", "finish_reason", "grades"} <= q.keys()
        assert list(q["grades"]) == ["final", "strict", "flexible"]
        for reading in q["grades"]:
            assert q["grades"][reading]["verdict"] in ("right", "wrong", "ungraded")
            assert q["grades"][reading]["explanation"]
    assert found["summary"]["questions"] == summary.questions == 9
    assert found["model"] == "tiny"
    assert [(a.id, a.output) for a in summary.answers] == [(q["id"], q["output"]) for q in found["questions"]]
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_the_reading_of_the_labels_is_among_the_readings_and_comes_first():
    assert list(graders("number")) == ["final", "strict", "flexible"]
    assert list(graders("number", "original")) == ["original", "final", "strict", "flexible"]
    assert list(graders("number", "strict")) == ["strict", "final", "flexible"]
    assert list(graders("exact")) == ["accuracy"]
    asked = as_asked(SamplingSettings(extraction="original"))
    assert asked.extraction == "original"


def test_the_intervals_of_an_evaluation_count_items_where_a_field_names_them(tmp_path):
    questions = [replace(q, answer="#### 7", extra={"item": f"item {at // 3}"}) for at, q in enumerate(QUESTIONS)]
    settings = EvaluationSettings(max_new_tokens=8, eval_batch_size=3, cluster="item")
    summary = run(tmp_path, settings, questions=questions)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["cluster"] == "item"
    assert stored["summary"]["intervals"] == "intervals by item (3 items)"
    assert "intervals by item (3 items)" in "\n".join(summary.lines())
    right = [answer.grades["strict"].grade == "right" for answer in summary.answers]
    assert not any(right), "then it is the interval of 3 questions without a right answer"
    assert summary.accuracy["strict"].high == pytest.approx(wilson(0, 3).high)
    with pytest.raises(UserError, match=r"question 'q4'.*\"item\""):
        run(tmp_path, settings, questions=[replace(q, extra={}) if q.id == "q4" else q for q in questions])


def test_interrupted_evaluation_asks_only_for_the_rest(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    handed_out, asked = [], []
    answer = LocalModel.answer

    def counted(self, requests):
        asked[:] = [request.key for request in requests]
        for answers in answer(self, requests):
            yield answers
            handed_out.extend(requests[at].key for at, _ in answers)
            if len(handed_out) in range(4, len(QUESTIONS)) and len(asked) == len(QUESTIONS):
                raise KeyboardInterrupt

    monkeypatch.setattr(LocalModel, "answer", counted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "again")
    first, handed_out[:] = list(handed_out), []
    ledger = tmp_path / "again" / "evaluation.calls.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b'{"hash": "8c')  # as a killed process leaves it
    resumed = run(tmp_path / "again")
    assert len(first) >= 4
    assert sorted(first + asked) == [q.id for q in QUESTIONS]
    assert sorted(handed_out) == sorted(asked)
    assert resumed == whole
    texts = [json.loads((tmp_path / d / "evaluation.json").read_text())["questions"] for d in ("whole", "again")]
    assert texts[0] == texts[1]


def test_a_finished_evaluation_asks_nothing_again_and_another_grader_needs_no_new_answers(tmp_path, monkeypatch):
    first = run(tmp_path)
    monkeypatch.setattr(Decoder, "run", lambda *a: pytest.fail("asked the model"))
    assert run(tmp_path) == first
    other = run(tmp_path, EvaluationSettings(grader="exact", max_new_tokens=8))
    assert [a.output for a in other.answers] == [a.output for a in first.answers]


def test_answers_of_other_weights_are_not_used_again(tmp_path):
    run(tmp_path)
    model = tiny.model()
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    trained = run(tmp_path, model=model)
    assert trained.answers == run(tmp_path / "fresh", model=model).answers
    assert len((tmp_path / "evaluation.calls.jsonl").read_text().splitlines()) == 2 * len(QUESTIONS)


def test_answers_of_another_adapter_scale_or_configuration_are_not_used_again(tmp_path):
    """In one model: nothing of its weights changes."""
    net = get_peft_model(tiny.model(), LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))
    net.add_adapter("other", LoraConfig(r=4, lora_alpha=64, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (one for name, one in net.named_parameters() if ".lora_" in name):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))

    def outputs(folder):
        net.set_adapter("default")
        yield run(folder, model=net).answers
        net.set_adapter("other")
        yield run(folder, model=net).answers
        with net.disable_adapter():
            yield run(folder, model=net).answers
        net.set_adapter("default")
        for layer in net.modules():
            if hasattr(layer, "set_scale"):
                layer.set_scale("default", 0.1)
        yield run(folder, model=net).answers
        net.config.rms_norm_eps = 10.0
        yield run(folder, model=net).answers
        net.config.rms_norm_eps = 1e-6

    found = list(outputs(tmp_path))
    assert len((tmp_path / "evaluation.calls.jsonl").read_text().splitlines()) == 5 * len(QUESTIONS)
    assert len({tuple(one.output for one in some) for some in found[:4]}) == 4


def test_an_answerer_is_evaluated_without_a_file_and_a_model_needs_its_tokenizer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = evaluate(local(max_new_tokens=8), QUESTIONS[:3])
    assert [a.output for a in found.answers] == [a.text for a in answers(local(max_new_tokens=8), PROMPTS[:3])]
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="tokenizer"):
        evaluate(tiny.model(), QUESTIONS[:3])


def on_server(url, folder, *more):
    questions = folder / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(12)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model_name_or_path", "stub", "--base_url", url, "--max_new_tokens", "20", "--concurrency", "1"]
    return ["evaluate", str(questions), "--out", str(folder / "evaluation.json"), *given, *more]


def test_evaluate_asks_a_server_and_a_rerun_asks_nothing(tmp_path, capsys):
    with AnsweringServer() as server:
        assert cli.main(on_server(server.url, tmp_path)) == 0, capsys.readouterr().err
        first = (tmp_path / "evaluation.json").read_bytes()
        assert cli.main(on_server(server.url, tmp_path)) == 0
        assert len(server.bodies) == 12
    found = json.loads(first)
    assert [q["output"] for q in found["questions"]] == [
        answer_to([{"role": "user", "content": f"What is {i} + {i}?"}]) for i in range(12)
    ]
    assert found["model"] == "stub"
    assert (tmp_path / "evaluation.json").read_bytes() == first


def test_evaluations_of_one_file_keep_the_one_before_and_no_more(tmp_path, capsys):
    with AnsweringServer() as server:
        for tokens in ("20", "19", "18"):
            assert cli.main(on_server(server.url, tmp_path, "--max_new_tokens", tokens)) == 0, capsys.readouterr().err
    (before,) = tmp_path.glob("evaluation.json.bak*")
    found = [json.loads(path.read_text()) for path in (before, tmp_path / "evaluation.json")]
    assert [one["max_new_tokens"] for one in found] == [19, 18]


def test_a_server_gives_no_log_likelihoods(tmp_path, capsys):
    with AnsweringServer() as server:
        assert cli.main(on_server(server.url, tmp_path, "--grader", "label")) == 2
        assert server.bodies == []
    assert "--grader label" in capsys.readouterr().err


def test_an_evaluation_that_is_killed_midway_resumes_and_asks_only_for_the_rest(tmp_path):
    with AnsweringServer(seconds=0.2) as server:
        command = [sys.executable, "-m", "nlft.cli", *on_server(server.url, tmp_path)]
        ledger = tmp_path / "evaluation.calls.jsonl"
        with subprocess.Popen(command, stderr=subprocess.PIPE) as killed:
            while not ledger.exists() or ledger.read_bytes().count(b"\n") < 4:
                assert killed.poll() is None, killed.stderr.read()
                time.sleep(0.02)
            killed.kill()
        assert not (tmp_path / "evaluation.json").exists()
        kept, before = ledger.read_bytes().count(b"\n"), len(server.bodies)
        subprocess.run(command, check=True, capture_output=True)
        assert len(server.bodies) - before == 12 - kept
    found = json.loads((tmp_path / "evaluation.json").read_text())["questions"]
    assert [q["id"] for q in found] == [f"q{i}" for i in range(12)]


def test_where_nothing_can_be_graded_log_likelihoods_are_reported_instead(tmp_path):
    summary = run(tmp_path, EvaluationSettings(grader="label", max_new_tokens=4), questions=QUESTIONS[:3])
    assert summary.graded_share == {"accuracy": 0.0}
    assert "nothing was graded" in summary.lines()[0]
    model, encoder = tiny.model(), ConditionEncoder(tiny.tokenizer())
    total, count = 0.0, 0
    with torch.no_grad():
        for q in QUESTIONS[:3]:
            prompt, answer = encoder.prompt_ids(q.prompt), encoder.completion_ids(q.answer)
            logp = model(torch.tensor([prompt + answer])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            total += float(logp.gather(1, torch.tensor(answer)[:, None]).sum())
            count += len(answer)
    assert abs(summary.answer_logp - total / count) < 1e-5


def test_standard_answers_that_the_model_cannot_read_are_all_named_before_anything_is_asked(monkeypatch):
    monkeypatch.setattr(LocalModel, "answer", lambda *a: pytest.fail("asked the model"))
    shape = {"vocab_size": tiny.VOCAB, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64}
    model = AutoModelForCausalLM.from_config(GPT2Config(**shape, bos_token_id=1, eos_token_id=2))
    questions = [replace(q, answer="no" * 40 if q.id in ("q1", "q2") else "yes") for q in QUESTIONS[:4]]
    with pytest.raises(ProblemsError) as caught:
        evaluate(model, questions, EvaluationSettings(grader="label"), tokenizer=tiny.tokenizer())
    assert [name for name in ("q0", "q1", "q2", "q3") if f"'{name}'" in str(caught.value)] == ["q1", "q2"]
    assert "64" in str(caught.value)


def test_a_grader_that_does_not_exist_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalModel, "answer", lambda *a: pytest.fail("asked the model"))
    with pytest.raises(Exception, match="nothing"):
        run(tmp_path, EvaluationSettings(grader="nothing.there:f"))


@pytest.mark.parametrize(("count", "n"), [(0, 10), (5, 10), (10, 10), (38, 200), (1, 1)])
def test_the_interval_is_wilsons(count, n):
    z = 1.959963984540054
    p = count / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson(count, n)
    assert found.low == pytest.approx(max(0, middle - half), abs=1e-9)
    assert found.high == pytest.approx(min(1, middle + half), abs=1e-9)


def test_paired_differences_have_the_width_that_theory_gives():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(400) < 0.5, rng.random(400) < 0.4
    gap = paired_difference(ours.tolist(), theirs.tolist())
    difference = ours.astype(float) - theirs
    error = difference.std() / sqrt(400)
    assert gap.value == pytest.approx(difference.mean())
    assert gap.high - gap.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    alike = paired_difference([True, False] * 150, [True, False] * 150)
    assert (alike.low, alike.value, alike.high) == (-0.01, 0.0, 0.01)


def test_scoring_and_generation_share_a_model():
    model = local()
    before = answers(model, PROMPTS[:2])
    enable_scoring(model.model)
    assert answers(model, PROMPTS[:2]) == before


MEMORY = """
import torch
from helpers import tiny
from transformers import AutoModelForCausalLM, LlamaConfig
from nlft.core.conditions import ConditionEncoder
from nlft.models.answerer import CompletionRequest
from nlft.models.answerer import CompletionRequest
from nlft.models.local import LocalModel

config = LlamaConfig(vocab_size=50_000, hidden_size=512, intermediate_size=64, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2)
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).requires_grad_(False)
local = LocalModel(model, ConditionEncoder(tiny.tokenizer()), max_new_tokens=2, batch_size=40)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

list(local.answer([CompletionRequest("a", "?")]))
before = peak()
list(local.answer([CompletionRequest(str(i), "? " * 20) for i in range(40)]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_frozen_head_is_not_copied_for_each_row():
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {here!r})\n" + MEMORY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 500 * 2**20, "40 copies of this head take 2 GB"
