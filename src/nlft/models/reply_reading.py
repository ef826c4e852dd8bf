"""Read a chat completion: its text, why it ended, its tokens, or an error. Servers differ in all of them."""

import json
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
# Without a text, these say that the provider behind the server failed.
_FAILED = {"error", "abort", "aborted", "cancel", "cancelled", "canceled", "failed", "failure"}
_REASON_OF = {word: reason for reason, words in _REASONS.items() for word in words}


def read_reason(finish_reason: object) -> Reason:
    """Return why a reply ended. A server that gives no reason is taken to mean `stop`.

    Args:
        finish_reason: the server's word in any spelling: `MAX_TOKENS`, `max-tokens` and `maxTokens` are one. `unknown`
            if this is not one of the words that servers are known to use.
    """
    if not finish_reason:
        return "stop"
    return _REASON_OF.get(_word(finish_reason), "unknown")


def _word(finish_reason: object) -> str:
    word = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", str(finish_reason).strip()).lower()
    return word.removeprefix("finish_reason_")


def read_error(completion: Mapping[str, Any]) -> str | None:
    """Return the error that a completion carries instead of an answer. Return None if it carries none.

    A server that passes requests on answers with status 200 and reports its provider's failure inside: in place of the
    choices, in a choice, or only as the reason for the end of an empty message.
    """
    choices = completion.get("choices")
    choice = choices[0] if choices else completion
    if error := choice.get("error"):
        return said(error)
    if _word(choice.get("finish_reason")) in _FAILED and not read_text(choice.get("message") or {}):
        return f"finish_reason {choice['finish_reason']} without a text"
    return None


def said(body: object) -> str:
    """Return the message in a server's error."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    return body if isinstance(body, str) else json.dumps(body) if body else ""


def read_usage(completion: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens of the reply and of the prompt. A number that is missing or cannot be read is 0."""
    usage = completion.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return _count(counts.get("completion_tokens")), _count(counts.get("prompt_tokens"))


def _count(value: object) -> int:
    try:
        return max(int(value), 0) if isinstance(value, str | int | float) else 0
    except (ValueError, OverflowError):  # a word, or a number that is not finite
        return 0


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
