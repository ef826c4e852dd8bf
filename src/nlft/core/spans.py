"""Marked parts of a completion: what a reader objects to, and what should stand there instead."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A marked part of a completion.

    Attributes:
        start, end: character offsets into the completion's text, `end` exclusive.
        replace: the text that should stand there; empty if nothing should; None if the reader does not say.
        note: the reader's remark.
    """

    start: int
    end: int
    replace: str | None = None
    note: str | None = None
