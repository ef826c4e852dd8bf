"""Notice what a user edited in a folder of stages: go on from it, and redo what was made from it.

`stages.json` keeps the SHA-256 of each stage's output and of the files that it was made from.
"""

import json
from collections.abc import Mapping, Sequence
from os.path import normpath
from pathlib import Path
from typing import Literal

from nlft.digests import sha256_of
from nlft.files import read_json, write_whole

FILE = "stages.json"
CELL_FILE = "inputs.json"
Digests = dict[str, str | None]
State = Literal["new", "done", "edited", "stale"]

_READS: Mapping[str, tuple[str, ...]] = {
    "sampled.jsonl": ("train.jsonl",),
    "judged.jsonl": ("sampled.jsonl",),
    "examples.jsonl": ("judged.jsonl",),
    "audit.json": ("examples.jsonl", "test.jsonl"),
    "revised.jsonl": ("examples.jsonl",),
}
"""The files of the folder that a stage reads, by the file that it writes."""

STAGE_FILES = frozenset(_READS) | {
    *("train.jsonl", "test.jsonl", "settings.json", "second_checks.json", "audit.html", "tune.json", "tune.html"),
    *("compare.json", "compare.html", "rounds.json", "accumulated.jsonl", "map.html", "cells", "adapter"),
}
"""What the stages write into their folder, besides the folders of arms and rounds."""


def digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if there is none."""
    return sha256_of(path) if path.is_file() else None


class StageRecord:
    """What the stages of a folder wrote, and what they read."""

    def __init__(self, folder: Path, reads: Mapping[str, Sequence[str]] | None = None) -> None:
        """
        Args:
            reads: the files that a stage reads, by the file that it writes, in addition to those of `tune`. Paths are
                relative to the folder.
        """
        self.folder = folder
        self._reads = {**_READS, **(reads or {})}

    def inputs(self, done: str) -> Digests:
        """Return the digests of the files that the stage reads, as they are now."""
        # Without "..": through a folder that is not there yet, the system finds no file.
        return {name: digest(Path(normpath(self.folder / name))) for name in self._reads.get(done, ())}

    def state(self, done: str) -> tuple[State, list[str]]:
        """Return what is known of a stage's output, and the names of the inputs that have changed since.

        `edited` comes before `stale`: what a user wrote is never made again.
        """
        path = self.folder / done
        if not path.exists():
            return "new", []
        kept = self._kept().get(done)
        if kept is None:  # of an older version, or ended before it was recorded
            self.record(done, self.inputs(done))
            return "done", []
        recorded = kept.get("from")
        before = recorded if isinstance(recorded, dict) else {}
        changed = [name for name, now in self.inputs(done).items() if before.get(name, now) != now]
        if path.is_file() and kept.get("made") != digest(path):
            return "edited", changed
        return ("stale" if changed else "done"), changed

    def record(self, done: str, inputs: Digests) -> None:
        """Record the stage's output as it is now.

        Args:
            inputs: the digests of what the stage read, from before it ran.
        """
        kept = {**self._kept(), done: {"made": digest(self.folder / done), "from": inputs}}
        write_whole(self.folder / FILE, json.dumps(kept, indent=1).encode())

    def _kept(self) -> dict[str, dict[str, object]]:
        path = self.folder / FILE
        if not path.exists():
            return {}
        kept = read_json(path, "remove it: edits made until now are then taken as they are")
        return {name: entry for name, entry in kept.items() if isinstance(entry, dict)}


def cell_inputs(place: Path, more: Sequence[Path] = ()) -> Digests:
    """Return the digests of what a cell reads.

    Args:
        place: folder of the cell's examples.jsonl and test.jsonl.
        more: other files that the cell reads.
    """
    return {path.name: digest(path) for path in (place / "examples.jsonl", place / "test.jsonl", *more)}


def record_cell(run: Path, inputs: Digests) -> None:
    """Write the digests into the cell's run directory, before it runs."""
    write_whole(run / CELL_FILE, json.dumps(inputs, indent=1).encode())


def changed_inputs(run: Path, inputs: Digests) -> list[str]:
    """Return the files that have changed since the cell ran. A cell of an older version has none."""
    if not (run / CELL_FILE).exists():
        return []
    before = read_json(run / CELL_FILE, "remove it, and the cell's result.json: the cell runs again")
    return [name for name, now in inputs.items() if before.get(name, now) != now]
