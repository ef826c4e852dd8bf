"""A sign of life of a training, in its run directory: the page can tell a long step from a dead process.

A thread of the trainer writes it, so a step of an hour does not stop it. A killed process cannot write that it was
killed. So the sign also names the process. On the same machine the reader looks whether that process is still there.
"""

import hashlib
import os
import platform
import subprocess
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from nlft.runs.run_dir import RunDir

EVERY_SECONDS = 10.0  # between two signs; each is a small file
SILENT_SECONDS = 60.0  # without a sign, a process that this machine cannot see counts as dead


class Heartbeat:
    """Writes the sign of life while a training runs. A disk error is passed over: the next sign may find room."""

    def __init__(self, run: RunDir, command: str | None = None) -> None:
        """
        Args:
            command: what the user types to go on if the training ends early; None if it was started from Python.
        """
        self.run = run
        self.step = 0  # optimizer steps so far; the trainer counts them up
        self._about = {**this_process(), "command": command, "folder": os.getcwd()}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, step: int) -> None:
        """Write the first sign, and go on in a thread."""
        self.step = step
        self._over.clear()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the last sign."""
        if self._thread is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            self._write()

    def _beat(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self._write()

    def _write(self) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with suppress(OSError):  # the log of events warns of a full disk
            self.run.write_heartbeat({"time": now, "step": self.step, **self._about})


def this_process() -> dict[str, Any]:
    """Return what names this process: its number, when it started, and where its number counts."""
    return {"pid": os.getpid(), "started": _started(os.getpid()), "machine": machine()}


def is_alive(beat: dict[str, Any], now: float | None = None) -> bool:
    """Return whether the process that wrote a sign of life still runs.

    Another process may have its number by now, so the start time must match too.

    Args:
        beat: content of heartbeat.json.
        now: seconds since 1970; by default, the current time.
    """
    if beat.get("machine") != machine() or beat.get("started") is None:  # Windows does not tell a start time
        return silence(beat, now) < SILENT_SECONDS
    started = _started(int(beat.get("pid") or 0))
    return started is not None and started == beat.get("started")


def silence(beat: dict[str, Any], now: float | None = None) -> float:
    """Return the seconds since a sign of life."""
    try:
        written = datetime.fromisoformat(str(beat.get("time"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return float("inf")
    return (time.time() if now is None else now) - written


@cache
def machine() -> str:
    """Return a name of this machine since its last start, and of the container whose processes we see.

    It is a hash, because a run directory may be published.
    """
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # not Linux
        pass
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str | None:
    """Return when a process started, in the system's own form; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # an ended process whose parent has not asked about it
    except OSError:
        pass
    if Path("/proc/self/stat").exists() or pid <= 0 or os.name == "nt":
        return None
    command, one_form = ["ps", "-o", "lstart=", "-p", str(pid)], {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, env=one_form)
    except OSError:  # there is no ps
        return None
    return found.stdout.strip() or None
