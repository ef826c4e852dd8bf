"""A judge without a model: it recalculates what a completion writes down, and says in words what is wrong.

A wrong step is quoted as it was written, and its correction has a line of its own that begins `Correction:`, because
training leaves those lines out of the judge prompt: in view of the right number a model may avoid the wrong one, and
the mistake would not show. What is not plainly a calculation is left alone: a false accusation teaches what is wrong.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from typing import NamedTuple

from nlft.data.grading import FLEXIBLE, IN_SENTENCE, MARK, STRICT

MOST_FINDINGS = 3
REPEATED = 3  # so often the same sentence or line is no coincidence
_LONGEST_QUOTE = 120
_MOST_TOKENS = 60  # of one side of a calculation; what is longer is left alone
_MOST_DIGITS = 15

_MARKED = re.compile(rf"####\W{{0,8}}?({IN_SENTENCE.pattern})")  # and other spellings of the mark
_PIECE_ENDS = re.compile(r"(?<=[.!?])\s|[\n\r]")
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
    steps = list(find_calculations(completion))
    wrong = miscalculated(steps, answer)
    known = {value for found in IN_SENTENCE.findall(answer) if (value := _value(found)) is not None}
    findings: dict[str, None] = {}
    for step in steps:
        if step in wrong:
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
        return f'The final answer "{written[:_LONGEST_QUOTE]}" is wrong.\n{correction}', True
    if MARK in answer and not STRICT.search(completion):
        finding = f'The final answer "{written}" is not written as {MARK}, a space and the number.'
        return f"{finding}\nCorrection: {MARK} {expected}", False
    last = FLEXIBLE.findall(completion)[-1][:_LONGEST_QUOTE]
    if _value(last) != _value(expected):
        return f'The response goes on after its final answer, up to "{last.rstrip(".,") or last}".', False
    return None, False


def _expected(answer: str) -> str | None:
    """The number of a standard answer: after its last mark, else its last number."""
    marked = IN_SENTENCE.search(answer.rpartition(MARK)[2]) if MARK in answer else None
    numbers = [marked[0]] if marked else IN_SENTENCE.findall(answer)
    return numbers[-1] if numbers else None


def _stated(question: str, completion: str, truncated: bool) -> tuple[str, str]:
    """The final answer as written, and its number; both empty where the last number only restates the question."""
    if found := STRICT.search(completion):
        return _quotable(found[0].rstrip(".,")), found[1]
    if found := _MARKED.search(completion):
        return (found[1] if re.search(r'["\n\r]', found[0]) else found[0]), found[1]
    numbers = IN_SENTENCE.findall(completion)
    if not numbers or truncated:
        return "", ""
    sentence = [piece for piece in _PIECE_ENDS.split(completion) if IN_SENTENCE.search(piece)][-1].strip()
    return ("", "") if " " in sentence and sentence in question else (numbers[-1], numbers[-1])


def _value(number: str) -> Fraction | None:
    """The number, without dollar signs, commas and a trailing period; None if it is none, or endless."""
    digits = number.replace("$", "").replace(",", "").removesuffix(".")
    plain = len(digits) <= 300 and re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", digits)
    return Fraction(digits) if plain else None


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
