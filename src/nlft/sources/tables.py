"""Turn rows of cells into records: find the row of names, choose the columns, read each row."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from nlft.errors import UserError
from nlft.sources.columns import Chosen, Columns, choose_columns, plain_name, recognised
from nlft.sources.conversation import Unusable, as_prompt, messages_in_text
from nlft.sources.label_words import label_problem, read_label
from nlft.sources.raw_records import RawRecord, is_blank, kind

EXCEL_LIMIT = 32_767  # characters: Excel cuts longer texts there without saying so
ROWS_LOOKED_AT = 100  # to tell a column of ratings from one of remarks
_ROWS_BEFORE_NAMES = 10
_ENOUGH_NAMES = 2

Row = tuple[int, list[Any]]
"""A row's number as the user's program shows it, and its cells."""


@dataclass(frozen=True)
class Header:
    """The row of names.

    Attributes:
        row: its number.
        names: the columns' names; empty for a column without one.
        above: the rows above it that hold something.
    """

    row: int
    names: list[str]
    above: int


@dataclass
class Table:
    """A table as records.

    Attributes:
        told: what the user must know about how it was read.
    """

    records: list[RawRecord]
    told: list[str]


def read_table(name: str, rows: Iterable[Row], columns: Columns, told: Sequence[str] = ()) -> Table:
    """Read a table's records.

    Args:
        name: the file, for messages.
        rows: all rows in order, from the first.
        told: what the user must know about the file so far.

    Raises:
        UserError: there is no row of names, two columns have one name, or the choice of columns is not clear.
    """
    rows = iter(rows)
    first = list(islice(rows, _ROWS_BEFORE_NAMES))
    header = find_header(first, columns)
    if header is None:
        return Table([], list(told))
    _check_names(name, header)
    body = ((number, cells) for number, cells in chain(first, rows) if number > header.row)
    looked_at = list(islice(body, ROWS_LOOKED_AT))
    sample = [dict(zip(header.names, map(_with_one_break, cells), strict=False)) for _, cells in looked_at]
    chosen = choose_columns(filter(None, header.names), columns, name, sample)
    known = {"prompt", "completion"} & chosen.column.keys()
    if not known:
        listed = ", ".join(filter(None, header.names))
        raise UserError(
            f"{name}: no column is recognised as the prompt or the reply. Columns: {listed}.\n"
            "  Name them: --columns prompt=COLUMN,completion=COLUMN,label=COLUMN,comment=COLUMN."
        )
    table = Table([], list(told))
    _describe(table, name, header, chosen)
    table.records = list(_records(name, chain(looked_at, body), header, chosen, columns, table))
    return table


def find_header(rows: Sequence[Row], columns: Columns) -> Header | None:
    """Find the row of names among the first rows. A title may stand above it, and merged cells may fill two rows.

    Return None if all rows are empty.
    """
    rows = [(number, [_name(cell) for cell in cells]) for number, cells in rows if any(map(_name, cells))]
    if not rows:
        return None
    best, above, most = rows[0], 0, _ENOUGH_NAMES - 1
    for at, (number, names) in enumerate(rows):
        candidates = [names]
        if at:
            upper = rows[at - 1][1]
            width = max(len(upper), len(names))
            both = zip(_padded(names, width), _padded(upper, width), strict=True)
            candidates.append([lower or higher for lower, higher in both])
        for candidate in candidates:
            if (score := _score(candidate, columns)) > most:
                best, above, most = (number, candidate), at, score
    return Header(best[0], best[1], above)


def _score(names: Sequence[str], columns: Columns) -> int:
    plain = {plain_name(name) for name in names}
    return recognised(names) + sum(plain_name(name) in plain for name in columns.given.values())


def _padded(names: list[str], width: int) -> list[str]:
    return names + [""] * (width - len(names))


def _name(cell: object) -> str:
    return "" if cell is None else " ".join(str(cell).split())


def _check_names(name: str, header: Header) -> None:
    twice = sorted({n for n in header.names if n and header.names.count(n) > 1})
    if twice:
        raise UserError(
            f"{name} row {header.row}: two columns have the name {', '.join(twice)}.\n  Rename or delete one of them."
        )


def _describe(table: Table, name: str, header: Header, chosen: Chosen) -> None:
    """Say which columns were chosen, if their names left any doubt."""
    if header.above:
        s = "s" * (header.above > 1)
        table.told.append(f"the names stand in row {header.row}; {header.above} row{s} above not used")
    table.told += chosen.told()
    others = [name for name in header.names if name and name not in chosen.column.values()]
    if others and not {"comment", "judgment"} & chosen.column.keys():
        table.told.append(f"kept, but not read: {', '.join(others)} (a remark? --columns comment=COLUMN)")


def _records(
    name: str, body: Iterable[Row], header: Header, chosen: Chosen, columns: Columns, table: Table
) -> Iterator[RawRecord]:
    """Yield a record per row that is not empty. Add to `table.told` what was passed over."""
    empty, unnamed, repeated = 0, 0, 0
    listed = ", ".join(filter(None, header.names))
    for number, cells in body:
        if all(is_blank(cell) for cell in cells):
            empty += 1
            continue
        repeats = _repeats_names(cells, header, chosen)
        if repeats == "all":
            repeated += 1
            continue
        more = [cell for cell in cells[len(header.names) :] if not is_blank(cell)]
        named = {n: cell for n, cell in zip(header.names, cells, strict=False) if n}
        unnamed += any(not n and not is_blank(cell) for n, cell in zip(header.names, cells, strict=False))
        breaks = {n: _with_one_break(cell) for n, cell in named.items()}
        record = record_of(f"{name} row {number}", breaks, chosen, columns)
        _move_spans(record.fields, named.get(chosen.column.get("completion", "")))
        record.if_missing = f"Fill the cell, or name its column with --columns FIELD=COLUMN. Columns: {listed}."
        if more:
            what = f"has {len(cells)} cells, but row {header.row} has {len(header.names)} names."
            record.refuse(None, what, "Put quotation marks around a text that holds the separator, or name the column.")
        if repeats:
            what = f"repeats names of row {header.row}, but not all of them, or in another order."
            record.refuse(None, what, "Join only tables with the same columns in the same order.")
        yield record
    if repeated:
        table.told.append(
            f"{repeated:,} row{'s' * (repeated > 1)} that repeat{'s' * (repeated == 1)} the names passed over"
        )
    if empty:
        table.told.append(f"{empty:,} empty row{'s' * (empty > 1)} passed over")
    if unnamed:
        table.told.append(f"{unnamed:,} row{'s' * (unnamed > 1)} with text in a column without a name: not used")


def _repeats_names(cells: Sequence[Any], header: Header, chosen: Chosen) -> Literal["all", "some"] | None:
    """Return whether a row repeats the row of names, as in files that were joined: all of it, some of it, or None."""
    found, names = [_name(cell).casefold() for cell in cells], [name.casefold() for name in header.names]
    if _stripped(found) == _stripped(names):
        return "all"
    if len(_stripped(names)) > 1 and sorted(filter(None, found)) == sorted(filter(None, names)):
        return "some"
    both = {chosen.column.get("prompt"), chosen.column.get("completion")}
    texts = [at for at, name in enumerate(header.names) if name in both]
    return "some" if len(texts) == 2 and all(at < len(found) and found[at] == names[at] for at in texts) else None


def _stripped(names: list[str]) -> list[str]:
    """Return the names without empty ones at the end."""
    filled = [at for at, name in enumerate(names) if name]
    return names[: filled[-1] + 1] if filled else []


def record_of(where: str, cells: dict[str, Any], chosen: Chosen, columns: Columns) -> RawRecord:
    """Make the record of a row.

    Args:
        cells: the row's values by column. Blank ones count as missing.
    """
    record = RawRecord(where, names={target: name for target, name in chosen.column.items() if name != target})
    given = {target: cells[name] for target, name in chosen.column.items() if not is_blank(cells.get(name))}
    used = set(chosen.column.values())
    fields = {name: cell for name, cell in cells.items() if name not in used and not is_blank(cell)}
    label, comment = given.pop("label", None), given.pop("comment", None)
    fields |= given
    if label is None and "label" in chosen.column:
        record.unused = "no label"
    elif label is not None:
        fields["label"] = columns.label(label)
        if fields["label"] is None:
            record.refuse("label", *label_problem(label, chosen.column["label"]))
    for name in ("spans", "keep"):
        if isinstance(fields.get(name), str):
            fields[name] = _parsed(record, name, fields[name])
    if comment is not None:
        put_comment(fields, comment)
    if any(isinstance(value, str) and len(value) == EXCEL_LIMIT for value in given.values()):
        record.unused = f"a text of {EXCEL_LIMIT:,} characters, where Excel cuts"
    problems = record.problems
    record.set(fields)
    record.problems = problems + [p for p in record.problems if p not in problems]
    return record


def _with_one_break(cell: Any) -> Any:
    """Return a cell with `\\n` for each line break of its text, however a program wrote it."""
    return cell.replace("\r\n", "\n").replace("\r", "\n") if isinstance(cell, str) else cell


def _move_spans(fields: dict[str, Any], completion: object) -> None:
    """Count a record's spans in the reply with one character for each line break.

    Args:
        completion: the reply's cell as it is in the file, in whose characters its spans are given.
    """
    if not isinstance(completion, str) or "\r\n" not in completion or not isinstance(fields.get("spans"), list):
        return
    for span in fields["spans"]:
        for name in ("start", "end") if isinstance(span, dict) else ():
            place = span.get(name)
            if isinstance(place, int) and not isinstance(place, bool) and place > 0:
                span[name] = place - completion.count("\r\n", 0, place)


def put_comment(fields: dict[str, Any], comment: object) -> None:
    """Put a reader's remark where it belongs: a judgment of a wrong reply, feedback about a right one."""
    label = fields.get("label")
    name = "feedback" if label is True else "judgment" if label is False else "comment"
    before = fields.get(name)
    fields[name] = f"{before}\n{comment}" if isinstance(before, str) else comment


def read_messages(record: RawRecord) -> None:
    """Read the chat messages of a row whose cells hold them as text. Cells of other text stay as they are."""
    for name in ("prompt", "completion", "revision", "answer"):
        text = record.fields.get(name)
        try:
            turns = messages_in_text(text) if isinstance(text, str) else None
        except Unusable as error:
            record.refuse(name, f"holds {error}.", 'Write messages as JSON: [{"role": "user", "content": "..."}].')
            continue
        if turns is not None:
            as_text = [turn["role"] for turn in turns] == ["assistant"] and name == "answer"
            record.fields[name] = turns[0]["content"] if as_text else as_prompt(turns) if name == "prompt" else turns


def _parsed(record: RawRecord, name: str, text: str) -> object:
    if name == "keep":
        said = read_label(text)
        if said is None:
            record.refuse(name, *label_problem(text, name))
        return said
    try:
        return json.loads(text)
    except ValueError:
        record.refuse(name, f"is {kind(text)} that is not JSON.", 'Write [{"start": 0, "end": 4}], or omit it.')
        return None
