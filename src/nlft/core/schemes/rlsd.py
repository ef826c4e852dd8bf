"""`rlsd`: self-distilled credit (arXiv 2604.03128).

The label decides the direction of a token's push, and the standard condition decides its strength.
"""

from dataclasses import dataclass
from math import inf, log1p
from typing import Annotated

import torch

from nlft.config import Range
from nlft.core.saliency import ConditionLogprobs, Tag, TokenWeights
from nlft.core.schemes.scheme import Scheme, setting


@dataclass(frozen=True)
class RLSDSettings:
    """Settings of `rlsd`. The clip is the paper's."""

    credit_clip: Annotated[float, Range(0, 1)] = setting(
        0.2, "epsilon: a token weighs between 1 - epsilon and 1 + epsilon, depending on its probability under standard."
    )
    credit_contrast: bool = setting(
        False,
        "In wrong samples, compare standard with judge instead of base. This cancels the effect of any hint on style.",
    )
    wrong_weight: Annotated[float, Range(0, inf)] = setting(
        0.1,
        "Factor on the loss of wrong samples. Stands for their share in reinforcement learning.",
    )


def rlsd_weights(logprobs: ConditionLogprobs, settings: RLSDSettings) -> TokenWeights:
    """Push right samples up and wrong ones down: harder where standard agrees, less hard where it disagrees.

    A token is salient if its credit or blame exceeds the clip.
    """
    assert logprobs.standard is not None
    mask, wrong = logprobs.mask, ~logprobs.label[:, None]
    without = logprobs.base
    if settings.credit_contrast:
        assert logprobs.judge is not None
        without = torch.where(wrong, logprobs.judge, logprobs.base)
    evidence = logprobs.standard.float() - without.float()
    evidence = torch.where(wrong, -evidence, evidence)
    least = log1p(-settings.credit_clip) if settings.credit_clip < 1 else -inf
    most = log1p(settings.credit_clip)
    weight = evidence.clamp(least, most).exp()
    salient = mask & (evidence > most)
    return TokenWeights(
        likelihood=weight.masked_fill(~mask | wrong, 0),
        unlikelihood=settings.wrong_weight * weight.masked_fill(~(mask & wrong), 0),
        tag=torch.zeros_like(mask, dtype=torch.uint8).masked_fill(salient, Tag.SALIENT),
        gated=torch.zeros_like(logprobs.label),
    )


def _needs(settings: RLSDSettings) -> frozenset[str]:
    return frozenset({"standard", "judge"} if settings.credit_contrast else {"standard"})


def _idle(settings: RLSDSettings) -> dict[str, str]:
    zeros = [name for name in ("wrong_weight", "credit_clip") if not getattr(settings, name)]
    return {"credit_contrast": f"{zeros[0]} is 0"} if zeros else {}


SCHEME = Scheme("rlsd", RLSDSettings, rlsd_weights, _needs, idle=_idle)
