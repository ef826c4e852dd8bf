"""Read JSON objects from a file, each with its line number and every problem found in it."""

import difflib
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from nlft.core.prompts import Message
from nlft.errors import Problem, RecordsError, display_path, printable
from nlft.files import refuse_waiting_file

FIELDS = ("id", "prompt", "completion", "label", "answer", "judgment", "revision", "spans", "feedback", "keep")
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")  # TRL's names for what a record gives to the chat template
_NEEDED = {
    "id": "Give each record its own id: a string or an integer.",
    "prompt": "Write the question: text, or a list of chat messages.",
    "completion": "Write the model's answer in the prompt's form, or drop the record.",
    "label": "Write true if the completion is right and false if it is wrong, without quotes.",
    "answer": "Write the standard answer as text, or omit the field.",
    "feedback": "Say in words what a reader likes, or omit the field.",
    "judgment": "Say in words what is wrong.",
    "keep": "Write true if the reply must stay as it is, or omit the field.",
    "revision": "Write a right completion, or omit the field.",
}
UNLABELLED = ("no label", "no rating")  # how `RawRecord.unused` begins for a reply that nobody has rated
SEE_FORMAT = "Write the records as docs/RECORDS.md shows."
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".xlsx", ".parquet")
UNREADABLE_CURE = f"Name a {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]} file that you have permission to read."
_SMALL_UNPACKED = 1 << 28  # bytes: a compressed file that unpacks to no more is always read
_UTF_8_MARKS = re.compile(rb"(?m)^(?:\xef\xbb\xbf)+")


@dataclass
class RawRecord:
    """A JSON object and the problems found in it so far.

    If a field is invalid, a reading method adds a problem and still returns a value of the right type. So one pass
    finds every problem.

    Attributes:
        where: file and place: `train.jsonl:41`, `train.json:1 record 17`, `train.xlsx row 17`.
        names: our field name -> the file's, where the two differ.
        unused: why the record cannot be an example although nothing is wrong with it, such as `no rating`. It may still
            be a question.
        left_out: what of the record was not used, in the same words for every record.
        repeats: whether an earlier record of the source has the same prompt, as the second side of a pair does.
        asks: the prompt of its question, if that is another one than its example's: a conversation can go on after the
            last reply. Empty: it asks nothing that text can hold.
        if_missing: what to do about a field that is missing, if a file of this kind has a better cure than usual.
    """

    where: str
    fields: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    unused: str | None = None
    left_out: list[str] = field(default_factory=list)
    repeats: bool = False
    asks: str | list[Message] | None = None
    if_missing: str | None = None

    @property
    def asks_nothing(self) -> bool:
        """Whether the record is no question."""
        return self.asks == [] or bool(self.unused and "prompt" not in self.fields)

    def refuse(self, name: str | None, what: str, cure: str) -> None:
        """Add a problem with the field, or with the whole record if `name` is None."""
        field_name = name and shown(self.names.get(name, name))[1:-1]
        self.problems.append(Problem(self.where, what, cure, field_name))

    def is_refused(self, name: str) -> bool:
        """Return whether a problem with the field is known already."""
        return any(problem.field == self.names.get(name, name) for problem in self.problems)

    def set(self, fields: dict[str, Any]) -> None:
        """Set the fields. Refuse each value that JSON in UTF-8 cannot hold."""
        self.fields = fields
        for name, value in fields.items():
            try:
                json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
            except UnicodeEncodeError as error:
                what = f"holds half a character, {error.object[error.start]!a}, which no file can store."
                self.refuse(name, what, "Correct the text where it was cut in two, or remove it.")
            except ValueError:
                self.refuse(name, "holds NaN or an infinity, which JSON does not allow.", "Write a number or null.")
            except TypeError as error:  # a dataset's own objects
                type_name = str(error).removeprefix("Object of type ").partition(" ")[0]
                self.refuse(name, f"holds a {type_name}, which JSON does not allow.", "Write text or a number.")

    def near_miss(self, name: str) -> str:
        """Suggest an unknown field with a similar name. Return an empty string if there is none."""
        expected = self.names.get(name, name)
        close = difflib.get_close_matches(expected, [k for k in self.fields if k not in FIELDS], n=1, cutoff=0.7)
        return f" (did you write {shown(close[0])} for it?)" if close else ""

    def refuse_kind(self, name: str, expected: str) -> None:
        """Refuse a field that is missing or has the wrong type."""
        if name in self.fields:
            self.refuse(name, f"is {kind(self.fields[name])}, not {expected}.", _NEEDED[name])
        else:
            self.refuse(name, f"is missing{self.near_miss(name)}.", self.if_missing or _NEEDED[name])

    def text(self, name: str) -> str:
        """Read a string that is not blank. A completion may be blank, but not empty."""
        text = self.fields.get(name)
        if not isinstance(text, str):
            self.refuse_kind(name, "a string")
            return ""
        # A model can answer with a single space. That is still an answer.
        if text == "" or (is_blank(text) and name != "completion"):
            self.refuse(name, "is empty.", _NEEDED[name])
        return text

    def optional_text(self, name: str) -> str | None:
        """Read a string that may be missing, null or blank. Refuse a misspelt field that seems to hold it."""
        if not is_blank(self.fields.get(name)):
            return self.text(name)
        # An older file always has an answer, and may have a field of its own that resembles `feedback`.
        if not self.fields.keys() & {name, "answer"} and (near := self.near_miss(name)):
            self.refuse(name, f"is missing{near}.", _NEEDED[name])
        return None

    def identity(self) -> str | int:
        """Read the id: an integer or a string."""
        value = self.fields.get("id")
        return self.text("id") if not isinstance(value, int) or isinstance(value, bool) else value

    def text_or_messages(self, name: str) -> str | list[Message]:
        """Read a prompt, completion or revision: a string or chat messages."""
        if not isinstance(self.fields.get(name), list):
            return self.text(name)
        messages = self.messages(name)
        roles = [message["role"] for message in messages]
        if roles[-1:] == ["assistant"] if name == "prompt" else roles not in ([], ["assistant"]):
            cure = "Put one assistant message into the completion, and all messages before it into the prompt."
            self.refuse(name, f"holds messages with these roles: {', '.join(roles)}.", cure)
        return messages

    def messages(self, name: str) -> list[Message]:
        """Read the field's messages. If one is invalid, add a problem and return an empty list."""
        values, before = self.fields[name], len(self.problems)
        for place, message in enumerate(values, start=1):
            parts = message if isinstance(message, dict) else {}
            if not {"role", "content"} <= set(parts) or not all(isinstance(v, str) for v in parts.values()):
                cure = 'Write each message as {"role": ..., "content": ...}, with text for every value.'
                self.refuse(name, f"has message {place} without role and content as text.", cure)
        if len(self.problems) == before and not (values and values[-1]["content"]):
            self.refuse(name, "ends with an empty message." if values else "is an empty list.", _NEEDED[name])
        return list(values) if len(self.problems) == before else []


def read_raw(path: Path) -> Iterator[RawRecord]:
    """Yield the file's objects in order. A value that is not an object becomes a record with a problem.

    The ending says what the file is: `.json` is one document; `.jsonl` and `.ndjson` have one object per line, and are
    read line by line. `.gz` after any of them means that it is compressed.

    Raises:
        RecordsError: the file cannot be read, is UTF-16, or has an unknown ending.
    """
    name, zipped = display_path(path), path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if zipped else path.suffix.lower()
    if ending not in JSON_ENDINGS:
        what, cure = f'ends in "{path.suffix}".', f"Convert it to {', '.join(ENDINGS)}, or rename it."
        if path.suffix.lower() in (".xls", ".ods"):
            cure = "Open it in the program that wrote it, and save it as .xlsx or .csv."
        raise RecordsError([Problem(name, what, cure)])
    try:
        refuse_waiting_file(path)
        if zipped:
            _refuse_bomb(path, name)
        with gzip.open(path) if zipped else path.open("rb") as file:
            if ending == ".json":
                yield from _records_of_document(name, _without_mark(name, file.read()))
            else:
                yield from _records_of_lines(name, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        what = f"is not a whole gzip file: {error}."
        raise RecordsError([Problem(name, what, "Download it again, or unpack it.")]) from error
    except OSError as error:
        raise RecordsError([Problem(name, f"cannot be read: {error.strerror}.", UNREADABLE_CURE)]) from error


def most_unpacked(packed: int) -> int:
    """Return how many bytes a compressed file of `packed` bytes may unpack to. Text packs to a fifth, not a 200th."""
    return max(_SMALL_UNPACKED, 200 * packed)


def unpacks_to_too_much(name: str) -> Problem:
    """Make the problem for a file that was made to fill the memory."""
    what = "is compressed, and unpacks to more than 200 times its size, which no file of texts does."
    return Problem(name, what, "If it is yours, unpack it, and save it again.")


def _refuse_bomb(path: Path, name: str) -> None:
    """Unpack a file in blocks, which are forgotten, and refuse it if it is too long."""
    left = most_unpacked(path.stat().st_size)
    with gzip.open(path) as file:
        while block := file.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise RecordsError([unpacks_to_too_much(name)])


def _records_of_lines(name: str, lines: Iterable[bytes]) -> Iterator[RawRecord]:
    """Yield the objects of a file with one object per line.

    Args:
        lines: the file's lines. Only `\\n` ends a line: `str.splitlines` would also split at U+2028 inside a string.
    """
    for number, line in enumerate(lines, start=1):
        # Files that were joined each began with a mark. In JSON, no text begins a line inside a string.
        line = _without_mark(name, line).removesuffix(b"\n")
        if line.strip() in (b"[", b"{"):
            what = "opens a list or an object that does not end on this line."
            cure = "Write one object per line. If the file is one JSON document, rename it to .json."
            yield RawRecord(name, problems=[Problem(f"{name}:{number}", what, cure)])
            return  # the remaining lines have the same problem
        yield from _records_of_document(name, line, first_line=number)


def _without_mark(name: str, data: bytes) -> bytes:
    """Return the bytes without byte order marks at their start.

    Raises:
        RecordsError: they are UTF-16.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordsError([Problem(name, "is UTF-16.", "Save it as UTF-8.")])
    return _UTF_8_MARKS.sub(b"", data)


def _records_of_document(name: str, data: bytes, first_line: int | None = None) -> Iterator[RawRecord]:
    """Yield the objects of one JSON document.

    Args:
        first_line: the line's number, if the document is one line of a file. Such a line holds one object. A whole file
            may hold a list of objects.
    """
    records: list[RawRecord] = []
    try:
        walk = _Walk(name, data, first_line or 1)
        in_list = not first_line and walk.take(r"\[")
        more = not walk.take(r"\]" if in_list else r"\Z")
        while more:
            records.append(walk.record())
            # Allow a comma before the closing bracket: the original project's judged chunks have one.
            more = in_list and not walk.take(r"(,[ \t\r\n]*)?\]")
            if more and not walk.take(","):
                raise walk.broken("is not JSON: Expecting ',' or ']'", walk.position)
        if not walk.take(r"\Z"):
            raise walk.broken("is not JSON: Extra data", walk.position)
    except RecordsError as error:  # the rest is not JSON, so it holds no further record
        rest = [RawRecord(name, problems=error.problems)]
    else:
        rest = []
    _number_shared_lines(records)
    yield from (*records, *rest)


def _number_shared_lines(records: Sequence[RawRecord]) -> None:
    """Add its number in the list to the place of each record that begins on a line with others."""
    times = Counter(record.where for record in records)
    for number, record in enumerate(records, start=1):
        if times[record.where] > 1:
            record.where += f" record {number}"
            record.problems = [replace(problem, where=record.where) for problem in record.problems]


class _Walk:
    """Reads JSON text value by value, to give each record its line number."""

    def __init__(self, name: str, data: bytes, first_line: int) -> None:
        self.name, self.position = name, 0
        self._counted, self._line = 0, first_line  # the line of a position: lines are counted once, not per record
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.text = data.decode("latin-1")  # one character per byte, for counting lines
            what = f"is not UTF-8: byte 0x{data[error.start]:02x}"
            raise self.broken(what, error.start, "Save the file as UTF-8.") from None

    def place(self, position: int) -> str:
        """Return the file and line of a position in the text."""
        if position >= self._counted:
            self._line += self.text.count("\n", self._counted, position)
        else:
            self._line -= self.text.count("\n", position, self._counted)
        self._counted = position
        return f"{self.name}:{self._line}"

    def broken(self, what: str, position: int, cure: str = "Correct it, or drop the record.") -> RecordsError:
        """Make the error for text that is not JSON at this position."""
        column = position - self.text.rfind("\n", 0, position)
        return RecordsError([Problem(self.place(position), f"{what} (column {column}).", cure)])

    def take(self, pattern: str) -> bool:
        """Skip white space and the pattern if the pattern comes next. Return whether the pattern came next."""
        match = re.compile(rf"[ \t\r\n]*{pattern}").match(self.text, self.position)
        self.position = match.end() if match else self.position
        return match is not None

    def record(self) -> RawRecord:
        """Read the next value. A value that is not an object becomes a record with a problem."""
        self.take("")
        record = RawRecord(self.place(self.position))

        def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            for key in (key for key, times in Counter(key for key, _ in pairs).items() if times > 1):
                record.refuse(key, "occurs more than once.", "Keep one of them.")
            return dict(pairs)

        decoder = json.JSONDecoder(object_pairs_hook=without_repeats)
        try:
            value, end = decoder.raw_decode(self.text, self.position)
            if isinstance(value, dict):
                record.set(value)
            else:
                record.refuse(None, f"is {kind(value)}, not an object.", SEE_FORMAT)
        except json.JSONDecodeError as error:
            raise self.broken(f"is not JSON: {error.msg}", error.pos) from None
        except (RecursionError, ValueError):  # Python refuses integers of more than 4300 digits
            what = "is nested too deeply, or holds a number with too many digits"
            raise self.broken(what, self.position) from None
        self.position = end
        self.take("")
        return record


def is_blank(value: object) -> bool:
    """Return whether a value is None, empty or white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def day_or_time(value: date | time) -> str:
    """Write a table's day or time as text: 2026-03-01, or 2026-03-01 12:30:00."""
    if isinstance(value, datetime):
        is_day = value.time() == time() and value.tzinfo is None
        return value.date().isoformat() if is_day else value.isoformat(sep=" ")
    return value.isoformat()


def kind(value: object) -> str:
    """Describe a value for a message: by its JSON type, or as written if it is a number, true, false or null."""
    names = {"str": "a string", "list": "a list", "dict": "an object"}
    return names.get(type(value).__name__) or shown(value)


def shown(value: object) -> str:
    """Return the value as printable JSON of at most 60 characters."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))  # parquet has decimals, dates and bytes
    return text if len(text) <= 60 else text[:57] + "..."
