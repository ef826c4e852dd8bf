"""Langfuse's traces and observations with their scores, as its API and its downloads hold them."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, besides_prompt, prompt_in, reply_in
from nlft.sources.formats.format import Format, Place, objects
from nlft.sources.opinions import Opinion, example
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    trace = place.fields
    scores = trace.get("scores") or []
    given, answered = trace.get("input"), trace.get("output")
    keys = columns.given.get("prompt"), columns.given.get("completion")
    prompt, reply = prompt_in(given, keys[0]), reply_in(answered, keys[1])
    if prompt is None or reply is None:  # only a generation inside the trace has them
        calls = [one for one in objects(trace, "observations") if str(one.get("type")).upper() == "GENERATION"]
        if calls:
            given, answered = calls[-1].get("input"), calls[-1].get("output")
            prompt, reply = prompt_in(given, keys[0]), reply_in(answered, keys[1])
    if prompt is None or reply is None:
        raise Unusable("no input or no output")
    if scores and not objects(trace, "scores"):
        raise Unusable("scores that are only ids: export each trace with its scores")
    opinion = Opinion(left_out=besides_prompt(given, keys[0]))
    for score in objects(trace, "scores"):
        _take(opinion, score, columns)
    for remark in objects(trace, "comments"):
        opinion.comment(remark.get("content"))
    yield example(place.where, place.own_id("id", "traceId"), prompt, reply, opinion)


def _take(opinion: Opinion, score: dict[str, Any], columns: Columns) -> None:
    """Take a score. One of text is in `stringValue`; a boolean is 0 or 1."""
    value = score.get("value")
    text = score.get("stringValue")
    if isinstance(text, str) and text and str(score.get("dataType")).upper() != "BOOLEAN":
        value = text
    opinion.take(str(score.get("name")), value, columns)
    opinion.comment(score.get("comment"))


def _inside(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Open a page of the API (`data`, `meta`), and the download of one trace."""
    trace = fields.get("trace")
    if isinstance(trace, dict) and ("scores" in fields or "scores" in trace):
        return [{**{name: value for name, value in fields.items() if name != "trace"}, **trace}]
    data = fields.get("data")
    if isinstance(data, list) and "meta" in fields and all(isinstance(one, dict) for one in data):
        return data
    return None


def _matches(fields: Mapping[str, Any]) -> bool:
    return "input" in fields and "output" in fields and isinstance(fields["scores"], list)


FORMAT = Format("langfuse", "Langfuse's traces", frozenset({"scores"}), _matches, _read, _inside)
