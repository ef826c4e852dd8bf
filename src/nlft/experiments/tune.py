"""`nlft tune`: train and compare a model, starting from a file, on a grid of one size and one seed."""

from dataclasses import asdict
from functools import partial
from typing import Any

from nlft.data.records import read_examples
from nlft.errors import display_path
from nlft.experiments import stages
from nlft.experiments.grid import Comparison
from nlft.files import read_json
from nlft.progress import table
from nlft.results.comparison import Grid
from nlft.results.comparison_report import Report, contrast_lines
from nlft.results.comparison_tables import arms_table


class Tune(Comparison):
    """Sample, judge, build, audit, train and evaluate every arm, and draw the map."""

    may_change = ("arms", "extra_arms", "cluster", "second_checks")
    report_name = "tune.json"

    def work(self) -> str:
        """Run all stages and cells that are not done yet. Return the table and the verdict.

        For the errors, see `Staged.run_stages`.
        """
        self.record_settings()
        self.run_stages([*self.data_stages(), *self.audit_stages(), *self.revised_stages()])
        self.run_cells()
        if lead := self.settings.lead:
            self.run_stages([("the saliency map", "map.html", partial(stages.export_stage, self.folder, lead))])
        return self._finish()

    def _finish(self) -> str:
        """Write the report, and return it as text for the terminal."""
        grid = self.grid()
        report = self._with_answers(self.report(grid, **self._data(), **self.second(grid)))
        notes = self._notes(report)
        says = [*contrast_lines(report), report["verdict"], *report.get("both", []), *notes]
        self.write({**report, "notes": notes, "says": says})
        shown = {
            "every answer": self.report_name,
            "page": self.report_name.replace(".json", ".html"),
            "saliency map": "map.html",
            "audit": "audit.html",
        }
        paths = [
            f"{what}: {display_path(self.folder / name)}"
            for what, name in shown.items()
            if (self.folder / name).exists()
        ]
        tables = [*self.collateral_lines(grid), *self.plane_lines(report), *self.second_lines(report)]
        return "\n".join(["", self._table(grid), *tables, "", *says, "", *paths])

    def _table(self, grid: Grid) -> str:
        shown = arms_table(grid, self.titles, self.settings.extraction)
        return table(shown.rows, shown.head)

    def _data(self) -> dict[str, Any]:
        """Return a line with the numbers of examples and of test questions."""
        examples = read_examples(self.folder / "examples.jsonl")
        return {
            "train": len(examples),
            "train_right": sum(e.label for e in examples),
            "test": len(stages.read_test(self.folder)),
        }

    def _with_answers(self, report: Report) -> Report:
        """Add each arm's definition, costs and answers to the report."""
        kept = ("id", "output", "tokens", "finish_reason", "grades", "checks")
        arms = []
        for entry in report["arms"]:
            result = self.result(entry["arm"], self.sizes[0], self.seeds[0], 0)
            answers = {"questions": [{key: answer[key] for key in kept if key in answer} for answer in result.answers]}
            arms.append(
                {**asdict(self.arms[entry["arm"]]), **result.took, **(answers if result.answers else {}), **entry}
            )
        return {**report, "arms": arms}

    def _notes(self, report: Report) -> list[str]:
        """Return notes that the user should read before using the result."""
        notes = [
            f"One model, one seed, {report['train']} examples ({report['train_right']} right), {report['test']} test "
            "questions: with another seed, a difference of a few points may change its sign."
        ]
        if (self.folder / "audit.json").exists():
            audit = read_json(self.folder / "audit.json", "remove it: the audit runs again")
            notes.append(f"Audit: {audit['summary']}")
            if ready := audit.get("preflight"):
                notes.append(f"Preflight: {ready['verdict']}: {ready['reason']}")
        lead = self.settings.lead
        if lead and (adapter := self.folder / lead / "adapter").exists():
            notes.append(f"Adapter of {self.titles[lead]}: {display_path(adapter)} (PEFT's format).")
        return notes
