"""`nlft compare`: compare methods × sizes × seeds on the same examples, prompt, budget and grader."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

from nlft.core.prompts import fill_prompt
from nlft.data.build import question_of
from nlft.data.records import Example, Question, read_examples
from nlft.errors import UserError, display_path
from nlft.experiments import stages
from nlft.experiments.cells import Cell
from nlft.experiments.grid import Comparison
from nlft.experiments.inputs import StageRecord
from nlft.experiments.on_ray import run_on_ray
from nlft.experiments.settings import CompareSettings
from nlft.experiments.stages import write_rows
from nlft.files import read_json, write_whole
from nlft.models.settings import ExecutorSettings
from nlft.progress import table
from nlft.results.comparison_report import contrast_lines
from nlft.results.comparison_tables import grid_table


class Compare(Comparison):
    """A comparison of methods × sizes × seeds, on folds if there is no test file.

    After a result the grid may grow, but not shrink.
    """

    settings: CompareSettings
    report_name = "compare.json"
    # `cluster` only says how the same answers are counted.
    may_change = (
        "arms",
        "comparisons",
        "sizes",
        "seeds",
        "once",
        "extra_arms",
        "jobs",
        "cluster",
        "second_checks",
        *ExecutorSettings.rare,
    )

    def work(self) -> str:
        """Run all stages and cells that are not done yet. Return the tables and the verdict."""
        self.record_settings()
        self._refuse_less()
        first, *rest = self.data_stages()
        whole = (*first[:2], partial(stages.split_stage, self.folder, self.job(), hold_out=False))
        title, done, sample = rest[0]
        self.run_stages(
            [
                whole,
                (title, done, partial(self._if_enough_rows, sample)),
                *rest[1:],
                *self.audit_stages(),
                *self.revised_stages(),
            ]
        )
        self._draw()
        self.run_cells()
        return self._finish()

    # The plan

    @cached_property
    def sizes(self) -> list[int]:
        """Numbers of training examples, in order.

        The default is two sizes: the number of examples that every fold has, and half of that.
        """
        if self.settings.sizes:
            return sorted(self.settings.sizes)
        most = min(len(self._fold(fold)[0]) for fold in range(self.folds()))
        if not most:
            raise self._too_few(1, 0)
        return sorted({max(1, most // 2), most})

    @property
    def seeds(self) -> list[int]:
        """The seeds that draw examples and train."""
        return self.settings.seeds

    @property
    def jobs(self) -> int:
        """Cells to run in parallel."""
        return self.settings.jobs

    def run_cells(self) -> None:
        """Run every cell that is not done yet, in processes of this machine or as tasks of Ray.

        Raises:
            UserError: test questions lack the field that `cluster` names, or Ray is not installed.
        """
        if self.settings.executor == "local":
            super().run_cells()
            return
        self.clusters()
        titles = dict(self._new_cells())
        if not titles:
            return
        for cell, title in titles.items():
            self._note_start(cell, title)

        def ended(cell: Cell, why: str | None, seconds: float) -> None:
            self._note_end(cell, titles[cell], why, seconds)

        cpus, gpus = self.settings.ray_cpus, self.settings.ray_gpus
        run_on_ray(list(titles), self.folder, self.job(), self.prompt_template(), ended, cpus=cpus, gpus=gpus)

    def folds(self) -> int:
        """Number of cross-validation folds; 1 if there is a test file."""
        return 1 if self.settings.test_file else self.settings.folds

    def pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons that are fixed before the run."""
        return self.settings.pairs()

    def planned(self, arm: str, size: int, seed: int) -> bool:
        """Return whether the grid has that cell. A finished cell stays in the grid when the grid grows."""
        if arm == "base":
            return (size, seed) == self.base_at()
        if arm not in self.settings.once or (size, seed) == (max(self.sizes), self.seeds[0]):
            return True
        return self._done(arm, size, seed)

    def base_at(self) -> tuple[int, int]:
        """Return a size and seed for the cell of the prompted base, whose result depends on neither.

        They are those of a finished cell of the base, else the first size and seed.
        """
        places = [(size, seed) for size in self.sizes for seed in self.seeds]
        return next((place for place in places if self._done("base", *place)), places[0])

    def cell_folder(self, size: int, seed: int, fold: int) -> str:
        """Return the folder of a cell's examples and runs, relative to the comparison's folder."""
        return f"cells/size-{size}/seed-{seed}/fold-{fold}"

    def prompt_template(self) -> str:
        """Return the template with which the test questions of the cells are asked."""
        # The questions of a fold hold their prompts as they were asked.
        return self.settings.prompt_template if self.settings.test_file else "{prompt}"

    def cell_title(self, cell: Cell) -> str:
        """Return a title for the cell."""
        fold = f", fold {cell.fold}" if cell.fold else ""
        return f"{self.titles[cell.arm]}, {cell.size} examples, seed {cell.seed}{fold}"

    def _done(self, arm: str, size: int, seed: int) -> bool:
        folders = [self.folder / self.cell_folder(size, seed, fold) for fold in range(self.folds())]
        return all((folder / arm / "result.json").exists() for folder in folders)

    def _runs_once(self, arm: str, done: list[int], failed: dict[int, str]) -> bool:
        return arm in self.settings.once and len(done) + len(failed) < len(self.seeds)

    # The extent of the result

    def _refuse_less(self) -> None:
        """Refuse to remove anything from a result: a user who has seen the result must not choose which parts stay.

        Raises:
            UserError: something was removed.
        """
        before = self._record()["of"]
        now = self._extent() if before else {}
        gone = {name: [x for x in there if x not in now[name]] for name, there in before.items()}
        if any(gone.values()):
            named = "; ".join(f"{name} {' '.join(map(str, left))}" for name, left in gone.items() if left)
            raise UserError(
                f"{display_path(self.folder)}: has a result, so nothing may be removed from it ({named}).\n"
                "  Add to it, or choose another --output_dir."
            )

    def _extent(self) -> dict[str, list[Any]]:
        """Return the arms, sizes, seeds and comparisons of the result, and the field that its intervals count."""
        arms = self.settings.arms
        return {
            "arms": arms,
            "arms with every seed": [arm for arm in arms if arm not in self.settings.once],
            "sizes": self.sizes,
            "seeds": self.seeds,
            "cluster": [self.settings.cluster] if self.settings.cluster else [],
            "comparisons": [f"{ours}:{theirs}" for ours, theirs in self.pairs()],
        }

    def _record(self) -> dict[str, Any]:
        """Return the recorded extent of the result.

        `of` is the extent of the last result. `added` holds what was added to it after the first result. Both are empty
        before the first result.
        """
        path = self.folder / "extent.json"
        record: dict[str, Any] = {"of": {}, "added": {}}
        if path.exists():
            record = {**record, **read_json(path, "remove it if no arm, size or seed was taken away since the result")}
        if not all(isinstance(record[name], dict) for name in ("of", "added")):
            raise UserError(f"{display_path(path)}: is not as nlft wrote it.\n  Choose another --output_dir.")
        if record["of"]:  # older results lack these
            record["of"].setdefault("cluster", [])
            record["of"].setdefault("comparisons", self._compared())
        return record

    def _compared(self) -> list[str]:
        """Return the comparisons of the last result, from its report."""
        path = self.folder / self.report_name
        report = read_json(path, "remove it, and the comparison writes it again") if path.exists() else {}
        return [f"{one['ours']}:{one['theirs']}" for one in report.get("contrasts", [])]

    def _grown(self) -> dict[str, list[Any]]:
        """Record the extent of the result. Return the additions since the first result."""
        before, now = self._record(), self._extent()
        added = before["added"]
        for name, there in before["of"].items():
            added[name] = [*added.get(name, []), *(x for x in now[name] if x not in there)]
        added = {name: new for name, new in added.items() if new}
        write_whole(self.folder / "extent.json", json.dumps({"of": now, "added": added}, indent=1).encode())
        return added

    # Examples and questions of the cells

    def _if_enough_rows(self, sample: Callable[[], None]) -> None:
        """Sample, unless there are too few questions for the largest size.

        Raises:
            UserError: there are too few questions.
        """
        rows = (self.folder / "train.jsonl").read_bytes().count(b"\n")
        if not self.settings.test_file:
            rows -= rows // self.settings.folds
        if not stages.holds_examples(self.file):
            rows *= self.settings.samples_per_question
        if max(self.settings.sizes, default=0) > rows:
            raise self._too_few(max(self.settings.sizes), rows)
        sample()

    def _too_few(self, size: int, there: int) -> UserError:
        folds = "" if self.settings.test_file else f", because one of {self.settings.folds} folds is for testing"
        return UserError(
            f"--sizes {size}: there are only {there} examples to train on{folds}.\n"
            "  Remove that size, or start again with more examples and another --output_dir."
        )

    def _draw(self) -> None:
        """Write each cell's examples and test questions. A larger size contains the examples of the smaller ones.

        Raises:
            UserError: there are too few examples for the largest size.
        """
        for fold in range(self.folds()):
            train, test = self._fold(fold)
            for seed in self.seeds:
                drawn = list(train)
                Random(seed).shuffle(drawn)
                for size in self.sizes:
                    if size > len(drawn):
                        raise self._too_few(size, len(drawn))
                    folder = self.folder / self.cell_folder(size, seed, fold)
                    self._write_drawn(folder, "examples.jsonl", drawn[:size])
                    self._write_drawn(folder, "test.jsonl", test)

    def _write_drawn(self, folder: Path, name: str, items: list[Example] | list[Question]) -> None:
        """Write a cell's file, unless the user edited it."""
        record = StageRecord(folder)
        if record.state(name)[0] == "edited":
            print(f"{display_path(folder / name)} was edited; going on from it", file=sys.stderr)
            return
        write_rows(folder / name, items)
        record.record(name, {})

    def _fold(self, fold: int) -> tuple[list[Example], list[Question]]:
        """Return the examples to train on and the questions to test on, for one fold.

        Folds split the questions, not the completions. All questions of the file are test questions, also the questions
        whose answers the dataset left out. The reason is that the left-out answers depend on how well the model
        answered.

        Raises:
            UserError: the test file and the training examples share questions, or there are fewer questions than folds.
        """
        examples = read_examples(self.folder / "examples.jsonl")
        questions = stages.read_test(self.folder)
        if self.settings.test_file:
            self._refuse_shared(examples, questions)
            return examples, questions
        template = "{prompt}" if stages.holds_examples(self.file) else self.settings.prompt_template
        asked = {
            question_of(q): q for q in (replace(q, prompt=fill_prompt(q.prompt, template)) for q in reversed(questions))
        }
        groups = sorted(asked)
        if len(groups) < self.settings.folds:
            raise UserError(
                f"{self.file}: has {len(groups)} questions, fewer than --folds {self.settings.folds}.\n"
                "  Give more questions, or set fewer --folds."
            )
        Random(self.settings.seed).shuffle(groups)
        held_out = groups[fold :: self.settings.folds]
        out = set(held_out)
        return [e for e in examples if question_of(e) not in out], [asked[group] for group in held_out]

    def _refuse_shared(self, examples: list[Example], questions: list[Question]) -> None:
        """Refuse test questions that are also training questions.

        The test questions are compared both as the test file has them and as the model is asked them.

        Raises:
            UserError: there are such questions.
        """
        trained = {question_of(example) for example in examples}
        templates = {"{prompt}", self.settings.prompt_template}
        shared = sum(
            any(question_of(replace(q, prompt=fill_prompt(q.prompt, template))) in trained for template in templates)
            for q in questions
        )
        if shared:
            raise UserError(
                f"{shared} of the questions in --test_file are also training questions.\n"
                "  Remove them from one of the two files."
            )

    # The report

    def _finish(self) -> str:
        """Write the report, and return it as text for the terminal."""
        grid = self.grid()
        report = self.report(grid, grown=self._grown(), asked=self._asked(), **self.second(grid))
        figures, shown = self.write(report)
        shown_table = grid_table(grid, self.titles)
        paths = [f"every figure: {display_path(figures)}", f"page: {display_path(shown)}"]
        return "\n".join(
            [
                "",
                table(shown_table.rows, shown_table.head),
                *self.collateral_lines(grid),
                *self.plane_lines(report),
                *self.second_lines(report),
                "",
                *contrast_lines(report),
                "",
                report["verdict"],
                *report.get("both", []),
                "",
                *paths,
            ]
        )

    def _asked(self) -> list[dict[str, Any]]:
        """Return the test questions, in the order of the verdicts."""
        return [question.as_record() for questions in self.questions() for question in questions]
