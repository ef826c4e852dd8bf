"""Pairs of a chosen and a rejected reply, as TRL takes them: with a prompt of their own, or with it in both sides."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from nlft.core.prompts import Message
from nlft.sources.columns import Columns
from nlft.sources.conversation import Unusable, as_conversation, split, split_whole, with_system
from nlft.sources.formats.format import Format, Place
from nlft.sources.opinions import Opinion, example, extras, kept_fields, pick
from nlft.sources.raw_records import TEMPLATE_COLUMNS, RawRecord, is_blank

_OF_ONE = ("comment", "feedback", "judgment", "revision", "spans", "keep")  # what is said of one reply
_TURN = "\n\nAssistant:"  # ends the prompt in dialogues written as one text


def _read(place: Place, columns: Columns) -> Iterator[RawRecord]:
    prompt, chosen, rejected = sides_of(place.fields, pick(place.fields, "prompt", columns))
    if chosen == rejected:
        raise Unusable("a pair of two equal replies")
    system = pick(place.fields, "system", columns)
    if isinstance(system, str) and system.strip():
        prompt = with_system(system, prompt)
    sides = [Side("chosen", prompt, chosen), Side("rejected", prompt, rejected)]
    yield from pair_examples(place, place.own_id("id", "prompt_id", "uuid"), sides, columns, extras(place.fields))


class Side(NamedTuple):
    """One side of a pair; `after` counts the messages after its reply."""

    name: str
    prompt: str | list[Message]
    reply: str
    after: int = 0


def pair_examples(
    place: Place,
    identity: str | int,
    sides: Iterable[Side],
    columns: Columns,
    extra: dict[str, Any],
) -> Iterator[RawRecord]:
    """Yield the examples of a pair: the liked reply, then the other one.

    What the record says of one reply, such as a comment or spans, is left out: it does not say of which.

    Args:
        sides: the liked one, then the other one.
        extra: further fields of both.
    """
    shared = kept_fields(place.fields, ("answer", *TEMPLATE_COLUMNS)) | extra
    said = {columns.field_of(name) for name, value in place.fields.items() if not is_blank(value)}
    for label, side in zip((True, False), sides, strict=True):
        record = example(place.where, f"{identity}-{side.name}", side.prompt, side.reply, Opinion(label), **shared)
        record.left_out += ["messages after the last reply"] * bool(side.after)
        if label:
            record.left_out += [
                f"{name}: it does not say on which of the two replies" for name in _OF_ONE if name in said
            ]
        record.repeats = not label
        yield record


def sides_of(fields: Mapping[str, Any], prompt: object) -> tuple[str | list[Message], str, str]:
    """Return a pair's prompt, chosen reply and rejected reply.

    Raises:
        Unusable: the prompt is missing and the two sides do not share one, or a reply is missing.
    """
    chosen, rejected = (_messages(fields[name]) for name in ("chosen", "rejected"))
    before = as_conversation(prompt)
    if before is None and isinstance(prompt, str) and prompt.strip():
        before = [{"role": "user", "content": prompt}]
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
        return side
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
