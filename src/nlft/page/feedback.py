"""What a reader says about examples on the page, saved as a new version of the dataset for the next run.

`RUN/feedback/examples-v2.jsonl` and so on are whole datasets, each with every change so far; `edits.jsonl` beside them
keeps who changed what, when, and which tokens were marked. The file that the run was trained on is never written to.
"""

import json
import os
import threading
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nlft.errors import Problem, ProblemsError, UserError, display_path
from nlft.runs.run_dir import RunDir, WatchedExample, read_jsonl

LONGEST = 20_000  # characters of a judgment
MOST_MARKS = 1000


@dataclass(frozen=True)
class Mark:
    """Tokens `start` to `end` (not included) of the completion that a reader called right or wrong."""

    start: int
    end: int
    verdict: Literal["right", "wrong"]


@dataclass(frozen=True)
class Edit:
    """What a reader says about one watched example: its index in the run's list, and the id that stood there."""

    example: int
    id: str | int
    label: bool
    judgment: str | None
    marks: list[Mark] = field(default_factory=list)


class Feedback:
    """Keeps the edits of a run's examples as versions of its dataset."""

    def __init__(self, run: RunDir, dataset: Sequence[dict[str, Any]] | None = None) -> None:
        """
        Args:
            dataset: the examples that the run was trained on. Without them a version holds the watched examples alone.
        """
        self.run = run
        self.folder = run.path / "feedback"
        self.dataset = None if dataset is None else [_flat(record) for record in dataset]
        self._lock = threading.Lock()  # of two versions at once, the later would lack what the earlier one changed

    def save(self, edits: list[Edit], examples: list[WatchedExample], who: str) -> dict[str, Any]:
        """Write the next version.

        Returns:
            Its file's name, how many examples it holds, and how many of them differ from the version before.

        Raises:
            UserError: nothing was changed, or the file cannot be written.
        """
        if not edits:
            raise UserError("nothing was changed.\n  Edit a judgment or mark tokens first.")
        with self._lock:
            return self._save(edits, examples, who)

    def saved(self, examples: list[WatchedExample]) -> list[dict[str, Any]]:
        """Label and judgment of the watched examples that the newest version has another way than the run."""
        try:
            by_id = {record["id"]: record for record in self._latest(examples)}
        except UserError:  # whoever saves the next version is told
            return []
        found = []
        for index, example in enumerate(examples):
            record = by_id.get(example.id)
            if record and (record["label"], record.get("judgment")) != (example.label, example.judgment):
                about = {"example": index, "id": example.id}
                found.append({**about, "label": record["label"], "judgment": record.get("judgment")})
        return found

    def _save(self, edits: list[Edit], examples: list[WatchedExample], who: str) -> dict[str, Any]:
        records = self._latest(examples)
        by_id = {record["id"]: record for record in records}
        changed = 0
        for edit in edits:
            record = by_id.get(edit.id)
            if record is None:
                raise UserError(
                    f"example {edit.id!r} is not in the dataset that --data named.\n"
                    "  Start `nlft map` with the file that this run was trained on."
                )
            before = (record["label"], record.get("judgment"))
            record["label"], record["judgment"] = edit.label, edit.judgment
            changed += before != (edit.label, edit.judgment)
        try:
            path = self._write(records)
            self._log(edits, who, path.name)
        except OSError as error:
            raise UserError(
                f"{display_path(self.folder)}: cannot be written ({error.strerror}).\n  Make room there, or allow it."
            ) from error
        whole = self.dataset is not None
        return {"file": f"feedback/{path.name}", "examples": len(records), "changed": changed, "whole": whole}

    def versions(self) -> list[int]:
        """Versions that are there, ascending; 1, the file that the run was trained on, is not among them."""
        names = [path.stem.removeprefix("examples-v") for path in self.folder.glob("examples-v*.jsonl")]
        return sorted(int(name) for name in names if name.isdigit())

    def _latest(self, examples: list[WatchedExample]) -> list[dict[str, Any]]:
        """The examples as they are now, with the newest version's label and judgment where it has the same example.

        A run that was started again in the same folder may have other examples by the same ids: what was said of
        the old ones stays in their version, and is not carried over.
        """
        now = [dict(record) for record in self.dataset] if self.dataset else [as_record(e) for e in examples]
        versions = self.versions()
        if not versions:
            return now
        path = self._path(versions[-1])
        try:
            before = {record["id"]: record for record in read_jsonl(path)}
            for record in now:
                said = before.get(record["id"])
                if said is not None and _unsaid(said) == _unsaid(record):
                    record["label"], record["judgment"] = said["label"], said.get("judgment")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{display_path(path)}: cannot be read ({error}).\n  Mend it, or move it to another folder."
            ) from error
        return now

    def _path(self, version: int) -> Path:
        return self.folder / f"examples-v{version}.jsonl"

    def _write(self, records: list[dict[str, Any]]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".examples.{uuid.uuid4()}.tmp"
        aside.write_bytes(b"".join(_line({k: v for k, v in r.items() if v is not None}) for r in records))
        version = max(self.versions(), default=1) + 1
        try:
            while True:
                try:
                    os.link(aside, self._path(version))  # unlike a rename, this never replaces a file
                    return self._path(version)
                except FileExistsError:
                    version += 1
        finally:
            aside.unlink(missing_ok=True)

    def _log(self, edits: list[Edit], who: str, file: str) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        lines = [_line({"file": file, "time": time, "who": who, **asdict(edit)}) for edit in edits]
        with (self.folder / "edits.jsonl").open("ab") as log:
            log.write(b"".join(lines))


def parse_edits(body: Any, examples: list[WatchedExample]) -> list[Edit]:
    """Edits as the page sends them.

    Raises:
        ProblemsError: everything that is wrong with them.
    """
    found: list[Edit] = []
    problems: list[Problem] = []
    for item in body if isinstance(body, list) else [None]:
        result = _edit(item, examples)
        if isinstance(result, Edit):
            found.append(result)
        else:
            problems.append(result)
    if problems:
        raise ProblemsError(problems)
    return found


def as_record(example: WatchedExample) -> dict[str, Any]:
    """A watched example in the example format; its last token is the end of turn, which no completion holds."""
    return {
        "id": example.id,
        "prompt": example.prompt,
        "completion": "".join(example.tokens[:-1]),
        "label": example.label,
        "answer": example.answer,
        "judgment": example.judgment,
    }


def _edit(item: Any, examples: list[WatchedExample]) -> Edit | Problem:
    index = item.get("example") if isinstance(item, dict) else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(examples):
        return Problem("feedback", f"names example {index!r}", "Reload the page; the run may have been restarted.")
    id = examples[index].id
    if item.get("id") != id:
        return Problem("feedback", "is of another example", "Reload the page; the run may have been restarted.")
    where = f"example {id!r}"
    judgment, label = item.get("judgment"), item.get("label")
    if not isinstance(label, bool) or not (judgment is None or isinstance(judgment, str)):
        return Problem(where, "has no label or no judgment as text", "Reload the page.")
    if judgment is not None and len(judgment) > LONGEST:
        return Problem(where, f"has a judgment of {len(judgment)} characters", f"Keep it to {LONGEST}.")
    if not label and not (judgment or "").strip():
        return Problem(where, "is called wrong, but nothing says what is wrong", "Write a sentence or mark tokens.")
    given = item.get("marks") or []
    if not isinstance(given, list) or len(given) > MOST_MARKS:
        return Problem(where, f"has no list of at most {MOST_MARKS} marks", "Clear some of them.")
    marks = [_mark(mark, len(examples[index].tokens)) for mark in given]
    if None in marks:
        return Problem(where, "has a mark outside its tokens", "Reload the page.")
    return Edit(index, id, label, (judgment or "").strip() or None, [mark for mark in marks if mark])


def _mark(item: Any, length: int) -> Mark | None:
    if not isinstance(item, list) or len(item) != 3:
        return None
    start, end, verdict = item
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= length):
        return None
    if verdict == "right":
        return Mark(start, end, "right")
    return Mark(start, end, "wrong") if verdict == "wrong" else None


def _unsaid(record: dict[str, Any]) -> dict[str, Any]:
    """What a reader's edit leaves as it is."""
    return {name: value for name, value in record.items() if value is not None and name not in ("label", "judgment")}


def _flat(example: dict[str, Any]) -> dict[str, Any]:
    """An example's fields as one record, with the fields that are not the format's own."""
    return {**{k: v for k, v in example.items() if k != "extra"}, **example.get("extra", {})}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
