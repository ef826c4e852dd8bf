"""Read records from any file or dataset that users have: the one place where records come in."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from nlft.errors import UserError, display_path
from nlft.sources.arrow import Wanted, read_hub, read_parquet
from nlft.sources.columns import AS_NAMED, Columns, field_named
from nlft.sources.excel import read_excel
from nlft.sources.formats.registry import TELLING, convert, find_format, has_format, unwrapped
from nlft.sources.raw_records import FIELDS, RawRecord, read_raw
from nlft.sources.renaming import as_ours, put_before_prompts
from nlft.sources.settings import ReadAs
from nlft.sources.tables import Table, read_messages
from nlft.sources.text_tables import read_text_table

_HUB_NAME = re.compile(
    r"(?P<path>\w[\w.-]*/[\w.-]+|\w[\w.-]*(?=:))(:(?P<config>[^:/\\\s]*))?"
    r"(:(?P<split>[^:/\\\s\[\]]+(\[[\d:%-]+\])?))?"  # may have a slice, as in `datasets`: test[:100]
)
_FILE_ENDINGS = (
    *(".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".xlsx", ".xls", ".ods"),
    *(".txt", ".arrow", ".gz", ".zip", ".yaml"),
)
_RECORD_ENDINGS = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".xlsx", ".gz")
_PLACES_SHOWN = 5


@dataclass(frozen=True)
class Source:
    """The records of a file or a dataset.

    Attributes:
        name: its name in messages.
        stem: first part of the ids that records without an id get. The second part is their place: `train-17`.
        is_table: whether all records have the same columns. Then every row may have the same problem.
        told: what the user must know about how it was read.
        format: the name of another tool's format, as `--from` takes it; None: a table, or our own records.
        typed: its name as a command takes it; empty: the same as `name`.
    """

    name: str
    stem: str
    records: list[RawRecord]
    is_table: bool = False
    told: Sequence[str] = field(default=())
    format: str | None = None
    typed: str = ""

    def telling(self, *lines: str) -> "Source":
        """Return the source with more lines that the user must know."""
        return replace(self, told=[*self.told, *lines])

    def usable(self) -> list[RawRecord]:
        """Return the records that can be examples."""
        return [record for record in self.records if not record.unused]

    def passed_over(self) -> list[str]:
        """Return what was not used, by reason: `not used: 3 x no label (rows 4, 7, 9)`."""
        unused = [(record.unused, record) for record in self.records if record.unused]
        partly = [(reason, record) for record in self.usable() for reason in record.left_out]
        return [*_counted("not used", unused), *_counted("left out", partly)]


def is_file_name(name: str, *, records: bool = False) -> bool:
    """Return whether a name ends like a file's, and not like a folder's or a dataset's.

    Args:
        records: only names of files that may hold records.
    """
    return name.lower().endswith(_RECORD_ENDINGS if records else _FILE_ENDINGS)


def read_source_as(source: str | Path, reading: ReadAs, needed: Collection[str] | None = None) -> Source:
    """Read a file or a dataset as `read_source` does, in the way that the settings say."""
    columns = Columns.parse(reading["columns"], if_there=reading.get("if_there", False))
    return read_source(source, needed, columns, reading["from_format"])


def read_source(
    source: str | Path,
    needed: Collection[str] | None = None,
    columns: Columns = AS_NAMED,
    from_format: str | None = None,
) -> Source:
    """Read a table, a JSON file, another tool's export, or a dataset such as `openai/gsm8k:main:train`.

    If both a path and a dataset have that name, read the path. docs/IMPORT.md describes what is read.

    Args:
        needed: read only these fields of a table, if it has them; None reads all.
        columns: which column is which field, where the names do not say it.
        from_format: the tool's format, where the structure does not say it.

    Raises:
        RecordsError: the file cannot be read. A problem with a single record is stored in that record instead.
        UserError: the dataset, its configuration or its split does not exist or cannot be reached; or it is not clear
            what the file is or which column is which.
    """
    # Windows turns the slash of a dataset's name into a backslash when the name becomes a path.
    named = source.as_posix() if isinstance(source, PurePath) else source
    path, hub = Path(source), _HUB_NAME.fullmatch(named)

    def wanted(names: list[str]) -> Collection[str] | None:
        ours = {"prompt", "question", "instruction"} & set(names) and not TELLING & set(names)
        before = {name for name in names if name == "history" or field_named(name) == "system"}
        return {*needed, *before} if ours and needed is not None and not columns.given else None

    if hub and not path.exists() and not path.name.lower().endswith(_FILE_ENDINGS):
        typed, (name, split, records) = named, read_hub(named, hub["path"], hub["config"] or None, hub["split"], wanted)
        stem, table, is_table = f"{hub['path'].rpartition('/')[2]}-{split}", Table(records, []), True
    else:
        typed = name = display_path(path)
        stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
        table, is_table = _read_file(path, name, wanted, columns)
    found = Source(name, stem, table.records, is_table, table.told, typed=typed)
    return _understood(found, needed, columns, from_format)


def _read_file(path: Path, name: str, wanted: Wanted, columns: Columns) -> tuple[Table, bool]:
    """Return a file's records, and whether it is a table."""
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return read_text_table(path, name, columns), True
    if ending == ".xlsx":
        return read_excel(path, name, columns), True
    if ending == ".parquet":
        return Table(read_parquet(path, name, wanted), []), True
    return Table(list(read_raw(path)), []), False


def _understood(source: Source, needed: Collection[str] | None, columns: Columns, from_format: str | None) -> Source:
    """Return the source with its records as ours: another tool's are converted, other names are replaced.

    Raises:
        UserError: several formats fit, or the given one does not.
    """
    if from_format and columns.if_there and not has_format(source.name, source.records, from_format):
        source, from_format = source.telling(f"--from {from_format}: not this file's format"), None
    source = replace(source, records=unwrapped(source.name, source.records, from_format))
    words = source.typed or source.name
    found = find_format(source.name, source.records, from_format, is_table=source.is_table, typed=words)
    if found:
        converted = list(convert(found, source.records, source.stem, columns))
        rating = columns.given.get("label")
        if rating is not None and not any("label" in record.fields for record in converted):
            if columns.if_there:
                lacking = f"--columns: this file has no rating {rating!r}"
                return _understood(source.telling(lacking), needed, columns.without_label(), from_format)
            raise UserError(
                f"{source.name}: --columns takes the rating from {rating!r}, but no record has a rating of that name.\n"
                "  Correct the name, or leave it out: then the command lists what it did not use."
            )
        source = source.telling(f"read as {found.title} (--from {found.name})")
        return replace(source, records=converted, format=found.name)
    source = renamed(source, columns, needed)
    if source.is_table and needed is not None:  # a table of questions has columns that no one asked for
        for record in source.records:
            record.fields = {k: v for k, v in record.fields.items() if k in needed or k in FIELDS}
    return source


def renamed(source: Source, columns: Columns = AS_NAMED, needed: Collection[str] | None = None) -> Source:
    """Return the source with our names for its fields, its messages as lists and its system prompts before the prompts.

    Args:
        needed: as `read_source` takes it; None: whole examples are asked for.

    Raises:
        UserError: a given column does not exist, or several columns may hold one field.
    """
    if not source.name.lower().endswith((".csv", ".tsv", ".xlsx")):  # the rows of these have our names already
        records, told = as_ours(source.name, source.records, columns, asked=needed is not None)
        source = replace(source.telling(*told), records=records)
    for record in source.records if source.is_table else ():
        read_messages(record)
    put_before_prompts(source.records, needed or ())
    return source


def _counted(what: str, reasons: Sequence[tuple[str | None, RawRecord]]) -> list[str]:
    """Return a line per reason, with the number of records and the first places."""
    places: dict[str, list[str]] = {}
    for reason, record in reasons:
        places.setdefault(str(reason), []).append(record.where)
    lines = []
    for reason, found in places.items():
        at = list(dict.fromkeys(re.split(r"[: ]", where)[-1] for where in found))
        unit = next((word for word in ("row", "record") if f" {word} " in found[0]), "line")
        more = f" and {len(at) - _PLACES_SHOWN:,} more" if len(at) > _PLACES_SHOWN else ""
        shown = ", ".join(at[:_PLACES_SHOWN])
        lines.append(f"{what}: {len(found):,} x {reason} ({unit}{'s' * (len(at) > 1)} {shown}{more})")
    return lines
