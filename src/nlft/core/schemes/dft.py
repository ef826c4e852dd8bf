"""`dft`: dynamic fine-tuning (arXiv 2508.05629), each token's likelihood weighed by its own probability."""

from dataclasses import dataclass

import torch

from nlft.core.saliency import ConditionLogprobs, TokenWeights, plain_likelihood
from nlft.core.schemes.scheme import Scheme


@dataclass(frozen=True)
class DFTSettings:
    """`dft` has none: a token weighs what the model gives it."""


def dft_weights(logprobs: ConditionLogprobs, settings: DFTSettings) -> TokenWeights:
    """Every token of every completion, right and wrong alike, weighs its probability under base as it stands."""
    everything = torch.ones_like(logprobs.label, dtype=torch.float32)
    plain = plain_likelihood(logprobs.mask, everything)
    return TokenWeights(
        likelihood=plain.likelihood * logprobs.base.float().exp(),
        unlikelihood=plain.unlikelihood,
        tag=plain.tag,
        gated=plain.gated,
    )


SCHEME = Scheme("dft", DFTSettings, dft_weights, lambda _: frozenset())
