"""Calculations in a text: find them, read them, and check whether they hold."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from typing import NamedTuple

_MOST_TOKENS = 60  # of one side of a calculation; what is longer is left alone
_MOST_DIGITS = 15
# No group here is possessive: Python before 3.11.5 lets those match too much (gh-106052).
_TOKEN = re.compile(
    r"""(?P<number>(?:\\?[$£€][ ]?)?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]++|(?<!\.)(?=\.[0-9]))(?:\.[0-9]++)?
                   (?![.,:]?[0-9])(?:[ ]?\\?%)?)
    |(?P<odd>[0-9][0-9.,:]*|\*\*+|[=!<>:]=+|=>|\\[()\[\]]|\\(?!times\b|cdot\b|div\b)[A-Za-z]+)
    |(?P<sign>[-+*/×÷·⋅∗−–]|\\times\b|\\cdot\b|\\div\b)
    |(?P<equals>=)|(?P<open>\()|(?P<close>\))
    |(?P<word>[^\W\d_]+)|(?P<other>\S)""",
    re.VERBOSE,
)
_SIGNS = dict.fromkeys("*×·⋅∗", "*") | dict.fromkeys("-−–", "-") | {"/": "/", "÷": "/", "+": "+"}
_SIGNS |= {r"\times": "*", r"\cdot": "*", r"\div": "/", "x": "*", "X": "*", "of": "*"}
_APPLY = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
# Next to these words the figures alone do not say what is calculated: "twice 5 + 3", "1.2 million".
_UNCLEAR = re.compile(
    r"of|times|plus|minus|by|twice|thrice|double|triple|half|quarter|third|over|per|percent|than|more|less|fewer"
    r"|dozens?|hundred|thousand|[mb]illion|remainder|divided|multiplied|added|subtracted|squared|cubed|root|mod",
    re.IGNORECASE,
)
_SHARE = re.compile(r"[0-9.,/%)]+|half|double|percent|\w*(?:third|quarter|[a-z]th)s?|fraction|part", re.IGNORECASE)
_HARMLESS_AFTER = ("more", "less", "fewer", "than", "of", "by", "over", "per")
# Figures in two measures of a kind cannot be compared as they stand.
_MEASURES = [
    {"$", "cent", "quarter", "dime", "nickel", "pennie"},
    {"second", "minute", "min", "hour", "hr", "day", "week", "month", "year"},
    {"mm", "cm", "km", "inch", "inche", "foot", "feet", "ft", "yard", "mile", "meter", "metre", "kilometer"},
    {"mg", "kg", "gram", "kilogram", "pound", "lb", "ounce", "oz", "ton"},
    {"ml", "liter", "litre", "gallon", "quart", "pint", "cup"},
]
_OPENS = ("$", "{", "[", "<", "|", '"', "“", "'", "‘", "`", r"\(", r"\[")
_ROUNDED = re.compile(r".{0,30}?(?:round|approx|about|nearest)", re.IGNORECASE)
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator: 64-35=<<64-35=29>>29


@dataclass(frozen=True)
class Calculation:
    """A calculation in a text.

    Attributes:
        written: the whole of it, verbatim.
        value, result: what its left side comes to, and what is written as its result.
        right: whether both agree, as far as the result was rounded.
        corrected: the left side as written, with `value` for a result.
    """

    written: str
    value: Fraction
    result: Fraction
    right: bool
    corrected: str


def miscalculated(steps: Sequence[Calculation], answer: str) -> list[Calculation]:
    """The steps that do not hold, but for what the standard answer has too: 17 / 4 = 4, rounded."""
    accepted = {(step.value, step.result) for step in find_calculations(answer)}
    return [step for step in steps if not step.right and (step.value, step.result) not in accepted]


def find_calculations(text: str) -> Iterator[Calculation]:
    """The calculations in a text, in order; a chain `a + b = c = d` gives one for each equals sign."""
    for line in text.split("\n"):
        tokens = groupby(_tokens(line) if "=" in line else [], lambda token: token.kind == "equals")
        sides = [list(side) for is_equals, side in tokens if not is_equals]
        for left, right in pairwise(sides):
            if calculation := _calculation(line, left, right):
                yield calculation


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def _tokens(line: str) -> list[_Token]:
    line = _ANNOTATION.sub(lambda found: " " * len(found[0]), line)
    tokens = [_Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(line)]
    for at in range(1, len(tokens) - 1):
        before, token, after = tokens[at - 1 : at + 2]
        follows_operand = before.kind in ("number", "close", "word") and after.kind in ("number", "open")
        if token.text in ("/", "per") and after.kind == "word" and len(after.text) > 1:
            tokens[at] = _Token("per", token.text, token.start, token.end)
        elif (token.text in ("x", "X") and follows_operand) or (token.text == "of" and before.text[-1] == "%"):
            tokens[at] = _Token("sign", token.text, token.start, token.end)
    return tokens


def _calculation(line: str, left: list[_Token], right: list[_Token]) -> Calculation | None:
    """The calculation around an equals sign; None unless both its sides are plain to read."""
    result = _read(right[:_MOST_TOKENS], 0)
    for start in range(max(0, len(left) - _MOST_TOKENS), len(left)):
        if (side := _read(left, start)) and side.at == len(left):
            break
    else:
        return None
    if result is None or not side.signs or "//" in side.signs:  # nobody knows how 25 / 1/3 is meant
        return None
    begins = start == 0 or _begins_cleanly(line, left, start)
    ends = result.at == len(right) or _ends_cleanly(line, right, result.at)
    if not (begins and ends and _units_agree(side, result, right)):
        return None
    upto = result.at
    if right[0].kind == "number" and (not result.signs or result.first == side.value):
        # Without a chain's next link; of the words behind, with the unit alone: "= 8 apples".
        upto = 2 if len(right) > 1 and right[1].kind == "word" and _noun(right[1].text) in side.units else 1
    begin, end = left[start].start, right[upto - 1].end
    begin += line[begin] == line[end : end + 1] == "$"  # set as mathematics, not in dollars
    corrected = f"{line[begin : left[-1].end]} = {_shown(side.value, result.text)}"
    return Calculation(line[begin:end], side.value, result.first, _agrees(side, result), corrected)


def _read(tokens: list[_Token], start: int) -> "_Side | None":
    """The longest expression from `start` on; None if there is none."""
    try:
        return _Side(tokens, start)
    except (ValueError, ZeroDivisionError):
        return None


class _Side:
    """An expression, read by recursive descent.

    Attributes:
        at, value: the first token after it, and what it comes to.
        first, text: value and spelling of its first number; a chain hands it on (`3 + 4 = 7 * 2 = 14`).
        signs, units: its operators; of each number "$", "%", the noun behind it, or None.
        places: the most decimals of its numbers.
    """

    def __init__(self, tokens: list[_Token], start: int) -> None:
        self.tokens, self.at = tokens, start
        self.first, self.text, self.signs, self.places = Fraction(0), "", "", 0
        self.units: list[str | None] = []
        self.value = self._terms()

    def _peek(self, ahead: int = 0) -> _Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else _Token("end", "", -1, -1)

    def _sign(self, among: str) -> str:
        """Step over the next operator and return it, if it is one of these and an operand follows."""
        sign = _SIGNS.get(self._peek().text, "") if self._peek().kind == "sign" else ""
        if not sign or sign not in among or self._peek(1).kind not in ("number", "open"):
            return ""
        self.at += 1
        self.signs += sign
        return sign

    def _terms(self, levels: tuple[str, ...] = ("+-", "*/")) -> Fraction:
        """Operands joined by the operators of these levels, the loosest first."""
        if not levels:
            return self._operand()
        value = self._terms(levels[1:])
        while sign := self._sign(levels[0]):
            value = _APPLY[sign](value, self._terms(levels[1:]))
        return value

    def _operand(self) -> Fraction:
        token, after = self._peek(), self._peek(1)
        self.at += 1
        if token.text in ("-", "−") and after.kind == "number" and token.end == after.start:
            is_first, value = not self.units, -self._operand()
            self.first = value if is_first else self.first
        elif token.kind == "number":
            value = self._number(token.text)
        elif token.kind == "open":
            value = self._terms()
            if self._peek().kind != "close":
                raise ValueError
            self.at += 1
            self._unit()
        else:
            raise ValueError
        return value

    def _number(self, text: str) -> Fraction:
        digits = re.sub("[^0-9.]", "", text)
        if len(digits) > _MOST_DIGITS or re.match("0[0-9]", digits):  # too long, or a time like 0730
            raise ValueError
        value = Fraction(digits) / (100 if text.endswith("%") else 1)
        if not self.units:
            self.first, self.text = value, text
        self.places = max(self.places, len(digits.partition(".")[2]))
        symbol = "%" if text.endswith("%") else "$" if text[0] in "\\$£€" else None
        nouns = self._unit()
        self.units += nouns if nouns and not symbol else [symbol, *nouns]
        return value

    def _unit(self) -> list[str]:
        """Step over the nouns behind a number (`red apples`, `miles/hour`), if the expression goes on or ends there."""
        ahead = 0
        while (token := self._peek(ahead)).kind == "per" or _is_noun(token):
            ahead += 1
        if not 1 <= ahead <= 5 or token.kind not in ("sign", "close", "end"):
            return []
        self.at += ahead
        words = [*self.tokens[self.at - ahead : self.at], token]
        return [_noun(word.text) for word, after in pairwise(words) if word.kind == "word" != after.kind]


def _is_unclear(token: _Token) -> bool:
    return token.kind == "word" and _UNCLEAR.fullmatch(token.text) is not None


def _is_noun(token: _Token) -> bool:
    return token.kind == "word" and len(token.text) > 1 and not _is_unclear(token)


def _noun(word: str) -> str:
    """Apple and apples are one unit, and so are dollars and $."""
    return "$" if (noun := word.lower().rstrip("s")) == "dollar" else noun


def _begins_cleanly(line: str, tokens: list[_Token], start: int) -> bool:
    """Whether nothing before the expression could belong to it."""
    before, spaced = tokens[start - 1], tokens[start - 1].end < tokens[start].start
    if before.kind == "word":
        earlier = tokens[start - 2] if start > 1 else before
        is_mixed = before.text == "and" and earlier.kind == "number"  # 1 and 1/4
        is_share = before.text == "of" and _SHARE.fullmatch(earlier.text) is not None  # but: a total of 3 + 4
        is_unclear = _is_unclear(before) and before.text != "of"
        return spaced and not (is_mixed or is_share or is_unclear or before.text in ("x", "X"))
    if before.kind == "sign":
        return start == 1 and spaced and not line[: before.start].strip()  # a list's bullet
    if before.text.startswith("**"):  # bold, unless it is a power
        return not line[: before.start][-1:].isalnum()
    return before.kind == "open" or before.text in _OPENS or (spaced and before.kind in ("close", "other"))


def _ends_cleanly(line: str, tokens: list[_Token], at: int) -> bool:
    """Whether nothing after the result could belong to it."""
    after, spaced = tokens[at], tokens[at].start > tokens[at - 1].end
    is_unclear = _is_unclear(after) and after.text.lower() not in _HARMLESS_AFTER
    if is_unclear or after.text[0].isdigit() or _ROUNDED.match(line, after.start):
        return False
    if after.kind == "sign":
        return _SIGNS[after.text] == "/" or (spaced and _SIGNS[after.text] == "-")
    if after.kind == "word":  # 2x, 6 r 1
        return (spaced or len(after.text) > 1) and after.text not in ("x", "r", "R")
    return (after.kind != "open" or spaced) and after.text[0] not in "^_{"


def _units_agree(side: _Side, result: _Side, right: list[_Token]) -> bool:
    """Whether the figures can be compared: no hours + minutes, no cents that come to dollars."""
    named = {unit for unit in side.units if unit}
    adds = bool(set(side.signs) & set("+-"))
    unit = result.units[0]
    if unit is None and result.at < len(right) and right[result.at].kind == "word":
        unit = _noun(right[result.at].text)
    kinds = [(named & measures, measures) for measures in _MEASURES]
    several = any(len(used) > 1 and (adds or unit not in used) for used, _ in kinds)
    other = any(used and unit in measures - used for used, measures in kinds)
    return not (several or other or (adds and "%" in named and None in side.units))


def _agrees(side: _Side, result: _Side) -> bool:
    """Whether the result is the value, as written or rounded, or hands on to a running chain."""
    if result.signs and abs(side.value - result.value) <= (Fraction(1, 100) if "/" in side.signs else 0):
        return True
    places = len(result.text.partition(".")[2].rstrip("%\\ "))
    # Rounded, or cut; without decimals only what 3.33 * 3 = 10 needs.
    slack = Fraction(1, 10**places) if places else Fraction(bool(side.places), 20)
    percent = result.text.endswith("%")
    written = result.first * (100 if percent else 1)
    # 25% is written for 25 and for 0.25, and 100% as often as not for 100.
    scales = (1, 100, Fraction(1, 100)) if percent or "%" in side.units else (1,)
    distance = min(abs(side.value * scale - written) for scale in scales)
    return distance == 0 or distance < slack


def _shown(value: Fraction, like: str) -> str:
    """The value written as the result was: with its currency or percent sign, and at most four decimals."""
    percent = "%" if like.endswith("%") else ""
    exact = value * (100 if percent else 1)
    rounded = exact if (exact * 10**4).denominator == 1 else round(exact, 2)
    whole, decimals = divmod(int(abs(rounded) * 10**4), 10**4)
    digits = f"{whole}.{decimals:04d}".rstrip("0").rstrip(".")
    sign = ("-" if rounded < 0 else "") + (like[0] if like[0] in "$£€" else "")
    return f"{'about ' if rounded != exact else ''}{sign}{digits}{percent}"
