"""Settings that say how the file of examples is read; no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NotRequired, TypedDict


class ReadAs(TypedDict):
    """How a file is read, as `read_examples` and `read_questions` take it."""

    columns: str | None
    from_format: str | None
    if_there: NotRequired[bool]


AS_IT_SAYS: ReadAs = {"columns": None, "from_format": None}
"""The file's names and structure say how it is read."""


@dataclass
class ReadingSettings:
    """How FILE is read."""

    rare: ClassVar[tuple[str, ...]] = ("columns", "from_format")

    columns: str | None = field(
        default=None,
        metadata={"help": "Columns whose names do not say it: prompt=Frage,completion=Text,label=stars:4."},
    )
    from_format: str | None = field(
        default=None, metadata={"aliases": ["--from"], "help": "Format of FILE, see docs/IMPORT.md. Also --from."}
    )

    def reading(self) -> ReadAs:
        """Return the settings as `read_examples` takes them."""
        return {"columns": self.columns, "from_format": self.from_format}

    def recorded(self) -> dict[str, str]:
        """Return what a run records of them: only what was given."""
        return {name: value for name, value in self.reading().items() if isinstance(value, str)}


def if_there(reading: ReadAs) -> ReadAs:
    """Return how a second file is read, such as `--test_file`: as FILE, where it has these columns and this format."""
    return {**reading, "if_there": True}


def recorded_reading(data: Mapping[str, Any]) -> ReadAs:
    """Return how a run has read its file of examples. `data`: the part of run.yaml that has this name."""
    return {"columns": data.get("columns"), "from_format": data.get("from_format")}
