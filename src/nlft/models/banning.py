"""Greedy answers of a local model without banned words. Nothing is trained.

When a banned word is complete in the text, decoding goes back to the token where the word began, bans that token there,
and goes on. It is the cheaper choice where a pattern sees the fault.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from torch import Tensor

from nlft.core.spans import WordFinder
from nlft.models.answerer import CompletionRequest, Generated
from nlft.models.local import LocalModel, greedy


@dataclass
class _Row:
    """One answer of a batch.

    Attributes:
        ids: the tokens that are kept so far.
        masks: place of a token -> the tokens that are banned there, after the tokens before it.
        tries: how often decoding went back.
        gave_up: whether the limit was reached; the rest is decoded without the ban.
    """

    ids: list[int] = field(default_factory=list)
    masks: dict[int, set[int]] = field(default_factory=dict)
    tries: int = 0
    gave_up: bool = False
    done: bool = False


class BanningModel(LocalModel):
    """A local model that goes back wherever it has said a banned word.

    A batch is decoded in rounds. Each round continues all unfinished answers, and stops each at its next banned word.
    """

    def __init__(self, plain: LocalModel, words: Sequence[str], tries: int) -> None:
        """
        Args:
            plain: the model as it answers greedily.
            words: words or phrases. They are found as whole words, in any case.
            tries: how often one answer may go back. After that, it is continued without the ban.
        """
        super().__init__(
            plain.model,
            plain.encoder,
            max_new_tokens=plain.max_new_tokens,
            batch_size=plain.batch_size,
            name=plain.name,
        )
        self.words, self.tries = list(words), tries
        self._finder = WordFinder(words)

    @property
    def identity(self) -> dict[str, Any]:
        """The model's identity, the banned words and the limit; see `Answerer`."""
        return {**super().identity, "banned": self.words, "tries": self.tries}

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[list[tuple[int, Generated]]]:
        """Answer the requests in batches; see `LocalModel.answer`."""
        encoded, waiting, shared = self._prepared(requests)
        while batch := [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]:
            written = self._write([encoded[i] for i in batch], [requests[i].key for i in batch], shared)
            yield [(i, self.finish(ids, len(encoded[i]))) for i, ids in zip(batch, written, strict=True)]

    def _write(self, prompts: list[list[int]], keys: list[str], shared: int) -> list[list[int]]:
        rows = [_Row() for _ in prompts]
        while running := [at for at, row in enumerate(rows) if not row.done]:
            now = [rows[at] for at in running]
            written = self._decode(
                [prompts[at] + rows[at].ids for at in running],
                _MaskedFirst(now),
                lambda at, ids, now=now: self._stops(now[at], [*now[at].ids, *ids]),  # type: ignore[misc]
                shared,
            )
            for row, ids in zip(now, written, strict=True):
                row.ids += ids
                self._go_back(row)
        return [row.ids for row in rows]

    def _stops(self, row: _Row, ids: list[int]) -> bool:
        """Whether a round leaves a row here: the answer is over, or it has a banned word that the next text ends."""
        return self._is_whole(ids) or (not row.gave_up and self._begin(ids, len(self._text(ids))) is not None)

    def _is_whole(self, ids: list[int]) -> bool:
        return self._has_ended(ids) or len(ids) >= self.max_new_tokens

    def _go_back(self, row: _Row) -> None:
        """Go back to the token where the row's banned word begins. Without such a word, the row is done."""
        begin = None if row.gave_up else self._begin(row.ids, inf)
        if begin is None:
            row.done = True
        elif row.tries == self.tries:
            row.gave_up, row.done = True, self._is_whole(row.ids)
        else:
            row.tries += 1
            # What was banned at later places was banned after other words.
            row.masks = {at: tokens for at, tokens in row.masks.items() if at <= begin}
            row.masks.setdefault(begin, set()).add(row.ids[begin])
            row.ids = row.ids[:begin]

    def _begin(self, ids: list[int], before: float) -> int | None:
        """Return the token where the first banned word begins, if that word ends before a character."""
        span = self._finder.first(self._text(ids))
        if span is None or span.end >= before:
            return None
        return next(at for at in range(len(ids)) if len(self._text(ids[: at + 1])) > span.start)

    def _text(self, ids: list[int]) -> str:
        return str(self.encoder.tokenizer.decode(ids, skip_special_tokens=True))


def ban_outcome(answers: Sequence[str], words: Sequence[str], tries: int) -> dict[str, Any]:
    """Return the banned words, the limit, and how many of the answers have a banned word in spite of it."""
    finder = WordFinder(words)
    left = sum(finder.first(answer) is not None for answer in answers)
    return {"words": list(words), "tries": tries, "answers_with_a_banned_word": left}


class _MaskedFirst:
    """Picks the likeliest token. A row's first token is none of those that are banned at its place."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._banned = [row.masks.get(len(row.ids), set()) for row in rows]
        self._begun: set[int] = set()

    def __call__(self, logits: Tensor, rows: list[int]) -> Tensor:
        if first := [at for at, row in enumerate(rows) if row not in self._begun]:
            logits = logits.clone()
            for at in first:
                logits[at, sorted(self._banned[rows[at]])] = -inf
            self._begun.update(rows)
        return greedy(logits, rows)
