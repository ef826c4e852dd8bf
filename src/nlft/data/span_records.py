"""Spans in a record: read, check, write."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from nlft.core.spans import Span
from nlft.sources.raw_records import RawRecord, kind, shown

_CURE = 'Write each span as {"start": 0, "end": 4}, optionally with "replace" and "note".'
_NAMES = ("start", "end", "replace", "note")


def read_spans(record: RawRecord, completion: str) -> tuple[Span, ...]:
    """Read the record's spans. Add a problem for each that is invalid.

    Args:
        completion: the text that the offsets count in.
    """
    given = record.fields.get("spans")
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        record.refuse("spans", f"is {kind(given)}, not a list.", _CURE)
        return ()
    spans = [span for number, item in enumerate(given, start=1) if (span := _span(record, number, item, completion))]
    ordered = sorted(dict.fromkeys(spans), key=lambda span: span.start)
    for one, other in pairwise(ordered):
        if other.start < one.end:
            what = f"has spans that overlap: {one.start} to {one.end}, and {other.start} to {other.end}."
            record.refuse("spans", what, "Join them into one span, or shorten one of them.")
    return tuple(spans)


def span_rows(spans: Sequence[Span]) -> list[dict[str, Any]]:
    """Return the spans as a record holds them."""
    return [{name: value for name, value in vars(span).items() if value is not None} for span in spans]


def _span(record: RawRecord, number: int, item: object, completion: str) -> Span | None:
    """Convert one span. If it is invalid, report the problem and return None."""
    fields = vars(item) if isinstance(item, Span) else item
    if not isinstance(fields, Mapping):
        record.refuse("spans", f"has span {number}, which is {kind(item)}, not an object.", _CURE)
        return None
    unknown = [name for name in fields if name not in _NAMES]
    places = [fields.get(name) for name in ("start", "end")]
    texts = {name: fields.get(name) for name in ("replace", "note")}
    wrong = [name for name, text in texts.items() if not (text is None or isinstance(text, str))]
    if unknown:
        record.refuse("spans", f"has span {number} with the unknown field {shown(unknown[0])}.", _CURE)
    elif not all(isinstance(place, int) and not isinstance(place, bool) for place in places):
        record.refuse("spans", f"has span {number} without integers for start and end.", _CURE)
    elif wrong:
        record.refuse("spans", f"has span {number} whose {wrong[0]} is {kind(texts[wrong[0]])}, not a string.", _CURE)
    elif not 0 <= fields["start"] < fields["end"] <= len(completion):
        what = f"has span {number} from {fields['start']} to {fields['end']}"
        record.refuse(
            "spans",
            f"{what}, but the completion has {len(completion)} characters.",
            "Count characters from 0; start is before end, and end is at most the completion's length.",
        )
    else:
        return Span(fields["start"], fields["end"], texts["replace"], texts["note"])
    return None
