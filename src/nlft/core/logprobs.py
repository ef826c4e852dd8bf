"""Compute log-probabilities of completion tokens without making the (batch, length, vocabulary) logits.

The causal LM's own `forward` gets one more keyword. So a call on the wrapped model (PEFT, DDP, FSDP) still passes every
hook. A call to an unwrapped inner module would skip the gradient all-reduce.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import Cache, PreTrainedModel
from transformers.utils import ModelOutput

from nlft.core.beginnings import Beginnings, keeping
from nlft.core.conditions import IGNORE_INDEX, Rows
from nlft.core.heads import (
    DEFAULT_CHUNK_BYTES,
    BaseTargets,
    Head,
    HeldTargets,
    check_against_own_logits,
    cross_entropy_in_chunks,
    decoder_of,
    held_in_chunks,
    log_odds_in_chunks,
    logit_finisher,
    logits_beside_base,
)
from nlft.core.key_values import cache_keyword
from nlft.core.rotary import length_rule, own_lengths
from nlft.core.saliency import SparseTargets, TopTokens
from nlft.errors import UserError


@dataclass
class ScoredTokens(ModelOutput):  # type: ignore[misc]
    """The result of a scoring forward, flat over the scored tokens in row-major order.

    Attributes:
        log_odds: (scored,) float32, log p − log(1−p). Both logarithms can be computed from it without loss.
        top1: (scored,) bool, whether the token is the model's first choice.
        hidden: (scored, hidden_size), final-norm states at the positions that predict the tokens, detached; None
            unless requested.
        cross_entropy: (n,) float32, to the targets of `score_targets`; None without that keyword.
        kl, mass: (scored,) float32, see `held_in_chunks`; None without `score_base`.
        logits, base_logits: (n, vocabulary) float32, at the places of `score_logits`; None without that keyword.
    """

    log_odds: Tensor | None = None
    top1: Tensor | None = None
    hidden: Tensor | None = None
    cross_entropy: Tensor | None = None
    kl: Tensor | None = None
    mass: Tensor | None = None
    logits: Tensor | None = None
    base_logits: Tensor | None = None


@dataclass(frozen=True)
class TokenLogprobs:
    """Scores of one batch, aligned: (rows, completion_len), padded on the right where `mask` is False.

    Attributes:
        logp: natural log p of each token; 0 on padding.
        log1mp: log(1−p); 0 on padding. Finite if the logits are finite, even where p rounds to 0 or 1.
        mask: True on completion tokens.
        top1: True where the token is the model's first choice.
        hidden: (rows, completion_len, hidden_size) or None.
        target_losses: (rows,) each row's sum of weight · cross-entropy over its targets, with gradient, or None.
        kl: KL(q ‖ p) to the frozen base's target q, nats, with gradient; 0 on padding. None without `base`.
        mass: the frozen base's summed probability of the banned words; 0 on padding. None without `base`.
        logits, base_logits: (n, vocabulary) of the model, with gradient, and of the frozen base, at the places that
            were asked for. None without them.
    """

    logp: Tensor
    log1mp: Tensor
    mask: Tensor
    top1: Tensor
    hidden: Tensor | None = None
    target_losses: Tensor | None = None
    kl: Tensor | None = None
    mass: Tensor | None = None
    logits: Tensor | None = None
    base_logits: Tensor | None = None

    def part(self, start: int, stop: int, width: int | None = None) -> "TokenLogprobs":
        """Return the first `width` tokens of the rows from `start` to `stop` (exclusive), without `target_losses`."""
        logp, log1mp, mask, top1 = (x[start:stop, :width] for x in (self.logp, self.log1mp, self.mask, self.top1))
        return TokenLogprobs(logp, log1mp, mask, top1, None if self.hidden is None else self.hidden[start:stop, :width])


TopOf = Callable[[Tensor, Tensor, int], TopTokens]
"""(states, excluded, count) -> likeliest tokens; states (n, hidden_size), excluded ids (n, m). See `Likeliest`."""

ScoreTargets = Callable[[TokenLogprobs, Tensor, TopOf], SparseTargets]
"""(scores of the rows, ids of their tokens, likeliest tokens of states) -> targets, decided inside the forward.

The scores are detached, without `hidden`; the ids are (rows, completion_len).
"""


def scored_mask(rows: Rows) -> Tensor:
    """Return (rows, completion_len) bool, True on completion tokens. Flat scores are in the order of these."""
    lengths = (rows.labels != IGNORE_INDEX).sum(1)
    return torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]


@torch.no_grad()
def states_of(model: nn.Module, rows: Rows) -> Tensor:
    """Return the final-norm states that predict the labelled tokens: (scored, hidden_size), without a head's pass."""
    states: Tensor = _scored(model, rows, score_states=True).hidden
    return states


def _scored(
    model: nn.Module, rows: Rows, keep: Beginnings | None = None, after: Beginnings | None = None, **asked: Any
) -> Any:
    """Run the scoring forward over rows. Return `ScoredTokens`. For `keep` and `after`, see `score`."""
    given = {"attention_mask": rows.attention_mask} if after is None else after.inputs(rows.attention_mask)
    with keeping(model, keep) as kept:
        return model(input_ids=rows.input_ids, score_labels=rows.labels, use_cache=False, **given, **kept, **asked)


def score(
    model: nn.Module,
    rows: Rows,
    *,
    hidden: bool = False,
    targets: ScoreTargets | None = None,
    base: HeldTargets | None = None,
    logits_at: Tensor | None = None,
    keep: Beginnings | None = None,
    after: Beginnings | None = None,
) -> TokenLogprobs:
    """Score the labelled tokens of each row with a model that `enable_scoring` has prepared.

    Args:
        model: the model in the form that training uses, wrapped or not.
        hidden: also return the hidden states (for the neighbourhood walk).
        targets: also return the cross-entropy to the targets that it chooses.
        base: also return the KL divergence to these targets, one for each True place of `scored_mask(rows)`. Then a
            gradient flows through `logp` only at the graded places.
        logits_at: with `base`, also return whole rows of logits at these few places; bool, in the shape of
            `scored_mask(rows)`.
        keep: also keep the beginnings that other rows share with these.
        after: the rows go on from these beginnings.
    """
    labelled = rows.labels != IGNORE_INDEX
    lengths = labelled.sum(1)
    mask = scored_mask(rows)
    chosen: list[SparseTargets] = []

    def place(flat: Tensor) -> Tensor:
        shape = mask.shape + flat.shape[1:]
        where = mask.reshape(mask.shape + (1,) * (flat.dim() - 1)).expand(shape)
        return flat.new_zeros(shape).masked_scatter(where, flat)

    def scores(log_odds: Tensor, top1: Tensor) -> TokenLogprobs:
        return TokenLogprobs(place(logsigmoid(log_odds)), place(logsigmoid(-log_odds)), mask, place(top1))

    def flat_targets(log_odds: Tensor, top1: Tensor, top_of: TopOf) -> tuple[Tensor, Tensor, Tensor]:
        assert targets is not None
        found = targets(scores(log_odds, top1), place(rows.labels[labelled]), top_of)
        chosen.append(found)
        return (lengths.cumsum(0) - lengths)[found.sample] + found.position, found.ids, found.probabilities

    out = _scored(
        model,
        rows,
        keep,
        after,
        score_hidden=hidden,
        score_targets=flat_targets if targets else None,
        score_base=base,
        score_logits=None if logits_at is None else logits_at[mask],
    )
    return replace(
        scores(out.log_odds, out.top1),
        hidden=place(out.hidden) if hidden else None,
        target_losses=_row_sums(chosen[0], out.cross_entropy, len(mask)) if chosen else None,
        kl=place(out.kl) if base else None,
        mass=place(out.mass) if base else None,
        logits=out.logits,
        base_logits=out.base_logits,
    )


def _row_sums(targets: SparseTargets, cross_entropy: Tensor, rows: int) -> Tensor:
    """Sum weight · cross-entropy in each row: (rows,). A masked sum is deterministic on CUDA; `index_add` is not."""
    owned = targets.sample == torch.arange(rows, device=targets.sample.device)[:, None]
    return (owned * (targets.weight * cross_entropy)).sum(1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode. Restore the earlier mode of each of its modules afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    on = [module for module, training in modes if training]
    try:
        _switch(on, False)
        yield
    finally:
        _switch(on, True)
        for module, training in modes:  # a user may keep a part in eval mode
            if module.training != training:
                module.training = training


def _switch(modules: Sequence[nn.Module], training: bool) -> None:
    """Set the mode of each module, without a walk through its children where `train` does no more than that.

    Where it does more, it is called: DoRA's layers drop a cache.
    """
    for module in modules:
        own = type(module).train
        if own is nn.Module.train or (own is PreTrainedModel.train and not module.use_kernels):
            object.__setattr__(
                module, "training", training
            )  # nn.Module's own looks for parameters first: 10 times as long
        elif module.training != training:
            module.train(training)


def causal_lm(model: PreTrainedModel) -> PreTrainedModel:
    """Return the causal LM itself, without PEFT's wrapper if it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def enable_scoring(model: nn.Module, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
    """Add the keyword `score_labels` to a causal LM's forward. Calls without the keyword use the original forward.

    Args:
        model: any `AutoModelForCausalLM`, bare or under PEFT. A second call with the same model changes only the chunk.
        chunk_bytes: maximum memory for one chunk's logits, with their copies and gradient.

    Raises:
        NLFTError: the model changes its logits in a way that nlft does not support, so scores would be wrong.
        UserError: the adapter puts virtual tokens before the prompt.
    """
    _refuse_virtual_tokens(model)
    net: PreTrainedModel = causal_lm(model)
    net._nlft_chunk_bytes = chunk_bytes
    if hasattr(net, "_nlft_finish_logits"):
        return
    original_forward = net.forward
    net._nlft_finish_logits = logit_finisher(net.config.get_text_config())
    check_against_own_logits(net)

    # `wraps` keeps the signature, against which `generate` checks its keywords.
    @functools.wraps(type(net).forward)
    def forward(self: Any, *args: Any, score_labels: Tensor | None = None, **kwargs: Any) -> Any:
        if score_labels is None:
            for name in ("score_hidden", "score_states", "score_targets", "score_base", "score_logits", "score_cache"):
                kwargs.pop(name, None)
            return original_forward(*args, **kwargs)
        # PEFT also passes keywords that its caller left out. The decoder does not accept `labels`.
        given = {name: value for name, value in kwargs.items() if value is not None and name != "labels"}
        return _scoring_forward(self, score_labels, *args, **given)

    net.forward = MethodType(forward, net)


def _refuse_virtual_tokens(model: nn.Module) -> None:
    """Refuse adapters that lengthen a row, which would shift labels against states. Prefix tuning does not."""
    for config in getattr(model, "peft_config", {}).values():
        kind = getattr(config.peft_type, "value", str(config.peft_type))
        if config.is_prompt_learning and kind != "PREFIX_TUNING":
            raise UserError(
                f"the adapter is of PEFT's type {kind}, which puts virtual tokens before each prompt.\n"
                "  nlft cannot score such rows. Use LoRA, another adapter of weights, or prefix tuning."
            )


def _scoring_forward(
    model: PreTrainedModel,
    score_labels: Tensor,
    *args: Any,
    score_hidden: bool = False,
    score_states: bool = False,
    score_targets: Callable[[Tensor, Tensor, TopOf], tuple[Tensor, Tensor, Tensor]] | None = None,
    score_base: HeldTargets | None = None,
    score_logits: Tensor | None = None,
    score_cache: Cache | None = None,
    **kwargs: Any,
) -> ScoredTokens:
    # Look up decoder and head on each call, because PEFT and FSDP replace them after this forward is set.
    decoder = decoder_of(model)
    if score_cache is not None:
        keyword = cache_keyword(decoder)
        assert keyword is not None, "`shares_beginnings` tries this"
        kwargs[keyword] = score_cache
    with own_lengths(decoder, length_rule(model.config.get_text_config()), kwargs["attention_mask"]):
        states = decoder(*args, **kwargs).last_hidden_state
    labelled = score_labels[:, 1:] != IGNORE_INDEX
    selected = states[:, :-1][labelled]
    if score_states:
        return ScoredTokens(hidden=selected)
    head, said = Head(model, with_base=score_base is not None), score_labels[:, 1:][labelled]
    out = ScoredTokens(hidden=selected.detach() if score_hidden else None)
    if score_base is None:
        log_odds, top1 = log_odds_in_chunks(selected, said, head)
    else:
        log_odds, top1, out.kl, out.mass = held_in_chunks(selected, said, score_base, head)
        if score_logits is not None:
            assert isinstance(score_base, BaseTargets), "kept tokens of a base are not its whole logits"
            base_states = score_base.states[score_logits]
            out.logits, out.base_logits = logits_beside_base(selected[score_logits], base_states, head)
    out.log_odds, out.top1 = log_odds, top1
    if score_targets is not None:
        index, ids, probabilities = score_targets(log_odds.detach(), top1, head.likeliest)
        out.cross_entropy = cross_entropy_in_chunks(selected[index], ids, probabilities, head)
    return out
