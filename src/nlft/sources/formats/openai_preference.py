"""OpenAI's files for preference fine-tuning: one input, a preferred and a non-preferred output."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.core.prompts import Message
from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, as_conversation, split
from nlft.sources.formats.format import Format, Place
from nlft.sources.formats.pairs import Side, pair_examples
from nlft.sources.raw_records import RawRecord

_SIDES = ("preferred_output", "non_preferred_output")


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    given = place.fields["input"]
    turns = as_conversation(given.get("messages"))
    if turns is None:
        raise Unusable("an input without messages")
    tools = {"tools": given["tools"]} if given.get("tools") else {}
    yield from pair_examples(place, place.own_id("id"), _sides(place, turns), columns, tools)


def _sides(place: Place, turns: list[Message]) -> Iterator[Side]:
    for name in _SIDES:
        output = as_conversation(place.fields[name])
        if output is None:
            raise Unusable("an output without messages")
        yield Side(name, *split([*turns, *output]))


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["input"], dict) and "messages" in fields["input"]


FORMAT = Format(
    "openai-preference",
    "OpenAI's preference pairs",
    frozenset({"input", "preferred_output", "non_preferred_output"}),
    _matches,
    _read,
)
