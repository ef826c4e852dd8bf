"""Read the words that a reply answers with."""

import re

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.final_answers import MARK, MARKS, SAYS, beginnings, boxed, regions
from nlft.data.answers.plain_text import plain_characters

_PAIRS = (("**", "**"), ('"', '"'), ("'", "'"), ("`", "`"), ("*", "*"), ("$", "$"), ("\\text{", "}"), ("(", ")"))
# Emphasis that has begun before a mark and does not end before it.
_OPENING = re.compile(r"(?<![\w*_])([*_]{1,3})(?:[^\s*_][^*_\n]*)?$")
_UNDERSCORES = re.compile(r"^(__?)(?=[^\s_])(.*[^\s_])\1$", re.DOTALL)
_FARTHEST = 80  # characters from the beginning of emphasis to a mark


def bare_text(text: str) -> str:
    """Return a text without what surrounds it: emphasis, quotation marks, one full stop. White space becomes one space.

    Letters with accents have one form, and so have digits, dashes and quotation marks.
    """
    text = " ".join(plain_characters(text).split())
    for _ in range(2 * len(_PAIRS)):
        before = text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for opening, closing in _PAIRS:
            inner = text[len(opening) : -len(closing)]
            if len(text) > 2 and text.startswith(opening) and text.endswith(closing) and opening not in inner:
                text = inner.strip()
        if text == before:
            break
    return text


def read_words(text: str) -> tuple[str, ...] | None:
    """Return a reply's whole words, and the words of its final answer: what follows `####`, `Answer:`, "the answer is",
    or stands in `\\boxed{}`. None: it has no words.

    What follows "the answer is" may end at several places, because a full stop may end a sentence or an abbreviation:
    "The answer is St. Louis." gives "St" and "St. Louis". An answer within underscores or in a box is given with and
    without them.
    """
    text = without_thoughts(text)
    after = text.rpartition(MARK)[2]
    whole, stated, plain = bare_text(after), [after], plain_characters(after)
    marked = boxed(plain) + [_with_whole_emphasis(mark, region) for mark, region, _ in regions(MARKS, plain)]
    if MARK in text:
        stated += marked[-1:]
    else:
        said = [_with_whole_emphasis(mark, region) for mark, region, _ in regions(SAYS, plain)]
        stated = marked[-1:] or (beginnings(said[-1]) if said else stated)
    words = [bare_text(part) for one in stated for part in (one, *boxed(one))]
    forms = dict.fromkeys(form for one in words for form in (one, _UNDERSCORES.sub(r"\2", one)))
    return (whole, *forms) if whole else None


def _with_whole_emphasis(mark: re.Match[str], region: str) -> str:
    """Take the end of emphasis out of what follows a mark, if the emphasis begins before the mark.

    `**Answer:** Paris` and `**Answer: Paris**` both give `Paris`.
    """
    opening = _OPENING.search(mark.string, max(0, mark.start() - _FARTHEST), mark.start())
    if not opening or opening[1] in mark[0]:
        return region
    closing = re.escape(opening[1][::-1])
    return re.sub(rf"^[ \t]*{closing}|{closing}(?!\w)", "", region, count=1)
