"""Saliency schemes: log-probabilities under the conditions, to tags, to token weights.

Each scheme is a pure function of one snapshot's log-probabilities and its settings dataclass. Trainer, commands,
page and tests compute saliency with this one piece of code.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from math import inf, log
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nlft.config import Range

WINDOW = 16  # each join halves what earlier states weigh in the centre: beyond 16 they are below float16


class Tag(IntEnum):
    """Why a token has the weight that it has."""

    PLAIN = 0
    SALIENT = 1
    NEIGHBOUR = 2
    GATED = 3


TAG_NAMES = [tag.name.lower() for tag in Tag]


@dataclass(frozen=True)
class ConditionLogprobs:
    """The same completion tokens under the conditions.

    Attributes:
        base, standard, judge: natural-log probabilities, (batch, completion_len). Conditions that the scheme does
            not need may be None; `judge` holds anything at all in the rows of right samples.
        mask: bool, True on completion tokens.
        label: (batch,) bool, True where the completion is right.
        band: (batch, completion_len, 17) float16 from `hidden_band`, or None.
        hidden: (batch, completion_len, hidden_size), for `nlft-original` alone, or None.
    """

    base: Tensor
    mask: Tensor
    label: Tensor
    standard: Tensor | None = None
    judge: Tensor | None = None
    band: Tensor | None = None
    hidden: Tensor | None = None


@dataclass(frozen=True)
class TokenWeights:
    """What a scheme makes of them; each (batch, completion_len), 0 on padding.

    Attributes:
        likelihood, unlikelihood: weights of −log p and −log(1−p), float32, >= 0.
        tag: uint8, see `Tag`.
        gated: (batch,) bool: so much of the sample is salient that the rest of it is left alone.
    """

    likelihood: Tensor
    unlikelihood: Tensor
    tag: Tensor
    gated: Tensor

    @property
    def salient(self) -> Tensor:
        return self.tag == Tag.SALIENT


def setting(default: Any, help: str) -> Any:
    """A settings field: its help stands here alone, and flags, docs and page are made from it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class NLFTSettings:
    """Settings of `nlft`; the defaults are the paper's, but for `nll_weight`, which names what its code adds."""

    mistake_ratio: Annotated[float, Range(1, inf)] = setting(
        1.5, "How many times likelier a mistake is under judge than under base, and than under standard."
    )
    mistake_floor: Annotated[float, Range(0, 1)] = setting(0.01, "Least probability of a mistake under judge.")
    unlikelihood_shift: Annotated[float, Range(0, inf)] = setting(
        1.5, "tau in the mistake's weight 2 sigmoid(pJ/pB - tau)."
    )
    contradiction: bool = setting(
        False,
        "Also tag mistakes that the model is sure of: likely under base, and all but excluded by standard.",
    )
    contradiction_base: Annotated[float, Range(0, 1)] = setting(
        0.5, "Tokens that contradiction tags have more than this probability under base."
    )
    contradiction_standard: Annotated[float, Range(0, 1)] = setting(
        0.05, "Tokens that contradiction tags have less than this probability under standard."
    )
    redirect: bool = setting(
        False, "Also train the first mistake of a wrong sample toward what standard would say there instead."
    )
    redirect_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Weight of redirect's cross-entropy at that one token."
    )
    redirect_tokens: Annotated[int, Range(1, 1024)] = setting(
        8, "How many of standard's likeliest tokens, but for the one that was said, redirect trains toward."
    )
    gate_fraction: Annotated[float, Range(0, 1)] = setting(
        0.06, "With more of a wrong sample salient than this share, its other tokens get no weight."
    )
    wrong_likelihood: Annotated[float, Range(0, inf)] = setting(
        1.0, "Factor on the likelihood of a wrong sample's tokens; 0 learns nothing of it but to avoid its mistakes."
    )
    after_mistake: Literal["keep", "zero"] = setting(
        "keep",
        "What follows a wrong sample's first mistake is conditioned on it: keep its weights, or zero them.",
    )
    certain_threshold: Annotated[float, Range(0, 1)] = setting(
        0.95, "In right samples, tokens above this probability under standard are salient."
    )
    certain_exponent: Annotated[float, Range(0, inf)] = setting(
        5.0, "Exponent of a salient right token: 1 + ((pS - threshold) / (1 - threshold))^exponent."
    )
    neighbour_exponent: Annotated[float, Range(0, inf)] = setting(
        0.3, "Exponent of its neighbours: (pS / threshold)^exponent."
    )
    plain_exponent: Annotated[float, Range(0, inf)] = setting(
        0.6, "Exponent of a right sample's other tokens: (pS / threshold)^exponent."
    )
    neighbour_similarity: Annotated[float, Range(-1, 1)] = setting(
        0.6,
        "kappa: a token joins while its state's cosine similarity to the running centre stays above this.",
    )
    nll_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Plain likelihood added to every token of right samples."
    )
    branch_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Factor on everything but nll_weight; 0 is the control that shows what the branch adds."
    )


@dataclass(frozen=True)
class UniformSettings:
    """`uniform` has none: every token of every completion weighs one."""


def nlft_weights(logprobs: ConditionLogprobs, settings: NLFTSettings) -> TokenWeights:
    """The paper's scheme, per sample, with its inverted comparison mended (section "Saliency schemes" of the docs).

    Wrong: tokens that the judgment alone makes likely are pushed down, their neighbourhood is left alone, the rest
    is weighed by what standard thinks of it. Right: tokens that standard is nearly certain of are pushed up harder.
    """
    if settings.branch_weight == 0:
        return plain_likelihood(logprobs.mask, settings.nll_weight * logprobs.label)
    assert logprobs.standard is not None
    assert logprobs.judge is not None
    assert logprobs.band is not None
    mask, wrong = logprobs.mask, ~logprobs.label[:, None]
    standard = logprobs.standard.float()
    lead = logprobs.judge.float() - logprobs.base.float()
    mistake = tag_mistakes(logprobs, settings)
    certain = mask & ~wrong & (standard > _log(settings.certain_threshold))
    salient = mistake | certain
    neighbour = mask & ~salient & neighbourhood(salient, logprobs.band, settings.neighbour_similarity)

    length = mask.sum(1, keepdim=True).clamp(min=1)
    gated = wrong & (salient.sum(1, keepdim=True) > settings.gate_fraction * length)
    silent = gated | neighbour
    if settings.after_mistake == "zero":
        silent = silent | (mistake.cumsum(1) > 0)
    wrong_likelihood = (settings.wrong_likelihood * (standard / 2).exp()).masked_fill(silent | mistake, 0)
    # A contradiction weighs what the least of the judgment's mistakes does: of it pJ/pB says nothing.
    ratio = lead.exp().clamp(min=settings.mistake_ratio)
    wrong_unlikelihood = 2 * torch.sigmoid(ratio - settings.unlikelihood_shift)

    threshold = settings.certain_threshold
    certainty = ((standard.exp() - threshold) / max(1 - threshold, 1e-12)).clamp(min=0)
    exponent = torch.where(neighbour, settings.neighbour_exponent, settings.plain_exponent)
    relative = ((standard - _log(threshold)) * exponent).exp()
    right_likelihood = torch.where(certain, 1 + certainty**settings.certain_exponent, relative)

    likelihood = settings.branch_weight * torch.where(wrong, wrong_likelihood, right_likelihood)
    likelihood = likelihood + settings.nll_weight * ~wrong
    tag = torch.zeros_like(mask, dtype=torch.uint8)
    tag = tag.masked_fill(gated & mask, Tag.GATED).masked_fill(neighbour, Tag.NEIGHBOUR)
    return TokenWeights(
        likelihood=likelihood * mask,
        unlikelihood=settings.branch_weight * wrong_unlikelihood.masked_fill(~mistake, 0),
        tag=tag.masked_fill(salient, Tag.SALIENT),
        gated=gated.squeeze(1),
    )


def tag_mistakes(logprobs: ConditionLogprobs, settings: NLFTSettings) -> Tensor:
    """Tokens that the judgment makes likely, and with `contradiction` those that standard alone knows to be wrong.

    pJ/pB > ratio cannot hold where pB > 1/ratio, so the first test is blind to what the model is sure of.

    Args:
        logprobs: `band` is not read.
    Returns:
        (batch, completion_len) bool; False in right samples and on padding.
    """
    assert logprobs.standard is not None
    assert logprobs.judge is not None
    found = logprobs.judge.float() - logprobs.base.float() > log(settings.mistake_ratio)
    found &= logprobs.judge - logprobs.standard.float() > log(settings.mistake_ratio)
    found &= logprobs.judge > _log(settings.mistake_floor)
    if settings.contradiction:
        sure = logprobs.base > _log(settings.contradiction_base)
        found |= sure & (logprobs.standard < _log(settings.contradiction_standard))
    return found & logprobs.mask & ~logprobs.label[:, None]


def uniform_weights(logprobs: ConditionLogprobs, settings: UniformSettings) -> TokenWeights:
    """Plain supervised fine-tuning on the completions, right and wrong alike."""
    return plain_likelihood(logprobs.mask, torch.ones_like(logprobs.label, dtype=torch.float32))


def plain_likelihood(mask: Tensor, weight: Tensor) -> TokenWeights:
    """The same weight for every token of a sample.

    Args:
        mask: (batch, completion_len) bool.
        weight: (batch,).
    """
    likelihood = mask * weight[:, None].float()
    return TokenWeights(
        likelihood=likelihood,
        unlikelihood=torch.zeros_like(likelihood),
        tag=torch.zeros_like(mask, dtype=torch.uint8),
        gated=torch.zeros_like(mask[:, 0]),
    )


def hidden_band(hidden: Tensor, mask: Tensor) -> Tensor:
    """Inner products of each token's state with its own and the next 16, in float16.

    All that the neighbourhood walk needs, so a stored run replays exactly. Divided by the sample's largest squared
    norm, which keeps float16 in range and no cosine notices.

    Args:
        hidden: (batch, completion_len, hidden_size), the states that predict the tokens.
        mask: (batch, completion_len) bool.
    Returns:
        (batch, completion_len, 17); entry [b, t, k] is ⟨h_t, h_{t+k}⟩, 0 where t+k is no completion token.
    """
    states = hidden.float() * mask[..., None]
    length = states.shape[1]
    band = states.new_zeros(*states.shape[:2], WINDOW + 1)
    for lag in range(min(WINDOW + 1, length)):
        band[:, : length - lag, lag] = (states[:, : length - lag] * states[:, lag:]).sum(-1)
    largest = band[..., 0].amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return (band / largest[:, None, None]).half()


def neighbourhood(salient: Tensor, band: Tensor, similarity: float) -> Tensor:
    """Tokens reached from the salient ones, walking left, then right, each time from the token's own state.

    A token joins while the cosine similarity of its state to the running centre stays above `similarity`; the
    centre becomes the mean of itself and each state that joins. Never across samples.

    Args:
        salient: (batch, completion_len) bool.
        band: (batch, completion_len, 17) float16, see `hidden_band`.
    Returns:
        Bool, same shape; contains the salient tokens.
    """
    # One transfer for the whole batch, then plain arrays: no comparison waits for the device.
    reached = salient.cpu().numpy().copy()
    products = band.cpu().numpy().astype(np.float64)
    sample, start = np.nonzero(reached)
    for step in (-1, 1):
        _walk(reached, products, sample, start, step, similarity)
    return torch.from_numpy(reached).to(salient.device)


def _walk(
    reached: NDArray[np.bool_],
    band: NDArray[np.float64],
    sample: NDArray[np.intp],
    start: NDArray[np.intp],
    step: int,
    similarity: float,
) -> None:
    """Move all walkers one token at a time, and mark where they get; `band` gives every product they need."""
    length = reached.shape[1]
    norm = band[sample, start, 0]  # |centre|², which is |own state|² at first
    joined = 0
    while True:
        nxt = start + step * (joined + 1)
        inside = (nxt >= 0) & (nxt < length)
        sample, start, norm, nxt = sample[inside], start[inside], norm[inside], nxt[inside]
        if not len(sample):
            return
        own = band[sample, nxt, 0]
        # The centre is Σ 2^-lag h, over the states that joined, newest first; the walker's own state, where the
        # walk began, weighs as much as the first that joined.
        dot = np.zeros(len(sample))
        for lag in range(1, min(joined + 1, WINDOW) + 1):
            other = nxt - step * lag
            weight = 2.0 ** -min(lag, joined)
            dot += weight * band[sample, np.minimum(nxt, other), lag]
        scale = norm * own
        joins = (scale > 0) & (dot > similarity * np.sqrt(np.maximum(scale, 0)))
        sample, start, nxt = sample[joins], start[joins], nxt[joins]
        reached[sample, nxt] = True
        norm = (norm[joins] + 2 * dot[joins] + own[joins]) / 4
        joined += 1


def _log(probability: float) -> float:
    return log(probability) if probability > 0 else -inf
