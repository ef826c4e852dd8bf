"""Confidence intervals and paired differences, computed with scipy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlft.results.clusters import Clusters, sums
from nlft.results.components import by_unit, components, paired_gaps


@dataclass(frozen=True)
class Proportion:
    """The rate count / n with its 95% interval: Wilson's, or that of `clustered_wilson`."""

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
    """Return the rate count / n with its 95% Wilson score interval (Wilson 1927), without continuity correction."""
    if n == 0:
        return Proportion(0, 0, 0.0, 1.0)
    from scipy.stats import binomtest

    interval = binomtest(count, n).proportion_ci(confidence_level=0.95, method="wilson")
    return Proportion(count, n, float(interval.low), float(interval.high))


def clustered_wilson(right: Sequence[bool], clusters: Clusters | None) -> Proportion:
    """Return the rate of right answers with Wilson's interval for the effective number of questions.

    The effective number is n divided by the design effect: how many times as large the variance between clusters makes
    the variance of the rate. It is multiplied by (t(n - 1) / t(clusters - 1))², as in Korn and Graubard (1998), because
    few clusters do not show their variance well. It is at most n. If all answers are right, or none, no variance can be
    seen, and the number is that of the clusters. Franco, Little, Louis and Slud (2019) recommend Wilson's interval with
    an effective number. Where each cluster has one question, and without clusters, this is `wilson`.

    Args:
        right: whether each question was answered right, in the order of the clusters.
    """
    count, n = sum(right), len(right)
    if clusters is None or clusters.count == n:
        return wilson(count, n)
    from scipy.stats import norm

    rate, effective = count / n, effective_number(np.asarray(right, dtype=float), clusters)
    z2 = float(norm.ppf(0.975)) ** 2
    middle = (rate + z2 / (2 * effective)) / (1 + z2 / effective)
    half = np.sqrt(z2 * (rate * (1 - rate) / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return Proportion(count, n, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with a 95% interval.

    Attributes:
        p_value: two-sided p-value for the null hypothesis of no difference; None if it was not computed.
        seeds: number of seeds that it is over. The interval over one seed is of that one training: it does not say how
            another training would do. 0: nothing was trained.
    """

    value: float
    low: float
    high: float
    p_value: float | None = None
    seeds: int = 1

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def interval_of(seeds: int) -> str:
    """Return what an interval over so many seeds is of, to stand beside it. Empty if nothing was trained."""
    named = {0: "", 1: "of this one training", 2: "on 2 seeds, too few for significance"}
    return named.get(seeds, f"on {seeds} seeds")


def can_tell(seeds: int) -> bool:
    """Return whether a difference over so many seeds can be significant.

    On one seed it is significant for that training alone. Two seeds promise more and cannot keep it.
    """
    return seeds != 2


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], *, seed: int = 0) -> Difference:
    """Return how much more often `ours` is right than `theirs`, with Tango's interval (1998) over questions.

    Args:
        ours, theirs: whether each question was answered right. Both hold the same questions in the same order.
    """
    return seeded_difference([ours], [theirs], seed=seed)


def seeded_difference(
    ours: Sequence[Sequence[bool]],
    theirs: Sequence[Sequence[bool]],
    *,
    clusters: Clusters | None = None,
    samples: int = 9999,
    seed: int = 0,
) -> Difference:
    """Return the difference over all seeds.

    One seed: Tango's score interval (1998) for paired proportions, with the effective number of questions of
    `effective_number` if there are clusters. It is of this one training. The p-value is that of `symmetric_p`.

    Several seeds: a t interval from the variance between questions (or clusters) and between seeds, see `Components`.
    The half width is at least 3 / n with n questions or clusters (the rule of three), so that few differences, or
    none, never look certain. The p-value is the larger of that of the same t and that of `symmetric_p`, which is valid
    also if few questions differ.

    The interval contains 0 if the p-value is 0.05 or more. If no question is answered differently, or the differences
    cancel out in every cluster, the interval is 3 / n to either side.

    Args:
        ours, theirs: whether each answer is right, (seeds, questions), for the same questions in the same order. If
            one of them has only one seed (a prompted model), it is paired with each seed of the other.
        clusters: which questions belong together; None: they are independent.
        samples, seed: of the random signs of `symmetric_p`.
    Raises:
        ValueError: `ours` and `theirs` do not hold the same questions.
    """
    gaps = paired_gaps(ours, theirs)
    mean, seeds = float(gaps.mean()), len(gaps)
    net = sums(gaps, clusters)
    least = min(1.0, 3 / net.shape[1])
    if not net.any():
        return Difference(mean, -least, least, 1.0, seeds)
    p_value = symmetric_p(gaps, samples, seed, clusters)
    if seeds == 1:
        low, high = tango(float((gaps > 0).mean()), float((gaps < 0).mean()), effective_number(gaps[0], clusters))
    else:
        margin, t_value = 1.0, 1.0
        if net.shape[1] > 1:
            margin, t_value = _t_interval(by_unit(ours, clusters), by_unit(theirs, clusters), mean)
        low, high, p_value = mean - max(margin, least), mean + max(margin, least), max(p_value, t_value)
    if p_value >= 0.05:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(mean, max(-1.0, low), min(1.0, high), float(p_value), seeds)


def _t_interval(ours: Any, theirs: Any, mean: float) -> tuple[float, float]:
    """Return half the width of the t interval of the mean difference, and its p-value.

    Args:
        ours, theirs: numbers (seeds, units).
    """
    from scipy.stats import t

    parts = components(ours, theirs)
    error = float(parts.error)
    p_value = 2 * float(t.sf(abs(mean) / error, parts.degrees)) if error else 0.0
    return float(parts.margin()), p_value


def effective_number(gaps: Any, clusters: Clusters | None) -> float:
    """Return the number of independent questions that would show the mean of the gaps as well as these do.

    `clustered_wilson` says how it is found.

    Args:
        gaps: a number for each question, (questions,): a difference, or 1 for a right answer and 0 for a wrong one.
    """
    n = len(gaps)
    if clusters is None or clusters.count == n:
        return float(n)
    from scipy.stats import t

    groups, alone = clusters.count, float(gaps.var(ddof=1))
    rest = clusters.sums((gaps - gaps.mean())[None])
    variance = groups / (groups - 1) * float((rest**2).sum()) / n**2
    if alone == 0:
        return float(groups)
    fewer = (t.ppf(0.975, n - 1) / t.ppf(0.975, groups - 1)) ** 2
    return float(n if variance == 0 else min(n, fewer * alone / variance))


def tango(won: float, lost: float, n: float) -> tuple[float, float]:
    """Return the 95% score interval of a difference between paired proportions (Tango 1998, Stat. Med. 17:891).

    Args:
        won, lost: shares of the questions that only one side answered right.
        n: number of questions, or their effective number.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, gap = float(norm.ppf(0.975)), won - lost

    def score(at: float) -> float:
        middle = -won - lost + (2 - won + lost) * at
        # The share that only theirs answer right if the difference is `at`, by maximum likelihood.
        share = (np.sqrt(max(0.0, middle**2 + 8 * lost * at * (1 - at))) - middle) / 4
        spread = np.sqrt(max(0.0, 2 * share + at * (1 - at)) / n)
        return float(abs(gap - at) - z * spread)

    low = -1.0 if gap <= -1 else brentq(score, -1, gap - 1e-12)
    high = 1.0 if gap >= 1 else brentq(score, gap + 1e-12, 1)
    return float(low), float(high)


def _resampled(each: Sequence[Any], samples: int, seed: int, clusters: Clusters | None = None) -> list[Any]:
    """Return bootstrap draws of the mean of each array, with the same replies in a draw for all arrays.

    With clusters, a draw has as many clusters as there are, and the mean is over all of their replies.

    Args:
        each: arrays (replies,).
    """
    sizes = sums(np.ones((1, len(each[0]))), clusters)[0]
    each, drawable = [sums(x[None], clusters)[0] for x in each], len(sizes)
    rng = np.random.default_rng(seed)
    means = [np.empty(samples) for _ in each]
    for start in range(0, samples, 1000):
        count = min(1000, samples - start)
        weights = rng.multinomial(drawable, np.full(drawable, 1 / drawable), size=count)
        weights = weights / (weights @ sizes)[:, None]
        for x, drawn in zip(each, means, strict=True):
            drawn[start : start + count] = weights @ x
    return means


@dataclass(frozen=True)
class Interval:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratio:
    """How many times as large one sum is as another, with a 95% interval.

    Attributes:
        p_value: two-sided p-value for the null hypothesis that the two are equal.
        seeds: as in `Difference`.
    """

    value: float
    low: float
    high: float
    p_value: float
    seeds: int = 1


def rate_per_token(
    nats: Any, tokens: Any, *, clusters: Clusters | None = None, samples: int = 9999, seed: int = 0
) -> Interval:
    """Return nats per token over all replies and seeds.

    One seed: the interval is a bootstrap over replies, or clusters. Several: it is the t interval of the logarithm,
    from the variance between replies and between seeds, as in `seeded_difference`.

    Args:
        nats, tokens: sums over each reply, (seeds, replies).
        clusters: which replies belong together; None: they are independent.
    """
    nats, tokens = np.asarray(nats, dtype=float), np.asarray(tokens, dtype=float)
    value = float(nats.sum() / max(tokens.sum(), 1))
    if len(nats) > 1 and sums(nats, clusters).shape[1] > 1:
        if not value or not tokens.any():
            return Interval(value, value, value)
        # The logarithm of a ratio varies as these sums do, to first order.
        each = nats / nats.mean() - tokens / tokens.mean()
        margin, _ = _t_interval(by_unit(each, clusters), np.zeros((1, sums(nats, clusters).shape[1])), 0.0)
        return Interval(value, value * float(np.exp(-margin)), value * float(np.exp(margin)))
    above, below = _resampled([nats.mean(0), tokens.mean(0)], samples, seed, clusters)
    some = below > 0  # a draw of replies without tokens has no rate
    if not some.any():
        return Interval(value, value, value)
    low, high = np.quantile(above[some] / below[some], [0.025, 0.975])
    return Interval(value, max(0.0, float(low)), float(high))


def paired_ratio(
    ours: Any, theirs: Any, *, clusters: Clusters | None = None, samples: int = 9999, seed: int = 0
) -> Ratio:
    """Return how many times as large `ours` is as `theirs`, in total. Both are paired by reply.

    One seed: the interval is a bootstrap over replies, and the p-value is the larger of the bootstrap's and that of
    flipping at random which side each reply's difference favours. Several: the interval and the first p-value are those
    of the t interval of the logarithm, as in `rate_per_token`. With clusters, whole clusters take the place of replies.

    Args:
        ours, theirs: nats of each reply, 0 or more, (seeds, replies). `theirs` is above 0 in total.
        clusters: which replies belong together; None: they are independent.
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    value, units = float(ours.sum() / theirs.sum()), sums(ours, clusters).shape[1]
    p_value = _flipped_p(sums((ours - theirs).sum(0, keepdims=True), clusters)[0], samples, seed)
    if len(ours) > 1 and units > 1 and value:
        a, b = (by_unit(one / one.mean(), clusters) for one in (ours, theirs))
        margin, t_value = _t_interval(a, b, float(np.log(value)))
        low, high, p_value = value * np.exp(-margin), value * np.exp(margin), max(p_value, t_value)
        if p_value >= 0.05:
            low, high = min(low, 1.0), max(high, 1.0)
        return Ratio(value, float(low), float(high), p_value, len(ours))
    above, below = _resampled([ours.mean(0), theirs.mean(0)], samples, seed, clusters)
    low, high = np.quantile(above / np.maximum(below, 1e-12), [0.025, 0.975])
    gaps = above - below
    p_value = max(p_value, 2 * min((gaps <= 0).mean(), (gaps >= 0).mean()))
    p_value = float(min(1.0, max(p_value, 2 / samples)))
    return Ratio(value, max(0.0, float(low)), float(high), p_value, len(ours))


def symmetric_p(gaps: Any, samples: int, seed: int, clusters: Clusters | None = None) -> float:
    """Return the two-sided p-value of a sign test.

    Under the null hypothesis, each question is equally likely to favour either side. With clusters, each cluster is.

    For one seed, this is McNemar's exact test. With clusters, it is the exact test that flips the sign of each
    cluster's sum, over all combinations of signs. It equals McNemar's if no cluster has more than one question that
    differs. For several seeds, the function flips the sign of each question's or cluster's mean over the seeds at
    random, `samples` times. This test ignores the variance between seeds. The t of `seeded_difference` covers that
    variance, but its tail is too thin if only a few questions differ.

    Args:
        gaps: (seeds, questions), -1, 0 or 1 each.
    """
    from scipy.stats import binomtest

    each = sums(gaps, clusters).sum(0)
    if len(gaps) > 1:
        return _flipped_p(each, samples, seed)
    if np.abs(each).max() > 1:
        return _all_flips_p(each)
    won, lost = int((each > 0).sum()), int((each < 0).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _all_flips_p(each: Any) -> float:
    """Return in which share of all combinations of signs the sum of whole numbers is at least as far from 0 as it is.

    The function adds one number after the other to the distribution of the sum.
    """
    far = int(np.abs(each).sum())
    chances = np.zeros(2 * far + 1)  # of the sums -far to far
    chances[far] = 1.0
    for size in np.abs(each).astype(int):
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2  # nothing is so far out that it wraps round
    return float(chances[np.abs(np.arange(-far, far + 1)) >= abs(each.sum())].sum())


def _flipped_p(each: Any, samples: int, seed: int) -> float:
    """Flip the sign of each number at random. Return how often the sum is at least as far from 0 as it is."""
    each = each[each != 0]
    rng = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, samples, 1000):
        signs = 2.0 * rng.integers(0, 2, (min(1000, samples - start), len(each))) - 1
        beyond += int((np.abs(signs @ each) >= abs(each.sum()) * (1 - 1e-9) - 1e-12).sum())
    return (1 + beyond) / (1 + samples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values for their number (Holm 1979). Return them in the given order."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = highest
    return corrected
