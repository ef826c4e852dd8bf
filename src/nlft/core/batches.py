"""Build aligned batches from encoded examples. Decide which rows are scored with gradient, and which without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nlft.core.beginnings import Begun, cut
from nlft.core.conditions import EncodedExample, Row, Rows, judge_prompt, pad, row
from nlft.core.hold import HoldEverything, HoldRows, Marks, Plan, Role, hold_rows
from nlft.core.snapshot import ConditionSnapshot, KnownScores
from nlft.core.topk import TopParts

_Parts = TypeVar("_Parts", Rows, HoldRows, Begun)

ExtraRows = Callable[[EncodedExample], Sequence[Row]]
"""Further rows of an example to score with gradient, see `Scheme.extra_rows`."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B examples.

    Attributes:
        trained_rows: rows scored with gradient: B under base, then (if `answers`) B answers, then the extra rows.
        scored_rows: rows scored without gradient: B under standard, then one under judge for each wrong sample;
            only the conditions that the scheme needs. None if it needs neither.
        begun: where the scored rows go on, if they are cut. They are whole without it.
        base_first: score base before the conditions, whether or not these rows are cut: all ranks do the same.
        label: (B,) bool.
        width: length of the longest completion, end-of-turn token included.
        extra_samples: (E,) the sample of each extra row.
        held: the marks of `trained_rows`, or None if the scheme does not hold the model to its base.
        known: scores from a snapshot, in place of any pass without gradient; None if the conditions are scored live.
    """

    trained_rows: Rows
    scored_rows: Rows | None
    label: Tensor
    width: int
    answers: bool
    extra_samples: Tensor
    held: HoldRows | None = None
    known: KnownScores | None = None
    begun: Begun | None = None
    base_first: bool = False


class BatchBuilder:
    """A Trainer's `data_collator`: turns encoded examples into tensors. `batch` makes a `Batch` of the tensors."""

    def __init__(
        self,
        pad_token_id: int,
        *,
        needs: frozenset[str],
        answers: bool = False,
        extra_rows: ExtraRows = lambda _: (),
        plan: Plan | None = None,
        live: bool = True,
        share: bool = False,
    ) -> None:
        """
        Args:
            needs: the conditions and states that the saliency scheme reads, see `Scheme.needs`.
            answers: also train the standard answers (or revisions).
            extra_rows: further rows to train, see `Scheme.extra_rows`.
            plan: what the frozen base is used for, see `Scheme.plan`. By default every token is held.
            live: whether a step scores the conditions. Otherwise a batch needs `known`.
            share: cut off the beginning that a condition's row shares with its base row, see `shares_beginnings`.
        """
        self.pad_token_id = pad_token_id
        self.needs = needs
        self.answers = answers
        self.extra_rows = extra_rows
        self.plan: Plan = plan or HoldEverything()
        self.live = live
        self.share = share

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Any]:
        extra = [(at, one) for at, e in enumerate(examples) for one in self._extra_rows(e)]
        trained = [row(e.base, e.completion) for e in examples]
        # An example without an answer has a row too, in which no token is trained: the rows stay in their places.
        trained += [row(e.base, e.target or []) for e in examples if self.answers]
        trained += [one for _, one in extra]
        features: dict[str, Any] = _features("", pad(trained, self.pad_token_id))
        if self.live and self.needs & {"standard", "judge"}:
            features |= self._scored(examples, trained)
        if "hold" in self.needs:
            held = hold_rows(self._marks(examples), self.plan)
            features |= _features("hold_", held)
        features["label"] = torch.tensor([e.label for e in examples])
        features["lengths"] = torch.tensor([len(e.completion) for e in examples])
        features["answer_lengths"] = torch.tensor([len(e.target or []) if self.answers else 0 for e in examples])
        features["extra_samples"] = torch.tensor([at for at, _ in extra], dtype=torch.long)
        return features

    def _scored(self, examples: Sequence[EncodedExample], trained: Sequence[Row]) -> dict[str, Tensor]:
        """Return the features of the rows without gradient. The samples' base rows are the first of `trained`."""
        found = [(at, row(e.standard, e.completion)) for at, e in enumerate(examples) if "standard" in self.needs]
        if "judge" in self.needs:
            found += [(at, row(judge_prompt(e), e.completion)) for at, e in enumerate(examples) if not e.label]
        # Without wrong samples, score one row anyway: under FSDP the other ranks wait for this pass.
        sources, rows = zip(*(found or [(0, trained[0])]), strict=True)
        parts = cut(rows, sources, trained) if self.share else None
        if parts is None:
            return _features("scored_", pad(rows, self.pad_token_id))
        tails, begun = parts
        return _features("scored_", pad(tails, self.pad_token_id)) | _features("begun_", begun)

    def _extra_rows(self, example: EncodedExample) -> list[Row]:
        planned = self.plan.rows(example) if "hold" in self.needs else ()
        return [*self.extra_rows(example), *planned]

    def _marks(self, examples: Sequence[EncodedExample]) -> list[Marks]:
        """Return the marks of the rows with gradient, in their order."""
        planned = [self.plan.marks(example) for example in examples]
        marks = [own for own, *_ in planned]
        if self.answers:
            marks += [Marks.alike(len(e.target or []), Role.FREE, graded=True) for e in examples]
        for example, (_, *added) in zip(examples, planned, strict=True):
            others = [Marks.alike(len(one.labels), Role.FREE, graded=True) for one in self.extra_rows(example)]
            marks += [*others, *added]
        return marks

    def known(
        self, examples: Sequence[EncodedExample], snapshot: ConditionSnapshot, places: Sequence[int]
    ) -> dict[str, Tensor]:
        """Return further features: what the scheme reads of these examples, from a snapshot.

        Args:
            places: the examples' places in the snapshot.
        """

        def padded(name: str) -> Tensor:
            return pad_sequence([snapshot.scores(name, at) for at in places], batch_first=True)

        read = {name: padded(name) for name in ("standard", "judge", "band") if name in self.needs}
        top = None
        if "hold" in self.needs:
            top = TopParts.joined(self._top(examples, [snapshot.top(at) for at in places])).padded()
        return KnownScores(padded("base"), top=top, **read).features()

    def _top(self, examples: Sequence[EncodedExample], known: Sequence[TopParts]) -> list[TopParts]:
        """Return the base's likeliest tokens in each row with gradient, in their order."""
        planned = [
            parts.split([len(one.completion), *(len(added.labels) for added in self.plan.rows(one))])
            for one, parts in zip(examples, known, strict=True)
        ]
        parts = [own for own, *_ in planned]
        if self.answers:
            parts += [TopParts.blank(len(one.target or [])) for one in examples]
        for one, (_, *added) in zip(examples, planned, strict=True):
            parts += [*(TopParts.blank(len(more.labels)) for more in self.extra_rows(one)), *added]
        return parts

    def batch(self, features: dict[str, Any]) -> Batch:
        """Turn the features into a `Batch`. The tensors stay on their device."""
        return Batch(
            trained_rows=_made(Rows, "", features),
            scored_rows=_made(Rows, "scored_", features) if "scored_input_ids" in features else None,
            label=features["label"],
            width=int(features["lengths"].max()),
            answers=self.answers,
            extra_samples=features["extra_samples"],
            held=_made(HoldRows, "hold_", features) if "hold_role" in features else None,
            known=KnownScores.of(features),
            begun=_made(Begun, "begun_", features) if "begun_seen" in features else None,
            base_first=self.share,
        )


def counts_of(features: Mapping[str, Any]) -> Tensor:
    """Count a micro-batch's samples, completion tokens, trained answers and answer tokens: (4,), for a `Window`."""
    lengths, answers = features["lengths"], features["answer_lengths"]
    return torch.stack([lengths.new_tensor(len(lengths)), lengths.sum(), (answers > 0).sum(), answers.sum()])


def _features(prefix: str, parts: Rows | HoldRows | Begun) -> dict[str, Tensor]:
    """Name each tensor of the parts of a batch."""
    return {f"{prefix}{one.name}": getattr(parts, one.name) for one in fields(parts)}


def _made(kind: type[_Parts], prefix: str, features: Mapping[str, Any]) -> _Parts:
    """Make the parts of a batch from their features."""
    return kind(**{one.name: features[f"{prefix}{one.name}"] for one in fields(kind)})
