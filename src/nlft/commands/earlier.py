"""Tell what an earlier command wrote from what a user wrote: nothing hand-written is replaced."""

import json
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nlft.errors import RecordsError, UserError, display_path
from nlft.labels import VERDICTS

if TYPE_CHECKING:
    from nlft.data.records import Example

_ADDED = ("judgment", "revision", "spans", "feedback", "keep")  # what people and judges add to an answer


def overwrite_flag(parser: ArgumentParser) -> None:
    """Add `--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file, whatever it holds")


def holds_answers(path: Path) -> bool:
    """Return whether every example of a file is an answer that `nlft sample` wrote, whatever was added to it since."""
    return all("finish_reason" in e.extra for e in _examples_in(path, strict=True))


def holds_nothing_else(path: Path, examples: "Sequence[Example]") -> bool:
    """Return whether every example of the file is one of the given examples, so that replacing it loses nothing.

    The file may have a system prompt that the examples do not have: `nlft build` can add it.
    """
    known = set(map(_content, examples))
    return all(_content(example) in known for example in _examples_in(path, strict=True))


def readable(path: Path) -> bool:
    """Return whether a file holds examples."""
    return bool(_examples_in(path, strict=True))


def kept_notes(examples: "Sequence[Example]", out: Path, *, overwrite: bool) -> "list[Example]":
    """Return new answers with what was added to the same answers in `out`: judgments, spans, feedback, labels.

    An answer is the same if its id, prompt and completion are.

    Raises:
        UserError: something was added to answers that are not among the new ones, and `overwrite` is not set.
    """
    found = {example.id: example for example in _examples_in(out)}
    pairs = [(one, found.get(one.id)) for one in examples]
    same = {one.id for one, before in pairs if before is not None and _text(one) == _text(before)}
    lost = [before for before in found.values() if before.id not in same and (_added(before) or _labelled(before))]
    if lost and not overwrite:
        raise _would_lose(lost, out, "the answers are new", "The new answers are kept and are not asked for again. ")
    return [one if before is None or one.id not in same else _noted(one, before) for one, before in pairs]


def kept_additions(
    examples: "Sequence[Example]", pool: "Sequence[Example]", out: Path, *, overwrite: bool
) -> "list[Example]":
    """Return chosen examples with what was added to them in `out` since it was written.

    Args:
        pool: what the examples were chosen from. What `out` has in common with it is not lost.

    Raises:
        UserError: `out` holds other examples or other judgments, and `overwrite` is not set.
    """
    known, found = set(map(_content, pool)), _examples_in(out)
    edited = {one.id: one for one in found if _content(one) not in known}
    more = {}
    for one in examples:
        if one.id in edited and _text(one) == _text(edited[one.id]):
            before = replace(edited[one.id], prompt=one.prompt, completion=one.completion)  # system prompts may differ
            if _goes_on(one, before, labels=True):
                more[one.id] = before
    lost = [one for one in edited.values() if one.id not in more]
    if lost and not overwrite:
        raise _would_lose(lost, out, "they are not in the input files")
    return [more.get(one.id, one) for one in examples]


def _examples_in(out: Path, *, strict: bool = False) -> "list[Example]":
    """Return the examples of a file; none if there is no file.

    Args:
        strict: raise an error for a file of another kind. Otherwise it has no examples: the user lets it go.
    """
    from nlft.data.records import read_examples

    try:
        return read_examples(out, require_judgment=False) if out.is_file() and out.stat().st_size else []
    except RecordsError:
        if strict:
            raise
        return []


def _would_lose(lost: "Sequence[Example]", out: Path, why: str, also: str = "") -> UserError:
    first = ", ".join(str(example.id) for example in lost[:3]) + (", ..." if len(lost) > 3 else "")
    return UserError(
        f"--out {display_path(out)}: holds {len(lost)} examples with judgments, labels or texts that would be lost "
        f"({first}): {why}.\n"
        f"  {also}Give another --out. Or add --overwrite: it keeps the file before as a .bak."
    )


def _added(example: "Example") -> bool:
    return any(getattr(example, name) for name in _ADDED)


def _labelled(example: "Example") -> bool:
    """Return whether somebody set the label: it is not what the recorded verdict says, or the verdict is gone."""
    return example.label != (example.extra.get("verdict") == "right") or "verdict" not in example.extra


def _noted(one: "Example", before: "Example") -> "Example":
    """Return a new answer with the additions to the same answer before.

    A grader's new verdict replaces its earlier one. A label that a person set stays, and that of a reply to keep.
    """
    from nlft.data.relabelling import with_label

    verdict, earlier_verdict = (e.extra.get("verdict") for e in (one, before))
    ungraded_now = verdict == "ungraded" and earlier_verdict in ("right", "wrong")
    by_hand = _labelled(before) or before.keep or ungraded_now
    kept = before if by_hand else with_label(before, one.label)
    extra = {**kept.extra, **one.extra}
    if by_hand:
        extra = {name: value for name, value in extra.items() if name != "verdict"}
        extra |= {"verdict": earlier_verdict} if earlier_verdict is not None else {}
    added = {name: getattr(kept, name) for name in _ADDED if not getattr(one, name)}
    return replace(one, **added, label=kept.label, extra=extra)


def _text(example: "Example") -> str:
    """Return the prompt, without system prompts, and the completion, in one form."""
    from nlft.core.prompts import as_messages

    prompt = [message for message in as_messages(example.prompt) if message["role"] != "system"]
    return json.dumps([prompt, as_messages(example.completion, "assistant")], sort_keys=True)


def _content(example: "Example") -> str:
    """Return all of an example except its system prompts, in one form."""
    from nlft.core.prompts import as_messages
    from nlft.data.records import as_record

    record = as_record(example)
    record["prompt"] = [message for message in as_messages(example.prompt) if message["role"] != "system"]
    record["completion"] = as_messages(example.completion, "assistant")
    record["revision"] = example.revision and as_messages(example.revision, "assistant")
    return json.dumps(record, sort_keys=True)


def taken_up(
    examples: "list[Example]", out: Path, file: Path, *, labels: bool = True, redone: Collection[str] = ()
) -> "list[Example]":
    """Return the examples with what an earlier call of the same command, or a user, added to them in `out`.

    Args:
        examples: the examples of `file`.
        out: the file to write.
        labels: whether the labels must agree. Those that a grader set need not.
        redone: the fields that the command writes anew, so that they need not agree.

    Raises:
        UserError: `out` holds other examples, or other texts than `file`. Writing would lose them.
    """
    from nlft.data.records import read_examples

    if not out.exists() or out.stat().st_size == 0 or (file.exists() and out.samefile(file)):
        return examples
    try:
        earlier = read_examples(out, require_judgment=False)
    except RecordsError:  # a file of another kind
        earlier = []
    same = len(earlier) == len(examples)
    if not same or not all(_goes_on(one, more, labels, redone) for one, more in zip(examples, earlier, strict=True)):
        raise UserError(
            f"--out {display_path(out)}: holds other examples than {display_path(file)}, or other judgments.\n"
            "  Give another --out, or move the file away."
        )
    return earlier


def _goes_on(given: "Example", earlier: "Example", labels: bool, redone: Collection[str] = ()) -> bool:
    """Return whether the earlier example is the given one, or has only more.

    Args:
        labels, redone: as `taken_up` takes them. With a new judgment, a judge's spans need not agree either.
    """
    from nlft.data.relabelling import hand_spans, with_label

    if not labels or "verdict" in earlier.extra:
        given = with_label(given, earlier.label)
    if "judgment" in redone:
        given = replace(given, spans=hand_spans(given))
    free = {name for name in _ADDED if name in redone or not getattr(given, name)}
    if set(given.spans) <= set(earlier.spans):  # a judge marks more
        free.add("spans")
    texts = {name: getattr(earlier, name) for name in free}
    same = replace(given, **texts, extra={})
    kept = {name: value for name, value in given.extra.items() if name not in VERDICTS}
    return same == replace(earlier, extra={}) and kept.items() <= earlier.extra.items()
