"""LangSmith's runs with their feedback."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, besides_prompt, prompt_in, reply_in
from nlft.sources.formats.format import Format, Place, objects, part
from nlft.sources.opinions import Opinion, example
from nlft.sources.raw_records import RawRecord


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    run = place.fields
    if run.get("error"):
        raise Unusable("the run failed")
    key = columns.given.get("prompt")
    prompt, reply = prompt_in(run["inputs"], key), reply_in(run.get("outputs"), columns.given.get("completion"))
    if prompt is None or reply is None:
        raise Unusable("no input or no output")
    opinion = Opinion(left_out=besides_prompt(run["inputs"], key))
    entries, stats = objects(run, "feedback"), part(run, "feedback_stats")
    for entry in entries:
        _take(opinion, entry, columns)
    for key in () if entries else stats:
        _take_stats(opinion, key, part(stats, key), columns)
    yield example(place.where, place.own_id("id", "run_id"), prompt, reply, opinion)


def _take(opinion: Opinion, entry: dict[str, Any], columns: Columns) -> None:
    """Take one feedback: its score, or else its value; its comment; its correction."""
    key = str(entry.get("key"))
    rating = entry.get("score") if entry.get("score") is not None else entry.get("value")
    if rating is not None:
        opinion.take(key, rating, columns, "feedback")
    opinion.comment(entry.get("comment"))
    if (correction := reply_in(entry.get("correction"))) is not None:
        opinion.texts["revision"] = correction


def _take_stats(opinion: Opinion, key: str, numbers: dict[str, Any], columns: Columns) -> None:
    """Take the sums of a key's feedback. A mean is a rating only if all who rated agree."""
    if numbers.get("avg") is not None:
        opinion.take(key, numbers["avg"], columns, "feedback")
    remarks = numbers.get("comments")
    for remark in remarks if isinstance(remarks, list) else ():
        opinion.comment(remark)


def _inside(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    runs = fields.get("runs")
    return runs if isinstance(runs, list) and runs and all(isinstance(run, dict) for run in runs) else None


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["inputs"], dict) and isinstance(fields.get("outputs"), dict | None)


FORMAT = Format("langsmith", "LangSmith's runs", frozenset({"inputs", "outputs"}), _matches, _read, _inside)
