"""What every answerer has in common, be it a local model or a server."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from nlft.core.prompts import Message, Prompt
from nlft.progress import progress

Reason = Literal["stop", "length", "content_filter"]


class Request(NamedTuple):
    """One completion that is wanted.

    Attributes:
        key: names it, and with the seed decides its random draws: `gsm8k-7`, or `gsm8k-7#2` for a third sample.
        prompt: text, or chat messages.
    """

    key: str
    prompt: Prompt


@dataclass(frozen=True)
class Generated:
    """One answer.

    Attributes:
        text: without special tokens; empty if the model said nothing.
        tokens: how many were generated, end-of-turn token included; as the server counts them, if it is one.
        finish_reason: `stop` if the model ended its turn, `length` if `max_new_tokens` cut it off.
        prompt_tokens: how many were read.
    """

    text: str
    tokens: int
    finish_reason: Reason
    prompt_tokens: int = 0


class Answerer(Protocol):
    """Something that completes prompts."""

    @property
    def identity(self) -> dict[str, Any]:
        """All that an answer depends on besides its request, as JSON: model, adapter, temperature, seed, ...

        A finished answer is asked for again only if this differs; so there is nothing in it that only changes
        how fast the answer comes, and no secret.
        """
        ...

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Generated]]]:
        """Complete the requests in whatever order is fastest.

        Yields:
            (index into `requests`, answer) pairs, as soon as some are finished.
        """
        ...


def complete(requests: Sequence[Request], model: Answerer, desc: str) -> list[Generated]:
    """The answers in the order of the requests, with progress."""
    found: dict[int, Generated] = {}
    with progress(desc, len(requests), "completion") as bar:
        for batch in model.answer(requests):
            found.update(batch)
            bar.update(len(batch))
    return [found[at] for at in range(len(requests))]


def estimated_tokens(messages: Sequence[Message]) -> int:
    """About how many tokens, without a tokenizer: rather too many than too few, for budgets.

    A token for each digit, as many tokenizers have it, and one for three bytes of anything else.
    """
    texts = [message["content"] for message in messages]
    digits = sum(character.isdigit() for text in texts for character in text)
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return 8 * len(texts) + digits + math.ceil((size - digits) / 3)
