"""Check whether a completion ends, or stops in the middle or goes round in circles."""

import re
from collections.abc import Callable, Sequence

from nlft.auditing.findings import quoted
from nlft.data.grading import MARK
from nlft.data.language import words
from nlft.data.records import Example, completion_text

_CLEAN_ENDS = 0.7  # open endings belong to the task if less than this proportion of the completions ends cleanly
_MARKED = 0.9  # if this proportion has a final answer with a mark, a completion that ends in a bare number is cut off
_REPEATS = 3

_ENDS = re.compile(r"(?:[.!?。！？…:;)\]}>»”’\"'`*$%]|--)\Z")  # of a text without white space at its end
_OPEN_END = re.compile(
    r"(?:[,=+*/×÷(\[{<&-]|\b(?:the|a|an|of|to|in|is|are|was|and|or|but|so|with|for|from|by|at|on|that|which|has|have"
    r"|than|then|because|if|as|we|it|this|each|per|our|their))\s*$",
    re.IGNORECASE,
)


def unfinished(examples: Sequence[Example]) -> Callable[[Example], str | None]:
    """Make a check for unfinished completions. An open ending counts only if most completions end cleanly."""
    clean = sum(_ends_cleanly(completion_text(e)) for e in examples)
    usual = clean >= _CLEAN_ENDS * len(examples)
    marked = sum(MARK in completion_text(e) for e in examples) >= _MARKED * len(examples)

    def check(example: Example) -> str | None:
        text = completion_text(example).strip()
        if not text:
            return "it is blank"
        if example.extra.get("finish_reason") == "length":
            return "it was cut off at the token limit (finish_reason is length)"
        if example.extra.get("finish_reason") == "unknown":
            return "its server ended it for a reason that is not known (finish_reason is unknown)"
        if loop := endless(text):
            return f"it repeats {quoted(loop)} until it ends"
        if _ends_marked(text) and (MARK in text or not marked):
            return None
        opened = _OPEN_END.search(text) or text.count("(") > text.count(")") or text.count("```") % 2
        if opened or (usual and not _ends_cleanly(text)):
            return f"it stops inside a sentence: {quoted('...' + text[-50:])}"
        return None

    return check


_MARKED_END = re.compile(rf"(?:{MARK}|\bis|[=:])\s*+\$?-?(?>[\d.,/]*\d)(?:[ \t]*+[\w%°]++){{0,2}}$")
_LONGEST_END = 200  # characters; no final answer that is stated in a few words is longer


def _ends_marked(text: str) -> bool:
    """Return whether the text, without white space at its end, ends with a final answer that is marked as one."""
    return _ends_in_marked_line(text) or _MARKED_END.search(text[-_LONGEST_END:]) is not None


def _ends_in_marked_line(text: str) -> bool:
    return MARK in text.rpartition("\n")[2]


def _ends_cleanly(text: str) -> bool:
    text = text.rstrip()
    return bool(_ENDS.search(text[-2:]) or _ends_in_marked_line(text) or len(words(text)) <= 3)


def endless(text: str) -> str | None:
    """Find a phrase that a text repeats at least three times up to its end. The last repetition may be incomplete."""
    all_words = text.split()
    for period in range(1, len(all_words) // _REPEATS + 1):
        run = 0
        while run < len(all_words) - period and all_words[-1 - run] == all_words[-1 - run - period]:
            run += 1
        if run + period >= _REPEATS * period and run + period >= 6:
            return " ".join(all_words[-period:])
    return None
