"""Compute the scalar loss from log-probabilities and weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nlft.core.saliency import TokenWeights


@dataclass(frozen=True)
class SampleLosses:
    """Each sample's loss, summed over its tokens. Every part has shape (batch,). `total` is the sum of the parts.

    Attributes:
        more: further parts of the loss by name, weighed. A part is logged as `nlft/NAME_loss`.
    """

    likelihood: Tensor
    unlikelihood: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Tensor]:
        return {"likelihood": self.likelihood, "unlikelihood": self.unlikelihood, **self.more}

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.parts.values())).sum(0)


def sample_losses(weights: TokenWeights, logp: Tensor, log1mp: Tensor) -> SampleLosses:
    """Compute −Σ_t likelihood_t · logp_t and −Σ_t unlikelihood_t · log1mp_t for each sample.

    Args:
        weights: token weights; no gradient flows through them.
        logp, log1mp: (batch, completion_len), with gradient; padding has weight 0.
    """
    return SampleLosses(
        likelihood=-(weights.likelihood * logp).sum(1),
        unlikelihood=-(weights.unlikelihood * log1mp).sum(1),
    )


def with_hold(losses: SampleLosses, weights: TokenWeights, kl: Tensor, mask: Tensor, weight: float) -> SampleLosses:
    """Add the part `hold`: weight · N · the mean KL of the tokens without unlikelihood, for each sample of N tokens.

    Args:
        kl, mask: (batch, completion_len), KL to the frozen base, and True on completion tokens.
    """
    held = mask & (weights.unlikelihood == 0)
    mean = (kl * held).sum(1) / held.sum(1).clamp(min=1)
    return replace(losses, more={**losses.more, "hold": weight * mask.sum(1) * mean})


@dataclass(frozen=True)
class Window:
    """Numbers of samples and tokens of one optimizer step: its whole accumulation window, on all ranks."""

    samples: float | Tensor
    tokens: float | Tensor


def windows_of(counts: Tensor) -> tuple[Window, Window]:
    """Make the windows of the samples and of the trained answers.

    Args:
        counts: the sum of `counts_of` over the accumulation window, on all ranks.
    """
    samples, tokens, answers, answer_tokens = counts.float().clamp(min=1)
    return Window(samples, tokens), Window(answers, answer_tokens)


def normalize(losses: Tensor, lengths: Tensor, window: Window, normalization: str) -> Tensor:
    """Compute this micro-batch's share of the window's loss.

    Args:
        losses: (batch,) summed over tokens.
        lengths: (batch,) completion tokens of each sample. A sample with none, such as a missing answer, adds nothing.
        normalization: `sample` for (1/B) Σ_i L_i / N_i, `token` for Σ_i L_i / Σ_i N_i.
    """
    if normalization == "sample":
        return torch.sum(losses / lengths.clamp(min=1)) / window.samples
    return torch.sum(losses) / window.tokens


@dataclass(frozen=True)
class LossPart:
    """One part of a micro-batch's loss.

    Attributes:
        losses: (batch,) each sample's, summed over its tokens.
        lengths: (batch,) the tokens of each sample, or of its trained answer.
        of_answers: whether the trained answers are the samples. They have a window of their own.
    """

    losses: Tensor
    lengths: Tensor
    weight: float = 1.0
    of_answers: bool = False

    def normalized(self, windows: tuple[Window, Window], normalization: str) -> Tensor:
        """Return the part's share of the windows' loss, see `normalize` and `windows_of`."""
        return self.weight * normalize(self.losses, self.lengths, windows[self.of_answers], normalization)


def above_and_below(parts: Iterable[LossPart], normalization: str) -> Tensor:
    """Return what each sample adds above and below the line of `normalize`: (batch, 2, 2), for samples and answers.

    Summed over any number of batches, they give the loss that one batch of all these samples would have. The shape does
    not depend on which parts a batch has.
    """
    every = list(parts)
    made: list[Tensor] = []
    for group in ([one for one in every if not one.of_answers], [one for one in every if one.of_answers]):
        if not group:
            made.append(torch.zeros_like(made[0]))
            continue
        losses, lengths = torch.stack([one.weight * one.losses for one in group]).sum(0), group[0].lengths
        above, below = losses, lengths
        if normalization == "sample":
            above, below = losses / lengths.clamp(min=1), lengths > 0
        made.append(torch.stack([above, below.to(above.dtype)], 1))
    return torch.stack(made, 1)
