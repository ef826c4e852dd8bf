"""Save a reader's edits to examples as a new version of the dataset, for the next run.

`RUN/feedback/examples-v2.jsonl` and later versions are whole datasets. Each has all changes so far. `edits.jsonl`
in the same folder logs every edit with its author, its time and the marked tokens. The file that the run was trained on
never changes.
"""

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from nlft.errors import NLFTError, Problem, ProblemsError, UserError, display_path
from nlft.files import append_whole, stamp, sync_folder
from nlft.labels import VERDICTS, relabelled
from nlft.runs.json_lines import read_jsonl
from nlft.runs.run_dir import RunDir, WatchedExample

LONGEST = 20_000  # characters of a judgment
MOST_MARKS = 1000


@dataclass(frozen=True)
class Mark:
    """Tokens of a completion, `start` to `end` (exclusive), that a reader marked right or wrong."""

    start: int
    end: int
    verdict: Literal["right", "wrong"]


@dataclass(frozen=True)
class Edit:
    """A reader's edit of one watched example.

    Attributes:
        example: index in the run's list of watched examples.
        id: the example's id, which must match the index.
        label: true for a right completion.
        judgment: the new judgment, or None.
        marks: the tokens that the reader marked. Those marked wrong become spans of the example.
        seen: the label and judgment that the reader changed; None if nobody knows.
    """

    example: int
    id: str | int
    label: bool
    judgment: str | None
    marks: list[Mark] = field(default_factory=list)
    seen: tuple[bool, str | None] | None = None


class ChangedMeanwhile(UserError):
    """Somebody else has saved feedback on the same examples since they were shown.

    Attributes:
        examples: the indices of these examples.
    """

    def __init__(self, examples: list[int]) -> None:
        self.examples = examples
        super().__init__("another page has changed these examples meanwhile.\n  Look at its feedback, or keep yours.")


Dataset = Sequence[dict[str, Any]] | Callable[[], Sequence[dict[str, Any]] | None] | None
"""The examples that a run was trained on, as records; or what reads them, for a run that has not begun."""


Check = Callable[[dict[str, Any]], object]


class Feedback:
    """Stores edits of a run's examples as new versions of its dataset."""

    def __init__(self, run: RunDir, dataset: Dataset = None, check: Check | None = None) -> None:
        """
        Args:
            dataset: the examples that the run was trained on, as a file's records. Without them, a version holds only
                the watched examples. What reads them is called again until it finds some, and when run.yaml has
                changed: a run that was started again may have other examples with the same ids.
            check: raises an error for a record that no training could read.
        """
        self.run = run
        self.folder = run.path / "feedback"
        self._check = check
        self._read = dataset if callable(dataset) else lambda: dataset
        self._found: tuple[object, list[dict[str, Any]] | None] = (None, None)  # of run.yaml as it was then
        self._lock = threading.Lock()  # one save at a time, so that each version contains all earlier edits

    @property
    def dataset(self) -> list[dict[str, Any]] | None:
        """The examples that the run was trained on; None if they are not known.

        Raises:
            UserError: their file cannot be read, or is not that of the run.
        """
        now = stamp(self.run.settings_path)
        if self._found[1] is None or self._found[0] != now:
            found = self._read()
            self._found = (now, None if found is None else [dict(record) for record in found])
        return self._found[1]

    def save(self, edits: list[Edit], examples: list[WatchedExample], who: str) -> dict[str, Any]:
        """Write the next version.

        Returns:
            The file's name, the number of its examples, and the number that differ from the last version.

        Raises:
            UserError: there are no edits, a training could not read one, or the file cannot be written.
            ChangedMeanwhile: the newest version has other feedback than an edit began with.
        """
        if not edits:
            raise UserError("there are no edits to save.\n  Edit a judgment or mark tokens first.")
        with self._lock:
            return self._save(edits, examples, who)

    def saved(self, examples: list[WatchedExample]) -> list[dict[str, Any]]:
        """Return label and judgment of the watched examples whose newest version differs from the run."""
        try:
            by_id = {record["id"]: record for record in self._latest(examples)}
        except UserError:  # the next save raises this error again, and then the user sees it
            return []
        edited = []
        for index, example in enumerate(examples):
            record = by_id.get(example.id)
            if record and (record["label"], record.get("judgment")) != (example.label, example.judgment):
                about = {"example": index, "id": str(example.id)}
                edited.append({**about, "label": record["label"], "judgment": record.get("judgment")})
        return edited

    def _save(self, edits: list[Edit], examples: list[WatchedExample], who: str) -> dict[str, Any]:
        records = self._latest(examples)
        by_id = {record["id"]: record for record in records}
        if others := [edit.example for edit in edits if _is_outdated(edit, by_id.get(edit.id))]:
            raise ChangedMeanwhile(others)
        changed = 0
        for edit in edits:
            record = by_id.get(edit.id)
            if record is None:
                raise UserError(
                    f"example {edit.id!r} is not in the dataset of --data.\n"
                    "  Start `nlft map` with the file that this run was trained on."
                )
            before = _edited_fields(record)
            changed_label = relabelled(record, edit.label)
            record.update({name: changed_label.get(name) for name in _EDITABLE}, judgment=edit.judgment)
            record["spans"] = _with_marks(record, edit.marks, examples[edit.example].tokens)
            changed += before != _edited_fields(record)
            self._require_readable(record)
        try:
            path = self._write(records)
            self._log(edits, who, path.name)
        except OSError as error:
            raise UserError(
                f"cannot write to {display_path(self.folder)} ({error.strerror}).\n"
                "  Free some disk space, or change the folder's permissions."
            ) from error
        whole = self.dataset is not None
        return {"file": f"feedback/{path.name}", "examples": len(records), "changed": changed, "whole": whole}

    def _require_readable(self, record: dict[str, Any]) -> None:
        try:
            if self._check is not None:
                self._check(record)
        except NLFTError as error:
            raise UserError(
                f"example {record['id']!r} is not saved, because no training could read it: {error}"
            ) from error

    def versions(self) -> list[int]:
        """Return the numbers of the saved versions, ascending. Version 1 is the run's own file and is not included."""
        files = [path for path in self.folder.glob("examples-v*.jsonl") if path.stat().st_size]
        names = [path.stem.removeprefix("examples-v") for path in files]
        return sorted(int(name) for name in names if name.isdigit())

    def _latest(self, examples: list[WatchedExample]) -> list[dict[str, Any]]:
        """Return the run's examples, with the edits of the newest version if it has the same example.

        A run that was started again in the same folder may have different examples with the same ids. Edits of the old
        examples stay in the old version and are not copied.
        """
        now = [dict(record) for record in self.dataset] if self.dataset else [as_record(e) for e in examples]
        versions = self.versions()
        if not versions:
            return now
        path = self._path(versions[-1])
        try:
            before = {record["id"]: record for record in read_jsonl(path)}
            for record in now:
                edited = before.get(record["id"])
                if edited is not None and _not_editable(edited) == _not_editable(record):
                    record.update(zip(_EDITABLE, _edited_fields(edited), strict=True))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot read {display_path(path)} ({error}).\n  Fix it, or move it to another folder."
            ) from error
        return now

    def _path(self, version: int) -> Path:
        return self.folder / f"examples-v{version}.jsonl"

    def _write(self, records: list[dict[str, Any]]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".examples.{uuid.uuid4()}.tmp"
        version = max(self.versions(), default=1) + 1
        try:
            with aside.open("wb") as file:
                file.writelines(_line({k: v for k, v in r.items() if v is not None}) for r in records)
                file.flush()
                os.fsync(file.fileno())
            while True:
                try:
                    _name_once(aside, self._path(version))
                    sync_folder(self.folder)
                    return self._path(version)
                except FileExistsError:
                    version += 1
        finally:
            aside.unlink(missing_ok=True)

    def _log(self, edits: list[Edit], who: str, file: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [_line({"file": file, "time": time, "who": who, **_logged(edit)}) for edit in edits]
        append_whole(self.folder / "edits.jsonl", b"".join(lines))


def _name_once(file: Path, name: Path) -> None:
    """Give a file a name that no file has. Unlike a rename, this never replaces a file.

    Raises:
        FileExistsError: a file has the name.
    """
    try:
        os.link(file, name)
    except FileExistsError:
        raise
    except OSError:  # some disks have no hard links: take the name with an empty file, and replace only that
        name.open("xb").close()
        os.replace(file, name)


def parse_edits(body: object, examples: list[WatchedExample]) -> list[Edit]:
    """Read the edits that the page sends.

    Raises:
        ProblemsError: some edits are wrong; the message lists all problems.
    """
    edits: list[Edit] = []
    problems: list[Problem] = []
    for item in body if isinstance(body, list) else [None]:
        result = _edit(item, examples)
        if isinstance(result, Edit):
            edits.append(result)
        else:
            problems.append(result)
    if problems:
        raise ProblemsError(problems)
    return edits


def fingerprint(example: WatchedExample) -> str:
    """Identify an example by its texts: a run that was started again may have another one with the same id."""
    return hashlib.sha256("\0".join([example.prompt, *example.tokens]).encode("utf-8", "replace")).hexdigest()[:16]


def as_record(example: WatchedExample) -> dict[str, Any]:
    """Convert a watched example to the example format. Drop its last token, which is the end of turn."""
    return {
        "id": example.id,
        "prompt": example.prompt,
        "completion": "".join(example.tokens[:-1]),
        "label": example.label,
        "answer": example.answer,
        "feedback": example.feedback,
        "judgment": example.judgment,
    }


def _edit(item: object, examples: list[WatchedExample]) -> Edit | Problem:
    index = item.get("example") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(index, int) or isinstance(index, bool):
        return Problem(
            "feedback",
            f"needs the number of an example, not {index!r}",
            "Reload the page; the run may have been restarted.",
        )
    if not 0 <= index < len(examples):
        return Problem(
            "feedback",
            f"is for example {index}, but the run watches {len(examples)}",
            "Reload the page; the run may have been restarted.",
        )
    id = examples[index].id
    if item.get("fingerprint") not in (None, fingerprint(examples[index])):
        return Problem(
            "feedback",
            f"is for another reply than example {id!r} has now",
            "Reload the page; the run may have been restarted.",
        )
    if str(item.get("id")) != str(id):  # a browser rounds whole numbers above 2^53, so the page has ids as text
        return Problem(
            "feedback",
            f"is for example {item.get('id')!r}, but place {index} has {id!r}",
            "Reload the page; the run may have been restarted.",
        )
    where = f"example {id!r}"
    judgment, label = item.get("judgment"), item.get("label")
    if not isinstance(label, bool) or not (judgment is None or isinstance(judgment, str)):
        return Problem(where, "needs a label, and a judgment that is text or null", "Reload the page.")
    if judgment is not None and len(judgment) > LONGEST and judgment != examples[index].judgment:
        return Problem(where, f"has a judgment of {len(judgment)} characters", f"Shorten it to {LONGEST}.")
    if not label and not (judgment or "").strip():
        return Problem(where, 'has the label "wrong", but no judgment', "Write a sentence or mark tokens.")
    given = item.get("marks") or []
    if not isinstance(given, list):
        return Problem(where, "needs a list of marks", "Reload the page.")
    if len(given) > MOST_MARKS:
        return Problem(where, f"has more than {MOST_MARKS} marks", "Clear some marks.")
    marks = [_mark(mark, len(examples[index].tokens)) for mark in given]
    if None in marks:
        return Problem(where, "has a mark outside its tokens", "Reload the page.")
    words, seen = (judgment or "").strip() or None, _seen(item.get("seen"))
    return Edit(index, id, label, words, [mark for mark in marks if mark], seen)


def _logged(edit: Edit) -> dict[str, Any]:
    return {name: value for name, value in asdict(edit).items() if name != "seen"}


def _seen(item: object) -> tuple[bool, str | None] | None:
    """Read the label and judgment that a page began with; an older page does not send them."""
    label, judgment = (item.get("label"), item.get("judgment")) if isinstance(item, dict) else (None, None)
    return (label, judgment) if isinstance(label, bool) and isinstance(judgment, str | None) else None


def _is_outdated(edit: Edit, record: Mapping[str, Any] | None) -> bool:
    if edit.seen is None or record is None:
        return False
    known = [edit.seen, (edit.label, edit.judgment)]
    now = (record["label"], (record.get("judgment") or "").strip())
    return now not in [(label, (judgment or "").strip()) for label, judgment in known]


def _mark(item: object, length: int) -> Mark | None:
    if not isinstance(item, list) or len(item) != 3:
        return None
    start, end, verdict = item
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length):
        return None
    if verdict == "right":
        return Mark(start, end, "right")
    return Mark(start, end, "wrong") if verdict == "wrong" else None


def _with_marks(record: dict[str, Any], marks: Sequence[Mark], tokens: Sequence[str]) -> list[dict[str, Any]] | None:
    """Return the record's spans with those that the marks make, or None if there are none.

    A mark replaces the spans that it overlaps. Tokens marked right have no span.

    Args:
        tokens: the text that each token adds; the last one is the end of turn.
    """
    spans: list[dict[str, Any]] = list(record.get("spans") or [])
    completion = record["completion"] if isinstance(record["completion"], str) else record["completion"][-1]["content"]
    if "".join(tokens[:-1]) != completion:  # the tokens' places are unknown; the judgment quotes what was marked
        return spans or None
    begins = [0, *accumulate(len(token) for token in tokens[:-1])]
    for mark in marks:
        start, end = begins[min(mark.start, len(begins) - 1)], begins[min(mark.end, len(begins) - 1)]
        text = completion[start:end]
        if text.strip():  # a token begins with the space before its word
            start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        spans = [span for span in spans if span["end"] <= start or end <= span["start"]]
        if mark.verdict == "wrong" and start < end:
            spans.append({"start": start, "end": end})
    return sorted(spans, key=lambda span: span["start"]) or None


_EDITABLE = ("label", "judgment", "spans", "keep", *VERDICTS)


def _edited_fields(record: dict[str, Any]) -> tuple[Any, ...]:
    return (record["label"], *(record.get(name) or None for name in _EDITABLE[1:]))


def _not_editable(record: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that no edit changes."""
    return {name: value for name, value in record.items() if value is not None and name not in _EDITABLE}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
