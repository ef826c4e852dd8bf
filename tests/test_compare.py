"""`nlft compare`: the grid on a tiny model, and what the statistics make of made-up grids."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import tiny
from nlft import tune_stages as stages
from nlft.compare import Compare, CompareSettings
from nlft.config import read_config
from nlft.core.saliency import ConditionLogprobs, Tag, hidden_band
from nlft.core.schemes import SCHEMES
from nlft.data.collect import SamplingSettings
from nlft.data.records import Example, Question, write_examples
from nlft.demo import write_problems
from nlft.errors import UserError
from nlft.results.arms import ARMS, Arm, _baseline, claim, defined, with_shots, with_shuffled_judgments
from nlft.results.comparison import Cells, contrasts, costs, share_of, table, verdict
from nlft.results.comparison_page import curves, page
from nlft.results.report import deciding_reading
from nlft.training.model import ModelSettings

EXAMPLES = Path(__file__).parent.parent / "examples"
TITLES = {name: arm.title for name, arm in ARMS.items()}
PROMPTED = ("base", "few-shot")


def cells(share: float, seeds: int = 2, questions: int = 200, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    rows = [[bool(x) for x in rng.permutation(np.arange(questions) < share * questions)] for _ in range(seeds)]
    result = {"train_seconds": 10.0, "peak_memory_bytes": 2**31, "num_tokens": 1000}
    return Cells(rows, [result] * seeds, {})


def test_a_method_that_beats_prompting_is_recommended_with_its_gap():
    grid = {("base", 50): cells(0.1, 1), ("sft-answer", 50): cells(0.6, seed=1), ("nlft", 50): cells(0.3, seed=2)}
    found = contrasts(grid, [("nlft", "base"), ("nlft", "sft-answer")])
    said = verdict(grid, found, TITLES, PROMPTED)
    assert said.startswith("Train with SFT on answers: 60.0%")
    assert "points [" in said
    assert said.endswith("and more than every other method.")


def test_prompting_wins_where_nothing_beats_it():
    grid = {("base", 50): cells(0.7, 1), ("few-shot", 50): cells(0.5, seed=3), ("nlft", 50): cells(0.4, seed=1)}
    assert "don't fine-tune" in verdict(grid, contrasts(grid, [("nlft", "base")]), TITLES, PROMPTED)


def test_too_few_questions_are_called_too_few_and_how_many_it_takes():
    grid = {("base", 50): cells(0.4, 1, 20), ("nlft", 50): cells(0.5, 1, 20, seed=1)}
    said = verdict(grid, contrasts(grid, [("nlft", "base")]), TITLES, PROMPTED)
    assert said.startswith("Too few test questions to tell")
    assert "you need about" in said


def test_what_holm_takes_back_is_not_claimed():
    rng = np.random.default_rng(0)
    rows = {name: [[bool(x) for x in rng.random(200) < share]] for name, share in (("base", 0.30), ("nlft", 0.40))}
    grid = {(name, 50): Cells(made, [], {}, None if name == "base" else [0]) for name, made in rows.items()}
    for at in range(8):
        grid[f"other-{at}", 50] = cells(0.3, 1, seed=at + 5)
    others = [("nlft", name) for name, _ in grid if name != "nlft"]
    titles = {name: name for name, _ in grid}
    alone, many = contrasts(grid, others[:1]), contrasts(grid, others)
    assert alone[0].told
    assert not many[0].told
    assert verdict(grid, alone, titles, PROMPTED).startswith("Train with nlft")
    assert verdict(grid, many, titles, PROMPTED).startswith("Too few test questions")


def test_an_arm_with_one_seed_is_not_recommended_and_one_without_a_result_is_named():
    ours = cells(0.6, 2, seed=1)
    lucky = Cells(cells(0.9, 1, seed=2).verdicts, [], {}, [0], once=True)
    grid = {
        ("base", 50): cells(0.1, 1),
        ("nlft", 50): Cells(ours.verdicts, ours.results, {}, [0, 1]),
        ("reft", 50): lucky,
        ("sft-answer", 50): Cells([], [], {0: "no memory", 1: "no memory"}, []),
    }
    said = verdict(grid, contrasts(grid, [("nlft", "base"), ("nlft", "reft")]), TITLES, PROMPTED)
    assert said.startswith("Train with NLFT: 60.0%")
    assert "on its seed better: ReFT" in said
    assert "no result: SFT on answers" in said


def test_no_verdict_is_drawn_from_questions_that_all_arms_fail():
    nothing = Cells([[False] * 5], [], {})
    grid = {("base", 50): nothing, ("nlft", 50): nothing}
    assert "don't fine-tune" not in verdict(grid, contrasts(grid, [("nlft", "base")]), TITLES, PROMPTED)
    assert share_of([[False] * 5, [False] * 5]).high > 0.3


def test_comparisons_are_corrected_for_all_of_them():
    grid = {(name, 50): cells(0.3 + 0.02 * at, seed=at) for at, name in enumerate(["base", "sft-answer", "nlft"])}
    one = contrasts(grid, [("nlft", "base")])
    two = contrasts(grid, [("nlft", "base"), ("nlft", "sft-answer")])
    assert one[0].corrected == one[0].gap.p_value
    assert two[0].corrected >= one[0].corrected
    assert two[0].wins - two[0].losses == pytest.approx(two[0].gap.value * 400)


def test_a_failed_seed_is_in_the_table_and_out_of_the_comparisons():
    whole, broken = cells(0.5), cells(0.4)
    broken = Cells(broken.verdicts[:1] * 0, broken.results, {1: "out of memory"})
    grid = {("base", 50): whole, ("nlft", 50): broken}
    assert "1 failed: out of memory" in table(grid, TITLES)
    assert contrasts(grid, [("nlft", "base")]) == []


def test_arms_are_compared_on_the_seeds_that_both_have():
    whole = cells(0.5, 3)
    one = Cells(whole.verdicts[1:2], whole.results[1:2], {}, [7], once=True)
    ours = Cells(whole.verdicts, whole.results, {}, [5, 7, 9])
    grid = {("nlft", 50): ours, ("kto", 50): one, ("sft-answer", 50): Cells([], [], {5: "no memory"}, [])}
    found = contrasts(grid, [("nlft", "kto"), ("nlft", "sft-answer")])
    assert [(c.theirs, c.gap.value, c.wins, c.losses) for c in found] == [("kto", 0.0, 0, 0)]
    assert "(seed 7 alone)" in table(grid, TITLES)


def test_a_time_budget_ends_training_at_the_step_that_passes_it(place, tmp_path):
    from nlft.results.arms import Budget, run_arm

    run_arm(
        ARMS["sft-answer"],
        examples=write_few(tmp_path / "examples.jsonl"),
        test=place / "problems" / "test.jsonl",
        out=tmp_path / "run",
        model={"model_name_or_path": str(place / "model")},
        asking=SamplingSettings(max_new_tokens=4),
        budget=Budget(num_train_epochs=1e5, per_device_train_batch_size=1, max_seconds=2),
    )
    assert 2 <= json.loads((tmp_path / "run" / "result.json").read_text())["train_seconds"] < 30
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    rates = {event["learning_rate"] for event in events if "learning_rate" in event}
    assert len(rates) == 1


def write_few(path):
    write_examples(path, [Example(n, f"{n} + 1?", f"#### {n + 1}", True, f"#### {n + 1}") for n in range(4)])
    return path


def test_the_page_shows_what_a_model_wrote_as_text():
    report = {
        "model": "<script>alert(1)</script>",
        "verdict": "a < b",
        "questions": 3,
        "settings": {"seeds": [0]},
        "arms": [
            {
                "arm": "nlft", "title": "NLFT", "size": 5, "failed": {"0": "<b>"},
                "share": {"value": 0.5, "low": 0.4, "high": 0.6}, "trained": True, "readings": {"strict": 0.3},
                "results": [{"train_seconds": 1, "peak_memory_bytes": 2**30, "num_tokens": 7}],
            }
        ],
        "contrasts": [],
    }  # fmt: skip
    made = page(report)
    assert "<script>alert" not in made
    assert "&lt;script&gt;" in made
    assert "&lt;b&gt;" in made
    assert "<polyline" in made
    assert "; seed 0. Every method" in made


def test_no_two_of_sixteen_methods_look_alike_on_the_page():
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    arms = [{"arm": str(n), "title": f"method {n}", "size": 5, "share": share} for n in range(16)]
    legend = curves({"arms": arms}).partition("<figcaption>")[2]
    marks = re.findall("<circle[^>]*>", legend)
    assert len(marks) == len(set(marks)) == 16


@pytest.mark.parametrize(
    ("readings", "extraction", "decides"),
    [
        (["strict", "flexible"], "strict", "strict"),
        (["strict", "flexible"], "flexible", "flexible"),
        (["strict", "flexible"], "original", "flexible"),
        (["accuracy"], "strict", "accuracy"),
    ],
)
def test_the_reading_that_gave_the_labels_decides_where_there_are_several(readings, extraction, decides):
    assert deciding_reading({name: {} for name in readings}, extraction) == decides


def test_costs_are_of_all_seeds_at_the_largest_size_and_none_of_what_trains_nothing():
    results = [
        {"train_seconds": 10, "peak_memory_bytes": 2**30, "num_tokens": 1000},
        {"train_seconds": 21, "peak_memory_bytes": 3 * 2**29, "num_tokens": None},
    ]
    assert costs(results) == ["16 s", "1.5 GiB", "500"]
    assert costs([]) == ["", "", ""]
    prompted = Cells([[True]], [{"train_seconds": 0, "peak_memory_bytes": 2**30, "num_tokens": None}], {})
    trained, failed = Cells([[True]], results, {}), Cells([], [], {0: "why"})
    grid = {("base", 5): prompted, ("nlft", 5): trained, ("nlft", 9): failed}
    rows = table(grid, {"base": "base", "nlft": "NLFT"}).splitlines()[2:]
    assert [row.count("GiB") for row in rows] == [0, 1]
    assert "| 16 s  | 1.5 GiB     | 500 " in rows[1]


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


def test_wrong_plans_are_refused():
    with pytest.raises(UserError, match="is no pair of arms"):
        CompareSettings(comparisons=["nlft:magic"])
    with pytest.raises(UserError, match="no such arm"):
        CompareSettings(arms=["magic"])
    with pytest.raises(UserError, match="need a number each"):
        CompareSettings(sizes=[])
    with pytest.raises(UserError, match="nothing can be compared"):
        CompareSettings(grader="label")
    with pytest.raises(UserError, match=r"method 'NLFT' is none of"):
        CompareSettings(extra_arms={"x": {"method": "NLFT"}})
    with pytest.raises(UserError, match=r"'setings' is none of"):
        CompareSettings(extra_arms={"x": {"method": "nlft", "setings": {}}})
    with pytest.raises(UserError, match="is built in"):
        CompareSettings(extra_arms={"nlft": {"method": "sft"}})


def test_training_on_test_questions_is_refused(place, tmp_path):
    problems = place / "problems" / "train.jsonl"
    settings = CompareSettings(output_dir=str(tmp_path), test_file=str(problems), sizes=[1], seeds=[0])
    grid = Compare(problems, {"model_name_or_path": str(place / "model")}, settings)
    write_few(tmp_path / "examples.jsonl")
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "t", "prompt": "2 + 1?", "answer": "#### 3"}) + "\n")
    with pytest.raises(UserError, match="1 of the training questions are in --test_file"):
        grid._draw()


def test_an_arm_that_is_defined_anew_does_not_take_over_what_the_old_one_left(tmp_path):
    claim(defined("mine", {"method": "nlft"}), tmp_path)
    claim(defined("mine", {"method": "nlft"}), tmp_path)
    with pytest.raises(UserError, match="another definition of mine"):
        claim(defined("mine", {"method": "sft"}), tmp_path)


def test_kto_and_reft_learn_gently_and_reft_has_the_steps_of_the_others():
    options = {"output_dir": "x", "max_steps": 30, "num_train_epochs": 3.0, "per_device_train_batch_size": 2}
    options |= {"learning_rate": 4e-4}
    asking = SamplingSettings(extraction="strict")
    _, kto = _baseline(Arm("kto", "KTO", "kto"), options, asking)
    assert kto.learning_rate == pytest.approx(1e-4)
    _, reft = _baseline(Arm("reft", "ReFT", "reft"), options, asking)
    assert (reft.sft_steps, reft.max_steps, reft.extraction) == (15, 15, "strict")
    assert (reft.learning_rate, reft.warmup_learning_rate) == (pytest.approx(1e-4), 4e-4)
    assert (reft.num_generations, reft.generation_batch_size) == (8, 8), "a step compares eight answers to one question"
    _, epochs = _baseline(Arm("four", "ReFT", "reft", {"num_generations": 4}), {**options, "max_steps": -1}, asking)
    assert (epochs.sft_epochs, epochs.num_train_epochs) == (1.5, 0.75), "half of the others' steps, in each stage"
    _, own = _baseline(Arm("slow", "KTO", "kto", {"learning_rate": "3e-6"}), options, asking)  # as YAML reads it
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


def start(place, out, *flags):
    command = [sys.executable, "-m", "nlft.cli", "compare", str(place / "problems" / "train.jsonl")]
    command += ["--config", str(place / "plan.yaml"), "--output_dir", str(out), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.timeout(1200)
def test_a_grid_killed_in_the_middle_and_resumed_gives_the_same_table(place, tmp_path):
    whole = start(place, tmp_path / "whole")
    out, err = whole.communicate()
    assert whole.returncode == 0, err[-3000:]
    killed = start(place, tmp_path / "killed")
    middle = tmp_path / "killed" / "cells" / "size-6" / "seed-0" / "fold-0" / "nlft" / "result.json"
    while not middle.exists():
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    resumed = start(place, tmp_path / "killed", "--jobs", "2")  # two cells at once give what one after the other does
    again, err = resumed.communicate()
    assert resumed.returncode == 0, err[-3000:]
    assert err.count("done before") >= 4 + 5

    reports = [json.loads((tmp_path / name / "compare.json").read_text()) for name in ("whole", "killed")]
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
        assert {"strict", "flexible"} == set(report["arms"][0]["readings"])
    first, second = ([(a["arm"], a["size"], a["verdicts"]) for a in r["arms"]] for r in reports)
    assert first == second
    assert reports[0]["verdict"] == reports[1]["verdict"]
    assert reports[0]["verdict"] in out
    assert "failed" in again


def test_a_grid_that_is_done_ends_at_once(place, tmp_path, monkeypatch, capfd):
    settings = CompareSettings(output_dir=str(tmp_path / "out"), sizes=[4], seeds=[0], test_file="x", jobs=3)
    grid = Compare(place / "problems" / "train.jsonl", {}, settings)
    cells = list(grid._cells())
    for cell in cells[1:]:
        (grid.folder / cell.folder / cell.arm).mkdir(parents=True)
        (grid.folder / cell.folder / cell.arm / "result.json").write_text("{}")
    begun = []
    monkeypatch.setattr(grid, "begin", lambda *a: begun.append(a[-1]) or pytest.fail("started"))
    with pytest.raises(pytest.fail.Exception):
        grid._run_cells()
    assert begun == cells[:1], "the first is new"
    assert capfd.readouterr().err.count("done before") == len(cells) - 1
    (grid.folder / cells[0].folder / cells[0].arm / "result.json").write_text("{}")
    grid._run_cells()
    assert capfd.readouterr().err.count("done before") == len(cells)


def test_a_cell_that_was_defined_otherwise_is_refused_before_any_is_run(place, tmp_path, monkeypatch):
    settings = CompareSettings(output_dir=str(tmp_path / "out"), sizes=[4], seeds=[0], test_file="x")
    grid = Compare(place / "problems" / "train.jsonl", {}, settings)
    last = list(grid._cells())[-1]
    claim(defined("mine", {"method": "nlft"}), grid.folder / last.folder / last.arm)
    monkeypatch.setattr(grid, "begin", lambda *a: pytest.fail("started"))
    with pytest.raises(UserError, match="another definition"):
        grid._run_cells()


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
    grid.claim()
    _, *rest = grid.data_stages()
    stages.split(grid.folder, grid.job(), hold_out=False)
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


@pytest.mark.parametrize("name", ["compare-small", "compare-ablation", "compare-gsm8k"])
def test_the_plans_in_examples_are_valid(name):
    values = read_config(EXAMPLES / f"{name}.yaml", [ModelSettings, CompareSettings])
    model = values.pop("model_name_or_path")
    assert model
    settings = CompareSettings(**values)
    for path in (settings.train_file, settings.test_file):
        assert (EXAMPLES.parent / path).is_file() or path.startswith("openai/gsm8k:main:")
    assert len(settings.pairs()) > 1
    for arm in (ARMS[name] for name in settings.arms if ARMS[name].method == "nlft"):
        SCHEMES[arm.settings.get("scheme", "nlft")].settings(**arm.settings.get("saliency", {}))


def test_each_part_that_the_ablation_leaves_out_is_out():
    plan = read_config(EXAMPLES / "compare-ablation.yaml", [ModelSettings, CompareSettings])
    rng = np.random.default_rng(0)
    logp = [torch.tensor(np.log(rng.uniform(0.001, 1, (2, 400)))) for _ in range(3)]
    label = torch.tensor([False, True])
    states = torch.tensor(rng.normal(1, 0.7, (2, 400, 8)))
    mask = torch.ones(2, 400, dtype=torch.bool)
    scores = ConditionLogprobs(*logp[:1], mask, label, logp[1], logp[2], hidden_band(states, mask))

    def tags(name):
        spec = plan["extra_arms"].get(name, {}).get("settings", {})
        scheme = SCHEMES[spec.get("scheme", "nlft")]
        found = scheme.weigh(scores, scheme.settings(**spec.get("saliency", {}))).tag
        return [[int((row == tag).sum()) for tag in (Tag.SALIENT, Tag.NEIGHBOUR)] for row in found]

    (wrong, wrong_near), (right, right_near) = tags("nlft")
    assert min(wrong, wrong_near, right, right_near) > 0
    assert tags("without-losing") == [[0, 0], [right, right_near]]
    assert tags("without-scoring")[0] == [wrong, wrong_near]
    assert tags("without-scoring")[1] == [0, 0]
    assert tags("without-neighbourhood") == [[wrong, 0], [right, 0]]
    assert tags("without-judge")[0][0] == int(((logp[0][0].exp() > 0.5) & (logp[1][0].exp() < 0.05)).sum())
    assert tags("without-standard")[0][0] == int((logp[2][0] - logp[0][0] > np.log(1.5)).sum())


def test_the_results_in_the_docs_are_those_of_the_kept_comparison():
    sys.path.insert(0, str(EXAMPLES.parent / "benchmarks"))
    import results

    text = results.PAGE.read_text(encoding="utf-8")
    assert results.page(text) == text
    for kept in results.DOCS.glob("compare-*.json"):
        report = json.loads(kept.read_text(encoding="utf-8"))
        assert report["verdict"] in text
        assert kept.with_suffix(".html").read_text(encoding="utf-8") == page(report)
