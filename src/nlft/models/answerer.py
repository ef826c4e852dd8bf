"""The protocol that every answerer follows, local model or server."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from nlft.core.prompts import NO_INPUTS, Message, Prompt, TemplateInputs, as_messages
from nlft.progress import progress

Reason = Literal["stop", "length", "content_filter", "unknown"]


class CompletionRequest(NamedTuple):
    """A request for one completion.

    Attributes:
        key: unique name, such as `gsm8k-7`, or `gsm8k-7#2` for a third sample. Key and seed fix the random draws.
        prompt: text, or chat messages.
        inputs: what the prompt's own record gives to the chat template.
    """

    key: str
    prompt: Prompt
    inputs: TemplateInputs = NO_INPUTS


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: the answer without special tokens; empty if the model generated no text.
        tokens: number of generated tokens, end-of-turn token included. A server reports its own count.
        finish_reason: `stop` if the model ended its turn, `length` if `max_new_tokens` or the model's context cut it
            off, `content_filter` if the server's filter stopped it, `unknown` if the server gives a reason that is none
            of these.
        prompt_tokens: number of prompt tokens.
    """

    text: str
    tokens: int
    finish_reason: Reason
    prompt_tokens: int = 0


class Answerer(Protocol):
    """Completes prompts."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that an answer depends on besides its request, as JSON: model, adapter, temperature, seed, ...

        The ledger asks for a finished answer again only if the identity differs. So the identity does not include
        settings that change only the speed. It contains no secret.
        """
        ...

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[list[tuple[int, Generated]]]:
        """Complete the requests in the order that is fastest.

        Yields:
            (index into `requests`, answer) pairs, as they finish.
        """
        ...


def complete(requests: Sequence[CompletionRequest], model: Answerer, desc: str) -> list[Generated]:
    """Return the answers in the order of the requests. Show progress."""
    answers: dict[int, Generated] = {}
    with progress(desc, len(requests), "completion") as bar:
        for batch in model.answer(requests):
            answers.update(batch)
            bar.update(len(batch))
    return [answers[at] for at in range(len(requests))]


def estimated_prompt_tokens(request: CompletionRequest, system_prompt: str | None) -> int:
    """Estimate the number of tokens of a request's prompt, with its tools; see `estimated_tokens`."""
    tools = [{"content": json.dumps(request.inputs.tools)}] if request.inputs.tools else []
    return estimated_tokens([*as_messages(request.prompt, system_prompt=system_prompt), *tools])


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Estimate the number of tokens without a tokenizer. The estimate is high, because budgets use it.

    Each digit counts as one token, as in many tokenizers. Three bytes of anything else count as one token.
    """
    texts = [message["content"] for message in messages]
    digits = sum(character.isdigit() for text in texts for character in text)
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return 8 * len(texts) + digits + math.ceil((size - digits) / 3)
