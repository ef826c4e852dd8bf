"""The decisions about the replies of one file: read, change, undo, redo, and write to the output at once.

A change appends a line to the file of decisions, then replaces the output as a whole. The output holds the replies that
a training can read; the file of decisions holds everything. The original is only read.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nlft.core.prompts import prompt_text
from nlft.data.records import as_record, completion_text, json_line
from nlft.errors import UserError, display_path
from nlft.files import stamp, write_output
from nlft.label.decisions import (
    STATES,
    Decision,
    State,
    decided,
    decision_of,
    fingerprint,
    read_decision,
    refuse_too_long,
)
from nlft.label.journal import Journal, digests
from nlft.label.replies import Reply
from nlft.sources.raw_records import TEMPLATE_COLUMNS

ENDINGS = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".xlsx", ".parquet", ".gz")  # which an output's name drops


class Outdated(UserError):
    """Somebody else has changed the reply since it was shown."""


@dataclass(frozen=True)
class _Step:
    """One step, which an undo takes back and a redo takes again.

    Attributes:
        other: the decision before the step; of a step that was taken back, the decision after it.
        who: the reader who made the step, or who took it back or again last; empty for one without a name.
        is_earlier: whether an earlier call has left the step.
    """

    place: int
    name: str
    other: Decision
    who: str
    is_earlier: bool = False


class Labelling:
    """The replies of a file, with what is decided about each."""

    def __init__(self, replies: list[Reply], out: Path) -> None:
        """Take up the decisions that an earlier call has left.

        Args:
            out: the output, `.jsonl`. The file of decisions has its name with the ending `.decisions.jsonl`.

        Raises:
            UserError: another process labels into this output, a file cannot be written, or the output has something
                that no earlier call wrote.
        """
        self.replies, self.out = replies, out
        self.now = [decision_of(reply) for reply in replies]
        self.revisions = [0] * len(replies)
        self.elsewhere = 0  # decisions about replies that the file no longer has
        self.last_place: int | None = None  # the reply that was decided last, in this call or an earlier one
        self._steps: list[_Step] = []
        self._undone: list[_Step] = []  # the last one was taken back last
        self._earlier: set[str] = set()  # the readers whose steps an earlier call has left
        self._lock = threading.Lock()
        self._names = [f"{reply.example.id}\0{fingerprint(reply.example)}" for reply in replies]
        self._lines = [self._line(place) for place in range(len(replies))]
        self._searched = [_searched(reply) for reply in replies]
        self._stamp: object = None  # of the output when it was last known to be ours
        self._own: set[str] = set()  # digests of all outputs that `nlft label` has written
        self._is_behind = False  # whether the output could not be written and lacks a decision
        self.journal = Journal(decisions_path(out))
        try:
            self._take_up()
        except BaseException:
            self.journal.close()
            raise

    def counts(self) -> dict[State, int]:
        """Count the replies in each state."""
        found = Counter(decision.state for decision in self.now)
        return {state: found[state] for state in STATES}

    def states(self) -> str:
        """Return one letter of `STATES` for each reply."""
        return "".join(STATES[decision.state] for decision in self.now)

    def row(self, place: int) -> dict[str, Any]:
        """Return a reply as the page shows it. Spans count characters (code points)."""
        reply = self.replies[place]
        return {
            "place": place,
            "id": str(reply.example.id),
            "prompt": prompt_text(reply.example.prompt),
            "completion": completion_text(reply.example),
            "decision": self.now[place].as_json(),
            "revision": self.revisions[place],
        }

    def search(self, text: str) -> list[int]:
        """Return the replies whose id, prompt, reply or written words have the text, in any case."""
        wanted = text.casefold()
        return [
            place
            for place, searched in enumerate(self._searched)
            if wanted in searched or wanted in f"{self.now[place].judgment}\n{self.now[place].feedback}".casefold()
        ]

    def decide(self, place: int, body: object, seen: int, step: str) -> None:
        """Take a decision, and write it.

        Args:
            seen: the revision of the reply that the page has shown.
            step: the reader's name, `-`, and a name of the act. Consecutive decisions about one reply with the same
                step are undone together, such as typed words.

        Raises:
            UserError: the decision is not valid, or the output was changed by something else, or cannot be written. In
                the last case the file of decisions has the decision, and the same call again writes the output.
            Outdated: another page has changed the reply meanwhile.
        """
        with self._lock:
            decision = self._read(place, body)
            again = self._is_behind and decision == self.now[place]  # it was taken, but the output was not written
            if seen != self.revisions[place] and not again:
                raise Outdated("another page has changed this reply meanwhile.\n  Look at its decision, or keep yours.")
            if decision == self.now[place] and not self._is_behind:
                return
            about = {"step": step, "decision": decision.as_json()}
            self._record(place, decision, about, lambda: self._apply(place, decision, step))

    def undo(self, who: str | None = None) -> int | None:
        """Take back a reader's last step, also one of an earlier call. Return the reply's place; None without a step.

        Args:
            who: the reader's name; None: whoever made the last step. A reader whom the earlier calls do not know may
                take back all of their steps, because a page at another port has another name.

        Raises:
            UserError: as for `decide`.
            Outdated: somebody else has changed the same reply since.
        """
        with self._lock:
            if (last := self._last(self._steps, who)) is None:
                return None
            self._record(last.place, last.other, {"undo": True, "by": who}, lambda: self._undo(last.place, who))
            return last.place

    def redo(self, who: str | None = None) -> int | None:
        """Take the step again that a reader's last undo took back, also one of an earlier call.

        A new decision ends what its reader can take again, and what anybody can take again about its reply.

        Args:
            who: as for `undo`.

        Returns:
            The reply's place; None without such a step.

        Raises:
            UserError, Outdated: as for `undo`.
        """
        with self._lock:
            if (last := self._last(self._undone, who)) is None:
                return None
            line = {"redo": True, "by": who, "step": last.name, "decision": last.other.as_json()}
            self._record(last.place, last.other, line, lambda: self._redo(last.place, last.other, who))
            return last.place

    @property
    def steps(self) -> int:
        """The number of steps that can be undone."""
        return len(self._steps)

    def example_with(self, place: int, body: object) -> dict[str, Any] | None:
        """Return the record that a decision would make; None if no training could read it. Nothing changes."""
        reply = self.replies[place]
        example = decided(reply, self._read(place, body))
        return None if example is None else as_record(example)

    def prompt_record(self, place: int) -> dict[str, Any]:
        """Return what a model needs to write a reply: the prompt, and what the record gives to the chat template."""
        example = self.replies[place].example
        return {"prompt": example.prompt, **{k: example.extra[k] for k in TEMPLATE_COLUMNS if k in example.extra}}

    def close(self) -> None:
        """Let another process label into the output."""
        self.journal.close()

    def _take_up(self) -> None:
        lines = self.journal.lines()
        places = {name: place for place, name in enumerate(self._names)}
        for number, line in enumerate(lines, start=1):
            place = places.get(f"{line.get('id')}\0{line['text']}")
            if place is None:
                self.elsewhere += 1
            elif line.get("undo"):
                self._undo(place, _by(line))
            else:
                try:
                    decision = read_decision(line.get("decision"), completion_text(self.replies[place].example))
                except UserError as error:
                    raise UserError(f"{display_path(self.journal.path)}:{number}: {error}") from error
                if line.get("redo"):
                    self._redo(place, decision, _by(line))
                else:
                    self._apply(place, decision, str(line.get("step", "")))
        self._earlier = {step.who for step in [*self._steps, *self._undone]}
        self._steps, self._undone = _earlier(self._steps), _earlier(self._undone)
        self._lines = [self._line(place) for place in range(len(self.replies))]
        self._own = digests(lines)
        if self._is_foreign():
            raise UserError(
                f"--out {display_path(self.out)}: has something that `nlft label` did not write.\n"
                "  Label that file itself, move it away, or give another --out."
            )
        if lines and self.elsewhere == len(lines) and self._has_content():
            raise UserError(
                f"--out {display_path(self.out)}: holds labelled replies of another file. All {len(lines)} decisions "
                f"in {display_path(self.journal.path)} are about replies that this file does not have.\n"
                "  Give another --out, or move both files away."
            )
        if lines:
            self._write(b"".join(self._lines))

    def _record(self, place: int, decision: Decision, line: dict[str, Any], apply: Callable[[], None]) -> None:
        """Write a line of the file of decisions, then the output."""
        self._refuse_changed_output()
        before = self._lines[place]
        self._lines[place] = self._line(place, decision)
        data = b"".join(self._lines)
        name, _, text = self._names[place].partition("\0")
        try:
            self.journal.append({"id": name, "text": text, **line, "out_sha256": _sha256(data)})
        except UserError:
            self._lines[place] = before
            raise
        apply()
        self._write(data)

    def _read(self, place: int, body: object) -> Decision:
        decision = read_decision(body, completion_text(self.replies[place].example))
        refuse_too_long(decision, decision_of(self.replies[place]))
        return decision

    def _may_turn(self, step: _Step, who: str) -> bool:
        return step.who == who or (step.is_earlier and who not in self._earlier)

    def _last(self, steps: list[_Step], who: str | None) -> _Step | None:
        """Return the last of the steps that the reader may turn.

        Raises:
            Outdated: a later step of somebody else is about the same reply.
        """
        for at, step in reversed([*enumerate(steps)]):
            if who is None or self._may_turn(step, who):
                if any(later.place == step.place for later in steps[at + 1 :]):
                    raise Outdated(
                        f"another page has changed reply {step.place + 1} since your last step, so that step stays.\n"
                        "  Look at the reply, and change it as you like."
                    )
                return step
        return None

    def _apply(self, place: int, decision: Decision, step: str) -> None:
        who = step.partition("-")[0]
        self._undone = [one for one in self._undone if one.place != place and not self._may_turn(one, who)]
        before = next((one for one in reversed(self._steps) if one.place == place or one.who == who), None)
        if not step or before is None or (before.place, before.name) != (place, step):
            self._steps.append(_Step(place, step, self.now[place], who))
        self._set(place, decision)

    def _undo(self, place: int, who: str | None) -> None:
        self._turn(place, who, self._steps, self._undone)

    def _redo(self, place: int, decision: Decision, who: str | None) -> None:
        if not self._turn(place, who, self._undone, self._steps):
            self._apply(place, decision, "")

    def _turn(self, place: int, who: str | None, source: list[_Step], target: list[_Step]) -> bool:
        """Move the reply's last step from one list to the other. Return False if there is none.

        A file of decisions that a user has edited may take back what it no longer has.
        """
        at = max((at for at, step in enumerate(source) if step.place == place), default=None)
        if at is None:
            return False
        step = source.pop(at)
        target.append(replace(step, other=self.now[place], who=step.who if who is None else who))
        self._set(place, step.other)
        return True

    def _set(self, place: int, decision: Decision) -> None:
        self.now[place] = decision
        self.revisions[place] += 1
        self.last_place = place

    def _line(self, place: int, decision: Decision | None = None) -> bytes:
        example = decided(self.replies[place], decision or self.now[place])
        return b"" if example is None else json_line(as_record(example)).encode()

    def _refuse_changed_output(self) -> None:
        if self._is_foreign():
            raise UserError(
                f"{display_path(self.out)} was changed by something else, so it is not replaced.\n"
                "  Move it away, or stop `nlft label` and start it with another --out."
            )

    def _has_content(self) -> bool:
        return self.out.is_file() and self.out.stat().st_size > 0

    def _is_foreign(self) -> bool:
        """Whether the output has content that `nlft label` did not write. Another time of the file does not matter."""
        if not self._has_content() or (now := stamp(self.out)) == self._stamp:
            return False
        if _sha256(self.out.read_bytes()) not in self._own:
            return True
        self._stamp = now
        return False

    def _write(self, data: bytes) -> None:
        self._is_behind = True
        self._own.add(_sha256(data))
        write_output(self.out, data)
        self._is_behind = False
        self._stamp = stamp(self.out)


def default_out(file: str | Path) -> Path:
    """Return the output of a file: beside it, or in the current folder for a dataset by name."""
    path = Path(file)
    folder = path.parent if path.exists() else Path()
    stem = path.name if path.exists() else path.name.partition(":")[0]
    while (ending := Path(stem).suffix.lower()) in ENDINGS:
        stem = stem[: -len(ending)]
    return folder / f"{stem}.labelled.jsonl"


def decisions_path(out: Path) -> Path:
    """Return the file of decisions of an output."""
    return out.with_name(f"{out.stem}.decisions.jsonl")


def _by(line: dict[str, Any]) -> str | None:
    by = line.get("by")
    return by if isinstance(by, str) else None


def _earlier(steps: list[_Step]) -> list[_Step]:
    return [replace(step, is_earlier=True) for step in steps]


def _searched(reply: Reply) -> str:
    example = reply.example
    return f"{example.id}\n{prompt_text(example.prompt)}\n{completion_text(example)}".casefold()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
