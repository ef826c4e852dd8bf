"""Log-probabilities times weights, to a scalar."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nlft.core.condition_scores import FirstMistakes
from nlft.core.saliency import TokenWeights


@dataclass(frozen=True)
class SampleLosses:
    """Each sample's loss, summed over its tokens, (batch,); the parts add up to `total`."""

    likelihood: Tensor
    unlikelihood: Tensor

    @property
    def total(self) -> Tensor:
        return self.likelihood + self.unlikelihood


def sample_losses(weights: TokenWeights, logp: Tensor, log1mp: Tensor) -> SampleLosses:
    """−Σ_t likelihood_t · logp_t and −Σ_t unlikelihood_t · log1mp_t for each sample.

    Args:
        weights: constants for the gradient.
        logp, log1mp: (batch, completion_len), with gradient; padding has weight 0.
    """
    return SampleLosses(
        likelihood=-(weights.likelihood * logp).sum(1),
        unlikelihood=-(weights.unlikelihood * log1mp).sum(1),
    )


def plain_losses(weights: TokenWeights, logp: Tensor, log1mp: Tensor, _: Tensor | None) -> SampleLosses:
    """`sample_losses`, as `Scheme.losses` calls it."""
    return sample_losses(weights, logp, log1mp)


def redirect_losses(first: FirstMistakes, tokens: int) -> Tensor:
    """−Σ_k q_k log p_k at each sample's first mistake, (batch,), with gradient; 0 for a sample without one.

    q is standard's distribution over its likeliest tokens but for the one that was said, renormalised; p is base's over
    the whole vocabulary.

    Args:
        tokens: how many; all others that the vocabulary has, if it has fewer.
    """
    others = first.standard_logits.scatter(1, first.said[:, None], -torch.inf)
    top, ids = others.topk(min(tokens, others.shape[1] - 1))
    logp = first.base_logits.log_softmax(1).gather(1, ids)
    return -(top.softmax(1) * logp).sum(1) * first.found


@dataclass(frozen=True)
class Window:
    """How much one optimizer step averages over: the whole accumulation window, on all ranks."""

    samples: float | Tensor
    tokens: float | Tensor


def windows_of(counts: Tensor) -> tuple[Window, Window]:
    """The window of the samples and that of the trained answers, from `counts_of` summed over it."""
    samples, tokens, targets, target_tokens = counts.float().clamp(min=1)
    return Window(samples, tokens), Window(targets, target_tokens)


def normalize(losses: Tensor, lengths: Tensor, window: Window, normalization: str) -> Tensor:
    """This micro-batch's share of the window's loss.

    Args:
        losses: (batch,) summed over tokens.
        lengths: (batch,) completion tokens of each sample.
        normalization: `sample` for (1/B) Σ_i L_i / N_i, `token` for Σ_i L_i / Σ_i N_i.
    """
    if normalization == "sample":
        return torch.sum(losses / lengths) / window.samples
    return torch.sum(losses) / window.tokens
