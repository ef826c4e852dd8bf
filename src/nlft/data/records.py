"""Examples and questions on disk: read with every problem named, written so that they read back equal.

docs/RECORDS.md describes the formats, and shows each refusal.
"""

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nlft.errors import Problem, RecordsError, UserError, display_path

Message = dict[str, str]
"""A chat message: `role`, `content`, and whatever else the chat template takes, all text."""

RIGHT_FROM_SCORE = 7  # the original project's records: a judgment with this score or more counts as right

_FIELDS = ("id", "prompt", "completion", "label", "answer", "judgment", "revision")
_NEEDED = {
    "id": "Give each record its own id, a string or an integer.",
    "prompt": "Write the question: text, or a list of chat messages.",
    "completion": "Write what the model answered, in the prompt's form, or drop the record.",
    "label": "Write true if the completion is right, false if it is wrong, without quotes.",
    "answer": "Write the standard answer, or the feedback to a liked response, as text.",
    "judgment": "Say in words what is wrong.",
    "revision": "Write a right completion, or leave the field out.",
}
_SEE_FORMAT = "Write the records as docs/RECORDS.md shows."
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass(frozen=True)
class Example:
    """One completion with its verdict and feedback.

    Attributes:
        prompt, completion, revision: all strings, or all lists of chat messages (`revision` may be None).
        label: true if the completion is right.
        answer: the standard answer with its reasoning, or the feedback to a liked response.
        judgment: what is wrong, in words; None for right completions without one.
        extra: the record's other fields, kept and written back as they were.
    """

    id: str | int
    prompt: str | list[Message]
    completion: str | list[Message]
    label: bool
    answer: str
    judgment: str | None = None
    revision: str | list[Message] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A question with its standard answer, not yet answered by a model."""

    id: str | int
    prompt: str | list[Message]
    answer: str


_Item = TypeVar("_Item", Example, Question)


def completion_text(example: Example) -> str:
    """What the model said, without its chat wrapping."""
    return _content(example.completion)


def revision_text(example: Example) -> str | None:
    """The revision without its chat wrapping; None where there is none."""
    return None if example.revision is None else _content(example.revision)


def read_examples(path: str | Path, *, require_judgment: bool = True) -> list[Example]:
    """Read `.jsonl` or `.json`, in this project's format or the original project's.

    Args:
        require_judgment: refuse wrong examples without a judgment; False for what is still to be judged.
    Raises:
        RecordsError: names every record that cannot be used, not the first one only.
    """
    path = Path(path)
    cure = f"Run `nlft judge {display_path(path)}`, or drop the line." if require_judgment else None
    return _read(path, lambda record, _: _example(record, cure))


def read_questions(path: str | Path) -> list[Question]:
    """Read questions: `prompt` and `answer`, GSM8K's `question` and `answer`, or full examples.

    A question without `id` is called after the file and its place in it: `train-17`.

    Raises:
        RecordsError: names every record that cannot be used.
    """
    path = Path(path)
    return _read(path, lambda record, index: _question(record, f"{path.stem}-{index}"))


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write JSONL that `read_examples` gives back equal; the file appears whole or not at all.

    Raises:
        UserError: the file cannot be written, or is not called `.jsonl`.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"{display_path(path)}: examples are written as .jsonl.\n  Give it that ending.")
    lines = []
    for example in examples:
        fields = {
            name: value for name, value in vars(example).items() if name in _FIELDS and value is not None
        }
        fields |= {name: value for name, value in example.extra.items() if name not in _FIELDS}
        lines.append(json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n")
    data = "".join(lines).encode()
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(data)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise UserError(f"{display_path(path)}: {error.strerror}.\n  Write to another place.") from error


def _content(text: str | list[Message]) -> str:
    return text if isinstance(text, str) else text[-1]["content"]


@dataclass
class _Record:
    """A JSON object and the problems found in it so far.

    The readers return something of the right type after a refusal too: one pass finds every problem.

    Attributes:
        names: what the file calls a field, where that is not our name.
    """

    where: str
    fields: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)

    def refuse(self, name: str | None, what: str, cure: str) -> None:
        field_name = name and _shown(self.names.get(name, name))[1:-1]
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

    def near_miss(self, name: str) -> str:
        """A remark where an unknown field is spelt almost like this one, else nothing."""
        wanted = self.names.get(name, name)
        unknown = [key for key in self.fields if key not in _FIELDS]
        close = difflib.get_close_matches(wanted, unknown, n=1, cutoff=0.7)
        return f" (did you mean it by {_shown(close[0])}?)" if close else ""

    def refuse_kind(self, name: str, wanted: str) -> None:
        value, state = self.fields.get(name), f"is missing{self.near_miss(name)}."
        self.refuse(
            name, f"is {_kind(value)}, not {wanted}." if name in self.fields else state, _NEEDED[name]
        )

    def text(self, name: str) -> str:
        text = self.fields.get(name)
        if not isinstance(text, str):
            self.refuse_kind(name, "a string")
            return ""
        # A model may well answer with nothing but a space, and that is an answer.
        if text == "" or (_is_blank(text) and name != "completion"):
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
            cure = "One message by the assistant is the completion; all before it are the prompt."
            self.refuse(name, f"has messages by {', '.join(roles)}.", cure)
        return messages

    def messages(self, name: str) -> list[Message]:
        """The field's messages; none at all after a refusal."""
        values, before = self.fields[name], len(self.problems)
        for place, message in enumerate(values, start=1):
            texts = message.values() if isinstance(message, dict) else [None]
            if not all(isinstance(text, str) for text in texts) or not {"role", "content"} <= set(message):
                cure = 'Write each message as {"role": ..., "content": ...}, all text.'
                self.refuse(name, f"has a message, number {place}, that is not one.", cure)
        if len(self.problems) > before:
            return []
        if not (values and values[-1]["content"]):
            self.refuse(name, "ends with an empty message." if values else "is an empty list.", _NEEDED[name])
        return list(values)


def _read(path: Path, convert: Callable[[_Record, int], _Item | None]) -> list[_Item]:
    """Convert every record, then raise with the problems of all of them if there is one."""
    records = list(_records(path))
    first_seen: dict[str, str] = {}
    items = []
    for index, record in enumerate(records, start=1):
        if record.problems and not record.fields:
            continue  # no object
        item = convert(record, index)
        if item is not None:
            items.append(item)
        # Compared as text: neither a page nor a file name can tell the id 7 from "7".
        identity = record.fields.get("id")
        earlier = first_seen.setdefault(str(identity), record.where)
        if isinstance(identity, str | int) and earlier != record.where:
            record.refuse("id", f"is {_shown(identity)}, as at {earlier}.", "Give each record its own id.")
    problems = [problem for record in records for problem in record.problems]
    if not records:
        problems = [Problem(display_path(path), "holds no records.", _SEE_FORMAT)]
    if problems:
        raise RecordsError(problems)
    return items


def _records(path: Path) -> Iterator[_Record]:
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
            yield _Record(name, problems=[Problem(f"{name}:{number}", what, cure)])
            return  # each further line would be refused for the same reason
        yield from _records_of_document(name, line, first_line=number)


def _read_bytes(path: Path, name: str) -> bytes:
    """The file without its byte order mark; RecordsError if there is none to read."""
    what, cure = f'ends in "{path.suffix}".', "Readable are .jsonl and .json: convert or rename it."
    if path.is_dir():
        what, cure = "is a directory.", "Name a .jsonl or .json file in it."
    elif path.suffix.lower() in (".jsonl", ".json"):
        try:
            data = path.read_bytes()
            if not data.startswith((b"\xff\xfe", b"\xfe\xff")):
                return data.removeprefix(b"\xef\xbb\xbf")
            what, cure = "is UTF-16.", "Save it as UTF-8."
        except OSError as error:
            what, cure = f"cannot be read: {error.strerror}.", "Check the path and its permissions."
    raise RecordsError([Problem(name, what, cure)])


def _records_of_document(name: str, data: bytes, first_line: int | None = None) -> Iterator[_Record]:
    """Yield the objects of one JSON document, which may be a list of them unless it is a line of a file."""
    try:
        walk = _Walk(name, data, first_line or 1)
        in_list = not first_line and walk.take(r"\[")
        more = not walk.take(r"\]" if in_list else r"\Z")
        while more:
            yield walk.record()
            more = in_list and walk.take(",")
            if in_list and not more and not walk.take(r"\]"):
                raise walk.broken("Expecting ',' or ']'")
        if not walk.take(r"\Z"):
            raise walk.broken("Extra data")
    except RecordsError as error:  # not JSON from here on: no further record can be found
        yield _Record(name, problems=error.problems)


class _Walk:
    """Goes through JSON text value by value, so that each record knows its line."""

    def __init__(self, name: str, data: bytes, first_line: int) -> None:
        self.name, self.first_line, self.position = name, first_line, 0
        try:
            self.text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.text = data.decode("latin-1")  # one character a byte, to count lines by
            where, column = self._place(error.start)
            what = f"is not UTF-8: byte {column} is 0x{data[error.start]:02x}."
            raise RecordsError([Problem(where, what, "Save the file as UTF-8.")]) from None

    def _place(self, position: int) -> tuple[str, int]:
        line = self.first_line + self.text.count("\n", 0, position)
        return f"{self.name}:{line}", position - self.text.rfind("\n", 0, position)

    def broken(self, message: str, position: int | None = None) -> RecordsError:
        self.take("")
        where, column = self._place(self.position if position is None else position)
        what = f"is not JSON: {message} (column {column})."
        return RecordsError([Problem(where, what, "Mend it, or drop the record.")])

    def take(self, pattern: str) -> bool:
        """Step over white space and what comes next, if it is this."""
        found = re.compile(rf"[ \t\r\n]*{pattern}").match(self.text, self.position)
        self.position = found.end() if found else self.position
        return found is not None

    def record(self) -> _Record:
        """Read the next value; what is no clean object is a record with a problem."""
        self.take("")
        record = _Record(self._place(self.position)[0])

        def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            for key, times in Counter(key for key, _ in pairs).items():
                if times > 1:
                    record.refuse(key, "is given more than once.", "Keep one of them.")
            return dict(pairs)

        decoder = json.JSONDecoder(object_pairs_hook=without_repeats)
        try:
            value, end = decoder.raw_decode(self.text, self.position)
            if isinstance(value, dict):
                record.set(value)
            else:
                record.refuse(None, f"is {_kind(value)}, not an object.", _SEE_FORMAT)
        except json.JSONDecodeError as error:
            raise self.broken(error.msg, error.pos) from None
        except (RecursionError, ValueError):  # Python reads no integer of more than 4300 digits
            raise self.broken("Nested too deeply, or a number with too many digits") from None
        self.position = end
        return record


def _example(record: _Record, judge_cure: str | None) -> Example | None:
    """The record as an example; None after refusing it. Without a `judge_cure` a judgment may be missing."""
    _convert_original(record)
    fields = record.fields
    label = fields.get("label")
    if not isinstance(label, bool):
        record.refuse_kind("label", "true or false")
    judgment = None if _is_blank(fields.get("judgment")) else record.text("judgment")
    if judgment is None and judge_cure and label is False:
        state = "is empty" if "judgment" in fields else f"is missing{record.near_miss('judgment')}"
        record.refuse("judgment", f'{state}, but "label" is false.', judge_cure)
    identity, prompt, completion = record.identity(), record.said("prompt"), record.said("completion")
    revision = None if fields.get("revision") is None else record.said("revision")
    answer = record.text("answer")
    if record.problems:
        return None
    if isinstance(prompt, list) or isinstance(completion, list):
        prompt, completion = _as_messages(prompt, "user"), _as_messages(completion, "assistant")
        revision = revision and _as_messages(revision, "assistant")
    elif revision:
        revision = _content(revision)
    extra = {name: value for name, value in fields.items() if name not in _FIELDS}
    return Example(identity, prompt, completion, label is True, answer, judgment, revision, extra)


def _question(record: _Record, default_id: str) -> Question | None:
    """The record as a question; None after refusing it."""
    fields = record.fields
    if "question" in fields and "prompt" not in fields:  # as GSM8K has it
        record.names["prompt"] = "question"
        fields["prompt"] = fields.pop("question")
        if isinstance(fields.get("answer"), str):
            fields["answer"] = _CALCULATOR.sub("", fields["answer"])
    _convert_original(record)
    fields.setdefault("id", default_id)
    question = Question(record.identity(), record.said("prompt"), record.text("answer"))
    if "completion" not in fields and not record.problems:
        for name in fields.keys() - _FIELDS:
            cure = "A question has prompt, answer and, if you like, id; take the field out."
            record.refuse(name, "is not a field of a question.", cure)
    return None if record.problems else question


def _convert_original(record: _Record) -> None:
    """Rename the fields of the original project's records, and find the label; leave others alone."""
    fields = record.fields
    if not fields.keys() & {"instruction", "output"} or fields.keys() & {"prompt", "completion"}:
        return
    record.names |= {"prompt": "instruction", "completion": "output"}
    for ours, theirs in record.names.items():
        if theirs in fields:
            fields[ours] = fields.pop(theirs)
    more = fields.pop("input", None)
    if more is not None and not isinstance(more, str):
        record.refuse("input", f"is {_kind(more)}, not a string.", "Write text, or leave it out.")
    elif not _is_blank(more) and isinstance(fields.get("prompt"), str):
        fields["prompt"] += f"\n{more}"
    score = fields.get("score")
    if score is not None and type(score) not in (int, float):
        record.refuse("score", f"is {_kind(score)}, not a number.", "Write the judge's mark as a number.")
    elif score is not None:
        fields["label"] = score >= RIGHT_FROM_SCORE
    elif "correct" in fields and "label" not in fields:
        record.names["label"] = "correct"
        fields["label"] = fields["correct"]
    fields.setdefault("label", _is_blank(fields.get("judgment")))


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _as_messages(text: str | list[Message], role: str) -> list[Message]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def _kind(value: Any) -> str:
    """The JSON type of a value, or the value itself if it is a number, true, false or null."""
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value)) or _shown(value)


def _shown(value: Any) -> str:
    """A value as JSON, cut short, and printable whatever it holds."""
    text = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."
