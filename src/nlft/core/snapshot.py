"""What is kept of scored examples, so that a training step needs no pass for the conditions and the base.

A snapshot holds flat tensors over the tokens of a list of examples. It finds an example by its token ids, and a held
base also by what the plan marks, so it cannot give one example's scores to another.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nlft.core.base_below import adapter_off, find_peft
from nlft.core.conditions import EncodedExample, Row, judge_prompt, pad, row
from nlft.core.heads import Head
from nlft.core.hold import Plan, Role, hold_rows
from nlft.core.logprobs import causal_lm, evaluating, score, scored_mask, states_of
from nlft.core.neighbourhood import hidden_band
from nlft.core.topk import TopBase, TopParts, top_parts

SCORING_TOKENS = 4096
"""Largest number of tokens in one scoring pass, with padding. Rows of similar length share a pass."""

_HELD = (Role.HELD, Role.STRUCK, Role.KEPT)  # the roles at which a loss reads the divergence from the base
_TOP = "top_"
_PASSES = ("base", "conditions", "held")


@dataclass(frozen=True)
class Kept:
    """What is kept of each example.

    Attributes:
        needs: of `standard`, `judge`, `band` and `hold`; base is always kept.
        plan: what the base is used for, if `hold` is needed.
        hold_mass, hold_tokens: see `top_parts`.
    """

    needs: frozenset[str]
    plan: Plan
    hold_mass: float
    hold_tokens: int

    def digest(self, examples: Sequence[EncodedExample]) -> str:
        """Return a digest of the examples' token ids, and of what is kept of them."""
        found = hashlib.blake2b(digest_size=16)
        found.update(repr(sorted(self.needs)).encode())
        for one in examples:
            found.update(example_key(one))
        if "hold" in self.needs:
            found.update(repr((self.hold_mass, self.hold_tokens)).encode())
            found.update(plan_digest(self.plan, examples))
        return found.hexdigest()


@dataclass(frozen=True)
class KnownScores:
    """Scores of a batch's B samples from a snapshot, without gradient.

    Attributes:
        base, standard, judge: (B, completion_len) float32; None if the scheme does not read them. `judge` is base in
            the rows of right samples.
        band: (B, completion_len, 17) float16, or None.
        top: the base's likeliest tokens at the scored places of all trained rows, or None.
    """

    base: Tensor
    standard: Tensor | None = None
    judge: Tensor | None = None
    band: Tensor | None = None
    top: TopBase | None = None

    def features(self) -> dict[str, Tensor]:
        """Return the tensors under names of their own, for the features of a batch."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "top"}
        if self.top is not None:
            found |= {_TOP + name: value for name, value in vars(self.top).items()}
        return {f"known_{name}": value for name, value in found.items() if value is not None}

    @classmethod
    def of(cls, features: Mapping[str, Any]) -> "KnownScores | None":
        """Return the scores that a batch's features hold, or None."""
        given = {name.removeprefix("known_"): value for name, value in features.items() if name.startswith("known_")}
        if not given:
            return None
        top = {name.removeprefix(_TOP): given.pop(name) for name in list(given) if name.startswith(_TOP)}
        return cls(**given, top=TopBase(**top) if top else None)


@dataclass(frozen=True)
class ConditionSnapshot:
    """Scores of N examples with T completion tokens by one state of the model.

    Attributes:
        tensors: `keys` (N, 16) uint8 and `lengths` (N,); `base`, and if kept `standard` and `judge`, (T,) float32;
            `band` (T, 17) float16; `marks` (N, 16) uint8, the held rows' keys, `held` (N,), their places, and
            `top_NAME` for each field of `TopParts`.
    """

    tensors: Mapping[str, Tensor]

    @cached_property
    def _index(self) -> dict[bytes, int]:
        return _places_of(self.tensors["keys"])

    @cached_property
    def _held_index(self) -> dict[bytes, int]:
        return _places_of(torch.cat([self.tensors["keys"], self.tensors["marks"]], 1))

    @cached_property
    def _starts(self) -> dict[str, list[int]]:
        """For each example, where its tokens, its held places and their kept tokens begin; then the ends."""
        ends = {"token": _ends(self.tensors["lengths"])}
        if "held" in self.tensors:
            ends["place"] = _ends(self.tensors["held"])
            kept = _ends(self.tensors[f"{_TOP}counts"])
            ends["kept"] = [kept[place] for place in ends["place"]]
        return ends

    def places(self, examples: Sequence[EncodedExample], plan: Plan | None = None) -> list[int] | None:
        """Return the examples' places, or None if the snapshot lacks one of them.

        Args:
            plan: what the held base is used for, if it is read. One reply may have two examples with other marks.
        """
        if plan is None:
            found = [self._index.get(example_key(one)) for one in examples]
        else:
            found = [self._held_index.get(example_key(one) + _held_key(plan, one)) for one in examples]
        return None if None in found else [at for at in found if at is not None]

    def scores(self, name: str, at: int) -> Tensor:
        """Return a condition's log-probabilities of the tokens of the example at a place, or their band."""
        return self.tensors[name][slice(*self._starts["token"][at : at + 2])]

    def top(self, at: int) -> TopParts:
        """Return the base's likeliest tokens at the places of an example's held rows, one row after the other."""
        places, kept = (slice(*self._starts[name][at : at + 2]) for name in ("place", "kept"))
        of = {one.name: kept if one.name in ("ids", "log_q") else places for one in fields(TopParts)}
        return TopParts(**{name: self.tensors[_TOP + name][where] for name, where in of.items()})


def example_key(example: EncodedExample) -> bytes:
    """Return 16 bytes that stand for an example's label and token ids under its three prompts."""
    found = hashlib.blake2b(bytes([example.label]), digest_size=16)
    for ids in (example.base, example.standard, example.judge or [], example.completion):
        found.update(array("q", [len(ids), *ids]).tobytes())
    return found.digest()


def plan_digest(plan: Plan, examples: Sequence[EncodedExample]) -> bytes:
    """Return 16 bytes that stand for the held rows and their marks: where the base is read, and what it loses there."""
    found = hashlib.blake2b(repr((plan.words, plan.temperature)).encode(), digest_size=16)
    for example in examples:
        found.update(_held_key(plan, example))
    return found.digest()


def _held_key(plan: Plan, example: EncodedExample) -> bytes:
    """Return 16 bytes that stand for one example's held rows and their marks."""
    found = hashlib.blake2b(digest_size=16)
    for one in plan.rows(example):
        found.update(array("q", [one.start, len(one.ids), *one.ids, *one.labels]).tobytes())
    sets: dict[tuple[int, ...], int] = {}
    for marks in plan.marks(example):
        bans = [sets.setdefault(ids, len(sets)) for ids in marks.bans]
        found.update(array("q", [len(bans), *marks.roles, *bans]).tobytes())
    found.update(repr(list(sets)).encode())
    return found.digest()


def _places_of(keys: Tensor) -> dict[bytes, int]:
    """Return the place of each key, of (N, bytes) uint8. Of equal examples the first one counts."""
    rows = keys.numpy()
    return {rows[at].tobytes(): at for at in reversed(range(len(rows)))}


@dataclass(frozen=True)
class _Job:
    """One row to score.

    Attributes:
        what: `base`, `standard`, `judge` or `held`.
        example: the example's index.
        place: the row's number among the example's rows of this kind.
    """

    what: str
    example: int
    place: int
    row: Row


_Scored = dict[tuple[str, int, int], Any]
Share = Callable[[_Scored], Sequence[_Scored]]
"""This process's scores -> those of all processes."""


def score_conditions(
    model: nn.Module,
    examples: Sequence[EncodedExample],
    kept: Kept,
    pad_token_id: int,
    *,
    rank: int = 0,
    ranks: int = 1,
    autocast: AbstractContextManager[Any] | None = None,
    share: Share = lambda own: [own],
    advance: Callable[[int], object] = lambda _: None,
) -> ConditionSnapshot:
    """Score examples with a model as it is now: eval mode, no gradient, rows sorted by length.

    It draws no random numbers. Each of several processes scores every `ranks`-th batch, and all make equally many
    passes. The batches do not depend on the number of processes, so the scores do not either.

    Args:
        model: as training uses it, not wrapped. The held base is the model with its adapter off, if it has one.
        autocast: a context for the passes alone.
        share: collects what all processes scored.
        advance: called with the number of rows that a pass scored.
    """
    found: _Scored = {}
    with torch.no_grad(), evaluating(model), autocast or nullcontext():
        for what in _PASSES:
            batches = list(_batches(list(_jobs(what, examples, kept))))
            for at in range(rank, len(batches) + (-len(batches)) % ranks, ranks):
                batch = batches[min(at, len(batches) - 1)]  # without a batch of its own, a process repeats the last one
                scored = _scored(model, batch, examples, kept, pad_token_id)
                found |= scored if at < len(batches) else {}
                advance(len(batch))
    everything: _Scored = {}
    for part in share(found):
        everything |= part
    return _assembled(examples, kept, everything)


def rows_to_score(examples: Sequence[EncodedExample], kept: Kept) -> int:
    """Count the rows that `score_conditions` scores."""
    return sum(1 for what in _PASSES for _ in _jobs(what, examples, kept))


def scoring_passes(examples: Sequence[EncodedExample], kept: Kept) -> Iterator[list[Row]]:
    """Yield the rows of each pass of `score_conditions`."""
    for what in _PASSES:
        yield from ([job.row for job in batch] for batch in _batches(list(_jobs(what, examples, kept))))


def _jobs(what: str, examples: Sequence[EncodedExample], kept: Kept) -> Iterator[_Job]:
    for at, one in enumerate(examples):
        if what == "base":
            yield _Job("base", at, 0, row(one.base, one.completion))
        if what == "conditions" and "standard" in kept.needs:
            yield _Job("standard", at, 0, row(one.standard, one.completion))
        if what == "conditions" and "judge" in kept.needs and not one.label:
            yield _Job("judge", at, 0, row(judge_prompt(one), one.completion))
        if what == "held" and "hold" in kept.needs:
            rows = [row(one.base, one.completion), *kept.plan.rows(one)]
            yield from (_Job("held", at, place, held) for place, held in enumerate(rows))


def _batches(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Group rows by length, the longest first, so that a lack of memory shows at once."""
    batch: list[_Job] = []
    for job in sorted(jobs, key=lambda one: -_length(one.row)):
        if batch and (len(batch) + 1) * _length(batch[0].row) > SCORING_TOKENS:
            yield batch
            batch = []
        batch.append(job)
    if batch:
        yield batch


def _length(one: Row) -> int:
    return max(len(one.ids), one.start + len(one.labels))


def _scored(
    model: nn.Module, batch: list[_Job], examples: Sequence[EncodedExample], kept: Kept, pad_token_id: int
) -> _Scored:
    rows = pad([job.row for job in batch], pad_token_id).on(next(model.parameters()).device)
    lengths = [len(job.row.labels) for job in batch]
    if batch[0].what == "held":
        marks = [kept.plan.marks(examples[job.example])[job.place] for job in batch]
        held = hold_rows(marks, kept.plan).on(rows.labels.device)
        off = nullcontext() if find_peft(model) is None else adapter_off(model)
        with off:
            base = held.targets(states_of(model, rows), scored_mask(rows))
            wanted = torch.isin(held.role[scored_mask(rows)], held.role.new_tensor(_HELD))
            head = Head(causal_lm(model), with_base=True)
            parts = top_parts(base, wanted, head, mass=kept.hold_mass, most=kept.hold_tokens)
        return {(job.what, job.example, job.place): part for job, part in zip(batch, parts.split(lengths), strict=True)}
    banded = batch[0].what == "base" and "band" in kept.needs
    scores = score(model, rows, hidden=banded)
    logp = scores.logp.float().cpu()
    found: _Scored = {(job.what, job.example, 0): logp[at, : lengths[at]] for at, job in enumerate(batch)}
    if banded and scores.hidden is not None:
        band = hidden_band(scores.hidden, scores.mask).cpu()
        found |= {("band", job.example, 0): band[at, : lengths[at]] for at, job in enumerate(batch)}
    return found


def _assembled(examples: Sequence[EncodedExample], kept: Kept, scored: _Scored) -> ConditionSnapshot:
    count = len(examples)
    tensors = {
        "keys": _stacked(example_key(one) for one in examples),
        "lengths": torch.tensor([len(one.completion) for one in examples]),
        "base": torch.cat([scored["base", at, 0] for at in range(count)]),
    }
    for name in sorted(kept.needs & {"standard", "judge", "band"}):
        tensors[name] = torch.cat([scored[name if (name, at, 0) in scored else "base", at, 0] for at in range(count)])
    if "hold" in kept.needs:
        rows = [[scored["held", at, place] for place in range(1 + len(kept.plan.rows(one)))]
                for at, one in enumerate(examples)]  # fmt: skip
        top = TopParts.joined([part for parts in rows for part in parts])
        tensors["marks"] = _stacked(_held_key(kept.plan, one) for one in examples)
        tensors["held"] = torch.tensor([sum(len(part.counts) for part in parts) for parts in rows])
        tensors |= {_TOP + name: value for name, value in vars(top).items()}
    return ConditionSnapshot(tensors)


def _stacked(keys: Iterable[bytes]) -> Tensor:
    """Return keys of 16 bytes as (N, 16) uint8."""
    return torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16).copy())


def _ends(counts: Tensor) -> list[int]:
    return [0, *counts.long().cumsum(0).tolist()]
