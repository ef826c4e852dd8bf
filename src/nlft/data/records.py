"""Examples and questions: read with every problem named, written to read back equal; see docs/RECORDS.md."""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nlft.data.raw_records import (
    FIELDS,
    SEE_FORMAT,
    Message,
    RawRecord,
    is_blank,
    kind,
    read_raw,
    shown,
)
from nlft.errors import Problem, RecordsError, UserError, display_path

RIGHT_FROM_SCORE = 7  # the original project's records: a judgment with this score or more counts as right

_Item = TypeVar("_Item", "Example", "Question")
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
    cure = f"Run `nlft judge {display_path(path)}`, or drop the line." if require_judgment else None
    return _read(Path(path), lambda record, _: _example(record, cure))


def as_examples(rows: Iterable[Example | Mapping[str, Any]]) -> list[Example]:
    """Examples from examples or from rows with their fields, such as a `datasets.Dataset` has.

    Raises:
        RecordsError: names every row that cannot be used, counting from 1.
    """
    records: list[RawRecord] = []
    for number, row in enumerate(rows, start=1):
        record = RawRecord(f"row {number}")
        record.set(_as_dict(row) if isinstance(row, Example) else dict(row))
        records.append(record)
    return _convert(records, "the dataset", lambda record, _: _example(record, "Judge it, or drop the row."))


def read_questions(path: str | Path) -> list[Question]:
    """Read questions: `prompt` and `answer`, GSM8K's `question` and `answer`, or full examples.

    Without `id` they are called after file and place: `train-17`. RecordsError names all bad records.
    """
    path = Path(path)
    return _read(path, lambda record, index: _question(record, f"{path.stem}-{index}"))


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write JSONL that `read_examples` gives back equal; the file appears whole or not at all.

    UserError if it cannot be written, or is not called `.jsonl`.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"{display_path(path)}: examples are written as .jsonl.\n  Give it that ending.")
    lines = []
    for example in examples:
        lines.append(json.dumps(_as_dict(example), ensure_ascii=False, allow_nan=False) + "\n")
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes("".join(lines).encode())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise UserError(f"{display_path(path)}: {error.strerror}.\n  Write to another place.") from error


def _as_dict(example: Example) -> dict[str, Any]:
    fields = {k: v for k, v in vars(example).items() if k in FIELDS and v is not None}
    return fields | {k: v for k, v in example.extra.items() if k not in FIELDS}


def _content(text: str | list[Message]) -> str:
    return text if isinstance(text, str) else text[-1]["content"]


def _read(path: Path, convert: Callable[[RawRecord, int], _Item | None]) -> list[_Item]:
    return _convert(list(read_raw(path)), display_path(path), convert)


def _convert(records: list[RawRecord], source: str, convert: Callable[[RawRecord, int], _Item | None]) -> list[_Item]:
    """Convert every record, then raise with the problems of all of them if there is one."""
    first_seen: dict[str, str] = {}
    items: list[_Item | None] = []
    for index, record in enumerate(records, start=1):
        if record.problems and not record.fields:
            continue  # no object
        items.append(convert(record, index))
        # Compared as text: neither a page nor a file name can tell the id 7 from "7".
        identity = record.fields.get("id")
        earlier = first_seen.setdefault(str(identity), record.where)
        if isinstance(identity, str | int) and earlier != record.where:
            record.refuse("id", f"is {shown(identity)}, as at {earlier}.", "Give each record its own id.")
    problems = [problem for record in records for problem in record.problems]
    if not records:
        problems = [Problem(source, "holds no records.", SEE_FORMAT)]
    if problems:
        raise RecordsError(problems)
    return [item for item in items if item is not None]


def _example(record: RawRecord, judge_cure: str | None) -> Example | None:
    """The record as an example; None after refusing it. Without a `judge_cure` a judgment may be missing."""
    _convert_original(record)
    fields = record.fields
    label = fields.get("label")
    if not isinstance(label, bool):
        record.refuse_kind("label", "true or false")
    judgment = None if is_blank(fields.get("judgment")) else record.text("judgment")
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
    extra = {name: value for name, value in fields.items() if name not in FIELDS}
    return Example(identity, prompt, completion, label is True, answer, judgment, revision, extra)


def _question(record: RawRecord, default_id: str) -> Question | None:
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
        for name in (name for name in fields if name not in FIELDS):
            cure = "A question has prompt, answer and, if you like, id; take the field out."
            record.refuse(name, "is not a field of a question.", cure)
    return None if record.problems else question


def _convert_original(record: RawRecord) -> None:
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
        record.refuse("input", f"is {kind(more)}, not a string.", "Write text, or leave it out.")
    elif not is_blank(more) and isinstance(fields.get("prompt"), str):
        fields["prompt"] += f"\n{more}"
    score = fields.get("score")
    if score is not None and type(score) not in (int, float):
        record.refuse("score", f"is {kind(score)}, not a number.", "Write the judge's mark as a number.")
    elif score is not None:
        fields["label"] = score >= RIGHT_FROM_SCORE
    elif "correct" in fields and "label" not in fields:
        record.names["label"] = "correct"
        fields["label"] = fields["correct"]
    fields.setdefault("label", is_blank(fields.get("judgment")))


def _as_messages(text: str | list[Message], role: str) -> list[Message]:
    return [{"role": role, "content": text}] if isinstance(text, str) else text
