"""What a grid of arms, sizes and seeds says: shares, differences fixed beforehand, and a verdict in one sentence."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlft.results.stats import Difference, holm, questions_needed, seeded_difference, wilson

ALPHA = 0.05
WORTH_HAVING = 0.03


@dataclass(frozen=True)
class Cells:
    """One arm at one size.

    Attributes:
        verdicts: (seeds, questions), whether each question was answered right; the questions in one order throughout.
        results: what each seed took: `train_seconds`, `peak_memory_bytes`, `num_tokens`, ...
        failed: seeds that have no result, and why.
        seeds: whose verdicts these are, row by row; None: one row, the same for every seed.
        once: the plan has one seed only for this arm.
    """

    verdicts: Sequence[Sequence[bool]]
    results: Sequence[Mapping[str, Any]]
    failed: Mapping[int, str]
    seeds: Sequence[int] | None = None
    once: bool = False


@dataclass(frozen=True)
class Share:
    """A share of right answers with its 95% interval: Wilson's for one seed, over seeds and questions for several."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Contrast:
    """One comparison that was fixed before the run.

    Attributes:
        corrected: the p-value after Holm's correction for all comparisons of the grid.
        wins, losses: (seed, question) pairs that `ours` alone, and `theirs` alone, answered right.
    """

    size: int
    ours: str
    theirs: str
    gap: Difference
    corrected: float
    wins: int
    losses: int

    @property
    def told(self) -> bool:
        return self.corrected < ALPHA


Grid = Mapping[tuple[str, int], Cells]
"""(arm, size) -> its cells; a prompted arm stands under every size."""


def share_of(verdicts: Sequence[Sequence[bool]]) -> Share:
    """The share of right answers over all seeds."""
    if len({tuple(row) for row in verdicts}) == 1:
        found = wilson(sum(verdicts[0]), len(verdicts[0]))
        return Share(found.value, found.low, found.high)
    gap = seeded_difference(verdicts, [[False] * len(verdicts[0])])
    return Share(gap.value, gap.low, gap.high)


def contrasts(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """Every pair of arms at every size, on the seeds that both have, with p-values corrected for all of them."""
    found = []
    for size in sorted({size for _, size in grid}):
        for ours, theirs in pairs:
            a, b = grid.get((ours, size)), grid.get((theirs, size))
            rows = paired(a, b) if a and b else None
            if rows is None:
                continue
            gaps = np.asarray(rows[0], dtype=int) - np.asarray(rows[1], dtype=int)
            gap = seeded_difference(*rows)
            found.append(Contrast(size, ours, theirs, gap, 1.0, int((gaps > 0).sum()), int((gaps < 0).sum())))
    corrected = holm([contrast.gap.p_value or 0.0 for contrast in found])
    return [replace(contrast, corrected=p) for contrast, p in zip(found, corrected, strict=True)]


def paired(a: Cells, b: Cells) -> tuple[list[Sequence[bool]], list[Sequence[bool]]] | None:
    """Both arms' verdicts on the seeds that both have, or None if there are none; the table tells what is missing."""
    if a.seeds is None or b.seeds is None:
        rows = (list(a.verdicts), list(b.verdicts))
    else:
        common = [seed for seed in a.seeds if seed in b.seeds]
        rows = (
            [a.verdicts[a.seeds.index(seed)] for seed in common],
            [b.verdicts[b.seeds.index(seed)] for seed in common],
        )
    return rows if all(rows) else None


def verdict(grid: Grid, found: Sequence[Contrast], titles: Mapping[str, str], prompted: Collection[str]) -> str:
    """What to do, in one sentence, at the largest size.

    A method is worth its training only if it beats the best prompt; that test is one of the fixed comparisons, or it
    is made here and says so. Arms that the plan gave one seed are not recommended, but they may stand in the way.

    Args:
        prompted: arms that train nothing.
    """
    size = max(size for _, size in grid)
    cells = {arm: c for (arm, at), c in grid.items() if at == size and c.verdicts}
    shares = {arm: share_of(c.verdicts) for arm, c in cells.items()}
    prompts = [arm for arm in shares if arm in prompted]
    trained = [arm for arm in shares if arm not in prompted and not cells[arm].once]
    if not trained or not prompts:
        return "Nothing to compare: a trained method or a prompted base is missing."
    best = max(trained, key=lambda arm: shares[arm].value)
    reachable = [arm for arm in prompts if paired(cells[best], cells[arm])]
    if not reachable:
        return "Nothing to compare: the best method and the prompts have no seed in common."
    prompt = max(reachable, key=lambda arm: shares[arm].value)
    gap = _gap(grid, found, best, prompt, size)
    questions = len(cells[best].verdicts[0])
    if gap.value <= 0 and gap.high < WORTH_HAVING:
        return f"No method beat prompting ({titles[prompt]}, {shares[prompt]}): don't fine-tune on this."
    if not _better(grid, found, best, prompt, size):
        needed = max(questions_needed(gap, questions, max(abs(gap.value), WORTH_HAVING)), questions + 10)
        return (
            f"Too few test questions to tell: {titles[best]} is {gap} over {titles[prompt]}; "
            f"you need about {needed} (there are {questions})."
        )
    planned = any((c.ours, c.theirs, c.size) == (best, prompt, size) for c in found)
    line = (
        f"Train with {titles[best]}: {shares[best]}, {gap} over {titles[prompt]}{'' if planned else ' (not planned)'}"
    )
    return f"{line}{_rivals(grid, found, best, size, titles, prompted)}."


def _rivals(
    grid: Grid, found: Sequence[Contrast], best: str, size: int, titles: Mapping[str, str], prompted: Collection[str]
) -> str:
    """What stands beside the best method: those it cannot be told from, those that beat it, those that have no say."""
    others = [arm for (arm, at), _ in grid.items() if at == size and arm != best and arm not in prompted]
    compared = [arm for arm in others if paired(grid[best, size], grid[arm, size])]
    above = [arm for arm in compared if _better(grid, found, arm, best, size)]
    alike = [arm for arm in compared if arm not in above and not _better(grid, found, best, arm, size)]
    missing = [arm for arm in others if arm not in compared]
    told = [
        f"{words} {', '.join(titles[arm] for arm in arms)}"
        for words, arms in (("it cannot be told from", alike), ("on its seed better:", above), ("no result:", missing))
        if arms
    ]
    return "; " + "; ".join(told) if told else ", and more than every other method"


def _better(grid: Grid, found: Sequence[Contrast], ours: str, theirs: str, size: int) -> bool:
    """Whether `ours` can be told from `theirs` and is above: corrected where it was planned."""
    for contrast in found:
        if contrast.size == size and (contrast.ours, contrast.theirs) == (ours, theirs):
            return contrast.told and contrast.gap.value > 0
        if contrast.size == size and (contrast.theirs, contrast.ours) == (ours, theirs):
            return contrast.told and contrast.gap.value < 0
    return _gap(grid, found, ours, theirs, size).low > 0


def _gap(grid: Grid, found: Sequence[Contrast], ours: str, theirs: str, size: int) -> Difference:
    for contrast in found:
        if (contrast.ours, contrast.theirs, contrast.size) == (ours, theirs, size):
            return contrast.gap
    rows = paired(grid[ours, size], grid[theirs, size])
    if rows is None:
        raise ValueError(f"{ours} and {theirs} have no seed in common")
    return seeded_difference(*rows)


def table(grid: Grid, titles: Mapping[str, str]) -> str:
    """Arms by sizes, as Markdown; what a cell took is that of its seeds' mean."""
    sizes = sorted({size for _, size in grid})
    head = ["", *(f"{size} examples" for size in sizes), "train", "peak memory", "tokens trained"]
    rows = [head]
    for arm in dict.fromkeys(arm for arm, _ in grid):
        cells = [grid.get((arm, size)) for size in sizes]
        rows.append([titles[arm], *map(_shown, cells), *_costs(cells)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _shown(cells: Cells | None) -> str:
    if cells is None:
        return ""
    failed = ""
    if cells.failed:
        why = next(iter(cells.failed.values())).split("\n")[0][:60].replace("|", "/")
        failed = f"{len(cells.failed)} failed: {why}"
    few = f"(seed {cells.seeds[0]} alone)" if cells.once and cells.seeds else ""
    return " ".join([str(share_of(cells.verdicts)) if cells.verdicts else "", few, failed]).strip()


def _costs(cells: Sequence[Cells | None]) -> list[str]:
    """Time, memory and tokens of the training, at the largest size that has them; nothing for what trains nothing."""
    results = next((cell.results for cell in reversed(cells) if cell and cell.results), [])
    return costs(results if any(r.get("num_tokens") for r in results) else [])


def costs(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean time, highest peak memory and mean number of tokens of the trainings, in words; nothing for none."""
    if not results:
        return ["", "", ""]
    seconds = sum(r["train_seconds"] for r in results) / len(results)
    memory = max(r["peak_memory_bytes"] for r in results) / 2**30
    tokens = sum(r.get("num_tokens") or 0 for r in results) / len(results)
    return [f"{seconds:.0f} s", f"{memory:.1f} GiB", f"{tokens:,.0f}"]
