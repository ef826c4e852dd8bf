"""A judge's opinion on a completion, and a tolerant reader for the opinions that small models write."""

import re
import unicodedata
from dataclasses import dataclass

from nlft.collect.opinion_parts import RightOrWrong as RightOrWrong
from nlft.collect.opinion_parts import opinion_parts
from nlft.core.named_parts import looks_like_json, read_parts
from nlft.core.prompts import prompt_text
from nlft.core.quotes import quoted_texts
from nlft.core.spans import Span
from nlft.data.grading import MARK
from nlft.data.records import Example, completion_text

_WORDS = re.compile(r"[^\W\d_]{2,}")
# Terminal escape sequences: CSI, those with a text that ends at a bell or ESC \ (such as OSC), and all others.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?")


@dataclass(frozen=True)
class Opinion:
    """A judge's opinion on one completion.

    Attributes:
        judgment: a description of what is wrong. A correction, if any, is on its own line. None if the feedback cannot
            be used.
        says: "right" or "wrong"; None if the judge says neither.
        feedback: the feedback and correction, even if they cannot be used.
        refused: the reason why there is no judgment, for a person.
        spans: what the judgment is about but cannot quote, each with the judgment's sentence as its note.
    """

    judgment: str | None
    says: RightOrWrong | None = None
    feedback: str = ""
    refused: str = ""
    spans: tuple[Span, ...] = ()


def read_opinion(text: str, finish_reason: str, prompt: str, example: Example) -> Opinion:
    """Read a model's opinion: its feedback, its correction, and whether it calls the completion right or wrong.

    Correction and verdict may be missing. All text between `Correction:` and `Verdict:` becomes one line. Training
    omits that line from the judge prompt. The model's thoughts, as in `<think>...</think>`, are not read.

    Args:
        text, finish_reason: as in `Generated`.
        prompt: the model's prompt. Feedback that only repeats it is refused.
    """
    parts = opinion_parts(text)
    criticism, correction, says = parts.criticism, parts.correction, parts.says
    feedback = f"{criticism}\nCorrection: {correction}" if correction else criticism
    if example.label:  # a right completion needs no judgment
        return Opinion(None, says, feedback)
    refused = ""
    if finish_reason == "content_filter":
        refused = "stopped by the server's content filter"
    elif finish_reason == "length" and not parts.ended:
        refused = "cut off by --max_new_tokens"
    elif finish_reason == "unknown" and not parts.ended:
        refused = "ended for an unknown reason, before its verdict"
    elif says == "right":
        refused = "calls it right"
    elif parts.unread:
        refused = f"its verdict is not understood: {parts.unread[:60]}"
    elif looks_like_json(criticism) and _is_only_json(criticism):
        refused = "its JSON cannot be read"
    elif not _WORDS.search(criticism):
        refused = "only a correction" if correction else "says nothing"
    elif MARK in (line.lstrip()[: len(MARK)] for line in criticism.split("\n")):
        refused = "answers the question instead"
    elif _repeats(criticism, prompt):
        refused = "only repeats its prompt"
    elif _misquotes(criticism, example):
        refused = "quotes text that is not in the response"
    return Opinion(None if refused else feedback, says, feedback, refused)


def quotes(judgment: str, text: str) -> bool:
    """Return whether the text holds at least one quoted part of the judgment, ignoring case and punctuation."""
    shown = _bare(text)
    found = {_bare(quote) for quote in quoted_texts(judgment) if len(quote) > 1}
    return any(quote and quote in shown for quote in found)


def plain_text(text: str) -> str:
    """Remove escape sequences and control characters, so that a model's words cannot control the terminal."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def _is_only_json(criticism: str) -> bool:
    """Return whether nothing but JSON is said. Criticism can begin with JSON of the response."""
    parts = read_parts(criticism)
    return parts is None or not _WORDS.search(parts.around)


def _repeats(feedback: str, prompt: str) -> bool:
    """Return whether the prompt holds every sentence and line of the feedback."""
    shown = _bare(prompt)
    return all(_bare(piece) in shown for piece in set(re.split(r"(?<=[.!?])\s|\n", feedback)))


def _misquotes(feedback: str, example: Example) -> bool:
    """Return whether the feedback has quotes, but none from the response or the question.

    Small models often invent a mistake, or criticise the standard answer.
    """
    shown = f"{prompt_text(example.prompt)}\n{completion_text(example)}"
    quoted = any(len(quote) > 1 for quote in quoted_texts(feedback, doubtful=False))
    return quoted and not quotes(feedback, shown)


def _bare(text: str) -> str:
    return re.sub(r"[^\w=+*/%$-]+", " ", text).casefold().strip()
