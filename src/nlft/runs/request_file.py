"""One request to a running training, as a file of its run directory's `requests/`."""

import json
import os
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any

MOST_BYTES = 64 * 1024  # a request is a name and a number; what is longer is none
_MOST_LETTERS = 200


@dataclass(frozen=True)
class Request:
    """What someone asks of a run while it trains.

    Attributes:
        file: its name in `requests/`; names sort by time.
        value: a number, a short text, true, false or None.
        who: `page`, `cli` or a user's name.
        problem: why the file is no request, or None; the fields above are then empty.
    """

    file: str
    id: str
    control: str
    value: Any
    who: str
    time: str
    problem: str | None = None


def new_request(control: str, value: Any, who: str) -> tuple[Request, bytes]:
    """A request made now, and what its file holds."""
    id = str(uuid.uuid4())
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {"id": id, "control": control, "value": value, "who": who, "time": now}
    return Request(f"{time.time_ns():020d}-{id}.json", **fields), json.dumps(fields).encode()


def read_request(path: Path) -> Request | None:
    """The request in a file, or one that only says what is wrong with it; None where the file is gone.

    The folder is open to others: a pipe must not block the trainer, nor a long or crooked file stop it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        return _refused(path, f"cannot be read: {error.strerror}")
    try:
        if not S_ISREG(os.fstat(handle).st_mode):
            return _refused(path, "is no regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return _parsed(path, file.read(MOST_BYTES + 1))
    except OSError as error:
        return _refused(path, f"cannot be read: {error.strerror}")
    finally:
        os.close(handle)


def _parsed(path: Path, data: bytes) -> Request:
    if len(data) > MOST_BYTES:
        return _refused(path, f"is longer than {MOST_BYTES // 1024} KiB")
    try:
        raw = json.loads(data)
        json.dumps(raw, ensure_ascii=False).encode()  # half a surrogate pair could not be written down
        texts = {name: raw[name] for name in ("id", "control", "who", "time")}
        value = raw["value"]
    except KeyError as error:
        return _refused(path, f"is no request: {error} is missing")
    except (ValueError, TypeError, RecursionError) as error:
        return _refused(path, f"is no request: {error}")
    if not all(isinstance(text, str) and len(text) <= _MOST_LETTERS for text in texts.values()):
        return _refused(path, "is no request: id, control, who and time are to be short texts")
    if isinstance(value, list | dict) or (isinstance(value, str) and len(value) > _MOST_LETTERS):
        return _refused(path, "is no request: value is to be a number, a short text, true, false or null")
    return Request(path.name, value=value, **texts)


def _refused(path: Path, why: str) -> Request:
    id = path.stem[-36:].encode(errors="replace").decode()  # a name need not be UTF-8, and a line of the ledger must
    return Request(path.name, id, control="", value=None, who="", time="", problem=f"the file {why}")
