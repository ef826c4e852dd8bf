"""Errors that a user can cause or meet. Each says what is wrong, where, and what to do.

Modules raise these errors. Only `cli.py` turns them into text and an exit code. `assert` is for our own mistakes.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

GROUPS_SHOWN = 5
LINES_SHOWN = 5


class NLFTError(RuntimeError):
    """Something failed, and our code is not at fault; exit code 1."""


class UserError(NLFTError, ValueError):
    """The user's input was wrong; exit code 2. The message says what is wrong, where, and what to type."""


@dataclass(frozen=True)
class Problem:
    """One problem of a file or of the settings.

    Attributes:
        where: file and, if known, line: `train.jsonl:41`; or the setting: `--learning_rate`.
        what: what is wrong, with the offending value where that helps.
        cure: what to do about it.
        field: the record's field, if the problem is about a field.
    """

    where: str
    what: str
    cure: str
    field: str | None = None

    def __str__(self) -> str:
        field = f'"{self.field}" ' if self.field else ""
        return f"{self.where}: {field}{self.what}\n  {self.cure}"


class ProblemsError(UserError):
    """Several problems in one error, so that one run of a command finds all of them.

    Attributes:
        problems: all problems. The message groups similar problems, and shows the first five groups.
    """

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        if len(self.problems) <= GROUPS_SHOWN:
            return _listed(self.problems)
        groups: dict[tuple[str, str | None, str, str], list[Problem]] = {}
        for problem in self.problems:
            file = problem.where.rpartition(":")[0]
            groups.setdefault((file, problem.field, _shape(problem.what), _shape(problem.cure)), []).append(problem)
        first = list(groups.values())[:GROUPS_SHOWN]
        lines = [f"{len(self.problems):,} problems of {len(groups):,} kind{'s' * (len(groups) > 1)}:"]
        lines += [_group(alike) for alike in first]
        if len(groups) > GROUPS_SHOWN:
            lines.append(f"and {len(groups) - GROUPS_SHOWN:,} more kinds of problem. Fix these first.")
        return "\n".join(lines)


class RecordsError(ProblemsError):
    """Examples or questions cannot be used. `problems` has the problems of all of them."""


class ConfigError(ProblemsError):
    """Settings cannot be used. The message lists every problem, because no two are similar."""

    def __str__(self) -> str:
        return _listed(self.problems)


def _listed(problems: list[Problem]) -> str:
    count = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    return "\n".join([*count, *map(str, problems)])


def _shape(text: str) -> str:
    """Return the text without numbers and quoted values. Two problems are similar if this is equal."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", text)


def _group(alike: list[Problem]) -> str:
    """Show the first problem in full, and the other places with the same problem."""
    others = [problem.where.rpartition(":")[2] for problem in alike[1:]]
    if not others:
        return str(alike[0])
    more = f" and {len(others) - LINES_SHOWN:,} more" if len(others) > LINES_SHOWN else ""
    are_lines = all(other.isdecimal() for other in others)
    lines = f"on line{'s' * (len(others) > 1)} " if are_lines else "in "
    others = others if are_lines else [problem.where for problem in alike[1:]]
    return f"{alike[0]}\n  The same {lines}{', '.join(others[:LINES_SHOWN])}{more}."


def printable(text: str) -> str:
    """Spell out control characters, marks that turn the text round, and half surrogate pairs.

    A message then shows what a file holds, and a terminal does not obey it.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def without_passwords(text: str) -> str:
    """Cut user names, passwords and tokens out of the addresses in a text, such as `https://user:password@host`."""
    return re.sub(r"""://[^\s/?#"'<>]+@""", "://", text)


def display_path(path: Path | str) -> str:
    """Return the path as a user would type it in the current folder: relative if that is shorter."""
    path = Path(path)
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError, RuntimeError):  # elsewhere; no current folder; a loop of symbolic links
        return str(path)
    return str(relative)


def typed(*words: str | Path) -> str:
    """Return a command as a user would type it: quoted for the shell, and each `Path` as it is shown here."""
    return shlex.join(display_path(word) if isinstance(word, Path) else word for word in words)
