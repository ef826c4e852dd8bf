"""Errors that a user can cause or meet. Each says what is wrong, where, and what to do.

Modules raise these. Only `cli.py` turns them into text and an exit code. `assert` is for our own mistakes.
"""

import re
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
    """One thing that is wrong with a file or with the settings.

    Attributes:
        where: file and, if known, line: `train.jsonl:41`; or the setting: `--learning_rate`.
        what: what is wrong, with the offending value where that helps.
        cure: what to do about it.
        field: the record's field, if it is about one.
    """

    where: str
    what: str
    cure: str
    field: str | None = None

    def __str__(self) -> str:
        field = f'"{self.field}" ' if self.field else ""
        return f"{self.where}: {field}{self.what}\n  {self.cure}"


class ProblemsError(UserError):
    """Several problems, reported at once, so that one run of a command is enough to find them all.

    Attributes:
        problems: all of them. The message groups problems that are alike, and shows the first five groups.
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
    """Examples or questions that cannot be used: the problems of all of them."""


class ConfigError(ProblemsError):
    """Settings that cannot be used. The message lists every one: no two of them are alike."""

    def __str__(self) -> str:
        return _listed(self.problems)


def _listed(problems: list[Problem]) -> str:
    count = [f"{len(problems)} problems:"] if len(problems) > 1 else []
    return "\n".join([*count, *map(str, problems)])


def _shape(text: str) -> str:
    """The text without numbers and quoted values: two problems of one shape are alike."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "*", text)


def _group(alike: list[Problem]) -> str:
    """The first problem in full, and where else it occurs."""
    others = [problem.where.rpartition(":")[2] for problem in alike[1:]]
    if not others:
        return str(alike[0])
    more = f" and {len(others) - LINES_SHOWN:,} more" if len(others) > LINES_SHOWN else ""
    return f"{alike[0]}\n  The same on line{'s' * (len(others) > 1)} {', '.join(others[:LINES_SHOWN])}{more}."


def display_path(path: Path | str) -> str:
    """The path as the user would type it from here: relative where that is shorter."""
    path = Path(path)
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative)
