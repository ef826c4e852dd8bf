"""Checks: what a reply must or must not do, each with a name. docs/CHECKS.md describes them.

A check of kind `judge` needs a model; `data/checks_grader.py` asks it. All other kinds are decided here.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from nlft.core.plugins import import_function
from nlft.core.prompts import prompt_text
from nlft.core.spans import occurrences
from nlft.core.thoughts import thought_tags, words_place
from nlft.data.grading import Grade, Reply, user_pattern
from nlft.data.language import language
from nlft.data.phrases import spaced
from nlft.errors import UserError
from nlft.sources.raw_records import is_blank

Kind = Literal["regex", "contains", "words", "max_words", "language", "function", "judge"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALL_CHECKS = "all checks"
"""The reading of an evaluation by which an answer is right if it passes every check."""

# A slot names a field of the question's record. In a regular expression, `\{x\}` and `\N{DASH}` are no slots.
_PATTERN_SLOT = re.compile(r"(?<!\\)(?<!\\N)\{([A-Za-z_]\w*)\}")
_TEXT_SLOT = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}")
# A text with the tag of a thought is about the thoughts themselves. In a regular expression, `|` and `[` are signs of
# the tag only after a backslash, and `<` is none in `[^<]` or in `(?<!`.
_NAMES_TAG = {
    "contains": re.compile(r"[<\[◁|]\W{0,4}think", re.IGNORECASE),
    "regex": re.compile(r"(?:[<◁]|\\[\[|]|\[\[\])\W{0,4}think", re.IGNORECASE),
}
_NO_TAG = re.compile(r"(?<!\\)(?:\[\^\]?[^\]\n]{0,40}\]|\(\?<![^()]{0,40}\)|\(\?P?<=?)")
_MOST_QUOTED = 5


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        value: the pattern of a `regex`; the texts of `contains` and `words`; the number of `max_words`; the language;
            the dotted path of a `function`; the question of a `judge`.
        must: whether the reply must do this. If false, the reply must not do it.
        say: what a judgment says about a reply that fails; empty: the check's name.
        where: file and line of the check, for messages.
    """

    name: str
    kind: Kind
    value: str | int | tuple[str, ...]
    must: bool
    say: str = ""
    ignore_case: bool = False
    where: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The value as texts."""
        return self.value if isinstance(self.value, tuple) else (str(self.value),)

    @property
    def slots(self) -> frozenset[str]:
        """The fields of a question's record that the check names."""
        if self.kind in ("max_words", "language", "function"):
            return frozenset()
        slot = _PATTERN_SLOT if self.kind == "regex" else _TEXT_SLOT
        return frozenset(match[1] for text in self.texts for match in slot.finditer(text) if match[1])

    def filled(self, reply: Reply) -> list[str]:
        """Return the value's texts, with the slots filled from the reply's question.

        Raises:
            UserError: the question has no such field, or no text in it.
        """
        values = {"id": reply.key, "prompt": prompt_text(reply.prompt), **reply.fields}
        values |= {} if reply.answer is None else {"answer": reply.answer}

        def value(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]  # {{ and }} are braces
            if match[1] not in values:
                raise UserError(
                    f"{self.where}: the check {self.name} names the field {match[1]!r}, which question {reply.key!r} "
                    "does not have.\n  Add the field to the question, or change the check."
                )
            if is_blank(values[match[1]]):  # every reply has an empty text, and none has the missing one
                raise UserError(
                    f"{self.where}: the check {self.name} names the field {match[1]!r}, which is empty in question "
                    f"{reply.key!r}.\n  Write a text into the field, or change the check."
                )
            text = str(values[match[1]])
            return re.escape(text) if self.kind == "regex" else text

        slot = _PATTERN_SLOT if self.kind == "regex" else _TEXT_SLOT
        return [slot.sub(value, text) for text in self.texts]


@dataclass(frozen=True)
class CheckResult:
    """What one check says about one reply.

    Attributes:
        passed: None if the check could not be decided.
        hits: the parts of the reply that the check found, as (start, end) character offsets, `end` exclusive.
        evidence: the reason for a person, without quotes from the reply.
        judge: for the kind `judge`: `question`, the judge's `answer`, and what it `says`: "yes", "no" or None.
    """

    name: str
    passed: bool | None
    hits: tuple[tuple[int, int], ...] = ()
    evidence: str = ""
    judge: Mapping[str, str | None] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result as evaluation.json stores it."""
        shown = {"name": self.name, "passed": self.passed, "hits": [list(hit) for hit in self.hits]}
        return {**shown, "evidence": self.evidence, **({"judge": dict(self.judge)} if self.judge else {})}

    def moved(self, by: int) -> "CheckResult":
        """Return the result for a text that has `by` more characters before the part that was checked."""
        return replace(self, hits=tuple((start + by, end + by) for start, end in self.hits))

    def grade(self, text: str) -> Grade:
        """Return the result as a grade: right if the reply passes.

        Args:
            text: the reply.
        """
        verdict: Literal["right", "wrong", "ungraded"]
        verdict = "ungraded" if self.passed is None else "right" if self.passed else "wrong"
        found = quoted_hits(text, self.hits) or None
        return Grade(verdict, found, None, self.evidence)


def check_reply(check: Check, reply: Reply) -> CheckResult:
    """Apply a check of any kind except `judge` to what a reply says besides its thoughts.

    A `regex` or `contains` that names the tag of a thought reads the thoughts too.

    Raises:
        UserError: the question lacks a field that the check names, or the user's function failed.
    """
    if _names_tag(check):
        return _checked(check, reply)
    said, start = said_part(reply)
    if said is None:
        return only_thoughts(check)
    return _checked(check, said).moved(start)


def _names_tag(check: Check) -> bool:
    """Return whether a check's text has the tag of a thought."""
    if check.kind not in _NAMES_TAG:
        return False
    texts = [_NO_TAG.sub("", text) for text in check.texts] if check.kind == "regex" else check.texts
    return any(_NAMES_TAG[check.kind].search(text) for text in texts)


def said_part(reply: Reply) -> tuple[Reply | None, int]:
    """Return a reply without its thoughts, and the character at which that begins.

    Return None if the reply has thoughts and nothing else.
    """
    if not thought_tags(reply.text):
        return reply, 0
    start, end = words_place(reply.text)
    return reply._replace(text=reply.text[start:end]) if start < end else None, start


def only_thoughts(check: Check) -> CheckResult:
    """Return the result for a reply that has thoughts only: its words never came, so nothing is decided."""
    return CheckResult(check.name, None, (), "the reply has a thought, and no words beside it")


def _checked(check: Check, reply: Reply) -> CheckResult:
    """Apply a check to the whole text of a reply."""
    if check.kind == "max_words":
        count = word_count(reply.text)
        return _result(check, count <= int(str(check.value)), (), f"{count} words; {check.value} are the limit")
    if check.kind == "language":
        found = language(reply.text)
        if found is None:
            return CheckResult(check.name, None, (), "the text is too short or too mixed to tell its language")
        return _result(check, found == check.value, (), f"the language looks like {found}")
    if check.kind == "function":
        return _by_function(check, reply)
    assert check.kind != "judge", "a model decides it"
    hits, missing = [], []
    for text in check.filled(reply):
        places = _places(check, text, reply.text)
        hits += [(start, end) for start, end in places if end > start]
        if not places:
            missing.append(text)
    hits = sorted(set(hits))
    if check.must:
        evidence = f"has no {_listed(missing)}" if missing else "has it"
        return CheckResult(check.name, not missing, () if missing else tuple(hits), evidence)
    found_any = len(missing) < len(check.texts)
    return CheckResult(check.name, not found_any, tuple(hits), f"{len(hits)} found" if found_any else "none found")


def all_passed(results: Sequence[CheckResult], text: str) -> Grade:
    """Grade a reply by the results of all checks: right if it passes each one.

    It is ungraded if no check failed, but one could not be decided. The explanation lists the failed checks.

    Args:
        text: the reply.
    """
    failed = [result for result in results if result.passed is False]
    open_ones = [result for result in results if result.passed is None]
    if failed:
        return Grade("wrong", None, None, f"Failed: {'; '.join(_in_short(result, text) for result in failed)}.")
    if open_ones:
        names = "; ".join(_in_short(result, text) for result in open_ones)
        return Grade("ungraded", None, None, f"Not decided: {names}.")
    return Grade("right", None, None, f"Passes all {len(results)} checks.")


def _places(check: Check, text: str, reply: str) -> list[tuple[int, int]]:
    """Return where a reply has one of the check's texts."""
    if check.kind == "words":
        return _word_places(text.strip(), reply, ignore_case=check.ignore_case)
    flags = re.IGNORECASE if check.ignore_case else 0
    pattern = user_pattern(text, flags) if check.kind == "regex" else re.compile(re.escape(text), flags)
    return [match.span() for match in pattern.finditer(reply)]


def _word_places(word: str, reply: str, *, ignore_case: bool) -> list[tuple[int, int]]:
    """Find a word or phrase where `strike` and `ban` find it, but only with the case and the last mark of the check.

    A reader's quote may differ from the reply in both: `Sure!` in quotes can be the word `sure`.
    """
    letters, ends = _form(word)
    found = []
    for span in occurrences(reply, [word], any_case=ignore_case):
        said, said_ends = _form(reply[span.start : span.end])
        rest = iter(said)  # an ellipsis in the word stands for more letters
        if ends == said_ends and (ignore_case or all(letter in rest for letter in letters)):
            found.append((span.start, span.end))
    return found


def _form(text: str) -> tuple[list[str], bool]:
    """Return the letters of a text, and whether it ends with a letter or digit."""
    text = unicodedata.normalize("NFC", text)
    return [character for character in text if character.isalpha()], text[-1:].isalnum()


def pattern_problem(pattern: str) -> str | None:
    """Say what is wrong with a regular expression, and at which of its characters. None: nothing is."""
    try:
        user_pattern(_PATTERN_SLOT.sub("x", pattern))
    except re.error as error:
        return error.msg if error.pos is None else f"{error.msg} (character {error.pos + 1})"
    return None


def word_count(text: str) -> int:
    """Count the words of a text: the parts between white space that have a letter or a digit.

    In scripts that write no spaces, such as Chinese, each character is a word.
    """
    return sum(any(character.isalnum() for character in part) for part in spaced(text).split())


def quoted_hits(text: str, hits: tuple[tuple[int, int], ...]) -> str:
    """Return the found parts of a reply in quotes, each once, the first few of them."""
    found = list(dict.fromkeys(text[start:end] for start, end in hits))
    more = f" and {len(found) - _MOST_QUOTED} more" if len(found) > _MOST_QUOTED else ""
    return ", ".join(f'"{part}"' for part in found[:_MOST_QUOTED]) + more


def _result(check: Check, holds: bool, hits: tuple[tuple[int, int], ...], evidence: str) -> CheckResult:
    return CheckResult(check.name, holds == check.must, hits, evidence)


def _by_function(check: Check, reply: Reply) -> CheckResult:
    path = str(check.value)
    function = import_function(path, "check", "prompt and reply and returns True, False or a text")
    try:
        found = function(prompt_text(reply.prompt), reply.text)
    except Exception as error:  # the user's function may raise anything
        raise UserError(
            f"{check.where}: the function {path} of the check {check.name} failed on {reply.key!r}: "
            f"{type(error).__name__}: {error}.\n  Correct the function."
        ) from error
    if not isinstance(found, bool | str):
        raise UserError(
            f"{check.where}: the function {path} of the check {check.name} returned {type(found).__name__}.\n"
            '  Return True or False, or a text: what was found, "" for nothing.'
        )
    if isinstance(found, bool):
        return _result(check, found, (), f"{path} returned {found}")
    hits = spans_of(found, reply.text) if found else ()
    return _result(check, bool(found), hits, f"{path} found {'it' if hits else found or 'nothing'}")


def spans_of(part: str, text: str) -> tuple[tuple[int, int], ...]:
    """Return where the text has the part, ignoring case."""
    return tuple(match.span() for match in re.finditer(re.escape(part), text, re.IGNORECASE)) if part else ()


def _listed(texts: list[str]) -> str:
    return ", ".join(texts)


def _in_short(result: CheckResult, text: str) -> str:
    shown = quoted_hits(text, result.hits) or result.evidence
    return f"{result.name} ({shown})"
