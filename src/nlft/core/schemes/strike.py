"""`strike`: what a reader marked or quoted is taken out of the model's reach, and everything else is held to the base.

The equations are in docs/STRIKE.md. Relatives: UnDIAL (arXiv 2402.10052), FTPO of Antislop (arXiv 2510.15061).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from nlft.config import Range, with_defaults
from nlft.core.condition_scores import HeldScores, ScoredBatch
from nlft.core.conditions import EncodedExample
from nlft.core.hold import Role
from nlft.core.loss import SampleLosses, sample_losses
from nlft.core.saliency import ConditionLogprobs, Tag, TokenWeights
from nlft.core.schemes.scheme import HoldSettings, Scheme, setting
from nlft.core.strikes import StrikePlan

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class PivotSettings(HoldSettings):
    """What is struck of a span, and when training ends."""

    stop_below: Annotated[float, Range(0, 1)] = setting(
        0.02,
        "Training ends when the mean probability of the struck tokens is below this. Checked every 4 steps. 0: never.",
    )
    pivot: Literal["first", "contrast", "all"] = setting(
        "first",
        "Which tokens of a span are struck: the first, all, or the word that the judgment's words make likelier than "
        "other judgments' words do.",
    )


@dataclass(frozen=True, kw_only=True)
@with_defaults(hold_weight=1.0)
class StrikeSettings(PivotSettings):
    """Settings of `strike`."""

    strike_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Weight of the mean KL at struck tokens, to the base model without what was struck."
    )
    keep_weight: Annotated[float, Range(0, inf)] = setting(
        1.0,
        "Weight of the mean KL at those tokens of kept replies where the base model would say a struck word.",
    )
    keep_mass: Annotated[float, Range(0, 1)] = setting(
        0.02,
        "keep_weight and ban_weight count a token if the base model's probability of all struck words is above this.",
    )
    ban_weight: Annotated[float, Range(0, inf)] = setting(
        0.0,
        "Weight of the mean KL at those other tokens of reviewed replies where the base model would say a struck word.",
    )
    replace_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Weight of the mean NLL of the replacements, each summed over its tokens."
    )
    like_weight: Annotated[float, Range(0, inf)] = setting(
        0.0, "Weight of the mean NLL of liked replies. At 0 they are only held."
    )
    strike_temperature: Annotated[float, Range(1, inf)] = setting(
        1.0, "Temperature of the base model at struck tokens. Above 1 the other choices come closer to each other."
    )
    strike_at: Literal["everywhere", "said"] = setting(
        "everywhere",
        "Where struck words are banned in reviewed replies: at every token (whole words of 4 letters or more), or only "
        "where they were said.",
    )


_SHOWN = ((Role.STRUCK, Tag.STRUCK), (Role.INSIDE, Tag.INSIDE), (Role.HELD, Tag.HELD), (Role.KEPT, Tag.KEPT))


def strike_weights(logprobs: ConditionLogprobs, settings: StrikeSettings) -> TokenWeights:
    """Tag the struck tokens, and weigh the likelihood of liked replies. The other losses are in `strike_losses`."""
    assert logprobs.role is not None
    assert logprobs.graded is not None
    return TokenWeights(
        likelihood=settings.like_weight * (logprobs.mask & logprobs.graded).float(),
        unlikelihood=torch.zeros_like(logprobs.base, dtype=torch.float32),
        tag=role_tags(logprobs.role),
        gated=torch.zeros_like(logprobs.label),
    )


def role_tags(role: Tensor) -> Tensor:
    """Return the tag that shows each token's role, uint8, in the shape of `role`."""
    tag = torch.zeros_like(role, dtype=torch.uint8)
    for shown, name in _SHOWN:
        tag = tag.masked_fill(role == shown, name)
    return tag


def strike_losses(weights: TokenWeights, scored: ScoredBatch, settings: StrikeSettings) -> SampleLosses:
    """Compute N · (strike + hold + keep + ban + replace) for each sample of N tokens. Each part is a mean."""
    held = scored.held
    assert held is not None
    size = len(scored.lengths)
    kept = held.role == Role.KEPT
    places = kept | (held.role == Role.HELD)
    likely = held.mass > settings.keep_mass
    replaced = -(held.logp * (held.role == Role.REPLACED)).sum(1)
    parts = {
        "strike": settings.strike_weight * _mean(held.kl, held.role == Role.STRUCK, held, size),
        "hold": settings.hold_weight * _mean(held.kl, places, held, size),
        "keep": settings.keep_weight * _mean(held.kl, kept & likely, held, size),
        "ban": settings.ban_weight * _mean(held.kl, (held.role == Role.HELD) & held.banned & likely, held, size),
        "replace": settings.replace_weight * _ratio(replaced, held.replacements, held, size),
    }
    more = {name: scored.lengths * part for name, part in parts.items()}
    nothing = torch.zeros_like(scored.logp[:, 0])
    likelihood = sample_losses(weights, scored.logp, scored.log1mp).likelihood if settings.like_weight else nothing
    return SampleLosses(likelihood=likelihood, unlikelihood=nothing, more=more)


def strike_signal(weights: TokenWeights, scored: ScoredBatch, settings: StrikeSettings) -> Tensor:
    """Return each token's part of `strike_losses` divided by N, (B, tokens).

    A replacement stands in a row of its own, so its loss belongs to no token of the completion.
    """
    held = scored.held
    assert held is not None
    size, width = scored.logp.shape
    kept, said = held.role == Role.KEPT, held.role == Role.HELD
    likely = held.mass > settings.keep_mass
    parts = [
        (settings.strike_weight, held.role == Role.STRUCK),
        (settings.hold_weight, kept | said),
        (settings.keep_weight, kept & likely),
        (settings.ban_weight, said & held.banned & likely),
    ]
    owned = held.sample == torch.arange(size, device=held.sample.device)[:, None]
    signal = -weights.likelihood * scored.logp / scored.lengths[:, None]
    for weight, places in parts:
        count = (owned * places.sum(1)).sum(1).clamp(min=1)
        signal = signal + weight * (held.kl * places)[:size, :width] / count[:, None]
    return signal


def _mean(values: Tensor, places: Tensor, held: HeldScores, size: int) -> Tensor:
    """Take the mean over a sample's places, in all of its rows: (size,), 0 for a sample without any."""
    return _ratio((values * places).sum(1), places.sum(1), held, size)


def _ratio(sums: Tensor, counts: Tensor, held: HeldScores, size: int) -> Tensor:
    """Divide each sample's sum over its rows by its count. A masked sum is deterministic on CUDA."""
    owned = held.sample == torch.arange(size, device=held.sample.device)[:, None]
    return (owned * sums).sum(1) / (owned * counts).sum(1).clamp(min=1)


def _plan(
    examples: Sequence[EncodedExample], tokenizer: "PreTrainedTokenizerBase", settings: StrikeSettings
) -> StrikePlan:
    return StrikePlan(
        examples,
        tokenizer,
        everywhere=settings.strike_at == "everywhere",
        every_token=settings.pivot == "all",
        chosen=settings.pivot == "contrast",
        temperature=settings.strike_temperature,
        train_liked=settings.like_weight > 0,
    )


def _needs(settings: StrikeSettings) -> frozenset[str]:
    return frozenset({"hold", "pivots"} if settings.pivot == "contrast" else {"hold"})


def _idle(settings: StrikeSettings) -> dict[str, str]:
    idle = {}
    if settings.strike_at == "said":
        idle["ban_weight"] = "strike_at said bans no word at other tokens"
    if not settings.keep_weight and not settings.ban_weight:
        idle["keep_mass"] = "keep_weight and ban_weight are 0"
    if not settings.strike_weight:
        idle["strike_temperature"] = "strike_weight is 0"
    return idle


SCHEME = Scheme(
    "strike",
    StrikeSettings,
    strike_weights,
    _needs,
    losses=strike_losses,
    plan=_plan,
    signal=strike_signal,
    idle=_idle,
    strikes=True,
)
