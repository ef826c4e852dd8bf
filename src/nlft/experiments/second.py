"""Grade the kept replies of a comparison again, by checks that labelled no example and judged no reply.

A training can learn a list by heart. Other checks show whether it learned what the list stands for. On the prompts of
the collateral they show whether the training reaches beyond its scope.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlft.data.checks_grader import CheckSettings, ChecksGrader
from nlft.data.grading import CHECKS, Reply
from nlft.data.records import reply_to
from nlft.experiments.cells import cell_result
from nlft.experiments.stages import Job, read_test, settings_of
from nlft.files import json_bytes, write_whole
from nlft.results.clusters import Clusters
from nlft.results.comparison import rate_of

FILE = "second_checks.json"
Passes = Mapping[str, list[bool]]
"""The check's name, and whether each reply passes it. A reply that could not be graded does not pass."""


@dataclass(frozen=True)
class SecondRun:
    """One run's replies by the second checks.

    Attributes:
        task: the replies to the test questions, in their order.
        before, after: the replies to the prompts of the collateral, of the base model and of the run's model, by set.
            Checks that name a field of the test questions are left out.
    """

    task: Passes
    before: Mapping[str, Passes]
    after: Mapping[str, Passes]


def second_stage(folder: Path, job: Job, runs: Sequence[str]) -> None:
    """Grade the replies of the runs by `second_checks`, and write second_checks.json.

    Args:
        runs: run directories relative to the folder. Each cell's test.jsonl is beside its runs.

    Raises:
        UserError: the checks cannot be used, or the test questions lack a field that they name.
    """
    settings = settings_of(job)
    wanted = CheckSettings(
        grader=CHECKS,
        checks=settings.second_checks,
        judge_model=settings.judge_model,
        judge_base_url=settings.judge_base_url,
        judge_api_key_env=settings.judge_api_key_env,
        judge_max_new_tokens=settings.judge_max_new_tokens,
    )
    grader = wanted.make_checks(folder / "second_checks.calls.jsonl")
    found = {run: _graded(folder / run, grader, settings.extraction) for run in runs}
    graded = {run: vars(one) for run, one in found.items()}
    write_whole(folder / FILE, json_bytes(graded, indent=1))


def _graded(run: Path, grader: ChecksGrader, extraction: str) -> SecondRun:
    result, anywhere = cell_result(run, extraction), grader.anywhere()
    asked = {str(question.id): question for question in read_test(run.parent)}
    task = [reply_to(asked[str(a["id"])], a["output"], a["prompt"]) for a in result.answers]
    sets = {name: found.pairs for name, found in result.collateral.sets.items()} if result.collateral else {}
    before, after = (
        {
            name: _passes(anywhere, [Reply(f"{name}:{p.id}", p.prompt, None, getattr(p, when).text, {}) for p in pairs])
            for name, pairs in sets.items()
            if name != "task"
        }
        for when in ("before", "after")
    )
    return SecondRun(_passes(grader, task), before, after)


def _passes(grader: ChecksGrader, replies: Sequence[Reply]) -> Passes:
    results = grader.check(replies)
    return {check.name: [bool(row[at].passed) for row in results] for at, check in enumerate(grader.checks)}


def second_rows(
    folder: Path,
    runs: Mapping[tuple[str, int], Sequence[Sequence[str]]],
    base: Sequence[str],
    clusters: Clusters | None,
) -> list[dict[str, Any]]:
    """Return the rates that second_checks.json gives: a row for each arm, size, set of prompts and check.

    `share` is the rate of replies that pass, over all seeds. `base` is the base model's on the same prompts.

    Args:
        runs: run directories by arm and size: the folds of each seed.
        base: the folds of the base model.
        clusters: which test questions belong together, over all folds.
    """
    stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
    found = {run: SecondRun(**one) for run, one in stored.items()}
    return [
        {"arm": arm, "size": size, **row}
        for (arm, size), paths in runs.items()
        for row in _arm_rows([[found[run] for run in folds] for folds in paths], [found[run] for run in base], clusters)
    ]


def _arm_rows(
    seeds: Sequence[Sequence[SecondRun]], base: Sequence[SecondRun], clusters: Clusters | None
) -> Iterator[dict[str, Any]]:
    first = seeds[0]
    for check in first[0].task:
        ours = [_joined([one.task for one in folds], check) for folds in seeds]
        yield _rates("task", check, ours, _joined([one.task for one in base], check), clusters)
    for name, checks in first[0].after.items():
        for check in checks:
            ours = [_joined([one.after[name] for one in folds], check) for folds in seeds]
            yield _rates(name, check, ours, _joined([one.before[name] for one in first], check), None)


def _rates(
    prompts: str, check: str, ours: Sequence[list[bool]], base: list[bool], clusters: Clusters | None
) -> dict[str, Any]:
    rates = {"base": vars(rate_of([base], clusters)), "share": vars(rate_of(ours, clusters))}
    return {"prompts": prompts, "check": check, "replies": len(base), **rates}


def _joined(folds: Sequence[Passes], check: str) -> list[bool]:
    return [passed for one in folds for passed in one[check]]
