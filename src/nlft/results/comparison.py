"""Compute rates of right answers, planned differences and a verdict from a grid of arms, sizes and seeds."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb
from typing import Any, Literal

from nlft.results.clusters import Clusters
from nlft.results.collateral import Breach, Figures
from nlft.results.components import paired_gaps
from nlft.results.front import ArmKL, Front, KLRows, front
from nlft.results.power import Needed, needed
from nlft.results.stats import Difference, can_tell, clustered_wilson, holm, interval_of, seeded_difference

ALPHA = 0.05
WORTH_HAVING = 0.03


@dataclass(frozen=True)
class Cells:
    """One arm at one size.

    Attributes:
        verdicts: (seeds, questions), whether each question was answered right. All cells have the same questions in
            the same order.
        results: the costs of each cell: `train_seconds`, `peak_memory_bytes`, `num_tokens`, ...
        failed: each seed without a result, and the reason.
        seeds: the seed of each row of `verdicts`. None: there is one row, which is used for every seed.
        once: whether the plan gives this arm only one seed.
        collateral: what the training changed besides its aim, over all seeds, by set of prompts; None if not measured.
        broken: the bounds of collateral that this breaks.
        kl: the KL to base on the task of each scored reply, for each row of `verdicts`; None if not measured.
        clusters, kl_clusters: which questions, and which scored replies, belong together; None: they are independent.
        trained: whether the arm trains; None: every arm but the base does.
    """

    verdicts: Sequence[Sequence[bool]]
    results: Sequence[Mapping[str, Any]]
    failed: Mapping[int, str]
    seeds: Sequence[int] | None = None
    once: bool = False
    collateral: Mapping[str, Figures] | None = None
    broken: tuple[Breach, ...] = ()
    kl: KLRows | None = None
    clusters: Clusters | None = None
    kl_clusters: Clusters | None = None
    trained: bool | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Rate:
    """A rate of right answers with its 95% interval.

    For one seed, this is Wilson's interval, see `clustered_wilson`. For several, it is the t interval over seeds and
    questions of `seeded_difference`.
    """

    value: float
    low: float
    high: float
    seeds: int = 1

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True)
class Contrast:
    """One comparison that was fixed before the run.

    Attributes:
        corrected: the p-value after Holm's correction for all comparisons of the grid.
        wins: number of (seed, question) pairs that only `ours` answered right.
        losses: number of (seed, question) pairs that only `theirs` answered right.
    """

    size: int
    ours: str
    theirs: str
    gap: Difference
    corrected: float
    wins: int
    losses: int

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after correction. On two seeds, none is."""
        return self.corrected < ALPHA and can_tell(self.gap.seeds)


Grid = Mapping[tuple[str, int], Cells]
"""A mapping from (arm, size) to the cells. The prompted base is repeated under every size."""


def rate_of(verdicts: Sequence[Sequence[bool]], clusters: Clusters | None = None) -> Rate:
    """Return the rate of right answers over all seeds."""
    if len({tuple(row) for row in verdicts}) == 1:
        proportion = clustered_wilson(verdicts[0], clusters)
        return Rate(proportion.value, proportion.low, proportion.high, len(verdicts))
    gap = seeded_difference(verdicts, [[False] * len(verdicts[0])], clusters=clusters)
    return Rate(gap.value, max(0.0, gap.low), gap.high, len(verdicts))


def rate_note(arm: str, cells: Cells) -> str:
    """Return what the interval of an arm's rate is of, to stand beside it. Empty for one draw of untrained answers."""
    if cells.seeds is None or not cells.verdicts:
        return ""
    count = len(cells.verdicts)
    if count > 1:
        return f"on {count} seeds"
    return interval_of(1) if _is_trained(arm, cells) else ""


def _is_trained(arm: str, cells: Cells) -> bool:
    return arm != "base" if cells.trained is None else cells.trained


def _difference(grid: Grid, ours: str, theirs: str, size: int) -> Difference | None:
    """Return the difference of two arms on the seeds that both have. Return None if they share none."""
    rows = paired(grid[ours, size], grid[theirs, size])
    if rows is None:
        return None
    gap = seeded_difference(*rows, clusters=grid[ours, size].clusters)
    untrained = gap.seeds == 1 and not any(_is_trained(arm, grid[arm, size]) for arm in (ours, theirs))
    return replace(gap, seeds=0) if untrained else gap


def contrasts(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """Compare each pair of arms at each size, on the seeds that both arms have.

    P-values are corrected for all planned comparisons. A comparison that could not be made (`unmade`) counts with a
    p-value of 1, so that a failed cell does not make the other comparisons more significant.
    """
    made = []
    for size, ours, theirs in _planned(grid, pairs):
        rows, gap = paired(grid[ours, size], grid[theirs, size]), _difference(grid, ours, theirs, size)
        if rows is None or gap is None:
            continue
        gaps = paired_gaps(*rows)
        made.append(Contrast(size, ours, theirs, gap, 1.0, int((gaps > 0).sum()), int((gaps < 0).sum())))
    lacking = [1.0] * len(unmade(grid, pairs))
    corrected = holm([*(contrast.gap.p_value or 0.0 for contrast in made), *lacking])
    return [replace(contrast, corrected=p) for contrast, p in zip(made, corrected, strict=False)]


def unmade(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    """Return (size, ours, theirs) of each planned comparison that cannot be made for lack of a common seed."""
    return [at for at in _planned(grid, pairs) if paired(grid[at[1], at[0]], grid[at[2], at[0]]) is None]


def _planned(grid: Grid, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, str, str]]:
    sizes = sorted({size for _, size in grid})
    return [(size, *pair) for size in sizes for pair in pairs if all((arm, size) in grid for arm in pair)]


def paired(a: Cells, b: Cells) -> tuple[list[Sequence[bool]], list[Sequence[bool]]] | None:
    """Return the two arms' right/wrong results for the seeds that they share, or None if they share none."""
    if a.seeds is None or b.seeds is None:
        rows = (list(a.verdicts), list(b.verdicts))
    else:
        common = [seed for seed in a.seeds if seed in b.seeds]
        rows = (
            [a.verdicts[a.seeds.index(seed)] for seed in common],
            [b.verdicts[b.seeds.index(seed)] for seed in common],
        )
    return rows if all(rows) else None


VerdictKind = Literal[
    "train",  # the best method beats the best prompt
    "do_not_train",  # no method beats the best prompt, and for the best one a gain worth having is ruled out
    "unfinished",  # as `do_not_train`, but a method that cannot be the best one beats that prompt
    "more_seeds",
    "more_questions",
    "too_close",  # enough questions and seeds for the gap that matters, and still no significant one
    "out_of_bounds",  # every trained method breaks a bound of collateral
    "no_arms",  # a trained method or a prompt has no result
    "no_common_seed",
    "nothing_graded",
]


@dataclass(frozen=True)
class Verdict:
    """The recommendation of a comparison at its largest size.

    Attributes:
        best: the trained arm with the most right answers, among those that can be recommended, see `verdict`.
        prompt: the prompted arm that `best` has to beat.
        rates: rates of right answers of `best` and `prompt`, by arm.
        gap: the difference `best` minus `prompt`.
        planned: whether that comparison was fixed before the run.
        cluster: the field of the questions by which intervals are made; None: each question is independent.
        worthwhile: the gap that `needed` is computed for, as a fraction.
        needed: the questions and seeds that would show a gap of `worthwhile` in four runs of five; None if the gap is
            decided.
        questions: number of test questions.
        seeds, failed_seeds: numbers of seeds of `best` with a result and without one.
        rivals: trained arms that do not differ significantly from `best`.
        better: trained arms that are significantly above `best`, but were run on only one seed or failed on some seeds.
        above: trained arms that are significantly above `prompt`, except `best` and those in `excluded`. Empty if
            `kind` is `train`.
        missing: trained arms without a result to compare.
        excluded: arms that cannot be recommended, and the bounds of collateral that each breaks.
        front: the arms by violations and KL together, without the excluded ones; None if no KL was measured.
    """

    kind: VerdictKind
    best: str | None = None
    prompt: str | None = None
    rates: Mapping[str, Rate] = field(default_factory=dict)
    gap: Difference | None = None
    planned: bool = True
    worthwhile: float | None = None
    needed: Needed | None = None
    questions: int = 0
    seeds: int = 0
    failed_seeds: int = 0
    rivals: tuple[str, ...] = ()
    better: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    excluded: Mapping[str, tuple[Breach, ...]] = field(default_factory=dict)
    front: Front | None = None
    cluster: str | None = None


def verdict(grid: Grid, made: Sequence[Contrast], prompted: Collection[str], lacking: int = 0) -> Verdict:
    """Decide which method to recommend at the largest size.

    A method is worth its training only if it beats the best prompt. A comparison that was not planned is corrected for
    all pairs of arms, because the best arm is chosen after the fact. An arm that the plan gave only one seed, or that
    failed on some seeds, is recommended only if there are no other arms. Such an arm can still be listed in `better`
    and `above`. If it beats the best prompt, the verdict is never that no method does.
    On two seeds, no difference is significant, so none is recommended.
    An arm that breaks a bound of collateral is never recommended. Where KL was measured, an arm that another one beats
    by violations and KL together is recommended only if that is so for all trained arms.

    Args:
        made: the planned comparisons that could be made.
        prompted: arms that train nothing.
        lacking: number of planned comparisons that could not be made.
    """
    size = max(size for _, size in grid)
    excluded = {arm: c.broken for (arm, at), c in grid.items() if at == size and c.broken and c.verdicts}
    both = _front(grid, made, prompted, size, excluded)
    out = {*excluded, *(both.beaten if both else ())}
    return replace(_decide(grid, made, prompted, lacking, excluded, out), excluded=excluded, front=both)


def _front(
    grid: Grid, made: Sequence[Contrast], prompted: Collection[str], size: int, excluded: Collection[str]
) -> Front | None:
    """Compare the arms by violations and KL together. Return None if no KL was measured."""
    every = {arm: c for (arm, at), c in grid.items() if at == size and c.verdicts}
    known = {
        arm: ArmKL(c.kl, c.seeds, c.kl_clusters) for arm, c in every.items() if c.kl and c.seeds and arm not in prompted
    }
    if not known:
        return None
    cells = {arm: c for arm, c in every.items() if arm not in excluded}
    measured = {arm: kl for arm, kl in known.items() if arm in cells}

    def fewer(ours: str, theirs: str) -> bool:
        return paired(cells[ours], cells[theirs]) is not None and _better(grid, made, ours, theirs, size)

    lacking = [arm for arm in cells if arm not in measured and arm not in prompted]
    return front([arm for arm in cells if arm in prompted], measured, fewer, lacking)


def _decide(
    grid: Grid,
    made: Sequence[Contrast],
    prompted: Collection[str],
    lacking: int,
    excluded: Collection[str],
    out: Collection[str],
) -> Verdict:
    """Decide without the arms in `out`, unless no trained arm is left: those excluded, and those that others beat."""
    size = max(size for _, size in grid)
    if not any(c.verdicts for c in grid.values()) and any(c.results for c in grid.values()):
        return Verdict("nothing_graded")
    cells = {arm: c for (arm, at), c in grid.items() if at == size and c.verdicts}
    rates = {arm: rate_of(c.verdicts, c.clusters) for arm, c in cells.items()}
    prompts = [arm for arm in rates if arm in prompted and arm not in excluded]
    trained = [arm for arm in rates if arm not in prompted]
    if not trained or not prompts:
        return Verdict("no_arms")
    best = max(_candidates(trained, cells, excluded, out), key=lambda arm: rates[arm].value)
    reachable = [arm for arm in prompts if paired(cells[best], cells[arm])]
    if not reachable:
        return Verdict("no_common_seed", best=best)
    prompt = max(reachable, key=lambda arm: rates[arm].value)
    gap = _gap(grid, made, best, prompt, size)
    planned = any({c.ours, c.theirs} == {best, prompt} and c.size == size for c in made)
    base = Verdict(
        "do_not_train",
        best=best,
        prompt=prompt,
        rates={arm: rates[arm] for arm in (best, prompt)},
        gap=gap,
        planned=planned,
        questions=len(cells[best].verdicts[0]),
        seeds=len(cells[best].verdicts),
        failed_seeds=len(cells[best].failed),
        cluster=by.field if (by := cells[best].clusters) else None,
    )
    base = _with_other_arms(base, grid, made, size, {*prompted, *out})
    if gap.value > 0 and best not in excluded and _better(grid, made, best, prompt, size):
        return replace(base, kind="train")
    reached = [arm for arm in trained if arm not in (best, *excluded) and paired(cells[arm], cells[prompt])]
    base = replace(base, above=tuple(arm for arm in reached if _better(grid, made, arm, prompt, size)))
    if gap.value <= 0 and gap.high < WORTH_HAVING:
        return replace(base, kind="unfinished") if base.above else base
    if best in excluded:
        return replace(base, kind="out_of_bounds")
    return _undecided(base, grid, size, len(made) + lacking if planned else _pairs(grid, size))


def _candidates(
    trained: Sequence[str], cells: Mapping[str, Cells], excluded: Collection[str], out: Collection[str]
) -> list[str]:
    """Return the trained arms from which the best is chosen: the first of these groups that has an arm.

    Args:
        excluded, out: see `_decide`.
    """
    several = [arm for arm in trained if not cells[arm].once]
    groups = (
        [arm for arm in several if arm not in out and not cells[arm].failed],
        [arm for arm in several if arm not in out],
        [arm for arm in several if arm not in excluded],
        [arm for arm in trained if arm not in excluded],
    )
    return next((group for group in groups if group), list(trained))


def _undecided(base: Verdict, grid: Grid, size: int, tests: int) -> Verdict:
    """Return a verdict without a significant difference, and compute the questions and seeds that would show one."""
    assert base.best is not None
    assert base.prompt is not None
    assert base.gap is not None
    rows = paired(grid[base.best, size], grid[base.prompt, size])
    assert rows is not None, "the gap was worked out from them"
    worthwhile = max(abs(base.gap.value), WORTH_HAVING)
    take = needed(*rows, worthwhile, tests=tests, clusters=grid[base.best, size].clusters)
    kind: VerdictKind = "more_seeds" if take.seeds else "more_questions"
    if not take.seeds and take.questions <= base.questions:
        kind = "too_close"
    return replace(base, kind=kind, worthwhile=worthwhile, needed=take)


def _with_other_arms(
    decided: Verdict, grid: Grid, made: Sequence[Contrast], size: int, without: Collection[str]
) -> Verdict:
    """Add to the verdict how the other arms compare with the best one, except the arms in `without`."""
    best = decided.best
    assert best is not None
    others = [arm for (arm, at), _ in grid.items() if at == size and arm != best and arm not in without]
    compared = [arm for arm in others if paired(grid[best, size], grid[arm, size])]
    better = tuple(arm for arm in compared if _better(grid, made, arm, best, size))
    rivals = tuple(arm for arm in compared if arm not in better and not _better(grid, made, best, arm, size))
    missing = tuple(arm for arm in others if arm not in compared)
    return replace(decided, rivals=rivals, better=better, missing=missing)


def _better(grid: Grid, made: Sequence[Contrast], ours: str, theirs: str, size: int) -> bool:
    """Return whether `ours` is significantly above `theirs`.

    The p-value is corrected for the planned comparisons. If this comparison was not planned, it is corrected for all
    pairs.
    """
    for contrast in made:
        if contrast.size == size and (contrast.ours, contrast.theirs) == (ours, theirs):
            return contrast.significant and contrast.gap.value > 0
        if contrast.size == size and (contrast.theirs, contrast.ours) == (ours, theirs):
            return contrast.significant and contrast.gap.value < 0
    gap = _gap(grid, made, ours, theirs, size)
    return gap.value > 0 and can_tell(gap.seeds) and (gap.p_value or 0.0) * _pairs(grid, size) < ALPHA


def _pairs(grid: Grid, size: int) -> int:
    """Return how many pairs of arms have a result at the size."""
    return comb(sum(at == size and bool(cells.verdicts) for (_, at), cells in grid.items()), 2)


def _gap(grid: Grid, made: Sequence[Contrast], ours: str, theirs: str, size: int) -> Difference:
    for contrast in made:
        if (contrast.ours, contrast.theirs, contrast.size) == (ours, theirs, size):
            return contrast.gap
    gap = _difference(grid, ours, theirs, size)
    if gap is None:
        raise ValueError(f"{ours} and {theirs} have no seed in common")
    return gap
