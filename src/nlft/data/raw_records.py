"""JSON objects as a file holds them: each with its line, and every problem found in it."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlft.errors import Problem, RecordsError, display_path

Message = dict[str, str]  # role, content, and whatever else the chat template takes

FIELDS = ("id", "prompt", "completion", "label", "answer", "judgment", "revision")
_NEEDED = {
    "id": "Give each record its own id, a string or an integer.",
    "prompt": "Write the question: text, or a list of chat messages.",
    "completion": "Write what the model answered, in the prompt's form, or drop the record.",
    "label": "Write true if the completion is right, false if it is wrong, without quotes.",
    "answer": "Write the standard answer, or the feedback to a liked response, as text.",
    "judgment": "Say in words what is wrong.",
    "revision": "Write a right completion, or leave the field out.",
}
SEE_FORMAT = "Write the records as docs/RECORDS.md shows."
UNREADABLE_CURE = "Name a .jsonl, .json or .parquet file that you may read."


@dataclass
class RawRecord:
    """A JSON object and the problems found in it so far.

    The readers return something of the right type after a refusal too: one pass finds every problem.
    """

    where: str
    fields: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # what the file calls our fields, where it differs

    def refuse(self, name: str | None, what: str, cure: str) -> None:
        field_name = name and shown(self.names.get(name, name))[1:-1]
        self.problems.append(Problem(self.where, what, cure, field_name))

    def set(self, fields: dict[str, Any]) -> None:
        """Take the fields, refusing what cannot be written to a file again."""
        self.fields = fields
        for name, value in fields.items():
            try:
                json.dumps({name: value}, ensure_ascii=False, allow_nan=False).encode()
            except UnicodeEncodeError as error:
                what = f"holds half a character, {error.object[error.start]!a}, which no file can hold."
                self.refuse(name, what, "Mend the text where it was cut in two, or take it out.")
            except ValueError:
                self.refuse(name, "holds NaN or an infinity, which is not JSON.", "Write a number, or null.")
            except TypeError as error:  # a table's dates, decimals or bytes
                held = str(error).removeprefix("Object of type ").partition(" ")[0]
                self.refuse(name, f"holds a {held}, which is not JSON.", "Write it as text or as a number.")

    def near_miss(self, name: str) -> str:
        """A remark where an unknown field is spelt almost like this one, else nothing."""
        wanted = self.names.get(name, name)
        close = difflib.get_close_matches(wanted, [k for k in self.fields if k not in FIELDS], n=1, cutoff=0.7)
        return f" (did you mean it by {shown(close[0])}?)" if close else ""

    def refuse_kind(self, name: str, wanted: str) -> None:
        value, missing = self.fields.get(name), f"is missing{self.near_miss(name)}."
        what = f"is {kind(value)}, not {wanted}." if name in self.fields else missing
        self.refuse(name, what, _NEEDED[name])

    def text(self, name: str) -> str:
        text = self.fields.get(name)
        if not isinstance(text, str):
            self.refuse_kind(name, "a string")
            return ""
        # A model may well answer with nothing but a space, and that is an answer.
        if text == "" or (is_blank(text) and name != "completion"):
            self.refuse(name, "is empty.", _NEEDED[name])
        return text

    def identity(self) -> str | int:
        value = self.fields.get("id")
        return self.text("id") if not isinstance(value, int) or isinstance(value, bool) else value

    def said(self, name: str) -> str | list[Message]:
        """A prompt, completion or revision."""
        if not isinstance(self.fields.get(name), list):
            return self.text(name)
        messages = self.messages(name)
        roles = [message["role"] for message in messages]
        if roles[-1:] == ["assistant"] if name == "prompt" else roles not in ([], ["assistant"]):
            cure = "A completion is one message by assistant; the prompt is all that came before it."
            self.refuse(name, f"holds messages by {', '.join(roles)}.", cure)
        return messages

    def messages(self, name: str) -> list[Message]:
        """The field's messages; none at all after a refusal."""
        values, before = self.fields[name], len(self.problems)
        for place, message in enumerate(values, start=1):
            parts = message if isinstance(message, dict) else {}
            if not {"role", "content"} <= set(parts) or not all(isinstance(v, str) for v in parts.values()):
                cure = 'Write each message as {"role": ..., "content": ...}, all text.'
                self.refuse(name, f"has message {place} without role and content, or not as text.", cure)
        if len(self.problems) == before and not (values and values[-1]["content"]):
            self.refuse(name, "ends with an empty message." if values else "is an empty list.", _NEEDED[name])
        return list(values) if len(self.problems) == before else []


def read_raw(path: Path) -> Iterator[RawRecord]:
    """Yield the file's objects in order; what is no object comes as a record that has a problem."""
    name = display_path(path)
    data = _read_bytes(path, name)
    if path.suffix.lower() == ".json":
        yield from _records_of_document(name, data)
        return
    # Only \n ends a line: str.splitlines would also break at U+2028 or U+0085 inside a string.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip() in (b"[", b"{"):
            what = "opens a list or an object that does not end on this line."
            cure = "A .jsonl file has one object a line; if this is one JSON document, rename it to .json."
            yield RawRecord(name, problems=[Problem(f"{name}:{number}", what, cure)])
            return  # each further line would be refused for the same reason
        yield from _records_of_document(name, line, first_line=number)


def _read_bytes(path: Path, name: str) -> bytes:
    """The file without its byte order mark; RecordsError if there is none to read."""
    try:
        data = path.read_bytes()
        what, cure = "is UTF-16.", "Save it as UTF-8."
        if path.suffix.lower() not in (".jsonl", ".json"):
            what, cure = f'ends in "{path.suffix}".', "Readable are .jsonl, .json and .parquet: convert or rename it."
        elif not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        what, cure = f"cannot be read: {error.strerror}.", UNREADABLE_CURE
    raise RecordsError([Problem(name, what, cure)])


def _records_of_document(name: str, data: bytes, first_line: int | None = None) -> Iterator[RawRecord]:
    """Yield the objects of one JSON document, which may be a list of them unless it is a line of a file."""
    try:
        walk = _Walk(name, data, first_line or 1)
        in_list = not first_line and walk.take(r"\[")
        more = not walk.take(r"\]" if in_list else r"\Z")
        while more:
            yield walk.record()
            # A comma may stand before the bracket: the original project's judged chunks are written so.
            more = in_list and not walk.take(r"(,[ \t\r\n]*)?\]")
            if more and not walk.take(","):
                raise walk.broken("is not JSON: Expecting ',' or ']'", walk.position)
        if not walk.take(r"\Z"):
            raise walk.broken("is not JSON: Extra data", walk.position)
    except RecordsError as error:  # not JSON from here on: no further record can be found
        yield RawRecord(name, problems=error.problems)


class _Walk:
    """Goes through JSON text value by value, so that each record knows its line."""

    def __init__(self, name: str, data: bytes, first_line: int) -> None:
        self.name, self.first_line, self.position = name, first_line, 0
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.text = data.decode("latin-1")  # one character a byte, to count lines by
            what = f"is not UTF-8: byte 0x{data[error.start]:02x}"
            raise self.broken(what, error.start, "Save the file as UTF-8.") from None

    def place(self, position: int) -> str:
        return f"{self.name}:{self.first_line + self.text.count(chr(10), 0, position)}"

    def broken(self, what: str, position: int, cure: str = "Mend it, or drop the record.") -> RecordsError:
        column = position - self.text.rfind("\n", 0, position)
        return RecordsError([Problem(self.place(position), f"{what} (column {column}).", cure)])

    def take(self, pattern: str) -> bool:
        """Step over white space and what comes next, if it is this."""
        found = re.compile(rf"[ \t\r\n]*{pattern}").match(self.text, self.position)
        self.position = found.end() if found else self.position
        return found is not None

    def record(self) -> RawRecord:
        """Read the next value; what is no clean object is a record with a problem."""
        self.take("")
        record = RawRecord(self.place(self.position))

        def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            for key in (key for key, times in Counter(key for key, _ in pairs).items() if times > 1):
                record.refuse(key, "is given more than once.", "Keep one of them.")
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
        except (RecursionError, ValueError):  # Python reads no integer of more than 4300 digits
            what = "is nested too deeply, or holds a number with too many digits"
            raise self.broken(what, self.position) from None
        self.position = end
        self.take("")
        return record


def is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def kind(value: Any) -> str:
    """The JSON type of a value, or the value itself if it is a number, true, false or null."""
    names = {"str": "a string", "list": "a list", "dict": "an object"}
    return names.get(type(value).__name__) or shown(value)


def shown(value: Any) -> str:
    """A value as JSON, cut short, and printable whatever it holds."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."
