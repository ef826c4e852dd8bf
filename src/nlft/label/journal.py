"""The file of decisions: one line for each, written at once. It is never rewritten.

Only one server at a time may write to it. A second one is refused. Half a last line, which a killed server may leave,
is dropped.
"""

import getpass
import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from nlft.errors import UserError, display_path
from nlft.files import append_whole, is_json, json_bytes, lines_of_json
from nlft.locks import try_lock


class Journal:
    """The file of decisions of one output."""

    def __init__(self, path: Path) -> None:
        """Open the file for this process alone.

        Raises:
            UserError: another process has it open, or it cannot be written.
        """
        self.path = path
        self.is_new = not path.exists()
        self.who = _user()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock: IO[bytes] = path.open("ab")
        except OSError as error:
            raise _cannot_write(path, error) from error
        if not try_lock(self._lock):
            self._lock.close()
            raise UserError(
                f"{display_path(path)}: another `nlft label` has this file open.\n"
                "  Use its page, or stop it with Ctrl-C, or give another --out."
            )

    def lines(self) -> list[dict[str, Any]]:
        """Read the whole lines, in order.

        Raises:
            UserError: a line is not a decision.
        """
        found = []
        for number, data in enumerate(lines_of_json(self.path, self.path.read_bytes()), start=1):
            if not data.strip():
                continue
            line = json.loads(data) if is_json(data) else None
            if not isinstance(line, dict) or not isinstance(line.get("text"), str):
                raise UserError(
                    f"{display_path(self.path)}:{number}: is not a decision of `nlft label`.\n"
                    "  Remove the line, or give another --out."
                )
            found.append(line)
        return found

    def append(self, line: dict[str, Any]) -> None:
        """Add a line.

        Raises:
            UserError: the file cannot be written.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            append_whole(self.path, json_bytes({"time": time, "who": self.who, **line}) + b"\n")
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        """Let other processes write. Remove the file if it has no line and this process made it."""
        if os.name == "nt":  # an open file cannot be removed there
            self._lock.close()
        if self.is_new and self.path.exists() and self.path.stat().st_size == 0:
            self.path.unlink()
        self._lock.close()


def digests(lines: Iterable[dict[str, Any]]) -> set[str]:
    """Return the digests of all outputs that were written beside these lines."""
    return {line["out_sha256"] for line in lines if isinstance(line.get("out_sha256"), str)}


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write to {display_path(path)} ({error.strerror}).\n"
        "  Free some disk space, change the folder's permissions, or give another --out."
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "page"
