"""KL divergence to a base of which only the likeliest tokens are kept: the base's top k, and all others as one bucket.

Such a base takes a few hundred bytes per token on disk, where the whole distribution takes the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from nlft.core.heads import BaseTargets, Head
from nlft.core.logit_slopes import Measured, parts_of


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
        mass: least share of q that the kept tokens hold, from 0 to 1. 0 keeps the likeliest token alone.
        most: largest number of kept tokens. Where q is flat, they hold less than `mass`.

    Returns:
        Parts of all n places, on the CPU.
    """
    places = wanted.nonzero()[:, 0]
    counts, tail, words = (torch.zeros(len(wanted), dtype=kind) for kind in (torch.int32, torch.float32, torch.float32))
    tail.fill_(-torch.inf)
    ids, log_q = [], []
    for some in places.split(head.rows):
        at_some = base.at(some)
        target, of_words = at_some.target_(at_some.own_logits(head))
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
    # A kept token is one before which less than `mass` is reached. Even a mass of 0 keeps the first: a place without a
    # kept token has no target. A banned token has q = 0 and is never kept.
    kept = ((before < mass) | (torch.arange(before.shape[1], device=before.device) == 0)) & (values > -torch.inf)
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

    def own_logits(self, head: Head) -> None:
        """Return None: the base's logits are not needed."""

    def both_logits(self, states: Tensor, head: Head) -> tuple[Tensor, None]:
        """Return the logits of the model's states."""
        return head.logits(states), None

    @torch.no_grad()
    def measure_(self, logits: Tensor, said: Tensor, own: Tensor | None, *, slope: bool, odds: bool = True) -> Measured:
        """Measure Σ_k q_k log(q_k / p_k) over the kept tokens k, plus q_tail log(q_tail / p_tail). See `HeldTargets`.

        The tail is one bucket: all tokens that are neither kept nor banned. p_tail is the sum of p over them. Banned
        tokens are in no bucket, because q is 0 there.

        The result is a lower bound of KL(q ‖ p). It is too small by q_tail · KL(q|tail ‖ p|tail), which is between 0
        and q_tail · min(δ, δ²/8), where δ is the difference between the largest and the smallest log(p_j / q_j) in the
        tail (Hoeffding's lemma). If p keeps the tail's proportions, it is exact. So q_tail, at most 1 − mass where the
        cap was not reached, bounds the error: with mass 0.999 and δ = 2, by 0.0005 nats. With k = vocabulary it is
        exact.

        The log-odds cost no pass of their own, so `odds` changes nothing.

        The slope at token j is p_j − q_j if j is kept, p_j − q_tail · p_j / p_tail in the tail, and p_j if j is banned.
        """
        found = Measured.of(logits)
        found.mass.copy_(self.mass)
        first = _first_of_each(self.bans)
        for part in parts_of(logits):
            some = self.part(part)
            banned = _Few(some.bans[some.ban], first[some.ban] & (some.ban > 0)[:, None])
            found.kl[part], found.log_odds[part], found.top1[part] = some._measure_(
                logits[part], said[part, None], banned, slope=slope
            )
        return found

    def _measure_(self, z: Tensor, said: Tensor, banned: "_Few", *, slope: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Measure a part. Return KL, log-odds and first choices.

        The said, kept and banned tokens are taken out of the logits; one pass sums the others. Sums are only added to,
        never subtracted from, so that a probability that rounds to 0 or 1 keeps its logarithm.
        """
        kept = _Few(self.ids, self.log_q > -torch.inf)
        z_said, z_kept, z_banned = z.gather(1, said), kept.values(z), banned.values(z)
        z.scatter_(1, torch.cat([said, kept.at(said), banned.at(said)], 1), -torch.inf)
        best = z.amax(1, keepdim=True)
        floor = best.clamp(min=torch.finfo(best.dtype).min)  # if nothing else is left
        others = floor + z.sub_(floor).exp_().sum(1, keepdim=True).log_()

        few = torch.cat([z_kept, z_banned], 1)
        own = torch.cat([kept.ids == said, banned.ids == said], 1) & (few > -torch.inf)
        in_tail = ~own.any(1, keepdim=True)
        log_tail = torch.logaddexp(others, z_said.masked_fill(~in_tail, -torch.inf))
        lse = torch.cat([few, log_tail], 1).logsumexp(1, keepdim=True)
        rivals = torch.cat([few.masked_fill(own, -torch.inf), others], 1).logsumexp(1, keepdim=True)
        top1 = z_said >= torch.cat([few, best], 1).amax(1, keepdim=True)

        q, q_tail = self.log_q.exp(), self.tail.exp()[:, None]
        some_tail = q_tail > 0
        gaps = (self.log_q - (z_kept - lse)).masked_fill(q == 0, 0)
        lead = (self.tail[:, None] - (log_tail - lse)).masked_fill(~some_tail, 0)
        kl = (q * gaps).sum(1) + (q_tail * lead).squeeze(1)
        target = kept.real[:, :1]
        if slope:
            # log of what is subtracted from p in the tail, relative to p's own logits
            minus = (self.tail[:, None] - log_tail).masked_fill(~some_tail, -torch.inf)
            z.mul_(((floor - lse).exp() - (floor + minus).exp()) * target)
            q_said = (q * (kept.ids == said)).sum(1, keepdim=True)
            of_said = (z_said - lse).exp() - torch.where(in_tail, (z_said + minus).exp(), q_said)
            of_kept = torch.where(kept.real, (z_kept - lse).exp() - q, of_said)
            of_banned = torch.where(banned.real, (z_banned - lse).exp(), of_said)
            index = torch.cat([said, kept.at(said), banned.at(said)], 1)
            z.scatter_(1, index, torch.cat([of_said, of_kept, of_banned], 1) * target)
        return kl * target[:, 0], (z_said - rivals).squeeze(1), top1.squeeze(1)


@dataclass(frozen=True)
class _Few:
    """A few tokens of each of n places: ids, (n, k), of which those count that are `real`. No real id stands twice."""

    ids: Tensor
    real: Tensor

    def values(self, logits: Tensor) -> Tensor:
        """Return the logits of the tokens, −inf where not real."""
        return logits.gather(1, self.ids).masked_fill_(~self.real, -torch.inf)

    def at(self, other: Tensor) -> Tensor:
        """Return the ids, and another one, (n, 1), where not real."""
        return torch.where(self.real, self.ids, other)


def _first_of_each(sets: Tensor) -> Tensor:
    """Return where a set, a row of ids, has an id for the first time."""
    ordered, order = sets.sort(dim=1, stable=True)
    again = torch.zeros_like(sets, dtype=torch.bool)
    again[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    return ~torch.zeros_like(again).scatter_(1, order, again)
