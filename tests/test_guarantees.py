"""docs/GUARANTEES.md: every promise names a test and a mutant that exist."""

import ast
import re
from pathlib import Path

import pytest

from mutation.lists import named_mutants

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+) \| `(tests/test_\w+\.py)::(test_\w+)` \| ([^|]+) \|$", re.MULTILINE)
TEXT = (ROOT / "docs" / "GUARANTEES.md").read_text(encoding="utf-8")
PROMISES = ROW.findall(TEXT)


def test_every_row_is_a_promise_with_its_test_and_its_mutant() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith(("|---", "| promise"))]
    assert len(rows) == len(PROMISES) >= 20
    assert len({promise for promise, *_ in PROMISES}) == len(PROMISES)


@pytest.mark.parametrize(("promise", "file", "test", "mutant"), PROMISES, ids=[row[3] for row in PROMISES])
def test_its_test_and_its_mutant_exist(promise: str, file: str, test: str, mutant: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions.count(test) == 1
    named = {one.name: one for one in named_mutants(ROOT)}
    assert mutant in named
    assert file in named[mutant].tests
