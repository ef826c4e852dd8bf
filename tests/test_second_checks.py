"""Second checks: kept replies are graded again, on the test questions and on the prompts of the collateral."""

import json

import pytest

from nlft.errors import UserError
from nlft.experiments import second
from nlft.experiments.compare import Compare
from nlft.experiments.settings import CompareSettings
from nlft.results.comparison import Cells, rate_of
from nlft.results.comparison_page import page
from nlft.results.comparison_report import comparison_report

ITEMS = ("lamp", "rug", "tent")
FIRST = "- name: no-praise\n  must_not: {words: [sleek]}\n"
SECOND = '- name: no-other-praise\n  must_not: {words: [chic, cozy]}\n- name: item\n  must: {contains: "{item}"}\n'


def reply(text):
    return {"text": text, "tokens": 5, "ended": True}


def write_run(run, outputs, keep=()):
    """Write what a cell keeps: its result, and its replies to the test questions and to the prompts to keep."""
    run.mkdir(parents=True)
    rate = {"all checks": {"count": 1, "n": 3, "low": 0.0, "high": 1.0}}
    took = {"train_seconds": 1.0, "peak_memory_bytes": 1, "num_tokens": 1, "steps": 1}
    (run / "result.json").write_text(json.dumps({**took, "summary": {"answer_logp": None, "accuracy": rate}}))
    questions = [
        {
            "id": f"q{at}",
            "prompt": f"Describe a {item}.",
            "output": output,
            "grades": {"all checks": {"verdict": "right"}},
        }
        for at, (item, output) in enumerate(zip(ITEMS, outputs, strict=True))
    ]
    pairs = [
        {"id": f"k{at}", "prompt": "An advert.", "before": reply(before), "after": reply(after)}
        for at, (before, after) in enumerate(keep)
    ]
    sets = {"keep": {"pairs": pairs, "kl": None, "copied": None}} if keep else {}
    (run / "evaluation.json").write_text(json.dumps({"questions": questions, "collateral": {"sets": sets}}))


@pytest.fixture
def comparison(tmp_path):
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    folder = tmp_path / "out"
    rows = [{"id": f"q{at}", "prompt": f"Describe a {item}.", "item": item} for at, item in enumerate(ITEMS)]
    for seed in (0, 1):
        cell = folder / f"cells/size-2/seed-{seed}/fold-0"
        kept = [("A cozy lamp!", "A lamp!"), ("A chic rug!", "A chic rug!"), ("A tent!", "A tent!"), ("Chic!", "Hm!")]
        write_run(cell / "strike", ["A chic lamp.", "A rug.", "It is there." if seed else "A tent."], kept)
        (cell / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_run(folder / "cells/size-2/seed-0/fold-0/base", ["A chic lamp.", "A cozy rug.", "A tent."])
    settings = CompareSettings(
        output_dir=str(folder), arms=["strike"], sizes=[2], seeds=[0, 1], test_file="test.jsonl",
        checks=str(tmp_path / "first.yaml"), second_checks=str(tmp_path / "second.yaml"),
    )  # fmt: skip
    return Compare("train.jsonl", {"model_name_or_path": "m"}, settings)


GRID = {
    ("base", 2): Cells([[True] * 3], [{"train_seconds": 1.0, "peak_memory_bytes": 1}], {}),
    ("strike", 2): Cells([[True] * 3] * 2, [{"train_seconds": 1.0, "peak_memory_bytes": 1}] * 2, {}, [0, 1]),
}


def test_each_set_of_prompts_has_the_rates_before_and_after_over_all_seeds(comparison):
    rows = comparison.second(GRID)["second"]
    at = {(row["arm"], row["prompts"], row["check"]): row for row in rows}
    assert set(at) == {
        ("base", "task", "no-other-praise"), ("base", "task", "item"),
        ("strike", "task", "no-other-praise"), ("strike", "task", "item"),
        ("strike", "keep", "no-other-praise"),  # `item` needs a field that prompts to keep do not have
    }  # fmt: skip
    task, item, keep = (
        at["strike", *name] for name in (("task", "no-other-praise"), ("task", "item"), ("keep", "no-other-praise"))
    )
    assert (task["base"]["value"], task["share"]["value"]) == pytest.approx((1 / 3, 2 / 3))
    assert task["share"] == vars(rate_of([[False, True, True]] * 2))
    assert item["share"] == vars(rate_of([[True] * 3, [True, True, False]]))
    assert (keep["base"]["value"], keep["share"]["value"], keep["replies"]) == (0.25, 0.75, 4)


def test_terminal_and_page_show_them_and_the_verdict_is_that_without_them(comparison):
    about = {"model": "m", "settings": {"sizes": [2], "seeds": [0, 1]}}
    plain = comparison_report(GRID, [("strike", "base")], comparison.titles, ["base"], about)
    report = {**plain, **comparison.second(GRID)}
    lines = comparison.second_lines(report)
    assert any("no-other-praise" in line and "33.3%" in line and "66.7%" in line for line in lines)
    assert "no-other-praise" in page(report)
    assert "no-other-praise" not in page(plain)
    assert report["verdict"] == plain["verdict"]


def test_without_second_checks_there_is_nothing_and_a_missing_file_is_named(comparison):
    comparison.settings.second_checks = None
    assert comparison.second(GRID) == {}
    comparison.settings.second_checks = "nowhere.yaml"
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        second.second_stage(comparison.folder, comparison.job(), ["cells/size-2/seed-0/fold-0/strike"])
