"""Intervals and differences, with scipy behind them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Proportion:
    """A share of n with its 95% Wilson interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.count / self.n if self.n else float("nan")

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def wilson(count: int, n: int) -> Proportion:
    """The share count / n with its 95% Wilson score interval (Wilson 1927), without continuity correction."""
    if n == 0:
        return Proportion(0, 0, 0.0, 1.0)
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Proportion(count, n, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with a 95% interval.

    Attributes:
        p_value: two-sided, that there is no difference; None where it was not asked for.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], *, seed: int = 0) -> Difference:
    """How much more often `ours` is right than `theirs` on the same questions, by a bootstrap over questions.

    Args:
        ours, theirs: verdicts in the same order of questions.
    """
    return seeded_difference([ours], [theirs], seed=seed)


def seeded_difference(
    ours: Sequence[Sequence[bool]],
    theirs: Sequence[Sequence[bool]],
    *,
    samples: int = 9999,
    seed: int = 0,
) -> Difference:
    """The same over several seeds: questions and seeds are drawn anew, so that the interval speaks for both.

    What seeds differ by is widened by sqrt(n / (n - 1)), as a draw from n seeds varies by less than seeds do; with
    fewer than about five the interval is too narrow all the same.

    Args:
        ours, theirs: verdicts, (seeds, questions); the same questions in the same order. Where one of them has one
            seed only (a prompted model has no other), it stands beside each of the other's.
    Returns:
        The mean difference, its percentile interval, and a p-value: twice the share of draws on the other side of
        zero (no less than 2 / `samples`). Where no question is answered differently, the interval is that of the rule
        of three, 3 / n to either side.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape[1] != b.shape[1] or (a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0])):
        raise ValueError(f"verdicts of shape {a.shape} and {b.shape} cannot be paired")
    gaps = a - b
    mean = float(gaps.mean())
    seeds, questions = gaps.shape
    if not gaps.any():
        bound = min(1.0, 3 / questions)
        return Difference(mean, -bound, bound, 1.0)
    if seeds > 1:
        gaps = gaps.mean(0) + (gaps - gaps.mean(0)) * np.sqrt(seeds / (seeds - 1))
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for start in range(0, samples, 1000):
        count = min(1000, samples - start)
        weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=count) / questions
        drawn_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds
        means[start : start + count] = ((drawn_seeds @ gaps) * weights).sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    p_value = 2 * min((means <= 0).mean(), (means >= 0).mean())
    return Difference(mean, float(low), float(high), float(min(1.0, max(p_value, 2 / samples))))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for how many there are (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected


def questions_needed(gap: Difference, questions: int, wanted: float) -> int:
    """About how many test questions it would take for a difference of `wanted` to leave zero out of its interval.

    The interval of `questions` of them shrinks with the square root of their number.
    """
    half = (gap.high - gap.low) / 2
    return int(np.ceil(questions * (half / wanted) ** 2 / 10) * 10) if half else questions
