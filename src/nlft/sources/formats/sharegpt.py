"""ShareGPT's conversations, also with a pair of replies or a rating after them, as LLaMA-Factory writes them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.formats.format import Format, Place
from nlft.sources.formats.messages import conversation_record
from nlft.sources.formats.pairs import sides_of
from nlft.sources.opinions import Opinion, example
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    fields = place.fields
    if {"chosen", "rejected"} <= fields.keys():
        prompt, chosen, rejected = sides_of(fields, fields["conversations"])
        for name, reply, label in (("chosen", chosen, True), ("rejected", rejected, False)):
            record = example(place.where, f"{place.own_id('id')}-{name}", prompt, reply, Opinion(label))
            record.repeats = not label
            yield record
        return
    # The tools of this format are text, which no chat template takes.
    plain = {name: value for name, value in fields.items() if name not in ("conversations", "tools")}
    record = conversation_record(replace(place, fields=plain), fields["conversations"], columns)
    if fields.get("tools"):
        record.left_out.append("the list of tools")
    yield record


def _matches(fields: Mapping[str, Any]) -> bool:
    turns = fields["conversations"]
    return isinstance(turns, list) and bool(turns) and all(isinstance(turn, dict) for turn in turns)


FORMAT = Format("sharegpt", "ShareGPT's conversations", frozenset({"conversations"}), _matches, _read)
