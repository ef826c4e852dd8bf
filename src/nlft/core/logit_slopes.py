"""Measure a chunk of logits and turn it into the measure's slopes, in place and in parts that stay in the cache.

What a large vocabulary costs, beside the head's own product, is passes over memory. So nothing is copied, and only one
exponential of each logit is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_CACHED = 2**22  # bytes of float32 logits


@dataclass(frozen=True)
class Measured:
    """What is known of n places after a pass over their logits.

    Attributes:
        kl: (n,) float32, KL(q ‖ p) in nats.
        mass: (n,) float32, see `heads.BaseTargets`.
        log_odds: (n,) float32, see `LogOdds`.
        top1: (n,) bool.
    """

    kl: Tensor
    mass: Tensor
    log_odds: Tensor
    top1: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> "Measured":
        """Return measures of the places of (n, vocabulary) logits, to be filled."""
        kl, mass, log_odds = (logits.new_empty(len(logits)) for _ in range(3))
        return cls(kl, mass, log_odds, logits.new_empty(len(logits), dtype=torch.bool))


def parts_of(logits: Tensor) -> Iterator[slice]:
    """Cut (n, vocabulary) logits by rows into parts that stay in the cache. An accelerator takes all rows at once."""
    rows = max(1, _CACHED // (4 * logits.shape[1])) if logits.device.type == "cpu" else max(1, len(logits))
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


@torch.no_grad()
def odds_(logits: Tensor, targets: Tensor, *, slope: bool) -> tuple[Tensor, Tensor]:
    """Return each target's log-odds u, (n,), and whether it is the first choice. See `LogOdds`.

    Args:
        logits: (n, vocabulary) float32, overwritten: with du/dlogits if `slope`, else with nothing of use.
        targets: (n,) long.
    """
    log_odds = logits.new_empty(len(logits))
    top1 = torch.empty_like(targets, dtype=torch.bool)
    for part in parts_of(logits):
        z, index = logits[part], targets[part, None]
        said = z.gather(1, index)
        best = z.scatter_(1, index, -torch.inf).amax(1, keepdim=True)
        total = z.sub_(best).exp_().sum(1, keepdim=True)
        log_odds[part] = (said - (best + total.log())).squeeze(1)
        top1[part] = (said >= best).squeeze(1)
        if slope:
            z.div_(total.neg_()).scatter_(1, index, 1.0)
    return log_odds, top1


class LogOdds(torch.autograd.Function):
    """Computes the target's log-odds u from float32 logits z: z_target − logsumexp of the others.

    Equals `log_softmax(z)[target] - log(1 - softmax(z)[target])`, but never computes 1−p from a rounded p.
    du/dz is 1 on the target and −softmax over the others.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        slope = logits.clone()
        log_odds, top1 = odds_(slope, targets, slope=ctx.needs_input_grad[0])
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(top1)
        return log_odds, top1

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None], None


class WithSlope(torch.autograd.Function):
    """Returns values, (n,), that were computed from logits, (n, vocabulary), together with their slopes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad[:, None], None, None
