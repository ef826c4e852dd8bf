"""What a saliency scheme declares."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nlft.core.condition_scores import Mistakes
from nlft.core.loss import SampleLosses, sample_losses
from nlft.core.saliency import ConditionLogprobs, TokenWeights


@dataclass(frozen=True)
class Redirect:
    """How a wrong sample's first mistake is trained toward what standard would say there.

    Attributes:
        mistakes: finds them.
        weight: factor on `redirect_losses`.
        tokens: how many of standard's likeliest ones.
    """

    mistakes: Mistakes
    weight: float
    tokens: int


@dataclass(frozen=True)
class Scheme:
    """A named way from log-probabilities to a loss.

    Attributes:
        settings: its dataclass; help, range and default of each field live there and nowhere else.
        weigh: (log-probabilities, settings) -> token weights; pure.
        needs: of its settings, which of `standard`, `judge`, `band`, `hidden` it reads, and `misread`, the judge
            row read at the base row's positions, which is one more row with gradient for each wrong sample.
        losses: (weights, logp, log1mp, misread logp or None) -> each sample's loss.
        redirect: of its settings, what it redirects, or None.
    """

    name: str
    settings: type[Any]
    weigh: Callable[[ConditionLogprobs, Any], TokenWeights]
    needs: Callable[[Any], frozenset[str]]
    losses: Callable[[TokenWeights, Tensor, Tensor, Tensor | None], SampleLosses]
    redirect: Callable[[Any], Redirect | None] = lambda _: None


def _plain_losses(weights: TokenWeights, logp: Tensor, log1mp: Tensor, _: Tensor | None) -> SampleLosses:
    return sample_losses(weights, logp, log1mp)
