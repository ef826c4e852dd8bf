"""Graders compare a completion with its standard answer: right, wrong or ungraded, with the evidence.

"ungraded" differs from "wrong": nothing is wrong unless it is wrong under every reading.
docs/GRADING.md lists where grades differ from lm-evaluation-harness; a test checks that list against the code.
"""

import difflib
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any, Literal, NamedTuple, Protocol

from nlft.core.plugins import broken, function_parts, import_function, load_plug_in, package_of, plug_ins, refuse_clash
from nlft.core.prompts import Prompt
from nlft.core.thoughts import without_thoughts
from nlft.data.answers.choices import read_choice, read_standard_choice
from nlft.data.answers.final_answers import MARK as MARK
from nlft.data.answers.final_answers import read_final, read_standard
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity, compare, plain_value, why_ungraded
from nlft.data.answers.text_answers import read_words
from nlft.errors import UserError

GROUP = "nlft.graders"  # the entry points by which other packages add graders
CHECKS = "checks"  # the grader that reads a file of checks; see `nlft.data.checks_grader`

# The filters "strict-match" and "flexible-extract" of lm-evaluation-harness's gsm8k task.
STRICT = re.compile(r"#### (-?[0-9.,]+)")
FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_ORIGINAL = re.compile(r"-?\d+(?:\.\d+)?")  # any script's digits, as in the original project
_PLAIN = re.compile(r"[-+]?[$€£¥₹]?-?(?:[0-9][0-9,]*)?(?:\.[0-9]+)?[$€£¥₹]?")
# A number as people write it. A hyphen after a digit or letter joins ("10-3"); it is not a minus sign.
IN_SENTENCE = re.compile(r"(?:(?<![\w.,)])-)?\$?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)")

Verdict = Literal["right", "wrong", "ungraded"]


@dataclass(frozen=True)
class Grade:
    """A grade with its evidence.

    Attributes:
        grade: "ungraded" means that there was nothing to compare, or that it can mean several things.
        extracted: the text that the grader read from the completion; None if it read none.
        expected: the text that the grader read from the standard answer; None if it read none.
        explanation: one sentence for a person.
    """

    grade: Verdict
    extracted: str | None
    expected: str | None
    explanation: str

    def as_json(self) -> dict[str, str | None]:
        """Return the grade as evaluation.json stores it. That file calls the field `grade` `verdict`."""
        return {
            "verdict": self.grade,
            "extracted": self.extracted,
            "expected": self.expected,
            "explanation": self.explanation,
        }


Grader = Callable[[str, str | None], Grade]
"""A function (completion, standard answer) -> Grade. The answer is None if the question has none."""


class Reply(NamedTuple):
    """A reply to grade, with its question.

    Attributes:
        key: the question's id as text, or the id of one of several replies to it.
        prompt: the prompt that was replied to.
        answer: the standard answer; None if there is none.
        fields: the other fields of the question's record.
    """

    key: str
    prompt: Prompt
    answer: str | None
    text: str
    fields: Mapping[str, Any]


class ReplyGrader(Protocol):
    """A grader that reads the whole question, and grades many replies at once, because it may ask a model."""

    def grade(self, replies: Sequence[Reply]) -> list[Grade]:
        """Return one grade for each reply, in the same order."""
        ...


def grade_replies(grader: Grader | ReplyGrader, replies: Sequence[Reply]) -> list[Grade]:
    """Grade replies with a grader of either kind."""
    if callable(grader):
        return [grader(reply.text, reply.answer) for reply in replies]
    return grader.grade(replies)


@dataclass
class GraderSettings:
    """Settings of the grader, which decides whether an answer is right."""

    grader: str = field(
        default="number",
        metadata={
            "help": "How answers are graded: number, exact, choice, regex, label (by hand), checks, or a Python "
            "function as module:function."
        },
    )


@dataclass
class ExtractionSettings(GraderSettings):
    """Settings of the grader, and of the way in which it reads numbers."""

    extraction: Literal["final", "strict", "flexible", "original"] = field(
        default="final",
        metadata={
            "help": "Number that the number grader reads. final: as a person; strict: after ####, flexible: the last, "
            "both as in lm-eval; original: the paper's."
        },
    )

    def make_grader(self) -> Grader:
        """Return the grader that the settings name."""
        return get_grader(self.grader, **({"extraction": self.extraction} if self.grader == "number" else {}))


def get_grader(name: str, **options: Any) -> Grader:
    """Return the grader of that name, or the Python function at that dotted path.

    Args:
        name: one of `number`, `exact`, `choice`, `regex`, `label`; or an entry point in the group `nlft.graders` that
            another package defines; or `package.module:function`. The module may be in the working directory. Both an
            entry point and a dotted path must refer to a function that takes completion and answer and returns a bool
            or a Grade.
        options: `extraction` for number, `ignore_case` for exact, `pattern` and `which` for regex. A function
            receives them as keyword arguments.

    Raises:
        UserError: the grader does not exist, it has no such option, several graders have its name, or its package is
            broken.
    """
    offered = plug_ins(GROUP).get(name, [])
    refuse_clash("grader", name, ["nlft"] * (name in _GRADERS) + [package_of(plug_in) for plug_in in offered])
    if offered:
        return partial(_call, _plug_in_function(offered[0]), name, options)
    if name == CHECKS and not offered:
        raise UserError(
            "--grader checks needs a file of checks: --checks FILE, with sample, judge, evaluate, rounds, tune and "
            "compare.\n  For other commands, choose number, exact, choice, regex or a function."
        )
    if name not in _GRADERS:
        return partial(_call, _function(name), name, options)
    make = _GRADERS[name]
    known = list(inspect.signature(make).parameters)
    for option in options:
        if option not in known:
            cure = f"Its options are: {', '.join(known)}." if known else "It has no options; remove this one."
            raise UserError(f"The grader {name} has no option {option!r}.\n  {cure}")
    return make(**options)


def needs_answers(grader: Grader | ReplyGrader) -> bool:
    """Return whether the grader compares with a standard answer. A user's function decides that by itself."""
    return isinstance(grader, ComparingGrader)


def extract_strict(text: str) -> str | None:
    """Return the number after the first `#### `, like lm-eval's strict-match.

    Return None where strict-match returns "[invalid]".
    """
    match = STRICT.search(text)
    return match[1] if match else None


def extract_flexible(text: str) -> str | None:
    """Return the last number-like string, like lm-eval's flexible-extract.

    Return None where flexible-extract returns "[invalid]".
    """
    return _last(FLEXIBLE, text)


def extract_original_gold(text: str) -> str | None:
    """Read a standard answer as the original project does. Return None where that project raises an exception."""
    number = extract_strict(text)
    return None if number is None else number.replace(",", "")


def extract_original(text: str) -> str | None:
    """Read a model's output as the original project does. Return None where that project returns "[invalid]".

    The result is the first number between the first and the second marker `####`, or the last number of a text without
    a marker. Commas are removed after the text is split at the markers.
    """
    before, *marked = text.split(MARK)
    if not marked:
        return _last(_ORIGINAL, before.replace(",", ""))
    match = _ORIGINAL.search(marked[0].replace(",", ""))
    return match[0] if match else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    matches = pattern.findall(text)
    return matches[-1] if matches else None


@dataclass(frozen=True)
class ComparingGrader:
    """A grader that reads something from the completion and from the standard answer, and compares the two.

    Attributes:
        thing: a name for what it reads, for the explanation.
        read, read_answer: return what they read; None if there is nothing to read.
        compare: compares what was read from the completion with what was read from the standard answer.
    """

    thing: str
    read: Callable[[str], Quantity | None]
    read_answer: Callable[[str], Quantity | None]
    compare: Callable[[Quantity, Quantity], Verdict] = compare

    def __call__(self, completion: str, answer: str | None) -> Grade:
        """Grade a completion. An answer that is None leaves it ungraded."""
        found, wanted = self.read(completion), None if answer is None else self.read_answer(answer)
        extracted, expected = (None if one is None else one.text for one in (found, wanted))
        for text, owner in ((expected, "standard answer"), (extracted, "completion")):
            if text is None:
                return Grade("ungraded", extracted, expected, f"No {self.thing} was found in the {owner}.")
        assert found is not None
        assert wanted is not None
        grade = self.compare(found, wanted)
        explanation = {
            "right": f'"{extracted}" is the expected {self.thing}.',
            "wrong": f'"{extracted}" was given, "{expected}" expected.',
            "ungraded": why_ungraded(found, wanted, self.thing),
        }
        return Grade(grade, extracted, expected, explanation[grade])

    def unclear(self, answer: str) -> str | None:
        """Return why replies may stay ungraded because of this standard answer. None: it is clear."""
        wanted = self.read_answer(answer)
        if wanted is None:
            return f"it has no {self.thing}"
        if not wanted.readings:
            return f'"{wanted.text}" is not one {self.thing}'
        return None if wanted.value is not None else f'"{wanted.text}" can mean different {self.thing}s'


def _number(extraction: str = "final") -> Grader:
    if extraction == "final":
        return ComparingGrader("number", read_final, read_standard)
    if extraction == "original":
        return ComparingGrader("number", _as_text(extract_original), _as_text(extract_original_gold))
    extractions = {"strict": extract_strict, "flexible": extract_flexible}
    if extraction not in extractions:
        raise UserError(
            f"The `number` grader has no extraction {extraction!r}.\n  Choose final, strict, flexible or original."
        )

    def read(text: str) -> Quantity | None:
        number = extractions[extraction](without_thoughts(text))
        value = None if number is None else plain_value(number)
        return None if number is None else Quantity(number, NOT_ONE_NUMBER if value is None else frozenset([value]))

    def read_answer(answer: str) -> Quantity | None:
        # The harness cannot read a fraction, nor 12 000: one part of it would be compared.
        wanted = read_standard(answer)
        plain = wanted is None or (wanted.value is not None and _PLAIN.fullmatch(wanted.text))
        return wanted if plain or wanted is None else Quantity(wanted.text, NOT_ONE_NUMBER)

    return ComparingGrader("number", read, read_answer)


def _as_text(read: Callable[[str], str | None]) -> Callable[[str], Quantity | None]:
    """Make a reading whose results are compared as texts."""

    def read_text(text: str) -> Quantity | None:
        found = read(text)
        return None if found is None else Quantity(found, frozenset([found]))

    return read_text


def _exact(ignore_case: bool = False) -> Grader:
    def read(text: str) -> Quantity | None:
        words = read_words(text.casefold() if ignore_case else text)
        return Quantity(words[1], frozenset(words)) if words else None

    def read_answer(answer: str) -> Quantity | None:
        words = read_words(answer.casefold() if ignore_case else answer)
        return Quantity(words[0], frozenset(words[:1])) if words else None

    def same(given: Quantity, expected: Quantity) -> Verdict:
        return "right" if expected.readings <= given.readings else "wrong"

    return ComparingGrader("text", read, read_answer, same)


def _choice() -> Grader:
    return ComparingGrader("choice", read_choice, read_standard_choice)


def user_pattern(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """Compile a regular expression that a user has written.

    Raises:
        re.error: it cannot be compiled, for whatever reason.
    """
    try:
        with warnings.catch_warnings():
            # Python warns of "[[", which a later version may read in another way. It means what it says today.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(pattern, flags)
    except (OverflowError, RecursionError) as error:
        raise re.error(str(error), pattern) from error


def _regex(pattern: str = "", which: str = "last") -> Grader:
    try:
        compiled = user_pattern(pattern)
    except re.error as error:
        raise UserError(f"The pattern {pattern!r} is not a regular expression: {error}.\n  Correct it.") from error
    if compiled.groups < 1:
        raise UserError(f"The pattern {pattern!r} has no group.\n  Put parentheses around the part to compare.")
    if which not in ("first", "last"):
        raise UserError(f"The `regex` grader does not accept which={which!r}.\n  Choose first or last.")

    # A pattern that names the thoughts' tags reads the thoughts too.
    whole = "think" in pattern

    def read(text: str) -> str | None:
        text = text if whole else without_thoughts(text)
        groups = [match[1] for match in compiled.finditer(text) if match[1] is not None]
        return groups[0 if which == "first" else -1].strip() if groups else None

    return ComparingGrader("match", _as_text(read), _as_text(read))


def _label() -> Grader:
    return lambda completion, answer: Grade("ungraded", None, None, "The grader label grades nothing.")


_GRADERS: dict[str, Callable[..., Grader]] = {
    "number": _number,
    "exact": _exact,
    "choice": _choice,
    "regex": _regex,
    "label": _label,
}


def _function(path: str) -> Callable[..., Any]:
    """Import the function at `package.module:function` or `package.module.function`.

    Raises:
        UserError: the path cannot be imported, or does not lead to a function.
    """
    if function_parts(path) is None:
        names = [*_GRADERS, CHECKS, *plug_ins(GROUP)]
        near = difflib.get_close_matches(path, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"There is no grader {path!r}.{hint}\n"
            f"  Choose {', '.join(names)}, or name a Python function: package.module:function."
        )
    return import_function(path, "grader", "completion and answer and returns True or False")


def _plug_in_function(plug_in: EntryPoint) -> Callable[..., Any]:
    """Load another package's grader, which must be a function."""
    function = load_plug_in(plug_in, "grader")
    if not callable(function):
        raise broken(plug_in, "grader", f"is {type(function).__name__}, not a function of completion and answer")
    return function


def _call(
    function: Callable[..., Any], name: str, options: dict[str, Any], completion: str, answer: str | None
) -> Grade:
    """Grade with the user's function.

    Raises:
        UserError: the function raised, or returned neither a bool nor a Grade.
    """
    try:
        result = function(completion, answer, **options)
    except Exception as error:
        raise UserError(
            f"The grader {name} failed on {completion[:80]!r}: {type(error).__name__}: {error}.\n"
            "  Correct the function."
            + (" Here the question has no answer, so `answer` is None." if answer is None else "")
        ) from error
    if isinstance(result, Grade):
        return result
    if not isinstance(result, bool):
        raise UserError(f"The grader {name} returned {type(result).__name__}.\n  Return True, False or a Grade.")
    return Grade("right" if result else "wrong", None, None, f"{name} returned {result}.")
