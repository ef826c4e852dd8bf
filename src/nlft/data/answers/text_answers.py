"""Read the words that a reply answers with."""

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.final_answers import MARK, MARKS, SAYS, boxed, first_sentence, regions
from nlft.data.answers.plain_text import plain_characters

_PAIRS = (("**", "**"), ('"', '"'), ("'", "'"), ("`", "`"), ("*", "*"), ("$", "$"), ("\\text{", "}"), ("(", ")"))


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


def read_words(text: str) -> tuple[str, str] | None:
    """Return a reply's whole words, and the words of its final answer: what follows `####`, `Answer:`, "the answer is",
    or stands in `\\boxed{}`. None: it has no words."""
    text = without_thoughts(text)
    stated = text.rpartition(MARK)[2]
    whole = bare_text(stated)
    if MARK not in text:
        plain = plain_characters(text)
        found = boxed(plain) + [region for _, region, _ in regions(MARKS, plain)]
        found = found or [first_sentence(region) for _, region, _ in regions(SAYS, plain)]
        stated = found[-1] if found else stated
    return (whole, bare_text(stated)) if whole else None
