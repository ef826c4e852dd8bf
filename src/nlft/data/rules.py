"""A judge without a model: it recalculates what a completion writes down, and says in words what is wrong.

A wrong step is quoted as it was written, and its correction has a line of its own that begins `Correction:`,
because training leaves those lines out of the judge prompt: in view of the right number a model may avoid the
wrong one, and the mistake would not show. What is not plainly a calculation is left alone: a false accusation
teaches a model to avoid what was right.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

MOST_FINDINGS = 3
REPEATED = 3  # so often the same sentence or line is no coincidence

_MARK = "####"
_LONGEST_QUOTE = 120
_MOST_TOKENS = 60  # of one side of a calculation; what is longer is left alone
_MOST_DIGITS = 15

# What the number grader reads: the first number after a mark and one space, or the last of the text.
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_LAST = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
# What a reader takes for the final answer as well: other spellings of the mark, and words.
_PLAIN = r"(?:(?<![\w.,)])-)?\$?(?:[0-9]++(?:,[0-9]{3})*+(?:\.[0-9]++)?|\.[0-9]++)"
_NUMBER = re.compile(_PLAIN)
_MARKED = re.compile(rf"####[^\w\n]{{0,8}}?({_PLAIN})|####\s{{1,4}}({_PLAIN})")
_STATED = re.compile(rf"(?:\banswer(?: is|:)|\\boxed\{{)[ *$]{{0,4}}({_PLAIN})", re.IGNORECASE)
_PIECE_ENDS = re.compile(r"(?<=[.!?])\s|[\n\r]")
_TOKEN = re.compile(
    r"""(?P<number>(?:\\?[$£€][ ]?)?(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++|(?<!\.)(?=\.[0-9]))(?:\.[0-9]++)?+
                   (?![.,:]?[0-9])(?:[ ]?\\?%)?)
    |(?P<odd>[0-9][0-9.,:]*|\*\*+|[=!<>:]=+|=>|\\[()\[\]]|\\(?!times\b|cdot\b|div\b)[A-Za-z]+)
    |(?P<equals>=)
    |(?P<sign>[-+*/×÷·⋅∗−–]|\\times\b|\\cdot\b|\\div\b)
    |(?P<open>\()|(?P<close>\))
    |(?P<word>[^\W\d_]+)
    |(?P<other>\S)""",
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
_HARMLESS_AFTER = ("more", "less", "fewer", "than", "of", "by", "over", "per")
# Figures in two measures of a kind cannot be compared as they stand.
_MEASURES = [
    {"$", "cent", "quarter", "dime", "nickel", "pennie"},
    {"second", "minute", "min", "hour", "hr", "day", "week", "month", "year"},
    {"mm", "cm", "km", "inch", "inche", "foot", "feet", "ft", "yard", "mile", "meter", "metre", "kilometer"},
    {"mg", "kg", "gram", "kilogram", "pound", "lb", "ounce", "oz", "ton"},
    {"ml", "liter", "litre", "gallon", "quart", "pint", "cup"},
]
_ROUNDED = re.compile(r".{0,30}?(?:round|approx|about|nearest)", re.IGNORECASE)
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator: 64-35=<<64-35=29>>29


def judge_by_rules(question: str, completion: str, answer: str, *, truncated: bool = False) -> str | None:
    """Say what is wrong with a completion; None if nothing is found.

    Args:
        answer: the standard answer with its reasoning.
        truncated: the completion was cut off at the token limit.
    Returns:
        At most three findings, a line each, some followed by a line that begins `Correction:`. Text in double
        quotes is verbatim the completion's. Where the standard answer holds a number, every completion with
        another final number, or with none, has a finding.
    """
    final, is_wrong = _final_answer(question, completion, answer, truncated)
    findings = [
        *_wrong_steps(completion, answer, is_wrong),
        final,
        _repetition(completion),
        "The response breaks off unfinished." if truncated else None,
    ]
    return "\n".join([finding for finding in findings if finding][:MOST_FINDINGS]) or None


def _wrong_steps(completion: str, answer: str, answer_is_wrong: bool) -> list[str]:
    """At most two: miscalculated steps, and before them a right one whose result is not in the answer."""
    solution = {(step.value, step.result) for step in find_calculations(answer)}
    known = {value for found in _NUMBER.findall(answer) if (value := _value(found)) is not None}
    findings: dict[str, None] = {}
    for step in find_calculations(completion):
        # The solution may round a quotient: 17 / 4 = 4 boxes.
        if not step.right and (step.value, step.result) not in solution:
            findings[f'The step "{step.written}" is miscalculated.\nCorrection: {step.corrected}.'] = None
        elif answer_is_wrong and not findings and not {step.value, step.result} & known:
            findings[f'The step "{step.written}" is not a step of the solution.'] = None
    return list(findings)[: MOST_FINDINGS - 1]


def _final_answer(question: str, completion: str, answer: str, truncated: bool) -> tuple[str | None, bool]:
    """The finding on the final answer, if any, and whether its number is wrong or missing."""
    expected = _expected(answer)
    if expected is None:
        return None, False
    correction = f"Correction: the answer is {expected}."
    written, number = _stated(question, completion, truncated)
    if not number:
        return f"The response never states a final answer.\n{correction}", True
    if _value(number) != _value(expected):
        return f'The final answer "{written}" is wrong.\n{correction}', True
    if _MARK in answer and not _STRICT.search(completion):
        plain = f"{_MARK}, a space and the number"
        return (
            f'The final answer "{written}" is not written as {plain}.\nCorrection: {_MARK} {expected}',
            False,
        )
    last = _LAST.findall(completion)[-1]
    if _value(last) != _value(expected):
        return f'The response goes on after its final answer, up to "{last[:_LONGEST_QUOTE]}".', False
    return None, False


def _expected(answer: str) -> str | None:
    """The number of a standard answer: after its last mark, else its last number."""
    _, mark, after = answer.rpartition(_MARK)
    if mark and (found := _NUMBER.search(after)):
        return found[0]
    return next(reversed(_NUMBER.findall(answer)), None)


def _stated(question: str, completion: str, truncated: bool) -> tuple[str, str]:
    """The final answer as written, and its number; both empty where none is stated."""
    if found := _STRICT.search(completion):
        return _quotable(found[0].rstrip(".,")), found[1]
    if found := _MARKED.search(completion):
        number = found[1] or found[2]
        return (number if "\n" in found[0] else found[0]), number
    if stated := _STATED.findall(completion):
        return stated[-1], stated[-1]
    last = next(reversed(list(_NUMBER.finditer(completion))), None)
    if last is None or truncated:
        return "", ""
    sentence = next(piece for piece in reversed(_PIECE_ENDS.split(completion)) if _NUMBER.search(piece))
    return ("", "") if sentence.strip() in question else (last[0], last[0])


def _value(number: str) -> Fraction | None:
    """The number, without dollar signs, commas and a trailing period; None if it is none, or endless."""
    digits = number.replace("$", "").replace(",", "").removesuffix(".")
    if len(digits) > 300 or not re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)", digits):
        return None
    return Fraction(digits.removesuffix("."))


def _repetition(completion: str) -> str | None:
    """The first sentence or line that is said over and over."""
    for piece, count in Counter(map(str.strip, _PIECE_ENDS.split(completion))).items():
        if count >= REPEATED and len(piece) >= 5 and (quoted := _quotable(piece)):
            return f'The response repeats "{quoted}" again and again.'
    return None


def _quotable(text: str) -> str:
    """The start of a text that can stand in quotes, in a line that is no correction."""
    return re.split(r'"|\n|Correction:', text.strip('" \n'))[0][:_LONGEST_QUOTE].strip()


# From text to calculations.


@dataclass(frozen=True)
class Calculation:
    """A calculation in a text.

    Attributes:
        written: the whole of it, verbatim.
        value: what its left side comes to.
        result: what is written as its result.
        right: whether both agree, as far as the result was rounded.
        corrected: the left side as written, with `value` for a result.
    """

    written: str
    value: Fraction
    result: Fraction
    right: bool
    corrected: str


def find_calculations(text: str) -> Iterator[Calculation]:
    """The calculations in a text, in order; a chain `a + b = c = d` gives one for each equals sign."""
    for line in filter(lambda line: "=" in line, text.split("\n")):
        # Annotations are blanked where they stand in a calculation, else they are calculations themselves.
        blanked = _ANNOTATION.sub(lambda found: " " * len(found[0]), line)
        found = list(_in_line(line, blanked))
        yield from found
        for inner in _ANNOTATION.findall(line):
            if not any(inner in calculation.written for calculation in found):
                yield from _in_line(inner, f"  {inner[2:-2]}  ")


def _in_line(line: str, readable: str) -> Iterator[Calculation]:
    """The calculations of one line, read from `readable`, which has the same length, and quoted from `line`."""
    sides: list[list[_Token]] = [[]]
    for token in _tokens(readable):
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    found = (_calculation(line, left, right) for left, right in pairwise(sides))
    return (calculation for calculation in found if calculation)


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def _tokens(line: str) -> list[_Token]:
    tokens = [_Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(line)]
    for at in range(1, len(tokens) - 1):
        before, token, after = tokens[at - 1 : at + 2]
        follows_operand = before.kind in ("number", "close", "word") and after.kind in ("number", "open")
        if (token.text in ("x", "X") and follows_operand) or (token.text == "of" and before.text[-1] == "%"):
            tokens[at] = _Token("sign", token.text, token.start, token.end)
    return tokens


def _calculation(line: str, left: list[_Token], right: list[_Token]) -> Calculation | None:
    """The calculation around an equals sign; None unless both its sides are plain to read."""
    result = _read(right[:_MOST_TOKENS], 0)
    first = max(0, len(left) - _MOST_TOKENS)
    for start in range(first, len(left)):
        side = _read(left, start)
        if side is not None and side.at == len(left):
            break
    else:
        return None
    # Nobody knows how 25 / 1/3 is meant.
    if result is None or not side.signs or "//" in side.signs or not _units_agree(side, result, right):
        return None
    if not (_begins_cleanly(line, left, start) and _ends_cleanly(line, right, result.at)):
        return None
    begin, end = left[start].start, right[result.at - 1].end
    if line[begin] == line[end : end + 1] == "$":  # set as mathematics, not in dollars
        begin += 1
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
        at: the first token after it.
        value: what it comes to.
        first, text: value and spelling of its first number; `first` is what a running chain hands on
            (`3 + 4 = 7 * 2 = 14`).
        signs: its operators.
        units: of each number the currency, "%", the noun behind it, or None.
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
            value = -self._operand()
            if len(self.units) == 1:
                self.first = value
            return value
        if token.kind == "open":
            value = self._terms()
            if self._peek().kind != "close":
                raise ValueError
            self.at += 1
            self._unit()
            return value
        if token.kind != "number":
            raise ValueError
        return self._number(token.text)

    def _number(self, text: str) -> Fraction:
        digits = re.sub("[^0-9.]", "", text)
        if len(digits) > _MOST_DIGITS or re.match("0[0-9]", digits):  # too long, or a time like 0730
            raise ValueError
        value = Fraction(digits) / (100 if text.endswith("%") else 1)
        if not self.units:
            self.first, self.text = value, text
        self.places = max(self.places, len(digits.partition(".")[2]))
        noun = self._unit()
        self.units.append("%" if text.endswith("%") else "$" if text[0] in "\\$£€" else noun)
        return value

    def _unit(self) -> str | None:
        """Step over the nouns behind a number, if the expression goes on or ends there."""
        ahead = 0
        while (token := self._peek(ahead)).kind == "word" and len(token.text) > 1 and not _is_unclear(token):
            ahead += 1
        if not 1 <= ahead <= 3 or token.kind not in ("sign", "close", "end"):
            return None
        self.at += ahead
        return _noun(self.tokens[self.at - 1].text)


def _is_unclear(token: _Token) -> bool:
    return token.kind == "word" and _UNCLEAR.fullmatch(token.text) is not None


def _noun(word: str) -> str:
    """Apple and apples are one unit, and so are dollars and $."""
    noun = word.lower().rstrip("s")
    return "$" if noun == "dollar" else noun


def _begins_cleanly(line: str, tokens: list[_Token], start: int) -> bool:
    """Whether nothing before the expression could belong to it."""
    if start == 0:
        return True
    before, begin = tokens[start - 1], tokens[start].start
    spaced = before.end < begin
    if before.text == "and" and start > 1 and tokens[start - 2].kind == "number":  # 1 and 1/4
        return False
    if before.kind == "word":
        return spaced and not _is_unclear(before) and (len(before.text) > 1 or before.text in "aAI")
    if before.kind == "sign":
        return start == 1 and spaced and not line[: before.start].strip()  # a list's bullet
    if before.text.startswith("**"):  # bold, unless it is a power
        return not line[: before.start][-1:].isalnum()
    if before.kind == "open" or before.text in ("{", "[", "<", "|", '"', "“", "'", "‘", "`", r"\(", r"\["):
        return True
    return spaced and before.kind in ("close", "other")


def _ends_cleanly(line: str, tokens: list[_Token], at: int) -> bool:
    """Whether nothing after the result could belong to it."""
    if at == len(tokens):
        return True
    after, spaced = tokens[at], tokens[at].start > tokens[at - 1].end
    if after.text[0].isdigit() or (_is_unclear(after) and after.text.lower() not in _HARMLESS_AFTER):
        return False
    if after.kind == "sign":
        return _SIGNS[after.text] == "/" or (spaced and _SIGNS[after.text] == "-")
    if _ROUNDED.match(line, after.start):
        return False
    if after.kind == "word":  # 2x, 6 r 1
        return (spaced or len(after.text) > 1) and after.text not in ("x", "r", "R")
    return (after.kind != "open" or spaced) and after.text[0] not in "^_{"


def _units_agree(side: _Side, result: _Side, right: list[_Token]) -> bool:
    """Whether the figures can be compared: no hours + minutes, no cents that come to dollars."""
    named = {unit for unit in side.units if unit}
    adds = bool(set(side.signs) & set("+-"))
    if adds and "%" in named and None in side.units:
        return False
    unit = result.units[0]
    if unit is None and result.at < len(right) and right[result.at].kind == "word":
        unit = _noun(right[result.at].text)
    for measures in _MEASURES:
        used = named & measures
        if (adds and len(used) > 1) or (used and unit in measures - used):
            return False
    return True


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
    percent = like.endswith("%")
    exact = value * (100 if percent else 1)
    rounded = exact if (exact * 10**4).denominator == 1 else round(exact, 2)
    whole, decimals = divmod(int(abs(rounded) * 10**4), 10**4)
    digits = f"{whole}.{decimals:04d}".rstrip("0").rstrip(".")
    currency = like[0] if like[0] in "$£€" else ""
    about = "about " if rounded != exact else ""
    return f"{about}{'-' if rounded < 0 else ''}{currency}{digits}{'%' if percent else ''}"
