"""Record once which tests reach which lines, so that a mutant runs only tests that can notice it."""

import ast
import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutation.mutator import Mutant

# They compare documents with defaults and ranges, which run on import and so are reached by no test.
OF_TABLES = ("tests/test_config.py", "tests/test_architecture.py", "tests/test_docs.py", "tests/test_api.py")


@dataclass(frozen=True)
class Reach:
    """What each passed test takes and reaches.

    Attributes:
        seconds: of each passed test, by its id.
        lines: of each module, by its path: the ids of the tests that reach a line, by its number.
    """

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]

    def tests(self, mutant: Mutant, source: bytes, near: Sequence[str], budget: float) -> list[str]:
        """Return tests that reach the mutant's place: those of the nearest files first, then the quickest.

        Args:
            source: the module without the mutant.
            near: files of tests that are about the module.
            budget: seconds that the tests of the nearest files, and then those of the others, may take.
        """
        reached = self.lines.get(str(mutant.file), {})
        about = {test for test in self.seconds if test.split("::")[0] in near}
        by_place = [
            {test for line in lines for test in reached.get(line, ()) if test in self.seconds}
            for lines in _places(mutant, source)
        ]
        found = next(filter(None, by_place), set[str]())
        if not by_place[0] or _runs_on_import(mutant, source):
            about |= {test for test in self.seconds if test.split("::")[0] in OF_TABLES}
            found |= about
        return [*self._within(found & about, budget), *self._within(found - about, budget)]

    def _within(self, tests: set[str], budget: float) -> list[str]:
        chosen, taken = [], 0.0
        for test in sorted(tests, key=lambda one: (self.seconds[one], one)):
            taken += self.seconds[test]
            if chosen and taken > budget:
                break
            chosen.append(test)
        return chosen


def _places(mutant: Mutant, source: bytes) -> Iterator[range]:
    """Yield the lines of the mutant's statement, and of what holds it, up to the whole module.

    What runs on import, such as a constant or a default, is reached by no test: those that reach its class or module
    are tried.
    """
    holding = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.stmt) and node.lineno <= mutant.line <= (node.end_lineno or node.lineno)
    ]
    for node in sorted(holding, key=lambda one: (one.end_lineno or one.lineno) - one.lineno):
        yield range(node.lineno, (node.end_lineno or node.lineno) + 1)
    yield range(1, source.count(b"\n") + 2)


def _runs_on_import(mutant: Mutant, source: bytes) -> bool:
    """Return whether a place is in no function's body, also if a test was the first to import its module."""
    functions = (one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
    return not any(one.body[0].lineno <= mutant.line <= (one.end_lineno or 0) for one in functions)


class _Times:
    """A plugin of pytest that adds up what each test takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:  # failed, or skipped
            self.failed.add(report.nodeid)


def reach_of(root: Path, kept: Path) -> Reach:
    """Return the reach of a project's tests: from `kept` if that was recorded for the same code, else run them all."""
    digest = _digest(root)
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["digest"] == digest:
        lines = {file: {int(line): tests for line, tests in of.items()} for file, of in found["lines"].items()}
        return Reach(found["seconds"], lines)
    kept.parent.mkdir(parents=True, exist_ok=True)
    passed = kept.with_suffix(".seconds.json")
    paths = os.pathsep.join(map(str, (root / "src", root / "tests", Path(__file__).resolve().parents[1])))
    subprocess.run(
        [sys.executable, "-m", "mutation.reach", str(passed)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    seconds = json.loads(passed.read_text(encoding="utf-8"))
    reach = Reach(seconds, _lines(root))
    kept.write_text(json.dumps({"digest": digest, "seconds": seconds, "lines": reach.lines}), encoding="utf-8")
    return reach


def _digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for folder in ("src", "tests") for path in (root / folder).rglob("*.py")):
        found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def _lines(root: Path) -> dict[str, dict[int, list[str]]]:
    data = importlib.import_module("coverage").CoverageData(str(root / ".coverage"))
    data.read()
    found = {}
    for name in data.measured_files():
        by_line = data.contexts_by_lineno(name)
        file = Path(name).resolve().relative_to(root.resolve()).as_posix()
        found[file] = {line: sorted({one.split("|")[0] for one in tests if one}) for line, tests in by_line.items()}
    return found


def main(words: list[str]) -> int:
    """Run all tests of the project in the working directory, and write the seconds of those that pass to a file."""
    times = _Times()
    options = ["--cov=src/nlft", "--cov-context=test", "--cov-report=", "-q", "--numprocesses=2", "--dist=loadfile"]
    importlib.import_module("pytest").main([*options, "--no-loadscope-reorder"], plugins=[times])
    passed = {test: round(taken, 3) for test, taken in times.seconds.items() if test not in times.failed}
    Path(words[0]).write_text(json.dumps(passed), encoding="utf-8")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
