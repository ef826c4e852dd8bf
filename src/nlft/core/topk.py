"""KL divergence to a base of which only the likeliest tokens are kept: the base's top k, and all others as one bucket.

Such a base takes a few hundred bytes per token on disk, where the whole distribution takes the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from nlft.core.heads import BaseTargets, Head


@dataclass(frozen=True)
class TopParts:
    """The likeliest tokens of a target q at n places. Flat, because each place has its own number of them.

    Attributes:
        counts: (n,) int32, the kept tokens of each place, at least 1; 0 at a place without a target.
        ids: (sum of counts,) int32, the likeliest first.
        log_q: (sum of counts,) float32, natural logarithm of q at these tokens.
        tail: (n,) float32, log of q's mass on all other tokens that are not banned; −inf if none is left.
        mass: (n,) float32, the base's probability of the plan's words.
    """

    counts: Tensor
    ids: Tensor
    log_q: Tensor
    tail: Tensor
    mass: Tensor

    @classmethod
    def blank(cls, places: int) -> "TopParts":
        """Return parts of places without a target."""
        nothing, zeros = torch.zeros(0), torch.zeros(places)
        return cls(zeros.int(), nothing.int(), nothing, torch.full((places,), -torch.inf), zeros)

    @classmethod
    def joined(cls, parts: "Sequence[TopParts]") -> "TopParts":
        """Join the places of several parts, at least one."""
        return cls(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(cls)))

    def split(self, places: Sequence[int]) -> "list[TopParts]":
        """Split into parts of so many places each."""
        each = [x.split(list(places)) for x in (self.counts, self.tail, self.mass)]
        tokens = [int(counts.sum()) for counts in each[0]]
        ids, log_q = self.ids.split(tokens), self.log_q.split(tokens)
        return [TopParts(*one) for one in zip(each[0], ids, log_q, each[1], each[2], strict=True)]

    def padded(self) -> "TopBase":
        """Pad the tokens of each place to one number."""
        counts = self.counts.long()
        width = max(1, int(counts.max())) if len(counts) else 1
        filled = torch.arange(width) < counts[:, None]
        ids = torch.zeros(filled.shape, dtype=torch.long).masked_scatter_(filled, self.ids.long())
        log_q = torch.full(filled.shape, -torch.inf).masked_scatter_(filled, self.log_q)
        return TopBase(ids, log_q, self.tail, self.mass)


@dataclass(frozen=True)
class TopBase:
    """The likeliest tokens of a target at n places, padded.

    Attributes:
        ids: (n, k) long; 0 where a place has fewer tokens, or none.
        log_q: (n, k) float32; −inf there.
        tail, mass: (n,) float32, see `TopParts`.
    """

    ids: Tensor
    log_q: Tensor
    tail: Tensor
    mass: Tensor


@torch.no_grad()
def top_parts(base: BaseTargets, wanted: Tensor, head: Head, *, mass: float, most: int) -> TopParts:
    """Keep the likeliest tokens of the target q of each wanted place, chunk by chunk.

    Args:
        base: see `BaseTargets`; q has no banned token, and the temperature of its place.
        wanted: (n,) bool. Other places get no target.
        mass: least share of q that the kept tokens hold, from 0 to 1.
        most: largest number of kept tokens. Where q is flat, they hold less than `mass`.

    Returns:
        Parts of all n places, on the CPU.
    """
    places = wanted.nonzero()[:, 0]
    counts, tail, words = (torch.zeros(len(wanted), dtype=kind) for kind in (torch.int32, torch.float32, torch.float32))
    tail.fill_(-torch.inf)
    ids, log_q = [], []
    for some in places.split(head.rows):
        target, of_words = head.base_target(base.at(some))
        parts = _likeliest(target, mass, most)
        at = some.cpu()
        counts[at], tail[at], words[at] = parts[0].int().cpu(), parts[3].cpu(), of_words.float().cpu()
        ids.append(parts[1].int().cpu())
        log_q.append(parts[2].cpu())
    none = torch.zeros(0)
    return TopParts(counts, torch.cat([none.int(), *ids]), torch.cat([none, *log_q]), tail, words)


def _likeliest(log_q: Tensor, mass: float, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return counts, ids and log q of the kept tokens, and the log mass of the others, of (n, vocabulary) log q."""
    values, order = log_q.topk(min(most, log_q.shape[1]), dim=1)
    before = values.exp().cumsum(1) - values.exp()
    # A kept token is one before which less than `mass` is reached. A banned token has q = 0 and is never kept.
    kept = (before < mass) & (values > -torch.inf)
    tail = log_q.scatter(1, order, values.masked_fill(kept, -torch.inf)).logsumexp(1)
    return kept.sum(1), order[kept], values[kept], tail


@dataclass(frozen=True)
class TopTargets:
    """Top-k targets at n places of a batch, as `held_in_chunks` reads them.

    Attributes:
        ids, log_q, tail, mass: see `TopBase`. At a place without a target the divergence is 0.
        ban, bans, graded: as in `BaseTargets`.
    """

    ids: Tensor
    log_q: Tensor
    tail: Tensor
    mass: Tensor
    ban: Tensor
    bans: Tensor
    graded: Tensor

    def part(self, where: slice) -> "TopTargets":
        """Return the places of a slice."""
        cut = (x[where] for x in (self.ids, self.log_q, self.tail, self.mass, self.ban, self.graded))
        ids, log_q, tail, mass, ban, graded = cut
        return TopTargets(ids, log_q, tail, mass, ban, self.bans, graded)

    def check(self, head: Head) -> None:
        """Accept any head, trained or not: the targets do not depend on it."""

    def distance(self, logits: Tensor, head: Head) -> tuple[Tensor, Tensor]:
        """Return KL(q ‖ p) at each place, with gradient through the logits (n, vocabulary) of p; and the mass."""
        # A place without bans reads row 0, whose ids mean nothing: its own first token stands for them.
        banned = torch.where(self.ban[:, None] > 0, self.bans[self.ban], self.ids[:, :1])
        kl: Tensor = _TopKL.apply(logits, self.ids, self.log_q, self.tail, banned)
        return kl * (self.log_q[:, 0] > -torch.inf), self.mass

    def with_distance(self, states: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of states, and `distance`."""
        logits = head.logits(states)
        return (logits, *self.distance(logits, head))


class _TopKL(torch.autograd.Function):
    """Computes Σ_k q_k log(q_k / p_k) over the kept tokens k, plus q_tail log(q_tail / p_tail), from the logits of p.

    The tail is one bucket: all tokens that are neither kept nor banned. p_tail is the sum of p over them, from a
    logsumexp. Banned tokens are in no bucket, because q is 0 there.

    The result is a lower bound of KL(q ‖ p). It is too small by q_tail · KL(q|tail ‖ p|tail), which is between 0 and
    q_tail · min(δ, δ²/8), where δ is the difference between the largest and the smallest log(p_j / q_j) in the tail
    (Hoeffding's lemma). If p keeps the tail's proportions, it is exact. So q_tail, at most 1 − mass where the cap was
    not reached, bounds the error: with mass 0.999 and δ = 2, by 0.0005 nats. With k = vocabulary it is exact.

    With respect to the logits, the gradient at token j is p_j − q_j if j is kept, p_j − q_tail · p_j / p_tail in the
    tail, and p_j if j is banned.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, log_q: Tensor, tail: Tensor, banned: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        taken = torch.where(log_q > -torch.inf, ids, ids[:, :1])
        log_tail = log_p.scatter(1, torch.cat([taken, banned], 1), -torch.inf).logsumexp(1)
        q, q_tail = log_q.exp(), tail.exp()
        gaps = (log_q - log_p.gather(1, taken)).masked_fill(q == 0, 0)
        lead = tail - log_tail
        ctx.save_for_backward(logits, taken, q, lead.masked_fill(q_tail == 0, -torch.inf), banned)
        return (q * gaps).sum(1) + q_tail * lead.masked_fill(q_tail == 0, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, taken, q, lead, banned = ctx.saved_tensors
        log_p = logits.log_softmax(1)
        # What a token's gradient subtracts from p: q at kept tokens, the tail's q in p's proportions, 0 if banned.
        minus = (log_p + lead[:, None]).exp_().scatter_(1, torch.cat([taken, banned], 1), 0.0).scatter_add_(1, taken, q)
        return log_p.exp_().sub_(minus).mul_(grad[:, None]), None, None, None, None
