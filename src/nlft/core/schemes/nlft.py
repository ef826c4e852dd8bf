"""`nlft`: the paper's scheme, with the paper's inverted comparison corrected."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import inf, log
from typing import Annotated, Literal

import torch
from torch import Tensor

from nlft.config import Range
from nlft.core.neighbourhood import neighbourhood
from nlft.core.saliency import ConditionLogprobs, Likeliest, SparseTargets, Tag, TokenWeights, plain_likelihood
from nlft.core.schemes.scheme import ExtraLoss, HoldSettings, Scheme, hold_needs, setting


@dataclass(frozen=True)
class NLFTSettings(HoldSettings):
    """Settings of `nlft`. The defaults give the paper's scheme.

    Settings that the paper lacks have no effect at their defaults, except `nll_weight`, which is from the paper's code.
    """

    mistake_ratio: Annotated[float, Range(1, inf)] = setting(
        1.5, "A mistake is more than this many times likelier under judge than under base, and than under standard."
    )
    mistake_floor: Annotated[float, Range(0, 1)] = setting(
        0.01, "A mistake has more than this probability under judge."
    )
    unlikelihood_shift: Annotated[float, Range(0, inf)] = setting(
        1.5, "tau in the weight of a mistake, 2 sigmoid(pJ/pB - tau)."
    )
    contradiction: bool = setting(
        False,
        "Also tag mistakes that the model is sure of: likely under base, and very unlikely under standard.",
    )
    contradiction_base: Annotated[float, Range(0, 1)] = setting(
        0.5, "contradiction tags tokens with more than this probability under base."
    )
    contradiction_standard: Annotated[float, Range(0, 1)] = setting(
        0.05, "contradiction tags tokens with less than this probability under standard."
    )
    redirect: bool = setting(
        False, "Also train the first mistake of each wrong sample toward the likeliest tokens under standard."
    )
    redirect_weight: Annotated[float, Range(0, inf)] = setting(1.0, "Factor on the cross-entropy that redirect adds.")
    redirect_tokens: Annotated[int, Range(1, 1024)] = setting(
        8,
        "Number of likeliest tokens under standard that redirect trains toward. Excludes the token in the completion.",
    )
    gate_fraction: Annotated[float, Range(0, 1)] = setting(
        0.06, "If more than this fraction of a wrong sample is salient, its other tokens weigh 0."
    )
    wrong_likelihood: Annotated[float, Range(0, inf)] = setting(
        1.0, "Factor on the likelihood of a wrong sample's tokens. At 0 only its mistakes are trained."
    )
    after_mistake: Literal["keep", "zero"] = setting(
        "keep",
        "Tokens after a wrong sample's first mistake depend on it. keep: train them; zero: their likelihood weighs 0, "
        "and later mistakes are still pushed down.",
    )
    certain_threshold: Annotated[float, Range(0, 1)] = setting(
        0.95, "In right samples, tokens with more than this probability under standard are salient."
    )
    certain_exponent: Annotated[float, Range(0, inf)] = setting(
        5.0, "Exponent in the weight of a salient right token, 1 + ((pS - threshold) / (1 - threshold))^exponent."
    )
    neighbour_exponent: Annotated[float, Range(0, inf)] = setting(
        0.3, "Exponent in the weight of its neighbours, (pS / threshold)^exponent."
    )
    plain_exponent: Annotated[float, Range(0, inf)] = setting(
        0.6, "Exponent in the weight of a right sample's other tokens, (pS / threshold)^exponent."
    )
    neighbour_similarity: Annotated[float, Range(-1, 1)] = setting(
        0.6,
        "kappa: a token joins while the cosine similarity of its state to the running centre is above this.",
    )
    nll_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Likelihood weight added to every token of right samples."
    )
    branch_weight: Annotated[float, Range(0, inf)] = setting(
        1.0, "Factor on all weights except nll_weight. At 0 the run is the control without the branch."
    )


def nlft_weights(logprobs: ConditionLogprobs, settings: NLFTSettings) -> TokenWeights:
    """Weigh tokens by the paper's scheme, per sample, with its inverted comparison fixed (see docs/SALIENCY.md).

    Wrong samples: push down tokens that only the judgment makes likely, give their neighbourhood no weight, and weigh
    the other tokens by the square root of their probability under standard. Right samples: push up harder the tokens
    that standard is nearly certain of.
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
    # A contradiction gets the smallest weight of the judgment's mistakes, because pJ/pB does not measure it.
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
    """Find tokens that the judgment makes likely; with `contradiction`, also those that only standard shows as wrong.

    pJ/pB > ratio cannot hold where pB > 1/ratio, so the first test cannot find tokens of which the model is sure.

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


def redirect_targets(
    logprobs: ConditionLogprobs, said: Tensor, likeliest: Likeliest, settings: NLFTSettings
) -> SparseTargets:
    """Make the targets at each sample's first mistake: standard's likeliest other tokens, renormalised.

    Later mistakes are left out, because they depend on the first. A sample without a mistake has a place too, with
    weight 0, because each rank must use as many places as it has samples.

    Args:
        said: (batch, completion_len) ids of the completion tokens.
    """
    mistakes = tag_mistakes(logprobs, settings)
    position = mistakes.int().argmax(1)  # the first True; 0 where there is none
    sample = torch.arange(len(position), device=position.device)
    top = likeliest(sample, position, said[sample, position, None], settings.redirect_tokens)
    return SparseTargets(
        sample=sample,
        position=position,
        ids=top.ids,
        probabilities=top.logits.softmax(1),
        weight=mistakes.any(1).float(),
    )


def _log(probability: float) -> float:
    return log(probability) if probability > 0 else -inf


def _needs(settings: NLFTSettings) -> frozenset[str]:
    # With the branch off, no code reads the conditions. A step then costs no more than in plain fine-tuning.
    read = frozenset({"standard", "judge", "band"}) if settings.branch_weight else frozenset()
    return read | hold_needs(settings)


def _extra_loss(settings: NLFTSettings) -> ExtraLoss | None:
    weight = settings.branch_weight * settings.redirect_weight
    if not settings.redirect or not weight:
        return None
    return ExtraLoss("redirect", weight, partial(redirect_targets, settings=settings))


_REDIRECT = ("redirect", "redirect_weight", "redirect_tokens")
_AT_MISTAKES = ("mistake_ratio", "unlikelihood_shift", "gate_fraction", "after_mistake", *_REDIRECT)


def _idle(settings: NLFTSettings) -> dict[str, str]:
    if not settings.branch_weight:
        used = ("branch_weight", "nll_weight", "hold_weight")
        return {f.name: "branch_weight is 0" for f in fields(settings) if f.name not in used}
    cfg = settings
    rules: tuple[tuple[bool, Sequence[str], str], ...] = (
        (not cfg.contradiction, ("contradiction_base", "contradiction_standard"), "contradiction is false"),
        (cfg.contradiction_base == 1, ("contradiction", "contradiction_standard"), "contradiction_base is 1"),
        (cfg.contradiction_standard == 0, ("contradiction", "contradiction_base"), "contradiction_standard is 0"),
        (not cfg.redirect, _REDIRECT[1:], "redirect is false"),
        (cfg.redirect and not cfg.redirect_weight, ("redirect", "redirect_tokens"), "redirect_weight is 0"),
        # A sample with a mistake is gated, so the tokens after it weigh 0.
        (cfg.gate_fraction == 0, ("after_mistake",), "gate_fraction is 0"),
        (cfg.wrong_likelihood == 0, ("gate_fraction", "after_mistake"), "wrong_likelihood is 0"),
        (cfg.mistake_floor == 1 and not cfg.contradiction, _AT_MISTAKES, "mistake_floor is 1, so nothing is a mistake"),
        (cfg.certain_threshold == 1, ("certain_exponent", "neighbour_exponent"), "certain_threshold is 1"),
        (cfg.certain_threshold == 0, ("neighbour_exponent", "plain_exponent"), "certain_threshold is 0"),
        (cfg.neighbour_similarity == 1, ("neighbour_exponent",), "neighbour_similarity is 1"),
    )
    return {name: why for holds, names, why in rules if holds for name in names}


SCHEME = Scheme("nlft", NLFTSettings, nlft_weights, _needs, extra_loss=_extra_loss, idle=_idle)
