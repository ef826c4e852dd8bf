"""Keep marked replies as examples for the next round: one record each, on disk at once."""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nlft.chat.settings import RULE
from nlft.chat.talk import Mark, Reply, Talk, Turn
from nlft.core.prompts import Message
from nlft.data.records import Example, as_examples, json_line, read_examples
from nlft.data.span_records import span_rows
from nlft.errors import RecordsError, UserError, display_path
from nlft.files import append_whole, write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BAD = "A reader rejected this reply and did not say why."
"""The judgment of a thumb down without a reason. It says no more than the thumb does."""


def record_of(talk: Talk, turn: Turn, reply: Reply, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return a marked reply as a record of a file of examples.

    The prompt is what the reply answered, without system prompt and rule: training adds the system prompt itself, and
    is to teach what the rule asks for.

    Args:
        about: what identifies the models, see `Sides.about`.
    """
    mark = reply.mark
    says = {"feedback": mark.why} if mark.label else {"judgment": mark.why or ("" if mark.spans else BAD)}
    return {
        "id": reply.id,
        "prompt": _prompt(talk.messages(reply.side, turn)),
        "completion": reply.text,
        "label": mark.label,
        **{name: text for name, text in says.items() if text},
        **({"spans": span_rows(mark.spans)} if mark.spans else {}),
        **talk.inputs.as_json(),
        "finish_reason": reply.reason,
        "said_by": {
            "side": reply.side,
            **({"rule": turn.rule} if reply.side == RULE else {}),
            "blind": turn.blind,
            **about,
        },
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _prompt(messages: list[Message]) -> str | list[Message]:
    alone = len(messages) == 1 and messages[0].keys() == {"role", "content"} and messages[0]["role"] == "user"
    return messages[0]["content"] if alone else messages


class NextRound:
    """The file of examples for the next round."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: a .jsonl file. If it exists, it must hold examples; they stay as they are.

        Raises:
            UserError: the file has another ending, or holds something else.
        """
        if path.suffix.lower() != ".jsonl" or path.is_dir():
            raise UserError(f"--out {display_path(path)}: examples are written as .jsonl.\n  Give a file's name.")
        if path.exists() and path.stat().st_size:
            try:
                read_examples(path, require_judgment=False)
            except RecordsError as error:
                raise UserError(
                    f"--out {display_path(path)}: has lines that are not examples, so nothing is added.\n{error}"
                ) from error
        self.path = path
        self.ours: set[str] = set()  # ids of the examples that this process has kept
        self._lock = threading.Lock()

    def keep(self, talk: Talk, turn: Turn, reply: Reply, mark: Mark, about: Mapping[str, Any]) -> None:
        """Mark a reply, and write its example at once. A mark without thumb and spans removes the example.

        The reply keeps its old mark if the file cannot be written.

        Raises:
            UserError: the reply is empty, the mark makes no valid example, or the file cannot be written.
        """
        if not reply.text.strip():
            raise UserError("The reply is empty, and an example needs one.\n  Mark another reply.")
        with self._lock:
            before, reply.mark = reply.mark, mark
            try:
                row = record_of(talk, turn, reply, about) if mark else None
                if row is not None:
                    as_examples([row])
                self._write(reply.id, row)
            except OSError as error:
                reply.mark = before
                raise UserError(
                    f"cannot write {display_path(self.path)}: {error.strerror}. The mark is not kept.\n"
                    "  Free some disk space, or start again with another --out."
                ) from error
            except UserError:
                reply.mark = before
                raise

    def _write(self, id: str, row: dict[str, Any] | None) -> None:
        """Append the row, or put it in the place of the row with its id. Other lines stay byte for byte."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = b"" if row is None else json_line(row).encode()
        with _alone_in(self.path.parent):
            lines = self.path.read_bytes().splitlines(keepends=True) if id in self.ours and self.path.exists() else []
            changed = [new if _id(line) == id else line for line in lines]
            if changed != lines:
                write_whole(self.path, changed)
            elif new:
                append_whole(self.path, new)
        if row is None:
            self.ours.discard(id)
        else:
            self.ours.add(id)

    def examples(self) -> list[Example]:
        """Read all examples of the file, also those that were there before.

        Raises:
            RecordsError: somebody has written something else into the file meanwhile.
        """
        if not self.path.exists() or not self.path.stat().st_size:
            return []
        return read_examples(self.path, require_judgment=False)

    def line(self) -> str:
        """Say how many examples the file has, and what some of them lack."""
        examples = self.examples()
        count, silent = len(examples), sum(one.judgment == BAD for one in examples)
        line = f"{count} example{'s' * (count != 1)} in {display_path(self.path)}"
        if earlier := count - len(self.ours & {one.id for one in examples}):
            line += f" ({earlier} from before this start)"
        return f"{line}; {silent} rejected without a reason: say why, or strike words" if silent else line


def _id(line: bytes) -> object:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("id") if isinstance(found, dict) else None


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lock out other processes that keep examples in the folder: two could replace each other's lines.

    The lock is on the folder itself, so no lock file is left. Some network disks have no locks; there it does nothing.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # this releases the lock
