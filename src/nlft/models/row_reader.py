"""Read rows of tokens with a causal LM: what it keeps of them, and which rows it may read together."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from nlft.core.beginnings import nearly
from nlft.core.key_values import cache_keyword, cache_of
from nlft.core.logprobs import causal_lm
from nlft.core.rotary import ANY, forget_lengths, length_rule, turning_modules


class RowReader:
    """A causal LM's forward, for decoding. Call it within `torch.inference_mode`.

    Attributes:
        joins: whether masked padding may stand between a row's tokens, so that rows can be put below others that go
            on. As far as the model's signature tells, until `learn` has run.
        pads: whether masked padding may stand before a row's tokens. Otherwise only rows of one length are read
            together. Set by `learn`.
        batches: whether several rows may be read together at all. Set by `learn`.
    """

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        net = causal_lm(model)
        takes = inspect.signature(net.forward).parameters
        self._takes_any = any(one.kind is one.VAR_KEYWORD for one in takes.values())
        self._takes, self._keyword = set(takes), cache_keyword(model)
        self._rule = length_rule(net.config.get_text_config())
        self._ropes = turning_modules(model)
        self.joins = _places_are_given(net)
        self.batches, self.pads, self._has_learned = True, False, False

    def learn(self) -> None:
        """Find out what the model keeps of the tokens that it has read, and whether it takes padding. Once."""
        if self._has_learned:
            return
        row = self._within(torch.tensor([[5, 6, 7, 8]], device=self.device))
        _, cache = self.read(row, torch.ones_like(row), None)
        self.joins = self.joins and has_plain_cache(cache)
        # Keys and values of padding are masked. A state that a layer carries along may have read it.
        keys = _has_layers(cache, DynamicLayer, DynamicSlidingWindowLayer)
        self.pads = keys or self._reads_alike([9, 10], [5, 6, 7, 8, 9, 10, 11])
        # RWKV's code mixes the states of rows.
        self.batches = self.pads or self._reads_alike([9, 10], [6, 7])
        self._has_learned = True

    def read(self, step: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Read the next tokens of some rows.

        Args:
            step: (rows, tokens) token ids.
            mask: (rows, tokens read before + tokens), 0 on padding.
            cache: what the model kept of the tokens before; None if it reads its first ones.

        Returns:
            Logits of each row's last token, (rows, vocabulary), float32; and what the model kept, None if it keeps
            nothing.
        """
        given = {
            # The padding is behind a model that only keeps states. Mamba would take each column for a token.
            "attention_mask": None if _has_layers(cache, LinearAttentionLayer) else mask,
            "position_ids": (mask.cumsum(1) - 1)[:, -step.shape[1] :].clamp(min=0),
            "use_cache": True,
            "logits_to_keep": 1,
        }
        if not self._takes_any:
            given = {name: value for name, value in given.items() if name in self._takes}
        if self._keyword is not None:
            given[self._keyword] = cache
        out = self.model(input_ids=step, **given)
        return out.logits[:, -1].float(), cache_of(out) if self._keyword is not None else None

    def group(self, length: int, new: int) -> int:
        """Return a row's group. Only rows of one group may be read together: no row changes another one's answer.

        Args:
            length: number of tokens in the prompt.
            new: maximum number of tokens that follow.
        """
        if not self.pads:
            return length
        if self._rule is None or length + new <= self._rule.limit:
            return ANY
        return self._rule.group(length) or length

    def forgets(self, length: int) -> bool:
        """Whether what the model kept of a row is of no use once the row has `length` tokens.

        Its rotary angles are others from there on, and the keys that it kept were turned by the ones before.
        """
        return self._rule is not None and self._rule.switch is not None and length == self._rule.switch + 1

    def forget_lengths(self) -> None:
        """Let rotary angles that grow with the length start anew. A longer row than the next one may have been read."""
        for rope in self._ropes:
            forget_lengths(rope)

    def _within(self, rows: Tensor) -> Tensor:
        size: int = causal_lm(self.model).config.get_text_config().vocab_size
        return rows % size

    def _reads_alike(self, row: list[int], other: list[int]) -> bool:
        """Whether a model reads a row beside another one as it reads it alone, and then two more tokens of each."""
        try:
            alone, together = self._steps([row]), self._steps([row, other])
        except Exception:  # any model of the hub may come here, and what it cannot do it says in its own way
            return False
        return nearly([one[:1] for one in together], alone, next(self.model.parameters()).dtype)

    def _steps(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        width = max(map(len, rows))
        step = torch.tensor([[5] * (width - len(row)) + list(row) for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        found, cache = [], None
        for token in (12, 13, 14):
            logits, cache = self.read(self._within(step), mask, cache)
            found.append(logits)
            more = torch.full_like(step[:, :1], token)
            step, mask = torch.cat([step, more], 1) if cache is None else more, pad(mask, (0, 1), value=1)
        return found


def cut(cache: Any, keep: Tensor) -> Any:
    """Keep some rows of a cache. Return None if that is not possible: then the rows must be read again.

    Args:
        keep: the places of the rows.
    """
    if type(cache) is not DynamicCache or not all(
        type(one).__module__ == DynamicCache.__module__ for one in cache.layers
    ):
        return None
    # `batch_select_indices` would leave out the states of layers that have both keys and a state.
    cache.reorder_cache(keep)
    return cache


def has_plain_cache(cache: Any) -> bool:
    """Whether a cache holds the keys and values of every token, and nothing else."""
    return _has_layers(cache, DynamicLayer)


def _has_layers(cache: Any, *kinds: type) -> bool:
    layers = cache.layers if type(cache) is DynamicCache else []
    return bool(layers) and all(type(layer) in kinds for layer in layers)


def _places_are_given(net: PreTrainedModel) -> bool:
    """Whether the model takes token positions from `position_ids` alone, so that masked padding may stand between.

    MPT measures distances by index. GPT-Neo takes positions, but the window of every second layer uses the index.
    """
    return "position_ids" in inspect.signature(net.forward).parameters and net.config.model_type != "gpt_neo"
