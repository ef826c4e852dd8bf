"""Argilla's records, as `records.to_list()` and the datasets that it exports hold them."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable
from nlft.sources.formats.format import Format, Place, objects, part
from nlft.sources.opinions import Opinion, example, merged, place_span, prompt_and_reply
from nlft.sources.raw_records import RawRecord

_FLAT = ".responses"


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    shown, responses, suggested = _parts(place.fields)
    prompt, reply = prompt_and_reply(shown, columns, "field")
    people: dict[str, Opinion] = {}
    for question in responses:
        for number, answer in enumerate(objects(responses, question)):
            opinion = people.setdefault(str(answer.get("user_id") or number), Opinion())
            _take(opinion, question, answer.get("value"), reply, columns)
    if not people:
        only = any(one.get("value") is not None for one in suggested)
        raise Unusable("only suggestions, which no person has confirmed" if only else "no response")
    yield example(place.where, place.own_id("id", "external_id"), prompt, reply, merged(people.values()))


def _take(opinion: Opinion, question: str, value: Any, reply: str, columns: Columns) -> None:
    """Take one answer of one person: marked parts, a choice, several choices, a number or a text."""
    if isinstance(value, list) and value and all(isinstance(mark, dict) and "start" in mark for mark in value):
        for mark in value:
            span = place_span(reply, mark["start"], mark.get("end"), mark.get("text"), str(mark.get("label") or ""))
            if span:
                opinion.spans.append(span)
            else:
                opinion.left_out.append("a marked part that is not in the reply")
    elif isinstance(value, list):
        for choice in value:
            if isinstance(choice, str):
                opinion.take(question, choice, columns, "question")
            else:
                opinion.left_out.append(f"question {question!r}: a ranking")
    elif value is not None:
        opinion.take(question, value, columns, "question")


def _parts(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Return what people saw, what they answered by question, and what was suggested."""
    if isinstance(fields.get("fields"), dict):
        suggestions = part(fields, "suggestions")
        return fields["fields"], part(fields, "responses"), [part(suggestions, name) for name in suggestions]
    responses = {}
    for name, values in fields.items():
        if name.endswith(_FLAT) and isinstance(values, list):
            users, states = fields.get(f"{name}.users"), fields.get(f"{name}.status")
            users = users if isinstance(users, list) else [None] * len(values)
            states = states if isinstance(states, list) else ["submitted"] * len(values)
            responses[name.removesuffix(_FLAT)] = [
                {"value": value, "user_id": user}
                for value, user, state in zip(values, users, states, strict=False)
                if state == "submitted"  # a draft or a discarded response is no opinion
            ]
    suggested = [{"value": value} for name, value in fields.items() if name.endswith(".suggestion")]
    return {name: value for name, value in fields.items() if "." not in name}, responses, suggested


def _matches(fields: Mapping[str, Any]) -> bool:
    nested = isinstance(fields.get("fields"), dict) and isinstance(fields.get("responses", {}), dict)
    return nested or any(name.endswith(_FLAT) for name in fields)


FORMAT = Format("argilla", "Argilla's records", frozenset({"fields", "_server_id"}), _matches, _read, any_key=True)
