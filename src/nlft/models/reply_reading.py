"""Read a chat completion's message: its text, and why it ended. Servers differ in both."""

import re
from collections.abc import Mapping
from typing import Any

from nlft.models.answerer import Reason

_TEXT_PARTS = (None, "text", "output_text")  # other parts hold thoughts, images or calls of tools
_REASONS: dict[Reason, tuple[str, ...]] = {
    "stop": (
        *("stop", "stopped", "stop_sequence", "stop_token", "stop_word", "eos", "eos_token", "end", "end_turn"),
        *("end_of_turn", "end_of_text", "endoftext", "complete", "completed", "completion", "finished", "done"),
        *("success", "normal", "tool_calls", "tool_call", "tool_use", "function_call"),
    ),
    "length": (
        *("length", "max_tokens", "max_token", "max_new_tokens", "max_output_tokens", "max_completion_tokens"),
        *("max_length", "max_tokens_reached", "max_tokens_exceeded", "token_limit", "token_limit_reached"),
        *("length_limit", "limit", "model_length", "model_context_window_exceeded", "context_length"),
        *("context_length_exceeded", "context_window_exceeded", "context_limit", "incomplete", "truncated"),
    ),
    "content_filter": (
        *("content_filter", "content_filtered", "filter", "filtered", "safety", "recitation", "blocklist", "blocked"),
        *("prohibited_content", "spii", "refusal", "guardrail_intervened", "sensitive", "moderation"),
    ),
}
_REASON_OF = {word: reason for reason, words in _REASONS.items() for word in words}


def read_reason(finish_reason: object) -> Reason:
    """Return why a reply ended. A server that gives no reason is taken to mean `stop`.

    Args:
        finish_reason: the server's word in any spelling: `MAX_TOKENS`, `max-tokens` and `maxTokens` are one. `unknown`
            if this is not one of the words that servers are known to use.
    """
    if not finish_reason:
        return "stop"
    word = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", str(finish_reason).strip()).lower()
    return _REASON_OF.get(word.removeprefix("finish_reason_"), "unknown")


def read_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message. Its content is a text, a part or a list of parts; only text parts count.

    A model's thoughts are in parts of another type, or in fields beside the content. A refusal counts if there is no
    text.

    Raises:
        TypeError: the content has another form.
    """
    return _content_text(message.get("content")) or _content_text(message.get("refusal"))


def _content_text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return _part_text(content)
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else _part_text(part) for part in content)
    raise TypeError(content)


def _part_text(part: object) -> str:
    """Return the text of one part, and an empty text for a part of another type."""
    if not isinstance(part, Mapping):
        raise TypeError(part)
    kind = part.get("type")
    kind = kind.lower() if isinstance(kind, str) else kind
    if part.get("thought") is True:  # as Gemini marks its thoughts
        return ""
    if kind == "refusal":
        return _content_text(part.get("refusal"))
    if kind not in _TEXT_PARTS:
        return ""
    text = part["text"]
    if isinstance(text, Mapping):
        text = text["value"]
    if not isinstance(text, str | None):
        raise TypeError(text)
    return text or ""
