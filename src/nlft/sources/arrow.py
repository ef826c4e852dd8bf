"""Read parquet files, and datasets with a Hugging Face name, as rows of fields."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from nlft.errors import Problem, RecordsError, UserError
from nlft.files import refuse_waiting_file
from nlft.sources.raw_records import FIELDS, UNREADABLE_CURE, RawRecord, day_or_time, most_unpacked, unpacks_to_too_much

_FEW_ROWS = 16  # rows in memory at once while their bytes are counted
_HUB_CURE = "Write owner/name:config:split, for example openai/gsm8k:main:train, or give a file."

Wanted = Callable[[list[str]], Collection[str] | None]
"""Says which of a table's columns to read; None: all of them."""


def read_parquet(path: Path, name: str, wanted: Wanted) -> list[RawRecord]:
    """Read a parquet file.

    Raises:
        RecordsError: the file cannot be read.
    """
    return _records(name, _parquet_rows(path, name, wanted))


def _parquet_rows(path: Path, name: str, wanted: Wanted) -> Iterator[Any]:
    """Yield the file's rows as batches (`pyarrow.RecordBatch`)."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        refuse_waiting_file(path)
        with path.open("rb") as file:
            table = parquet.ParquetFile(file)
            columns, left = _present(table.schema_arrow.names, wanted), most_unpacked(path.stat().st_size)
            # A text that repeats takes no room in the file, and much in memory. So count before anything is kept.
            for batch in table.iter_batches(_FEW_ROWS, columns=columns):
                left -= sum(_written_out(column).nbytes for column in batch.columns)
                if left < 0:
                    raise RecordsError([unpacks_to_too_much(name)])
            yield from table.iter_batches(columns=columns)
    except pa.ArrowException as error:
        problem = Problem(name, f"is not parquet: {_on_one_line(error)}", "Write it again, or convert it to .jsonl.")
    except OSError as error:
        problem = Problem(name, f"cannot be read: {error.strerror or _on_one_line(error)}.", UNREADABLE_CURE)
    else:
        return
    raise RecordsError([problem])


def _written_out(column: Any) -> Any:
    """Return a column with each value in its place, as rows will have them. Categories hold a value once."""
    return column.dictionary_decode() if hasattr(column, "dictionary_decode") else column


def read_hub(
    given: str, path: str, config: str | None, split: str | None, wanted: Wanted
) -> tuple[str, str, list[RawRecord]]:
    """Read a dataset by name, from the hub or the cache. Return its name in messages, its split and its records.

    Raises:
        UserError: the dataset, its configuration or its split does not exist or cannot be reached.
    """
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
    data = data.select_columns(_present(data.column_names, wanted)).with_format("arrow")
    return name, str(split), _records(name, data.iter(1000))


def _cure(error: Exception) -> str:
    """Tell the user what to do about a dataset that did not load. Offline, it may be missing from the cache."""
    from datasets.config import HF_HUB_OFFLINE

    if isinstance(error, OSError) and HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only cached datasets can be read. Unset it, or give a file."
    return _HUB_CURE


def _present(names: list[str], wanted: Wanted) -> list[str]:
    chosen = wanted(names)
    return [name for name in names if chosen is None or name in chosen]


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
            cells = zip(batch.schema.names, (column[at] for column in batch.columns), strict=True)
            try:
                values = [(column, _value(cell)) for column, cell in cells]
                record.set(
                    {column: value for column, cell in values if (value := _cell(record, column, cell)) is not None}
                )
            except UnicodeDecodeError:
                record.refuse(None, "holds text that is not UTF-8.", "Correct the text, or drop the row.")
            records.append(record)
    return records


def _value(cell: Any) -> object:
    """Return an Arrow cell's value. A time that Python cannot hold, with nanoseconds or of the year 20000, is text."""
    import pyarrow as pa

    try:
        return cell.as_py()
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError):
        try:
            return cell.cast(pa.string()).as_py()
        except pa.ArrowException:  # it is inside a list or a struct
            return None


def _cell(record: RawRecord, column: str, value: object) -> object:
    """Return a value as JSON holds it. Leave out bytes that are no text, unless the column is one of our fields."""
    try:
        return _as_json(value)
    except UnicodeDecodeError:
        if column in FIELDS:
            return value  # refused with the name of its kind
        record.left_out.append(f"column {column!r}, which holds bytes that are no text")
        return None


def _as_json(value: object) -> object:
    """Return a value as JSON holds it: days and times as text, as tables have them; None for a missing number.

    Raises:
        UnicodeDecodeError: it holds bytes that are no text in UTF-8.
    """
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, Decimal) and value.is_finite():  # databases export ratings and ids so
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float | Decimal) and not math.isfinite(value):  # pandas writes NaN for a missing number
        return None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date | time):
        return day_or_time(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
