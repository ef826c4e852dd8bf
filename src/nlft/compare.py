"""`nlft compare`: methods x sizes x seeds on the same examples, prompt, budget and grader, cell by cell."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Annotated, Any

from nlft import __version__
from nlft import tune_stages as stages
from nlft.config import Range
from nlft.data.build import question_of
from nlft.data.collect import ask
from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.errors import NLFTError, UserError, display_path
from nlft.files import write_whole
from nlft.results import arms
from nlft.results.comparison import Cells, Contrast, Grid, contrasts, share_of, table, verdict
from nlft.results.comparison_page import page
from nlft.results.report import deciding_reading
from nlft.staged import Share, Staged, check, ending_with_us, shares
from nlft.tune_settings import TuneSettings
from nlft.tune_stages import settings_of, write_rows

ALWAYS = ["base", "few-shot", "sft-answer", "sft-completion", "nlft", "control", "uniform-right", "shuffled"]


@dataclass
class CompareSettings(TuneSettings):
    """What is compared, on what. `comparisons` are fixed before the run, and corrected for their number."""

    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for everything that comes of it."})
    arms: list[str] = field(
        default_factory=lambda: list(ALWAYS),
        metadata={
            "help": f"Methods: {', '.join(arms.ARMS)}. The baselines and controls of NLFT are always among them."
        },
    )
    sizes: list[int] = field(default_factory=lambda: [25, 50], metadata={"help": "Numbers of training examples."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Each draws its own examples, and trains on them."}
    )
    once: list[str] = field(
        default_factory=list,
        metadata={"help": "Arms too dear for the whole grid: they get the largest size and the first seed alone."},
    )
    folds: int = field(default=5, metadata={"help": "Cross-validation folds where there is no test file."})
    jobs: Annotated[int, Range(1, 1024)] = field(
        default=1,
        metadata={
            "help": "Cells that run at once, each with its share of the cores, which its times are then with; GPUs are "
            "given out in turn."
        },
    )
    comparisons: list[str] = field(
        default_factory=list,
        metadata={"help": "Pairs OURS:THEIRS; by default NLFT against every other method."},
    )
    audit: bool = field(default=False, metadata={"help": "Audit the examples with the model before training."})

    def __post_init__(self) -> None:
        self.arms = list(dict.fromkeys([*ALWAYS, *self.arms, *self.once, *self.extra_arms]))
        super().__post_init__()
        if self.grader == "label":
            raise UserError("--grader label grades nothing, so nothing can be compared.\n  Choose another --grader.")
        if not self.sizes or not self.seeds or min(self.sizes) < 1:
            raise UserError("--sizes and --seeds need a number each.\n  Give --sizes 25 50 --seeds 0 1 2, for example.")
        if self.jobs > 1 and self.max_seconds:
            raise UserError(
                "--max_seconds with --jobs: cells that share the machine would get less done in the same time.\n"
                "  Leave one of them out, or set --max_steps."
            )
        self.pairs()

    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons as pairs of arms.

        Raises:
            UserError: one of them is no pair of arms.
        """
        found = []
        for text in self.comparisons or [f"nlft:{name}" for name in self.arms if name != "nlft"]:
            ours, _, theirs = text.partition(":")
            if ours not in self.arms or theirs not in self.arms:
                raise UserError(f"--comparisons {text}: is no pair of arms.\n  Write nlft:sft-answer, for example.")
            found.append((ours, theirs))
        return found


@dataclass(frozen=True)
class Cell:
    """One method at one size and seed, on one fold; `folder` holds its examples, and in it `arm` its run."""

    arm: str
    size: int
    seed: int
    fold: int
    folder: str

    @property
    def title(self) -> str:
        fold = f", fold {self.fold}" if self.fold else ""
        return f"{arms.ARMS[self.arm].title}, {self.size} examples, seed {self.seed}{fold}"


@dataclass(frozen=True)
class _Running:
    """A cell under way: with which share of the machine, since when (monotonic seconds)."""

    cell: Cell
    title: str
    share: Share
    start: float


class Compare(Staged):
    """The grid in one folder; a cell that is done is not repeated, one that failed is marked and tried again later."""

    settings: CompareSettings
    may_grow = ("arms", "sizes", "seeds", "once", "extra_arms", "jobs")  # but not the comparisons: fixed before the run

    def run(self) -> str:
        """Run what is not done yet; returns the tables and the verdict."""
        self.claim()
        first, *rest = self.data_stages()
        whole = partial(stages.split, self.folder, self.job(), hold_out=False)
        audit = [("audit", "audit.json", self.own_process(stages.audit))] if self.settings.audit else []
        self.run_stages([(*first[:2], whole), *rest, *audit])
        self._draw()
        self._run_cells()
        return self._told()

    def _folds(self) -> int:
        return 1 if self.settings.test_file else self.settings.folds

    def _cells(self) -> Iterator[Cell]:
        """All cells, the cheapest sizes first. A prompted base knows neither size nor seed."""
        for size in sorted(self.settings.sizes):
            for seed in self.settings.seeds:
                for fold in range(self._folds()):
                    folder = f"cells/size-{size}/seed-{seed}/fold-{fold}"
                    for arm in self.settings.arms:
                        if self._planned(arm, size, seed):
                            yield Cell(arm, size, seed, fold, folder)

    def _planned(self, arm: str, size: int, seed: int) -> bool:
        if arm == "base":
            return (size, seed) == (min(self.settings.sizes), self.settings.seeds[0])
        return arm not in self.settings.once or (size, seed) == (max(self.settings.sizes), self.settings.seeds[0])

    def _draw(self) -> None:
        """Each cell's examples and test questions; a larger size holds the smaller one's examples.

        Raises:
            UserError: there are too few examples for the largest size.
        """
        for seed in self.settings.seeds:
            for fold in range(self._folds()):
                train, test = self._fold(fold)
                drawn = list(train)
                Random(seed).shuffle(drawn)
                for size in self.settings.sizes:
                    if size > len(drawn):
                        raise UserError(
                            f"{size} examples are wanted, and there are {len(drawn)}.\n"
                            "  Leave that size out, or sample more in another --output_dir."
                        )
                    folder = self.folder / f"cells/size-{size}/seed-{seed}/fold-{fold}"
                    write_examples(folder / "examples.jsonl", drawn[:size])
                    write_rows(folder / "test.jsonl", test)

    def _fold(self, fold: int) -> tuple[list[Example], list[Question]]:
        """Examples to train on and questions to test on. Folds split the questions, not the completions.

        All of the file's questions are tested on, also those whose answers the dataset has left out: what was left out
        depends on how the model did.

        Raises:
            UserError: questions of the test file are trained on.
        """
        examples = read_examples(self.folder / "examples.jsonl")
        questions = read_questions(self.folder / "test.jsonl")
        template = "{prompt}" if stages.holds_examples(self.file) else self.settings.prompt_template
        asked = {question_of(q): q for q in (replace(q, prompt=ask(q, template)) for q in reversed(questions))}
        if self.settings.test_file:
            shared = len({question_of(example) for example in examples} & asked.keys())
            if shared:
                raise UserError(
                    f"{shared} of the training questions are in --test_file.\n  Take them out of one of them."
                )
            return examples, questions
        groups = sorted(asked)
        Random(self.settings.seed).shuffle(groups)
        held_out = groups[fold :: self.settings.folds]
        out = set(held_out)
        return [e for e in examples if question_of(e) not in out], [asked[group] for group in held_out]

    def _run_cells(self) -> None:
        """Every cell that is not done yet, `jobs` at a time. One that fails is marked, and the rest goes on."""
        todo = self._new_cells()
        free, running = shares(self.settings.jobs), dict[Any, _Running]()
        with ending_with_us(running):
            while todo or running:
                while todo and free:
                    cell, title = todo.pop(0)
                    print(title, file=sys.stderr)
                    (self.folder / cell.folder / cell.arm / "failed.json").unlink(missing_ok=True)
                    share = free.pop(0)
                    running[self.begin(share, _train_cell, cell)] = _Running(cell, title, share, time.monotonic())
                ready = wait([process.sentinel for process in running])
                for process in [process for process in running if process.sentinel in ready]:
                    process.join()
                    ended = running.pop(process)
                    free.append(ended.share)
                    self._mark(process, ended)

    def _new_cells(self) -> list[tuple[Cell, str]]:
        """The cells that are still to be run, each with its title; those that are done are named.

        Raises:
            UserError: a cell's folder holds an arm of its name that was defined otherwise.
        """
        cells, new = list(self._cells()), []
        for number, cell in enumerate(cells, start=1):
            out = self.folder / cell.folder / cell.arm
            arms.claim(arms.ARMS[cell.arm], out)
            title = f"[{number}/{len(cells)}] {cell.title}"
            if (out / "result.json").exists():
                print(f"{title}: done before", file=sys.stderr)
            else:
                new.append((cell, title))
        return new

    def _mark(self, process: Any, ended: _Running) -> None:
        out = self.folder / ended.cell.folder / ended.cell.arm
        try:
            check(process)
        except NLFTError as error:
            if not (out / "failed.json").exists():  # killed: it could not say why itself
                _write_failure(out, str(error))
            print(f"{ended.title}: failed; the grid goes on", file=sys.stderr)
        else:
            print(f"{ended.title}: {time.monotonic() - ended.start:.0f} s", file=sys.stderr)

    def _grid(self) -> Grid:
        grid: dict[tuple[str, int], Cells] = {}
        for arm in self.settings.arms:
            for size in sorted(self.settings.sizes):
                if arm == "base" or any(self._planned(arm, size, seed) for seed in self.settings.seeds):
                    grid[arm, size] = self._arm_cells(arm, size)
        return grid

    def _arm_cells(self, arm: str, size: int) -> Cells:
        verdicts, results, failed, done = [], [], {}, []
        at = min(self.settings.sizes) if arm == "base" else size
        for seed in (seed for seed in self.settings.seeds if self._planned(arm, at, seed)):
            row: list[bool] = []
            for fold in range(self._folds()):
                run = self.folder / f"cells/size-{at}/seed-{seed}/fold-{fold}" / arm
                result, why = _result(run)
                if why:
                    failed[seed] = why
                    break
                results.append(result)
                row += _verdicts(run, self.settings.extraction)
            else:
                verdicts.append(row)
                done.append(seed)
        return Cells(verdicts, results, failed, None if arm == "base" else done, arm in self.settings.once)

    def _told(self) -> str:
        grid, titles = self._grid(), {name: arms.ARMS[name].title for name in self.settings.arms}
        found = contrasts(grid, self.settings.pairs())
        said = verdict(grid, found, titles, [name for name in titles if _is_prompted(name)])
        report = {
            "nlft": __version__,
            "model": self.model["model_name_or_path"],
            "settings": self.job()["settings"],
            "questions": len(next((c.verdicts[0] for c in grid.values() if c.verdicts), [])),
            "verdict": said,
            "arms": [_arm_report(arm, size, cells, titles) for (arm, size), cells in grid.items()],
            "contrasts": [_contrast_report(c) for c in found],
        }
        write_whole(self.folder / "compare.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
        write_whole(self.folder / "compare.html", page(report).encode())
        lines = [_contrast_line(c, titles) for c in found if c.size == max(self.settings.sizes)]
        paths = [f"every figure: {display_path(self.folder / 'compare.json')}",
                 f"page: {display_path(self.folder / 'compare.html')}"]  # fmt: skip
        return "\n".join(["", table(grid, titles), "", *lines, "", said, "", *paths])


def _train_cell(folder: Path, job: dict[str, Any], cell: Cell) -> None:
    try:
        _run_arm(folder, job, cell)
    except Exception as error:
        _write_failure(folder / cell.folder / cell.arm, f"{type(error).__name__}: {error}")
        raise


def _write_failure(out: Path, why: str) -> None:
    write_whole(out / "failed.json", json.dumps({"failed": why}, ensure_ascii=False).encode())


def _run_arm(folder: Path, job: dict[str, Any], cell: Cell) -> None:
    settings = settings_of(job)
    # Questions of a fold come from the examples, which hold their prompts as they were asked.
    template = settings.prompt_template if settings.test_file else "{prompt}"
    place = folder / cell.folder
    arms.run_arm(
        arms.ARMS[cell.arm],
        examples=place / "examples.jsonl",
        test=place / "test.jsonl",
        out=place / cell.arm,
        model=job["model"],
        asking=replace(settings, seed=cell.seed, prompt_template=template),
        budget=settings,
    )


def _result(run: Path) -> tuple[dict[str, Any], str | None]:
    for name in ("result.json", "failed.json"):
        if (run / name).exists():
            found = json.loads((run / name).read_text())
            return found, found.get("skipped") or found.get("failed")
    return {}, "not run"


def _verdicts(run: Path, extraction: str) -> list[bool]:
    """Which answers are right, by the deciding reading."""
    grades = [q["grades"] for q in json.loads((run / "evaluation.json").read_text())["questions"]]
    return [found[deciding_reading(found, extraction)]["verdict"] == "right" for found in grades]


def _is_prompted(arm: str) -> bool:
    return arms.ARMS[arm].method not in arms.TRAINED


def _readings(cells: Cells) -> dict[str, float]:
    """The share of right answers by each reading of them."""
    found = [result["summary"]["accuracy"] for result in cells.results]
    if not found:
        return {}
    return {name: sum(f[name]["count"] for f in found) / sum(f[name]["n"] for f in found) for name in found[0]}


def _arm_report(arm: str, size: int, cells: Cells, titles: dict[str, str]) -> dict[str, Any]:
    share = share_of(cells.verdicts) if cells.verdicts else None
    return {
        "arm": arm,
        "title": titles[arm],
        "size": size,
        "trained": not _is_prompted(arm),
        "readings": _readings(cells),
        "share": vars(share) if share else None,
        "seeds": cells.seeds,
        "once": cells.once,
        "verdicts": [[int(right) for right in row] for row in cells.verdicts],
        "results": [{k: v for k, v in r.items() if k != "summary"} for r in cells.results],
        "failed": {str(seed): why for seed, why in cells.failed.items()},
    }


def _contrast_report(contrast: Contrast) -> dict[str, Any]:
    return {**vars(contrast), "gap": vars(contrast.gap), "told": contrast.told}


def _contrast_line(contrast: Contrast, titles: dict[str, str]) -> str:
    told = "" if contrast.told else ", no difference can be told"
    return (
        f"{titles[contrast.ours]} against {titles[contrast.theirs]}, {contrast.size} examples: {contrast.gap}, "
        f"p {contrast.corrected:.2g} corrected ({contrast.wins} won, {contrast.losses} lost){told}."
    )
