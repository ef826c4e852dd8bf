"""Read a run's logged numbers while the file grows. Keep them as columns, so that a long run takes a few megabytes."""

import math
import os
from array import array
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from nlft.files import json_object, refuse_waiting_file

MOST_ROWS = 2000  # a chart has fewer pixels than this
DIGITS = 7
REMEMBERED = 500  # bytes; a line of a log has its time in it


class JsonlTail:
    """Reads a JSONL file while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._offset = 0
        self._end = b""  # the last bytes before the offset

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Read the lines since the last call.

        A torn last line stays for a later call, when it is whole. Skip lines that are not JSON objects.

        Returns:
            Whether the file was replaced or shortened, so that earlier lines are no longer valid; and the new lines.
        """
        try:
            refuse_waiting_file(self.path)
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())  # of the open file: by now its name may belong to another file
                file.seek(self._offset - len(self._end))
                # A new file may have the number and more than the size of one that was removed, but not its lines.
                same = file.read(len(self._end)) == self._end
                replaced = self._file not in (None, status.st_ino) or not same
                if replaced:
                    self._offset, self._end = 0, b""
                    file.seek(0)
                self._file = status.st_ino
                data = file.read()
        except FileNotFoundError:
            replaced, self._file, self._offset, self._end = self._file is not None, None, 0, b""
            return replaced, []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._end = (self._end + whole)[-REMEMBERED:]
        return replaced, [value for line in whole.splitlines() if (value := json_object(line)) is not None]


class Events:
    """Logged steps as columns of numbers. Missing numbers are NaN."""

    def __init__(self) -> None:
        self.columns: dict[str, array[float]] = {"step": array("d"), "time": array("d")}
        self.last: dict[str, Any] | None = None  # the last event as it was logged, with its texts

    def __len__(self) -> int:
        return len(self.columns["step"])

    def append(self, event: dict[str, Any]) -> None:
        """Take in one event, read from one line of events.jsonl. Ignore superseded lines and lines without a step."""
        if event.get("superseded") or not isinstance(event.get("step"), int):
            return
        self.last = event
        rows = len(self)
        numbers = {n: float(v) for n, v in event.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        numbers["time"] = _seconds(event.get("time"))
        for name in numbers.keys() - self.columns.keys():
            self.columns[name] = array("d", [math.nan]) * rows
        for name, column in self.columns.items():
            column.append(numbers.get(name, math.nan))

    def since(self, row: int) -> dict[str, Any]:
        """Return the rows from `row` on, for JSON. Thin them if they exceed a chart, but keep the loss's extremes."""
        rows: Sequence[int] = range(min(max(row, 0), len(self)), len(self))
        if len(rows) > MOST_ROWS:
            rows = thin(rows, self.columns.get("loss", self.columns["step"]), MOST_ROWS)
        columns = {name: [_short(column[i]) for i in rows] for name, column in self.columns.items()}
        return {"count": len(self), "columns": columns}


def thin(rows: Sequence[int], values: Sequence[float], most: int) -> list[int]:
    """Choose at most `most` + 2 rows: the first, the last, and the smallest and largest value of each stretch.

    Keep rows without a value (an evaluation has no training loss) as long as there are few.
    """
    apart = [row for row in rows if math.isnan(values[row])]
    if len(apart) > most // 4:
        apart = apart[:: math.ceil(len(apart) / (most // 4))]
    curve = [row for row in rows if not math.isnan(values[row])]
    size = max(1, math.ceil(2 * len(curve) / (most - len(apart))))
    kept = {rows[0], rows[-1], *apart}
    for start in range(0, len(curve), size):
        stretch = curve[start : start + size]
        kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return sorted(kept)


def _short(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{DIGITS}g}") if abs(value) < 1e9 else value


def _seconds(time: object) -> float:
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else math.nan
    except ValueError:
        return math.nan
