"""Compare arms by violations and KL together: the arms that none beats, and who beats the others. No torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

from nlft.results.clusters import Clusters
from nlft.results.stats import Ratio, can_tell, holm, paired_ratio

ALPHA = 0.05

KLRows = tuple[tuple[tuple[float, int], ...], ...]
"""(nats, tokens) of each scored reply, outside struck tokens: a row for each seed, a place for each reply."""


@dataclass(frozen=True)
class ArmKL:
    """The KL to base of a trained arm on the task's replies.

    Attributes:
        seeds: the seed of each row.
        clusters: which replies belong together; None: they are independent.
    """

    rows: KLRows
    seeds: Sequence[int]
    clusters: Clusters | None = None

    def nats(self, seeds: Sequence[int]) -> list[list[float]]:
        """Return the nats of each reply, for these seeds."""
        return [[nats for nats, _ in self.rows[self.seeds.index(seed)]] for seed in seeds]

    @property
    def total(self) -> float:
        """Nats over all replies and seeds."""
        return sum(nats for row in self.rows for nats, _ in row)


@dataclass(frozen=True)
class KLContrast:
    """The KL of two trained arms compared on the seeds that both have.

    Attributes:
        ratio: KL of `ours` divided by that of `theirs`.
        corrected: the p-value after Holm's correction for all pairs of trained arms.
    """

    ours: str
    theirs: str
    ratio: Ratio
    corrected: float


@dataclass(frozen=True)
class Front:
    """The arms by violations and KL together.

    Attributes:
        arms: arms that none of the others beats.
        beaten: each other arm, and the arms that beat it.
        kl: the comparisons of KL.
        unmeasured: trained arms without a KL of each reply, which are not compared.
    """

    arms: tuple[str, ...]
    beaten: Mapping[str, tuple[str, ...]]
    kl: tuple[KLContrast, ...] = ()
    unmeasured: tuple[str, ...] = ()


def kl_contrasts(measured: Mapping[str, ArmKL]) -> tuple[KLContrast, ...]:
    """Compare the KL of each pair of arms that have a seed in common."""
    pairs = []
    for ours, theirs in combinations(measured, 2):
        a, b = measured[ours], measured[theirs]
        seeds = [seed for seed in a.seeds if seed in b.seeds]
        if seeds and a.total > 0 and b.total > 0:
            pairs.append((ours, theirs, a.nats(seeds), b.nats(seeds), a.clusters))
    # On one seed, the smallest p-value of a bootstrap must stay below 0.05 after the correction.
    samples = max(9999, 60 * len(pairs))
    ratios = [paired_ratio(a, b, clusters=by, samples=samples) for _, _, a, b, by in pairs]
    corrected = holm([ratio.p_value for ratio in ratios])
    return tuple(
        KLContrast(ours, theirs, ratio, p)
        for (ours, theirs, *_), ratio, p in zip(pairs, ratios, corrected, strict=True)
    )


def front(
    prompted: Iterable[str],
    measured: Mapping[str, ArmKL],
    fewer: Callable[[str, str], bool],
    unmeasured: Iterable[str] = (),
) -> Front:
    """Find the arms that none beats.

    An arm beats another if it is significantly better in one of violations and KL, and not significantly worse in the
    other. On two seeds, nothing is significant. The KL of a prompted arm is 0: it changes no weights.

    Args:
        prompted: arms that train nothing.
        measured: the KL of each trained arm.
        fewer: whether the first arm has significantly fewer violations than the second.
    """
    prompted = list(prompted)
    contrasts = kl_contrasts(measured)
    closer = {(p, arm) for p in prompted for arm, kl in measured.items() if kl.total > 0}
    for one in contrasts:
        if one.corrected < ALPHA and can_tell(one.ratio.seeds):
            closer.add((one.ours, one.theirs) if one.ratio.value < 1 else (one.theirs, one.ours))
    arms = [*prompted, *measured]
    fewest = {pair for pair in permutations(arms, 2) if fewer(*pair)}

    def beats(a: str, b: str) -> bool:
        return any((a, b) in wins and (b, a) not in loses for wins, loses in ((fewest, closer), (closer, fewest)))

    beaten = {b: tuple(a for a in arms if a != b and beats(a, b)) for b in arms}
    return Front(
        tuple(arm for arm in arms if not beaten[arm]),
        {arm: by for arm, by in beaten.items() if by},
        contrasts,
        tuple(unmeasured),
    )
