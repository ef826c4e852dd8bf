"""ShareGPT's conversations, also with a pair of replies or a rating after them, as LLaMA-Factory writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.formats.format import Format, Place
from nlft.sources.formats.messages import conversation_record
from nlft.sources.formats.pairs import pair_records
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    turns = place.fields["conversations"]
    # The tools of this format are text, which no chat template takes.
    plain = {name: value for name, value in place.fields.items() if name not in ("conversations", "tools")}
    inside = replace(place, fields=plain)
    is_pair = {"chosen", "rejected"} <= plain.keys()
    for record in pair_records(inside, turns, columns) if is_pair else [conversation_record(inside, turns, columns)]:
        if place.fields.get("tools"):
            record.left_out.append("the list of tools")
        yield record


def _matches(fields: Mapping[str, Any]) -> bool:
    turns = fields["conversations"]
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)


FORMAT = Format("sharegpt", "ShareGPT's conversations", frozenset({"conversations"}), _matches, _read)
