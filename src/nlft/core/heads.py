"""Compute what training needs of a causal LM's logits, chunk by chunk: log-odds, cross-entropy, and KL to a base.

No function makes the (length, vocabulary) logits of a whole batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from nlft.core.logit_slopes import LogOdds, Measured, WithSlope, odds_, parts_of
from nlft.core.saliency import TopTokens
from nlft.errors import NLFTError

DEFAULT_CHUNK_BYTES = 256 * 2**20
# Maximum number of copies of a chunk's float32 logits in memory at once: the head's output, its float32 form, the
# gradient, and one of the logit transformation. A chunk's size is chosen so that all of them fit into the stated bytes.
_LIVE_COPIES = 4
# With a frozen base: also its logits, the target made of them, and their difference from the model's.
_LIVE_COPIES_WITH_BASE = 8


@dataclass(frozen=True)
class BaseTargets:
    """The frozen base's distribution at n places, and what is taken out of it, for a KL divergence to the model.

    The target is q(k) ∝ b(k)^(1/temperature) for tokens k that are not banned, else 0.

    Attributes:
        states: (n, hidden_size), the base's final-norm states, without gradient.
        ban: (n,) long, the row of `bans` that holds at a place; 0 bans nothing.
        bans: (sets, m) long, token ids. A short set repeats an id. Row 0 is not read.
        temperature: (n,) float32, over 0.
        words: (w,) long, token ids. Their summed probability under b is reported.
        graded: (n,) bool, places where a gradient flows through the log-odds, too. Elsewhere it does not.
    """

    states: Tensor
    ban: Tensor
    bans: Tensor
    temperature: Tensor
    words: Tensor
    graded: Tensor

    def part(self, where: slice) -> "BaseTargets":
        """Return the places of a slice."""
        return self.at(where)

    def at(self, where: slice | Tensor) -> "BaseTargets":
        """Return some of the places: a slice, or indices."""
        cut = (x[where] for x in (self.states, self.ban, self.temperature, self.graded))
        states, ban, temperature, graded = cut
        return BaseTargets(states, ban, self.bans, temperature, self.words, graded)

    def check(self, head: "Head") -> None:
        """Refuse a head that is trained, so that it is no longer the frozen base's.

        Raises:
            NLFTError: the head is trained.
        """
        if head.trained:
            raise NLFTError(
                "the adapter trains the LM head, so the frozen base's distribution cannot be computed with it.\n"
                "  Leave the head out of --lora_target_modules and modules_to_save, set hold_weight to 0, or add "
                "--condition_logprobs frozen."
            )

    def own_logits(self, head: "Head") -> Tensor:
        """Return the base's logits, (n, vocabulary)."""
        return head.logits(self.states)

    def both_logits(self, states: Tensor, head: "Head") -> tuple[Tensor, Tensor]:
        """Return the logits of the model's states, and the base's own, from one call of the head.

        Under FSDP2 a second call of the head, without gradient, makes the process crash in backward (torch 2.13).
        """
        logits, own = head.logits(torch.cat([states, self.states])).tensor_split(2)
        return logits, own.detach().clone()

    @torch.no_grad()
    def target_(self, own: Tensor) -> tuple[Tensor, Tensor]:
        """Compute log q, (n, vocabulary), −inf where banned; and b's mass on `words`, (n,).

        Args:
            own: the base's logits, overwritten.
        """
        mass = (own[:, self.words].logsumexp(1) - own.logsumexp(1)).exp() if len(self.words) else 0 * own[:, 0]
        own /= self.temperature[:, None]
        banned = self.ban.nonzero()
        own[banned, self.bans[self.ban[banned[:, 0]]]] = -torch.inf
        return own.log_softmax(1), mass

    @torch.no_grad()
    def measure_(self, logits: Tensor, said: Tensor, own: Tensor | None, *, slope: bool, odds: bool = True) -> Measured:
        """Measure KL(q ‖ p). See `HeldTargets`.

        If both models have the same logits and nothing is banned, divergence and slope are exactly 0.
        """
        assert own is not None
        found = Measured.of(logits)
        for part in parts_of(logits):
            z = logits[part]
            if odds:
                found.log_odds[part], found.top1[part] = odds_(z.clone(), said[part], slope=False)
            log_q, found.mass[part] = self.part(part).target_(own[part])
            q = log_q.exp()
            # Not softmax: it rounds otherwise than the target, and Adam makes whole steps of such differences.
            log_p = z.log_softmax(1)
            found.kl[part] = log_q.sub_(log_p).masked_fill_(q == 0, 0).mul_(q).sum(1)
            if slope:
                z.copy_(log_p.exp_().sub_(q))
        return found


class HeldTargets(Protocol):
    """Target distributions q at n places, from states of the base or from its likeliest tokens (`core.topk`).

    Attributes:
        graded: (n,) bool, see `BaseTargets`.
    """

    @property
    def graded(self) -> Tensor: ...

    def part(self, where: slice) -> "HeldTargets": ...

    def check(self, head: "Head") -> None: ...

    def own_logits(self, head: "Head") -> Tensor | None: ...

    def both_logits(self, states: Tensor, head: "Head") -> tuple[Tensor, Tensor | None]: ...

    def measure_(self, logits: Tensor, said: Tensor, own: Tensor | None, *, slope: bool, odds: bool = True) -> Measured:
        """Measure n places.

        Args:
            logits: (n, vocabulary) of p, float32, overwritten: with dKL/dlogits = p − q if `slope`.
            said: (n,) ids of the tokens whose log-odds are measured.
            own: the base's logits, which `own_logits` or `both_logits` returned; overwritten.
            odds: whether log-odds and first choices are read. Without it they may hold anything.
        """
        ...


class Head:
    """A model's current LM head, and the maximum number of rows of logits in a chunk."""

    def __init__(self, model: PreTrainedModel, *, with_base: bool = False) -> None:
        self.module = model.get_output_embeddings()
        self.finish = model._nlft_finish_logits
        weight = getattr(self.module, "weight", None)
        self.vocabulary = self.module.out_features if weight is None else weight.shape[0]
        copies = _LIVE_COPIES_WITH_BASE if with_base else _LIVE_COPIES
        self.rows = max(1, model._nlft_chunk_bytes // (4 * copies * self.vocabulary))
        self.trained = any(p.requires_grad for p in self.module.parameters())
        # Under FSDP2 the inner backward of the frozen head's function runs the hooks of sharded modules, and the
        # process crashes (torch 2.13). Recomputing is slower but works.
        self.sharded = isinstance(model, FSDPModule) or isinstance(self.module, FSDPModule)
        self.recomputes = self.sharded or self.trained

    def chunks(self, places: Tensor) -> list[slice]:
        """Cut n places, (n, ...), into chunks of `rows`; no place is one empty chunk.

        Each backward through a sharded head gathers its weights again. So under FSDP2 all processes cut as many chunks
        as the process with the most places, and the last ones may be empty.
        """
        count = max(1, -(-len(places) // self.rows))
        if self.sharded and dist.is_initialized():
            most = torch.tensor(count, device=places.device)
            dist.all_reduce(most, dist.ReduceOp.MAX)
            count = int(most)
        return [slice(start, start + self.rows) for start in range(0, count * self.rows, self.rows)]

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
                self.logits(states[part])
                .scatter_(1, excluded[part], -torch.inf)
                .topk(min(count, self.vocabulary - excluded.shape[1]))
                for part in self.chunks(states)
            ]
        finally:
            self.module.train(was_training)
        return TopTokens(torch.cat([ids for _, ids in parts]), torch.cat([logits for logits, _ in parts]))


def log_odds_in_chunks(hidden: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Return log p − log(1−p) of each target, (scored,) float32, and whether the target is the first choice."""
    if torch.is_grad_enabled() and head.recomputes:

        def scored(h: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            return LogOdds.apply(head.logits(h), t)  # type: ignore[no-any-return]

        parts = [checkpoint(scored, hidden[part], targets[part], use_reentrant=False) for part in head.chunks(hidden)]
        log_odds, top1 = (torch.cat(x) for x in zip(*parts, strict=True))
        return log_odds, top1
    return _FrozenHeadLogOdds.apply(hidden, targets, head)  # type: ignore[no-any-return]


def held_in_chunks(
    hidden: Tensor, targets: Tensor, base: HeldTargets, head: Head
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the log-odds and first choices of `log_odds_in_chunks`; KL(q ‖ p) and b's mass on the words, (scored,).

    Raises:
        NLFTError: the head is trained, so that it is no longer the frozen base's.
    """
    base.check(head)
    if torch.is_grad_enabled() and head.recomputes:

        def scored(h: Tensor, t: Tensor, part: slice) -> tuple[Tensor, ...]:
            some = base.part(part)
            logits, own = some.both_logits(h, head)
            slope = logits.detach().clone()
            found = some.measure_(slope, t, own, slope=True, odds=False)
            return (*LogOdds.apply(logits, t), WithSlope.apply(logits, found.kl, slope), found.mass)

        chunks = head.chunks(hidden)
        parts = [checkpoint(scored, hidden[part], targets[part], part, use_reentrant=False) for part in chunks]
        log_odds, top1, kl, mass = (torch.cat(x) for x in zip(*parts, strict=True))
        return log_odds, top1, kl, mass
    return _FrozenHeadHeld.apply(hidden, targets, base, head)  # type: ignore[no-any-return]


def logits_beside_base(states: Tensor, base_states: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """Compute a model's and its base's logits at a few places, each (n, vocabulary) float32. The base has no gradient.

    Use it for a few places only: it makes whole rows.
    """
    now, base = head.logits(torch.cat([states, base_states])).tensor_split(2)  # also of no place
    return now, base.detach()


def cross_entropy_in_chunks(states: Tensor, ids: Tensor, probabilities: Tensor, head: Head) -> Tensor:
    """Compute −Σ_k probabilities_k · log p(ids_k) at each state, (n,) float32. p is over the whole vocabulary."""

    def cross_entropy(h: Tensor, i: Tensor, q: Tensor) -> Tensor:
        return -(q * head.logits(h).log_softmax(1).gather(1, i)).sum(1)

    places = (states, ids, probabilities)
    chunks = head.chunks(states)
    return torch.cat([checkpoint(cross_entropy, *(x[part] for x in places), use_reentrant=False) for part in chunks])


class _FrozenHeadLogOdds(torch.autograd.Function):
    """`LogOdds` through a head that is not trained, chunk by chunk, without recomputation in backward.

    A token's log-odds depend only on its own state. So forward keeps du/dstate, (scored, hidden_size), and backward is
    one product. The head runs twice in total; checkpointing needs three passes.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        log_odds = hidden.new_empty(len(hidden), dtype=torch.float32)
        top1 = torch.empty_like(targets, dtype=torch.bool)
        slope = torch.empty_like(hidden) if wants_grad else None
        for part in head.chunks(hidden):
            log_odds[part], top1[part], some = _odds_and_slope(hidden[part], targets[part], head, wants_grad)
            if slope is not None and some is not None:
                slope[part] = some
        ctx.save_for_backward(*([slope] if slope is not None else []))
        ctx.mark_non_differentiable(top1)
        return log_odds, top1

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (grad[:, None] * slope).to(slope.dtype), None, None


def _odds_and_slope(hidden: Tensor, targets: Tensor, head: Head, grad: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return log-odds u, first choices, and du/dstate if `grad`."""
    states, logits = _fresh_logits(hidden, head, grad)
    values = logits.detach()
    u, first = odds_(values, targets, slope=grad)
    return u, first, torch.autograd.grad(logits, states, values)[0] if grad else None


def _fresh_logits(hidden: Tensor, head: Head, grad: bool) -> tuple[Tensor, Tensor]:
    """Return states whose gradient ends here, and their logits, whose values may be overwritten."""
    with torch.set_grad_enabled(grad):
        states = hidden.detach().requires_grad_(grad)
        return states, head.logits(states)


class _FrozenHeadHeld(torch.autograd.Function):
    """Log-odds and KL to the base, through a head that is not trained. See `_FrozenHeadLogOdds`.

    Few tokens need a gradient through their log-odds, so those go through the head once more.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, base: HeldTargets, head: Head
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wants_grad = ctx.needs_input_grad[0]
        log_odds, kl, mass = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
        top1 = torch.empty_like(targets, dtype=torch.bool)
        kl_slope = torch.empty_like(hidden) if wants_grad else None
        graded = base.graded.nonzero()[:, 0] if wants_grad else base.graded.new_empty(0, dtype=torch.long)
        for part in head.chunks(hidden):
            some = base.part(part)
            states, logits = _fresh_logits(hidden[part], head, wants_grad)
            values = logits.detach()
            found = some.measure_(values, targets[part], some.own_logits(head), slope=wants_grad)
            kl[part], mass[part], log_odds[part], top1[part] = found.kl, found.mass, found.log_odds, found.top1
            if kl_slope is not None:
                (kl_slope[part],) = torch.autograd.grad(logits, states, values)
        slopes = [_odds_and_slope(hidden[rows], targets[rows], head, True)[2] for rows in graded.split(head.rows)]
        odds_slope = torch.cat([hidden.new_empty(0, hidden.shape[1]), *(s for s in slopes if s is not None)])
        ctx.save_for_backward(*([kl_slope, odds_slope, graded] if kl_slope is not None else []))
        ctx.mark_non_differentiable(top1, mass)
        return log_odds, top1, kl, mass

    @staticmethod
    def backward(ctx: Any, odds_grad: Tensor, _: Any, kl_grad: Tensor, __: Any) -> tuple[Tensor, None, None, None]:
        kl_slope, odds_slope, graded = ctx.saved_tensors
        out = (kl_grad[:, None] * kl_slope).to(kl_slope.dtype)
        if len(graded):
            out[graded] += (odds_grad[graded, None] * odds_slope).to(out.dtype)
        return out, None, None, None


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """Return the part of a causal LM that computes the states which its head reads."""
    base: nn.Module = model.base_model
    embeddings = model.get_input_embeddings()
    if base is not model:
        return base
    # Llama 4 names a part that it does not have. The decoder is what holds the embeddings.
    return next(part for part in model.children() if any(inner is embeddings for inner in part.modules()))


def logit_finisher(config: Any) -> Callable[[Tensor], Tensor]:
    """Return the model family's change of the head's output: scaling (Cohere, Granite, ...), soft cap (Gemma 2)."""
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            scale = getattr(config, name)
            break
    else:
        if getattr(config, "logits_scaling", None):
            scale = 1 / config.logits_scaling
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")  # Gemma, RecurrentGemma, xLSTM
    cap = next((value for name in names if (value := getattr(config, name, None))), None)

    def finish(logits: Tensor) -> Tensor:
        if scale != 1.0:
            logits = logits * scale
        return torch.tanh(logits / cap) * cap if cap else logits

    return finish


@torch.no_grad()
def check_against_own_logits(model: PreTrainedModel) -> None:
    """Compare head(decoder(x)), with the family's change, with the model's own logits on a few tokens.

    If they differ, refuse the model, because training would use wrong scores.
    """
    embeddings = model.get_input_embeddings().weight
    ids = torch.arange(1, 5, device=embeddings.device)[None] % embeddings.shape[0]
    was_training = model.training
    model.eval()
    try:
        own = model(input_ids=ids, use_cache=False).logits.float()
        states = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
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
