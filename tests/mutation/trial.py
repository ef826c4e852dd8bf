"""Try mutants in a copy of the project: change one place, run tests, put it back."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mutation.mutator import Mutant

LEFT_OUT = (".git", ".venv", "demo", "__pycache__", ".*_cache", "*.egg-info", "node_modules", "build", "dist")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", "-r", "N")


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

    def notices(self, mutant: Mutant, tests: Sequence[str]) -> bool:
        """Return whether any of the tests fails with the mutant, or takes much longer than without it.

        Raises:
            BrokenTrial: the tests do not pass without the mutant.
        """
        usual = self.baseline(tests)
        with self.changed(mutant):
            return self._run(tests, 60 + 4 * usual) != 0

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
        """Run tests. Return pytest's exit code, or -1 after `limit` seconds."""
        environment = {**os.environ, "PYTHONPATH": str(self.root / "src"), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *OPTIONS, *tests],
            cwd=self.root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return -1
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # tests start processes of their own
                process.wait()


def check_source(copy: Copy) -> None:
    """Make sure that the tests of the copy import the copy.

    Raises:
        BrokenTrial: they import another tree, in which no mutant would be noticed.
    """
    code = "import nlft; print(nlft.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(copy.root / "src")}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.strip()
    if not found.startswith(str(copy.root)):
        raise BrokenTrial(f"nlft is imported from {found}, and not from the copy in {copy.root}")


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
