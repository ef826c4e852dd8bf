"""`cut`: the unlikelihood part of contrastive unlikelihood training (arXiv 2312.14591).

It compares the judge condition with the base condition.
"""

from dataclasses import dataclass
from math import inf, log
from typing import Annotated

import torch

from nlft.config import Range
from nlft.core.saliency import ConditionLogprobs, Tag, TokenWeights
from nlft.core.schemes.scheme import HoldSettings, Scheme, hold_needs, setting


@dataclass(frozen=True)
class CutSettings(HoldSettings):
    """Settings of `cut`. The defaults are among the values that the paper chose from."""

    inappropriate_ratio: Annotated[float, Range(1, inf)] = setting(
        1.1, "lambda: a token is inappropriate if it is more than this many times likelier under judge than under base."
    )
    inappropriate_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "alpha in the unlikelihood of an inappropriate token, alpha pJ^gamma."
    )
    inappropriate_exponent: Annotated[float, Range(0, inf)] = setting(
        1.0, "gamma in the unlikelihood of an inappropriate token, alpha pJ^gamma. The paper's code computes 0."
    )


def cut_weights(logprobs: ConditionLogprobs, settings: CutSettings) -> TokenWeights:
    """Weigh tokens. In wrong samples, push down the tokens that the judgment makes likelier.

    All other tokens, and all tokens of right samples, get a plain likelihood weight. The scheme does not read the
    standard condition and has no minimum probability.
    """
    assert logprobs.judge is not None
    mask = logprobs.mask
    judge = logprobs.judge.float()
    inappropriate = mask & ~logprobs.label[:, None]
    inappropriate &= judge - logprobs.base.float() > log(settings.inappropriate_ratio)
    push = settings.inappropriate_weight * (judge * settings.inappropriate_exponent).exp()
    return TokenWeights(
        likelihood=(mask & ~inappropriate).float(),
        unlikelihood=push.masked_fill(~inappropriate, 0),
        tag=torch.zeros_like(mask, dtype=torch.uint8).masked_fill(inappropriate, Tag.SALIENT),
        gated=torch.zeros_like(logprobs.label),
    )


def _needs(settings: CutSettings) -> frozenset[str]:
    return frozenset({"judge"}) | hold_needs(settings)


def _idle(settings: CutSettings) -> dict[str, str]:
    return {} if settings.inappropriate_weight else {"inappropriate_exponent": "inappropriate_weight is 0"}


SCHEME = Scheme("cut", CutSettings, cut_weights, _needs, idle=_idle)
