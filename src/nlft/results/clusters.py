"""Questions about one item: which question is about which, and sums over the questions of an item. No torch."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlft.data.records import Question
from nlft.errors import Problem, RecordsError, UserError


@dataclass(frozen=True)
class Clusters:
    """Which questions belong together. Replies to them are not independent, so intervals count clusters instead.

    Attributes:
        field: the field of the questions that names their cluster.
        of: the cluster of each question, in the order of the questions.
    """

    field: str
    of: tuple[str | int | float, ...]

    @property
    def count(self) -> int:
        """Number of clusters."""
        return len(set(self.of))

    def __str__(self) -> str:
        return f"intervals by {self.field} ({self.named(self.count)})"

    def named(self, count: int) -> str:
        """Return a number of clusters with the field's name in the plural, such as `30 items`."""
        return f"{count} {self.field}s"

    def first(self, count: int) -> "Clusters":
        """Return the clusters of the first questions."""
        return Clusters(self.field, self.of[:count])

    def sums(self, each: Any) -> Any:
        """Return the sums over the questions of each cluster, (rows, clusters).

        Args:
            each: a number for each question, (rows, questions).
        """
        places = {name: at for at, name in enumerate(dict.fromkeys(self.of))}
        total = np.zeros((len(each), len(places)))
        where: Any = (slice(None), [places[name] for name in self.of])
        np.add.at(total, where, each)
        return total


def sums(each: Any, clusters: Clusters | None) -> Any:
    """Return `Clusters.sums`. Without clusters, each question stands for itself."""
    return each if clusters is None else clusters.sums(each)


def read_clusters(questions: Sequence[Question], field: str | None) -> Clusters | None:
    """Return the clusters that a field of the questions names; None without a field.

    A number and its digits as text are one name, and white space around a name is none of it.

    Raises:
        RecordsError: names each question without a text or a number in the field.
        UserError: all questions belong to one cluster.
    """
    if field is None:
        return None
    found = [_name(question.extra.get(field)) for question in questions]
    what = f'has no text or number in the field "{field}", which --cluster {field} needs.'
    cure = "Write it, the same for all questions about one thing; or leave out --cluster."
    if problems := [
        Problem(f"question {question.id!r}", what, cure)
        for question, name in zip(questions, found, strict=True)
        if name is None
    ]:
        raise RecordsError(problems)
    if len(set(found)) == 1:
        raise UserError(
            f'--cluster {field}: all {len(found)} questions have the {field} "{found[0]}", so nothing shows how much '
            "replies differ.\n  Give questions about two or more, better thirty, or leave out --cluster."
        )
    return Clusters(field, tuple(name for name in found if name is not None))


def _name(value: Any) -> str | None:
    """Return a cluster's name in one form: a file writes 1, 1.0 or "1" for the same item. None: it is no name."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    return " ".join(unicodedata.normalize("NFC", text).split()) or None


def joined(parts: Iterable[Clusters]) -> Clusters | None:
    """Return the clusters of several lists of questions, one after the other. None if there is no list."""
    parts = list(parts)
    return Clusters(parts[0].field, tuple(name for part in parts for name in part.of)) if parts else None
