"""Conversations as other tools write them, as a prompt and the reply to it."""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from nlft.core.prompts import Message, as_messages

_ROLES = {
    **dict.fromkeys(("user", "human", "humanmessage", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "ai", "bot", "model", "chatgpt", "bing", "aimessage"), "assistant"),
    **dict.fromkeys(("system", "developer", "systemmessage"), "system"),
}
_TOOL_ROLES = ("tool", "function", "observation", "function_call", "toolmessage", "functionmessage")
NO_REPLY = "no reply by the assistant"
_AS_TEXT = re.compile(r"""\A\s*\[\s*\{\s*(['"])(?:role|content|from|value)\1\s*:""")
_PROMPT_KEYS = ("question", "input", "prompt", "query", "message", "text", "instruction", "user_input", "content")
_REPLY_KEYS = ("output", "answer", "response", "reply", "completion", "text", "content", "result", "generation")


class Unusable(Exception):
    """A record cannot be an example. The text says why, in the same words for every such record."""


def as_conversation(value: object) -> list[Message] | None:
    """Return a list of chat messages as ours. Return None if the value is no such list.

    Messages may be `role`/`content` (OpenAI), `from`/`value` (ShareGPT), or LangChain's. Text that is a JSON list of
    messages counts.

    Raises:
        Unusable: a message calls a tool, or holds something that is not text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain's batches
    if not isinstance(value, list) or not value or not all(_role_of(message) for message in value):
        return None
    return [_message(message) for message in value]


def messages_in_text(text: str) -> list[Message] | None:
    """Return the chat messages that a text is a list of, in JSON or as Python writes it. None: it is other text.

    Tables hold lists as text: pandas writes Python's form into .csv. A list of other objects is a text.

    Raises:
        Unusable: as `as_conversation`; or it begins like a list of messages, and has neither form.
    """
    if not _AS_TEXT.match(text):
        return None
    value = _list_in(text)
    if value is None:
        raise Unusable("text that begins like a list of messages, but is not JSON")
    whole = ({"role", "content"}, {"from", "value"})
    if not all(isinstance(message, dict) and any(keys <= message.keys() for keys in whole) for message in value):
        return None
    return as_conversation(value)


def _list_in(text: str) -> list[Any] | None:
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return value if isinstance(value, list) else None
    return None


def _role_of(message: object) -> str | None:
    if not isinstance(message, dict):
        return None
    named = message.get("role") or message.get("from") or message.get("type")
    if named == "constructor" and isinstance(message.get("id"), list):
        named = message["id"][-1] if message["id"] else None
    return named.casefold() if isinstance(named, str) else None


def _message(message: dict[str, Any]) -> Message:
    role = str(_role_of(message))
    body = next((b for b in (message.get("kwargs"), message.get("data")) if isinstance(b, dict)), message)
    more = body.get("additional_kwargs")
    calls = [
        part.get(key) for part in (body, more) if isinstance(part, dict) for key in ("tool_calls", "function_call")
    ]
    if any(calls) or role in _TOOL_ROLES:
        raise Unusable("tool calls, which a reply of plain text cannot hold")
    if role not in _ROLES:
        raise Unusable(f"a message by {role!r}, which is none of user, assistant and system")
    content = body.get("content", body.get("value"))
    return {"role": _ROLES[role], "content": text_of(content)}


def text_of(content: object) -> str:
    """Return a message's content as text: a string, or a list of parts of the type `text`.

    Raises:
        Unusable: a part is not text, such as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        kinds = [part.get("type", "text") for part in content if isinstance(part, dict)]
        if all(kind in ("text", "input_text", "output_text") for kind in kinds) and all(
            isinstance(part, str) for part in parts
        ):
            return "".join(str(part) for part in parts)
    raise Unusable("content that is not text, such as an image")


def split(messages: Sequence[Message]) -> tuple[str | list[Message], str, int]:
    """Return the prompt, the last reply, and how many messages come after that reply.

    A prompt of one message by the user becomes plain text.

    Raises:
        Unusable: there is no reply, or nothing before it.
    """
    last = max((at for at, message in enumerate(messages) if message["role"] == "assistant"), default=None)
    if last is None:
        raise Unusable(NO_REPLY)
    prompt, reply = list(messages[:last]), messages[last]["content"]
    if not any(message["role"] == "user" for message in prompt):
        raise Unusable("no message by a user before the reply")
    if not reply.strip():
        raise Unusable("an empty reply")
    return as_prompt(prompt), reply, len(messages) - last - 1


def as_prompt(messages: list[Message]) -> str | list[Message]:
    """Return a prompt of one message by the user as plain text, and any other one as it is."""
    return messages[0]["content"] if [m["role"] for m in messages] == ["user"] else messages


def split_whole(messages: Sequence[Message]) -> tuple[str | list[Message], str]:
    """Return the prompt and the reply with which the messages end. See `split`.

    Raises:
        Unusable: also if messages follow the last reply: then it is not clear what was rated.
    """
    prompt, reply, after = split(messages)
    if after:
        raise Unusable("a conversation that does not end with a reply")
    return prompt, reply


def besides_prompt(value: object, key: str | None = None) -> list[str]:
    """Name the inputs that `prompt_in` does not use. The reply may depend on them."""
    if not isinstance(value, dict):
        return []
    used = prompt_in(value, key)
    return [f"input {name!r}" for name, part in value.items() if isinstance(part, str) and part and part != used]


def prompt_in(value: object, key: str | None = None) -> str | list[Message] | None:
    """Find the prompt in what a tool logged as a model's input. Return None if there is none.

    Args:
        key: under which name it is, if the user says so.

    Raises:
        Unusable: it has a tool call, or content that is not text.
    """
    found = _inside(value, (key,) if key else ("messages", "prompts", *_PROMPT_KEYS))
    if isinstance(found, str) and not found.lstrip().startswith("["):
        return found if found.strip() else None
    messages = as_conversation(found)
    if messages:
        return as_prompt(messages)
    return found if isinstance(found, str) and found.strip() else None


def reply_in(value: object, key: str | None = None) -> str | None:
    """Find the reply in what a tool logged as a model's output. Return None if there is none.

    Args:
        key: under which name it is, if the user says so.

    Raises:
        Unusable: it has a tool call, or content that is not text.
    """
    if key and isinstance(value, dict) and key in value:
        value = value[key]
    for _ in range(6):  # choices, generations and messages are nested a few levels deep
        if isinstance(value, str):
            return value if value.strip() else None
        if isinstance(value, list) and value:
            value = value[-1]
        elif isinstance(value, dict) and _role_of(value) and {"content", "value", "kwargs", "data"} & value.keys():
            return _message(value)["content"] or None
        elif isinstance(value, dict):
            value = _inside(value, ("messages", "choices", "generations", "message", *_REPLY_KEYS))
        else:
            return None
    return None


def _inside(value: object, keys: Sequence[str]) -> object:
    """Return what an object holds under the first of the keys that it has, or else its only value."""
    if not isinstance(value, dict):
        return value
    filled = {key: part for key, part in value.items() if part not in (None, "", [], {})}
    found = next((filled[key] for key in keys if key in filled), None)
    return next(iter(filled.values())) if found is None and len(filled) == 1 else found


def with_system(system: str, prompt: str | list[Message]) -> list[Message]:
    """Return the prompt with a system turn before it, unless it has one."""
    turns = as_messages(prompt, "user")
    has_one = bool(turns) and isinstance(turns[0], dict) and turns[0].get("role") == "system"
    return turns if has_one else [{"role": "system", "content": system}, *turns]
