"""Read examples and questions, and write examples. Reading reports every problem in a file.

docs/RECORDS.md describes the format.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from nlft.core.prompts import Message, Prompt, as_messages
from nlft.core.spans import Quoted, Span, merged_spans, quoted_spans
from nlft.data.grading import Reply
from nlft.data.span_records import read_spans, span_rows
from nlft.data.template_columns import check_columns
from nlft.errors import Problem, RecordsError, UserError, display_path
from nlft.files import write_output
from nlft.progress import note_once
from nlft.sources.original_records import ORIGINAL_COLUMNS
from nlft.sources.raw_records import FIELDS, SEE_FORMAT, TEMPLATE_COLUMNS, RawRecord, is_blank, kind, shown
from nlft.sources.reading import Source, read_source_as, renamed
from nlft.sources.settings import ReadAs

_Item = TypeVar("_Item", "Example", "Question")
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")

_QUESTION_COLUMNS = {
    *("id", "prompt", "answer", "completion", "question", "input", *TEMPLATE_COLUMNS),
    *ORIGINAL_COLUMNS,
}


@dataclass(frozen=True)
class Example:
    """One completion with its label and feedback.

    Attributes:
        prompt, completion, revision: either all strings or all lists of chat messages. `revision` may be None.
        label: true if the completion is right.
        answer: the standard answer with its reasoning: a reply that may be trained. None if there is none.
        judgment: a description in words of what is wrong; None for a right completion without a judgment.
        feedback: what a reader likes about a reply, in words. The standard condition shows it if there is no answer.
            It is never trained.
        spans: the parts of the completion that a reader marked.
        extra: the record's other fields; `write_examples` writes them back unchanged.
        keep: the reply is out of the feedback's scope and must stay as it is, see docs/STRIKE.md.
    """

    id: str | int
    prompt: str | list[Message]
    completion: str | list[Message]
    label: bool
    answer: str | None = None
    judgment: str | None = None
    revision: str | list[Message] | None = None
    spans: tuple[Span, ...] = ()
    feedback: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    keep: bool = False


@dataclass(frozen=True)
class Question:
    """A question, before a model answers it.

    Attributes:
        answer: the standard answer, which may be trained; None if there is none.
        extra: the record's other fields, which checks can name.
    """

    id: str | int
    prompt: str | list[Message]
    answer: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """Return the question as a row of a file. `read_questions` returns an equal question from it."""
        answer = {} if self.answer is None else {"answer": self.answer}
        return {"id": self.id, "prompt": self.prompt, **answer, **self.extra}


def reply_to(question: Question | Example, text: str, prompt: Prompt | None = None, key: str | None = None) -> Reply:
    """Return a reply to a question, or to an example's question, for a grader.

    Args:
        text: the reply.
        prompt: the prompt as it was asked; None: the question's own.
        key: a name for the reply that no other one has; None: the question's id.
    """
    key = str(question.id) if key is None else key
    return Reply(key, question.prompt if prompt is None else prompt, question.answer, text, question.extra)


def is_unfinished(example: Example) -> bool:
    """Return whether the completion may lack its end: a limit cut it off, or its server gave an unknown reason."""
    return example.extra.get("finish_reason") in ("length", "unknown")


def completion_text(example: Example) -> str:
    """Return the completion as text: the content of its message, if it is a chat message."""
    return _content(example.completion)


def revision_text(example: Example) -> str | None:
    """Return the revision as text, as `completion_text` does. Return None if the example has no revision."""
    return None if example.revision is None else _content(example.revision)


def quotes_of(example: Example) -> Quoted:
    """Find the quotes of a wrong example's judgment in its completion. A right example's judgment marks nothing."""
    return quoted_spans(completion_text(example), None if example.label else example.judgment)


def marked_spans(example: Example) -> tuple[Span, ...]:
    """Return what is marked in the completion: the example's own spans, and its judgment's quotes, in order."""
    return merged_spans(example.spans, quotes_of(example).spans)


def training_texts(examples: Iterable[Example]) -> list[str]:
    """Return the texts that training may show the model as its own: completions, revisions and standard answers."""
    texts = [(completion_text(e), revision_text(e) or "", e.answer) for e in examples]
    return list(dict.fromkeys(text for group in texts for text in group if text))


def read_examples(
    path: str | Path,
    *,
    require_judgment: bool = True,
    columns: str | None = None,
    from_format: str | None = None,
    if_there: bool = False,
) -> list[Example]:
    """Read examples from a table, from JSON, from another tool's export, or from a dataset by name.

    A record without `id` gets one from its file and place: `train-17`. What is passed over, such as a reply without a
    rating, is counted on standard error.

    Args:
        path: a file or a dataset, as `nlft.sources.reading.read_source` takes it.
        require_judgment: refuse wrong examples with neither judgment nor spans. Pass False before judging.
        columns: which column is which field, where the names do not say it: `prompt=question,completion=reply`.
        from_format: the tool's format, such as `argilla`, where the structure does not say it.
        if_there: pass over what `columns` and `from_format` name and the file does not have, as for a second file.

    Raises:
        RecordsError: names every record that cannot be used.
        UserError: it is not clear what the file is, or which column is which.
    """
    reading: ReadAs = {"columns": columns, "from_format": from_format, "if_there": if_there}
    return source_of_examples(path, require_judgment=require_judgment, reading=reading)[0]


def source_of_examples(path: str | Path, *, require_judgment: bool, reading: ReadAs) -> tuple[list[Example], Source]:
    """Read examples as `read_examples` does. Also return their source, with one usable record for each of them."""
    cure = f"Run `{judge_command(path)}`, or drop the line." if require_judgment else None
    source = read_source_as(path, reading)
    return examples_of(source, cure), source


def examples_of(source: Source, judge_cure: str | None = None) -> list[Example]:
    """Convert the records of a source that can be examples, and say on standard error what is passed over.

    Args:
        judge_cure: what to do about a missing judgment; None allows it to be missing.

    Raises:
        RecordsError: names every record that cannot be used.
    """
    _note((*source.told, *source.passed_over()), source)
    usable = source.usable()
    if source.records and not usable:
        what = f"holds no record that can be an example; {'; '.join(source.passed_over())}."
        raise RecordsError([Problem(source.name, what, "docs/IMPORT.md says what each format needs.")])
    numbers = {id(record): number for number, record in enumerate(source.records, start=1)}
    return _convert(
        replace(source, records=usable),
        lambda record, _: _example(record, judge_cure, f"{source.stem}-{numbers[id(record)]}"),
    )


def judge_command(path: str | Path) -> str:
    """Return the command that judges a file's wrong examples.

    The command includes `--out` unless the file is `.jsonl`, the only format that can be overwritten.
    """
    out = "" if Path(path).suffix.lower() == ".jsonl" else " --out judged.jsonl"
    return f"nlft judge {display_path(path)}{out}"


def as_examples(rows: Iterable[Example | Mapping[str, Any]]) -> list[Example]:
    """Check rows and convert them to examples.

    A row is an example, or a mapping with an example's fields, as in a `datasets.Dataset`.

    Raises:
        RecordsError: names every row that cannot be used, counting from 1.
    """
    records: list[RawRecord] = []
    for number, row in enumerate(rows, start=1):
        record = RawRecord(f"row {number}")
        record.set(as_record(row) if isinstance(row, Example) else dict(row))
        records.append(record)
    source = renamed(Source("the dataset", "row", records))
    _note(source.told, source)
    return _convert(source, lambda record, at: _example(record, "Judge it, or drop the row.", f"row-{at}"))


def _note(lines: Iterable[str], source: Source) -> None:
    for line in lines:
        note_once(f"{source.name}: {line}")


def read_questions(
    path: str | Path,
    *,
    require_answer: bool = False,
    needed_fields: Collection[str] = (),
    columns: str | None = None,
    from_format: str | None = None,
    if_there: bool = False,
) -> list[Question]:
    """Read questions from records with `prompt`, GSM8K's `question`, or full examples, each perhaps with `answer`.

    A conversation that goes on after its last reply asks its last message, after all before it. A record without `id`
    gets one from its file and place: `train-17`. A question keeps the other fields of its record.
    From a table or a full example, it keeps only `needed_fields` and the columns of the chat template.

    Args:
        path: a file or a dataset, as `nlft.sources.reading.read_source` takes it.
        require_answer: refuse questions without a standard answer.
        needed_fields: fields that each record must have besides its prompt.
        columns, from_format, if_there: as `read_examples` takes them.

    Raises:
        RecordsError: names every record that cannot be used.
        UserError: it is not clear what the file is, or which column is which.
    """
    needed = {*_QUESTION_COLUMNS, *needed_fields}
    source = read_source_as(path, {"columns": columns, "from_format": from_format, "if_there": if_there}, needed)
    _note(source.told, source)
    without = [record for record in source.records if record.asks_nothing]
    if without:
        note_once(f"{source.name}: {len(without):,} of {len(source.records):,} records have no prompt: not used")
    asked = [record for record in source.records if not record.repeats and not record.asks_nothing]

    def convert(record: RawRecord, index: int) -> Question | None:
        return _question(record, f"{source.stem}-{index}", require_answer, needed_fields)

    return _convert(replace(source, records=asked), convert)


def write_examples(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples as JSONL. `read_examples` returns equal examples from the file.

    The file appears whole or not at all.

    Raises:
        UserError: the file cannot be written, or its name does not end in `.jsonl`.
    """
    path = Path(path)
    if path.suffix.lower() != ".jsonl":
        raise UserError(f"{display_path(path)}: examples are written as .jsonl.\n  Give a name that ends in .jsonl.")
    write_text(path, "".join(json_line(as_record(example)) for example in examples))


def json_line(row: dict[str, Any]) -> str:
    """Render a row of a `.jsonl` file.

    Raises:
        ValueError: the row holds NaN or an infinity.
    """
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; see `write_output`."""
    write_output(path, text.encode())


def as_record(example: Example) -> dict[str, Any]:
    """Return the example's fields as a file holds them. Fields without a value are omitted."""
    fields = {k: v for k, v in vars(example).items() if k in FIELDS and v is not None and v not in ((), "")}
    if example.spans:
        fields["spans"] = span_rows(example.spans)
    if not example.keep:
        del fields["keep"]
    return fields | {k: v for k, v in example.extra.items() if k not in FIELDS}


def _content(text: str | list[Message]) -> str:
    return text if isinstance(text, str) else text[-1]["content"]


def _convert(source: Source, convert: Callable[[RawRecord, int], _Item | None]) -> list[_Item]:
    """Convert every record.

    Raises:
        RecordsError: names the problems of all records.
    """
    first_seen: dict[str, RawRecord] = {}
    items: list[_Item | None] = []
    for index, record in enumerate(source.records, start=1):
        if record.problems and not record.fields:
            continue  # not an object
        items.append(convert(record, index))
        # Compare ids as text: a page or a file name cannot tell 7 from "7".
        identity = record.fields.get("id")
        earlier = first_seen.setdefault(str(identity), record)
        if isinstance(identity, str | int) and earlier is not record:
            record.refuse(
                "id", f"is {shown(identity)}, the same as at {earlier.where}.", "Give each record its own id."
            )
    if not source.records:
        raise RecordsError([Problem(source.name, "holds no records.", SEE_FORMAT)])
    if problems := _problems(source):
        raise RecordsError(problems)
    return [item for item in items if item is not None]


def _problems(source: Source) -> list[Problem]:
    """Return the problems of all records. One that every record has is most likely another name, and is told once."""
    rows, name = len(source.records), "rows" if source.is_table else "records"
    problems = [problem for record in source.records for problem in dict.fromkeys(record.problems)]
    times = Counter(replace(problem, where=source.name) for problem in problems)
    common = [replace(p, what=f"{p.what[:-1]}, in all {rows} {name}.") for p, n in times.items() if n == rows > 1]
    return common + [p for p in problems if times[replace(p, where=source.name)] < max(rows, 2)]


def _example(record: RawRecord, judge_cure: str | None, default_id: str) -> Example | None:
    """Convert the record to an example. If it cannot be used, report the problem and return None.

    Args:
        judge_cure: what to do about a missing judgment; None allows it to be missing.
        default_id: the id of a record that has none.
    """
    fields = record.fields
    fields.setdefault("id", default_id)
    label = fields.get("label")
    if not isinstance(label, bool) and not record.is_refused("label"):
        record.refuse_kind("label", "true or false")
    judgment = None if is_blank(fields.get("judgment")) else record.text("judgment")
    if judgment is None and judge_cure and label is False and not fields.get("spans"):
        state = "is empty" if "judgment" in fields else f"is missing{record.near_miss('judgment')}"
        record.refuse("judgment", f'{state}, but "label" is false.', judge_cure)
    identity = record.identity()
    prompt, completion = record.text_or_messages("prompt"), record.text_or_messages("completion")
    revision = None if fields.get("revision") is None else record.text_or_messages("revision")
    answer, feedback = record.optional_text("answer"), record.optional_text("feedback")
    spans = read_spans(record, _content(completion) if completion else "")
    keep = fields.get("keep")
    if not isinstance(keep, bool | None):
        record.refuse_kind("keep", "true or false")
    elif keep and label is False:
        record.refuse("keep", 'is true, but "label" is false.', "A reply that must stay as it is has the label true.")
    check_columns(record)
    if record.problems:
        return None
    if isinstance(prompt, list) or isinstance(completion, list):
        prompt, completion = as_messages(prompt, "user"), as_messages(completion, "assistant")
        revision = revision and as_messages(revision, "assistant")
    elif revision:
        revision = _content(revision)
    extra = {name: value for name, value in fields.items() if name not in FIELDS}
    return Example(
        identity, prompt, completion, label is True, answer, judgment, revision, spans, feedback, extra, bool(keep)
    )


def _question(
    record: RawRecord, default_id: str, require_answer: bool, needed_fields: Collection[str]
) -> Question | None:
    """Convert the record to a question. If it cannot be used, report the problem and return None."""
    fields = record.fields
    if record.asks is not None:
        fields["prompt"] = record.asks
    if "question" in fields and "prompt" not in fields:  # GSM8K's name
        record.names["prompt"] = "question"
        fields["prompt"] = fields.pop("question")
    if record.names.get("prompt", "").casefold() == "question" and isinstance(fields.get("answer"), str):
        fields["answer"] = _CALCULATOR.sub("", fields["answer"])
    fields.setdefault("id", default_id)
    identity, prompt = record.identity(), record.text_or_messages("prompt")
    answer = record.text("answer") if require_answer else record.optional_text("answer")
    # The other fields of an example may be about its completion, which is not used.
    is_example = "completion" in fields
    used = {*needed_fields, *TEMPLATE_COLUMNS}
    extra = {k: v for k, v in fields.items() if k not in FIELDS and (not is_example or k in used)}
    check_columns(record)
    if not is_example and not record.problems:
        _refuse_misspelt(record, extra.keys() - needed_fields)
    for name in needed_fields:
        if name not in FIELDS and (is_blank(value := extra.get(name)) or not isinstance(value, str | int | float)):
            state = "missing" if name not in extra else "empty" if is_blank(value) else f"{kind(value)}, not text"
            record.refuse(name, f"is {state}, but a check names it.", "Write a text there, or change the check.")
    return None if record.problems else Question(identity, prompt, answer, extra)


def _refuse_misspelt(record: RawRecord, names: Collection[str]) -> None:
    """Refuse fields whose names look like a misspelt field, or that give the question a second time."""
    for name in names:
        close = "prompt" if name == "question" else next(iter(get_close_matches(name, FIELDS, n=1, cutoff=0.8)), None)
        if close:
            record.refuse(
                name, f"is not a field of a question, but {close} is.", f"Rename it to {close}, or remove it."
            )
