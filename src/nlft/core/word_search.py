"""Find words in a text as a person would: whole words and numbers, however they are written. Needs no torch."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import cast

LONGEST_GAP = 200  # characters that an ellipsis in a quote may stand for

_LONGEST_CHARACTER = 32  # code points: longer runs of accents are no writing, and would be slow to order
_ELLIPSIS = re.compile(r"(?<!\s)\s*+(?:\.\s?\.\s?\.|…|\[(?:\.\.\.|…)\])\s*")
_TOKENS = re.compile(r"\.\.\.|…|\w+|\s+|[^\w\s]")
_SIGNS = set("-+=*/×÷<>")
_FOLDED = str.maketrans(
    dict.fromkeys("“”„‟«»″״＂〝〞〟", '"') | dict.fromkeys("‘’‚‛‹›′ʼ`´׳＇", "'") | dict.fromkeys("‐‑‒–—―−", "-")
)
JOINED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts that write words without spaces, or join particles to them: no word boundary can be expected there."""

_JOINED = re.compile(f"[{JOINED}]")
_JOINER, _SKIN_TONES = "\u200d", "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
# The ends of can't, we're and o'clock are no words. The 's after a noun is not listed: the noun is a whole word.
_ENGLISH_ENDS = re.compile(r"(?:[a-z]|re|ve|ll|em|clock)(?!\w)", re.IGNORECASE)
_GENITIVE = re.compile(r"s(?!\w)", re.IGNORECASE)
_STOPS = " .,;。．，、；।"
_NO_STOPS = "%‰‱٪#&@*/\\_)]}"  # punctuation to Unicode, but part of what they stand behind
_THOUSANDS = re.compile(r"[0-9]{3}(?![0-9])")
_BETWEEN_THOUSANDS = " '\u00a0\u2009\u202f"
# Keyboards and typesetters differ in these: a word is the same with any of them. An em dash is never part of a word.
_IN_WORD = re.compile("(?<=[^\\W_])[‘’‚‛‹›′ʼ`´׳＇‐‑](?=[^\\W_])")


@dataclass(frozen=True)
class SoughtWord:
    """A word or phrase to search for in many texts, in any case.

    Attributes:
        pattern: finds it in a text's form.
        exact: what a place must have as it is written; empty if marks may have other forms.
    """

    pattern: re.Pattern[str]
    exact: str

    @classmethod
    def of(cls, word: str) -> "SoughtWord":
        """Return how to search for a word."""
        return cls(words_pattern(word, re.IGNORECASE), "" if _has_word(word) else _as_written(_composed(word)[0]))


class SearchedText:
    """A text to search for quotes.

    Accents, quotation marks, apostrophes and dashes are searched in one form each, which can be shorter than the text.
    """

    def __init__(self, text: str) -> None:
        self._written, self._starts, self._ends = _composed(text)
        self.form = self._written.translate(_FOLDED)

    @cached_property
    def _letters(self) -> str:
        return _letters(self.form)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """Return where the characters of `form` from `start` to `end` (exclusive) stand in the text."""
        if self._starts is None or self._ends is None:
            return start, end
        return self._starts[start], self._ends[end - 1]

    def quote(self, quote: str, *, any_case: bool = False) -> list[tuple[int, int]]:
        """Find a quote: as written, else without its last punctuation, else with gaps for its ellipses.

        If some places have its dashes and quotation marks as it has them, only these count. A quote without a letter
        or digit has no others: an objection to "—" is none to hyphens.

        Args:
            any_case: find it in any case, also if it stands there in its own.
        """
        if not quote.strip():
            return []  # nothing stands everywhere
        bare = without_last_marks(quote)
        texts = [[quote], *([[bare]] if bare and bare != quote else [])]
        parts = [part for part in _ELLIPSIS.split(quote) if re.search(r"\w", part)]
        if _ELLIPSIS.search(quote) and parts:
            texts += [parts, [*parts[:-1], without_last_marks(parts[-1])]]
        for one in texts:
            # The search for a long quote of one word again and again would cost its length at each place.
            if not all(_letters(part) in self._letters for part in one):
                continue
            for flags in (re.IGNORECASE,) if any_case else (re.NOFLAG, re.IGNORECASE):
                found = list(_places(self.form, [words_pattern(part, flags) for part in one]))
                if len(one) == 1 and not (any_case and _has_word(quote)):
                    exact = _as_written(_composed(one[0])[0])
                    same = [place for place in found if self._is_written(exact, *place)]
                    found = same if same or not _has_word(quote) else found
                if found:
                    return [self.place(start, end) for start, end in found]
        return []

    def first(self, words: Sequence[SoughtWord]) -> tuple[int, int] | None:
        """Return the first place of any of the words; None if there is none."""
        found = [place for word in words if (place := self._first(word))]
        return self.place(*min(found)) if found else None

    def _first(self, word: SoughtWord) -> tuple[int, int] | None:
        at = 0
        while match := _search(word.pattern, self.form, at):
            if not word.exact or self._is_written(word.exact, *match.span()):
                return match.span()
            at = match.start() + 1
        return None

    def _is_written(self, exact: str, start: int, end: int) -> bool:
        """Return whether a place in the text's form has the marks of a quote as the quote has them."""
        return _as_written(self._written[start:end]) == exact


def without_last_marks(quote: str) -> str:
    """Remove the punctuation and white space that a quote ends with, in any writing. % and the like stay.

    >>> without_last_marks("很耐用。")
    '很耐用'
    """
    end = len(quote)
    while end and (quote[end - 1].isspace() or _is_stop(quote[end - 1])):
        end -= 1
    return quote[:end]


def _is_stop(char: str) -> bool:
    return unicodedata.category(char)[0] in "PZ" and char not in _NO_STOPS


def listed_word(quote: str) -> str:
    """Return a quote as an entry of a list of words: without a full stop or comma at its end.

    American English writes "durable." where the word is meant. In a list, the word counts wherever it stands.

    >>> listed_word("durable,")
    'durable'
    """
    word = " ".join(quote.split())
    bare = word.rstrip(_STOPS)
    return word if word.endswith(("..", "…")) or not _has_word(bare) else bare


def words_pattern(quote: str, flags: re.RegexFlag) -> re.Pattern[str]:
    """Make the pattern of a quote without gaps. White space is free beside signs of arithmetic, as in 64-35 = 29."""
    text = ""
    for token in _TOKENS.findall(_composed(quote)[0].translate(_FOLDED)):
        if token in ("...", "…"):
            text += r"(?:\.\.\.|…)"
        elif token.isspace():
            text += r"\s+"
        else:
            text += rf"\s*{re.escape(token)}\s*" if token in _SIGNS else re.escape(token)
    text = text.replace(r"\s*\s+", r"\s*").replace(r"\s+\s*", r"\s*").replace(r"\s*\s*", r"\s*")
    text = text.removeprefix(r"\s*").removesuffix(r"\s*")
    return re.compile(text, flags)


def _composed(text: str) -> tuple[str, list[int] | None, list[int] | None]:
    """Write each accented letter as one character (NFC).

    Returns:
        The text; and where each of its characters begins and ends in the given text, or None if nothing has moved.
    """
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return text, None, None
    parts, starts, ends, at = list[str](), list[int](), list[int](), 0
    while at < len(text):
        end = at + 1
        while end < len(text) and end - at < _LONGEST_CHARACTER and _joins_before(text[end]):
            end += 1
        composed = unicodedata.normalize("NFC", text[at:end])
        is_same = len(composed) == end - at
        parts.append(composed)
        starts += range(at, end) if is_same else [at] * len(composed)
        ends += range(at + 1, end + 1) if is_same else [end] * len(composed)
        at = end
    return "".join(parts), starts, ends


def _has_word(quote: str) -> bool:
    return any(map(str.isalnum, quote))


def _as_written(text: str) -> str:
    """Return a text without white space and case. Marks inside its words have one form, and all others their own."""
    return "".join(_IN_WORD.sub(lambda mark: mark[0].translate(_FOLDED), text).casefold().split())


def _joins_before(char: str) -> bool:
    """Return whether a character is written into the one before it: an accent, or a later letter of a Korean block."""
    return char >= "\u0300" and (unicodedata.category(char)[0] == "M" or "\u1160" <= char <= "\u11ff")


@lru_cache(maxsize=4)
def _letters(text: str) -> str:
    """Return the text without white space and case, in one form: where this has no place, no quote has."""
    return "".join(_composed(text)[0].translate(_FOLDED).casefold().replace("…", "...").split())


def _search(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    """Find the pattern's next place that neither begins nor ends inside a word or a number."""
    while match := pattern.search(text, at):
        if not (_is_inside(text, match.start()) or _is_inside(text, match.end())):
            return match
        at = match.start() + 1
    return None


class _Places:
    """The places of one pattern in a text, for questions that go forward: each place is searched for once."""

    def __init__(self, pattern: re.Pattern[str], text: str) -> None:
        self._pattern, self._text = pattern, text
        self._asked, self._next = -1, cast("re.Match[str] | None", None)

    def after(self, at: int) -> re.Match[str] | None:
        """Return the first place that begins at `at` or later."""
        known = 0 <= self._asked <= at and (self._next is None or self._next.start() >= at)
        if not known:
            self._asked, self._next = at, _search(self._pattern, self._text, at)
        return self._next


def _is_inside(text: str, at: int) -> bool:
    """Return whether a place is inside a word, a number or a character."""
    if not 0 < at < len(text):
        return False
    if _is_in_number(text, at):  # white space may stand in a number: 1 000
        return True
    before, after = text[at - 1], text[at]
    if before.isspace() or after.isspace():
        return False
    if _extends(after) or before == _JOINER:
        return True
    return (_is_letter(_base(text, at)) and _is_letter(after)) or _is_at_apostrophe(text, at)


def _is_letter(char: str) -> bool:
    return (char.isalnum() or char == "_") and not _JOINED.match(char)


def _is_digit(char: str) -> bool:
    return "0" <= char <= "9"


def _extends(char: str) -> bool:
    """Return whether a character belongs to the one before it: an accent, a vowel sign, a joiner, a skin tone."""
    return char >= "\u0300" and (unicodedata.category(char)[0] == "M" or char in f"\u200c{_JOINER}{_SKIN_TONES}")


def _base(text: str, end: int) -> str:
    """Return the letter that the accents before a place stand on."""
    for at in range(end - 1, max(-1, end - 1 - _LONGEST_CHARACTER), -1):
        if not _extends(text[at]):
            return text[at]
    return ""


def _is_in_number(text: str, at: int) -> bool:
    """Return whether a place is inside a number, such as 34.5, 1,000, 12:30 or 1 000."""
    before, after = text[at - 1], text[at]
    if before in ".,:":
        return after.isdigit() and text[max(0, at - 2) : at - 1].isdigit()
    if after in ".,:" and before.isdigit() and text[at + 1 : at + 2].isdigit():
        return True
    if before in _BETWEEN_THOUSANDS:
        return _parts_thousands(text, at - 1)
    return after in _BETWEEN_THOUSANDS and _parts_thousands(text, at)


def _parts_thousands(text: str, at: int) -> bool:
    """Return whether the space or apostrophe at a place stands before three digits of a longer number."""
    first = at
    while first and at - first < 4 and _is_digit(text[first - 1]):
        first -= 1
    return 0 < at - first < 4 and _THOUSANDS.match(text, at + 1) is not None


def _is_at_apostrophe(text: str, at: int) -> bool:
    """Return whether a place is inside a word that has an apostrophe, as in can't. French l'homme is two words."""
    if text[at - 1] == "'":
        return at > 1 and _is_letter(_base(text, at - 1)) and _ENGLISH_ENDS.match(text, at) is not None
    if text[at] != "'" or not _is_letter(_base(text, at)) or not _is_letter(text[at + 1 : at + 2] or " "):
        return False
    return _GENITIVE.match(text, at + 1) is None


def _places(text: str, parts: Sequence[re.Pattern[str]]) -> Iterator[tuple[int, int]]:
    """Yield the places where the parts follow each other, at most `LONGEST_GAP` characters apart."""
    at, found = 0, [_Places(part, text) for part in parts]
    while first := found[0].after(at):
        at = end = first.end()
        for part in found[1:]:
            following = part.after(end)
            if following is None or following.start() - end > LONGEST_GAP:
                break
            nearer = found[0].after(first.end())
            if end == first.end() and nearer and nearer.end() <= following.start():
                break  # the quote begins at the nearest of the places where it can begin
            end = following.end()
        else:
            yield first.start(), end
            at = end
