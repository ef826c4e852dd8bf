"""Run the cells of a grid of arms, sizes, seeds and folds for `tune` and `compare`, and report on them."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar

from nlft import __version__
from nlft.data.records import Question
from nlft.errors import NLFTError, UserError, display_path
from nlft.experiments import revised, second, stages
from nlft.experiments.arms import Arm, record_arm
from nlft.experiments.cells import (
    Cell,
    CellResult,
    cell_result,
    collateral_of_prompt,
    run_cell,
    why_no_base,
    write_failure,
)
from nlft.experiments.inputs import Digests, cell_inputs, changed_inputs, record_cell
from nlft.experiments.rule_arms import read_rules_if
from nlft.experiments.staged import Resources, Stage, Staged, check_ended, ending_with_us, split_machine
from nlft.files import json_bytes, write_whole
from nlft.progress import table
from nlft.results.clusters import Clusters, joined, read_clusters
from nlft.results.collateral import Collateral, breaches, pooled
from nlft.results.comparison import Cells, Grid
from nlft.results.comparison_page import page
from nlft.results.comparison_plane import plane_table
from nlft.results.comparison_report import Report, comparison_report
from nlft.results.comparison_tables import collateral_notes, collateral_table, second_table
from nlft.runs.model_card import write_card
from nlft.runs.run_dir import RunDir


@dataclass(frozen=True)
class _Running:
    """A running cell, with its part of the machine and its start time (monotonic seconds)."""

    cell: Cell
    title: str
    resources: Resources
    start: float


class Comparison(Staged):
    """Arms compared in one folder, at one size and one seed unless a subclass plans more.

    A finished cell is not repeated. A failed cell is marked, and the other cells go on. A later run tries the failed
    cell again.
    """

    report_name: ClassVar[str]

    def record_settings(self) -> None:
        """Record the settings and data in the folder; see `Staged.record_settings`.

        Raises:
            UserError: collateral is asked for, but the trained arms have no base model to compare with; a dose is to be
                chosen without adapters, of which each step keeps one; or the file of rules cannot be used.
        """
        read_rules_if(self.settings.rules)
        if self.settings.choose_dose and self.model.get("use_peft") is False:
            raise UserError(
                "--choose_dose with --use_peft false: each step of the curve keeps its adapter, and there is none.\n"
                "  Leave out one of them."
            )
        why = why_no_base(self.model)
        if why and self.settings.collateral:
            raise UserError(f"--collateral: cannot be measured.\n  {why}. Leave out --collateral.")
        if why and self.settings.measures_collateral():
            print(f"collateral: not measured. {why}.", file=sys.stderr)
        super().record_settings()

    @property
    def arms(self) -> dict[str, Arm]:
        """The compared arms, by name."""
        known = self.settings.known_arms()
        return {name: known[name] for name in self.settings.arms}

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the compared arms, by name."""
        return {name: arm.title for name, arm in self.arms.items()}

    @property
    def sizes(self) -> list[int]:
        """Numbers of training examples, in order."""
        return [(self.folder / "examples.jsonl").read_bytes().count(b"\n")]

    @property
    def seeds(self) -> list[int]:
        """The seeds that draw examples and train."""
        return [self.settings.seed]

    @property
    def jobs(self) -> int:
        """Cells to run in parallel."""
        return 1

    def folds(self) -> int:
        """Number of cross-validation folds."""
        return 1

    def pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons that are fixed before the run."""
        lead = self.settings.lead
        if lead is None or self.settings.grader == "label":
            return []
        return [(lead, name) for name in self.arms if name != lead]

    def planned(self, arm: str, size: int, seed: int) -> bool:
        """Return whether the grid has that cell."""
        return True

    def base_at(self) -> tuple[int, int]:
        """Return a size and seed for the cell of the prompted base, whose result depends on neither."""
        return self.sizes[0], self.seeds[0]

    def cell_folder(self, size: int, seed: int, fold: int) -> str:
        """Return the folder of a cell's examples and runs, relative to the comparison's folder."""
        return "."

    def prompt_template(self) -> str:
        """Return the template with which the test questions of the cells are asked."""
        # Questions that were held out from a file of examples hold their prompts as they were asked.
        held_out = not self.settings.test_file and stages.holds_examples(self.folder / "train.jsonl")
        return "{prompt}" if held_out else self.settings.prompt_template

    def cell_title(self, cell: Cell) -> str:
        """Return a title for the cell."""
        return self.titles[cell.arm]

    def audit_stages(self) -> list[Stage]:
        """Return the stage of the audit, if the settings ask for it."""
        return (
            [("audit", "audit.json", self.own_process(stages.audit_stage, self.report_name))]
            if self.settings.audit
            else []
        )

    def revised_stages(self) -> list[Stage]:
        """Return the stage of the revised replies, if an arm needs them and they can be made."""
        wanted = any(arm.examples == "revised" for arm in self.arms.values())
        if not (wanted and self.settings.rules and self.settings.grader != "label"):
            return []
        return [("revised replies", revised.FILE, self.own_process(revised.revised_stage))]

    def cells(self) -> Iterator[Cell]:
        """Return all cells, the cheapest sizes first."""
        for size in self.sizes:
            for seed in self.seeds:
                for fold in range(self.folds()):
                    for arm in self.settings.arms:
                        if self.planned(arm, size, seed):
                            yield Cell(arm, size, seed, fold, self.cell_folder(size, seed, fold))

    def run_cells(self) -> None:
        """Run every cell that is not done yet, `jobs` in parallel.

        Raises:
            UserError: test questions lack the field that `cluster` names.
        """
        self.clusters()
        todo = self._new_cells()
        free, running = split_machine(self.jobs), dict[BaseProcess, _Running]()
        template = self.prompt_template() if todo else ""
        with ending_with_us(running):
            while todo or running:
                while todo and free:
                    cell, title = todo.pop(0)
                    self._note_start(cell, title)
                    resources = free.pop(0)
                    process = self.begin(resources, run_cell, template, cell)
                    running[process] = _Running(cell, title, resources, time.monotonic())
                ready = wait([process.sentinel for process in running])
                for process in [process for process in running if process.sentinel in ready]:
                    process.join()
                    ended = running.pop(process)
                    free.append(ended.resources)
                    self._mark(process, ended)

    def _note_start(self, cell: Cell, title: str) -> None:
        print(title, file=sys.stderr)
        (self.folder / cell.folder / cell.arm / "failed.json").unlink(missing_ok=True)
        record_cell(self.folder / cell.folder / cell.arm, self._inputs(cell))

    def _new_cells(self) -> list[tuple[Cell, str]]:
        """Return the cells that are still to be run, each with its title. Print the cells that are done.

        Raises:
            UserError: a cell's folder holds another definition of its arm.
        """
        cells, new, arms = list(self.cells()), [], self.arms
        for number, cell in enumerate(cells, start=1):
            out = self.folder / cell.folder / cell.arm
            record_arm(arms[cell.arm], out)
            title = f"[{number}/{len(cells)}] {self.cell_title(cell)}"
            changed = changed_inputs(out, self._inputs(cell)) if (out / "result.json").exists() else []
            if changed:
                print(f"{title}: again, because {', '.join(changed)} changed", file=sys.stderr)
                RunDir(out).clear()
                (out / "result.json").unlink()
                new.append((cell, title))
            elif (out / "result.json").exists():
                print(f"{title}: done before", file=sys.stderr)
            else:
                new.append((cell, title))
        return new

    def _inputs(self, cell: Cell) -> Digests:
        """Return the digests of what the cell reads."""
        uses_revised = self.arms[cell.arm].examples == "revised"
        return cell_inputs(self.folder / cell.folder, [self.folder / revised.FILE] if uses_revised else [])

    def _mark(self, process: BaseProcess, ended: _Running) -> None:
        why = None
        try:
            check_ended(process)
        except NLFTError as error:
            why = str(error)
        self._note_end(ended.cell, ended.title, why, time.monotonic() - ended.start)

    def _note_end(self, cell: Cell, title: str, why: str | None, seconds: float) -> None:
        """Print how a cell ended.

        Args:
            why: why it failed; None if it has a result.
        """
        run = self.folder / cell.folder / cell.arm
        if why is None:
            print(f"{title}: {seconds:.0f} s", file=sys.stderr)
            return
        if not (run / "failed.json").exists():  # killed before it could write why
            write_failure(run, why)
        print(f"{title}: failed; the other cells continue", file=sys.stderr)

    def result(self, arm: str, size: int, seed: int, fold: int) -> CellResult:
        """Return the result of one cell."""
        run = self.folder / self.cell_folder(size, seed, fold) / arm
        return cell_result(run, self.settings.extraction)

    def questions(self) -> list[list[Question]]:
        """Return the test questions of each fold, in the order of the verdicts."""
        folders = [self.cell_folder(self.sizes[0], self.seeds[0], fold) for fold in range(self.folds())]
        return [stages.read_test(self.folder / folder) for folder in folders]

    def clusters(self) -> list[Clusters]:
        """Return the clusters of each fold's test questions. Return no folds if the questions are independent.

        Raises:
            UserError: test questions lack the field that `cluster` names, or all questions belong to one cluster.
        """
        field = self.settings.cluster
        if field is None:
            return []
        folds = self.questions()
        every = read_clusters([question for questions in folds for question in questions], field)
        assert every is not None
        names = iter(every.of)
        return [Clusters(field, tuple(next(names) for _ in questions)) for questions in folds]

    def grid(self) -> Grid:
        """Return the results of all cells."""
        by = self.clusters()
        return {
            (arm, size): self._arm_cells(arm, size, by)
            for arm in self.settings.arms
            for size in self.sizes
            if arm == "base" or any(self.planned(arm, size, seed) for seed in self.seeds)
        }

    def _arm_cells(self, arm: str, size: int, by: list[Clusters]) -> Cells:
        """Return the results of an arm at one size.

        Args:
            by: the clusters of each fold's test questions, if there are any.
        """
        verdicts, took, failed, done, collateral = [], [], {}, [], []
        kl: list[tuple[tuple[float, int], ...]] = []
        kl_by: Clusters | None = None
        at = self.base_at()[0] if arm == "base" else size
        for seed in (seed for seed in self.seeds if self.planned(arm, at, seed)):
            row: list[bool] = []
            each: list[tuple[float, int]] = []
            known, counts, measured = True, list[int](), list[Collateral]()
            for fold in range(self.folds()):
                result = self.result(arm, at, seed, fold)
                if result.failed:
                    failed[seed] = result.failed
                    break
                took.append(result.took)
                beside = result.collateral or self._beside_base(arm, result, size, seed, fold)
                measured += [beside] if beside else []
                row += result.right
                scored = result.kl_each
                each, known = [*each, *(scored or ())], known and scored is not None
                counts.append(len(scored or ()))
            else:
                collateral += measured
                if row:
                    verdicts.append(row)
                    done.append(seed)
                    if known:
                        kl.append(tuple(each))
                        kl_by = joined(one.first(count) for one, count in zip(by, counts, strict=False))
        seeds, once = None if arm == "base" else done, self._runs_once(arm, done, failed)
        found = pooled(collateral).figures() if collateral else None
        broken = breaches(found, self.settings) if found else ()
        rows = tuple(kl) if kl and len(kl) == len(verdicts) else None
        kl_by, trained = kl_by if rows else None, arm != "base" and self.arms[arm].is_trained
        return Cells(verdicts, took, failed, seeds, once, found, broken, rows, joined(by), kl_by, trained)

    def _beside_base(self, arm: str, result: CellResult, size: int, seed: int, fold: int) -> Collateral | None:
        """Compare the replies of an arm that does not train with those of the base model."""
        measured = self.settings.measures_collateral() and not why_no_base(self.model)
        if arm == "base" or self.arms[arm].is_trained or not measured:
            return None
        cell = self.folder / self.cell_folder(size, seed, fold)
        return collateral_of_prompt(cell, self.result("base", *self.base_at(), fold), result)

    def _runs_once(self, arm: str, done: list[int], failed: dict[int, str]) -> bool:
        """Return whether the plan gives the arm only one seed of several."""
        return False

    def second(self, grid: Grid) -> Report:
        """Grade all replies again by the second checks, and return their rates as fields of the report.

        Return no fields if the settings name no second checks, or the base model has no result.
        """
        runs = {(arm, size): self._runs(arm, size, cells) for (arm, size), cells in grid.items() if cells.verdicts}
        base = next((found[0] for (arm, _), found in runs.items() if arm == "base"), None)
        if not self.settings.second_checks or base is None:
            return {}
        every = sorted({run for found in runs.values() for row in found for run in row})
        print("second checks", file=sys.stderr)
        self.own_process(second.second_stage, every)()
        return {"second": second.second_rows(self.folder, runs, base, joined(self.clusters()))}

    def _runs(self, arm: str, size: int, cells: Cells) -> list[list[str]]:
        """Return the run directories of the arm's results, relative to the folder: the folds of each seed."""
        places = [self.base_at()] if cells.seeds is None else [(size, seed) for seed in cells.seeds]
        return [[f"{self.cell_folder(*place, fold)}/{arm}" for fold in range(self.folds())] for place in places]

    def second_lines(self, report: Report) -> list[str]:
        """Return the table of the second checks for the terminal. Return no lines if there are none."""
        if not report.get("second"):
            return []
        shown = second_table(report["second"], self.titles, [name for name, arm in self.arms.items() if arm.is_trained])
        return ["", *table(shown.rows, shown.head).split("\n")]

    def collateral_lines(self, grid: Grid) -> list[str]:
        """Return the table of collateral for the terminal. Return no lines if nothing was measured."""
        shown = collateral_table(grid, self.titles)
        if shown is None:
            return []
        return ["", *table(shown.rows, shown.head).split("\n"), *collateral_notes(grid, self.titles)]

    def plane_lines(self, report: Report) -> list[str]:
        """Return the table of violations and KL for the terminal. Return no lines if no KL was measured."""
        if "plane" not in report:
            return []
        shown = plane_table(report["plane"], self.titles)
        return ["", *table(shown.rows, shown.head).split("\n")]

    def report(self, grid: Grid, **about: Any) -> Report:
        """Return the report of the grid.

        Args:
            about: additional fields of the report.
        """
        settings = {**self.job()["settings"], "sizes": self.sizes, "seeds": self.seeds}
        known = {"nlft": __version__, "model": self.model["model_name_or_path"], "settings": settings}
        prompted = [name for name, arm in self.arms.items() if not arm.is_trained]
        return comparison_report(grid, self.pairs(), self.titles, prompted, {**known, **about})

    def write(self, report: Report) -> list[Path]:
        """Write the report as JSON and, if anything was graded, as a page, and the cells' cards. Return the paths."""
        figures = self.folder / self.report_name
        write_whole(figures, json_bytes(report, indent=1))
        for cell in self.cells():  # their model cards quote the verdict
            run = RunDir(self.folder / cell.folder / cell.arm)
            if run.adapter_path.is_dir():
                write_card(run)
        if report["verdict_data"]["kind"] == "nothing_graded":
            return [figures]
        shown = figures.with_suffix(".html")
        others = {"Audit": "audit.html", "Saliency map": "map.html"}
        links = [(title, name) for title, name in others.items() if (self.folder / name).is_file()]
        runs = [display_path(path.parent) for path in sorted(self.folder.glob("cells/**/run.yaml"))]
        write_whole(shown, page(report, links=links, runs=runs).encode())
        return [figures, shown]
