"""`uniform`: plain supervised fine-tuning on the completions."""

from dataclasses import dataclass

import torch

from nlft.core.saliency import ConditionLogprobs, TokenWeights, plain_likelihood
from nlft.core.schemes.scheme import Scheme


@dataclass(frozen=True)
class UniformSettings:
    """`uniform` has none: every token of every completion weighs one."""


def uniform_weights(logprobs: ConditionLogprobs, settings: UniformSettings) -> TokenWeights:
    """Plain supervised fine-tuning on the completions, right and wrong alike."""
    return plain_likelihood(logprobs.mask, torch.ones_like(logprobs.label, dtype=torch.float32))


SCHEME = Scheme("uniform", UniformSettings, uniform_weights, lambda _: frozenset())
