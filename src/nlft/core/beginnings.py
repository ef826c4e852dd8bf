"""Read the beginning that the prompts of one completion share once.

The prompts of the conditions begin as the base prompt does: with the system turn and mostly the whole question. While
the model reads the base's rows, `Beginnings` keeps the keys and values of those tokens. The conditions' rows go on from
there, so that only the rest of each, its tail, goes through the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from nlft.core.conditions import Row
from nlft.core.heads import decoder_of
from nlft.core.key_values import cache_keyword
from nlft.core.rotary import length_rule

WORTH = 0.9
"""Rows are cut if what is left of them, padded, is at most this share of them."""

# Settings of a model whose keys depend on more than the tokens before them: how far a layer sees, which layers share
# their keys.
_FAR = ("sliding_window", "attention_chunk_size", "num_kv_shared_layers")
_OF_WEIGHTS = {"LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "LN_TUNING"}


@dataclass(frozen=True)
class Begun:
    """Where R rows without their beginning go on.

    Attributes:
        kept: (S,) the rows of another batch that have the beginnings.
        source: (R,) the place in `kept` of each row's own.
        seen: (R, shared tokens) bool, True on the tokens that the row shares with its source. They are its first ones.
    """

    kept: Tensor
    source: Tensor
    seen: Tensor


def cut(rows: Sequence[Row], sources: Sequence[int], others: Sequence[Row]) -> tuple[list[Row], Begun] | None:
    """Cut off what each row shares with its source, up to the position that predicts its first scored token.

    Args:
        sources: for each row, its source's place in `others`.

    Returns:
        The tails and where they go on, or None if too little would be saved.
    """
    shared = [_shared(one, others[at]) for one, at in zip(rows, sources, strict=True)]
    tails = [Row(ids[n:], start - n, labels) for (ids, start, labels), n in zip(rows, shared, strict=True)]
    if max(len(one.ids) for one in tails) > WORTH * max(len(one.ids) for one in rows):
        return None
    seen = torch.arange(max(shared)) < torch.tensor(shared)[:, None]
    kept = sorted(set(sources))
    return tails, Begun(torch.tensor(kept), torch.tensor([kept.index(at) for at in sources]), seen)


def _shared(one: Row, other: Row) -> int:
    most = min(one.start, other.start) - 1
    return next((at for at in range(most) if one.ids[at] != other.ids[at]), max(0, most))


class Beginnings(Cache):  # type: ignore[misc]
    """Keeps what the sources' rows have computed of the beginnings, layer by layer, without gradient."""

    def __init__(self, begun: Begun) -> None:
        super().__init__(layers=[])
        self.begun = begun
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep a copy of the beginnings. Return the layer's states unchanged."""
        if layer_idx not in self.kept:
            self.kept[layer_idx] = (self._of(key_states), self._of(value_states))
        return key_states, value_states

    def _of(self, states: Tensor) -> Tensor:
        return states.detach()[:, :, : self.begun.seen.shape[1]].index_select(0, self.begun.kept)

    def inputs(self, attention_mask: Tensor) -> dict[str, Any]:
        """Return the scoring forward's keywords for the tails.

        Args:
            attention_mask: (R, length) of the tails.
        """
        seen, own = self.begun.seen, attention_mask.bool()
        length = own.shape[1]
        before = torch.ones(length, length, dtype=torch.bool, device=own.device).tril()
        seen_by_all = seen[:, None].expand(-1, length, -1)
        return {
            "attention_mask": torch.cat([seen_by_all, before & own[:, None]], -1)[:, None],
            "position_ids": seen.sum(1, keepdim=True) + torch.arange(length, device=own.device),
            "score_cache": _GoneOn(self.kept, self.begun.source),
        }


class _GoneOn(Cache):  # type: ignore[misc]
    """Puts the beginnings before the tails' own states. Each layer's are let go once they are read."""

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]], source: Tensor) -> None:
        super().__init__(layers=[])
        self.kept, self.source = kept, source

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.kept[layer_idx]
        # With activation checkpointing, backward reads the layer again, and must not keep anything anew.
        self.kept[layer_idx] = (keys.new_empty(0), values.new_empty(0))

        def after(before: Tensor, own: Tensor) -> Tensor:
            return torch.cat([before.index_select(0, self.source), own], 2)

        return after(keys, key_states), after(values, value_states)


@contextmanager
def keeping(model: nn.Module, begun: Beginnings | None) -> Iterator[dict[str, Any]]:
    """Yield the scoring forward's keyword with which it keeps the beginnings of the sources' rows.

    transformers takes the cache away from layers that compute their activations again in backward, because an ordinary
    one would be written to twice. `Beginnings` allows it, so these layers get it meanwhile.
    """
    layers = [] if begun is None else [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    for one in layers:
        one._can_checkpoint_with_cache = True
    try:
        yield {} if begun is None else {"score_cache": begun}
    finally:
        for one in layers:
            del one._can_checkpoint_with_cache


def shares_beginnings(model: PreTrainedModel) -> bool:
    """Return whether a model's rows can go on from another row's beginning: by its configuration, then by a trial.

    Only models with rotary positions and full attention in every layer, computed by torch's `sdpa`, are tried. Others
    score whole rows.
    """
    net: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not all(map(_sees_one_token, getattr(model, "peft_config", {}).values())) or not may_share(net):
        return False
    was_training = net.training
    net.eval()
    try:
        return _goes_on(net)
    except Exception:  # any model of the hub may come here, and what it cannot do it says in its own way
        return False
    finally:
        net.train(was_training)


def _sees_one_token(adapter: Any) -> bool:
    """Return whether an adapter changes a token's states by that token alone: one of weights, and always on."""
    kind = getattr(adapter.peft_type, "value", str(adapter.peft_type))
    return kind in _OF_WEIGHTS and not getattr(adapter, "alora_invocation_tokens", None)


def may_share(net: PreTrainedModel) -> bool:
    """Return whether a model's configuration lets its rows go on from another row's beginning."""
    config = net.config.get_text_config()
    if getattr(config, "is_heterogeneous", False):  # then most of what is read here differs from layer to layer
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        config._attn_implementation == "sdpa"
        and kinds == {"full_attention"}
        and not any(getattr(config, name, None) for name in _FAR)
        and length_rule(config) is None
        and any("Rotary" in type(one).__name__ for one in net.modules())
    )


@torch.no_grad()
def _goes_on(net: PreTrainedModel) -> bool:
    """Compare the states of two rows that go on from a third with those of the whole rows."""
    decoder, weight = decoder_of(net), next(net.get_input_embeddings().parameters())
    device, most, keyword = weight.device, weight.shape[0], cache_keyword(decoder)
    if keyword is None:
        return False

    def read(ids: list[list[int]], **given: Any) -> Tensor:
        rows = torch.tensor(ids, device=device) % most
        mask = given.pop("attention_mask", torch.ones_like(rows))
        given[keyword] = given.pop("score_cache", None)
        states: Tensor = decoder(input_ids=rows, attention_mask=mask, use_cache=False, **given).last_hidden_state
        return states.float()

    seen = torch.tensor([[True] * 5, [True] * 3 + [False] * 2], device=device)
    source = torch.tensor([0, 0], device=device)
    begun = Beginnings(Begun(source[:1], source, seen))
    read([[5, 6, 7, 8, 9, 10, 11]], score_cache=begun)
    if len(begun.kept) != net.config.get_text_config().num_hidden_layers:
        return False
    tails = read([[12, 13, 14], [15, 16, 17]], **begun.inputs(torch.ones(2, 3, device=device)))
    whole = [read([[5, 6, 7, 8, 9, 12, 13, 14]])[0, 5:], read([[5, 6, 7, 15, 16, 17]])[0, 3:]]
    return nearly(list(tails), whole, weight.dtype)


def nearly(ones: Sequence[Tensor], others: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Return whether two readings of the same tokens differ by no more than rounding does.

    Args:
        ones, others: pairs of tensors of one shape.
        dtype: of the model's weights.
    """
    close = 1e-4 if dtype == torch.float32 else 3e-2
    size = max(float(one.abs().max()) for one in others)
    return all(
        torch.allclose(one, other, rtol=close, atol=close * size) for one, other in zip(ones, others, strict=True)
    )
