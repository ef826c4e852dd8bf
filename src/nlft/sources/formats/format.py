"""What a reader of another tool's format declares."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.raw_records import RawRecord


@dataclass(frozen=True)
class Place:
    """Where a record stands.

    Attributes:
        where: file and place, for messages.
        id: the id for a record that has none: the file's name and the record's number.
        fields: the record as the tool wrote it.
        rating_words: the fields that hold words of ratings in every record that has them, good and bad ones. They are
            looked for only if the format is `flat`.
    """

    where: str
    id: str
    fields: dict[str, Any]
    rating_words: frozenset[str] = frozenset()

    def own_id(self, *names: str) -> str | int:
        """Return the first of the fields that is an id; or else the id of the place."""
        for name in names:
            value = self.fields.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                return value
        return self.id


def part(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a field that should be an object; an empty one if it is missing or something else."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def objects(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a field that should be a list of them."""
    value = fields.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


Reader = Callable[[Place, Columns], Iterator[RawRecord]]


@dataclass(frozen=True)
class Format:
    """Another tool's format.

    Attributes:
        name: as `--from` takes it.
        title: as messages and docs name it.
        keys: fields that each record has, or at least one of which it has if `any_key`.
        matches: whether a record that has the keys has the format's structure.
        read: yields a record's examples.
        flat: whether a task's own fields stand beside what people said, so that a word alone tells nothing.
        beside_ours: whether its records may have `prompt` and `completion`, as our own have.
        inside: returns the records of a file that is one object; None if the object is no such file.
    """

    name: str
    title: str
    keys: frozenset[str]
    matches: Callable[[Mapping[str, Any]], bool]
    read: Reader
    inside: Callable[[Mapping[str, Any]], list[dict[str, Any]] | None] = lambda fields: None
    any_key: bool = False
    flat: bool = False
    beside_ours: bool = False

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Return whether a record is of this format."""
        has = any(key in fields for key in self.keys) if self.any_key else self.keys <= fields.keys()
        return has and self.matches(fields)
