"""Conversations under `messages`: OpenAI's files for chat fine-tuning, TRL's, and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.core.prompts import Message
from nlft.sources.columns import Columns, field_named
from nlft.sources.conversation import NO_REPLY, Unusable, as_conversation, as_prompt, split, with_system
from nlft.sources.formats.format import Format, Place
from nlft.sources.label_words import label_problem
from nlft.sources.opinions import Opinion, example, extras, pick, unusable
from nlft.sources.raw_records import TEMPLATE_COLUMNS, RawRecord

_TEXTS = ("judgment", "revision", "answer")
_AS_THEY_ARE = ("spans", "keep", *TEMPLATE_COLUMNS)


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    yield conversation_record(place, place.fields["messages"], columns)


def conversation_record(place: Place, messages: object, columns: Columns) -> RawRecord:
    """Make the example of a whole conversation: its last reply, and what the record says about it.

    Without a rating the reply is right: such files hold replies to learn from. But a judgment or a marked part says
    what is wrong. A reply of weight 0 (OpenAI) is not meant to be learned, so the one before it is taken. A
    conversation without a reply is only a question. One that goes on after the last reply, up to a message by the user,
    asks that message, after all before it.

    Raises:
        Unusable: it calls tools, or has no message by a user or an empty reply.
    """
    fields = place.fields
    taught = messages[: _end_of_taught(messages)] if isinstance(messages, list) else messages
    turns = as_conversation(taught)
    if turns is None:
        raise Unusable("messages that have no role or no content")
    system = pick(fields, "system", columns)
    system = system if isinstance(system, str) and system.strip() else None
    turns = with_system(system, turns) if system else turns
    identity = place.own_id("id", "uuid", "prompt_id")
    more = {name: fields[name] for name in _AS_THEY_ARE if fields.get(name)} | extras(fields)
    if turns[-1]["role"] == "user" and all(turn["role"] != "assistant" for turn in turns):
        answer = pick(fields, "answer", columns)
        more |= {"answer": answer} if isinstance(answer, str) else {}
        return unusable(place.where, NO_REPLY, id=identity, prompt=as_prompt(turns), **more)
    prompt, reply, after = split(turns)
    # Without a rating, a conversation is what to learn from. A column that the user names must be there.
    opinion = Opinion(label=None if "label" in columns.given else True)
    if after or len(taught) < len(messages):  # type: ignore[arg-type]
        opinion.left_out.append("messages after the last reply")
    rating = _take_texts(opinion, fields, columns)
    if rating is not None:
        opinion.label = columns.label(rating)
    elif opinion.label and ("judgment" in opinion.texts or "spans" in more):
        opinion.label = False
    record = example(place.where, identity, prompt, reply, opinion, **more)
    record.asks = _asked(messages, system)
    if rating is not None and opinion.label is None:
        record.unused = None
        record.refuse("label", *label_problem(rating, _rating_name(fields, columns)))
    return record


def _asked(messages: object, system: str | None) -> str | list[Message] | None:
    """Return the whole conversation as a prompt if it ends with a message by the user; else None. See `RawRecord`."""
    try:
        turns = as_conversation(messages) or []
    except Unusable:  # what follows the last reply that is learned may call tools
        return []
    if not turns or turns[-1]["role"] != "user":
        return None
    return with_system(system, turns) if system else turns


def _take_texts(opinion: Opinion, fields: dict[str, Any], columns: Columns) -> Any:
    """Take what a record says about its reply in words. Return its rating; None if it has none."""
    for name in _TEXTS:
        if isinstance(text := pick(fields, name, columns), str) and text.strip():
            opinion.texts[name] = text
    rating, comment = pick(fields, "label", columns), pick(fields, "comment", columns)
    feedback = fields.get("feedback")
    if rating is None and "label" not in columns.given and columns.label(comment) is not None:
        return comment  # `like` under `feedback`
    if isinstance(feedback, str) and feedback.strip() and (comment is not feedback or "judgment" in opinion.texts):
        opinion.texts["feedback"] = feedback  # our own field
        comment = None if comment is feedback else comment
    opinion.comment(comment)
    return rating


def _rating_name(fields: dict[str, Any], columns: Columns) -> str:
    """Return the name that the file has for its ratings, so that the message names a column that exists."""
    return columns.given.get("label") or next((name for name in fields if field_named(name) == "label"), "label")


def _end_of_taught(messages: list[Any]) -> int:
    """Return how many messages there are up to the last reply that is meant to be learned."""
    end = len(messages)
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        if isinstance(message, dict) and message.get("role") == "assistant":
            if message.get("weight") != 0:
                return at + 1
            end = at
    return end


def _matches(fields: Mapping[str, Any]) -> bool:
    turns = fields["messages"]
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)


FORMAT = Format("messages", "conversations under `messages` (OpenAI, TRL)", frozenset({"messages"}), _matches, _read)
