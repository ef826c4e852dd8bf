"""Records of JSON and of datasets as ours: other names for the fields, and what stands before a prompt."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nlft.core.prompts import Message, as_messages
from nlft.sources.columns import AS_NAMED, Columns, choose_columns, field_named, rating_among
from nlft.sources.conversation import Unusable, as_conversation, with_system
from nlft.sources.label_words import is_number, read_label
from nlft.sources.original_records import RATED_BY, drop_placeholder, find_original_label, rename_original
from nlft.sources.raw_records import RawRecord, is_blank
from nlft.sources.tables import ROWS_LOOKED_AT, record_of

_Fields = Mapping[str, Any]
_ASKED = ("prompt", "question")  # `question` is GSM8K's name


def as_ours(
    where: str, records: list[RawRecord], columns: Columns = AS_NAMED, *, asked: bool = False
) -> tuple[list[RawRecord], list[str]]:
    """Return records with our names for their fields, and what the user must know about it.

    Without `--columns`, records with a prompt and a reply are renamed, and where questions are asked for, only those
    with a rating too. Our own keep their names, unless their rating has another one.

    Args:
        where: the file or dataset, for messages.
        asked: whether only the questions of the records are used.

    Raises:
        UserError: a given column does not exist, or several columns may hold one field.
    """
    by_theirs = columns.given.keys() & {"id", "prompt", "completion", "answer"}  # the user goes by the file's names
    originals = [record for record in records if not by_theirs and rename_original(record)]
    names, first = _looked_at(records)
    ratings = _ratings_among(names, first, original=bool(originals))
    if originals and "label" not in columns.given and not (ratings and not RATED_BY & set(names)):
        for record in originals:
            find_original_label(record, ratings)
    for record in originals:
        drop_placeholder(record)
    told = _unread_remark(names, first) if originals and not asked and not ratings and not columns.given else []
    names, first = _looked_at(records)  # now with the labels of the original project's records
    if not first or not (columns.given or _have_other_names(names, ratings, asked=asked)):
        return records, told
    chosen = choose_columns(names, columns, where, first)
    theirs = originals[0].names if originals else {}
    told += replace(chosen, column={target: theirs.get(name, name) for target, name in chosen.column.items()}).told()
    used = set(chosen.column.values())
    if more := [name for name in names if field_named(name) == "prompt" and name not in used and "prompt" in by_theirs]:
        told.append(f"kept, but not read: {', '.join(more)}")
    as_named = all(name == target for target, name in chosen.column.items())
    if as_named and len(chosen.lacking) == len(columns.given):
        return records, told
    made = []
    for record in records:
        new = record_of(record.where, record.fields, chosen, columns) if record.fields else record
        new.left_out, new.asks = record.left_out, record.asks
        new.names = record.names | new.names
        new.problems = [*record.problems, *(p for p in new.problems if p not in record.problems)]
        made.append(new)
    return made, told


def _looked_at(records: Sequence[RawRecord]) -> tuple[list[str], list[_Fields]]:
    """Return the names of the first records' fields, and these records' fields."""
    first = [record.fields for record in records[:ROWS_LOOKED_AT] if record.fields]
    return list(dict.fromkeys(name for fields in first for name in fields)), list(first)


def _ratings_among(names: Sequence[str], first: Sequence[_Fields], *, original: bool) -> list[str]:
    """Return the fields that are ratings by their names, except `label` and those that the original project has.

    Beside our `completion` or a `judgment`, a score such as 0.7 is only a field that the user keeps: nobody has said
    from which number on a reply is good.
    """
    is_judged = "judgment" in names
    ours = {"label"} | (RATED_BY if original else set()) | ({"verdict"} if original and is_judged else set())
    found = [name for name in names if field_named(name) == "label" and name not in ours]
    if {"prompt", "completion"} <= set(names) and (is_judged or not original):
        found = [name for name in found if _are_ratings(first, name)]
    if not found and not ours & set(names) and (remark := rating_among(names, first)):
        found = [remark]
    return found


def _are_ratings(first: Sequence[_Fields], name: str) -> bool:
    said = [fields[name] for fields in first if not is_blank(fields.get(name))]
    read = [value for value in said if read_label(value) is not None]
    return bool(read) and (len(read) == len(said) or not all(map(is_number, read)))


def _have_other_names(names: Sequence[str], ratings: Sequence[str], *, asked: bool) -> bool:
    """Return whether the columns are to be chosen by their names."""
    if {"prompt", "completion"} <= set(names):
        return not asked and "label" not in names and bool(ratings)
    fields = {field_named(name) for name in names} | ({"label"} if ratings else set())
    return {"prompt", "completion"} | ({"label"} if asked else set()) <= fields


def _unread_remark(names: Sequence[str], first: Sequence[_Fields]) -> list[str]:
    """Name the remarks about the original project's replies that nothing rates: they count as right."""
    remarks = [name for name in names if field_named(name) == "comment"]
    if not remarks or {*RATED_BY, "judgment"} & set(names):
        return []
    return [f"kept, but not read: {', '.join(remarks)}. Nothing rates these replies, so they count as right"]


def put_before_prompts(records: Sequence[RawRecord], kept: Collection[str] = ()) -> None:
    """Put the system prompt and the history that stand beside a prompt before it.

    A history is a list of pairs of a message and the reply to it, as LLaMA-Factory writes them, or a conversation. One
    of another form stays where it is, and counts as left out.

    Args:
        kept: fields that stay in the record nevertheless, because a check names them.
    """
    names = {name for record in records for name in record.fields}
    systems = [name for name in names if field_named(name) == "system"]
    if not systems and "history" not in names:
        return
    for record in records:
        fields = record.fields
        asked = next((name for name in _ASKED if isinstance(fields.get(name), str | list)), None)
        if asked is None or not fields[asked] or is_blank(fields[asked]):
            continue
        if isinstance(fields[asked], str) and fields.get("history"):
            turns = _history(fields["history"])
            if turns is None:
                record.left_out.append("a history that is not a list of pairs of a message and its reply")
            else:
                fields[asked] = [*turns, *as_messages(fields[asked], "user")]
                _take(fields, "history", kept)
        for name in systems:
            if isinstance(text := fields.get(name), str) and text.strip():
                before = fields[asked]
                fields[asked] = with_system(text, before)
                if fields[asked] != before:
                    _take(fields, name, kept)


def _take(fields: dict[str, Any], name: str, kept: Collection[str]) -> None:
    if name not in kept:
        del fields[name]


def _history(value: object) -> list[Message] | None:
    """Return earlier turns as messages. None if they have another form."""
    try:
        if turns := as_conversation(value):
            return turns
    except Unusable:
        return None
    turns = []
    for pair in value if isinstance(value, list | tuple) else [None]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return None
        turns += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    return turns
