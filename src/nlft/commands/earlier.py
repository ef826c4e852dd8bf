"""Tell what an earlier command wrote from what a user wrote: nothing hand-written is replaced."""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nlft.errors import RecordsError, UserError, display_path

if TYPE_CHECKING:
    from nlft.data.records import Example

_ADDED = ("judgment", "revision", "spans", "feedback", "keep")  # what people and judges add to an answer
_BY_JUDGES = ("verdict", "judge_verdict", "conflict")  # the fields that a grader or a judge sets


def overwrite_flag(parser: ArgumentParser) -> None:
    """Add `--overwrite`."""
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file, whatever it holds")


def holds_only_answers(path: Path) -> bool:
    """Return whether a file of examples has answers of a model, and nothing that was added to them."""
    from nlft.data.records import read_examples

    examples = read_examples(path, require_judgment=False)
    return all("finish_reason" in e.extra and not any(getattr(e, name) for name in _ADDED) for e in examples)


def holds_nothing_else(path: Path, examples: "Sequence[Example]") -> bool:
    """Return whether every example of the file is one of the given examples, so that replacing it loses nothing.

    The file may have a system prompt that the examples do not have: `nlft build` can add it.
    """
    from nlft.data.records import read_examples

    known = set(map(_content, examples))
    return all(_content(example) in known for example in read_examples(path, require_judgment=False))


def _content(example: "Example") -> str:
    """Return all of an example except its system prompts, in one form."""
    from nlft.core.prompts import as_messages
    from nlft.data.records import as_record

    record = as_record(example)
    record["prompt"] = [message for message in as_messages(example.prompt) if message["role"] != "system"]
    record["completion"] = as_messages(example.completion, "assistant")
    record["revision"] = example.revision and as_messages(example.revision, "assistant")
    return json.dumps(record, sort_keys=True)


def taken_up(examples: "list[Example]", out: Path, file: Path, *, labels: bool = True) -> "list[Example]":
    """Return the examples with what an earlier call of the same command, or a user, added to them in `out`.

    Args:
        examples: the examples of `file`.
        out: the file to write.
        labels: whether the labels must agree. Those that a grader set need not.

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
    if not same or not all(_goes_on(one, more, labels) for one, more in zip(examples, earlier, strict=True)):
        raise UserError(
            f"--out {display_path(out)}: holds other examples than {display_path(file)}, or other judgments.\n"
            "  Give another --out, or move the file away."
        )
    return earlier


def _goes_on(given: "Example", earlier: "Example", labels: bool) -> bool:
    """Return whether the earlier example is the given one, or has only more."""
    texts = {name: getattr(earlier, name) for name in _ADDED if not getattr(given, name)}
    graded = not labels or "verdict" in earlier.extra
    same = replace(given, **texts, extra={}, label=earlier.label if graded else given.label)
    kept = {name: value for name, value in given.extra.items() if name not in _BY_JUDGES}
    return same == replace(earlier, extra={}) and kept.items() <= earlier.extra.items()
