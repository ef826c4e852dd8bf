"""What a saliency scheme declares. No torch, so that a scheme can be looked up without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from nlft.core.condition_scores import Mistakes
    from nlft.core.loss import SampleLosses
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
        name: what users call it.
        settings: its dataclass. The help, range and default of each setting are declared there only.
        weigh: (log-probabilities, settings) -> token weights; pure.
        needs: which of `standard`, `judge`, `band`, `hidden` it reads with these settings. `misread` is the judge
            row read at the base row's positions, one more row with gradient for each wrong sample.
        losses: (weights, logp, log1mp, misread logp or None) -> each sample's loss.
        redirect: what it redirects with these settings, or None.
    """

    name: str
    settings: type[Any]
    weigh: Callable[[ConditionLogprobs, Any], TokenWeights]
    needs: Callable[[Any], frozenset[str]]
    losses: Callable[[TokenWeights, Tensor, Tensor, Tensor | None], SampleLosses]
    redirect: Callable[[Any], Redirect | None] = lambda _: None


def setting(default: Any, help: str) -> Any:
    """A field of a scheme's settings. Flags, documentation and page take the help text from it."""
    return field(default=default, metadata={"help": help})
