"""Find the format of a file by its structure, and convert its records."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nlft.errors import UserError
from nlft.errors import typed as as_typed
from nlft.sources.columns import Columns, field_named
from nlft.sources.conversation import Unusable
from nlft.sources.formats import (
    argilla,
    label_studio,
    label_studio_min,
    langfuse,
    langsmith,
    messages,
    open_webui,
    openai_preference,
    pairs,
    promptfoo,
    sharegpt,
)
from nlft.sources.formats.format import Format, Place
from nlft.sources.label_words import is_number
from nlft.sources.opinions import unusable
from nlft.sources.raw_records import RawRecord

FORMATS: tuple[Format, ...] = (
    messages.FORMAT,
    openai_preference.FORMAT,
    pairs.FORMAT,
    sharegpt.FORMAT,
    argilla.FORMAT,
    label_studio.FORMAT,
    label_studio_min.FORMAT,
    promptfoo.FORMAT,
    langfuse.FORMAT,
    langsmith.FORMAT,
    open_webui.FORMAT,
)
_OURS = ({"prompt", "completion"}, {"instruction", "output"}, {"question", "ans"}, {"question", "answer_cot"})
_LOOKED_AT = 100  # records
TELLING = {key for known in FORMATS for key in known.keys if field_named(key) is None}
"""Names of columns that no table of ours has: a table with one of them is another tool's."""


def is_ours(fields: Mapping[str, Any]) -> bool:
    """Return whether a record is one of our examples, or the original project's."""
    return any(names <= fields.keys() for names in _OURS)


def named_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UserError: there is none.
    """
    for known in FORMATS:
        if known.name == name:
            return known
    raise UserError(f"--from {name}: is not a format.\n  Choose one of {', '.join(f.name for f in FORMATS)}.")


def unwrapped(name: str, records: list[RawRecord], from_format: str | None) -> list[RawRecord]:
    """Return the records of a file that is one object around them, as some tools write. Others stay as they are."""
    if len(records) != 1 or is_ours(records[0].fields):
        return records
    for known in (named_format(from_format),) if from_format else FORMATS:
        inside = known.inside(records[0].fields)
        if inside is not None:
            made = []
            for number, fields in enumerate(inside, start=1):
                made.append(RawRecord(f"{name} record {number}"))
                made[-1].set(fields)
            return made
    return records


def has_format(name: str, records: list[RawRecord], from_format: str) -> bool:
    """Return whether any record of the file has the structure of the format of that name."""
    known = named_format(from_format)
    looked_at = unwrapped(name, records, from_format)[:_LOOKED_AT]
    return any(known.fits(record.fields) for record in looked_at if record.fields)


def find_format(
    name: str,
    records: Sequence[RawRecord],
    from_format: str | None,
    *,
    is_table: bool = False,
    typed: str | None = None,
) -> Format | None:
    """Return the format of a file's records; None if they are ours, or a table.

    Args:
        is_table: the records are rows of a table, whose columns were recognised by their names.
        typed: the file's or dataset's name as a command takes it; None: the same as `name`.

    Raises:
        UserError: several formats fit, or the given one fits no record.
    """
    looked_at = [record.fields for record in records[:_LOOKED_AT] if record.fields]
    if from_format:
        known = named_format(from_format)
        if not any(known.fits(fields) for fields in looked_at):
            needs = (" or " if known.any_key else " and ").join(sorted(known.keys))
            raise UserError(
                f"{name}: no record has the structure of {known.title}, which has {needs}.\n"
                "  Leave out --from, or name another format."
            )
        return known
    if not looked_at:
        return None
    ours = is_ours(looked_at[0])
    fitting = [k for k in FORMATS if (not ours or (k.beside_ours and not is_table)) and k.fits(looked_at[0])]
    if len(fitting) > 1:
        titles = " or ".join(known.title for known in fitting)
        flags = " or ".join(f"--from {known.name}" for known in fitting)
        command = as_typed("nlft", "import", typed or name, "--out", "examples.jsonl")
        raise UserError(f"{name}: may be {titles}.\n  Say which: {command} {flags}.")
    return fitting[0] if fitting else None


def convert(known: Format, records: Sequence[RawRecord], stem: str, columns: Columns) -> Iterator[RawRecord]:
    """Yield our records of a format's records. One that cannot be used comes along, with the reason."""
    rating_words = _rating_words(records, columns) if known.flat else frozenset[str]()
    for number, record in enumerate(records, start=1):
        if record.problems or not record.fields:
            yield record
            continue
        if not known.fits(record.fields):
            yield unusable(record.where, f"not the structure of {known.title}")
            continue
        some = False
        try:
            for made in known.read(Place(record.where, f"{stem}-{number}", record.fields, rating_words), columns):
                some = True
                yield made
        except Unusable as error:
            rest = unusable(record.where, str(error))
            rest.repeats = some
            yield rest


def _rating_words(records: Sequence[RawRecord], columns: Columns) -> frozenset[str]:
    """Return the fields whose every text is a word for right or wrong, of which both occur.

    One such word alone may be anything: "male" is "badly" in Italian, and "up" a direction.
    """
    said: dict[str, set[bool | None]] = {}
    for record in records:
        for name, value in record.fields.items():
            if isinstance(value, str) and value.strip():
                said.setdefault(name, set()).add(None if is_number(value) else columns.label(value))
    return frozenset(name for name, labels in said.items() if labels == {True, False})
