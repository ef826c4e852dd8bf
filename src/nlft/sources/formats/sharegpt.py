"""ShareGPT's conversations, also with a pair of replies or a rating after them, as LLaMA-Factory writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.formats.format import Format, Place
from nlft.sources.formats.messages import conversation_record
from nlft.sources.formats.pairs import Side, pair_examples, sides_of
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    fields = place.fields
    # The tools of this format are text, which no chat template takes.
    others = {name: value for name, value in fields.items() if name not in ("conversations", "tools")}
    plain = replace(place, fields=others)
    if {"chosen", "rejected"} <= fields.keys():
        prompt, chosen, rejected = sides_of(fields, fields["conversations"])
        sides = [Side("chosen", prompt, chosen), Side("rejected", prompt, rejected)]
        made = list(pair_examples(plain, place.own_id("id"), sides, columns, {}))
    else:
        made = [conversation_record(plain, fields["conversations"], columns)]
    if fields.get("tools"):
        made[0].left_out.append("the list of tools")
    yield from made


def _matches(fields: Mapping[str, Any]) -> bool:
    turns = fields["conversations"]
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)


FORMAT = Format("sharegpt", "ShareGPT's conversations", frozenset({"conversations"}), _matches, _read)
