"""Answers from a local model: batched by length, greedy or sampled."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from nlft.core.conditions import ConditionEncoder, Prompt


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: without special tokens.
        tokens: how many were generated, end-of-turn token included.
        finish_reason: `stop` if the model ended its turn, `length` if `max_new_tokens` cut it off.
    """

    text: str
    tokens: int
    finish_reason: Literal["stop", "length"]


class LocalModel:
    """A transformers model as an answerer."""

    def __init__(
        self,
        model: Any,
        encoder: ConditionEncoder,
        *,
        max_new_tokens: int,
        batch_size: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            temperature: 0 is greedy.
            seed: with a question's key and a token's position, all that a random draw depends on; what else is
                in the batch does not matter.
        """
        self.model = model.eval()
        self.encoder = encoder
        self.batch_size = batch_size
        self.temperature = temperature
        self.seed = seed
        tokenizer = encoder.tokenizer
        self._config = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,  # sampling is the processor's draw below, from each question's own random numbers
            eos_token_id=sorted({encoder.end_of_turn_id, tokenizer.eos_token_id} - {None}),
            pad_token_id=tokenizer.pad_token_id,
        )

    def answer(self, prompts: Sequence[tuple[str, Prompt]]) -> Iterator[list[tuple[int, Generated]]]:
        """Answer prompts, a batch at a time.

        Args:
            prompts: (key, prompt) pairs; the key seeds a question's draws.
        Yields:
            (index into `prompts`, answer) for each prompt of a finished batch; longest prompts first, so that
            memory runs out at once or not at all.
        """
        encoded = [self.encoder.prompt_ids(prompt) for _, prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            keys = [prompts[i][0] for i in batch]
            yield list(zip(batch, self._generate([encoded[i] for i in batch], keys), strict=True))

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]], keys: list[str]) -> list[Generated]:
        width = max(map(len, prompts))
        pad = self._config.pad_token_id
        rows = [[pad] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        device = next(self.model.parameters()).device
        draw = [_DrawByQuestion(keys, self.seed, self.temperature)] if self.temperature > 0 else []
        out = self.model.generate(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=self._config,
            logits_processor=LogitsProcessorList(draw),
        )
        return [self._finish(ids) for ids in out[:, width:].tolist()]

    def _finish(self, ids: list[int]) -> Generated:
        ends = set(self._config.eos_token_id)
        length = next((at + 1 for at, token in enumerate(ids) if token in ends), None)
        text = self.encoder.tokenizer.decode(ids[:length], skip_special_tokens=True)
        return Generated(text.strip(), length or len(ids), "stop" if length else "length")


class _DrawByQuestion(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token of each row: the one that this question's random number at this position picks from the
    tempered distribution. One number a token, by inversion, so nothing depends on the other rows."""

    def __init__(self, keys: list[str], seed: int, temperature: float) -> None:
        digests = [hashlib.sha256(f"{seed}\0{key}".encode()).digest() for key in keys]
        bits = [np.random.Philox(key=int.from_bytes(d[:16], "little")) for d in digests]
        self._temperature = temperature
        self._numbers = [np.random.Generator(b) for b in bits]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        draws = torch.tensor([rng.random() for rng in self._numbers], device=scores.device)
        cumulative = (scores.double() / self._temperature).softmax(-1).cumsum(-1)
        picked = (cumulative < draws[:, None] * cumulative[:, -1:]).sum(-1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter_(1, picked, 0.0)
