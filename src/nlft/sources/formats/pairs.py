"""Pairs of a chosen and a rejected reply, as TRL takes them: with a prompt of their own, or with it in both sides."""

from collections.abc import Iterator, Mapping
from typing import Any

from nlft.core.prompts import Message
from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, as_conversation, messages_in_text, split, split_whole, with_system
from nlft.sources.formats.format import Format, Place
from nlft.sources.opinions import Opinion, example, extras, pick
from nlft.sources.raw_records import TEMPLATE_COLUMNS, RawRecord

_ABOUT_ONE = ("label", "judgment", "revision", "spans", "feedback", "keep")
_TURN = "\n\nAssistant:"  # ends the prompt in dialogues written as one text


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    yield from pair_records(place, pick(place.fields, "prompt", columns), columns)


def pair_records(place: Place, prompt: object, columns: Columns) -> Iterator[RawRecord]:
    """Yield the two examples of a pair. What the record says about one reply is left out: it does not say which.

    Raises:
        Unusable: as `sides_of`; or the two replies are equal.
    """
    fields = place.fields
    prompt, chosen, rejected = sides_of(fields, prompt)
    if chosen == rejected:
        raise Unusable("a pair of two equal replies")
    system, answer = pick(fields, "system", columns), pick(fields, "answer", columns)
    if isinstance(system, str) and system.strip():
        prompt = with_system(system, prompt)
    texts = {"answer": answer} if isinstance(answer, str) and answer.strip() else {}
    more = {name: fields[name] for name in TEMPLATE_COLUMNS if fields.get(name)} | extras(fields)
    identity = place.own_id("id", "prompt_id", "uuid")
    for name, reply, label in (("chosen", chosen, True), ("rejected", rejected, False)):
        record = example(place.where, f"{identity}-{name}", prompt, reply, Opinion(label, texts=dict(texts)), **more)
        record.left_out += about_one(fields, columns) if label else []
        record.repeats = not label
        yield record


def about_one(fields: dict[str, Any], columns: Columns) -> list[str]:
    """Name what a pair's record says about one of its replies."""
    said = {name: fields.get(name) for name in _ABOUT_ONE}
    if said["feedback"] is None:
        said["comment"] = pick(fields, "comment", columns)
    filled = [name for name, value in said.items() if value not in (None, "", [])]
    return [f"a {name}, because it does not say on which of the two replies" for name in filled]


def sides_of(fields: Mapping[str, Any], prompt: object) -> tuple[str | list[Message], str, str]:
    """Return a pair's prompt, chosen reply and rejected reply.

    Raises:
        Unusable: the prompt is missing and the two sides do not share one, or a reply is missing.
    """
    chosen, rejected = (_messages(fields[name]) for name in ("chosen", "rejected"))
    before = as_conversation(prompt)
    if before is None and isinstance(prompt, str) and prompt.strip():
        before = messages_in_text(prompt) or [{"role": "user", "content": prompt}]
    if isinstance(chosen, list) and isinstance(rejected, list):
        if chosen[0]["role"] == "assistant" and len(chosen) == 1:
            chosen, rejected = [*(before or []), *chosen], [*(before or []), *rejected]
        (asked, good), (asked_too, bad) = split_whole(chosen), split_whole(rejected)
        if asked != asked_too:
            raise Unusable("a pair whose two sides answer different prompts")
        return asked, good, bad
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise Unusable("a pair of which one side is text and the other messages")
    if before is None:
        shared = _shared_prompt(chosen, rejected)
        return shared.strip(), _filled(chosen[len(shared) :]), _filled(rejected[len(shared) :])
    return split([*before, {"role": "assistant", "content": "."}])[0], _filled(chosen), _filled(rejected)


def _messages(side: object) -> list[Message] | str:
    if isinstance(side, str):
        return messages_in_text(side) or side
    turns = as_conversation([side] if isinstance(side, dict) else side)
    if turns is None:
        raise Unusable("a pair without text or messages")
    return turns


def _shared_prompt(chosen: str, rejected: str) -> str:
    """Return the prompt with which both texts begin.

    Raises:
        Unusable: they begin differently.
    """
    least, most = sorted((chosen, rejected))
    length = next((at for at, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    shared = least[:length]
    if _TURN in shared:
        return shared[: shared.rindex(_TURN) + len(_TURN)]
    while shared and not shared[-1].isspace():  # two replies may begin with the same letters
        shared = shared[:-1]
    if not shared.strip():
        raise Unusable("a pair without a prompt")
    return shared


def _filled(reply: str) -> str:
    if not reply.strip():
        raise Unusable("an empty reply")
    return reply.strip()


def _matches(fields: Mapping[str, Any]) -> bool:
    return all(isinstance(fields[name], str | list | dict) for name in ("chosen", "rejected")) and not (
        {"conversations", "completion"} & fields.keys()
    )


FORMAT = Format("pairs", "chosen and rejected replies", frozenset({"chosen", "rejected"}), _matches, _read)
