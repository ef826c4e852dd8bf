"""Label Studio's tasks with their annotations (the export called JSON)."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable
from nlft.sources.formats.format import Format, Place, objects, part
from nlft.sources.opinions import Opinion, example, merged, place_span, prompt_and_reply
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    prompt, reply = prompt_and_reply(place.fields["data"], columns, "data")
    people = [
        _opinion(results, reply, columns)
        for annotation in objects(place.fields, "annotations")
        if (results := objects(annotation, "result")) and not annotation.get("was_cancelled")
    ]
    if not people:
        raise Unusable(
            "only predictions, which no person has confirmed" if _predicted(place.fields) else "no annotation"
        )
    yield example(place.where, place.own_id("id"), prompt, reply, merged(people))


def _predicted(fields: Mapping[str, Any]) -> bool:
    return any(one.get("result") for one in objects(fields, "predictions"))


def _opinion(results: list[dict[str, Any]], reply: str, columns: Columns) -> Opinion:
    """Return what one annotation says. A text written for a region is that region's remark."""
    opinion, by_region = Opinion(), dict[str, dict[str, Any]]()
    for result in results:
        value, kind = result.get("value"), str(result.get("type", ""))
        if not isinstance(value, dict):
            opinion.left_out.append(f"a result of the type {kind}")
        elif kind in ("labels", "hypertextlabels", "paragraphlabels"):
            labels = value.get(kind) or value.get("labels")
            note = ", ".join(map(str, labels)) if isinstance(labels, list) else ""
            start, end = ((part(value, "globalOffsets") or value).get(name) for name in ("start", "end"))
            span = place_span(reply, _whole(start), _whole(end), value.get("text"), note)
            if span is None:
                opinion.left_out.append("a marked part that is not in the reply")
            else:
                opinion.spans.append(span)
                by_region[str(result.get("id"))] = span
        elif kind in ("textarea", "choices", "rating", "number") and not _joins(
            by_region.get(str(result.get("id"))), value
        ):
            for said in _parts(value, kind):
                opinion.take(str(result.get("from_name")), said, columns, kind)
        elif kind not in ("textarea", "choices", "rating", "number"):
            opinion.left_out.append(f"a result of the type {kind}")
    return opinion


def _whole(value: object) -> object:
    """Return an offset, which hypertext has as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


def _joins(span: dict[str, Any] | None, value: dict[str, Any]) -> bool:
    """Add a text that belongs to a marked part to that part's note."""
    texts = value.get("text")
    if span is None or not isinstance(texts, list):
        return False
    span["note"] = "; ".join(filter(None, [span.get("note"), *map(str, texts)]))
    return True


def _parts(value: dict[str, Any], kind: str) -> list[Any]:
    found = value.get("text" if kind == "textarea" else kind)
    return found if isinstance(found, list) else [found] if found is not None else []


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["data"], dict) and isinstance(fields["annotations"], list)


FORMAT = Format("label-studio", "Label Studio's tasks", frozenset({"data", "annotations"}), _matches, _read)
