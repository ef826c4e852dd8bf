"""Read .csv and .tsv files as Excel and others write them: separators, encodings, line breaks in cells."""

import codecs
import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import mode
from typing import TextIO

from nlft.errors import Problem, RecordsError
from nlft.files import refuse_waiting_file
from nlft.sources.columns import Columns, recognised
from nlft.sources.raw_records import UNREADABLE_CURE
from nlft.sources.tables import Row, Table, read_table

# The comma comes first: a table of one column fits all alike.
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BLOCK = 1 << 20
_SAMPLE = 20  # rows from which the separator is guessed
_MARKS = re.compile("(?:\ufeff|ï»¿)+")  # byte order marks, and how Windows-1252 reads those of UTF-8
_LONGEST_CELL = 1 << 30  # csv's own limit is 131,072 characters


def read_text_table(path: Path, name: str, columns: Columns) -> Table:
    """Read a .csv or .tsv file.

    The encoding is UTF-8, UTF-16 with a mark, or else Windows-1252, which Excel writes in Western Europe. The separator
    is the one that gives even rows and known names, or the one of a first line `sep=;`. Files that were joined each
    began with a byte order mark: one at the start of any row is passed over.

    Raises:
        RecordsError: the file cannot be read, or a quotation mark is never closed.
        UserError: as `read_table`.
    """
    try:
        refuse_waiting_file(path)
        encoding = _encoding(path)
        csv.field_size_limit(_LONGEST_CELL)
        separator, skip = _separator(path, encoding)
        told = []
        if encoding == "cp1252":
            told.append("not UTF-8: read as Windows-1252; if umlauts look wrong, save it as UTF-8")
        if separator != ("\t" if path.suffix.lower() == ".tsv" else ","):
            told.append(f"separator: {_SEPARATORS.get(separator, separator)}")
        return read_table(name, _rows(path, name, encoding, separator, skip), columns, told)
    except OSError as error:
        raise RecordsError([Problem(name, f"cannot be read: {error.strerror}.", UNREADABLE_CURE)]) from error
    except UnicodeDecodeError as error:
        what = f"is neither UTF-8 nor Windows-1252: {error.reason}."
        raise RecordsError([Problem(name, what, "Save it as UTF-8.")]) from error


def _encoding(path: Path) -> str:
    """Return the file's encoding. The file is read in blocks, so its size does not matter."""
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            while block := file.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def _separator(path: Path, encoding: str) -> tuple[str, int]:
    """Return the separator, and how many lines come before the table."""
    with path.open(encoding=encoding, newline="") as file:
        first = _MARKS.sub("", file.readline()).strip()
        if first.lower().startswith("sep=") and len(first) == 5:
            return first[4], 1
        if path.suffix.lower() == ".tsv":
            return "\t", 0
    return max(_SEPARATORS, key=lambda separator: _fit(path, encoding, separator)), 0


def _fit(path: Path, encoding: str, separator: str) -> tuple[int, float, int]:
    """Return how well a separator fits: how many names are known, the share of rows of one width, and the width."""
    with path.open(encoding=encoding, newline="") as file:
        try:
            rows = [row for row in islice(_cells(_Lines(file), separator), _SAMPLE) if any(row)]
        except csv.Error:
            return 0, 0, 0
    if not rows:
        return 0, 0, 0
    widths = [len(row) for row in rows]
    width = mode(widths)
    return max(map(recognised, rows)), widths.count(width) / len(rows) if width > 1 else 0, width


def _rows(path: Path, name: str, encoding: str, separator: str, skip: int) -> Iterator[Row]:
    """Yield the file's rows. A row's number counts rows, as Excel does, and not lines.

    Raises:
        RecordsError: a row's quotation marks are wrong.
    """
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(skip):
            file.readline()
        lines, number = _Lines(file), 0
        try:
            for number, cells in enumerate(_cells(lines, separator, strict=True), start=1):
                if skip and cells == ["sep=", ""]:  # a file that was joined to this one began with this line too
                    cells = []
                yield number, cells
        except csv.Error as error:
            what = f"cannot be read: {error} (line {lines.number + skip})."
            cure = (
                'Write a quotation mark inside a quoted cell twice: "He said ""no"""; and close every quotation mark.'
            )
            raise RecordsError([Problem(f"{name} row {number + 1}", what, cure)]) from error


class _Lines:
    """A file's lines, without byte order marks at the start of a row.

    Attributes:
        number: how many lines have been read.
        begins_row: whether the next line begins a row. A mark inside a cell is the cell's own.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.number, self.begins_row = 0, True

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._file)
        if self.begins_row and (marks := _MARKS.match(line)):
            line = line[marks.end() :]
        self.number, self.begins_row = self.number + 1, False
        return line


def _cells(lines: _Lines, separator: str, *, strict: bool = False) -> Iterator[list[str]]:
    """Yield the cells of each row. `csv` reads as many lines as the row has."""
    for cells in csv.reader(lines, delimiter=separator, strict=strict):
        yield cells
        lines.begins_row = True
