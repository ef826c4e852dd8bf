"""Files of JSON lines that a killed process may have left with half a line at the end."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nlft.files import json_bytes, lines_of_json, refuse_waiting_file, write_whole
from nlft.runs.reading import SPOILT, spoilt

Problem = Callable[[dict[str, Any]], str | None]
"""Returns what is wrong with a line, or None."""


def write_jsonl(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines, whole or not at all. NaN and infinities become null."""
    write_whole(path, b"".join(jsonl_line(entry) for entry in entries))


def read_jsonl(path: Path, problem: Problem | None = None) -> list[dict[str, Any]]:
    """Read every whole line. Leave out a torn last line, which a killed writer leaves, and say so.

    Raises:
        UserError: a line is not a JSON object, or has a problem. The message names the file and the line.
    """
    refuse_waiting_file(path)
    if not path.is_file():
        return []
    lines = enumerate(lines_of_json(path, path.read_bytes()), start=1)
    return [_read_line(path, at, line, problem) for at, line in lines if line.strip()]


def _read_line(path: Path, at: int, line: bytes, problem: Problem | None) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except SPOILT as error:
        raise spoilt(path, getattr(error, "msg", error), at) from error
    wrong = "it is no JSON object" if not isinstance(found, dict) else problem(found) if problem else None
    if wrong:
        raise spoilt(path, wrong, at)
    return dict(found)


def supersede(path: Path, resumed_step: int | None, problem: Problem) -> None:
    """Write an empty file for a new run. For a resumed run, mark the lines after the checkpoint as superseded."""
    lines = read_jsonl(path, problem) if resumed_step is not None else []
    # The line of an interruption goes too: the log is then that of a run that was not interrupted.
    again = [(e.get("step") or 0) > (resumed_step or 0) or "ended" in e for e in lines]
    write_jsonl(path, [{**e, "superseded": True} if old else e for e, old in zip(lines, again, strict=True)])


def jsonl_line(event: dict[str, Any]) -> bytes:
    """Return one line. NaN and infinities become null."""
    return json_bytes(_finite(event)) + b"\n"


def _finite(value: object) -> object:
    """Turn NaN and infinities into null, because JSON cannot hold them. No other code does this."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
