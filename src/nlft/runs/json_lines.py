"""Files of JSON lines that a killed process may have left with half a line at the end."""

import json
import math
from pathlib import Path
from typing import Any

from nlft.files import write_whole


def write_jsonl(path: Path, entries: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines, whole or not at all. NaN and infinities become null."""
    write_whole(path, b"".join(jsonl_line(entry) for entry in entries))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read every whole line. Ignore a torn last line, which a killed writer leaves."""
    if not path.is_file():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    del torn
    return [json.loads(line) for line in lines if line.strip()]


def jsonl_line(event: dict[str, Any]) -> bytes:
    """Return one line. NaN and infinities become null."""
    return json.dumps(_finite(event), ensure_ascii=False).encode() + b"\n"


def _finite(value: object) -> object:
    """Turn NaN and infinities into null, because JSON cannot hold them. No other code does this."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
