"""Refuse or list questions and examples without a standard answer that a grader, or another reader, can use."""

from collections.abc import Iterable
from typing import Protocol

from nlft.data.checks_grader import ChecksGrader
from nlft.data.grading import ComparingGrader, Grade, Grader, ReplyGrader, get_grader, needs_answers
from nlft.errors import Problem, RecordsError

UNCLEAR_SHOWN = 5  # standard answers that a list shows


class _Item(Protocol):
    """A question or an example."""

    @property
    def id(self) -> str | int: ...
    @property
    def answer(self) -> str | None: ...


def check_answers(items: Iterable[_Item], reader: str, cure: str = "") -> None:
    """Refuse questions or examples without a standard answer.

    Args:
        reader: what needs the answers, for the message.
        cure: what else the user can do, in addition to writing the answers.

    Raises:
        RecordsError: names every item without an answer.
    """
    cure = f"Write its `answer`.{' ' * bool(cure)}{cure}"
    what = f"has no answer, which {reader} needs."
    if problems := [Problem(f"question {item.id!r}", what, cure) for item in items if not item.answer]:
        raise RecordsError(problems)


def check_gradable(items: Iterable[_Item], grader: Grader | ReplyGrader, name: str = "") -> None:
    """Refuse questions or examples that the grader cannot grade, because they have no standard answer.

    Args:
        name: the grader's name, for the message.

    Raises:
        RecordsError: names every item without an answer.
    """
    if needs_answers(grader):
        check_answers(
            items,
            f"the grader {name}".rstrip(),
            "Or choose a --grader that needs none: checks, a Python function, or label.",
        )


def is_undecided(grade: Grade, grader: Grader | ReplyGrader) -> bool:
    """Return whether a grade says nothing about a reply: it cannot be compared, or a check could not be decided.

    A reply without any answer is not undecided. Nor is one that a function leaves ungraded: nobody knows why it does.
    """
    if isinstance(grader, ChecksGrader):
        return grade.grade == "ungraded"
    nothing_stated = grade.extracted is None and grade.expected is not None
    return grade.grade == "ungraded" and needs_answers(grader) and not nothing_stated


def why_unclear(answer: str, grader: Grader | ReplyGrader) -> str | None:
    """Return why replies may stay ungraded because of their standard answer. None: the grader can compare with it.

    A user's function and a grader that grades nothing decide by themselves.
    """
    return grader.unclear(answer) if isinstance(grader, ComparingGrader) else None


def unclear_numbers(items: Iterable[_Item]) -> list[str]:
    """List the standard answers that are not one number, such as `4 and 9` or `12.000`, each with its item.

    Return an empty list if less than half of the standard answers are one number: then numbers are not their form.
    """
    grader = get_grader("number")
    answers = {(item.id, item.answer): item.answer for item in items if item.answer}
    unclear = {key: why for key, answer in answers.items() if (why := why_unclear(answer, grader))}
    return [f"{id!r}: {why}" for (id, _), why in unclear.items()] if 2 * len(unclear) <= len(answers) else []
