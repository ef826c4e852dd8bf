"""Examples as the files that other tools train on: TRL's trainers, and the original project's script."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from nlft.data.raw_records import FIELDS, Message, shown
from nlft.data.records import (
    RIGHT_FROM_SCORE,
    Example,
    as_messages,
    completion_text,
    json_line,
    revision_text,
    write_examples,
    write_text,
)
from nlft.errors import Problem, RecordsError, UserError, display_path

Tool = Literal["nlft", "sft", "kto", "reft", "original"]
SFTTarget = Literal["answer", "completion", "all-completions"]
Form = Literal["messages", "text"]

NEEDS_JUDGMENTS = ("nlft", "original")  # the original project takes what has no judgment for right
_ROLES: tuple[list[str], ...] = ([], ["user"], ["system"], ["system", "user"])


@dataclass
class Export:
    """Rows of the file that was written, and what was not taken into them, in words."""

    rows: list[dict[str, Any]]
    left_out: list[str] = field(default_factory=list)


def export(path: Path, examples: Sequence[Example], to: Tool, *, target: SFTTarget, form: Form) -> Export:
    """Write the examples for a tool, whole or not at all.

    Args:
        target: what `sft` trains, as `nlft sft --target` does.
        form: whether TRL's rows are chat messages or plain text.

    Raises:
        UserError: nothing to write, or it cannot be written there.
        RecordsError: examples that the tool's format cannot hold, every one.
    """
    _check_name(path, to)
    if to == "nlft":
        write_examples(path, examples)
        return Export([{"id": example.id} for example in examples])
    made = rows_for(examples, to, target=target, form=form)
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(made.rows, ensure_ascii=False, allow_nan=False, indent=4) + "\n")
    else:
        write_text(path, "".join(map(json_line, made.rows)))
    return made


def rows_for(examples: Sequence[Example], to: Tool, *, target: SFTTarget = "answer", form: Form) -> Export:
    """The rows that a tool trains on; see `export`."""
    if to == "original":
        made = original_rows(examples)
    elif to == "sft":
        silent = [e for e in examples if not sft_texts(e, target)]
        rows = [_said(e, text, form) for e in examples for text in sft_texts(e, target)]
        made = Export(rows, _counted(len(silent), "without a right completion or a revision"))
    elif to == "kto":
        revised = [e for e in examples if e.revision is not None]
        rows = [_said(e, completion_text(e), form) | {"label": e.label} for e in examples]
        made = Export(rows, _counted(len(revised), "lose their revision"))
    else:
        rows = _reft_rows(examples, form)
        made = Export(rows, _counted(len(examples) - len(rows), "ask what another one asks"))
    if not made.rows:
        raise UserError(
            "none of the examples has a right completion or a revision.\n"
            "  Write --target answer, or choose right ones with --ratio."
        )
    return made


def sft_texts(example: Example, target: SFTTarget) -> list[str]:
    """What supervised training shows the model as a reply: the standard answer; the completion if it is right, and
    the revision; or the completion, right or wrong."""
    if target == "answer":
        return [example.answer]
    completions = [completion_text(example)] if example.label or target == "all-completions" else []
    revision = revision_text(example)
    return completions + ([revision] if revision is not None and target == "completion" else [])


def with_system_prompt(example: Example, system_prompt: str) -> Example:
    """The example with a system message before its prompt, unless it has one."""
    prompt = as_messages(example.prompt, "user")
    if prompt[0]["role"] == "system":
        return example
    return replace(
        example,
        prompt=[{"role": "system", "content": system_prompt}, *prompt],
        completion=as_messages(example.completion, "assistant"),
        revision=example.revision and as_messages(example.revision, "assistant"),
    )


def original_rows(examples: Sequence[Example]) -> Export:
    """The original project's records: `id, instruction, input, output, judgment, answer`, and an example's own fields.

    The system message is the instruction, the question the input, as its script puts them into the chat template.
    Read back, every record has its example's label.

    Raises:
        RecordsError: prompts of several turns, which such a record cannot hold.
    """
    rows, problems, dropped = [], [], Counter[str]()
    for example in examples:
        prompt = as_messages(example.prompt, "user")
        if [message["role"] for message in prompt] not in _ROLES:
            what = "has a prompt of several turns; the original project's records have one question."
            problems.append(Problem(f"example {shown(example.id)}", what, "Leave it out, or write it as one text."))
        extra, lost = _extra_of_original(example)
        dropped.update(lost)
        rows.append(
            {
                "id": example.id,
                "instruction": _by(prompt, "system"),
                "input": _by(prompt, "user"),
                "output": completion_text(example),
                # It takes every completion that has one for wrong.
                "judgment": None if example.label else example.judgment,
                "answer": example.answer,
                **({} if example.revision is None else {"revision": revision_text(example)}),
                **extra,
            }
        )
    if problems:
        raise RecordsError(problems)
    return Export(rows, [line for what, n in dropped.items() for line in _counted(n, f"lose {what}")])


def _extra_of_original(example: Example) -> tuple[dict[str, Any], list[str]]:
    """The example's own fields for the original's record, and what of it would make another label of it, or clash."""
    taken = {"instruction", "input", "output", *FIELDS}
    extra = {name: value for name, value in example.extra.items() if name not in taken}
    lost = [f'their field "{name}"' for name in example.extra if name in taken]
    score = extra.get("score")
    if score is not None and (type(score) not in (int, float) or (score >= RIGHT_FROM_SCORE) != example.label):
        del extra["score"]
        lost.append('a "score" that contradicts their label')
    if "correct" in extra and extra["correct"] is not example.label:
        del extra["correct"]
        lost.append('a "correct" that contradicts their label')
    if example.label and example.judgment is not None:
        lost.append("their judgment, being right")
    return extra, lost


def _counted(number: int, what: str) -> list[str]:
    return [f"{number} of the examples {what}"] if number else []


def _by(prompt: Sequence[Message], role: str) -> str:
    return next((message["content"] for message in prompt if message["role"] == role), "")


def _reft_rows(examples: Sequence[Example], form: Form) -> list[dict[str, Any]]:
    """One row a question: `prompt` and `answer` for the reward, and the answer as `completion` for the warm-up.

    GRPO and RLOO hand the column `answer` to the reward function, and leave `completion` alone.
    """
    rows: dict[str, dict[str, Any]] = {}
    for example in examples:
        row = _said(example, example.answer, form) | {"answer": example.answer}
        rows.setdefault(json.dumps(row, sort_keys=True), row)
    return list(rows.values())


def _said(example: Example, completion: str, form: Form) -> dict[str, Any]:
    """A row of TRL's prompt-completion format. Both are messages or both are text: it takes no mixture."""
    prompt = as_messages(example.prompt, "user")
    if form == "messages":
        return {"prompt": prompt, "completion": as_messages(completion, "assistant")}
    # As NLFT writes it for models without a chat template; TRL joins the two with nothing between them.
    text = "\n\n".join(message["content"] for message in prompt)
    return {"prompt": text if text[-1:].isspace() else text + "\n", "completion": completion}


def _check_name(path: Path, to: Tool) -> None:
    """UserError unless the file's ending is one that the tool reads."""
    endings = (".json", ".jsonl") if to == "original" else (".jsonl",)
    if path.suffix.lower() not in endings:
        raise UserError(
            f"{display_path(path)}: for {to} the file is written as {' or '.join(endings)}.\n  Give it that ending."
        )


def prompted(examples: Sequence[Example], system_prompt: str | None) -> list[Example]:
    return [with_system_prompt(example, system_prompt) if system_prompt else example for example in examples]


def form_for(tokenizer: Any) -> Form:
    return "text" if tokenizer.chat_template is None else "messages"
