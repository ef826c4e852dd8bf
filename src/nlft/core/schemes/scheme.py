"""What a saliency scheme declares. No torch, so that a scheme can be looked up without it."""

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
        name: logged as `nlft/NAME_loss`.
        weight: factor on the whole of it.
        choose: finds the places and their targets in a scored batch.
    """

    name: str
    weight: float
    choose: ChooseTargets


@dataclass(frozen=True)
class Scheme:
    """A named way from log-probabilities to a loss.

    Attributes:
        name: what users call it.
        settings: its dataclass. The help, range and default of each setting are declared there only.
        weigh: (log-probabilities, settings) -> token weights; pure.
        needs: which of `standard`, `judge`, `band`, `hidden` it reads with these settings.
        losses: (weights, scored batch) -> each sample's loss; by default weights times logarithms.
        extra_loss: its loss beyond the token weights with these settings, or None. Needs `standard`.
        extra_rows: further rows of an example to score with gradient. `losses` reads them.
    """

    name: str
    settings: type[Any]
    weigh: Callable[[ConditionLogprobs, Any], TokenWeights]
    needs: Callable[[Any], frozenset[str]]
    losses: Callable[[TokenWeights, ScoredBatch], SampleLosses] = _weighted
    extra_loss: Callable[[Any], ExtraLoss | None] = lambda _: None
    extra_rows: Callable[[EncodedExample], Sequence[Row]] = lambda _: ()


def setting(default: Any, help: str) -> Any:
    """A field of a scheme's settings. Flags, documentation and page take the help text from it."""
    return field(default=default, metadata={"help": help})
