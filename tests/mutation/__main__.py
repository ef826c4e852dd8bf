"""Apply mutants to a copy of the project, one at a time, run tests, and print those that no test notices.

    make mutants N=200 SEED=0

First the named mutants of named.yaml, of which none may survive; then N that are drawn by SEED, of which one in twenty
may. Before the drawn ones, all tests run once, to find out which of them reach which line. That is kept for the next
time, as long as neither code nor tests change.

Exit code 1: too many survive. Exit code 2: a mutant cannot be applied, or tests fail without any mutant.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from mutation.lists import PROJECT, drawn_mutants, named_mutants
from mutation.mutator import Mutant
from mutation.reach import Reach, reach_of
from mutation.trial import BrokenTrial, Copy, check_source

MOST_SURVIVORS = 0.05
BUDGET = 90.0  # seconds of tests a mutant, twice: see Reach.tests
KEPT = ".mutants/reach.json"


def main(words: list[str], project: Path = PROJECT) -> int:
    """Run the command on a project. Return its exit code."""
    parser = argparse.ArgumentParser(prog="mutation", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--drawn", type=int, default=200, help="number of mutants to draw; 0: named ones only")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--start", type=int, default=0, help="number of the first drawn mutant to try, to go on")
    parser.add_argument("--named", default=None, help="try only those named ones that have this in their file or name")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        try:
            copy = Copy.of(project, Path(folder).resolve() / "project")
            check_source(copy)
            named = _try_named(copy, given.named)
            chosen = drawn_mutants(given.drawn, given.seed, copy.root)[given.start :]
            reach = reach_of(copy.root, project.resolve() / KEPT) if chosen else None
            drawn = _try_drawn(copy, chosen, reach, given.start) if reach else 0.0
        except BrokenTrial as error:
            print(f"ERROR: {error}", file=sys.stderr)
            return 2
    return int(bool(named) or drawn > MOST_SURVIVORS)


def _try_named(copy: Copy, only: str | None) -> list[str]:
    """Return the names of the survivors."""
    every = named_mutants(copy.root)
    chosen = [one for one in every if not only or only in f"{one.mutant.file} {one.name}"]
    survivors = []
    for number, one in enumerate(chosen, 1):
        if not _noticed(copy, one.mutant, one.tests, one.wider, f"named {number}/{len(chosen)}, {one.name}"):
            survivors.append(f"{one.mutant.file}: {one.name}")
    if chosen:
        print(f"named mutants: {len(survivors)} of {len(chosen)} survive", *survivors, sep="\n  ", flush=True)
    return survivors


def _try_drawn(copy: Copy, chosen: list[tuple[Mutant, tuple[str, ...]]], reach: Reach, start: int) -> float:
    """Return the share of survivors."""
    survivors = []
    for number, (mutant, near) in enumerate(chosen, start):
        began, source = time.monotonic(), (copy.root / mutant.file).read_bytes()
        tests = reach.tests(mutant, source, near, BUDGET)
        found = copy.noticed_by(mutant, tests, sum(reach.seconds[test] for test in tests))
        told = f"by {found}" if found else f"by none of {len(tests)} tests"
        _say(bool(found), mutant, f"drawn {number}, {mutant.kind}; {told}", began)
        if not found:
            before, after = mutant.lines(source)
            survivors.append(f"{mutant.file}:{mutant.line} ({mutant.kind})\n    - {before}\n    + {after}")
    share = len(survivors) / len(chosen)
    print(f"drawn mutants: {len(survivors)} of {len(chosen)} survive", *survivors, sep="\n  ")
    print(f"that is {share:.1%}; at most {MOST_SURVIVORS:.0%} may", flush=True)
    return share


def _noticed(copy: Copy, mutant: Mutant, tests: tuple[str, ...], wider: tuple[str, ...], what: str) -> bool:
    began = time.monotonic()
    found = copy.notices(mutant, tests) or next(filter(None, (copy.notices(mutant, (one,)) for one in wider)), "")
    _say(bool(found), mutant, f"{what}{', too slow' if found == 'slow' else ''}", began)
    return bool(found)


def _say(noticed: bool, mutant: Mutant, what: str, began: float) -> None:
    verdict = "noticed" if noticed else "SURVIVES"
    print(f"{verdict:8} {mutant.file}:{mutant.line} ({what}; {time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
