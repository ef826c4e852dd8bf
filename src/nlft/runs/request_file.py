"""Read and write a request to a running training: a file in the run directory's `requests/`."""

import json
import os
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

MOST_BYTES = 64 * 1024  # a request is a name and a number, so a longer file is not a request
_MOST_LETTERS = 200


@dataclass(frozen=True)
class ControlRequest:
    """A request to change a control of a run while it trains.

    Attributes:
        file: name of the request's file in `requests/`. Names sort by time.
        value: a number, a short text, true, false or None.
        who: `page`, `cli` or a user's name.
        problem: why the file is not a request, or None. If there is a problem, the other fields are empty.
    """

    file: str
    id: str
    control: str
    value: Any
    who: str
    time: str
    problem: str | None = None


def _optional(flag: str) -> int:
    """Return a flag of `os.open`, or 0 where the system lacks it. Windows has no pipes that block an open file."""
    return getattr(os, flag, 0)


def new_request(control: str, value: object, who: str) -> tuple[ControlRequest, bytes]:
    """Make a request with the current time. Return it with the content of its file."""
    id = str(uuid.uuid4())
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"id": id, "control": control, "value": value, "who": who, "time": now}
    request = ControlRequest(f"{time.time_ns():020d}-{id}.json", id, control, value, who, now)
    return request, json.dumps(fields).encode()


def read_request(path: Path) -> ControlRequest | None:
    """Read a request from a file. Return None if the file is gone.

    If the file is not a request, return a request whose `problem` says why. Other users may write to the folder, so a
    pipe must not block the trainer, and a long or malformed file must not stop it.
    """
    try:
        if not _optional("O_NOFOLLOW") and path.is_symlink():
            return _refused(path, "is a link")
        handle = os.open(path, os.O_RDONLY | _optional("O_NOFOLLOW") | _optional("O_NONBLOCK") | _optional("O_BINARY"))
    except FileNotFoundError:
        return None
    except OSError as error:
        return _refused(path, f"cannot be read: {error.strerror}")
    try:
        if not S_ISREG(os.fstat(handle).st_mode):
            return _refused(path, "is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return _parsed(path, file.read(MOST_BYTES + 1))
    except OSError as error:
        return _refused(path, f"cannot be read: {error.strerror}")
    finally:
        os.close(handle)


def _parsed(path: Path, data: bytes) -> ControlRequest:
    if len(data) > MOST_BYTES:
        return _refused(path, f"is longer than {MOST_BYTES // 1024} KiB")
    try:
        raw = json.loads(data)
        json.dumps(raw, ensure_ascii=False).encode()  # raises for half a surrogate pair, which no file can hold
        texts = {name: raw[name] for name in ("id", "control", "who", "time")}
        value = raw["value"]
    except KeyError as error:
        return _refused(path, f"is not a request: {error} is missing")
    except (ValueError, TypeError, RecursionError) as error:
        return _refused(path, f"is not a request: {error}")
    if not all(isinstance(text, str) and len(text) <= _MOST_LETTERS for text in texts.values()):
        return _refused(path, "is not a request: id, control, who and time must be short texts")
    if isinstance(value, list | dict) or (isinstance(value, str) and len(value) > _MOST_LETTERS):
        return _refused(path, "is not a request: value must be a number, a short text, true, false or null")
    return ControlRequest(path.name, value=value, **texts)


def _refused(path: Path, why: str) -> ControlRequest:
    id = path.stem[-36:].encode(errors="replace").decode()  # a file name may not be UTF-8, but controls.jsonl must be
    return ControlRequest(path.name, id, control="", value=None, who="", time="", problem=f"the file {why}")
