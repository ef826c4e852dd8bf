"""What can go wrong for a user, each with where it is and how to mend it.

Modules raise these; only `cli.py` turns them into text and an exit code. `assert` is kept for our own mistakes.
"""

from dataclasses import dataclass
from pathlib import Path


class NLFTError(Exception):
    """Something failed that is not a programming error of ours; exit code 1."""


class UserError(NLFTError):
    """The user's input was wrong; exit code 2. The message says what, where and how to mend it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a file or with the settings.

    Attributes:
        where: file and, if known, line: `train.jsonl:41`; or the setting: `--mistake_ratio`.
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
    """Several problems, reported at once: mending one only to meet the next wastes the user's afternoon."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}:\n"
        super().__init__((count if len(problems) > 1 else "") + "\n".join(str(p) for p in problems))


class RecordsError(ProblemsError):
    """Examples that cannot be used, every one of them."""


class ConfigError(ProblemsError):
    """Settings that cannot be used, every one of them."""


def display_path(path: Path | str) -> str:
    """The path as the user would type it from here: relative where that is shorter."""
    path = Path(path)
    try:
        relative = path.resolve().relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative)
