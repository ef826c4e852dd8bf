"""The frozen base model, which a run can hold on to: the same model with its adapter off.

A plan says for each token of a batch what the base is used for, and which tokens are banned from its distribution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor, nn

from nlft.core.base_below import adapter_off
from nlft.core.conditions import EncodedExample, Row, Rows
from nlft.core.heads import BaseTargets
from nlft.core.logprobs import scored_mask, states_of
from nlft.core.topk import TopBase, TopTargets


class Role(IntEnum):
    """What a token of a held row is trained on."""

    FREE = 0
    HELD = 1
    STRUCK = 2
    INSIDE = 3
    REPLACED = 4
    KEPT = 5


@dataclass(frozen=True)
class Marks:
    """What a plan says about the n scored tokens of one row.

    Attributes:
        roles: n values of `Role`.
        bans: n tuples of token ids, those that the base's distribution loses at each token.
        graded: n booleans, True where the token's own log-probability is trained.
        replacements: number of replacements among the tokens.
    """

    roles: Sequence[int]
    bans: Sequence[tuple[int, ...]]
    graded: Sequence[bool]
    replacements: int = 0

    @classmethod
    def alike(cls, count: int, role: Role, *, graded: bool) -> "Marks":
        """Return marks that are the same for `count` tokens, without bans."""
        return cls([role] * count, [()] * count, [graded] * count)


class Plan(Protocol):
    """Says for each example which rows are added, and the marks of its rows.

    Attributes:
        words: ids of the tokens whose summed base probability the loss reads.
        temperature: softens the base's distribution at struck tokens.
    """

    words: tuple[int, ...]
    temperature: float

    def rows(self, example: EncodedExample) -> Sequence[Row]:
        """Return the rows to score with gradient besides the completion."""
        ...

    def marks(self, example: EncodedExample) -> Sequence[Marks]:
        """Return the marks of the completion, then those of each row of `rows`."""
        ...


class HoldEverything:
    """The plan of schemes that weigh tokens themselves: every token is held, and nothing is banned."""

    words: tuple[int, ...] = ()
    temperature = 1.0

    def rows(self, example: EncodedExample) -> Sequence[Row]:
        return ()

    def marks(self, example: EncodedExample) -> Sequence[Marks]:
        return [Marks.alike(len(example.completion), Role.HELD, graded=True)]


@dataclass(frozen=True)
class HoldRows:
    """The marks of a batch's rows as tensors, (rows, completion_len) unless stated otherwise.

    Attributes:
        role: uint8, `Role.FREE` on padding.
        ban: long, the row of `bans` that holds at a token; 0 bans nothing.
        bans: (sets, m) long, token ids; row 0 is not read.
        graded: bool.
        words: (w,) long.
        temperature: (1,) float32, for struck tokens.
        replacements: (rows,) long.
    """

    role: Tensor
    ban: Tensor
    bans: Tensor
    graded: Tensor
    words: Tensor
    temperature: Tensor
    replacements: Tensor

    def on(self, device: torch.device) -> "HoldRows":
        """Return the marks on a device."""
        return HoldRows(**{name: value.to(device) for name, value in vars(self).items()})

    def targets(self, states: Tensor, mask: Tensor) -> BaseTargets:
        """Combine the marks with the base's states, one for each True place of `mask`."""
        struck = self.role[mask] == Role.STRUCK
        return BaseTargets(
            states=states,
            ban=self.ban[mask],
            bans=self.bans,
            temperature=torch.where(struck, self.temperature, torch.ones_like(self.temperature)),
            words=self.words,
            graded=self.graded[mask],
        )

    def top_targets(self, top: TopBase, mask: Tensor) -> TopTargets:
        """Combine the marks with the base's likeliest tokens, which stand in the order of the True places of `mask`."""
        return TopTargets(
            ids=top.ids,
            log_q=top.log_q,
            tail=top.tail,
            mass=top.mass,
            ban=self.ban[mask],
            bans=self.bans,
            graded=self.graded[mask],
        )


def hold_rows(marks: Sequence[Marks], plan: Plan) -> HoldRows:
    """Pad the marks of a batch's rows to one width."""
    width = max(len(one.roles) for one in marks)
    sets: dict[tuple[int, ...], int] = {(): 0}
    role = torch.zeros(len(marks), width, dtype=torch.uint8)
    ban = torch.zeros(len(marks), width, dtype=torch.long)
    graded = torch.zeros(len(marks), width, dtype=torch.bool)
    for at, one in enumerate(marks):
        count = len(one.roles)
        role[at, :count] = torch.tensor(one.roles, dtype=torch.uint8)
        ban[at, :count] = torch.tensor([sets.setdefault(ids, len(sets)) for ids in one.bans], dtype=torch.long)
        graded[at, :count] = torch.tensor(one.graded, dtype=torch.bool)
    longest = max(1, *(len(ids) for ids in sets))
    padded = [[*ids, *[ids[0]] * (longest - len(ids))] if ids else [0] * longest for ids in sets]
    return HoldRows(
        role=role,
        ban=ban,
        bans=torch.tensor(padded),
        graded=graded,
        words=torch.tensor(plan.words, dtype=torch.long),
        temperature=torch.tensor([plan.temperature], dtype=torch.float32),
        replacements=torch.tensor([one.replacements for one in marks]),
    )


@torch.no_grad()
def base_targets(model: nn.Module, rows: Rows, held: HoldRows) -> BaseTargets:
    """Score the rows' states with the frozen base, without a head's pass."""
    with adapter_off(model):
        states = states_of(model, rows)
    return held.targets(states, scored_mask(rows))
