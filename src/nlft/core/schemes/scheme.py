"""The declaration of a saliency scheme. Imports no torch, so that a scheme can be looked up without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlft.core.condition_scores import ScoredBatch
    from nlft.core.conditions import EncodedExample, Row
    from nlft.core.loss import SampleLosses
    from nlft.core.saliency import ChooseTargets, ConditionLogprobs, TokenWeights


def _weighted(weights: TokenWeights, scored: ScoredBatch) -> SampleLosses:
    from nlft.core.loss import sample_losses

    return sample_losses(weights, scored.logp, scored.log1mp)


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
        needs: settings -> the values that the scheme reads with them, of `standard`, `judge`, `band`, `hidden`.
        losses: (weights, scored batch) -> each sample's loss. By default, weights times logarithms.
        extra_loss: settings -> the scheme's loss beyond the token weights, or None. Needs `standard`.
        extra_rows: example -> further rows to score with gradient. `losses` reads them.
    """

    name: str
    settings: type[Any]
    weigh: Callable[[ConditionLogprobs, Any], TokenWeights]
    needs: Callable[[Any], frozenset[str]]
    losses: Callable[[TokenWeights, ScoredBatch], SampleLosses] = _weighted
    extra_loss: Callable[[Any], ExtraLoss | None] = lambda _: None
    extra_rows: Callable[[EncodedExample], Sequence[Row]] = lambda _: ()


def setting(default: Any, help: str) -> Any:
    """Make a field of a scheme's settings. Flags, documentation and saliency map all show the help text given here."""
    return field(default=default, metadata={"help": help})
