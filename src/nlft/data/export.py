"""Write examples as the files that other tools train on: TRL's trainers and the original project's script."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nlft.core.prompts import NO_INPUTS, Message, TemplateInputs, as_messages
from nlft.data.gradable import check_answers
from nlft.data.records import (
    Example,
    as_record,
    completion_text,
    json_line,
    revision_text,
    write_examples,
    write_text,
)
from nlft.data.template_columns import columns_of, with_kwargs
from nlft.errors import Problem, RecordsError, UserError, display_path
from nlft.sources.original_records import RIGHT_FROM_SCORE
from nlft.sources.raw_records import FIELDS, TEMPLATE_COLUMNS, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tool = Literal["nlft", "sft", "kto", "reft", "original"]
SFTTarget = Literal["answer", "completion", "all-completions"]
Form = Literal["messages", "text"]


@dataclass
class TargetSettings:
    """Choice of the text that supervised fine-tuning trains on."""

    target: SFTTarget = field(
        default="answer",
        metadata={
            "help": "Text that SFT trains on. answer: standard answers; completion: right completions and revisions; "
            "all-completions: all completions."
        },
    )


NEEDS_JUDGMENTS = ("nlft", "original")  # the original project treats a record without a judgment as right
# What the original project's records hold under the same name as ours.
_AS_OURS = frozenset(FIELDS) - {"id", "prompt", "completion", "label", "judgment", "answer", "revision"}
_ROLES: tuple[list[str], ...] = ([], ["user"], ["system"], ["system", "user"])


@dataclass
class Export:
    """The rows of an exported file, and one line for each kind of field or text that the format dropped."""

    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)


def export_examples(path: Path, examples: Sequence[Example], to: Tool, *, target: SFTTarget, form: Form) -> Export:
    """Write the examples as a tool's file. The file appears whole or not at all.

    Args:
        target: the texts that `sft` trains on, as in `nlft sft --target`.
        form: write TRL's rows as chat messages or as text.

    Raises:
        UserError: there is no row to write, or the file cannot be written.
        RecordsError: names every example that the tool's format cannot hold.
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
    """Make the rows that a tool trains on; see `export_examples`."""
    if to == "original":
        made = original_rows(examples)
    elif to == "sft":
        check_trainable(examples, target)
        silent = [e for e in examples if not sft_texts(e, target)]
        rows = [_said(e, text, form) for e in examples for text in sft_texts(e, target)]
        trained = [] if target == "answer" else [e for e in examples if e.label or target == "all-completions"]
        made = Export(rows, _counted(len(silent), "without a right completion or a revision") + _lost(trained))
    elif to == "kto":
        revised = [e for e in examples if e.revision is not None]
        rows = [_said(e, completion_text(e), form) | {"label": e.label} for e in examples]
        made = Export(rows, _counted(len(revised), "lose their revision") + _lost(examples))
    else:
        check_answers(examples, "ReFT")
        rows = _reft_rows(examples, form)
        made = Export(rows, _counted(len(examples) - len(rows), "repeat another one's question and answer"))
    if form == "text" and to != "original":
        for name in TEMPLATE_COLUMNS:
            made.notes += _counted(sum(name in columns_of(e.extra) for e in examples), f"lose their {name}")
    if not made.rows:
        raise UserError(
            "none of the chosen examples has a right completion or a revision.\n"
            "  Use --target answer, or set a --ratio that includes examples labelled right."
        )
    return made


def sft_texts(example: Example, target: SFTTarget) -> list[str]:
    """Return the replies that supervised training shows the model.

    Args:
        target: `answer`: the standard answer. `completion`: the completion if it is right, and the revision if there
            is one. `all-completions`: the completion, right or wrong.
    """
    if target == "answer":
        return [example.answer] if example.answer else []
    completions = [completion_text(example)] if example.label or target == "all-completions" else []
    revision = revision_text(example)
    return completions + ([revision] if revision is not None and target == "completion" else [])


def check_trainable(examples: Sequence[Example], target: SFTTarget) -> None:
    """Refuse examples without an answer if answers are trained.

    Raises:
        RecordsError: names every such example.
    """
    if target == "answer":
        check_answers(examples, "--target answer", "Or train on --target completion.")


def with_system_prompt(example: Example, system_prompt: str) -> Example:
    """Put a system message before the example's prompt, unless the prompt has one."""
    prompt = as_messages(example.prompt)
    if prompt[0]["role"] == "system":
        return example
    return replace(
        example,
        prompt=[{"role": "system", "content": system_prompt}, *prompt],
        completion=as_messages(example.completion, "assistant"),
        revision=example.revision and as_messages(example.revision, "assistant"),
    )


def with_template_kwargs(example: Example, kwargs: Mapping[str, Any]) -> Example:
    """Give variables of the chat template to an example. The example's own values win."""
    return replace(example, extra=with_kwargs(example.extra, kwargs))


def original_rows(examples: Sequence[Example]) -> Export:
    """Make the original project's records: `id, instruction, input, output, judgment, answer` and an example's extras.

    The system message becomes the instruction and the question becomes the input, as the project's script expects.
    Reading a record back gives its example's label.

    Raises:
        RecordsError: names every prompt of several turns, and every example without an answer; a record of this format
            cannot hold them.
    """
    rows, problems, dropped = [], [], Counter[str]()
    for example in examples:
        prompt = as_messages(example.prompt)
        if [message["role"] for message in prompt] not in _ROLES:
            what = "has a prompt of several turns; the original project's records have one question."
            problems.append(Problem(f"example {shown(example.id)}", what, "Drop it, or write it as one text."))
        if example.answer is None:
            what = "has no answer, which the original project's records need."
            problems.append(Problem(f"example {shown(example.id)}", what, "Write its `answer`, or drop it."))
        extra, lost = _extra_of_original(example)
        dropped.update(lost)
        rows.append(
            {
                "id": example.id,
                "instruction": _by(prompt, "system"),
                "input": _by(prompt, "user"),
                "output": completion_text(example),
                # The project treats every completion with a judgment as wrong.
                "judgment": None if example.label else example.judgment,
                "answer": example.answer,
                **{name: value for name, value in as_record(example).items() if name in _AS_OURS},
                **({} if example.revision is None else {"revision": revision_text(example)}),
                **extra,
            }
        )
    if problems:
        raise RecordsError(problems)
    return Export(rows, [line for what, n in dropped.items() for line in _counted(n, f"lose {what}")])


def _extra_of_original(example: Example) -> tuple[dict[str, Any], list[str]]:
    """Choose the extra fields for a record in the original project's format.

    Returns:
        The fields, and a description of each thing that is dropped: a field whose name is already used, a field that
        would imply another label, or the judgment of a right example.
    """
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
        lost.append("their judgment, because they are right")
    return extra, lost


def _lost(examples: Sequence[Example]) -> list[str]:
    """Count what says how a completion may be trained, and what no row for TRL holds."""
    marked, kept = sum(bool(e.spans) for e in examples), sum(e.keep for e in examples)
    return _counted(marked, "lose their spans") + _counted(kept, "lose `keep`, and are trained like the others")


def _counted(number: int, what: str) -> list[str]:
    return [f"{number} of the examples {what}"] if number else []


def _by(prompt: Sequence[Message], role: str) -> str:
    return next((message["content"] for message in prompt if message["role"] == role), "")


def _reft_rows(examples: Sequence[Example], form: Form) -> list[dict[str, Any]]:
    """Make one row per question and answer.

    The reward uses `prompt` and `answer`. The warm-up uses `completion`, which holds the answer. GRPO and RLOO pass the
    column `answer` to the reward function and ignore `completion`.
    """
    rows: dict[str, dict[str, Any]] = {}
    for example in examples:
        row = _said(example, example.answer or "", form) | {"answer": example.answer}
        rows.setdefault(json.dumps(row, sort_keys=True), row)
    return list(rows.values())


def _said(example: Example, completion: str, form: Form) -> dict[str, Any]:
    """Make a row of TRL's prompt-completion format. TRL requires messages for both fields, or text for both."""
    prompt = as_messages(example.prompt)
    if form == "messages":
        said = {"prompt": prompt, "completion": as_messages(completion, "assistant")}
        return {**said, **columns_of(example.extra)}
    # Render the prompt as NLFT does for models without a chat template. TRL joins both texts without a separator.
    text = "\n\n".join(message["content"] for message in prompt)
    return {"prompt": text if text[-1:].isspace() else text + "\n", "completion": completion}


def _check_name(path: Path, to: Tool) -> None:
    """Check that the tool reads files with this ending.

    Raises:
        UserError: the tool does not read files with this ending.
    """
    endings = (".json", ".jsonl") if to == "original" else (".jsonl",)
    if path.suffix.lower() not in endings:
        raise UserError(
            f"{display_path(path)}: the file for {to} is written as {' or '.join(endings)}.\n"
            f"  Give a name that ends in {' or '.join(endings)}."
        )


def prompted(
    examples: Sequence[Example], system_prompt: str | None, inputs: TemplateInputs = NO_INPUTS
) -> list[Example]:
    """Put the system prompt before each example's prompt, if there is one, and give it the template's variables."""
    made = [with_template_kwargs(example, inputs.kwargs) for example in examples]
    return [with_system_prompt(example, system_prompt) if system_prompt else example for example in made]


def form_for(tokenizer: "PreTrainedTokenizerBase") -> Form:
    """Return the form of TRL's rows for a tokenizer: messages if it has a chat template, else text."""
    return "text" if tokenizer.chat_template is None else "messages"
