"""Prompts as text and as chat messages, and the templates for them. Needs neither tokenizer nor torch."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, ClassVar

from nlft.core.marks import corrections, criticizes_again, names_expected
from nlft.errors import Problem, ProblemsError, UserError

Message = dict[str, str]
"""One chat message: `role`, `content`, and any other key that the chat template accepts."""

Prompt = str | list[Message]

CORRECTION_MARK = "Correction:"  # as this package writes it; `nlft.core.marks` has the marks that it reads
_WORD = re.compile(r"\w")
# A correction that ends so has its value after it, perhaps behind a blank line. Of many colons, the last counts.
_ANNOUNCES = re.compile(
    r"(?:[:：][^\w:：]*|\b(?:below|follows|following|folgt|suivante?|siguiente|seguinte|seguente)\b\W*)$", re.I
)
_SENTENCE_ENDS = frozenset(".!?。！？")
# How the judge by rules begins a finding. It writes no blank line between a correction and the next finding.
_FINDING = re.compile(
    r'\s*The (?:(?:step|final answer) ".*" (?:is (?:miscalculated|wrong|not|ambiguous)\b)'
    r"|response (?:never states|goes on after|repeats|breaks off)\b)"
)

STANDARD_PROMPT_TEMPLATE = "{prompt}\n\nReference answer:\n{answer}\n\nRespond in line with the reference answer."
JUDGE_PROMPT_TEMPLATE = (
    "{prompt}\n\nA reviewer wrote about a response:\n{judgment}\n\nWrite that response, with the weaknesses named."
)


@dataclass(frozen=True)
class TemplateInputs:
    """What a chat template gets besides the messages.

    Attributes:
        kwargs: values of the template's own variables, such as `enable_thinking`.
        tools: the tools that the template describes to the model, each as a JSON schema.
        date: the day that the template writes if it asks for today's, as YYYY-MM-DD. None: today.
    """

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    date: str | None = None

    def __bool__(self) -> bool:
        return bool(self.kwargs or self.tools or self.date)

    def updated(self, own: "TemplateInputs") -> "TemplateInputs":
        """Return these inputs with a record's own. The record's values win."""
        if not own:
            return self
        return TemplateInputs({**self.kwargs, **own.kwargs}, own.tools or self.tools, own.date or self.date)

    def as_json(self) -> dict[str, Any]:
        """Return what is set, as TRL's columns name it."""
        found = {"tools": list(self.tools), "chat_template_kwargs": dict(self.kwargs), "chat_template_date": self.date}
        return {name: value for name, value in found.items() if value}


NO_INPUTS = TemplateInputs()


@dataclass(frozen=True)
class Templates:
    """How the question, the standard answer and the judgment become the three prompts.

    Attributes:
        standard: text of the user's turn under `standard`; `{prompt}` and `{answer}` are filled in.
        judge: text of the user's turn under `judge`; `{prompt}` and `{judgment}` are filled in.
        judge_shows_correction: keep the judgment's corrections (`Correction: ...`) in the judge prompt. If the prompt
            says "34 is wrong, it should be 29", a model may avoid 34, and then the ratio test never finds it.
        system_prompt: put before every prompt that has no system message of its own.
        inputs: what the chat template gets with every prompt. A record's own inputs win.
    """

    standard: str = STANDARD_PROMPT_TEMPLATE
    judge: str = JUDGE_PROMPT_TEMPLATE
    judge_shows_correction: bool = False
    system_prompt: str | None = None
    inputs: TemplateInputs = NO_INPUTS

    def __post_init__(self) -> None:
        wanted = [("standard", self.standard, "{answer}"), ("judge", self.judge, "{judgment}")]
        problems = [
            Problem(f"--{name}_prompt_template", f"has no {slot}", f"Add {slot} to the text.")
            for name, template, needed in wanted
            for slot in ("{prompt}", needed)
            if slot not in template
        ]
        if problems:
            raise ProblemsError(problems)


@dataclass
class ChatTemplateSettings:
    """What the chat template gets besides the messages."""

    rare: ClassVar[tuple[str, ...]] = ("chat_template_date",)
    chat_template_kwargs: None | str | dict[str, Any] = field(  # noqa: RUF036 - transformers' parser takes the second
        default=None,
        metadata={"help": "The chat template's variables, as a JSON object."},
    )
    chat_template_date: str | None = field(
        default=None,
        metadata={"help": "Day that a chat template with a date writes, as YYYY-MM-DD (default: today)."},
    )

    def template_inputs(self) -> TemplateInputs:
        """Return the settings as the encoder takes them.

        Raises:
            UserError: `chat_template_kwargs` is not a JSON object, or the date is not a date.
        """
        return TemplateInputs(_json_object(self.chat_template_kwargs), date=_day(self.chat_template_date))


@dataclass
class SystemPromptSettings(ChatTemplateSettings):
    """The system message before every prompt, and what the chat template gets besides the messages."""

    system_prompt: str | None = field(default=None, metadata={"help": "System message for prompts that have none."})

    def templates(self) -> Templates:
        """Return the templates for the encoder."""
        return Templates(system_prompt=self.system_prompt, inputs=self.template_inputs())


@dataclass
class PromptSettings(SystemPromptSettings):
    """The fields of `Templates` as command settings. Training and audit share them, so both render the same prompts."""

    standard_prompt_template: str = field(
        default=STANDARD_PROMPT_TEMPLATE,
        metadata={"help": "Template of the standard prompt, with {prompt} and {answer}."},
    )
    judge_prompt_template: str = field(
        default=JUDGE_PROMPT_TEMPLATE, metadata={"help": "Template of the judge prompt, with {prompt} and {judgment}."}
    )
    judge_shows_correction: bool = field(
        default=False, metadata={"help": "Keep `Correction:` sentences in the judge prompt."}
    )

    def templates(self) -> Templates:
        """Return the templates for the encoder.

        Raises:
            ProblemsError: a template lacks a slot.
        """
        return replace(
            super().templates(),
            standard=self.standard_prompt_template,
            judge=self.judge_prompt_template,
            judge_shows_correction=self.judge_shows_correction,
        )


def _json_object(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Read `--chat_template_kwargs`.

    Raises:
        UserError: it is not a JSON object.
    """
    value: Any = given
    if isinstance(given, str):
        try:
            value = json.loads(given) if given.strip() else None
        except ValueError:
            value = given
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(
            f"--chat_template_kwargs is {given!r}, not a JSON object.\n"
            "  Write it like this, with the quotes: --chat_template_kwargs '{\"enable_thinking\": false}'"
        )
    return dict(value)


def _day(text: str | None) -> str | None:
    """Check `--chat_template_date`.

    Raises:
        UserError: it is not a date.
    """
    try:
        return None if text is None else date.fromisoformat(text).isoformat()
    except ValueError:
        raise UserError(
            f"--chat_template_date is {text!r}.\n  Write a day as YYYY-MM-DD, such as 2024-07-26."
        ) from None


def fill(template: str, **values: str) -> str:
    """Replace each `{name}` slot of the template in one pass.

    Braces inside the values do not change. A slot without a value does not change either.
    """
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def fill_prompt(prompt: Prompt, template: str, **values: str) -> Prompt:
    """Put the prompt's last message into the template's `{prompt}` slot. Earlier messages stay as they are.

    Args:
        values: texts for the template's other slots.
    """
    if isinstance(prompt, str):
        return fill(template, prompt=prompt, **values)
    *earlier, last = prompt
    return [*earlier, {**last, "content": fill(template, prompt=last["content"], **values)}]


def as_messages(text: Prompt, role: str = "user", *, system_prompt: str | None = None) -> list[Message]:
    """Return a new list of chat messages: one message for a string, the same messages for a list.

    Args:
        role: the author of the message that a string becomes.
        system_prompt: put in front as a system message, unless the messages begin with one.
    """
    messages = [{"role": role, "content": text}] if isinstance(text, str) else list(text)
    if system_prompt and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def prompt_text(prompt: Prompt) -> str:
    """Render a prompt for people: a single message without its role, several messages with their roles."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def without_corrections(judgment: str) -> str:
    """Remove the judgment's corrections.

    A correction begins with a mark such as `Correction:`, in any case and with or without bold type. It reaches to the
    next blank line after its value, or to the next finding of the judge by rules. Within a line that has other words
    before the mark, a correction that ends its sentence ends with its line. `Correct:` ends before `Wrong:`, and an
    expected answer before the actual one.

    >>> without_corrections('The step "64 - 35 = 34" is miscalculated.\\nCorrection: 64 - 35 = 29.')
    'The step "64 - 35 = 34" is miscalculated.'
    """
    kept: list[str] = []
    inside = awaits_value = fenced = False
    mark, expected = "", names_expected(judgment)
    lines = judgment.split("\n")
    places = {line: corrections(line, expected=expected) for line in set(lines)}  # a judge that loops repeats them
    for line in lines:
        if inside and criticizes_again(mark, line, expected=expected):
            inside = False
        if marks := places[line]:
            start, end = marks[0]
            mark = line[start:end]
            before, value = line[:start].rstrip(), line[end:]
            kept.append(before)
            awaits_value = _awaits_value(value)
            inside = awaits_value or not (_WORD.search(before) and _ends_sentence(value))
        elif inside:
            fenced ^= line.lstrip().startswith("```")
            if _FINDING.match(line):
                inside = False
                kept.append(line.rstrip())
            elif line.strip():
                awaits_value = _ANNOUNCES.search(line) is not None
            else:
                inside = awaits_value or fenced
        else:
            kept.append(line.rstrip())
    return "\n".join(line for line in kept if line)


def _awaits_value(correction: str) -> bool:
    """Return whether the value of a correction stands on another line."""
    return not _WORD.search(correction) or _ANNOUNCES.search(correction) is not None


def _ends_sentence(text: str) -> bool:
    """Return whether a mark that ends a sentence stands behind the last word."""
    last = next((at for at in range(len(text), 0, -1) if _WORD.match(text[at - 1])), 0)
    return not _SENTENCE_ENDS.isdisjoint(text[last:])
