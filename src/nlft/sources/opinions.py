"""What people said about one reply in another tool: ratings, remarks, marked parts, corrections."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nlft.core.prompts import Message
from nlft.sources.columns import Columns, field_named, plain_name
from nlft.sources.conversation import Unusable, as_conversation, as_prompt, split_whole
from nlft.sources.label_words import is_number
from nlft.sources.raw_records import FIELDS, RawRecord
from nlft.sources.tables import put_comment

_TEXTS = ("judgment", "feedback", "revision", "answer")


@dataclass
class Opinion:
    """What one person, or several who agree, said about a reply.

    Attributes:
        label: whether the reply is right; None: they did not say.
        comments: remarks, to be read with the label.
        texts: judgment, feedback, revision and answer, as far as they were given under such a name.
        spans: marked parts: `start`, `end`, perhaps `note` and `replace`.
        left_out: what was said and is not used.
    """

    label: bool | None = None
    comments: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def take(self, name: str, value: object, columns: Columns, what: str = "score") -> None:
        """Take an answer to a question, or a score. Its name says what it is: `rating`, `comment`, `correction`.

        A value that does not fit its name is judged by itself: a number called `feedback` is a rating, a word such as
        `good` is one under any name.

        Args:
            what: what the tool calls it, for messages.

        Raises:
            Unusable: it contradicts an earlier rating.
        """
        target = columns.field_of(name)
        if isinstance(value, str) and not value.strip():
            return
        rates = isinstance(value, bool) or is_number(value)
        if target in _TEXTS and isinstance(value, str):
            self.texts[target] = value
        elif target == "label" or (target in ("comment", "feedback") and rates):
            self._rate(name, value, columns, what)
        elif isinstance(value, str) and not rates:
            if columns.label(value) is not None and target is None and "label" not in columns.given:
                self._rate(name, value, columns, what)
            else:
                self.comments.append(value)
        elif "label" not in columns.given:
            self.left_out.append(f"{what} {name!r}: to rate by it, add --columns label={name} or label={name}:FROM")

    def _rate(self, name: str, value: object, columns: Columns, what: str) -> None:
        said = columns.label(value)
        if said is None and isinstance(value, str) and not is_number(value):
            self.comments.append(value)
        elif said is None:
            self.left_out.append(f"{what} {name!r} is not 0 or 1: to rate by it, add --columns label={name}:FROM")
        elif self.label is not None and self.label is not said:
            raise Unusable("ratings that contradict each other")
        else:
            self.label = said

    def comment(self, text: object) -> None:
        """Take a remark, if it is one."""
        if isinstance(text, str) and text.strip():
            self.comments.append(text.strip())


def merged(opinions: Iterable[Opinion]) -> Opinion:
    """Join what several people said.

    Raises:
        Unusable: their ratings contradict each other.
    """
    whole = Opinion()
    for one in opinions:
        if one.label is not None and whole.label not in (None, one.label):
            raise Unusable("ratings that contradict each other")
        whole.label = one.label if one.label is not None else whole.label
        whole.comments += [text for text in one.comments if text not in whole.comments]
        whole.texts |= one.texts
        whole.spans += [span for span in one.spans if span not in whole.spans]
        whole.left_out += one.left_out
    return whole


def example(
    where: str, identity: str | int, prompt: str | list[Message], reply: str, opinion: Opinion, **extra: Any
) -> RawRecord:
    """Make a record of a reply and what was said about it.

    A reply without a rating counts as wrong if a part of it is marked. Without that too, it cannot be an example.

    Args:
        extra: further fields.
    """
    record = RawRecord(where, left_out=list(opinion.left_out))
    label = False if opinion.label is None and opinion.spans else opinion.label
    fields: dict[str, Any] = {"id": identity, "prompt": prompt, "completion": reply, **opinion.texts}
    if label is None:
        record.unused = "no rating"
        if opinion.left_out:
            record.unused += f"; {opinion.left_out[0]}"
    else:
        fields["label"] = label
    for text in opinion.comments:
        put_comment(fields, text)
    if opinion.spans and label:
        record.left_out.append("marked parts of a reply that was liked")
    elif opinion.spans:
        fields["spans"] = joined(opinion.spans)
    record.set(fields | extra)
    return record


def unusable(where: str, reason: str, **fields: Any) -> RawRecord:
    """Make a record that is only counted."""
    record = RawRecord(where, unused=reason)
    record.set(fields)
    return record


def joined(spans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join spans that overlap: several people may mark the same words."""
    whole: list[dict[str, Any]] = []
    for span in sorted(spans, key=lambda span: (span["start"], span["end"])):
        if whole and span["start"] < whole[-1]["end"]:
            last = whole[-1]
            last["end"] = max(last["end"], span["end"])
            notes = dict.fromkeys(note for note in (last.get("note"), span.get("note")) if note)
            if notes:
                last["note"] = "; ".join(notes)
        else:
            whole.append(dict(span))
    return whole


def place_span(reply: str, start: object, end: object, text: object, note: str) -> dict[str, Any] | None:
    """Return a marked part as a span of the reply. Return None if it is not there.

    Browsers count some characters, such as emoji, twice. The marked text decides; without it, characters count once.

    Args:
        text: the marked text, if the tool gives it.
    """
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end:
        return None
    wide = reply.encode("utf-16-le", "surrogatepass")
    before, inside = wide[: 2 * start], wide[2 * start : 2 * end]
    as_browser = len(before.decode("utf-16-le", "replace")), len(inside.decode("utf-16-le", "replace"))
    for at, until in ((start, end), (as_browser[0], sum(as_browser))):
        if until <= len(reply) and (not isinstance(text, str) or reply[at:until] == text):
            return {"start": at, "end": until, **({"note": note} if note else {})}
    return None


def extras(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what a record holds besides its texts and ratings: numbers and words of the user's own, to keep."""
    return {
        name: value
        for name, value in fields.items()
        if isinstance(value, str | int | float) and field_named(name) is None and name not in FIELDS
    }


def kept_fields(fields: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the named fields of a record as they are; those without a value are omitted."""
    return {name: fields[name] for name in names if fields.get(name)}


def pick(fields: dict[str, Any], target: str, columns: Columns) -> Any:
    """Return the value of the field that has the meaning of ours; None if there is none."""
    given = columns.given.get(target)
    if given is not None:
        return next((value for name, value in fields.items() if plain_name(name) == plain_name(given)), None)
    exact = fields.get(target)
    return exact if exact is not None else next((v for k, v in fields.items() if field_named(k) == target), None)


def prompt_and_reply(fields: dict[str, Any], columns: Columns, what: str) -> tuple[str | list[Message], str]:
    """Find the prompt and the reply of a record, in fields of their own or in a conversation.

    Args:
        what: what the format calls a field, for the message.

    Raises:
        Unusable: one of them is not there.
    """
    chat = next((turns for value in fields.values() if (turns := as_conversation(value))), None)
    prompt, reply = pick(fields, "prompt", columns), pick(fields, "completion", columns)
    if chat and not isinstance(reply, str):
        prompt, reply = split_whole(chat)
    elif chat:
        prompt = as_prompt(chat)
    if not isinstance(reply, str) or not reply.strip() or not prompt:
        raise Unusable(f"no {what} for the prompt or the reply: name them with --columns prompt=...,completion=...")
    return prompt, reply
