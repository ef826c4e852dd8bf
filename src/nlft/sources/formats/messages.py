"""Conversations under `messages`: OpenAI's files for chat fine-tuning, TRL's, and others."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns, field_named
from nlft.sources.conversation import Unusable, as_conversation, split, with_system
from nlft.sources.formats.format import Format, Place
from nlft.sources.label_words import label_problem
from nlft.sources.opinions import Opinion, example, extras, kept_fields, pick
from nlft.sources.raw_records import TEMPLATE_COLUMNS, RawRecord

_TEXTS = ("judgment", "revision", "answer")


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    yield conversation_record(place, place.fields["messages"], columns)


def conversation_record(place: Place, messages: object, columns: Columns) -> RawRecord:
    """Make the example of a whole conversation: its last reply, and what the record says about it.

    Without a rating the reply is right: such files hold replies to learn from. A reply of weight 0 (OpenAI) is not
    meant to be learned, so the one before it is taken.

    Raises:
        Unusable: there is no reply in it, or it calls tools.
    """
    fields = place.fields
    taught = messages[: _end_of_taught(messages)] if isinstance(messages, list) else messages
    turns = as_conversation(taught)
    if turns is None:
        raise Unusable("messages that have no role or no content")
    system = fields.get("system")
    if isinstance(system, str) and system:
        turns = with_system(system, turns)
    prompt, reply, after = split(turns)
    # Without a rating, a conversation is what to learn from. A column that the user names must be there.
    opinion = Opinion(label=None if "label" in columns.given else True)
    if after or len(taught) < len(messages):  # type: ignore[arg-type]
        opinion.left_out.append("messages after the last reply")
    rating = pick(fields, "label", columns)
    if rating is not None:
        opinion.label = columns.label(rating)
    for name in _TEXTS:
        if isinstance(text := pick(fields, name, columns), str) and text.strip():
            opinion.texts[name] = text
    opinion.comment(pick(fields, "comment", columns))
    more = kept_fields(fields, ("spans", "keep", *TEMPLATE_COLUMNS)) | extras(fields)
    if "spans" in more and rating is None and not more.get("keep"):
        opinion.label = False  # as in every format: a marked part is what somebody objects to
    record = example(place.where, place.own_id("id", "uuid", "prompt_id"), prompt, reply, opinion, **more)
    if rating is not None and opinion.label is None:
        record.unused = None
        record.refuse("label", *label_problem(rating, _rating_name(fields, columns)))
    return record


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
