"""The values that saliency schemes read and return. A scheme turns log-probabilities into tags and token weights.

Each scheme is a pure function of one snapshot's log-probabilities and its settings dataclass. Trainer, commands,
page and tests compute saliency with the same code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor


class Tag(IntEnum):
    """The reason for a token's weight."""

    PLAIN = 0
    SALIENT = 1
    NEIGHBOUR = 2
    GATED = 3
    STRUCK = 4
    INSIDE = 5
    HELD = 6
    KEPT = 7


TAG_NAMES = [tag.name.lower() for tag in Tag]


@dataclass(frozen=True)
class ConditionLogprobs:
    """The same completion tokens under the conditions.

    Attributes:
        base, standard, judge: natural-log probabilities, (batch, completion_len). Conditions that the scheme does
            not need may be None. In the rows of right samples, `judge` may hold any values.
        mask: bool, True on completion tokens.
        label: (batch,) bool, True where the completion is right.
        band: (batch, completion_len, 17) float16 from `hidden_band`, or None.
        hidden: (batch, completion_len, hidden_size), only for `nlft-original`; else None.
        role: (batch, completion_len) uint8, values of `core.hold.Role`, if the scheme needs `hold`; else None.
        graded: bool in the same shape, True where the plan trains the token's own log-probability; None as for `role`.
        current: log-probabilities under base of the model at this step, without gradient. They differ from `base` where
            the conditions were scored before (`condition_logprobs: epoch` or `frozen`). Read `now`.
    """

    base: Tensor
    mask: Tensor
    label: Tensor
    standard: Tensor | None = None
    judge: Tensor | None = None
    band: Tensor | None = None
    hidden: Tensor | None = None
    role: Tensor | None = None
    graded: Tensor | None = None
    current: Tensor | None = None

    @property
    def now(self) -> Tensor:
        """Log-probabilities under base of the model at this step, in the shape of `base`."""
        return self.base if self.current is None else self.current


@dataclass(frozen=True)
class TokenWeights:
    """A scheme's result. Each tensor except `gated` is (batch, completion_len), with 0 on padding.

    Attributes:
        likelihood, unlikelihood: weights of −log p and −log(1−p), float32, >= 0.
        tag: uint8, see `Tag`.
        gated: (batch,) bool, True where so much of the sample is salient that its other tokens get no weight.
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
    """Target distributions at n places of the completions, each over a few tokens.

    Each sample's loss has the extra term Σ weight · −Σ_k probabilities_k · log p(ids_k) over its places, with p under
    base. A sample may have any number of places, or none.

    Attributes:
        sample, position: (n,) which row of the batch, and which completion token of it, counted from 0.
        ids, probabilities: (n, k), without gradient. The probabilities of a place add up to 1.
        weight: (n,) float32. A place with weight 0 does not count.
    """

    sample: Tensor
    position: Tensor
    ids: Tensor
    probabilities: Tensor
    weight: Tensor


Likeliest = Callable[[Tensor, Tensor, Tensor, int], TopTokens]
"""(sample, position, excluded, count) -> the `count` likeliest tokens under standard at these places.

`sample` and `position` are (n,); `excluded` is (n, m), ids to leave out at each place. If fewer than `count`
tokens are left, the result has all of them. No (length, vocabulary) tensor is made.
"""

ChooseTargets = Callable[[ConditionLogprobs, Tensor, Likeliest], SparseTargets]
"""(log-probabilities without `band` and `hidden`, ids of the completion tokens, likeliest) -> targets.

Called inside the forward with gradient, after base is computed. The ids are (batch, completion_len). Under FSDP, ranks
with equally many samples must use the same n in each call of `likeliest` and in the returned targets.
"""


def plain_likelihood(mask: Tensor, weight: Tensor) -> TokenWeights:
    """Give every token of a sample the same weight.

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
