"""Numbers as people write them, and whether two of them are equal. Writing that could mean two things has two readings.

The writing of other countries is read if it can mean only one thing: `12 000`, `12'000`, `1.234,56`. `12.000` has two
readings, and so has `3,5`, which may be a decimal number or a list.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Value = Fraction | str
"""A number. A number of more than `_LONG` digits is their text, because Python converts long numbers slowly."""

NOT_ONE_NUMBER: frozenset[Value | None] = frozenset()
_LONG = 1000
_LARGEST_EXPONENT = 400
_LONGEST_REPEATED = 6
_LONGEST_FORM = len(["3", "×", "10", "^", "-", "2"])

_PLAIN = re.compile(r"([0-9]*)(?:\.([0-9]+))?")
_ENGLISH = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_SPACED = re.compile(r"[0-9]{1,3}(?:[ '_][0-9]{3})+(?:[.,][0-9]+)?")
_CONTINENTAL = re.compile(r"[1-9][0-9]{0,2}(?:(?:\.[0-9]{3})+,[0-9]+|(?:\.[0-9]{3}){2,})")
_TWO_READINGS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")
_COMMA = re.compile(r"[0-9]+,[0-9]+")


@dataclass(frozen=True)
class Quantity:
    """What a text states: a number, or something that has numbers in it.

    Attributes:
        text: as the text writes it, with plain characters.
        readings: the numbers that it can mean. None among them stands for something else that it can mean. Empty: it
            is more than one number, or none, such as a time, a ratio, a list or a root.
        unit: a measure, a currency or `%`; empty if there is none, or it is no known one.
        otherwise: further numbers that it may mean: they make nothing right, but keep it from being wrong.
    """

    text: str
    readings: frozenset[Value | None]
    unit: str = ""
    otherwise: frozenset[Value | None] = frozenset()

    @property
    def value(self) -> Value | None:
        """The number, if it can mean only one."""
        return next(iter(self.readings)) if len(self.readings) == 1 else None


def compare(given: Quantity, expected: Quantity) -> Literal["right", "wrong", "ungraded"]:
    """Compare two quantities. "right" and "wrong" hold under every reading; "ungraded" means that readings differ.

    What is not one number is right if it is written in the same way, and ungraded otherwise. Quantities in two
    different units are ungraded: 720 minutes are 12 hours.
    """
    if given.unit and expected.unit and given.unit != expected.unit:
        return "ungraded"
    if given.value is not None and given.value == expected.value:
        return "right"
    if given.readings == expected.readings and _bare(given.text) == _bare(expected.text):
        return "right"
    if not given.readings or not expected.readings:
        return "ungraded"
    if None in given.readings | expected.readings:
        return "ungraded"
    if given.readings == expected.readings:
        return "right"
    loose = given.unit != expected.unit
    return "ungraded" if _possible(given, loose) & _possible(expected, loose) else "wrong"


def why_ungraded(given: Quantity, expected: Quantity, thing: str) -> str:
    """Explain in one sentence why two quantities were not compared."""
    for quantity, owner in ((expected, "standard answer"), (given, "completion")):
        if not quantity.readings:
            return f'"{quantity.text}", read from the {owner}, is not a {thing}.'
        if quantity.value is None:
            return f'"{quantity.text}", read from the {owner}, can mean different {thing}s.'
    if given.unit == expected.unit:
        return f'"{given.text}" may be written for "{expected.text}", or not.'
    here, there = (f'"{quantity.text}" ({quantity.unit or "no unit"})' for quantity in (given, expected))
    return f"{here} and {there} are not in one unit."


def _possible(quantity: Quantity, loose: bool) -> set[Value | None]:
    """Return the readings, and what else it may mean. If `loose`, 20% may be 0.2, 50 cents 0.5, and 7 pm 19."""
    found = set(quantity.readings | quantity.otherwise)
    numbers = [value for value in found if isinstance(value, Fraction)]
    if loose and quantity.unit in ("%", "cent"):
        found |= {value / 100 for value in numbers}
    if loose and quantity.unit in ("am", "pm"):
        found |= {(value % 12) + (12 if quantity.unit == "pm" else 0) for value in numbers}
    return found


def _bare(text: str) -> str:
    return re.sub(r"[\s$]+", "", text).casefold().strip(".,;:!?")


def readings_of(number: str) -> frozenset[Value | None]:
    """Return what one number, without sign, can mean: digits with points, commas, apostrophes, spaces, `e6`.

    >>> sorted(map(str, readings_of("12.000")))
    ['12', '12000']
    """
    mantissa, mark, exponent = number.replace("E", "e").partition("e")
    if mark:
        return _scaled(single(mantissa), exponent)
    if _PLAIN.fullmatch(number):
        if _TWO_READINGS.fullmatch(number):
            return frozenset([_exact(number), _exact(number.replace(".", ""))])
        return frozenset([_exact(number)])
    if _ENGLISH.fullmatch(number):
        return frozenset([_exact(number.replace(",", ""))])
    if _SPACED.fullmatch(number):
        return frozenset([_exact(re.sub("[ '_]", "", number).replace(",", "."))])
    if _CONTINENTAL.fullmatch(number):
        return frozenset([_exact(number.replace(".", "").replace(",", "."))])
    if _COMMA.fullmatch(number):
        return frozenset([_exact(number.replace(",", ".")), None])
    return NOT_ONE_NUMBER


def continued(number: str) -> frozenset[Value | None]:
    """Return what a decimal number with dots after it may mean: its last digits repeat without end.

    >>> sorted(map(str, continued("0.1666")))
    ['1/6', '1666/9999']
    """
    whole, _, decimals = number.partition(".")
    if not (whole + decimals).isdigit() or not decimals or len(whole + decimals) > _LONG:
        return NOT_ONE_NUMBER
    found = set()
    for length in range(1, min(len(decimals), _LONGEST_REPEATED) + 1):
        before = Fraction(f"{whole or 0}.{decimals[:-length] or 0}")
        found.add(before + Fraction(int(decimals[-length:]), (10**length - 1) * 10 ** (len(decimals) - length)))
    return frozenset(found)


def single(number: str) -> Value | None:
    """Return the number if it can mean only one."""
    readings = readings_of(number)
    return next(iter(readings)) if len(readings) == 1 else None


def plain_value(text: str) -> Value | None:
    """Convert a number as lm-evaluation-harness reads it: a point before decimals, commas and `$` without meaning.

    Return None if the text is not a number.
    """
    text = text.replace("$", "").replace(",", "").strip()
    sign, text = text[:1] == "-", text.removeprefix("-").removesuffix(".")
    if not text or not _PLAIN.fullmatch(text):
        return None
    value = _exact(text)
    return negated(value) if sign else value


def negated(value: Value) -> Value:
    """Return the number with the other sign."""
    return f"-{value}".replace("--", "") if isinstance(value, str) else -value


def _exact(plain: str) -> Value:
    """Convert digits with at most one point."""
    whole, _, decimals = plain.partition(".")
    whole, decimals = whole.lstrip("0"), decimals.rstrip("0")
    if len(whole) + len(decimals) > _LONG:
        return f"{whole}.{decimals}"
    return Fraction(f"{whole or 0}.{decimals or 0}")


def _scaled(value: Value | None, exponent: str) -> frozenset[Value | None]:
    """Multiply with a power of ten."""
    if not isinstance(value, Fraction) or len(exponent) > 4 or abs(int(exponent)) > _LARGEST_EXPONENT:
        return NOT_ONE_NUMBER
    return frozenset([value * Fraction(10) ** int(exponent)])


def readings_of_parts(parts: Sequence[str]) -> frozenset[Value | None]:
    """Return what a number, a fraction, a mixed number or a power can mean.

    Args:
        parts: its numbers and signs: `["2", " ", "1", "/", "2"]` is two and a half.
    """
    if len(parts) > _LONGEST_FORM:
        return NOT_ONE_NUMBER
    numbers = [part for part in parts if _is_number(part)]
    form = "".join("N" if _is_number(part) else "?" if part[0].isalpha() else part for part in parts)
    if form == "N":
        return readings_of(numbers[0])
    values = [single(number) for number in numbers]
    if not all(isinstance(value, Fraction) for value in values):
        return NOT_ONE_NUMBER
    found = _combined(form, [value for value in values if isinstance(value, Fraction)])
    return NOT_ONE_NUMBER if found is None else frozenset([found])


def _is_number(part: str) -> bool:
    return part[0] in ".0123456789"


def _combined(form: str, values: list[Fraction]) -> Fraction | None:
    """Return the value of a form such as `N/N`; None if it is no form of one number."""
    match form:
        case "N/N" if values[1]:
            return values[0] / values[1]
        case "N N/N" if values[2] and values[1] < values[2] and values[0].denominator == 1:
            return values[0] + values[1] / values[2]
        case "N^N" | "N^-N" if values[0] or form == "N^N":
            return _power(values[0], values[1], "-" in form)
        case "N×N^N" | "N×N^-N" if values[1] == 10:
            power = _power(values[1], values[2], "-" in form)
            return None if power is None else values[0] * power
    return None


def _power(base: Fraction, exponent: Fraction, negative: bool) -> Fraction | None:
    if exponent.denominator != 1 or exponent > _LARGEST_EXPONENT or abs(base.numerator) > 10**9:
        return None
    if base.denominator > 10**9:
        return None
    return base ** (-int(exponent) if negative else int(exponent))
