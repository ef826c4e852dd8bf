"""Words and signs by which a calculation's figures mean something else: scales, rounding, remainders, clocks, bases."""

import re
from fractions import Fraction
from typing import NamedTuple

from nlft.data.answers.number_words import JOINED_SCALES, SCALES

# Next to one of these words, a calculation's figures do not tell its meaning: "twice 5 + 3", "1.2 million".
_UNCLEAR = re.compile(
    r"of|times|plus|minus|by|twice|thrice|double|triple|half|quarter|third|over|per|percent|than|more|less|fewer"
    r"|remainder|rest|reste|resto|divided|multiplied|added|subtracted|squared|cubed|root|mod|modulo"
    r"|sqrt|log|ln|sin|cos|tan|gcd|lcm|average|mean|median|doppelt|hälfte|mal|fois|veces|volte|vezes|moitié|mitad|metà",
    re.IGNORECASE,
)
_SCALE_LETTERS = frozenset("kKMBG")
# In other arithmetic, 9 + 4 = 1 and 1 + 1 = 10.
_OTHER = re.compile(
    r"\b(?:mod(?:ulo|ular|ulus)?|binary|hex(?:adecimal)?|octal|base[- ]?(?:[0-9]+|two|eight|sixteen)|binär\w*"
    r"|binaire|binari[oa]|hexad\w*|двоичн\w*)\b|[二八]进制|十六进制|[28]進|16進|≡",
    re.IGNORECASE,
)
_ROUNDING = (
    r"round|approx|about|nearest|ceil|floor|truncat|[gfb]e?rundet|runden\b|arrond|redond|arredond|arroton|afgerond"
    r"|afrond|округл|zaokr|avrund|yuvarla|四舍|四捨|取整|[約约]|切り[上捨]|올림|버림|environ|etwa|circa|\bca\.|ungefähr"
)
_ROUNDED_AFTER = re.compile(_ROUNDING, re.IGNORECASE)
_ROUNDED_BEFORE = re.compile(rf"{_ROUNDING}|whole number|integer", re.IGNORECASE)
_REMAINS = re.compile(
    r"\b(?:remainder|rem\b|rest|reste|resto|r\b|left|full|whole|complete|entire|full|ganze|volle?|übrig|restant"
    r"|entier|complet|enter[oa]s|inter[eio]|остат|reszt)|[余餘]|あまり|나머지",
    re.IGNORECASE,
)
# The result goes on: 6 and 2/3, 6 ⅔, 6.(6), 6.\overline{6}.
_GOES_ON = re.compile(
    r"\s{0,3}(?:and|und|et|y|e|en|и|と)\s{1,3}(?:[0-9]{1,9}\s?/|(?:an?|one|eine?|une?|uma?)?\s{0,3}"
    r"(?:half|third|quarter|fourth|fifth|halb|demi|medi[oa]|mezz[oa]|mei[oa]|tiers|tercio|viertel|drittel)\b)"
    r"|\s{0,3}[¼-¾⅐-⅞]|[.,]?\s?(?:\([0-9]{1,9}\)|\\(?:overline|bar|dot|ldots|dots|ddot)\b|…)|[.]{3}|[0-9]?[\u0304\u0305\u0307]",
    re.IGNORECASE,
)
_CLOCK = re.compile(r"\s{0,3}(?:[ap]\.?\s?m\b|o['’]clock)", re.IGNORECASE)
_HOURS = re.compile(
    r"\s{0,3}(?:uhr|h|hours?|heures?|horas?|ore|uur|час\w*|stunden?)\b|\s{0,3}(?:[点點時시]|°|\\circ|\^\\circ)",
    re.IGNORECASE,
)
_NEAR = 60  # characters between a calculation and a word that changes its meaning
_ROUNDED_WITHIN, _REMAINS_WITHIN = 30, 40  # characters from a result to the beginning of such a word behind it
_LONGEST = 20  # characters of such a word


class Place(NamedTuple):
    """Where a calculation stands in its line.

    Attributes:
        begin: its first character.
        end, last: behind its result's number, and behind all of its result.
    """

    line: str
    begin: int
    end: int
    last: int


def is_unclear(word: str) -> bool:
    """Return whether figures beside a word do not tell what a calculation means."""
    joined = word[0] in JOINED_SCALES
    return joined or word in _SCALE_LETTERS or word.lower() in SCALES or _UNCLEAR.fullmatch(word) is not None


def means_otherwise(place: Place, value: Fraction, result: Fraction, *, divides: bool) -> bool:
    """Return whether the words around a calculation may make its result right, although it differs from the value.

    Args:
        divides: the calculation has a division, whose result may be its whole part.
    """
    line, begin, end, last = place
    if _OTHER.search(line, max(0, begin - 2 * _NEAR), end + _NEAR) or any(
        _CLOCK.match(line, at) for at in (end, last)
    ):  # 11 + 2 = 1 pm
        return True
    if any(_follows(_ROUNDED_AFTER, line, at, _ROUNDED_WITHIN) or _GOES_ON.match(line, at) for at in (end, last)):
        return True
    if (value - result) % 12 == 0 and _HOURS.match(line, end):  # 22 + 4 = 2 Uhr
        return True
    if abs(value - result) >= 1:
        return False
    if _ROUNDED_BEFORE.search(line, max(0, begin - _NEAR), begin):
        return True
    return divides and result == value // 1 and _follows(_REMAINS, line, end, _REMAINS_WITHIN)


def _follows(word: re.Pattern[str], line: str, at: int, within: int) -> bool:
    """Return whether a word begins at most so many characters behind a place."""
    found = word.search(line, at, at + within + _LONGEST)
    return found is not None and found.start() <= at + within
