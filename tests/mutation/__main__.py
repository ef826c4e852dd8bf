"""Apply mutants to a copy of the project, one at a time, run tests, and print those that no test notices.

    make mutants N=200 SEED=0

First the named mutants of named.yaml, of which none may survive; then N that are drawn by SEED, of which one in twenty
may. Exit code 1: too many survive. Exit code 2: a mutant cannot be applied, or tests fail without any mutant.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from mutation.lists import PROJECT, drawn_mutants, named_mutants
from mutation.mutator import Mutant
from mutation.trial import BrokenTrial, Copy, check_source

MOST_SURVIVORS = 0.05


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
            drawn = _try_drawn(copy, given.drawn, given.seed, given.start)
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


def _try_drawn(copy: Copy, count: int, seed: int, start: int) -> float:
    """Return the share of survivors."""
    chosen = drawn_mutants(count, seed, copy.root)[start:]
    if not chosen:
        return 0.0
    survivors = []
    for number, (mutant, near) in enumerate(chosen, start):
        if not _noticed(copy, mutant, near.tests, near.wider, f"drawn {number}, {mutant.kind}"):
            before, after = mutant.lines((copy.root / mutant.file).read_bytes())
            survivors.append(f"{mutant.file}:{mutant.line} ({mutant.kind})\n    - {before}\n    + {after}")
    share = len(survivors) / len(chosen)
    print(f"drawn mutants: {len(survivors)} of {len(chosen)} survive", *survivors, sep="\n  ")
    print(f"that is {share:.1%}; at most {MOST_SURVIVORS:.0%} may", flush=True)
    return share


def _noticed(copy: Copy, mutant: Mutant, tests: tuple[str, ...], wider: tuple[str, ...], what: str) -> bool:
    began = time.monotonic()
    found = copy.notices(mutant, tests) or next(filter(None, (copy.notices(mutant, (one,)) for one in wider)), "")
    verdict = {"": "SURVIVES", "failed": "noticed", "slow": "too slow"}[found]
    print(f"{verdict:8} {mutant.file}:{mutant.line} ({what}; {time.monotonic() - began:.0f} s)", flush=True)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
