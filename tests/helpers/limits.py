"""Limits for code under test: CPU time, and the folder that it may write to."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

has_timers = hasattr(signal, "setitimer")  # Windows has no timers that stop a pattern


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the code inside once it has used so many seconds of CPU time."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds, 0.2)  # again, where a callback has swallowed the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class Writes:
    """Notices what this process writes. Python cannot take an audit hook back, so there is one, which is on or off."""

    _NAMES = ("os.rename", "os.link", "os.symlink", "os.mkdir", "os.rmdir", "os.remove", "os.truncate", "os.chmod")

    def __init__(self) -> None:
        self.seen: set[str] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.seen is None:
            return
        if event == "open":
            path, _, flags = args
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, str | bytes | os.PathLike):
                self.seen.add(os.fsdecode(path))
        elif event in self._NAMES:
            self.seen |= {os.fsdecode(path) for path in args[:2] if isinstance(path, str | bytes | os.PathLike)}

    @contextmanager
    def outside(self, folder: Path) -> Iterator[list[str]]:
        """Yield a list. At the end it has what was written outside the folder."""
        found: list[str] = []
        self.seen = set()
        try:
            yield found
        finally:
            seen, self.seen = self.seen, None
            home = os.path.realpath(folder)
            places = {os.path.realpath(path) for path in seen}
            found += sorted(p for p in places if p != home and not p.startswith((home + os.sep, "/dev/")))
