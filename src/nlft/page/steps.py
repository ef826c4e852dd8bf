"""Pack one step's tokens as bytes: a JSON header, then binary arrays that a browser reads without parsing numbers.

The live page and the exported file contain the same bytes, so both show exactly the recorded numbers, and
compute tags from exactly these numbers.

Layout: the header's length (uint32, little endian), the header (UTF-8, padded with spaces to a multiple of 4 bytes),
then the arrays, each padded to a multiple of 4 bytes. `scores[i].arrays[name]` is [offset, length] of an array, counted
from the end of the header.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nlft.errors import UserError
from nlft.page.as_json import as_json
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample

ARRAYS = {
    "base": "<f4",
    "standard": "<f4",
    "judge": "<f4",
    "likelihood": "<f4",
    "unlikelihood": "<f4",
    "tag": "u1",
    "band": "<f2",
    "signal": "<f4",
}


class Unreadable(Exception):
    """A snapshot cannot be shown. The message is the reason in a few words."""


@dataclass(frozen=True)
class Shown:
    """An example's scores, the snapshot from which they come, and what else the models would say at its tokens.

    Attributes:
        alternatives: the newest that were recorded up to the shown step, with that `step`; None if there are none.
    """

    source: Snapshot
    scores: TokenScores
    alternatives: dict[str, Any] | None = None


def read_step(run: RunDir, step: int, examples: list[WatchedExample]) -> Snapshot:
    """Read a snapshot, and check that it fits the watched examples.

    Raises:
        Unreadable: the snapshot is gone, damaged, or belongs to other examples.
    """
    try:
        snapshot = run.snapshot(step)
    except FileNotFoundError:
        raise Unreadable("deleted since the map started") from None
    except UserError as error:
        raise Unreadable(f"damaged: {error}") from error
    if not fits(snapshot, examples):
        raise Unreadable("its examples are not the ones that the run watches now")
    return snapshot


def fits(snapshot: Snapshot, examples: list[WatchedExample]) -> bool:
    """Whether each scored example has the same number of tokens as the watched example."""
    return len(snapshot.scores) == len(examples) and all(
        scores is None or len(scores.base) == len(example.tokens)
        for scores, example in zip(snapshot.scores, examples, strict=True)
    )


def shown_at(
    run: RunDir, recorded: list[int], step: int, examples: list[WatchedExample]
) -> tuple[Snapshot, list[Shown | None]]:
    """Read a step's snapshot, and every example's latest scores at that step.

    A snapshot of a training batch has scores of only some examples. The others come from earlier steps.

    Args:
        recorded: the run's steps, from `RunDir.snapshot_steps()`.

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
            continue  # the error appears when a user opens that step
        for index, scores in enumerate(earlier.scores):
            if shown[index] is None and scores is not None:
                shown[index] = Shown(earlier, scores)
    said = _alternatives(run, recorded, snapshot, examples)
    return snapshot, [one and replace(one, alternatives=also) for one, also in zip(shown, said, strict=True)]


def _alternatives(
    run: RunDir, recorded: list[int], snapshot: Snapshot, examples: list[WatchedExample]
) -> list[dict[str, Any] | None]:
    """Return each example's newest alternatives: of this step, of the last whole one before it, or of the first.

    Batches record none. The first snapshot of a short run may have those of only some examples.
    """
    newest = max((s for s in run.snapshot_steps(whole=True) if s <= snapshot.step), default=None)
    found: list[dict[str, Any] | None] = [None] * len(examples)
    for step in dict.fromkeys([snapshot.step, newest, recorded[0] if recorded else None]):
        if step is None or step > snapshot.step:
            continue
        try:
            source = snapshot if step == snapshot.step else read_step(run, step, examples)
        except Unreadable:
            continue
        for index, said in enumerate(source.alternatives or []):
            found[index] = found[index] or (said and {**said, "step": source.step})
        if source.whole:
            break  # an example without alternatives there is touched by no feedback any more
    return found


def pack_step(snapshot: Snapshot, shown: list[Shown | None]) -> bytes:
    """Pack one step as bytes.

    Args:
        shown: one entry per example, from `shown_at`.
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
        entries.append({"source": place, "arrays": arrays, "alternatives": one.alternatives})
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
    text = json.dumps(as_json({"step": snapshot.step, "sources": about, "scores": entries}), allow_nan=False)
    header = _padded(text.encode(), b" ")
    return len(header).to_bytes(4, "little") + header + b"".join(chunks)


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % 4)
