"""Open WebUI's ratings: the export of its feedback, and chats whose replies were rated."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, as_conversation, split, with_system
from nlft.sources.formats.format import Format, Place, objects, part
from nlft.sources.opinions import Opinion, example, unusable
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    fields = place.fields
    if isinstance(fields.get("chat"), dict):
        yield from _rated_replies(place, columns)
        return
    chat = _innermost(part(fields, "snapshot").get("chat"))
    messages = _history(chat)
    rated = str(part(fields, "meta").get("message_id") or "")
    if rated not in messages:
        raise Unusable("a rating without the chat that it is about")
    yield _example(place.where, place.own_id("id"), chat, messages, rated, fields["data"], columns)


def _rated_replies(place: Place, columns: Columns) -> Iterator[RawRecord]:
    """Yield the replies of a chat that were rated in it."""
    chat = _innermost(place.fields["chat"])
    messages = _history(chat)
    rated = {key: m["annotation"] for key, m in messages.items() if isinstance(m.get("annotation"), dict)}
    if not rated:
        raise Unusable("a chat in which nothing is rated")
    for key, annotation in rated.items():
        try:
            yield _example(place.where, f"{place.own_id('id')}-{key}", chat, messages, key, annotation, columns)
        except Unusable as error:
            yield unusable(place.where, str(error))


# How Open WebUI keeps what a model thought before its reply.
_THOUGHTS = re.compile(r'<details type="reasoning"[^<>]*>(?:(?!</?details\b).)*</details>\s*', re.DOTALL)


def _example(
    where: str,
    identity: str | int,
    chat: dict[str, Any],
    messages: dict[str, dict[str, Any]],
    key: str,
    rating: dict[str, Any],
    columns: Columns,
) -> RawRecord:
    """Make the example of one rated reply: the branch of the chat that leads to it, the thumb and the remark."""
    branch: list[dict[str, Any]] = []
    at: object = key
    while isinstance(at, str) and at in messages and len(branch) <= len(messages):
        branch.insert(0, messages[at])
        at = messages[at].get("parentId")
    if any(message.get("files") for message in branch):
        raise Unusable("a chat with attached files")
    turns = as_conversation(branch)
    if turns is None:
        raise Unusable("a chat without messages")
    system = chat.get("system") or part(chat, "params").get("system")
    if isinstance(system, str) and system:
        turns = with_system(system, turns)
    prompt, reply, _ = split(turns)
    if rating.get("rating") == 0 and "label" not in columns.given:
        raise Unusable("a draw between two models")
    opinion = Opinion(columns.label(rating.get("rating")))
    if (shown := _THOUGHTS.sub("", reply)) != reply:
        reply = shown
        opinion.left_out.append("the model's thoughts, which stand in the reply")
    opinion.comment(str(rating.get("reason") or "").replace("_", " ").capitalize())
    opinion.comment(rating.get("comment"))
    details = part(rating, "details").get("rating")
    if details is not None and opinion.label is None:
        opinion.left_out.append("details of a rating without a thumb")
    return example(where, identity, prompt, reply, opinion)


def _innermost(chat: object) -> dict[str, Any]:
    """Return the chat's own data, which some exports wrap once more."""
    while isinstance(chat, dict) and isinstance(chat.get("chat"), dict):
        chat = chat["chat"]
    return chat if isinstance(chat, dict) else {}


def _history(chat: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the messages by id."""
    history = part(chat, "history")
    listed = objects({"all": list(part(history, "messages").values())}, "all")
    listed = listed or objects(history, "messages") or objects(chat, "messages")
    return {str(message.get("id")): message for message in listed}


def _matches(fields: Mapping[str, Any]) -> bool:
    feedback = isinstance(fields.get("data"), dict) and "rating" in fields["data"] and "annotations" not in fields
    return (feedback and "snapshot" in fields) or bool(_history(_innermost(fields.get("chat"))))


FORMAT = Format("open-webui", "Open WebUI's ratings", frozenset({"snapshot", "chat"}), _matches, _read, any_key=True)
