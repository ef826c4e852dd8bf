"""What a grid of arms, sizes and seeds says: shares, differences fixed beforehand, and a verdict in one sentence."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

from nlft.results.stats import Difference, holm, needed, paired_gaps, seeded_difference, wilson

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
    """Every pair of arms at every size, on the seeds that both have.

    P-values are corrected for all that was planned: a comparison that could not be made (`unmade`) counts as one that
    shows nothing, so that a cell that fails does not make the others say more.
    """
    found = []
    for size, ours, theirs in _planned(grid, pairs):
        rows = paired(grid[ours, size], grid[theirs, size])
        if rows is None:
            continue
        gaps = paired_gaps(*rows)
        gap = seeded_difference(*rows)
        found.append(Contrast(size, ours, theirs, gap, 1.0, int((gaps > 0).sum()), int((gaps < 0).sum())))
    lacking = [1.0] * len(unmade(grid, pairs))
    corrected = holm([*(contrast.gap.p_value or 0.0 for contrast in found), *lacking])
    return [replace(contrast, corrected=p) for contrast, p in zip(found, corrected, strict=False)]


def unmade(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """(size, ours, theirs) of what was planned and cannot be compared, as the arms have no seed in common."""
    return [at for at in _planned(grid, pairs) if paired(grid[at[1], at[0]], grid[at[2], at[0]]) is None]


def _planned(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    sizes = sorted({size for _, size in grid})
    return [(size, *pair) for size in sizes for pair in pairs if all((arm, size) in grid for arm in pair)]


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


def verdict(
    grid: Grid, found: Sequence[Contrast], titles: Mapping[str, str], prompted: Collection[str], lacking: int = 0
) -> str:
    """What to do, in one sentence, at the largest size.

    A method is worth its training only if it beats the best prompt. What was not planned is corrected for all pairs of
    arms, as the best of them is chosen after the fact. Arms that the plan gave one seed, or that failed on some, are
    not recommended while there are others, but they may stand in the way.

    Args:
        prompted: arms that train nothing.
        lacking: how many comparisons were planned and could not be made.
    """
    size = max(size for _, size in grid)
    cells = {arm: c for (arm, at), c in grid.items() if at == size and c.verdicts}
    shares = {arm: share_of(c.verdicts) for arm, c in cells.items()}
    prompts = [arm for arm in shares if arm in prompted]
    trained = [arm for arm in shares if arm not in prompted and not cells[arm].once]
    if not trained or not prompts:
        return "Nothing to compare: a trained method or a prompted base is missing."
    whole = [arm for arm in trained if not cells[arm].failed] or trained
    best = max(whole, key=lambda arm: shares[arm].value)
    reachable = [arm for arm in prompts if paired(cells[best], cells[arm])]
    if not reachable:
        return "Nothing to compare: the best method and the prompts have no seed in common."
    prompt = max(reachable, key=lambda arm: shares[arm].value)
    gap = _gap(grid, found, best, prompt, size)
    planned = any((c.ours, c.theirs, c.size) == (best, prompt, size) for c in found)
    if gap.value <= 0 and gap.high < WORTH_HAVING:
        return f"No method beat prompting ({titles[prompt]}, {shares[prompt]}): don't fine-tune on this."
    if not _better(grid, found, best, prompt, size):
        tests = len(found) + lacking if planned else _pairs(grid, size)
        return f"{_too_few(grid, (best, prompt, size), gap, titles, tests)}."
    seeds = "" if not cells[best].failed else f" on {len(cells[best].verdicts)} of {_seeds(cells[best])} seeds"
    line = (
        f"Train with {titles[best]}: {shares[best]}{seeds}, {gap} over {titles[prompt]}"
        f"{'' if planned else ' (not planned)'}"
    )
    return f"{line}{_rivals(grid, found, best, size, titles, prompted)}."


def _seeds(cells: Cells) -> int:
    return len(cells.verdicts) + len(cells.failed)


def _too_few(grid: Grid, at: tuple[str, str, int], gap: Difference, titles: Mapping[str, str], tests: int) -> str:
    """That nothing can be told, and what it would take."""
    best, prompt, size = at
    rows = paired(grid[best, size], grid[prompt, size])
    assert rows is not None, "a gap was worked out from them"
    wanted = max(abs(gap.value), WORTH_HAVING)
    seeds, questions = len(grid[best, size].verdicts), len(rows[0][0])
    take = needed(*rows, wanted, tests=tests)
    told = f"{titles[best]} is {gap} over {titles[prompt]}"
    power = f"{100 * wanted:.1f} points to be told in four runs of five"
    if take.seeds:
        more = f"about {take.seeds} seeds (there are {seeds}) and {max(take.questions, questions)} test questions"
        return f"Too few seeds to tell: {told}; for {power}, you need {more}"
    if take.questions <= questions:
        return f"Too close to tell: {told}; the {questions} test questions are enough for {power}"
    more = f"about {take.questions} of them (there are {questions})"
    return f"Too few test questions to tell: {told}; for {power}, you need {more}"


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
        f"{words} {' / '.join(titles[arm] for arm in arms)}"
        for words, arms in (("it cannot be told from", alike), ("on its seed better:", above), ("no result:", missing))
        if arms
    ]
    return "; " + "; ".join(told) if told else ", and more than every other method"


def _better(grid: Grid, found: Sequence[Contrast], ours: str, theirs: str, size: int) -> bool:
    """Whether `ours` can be told from `theirs` and is above, corrected for what was planned or else for all pairs."""
    for contrast in found:
        if contrast.size == size and (contrast.ours, contrast.theirs) == (ours, theirs):
            return contrast.told and contrast.gap.value > 0
        if contrast.size == size and (contrast.theirs, contrast.ours) == (ours, theirs):
            return contrast.told and contrast.gap.value < 0
    gap = _gap(grid, found, ours, theirs, size)
    return gap.value > 0 and (gap.p_value or 0.0) * _pairs(grid, size) < ALPHA


def _pairs(grid: Grid, size: int) -> int:
    """How many pairs of arms have a result at the size."""
    return comb(sum(at == size and bool(cells.verdicts) for (_, at), cells in grid.items()), 2)


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
    head = ["", *(f"{size} examples" for size in sizes), "steps", "train", "peak memory", "tokens trained"]
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
    return " ".join([str(share_of(cells.verdicts)) if cells.verdicts else "", alone(cells), failed]).strip()


def alone(cells: Cells) -> str:
    """That the plan has one seed only for the arm, if so."""
    return f"(seed {cells.seeds[0]} alone)" if cells.once and cells.seeds else ""


def _costs(cells: Sequence[Cells | None]) -> list[str]:
    """What the training took, at the largest size that has it; nothing for what trains nothing."""
    results = next((cell.results for cell in reversed(cells) if cell and cell.results), [])
    return costs(results if any(r.get("num_tokens") for r in results) else [])


def costs(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Steps, time and tokens of the trainings, their mean, and the highest peak memory, in words; nothing for none."""
    if not results:
        return ["", "", "", ""]
    steps = [r["steps"] for r in results if r.get("steps") is not None]  # older results do not have them
    seconds = sum(r["train_seconds"] for r in results) / len(results)
    memory = max(r["peak_memory_bytes"] for r in results) / 2**30
    tokens = sum(r.get("num_tokens") or 0 for r in results) / len(results)
    taken = f"{sum(steps) / len(steps):.0f}" if steps else ""
    return [taken, f"{seconds:.0f} s", f"{memory:.1f} GiB", f"{tokens:,.0f}"]
