"""What a person decides about one reply: liked or disliked, why, and which words to strike or to replace."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from nlft.core.prompts import prompt_text
from nlft.core.spans import Span
from nlft.data.records import Example, completion_text
from nlft.data.relabelling import with_label
from nlft.data.span_records import span_rows
from nlft.errors import UserError
from nlft.label.replies import Reply

LONGEST = 20_000  # characters of what a person writes about a reply, or in the place of a span
MOST_SPANS = 1000

State = Literal["unlabelled", "liked", "disliked", "unfinished", "skipped"]
STATES: dict[State, str] = {"unlabelled": "-", "liked": "+", "disliked": "x", "unfinished": "?", "skipped": "s"}
"""Each state's letter in the page's list of states. Unfinished: disliked, but nothing says what is wrong."""


@dataclass(frozen=True)
class Decision:
    """What is known about a reply.

    Attributes:
        label: true: liked; false: disliked; None: not labelled.
        skipped: leave the reply out of the output.
        judgment: what is wrong, in words. Without a label: words whose reply is not labelled yet.
        feedback: what a reader likes, in words.
        spans: what is struck or replaced, in order, without overlaps.
        answer: a right reply; None if there is none.
    """

    label: bool | None = None
    skipped: bool = False
    judgment: str = ""
    feedback: str = ""
    spans: tuple[Span, ...] = ()
    answer: str | None = None

    @property
    def state(self) -> State:
        """The reply's state."""
        if self.skipped:
            return "skipped"
        if self.label is None:
            return "unlabelled"
        if self.label:
            return "liked"
        return "disliked" if self.judgment.strip() or self.spans else "unfinished"

    def as_json(self) -> dict[str, Any]:
        """Return the decision as the page and the decisions file hold it."""
        return {**asdict(self), "spans": span_rows(self.spans)}


def decision_of(reply: Reply) -> Decision:
    """Return what the file itself says about a reply."""
    example = reply.example
    return Decision(
        label=example.label if reply.has_label else None,
        judgment=example.judgment or "",
        feedback=example.feedback or "",
        spans=tuple(sorted(dict.fromkeys(example.spans), key=lambda span: span.start)),
        answer=example.answer,
    )


def decided(reply: Reply, decision: Decision) -> Example | None:
    """Return the example that a training can read; None if the reply has no label, is skipped or is unfinished.

    A liked reply loses its struck spans, and a judgment that the file did not give to a liked reply. A disliked one
    loses its feedback, except for feedback of the file that was not about a liked reply. A changed label removes what
    graders said about the old one.
    """
    if decision.state not in ("liked", "disliked"):
        return None
    example, liked = reply.example, decision.label is True
    own = decision_of(reply)
    if decision == own:
        return example
    if own.label is not None and own.label != decision.label:
        example = with_label(example, liked)
    given = own if own.label is True else Decision()  # what the file itself gave to a liked reply
    keeps_feedback = liked or (own.label is not True and decision.feedback == own.feedback)
    return replace(
        example,
        label=liked,
        judgment=(given.judgment if liked else decision.judgment).strip() or None,
        feedback=(decision.feedback if keeps_feedback else "").strip() or None,
        spans=tuple(span for span in decision.spans if not liked or span in given.spans),
        answer=decision.answer,
        keep=example.keep and liked,
    )


def fingerprint(example: Example) -> str:
    """Identify a reply by its texts, so that no decision about another reply with the same id is taken for its own."""
    text = f"{prompt_text(example.prompt)}\0{completion_text(example)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_decision(body: object, completion: str) -> Decision:
    """Read a decision as the page or the decisions file holds it.

    Args:
        completion: the text in which spans count characters.

    Raises:
        UserError: a value is missing, has the wrong type, or a span lies outside the completion or overlaps another.
    """
    fields: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    label, skipped, answer = fields.get("label"), fields.get("skipped"), fields.get("answer")
    words = [fields.get("judgment"), fields.get("feedback")]
    if not isinstance(label, bool | None) or not isinstance(skipped, bool) or not isinstance(answer, str | None):
        raise UserError("a decision needs label, skipped and answer.\n  Reload the page.")
    for text in words:
        if not isinstance(text, str):
            raise UserError("a decision needs judgment and feedback as text.\n  Reload the page.")
    if answer is not None and not answer.strip():
        raise UserError("the answer is empty.\n  Drop it instead.")
    spans = _spans(fields.get("spans"), len(completion))
    return Decision(label, skipped, str(words[0]), str(words[1]), spans, answer)


def refuse_too_long(decision: Decision, own: Decision) -> None:
    """Refuse texts that are too long, and too many spans, except for those that the file itself holds.

    Args:
        own: what the file itself says about the reply.

    Raises:
        UserError: a text or the list of spans is too long.
    """
    known = _texts(own)
    for text in _texts(decision):
        if len(text) > LONGEST and text not in known:
            raise UserError(f"a text has {len(text):,} characters.\n  Shorten it to {LONGEST:,}.")
    most = max(MOST_SPANS, len(own.spans))
    if len(decision.spans) > most:
        raise UserError(f"the reply has {len(decision.spans):,} spans.\n  Remove some: at most {most:,} are possible.")


def _texts(decision: Decision) -> set[str]:
    spans = {text for span in decision.spans for text in (span.replace, span.note) if text}
    return {decision.judgment, decision.feedback, *spans}


def _spans(given: object, length: int) -> tuple[Span, ...]:
    if not isinstance(given, list):
        raise UserError("a decision needs a list of spans.\n  Reload the page.")
    spans = tuple(sorted((_span(item, length) for item in given), key=lambda span: span.start))
    for one, other in pairwise(spans):
        if other.start < one.end:
            raise UserError(
                f"the spans {one.start} to {one.end} and {other.start} to {other.end} overlap.\n  Remove one of them."
            )
    return spans


def _span(item: object, length: int) -> Span:
    fields: Mapping[str, Any] = item if isinstance(item, Mapping) else {}
    start, end, *texts = (fields.get(name) for name in ("start", "end", "replace", "note"))
    numbers = isinstance(start, int) and isinstance(end, int) and not isinstance(start, bool | None)
    if not numbers or isinstance(end, bool) or not 0 <= start < end <= length:  # type: ignore[operator]
        raise UserError(f"a span from {start} to {end} is not in the reply's {length} characters.\n  Reload the page.")
    if any(not isinstance(text, str | None) for text in texts):
        raise UserError("a span's text is not text.\n  Reload the page.")
    return Span(start, end, *texts)  # type: ignore[arg-type]
