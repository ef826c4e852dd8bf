"""Try mutants in a copy of the project: change one place, run tests, put it back."""

import importlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mutation.mutator import Mutant

LEFT_OUT = (".git", ".venv", "demo", "__pycache__", ".*_cache", "*.egg-info", "node_modules", "build", "dist")
TIMED_OUT = -1
FAILED = 99
FAILURES = "failed-test.txt"
# Imported once, by the process that each run of tests is a fork of: they take longer than most tests.
LIBRARIES = ("torch", "transformers", "peft", "trl", "datasets", "pytest")
OPTIONS = (
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "--no-header",
    "--tb=line",
    "-r",
    "N",
)


class BrokenTrial(Exception):
    """The trial itself cannot be made: the message says what to repair."""


@dataclass
class Copy:
    """A copy of the project in which mutants are tried, one at a time.

    Attributes:
        baselines: the tests that have passed without a mutant, and the seconds that they took.
    """

    root: Path
    baselines: dict[tuple[str, ...], float] = field(default_factory=dict)
    _times: int = 0

    @classmethod
    def of(cls, project: Path, root: Path) -> "Copy":
        """Copy a project to `root`, which must not exist."""
        shutil.copytree(project, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        return cls(root)

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Hold the mutant in the copy, and put the module back as it was."""
        path = self.root / mutant.file
        original = path.read_bytes()
        try:
            self._write(path, mutant.applied(original))
            yield
        finally:
            self._write(path, original)

    def _write(self, path: Path, content: bytes) -> None:
        # Python takes a compiled module for fresh if size and time in seconds are those of the source. Mutants often
        # have the size of the original and follow each other within a second, so each gets a time of its own.
        path.write_bytes(content)
        self._times += 1
        moment = 1_000_000_000 + self._times
        os.utime(path, (moment, moment))

    def notices(self, mutant: Mutant, tests: Sequence[str]) -> str:
        """Return how the tests notice the mutant: `failed`, or `slow` if they took much longer. Empty: they do not.

        On a busy machine `slow` may be the machine's fault: try such a mutant again.

        Raises:
            BrokenTrial: the tests do not pass without the mutant.
        """
        usual = self.baseline(tests)
        with self.changed(mutant):
            code = self._run(tests, 60 + 4 * usual)
        return "" if code == 0 else "slow" if code == TIMED_OUT else "failed"

    def noticed_by(self, mutant: Mutant, tests: Sequence[str], usual: float) -> str:
        """Return the test that notices the mutant, or what else shows it: `slow`, `not collected`. Empty: none does.

        A test that fails without the mutant as well notices nothing.

        Args:
            tests: ids of tests that have passed without the mutant.
            usual: the seconds that they took.
        """
        rest = list(tests)
        while rest:
            (self.root / FAILURES).unlink(missing_ok=True)  # a run that was stopped may have left one
            with self.changed(mutant):
                code = self._run(rest, 60 + 4 * usual)
            if code in (0, TIMED_OUT):
                return "slow" if code == TIMED_OUT else ""
            failed = self._failed()
            if self._run([failed] if failed else rest[:1], 600) == 0:
                return failed or "not collected"
            rest = rest[rest.index(failed) + 1 :] if failed in rest else []
        return ""

    def _failed(self) -> str:
        """Return the test at which the last run stopped; empty: it did not come so far."""
        path = self.root / FAILURES
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def baseline(self, tests: Sequence[str]) -> float:
        """Return how many seconds the tests take without a mutant.

        Raises:
            BrokenTrial: they do not pass.
        """
        key = tuple(tests)
        if key not in self.baselines:
            began = time.monotonic()
            code = self._run(tests, 3600)
            if code != 0:
                raise BrokenTrial(f"without any mutant, pytest ends with {code}: {' '.join(tests)}")
            self.baselines[key] = time.monotonic() - began
        return self.baselines[key]

    def _run(self, tests: Sequence[str], limit: float) -> int:
        """Run tests. Return pytest's exit code, or TIMED_OUT after `limit` seconds."""
        return _in_child(self.root, lambda: _pytest([*OPTIONS, *tests]), limit)


def check_source(copy: Copy) -> None:
    """Make sure that the tests of the copy import the copy.

    Raises:
        BrokenTrial: they import another tree, in which no mutant would be noticed.
    """
    if _in_child(copy.root, lambda: int(not _imported_from().is_relative_to(copy.root)), 600) != 0:
        raise BrokenTrial(f"nlft is not imported from the copy in {copy.root}")


def _imported_from() -> Path:
    return Path(importlib.import_module("nlft").__file__ or "").resolve()


def _pytest(words: Sequence[str]) -> int:
    return int(importlib.import_module("pytest").main(list(words), plugins=[_Failures(Path.cwd())]))


class _Failures:
    """A plugin of pytest that writes down which test failed. Tests may leave the folder, so it is given."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FAILURES

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.path.write_text(report.nodeid, encoding="utf-8")


def _in_child(root: Path, work: Callable[[], int], limit: float) -> int:
    """Do work in a child process that imports the copy. Return its result, or TIMED_OUT after `limit` seconds.

    The child is a fork of this process, which has imported the large libraries once, and nothing of nlft.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    child = os.fork()
    if child == 0:
        try:
            _become(root)
            os._exit(work())
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(FAILED)
    ended = time.monotonic() + limit
    while time.monotonic() < ended:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    try:
        os.killpg(child, signal.SIGKILL)  # tests start processes of their own
    except ProcessLookupError:  # it has not yet become the head of a group
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMED_OUT


def _become(root: Path) -> None:
    """Make this process one that works in the copy, in silence."""
    os.setsid()
    os.chdir(root)
    sys.path[:0] = [str(root / "src"), str(root / "tests")]
    os.environ |= {"PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1"}
    for name in [name for name in sys.modules if name.split(".")[0] in ("nlft", "helpers", "mutation")]:
        del sys.modules[name]
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)


def place_of(file: PurePosixPath, source: bytes, old: str, new: str, kind: str) -> Mutant:
    """Make the mutant that puts `new` in the place of `old`, which must stand in the module once.

    Raises:
        BrokenTrial: it does not, so the mutant has to be written again.
    """
    count = source.count(old.encode())
    if count != 1:
        raise BrokenTrial(f"{file}: the text to change stands there {count} times instead of once:\n{old}")
    start = source.index(old.encode())
    return Mutant(file, source[:start].count(b"\n") + 1, start, start + len(old.encode()), new, kind)
