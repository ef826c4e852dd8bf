"""Where records come from: JSON and parquet files, and datasets by their Hugging Face name."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlft.data.raw_records import UNREADABLE_CURE, RawRecord, read_raw
from nlft.errors import Problem, RecordsError, UserError, display_path

_HUB_NAME = re.compile(
    r"(?P<path>\w[\w.-]*/[\w.-]+|\w[\w.-]*(?=:))(:(?P<config>[^:/\\\s]*))?"
    r"(:(?P<split>[^:/\\\s\[\]]+(\[[\d:%-]+\])?))?"  # with a slice, as `datasets` takes it: test[:100]
)
_FILE_ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zip", ".yaml")
_HUB_CURE = "Write owner/name:config:split (openai/gsm8k:main:train), or give a file."


@dataclass(frozen=True)
class Source:
    """What a file or a dataset holds.

    Attributes:
        name: what messages call it.
        stem: what records without an id are called after, with their place: `train-17`.
        is_table: its records have their columns in common, so that one problem may be every row's.
    """

    name: str
    stem: str
    records: list[RawRecord]
    is_table: bool = False


def read_source(source: str | Path, columns: Collection[str] | None = None) -> Source:
    """Read a `.jsonl`, `.json` or `.parquet` file, or a dataset such as `openai/gsm8k:main:train`.

    A path that exists always wins over a dataset of that name.

    Args:
        columns: of a table, read these alone, where it has them; None for all.

    Raises:
        RecordsError: a file that cannot be read. What is wrong with single records is noted in them.
        UserError: no such dataset, configuration or split, or it cannot be reached.
    """
    path, hub = Path(source), _HUB_NAME.fullmatch(str(source))
    if hub and not path.exists() and not path.name.lower().endswith(_FILE_ENDINGS):
        return _read_hub(str(source), hub["path"], hub["config"] or None, hub["split"], columns)
    name = display_path(path)
    if path.suffix.lower() == ".parquet":
        return Source(name, path.stem, _records(name, _parquet_rows(path, name, columns)), is_table=True)
    return Source(name, path.stem, list(read_raw(path)))


def _parquet_rows(path: Path, name: str, columns: Collection[str] | None) -> Iterator[Any]:
    """The file's rows, in batches (`pyarrow.RecordBatch`)."""
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file)
            yield from table.iter_batches(columns=_present(table.schema_arrow.names, columns))
    except pa.ArrowException as error:
        problem = Problem(name, f"is not parquet: {_in_a_line(error)}", "Write it anew, or convert it to .jsonl.")
    except OSError as error:
        problem = Problem(name, f"cannot be read: {error.strerror or _in_a_line(error)}.", UNREADABLE_CURE)
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
        what = "there is no such file, and the dataset of that name cannot be loaded"
        raise UserError(f"{given}: {what}: {_in_a_line(error)}\n  {_cure(error)}") from error
    if isinstance(data, DatasetDict):
        if len(data) != 1:
            named = ", ".join(f"{path}:{config or ''}:{name}" for name in data)
            raise UserError(f"{given}: has several splits.\n  Name one: {named}.")
        split, data = next(iter(data.items()))
    name = f"{path}[{split}]"
    data = data.select_columns(_present(data.column_names, columns)).with_format("arrow")
    return Source(name, f"{path.rpartition('/')[2]}-{split}", _records(name, data.iter(1000)), is_table=True)


def _cure(error: Exception) -> str:
    """What to do about a dataset that did not load; offline it may simply not be here."""
    from datasets.config import HF_HUB_OFFLINE

    if isinstance(error, OSError) and HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only what was loaded before can be read: unset it, or give a file."
    return _HUB_CURE


def _present(names: Iterable[str], wanted: Collection[str] | None) -> list[str]:
    return [name for name in names if wanted is None or name in wanted]


def _in_a_line(error: Exception) -> str:
    """What a library says, which may run over several lines: the configurations there are come last, say."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def _records(name: str, batches: Iterable[Any]) -> list[RawRecord]:
    """One record a row; a null is a field that the row does not have, since a table cannot leave one out."""
    records: list[RawRecord] = []
    for batch in batches:
        for at in range(batch.num_rows):
            record = RawRecord(f"{name} row {len(records) + 1}")
            try:
                record.set(_without_nulls(batch.slice(at, 1).to_pylist()[0]))
            except UnicodeDecodeError:
                record.refuse(None, "holds text that is not UTF-8.", "Mend the text, or drop the row.")
            records.append(record)
    return records


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(held) for name, held in value.items() if held is not None}
    return [_without_nulls(held) for held in value] if isinstance(value, list) else value
