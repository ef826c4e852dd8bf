"""Read records from JSON files, parquet files, and datasets with a Hugging Face name."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlft.data.raw_records import UNREADABLE_CURE, RawRecord, read_raw
from nlft.errors import Problem, RecordsError, UserError, display_path
from nlft.files import refuse_waiting_file

_HUB_NAME = re.compile(
    r"(?P<path>\w[\w.-]*/[\w.-]+|\w[\w.-]*(?=:))(:(?P<config>[^:/\\\s]*))?"
    r"(:(?P<split>[^:/\\\s\[\]]+(\[[\d:%-]+\])?))?"  # may have a slice, as in `datasets`: test[:100]
)
_FILE_ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zip", ".yaml")
_HUB_CURE = "Write owner/name:config:split, for example openai/gsm8k:main:train, or give a file."


@dataclass(frozen=True)
class Source:
    """The records of a file or a dataset.

    Attributes:
        name: its name in messages.
        stem: first part of the ids that records without an id get. The second part is their place: `train-17`.
        is_table: whether all records have the same columns. Then every row may have the same problem.
    """

    name: str
    stem: str
    records: list[RawRecord]
    is_table: bool = False


def read_source(source: str | Path, columns: Collection[str] | None = None) -> Source:
    """Read a `.jsonl`, `.json` or `.parquet` file, or a dataset such as `openai/gsm8k:main:train`.

    If both a path and a dataset have that name, read the path.

    Args:
        columns: read only these columns of a table, if it has them; None reads all.

    Raises:
        RecordsError: the file cannot be read. A problem with a single record is stored in that record instead.
        UserError: the dataset, its configuration or its split does not exist or cannot be reached.
    """
    path, hub = Path(source), _HUB_NAME.fullmatch(str(source))
    if hub and not path.exists() and not path.name.lower().endswith(_FILE_ENDINGS):
        return _read_hub(str(source), hub["path"], hub["config"] or None, hub["split"], columns)
    name = display_path(path)
    if path.suffix.lower() == ".parquet":
        return Source(name, path.stem, _records(name, _parquet_rows(path, name, columns)), is_table=True)
    return Source(name, path.stem, list(read_raw(path)))


def _parquet_rows(path: Path, name: str, columns: Collection[str] | None) -> Iterator[Any]:
    """Yield the file's rows as batches (`pyarrow.RecordBatch`)."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        refuse_waiting_file(path)
        with path.open("rb") as file:
            table = parquet.ParquetFile(file)
            yield from table.iter_batches(columns=_present(table.schema_arrow.names, columns))
    except pa.ArrowException as error:
        problem = Problem(name, f"is not parquet: {_on_one_line(error)}", "Write it again, or convert it to .jsonl.")
    except OSError as error:
        problem = Problem(name, f"cannot be read: {error.strerror or _on_one_line(error)}.", UNREADABLE_CURE)
    else:
        return
    raise RecordsError([problem])


def _read_hub(given: str, path: str, config: str | None, split: str | None, columns: Collection[str] | None) -> Source:
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetsError

    try:
        # Never trust_remote_code: a dataset is data.
        data = load_dataset(path, config, split=split)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        what = "no file has that name, and the dataset of that name cannot be loaded"
        raise UserError(f"{given}: {what}: {_on_one_line(error)}\n  {_cure(error)}") from error
    if isinstance(data, DatasetDict):
        if len(data) != 1:
            named = ", ".join(f"{path}:{config or ''}:{name}" for name in data)
            raise UserError(f"{given}: this dataset has several splits.\n  Name one: {named}.")
        split, data = next(iter(data.items()))
    name = f"{path}[{split}]"
    data = data.select_columns(_present(data.column_names, columns)).with_format("arrow")
    return Source(name, f"{path.rpartition('/')[2]}-{split}", _records(name, data.iter(1000)), is_table=True)


def _cure(error: Exception) -> str:
    """Tell the user what to do about a dataset that did not load. Offline, it may be missing from the cache."""
    from datasets.config import HF_HUB_OFFLINE

    if isinstance(error, OSError) and HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only cached datasets can be read. Unset it, or give a file."
    return _HUB_CURE


def _present(names: Iterable[str], columns: Collection[str] | None) -> list[str]:
    return [name for name in names if columns is None or name in columns]


def _on_one_line(error: Exception) -> str:
    """Join the lines of a library's message, and shorten it to 400 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def _records(name: str, batches: Iterable[Any]) -> list[RawRecord]:
    """Make one record per row. Drop nulls: a table has no other way to omit a field."""
    records: list[RawRecord] = []
    for batch in batches:
        for at in range(batch.num_rows):
            record = RawRecord(f"{name} row {len(records) + 1}")
            try:
                row = batch.slice(at, 1).to_pylist()[0]
                record.set({name: _without_nulls(value) for name, value in row.items() if value is not None})
            except UnicodeDecodeError:
                record.refuse(None, "holds text that is not UTF-8.", "Correct the text, or drop the row.")
            records.append(record)
    return records


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
