"""Read the letter that a reply or a standard answer chooses."""

import re

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.denials import after_retraction, without_denied_letters
from nlft.data.answers.final_answers import BOX, MARK, MARKS, SAYS, boxed, first_sentence, last_end, next_turn, regions
from nlft.data.answers.plain_text import plain_characters, plain_markup
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity

_AROUND = "()[]{}*.:$\"'`_ \n\t"
_LETTER = re.compile(
    r"(?P<open>[(\[])?(?<![\w'.-])(?P<letter>[A-Za-z])(?![\w'-])(?P<close>[)\]])?(?P<next> [a-z]+)?", re.ASCII
)
_ALONE = re.compile(r"(?<![A-Za-z0-9])[A-Za-z](?![A-Za-z0-9])")  # every letter that is chosen stands so
_NAMED = r"\(?\b([A-Za-z])\b\)?"
_CHOSEN = re.compile(
    rf"\b(?:(?i:option|choice|answer|choose|pick|select|go with|it is|it's|(?:it )?must be) {_NAMED}(?! [a-z]+ [a-z])"
    r"|(?i:it should be|(?:correct|right|best) (?:option|choice|one) is) \(?([B-Z]|A(?! [a-z]))\b(?! ?=))"
    rf"|{_NAMED} (?:is|was|must be|seems) (?:the )?(?:correct|right|true|best|answer)\b"
)
_WRONG = r"(?:wrong|incorrect|false|not|n't|impossible|mistaken)"
_ABROAD = r"(?:nicht|falsch|pas|faux|falso|falsa|errad[ao]|sbagliat[ao]|fout|onjuist)"
_REJECTED = re.compile(
    r"\b(?:not|isn't|rather than|instead of|eliminates?|excludes?|rejects?|rules? out) "
    rf"(?:(?i:option|choice) )?{_NAMED}"
    rf"|{_NAMED}(?:(?:,| and| or| nor),? {_NAMED}){{0,5}} (?:is|are|was|were|can|could|would)(?: be)?(?:n't| {_WRONG})"
    rf"|{_NAMED} (?:ist|est|es|è|é|is) {_ABROAD}\b|{_NAMED}[).:]? ?[❌✗✘✖☒🚫]"
)
_LISTED = re.compile(r"\(([A-Za-z])\)|^[ \t*]{0,8}([A-Z])[).:](?!\w)", re.MULTILINE)
# An option with its text, such as `D. Only B is correct`. What a verb or another letter follows is no option's text.
_OPTION = re.compile(
    r"(?:[ \t*_>#\"'`$]|- ){0,12}(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])[*_]{0,3}[).:](?!\w))[ \t*_.:]{0,8}"
    r"(?![ \t*_.:]|(?:is|isn't|was|are|were|and|or|nor|but|can|can't|cannot|could|would|vs)\b|[&/,;❌✗✘✖☒🚫])",
    re.IGNORECASE,
)
_OR_ANOTHER = re.compile(r"\bor [(\[]?([A-Z])(?:[)\]]|[.:])")
# After one of these words, a single "A" is a choice and no article.
_GOES_ON = re.compile("is|was|and|or|but|because|since|as|so|which|would|must|seems|has")


def read_choice(text: str) -> Quantity | None:
    """Read the letter that a reply chooses.

    In this order: the whole text, an answer in a box, a marked answer, "the answer is", "option B" or "B is correct",
    and letters in parentheses or at the beginning of a line. An option's text chooses nothing: `D. Only B is correct`
    chooses D. A letter that the text denies, calls wrong or asks about does not count. If the text goes on with another
    question, the part before that decides, unless the rest chooses another letter.

    Returns:
        The letter, as the only reading. A quantity without readings: the text names several letters. None: it names
        none.
    """
    text = plain_characters(without_thoughts(text))
    if not _ALONE.search(text):
        return None
    if (turn := next_turn(text)) and (first := _choice(text[: turn.start()])):
        return _unless_another(first, _choice(text[turn.end() :]))
    return _choice(text)


def read_standard_choice(answer: str) -> Quantity | None:
    """Read the letter of a standard answer, as `read_choice` does.

    One line that begins with an option's letter is that option, whatever its text says: `A. The answer is B`.
    """
    line = plain_markup(plain_characters(without_thoughts(answer)).rpartition(MARK)[2]).strip()
    option = None if "\n" in line else _option(line)
    return _chosen(option) if option else read_choice(answer)


def _choice(text: str) -> Quantity | None:
    after = text.rpartition(MARK)[2]
    bare = after.strip(_AROUND)
    if _is_letter(bare):
        return _chosen([bare])
    rejected = {group.upper() for match in _REJECTED.finditer(plain_markup(after)) for group in match.groups() if group}
    after = without_denied_letters(after)
    boxes = [content for box in boxed(after)[-1:] if _is_letter(content := plain_markup(box).strip(_AROUND))]
    text = plain_markup(after)
    marked = [plain_markup(region) for _, region, _ in regions(MARKS, after)]  # a mark may be a tag
    places = [*marked, *(region for _, region, _ in regions(SAYS, text))]
    stated = [letter for region in places for letter in _option(region) or _letters(first_sentence(region))]
    options, others = _options(text.strip())
    named = _named(_CHOSEN, others)
    if len({letter.upper() for letter in options}) == 1:
        stated += options if stated and not others else []
        named = options + (named or _named(_LISTED, others))
    for found in (boxes, stated, named, options + _named(_LISTED, text)):
        if letters := [letter for letter in found if letter.upper() not in rejected]:
            corrected = after_retraction(after, last_end((BOX, MARKS, SAYS), after))
            return _unless_another(_chosen(letters), _choice(corrected) if corrected else None)
    return None


def _unless_another(first: Quantity, rest: Quantity | None) -> Quantity:
    """Return the first choice; an unclear quantity if the rest of the text makes another one."""
    return first if rest in (None, first) else Quantity(f"{first.text}; {rest.text}", NOT_ONE_NUMBER)


def _options(text: str) -> tuple[list[str], str]:
    """Return the letters of the options that have a line of their own, and the other lines."""
    letters, others = [], []
    for line in text.split("\n"):
        option = _option(line)
        letters += option
        others += [] if option else [line]
    return letters, "\n".join(others)


def _option(line: str) -> list[str]:
    """Return the letter of the option that a line begins with, and those that may be meant instead: `A: B` may be an
    answer, `(A) 5 or (B) 6` names two, and `(A) 5 (B) 6` lists several."""
    match = _OPTION.match(line)
    if not match:
        return []
    letter, rest = match[1] or match[2], line[match.end() :]
    bare = rest.strip(_AROUND)
    answers = [bare] if ":" in match[0] and _is_letter(bare) else []
    listed = [other for other in re.findall(r"(?<!\w)([A-Za-z])\)", rest) if ord(other) == ord(letter) + 1]
    return [letter, *answers, *listed, *_OR_ANOTHER.findall(rest)]


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
