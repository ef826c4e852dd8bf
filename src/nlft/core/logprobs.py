"""Compute log-probabilities of completion tokens without making the (batch, length, vocabulary) logits.

The causal LM's own `forward` gets one more keyword. So a call on the wrapped model (PEFT, DDP, FSDP) still passes every
hook. A call to an unwrapped inner module would skip the gradient all-reduce.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from nlft.core.conditions import IGNORE_INDEX, Rows
from nlft.core.saliency import SparseTargets, TopTokens
from nlft.errors import NLFTError

DEFAULT_CHUNK_BYTES = 256 * 2**20
# Maximum number of copies of a chunk's float32 logits in memory at once: the head's output, its float32 form, the
# gradient, and one of the logit transformation. A chunk's size is chosen so that all of them fit into the stated bytes.
_LIVE_COPIES = 4


@dataclass
class ScoredTokens(ModelOutput):  # type: ignore[misc]
    """The result of a scoring forward, flat over the scored tokens in row-major order.

    Attributes:
        log_odds: (scored,) float32, log p − log(1−p). Both logarithms can be computed from it without loss.
        top1: (scored,) bool, whether the token is the model's first choice.
        hidden: (scored, hidden_size), final-norm states at the positions that predict the tokens, detached; None
            unless requested.
        cross_entropy: (n,) float32, to the targets of `score_targets`; None without that keyword.
    """

    log_odds: Tensor | None = None
    top1: Tensor | None = None
    hidden: Tensor | None = None
    cross_entropy: Tensor | None = None


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
    """

    logp: Tensor
    log1mp: Tensor
    mask: Tensor
    top1: Tensor
    hidden: Tensor | None = None
    target_losses: Tensor | None = None

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


def score(model: nn.Module, rows: Rows, *, hidden: bool = False, targets: ScoreTargets | None = None) -> TokenLogprobs:
    """Score the labelled tokens of each row with a model that `enable_scoring` has prepared.

    Args:
        model: the model in the form that training uses, wrapped or not.
        hidden: also return the hidden states (for the neighbourhood walk).
        targets: also return the cross-entropy to the targets that it chooses.
    """
    labelled = rows.labels != IGNORE_INDEX
    lengths = labelled.sum(1)
    width = int(lengths.max())
    mask = torch.arange(width, device=labelled.device) < lengths[:, None]
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

    out = model(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        score_labels=rows.labels,
        score_hidden=hidden,
        score_targets=flat_targets if targets else None,
        use_cache=False,
    )
    return replace(
        scores(out.log_odds, out.top1),
        hidden=place(out.hidden) if hidden else None,
        target_losses=_row_sums(chosen[0], out.cross_entropy, len(mask)) if chosen else None,
    )


def _row_sums(targets: SparseTargets, cross_entropy: Tensor, rows: int) -> Tensor:
    """Sum weight · cross-entropy in each row: (rows,). A masked sum is deterministic on CUDA; `index_add` is not."""
    owned = targets.sample == torch.arange(rows, device=targets.sample.device)[:, None]
    return (owned * (targets.weight * cross_entropy)).sum(1)


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
    """
    net: PreTrainedModel = causal_lm(model)
    net._nlft_chunk_bytes = chunk_bytes
    if hasattr(net, "_nlft_finish_logits"):
        return
    original_forward = net.forward
    net._nlft_finish_logits = _logit_finisher(net.config.get_text_config())
    _check_against_own_logits(net)

    # `wraps` keeps the signature, against which `generate` checks its keywords.
    @functools.wraps(type(net).forward)
    def forward(self: Any, *args: Any, score_labels: Tensor | None = None, **kwargs: Any) -> Any:
        if score_labels is None:
            for name in ("score_hidden", "score_targets"):
                kwargs.pop(name, None)
            return original_forward(*args, **kwargs)
        # PEFT also passes keywords that its caller left out. The decoder does not accept `labels`.
        given = {name: value for name, value in kwargs.items() if value is not None and name != "labels"}
        return _scoring_forward(self, score_labels, *args, **given)

    net.forward = MethodType(forward, net)


def _scoring_forward(
    model: PreTrainedModel,
    score_labels: Tensor,
    *args: Any,
    score_hidden: bool = False,
    score_targets: Callable[[Tensor, Tensor, TopOf], tuple[Tensor, Tensor, Tensor]] | None = None,
    **kwargs: Any,
) -> ScoredTokens:
    # Look up decoder and head on each call, because PEFT and FSDP replace them after this forward is set.
    states = model.base_model(*args, **kwargs).last_hidden_state
    head = _Head(model)
    labelled = score_labels[:, 1:] != IGNORE_INDEX
    selected = states[:, :-1][labelled]
    log_odds, top1 = _log_odds_in_chunks(selected, score_labels[:, 1:][labelled], head)
    out = ScoredTokens(log_odds=log_odds, top1=top1, hidden=selected.detach() if score_hidden else None)
    if score_targets is not None:
        index, ids, probabilities = score_targets(log_odds.detach(), top1, head.likeliest)
        out.cross_entropy = _cross_entropy_in_chunks(selected[index], ids, probabilities, head)
    return out


class _Head:
    """A model's current LM head, and the maximum number of rows of logits in a chunk."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = model.get_output_embeddings()
        self.finish = model._nlft_finish_logits
        weight = getattr(self.module, "weight", None)
        self.vocabulary = self.module.out_features if weight is None else weight.shape[0]
        self.rows = max(1, model._nlft_chunk_bytes // (4 * _LIVE_COPIES * self.vocabulary))
        # Under FSDP2 the inner backward of the frozen head's function runs the hooks of sharded modules, and the
        # process crashes (torch 2.13). Recomputing is slower but works.
        sharded = isinstance(model, FSDPModule) or isinstance(self.module, FSDPModule)
        self.recomputes = sharded or any(p.requires_grad for p in self.module.parameters())

    def logits(self, states: Tensor) -> Tensor:
        """Compute the float32 logits of states, (n, vocabulary)."""
        finished: Tensor = self.finish(self.module(states)).float()
        return finished

    @torch.no_grad()
    def likeliest(self, states: Tensor, excluded: Tensor, count: int) -> TopTokens:
        """Find the likeliest tokens of states from an eval pass. Put an adapter on the head in eval mode too."""
        was_training = self.module.training
        self.module.eval()
        try:
            parts = [
                self.logits(some).scatter_(1, without, -torch.inf).topk(min(count, self.vocabulary - without.shape[1]))
                for some, without in zip(states.split(self.rows), excluded.split(self.rows), strict=True)
            ]
        finally:
            self.module.train(was_training)
        return TopTokens(torch.cat([ids for _, ids in parts]), torch.cat([logits for logits, _ in parts]))


def _log_odds_in_chunks(hidden: Tensor, targets: Tensor, head: _Head) -> tuple[Tensor, Tensor]:
    """Return log p − log(1−p) of each target, (scored,) float32, and whether the target is the first choice."""
    if torch.is_grad_enabled() and head.recomputes:

        def scored(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return _LogOdds.apply(head.logits(h), t)  # type: ignore[no-any-return]

        parts = [
            checkpoint(scored, h, t, use_reentrant=False)
            for h, t in zip(hidden.split(head.rows), targets.split(head.rows), strict=True)
        ]
        if parts:
            log_odds, top1 = (torch.cat(x) for x in zip(*parts, strict=True))
            return log_odds, top1
    return _FrozenHeadLogOdds.apply(hidden, targets, head)  # type: ignore[no-any-return]


def _cross_entropy_in_chunks(states: Tensor, ids: Tensor, probabilities: Tensor, head: _Head) -> Tensor:
    """Compute −Σ_k probabilities_k · log p(ids_k) at each state, (n,) float32. p is over the whole vocabulary."""

    def cross_entropy(h: Tensor, i: Tensor, q: Tensor) -> Tensor:
        return -(q * head.logits(h).log_softmax(1).gather(1, i)).sum(1)

    chunks = zip(*(x.split(head.rows) for x in (states, ids, probabilities)), strict=True)
    return torch.cat([checkpoint(cross_entropy, *chunk, use_reentrant=False) for chunk in chunks])


class _LogOdds(torch.autograd.Function):
    """Computes the target's log-odds u from float32 logits z: z_target − logsumexp of the others.

    Equals `log_softmax(z)[target] - log(1 - softmax(z)[target])`, but never computes 1−p from a rounded p.
    du/dz is 1 on the target and −softmax over the others. So only the logits are kept, and one buffer is written.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        index = targets[:, None]
        others = logits.scatter(1, index, -torch.inf)
        best = others.amax(1, keepdim=True)
        target_logit = logits.gather(1, index)
        lse = best + others.sub_(best).exp_().sum(1, keepdim=True).log_()
        ctx.save_for_backward(logits, index, lse)
        top1 = (target_logit >= best).squeeze(1)
        ctx.mark_non_differentiable(top1)
        return (target_logit - lse).squeeze(1), top1

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None]:
        logits, index, lse = ctx.saved_tensors
        grad = grad[:, None]
        out = (logits - lse).exp_().scatter_(1, index, 0).mul_(-grad)
        return out.scatter_(1, index, grad), None


class _FrozenHeadLogOdds(torch.autograd.Function):
    """`_LogOdds` through a head that is not trained, chunk by chunk, without recomputation in backward.

    A token's log-odds depend only on its own state. So forward keeps du/dstate, (scored, hidden_size), and backward is
    one product. The head runs twice in total; checkpointing needs three passes.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: _Head) -> tuple[Tensor, Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        log_odds = hidden.new_empty(len(hidden), dtype=torch.float32)
        top1 = torch.empty_like(targets, dtype=torch.bool)
        slope = torch.empty_like(hidden) if wants_grad else None
        for start in range(0, len(hidden), head.rows):
            part = slice(start, start + head.rows)
            with torch.set_grad_enabled(wants_grad):
                states = hidden[part].detach().requires_grad_(wants_grad)
                u, first = _LogOdds.apply(head.logits(states), targets[part])
            log_odds[part], top1[part] = u.detach(), first
            if slope is not None:
                (slope[part],) = torch.autograd.grad(u, states, torch.ones_like(u))
        ctx.save_for_backward(*([slope] if slope is not None else []))
        ctx.mark_non_differentiable(top1)
        return log_odds, top1

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad[:, None] * slope).to(slope.dtype), None, None


def _logit_finisher(config: Any) -> Callable[[Tensor], Tensor]:
    """Return the model family's change of the head's output: scaling (Cohere, Granite, ...), soft cap (Gemma 2)."""
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            scale = getattr(config, name)
            break
    else:
        if getattr(config, "logits_scaling", None):
            scale = 1 / config.logits_scaling
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: Tensor) -> Tensor:
        if scale != 1.0:
            logits = logits * scale
        return torch.tanh(logits / cap) * cap if cap else logits

    return finish


@torch.no_grad()
def _check_against_own_logits(model: PreTrainedModel) -> None:
    """Compare head(decoder(x)), with the family's change, with the model's own logits on a few tokens.

    If they differ, refuse the model, because training would use wrong scores.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(1, 5, device=embeddings.device)[None] % embeddings.shape[0]
    was_training = model.training
    model.eval()
    try:
        own = model(input_ids=ids, use_cache=False).logits.float()
        states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        ours = model._nlft_finish_logits(model.get_output_embeddings()(states)).float()
    finally:
        model.train(was_training)
    # The difference is relative to the logits' size. bf16 keeps 8 bits; a missing scale or cap makes a far larger one.
    if not torch.allclose(own, ours, rtol=2e-2, atol=2e-2 * float(own.abs().max())):
        raise NLFTError(
            f"{type(model).__name__} changes its logits after the LM head in a way that nlft does not support, so "
            f"log-probabilities would be wrong (largest difference {float((own - ours).abs().max()):.3g}).\n"
            "  Please report the model's name."
        )
