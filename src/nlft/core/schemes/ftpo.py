"""`ftpo`: final-token preference optimisation, after Antislop (arXiv 2510.15061), on the same marks as `strike`.

At a struck token, the model's own alternatives shall be likelier than what was said, by a margin. See docs/SALIENCY.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor
from torch.nn.functional import softplus

from nlft.config import Range
from nlft.core.condition_scores import ScoredBatch, StruckLogits
from nlft.core.conditions import EncodedExample
from nlft.core.hold import Role
from nlft.core.loss import SampleLosses
from nlft.core.saliency import ConditionLogprobs, TokenWeights
from nlft.core.schemes.scheme import Scheme, setting
from nlft.core.schemes.strike import PivotSettings, role_tags
from nlft.core.strikes import StrikePlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class FTPOSettings(PivotSettings):
    """Settings of `ftpo`."""

    margin: Annotated[float, Range(0.01, inf)] = setting(
        2.0, "m: an alternative's logit shall exceed that of the struck token by this."
    )
    min_p: Annotated[float, Range(0, 1)] = setting(
        0.02, "An alternative's least probability, as a share of the base model's likeliest token."
    )
    fewest_alternatives: Annotated[int, Range(1, inf)] = setting(
        4, "Number of alternatives that are taken even if they are less probable than that."
    )
    most_alternatives: Annotated[int, Range(1, inf)] = setting(20, "Maximum number of alternatives.")
    off_target_weight: Annotated[float, Range(0, inf)] = setting(
        0.4, "Weight of the mean squared change of the other tokens' logits."
    )
    target_weight: Annotated[float, Range(0, inf)] = setting(
        0.05, "Weight of the mean squared change beyond free_change of the logits of the struck token and alternatives."
    )
    free_change: Annotated[float, Range(0, inf)] = setting(
        0.5, "tau: how far these logits may move from the base model's without loss."
    )


def ftpo_weights(logprobs: ConditionLogprobs, settings: FTPOSettings) -> TokenWeights:
    """Tag the struck tokens. Their loss is in `ftpo_losses`."""
    assert logprobs.role is not None
    tag = role_tags(logprobs.role)
    nothing = torch.zeros_like(logprobs.base, dtype=torch.float32)
    return TokenWeights(likelihood=nothing, unlikelihood=nothing, tag=tag, gated=torch.zeros_like(logprobs.label))


def ftpo_losses(weights: TokenWeights, scored: ScoredBatch, settings: FTPOSettings) -> SampleLosses:
    """Compute N · (mean over struck tokens + hold_weight · mean KL of the others) for each sample of N tokens."""
    held = scored.held
    assert held is not None
    assert held.struck is not None
    size = len(scored.lengths)
    owned = (held.struck.sample == torch.arange(size, device=held.struck.sample.device)[:, None]).float()
    struck = (owned * _at_struck(held.struck, settings)).sum(1) / owned.sum(1).clamp(min=1)
    others = (held.role[:size] == Role.HELD) | (held.role[:size] == Role.KEPT)
    hold = (held.kl[:size] * others).sum(1) / others.sum(1).clamp(min=1)
    nothing = torch.zeros_like(scored.logp[:, 0])
    more = {"ftpo": scored.lengths * struck, "hold": scored.lengths * settings.hold_weight * hold}
    return SampleLosses(likelihood=nothing, unlikelihood=nothing, more=more)


def alternatives(struck: StruckLogits, settings: FTPOSettings) -> Tensor:
    """Return which tokens are alternatives at each struck token: (n, vocabulary) bool."""
    allowed = struck.base.scatter(1, struck.banned, -torch.inf)
    most = min(settings.most_alternatives, allowed.shape[1])
    logits, ids = allowed.topk(most)
    likely = logits >= struck.base.amax(1, keepdim=True) + log(max(settings.min_p, 1e-30))
    likely[:, : settings.fewest_alternatives] = True
    likely &= logits > -torch.inf
    return torch.zeros_like(allowed, dtype=torch.bool).scatter(1, ids, likely)


def _at_struck(struck: StruckLogits, settings: FTPOSettings) -> Tensor:
    """Compute the loss at each struck token, (n,)."""
    z, said = struck.now, struck.said[:, None]
    chosen = alternatives(struck, settings)
    lead = z - z.gather(1, said)
    weight = ((settings.margin - lead.detach()) / settings.margin).clamp(0, 1) * chosen
    preferred = (weight * softplus(settings.margin - lead)).sum(1)
    target = chosen.scatter(1, said, True)
    change = z - struck.base
    beyond = (change.abs() - settings.free_change).clamp(min=0).square()
    return (
        preferred
        + settings.off_target_weight * _mean(change.square(), ~target)
        + settings.target_weight * _mean(beyond, target)
    )


def _mean(values: Tensor, places: Tensor) -> Tensor:
    return (values * places).sum(1) / places.sum(1).clamp(min=1)


def _plan(
    examples: Sequence[EncodedExample], tokenizer: "PreTrainedTokenizerBase", settings: FTPOSettings
) -> StrikePlan:
    return StrikePlan(
        examples,
        tokenizer,
        everywhere=False,
        every_token=settings.pivot == "all",
        chosen=settings.pivot == "contrast",
    )


def _needs(settings: FTPOSettings) -> frozenset[str]:
    return frozenset({"hold", "logits", *(["pivots"] if settings.pivot == "contrast" else [])})


def _idle(settings: FTPOSettings) -> dict[str, str]:
    idle, fewest, most = {}, settings.fewest_alternatives, settings.most_alternatives
    if fewest > most:
        idle["fewest_alternatives"] = f"most_alternatives is {most}"
    if fewest >= most:
        idle["min_p"] = f"fewest_alternatives is {fewest}, and most_alternatives is {most}"
    if not settings.min_p:
        idle["fewest_alternatives"] = "min_p is 0, so the most alternatives are taken"
    if not settings.target_weight:
        idle["free_change"] = "target_weight is 0"
    return idle


SCHEME = Scheme("ftpo", FTPOSettings, ftpo_weights, _needs, losses=ftpo_losses, plan=_plan, idle=_idle, strikes=True)
