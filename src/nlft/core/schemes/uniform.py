"""`uniform`: plain supervised fine-tuning on the completions."""

from dataclasses import dataclass

import torch

from nlft.core.saliency import ConditionLogprobs, TokenWeights, plain_likelihood
from nlft.core.schemes.scheme import HoldSettings, Scheme, hold_needs


@dataclass(frozen=True)
class UniformSettings(HoldSettings):
    """Settings of `uniform`. Every token of every completion has weight 1."""


def uniform_weights(logprobs: ConditionLogprobs, settings: UniformSettings) -> TokenWeights:
    """Give every token weight 1, as in plain supervised fine-tuning, in right and in wrong completions."""
    return plain_likelihood(logprobs.mask, torch.ones_like(logprobs.label, dtype=torch.float32))


SCHEME = Scheme("uniform", UniformSettings, uniform_weights, hold_needs)
