"""Read the number that a sentence or a short answer states. Something that is not one number is not read by a part."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from nlft.data.answers import number_words as w
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity, Value, compare, negated, readings_of_parts

_LETTER = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿ"
_TOKEN = re.compile(
    rf"""(?P<number>(?:[0-9]{{1,3}}(?:[ ][0-9]{{3}})+(?![0-9])|[0-9]|(?<![0-9.])\.(?=[0-9]))
                    (?:[0-9]|[.,'_](?=[0-9]))*(?:[eE][-+]?[0-9]+(?![0-9{_LETTER}]))?)
    |(?P<word>[{_LETTER}](?:[{_LETTER}0-9]|['.-](?=[{_LETTER}]))*|[^\W\d_])
    |(?P<dots>\.\.+)
    |(?P<equals>=+|≈)
    |(?P<other>[<>!]=|\S)""",
    re.VERBOSE,
)
_ASIDE = re.compile(r"\([^()\n]*\)")
_EXPLAINS = re.compile(r"[^\W\d_]{2}|[%=]")
_OPERATORS = frozenset("+-–*×÷/^<>")
_EDGES = frozenset(".,;:!?\"'()[]{}_#~@&|—")
_DIGITS = frozenset("0123456789")
_MOST_WORDS = 3
_LONGEST = 2000  # characters of a statement; longer ones are read from their end


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


@dataclass
class _Run:
    """Numbers and signs without a word between them.

    Attributes:
        before: the words before it, up to the run before. Signs between words are among them.
        after: the words after it, up to the next run, without its unit.
        unit: as in `Quantity`.
        scale: a factor that a word after the number may mean, such as a million.
        hyphened: its first token follows a word directly.
    """

    tokens: list[_Token]
    before: list[str]
    after: list[str] = field(default_factory=list)
    unit: str = ""
    scale: Fraction | None = None
    hyphened: bool = False

    @property
    def is_result(self) -> bool:
        """Whether it has an equals sign, or follows one."""
        return any(token.kind == "equals" for token in self.tokens) or "=" in self.before[-2:]

    @property
    def continues(self) -> bool:
        """Whether it goes on with the expression that the run before has begun: `3 bags x 6 eggs = 18 eggs`."""
        first = self.tokens[0]
        return len(self.before) <= _MOST_WORDS and (first.kind == "equals" or first.text in _OPERATORS)


def read_statement(text: str, *, marked: bool = False) -> Quantity | None:
    """Read the number that a text states.

    Args:
        text: a sentence, or a short answer, without markup.
        marked: the text is an answer. If it begins with a number, other numbers in it make it unclear. In any other
            text the last number counts, unless a word such as `in` may join it to an earlier one.

    Returns:
        The number. A quantity without readings: the text has numbers, but does not clearly state one. None: it has no
        number.
    """
    short = _without_asides(_shortened(text))
    all_runs = _runs(short)
    if not all_runs:
        return None
    unclear = Quantity(" ".join(short.split()), NOT_ONE_NUMBER)
    if marked and len(text) - max(len(token.text) for token in all_runs[0].tokens) > 2 * _LONGEST:
        return unclear
    runs = [run for run in all_runs if not _is_negated(run)]
    if not runs or _several_unknowns(runs):
        return unclear
    found = [_quantity(run) for run in runs]
    start = max((at for at, run in enumerate(runs) if run.is_result), default=0)
    if marked and not all_runs[0].before:
        if all(run.continues for run in runs[1 : start + 1]):
            found = found[start:]
        return found[0] if _agree(found) or len(all_runs) == 1 else unclear
    return _last_stated(runs[start:], found[start:]) or unclear


def begins_with_number(text: str) -> bool:
    """Return whether no word stands before the text's first number."""
    runs = _runs(_without_asides(text[:_LONGEST]))
    return bool(runs) and not runs[0].before


def is_short(text: str) -> bool:
    """Return whether a text that begins with a number has at most three words after it, and no calculation."""
    runs = _runs(_without_asides(text[: 2 * _LONGEST]))
    return len(runs) == 1 and len(runs[0].after) <= _MOST_WORDS and not runs[0].is_result


def _shortened(text: str) -> str:
    """Return a long text's last part. A long number at its beginning is kept whole."""
    start = max(0, len(text) - _LONGEST)
    while start and (text[start] in _DIGITS or (text[start] in ".,'_" and text[start + 1] in _DIGITS)):
        start -= 1
    return text[start:]


def _last_stated(runs: list[_Run], found: list[Quantity]) -> Quantity | None:
    """Return the last number; None if it is unclear, or if a word may join it to an earlier one."""
    named = [at for at, run in enumerate(runs) if not _is_label(run)]
    if not named:
        return found[0] if len(found) == 1 and runs[0].unit == w.ORDINAL else None
    if any(_is_label(run) and len(run.before) == 1 for run in runs[1:]):  # 5 May 2024
        return None
    runs, found = [runs[at] for at in named], [found[at] for at in named]
    if _is_joined_to_words(runs[-1]):
        return None
    if _agree(found):
        return found[-1]
    return None if not found[-1].readings or _is_joined(runs[-1]) else found[-1]


def _agree(found: Sequence[Quantity]) -> bool:
    return bool(found[0].readings) and all(compare(found[0], other) == "right" for other in found[1:])


def _without_asides(text: str) -> str:
    """Leave out what parentheses explain, if a number stands outside them: `5 (out of 120)`."""
    outside = _ASIDE.sub(lambda match: " " if _EXPLAINS.search(match[0]) else match[0], text)
    return outside if re.search("[0-9]", outside) else text


# What words and signs around a number make of it.


def _is_negated(run: _Run) -> bool:
    """Return whether the words before say that it is not this number."""
    words = list(run.before)
    if tuple(words[-2:]) in w.INSTEAD:
        return True
    while words and words[-1] in w.AFTER_NOT:
        words.pop()
    return bool(words) and (words[-1] in w.NOT or words[-1].endswith("n't"))


def _several_unknowns(runs: Sequence[_Run]) -> bool:
    """Return whether several unknowns have a value: `x = 5 or x = -5`."""
    unknowns = 0
    for run in runs:
        sides = _sides(run.tokens)
        unknowns += len(sides) > 1 and not any(token.kind == "number" for token in sides[0])
        if any(token.text in ",;" for side in sides[1:-1] for token in side):
            return True
    return unknowns > 1


def _is_label(run: _Run) -> bool:
    return run.unit == w.ORDINAL or (bool(run.before) and run.before[-1] in w.LABELS)


def _is_joined(run: _Run) -> bool:
    """Return whether the words before may join a run to the run before it: `18 eggs in 2 days`, `4 and 9`."""
    words = list(run.before)
    if run.is_result:
        return False
    while len(words) > 1 and words[-1] in w.DETERMINERS:
        words.pop()
    if len(words) <= 1:
        return not (words and words[0] in w.LINKS)
    if words[-1] == "of" and words[-2] in w.TOTALS:
        return False
    if words[-1] == "to" and words[-2] in w.TO_A_RESULT:
        return False
    return words[-1] in w.JOINS


def _is_joined_to_words(run: _Run) -> bool:
    """Return whether a word may join a run to a number in words: `twelve eggs in 3 boxes`, `in 3 days twelve eggs`."""
    if run.is_result:
        return False
    before, after = (not w.SPELLED.isdisjoint(words) for words in (run.before, run.after))
    return (before and _is_joined(run)) or (after and not w.JOINS.isdisjoint(run.before[-1:]))


def _is_bound(run: _Run) -> bool:
    """Return whether words make something else of a number: `more than 5`, `5 or more`, `5 squared`, `half of 5`."""
    before, after = run.before[-2:], run.after[: _MOST_WORDS + 1]
    if before[-1:] and before[-1] in w.BOUND_BEFORE:
        return True
    if len(before) == 2 and before[0] in w.BOUND_BEFORE and before[1] in ("of", "to", "by"):
        return True
    if after[:1] and after[0] in w.BOUND_AFTER:
        return True
    if any(pair in w.OPEN_AFTER for pair in pairwise(after)):
        return True
    return any(one == "and" and other in ("a", "one") and third in w.PARTS
               for one, other, third in zip(after, after[1:], run.after[2:], strict=False))  # fmt: skip


def _quantity(run: _Run) -> Quantity:
    """Read the number of a run: what stands after its last equals sign."""
    tokens = _stripped(_sides(run.tokens)[-1], run)
    text = "".join(" " * bool(at and tokens[at - 1].end < t.start) + t.text for at, t in enumerate(tokens))
    unit = run.unit
    parts: list[str] = []
    for at, token in enumerate(tokens):
        if token.text in w.CURRENCIES or token.text in "%°":
            unit = unit or w.UNITS[token.text]
            if token.text in w.CURRENCIES and 0 < at < len(tokens) - 1 and parts not in (["-"], ["+"], ["–"]):
                parts.append(token.text)
        elif parts and token.kind == "number" and tokens[at - 1].kind == "number":
            parts += [" ", token.text]
        else:
            parts.append("×" if token.text == "*" else token.text)
    follows_point = run.hyphened and run.tokens[0].text == "." and run.tokens[0].end == run.tokens[1].start  # v1.2.3
    if follows_point or _is_bound(run) or not parts:
        return Quantity(" ".join([*run.before[-2:], text, *run.after[:_MOST_WORDS]]), NOT_ONE_NUMBER)
    readings = _signed(parts, tokens, run)
    if run.scale:
        readings |= {value * run.scale if isinstance(value, Fraction) else None for value in readings}
    if run.before[-1:] and run.before[-1] in w.NEGATIVE:
        readings = frozenset(None if value is None else negated(value) for value in readings)
        text = f"-{text}"
    return Quantity(text, readings, unit)


def _signed(parts: list[str], tokens: Sequence[_Token], run: _Run) -> frozenset[Value | None]:
    """Read a number with its sign. A dash that a space sets apart from the number may be no sign."""
    if parts[0] not in ("-", "–", "+"):
        return readings_of_parts(parts)
    if len(parts) == 1:  # 5 = +
        return NOT_ONE_NUMBER
    readings = readings_of_parts(parts[1:]) if "^" not in parts else NOT_ONE_NUMBER
    sign = next(token for token in tokens if token.text == parts[0])
    after = tokens[tokens.index(sign) + 1]
    apart, hyphen = sign.end < after.start, run.hyphened and sign is run.tokens[0]
    if parts[0] == "+":
        return NOT_ONE_NUMBER if apart or hyphen else readings
    if hyphen:
        return NOT_ONE_NUMBER
    negative = frozenset(None if value is None else negated(value) for value in readings)
    return negative | readings if apart and not run.is_result else negative


def _sides(tokens: Sequence[_Token]) -> list[list[_Token]]:
    """Split tokens at the equals signs."""
    sides: list[list[_Token]] = [[]]
    for token in tokens:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    return sides


def _stripped(side: list[_Token], run: _Run) -> list[_Token]:
    """Leave out punctuation, brackets and emphasis around a number."""
    first, last = 0, len(side)
    bullet = {"*", "×"} if side and (not run.before or side[0].end == side[-1].start) else {"*"}
    while first < last and (side[first].text in _EDGES | bullet or side[first].kind == "dots"):
        glued = first + 1 < last and side[first].end == side[first + 1].start
        if side[first].text in bullet and run.before and not glued:
            break
        if side[first].text == "|" and glued and side[first + 1].text in ("-", "–"):
            break  # an absolute value
        first += 1
    while last > first and (side[last - 1].text in _EDGES | {"*", "-", "–"} or side[last - 1].kind == "dots"):
        last -= 1
    return side[first:last]


# From text to runs.


def _runs(text: str) -> list[_Run]:
    """Split a text into its runs."""
    return _Reader([_Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(text)]).runs


class _Reader:
    """Reads tokens from left to right.

    Attributes:
        runs: the runs so far.
    """

    def __init__(self, tokens: list[_Token]) -> None:
        self.runs: list[_Run] = []
        self._all, self._at = tokens, 0
        self._tokens: list[_Token] = []
        self._words: list[str] = []
        self._hyphened = False
        self._last_word_end = -1
        while self._at < len(tokens):
            token = tokens[self._at]
            self._at += 1
            if token.kind == "word":
                self._word(token)
            elif token.text == "/" and self._peek().kind == "word" and len(self._peek().text) > 1:
                self._close()
                self._at += 1
            else:
                if not self._tokens:
                    self._hyphened = self._last_word_end == token.start
                self._tokens.append(token)
        self._close()

    def _peek(self) -> _Token:
        return self._all[self._at] if self._at < len(self._all) else _Token("end", "", -1, -1)

    def _word(self, token: _Token) -> None:
        before, after = self._tokens[-1] if self._tokens else None, self._peek()
        name = token.text.lower()
        glued = before is not None and before.end == token.start
        latin = re.match(f"[{_LETTER}]", token.text) is not None
        counted = before is not None and (before.kind == "number" or before.text in "%°)")
        if (name == "x" or (name == "times" and counted)) and (after.kind == "number" or after.text in ("(", "√")):
            self._tokens.append(_Token("other", "×", token.start, token.end))
        elif counted and self._is_unit(token, after, glued):
            self._take_unit(token)
        elif counted and name in w.SCALES:
            scale = w.SCALES[name]
            self._close(scale=Fraction(*scale))
        elif latin and ((glued and counted) or self._is_unknown(before, after, token)):  # 2x, 3D, x + 3
            self._tokens.append(token._replace(kind="unknown"))
        else:
            self._close()
            self._last_word_end = token.end
            if name not in w.FILLERS:
                (self.runs[-1].after if self.runs else []).append(name)
                self._words.append(name)

    def _is_unknown(self, before: _Token | None, after: _Token, token: _Token) -> bool:
        if len(token.text) > 1:
            return False
        signs = _OPERATORS | {"√"}
        joined_after = after.kind == "equals" or after.text in signs
        return joined_after or (before is not None and before.text in signs and before is not self._tokens[0])

    def _is_unit(self, token: _Token, after: _Token, glued: bool) -> bool:
        name = token.text if len(token.text) == 1 else token.text.lower()
        name = {"C": "celsius", "F": "fahrenheit"}.get(name, name) if self._tokens[-1].text == "°" else name
        squared = w.UNITS.get(name.rstrip("23"))
        area = name in w.AREAS and after.text.lower() in w.UNITS
        if not (name in w.UNITS or squared or area):
            return False
        calculates = after.text in _OPERATORS and after.text not in "^/" and after.start == token.end
        return not (glued and len(name) == 1 and calculates)

    def _take_unit(self, token: _Token) -> None:
        """Take a unit with its exponent and its divisor: `m^2`, `km/h`, `square feet`."""
        name = token.text if len(token.text) == 1 else token.text.lower()
        name = {"C": "celsius", "F": "fahrenheit"}.get(name, name)
        power = ""
        if name in w.AREAS:
            power, name = w.AREAS[name], self._peek().text.lower()
            self._at += 1
        elif name not in w.UNITS:
            power, name = f"^{name[-1]}", name.rstrip("23")
        unit = w.UNITS[name] + power + self._exponent()
        if self._peek().text == "/" and self._at + 1 < len(self._all) and self._all[self._at + 1].kind == "word":
            divisor = self._all[self._at + 1].text
            self._at += 2
            unit += f"/{w.UNITS.get(divisor.lower(), divisor)}{self._exponent()}"
        self._close(unit=unit)

    def _exponent(self) -> str:
        if self._peek().text != "^":
            return ""
        self._at += 1
        sign = "-" * (self._peek().text == "-")
        self._at += len(sign)
        number = self._peek().text if self._peek().kind == "number" else ""
        self._at += bool(number)
        return f"^{sign}{number}"

    def _close(self, unit: str = "", scale: Fraction | None = None) -> None:
        """End the run, if there is one. Without a number, its signs are only words."""
        if any(token.kind == "number" for token in self._tokens):
            self.runs.append(_Run(self._tokens, self._words, [], unit, scale, self._hyphened))
            self._words = []
        else:
            self._words += ["=" for token in self._tokens if token.kind == "equals"]
        self._tokens = []
