"""Rotary angles that follow from a text's length, and how each row of a batch gets those of its own length."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ANY, BEYOND = 0, -1
"""Groups of rows that a model reads together whatever their lengths. Other groups are a length."""


@dataclass(frozen=True)
class LengthRule:
    """Rotary angles that follow from the longest row that the model reads, for all its tokens and all other rows.

    Attributes:
        switch: number of tokens above which other angles are used (`longrope`); None if there is no such number.
        grows: number of tokens above which each length has its own angles (`dynamic`); None if there is no such number.
    """

    switch: int | None
    grows: int | None

    @property
    def limit(self) -> int:
        """Number of tokens up to which the angles do not depend on the length."""
        return min(limit for limit in (self.switch, self.grows) if limit is not None)

    def group(self, length: int) -> int:
        """Return the group of rows that have the angles of a row of `length` tokens."""
        if length <= self.limit:
            return ANY
        return BEYOND if self.grows is None else length


def length_rule(config: Any) -> LengthRule | None:
    """Return how rotary angles follow from the length, or None if they do not.

    Args:
        config: of a text model; see `get_text_config`.
    """
    switch = grows = None
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        kind, context = rope.get("rope_type") or "default", getattr(config, "max_position_embeddings", 0)
        if "dynamic" in kind:
            grows = context
        elif kind == "longrope":
            trained = "original_max_position_embeddings"  # Phi-3 has it beside the parameters, too
            switch = rope.get(trained) or getattr(config, trained, None) or context
    return None if switch is None and grows is None else LengthRule(switch, grows)


def _ropes(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of all layers, or those of each kind of layer."""
    kinds = [one for one in given.values() if isinstance(one, dict)]
    yield from kinds or [given]


@contextmanager
def own_lengths(model: nn.Module, rule: LengthRule | None, mask: Tensor) -> Iterator[None]:
    """Give each row the angles that it gets alone, whatever other rows the model reads with it.

    Only the angles are computed row by row, and only if a row may be beyond the limit. The model still reads all rows
    in one pass, so that all ranks make equally many passes.

    Args:
        rule: the model's, see `length_rule`.
        mask: (rows, tokens), 0 on padding, which stands behind a row's tokens.
    """
    if rule is None or mask.shape[1] < rule.limit:
        yield
        return
    lengths, groups = mask.sum(1), dict[int, list[int]]()
    for row, length in enumerate(lengths.tolist()):
        groups.setdefault(rule.group(length), []).append(row)
    rows = [torch.tensor(group, device=mask.device) for group in groups.values()]
    follow = partial(_angles, lengths=lengths, groups=rows)
    hooks = [rope.register_forward_hook(follow, with_kwargs=True) for rope in turning_modules(model)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _angles(
    rope: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    _: Any,
    *,
    lengths: Tensor,
    groups: Sequence[Tensor],
) -> Tensor | tuple[Tensor, ...]:
    """Compute a module's angles group by group, in place of those of all rows together."""
    given = inspect.signature(type(rope).forward).bind(rope, *args, **kwargs)
    places = given.arguments["position_ids"]  # (rows or 1, tokens); some models have one for each axis before
    lengths, groups = lengths.to(places.device), [rows.to(places.device) for rows in groups]
    places = places.expand(*places.shape[:-2], len(lengths), -1).minimum(lengths[:, None] - 1)
    found = []
    for rows in groups:
        forget_lengths(rope)
        given.arguments["position_ids"] = places.index_select(-2, rows)
        found.append(rope.forward(*given.args[1:], **given.kwargs))
    forget_lengths(rope)
    order = torch.cat(groups).argsort()

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts), -3).index_select(-3, order)

    return joined(found) if isinstance(found[0], Tensor) else tuple(map(joined, zip(*found, strict=True)))


def turning_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that compute angles which follow from the length."""
    return [one for one in model.modules() if any(_kinds(one))]


def forget_lengths(rope: nn.Module) -> None:
    """Let angles that grow with the length start anew. A longer row than the next one may have been read.

    Args:
        rope: one of the `turning_modules`.
    """
    for layers, kind in _kinds(rope):
        if "dynamic" in kind:
            first = torch.zeros(1, 1, dtype=torch.long, device=next(rope.buffers()).device)
            # transformers goes back to the first angles when it reads a short row.
            rope.forward(first[..., None].float(), first, **({"layer_type": layers} if layers else {}))


def _kinds(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the kinds of layers for which a module computes angles that follow from the length, and how they do."""
    kinds = getattr(module, "rope_type", None) if hasattr(module, "max_seq_len_cached") else None
    for layers, kind in (kinds if isinstance(kinds, dict) else {"": kinds or ""}).items():
        if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
            yield layers, kind
