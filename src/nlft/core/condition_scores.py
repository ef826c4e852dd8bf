"""Score one batch under all its conditions, with the model's current weights."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nlft.core.batches import Batch
from nlft.core.beginnings import Beginnings
from nlft.core.conditions import IGNORE_INDEX
from nlft.core.hold import HoldRows, Role, base_targets
from nlft.core.logprobs import TokenLogprobs, TopOf, evaluating, score, scored_mask
from nlft.core.neighbourhood import hidden_band
from nlft.core.saliency import ChooseTargets, ConditionLogprobs, SparseTargets
from nlft.core.snapshot import KnownScores

_NOISE = ("drop", "jitter", "noise")  # parts of the names of such numbers


@dataclass(frozen=True)
class ExtraScores:
    """Scores of the extra rows of a batch, E of them, with gradient where it is enabled.

    Attributes:
        sample: (E,) the sample of each row.
        logp: (E, tokens), padded on the right with 0.
    """

    sample: Tensor
    logp: Tensor


@dataclass(frozen=True)
class StruckLogits:
    """Whole rows of logits at the n struck tokens of a batch.

    Attributes:
        sample: (n,) the sample of each token.
        said: (n,) the token's id.
        banned: (n, m) ids that the base may not say there, `said` among them; an id may come twice.
        now, base: (n, vocabulary) float32, of the model, with gradient, and of the frozen base.
    """

    sample: Tensor
    said: Tensor
    banned: Tensor
    now: Tensor
    base: Tensor


@dataclass(frozen=True)
class HeldScores:
    """How far the model is from the frozen base, over R rows: the samples, then the extra rows.

    Attributes:
        sample: (R,) the sample of each row.
        kl: (R, tokens) KL(q ‖ p) to the target that the plan makes of the base, nats, with gradient.
        mass: (R, tokens) the base's probability of the plan's words.
        role: (R, tokens) uint8, see `Role`.
        banned: (R, tokens) bool, whether q lacks any token.
        logp: (R, tokens) of the row's own tokens, with gradient at graded tokens.
        replacements: (R,) number of replacements in the row.
        struck: logits at the struck tokens, or None if the scheme does not need `logits`.
    """

    sample: Tensor
    kl: Tensor
    mass: Tensor
    role: Tensor
    banned: Tensor
    logp: Tensor
    replacements: Tensor
    struck: StruckLogits | None = None


@dataclass(frozen=True)
class ScoredBatch:
    """Scores of a batch of B samples.

    Attributes:
        logp, log1mp: (B, completion_len) under base, with gradient where it is enabled.
        conditions: the same tokens under every condition, without gradient. A saliency scheme reads these.
        lengths: (B,) completion tokens.
        answer_logp, answer_lengths: the trained answers, (B, answer_len) and (B,), or None.
        extra: scores of the extra rows, or None if the batch has no extra rows.
        extra_losses: (B,) each sample's loss from the chosen targets, or None without `choose`.
        top1: (rows, length) bool, True where the token is the model's first choice. Rows: completions, then answers.
        trained: same shape, True where a token is trained.
        held: distances to the frozen base, or None if the scheme does not need `hold`.
    """

    logp: Tensor
    log1mp: Tensor
    conditions: ConditionLogprobs
    lengths: Tensor
    answer_logp: Tensor | None
    answer_lengths: Tensor | None
    extra: ExtraScores | None
    extra_losses: Tensor | None
    top1: Tensor
    trained: Tensor
    held: HeldScores | None = None


def is_noisy(model: nn.Module) -> bool:
    """Return whether the model draws random numbers in training mode: dropout of any kind, jitter, NEFTune.

    Many models drop attention weights with a function, so the modules' own numbers are looked at, and not their kinds.
    """
    return any(
        isinstance(value, int | float) and value > 0 and any(word in name for word in _NOISE)
        for module in model.modules()
        for name, value in [*vars(module).items(), *_dropout_of(module)]
    )


def _dropout_of(module: nn.Module) -> list[tuple[str, float]]:
    return [("dropout", module.p)] if isinstance(module, nn.modules.dropout._DropoutNd) else []


def score_batch(
    model: nn.Module,
    batch: Batch,
    needs: frozenset[str],
    *,
    noisy: bool = False,
    choose: ChooseTargets | None = None,
) -> ScoredBatch:
    """Score a batch: base in a pass with gradient, standard and judge in a pass without.

    If the batch has `known` scores, there is no pass without gradient.

    Args:
        needs: see `Scheme.needs`.
        noisy: the pass with gradient draws random numbers, see `is_noisy`. Then base is scored once more, in eval mode:
            what a scheme reads has no noise.
        choose: see `ExtraLoss.choose`; `needs` must have `standard`.
    """
    size, width = len(batch.label), batch.width
    if batch.known is not None:
        return _with_known(model, batch, batch.known, needs)
    reads_states = bool(needs & {"band", "hidden"})
    begun = Beginnings(batch.begun) if batch.begun else None
    reads_clean = noisy and bool(needs)
    # The pass without gradient comes first: its buffers are freed before the pass that keeps activations.
    with torch.no_grad(), evaluating(model):
        frozen = base_targets(model, batch.trained_rows, batch.held) if batch.held else None
        clean = score(model, batch.trained_rows, hidden=reads_states, keep=begun) if reads_clean else None
        scored = None
        if batch.scored_rows and (not batch.base_first or clean):
            scored = score(model, batch.scored_rows, hidden=choose is not None, after=begun)

    def targets(now: TokenLogprobs, said: Tensor, top_of: TopOf) -> SparseTargets:
        assert choose is not None
        assert scored is not None
        assert scored.hidden is not None
        states = scored.hidden[:size]
        known = _conditions((clean or now).part(0, size, width), scored, batch, needs)
        return choose(known, said[:size, :width], lambda row, at, *rest: top_of(states[row, at], *rest))

    struck = batch.held.role == Role.STRUCK if batch.held and "logits" in needs else None
    rows = score(
        model,
        batch.trained_rows,
        hidden=reads_states and clean is None,
        targets=targets if choose else None,
        base=frozen,
        logits_at=struck,
        keep=begun if clean is None else None,
    )
    if batch.scored_rows and scored is None:  # they may go on from beginnings of the rows that were just read
        with torch.no_grad(), evaluating(model):
            scored = score(model, batch.scored_rows, after=begun)
    read = (clean or rows).part(0, size, width)
    conditions = _conditions(read, scored, batch, needs)
    band = hidden_band(read.hidden, read.mask) if read.hidden is not None and "band" in needs else None
    conditions = replace(
        conditions,
        band=band,
        hidden=read.hidden if "hidden" in needs else None,
        role=batch.held.role[:size, :width] if batch.held else None,
        graded=batch.held.graded[:size, :width] if batch.held else None,
    )
    return _scored_batch(batch, rows, conditions)


def _with_known(model: nn.Module, batch: Batch, known: KnownScores, needs: frozenset[str]) -> ScoredBatch:
    """Score base in a pass with gradient. Take the conditions, and the frozen base, from a snapshot."""
    size, width = len(batch.label), batch.width
    frozen = None
    if batch.held and "hold" in needs and known.top is not None:
        frozen = batch.held.top_targets(known.top, scored_mask(batch.trained_rows))
    rows = score(model, batch.trained_rows, base=frozen)
    base = rows.part(0, size, width)
    conditions = ConditionLogprobs(
        base=known.base,
        mask=base.mask,
        label=batch.label,
        standard=known.standard,
        judge=known.judge,
        band=known.band,
        role=batch.held.role[:size, :width] if batch.held else None,
        graded=batch.held.graded[:size, :width] if batch.held else None,
        current=base.logp.detach(),
    )
    return _scored_batch(batch, rows, conditions)


def _scored_batch(batch: Batch, rows: TokenLogprobs, conditions: ConditionLogprobs) -> ScoredBatch:
    """Part the scores of the rows with gradient: samples, answers, extra rows."""
    size = len(batch.label)
    stop = 2 * size if batch.answers else size
    base = rows.part(0, size, batch.width)
    answers, extra = rows.part(size, stop), rows.part(stop, stop + len(batch.extra_samples))
    return ScoredBatch(
        logp=base.logp,
        log1mp=base.log1mp,
        conditions=conditions,
        lengths=base.mask.sum(1),
        answer_logp=answers.logp if batch.answers else None,
        answer_lengths=answers.mask.sum(1) if batch.answers else None,
        extra=ExtraScores(batch.extra_samples, extra.logp) if len(batch.extra_samples) else None,
        extra_losses=rows.target_losses[:size] if rows.target_losses is not None else None,
        top1=rows.top1[:stop],
        trained=rows.mask[:stop],
        held=_held(batch, rows, stop),
    )


def _held(batch: Batch, rows: TokenLogprobs, stop: int) -> HeldScores | None:
    """Leave out the answers' rows, which are not held."""
    if batch.held is None or rows.kl is None or rows.mass is None:
        return None
    size = len(batch.label)
    kept = torch.cat([torch.arange(size), torch.arange(stop, len(rows.mask))]).to(rows.mask.device)
    return HeldScores(
        sample=torch.cat([torch.arange(size, device=kept.device), batch.extra_samples]),
        kl=rows.kl[kept],
        mass=rows.mass[kept],
        role=batch.held.role[kept],
        banned=batch.held.ban[kept] > 0,
        logp=rows.logp[kept],
        replacements=batch.held.replacements[kept],
        struck=_struck(batch, batch.held, rows),
    )


def _struck(batch: Batch, held: HoldRows, rows: TokenLogprobs) -> StruckLogits | None:
    """Put the logits of struck tokens beside their ids. Only the samples' own rows have struck tokens."""
    if rows.logits is None or rows.base_logits is None:
        return None
    labels = batch.trained_rows.labels
    said = torch.zeros_like(held.role, dtype=torch.long).masked_scatter(rows.mask, labels[labels != IGNORE_INDEX])
    sample, position = (held.role == Role.STRUCK).nonzero(as_tuple=True)
    return StruckLogits(
        sample=sample,
        said=said[sample, position],
        banned=held.bans[held.ban[sample, position]],
        now=rows.logits,
        base=rows.base_logits,
    )


def _conditions(
    base: TokenLogprobs, scored: TokenLogprobs | None, batch: Batch, needs: frozenset[str]
) -> ConditionLogprobs:
    """Put each condition's log-probabilities of the samples side by side."""
    size = len(batch.label)
    standard = judge = None
    if scored is not None and "standard" in needs:
        standard = scored.logp[:size, : batch.width]
    if scored is not None and "judge" in needs:
        judge = _judge(base.logp.detach(), scored, batch.label, 0 if standard is None else size)
    return ConditionLogprobs(base=base.logp.detach(), mask=base.mask, label=batch.label, standard=standard, judge=judge)


def _judge(base: Tensor, scored: TokenLogprobs, label: Tensor, start: int) -> Tensor:
    """Put the judge rows, which begin at `start`, beside their samples. Right samples have none and get base."""
    judge = base.clone()
    rows = scored.logp[start : start + int((~label).sum()), : base.shape[1]].to(judge.dtype)
    judge[~label, : rows.shape[1]] = rows  # judge rows alone may be narrower than the batch
    return judge
