"""Saliency schemes: log-probabilities under the conditions, to tags, to token weights.

Each scheme is a pure function of one snapshot's log-probabilities and its settings dataclass. Trainer, commands,
page and tests compute saliency with this one piece of code.
"""

from collections.abc import Callable
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


@dataclass(frozen=True)
class TopTokens:
    """The likeliest tokens at n places, likeliest first; each (n, k).

    Attributes:
        ids: token ids.
        logits: float32, without gradient. Their softmax is the distribution renormalised over these k tokens.
    """

    ids: Tensor
    logits: Tensor


@dataclass(frozen=True)
class SparseTargets:
    """What the model should say at n places of the completions, as distributions over a few tokens each.

    A sample's loss grows by Σ weight · −Σ_k probabilities_k · log p(ids_k) over its places, with p under base. A
    sample may have any number of places, or none.

    Attributes:
        sample, position: (n,) which row of the batch, and which completion token of it, counted from 0.
        ids, probabilities: (n, k); constants for the gradient. The probabilities of a place add up to 1.
        weight: (n,) float32; 0 leaves a place out.
    """

    sample: Tensor
    position: Tensor
    ids: Tensor
    probabilities: Tensor
    weight: Tensor


Likeliest = Callable[[Tensor, Tensor, Tensor, int], TopTokens]
"""(sample, position, excluded, count) -> the `count` likeliest tokens under standard at these places.

`sample` and `position` are (n,); `excluded` is (n, m), ids that are left out at each place. All other tokens are
returned if the vocabulary has fewer. No whole (length, vocabulary) tensor is made.
"""

ChooseTargets = Callable[[ConditionLogprobs, Tensor, Likeliest], SparseTargets]
"""(log-probabilities without `band` and `hidden`, ids of the completion tokens, likeliest) -> targets.

Called inside the forward with gradient, once base is known. The ids are (batch, completion_len). Under FSDP each call
of `likeliest`, and the returned targets, must have the same n on all ranks that have as many samples.
"""


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
