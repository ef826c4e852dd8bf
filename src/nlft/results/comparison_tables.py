"""Make the tables of a comparison."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlft.results.collateral_report import COMPARED_HEAD, compared_lines, compared_row
from nlft.results.comparison import Cells, Grid, Rate, rate_note, rate_of
from nlft.results.evaluate import deciding_reading
from nlft.results.stats import Proportion, interval_of


@dataclass(frozen=True)
class Table:
    """A table as text, cell by cell. The first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table in Markdown, with aligned columns."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.head))]
        padded = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
        return "\n".join([padded[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *padded[1:]])


def grid_table(grid: Grid, titles: Mapping[str, str]) -> Table:
    """Make a table of arms by sizes. The costs of a training are means over its seeds."""
    sizes = sorted({size for _, size in grid})
    head = ["", *(f"{size} examples" for size in sizes), "steps", "train", "peak memory", "tokens trained"]
    rows = []
    for arm in dict.fromkeys(arm for arm, _ in grid):
        cells = [grid.get((arm, size)) for size in sizes]
        rows.append([titles[arm], *(_rate(arm, cell) for cell in cells), *_largest_costs(cells)])
    return Table(head, rows)


def arms_table(grid: Grid, titles: Mapping[str, str], extraction: str) -> Table:
    """Make a table of the arms of a comparison of one size and one seed.

    It has the rate by each reading of the answers, and the length of the answers.

    Args:
        extraction: how numbers were read when the examples were labelled.
    """
    summaries = [cells.results[0]["summary"] for cells in grid.values() if cells.results]
    if summaries and summaries[0]["answer_logp"] is not None:
        head = ["log-likelihood of answers"]
        readings: list[str] = []
    else:
        names = list(summaries[0]["accuracy"]) if summaries else []
        deciding = [deciding_reading(names, extraction)] if names else []
        readings = [*deciding, *(name for name in names if name not in deciding)]
        questions = summaries[0]["questions"] if summaries else 0
        head = [*(f"right of {questions}, {name} [95%]" for name in deciding), *readings[1:], "graded"]
    head = ["", *head, "tokens", "train", "evaluate", "peak memory"]
    rows = []
    for (arm, _), cells in grid.items():
        row = _arm_row(arm, cells, readings) if cells.results else [_reason(cells)]
        rows.append([titles[arm], *row, *[""] * (len(head) - 1 - len(row))])
    return Table(head, rows)


def collateral_table(grid: Grid, titles: Mapping[str, str]) -> Table | None:
    """Make a table of rates of right answers beside collateral, a row for each arm, size and set of prompts.

    In a change such as 98% → 97%, the first value is that of the base model. Return None if nothing was measured.
    """
    rows = [
        [titles[arm], str(size), _rate(arm, cells) if name == "task" else "", name, *compared_row(one)]
        for (arm, size), cells in grid.items()
        for name, one in (cells.collateral or {}).items()
    ]
    return Table(["", "examples", "right [95%]", "prompts", *COMPARED_HEAD], rows) if rows else None


def collateral_notes(grid: Grid, titles: Mapping[str, str]) -> list[str]:
    """Return the phrases that became commoner and the broken bounds of all arms, each as a line."""
    measured = [(titles[arm], size, cells) for (arm, size), cells in grid.items() if cells.collateral]
    return [
        line
        for title, size, cells in measured
        for line in compared_lines(title, size, cells.collateral or {}, cells.broken)
    ]


def second_table(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], trained: Collection[str] = ()) -> Table:
    """Make a table of the rates by the second checks, of the base model and of each method.

    Args:
        rows: `second` of a report.
        trained: arms that train, whose intervals over one seed are of one training.
    """

    def rate(row: Mapping[str, Any]) -> str:
        one = Rate(**row["share"])
        return f"{one} {interval_of(one.seeds if one.seeds > 1 or row['arm'] in trained else 0)}".rstrip()

    shown = [
        [
            titles[row["arm"]],
            str(row["size"]),
            row["prompts"],
            row["check"],
            f"{row['base']['value']:.1%}",
            rate(row),
        ]
        for row in rows
        if row["arm"] != "base"
    ]
    return Table(["", "examples", "prompts", "second check", "base passes", "passes [95%]"], shown)


def _arm_row(arm: str, cells: Cells, readings: Sequence[str]) -> list[str]:
    result = cells.results[0]
    summary = result["summary"]
    if not readings:
        graded = [f"{summary['answer_logp']:.3f}"]
    else:
        proportions = [Proportion(**summary["accuracy"][name]) for name in readings]
        # The file may have been made before --cluster was set; the verdicts are by the same reading.
        decided = str(rate_of(cells.verdicts, cells.clusters)) if cells.verdicts else str(proportions[0])
        graded = [f"{decided} {rate_note(arm, cells)}".rstrip(), *(f"{p.value:.1%}" for p in proportions[1:])]
        graded.append(f"{summary['graded_share'][readings[0]]:.0%}")
    return [
        *graded,
        f"{summary['mean_tokens']:.0f}",
        f"{result['train_seconds']:.0f} s",
        f"{result['evaluate_seconds']:.0f} s",
        f"{result['peak_memory_bytes'] / 2**30:.1f} GiB",
    ]


def _rate(arm: str, cells: Cells | None) -> str:
    if cells is None:
        return ""
    rate = str(rate_of(cells.verdicts, cells.clusters)) if cells.verdicts else ""
    failed = f"{len(cells.failed)} failed: {_reason(cells)}" if cells.failed else ""
    return " ".join(part for part in (rate, rate_note(arm, cells), one_seed_note(cells), failed) if part)


def _reason(cells: Cells) -> str:
    """Return on one line why the first failed seed has no result."""
    lines = next(iter(cells.failed.values()), "").split("\n")
    # Several problems begin with their number: "2 problems:".
    return next((line for line in lines if not line.endswith(":")), lines[0])[:60].replace("|", "/")


def one_seed_note(cells: Cells) -> str:
    """Return a note with the seed, if the plan gives the arm only one."""
    return f"(only seed {cells.seeds[0]})" if cells.once and cells.seeds else ""


def _largest_costs(cells: Sequence[Cells | None]) -> list[str]:
    """Return the costs of the training at the largest size with a result.

    The texts are empty for an arm that trains nothing.
    """
    results = next((cell.results for cell in reversed(cells) if cell and cell.results), [])
    return costs(results if any(r.get("num_tokens") for r in results) else [])


def costs(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return as text the mean steps, time and tokens of the trainings, and their highest peak memory.

    The texts are empty if there are no results.
    """
    if not results:
        return ["", "", "", ""]
    steps = [r["steps"] for r in results if r.get("steps") is not None]  # older results do not have them
    seconds = sum(r["train_seconds"] for r in results) / len(results)
    memory = max(r["peak_memory_bytes"] for r in results) / 2**30
    tokens = sum(r.get("num_tokens") or 0 for r in results) / len(results)
    taken = f"{sum(steps) / len(steps):.0f}" if steps else ""
    return [taken, f"{seconds:.0f} s", f"{memory:.1f} GiB", f"{tokens:,.0f}"]
