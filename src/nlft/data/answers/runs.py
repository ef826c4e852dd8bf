"""Split a sentence into its numbers, each with its signs, its unit and the words around it."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from nlft.data.answers import number_words as w

_LETTER = "A-Za-zÀ-ÖØ-öø-ɏͰ-ϿЀ-ӿḀ-ỿ"
_JOINED = "|".join(sorted(w.OF_JOINED_SCRIPTS, key=len, reverse=True))  # the longest first
_TOKEN = re.compile(
    rf"""(?P<number>(?:[0-9]{{1,3}}(?:[ ][0-9]{{3}})+(?![0-9])|[0-9]|(?<![0-9.])\.(?=[0-9]))
                    (?:[0-9]|[.,'_](?=[0-9]))*(?:[eE][-+]?[0-9]+(?![0-9{_LETTER}]))?)
    |(?P<word>{_JOINED}|[\u0620-\u064a]+|[\u0900-\u0963]+|[{_LETTER}](?:[{_LETTER}0-9]|['.-](?=[{_LETTER}]))*|[^\W\d_])
    |(?P<dots>\.\.+)
    |(?P<equals>=+|≈)
    |(?P<other>[<>!]=|\S)""",
    re.VERBOSE,
)
_OPERATORS = frozenset("+-–*×÷/^<>")
MOST_WORDS = 3


class Token(NamedTuple):
    """A piece of a text: a number, a word, a sign, with its place."""

    kind: str
    text: str
    start: int
    end: int


@dataclass
class Run:
    """Numbers and signs without a word between them.

    Attributes:
        before: the words before it, up to the run before. Signs between words are among them.
        after: the words after it, up to the next run, without its unit.
        unit: as in `Quantity`.
        scale: a factor that a word after the number may mean, such as a million.
        hyphened: its first token follows a word directly.
    """

    tokens: list[Token]
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
        return len(self.before) <= MOST_WORDS and (first.kind == "equals" or first.text in _OPERATORS)


def _unit_name(token: Token) -> str:
    """Return a unit's name as `UNITS` writes it: case matters in `m` and `M`, and in `mW` and `MW`."""
    return token.text if len(token.text) == 1 or token.text in w.CASED else token.text.lower()


def runs_of(text: str) -> list[Run]:
    """Split a text into its runs."""
    return _Reader([Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(text)]).runs


class _Reader:
    """Reads tokens from left to right.

    Attributes:
        runs: the runs so far.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.runs: list[Run] = []
        self._all, self._at = tokens, 0
        self._tokens: list[Token] = []
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

    def _peek(self) -> Token:
        return self._all[self._at] if self._at < len(self._all) else Token("end", "", -1, -1)

    def _word(self, token: Token) -> None:
        before, after = self._tokens[-1] if self._tokens else None, self._peek()
        name = token.text.lower()
        glued = before is not None and before.end == token.start
        latin = re.match(f"[{_LETTER}]", token.text) is not None
        counted = before is not None and (before.kind == "number" or before.text in "%°)")
        if (name == "x" or (name == "times" and counted)) and (after.kind == "number" or after.text in ("(", "√")):
            self._tokens.append(Token("other", "×", token.start, token.end))
        elif counted and self._is_unit(token, after, glued):
            self._take_unit(token)
        elif counted and name in w.SCALES:
            scale = Fraction(*w.SCALES[name])
            while (further := self._peek()).start == token.end and further.text in w.JOINED_SCALES:  # 5 百 万
                scale, token = scale * Fraction(*w.SCALES[further.text]), further
                self._at += 1
            self._close(scale=scale)
        elif latin and ((glued and counted) or self._is_unknown(before, after, token)):  # 2x, 3D, x + 3
            self._tokens.append(token._replace(kind="unknown"))
        else:
            self._close()
            self._last_word_end = token.end
            if name not in w.FILLERS:
                (self.runs[-1].after if self.runs else []).append(name)
                self._words.append(name)

    def _is_unknown(self, before: Token | None, after: Token, token: Token) -> bool:
        if len(token.text) > 1:
            return False
        signs = _OPERATORS | {"√"}
        joined_after = after.kind == "equals" or after.text in signs
        return joined_after or (before is not None and before.text in signs and before is not self._tokens[0])

    def _is_unit(self, token: Token, after: Token, glued: bool) -> bool:
        name = _unit_name(token)
        name = {"C": "celsius", "F": "fahrenheit"}.get(name, name) if self._tokens[-1].text == "°" else name
        squared = w.UNITS.get(name.rstrip("23"))
        area = name in w.AREAS and after.text.lower() in w.UNITS
        if not (name in w.UNITS or squared or area):
            return False
        calculates = after.text in _OPERATORS and after.text not in "^/" and after.start == token.end
        return not (glued and len(name) == 1 and calculates)

    def _take_unit(self, token: Token) -> None:
        """Take a unit with its exponent and its divisor: `m^2`, `km/h`, `square feet`."""
        name = _unit_name(token)
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
            self.runs.append(Run(self._tokens, self._words, [], unit, scale, self._hyphened))
            self._words = []
        else:
            self._words += ["=" for token in self._tokens if token.kind == "equals"]
        self._tokens = []
