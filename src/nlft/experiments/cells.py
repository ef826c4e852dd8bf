"""Run the cells of a comparison. A cell trains and evaluates one arm at one size and seed, on one fold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nlft.data.records import read_examples, training_texts
from nlft.errors import UserError, display_path
from nlft.experiments import revised
from nlft.experiments.stages import Job, read_test, settings_of
from nlft.files import json_bytes, read_json, write_whole
from nlft.library_errors import explain
from nlft.results.collateral import Collateral, Pair, PromptSet, Reply, prompt_set
from nlft.results.evaluate import deciding_reading

AGAIN = "remove the arm's result.json, and run the command again: the arm is trained and evaluated again"


@dataclass(frozen=True)
class Cell:
    """One arm at one size and seed, on one fold.

    Attributes:
        folder: relative to the comparison's folder. It holds examples.jsonl, test.jsonl, and the arm's run in
            `folder`/`arm`.
    """

    arm: str
    size: int
    seed: int
    fold: int
    folder: str


@dataclass(frozen=True)
class CellResult:
    """The result of a cell, read from its files.

    Attributes:
        took: the content of result.json: the summary of the evaluation, seconds, memory, steps.
        right: whether each question was answered right, by the deciding reading; empty if nothing was graded.
        answers: the questions of evaluation.json, with output and grades.
        failed: the reason why there is no result; None if there is a result.
        collateral: what the training changed besides its aim; None if not measured.
    """

    took: Mapping[str, Any]
    right: list[bool]
    answers: list[dict[str, Any]]
    failed: str | None = None
    collateral: Collateral | None = None

    @property
    def kl_each(self) -> tuple[tuple[float, int], ...] | None:
        """(nats, tokens) of each scored reply of the task; None if not measured, or in an older file."""
        return self.collateral.sets["task"].kl_each if self.collateral else None


def run_cell(folder: Path, job: Job, prompt_template: str, cell: Cell) -> None:
    """Train and evaluate the cell. This function runs in its own process.

    If there is an error, also write it to the cell's failed.json.

    Args:
        prompt_template: the template with which the cell's test questions are asked.
    """
    from nlft.experiments.arm_run import run_arm

    settings, place = settings_of(job), folder / cell.folder
    try:
        run_arm(
            settings.known_arms()[cell.arm],
            examples=place / "examples.jsonl",
            test=place / "test.jsonl",
            out=place / cell.arm,
            model=job["model"],
            asking=replace(settings, seed=cell.seed, prompt_template=prompt_template),
            budget=settings,
            collateral=settings if settings.measures_collateral() and not why_no_base(job["model"]) else None,
            base_answers=folder / "collateral.calls.jsonl",
            rules=settings.rules,
            revised=folder / revised.FILE,
            curve=settings,
        )
    except Exception as error:
        write_failure(place / cell.arm, str(explain(error) or f"{type(error).__name__}: {error}"))
        raise


def collateral_of_prompt(cell: Path, base: CellResult, prompted: CellResult) -> Collateral | None:
    """Measure what a prompt changed besides its aim: its replies to the test questions beside the base model's.

    There is no KL, and no other set of prompts, because the model is the same.

    Args:
        cell: folder with the cell's test.jsonl and examples.jsonl. A prompt that shows examples may be copied.
    """
    asked = {str(question.id): question.prompt for question in read_test(cell)}
    before = {str(answer["id"]): answer for answer in base.answers}
    pairs = [
        Pair(str(new["id"]), asked[str(new["id"])], _reply(before[str(new["id"])]), _reply(new))
        for new in prompted.answers
        if str(new["id"]) in before and str(new["id"]) in asked
    ]
    if not pairs:
        return None
    return Collateral({"task": prompt_set(pairs, None, training_texts(read_examples(cell / "examples.jsonl")))})


def _reply(answer: Mapping[str, Any]) -> Reply:
    return Reply(answer["output"], answer["tokens"], answer["finish_reason"] == "stop")


def why_no_base(model: Mapping[str, Any]) -> str | None:
    """Return why trained arms have no base model to compare with by switching their adapter off. None: they have one.

    Args:
        model: fields of `ModelSettings`.
    """
    if model.get("adapter") is not None:
        return "--adapter: the arms continue an adapter, and without it they are not the prompted base"
    if model.get("use_peft") is False:
        return "--use_peft false: the arms train all weights, so they have no adapter to switch off"
    return None


def write_failure(run: Path, why: str) -> None:
    """Write failed.json into a cell's run."""
    write_whole(run / "failed.json", json_bytes({"failed": why}))


def cell_result(run: Path, extraction: str) -> CellResult:
    """Read the result from a cell's run directory.

    Args:
        extraction: how numbers were read when the examples were labelled. This decides which answers are right.
    """
    for name in ("result.json", "failed.json"):
        if (run / name).exists():
            took = read_json(run / name, AGAIN)
            why = took.get("skipped") or took.get("failed")
            break
    else:
        return CellResult({}, [], [], "not run")
    if why:
        return CellResult(took, [], [], why)
    evaluation = read_json(run / "evaluation.json", AGAIN)
    try:
        return _read_result(took, evaluation, extraction)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"result.json or evaluation.json lacks what nlft writes ({type(error).__name__}: {error})"
        raise UserError(f"{display_path(run)}: {what}.\n  To go on, {AGAIN}.") from error


def _read_result(took: Mapping[str, Any], evaluation: Mapping[str, Any], extraction: str) -> CellResult:
    answers, sets = evaluation["questions"], evaluation.get("collateral", {}).get("sets", {})
    collateral = Collateral({name: PromptSet.from_json(one) for name, one in sets.items()}) if sets else None
    if took["summary"]["answer_logp"] is not None:
        return CellResult(took, [], answers, None, collateral)
    right = [
        answer["grades"][deciding_reading(answer["grades"], extraction)]["verdict"] == "right" for answer in answers
    ]
    return CellResult(took, right, answers, None, collateral)
