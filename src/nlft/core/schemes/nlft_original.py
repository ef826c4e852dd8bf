"""`nlft-original`: the computation of the paper's published code with its defects, so that its runs can be repeated.

These defects are known and kept:
- The walk joins tokens whose states are *far* from the centre (the code takes a cosine distance for a similarity).
- The centre is not reset between walks.
- All samples of a batch are one long sequence. So clusters cross from one sample to the next, and the 6% is a share of
  the batch.
- The loss is multiplied by ten.
- The plain NLL of wrong samples is read in the judge row at the base row's positions.

In training each sample is its own batch, as in the paper's script. The comparisons use float32 probabilities, not
logarithms, because the two differ at the thresholds.
"""

from dataclasses import dataclass
from math import inf
from typing import Annotated

import torch
from torch import Tensor

from nlft.config import Range
from nlft.core.condition_scores import ScoredBatch
from nlft.core.conditions import EncodedExample, Row, judge_prompt
from nlft.core.loss import SampleLosses
from nlft.core.saliency import ConditionLogprobs, Tag, TokenWeights
from nlft.core.schemes.scheme import Scheme, setting

LOSS_FACTOR = 10.0
_ZERO_GUARD = 1e-5


@dataclass(frozen=True)
class OriginalSettings:
    """Settings of `nlft-original`."""

    threshold: Annotated[float, Range(0, inf)] = setting(1.5, "tau in the weight of a mistake, 2 sigmoid(pJ/pB - tau).")
    ratio: Annotated[float, Range(1, inf)] = setting(
        1.5, "A mistake is more than this many times likelier under judge than under base, and than under standard."
    )
    judge_floor: Annotated[float, Range(0, 1)] = setting(0.01, "A mistake has more than this probability under judge.")
    salient_fraction: Annotated[float, Range(0, 1)] = setting(
        0.06, "If more than this fraction of a wrong sample is salient, its other tokens weigh 0."
    )
    cluster_distance: Annotated[float, Range(0, 2)] = setting(
        0.4, "A token joins a cluster while its cosine distance to the centre is above this, as in the published code."
    )
    correct_threshold: Annotated[float, Range(0, 1)] = setting(
        0.95, "In right samples, tokens with more than this probability under standard are salient."
    )


def original_token_weights(
    base: Tensor, judge: Tensor | None, standard: Tensor, hidden: Tensor, settings: OriginalSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return salient mask, cluster mask and weight of each token. The batch is one sequence, its samples joined.

    Args:
        base, judge, standard: float32 probabilities, (tokens,); `judge` is None for right samples.
        hidden: (tokens, hidden_size) states that predict the tokens, base row.
    """
    if judge is not None:
        salient = (judge / base > settings.ratio) & (judge / standard > settings.ratio)
        salient &= judge > settings.judge_floor
        cluster = original_cluster(salient, hidden, settings.cluster_distance)
        elsewhere = standard.sqrt().masked_fill(cluster, 0)
        if salient.sum() / len(salient) > settings.salient_fraction:
            elsewhere = torch.zeros_like(elsewhere)
        push = 2 * torch.sigmoid(judge / base - settings.threshold)
        return salient, cluster, torch.where(salient, push, elsewhere)
    limit = settings.correct_threshold
    salient = standard > limit
    cluster = original_cluster(salient, hidden, settings.cluster_distance)
    relative = (standard / limit) ** torch.where(cluster, 0.3, 0.6)
    return salient, cluster, torch.where(salient, 1 + ((standard - limit) / (1 - limit)) ** 5, relative)


def original_cluster(salient: Tensor, hidden: Tensor, distance: float) -> Tensor:
    """Find the tokens that walks from the salient ones reach: left, then right, without a reset of the centre."""
    states, reached = hidden.float().cpu(), salient.cpu().clone()
    for start in salient.cpu().nonzero()[:, 0].tolist():
        centre = states[start]
        for way in (range(start - 1, -1, -1), range(start + 1, len(reached))):
            for at in way:
                cosine = torch.nn.functional.cosine_similarity(centre, states[at], dim=0)
                if not 1 - cosine > distance:
                    break
                reached[at] = True
                centre = (centre + states[at]) / 2
    return reached.to(salient.device)


def guarded_log(probability: Tensor) -> Tensor:
    """Return log p. Replace a p of exactly 0 with 1e-5."""
    return torch.log(torch.where(probability == 0, probability + _ZERO_GUARD, probability))


def original_weights(logprobs: ConditionLogprobs, settings: OriginalSettings) -> TokenWeights:
    """Compute the token weights. Each sample is its own batch."""
    assert logprobs.standard is not None
    assert logprobs.judge is not None
    assert logprobs.hidden is not None
    zeros = torch.zeros_like(logprobs.base, dtype=torch.float32)
    likelihood, unlikelihood = zeros, zeros.clone()
    tag = torch.zeros_like(logprobs.mask, dtype=torch.uint8)
    gated = torch.zeros_like(logprobs.label)
    for row, right in enumerate(logprobs.label.tolist()):
        mask = logprobs.mask[row]
        base, judge, standard = (x[row][mask].float().exp() for x in (logprobs.base, logprobs.judge, logprobs.standard))
        salient, cluster, weight = original_token_weights(
            base, None if right else judge, standard, logprobs.hidden[row][mask], settings
        )
        mistakes = torch.zeros_like(salient) if right else salient
        likelihood[row, mask] = weight.masked_fill(mistakes, 0)
        unlikelihood[row, mask] = weight.masked_fill(~mistakes, 0)
        if not right and salient.sum() / len(salient) > settings.salient_fraction:
            gated[row] = True
        rest = Tag.GATED if gated[row] else Tag.PLAIN
        tags = torch.full_like(tag[row][mask], rest).masked_fill(cluster, Tag.NEIGHBOUR)
        tag[row, mask] = tags.masked_fill(salient, Tag.SALIENT)
    return TokenWeights(likelihood, unlikelihood, tag, gated)


def original_losses(weights: TokenWeights, logp: Tensor, misread_logp: Tensor) -> SampleLosses:
    """Compute ten times the branch loss and the NLL of each sample, summed over its tokens.

    Args:
        weights: from `original_weights`.
        logp: (batch, completion_len) under base, with gradient.
        misread_logp: same shape, with gradient: the judge row's log-probabilities of the base row's labels at the
            base row's positions. For right samples, the base row's own log-probabilities.
    """
    p = logp.exp()
    pull = -(weights.likelihood * guarded_log(p)).sum(1)
    push = -(weights.unlikelihood * guarded_log(1 - p)).sum(1)
    return SampleLosses(likelihood=LOSS_FACTOR * (pull - misread_logp.sum(1)), unlikelihood=LOSS_FACTOR * push)


def misread_rows(example: EncodedExample) -> list[Row]:
    """Make one more row with gradient for a wrong sample: its judge row, read at the base row's positions."""
    if example.label:
        return []
    return [Row([*judge_prompt(example), *example.completion], len(example.base), example.completion)]


def _losses(weights: TokenWeights, scored: ScoredBatch, settings: OriginalSettings) -> SampleLosses:
    misread = scored.logp
    if scored.extra is not None:
        misread = misread.index_copy(0, scored.extra.sample, scored.extra.logp[:, : misread.shape[1]])
    return original_losses(weights, scored.logp, misread)


_NEEDS = frozenset({"standard", "judge", "hidden"})
SCHEME = Scheme(
    "nlft-original", OriginalSettings, original_weights, lambda _: _NEEDS, losses=_losses, extra_rows=misread_rows
)
