"""Find the calculations in a text, and check whether they are right."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations, groupby, pairwise
from typing import NamedTuple

from nlft.collect.other_arithmetic import Place, is_unclear, means_otherwise

_MOST_TOKENS = 60  # in one side of a calculation; longer calculations are ignored
_MOST_DIGITS = 15
_ZERO = Fraction(0)
_MOST_AMBIGUOUS = 6  # numbers with two readings in one calculation
# Use no possessive groups: before 3.11.5, Python lets them match too much (gh-106052).
_TOKEN = re.compile(
    r"""(?P<number>(?!0[xXbBoO][0-9A-Fa-f])(?:\\?[$£€][ ]?)?
                   (?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]++|(?<!\.)(?=\.[0-9]))(?:\.[0-9]++)?
                   (?![.,:]?[0-9])(?:[ ]?\\?%)?)
    |(?P<odd>0[xXbBoO][0-9A-Fa-f]+|[0-9][0-9.,:]*|\*\*+|[=!<>:]=+|=>|\\[()\[\]]|\\(?!times\b|cdot\b|div\b)[A-Za-z]+)
    |(?P<sign>[-+*/×÷·⋅∗−–]|\\times\b|\\cdot\b|\\div\b)
    |(?P<equals>=)|(?P<open>\()|(?P<close>\))
    |(?P<word>[^\W\d_]+)|(?P<other>\S)""",
    re.VERBOSE,
)
_SIGNS = dict.fromkeys("*×·⋅∗", "*") | dict.fromkeys("-−–", "-") | {"/": "/", "÷": "/", "+": "+"}
_SIGNS |= {r"\times": "*", r"\cdot": "*", r"\div": "/", "x": "*", "X": "*", "of": "*"}
_APPLY = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}
_FRACTION = re.compile(r"[0-9.,/%)]+|half|double|percent|\w*(?:third|quarter|[a-z]th)s?|fraction|part", re.IGNORECASE)
_HARMLESS_AFTER = ("more", "less", "fewer", "than", "of", "by", "over", "per")
# Figures in two different measures of one set cannot be compared without conversion.
_MEASURES = [
    {"$", "cent", "quarter", "dime", "nickel", "pennie"},
    {"second", "minute", "min", "hour", "hr", "day", "week", "month", "year"},
    {"mm", "cm", "km", "inch", "inche", "foot", "feet", "ft", "yard", "mile", "meter", "metre", "kilometer"},
    {"mg", "kg", "gram", "kilogram", "pound", "lb", "ounce", "oz", "ton"},
    {"ml", "liter", "litre", "gallon", "quart", "pint", "cup"},
]
_OPENS = ("$", "{", "[", "<", "|", '"', "“", "'", "‘", "`", r"\(", r"\[")
# What may follow the first digits of a number: signs that group digits in threes, in text and in LaTeX.
_GROUPING = r"(?:['’ʼ`´~]|\\[,;:!]|\{,\})"
_GROUP_AFTER, _GROUP_BEFORE = re.compile(rf"{_GROUPING}[0-9]{{3}}"), re.compile(rf"[0-9]{_GROUPING}$")
_AMBIGUOUS = re.compile(r"(?P<whole>[1-9][0-9]{0,2})(?P<mark>[.,])(?P<group>[0-9]{3})(?![0-9.,])")  # 12.000, 1,250
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator marks: 64-35=<<64-35=29>>29


@dataclass(frozen=True)
class Calculation:
    """A calculation in a text.

    Attributes:
        written: the whole calculation, verbatim.
        value: the value of its left side.
        result: the result as the text gives it.
        right: whether `value` and `result` are equal, up to rounding of the result. If a number can be read in two
            ways, as 12.000 can be 12 and 12000, one way in which they are equal is enough.
        corrected: the left side as written, with `value` as the result.
    """

    written: str
    value: Fraction
    result: Fraction
    right: bool
    corrected: str


def miscalculated(steps: Sequence[Calculation], answer: str) -> list[Calculation]:
    """Return the wrong steps, except the steps that the standard answer also has, such as a rounded 17 / 4 = 4."""
    accepted = {(step.value, step.result) for step in find_calculations(answer)}
    return [step for step in steps if not step.right and (step.value, step.result) not in accepted]


def find_calculations(text: str) -> Iterator[Calculation]:
    """Yield the calculations in a text, in order. A chain `a + b = c = d` gives one for each equals sign."""
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


_END = _Token("end", "", -1, -1)


def _tokens(line: str) -> list[_Token]:
    line = _ANNOTATION.sub(lambda match: " " * len(match[0]), line)
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
    """Read the calculation around an equals sign. Return None unless both sides are unambiguous."""
    nearest = range(max(0, len(left) - _MOST_TOKENS), len(left))
    if not any(left[at].kind == "sign" for at in nearest):
        return None
    result = _read(right[:_MOST_TOKENS], 0)
    if result is None:
        return None
    for start in nearest:
        if (side := _read(left, start)) and side.at == len(left):
            break
    else:
        return None
    if not side.signs or "//" in side.signs:  # 25 / 1/3 is ambiguous
        return None
    begins = start == 0 or _begins_cleanly(line, left, start)
    ends = result.at == len(right) or _ends_cleanly(line, right, result.at)
    agrees = _agrees(side, result) or _agrees_otherwise(left[start:], right[:_MOST_TOKENS])
    place = Place(line, left[start].start, right[0].end, right[result.at - 1].end)
    otherwise = not agrees and means_otherwise(place, side.value, result.first, divides="/" in side.signs)
    if otherwise or not (begins and ends and _units_agree(side, result, right)):
        return None
    upto = result.at
    if right[0].kind == "number" and (not result.signs or result.first == side.value):
        # Quote neither the next link of a chain nor the words after the result, except its unit: "= 8 apples".
        upto = 2 if len(right) > 1 and right[1].kind == "word" and _noun(right[1].text) in side.units else 1
    begin, end = left[start].start, right[upto - 1].end
    begin += line[begin] == line[end : end + 1] == "$"  # a pair of $ delimits mathematics and means no dollars
    corrected = f"{line[begin : left[-1].end]} = {_shown(side.value, result.text)}"
    return Calculation(line[begin:end], side.value, result.first, agrees, corrected)


def _read(tokens: list[_Token], start: int) -> "_Side | None":
    """Read the longest expression that begins at `start`. Return None if there is none."""
    if start == len(tokens) or tokens[start].kind not in ("number", "open", "sign"):
        return None  # most of the places where a text's expression might begin
    try:
        return _Side(tokens, start)
    except (ValueError, ZeroDivisionError):
        return None


class _Side:
    """An expression, read by recursive descent.

    Attributes:
        at: place of the first token after it.
        value: its value.
        first, text: value and spelling of its first number. In a chain such as `3 + 4 = 7 * 2 = 14`, that number is
            the result of the link before.
        signs: its operators.
        units: for each number "$", "%", the noun after it, or None.
        places: the largest number of decimals among its numbers.
    """

    def __init__(self, tokens: list[_Token], start: int) -> None:
        self.tokens, self.at = tokens, start
        self.first, self.text, self.signs, self.places = _ZERO, "", "", 0
        self.units: list[str | None] = []
        self.value = self._terms()

    def _peek(self, ahead: int = 0) -> _Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else _END

    def _sign(self, among: str) -> str:
        """Read the next operator if it is in `among` and an operand follows. Otherwise return an empty string."""
        token = self._peek()
        sign = _SIGNS.get(token.text, "") if token.kind == "sign" else ""
        if not sign or sign not in among or self._peek(1).kind not in ("number", "open"):
            return ""
        self.at += 1
        self.signs += sign
        return sign

    def _terms(self, levels: tuple[str, ...] = ("+-", "*/")) -> Fraction:
        """Read operands joined by the operators of these levels. The first level binds least."""
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
            is_first, value = not self.units, -self._operand()  # a minus sign
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
        value, places = _value_of(text)
        if not self.units:
            self.first, self.text = value, text
        self.places = max(self.places, places)
        symbol = "%" if text.endswith("%") else "$" if text[0] in "\\$£€" else None
        nouns = self._unit()
        self.units += nouns if nouns and not symbol else [symbol, *nouns]
        return value

    def _unit(self) -> list[str]:
        """Read the nouns after a number (`red apples`, `miles/hour`), if an operator, `)` or the end follows them."""
        ahead = 0
        while (token := self._peek(ahead)).kind == "per" or _is_noun(token):
            ahead += 1
        if not 1 <= ahead <= 5 or token.kind not in ("sign", "close", "end"):
            return []
        self.at += ahead
        words = [*self.tokens[self.at - ahead : self.at], token]
        return [_noun(word.text) for word, after in pairwise(words) if word.kind == "word" != after.kind]


@lru_cache(maxsize=1024)  # a solution uses the same numbers again and again
def _value_of(text: str) -> tuple[Fraction, int]:
    """Return a number's value, and how many decimals it has.

    Raises:
        ValueError: it is too long, or a time like 0730.
    """
    digits = re.sub("[^0-9.]", "", text)
    if len(digits) > _MOST_DIGITS or re.match("0[0-9]", digits):
        raise ValueError
    value = Fraction(digits)
    return value / 100 if text.endswith("%") else value, len(digits.partition(".")[2])


def _is_unclear(token: _Token) -> bool:
    return token.kind == "word" and is_unclear(token.text)


def _is_noun(token: _Token) -> bool:
    return token.kind == "word" and len(token.text) > 1 and not _is_unclear(token)


def _noun(word: str) -> str:
    """Normalise a unit: apple and apples are the same unit, and so are dollars and $."""
    return "$" if (noun := word.lower().rstrip("s")) == "dollar" else noun


def _begins_cleanly(line: str, tokens: list[_Token], start: int) -> bool:
    """Return whether the text before the expression is certainly not part of it."""
    before, spaced = tokens[start - 1], tokens[start - 1].end < tokens[start].start
    if _GROUP_BEFORE.search(line, max(0, tokens[start].start - 4), tokens[start].start):  # 12'000
        return False
    if before.kind == "word":
        earlier = tokens[start - 2] if start > 1 else before
        is_mixed = before.text == "and" and earlier.kind == "number"  # 1 and 1/4
        # "half of 3 + 4" is unclear; "a total of 3 + 4" is clear.
        is_fraction = before.text == "of" and _FRACTION.fullmatch(earlier.text) is not None
        unclear = _is_unclear(earlier if before.text == "of" else before)
        return spaced and not (is_mixed or is_fraction or unclear or before.text in ("x", "X"))
    if before.kind == "sign":
        return start == 1 and spaced and not line[: before.start].strip()  # a list's bullet
    if before.text.startswith("**"):  # bold, unless it is a power
        return not line[: before.start][-1:].isalnum()
    return before.kind == "open" or before.text in _OPENS or (spaced and before.kind in ("close", "other"))


def _ends_cleanly(line: str, tokens: list[_Token], at: int) -> bool:
    """Return whether the text after the result is certainly not part of it."""
    after, spaced = tokens[at], tokens[at].start > tokens[at - 1].end
    unclear = _is_unclear(after) and after.text.lower() not in _HARMLESS_AFTER
    if unclear or after.text[0].isnumeric():  # 6 ⅔
        return False
    if _GROUP_AFTER.match(line, tokens[at - 1].end):
        return False
    if after.kind == "sign":
        return _SIGNS[after.text] == "/" or (spaced and _SIGNS[after.text] == "-")
    if after.kind == "word":  # 2x, 6 r 1
        return (spaced or len(after.text) > 1) and after.text not in ("x", "r", "R")
    return (after.kind != "open" or spaced) and after.text[0] not in "^_{"


def _units_agree(side: _Side, result: _Side, right: list[_Token]) -> bool:
    """Return whether the units of both sides can be compared: not hours with minutes, or cents with dollars."""
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
    """Return whether the result equals the value, exactly or rounded.

    The result may also be an expression with that value, as in `12 + 8 = 4 * 5`.
    """
    if side.value == result.first and not result.text.endswith("%"):
        return True
    if result.signs and abs(side.value - result.value) <= (Fraction(1, 100) if "/" in side.signs else 0):
        return True
    places = len(result.text.partition(".")[2].rstrip("%\\ "))
    # Allow rounding and truncation. A result without decimals gets only the tolerance that 3.33 * 3 = 10 needs.
    slack = Fraction(1, 10**places) if places else Fraction(bool(side.places), 20)
    percent = result.text.endswith("%")
    written = result.first * (100 if percent else 1)
    # People write 25% for 25 and for 0.25.
    scales = (1, 100, Fraction(1, 100)) if percent or "%" in side.units else (1,)
    distance = min(abs(side.value * scale - written) for scale in scales)
    return distance == 0 or distance < slack


def _agrees_otherwise(left: list[_Token], right: list[_Token]) -> bool:
    """Return whether both sides agree under another reading of their numbers.

    In 12.000 a dot may group digits, and in 1,250 a comma may stand before decimals. Each number may be read in its own
    way, because texts mix them. If there are too many such numbers, nobody can say that the calculation is wrong.
    """
    tokens = [*left, *right]
    places = [at for at, token in enumerate(tokens) if token.kind == "number" and _AMBIGUOUS.search(token.text)]
    if len(places) > _MOST_AMBIGUOUS:
        return True
    for count in range(1, len(places) + 1):
        for some in combinations(places, count):
            read = list(tokens)
            for at in some:
                read[at] = tokens[at]._replace(text=_otherwise(tokens[at].text))
            side, result = _read(read[: len(left)], 0), _read(read[len(left) :], 0)
            if side and result and side.at == len(left) and _agrees(side, result):
                return True
    return False


def _otherwise(number: str) -> str:
    """Write the other reading of an ambiguous number in digits and a decimal point."""
    return _AMBIGUOUS.sub(lambda m: m["whole"] + ("." if m["mark"] == "," else "") + m["group"], number)


def _shown(value: Fraction, like: str) -> str:
    """Write the value like the result: with its currency or percent sign, and at most four decimals."""
    percent = "%" if like.endswith("%") else ""
    exact = value * (100 if percent else 1)
    rounded = exact if 10**4 % exact.denominator == 0 else round(exact, 2)
    whole, decimals = divmod(abs(rounded.numerator) * 10**4 // rounded.denominator, 10**4)
    digits = f"{whole}.{decimals:04d}".rstrip("0").rstrip(".")
    sign = ("-" if rounded < 0 else "") + (like[0] if like[0] in "$£€" else "")
    return f"{'about ' if rounded != exact else ''}{sign}{digits}{percent}"
