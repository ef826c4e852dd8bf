"""Decode many prompts together: rows leave the batch as they finish, and waiting prompts take their places."""

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from time import monotonic
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from nlft.core.rotary import ANY, BEYOND
from nlft.models.row_reader import RowReader, cut

Pick = Callable[[Tensor, list[int]], Tensor]
"""(logits, rows) -> the next token of each of these rows. The logits are (rows, vocabulary), float32."""

PAUSE = 1.0
"""Seconds that a finished row may wait for others before `run` returns it. To keep a row, a ledger waits for a disk."""


class Decoder:
    """Continues rows of prompts, each by one token a step.

    Only rows of one group are decoded together (`RowReader.group`), so that no row changes another one's tokens. A
    model that masked padding may stand between (see `RowReader.joins`) takes waiting prompts while other rows go on.
    Any other model takes them when no row is left. Decode within `torch.inference_mode`.
    """

    def __init__(
        self,
        reader: RowReader,
        prompts: Sequence[list[int]],
        *,
        size: int,
        pad_token_id: int,
        shared: int,
        most: int,
        pick: Pick,
        is_over: Callable[[int, list[int]], bool],
    ) -> None:
        """
        Args:
            prompts: token ids of each row.
            size: maximum number of rows that are decoded together.
            shared: number of tokens at the start of all prompts. The model reads them once; the padding of shorter
                prompts comes after them. 0 unless the model takes padding in the middle.
            most: maximum number of new tokens in a row.
            is_over: (row, its new tokens) -> whether the row is finished.
        """
        self.reader, self.prompts, self.size, self.pad = reader, prompts, size, pad_token_id
        self.most, self.pick, self.is_over = most, pick, is_over
        self.device = reader.device
        self.alive: list[int] = []
        self.written: dict[int, list[int]] = {}
        self._prefix, self._prefix_cache = (prompts[0][:shared] if shared else []), None
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self.device)  # (rows, cached tokens)

    def run(self, waiting: deque[int]) -> list[int]:
        """Decode until rows have finished, or until none is left. Return the finished rows.

        Their tokens are in `written`. Return before other rows take their places, and after `PAUSE`.

        Args:
            waiting: rows that have not begun. Rows that begin are taken from its left, those of one group together.
        """
        finished: list[int] = []
        until = monotonic() + PAUSE
        while self.alive or waiting:
            if finished and (monotonic() >= until or self._has_room(waiting)):
                break
            finished += self.step(waiting)
        return finished

    def step(self, waiting: deque[int]) -> list[int]:
        """Pick a token for each row of the batch, or for new rows if there is room for them. Return finished rows."""
        self.reader.learn()
        if not self._has_room(waiting):
            return self._go_on()
        group, rows = self._group(waiting[0]), list[int]()
        room = self.size - len(self.alive) if self.reader.batches else 1
        while waiting and len(rows) < room and self._group(waiting[0]) == group:
            rows.append(waiting.popleft())
        return self._begin(rows, group)

    def _has_room(self, waiting: deque[int]) -> bool:
        """Whether waiting rows begin now."""
        if not waiting or not self.alive:
            return bool(waiting)
        group = self._group(self.alive[0])
        # A prompt alone costs nearly as much time as a few together.
        enough = self.size - len(self.alive) >= max(1, self.size // 4)
        return enough and self.reader.joins and group in (ANY, BEYOND) and self._group(waiting[0]) == group

    def _group(self, row: int) -> int:
        return self.reader.group(len(self.prompts[row]), self.most)

    def _begin(self, rows: list[int], group: int) -> list[int]:
        """Read the prompts of new rows, pick their first tokens, and put them below the rows that go on."""
        going, cache, mask = self.alive, self._cache, self._mask
        self.reader.forget_lengths()
        self.written |= {row: [] for row in rows}
        self._cache = self._prefix_of(len(rows)) if group == ANY else None
        logits = self._read_whole(rows)
        self.alive = []
        finished = self._take(logits, rows)
        if going and self.alive:
            self._stack(cache, mask)
        elif going:
            self._cache, self._mask = cache, mask
        self.alive = [*going, *self.alive]
        return finished

    def _go_on(self) -> list[int]:
        """Pick the next token of each row of the batch."""
        length = len(self.prompts[self.alive[0]]) + len(self.written[self.alive[0]])
        if self._cache is None or self.reader.forgets(length):
            self._cache = None
            return self._take(self._read_whole(self.alive), self.alive)
        last = torch.tensor([self.written[row][-1:] for row in self.alive], device=self.device)
        self._mask = pad(self._mask, (0, 1), value=1)
        logits, self._cache = self.reader.read(last, self._mask, self._cache)
        return self._take(logits, self.alive)

    def _read_whole(self, rows: list[int]) -> Tensor:
        """Read all tokens of some rows, after those that the cache holds. Return the logits of their next tokens."""
        start = 0 if self._cache is None else len(self._prefix)
        read = [[*self.prompts[row], *self.written[row]] for row in rows]
        width = max(map(len, read)) - start
        short = [width - (len(ids) - start) for ids in read]
        step = [[self.pad] * less + ids[start:] for less, ids in zip(short, read, strict=True)]
        own = [[1] * start + [0] * less + [1] * (width - less) for less in short]
        self._mask = torch.tensor(own, device=self.device)
        logits, self._cache = self.reader.read(torch.tensor(step, device=self.device), self._mask, self._cache)
        return logits

    def _take(self, logits: Tensor, rows: list[int]) -> list[int]:
        """Pick the next token of each row. Keep the rows that go on, and return those that are finished."""
        tokens = self.pick(logits, rows).tolist()
        going, finished = [], []
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            self.written[row].append(token)
            if self.is_over(row, self.written[row]):
                finished.append(row)
            else:
                going.append(at)
        self.alive = [rows[at] for at in going]
        if going and len(going) < len(rows):
            keep = torch.tensor(going, device=self.device)
            self._cache = cut(self._cache, keep)
            self._mask = self._mask[keep]
        return finished

    def _prefix_of(self, count: int) -> Any:
        """Return a cache of the shared tokens for `count` rows; None if there is none, or it would save nothing.

        There is none for a model that would read the padding in the middle as tokens.
        """
        if not self._prefix or not self.reader.joins or (count == 1 and self._prefix_cache is None):
            return None
        if self._prefix_cache is None:
            step = torch.tensor([self._prefix], device=self.device)
            _, self._prefix_cache = self.reader.read(step, torch.ones_like(step), None)
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
