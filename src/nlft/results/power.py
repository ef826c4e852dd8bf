"""How many test questions and seeds would show a difference, as a range that covers the noise of the pilot."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlft.results.clusters import Clusters
from nlft.results.components import Components, by_unit, components, paired_gaps

POWER = 0.8
TOLD_SEEDS = 3  # with fewer seeds, and more than one, nothing is significant
MOST_UNITS, MOST_SEEDS = 1e12, 10**6
GRID = 16  # mean squares of each arm's seeds that the power is averaged over
TAIL = 0.1  # chance that what is needed lies beyond either end of the range


@dataclass(frozen=True)
class Needed:
    """The numbers of test questions and seeds that would show a difference.

    Attributes:
        seeds: number of seeds. None if the present number suffices, or if there is only one seed, which does not show
            how much seeds differ.
        clusters: number of clusters that the questions belong to, at as many questions for each as now; None without
            clusters.
        fewest, most: questions at the ends of an 80% range: the variances behind `questions` are themselves estimates.
        most_seeds: seeds at the upper end of the range; None as for `seeds`. Over several seeds, the upper end is
            `most` questions on `most_seeds` seeds together.
    """

    questions: int
    seeds: int | None = None
    clusters: int | None = None
    fewest: int = 0
    most: int = 0
    most_seeds: int | None = None


@dataclass(frozen=True)
class Variances:
    """Variances of the difference: between units (questions or clusters), between seeds, and what is left.

    Attributes:
        arms: number of arms with several seeds; 0: there is one seed, and `of_units` is all the variance.
    """

    of_units: float
    of_seeds: float
    noise: float
    arms: int


def needed(
    ours: Sequence[Sequence[bool]],
    theirs: Sequence[Sequence[bool]],
    wanted: float,
    *,
    tests: int = 1,
    clusters: Clusters | None = None,
) -> Needed:
    """Estimate how many test questions and seeds make a difference of `wanted` significant in four runs of five.

    The variance between questions shrinks with the number of questions. The variance between seeds does not. If it
    takes more than half of the error budget, the function asks for more seeds, and for three at least. The power is
    that of the t interval of `seeded_difference`. The range comes from the distribution of the mean squares.

    Args:
        ours, theirs: as for `seeded_difference`.
        tests: number of comparisons that the p-value is corrected for (Bonferroni, which is never less than Holm's).
        clusters: which questions belong together. The function then counts clusters in place of questions.
    """
    paired_gaps(ours, theirs)
    a, b = by_unit(ours, clusters), by_unit(theirs, clusters)
    low, middle, high = _pilots(a, b)
    seeds, each = max(len(a), len(b)), len(ours[0]) / a.shape[1]
    found = [_take(one, seeds, wanted, 0.05 / tests) for one in (low, middle, high)]
    fewest, take, most = (_round_up(units * each) for units, _ in found)
    enough, most_seeds = (k if k > seeds else None for _, k in found[1:])
    counted = None if clusters is None else int(np.ceil(take / each))
    return Needed(take, enough, counted, min(fewest, take), max(most, take), most_seeds)


def _pilots(a: Any, b: Any) -> list[Variances]:
    """Return the variances at the lower end of their range, as estimated, and at the upper end."""
    from scipy.stats import chi2

    gaps, units = a - b, a.shape[1]
    # If all units agree, a fraction of 1 / units may have been missed.
    if len(gaps) == 1 or units == 1:
        found = max(float(gaps.mean(0).var(ddof=1)) if units > 1 else 1.0, 1 / units)
        return [Variances(found * factor, 0.0, 0.0, 0) for factor in _factors(gaps.mean(0))]
    parts = components(a, b)
    noise, total, degrees = float(parts.noise), float(sum(parts.of_seeds)), float(parts.seed_degrees)
    of_units = max(float(parts.of_units), len(gaps) / units)
    ends = (degrees / chi2.ppf(1 - TAIL, degrees), 1.0, degrees / chi2.ppf(TAIL, degrees))
    made = []
    for of_seeds, factor in zip(ends, _factors(gaps.mean(0)), strict=True):
        seed_part = max(0.0, total * of_seeds - noise) / units
        apart = max(0.0, of_units - noise) / len(gaps)
        made.append(Variances(apart * factor, seed_part, min(noise, of_units) * factor, len(parts.of_seeds)))
    return made


def _factors(each: Any) -> tuple[float, float, float]:
    """Return by how much the variance of these numbers may be too large, 1, and by how much it may be too small."""
    from scipy.stats import norm

    units, variance = len(each), float(each.var())
    if units < 2 or variance == 0:
        return 1.0, 1.0, 3.0  # of events that were not seen, three are still likely: the rule of three
    fourth = float(((each - each.mean()) ** 4).mean())
    off = np.exp(norm.ppf(1 - TAIL) * np.sqrt(max(fourth / variance**2 - 1, 2 / units) / units))
    return float(1 / off), 1.0, float(off)


def _take(variances: Variances, seeds: int, wanted: float, alpha: float) -> tuple[float, int]:
    """Return the units and seeds that show the difference in four runs of five."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    if not variances.arms:
        whole = float(norm.ppf(1 - alpha / 2) + norm.ppf(POWER))
        # An exact test of counts gives away half a question to either side: the correction for continuity.
        return variances.of_units * (whole / wanted) ** 2 + 1 / wanted, 1
    enough = _enough_seeds(variances, max(seeds, TOLD_SEEDS), wanted, alpha)

    def lacking(log_units: float) -> float:
        return power(variances, float(np.exp(log_units)), enough, wanted, alpha) - POWER

    ends = (np.log(2), np.log(MOST_UNITS))
    if lacking(ends[0]) >= 0:
        return 2.0, enough
    return float(np.exp(brentq(lacking, *ends, xtol=1e-3))) if lacking(ends[1]) > 0 else MOST_UNITS, enough


def _enough_seeds(variances: Variances, least: int, wanted: float, alpha: float) -> int:
    """Return the fewest seeds whose variance leaves half of the error budget to the questions."""
    alone = replace(variances, of_units=0.0, noise=0.0)

    def suffices(seeds: int) -> bool:
        return power(alone, MOST_UNITS, seeds, wanted / np.sqrt(2), alpha) >= POWER

    few, many = least - 1, least
    while not suffices(many) and many < MOST_SEEDS:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if suffices(middle) else (middle, many)
    return many


def power(variances: Variances, units: float, seeds: int, wanted: float, alpha: float) -> float:
    """Return how often the t interval of this many units and seeds leaves out 0 if the difference is `wanted`.

    It averages over the distribution of the mean squares of seeds. Those of units and noise count as known.
    """
    from scipy.stats import chi2, norm

    chances = (np.arange(GRID) + 0.5) / GRID
    one = chi2.ppf(chances, seeds - 1) / (seeds - 1)
    drawn = (one,) if variances.arms == 1 else tuple(x.ravel() for x in np.meshgrid(one, one))
    truly = variances.noise + units * variances.of_seeds
    of_units = variances.noise + seeds * variances.of_units
    of_seeds = tuple(truly / variances.arms * x for x in drawn)
    layout = Components(seeds, max(2, int(units)), of_units, of_seeds, variances.noise)
    error = np.sqrt(max(of_units + units * variances.of_seeds, 1e-300) / (seeds * units))
    return float(norm.cdf(wanted / error - layout.margin(alpha) / error).mean())


def _round_up(count: float) -> int:
    return int(np.ceil(count / 10) * 10)
