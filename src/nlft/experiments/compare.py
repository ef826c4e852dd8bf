"""`nlft compare`: methods x sizes x seeds on the same examples, prompt, budget and grader, cell by cell."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from typing import Any

from nlft import __version__
from nlft.core.prompts import fill_prompt
from nlft.data.build import question_of
from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.errors import NLFTError, UserError, display_path
from nlft.experiments import stages
from nlft.experiments.arm_run import run_arm
from nlft.experiments.arms import record_arm
from nlft.experiments.settings import CompareSettings
from nlft.experiments.staged import Share, Staged, check, ending_with_us, shares
from nlft.experiments.stages import settings_of, write_rows
from nlft.files import write_whole
from nlft.results.comparison import Cells, Grid
from nlft.results.comparison_page import page
from nlft.results.comparison_report import report, told
from nlft.results.evaluate import deciding_reading


@dataclass(frozen=True)
class Cell:
    """One method at one size and seed, on one fold; `folder` holds its examples, and in it `arm` its run."""

    arm: str
    size: int
    seed: int
    fold: int
    folder: str

    @property
    def place(self) -> str:
        """Size, seed and fold, in words."""
        fold = f", fold {self.fold}" if self.fold else ""
        return f"{self.size} examples, seed {self.seed}{fold}"


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
    may_change = ("arms", "sizes", "seeds", "once", "extra_arms", "jobs")  # not the comparisons: fixed before the run

    def run(self) -> str:
        """Run what is not done yet; returns the tables and the verdict."""
        self.claim()
        self._refuse_less()
        first, *rest = self.data_stages()
        audit = [("audit", "audit.json", self.own_process(stages.audit))] if self.settings.audit else []
        whole = (*first[:2], partial(stages.split, self.folder, self.job(), hold_out=False))
        title, done, sample = rest[0]
        self.run_stages([whole, (title, done, partial(self._if_there_is_room, sample)), *rest[1:], *audit])
        self._draw()
        self._run_cells()
        return self._told()

    def _refuse_less(self) -> None:
        """Whoever has seen a result must not choose what stays in it.

        Raises:
            UserError: something was taken out.
        """
        before = self._record()["of"]
        now = self._extent() if before else {}
        gone = {name: [x for x in there if x not in now[name]] for name, there in before.items()}
        if any(gone.values()):
            named = "; ".join(f"{name} {' '.join(map(str, left))}" for name, left in gone.items() if left)
            raise UserError(
                f"{display_path(self.folder)}: has a result, and nothing may be taken out of it ({named}).\n"
                "  Add to it, or choose another --output_dir."
            )

    def _extent(self) -> dict[str, list[Any]]:
        """What the result is of."""
        settings = self.settings
        full = [arm for arm in settings.arms if arm not in settings.once]
        return {"arms": settings.arms, "arms with every seed": full, "sizes": self.sizes, "seeds": settings.seeds}

    def _record(self) -> dict[str, Any]:
        """`of`: what the last result was of; `added`: what has come to the first since. Both empty without a result."""
        path = self.folder / "extent.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"of": {}, "added": {}}
        return found

    def _grown(self) -> dict[str, list[Any]]:
        """Record what the result is of; returns what was added since the first."""
        before, now = self._record(), self._extent()
        added = before["added"]
        for name, there in before["of"].items():
            added[name] = [*added.get(name, []), *(x for x in now[name] if x not in there)]
        added = {name: new for name, new in added.items() if new}
        write_whole(self.folder / "extent.json", json.dumps({"of": now, "added": added}, indent=1).encode())
        return added

    def _if_there_is_room(self, sample: Callable[[], None]) -> None:
        rows = (self.folder / "train.jsonl").read_bytes().count(b"\n")
        if not self.settings.test_file:
            rows -= rows // self.settings.folds
        if not stages.holds_examples(self.file):
            rows *= self.settings.samples_per_question
        if max(self.settings.sizes, default=0) > rows:
            raise self._too_few(max(self.settings.sizes), rows)
        sample()

    def _too_few(self, size: int, there: int) -> UserError:
        folds = "" if self.settings.test_file else f", as one of {self.settings.folds} folds is tested on"
        return UserError(
            f"--sizes {size}: there are {there} examples to train on{folds}.\n"
            "  Leave that size out, or give more in another --output_dir."
        )

    @cached_property
    def sizes(self) -> list[int]:
        """Numbers of training examples, in order; where none was given, half and all of what every fold has."""
        if self.settings.sizes:
            return sorted(self.settings.sizes)
        most = min(len(self._fold(fold)[0]) for fold in range(self._folds()))
        if not most:
            raise self._too_few(1, 0)
        return sorted({max(1, most // 2), most})

    def _folds(self) -> int:
        return 1 if self.settings.test_file else self.settings.folds

    def _cells(self) -> Iterator[Cell]:
        """All cells, the cheapest sizes first. A prompted base knows neither size nor seed."""
        for size in self.sizes:
            for seed in self.settings.seeds:
                for fold in range(self._folds()):
                    folder = f"cells/size-{size}/seed-{seed}/fold-{fold}"
                    for arm in self.settings.arms:
                        if self._planned(arm, size, seed):
                            yield Cell(arm, size, seed, fold, folder)

    def _planned(self, arm: str, size: int, seed: int) -> bool:
        """Whether the grid has that cell. What is done stays in it, also if the grid has grown since."""
        if arm == "base":
            return (size, seed) == self._base_at
        if arm not in self.settings.once or (size, seed) == (max(self.sizes), self.settings.seeds[0]):
            return True
        return self._done(arm, size, seed)

    @cached_property
    def _base_at(self) -> tuple[int, int]:
        """The size and seed under which the prompted base stands."""
        places = [(size, seed) for size in self.sizes for seed in self.settings.seeds]
        return next((place for place in places if self._done("base", *place)), (self.sizes[0], self.settings.seeds[0]))

    def _done(self, arm: str, size: int, seed: int) -> bool:
        place = self.folder / f"cells/size-{size}/seed-{seed}"
        return all((place / f"fold-{fold}" / arm / "result.json").exists() for fold in range(self._folds()))

    def _draw(self) -> None:
        """Each cell's examples and test questions; a larger size holds the smaller one's examples.

        Raises:
            UserError: there are too few examples for the largest size.
        """
        for fold in range(self._folds()):
            train, test = self._fold(fold)
            for seed in self.settings.seeds:
                drawn = list(train)
                Random(seed).shuffle(drawn)
                for size in self.sizes:
                    if size > len(drawn):
                        raise self._too_few(size, len(drawn))
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
        if self.settings.test_file:
            self._refuse_shared(examples, questions)
            return examples, questions
        template = "{prompt}" if stages.holds_examples(self.file) else self.settings.prompt_template
        asked = {
            question_of(q): q for q in (replace(q, prompt=fill_prompt(q.prompt, template)) for q in reversed(questions))
        }
        groups = sorted(asked)
        if len(groups) < self.settings.folds:
            raise UserError(f"{self.file}: {len(groups)} questions make no {self.settings.folds} folds.\n  Give more.")
        Random(self.settings.seed).shuffle(groups)
        held_out = groups[fold :: self.settings.folds]
        out = set(held_out)
        return [e for e in examples if question_of(e) not in out], [asked[group] for group in held_out]

    def _refuse_shared(self, examples: list[Example], questions: list[Question]) -> None:
        """Questions are the same as they stand in the test file or as they are asked: examples hold either."""
        trained = {question_of(example) for example in examples}
        templates = {"{prompt}", self.settings.prompt_template}
        shared = sum(
            any(question_of(replace(q, prompt=fill_prompt(q.prompt, template))) in trained for template in templates)
            for q in questions
        )
        if shared:
            raise UserError(
                f"{shared} of the questions in --test_file are trained on.\n  Take them out of one of them."
            )

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
        cells, new, arms = list(self._cells()), [], self.settings.known_arms()
        for number, cell in enumerate(cells, start=1):
            out = self.folder / cell.folder / cell.arm
            record_arm(arms[cell.arm], out)
            title = f"[{number}/{len(cells)}] {arms[cell.arm].title}, {cell.place}"
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
            for size in self.sizes:
                if arm == "base" or any(self._planned(arm, size, seed) for seed in self.settings.seeds):
                    grid[arm, size] = self._arm_cells(arm, size)
        return grid

    def _arm_cells(self, arm: str, size: int) -> Cells:
        verdicts, results, failed, done = [], [], {}, []
        at = self._base_at[0] if arm == "base" else size
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
        once = arm in self.settings.once and len(done) + len(failed) < len(self.settings.seeds)
        return Cells(verdicts, results, failed, None if arm == "base" else done, once)

    def _told(self) -> str:
        grid, arms = self._grid(), self.settings.known_arms()
        titles = {name: arms[name].title for name in self.settings.arms}
        settings = {**self.job()["settings"], "sizes": self.sizes}
        about = {"nlft": __version__, "model": self.model["model_name_or_path"], "settings": settings}
        found = report(
            grid,
            self.settings.pairs(),
            titles,
            [name for name in titles if not arms[name].is_trained],
            {**about, "grown": self._grown(), "asked": self._asked()},
        )
        write_whole(self.folder / "compare.json", json.dumps(found, indent=1, ensure_ascii=False).encode())
        write_whole(self.folder / "compare.html", page(found).encode())
        paths = [f"every figure: {display_path(self.folder / 'compare.json')}",
                 f"page: {display_path(self.folder / 'compare.html')}"]  # fmt: skip
        return "\n".join([told(grid, titles, found), "", *paths])

    def _asked(self) -> list[dict[str, Any]]:
        """The test questions, in the order in which their verdicts stand."""
        place = self.folder / f"cells/size-{self.sizes[0]}/seed-{self.settings.seeds[0]}"
        questions = [read_questions(place / f"fold-{fold}" / "test.jsonl") for fold in range(self._folds())]
        return [asdict(question) for fold in questions for question in fold]


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
    run_arm(
        settings.known_arms()[cell.arm],
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
