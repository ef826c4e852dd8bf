"""Get answers from a local transformers model: batched by length, greedy or sampled."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from nlft.core.base_below import refuse_leak
from nlft.core.conditions import ConditionEncoder
from nlft.core.limits import limits_of
from nlft.core.logprobs import causal_lm
from nlft.core.prompts import as_messages
from nlft.core.reply_form import TemplateRefusal
from nlft.errors import ProblemsError, UserError
from nlft.models.answerer import CompletionRequest, Generated
from nlft.models.decoding import Decoder, Pick
from nlft.models.ends import answer_ends
from nlft.models.row_reader import RowReader
from nlft.progress import note


class LocalModel:
    """A transformers model as an answerer."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        encoder: ConditionEncoder,
        *,
        max_new_tokens: int,
        batch_size: int,
        temperature: float = 0.0,
        seed: int = 0,
        name: dict[str, Any] | None = None,
    ) -> None:
        """
        Args:
            name: how `identity` names the model together with its adapter.
            temperature: 0 is greedy.
            seed: a random draw depends on this seed, the question's key and the token's position. It does not depend
                on the rest of the batch.
        """
        self.model = model.eval()
        self.name = name or {"model": getattr(model.config, "_name_or_path", "")}
        self.encoder = encoder
        self.batch_size = batch_size
        self.temperature = temperature
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self._reader = RowReader(model)
        self._ends = answer_ends(model, encoder)
        self._limits = limits_of(model)

    @property
    def identity(self) -> dict[str, Any]:
        """Model, adapter and every setting that changes an answer; see `Answerer`."""
        system = self.encoder.templates.system_prompt
        dtype = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        sampled = {"seed": self.seed} if self.temperature > 0 else {}
        # Ledgers of models without further end tokens keep their answers: earlier versions stopped at these two.
        further = sorted(self._ends - {self.encoder.end_of_turn_id, self.encoder.tokenizer.eos_token_id})
        return {
            **self.name,
            "dtype": dtype,
            "system_prompt": system,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **sampled,
            **({"ends": further} if further else {}),
            **(self.encoder.chat.identity if self.encoder.chat else {}),
        }

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[list[tuple[int, Generated]]]:
        """Answer the requests together, `batch_size` at a time. A waiting request begins as soon as there is room.

        Start with the longest prompts, so that the first batch shows whether there is enough memory.

        Raises:
            ProblemsError: names every prompt that the model cannot read: it is longer than the model's context, or has
                a token without a row in the embedding.
        """
        encoded, waiting, shared = self._prepared(requests)
        decoder = self._decoder(encoded, self._picker([request.key for request in requests]), self._ends_turn, shared)
        while waiting or decoder.alive:
            with self._answering():
                done = decoder.run(waiting)
            yield [(i, self.finish(decoder.written.pop(i), len(encoded[i]))) for i in done]

    def _prepared(self, requests: Sequence[CompletionRequest]) -> tuple[list[list[int]], deque[int], int]:
        """Return the requests' token ids, their order, and the number of tokens at the start of all; see `answer`."""
        encoded = [self._prompt_ids(request) for request in requests]
        self._check(requests, encoded)
        order = sorted(range(len(requests)), key=lambda i: -len(encoded[i]))
        return encoded, deque(order), self._shared(requests, encoded)

    def _check(self, requests: Sequence[CompletionRequest], encoded: Sequence[list[int]]) -> None:
        tokenizer = self.encoder.tokenizer
        self._limits.check_padding(tokenizer)
        problems = []
        for request, ids in zip(requests, encoded, strict=True):
            # The answer needs at least one place.
            problems += self._limits.problems(f"prompt {request.key!r}", ids, tokenizer, len(ids) + 1)
        if problems:
            raise ProblemsError(problems)
        if told := self._limits.beyond_training([len(ids) for ids in encoded]):
            note(told)

    def _prompt_ids(self, request: CompletionRequest) -> list[int]:
        """Render a request's prompt.

        Raises:
            UserError: the chat template refuses it; the message has the request's key.
        """
        try:
            return self.encoder.prompt_ids(request.prompt, request.inputs)
        except TemplateRefusal as error:
            raise UserError(f"{request.key}: {error}") from error

    def _shared(self, requests: Sequence[CompletionRequest], encoded: Sequence[list[int]]) -> int:
        """Count the tokens that the chat template and earlier turns put at the start of every prompt.

        Return 0 if some prompt does not start with these tokens, or if the model cannot share them. Do not count
        further tokens that the texts share by chance, because their number depends on the other requests.
        """
        if not requests or not self._reader.joins:
            return 0
        *turns, last = as_messages(requests[0].prompt)
        one, other = (
            self.encoder.prompt_ids([*turns, {**last, "content": text}], requests[0].inputs) for text in ("0", "Z")
        )
        prefix = [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
        alike = all(len(ids) > len(prefix) and ids[: len(prefix)] == prefix for ids in encoded)
        return len(prefix) if alike else 0

    def tokens(self, request: CompletionRequest) -> Iterator[int]:
        """Yield the tokens of one answer while the model writes them: those of `answer` to this request alone.

        The last one is the end of the turn, unless `max_new_tokens` or the model's context cut the answer off.

        Raises:
            ProblemsError: the model cannot read the prompt; see `answer`.
        """
        prompt = self._prompt_ids(request)
        self._check([request], [prompt])
        decoder, waiting = self._decoder([prompt], self._picker([request.key]), self._ends_turn, 0), deque([0])
        while waiting or decoder.alive:
            with self._answering():
                decoder.step(waiting)
            yield decoder.written[0][-1]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Prepare the model for decoding, until the next answers are handed out."""
        with torch.inference_mode(), self._light_head():
            yield

    @contextmanager
    def _light_head(self) -> Iterator[None]:
        """Give the head contiguous states; see `_contiguous`."""
        hook = causal_lm(self.model).get_output_embeddings().register_forward_pre_hook(_contiguous)
        try:
            yield
        finally:
            hook.remove()

    def _picker(self, keys: list[str]) -> Pick:
        return _Draw(keys, self.seed, self.temperature) if self.temperature > 0 else greedy

    def _write(self, prompts: list[list[int]], keys: list[str], shared: int) -> list[list[int]]:
        """Return the tokens of a batch of answers."""
        return self._decode(prompts, self._picker(keys), self._ends_turn, shared)

    def _ends_turn(self, row: int, ids: list[int]) -> bool:
        return self._has_ended(ids)

    def _has_ended(self, ids: list[int]) -> bool:
        """Whether the model has ended its turn with these tokens."""
        return ids[-1] in self._ends

    def _decode(
        self, prompts: list[list[int]], pick: Pick, is_over: Callable[[int, list[int]], bool], shared: int
    ) -> list[list[int]]:
        """Decode a batch to its end; see `Decoder`."""
        decoder = self._decoder(prompts, pick, is_over, shared, len(prompts))
        waiting = deque(range(len(prompts)))
        with self._answering():
            while waiting or decoder.alive:
                decoder.run(waiting)
        return [decoder.written[row] for row in range(len(prompts))]

    def _decoder(
        self,
        prompts: list[list[int]],
        pick: Pick,
        is_over: Callable[[int, list[int]], bool],
        shared: int,
        size: int | None = None,
    ) -> Decoder:
        def stops(row: int, ids: list[int]) -> bool:
            room = self._limits.has_room(len(prompts[row]) + len(ids))
            return len(ids) >= self.max_new_tokens or not room or is_over(row, ids)

        return Decoder(
            self._reader,
            prompts,
            size=size or self.batch_size,
            pad_token_id=self.encoder.tokenizer.pad_token_id,
            shared=shared,
            most=self.max_new_tokens,
            pick=pick,
            is_over=stops,
        )

    def finish(self, ids: list[int], prompt_tokens: int) -> Generated:
        """Return the answer that these tokens are, as far as it is written."""
        ended = self._has_ended(ids)
        # The end is no part of the answer, also where the tokenizer does not know it as a special token.
        text = self.encoder.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        return Generated(text.strip(), len(ids), "stop" if ended else "length", prompt_tokens)


class BaseOfAdapter(LocalModel):
    """The model below a PEFT adapter as an answerer: it answers with the adapter switched off."""

    @contextmanager
    def _answering(self) -> Iterator[None]:
        with self.model.disable_adapter(), super()._answering():
            yield


def base_of(tuned: LocalModel, name: dict[str, Any] | None = None) -> BaseOfAdapter:
    """Make an answerer of the model below `tuned`'s adapter, with the same settings.

    Args:
        name: how its `identity` names it; default: as `tuned` is named, without an adapter.

    Raises:
        UserError: the model has no adapter that can be switched off without traces.
    """
    if not hasattr(tuned.model, "disable_adapter"):
        raise UserError(
            f"{type(tuned.model).__name__} has no adapter to switch off, so there is no base model to compare with.\n"
            "  Load the model with --adapter."
        )
    refuse_leak(tuned.model, "The base model's answer")
    return BaseOfAdapter(
        tuned.model,
        tuned.encoder,
        max_new_tokens=tuned.max_new_tokens,
        batch_size=tuned.batch_size,
        temperature=tuned.temperature,
        seed=tuned.seed,
        name=name or {**tuned.name, "adapter": None},
    )


def _contiguous(head: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # The last position's states are a strided view. Over frozen weights, torch 2.13 multiplies such a view by one copy
    # of the head per row: 5.6 GB for 100 rows of SmolLM2.
    return (inputs[0].contiguous(), *inputs[1:])


def greedy(logits: Tensor, rows: list[int]) -> Tensor:
    """Return the likeliest token of each row."""
    return logits.argmax(-1)


class _Draw:
    """Draws each row's next token with the question's own random numbers, so that other rows do not matter.

    It draws one number per token and inverts the cumulative distribution at the given temperature.
    """

    def __init__(self, keys: list[str], seed: int, temperature: float) -> None:
        digests = [hashlib.sha256(f"{seed}\0{key}".encode()).digest() for key in keys]
        bits = [np.random.Philox(key=int.from_bytes(d[:16], "little")) for d in digests]
        self._numbers = [np.random.Generator(b) for b in bits]
        # CUDA multiplies by the inverse, which must be finite.
        self._temperature = max(temperature, torch.finfo(torch.double).tiny)

    def __call__(self, logits: Tensor, rows: list[int]) -> Tensor:
        draws = torch.tensor([self._numbers[row].random() for row in rows], device=logits.device)
        # Divided by a tiny temperature, the highest logit must not be infinite.
        below = logits.double() - logits.max(-1, keepdim=True).values
        cumulative = (below / self._temperature).softmax(-1).cumsum(-1)
        return (cumulative < draws[:, None] * cumulative[:, -1:]).sum(-1)
