"""Read the file of examples that a run has trained on, in the way that the run read it; no torch."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from nlft.core.prompts import prompt_text
from nlft.data.records import Example, completion_text, read_examples
from nlft.errors import UserError, display_path
from nlft.sources.settings import recorded_reading


class Shown(Protocol):
    """A watched example, as the run directory has it. The last token is the end of turn."""

    @property
    def id(self) -> str | int: ...
    @property
    def prompt(self) -> str: ...
    @property
    def tokens(self) -> list[str]: ...


def read_training_file(
    file: str | Path, recorded: Mapping[str, Any], *, require_judgment: bool = False
) -> list[Example]:
    """Return the examples. For the errors, see `read_examples`.

    Args:
        file: the file, which may have been moved.
        recorded: the part `data` of run.yaml. It says which columns the run read, and as which format.
    """
    return read_examples(file, require_judgment=require_judgment, **recorded_reading(recorded))


def data_fingerprint(examples: Iterable[Example]) -> str:
    """Return a SHA-256 over the examples as JSON lines."""
    digest = hashlib.sha256()
    for example in examples:
        fields = asdict(example)
        for name in ("spans", "feedback", "keep"):  # an example without them keeps the fingerprint of older versions
            if not fields[name]:
                del fields[name]
        digest.update(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def is_trained_on(examples: list[Example], recorded: Mapping[str, Any]) -> bool:
    """Return whether a run was trained on just these examples.

    Args:
        recorded: the part `data` of run.yaml. Without a fingerprint in it, the number of examples decides.
    """
    known = recorded.get("sha256")
    return len(examples) == recorded.get("examples") and known in (None, data_fingerprint(examples))


def refuse_other_replies(
    file: Path, examples: list[Example], recorded: Mapping[str, Any], watched: Sequence[Shown]
) -> None:
    """Refuse a file in which the id of a watched example belongs to another prompt or reply.

    A reply's tokens may spell other white space and other forms of a character than the file.

    Args:
        recorded: the part `data` of run.yaml.

    Raises:
        UserError: there are such examples.
    """
    if is_trained_on(examples, recorded):
        return
    shown = {one.id: (_letters(one.prompt), _letters("".join(one.tokens[:-1]))) for one in watched}
    others = []
    for example in examples:
        texts = (_letters(prompt_text(example.prompt)), _letters(completion_text(example)))
        if shown.get(example.id, texts) != texts:
            others.append(repr(example.id))
    if others:
        raise UserError(
            f"{display_path(file)}: has another prompt or reply than the run for {', '.join(others)}.\n"
            "  With --data, name the file that the run was trained on."
        )


def _letters(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
