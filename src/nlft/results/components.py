"""Variance components of a difference over questions and seeds, and its t interval. Works on batches of runs.

Both arms answered the same questions, and each seed of an arm is a training of its own. So questions are paired, and
seeds are not: their variance is estimated in each arm, which doubles its degrees of freedom.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlft.results.clusters import Clusters, sums


def paired_gaps(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> Any:
    """Return an array (seeds, questions): 1 where only ours are right, -1 where only theirs are, else 0.

    Args:
        ours, theirs: whether each answer is right, (seeds, questions). If one of them has only one seed (a prompted
            model), it is paired with each seed of the other.

    Raises:
        ValueError: `ours` and `theirs` do not hold the same questions.
    """
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    if a.shape[1] != b.shape[1] or (a.shape[0] != b.shape[0] and 1 not in (a.shape[0], b.shape[0])):
        raise ValueError(f"verdicts of shape {a.shape} and {b.shape} cannot be paired")
    return a - b


def by_unit(each: Any, clusters: Clusters | None) -> Any:
    """Return numbers (seeds, clusters) that have the means of `each` over questions, and vary as those means do.

    Without clusters, each question stands for itself.

    Args:
        each: a number for each question, (seeds, questions).
    """
    each = np.asarray(each, dtype=float)
    sizes = sums(np.ones_like(each[:1]), clusters)
    usual = each.shape[1] / sizes.shape[1]
    return sums(each, clusters) / usual + each.mean() * (1 - sizes / usual)


@dataclass(frozen=True)
class Components:
    """Mean squares of a difference between two arms, in a crossed layout of units (questions or clusters) and seeds.

    Attributes:
        seeds, units: their numbers.
        of_units: mean square of the units, paired. Its expectation holds the noise once.
        of_seeds: mean square of the seeds, for each arm with several. The expectation of their sum holds the noise
            once.
        noise: mean square of what is left, paired.
    """

    seeds: int
    units: int
    of_units: Any
    of_seeds: tuple[Any, ...]
    noise: Any

    @property
    def seed_degrees(self) -> Any:
        """Degrees of freedom of the sum of `of_seeds`: those of Welch (1947), between one arm's and both arms'."""
        each = self.seeds - 1
        total, squares = sum(self.of_seeds), sum(one**2 for one in self.of_seeds)
        found = np.divide((each + 2) * total**2, squares, out=np.full(np.shape(total), np.inf), where=squares > 0) - 2
        return np.clip(found, each, each * len(self.of_seeds))

    @property
    def error(self) -> Any:
        """Standard error of the difference: of_units + max(of_seeds - noise, 0), over seeds and units, square root."""
        return np.sqrt(self._numerator() / (self.seeds * self.units))

    @property
    def degrees(self) -> Any:
        """Degrees of freedom of the standard error.

        Satterthwaite's formula has the square of a sum of mean squares above. Without the noise, it counts too few
        where seeds do not differ; with the noise, too many where they do. This is the product of both sums.
        """
        total = sum(self.of_seeds)
        below = np.asarray(total**2 / self.seed_degrees + self.of_units**2 / (self.units - 1))
        above = self._numerator() * (self.of_units + total)
        most = self.units - 1 + (self.seeds - 1) * len(self.of_seeds)
        found = np.divide(above, below, out=np.full(np.shape(below), float(most)), where=below > 0)
        return np.clip(found, self.seeds - 1, most)

    def margin(self, alpha: float = 0.05) -> Any:
        """Return half the width of the interval of confidence 1 - alpha."""
        from scipy.special import stdtrit

        return stdtrit(self.degrees, 1 - alpha / 2) * self.error

    def _numerator(self) -> Any:
        return self.of_units + np.maximum(sum(self.of_seeds) - self.noise, 0)


def components(ours: Any, theirs: Any) -> Components:
    """Split the variance of the mean difference between two arms.

    Args:
        ours, theirs: numbers (..., seeds, units); two or more units, and two or more seeds in at least one of them.
    """
    gaps = ours - theirs
    seeds, units = gaps.shape[-2:]
    rest = gaps - gaps.mean(-2, keepdims=True) - gaps.mean(-1, keepdims=True) + gaps.mean((-2, -1), keepdims=True)
    return Components(
        seeds,
        units,
        seeds * gaps.mean(-2).var(-1, ddof=1),
        tuple(units * arm.mean(-1).var(-1, ddof=1) for arm in (ours, theirs) if arm.shape[-2] > 1),
        (rest**2).sum((-2, -1)) / ((seeds - 1) * (units - 1)),
    )
