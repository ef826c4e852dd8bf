"""Read .xlsx files through openpyxl: values of formulas, dates, numbers, several sheets."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date, time
from pathlib import Path
from typing import Any

from nlft.errors import Problem, RecordsError, UserError
from nlft.files import refuse_waiting_file
from nlft.sources.columns import Columns
from nlft.sources.raw_records import UNREADABLE_CURE, day_or_time, most_unpacked, unpacks_to_too_much
from nlft.sources.tables import Row, Table, find_header, read_table

_FIRST_ROWS = 10
_FORMULA = re.compile(rb"<f[ >/]")
_BLOCK = 1 << 20


def read_excel(path: Path, name: str, columns: Columns) -> Table:
    """Read the first sheet of an .xlsx file that has known column names, else its first sheet.

    Cells are read as text: numbers as written (`5`, `2.5`), dates as `2026-03-01`. Of a formula, its value is read.

    Raises:
        UserError: openpyxl is not installed; or as `read_table`.
        RecordsError: the file cannot be read, or it has a formula without a value.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise UserError(
            f"{name}: reading .xlsx files needs openpyxl.\n"
            "  pip install 'nlft[excel]', or save the table as .csv with the encoding UTF-8."
        ) from error
    try:
        refuse_waiting_file(path)
        _refuse_bomb(path, name)
        with ExitStack() as files:  # openpyxl leaves its file open where it fails
            book = load_workbook(files.enter_context(path.open("rb")), read_only=True, data_only=True)
            formulas = None
            if _has_formulas(path):
                formulas = load_workbook(files.enter_context(path.open("rb")), read_only=True)
            still_open = files.pop_all()
    except (RecordsError, MemoryError):
        raise
    except OSError as error:
        raise RecordsError([Problem(name, f"cannot be read: {error.strerror}.", UNREADABLE_CURE)]) from error
    except Exception as error:  # openpyxl trusts what the XML says, and raises whatever follows from it
        raise _damaged(name) from error
    with still_open:
        for sheet in (*book.worksheets, *(formulas.worksheets if formulas else ())):
            sheet.reset_dimensions()  # some programs write a wrong size, and rows beyond it would be lost
        if not book.worksheets:
            raise RecordsError([Problem(name, "has no sheet with cells.", "Save the table itself, and not a chart.")])
        sheet, told = _choose(name, [s for s in book.worksheets if _is_filled(name, s)] or book.worksheets, columns)
        rows = _rows(name, sheet, formulas[sheet.title] if formulas else None)
        return read_table(name, rows, columns, told)


def _damaged(name: str) -> RecordsError:
    what = "is not an .xlsx file, or it is damaged or protected by a password."
    return RecordsError([Problem(name, what, "Open it in Excel or LibreOffice, and save it again as .xlsx.")])


def _refuse_bomb(path: Path, name: str) -> None:
    """Refuse an archive that unpacks to far more than a table does. `zipfile` reads no more than the sizes say."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > most_unpacked(path.stat().st_size):
        raise RecordsError([unpacks_to_too_much(name)])


def _values(name: str, sheet: Any, last: int | None = None) -> Iterator[tuple[Any, ...]]:
    """Yield the values of a sheet's rows, up to row `last`. openpyxl reads the sheet's XML only here."""
    try:
        yield from sheet.iter_rows(max_row=last, values_only=True)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise _damaged(name) from error


def _is_filled(name: str, sheet: Any) -> bool:
    return any(value is not None for row in _values(name, sheet) for value in row)


def _choose(name: str, sheets: Any, columns: Columns) -> tuple[Any, list[str]]:
    """Return the sheet to read, and what the user must know about the choice."""
    best, most = sheets[0], 0
    for sheet in sheets:
        rows = [(at, list(cells)) for at, cells in enumerate(_values(name, sheet, _FIRST_ROWS), 1)]
        header = find_header(rows, columns)
        known = 0 if header is None else _known(header.names, columns)
        if known > most:
            best, most = sheet, known
    others = [sheet.title for sheet in sheets if sheet is not best]
    return best, [f"sheet {best.title!r} is read; not used: {', '.join(map(repr, others))}"] if others else []


def _known(names: list[str], columns: Columns) -> int:
    return sum(columns.field_of(name) is not None for name in names if name)


def _has_formulas(path: Path) -> bool:
    """Return whether a sheet holds a formula. Files are read in blocks: a sheet can be large."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            if entry.startswith("xl/worksheets/"):
                with archive.open(entry) as sheet:
                    before = b""
                    while block := sheet.read(_BLOCK):
                        if _FORMULA.search(before + block):
                            return True
                        before = block[-2:]
    return False


def _rows(name: str, sheet: Any, formulas: Any) -> Iterator[Row]:
    """Yield the sheet's rows with their numbers.

    Args:
        formulas: the same sheet with formulas in place of values; None if it has no formula.

    Raises:
        RecordsError: a formula has no stored value, because no spreadsheet program has computed it.
    """
    written = _values(name, formulas) if formulas else None
    for number, cells in enumerate(_values(name, sheet), start=1):
        sources = next(written, ()) if written else ()
        for at, source in enumerate(sources):
            if at < len(cells) and cells[at] is None and isinstance(source, str) and source.startswith("="):
                what = f"has a formula without a value in column {at + 1}: {source[:40]}."
                cure = "Open it in Excel or LibreOffice and save it, or paste the values over the formulas."
                raise RecordsError([Problem(f"{name} row {number}", what, cure)])
        yield number, [_cell(cell) for cell in cells]


def _cell(value: object) -> object:
    """Return a cell as text, except true and false, which a rating may be."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, date | time):
        return day_or_time(value)
    return str(value).replace("_x000D_\n", "\r\n").replace("_x000D_", "")
