"""`nlft rounds`: what each round is trained on, when the rounds end, and that nothing done is repeated."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace

import pytest

from helpers import tiny
from helpers.training import examples
from nlft import cli
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.strike import StrikeSettings
from nlft.data.records import Example, read_examples, read_questions, write_examples
from nlft.errors import NLFTError, ProblemsError, UserError
from nlft.experiments import rounds, stages
from nlft.experiments.demo import write_problems
from nlft.experiments.rounds import (
    ON_TRAINING,
    Rounds,
    best_round,
    over,
    plan_rounds,
    questions_of,
    round_examples,
)
from nlft.experiments.settings import RoundsSettings, TuneSettings
from nlft.results.stats import wilson
from nlft.runs.run_dir import RunDir
from nlft.training.trainer import NLFTConfig


def shares(*counts):
    return [wilson(count, 20) for count in counts]


def test_rounds_end_when_so_many_in_a_row_bring_no_new_best():
    assert not over(shares(3), 1)
    assert not over(shares(3, 4), 1)
    assert over(shares(3, 4, 4), 1), "a tie is no rise"
    assert over(shares(3, 2), 1), "round 1 is held against the model before training"
    assert not over(shares(3, 2), 2)
    assert not over(shares(3, 2, 4), 2)
    assert over(shares(3, 5, 4, 4), 2)


def test_the_best_round_is_a_trained_one_and_the_earliest_of_equals():
    assert best_round(shares(9, 4, 6, 6, 5)) == 2
    with pytest.raises(NLFTError):
        best_round(shares(9))


def test_the_questions_of_examples_are_told_apart_by_prompt_and_answer(tmp_path):
    data = examples(3)
    other = replace(data[0], id="other", answer="#### 7")
    write_examples(tmp_path / "e.jsonl", [*data, replace(data[1], id="again", completion="something else"), other])
    found = questions_of(tmp_path / "e.jsonl")
    assert [q.id for q in found] == ["e0", "e1", "e2", "other"]


def test_the_questions_of_examples_keep_what_the_chat_template_takes(tmp_path):
    tool = {"type": "function", "function": {"name": "add"}}
    more = {"tools": [tool], "chat_template_kwargs": {"enable_thinking": False}}
    plain = examples(4)
    write_examples(tmp_path / "e.jsonl", [replace(e, extra={**more, "item": "x"}) for e in plain])
    job = {"file": str(tmp_path / "e.jsonl"), "settings": asdict(TuneSettings())}
    stages.split_stage(tmp_path, job)
    assert [q.extra for q in stages.read_test(tmp_path)] == [more]
    assert [q.extra for q in questions_of(tmp_path / "train.jsonl")] == [more] * 3
    write_examples(tmp_path / "both.jsonl", [plain[0], replace(plain[0], id="with-tools", extra=more)])
    assert [q.id for q in questions_of(tmp_path / "both.jsonl")] == ["e0", "with-tools"], "two things are asked"


def test_what_rounds_cannot_do_is_refused_all_at_once(tmp_path):
    args = NLFTConfig(output_dir=str(tmp_path), resume_from_checkpoint="true", use_cpu=True)
    with pytest.raises(ProblemsError) as caught:
        plan_rounds(RoundsSettings(rounds=2, grader="label"), args, "nlft", NLFTSettings())
    assert "--resume_from_checkpoint" in str(caught.value)
    assert "--grader label" in str(caught.value)


def test_the_plan_gives_back_the_trainings_settings(tmp_path):
    args = NLFTConfig(output_dir=str(tmp_path), learning_rate=3e-4, answer_weight=0.5, seed=7, use_cpu=True)
    plan = plan_rounds(RoundsSettings(rounds=2), args, "nlft", NLFTSettings(redirect=True))
    assert (plan.seed, plan.learning_rate, plan.answer_weight) == (7, 3e-4, 0.5)
    back = NLFTConfig(**json.loads(json.dumps(asdict(plan)))["trainer"], output_dir=str(tmp_path))
    assert back.to_json_string() == args.to_json_string()
    assert NLFTSettings(**plan.saliency).redirect


# Whole runs on a tiny model.


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


def command(file, out, model_folder, *more):
    flags = {
        "model_name_or_path": model_folder,
        "output_dir": out,
        "samples_per_question": 2,
        "max_new_tokens": 4,
        "max_steps": 2,
        "watch": 1,
        "dtype": "float32",
        "held_out_share": 0.4,
        "temperature": 1.0,
    }
    given = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return cli.main(["rounds", str(file), *given, "--use_cpu", *more])


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "rounds.json"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.timeout(300)
def test_rounds_from_examples_train_on_them_first_and_then_on_fresh_answers(tmp_path, model_folder, capsys):
    data, out = examples(5), tmp_path / "out"
    write_examples(tmp_path / "data.jsonl", data)
    stop = ("--rounds", "3", "--patience", "2", "--keep_truncated", "true")
    assert command(tmp_path / "data.jsonl", out, model_folder, *stop) == 0, capsys.readouterr().err
    held_out = {q.prompt for q in read_questions(out / "test.jsonl")}
    assert len(held_out) == 2
    given = {e.id: e for e in data if e.prompt not in held_out}
    first = {e.id: e for e in read_examples(out / "round-1" / "examples.jsonl")}
    assert {i: e.completion for i, e in first.items()} == {i: e.completion for i, e in given.items()}
    second = read_examples(out / "round-2" / "examples.jsonl")
    assert {e.prompt for e in second} <= {e.prompt for e in given.values()}
    # Sampling leaves out replies that it cannot compare, and a random model writes some.
    assert {e.id for e in second} <= {f"{i}#{n}" for i in given for n in (1, 2)}
    assert len(second) > len(given)
    assert not {e.completion for e in second} & {e.completion for e in data}

    found = json.loads((out / "rounds.json").read_text())
    assert found["ended"] == "accuracy did not rise"
    assert [row["round"] for row in found["rounds"]] == [0, 1, 2], "it should have ended by itself"
    assert found["best"] == 1
    assert "round 1: 0.0%" in capsys.readouterr().out
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        best = (out / "round-1" / "run" / "adapter" / name).read_bytes()
        assert (out / "adapter" / name).read_bytes() == best
    record = (out / "round-2" / "run" / "run.yaml").read_text()
    assert "round-1/run" in record, "round 2 does not go on from round 1's adapter"
    last = (out / "round-2" / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert last != (out / "adapter" / "adapter_model.safetensors").read_bytes()

    before = digests(out)
    (out / "rounds.json").unlink()
    assert command(tmp_path / "data.jsonl", out, model_folder, *stop) == 0
    assert "done before" in capsys.readouterr().err
    assert digests(out) == before
    assert json.loads((out / "rounds.json").read_text()) == found


@pytest.mark.timeout(300)
def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "data.jsonl", examples(5))
    out = tmp_path / "out"
    more = ("--rounds", "2", "--keep_truncated", "true", "--save_strategy", "steps", "--save_steps", "1")
    more += ("--save_total_limit", "2")
    assert command(tmp_path / "data.jsonl", out, model_folder, *more) == 0, capsys.readouterr().err
    whole = digests(out / "round-1" / "run" / "adapter")
    for name in ("trained.json", "evaluation.json"):
        (out / "round-1" / name).unlink()
    shutil.rmtree(out / "round-1" / "run" / "adapter")
    shutil.rmtree(out / "round-1" / "run" / "checkpoints" / "checkpoint-2")
    assert command(tmp_path / "data.jsonl", out, model_folder, *more) == 0, capsys.readouterr().err
    assert digests(out / "round-1" / "run" / "adapter") == whole
    steps = [e["step"] for e in RunDir(out / "round-1" / "run").events(superseded=True) if "loss" in e]
    assert steps == [1, 2, 2], "the first step was trained again"


def test_rounds_from_questions_sample_in_the_first_round_already(tmp_path, model_folder, monkeypatch, capsys):
    write_problems(tmp_path, 5, 1)
    asked = []
    monkeypatch.setattr(rounds.Staged, "own_process", lambda self, f, *a: lambda: asked.append((f.__name__, self)))
    args = NLFTConfig(output_dir=str(tmp_path / "x"), use_cpu=True)
    plan = replace(plan_rounds(RoundsSettings(rounds=2), args, "nlft", NLFTSettings()), output_dir=str(tmp_path / "o"))
    work = Rounds(tmp_path / "train.jsonl", {"model_name_or_path": model_folder}, plan)
    work.record_settings()
    work.data_stages()[0][2]()
    for number in (1, 2):
        work._ask_again(number)
        assert len(read_questions(tmp_path / "o" / f"round-{number}" / "train.jsonl")) == 4
    one, two = work._round(1, None), work._round(2, tmp_path / "o" / "round-1" / "run")
    assert "adapter" not in one.model
    assert two.model["adapter"].endswith("round-1/run")
    assert one.settings.seed != two.settings.seed, "both rounds would draw the same"
    assert not capsys.readouterr().err
    assert not asked


def test_examples_are_asked_as_they_were(tmp_path, model_folder):
    write_examples(tmp_path / "data.jsonl", examples(3))
    args = NLFTConfig(output_dir=str(tmp_path / "x"), use_cpu=True)
    settings = RoundsSettings(rounds=2, prompt_template="Q: {prompt}")
    plan = plan_rounds(settings, args, "nlft", NLFTSettings())
    with pytest.raises(UserError, match="prompt_template"):
        Rounds(tmp_path / "data.jsonl", {"model_name_or_path": model_folder}, plan).run()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--overwrite"], "--overwrite"),
        (["--rounds", "2", "--use_peft", "false"], "--use_peft"),
        (["--rounds", "2", "--temperature", "0"], "--samples_per_question 4"),
        (["--rounds", "2", "--grader", "label"], "--grader label"),
    ],
)
def test_the_command_refuses_what_makes_no_rounds(tmp_path, model_folder, capsys, flags, named):
    write_examples(tmp_path / "data.jsonl", examples(5))
    given = ["--model_name_or_path", model_folder, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert cli.main(["rounds", str(tmp_path / "data.jsonl"), *given, *flags]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_strike_trains_on_the_replies_of_all_rounds_and_keeps_the_dose_of_each_strike(tmp_path):
    def write(number, struck, clean):
        folder = tmp_path / f"round-{number}"
        folder.mkdir()
        made = [Example(f"s{i}", "Say", "so sleek", False, judgment='It says "sleek".') for i in range(struck)]
        made += [Example(f"c{i}", "Say", "so flat", True) for i in range(clean)]
        write_examples(folder / "examples.jsonl", made)
        return folder

    first, second = write(1, 4, 2), write(2, 1, 5)
    assert round_examples(first, 1, "strike", 24) == (first / "examples.jsonl", 24)
    assert round_examples(second, 2, "nlft", 24) == (second / "examples.jsonl", 24)
    file, steps = round_examples(second, 2, "strike", 24)
    examples = read_examples(file)
    assert len(examples) == 12
    assert {"s0@1", "s0@2", "c4@2"} <= {one.id for one in examples}
    assert steps == 30  # 5 struck replies in place of 4
    assert round_examples(second, 2, "strike", -1)[1] == -1


def test_a_round_that_ends_with_more_violations_on_the_training_prompts_is_named(tmp_path):
    args = NLFTConfig(output_dir=str(tmp_path), use_cpu=True)
    plan = plan_rounds(RoundsSettings(rounds=2, patience=9), args, "strike", StrikeSettings())
    run = Rounds("f.jsonl", {}, replace(plan, output_dir=str(tmp_path)))
    (tmp_path / "test.jsonl").write_text('{"id": 1, "prompt": "Say"}\n')
    for number, wrong in enumerate([6, 2, 3]):
        folder = tmp_path / f"round-{number}"
        (folder / "run" / "adapter").mkdir(parents=True)
        write_examples(folder / "examples.jsonl", [Example("a", "Say", "so flat", True)])
        counts = {"flexible": {"count": 8 - wrong, "n": 8}}
        (folder / ON_TRAINING).write_text(json.dumps({"summary": {"accuracy": counts}}))
    said = run._finish([wilson(count, 8) for count in (2, 6, 6)])
    assert "round 2 ended with more violations on the training prompts than it began with: 25.0% → 37.5%" in said
    assert "round 1 ended" not in said
    report = json.loads((tmp_path / "rounds.json").read_text())
    assert [row["violations"] for row in report["rounds"]] == [0.75, 0.25, 0.375]
