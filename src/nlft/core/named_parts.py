"""The named parts of a reply that a model writes as JSON, as tags or as a table. Needs neither tokenizer nor torch."""

import json
import re
from dataclasses import dataclass
from typing import Any

from nlft.core.marks import narrow

Record = list[tuple[str, str]]
"""Names and values in their order. A name is in small letters, with spaces between its words."""


@dataclass(frozen=True)
class NamedParts:
    """The named parts of a reply.

    Attributes:
        records: one for each JSON object or row of a table.
        around: the reply's other text.
    """

    records: list[Record]
    around: str


_FENCE = re.compile(r"^[ \t]*```[ \t]*\w*[ \t]*$", re.MULTILINE)
_OBJECT = re.compile(r"^[ \t]*(?=\{|\[\s*\{)", re.MULTILINE)
_LIKE_JSON = re.compile(r"(?:```[ \t]*\w*\s*)?\{\s*\"[^\"\n]*\"\s*:")
_LAST_COMMA = re.compile(r",(?=\s*[}\]])")
_TAG = re.compile(r"<([^\W\d][\w -]{0,30})>")
_WORDS = re.compile(r"\S")
_ROW = re.compile(r"^[ \t]*\|(.+)\|[ \t]*$")
_RULE = re.compile(r"^[ \t]*\|(?:[ \t]*:?-+:?[ \t]*\|)+[ \t]*$")
_WRAPPERS = 3  # objects or tags that hold nothing but one other


def read_parts(text: str) -> NamedParts | None:
    """Return the named parts of a reply. Return None if it has no form with names, or a form that cannot be read.

    >>> read_parts('{"verdict": "wrong", "isFinal": true}').records
    [[('verdict', 'wrong'), ('is final', 'true')]]
    """
    return _from_json(text) or _from_tags(text) or _from_table(text)


def looks_like_json(text: str) -> bool:
    """Return whether a reply begins as a JSON object does, in a fence or without one."""
    return _LIKE_JSON.match(text.lstrip()) is not None


def _from_json(text: str) -> NamedParts | None:
    match = _OBJECT.search(text)
    if match is None:
        return None
    before, source = text[: match.end()], text[match.end() :]
    for written in (source, _LAST_COMMA.sub("", source)):
        try:
            value, end = json.JSONDecoder(strict=False, object_pairs_hook=_Object).raw_decode(written)
            records = _records(value)
        except (ValueError, RecursionError):
            continue
        around = _FENCE.sub("", f"{before}\n{written[end:]}").strip()
        return NamedParts(records, around) if records else None
    return None


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object."""


def _records(value: Any) -> list[Record]:
    """Return the records of a JSON value: an object, or a list of objects."""
    for _ in range(_WRAPPERS):
        if isinstance(value, _Object) and len(value) == 1 and isinstance(value[0][1], list):
            inner = value[0][1]
            if isinstance(inner, _Object) or all(isinstance(item, _Object) for item in inner):
                value = inner
    objects = [value] if isinstance(value, _Object) else value
    if not objects or not all(isinstance(item, _Object) for item in objects):
        return []
    return [[(_name(name), words) for name, one in item if (words := _words(one)) is not None] for item in objects]


def _words(value: Any) -> str | None:
    """Return a JSON value as text. Return None for what holds names of its own."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int | float | None):
        return "" if value is None else str(value).lower()
    if isinstance(value, _Object):
        return None
    parts = [_words(item) for item in value]
    return None if None in parts else "\n".join(part for part in parts if part)


def _from_tags(text: str) -> NamedParts | None:
    """Return the parts of a reply that is made of tags alone."""
    for _ in range(_WRAPPERS):
        record = _siblings(text)
        if not record:
            return None
        if len(record) > 1 or not _siblings(record[0][1]):
            return NamedParts([record], "")
        text = record[0][1]
    return None


def _siblings(text: str) -> Record:
    """Return the tags that a text is made of, each with what it holds. Return an empty list if it has other text."""
    record: Record = []
    at = _after_space(text, 0)
    while at < len(text):
        opening = _TAG.match(text, at)
        closing = f"</{opening[1]}>" if opening else ""
        end = text.find(closing, opening.end()) if opening else -1
        if opening is None or end < 0:
            return []
        record.append((_name(opening[1]), text[opening.end() : end].strip()))
        at = _after_space(text, end + len(closing))
    return record


def _after_space(text: str, at: int) -> int:
    """Return where the next sign stands that is no white space, or the text's end."""
    match = _WORDS.search(text, at)
    return match.start() if match else len(text)


def _from_table(text: str) -> NamedParts | None:
    """Return the rows of a table that has a row of names and a rule below it."""
    lines = text.split("\n")
    rule = next((at for at, line in enumerate(lines) if at and _RULE.match(line) and _ROW.match(lines[at - 1])), None)
    if rule is None:
        return None
    end = next((at for at in range(rule + 1, len(lines)) if not _ROW.match(lines[at])), len(lines))
    names, *rows = [_cells(line) for line in (lines[rule - 1], *lines[rule + 1 : end])]
    if not rows or any(len(row) != len(names) for row in rows):
        return None
    around = "\n".join([*lines[: rule - 1], *lines[end:]]).strip()
    return NamedParts([list(zip(map(_name, names), row, strict=True)) for row in rows], around)


def _cells(line: str) -> list[str]:
    row = re.sub(r"<br\s*/?>", " ", line.strip()[1:-1])
    return [cell.replace("\\|", "|").strip().strip("*_` ") for cell in re.split(r"(?<!\\)\|", row)]


def _name(written: str) -> str:
    """Return a name in small letters, with spaces between its words."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", narrow(written))
    return " ".join(re.split(r"[\s_*`:?!.-]+", apart)).strip().casefold()
