"""One step's tokens as bytes: a JSON header, then plain arrays that a browser reads without parsing a number.

The live page and the exported file carry the same bytes, so that both show and re-tag exactly what was recorded.

Layout: the header's length (uint32, little endian), the header (UTF-8, padded with spaces to a multiple of 4), then
the arrays, each padded to a multiple of 4. `scores[i].arrays[name]` is the array's [offset, length] behind the header.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlft.errors import UserError
from nlft.page.plain import plain
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample

ARRAYS = {
    "base": "<f4",
    "standard": "<f4",
    "judge": "<f4",
    "likelihood": "<f4",
    "unlikelihood": "<f4",
    "tag": "u1",
    "band": "<f2",
}


class Unreadable(Exception):
    """A snapshot that cannot be shown; the message says why in a few words."""


@dataclass(frozen=True)
class Shown:
    """An example's scores, and the snapshot that they are from."""

    source: Snapshot
    scores: TokenScores


def read_step(run: RunDir, step: int, examples: list[WatchedExample]) -> Snapshot:
    """One snapshot that fits the watched examples.

    Raises:
        Unreadable: it is gone, damaged, or made for other examples.
    """
    try:
        snapshot = run.snapshot(step)
    except FileNotFoundError:
        raise Unreadable("gone since the map was begun") from None
    except UserError as error:
        raise Unreadable(f"damaged: {error}") from error
    if not fits(snapshot, examples):
        raise Unreadable("made for other examples than the ones watched now")
    return snapshot


def fits(snapshot: Snapshot, examples: list[WatchedExample]) -> bool:
    """Whether each example that the snapshot scored has as many tokens as the watched one."""
    return len(snapshot.scores) == len(examples) and all(
        scores is None or len(scores.base) == len(example.tokens)
        for scores, example in zip(snapshot.scores, examples, strict=True)
    )


def shown_at(
    run: RunDir, recorded: list[int], step: int, examples: list[WatchedExample]
) -> tuple[Snapshot, list[Shown | None]]:
    """A snapshot, and every example's latest scores at that step: one taken from a training batch holds only some.

    Args:
        recorded: `run.snapshot_steps()`.

    Raises:
        Unreadable: the step's own snapshot cannot be shown.
    """
    snapshot = read_step(run, step, examples)
    shown = [Shown(snapshot, scores) if scores is not None else None for scores in snapshot.scores]
    for before in reversed([s for s in recorded if s < step]):
        if all(shown):
            break
        try:
            earlier = read_step(run, before, examples)
        except Unreadable:
            continue  # whoever asks for that step is told
        for index, scores in enumerate(earlier.scores):
            if shown[index] is None and scores is not None:
                shown[index] = Shown(earlier, scores)
    return snapshot, shown


def pack_step(snapshot: Snapshot, shown: list[Shown | None]) -> bytes:
    """The bytes of one step.

    Args:
        shown: an entry an example, as `shown_at` gives them.
    """
    sources: list[Snapshot] = [snapshot]
    chunks: list[bytes] = []
    offset = 0
    entries: list[dict[str, Any] | None] = []
    for one in shown:
        if one is None:
            entries.append(None)
            continue
        if not any(one.source is source for source in sources):
            sources.append(one.source)
        place = next(i for i, source in enumerate(sources) if source is one.source)
        arrays: dict[str, list[int]] = {}
        for name, kind in ARRAYS.items():
            value = getattr(one.scores, name)
            if value is not None:
                data = _padded(np.ascontiguousarray(value, dtype=kind).tobytes(), b"\0")
                arrays[name] = [offset, int(np.size(value))]
                chunks.append(data)
                offset += len(data)
        entries.append({"source": place, "arrays": arrays})
    about = [
        {
            "step": source.step,
            "epoch": source.epoch,
            "scheme": source.scheme,
            "settings": source.settings,
            "whole": source.whole,
            "tag_names": source.tag_names,
        }
        for source in sources
    ]
    text = json.dumps(plain({"step": snapshot.step, "sources": about, "scores": entries}), allow_nan=False)
    header = _padded(text.encode(), b" ")
    return len(header).to_bytes(4, "little") + header + b"".join(chunks)


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)
