"""What a judge says of a completion; and how a model's words are read, forgiving of small models' habits."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from nlft.core.prompts import prompt_text
from nlft.data.grading import MARK
from nlft.data.records import Example, completion_text

RightOrWrong = Literal["right", "wrong"]

_CORRECTION = re.compile(r"[ \t*_#>-]*\bcorrections?[*_]*:[*_]*\s*", re.IGNORECASE)
_VERDICT_LINE = re.compile(r"[*_#> \t-]*\bverdict[*_]*:([^\n]*)", re.IGNORECASE)
_RIGHT = re.compile(r"(?<!not )\b(?:right|correct)\b", re.IGNORECASE)
_WRONG = re.compile(r"\b(?:wrong|incorrect|not right|not correct)\b", re.IGNORECASE)
_UNSURE = re.compile(r"\b(?:part(?:ly|ially)|mostly|almost|half|or)\b", re.IGNORECASE)
_QUOTED = re.compile(r'"([^"\n]{2,})"|“([^”\n]{2,})”')
_WORDS = re.compile(r"[^\W\d_]{2,}")
# Escape sequences: of a terminal's own language (CSI), with a text up to a bell or ESC \ (OSC and the like), others.
_ESCAPES = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?")
_HEADING = re.compile(r"^[\s*_#]*(?:feedback|judge?ment|assessment)[*_]*:[*_]*\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Opinion:
    """What a judge says of one completion.

    Attributes:
        judgment: what is wrong, and on a line of its own the correction; None if nothing can be used.
        verdict: right or wrong, where the judge says so.
        said: its feedback in any case.
        refused: why there is no judgment, for a person.
    """

    judgment: str | None
    says: RightOrWrong | None = None
    feedback: str = ""
    refused: str = ""


def read_opinion(text: str, finish_reason: str, prompt: str, example: Example) -> Opinion:
    """Read a model's feedback, its correction and its verdict; the latter two may be missing.

    Everything between `Correction:` and the verdict becomes one line, which training leaves out of the judge prompt.

    Args:
        text, finish_reason: as `Generated` has them.
        prompt: what the model was shown; feedback that only repeats it is none.
    """
    feedback, correction, says = _parts(text)
    said = f"{feedback}\nCorrection: {correction}" if correction else feedback
    if example.label:  # nothing is wanted but the verdict
        return Opinion(None, says, said)
    refused = ""
    if finish_reason == "content_filter":
        refused = "stopped by the server's content filter"
    elif finish_reason == "length" and not _VERDICT_LINE.search(text):
        refused = "cut off by --max_new_tokens"
    elif says == "right":
        refused = "calls it right"
    elif not _WORDS.search(feedback):
        refused = "only a correction" if correction else "says nothing"
    elif MARK in (line.lstrip()[: len(MARK)] for line in feedback.split("\n")):
        refused = "answers the question instead"
    elif _repeats(feedback, prompt):
        refused = "only repeats what it was shown"
    elif _misquotes(feedback, example):
        refused = "quotes what the response does not say"
    return Opinion(None if refused else said, says, said, refused)


def quotes(judgment: str, text: str) -> bool:
    """Whether something that the judgment has in double quotes stands in the text; case and punctuation aside."""
    shown = _bare(text)
    return any((quoted := _bare(a or b)) and quoted in shown for a, b in _QUOTED.findall(judgment))


def plain_text(text: str) -> str:
    """The text without escape sequences and control characters: a model's words must not steer the terminal."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))


def _parts(text: str) -> tuple[str, str, RightOrWrong | None]:
    """Feedback, correction on one line, verdict."""
    says: RightOrWrong | None = None
    if found := _VERDICT_LINE.search(text):
        before, after = text[: found.start()], text[found.end() :]
        text = before if before.strip() else after
        wrong, right = _WRONG.search(found[1]), _RIGHT.search(found[1])
        if bool(wrong) != bool(right) and not _UNSURE.search(found[1]):  # "right or wrong" is no verdict
            says = "wrong" if wrong else "right"
    feedback, *corrections = _CORRECTION.split(_HEADING.sub("", text))
    correction = " ".join(" ".join(corrections).split())
    return feedback.strip(), correction if re.search(r"\w", correction) else "", says


def _repeats(feedback: str, prompt: str) -> bool:
    """Whether every sentence and line of the feedback stands in the prompt."""
    shown = _bare(prompt)
    return all(_bare(piece) in shown for piece in re.split(r"(?<=[.!?])\s|\n", feedback))


def _misquotes(feedback: str, example: Example) -> bool:
    """Whether it quotes, but neither response nor question: a small model likes to invent the mistake, or to find it
    in the standard answer."""
    shown = f"{prompt_text(example.prompt)}\n{completion_text(example)}"
    return _QUOTED.search(feedback) is not None and not quotes(feedback, shown)


def _bare(text: str) -> str:
    return re.sub(r"[^\w=+*/%$-]+", " ", text).casefold().strip()
