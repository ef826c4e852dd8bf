"""OpenAI's files for preference fine-tuning: one input, a preferred and a non-preferred output."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, as_conversation, split
from nlft.sources.formats.format import Format, Place
from nlft.sources.formats.pairs import about_one
from nlft.sources.opinions import Opinion, example
from nlft.sources.raw_records import RawRecord

_SIDES = (("preferred_output", True), ("non_preferred_output", False))


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    given = place.fields["input"]
    turns = as_conversation(given.get("messages"))
    if turns is None:
        raise Unusable("an input without messages")
    tools = {"tools": given["tools"]} if given.get("tools") else {}
    for name, label in _SIDES:
        output = as_conversation(place.fields[name])
        if output is None:
            raise Unusable("an output without messages")
        prompt, reply, after = split([*turns, *output])
        opinion = Opinion(label, left_out=["messages after the last reply"] * bool(after))
        record = example(place.where, f"{place.own_id('id')}-{name}", prompt, reply, opinion, **tools)
        record.left_out += about_one(place.fields, columns) if label else []
        record.repeats = not label
        yield record


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["input"], dict) and "messages" in fields["input"]


FORMAT = Format(
    "openai-preference",
    "OpenAI's preference pairs",
    frozenset({"input", "preferred_output", "non_preferred_output"}),
    _matches,
    _read,
)
