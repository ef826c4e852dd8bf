"""`nlft compare`: the grid on a tiny model, and what the statistics make of made-up grids."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from helpers import tiny
from nlft import cli
from nlft.collect.sampling import SamplingSettings
from nlft.config import checked, declared
from nlft.core.neighbourhood import hidden_band
from nlft.core.saliency import ConditionLogprobs, Tag
from nlft.core.schemes.registry import get_scheme
from nlft.data.records import Example, Question, write_examples
from nlft.errors import UserError
from nlft.experiments import stages
from nlft.experiments.arm_data import with_shots, with_shuffled_judgments
from nlft.experiments.arm_run import baseline_trainer, run_arm
from nlft.experiments.arms import BUILT_IN, Arm, defined_arm, record_arm
from nlft.experiments.cells import CellResult, collateral_of_prompt
from nlft.experiments.compare import Compare
from nlft.experiments.demo import write_problems
from nlft.experiments.settings import COMPARE_ARMS, HABIT_ARMS, Budget, CompareSettings, TuneSettings
from nlft.models.loading import ModelSettings
from nlft.results.collateral import Collateral, Pair, Reply, breaches, prompt_set
from nlft.results.comparison_page import page
from nlft.results.evaluate import deciding_reading
from nlft.results.settings import CollateralSettings
from nlft.training.callbacks import TimeBudget
from nlft.yaml_files import yaml_entries

EXAMPLES = Path(__file__).parent.parent / "examples"
PLANS = sorted(path.stem for path in EXAMPLES.glob("compare-*.yaml"))


def test_what_a_prompt_does_to_the_replies_is_measured_beside_the_base(tmp_path):
    shown = "The same words about a river and a mill, whatever was asked."
    write_examples(tmp_path / "examples.jsonl", [Example("a", "q?", shown, True)])
    names = [f"q{n}" for n in range(8)]
    questions = [json.dumps({"id": name, "prompt": f"Describe a lamp {name}."}) + "\n" for name in names]
    (tmp_path / "test.jsonl").write_text("".join(questions))

    def result(texts):
        answers = [
            {"id": name, "output": text, "tokens": 5, "finish_reason": "stop"}
            for name, text in zip(names, texts, strict=True)
        ]
        return CellResult({}, [True] * 8, answers)

    before, after = result([f"Lamp {n} is made of oak." for n in range(8)]), result([shown] * 8)
    found = collateral_of_prompt(tmp_path, before, after).figures()
    assert set(found) == {"task"}
    assert found["task"].kl is None
    assert found["task"].after.copied == 1.0
    assert found["task"].before.copied == 0.0
    assert {breach.bound for breach in breaches(found, CollateralSettings())} == {"max_length_change", "phrase_common"}
    unchanged = collateral_of_prompt(tmp_path, before, before).figures()
    assert breaches(unchanged, CollateralSettings()) == ()


def test_a_seed_that_failed_in_a_later_fold_counts_neither_in_the_rates_nor_in_the_collateral(place, tmp_path):
    grid = claimed(place, tmp_path, folds=2)
    pair = Pair("q", "", Reply("one two", 2, True), Reply("one two", 2, True))
    whole = CellResult({}, [True], [], collateral=Collateral({"task": prompt_set([pair])}))
    broken = CellResult({}, [], [], failed="no memory")
    grid.result = lambda arm, size, seed, fold: broken if (seed, fold) == (1, 1) else whole
    found = grid._arm_cells("nlft", 4, [])
    assert (found.seeds, set(found.failed)) == ([0], {1})
    assert found.collateral["task"].replies == 2, "of the two folds of the other seed"


def test_strike_without_nlft_is_compared_with_its_own_rivals_and_control():
    settings = CompareSettings(arms=["strike-list", "ban"], rules="rules.yaml", checks="checks.yaml")
    assert settings.arms == [*HABIT_ARMS, "strike-list", "ban"]
    assert ("strike-list", "sft-revised-hold") in settings.pairs()
    assert all(ours == "strike-list" for ours, _ in settings.pairs())
    assert set(COMPARE_ARMS) < set(CompareSettings(arms=["strike", "nlft"]).arms)


def test_a_time_budget_ends_training_at_the_step_that_passes_it(place, tmp_path):
    run_arm(
        BUILT_IN["sft-answer"],
        examples=write_few(tmp_path / "examples.jsonl"),
        test=place / "problems" / "test.jsonl",
        out=tmp_path / "run",
        model={"model_name_or_path": str(place / "model")},
        asking=SamplingSettings(max_new_tokens=4),
        budget=Budget(per_device_train_batch_size=1, num_train_epochs=1, max_seconds=2),
    )
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 2 <= result["train_seconds"] < 30
    assert result["steps"] > 4, "longer than the epochs that would be taken without the budget"
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    rates = {event["learning_rate"] for event in events if "learning_rate" in event}
    assert len(rates) == 1
    assert {event["eta_seconds"] for event in events} == {None}, "nobody knows how many steps there will be"


def test_seconds_that_do_not_train_are_not_counted(monkeypatch):
    passed, watched, control = [0.0], [0.0], SimpleNamespace(should_training_stop=False)
    monkeypatch.setattr("nlft.training.callbacks.time.monotonic", lambda: passed[0])
    budget = TimeBudget(10, lambda: watched[0])
    budget.on_train_begin(None, None, control)
    passed[0], watched[0] = 15.0, 6.0
    budget.on_step_end(None, None, control)
    assert not control.should_training_stop
    passed[0] = 16.0
    budget.on_step_end(None, None, control)
    assert control.should_training_stop


def write_few(path):
    write_examples(path, [Example(n, f"{n} + 1?", f"#### {n + 1}", True, f"#### {n + 1}") for n in range(4)])
    return path


@pytest.mark.parametrize(
    ("readings", "extraction", "decides"),
    [
        (["final", "strict", "flexible"], "final", "final"),
        (["final", "strict", "flexible"], "strict", "strict"),
        (["original", "final", "strict", "flexible"], "original", "original"),
        (["strict", "flexible"], "strict", "strict"),
        (["strict", "flexible"], "final", "flexible"),
        (["strict", "flexible"], "flexible", "flexible"),
        (["strict", "flexible"], "original", "flexible"),
        (["accuracy"], "strict", "accuracy"),
    ],
)
def test_the_reading_that_gave_the_labels_decides_where_there_are_several(readings, extraction, decides):
    assert deciding_reading({name: {} for name in readings}, extraction) == decides


def test_shuffled_judgments_are_all_there_and_none_in_its_place():
    examples = [Example(n, "q", "c", n % 3 == 0, "a", None if n % 3 == 0 else f"judgment {n}") for n in range(12)]
    moved = with_shuffled_judgments(examples, 4)
    wrong = [at for at, e in enumerate(examples) if not e.label]
    assert sorted(moved[at].judgment for at in wrong) == sorted(examples[at].judgment for at in wrong)
    assert all(moved[at].judgment != examples[at].judgment for at in wrong)
    assert [moved[at] for at in range(12) if at not in wrong] == [examples[at] for at in range(12) if at not in wrong]


def test_shots_are_the_answers_as_earlier_turns_one_a_prompt():
    examples = [Example(n, f"q{n // 2}", "c", True, f"a{n // 2}") for n in range(8)]
    made = with_shots([Question("t", "last?", "z")], examples, SamplingSettings(), 3)[0].prompt
    assert [m["role"] for m in made] == ["user", "assistant"] * 3 + ["user"]
    assert made[-1]["content"] == "last?"
    assert len({m["content"] for m in made[:-1:2]}) == 3
    assert all(q["content"][1:] == a["content"][1:] for q, a in zip(made[:-1:2], made[1::2], strict=True))


def test_the_number_of_shots_is_the_users_and_stands_in_the_title():
    plan = CompareSettings(shots=8, extra_arms={"one-shot": {"method": "few-shot", "settings": {"shots": 1}}})
    arms = plan.known_arms()
    assert (arms["few-shot"].title, arms["few-shot"].settings) == ("8-shot prompting", {"shots": 8})
    assert arms["one-shot"].settings == {"shots": 1}
    assert CompareSettings().known_arms()["few-shot"].title == "4-shot prompting"


@pytest.mark.parametrize("kind", [TuneSettings, CompareSettings])
def test_an_extra_arm_of_one_plan_is_refused_in_the_next(kind):
    mine = kind(extra_arms={"mine": {"method": "sft"}}, shots=8)
    assert mine.arms[-1] == "mine"
    assert mine.known_arms()["mine"].method == "sft"
    with pytest.raises(UserError, match="--arms mine"):
        kind(arms=["mine"])
    assert "mine" not in kind().known_arms()
    with pytest.raises(TypeError):
        BUILT_IN["mine"] = mine.known_arms()["mine"]


def test_wrong_plans_are_refused():
    with pytest.raises(UserError, match="--comparisons nlft:magic"):
        CompareSettings(comparisons=["nlft:magic"])
    with pytest.raises(UserError, match="no such arm"):
        CompareSettings(arms=["magic"])
    with pytest.raises(UserError, match="--seeds"):
        CompareSettings(seeds=[])
    for seeds in ([-1], [0, 2**32]):
        with pytest.raises(UserError, match=r"--seeds: .* 4294967295"):
            CompareSettings(seeds=seeds)
    with pytest.raises(UserError, match="--seeds: has a number twice"):
        CompareSettings(seeds=[0, 0, 1])
    with pytest.raises(UserError, match="--max_seconds and --max_steps"):
        CompareSettings(max_seconds=9, max_steps=9)
    with pytest.raises(UserError, match=r"'shot'"):
        CompareSettings(extra_arms={"x": {"method": "few-shot", "settings": {"shot": 8}}})
    with pytest.raises(UserError, match="shots is 0"):
        CompareSettings(extra_arms={"x": {"method": "few-shot", "settings": {"shots": 0}}})
    with pytest.raises(UserError, match=r"lacks \{prompt\}"):
        CompareSettings(extra_arms={"x": {"method": "prompt", "settings": {"prompt_template": "be brief"}}})
    with pytest.raises(UserError, match="'shots' is not a setting of prompt"):
        CompareSettings(extra_arms={"x": {"method": "prompt", "settings": {"prompt_template": "{prompt}", "shots": 1}}})
    with pytest.raises(UserError, match="--grader label"):
        CompareSettings(grader="label")
    with pytest.raises(UserError, match=r"method 'NLFT'"):
        CompareSettings(extra_arms={"x": {"method": "NLFT"}})
    with pytest.raises(UserError, match=r"'setings'"):
        CompareSettings(extra_arms={"x": {"method": "nlft", "setings": {}}})
    with pytest.raises(UserError, match="extra_arms: nlft"):
        CompareSettings(extra_arms={"nlft": {"method": "sft"}})


def test_training_on_test_questions_is_refused(place, tmp_path):
    problems = place / "problems" / "train.jsonl"
    settings = CompareSettings(output_dir=str(tmp_path), test_file=str(problems), sizes=[1], seeds=[0])
    grid = Compare(problems, {"model_name_or_path": str(place / "model")}, settings)
    write_few(tmp_path / "examples.jsonl")
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "t", "prompt": "2 + 1?", "answer": "#### 3"}) + "\n")
    with pytest.raises(UserError, match="1 of the questions in --test_file"):
        grid._draw()


def test_test_questions_are_known_again_in_examples_that_hold_them_as_they_were_asked(place, tmp_path):
    ask = "{prompt} Then write #### and the number."
    trained = [Example(n, ask.replace("{prompt}", f"{n} + 1?"), "#### 9", True, f"#### {n + 1}") for n in range(4)]
    write_examples(tmp_path / "given.jsonl", trained)
    write_examples(tmp_path / "examples.jsonl", trained)
    settings = CompareSettings(output_dir=str(tmp_path), test_file="x", sizes=[1], seeds=[0], prompt_template=ask)
    grid = Compare(tmp_path / "given.jsonl", {}, settings)
    rows = [{"id": n, "prompt": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in (2, 3, 7)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="2 of the questions in --test_file"):
        grid._draw()


def test_every_arm_has_the_same_number_of_steps_also_one_that_trains_on_few_of_the_examples():
    assert Budget(num_train_epochs=3, per_device_train_batch_size=2).training(25)["max_steps"] == 39
    assert Budget(max_steps=7).training(25)["max_steps"] == 7
    assert Budget(max_seconds=60).training(25)["max_steps"] > 1e8
    assert Budget(num_train_epochs=0).training(25)["max_steps"] == 1, "none would be as many as the epochs take"
    assert "num_train_epochs" not in Budget().training(25)
    assert Budget(max_steps=7).training(4, {"num_train_epochs": 12})["max_steps"] == 24


@pytest.mark.parametrize(
    ("own", "steps"),
    [
        ({}, 36),
        ({"per_device_train_batch_size": 8}, 9),
        ({"gradient_accumulation_steps": 4}, 9),
        ({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}, 6),
    ],
)
def test_the_epochs_of_an_arm_are_counted_with_its_own_batch(own, steps):
    budget = Budget(per_device_train_batch_size=2, num_train_epochs=6)
    assert budget.training(24, {"num_train_epochs": 3, **own})["max_steps"] == steps
    assert budget.training(24, own)["max_steps"] == 72, "without epochs of its own it takes the shared steps"


def claimed(place, out, file=None, **more):
    settings = CompareSettings(output_dir=str(out), **{"seeds": [0, 1], "sizes": [4], **more})
    grid = Compare(file or place / "problems" / "train.jsonl", {"model_name_or_path": "m"}, settings)
    grid.record_settings()
    return grid


def test_once_there_is_a_result_a_grid_grows_and_says_so_and_nothing_is_taken_out(place, tmp_path):
    def again(**more):
        grid = claimed(place, tmp_path, **{"test_file": "x", **more})
        grid._refuse_less()
        return grid

    again()
    assert again(seeds=[1], once=["kto"])._grown() == {}, "nobody has seen a result yet"
    assert again(seeds=[1], once=["kto"], jobs=2)._grown() == {}
    grown = {
        "seeds": [0],
        "arms": ["reft"],
        "arms with every seed": ["reft", "kto"],
        "comparisons": ["nlft:reft"],
    }
    assert again(seeds=[1, 0], arms=["reft", "kto"])._grown() == grown
    more = {"seeds": [1, 0], "arms": ["reft", "kto"]}
    again(**more, sizes=[4, 9])  # it fails before there is a result of it: nothing is recorded
    assert again(**more)._grown() == grown
    for less, named in (
        ({"seeds": [0], "arms": ["kto"]}, r"\(arms reft; arms with every seed reft; seeds 1; comparisons nlft:reft\)"),
        ({**more, "sizes": [2]}, r"\(sizes 4\)"),
        ({**more, "once": ["kto"]}, r"\(arms with every seed kto\)"),
        ({**more, "comparisons": ["nlft:base"]}, r"\(comparisons nlft:.*nlft:kto"),
    ):
        with pytest.raises(UserError, match=named):
            again(**less)


def test_a_comparison_that_comes_after_a_result_is_named_and_none_goes(place, tmp_path):
    def again(*comparisons):
        grid = claimed(place, tmp_path, test_file="x", comparisons=list(comparisons))
        grid._refuse_less()
        return grid._grown()

    assert again("nlft:base") == {}
    # A result of an older version has them in its report and its settings alone.
    extent = json.loads((tmp_path / "extent.json").read_text())
    del extent["of"]["comparisons"]
    (tmp_path / "extent.json").write_text(json.dumps(extent))
    (tmp_path / "compare.json").write_text(json.dumps({"contrasts": [{"ours": "nlft", "theirs": "base"}]}))
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["settings"]["comparisons"] = ["nlft:base"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    assert again("nlft:base", "nlft:sft-answer") == {"comparisons": ["nlft:sft-answer"]}
    with pytest.raises(UserError, match=r"\(comparisons nlft:base\)"):
        again("nlft:sft-answer")


def test_default_sizes_are_what_the_result_is_of(place, tmp_path):
    write_few(tmp_path / "given.jsonl")
    write_few(tmp_path / "examples.jsonl")
    more = {"test_file": str(place / "problems" / "test.jsonl"), "file": tmp_path / "given.jsonl"}
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "t", "prompt": "?", "answer": "#### 3"}) + "\n")
    claimed(place, tmp_path, sizes=[], **more)._grown()
    claimed(place, tmp_path, sizes=[], **more)._refuse_less()
    claimed(place, tmp_path, sizes=[1, 2, 4], **more)._refuse_less()
    with pytest.raises(UserError, match=r"\(sizes 2 4\)"):
        claimed(place, tmp_path, sizes=[1], **more)._refuse_less()


def test_a_file_that_was_edited_is_not_taken_for_what_was_compared(place, tmp_path):
    file = tmp_path / "examples.jsonl"
    write_few(file)
    claimed(place, tmp_path / "out", file)
    claimed(place, tmp_path / "out", file)
    file.write_text(file.read_text().replace("#### 2", "#### 3"))
    with pytest.raises(UserError, match=r"examples.jsonl has been edited"):
        claimed(place, tmp_path / "out", file)
    file.unlink()
    claimed(place, tmp_path / "out", file)  # its copy is in the folder


def test_a_larger_size_keeps_what_was_done_at_the_others(place, tmp_path):
    def cells(*sizes):
        settings = CompareSettings(output_dir=str(tmp_path), sizes=list(sizes), seeds=[0], once=["reft"], test_file="x")
        found = Compare(place / "problems" / "train.jsonl", {}, settings).cells()
        return {(cell.arm, cell.size): cell for cell in found if cell.arm in ("base", "reft")}

    for cell in cells(4, 6).values():
        (tmp_path / cell.folder / cell.arm).mkdir(parents=True)
        (tmp_path / cell.folder / cell.arm / "result.json").write_text("{}")
    assert set(cells(4, 6)) == {("base", 4), ("reft", 6)}
    assert set(cells(2, 4, 6, 8)) == {("base", 4), ("reft", 6), ("reft", 8)}


def test_without_sizes_half_and_all_of_what_a_fold_has_are_compared(place, tmp_path):
    trained = [Example(n, f"{n} + 1?", "#### 9", True, f"#### {n + 1}") for n in range(20)]
    write_examples(tmp_path / "given.jsonl", trained)
    grid = claimed(place, tmp_path / "out", tmp_path / "given.jsonl", sizes=[])
    stages.split_stage(grid.folder, grid.job(), hold_out=False)
    write_examples(tmp_path / "out" / "examples.jsonl", trained)
    assert grid.sizes == [8, 16]
    with pytest.raises(UserError, match=r"--sizes 17: .* 16 examples .* 5 folds"):
        claimed(place, tmp_path / "out", tmp_path / "given.jsonl", sizes=[17])._if_enough_rows(pytest.fail)
    grid.settings.folds = 21
    with pytest.raises(UserError, match=r"20 questions.* 21"):
        grid._fold(0)


def test_questions_beyond_the_limit_are_not_tested_on_either(place, tmp_path):
    grid = claimed(place, tmp_path, limit=5)
    stages.split_stage(grid.folder, grid.job(), hold_out=False)
    assert len((tmp_path / "test.jsonl").read_text().splitlines()) == 5


def test_an_arm_that_is_defined_anew_does_not_take_over_what_the_old_one_left(tmp_path):
    record_arm(defined_arm("mine", {"method": "nlft"}), tmp_path)
    record_arm(defined_arm("mine", {"method": "nlft"}), tmp_path)
    with pytest.raises(UserError, match="another definition of mine"):
        record_arm(defined_arm("mine", {"method": "sft"}), tmp_path)


def test_kto_and_reft_learn_gently_and_reft_has_the_steps_of_the_others():
    options = {"output_dir": "x", "max_steps": 30, "per_device_train_batch_size": 2}
    options |= {"learning_rate": 4e-4}
    asking = SamplingSettings(extraction="strict")
    _, kto = baseline_trainer(Arm("kto", "KTO", "kto"), options, asking)
    assert kto.learning_rate == pytest.approx(1e-4)
    _, reft = baseline_trainer(Arm("reft", "ReFT", "reft"), options, asking)
    assert (reft.sft_steps, reft.max_steps, reft.extraction) == (15, 15, "strict")
    assert (reft.learning_rate, reft.warmup_learning_rate) == (pytest.approx(1e-4), 4e-4)
    assert (reft.num_generations, reft.generation_batch_size) == (8, 8), "a step compares eight answers to one question"
    _, own = baseline_trainer(Arm("slow", "KTO", "kto", {"learning_rate": "3e-6"}), options, asking)  # as YAML reads it
    assert own.learning_rate == pytest.approx(3e-6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    write_problems(folder / "problems", 14, 4)
    config = {
        "model_name_or_path": str(folder / "model"),
        "test_file": str(folder / "problems" / "test.jsonl"),
        "sizes": [6],
        "seeds": [0],
        "once": ["kto"],
        "max_new_tokens": 6,
        "keep_truncated": True,
        "batch_size": 16,
        "max_steps": 1,
        "learning_rate": 1e-2,
        "comparisons": ["nlft:sft-answer", "nlft:control"],
        "extra_arms": {"broken": {"method": "sft", "settings": {"no_such_setting": 1}}},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(config))
    return folder


def grid_command(place, out, *flags):
    config = ["--config", str(place / "plan.yaml"), "--output_dir", str(out)]
    return ["compare", str(place / "problems" / "train.jsonl"), *config, *flags]


@pytest.mark.timeout(1200)
def test_a_grid_killed_in_the_middle_and_resumed_gives_the_same_table(place, tmp_path, capfd):
    def run_here(*argv):
        code, told = cli.main(grid_command(place, *argv)), capfd.readouterr()
        assert code == 0, told.err[-3000:]
        return told.out, told.err

    folder = tmp_path / "grid"
    out, _ = run_here(folder)
    whole = json.loads((folder / "compare.json").read_text())
    # The killed one begins where the cells do: the questions and the model's answers cost a process and seconds.
    shutil.rmtree(folder / "cells")
    for report in folder.glob("compare.*"):
        report.unlink()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    command = [sys.executable, "-m", "nlft.cli", *grid_command(place, folder)]
    killed = subprocess.Popen(command, **pipes)
    middle = folder / "cells" / "size-6" / "seed-0" / "fold-0" / "nlft" / "result.json"
    while not middle.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    # Two cells at once give what one after the other does. Their processes print too, and --json stays one document.
    resumed = subprocess.run([*command, "--jobs", "2", "--json"], capture_output=True, text=True, check=False)
    again, err = resumed.stdout, resumed.stderr
    assert resumed.returncode == 0, err[-3000:]
    assert err.count("done before") >= 4 + 5

    reports = [whole, json.loads((folder / "compare.json").read_text())]
    for report in reports:
        assert len(report["contrasts"]) == 2
        assert {arm["arm"] for arm in report["arms"]} >= {
            "base",
            "few-shot",
            "sft-answer",
            "nlft",
            "control",
            "shuffled",
        }
        broken = next(arm for arm in report["arms"] if arm["arm"] == "broken")
        assert "no_such_setting" in broken["failed"]["0"]
        assert {"final", "strict", "flexible"} == set(report["arms"][0]["readings"])
    first, second = ([(a["arm"], a["size"], a["verdicts"]) for a in r["arms"]] for r in reports)
    assert first == second
    assert reports[0]["verdict_data"] == reports[1]["verdict_data"]
    assert reports[0]["verdict"] in out
    assert json.loads(again) == reports[1]
    assert "failed" in err
    card = (middle.parent / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "Verdict of a comparison (4 test questions, 1 seed)" in card


def test_a_grid_that_is_done_ends_at_once(place, tmp_path, monkeypatch, capfd):
    settings = CompareSettings(output_dir=str(tmp_path / "out"), sizes=[4], seeds=[0], test_file="x", jobs=3)
    grid = Compare(place / "problems" / "train.jsonl", {}, settings)
    cells = list(grid.cells())
    for cell in cells[1:]:
        (grid.folder / cell.folder / cell.arm).mkdir(parents=True)
        (grid.folder / cell.folder / cell.arm / "result.json").write_text("{}")
    begun = []
    monkeypatch.setattr(grid, "begin", lambda *a: begun.append(a[-1]) or pytest.fail("started"))
    with pytest.raises(pytest.fail.Exception):
        grid.run_cells()
    assert begun == cells[:1], "the first is new"
    assert capfd.readouterr().err.count("done before") == len(cells) - 1
    (grid.folder / cells[0].folder / cells[0].arm / "result.json").write_text("{}")
    grid.run_cells()
    assert capfd.readouterr().err.count("done before") == len(cells)


def test_a_cell_that_was_defined_otherwise_is_refused_before_any_is_run(place, tmp_path, monkeypatch):
    settings = CompareSettings(output_dir=str(tmp_path / "out"), sizes=[4], seeds=[0], test_file="x")
    grid = Compare(place / "problems" / "train.jsonl", {}, settings)
    last = list(grid.cells())[-1]
    record_arm(defined_arm("mine", {"method": "nlft"}), grid.folder / last.folder / last.arm)
    monkeypatch.setattr(grid, "begin", lambda *a: pytest.fail("started"))
    with pytest.raises(UserError, match="another definition"):
        grid.run_cells()


def test_cells_at_once_cannot_have_a_budget_of_seconds(tmp_path):
    with pytest.raises(UserError, match="--max_seconds with --jobs"):
        CompareSettings(output_dir=str(tmp_path), jobs=2, max_seconds=60)


def test_without_a_test_file_the_questions_are_folded(place, tmp_path):
    settings = CompareSettings(
        output_dir=str(tmp_path / "out"),
        sizes=[4],
        seeds=[0],
        folds=3,
        max_new_tokens=6,
        keep_truncated=True,
        batch_size=16,
    )
    grid = Compare(place / "problems" / "train.jsonl", {"model_name_or_path": str(place / "model")}, settings)
    grid.record_settings()
    _, *rest = grid.data_stages()
    stages.split_stage(grid.folder, grid.job(), hold_out=False)
    grid.run_stages(rest)
    grid._draw()
    seen = []
    for fold in range(3):
        folder = grid.folder / f"cells/size-4/seed-0/fold-{fold}"
        train = {json.loads(line)["prompt"] for line in (folder / "examples.jsonl").read_text().splitlines()}
        test = {json.loads(line)["prompt"] for line in (folder / "test.jsonl").read_text().splitlines()}
        assert not train & test
        seen += sorted(test)
    examples = [json.loads(line) for line in (grid.folder / "examples.jsonl").read_text().splitlines()]
    assert sorted(seen) == sorted({e["prompt"] for e in examples}), "each question is tested on once"


def test_the_problems_of_the_small_comparison_are_those_of_the_generator(tmp_path):
    write_problems(tmp_path, 80, 200)
    for name in ("train", "test"):
        assert (EXAMPLES / f"problems-{name}.jsonl").read_bytes() == (tmp_path / f"{name}.jsonl").read_bytes()


@pytest.mark.parametrize("name", PLANS)
def test_the_plans_in_examples_are_valid(name):
    values = checked(yaml_entries(EXAMPLES / f"{name}.yaml"), declared(ModelSettings, CompareSettings))
    model = values.pop("model_name_or_path")
    assert model
    settings = CompareSettings(**values)
    for path in (settings.train_file, settings.test_file):
        made = ("openai/gsm8k:main:", "runs/problems/")  # the plan's first lines say how
        assert (EXAMPLES.parent / path).is_file() or path.startswith(made)
    assert len(settings.pairs()) > 1
    arms = settings.known_arms()
    for arm in (arms[name] for name in settings.arms if arms[name].method == "nlft"):
        get_scheme(arm.settings.get("scheme", "nlft")).settings(**arm.settings.get("saliency", {}))


def test_each_part_that_the_ablation_leaves_out_is_out():
    plan = checked(yaml_entries(EXAMPLES / "compare-ablation.yaml"), declared(ModelSettings, CompareSettings))
    rng = np.random.default_rng(0)
    logp = [torch.tensor(np.log(rng.uniform(0.001, 1, (2, 400)))) for _ in range(3)]
    label = torch.tensor([False, True])
    states = torch.tensor(rng.normal(1, 0.7, (2, 400, 8)))
    mask = torch.ones(2, 400, dtype=torch.bool)
    scores = ConditionLogprobs(*logp[:1], mask, label, logp[1], logp[2], hidden_band(states, mask))

    def tags(name):
        spec = plan["extra_arms"].get(name, {}).get("settings", {})
        scheme = get_scheme(spec.get("scheme", "nlft"))
        found = scheme.weigh(scores, scheme.settings(**spec.get("saliency", {}))).tag
        return [[int((row == tag).sum()) for tag in (Tag.SALIENT, Tag.NEIGHBOUR)] for row in found]

    (wrong, wrong_near), (right, right_near) = tags("nlft")
    assert min(wrong, wrong_near, right, right_near) > 0
    assert tags("without-losing") == [[0, 0], [right, right_near]]
    assert tags("without-scoring")[0] == [wrong, wrong_near]
    assert tags("without-scoring")[1] == [0, 0]
    assert tags("without-neighbourhood") == [[wrong, 0], [right, 0]]
    judged = plan["extra_arms"]["without-judge"]["settings"]["saliency"]
    pushed = get_scheme("nlft").weigh(scores, get_scheme("nlft").settings(**judged))
    assert set(pushed.unlikelihood[0][pushed.tag[0] == Tag.SALIENT].tolist()) == {1.0}, "as hard as a contradiction is"
    assert tags("without-judge")[0][0] == int(((logp[0][0].exp() > 0.5) & (logp[1][0].exp() < 0.05)).sum())
    assert tags("without-standard")[0][0] == int((logp[2][0] - logp[0][0] > np.log(1.5)).sum())


def test_the_results_in_the_docs_are_those_of_the_kept_comparison():
    sys.path.insert(0, str(EXAMPLES.parent / "benchmarks"))
    import results

    text = results.PAGE.read_text(encoding="utf-8")
    assert results.page(text) == text
    for kept in results.DOCS.glob("compare-*.json"):
        report = json.loads(kept.read_text(encoding="utf-8"))
        assert results.wrapped(f"**Verdict:** {report['verdict']}") in text
        assert kept.with_suffix(".html").read_text(encoding="utf-8") == page(report)
