"""The declaration of a saliency scheme. Imports no torch, so that a scheme can be looked up without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Annotated, Any

from nlft.config import Range

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from nlft.core.condition_scores import ScoredBatch
    from nlft.core.conditions import EncodedExample, Row
    from nlft.core.hold import Plan
    from nlft.core.loss import SampleLosses
    from nlft.core.saliency import ChooseTargets, ConditionLogprobs, TokenWeights


def _weighted(weights: TokenWeights, scored: ScoredBatch, settings: Any) -> SampleLosses:
    from nlft.core.loss import sample_losses, with_hold

    losses = sample_losses(weights, scored.logp, scored.log1mp)
    weight, mask = getattr(settings, "hold_weight", 0), scored.conditions.mask
    if not scored.held or not weight:
        return losses
    return with_hold(losses, weights, scored.held.kl[: len(mask), : mask.shape[1]], mask, weight)


@dataclass(frozen=True)
class ExtraLoss:
    """A loss beyond the token weights: cross-entropy to target distributions at some places.

    Attributes:
        name: the loss is logged as `nlft/NAME_loss`.
        weight: factor on the whole loss.
        choose: finds the places and their targets in a scored batch.
    """

    name: str
    weight: float
    choose: ChooseTargets


@dataclass(frozen=True)
class Scheme:
    """A named method that turns log-probabilities into a loss.

    Attributes:
        name: the scheme's name for users.
        settings: the settings dataclass. Only this class declares the help, range and default of each setting.
        weigh: (log-probabilities, settings) -> token weights; pure.
        needs: settings -> the values that the scheme reads with them, of `standard`, `judge`, `band`, `hidden`, `hold`,
            `pivots` (a chosen token in each span, see `core.spans.TokenSpan`), `logits` (whole rows at struck tokens).
        losses: (weights, scored batch, settings) -> each sample's loss. By default, weights times logarithms, and
            `hold_weight` times the distance to the frozen base.
        signal: (weights, scored batch, settings) -> each token's part of its sample's loss, (B, tokens); None if the
            token weights give it.
        extra_loss: settings -> the scheme's loss beyond the token weights, or None. Needs `standard`.
        extra_rows: example -> further rows to score with gradient. `losses` reads them.
        plan: (training examples, tokenizer, settings) -> what the frozen base is used for, if the scheme needs `hold`.
            By default every token is held to it.
        idle: settings -> the names of settings without effect beside the others, each with the reason.
        strikes: whether it makes improbable what readers mark or quote. Then listed words are struck too, and rounds
            train on the replies of all rounds.
    """

    name: str
    settings: type[Any]
    weigh: Callable[[ConditionLogprobs, Any], TokenWeights]
    needs: Callable[[Any], frozenset[str]]
    losses: Callable[[TokenWeights, ScoredBatch, Any], SampleLosses] = _weighted
    signal: Callable[[TokenWeights, ScoredBatch, Any], Tensor | None] = lambda *_: None
    extra_loss: Callable[[Any], ExtraLoss | None] = lambda _: None
    extra_rows: Callable[[EncodedExample], Sequence[Row]] = lambda _: ()
    plan: Callable[[Sequence[EncodedExample], PreTrainedTokenizerBase, Any], Plan | None] = lambda *_: None
    idle: Callable[[Any], Mapping[str, str]] = lambda _: {}
    strikes: bool = False


def setting(default: Any, help: str) -> Any:
    """Make a field of a scheme's settings. Flags, documentation and saliency map all show the help text given here."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class HoldSettings:
    """How strongly the tokens that no mistake pushes down are held to the frozen base."""

    hold_weight: Annotated[float, Range(0, inf)] = setting(
        0.0,
        "Weight of the mean KL to the base model (the adapter off), over the tokens that nothing pushes down. Above 0, "
        "a step scores the base too. Needs an adapter, or --condition_logprobs frozen.",
    )


def hold_needs(settings: HoldSettings) -> frozenset[str]:
    """Return what `Scheme.needs` must have for the hold."""
    return frozenset({"hold"}) if settings.hold_weight else frozenset()
