"""Saliency schemes: log-probabilities under the conditions, to tags, to token weights.

Each scheme is a pure function of one snapshot's log-probabilities and its settings dataclass. Trainer, commands,
page and tests compute saliency with this one piece of code.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Tag(IntEnum):
    """Why a token has the weight that it has."""

    PLAIN = 0
    SALIENT = 1
    NEIGHBOUR = 2
    GATED = 3


TAG_NAMES = [tag.name.lower() for tag in Tag]


@dataclass(frozen=True)
class ConditionLogprobs:
    """The same completion tokens under the conditions.

    Attributes:
        base, standard, judge: natural-log probabilities, (batch, completion_len). Conditions that the scheme does
            not need may be None; `judge` holds anything at all in the rows of right samples.
        mask: bool, True on completion tokens.
        label: (batch,) bool, True where the completion is right.
        band: (batch, completion_len, 17) float16 from `hidden_band`, or None.
        hidden: (batch, completion_len, hidden_size), for `nlft-original` alone, or None.
    """

    base: Tensor
    mask: Tensor
    label: Tensor
    standard: Tensor | None = None
    judge: Tensor | None = None
    band: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class TokenWeights:
    """What a scheme makes of them; each (batch, completion_len), 0 on padding.

    Attributes:
        likelihood, unlikelihood: weights of −log p and −log(1−p), float32, >= 0.
        tag: uint8, see `Tag`.
        gated: (batch,) bool: so much of the sample is salient that the rest of it is left alone.
    """

    likelihood: Tensor
    unlikelihood: Tensor
    tag: Tensor
    gated: Tensor

    @property
    def salient(self) -> Tensor:
        return self.tag == Tag.SALIENT


def plain_likelihood(mask: Tensor, weight: Tensor) -> TokenWeights:
    """The same weight for every token of a sample.

    Args:
        mask: (batch, completion_len) bool.
        weight: (batch,).
    """
    likelihood = mask * weight[:, None].float()
    return TokenWeights(
        likelihood=likelihood,
        unlikelihood=torch.zeros_like(likelihood),
        tag=torch.zeros_like(mask, dtype=torch.uint8),
        gated=torch.zeros_like(mask[:, 0]),
    )
