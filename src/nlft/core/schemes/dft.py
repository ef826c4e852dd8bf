"""`dft`: dynamic fine-tuning (arXiv 2508.05629), each token's likelihood times its own probability."""

from dataclasses import dataclass

import torch

from nlft.core.saliency import ConditionLogprobs, TokenWeights, plain_likelihood
from nlft.core.schemes.scheme import HoldSettings, Scheme, hold_needs


@dataclass(frozen=True)
class DFTSettings(HoldSettings):
    """Settings of `dft`. A token's weight is the probability that the model gives it."""


def dft_weights(logprobs: ConditionLogprobs, settings: DFTSettings) -> TokenWeights:
    """Give every token its probability under base at this step as its weight, in right and in wrong completions."""
    everything = torch.ones_like(logprobs.label, dtype=torch.float32)
    plain = plain_likelihood(logprobs.mask, everything)
    return TokenWeights(
        likelihood=plain.likelihood * logprobs.now.float().exp(),
        unlikelihood=plain.unlikelihood,
        tag=plain.tag,
        gated=plain.gated,
    )


SCHEME = Scheme("dft", DFTSettings, dft_weights, hold_needs)
