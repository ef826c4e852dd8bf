"""Read the lists of mutants and of each module's nearest tests."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from random import Random

import yaml

from mutation.mutator import Mutant, mutants_of
from mutation.trial import BrokenTrial, place_of

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]


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


@dataclass(frozen=True)
class Near:
    """The tests of a module: the nearest ones run first, the wider ones if those notice nothing."""

    tests: tuple[str, ...]
    wider: tuple[str, ...]


def named_mutants(project: Path = PROJECT, listed: Path = HERE / "named.yaml") -> list[Named]:
    """Read the named mutants.

    Raises:
        BrokenTrial: the text that a mutant changes does not stand in its file exactly once.
    """
    found, problems = [], []
    for entry in yaml.safe_load(listed.read_text(encoding="utf-8")):
        file = PurePosixPath(entry["file"])
        old, new = entry["old"].rstrip("\n"), entry["new"].rstrip("\n")
        try:
            mutant = place_of(file, (project / file).read_bytes(), old, new, "named")
        except (BrokenTrial, OSError) as error:
            problems.append(f"{entry['name']}: {error}")
            continue
        found.append(Named(entry["name"], mutant, tuple(entry["tests"]), tuple(entry.get("wider", ()))))
    if problems:
        raise BrokenTrial("\n".join([*problems, f"Write these mutants again in {listed.name}."]))
    return found


def modules(project: Path = PROJECT) -> dict[PurePosixPath, Near]:
    """Return the modules in which mutants are drawn, with their tests."""
    found = {}
    for group in yaml.safe_load((HERE / "nearest.yaml").read_text(encoding="utf-8")):
        near = Near(tuple(group["tests"]), tuple(group["wider"]))
        for pattern in group["modules"]:
            paths = sorted(path for path in project.glob(pattern) if path.name != "__init__.py")
            if not paths:
                raise BrokenTrial(f"nearest.yaml: there is no {pattern}")
            for path in paths:
                found.setdefault(PurePosixPath(path.relative_to(project).as_posix()), near)
    return found


def drawn_mutants(count: int, seed: int, project: Path = PROJECT) -> list[tuple[Mutant, Near]]:
    """Draw mutants from all that can be made, without those of equivalent.yaml, which change nothing.

    Raises:
        BrokenTrial: an entry of equivalent.yaml is no mutant of its file any more.
    """
    every = [(m, near) for file, near in modules(project).items() for m in mutants_of(file, _read(project, file))]
    equal = {(e["file"], e["line"], e["becomes"]) for e in yaml.safe_load((HERE / "equivalent.yaml").read_text()) or []}
    lines = {id(mutant): (str(mutant.file), *mutant.lines(_read(project, mutant.file))) for mutant, _ in every}
    if stale := equal - set(lines.values()):
        raise BrokenTrial("\n".join(["equivalent.yaml has entries that are no mutants any more:", *map(str, stale)]))
    Random(seed).shuffle(every)
    return [(mutant, near) for mutant, near in every if lines[id(mutant)] not in equal][:count]


def _read(project: Path, file: PurePosixPath) -> bytes:
    return (project / file).read_bytes()
