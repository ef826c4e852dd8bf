"""Read the words that a reply answers with."""

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.final_answers import MARK, MARKS, SAYS, beginnings, boxed, regions
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


def read_words(text: str) -> tuple[str, ...] | None:
    """Return a reply's whole words, and the words of its final answer: what follows `####`, `Answer:`, "the answer is",
    or stands in `\\boxed{}`. None: it has no words.

    What follows "the answer is" may end at several places, because a full stop may end a sentence or an abbreviation:
    "The answer is St. Louis." gives "St" and "St. Louis".
    """
    text = without_thoughts(text)
    after = text.rpartition(MARK)[2]
    whole, stated = bare_text(after), [after]
    if MARK not in text:
        plain = plain_characters(text)
        found = boxed(plain) + [region for _, region, _ in regions(MARKS, plain)]
        said = [region for _, region, _ in regions(SAYS, plain)]
        stated = found[-1:] or (beginnings(said[-1]) if said else stated)
    return (whole, *dict.fromkeys(map(bare_text, stated))) if whole else None
