"""Read the lists of mutants and of each module's nearest tests."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import yaml

from mutation.mutator import Mutant, mutants_of, reads_otherwise
from mutation.trial import BrokenTrial, place_of

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Named:
    """A mutant that must be noticed.

    Attributes:
        name: what it does, in a few words.
        tests: the nearest tests, as arguments of pytest.
        wider: tests that run if those notice nothing.
    """

    name: str
    mutant: Mutant
    tests: tuple[str, ...]
    wider: tuple[str, ...]


def named_mutants(project: Path = PROJECT) -> list[Named]:
    """Read a project's named mutants.

    Raises:
        BrokenTrial: the text that a mutant changes does not stand in its file exactly once.
    """
    found, problems = [], []
    for entry in _listed(project, "named"):
        file = PurePosixPath(entry["file"])
        old, new = entry["old"].rstrip("\n"), entry["new"].rstrip("\n")
        try:
            mutant = place_of(file, _read(project, file), old, new, "named")
        except (BrokenTrial, OSError) as error:
            problems.append(f"{entry['name']}: {error}")
            continue
        found.append(Named(entry["name"], mutant, tuple(entry["tests"]), tuple(entry.get("wider", ()))))
    if problems:
        raise BrokenTrial("\n".join([*problems, "Write these mutants again in tests/mutation/named.yaml."]))
    return found


def modules(project: Path = PROJECT) -> dict[PurePosixPath, tuple[str, ...]]:
    """Return the modules in which mutants are drawn, with their tests. The first group that names a module has it.

    Raises:
        BrokenTrial: a group names a module that is not there.
    """
    found: dict[PurePosixPath, tuple[str, ...]] = {}
    for group in _listed(project, "nearest"):
        for pattern in group["modules"]:
            paths = sorted(path for path in project.glob(pattern) if path.name != "__init__.py")
            if not paths:
                raise BrokenTrial(f"nearest.yaml: there is no {pattern}")
            for path in paths:
                found.setdefault(PurePosixPath(path.relative_to(project).as_posix()), tuple(group["tests"]))
    return found


def drawn_mutants(count: int, seed: int, project: Path = PROJECT) -> list[tuple[Mutant, tuple[str, ...]]]:
    """Draw mutants from all that can be made, without those of equivalent.yaml. A larger count only adds to a draw.

    Raises:
        BrokenTrial: an entry of equivalent.yaml is not a mutant of its file.
    """
    sources = {file: _read(project, file) for file in modules(project)}
    every = [(m, near) for file, near in modules(project).items() for m in mutants_of(file, sources[file])]
    equal = {(e["file"], e["line"], e["becomes"]) for e in _listed(project, "equivalent")}
    lines = {id(m): (str(m.file), *m.lines(sources[m.file])) for m, _ in every}
    if stale := equal - set(lines.values()):
        raise BrokenTrial("\n".join(["equivalent.yaml has entries that are not mutants:", *map(str, sorted(stale))]))
    Random(seed).shuffle(every)
    chosen = (one for one in every if lines[id(one[0])] not in equal)
    return list(islice((one for one in chosen if reads_otherwise(one[0], sources[one[0].file])), count))


def _listed(project: Path, name: str) -> list[dict[str, Any]]:
    return yaml.safe_load((project / "tests" / "mutation" / f"{name}.yaml").read_text(encoding="utf-8")) or []


def _read(project: Path, file: PurePosixPath) -> bytes:
    return (project / file).read_bytes()
