"""A judge's opinion on a completion, and a tolerant reader for the opinions that small models write."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from nlft.core.marks import corrections, says_right, says_wrong, verdict, without_heading
from nlft.core.prompts import prompt_text
from nlft.core.spans import Span
from nlft.core.thoughts import without_thoughts
from nlft.data.grading import MARK
from nlft.data.records import Example, completion_text

RightOrWrong = Literal["right", "wrong"]

_UNSURE = re.compile(
    r"\b(?:part(?:ly|ially)|mostly|almost|nearly|half|or|teilweise|fast|presque|casi|quase)\b|[?？]", re.I
)
_CLOSING_TAG = re.compile(r"</[\w ]{1,30}>")
_QUOTED = re.compile(r'"([^"\n]{2,})"|“([^“”\n]{2,})”')
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
    text = without_thoughts(text)
    criticism, correction, says = _parts(text)
    feedback = f"{criticism}\nCorrection: {correction}" if correction else criticism
    if example.label:  # a right completion needs no judgment
        return Opinion(None, says, feedback)
    refused = ""
    if finish_reason == "content_filter":
        refused = "stopped by the server's content filter"
    elif finish_reason == "length" and not verdict(text):
        refused = "cut off by --max_new_tokens"
    elif finish_reason == "unknown" and not verdict(text):
        refused = "ended for an unknown reason, before its verdict"
    elif says == "right":
        refused = "calls it right"
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
    """Return whether the text holds at least one double-quoted part of the judgment, ignoring case and punctuation."""
    shown = _bare(text)
    return any((quoted := _bare(a or b)) and quoted in shown for a, b in set(_QUOTED.findall(judgment)))


def plain_text(text: str) -> str:
    """Remove escape sequences and control characters, so that a model's words cannot control the terminal."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def _parts(text: str) -> tuple[str, str, RightOrWrong | None]:
    """Split an opinion into its criticism, its correction (on one line), and "right" or "wrong"."""
    says: RightOrWrong | None = None
    if mark := verdict(text):
        before, (words, after) = text[: mark[0]], _first_line(text[mark[1] :])
        text = before if before.strip() else after
        wrong, right = says_wrong(words), says_right(words)
        if wrong != right and not _UNSURE.search(words):  # "right or wrong" decides nothing
            says = "wrong" if wrong else "right"
    text = without_heading(text)
    marks = corrections(text)
    stops = [start for start, _ in marks[1:]] + [len(text)]
    pieces = [text[end:stop] for (_, end), stop in zip(marks, stops, strict=False)]
    correction = " ".join(_CLOSING_TAG.sub("", " ".join(pieces)).split())
    criticism = text[: marks[0][0]] if marks else text
    return criticism.strip(), correction if re.search(r"\w", correction) else "", says


def _first_line(text: str) -> tuple[str, str]:
    """Split a text at the end of its first line with words, which may not be its first line."""
    start = match.start() if (match := re.search(r"\w", text)) else 0
    line, _, rest = text[start:].partition("\n")
    return line, rest


def _repeats(feedback: str, prompt: str) -> bool:
    """Return whether the prompt holds every sentence and line of the feedback."""
    shown = _bare(prompt)
    return all(_bare(piece) in shown for piece in set(re.split(r"(?<=[.!?])\s|\n", feedback)))


def _misquotes(feedback: str, example: Example) -> bool:
    """Return whether the feedback has quotes, but none from the response or the question.

    Small models often invent a mistake, or criticise the standard answer.
    """
    shown = f"{prompt_text(example.prompt)}\n{completion_text(example)}"
    return _QUOTED.search(feedback) is not None and not quotes(feedback, shown)


def _bare(text: str) -> str:
    return re.sub(r"[^\w=+*/%$-]+", " ", text).casefold().strip()
