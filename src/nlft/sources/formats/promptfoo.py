"""promptfoo's results: the file that `promptfoo eval --output results.json` writes, or its lines as .jsonl."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, prompt_in, reply_in
from nlft.sources.formats.format import Format, Place, objects, part
from nlft.sources.opinions import Opinion, example, pick
from nlft.sources.raw_records import RawRecord

_MARK = "!highlight"  # begins a remark that only colours its cell
_BY_HAND = "Manual result"  # begins the reason that promptfoo itself writes for a rating by hand


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    fields = place.fields
    answered = part(fields, "response")
    failed = fields.get("failureReason") == 2 or (fields.get("error") and not fields.get("gradingResult"))
    if failed or answered.get("error"):
        raise Unusable("the model's provider failed")
    variables = part(fields, "vars") or part(part(fields, "testCase"), "vars")
    prompt = prompt_in(fields["prompt"].get("raw")) or prompt_in(variables)
    reply = reply_in(answered.get("output"))
    if prompt is None or reply is None:
        raise Unusable("no prompt or no output")
    opinion = _opinion(part(fields, "gradingResult"))
    answer = pick(variables, "answer", columns)
    if isinstance(answer, str) and answer.strip():
        opinion.texts["answer"] = answer
    yield example(place.where, _own_id(place), prompt, reply, opinion)


def _own_id(place: Place) -> str | int:
    if isinstance(place.fields.get("id"), str):
        return place.own_id("id")
    parts = [place.fields.get(name) for name in ("testIdx", "promptIdx")]
    return place.id if None in parts else f"{place.id}-{parts[0]}-{parts[1]}"


def _opinion(graded: dict[str, Any]) -> Opinion:
    """Return the rating by a person, or else by the assertions. An assertion's words count if a person said none."""
    opinion = Opinion()
    parts = objects(graded, "componentResults")
    by_hand = [one for one in parts if part(one, "assertion").get("type") == "human"]
    verdict = by_hand[-1] if by_hand else graded if parts or graded.get("assertion") else {}
    if isinstance(verdict.get("pass"), bool):
        opinion.label = verdict["pass"]
    remark = str(graded.get("comment") or (by_hand[-1].get("comment") if by_hand else "") or "")
    opinion.comment(remark.removeprefix(_MARK))
    if not opinion.comments and opinion.label is False:
        for one in parts or [graded]:
            reason = str(one.get("reason") or "")
            if one.get("pass") is False and not reason.startswith(_BY_HAND):
                opinion.comment(reason)
    return opinion


def _inside(fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    results = fields.get("results")
    inner = results.get("results") if isinstance(results, dict) else results
    if isinstance(inner, list) and inner and all(isinstance(one, dict) for one in inner) and "response" in inner[0]:
        return inner
    return None


def _matches(fields: Mapping[str, Any]) -> bool:
    return isinstance(fields["prompt"], dict) and "success" in fields


FORMAT = Format("promptfoo", "promptfoo's results", frozenset({"prompt", "response"}), _matches, _read, _inside)
