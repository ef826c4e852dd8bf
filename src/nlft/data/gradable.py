"""Refuse questions and examples that lack the standard answer that a grader, or another reader, needs."""

from collections.abc import Iterable
from typing import Protocol

from nlft.data.grading import Grader, ReplyGrader, needs_answers
from nlft.errors import Problem, RecordsError


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
