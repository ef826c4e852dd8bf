"""The rows of an attack on an early version, each tried again through the real commands or the real server.

A row asserts what must hold, and returns a few words on what it tried and found: today's column.
"""

import contextlib
import io
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nlft import cli


@dataclass(frozen=True)
class Place:
    """Where a row works.

    Attributes:
        folder: an empty folder.
        model: a tiny model with its tokenizer.
        shared: a folder for what several rows use.
    """

    folder: Path
    model: str
    shared: Path


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        before: what broke in the early version.
        attempt: tries it today.
        slow: whether it takes over ten seconds, so that only the long mode tries it.
    """

    number: int
    tried: str
    before: str
    attempt: Callable[[Place], str]
    slow: bool


ROWS: dict[int, Row] = {}


def row(number: int, tried: str, before: str, *, slow: bool = False) -> Callable[[Callable[[Place], str]], None]:
    """Make a function a row of the table."""

    def add(attempt: Callable[[Place], str]) -> None:
        assert number not in ROWS
        ROWS[number] = Row(number, tried, before, attempt, slow)

    return add


class Told(NamedTuple):
    """How a command ended, and all that it printed."""

    code: int
    text: str


def nlft(*words: object, seconds: float = 120) -> Told:
    """Run a command in this process. An exception that reaches this point is a traceback of the command."""
    told = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), limit(seconds):
        warnings.simplefilter("ignore")
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
    return Told(code, told.getvalue())


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the code inside after so many seconds: a command that hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"the command hangs: {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, timer[0])
        signal.signal(signal.SIGALRM, before)


def refused(told: Told, *names: str) -> None:
    """Assert that a command ended in a sentence with these names."""
    assert told.code in (1, 2), told
    assert "Traceback" not in told.text, told.text
    assert any(word in told.text for word in ("error:", "failed:", "problem")), told.text
    for name in names:
        assert name in told.text, (name, told.text[-1500:])


def child(work: Callable[[], int], log: Path) -> int:
    """Run the work in a process of its own. Return its number, which is its group's too.

    Signals end it, also where this process ignores them: a shell starts a command in the background without SIGINT, and
    nohup one without SIGHUP.
    """
    number = os.fork()
    if number:
        return number
    os.setpgid(0, 0)
    quiet = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.stdout = sys.stderr = os.fdopen(quiet, "w", buffering=1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)
    code = 99
    try:
        code = work()
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(number: int, seconds: float) -> tuple[int, float]:
    """Wait for a child. Return its exit code, negative for a signal, and the seconds that it took."""
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), time.monotonic() - start
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise AssertionError(f"still running after {seconds} s")
