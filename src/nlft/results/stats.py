"""Intervals and differences, with scipy behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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

    What seeds differ by is widened by sqrt(n / (n - 1)), as a draw from n seeds varies by less than seeds do. With
    fewer than about five the interval is too narrow all the same where seeds differ by more than chance (simulated: it
    holds the truth in 81 to 97 of 100 for two seeds that differ by 5 points, 91 to 98 for three), and too wide where
    they do not.

    Args:
        ours, theirs: verdicts, (seeds, questions); the same questions in the same order. Where one of them has one
            seed only (a prompted model has no other), it stands beside each of the other's.
    Returns:
        The mean difference, its percentile interval, and a p-value: the larger of the bootstrap's, twice the share of
        draws on the other side of zero, and that of a test which holds for few questions too (`symmetric_p`). Where no
        question is answered differently, the interval is that of the rule of three, 3 / n to either side.
    Raises:
        ValueError: the verdicts are not of the same questions.
    """
    gaps = paired_gaps(ours, theirs)
    mean = float(gaps.mean())
    seeds, questions = gaps.shape
    if not gaps.any():
        bound = min(1.0, 3 / questions)
        return Difference(mean, -bound, bound, 1.0)
    exact = symmetric_p(gaps, samples, seed)
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
    p_value = max(exact, 2 * min((means <= 0).mean(), (means >= 0).mean()))
    return Difference(mean, float(low), float(high), float(min(1.0, max(p_value, 2 / samples))))


def paired_gaps(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> Any:
    """(seeds, questions): 1 where ours alone are right, -1 where theirs alone are. Arguments as `seeded_difference`'s.

    Raises:
        ValueError: the verdicts are not of the same questions.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape[1] != b.shape[1] or (a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0])):
        raise ValueError(f"verdicts of shape {a.shape} and {b.shape} cannot be paired")
    return a - b


def symmetric_p(gaps: Any, samples: int, seed: int) -> float:
    """Two-sided p-value of questions that are as likely to speak for one side as for the other.

    For one seed it is McNemar's, exact. For several, each question's mean over the seeds is turned over at random,
    `samples` times. It knows of no variance between seeds; the bootstrap, in whose tail a few questions weigh too
    little, does.

    Args:
        gaps: (seeds, questions), -1, 0 or 1 each.
    """
    from scipy.stats import binomtest

    if len(gaps) == 1:
        won, lost = int((gaps > 0).sum()), int((gaps < 0).sum())
        return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0
    each = gaps.sum(0)
    each = each[each != 0]
    rng = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, samples, 1000):
        signs = 2.0 * rng.integers(0, 2, (min(1000, samples - start), len(each))) - 1
        beyond += int((np.abs(signs @ each) >= abs(each.sum()) - 1e-9).sum())
    return (1 + beyond) / (1 + samples)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for how many there are (Holm 1979), in their order."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected


@dataclass(frozen=True)
class Needed:
    """What it would take to tell a difference.

    Attributes:
        seeds: None where the seeds that there are do, or where one alone says nothing of how much they differ.
    """

    questions: int
    seeds: int | None = None


def needed(
    ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]], wanted: float, *, tests: int = 1
) -> Needed:
    """About how many test questions, and seeds, would have `seeded_difference` tell `wanted` in four runs of five.

    The variance of the difference is taken apart (two-way analysis of variance): what questions differ by shrinks with
    their number, what seeds differ by does not. Over several seeds the bootstrap counts what is neither three times
    (Owen 2007, arXiv 0712.1111), and so does this. Where seeds alone leave more than half of the doubt that is allowed,
    more of them are asked for, and both then get a half.

    Args:
        ours, theirs: as for `seeded_difference`.
        tests: for how many comparisons the p-value is corrected (Bonferroni, which is no less than Holm asks for).
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    gaps = paired_gaps(ours, theirs)
    seeds, questions = gaps.shape
    # Where all say the same, a share of 1 / questions is what may have been missed.
    of_questions = max(float(gaps.mean(0).var(ddof=1)) if questions > 1 else 1.0, 1 / questions)
    of_seeds = noise = 0.0
    if seeds > 1 and questions > 1:
        rest = gaps - gaps.mean(0) - gaps.mean(1, keepdims=True) + gaps.mean()
        noise = float((rest**2).sum()) / ((seeds - 1) * (questions - 1))
        of_seeds = max(0.0, float(gaps.mean(1).var(ddof=1)) - noise / questions)
        of_questions = max(0.0, of_questions - noise / seeds)
    alpha, beta = float(norm.ppf(1 - 0.025 / tests)), float(norm.ppf(0.8))
    enough = max(seeds, int(np.ceil(2 * of_seeds * ((alpha + beta) / wanted) ** 2)))
    counted = 3 if enough > 1 else 1

    def lacking(log_questions: float) -> float:
        of_each = np.exp(-log_questions)
        truly = of_seeds / enough + (of_questions + noise / enough) * of_each
        taken = of_seeds / enough + (of_questions + counted * noise / enough) * of_each
        return float(alpha * np.sqrt(taken) + beta * np.sqrt(truly) - wanted)

    wanted_questions = float(np.exp(brentq(lacking, np.log(1e-3), np.log(1e12))))
    return Needed(_round_up(wanted_questions), enough if enough > seeds else None)


def _round_up(count: float) -> int:
    return int(np.ceil(count / 10) * 10)
