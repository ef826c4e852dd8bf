"""Read the letter that a reply chooses, and the words that it answers with."""

import re

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.final_answers import MARK, MARKS, NEXT_TURN, SAYS, boxed, first_sentence, regions
from nlft.data.answers.plain_text import plain_characters, plain_markup
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity

_AROUND = "()[]{}*.:$\"'`_ \n\t"
_LETTER = re.compile(
    r"(?P<open>[(\[])?(?<![\w'.-])(?P<letter>[A-Za-z])(?![\w'-])(?P<close>[)\]])?(?P<next> [a-z]+)?", re.ASCII
)
_NAMED = r"\(?\b([A-Za-z])\b\)?"
_CHOSEN = re.compile(
    rf"\b(?i:option|choice|answer|choose|pick|select|go with|it is|it's|it must be|must be) {_NAMED}(?! [a-z]+ [a-z])"
    rf"|{_NAMED} (?:is|was|must be|seems) (?:the )?(?:correct|right|true|best|answer)\b"
)
_WRONG = r"(?:wrong|incorrect|false|not|n't|impossible|mistaken)"
_REJECTED = re.compile(
    r"\b(?:not|isn't|rather than|instead of|eliminates?|excludes?|rejects?|rules? out) "
    rf"(?:(?i:option|choice) )?{_NAMED}"
    rf"|{_NAMED}(?:(?:,| and| or| nor),? {_NAMED}){{0,5}} (?:is|are|was|were|can|could|would)(?: be)?(?:n't| {_WRONG})"
)
_LISTED = re.compile(r"\(([A-Za-z])\)|^[ \t*]{0,8}([A-Z])[).:](?!\w)", re.MULTILINE)
# After one of these words, a single "A" is a choice and no article.
_GOES_ON = re.compile("is|was|and|or|but|because|since|as|so|which|would|must|seems|has")


def read_choice(text: str) -> Quantity | None:
    """Read the letter that a text chooses.

    In this order: the whole text, an answer in a box, a marked answer, "the answer is", "option B" or "B is correct",
    and letters in parentheses or at the beginning of a line. A letter that the text calls wrong does not count. If the
    text goes on with another question, the part before that decides, unless the rest chooses another letter.

    Returns:
        The letter, as the only reading. A quantity without readings: the text names several letters. None: it names
        none.
    """
    text = plain_characters(without_thoughts(text))
    if (turn := NEXT_TURN.search(text)) and (first := _choice(text[: turn.start()])):
        rest = _choice(text[turn.end() :])
        return first if rest in (None, first) else Quantity(f"{first.text}; {rest.text}", NOT_ONE_NUMBER)
    return _choice(text)


def _choice(text: str) -> Quantity | None:
    after = text.rpartition(MARK)[2]
    bare = after.strip(_AROUND)
    if _is_letter(bare):
        return _chosen([bare])
    boxes = [content for box in boxed(text)[-1:] if _is_letter(content := plain_markup(box).strip(_AROUND))]
    text = plain_markup(after)
    marked = [plain_markup(region) for _, region, _ in regions(MARKS, after)]  # a mark may be a tag
    places = [*marked, *(region for _, region, _ in regions(SAYS, text))]
    stated = [letter for region in places for letter in _letters(first_sentence(region))]
    rejected = {group.upper() for match in _REJECTED.finditer(text) for group in match.groups() if group}
    for found in (boxes, stated, _named(_CHOSEN, text), _named(_LISTED, text)):
        if letters := [letter for letter in found if letter.upper() not in rejected]:
            return _chosen(letters)
    return None


def _chosen(letters: list[str]) -> Quantity:
    """Return the letter, or an unclear quantity for different ones."""
    different = sorted({letter.upper() for letter in letters})
    readings = frozenset(different) if len(different) == 1 else NOT_ONE_NUMBER
    return Quantity(", ".join(different), readings)


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text.isalpha()


def _named(pattern: re.Pattern[str], text: str) -> list[str]:
    found = [next(group for group in match.groups() if group) for match in pattern.finditer(text)]
    return [letter for letter in found if letter != "I"]


def _letters(sentence: str) -> list[str]:
    """Return the letters that a stated answer names. `I` and `A` before a word are no letters."""
    found = []
    for match in _LETTER.finditer(sentence):
        letter, enclosed, following = match["letter"], match["open"] or match["close"], (match["next"] or "").strip()
        stands_alone = letter not in "AI" or not following or _GOES_ON.fullmatch(following)
        if enclosed or (letter.isupper() and stands_alone) or sentence.strip(_AROUND) == letter:
            found.append(letter)
    return found


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
