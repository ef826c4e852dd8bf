"""Decode many prompts together: rows leave the batch as they finish, and waiting prompts take their places."""

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from nlft.core.key_values import cache_keyword, cache_of

Pick = Callable[[Tensor, list[int]], Tensor]
"""(logits, rows) -> the next token of each of these rows. The logits are (rows, vocabulary), float32."""


class Decoder:
    """Continues rows of prompts, each by one token a step.

    A model that masked padding may stand between (see `joins`) takes waiting prompts while other rows go on. Any other
    model takes them when no row is left. Decode within `torch.inference_mode`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        *,
        size: int,
        pad_token_id: int,
        shared: int,
        joins: bool,
        pick: Pick,
        is_over: Callable[[int, list[int]], bool],
    ) -> None:
        """
        Args:
            prompts: token ids of each row.
            size: maximum number of rows that are decoded together.
            shared: number of tokens at the start of all prompts. The model reads them once; the padding of shorter
                prompts comes after them. 0 unless the model takes padding in the middle.
            joins: whether the model takes padding in the middle, as far as its signature tells.
            is_over: (row, its new tokens) -> whether the row is finished.
        """
        self.model, self.prompts, self.size, self.pad = model, prompts, size, pad_token_id
        self.joins, self.pick, self.is_over = joins, pick, is_over
        self._keyword = cache_keyword(model)
        self.device = next(model.parameters()).device
        self.alive: list[int] = []
        self.written: dict[int, list[int]] = {}
        self._prefix, self._prefix_cache = (prompts[0][:shared] if shared else []), None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self.device)  # (rows, cached tokens)

    def run(self, waiting: deque[int]) -> list[int]:
        """Decode until rows have finished and there is room for others, or until none is left. Return those rows.

        Their tokens are in `written`.

        Args:
            waiting: rows that have not begun. Rows that begin are taken from its left.
        """
        finished: list[int] = []
        while self.alive or waiting:
            room = self.size - len(self.alive)
            # A prompt alone costs nearly as much time as a few together.
            if waiting and (not self.alive or (self.joins and room >= max(1, self.size // 4))):
                if finished:
                    break
                self._begin([waiting.popleft() for _ in range(min(room, len(waiting)))], finished)
            else:
                last = torch.tensor([self.written[row][-1:] for row in self.alive], device=self.device)
                self._mask = pad(self._mask, (0, 1), value=1)
                out = self._read(last, self._mask, self._cache)
                self._cache = cache_of(out)
                self._take(out, self.alive, finished)
        return finished

    def _begin(self, rows: list[int], finished: list[int]) -> None:
        """Read the prompts of new rows, pick their first tokens, and put them below the rows that go on."""
        going, cache, mask = self.alive, self._cache, self._mask
        read = [self.prompts[row] for row in rows]
        self._cache = self._prefix_of(len(rows))
        start = 0 if self._cache is None else len(self._prefix)
        width = max(map(len, read)) - start
        short = [width - (len(ids) - start) for ids in read]
        step = [[self.pad] * less + ids[start:] for less, ids in zip(short, read, strict=True)]
        own = [[1] * start + [0] * less + [1] * (width - less) for less in short]
        self._mask = torch.tensor(own, device=self.device)
        out = self._read(torch.tensor(step, device=self.device), self._mask, self._cache)
        self._cache = cache_of(out)
        self.joins = self.joins and has_plain_cache(self._cache)
        self.written |= {row: [] for row in rows}
        self.alive = []
        self._take(out, rows, finished)
        if going and self.alive:
            self._stack(cache, mask)
        elif going:
            self._cache, self._mask = cache, mask
        self.alive = [*going, *self.alive]

    def _read(self, step: Tensor, mask: Tensor, cache: Any) -> Any:
        return self.model(
            input_ids=step,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1)[:, -step.shape[1] :].clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
            **{self._keyword: cache},
        )

    def _take(self, out: Any, rows: list[int], finished: list[int]) -> None:
        """Pick the next token of each row. Keep the rows that go on."""
        tokens = self.pick(out.logits[:, -1].float(), rows).tolist()
        going = []
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            self.written[row].append(token)
            if self.is_over(row, self.written[row]):
                finished.append(row)
            else:
                going.append(at)
        self.alive = [rows[at] for at in going]
        if going and len(going) < len(rows):
            keep = torch.tensor(going, device=self.device)
            self._cache.batch_select_indices(keep)
            self._mask = self._mask[keep]

    def _prefix_of(self, count: int) -> Any:
        """Return a cache of the shared tokens for `count` rows; None if there is none, or it would save nothing.

        A cache that holds anything except keys and values of every token (a sliding window, a state) is none: such a
        model would read the padding in the middle as tokens.
        """
        if not self._prefix or (count == 1 and self._prefix_cache is None):
            return None
        if self._prefix_cache is None:
            step = torch.tensor([self._prefix], device=self.device)
            found = cache_of(self.model(input_ids=step, use_cache=True, logits_to_keep=1))
            if not has_plain_cache(found):
                self._prefix, self.joins = [], False
                return None
            self._prefix_cache = found
        cache: Any = deepcopy(self._prefix_cache)
        cache.batch_repeat_interleave(count)
        return cache

    def _stack(self, cache: Any, mask: Tensor) -> None:
        """Put the earlier rows above the new ones. Drop the tokens that no row attends to, and pad on the left."""
        needed = mask.any(0)
        mask = mask[:, needed]
        length = max(mask.shape[1], self._mask.shape[1])
        masks = [pad(one, (length - one.shape[1], 0)) for one in (mask, self._mask)]
        for layer, new in zip(cache.layers, self._cache.layers, strict=True):
            for name in ("keys", "values"):
                above, below = getattr(layer, name)[:, :, needed], getattr(new, name)
                both = [pad(one, (0, 0, length - one.shape[2], 0)) for one in (above, below)]
                setattr(layer, name, torch.cat(both))
        self._cache, self._mask = cache, torch.cat(masks)


def has_plain_cache(cache: Any) -> bool:
    """Whether a cache holds the keys and values of every token, and nothing else."""
    return type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
