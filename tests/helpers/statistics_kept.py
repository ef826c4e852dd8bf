"""Intervals, p-values and needed numbers for many small comparisons, as recorded. `--write` records them anew.

Other tests say that they are right. This one says what changed, to six digits.
"""

import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.kept import write
from nlft.results.clusters import Clusters
from nlft.results.power import needed
from nlft.results.stats import (
    Difference,
    can_tell,
    clustered_wilson,
    effective_number,
    holm,
    interval_of,
    paired_ratio,
    rate_per_token,
    seeded_difference,
    tango,
    wilson,
)

KEPT = Path(__file__).parents[1] / "golden" / "statistics.json"
# Seeds of ours, seeds of theirs, questions, share right of ours and of theirs, questions in a cluster (0: no clusters;
# UNEVEN: one more in each).
UNEVEN = -1
SHAPES = (
    *((1, 1, 12, 0.9, 0.2, 0), (1, 1, 40, 0.5, 0.4, 0), (1, 1, 40, 0.7, 0.3, 4), (1, 1, 40, 1.0, 0.0, 4)),
    *((3, 3, 40, 0.6, 0.5, 0), (3, 1, 40, 0.9, 0.4, 0), (1, 3, 40, 0.6, 0.5, 5), (5, 5, 30, 0.8, 0.3, 3)),
    *(
        (2, 2, 40, 0.8, 0.4, 0),
        (3, 3, 6, 1.0, 1.0, 0),
        (3, 3, 6, 1.0, 0.5, 6),
        (1, 1, 4, 1.0, 0.0, 2),
        (4, 4, 300, 0.7, 0.6, 0),
    ),
    *((4, 4, 2, 0.2, 0.9, 0), (4, 4, 8, 0.1, 0.9, 0), (1, 1, 8, 0.9, 0.3, UNEVEN), (3, 1, 5, 0.3, 0.6, UNEVEN)),
    *((3, 1, 8, 0.5, 0.2, UNEVEN), (2, 1, 12, 0.5, 0.4, UNEVEN), (1, 1, 1, 1.0, 0.0, 0), (3, 3, 1, 1.0, 0.0, 0)),
)


def found() -> dict[str, Any]:
    """Return all numbers, by what they are of."""
    made: dict[str, Any] = {}
    for count, n in ((0, 0), (0, 10), (1, 1), (3, 10), (9, 10), (50, 200)):
        made[f"wilson {count} of {n}"] = plain(wilson(count, n))
    for won, lost, n in (
        (0.1, 0.0, 20),
        (0.3, 0.2, 40),
        (1.0, 0.0, 8),
        (0.0, 1.0, 8),
        (0.0, 0.05, 300),
        (0.5, 0.5, 10),
    ):
        made[f"tango {won} {lost} {n}"] = plain(tango(won, lost, n))
    for seeds in range(5):
        made[f"interval over {seeds} seeds"] = [interval_of(seeds), can_tell(seeds)]
    made["as text"] = [str(wilson(0, 0)), str(wilson(5, 5)), str(Difference(0.123, -0.05, 0.3))]
    for values in ([], [0.04], [0.01, 0.04, 0.03], [0.5, 0.001, 0.02, 0.9], [0.02, 0.02]):
        made[f"holm {values}"] = plain(holm(values))
    for shape in SHAPES:
        made |= {f"{what} {shape}": plain(value) for what, value in _of(shape)}
    return made


def _of(shape: tuple[int, int, int, float, float, int]) -> Iterator[tuple[str, Any]]:
    mine, other, n, p, q, size = shape
    rng = np.random.default_rng(n + mine)
    hard = rng.random(n)
    ours, theirs = ((hard * 0.6 + rng.random((seeds, n)) * 0.4 < share) for seeds, share in ((mine, p), (other, q)))
    of = (int((2 * at) ** 0.5) if size == UNEVEN else at // size for at in range(n) if size)
    clusters = Clusters("item", tuple(f"c{name}" for name in of)) if size else None
    yield "difference", seeded_difference(ours.tolist(), theirs.tolist(), clusters=clusters, samples=999)
    if clusters is None or clusters.count > 1:  # one alone is refused where clusters are read
        yield "rate", clustered_wilson(ours[0].tolist(), clusters)
        yield "effective", effective_number(ours[0] - theirs[0].astype(float), clusters)
    for tests, wanted in ((1, 0.1), (5, 0.03), (1, 0.9)):
        estimate = needed(ours.tolist(), theirs.tolist(), wanted, tests=tests, clusters=clusters)
        yield f"needed for {wanted} in {tests} tests", estimate
    nats, tokens = rng.gamma(2.0, 0.1, (mine, n)), rng.integers(3, 30, (mine, n))
    yield "nats a token", rate_per_token(nats, tokens, samples=499, clusters=clusters)
    yield "no nats a token", rate_per_token(0 * nats, tokens, samples=499, clusters=clusters)
    yield "nats of no token", rate_per_token(nats, 0 * tokens, samples=499, clusters=clusters)
    alone = tokens * (np.arange(n) == 0)  # some draws have none
    yield "nats of one reply's tokens", rate_per_token(nats, alone, samples=499, clusters=clusters)
    yield "ratio of equal nats", paired_ratio(nats, nats, samples=499, clusters=clusters)
    yield "ratio of nats", paired_ratio(nats, 2 * nats * rng.random((mine, n)), samples=499, clusters=clusters)


def plain(value: Any) -> Any:
    """Return numbers, dataclasses and lists as JSON holds them, with six digits."""
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, (float, np.floating)) else value


if __name__ == "__main__" and "--write" in sys.argv:
    write(found(), KEPT)
