"""Label Studio's annotations without their structure (the export called JSON-MIN): one flat record per annotation."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.formats.format import Format, Place
from nlft.sources.opinions import Opinion, example, extras, place_span, prompt_and_reply
from nlft.sources.raw_records import RawRecord

_OWN = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
_MARKS = ("labels", "hypertextlabels", "paragraphlabels")
_SAID = ("choices", "text", "rating", "number")


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    fields = {name: value for name, value in place.fields.items() if name not in _OWN}
    prompt, reply = prompt_and_reply(fields, columns, "field")
    opinion, kept = Opinion(), dict[str, Any]()
    for name, value in fields.items():
        if columns.field_of(name) in ("prompt", "completion", "system") or value in (prompt, reply):
            continue
        results = value if isinstance(value, list) else [value]
        if any(isinstance(result, dict) for result in results):
            _take_results(opinion, name, [one for one in results if isinstance(one, dict)], reply, columns)
        elif columns.field_of(name) is not None or name in place.rating_words:
            for said in results:
                opinion.take(name, said, columns, "field")
        elif isinstance(value, list):
            for said in results:
                opinion.comment(said)
        else:
            kept[name] = value  # a field of the task, such as its topic
    if opinion.label is None:
        words = [name for name, value in kept.items() if columns.label(value) is not None]
        opinion.left_out += [f"field {name!r}: to rate by it, add --columns label={name}" for name in words]
    # Several people may annotate one task, so its number alone is no id.
    identity = f"{place.own_id('id')}-{place.fields['annotation_id']}"
    yield example(place.where, identity, prompt, reply, opinion, **extras(kept))


def _take_results(opinion: Opinion, name: str, results: list[dict[str, Any]], reply: str, columns: Columns) -> None:
    """Take what stands under one name: marked parts, texts about marked parts, choices, ratings."""
    for result in results:
        kind = next((kind for kind in _MARKS if kind in result), None)
        start, end, text = (result.get(key) for key in ("start", "end", "text"))
        if kind is None and start is None and (said := next((key for key in _SAID if key in result), None)):
            for one in result[said] if isinstance(result[said], list) else [result[said]]:
                opinion.take(name, one, columns, "field")
        elif kind is None and not isinstance(text, list):
            opinion.left_out.append(f"a result of {name!r}")
        else:
            notes = result[kind] if kind is not None else text
            note = ", ".join(map(str, notes)) if isinstance(notes, list) else ""
            words = text if isinstance(text, str) else None
            span = place_span(reply, _whole(start), _whole(end), words, note)
            if span is None:
                opinion.left_out.append("a marked part that is not in the reply")
            else:
                opinion.spans.append(span)


def _whole(value: object) -> object:
    """Return an offset, which hypertext has as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["annotation_id"], int | str) and not isinstance(fields.get("annotations"), list)


FORMAT = Format(
    "label-studio-min",
    "Label Studio's annotations (JSON-MIN)",
    frozenset({"annotation_id", "annotator"}),
    _matches,
    _read,
    flat=True,
    beside_ours=True,
)
