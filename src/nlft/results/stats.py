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
    """Mean of paired differences with a 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], *, seed: int = 0) -> Difference:
    """How much more often `ours` is right than `theirs` on the same questions, by a bootstrap over questions.

    Args:
        ours, theirs: verdicts in the same order of questions.
    """
    differences = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    mean = float(differences.mean())
    if not differences.any():
        return Difference(mean, 0.0, 0.0)
    from scipy.stats import bootstrap

    found = bootstrap((differences,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(seed))
    return Difference(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))
