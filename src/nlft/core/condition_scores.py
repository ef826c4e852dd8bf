"""One batch under all its conditions: what the model being trained says of each completion token right now."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nlft.core.batches import Batch
from nlft.core.logprobs import Looked, TokenLogprobs, score
from nlft.core.neighbourhood import hidden_band
from nlft.core.saliency import ConditionLogprobs


@dataclass(frozen=True)
class FirstMistakes:
    """What base and standard make of the token where each sample's first mistake is; B samples.

    Attributes:
        base_logits: (B, vocabulary) float32, with gradient.
        standard_logits: same shape, without.
        said: (B,) ids of the tokens.
        found: (B,) bool; where it is False there is no mistake, and the rest holds some other token.
    """

    base_logits: Tensor
    standard_logits: Tensor
    said: Tensor
    found: Tensor


Mistakes = Callable[[ConditionLogprobs], Tensor]
"""Which tokens are mistakes, (batch, completion_len) bool, from base, standard and judge alone; pure."""


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of a batch of B samples.

    Attributes:
        logp, log1mp: (B, completion_len) under base, with gradient where it is enabled.
        conditions: the same tokens under every condition, without gradient: what a saliency scheme reads.
        lengths: (B,) completion tokens.
        target_logp, target_lengths: the trained answers, (B, answer_len) and (B,), or None.
        misread_logp: (B, completion_len), see `original_losses`, or None.
        top1: (rows, length) bool, the model's first choice, over all tokens that are trained.
        trained: same shape, True where a token is trained.
        first: the samples' first mistakes, or None where they were not asked for.
    """

    logp: Tensor
    log1mp: Tensor
    conditions: ConditionLogprobs
    lengths: Tensor
    target_logp: Tensor | None
    target_lengths: Tensor | None
    misread_logp: Tensor | None
    top1: Tensor
    trained: Tensor
    first: FirstMistakes | None = None


def score_batch(
    model: Any,
    batch: Batch,
    needs: frozenset[str],
    *,
    base_without_dropout: bool = False,
    mistakes: Mistakes | None = None,
) -> ScoredBatch:
    """Score a batch `live`: one pass with gradient, and one without for standard and judge.

    Args:
        needs: see `Scheme.needs`.
        base_without_dropout: score base once more in eval mode for the tags, as dropout in the adapter calls for.
        mistakes: also look at what is said at the first of each sample's; the scheme must need standard and judge.
    """
    size, width = len(batch.label), batch.width
    frozen = clean = None
    # Without gradient first: its buffers are gone before the pass that keeps activations.
    with torch.no_grad(), evaluating(model):
        if batch.frozen is not None:
            frozen = score(model, batch.frozen, hidden=mistakes is not None)
        if base_without_dropout and needs:
            clean = score(model, batch.graded)

    def first_mistakes(logp: Tensor) -> tuple[Tensor, Tensor]:
        """Decided inside the pass with gradient: where to look is not known before base is, and costs no other pass."""
        assert frozen is not None
        assert frozen.hidden is not None
        assert mistakes is not None
        known = _conditions(logp if clean is None else clean.logp, frozen.mask, frozen, batch, needs)
        # The first True; 0 where there is none, so that every rank looks at as many rows as it has samples.
        at = mistakes(known).int().argmax(1)
        return at, frozen.hidden[torch.arange(size, device=at.device), at]

    wants_hidden = bool(needs & {"band", "hidden"})
    graded = score(model, batch.graded, hidden=wants_hidden, look=first_mistakes if mistakes else None)
    mask = graded.mask[:size, :width]
    hidden = graded.hidden[:size, :width] if graded.hidden is not None else None
    after_targets = 2 * size if batch.targets else size
    conditions = _conditions((clean or graded).logp, mask, frozen, batch, needs)
    return ScoredBatch(
        logp=graded.logp[:size, :width],
        log1mp=graded.log1mp[:size, :width],
        conditions=replace(
            conditions,
            band=hidden_band(hidden, mask) if hidden is not None and "band" in needs else None,
            hidden=hidden if "hidden" in needs else None,
        ),
        lengths=mask.sum(1),
        target_logp=graded.logp[size:after_targets] if batch.targets else None,
        target_lengths=graded.mask[size:after_targets].sum(1) if batch.targets else None,
        misread_logp=_misread(graded, after_targets, batch) if batch.misread else None,
        top1=graded.top1[:after_targets],
        trained=graded.mask[:after_targets],
        first=_first(graded.looked, mistakes(conditions)) if mistakes and graded.looked else None,
    )


def _conditions(
    logp: Tensor, mask: Tensor, frozen: TokenLogprobs | None, batch: Batch, needs: frozenset[str]
) -> ConditionLogprobs:
    """The samples' rows of each condition, side by side.

    Args:
        logp, mask: of base; more rows and columns than the samples' may follow.
    """
    size, width = len(batch.label), batch.width
    base = logp[:size, :width].detach()
    standard = judge = None
    if frozen is not None and "standard" in needs:
        standard = frozen.logp[:size, :width]
    if frozen is not None and "judge" in needs:
        judge = _judge(base, frozen, batch.label, 0 if standard is None else size)
    return ConditionLogprobs(
        base=base,
        mask=mask[:size, :width],
        label=batch.label,
        standard=standard,
        judge=judge,
    )


def _first(looked: Looked, mistakes: Tensor) -> FirstMistakes:
    return FirstMistakes(looked.logits, looked.other_logits, looked.said, mistakes.any(1))


def _judge(base: Tensor, frozen: TokenLogprobs, label: Tensor, start: int) -> Tensor:
    """Judge rows, from `start` on, put back beside their samples; right samples, which have none, hold base."""
    judge = base.clone()
    rows = frozen.logp[start : start + int((~label).sum()), : base.shape[1]].to(judge.dtype)
    judge[~label, : rows.shape[1]] = rows  # judge rows alone may be narrower than the batch
    return judge


def _misread(graded: TokenLogprobs, start: int, batch: Batch) -> Tensor:
    logp = graded.logp[: len(batch.label), : batch.width]
    rows = (~batch.label).nonzero()[:, 0]
    return logp.index_copy(0, rows, graded.logp[start:, : batch.width]) if len(rows) else logp


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode, and back in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
