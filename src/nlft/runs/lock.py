"""One process at a time writes a folder or a file. It holds a lock until it ends, however it ends.

The lock is the operating system's lock on a small file. The file names its owner, for the message of a second process.
On a network disk, locks may hold on each machine alone. Then the file's content is all that another machine can see,
so a lock that is taken over from another machine is worth a warning.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from nlft.errors import UserError, display_path
from nlft.files import refuse_waiting_file
from nlft.locks import try_lock
from nlft.runs.heartbeat import this_process

LOCK = "run.lock"
PATIENCE = 5.0
"""Seconds to wait for a lock. Children of a killed process may hold it for a moment longer."""
_POLL = 0.1
_MOST_BYTES = 4096  # of a lock file that are read


@contextmanager
def owning(folder: Path | str, cure: str = "choose another --output_dir", patience: float = PATIENCE) -> Iterator[None]:
    """Own a folder while it is written. The process may own it already; then this does nothing.

    Args:
        cure: what to do instead of waiting, for the message.
        patience: seconds to wait for another owner.

    Raises:
        UserError: another process owns it. The message names the process.
    """
    with _holding(Path(folder) / LOCK, display_path(folder), cure, patience):
        yield


@contextmanager
def owning_file(path: Path | str) -> Iterator[None]:
    """Own a file while a command makes it, as `owning` does for a folder. Wait for no other owner.

    A command may have read the file already. After a wait it would replace what the other owner wrote.
    """
    path = Path(path)
    with _holding(path.with_name(f".{path.name}.lock"), display_path(path), "choose another --out", 0.0):
        yield


@contextmanager
def _holding(path: Path, shown: str, cure: str, patience: float) -> Iterator[None]:
    if _is_ours(_owner(path)):
        yield
        return
    new = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _locked(path, patience)
    if file is None:
        raise UserError(_refusal(_owner(path), shown, cure))
    try:
        _take(file, shown)
        yield
    finally:
        with suppress(OSError):
            file.truncate(0)  # Windows removes no open file: what is left there must name no owner
        # Removed while it is locked: another process then finds out that its file is no longer the one at the path.
        with suppress(OSError):
            path.unlink()
        file.close()
        for folder in new:  # a refused command leaves no empty folder
            with suppress(OSError):
                folder.rmdir()


def _locked(path: Path, patience: float) -> IO[bytes] | None:
    """Open and lock the file. Return None if another process holds it for longer than `patience` seconds."""
    until = time.monotonic() + patience
    refuse_waiting_file(path)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        file = os.fdopen(handle, "r+b")
        if try_lock(file) and _is_at(file, path):
            return file
        file.close()
        if time.monotonic() >= until:
            return None
        time.sleep(_POLL)


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether the open file still is the one at the path. The last owner removes it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _take(file: IO[bytes], shown: str) -> None:
    """Write who owns the lock. Say so if the last owner did not give it back."""
    file.seek(0)
    before = _parsed(file.read(_MOST_BYTES))
    if before is not None:
        print(f"{shown}: taken over from {_named(before)}, which ended without giving it back.", file=sys.stderr)
        if before.get("host") != platform.node():
            print("  On a network disk without locks, check that it has ended.", file=sys.stderr)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    file.seek(0)
    file.truncate()
    file.write(json.dumps({**this_process(), "host": platform.node(), "since": now}).encode())
    file.flush()


def _owner(path: Path) -> dict[str, Any] | None:
    """Return what the lock file says of its owner; None if it says nothing."""
    try:
        refuse_waiting_file(path)
        with path.open("rb") as file:
            return _parsed(file.read(_MOST_BYTES))
    except OSError:
        return None


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_ours(owner: dict[str, Any] | None) -> bool:
    return owner is not None and this_process().items() <= owner.items()


def _named(owner: dict[str, Any]) -> str:
    named = {name: str(owner.get(name))[:80] for name in ("pid", "host", "since")}
    return f"process {named['pid']} on {named['host']}, since {named['since']}"


def _refusal(owner: dict[str, Any] | None, shown: str, cure: str) -> str:
    who = _named(owner) if owner is not None else "another process"
    return f"{shown}: is being written by {who}.\n  Wait until that ends, or end it, or {cure}."
