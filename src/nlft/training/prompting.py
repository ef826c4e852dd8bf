"""How a training renders its prompts, and what TRL's trainers would render otherwise."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlft.core.conditions import ConditionEncoder
from nlft.core.limits import ModelLimits
from nlft.core.reply_form import TemplateRefusal
from nlft.core.turn_encoding import TurnEncoder
from nlft.data.records import Example, completion_text, revision_text
from nlft.data.template_columns import inputs_of
from nlft.errors import Problem, RecordsError, UserError
from nlft.runs.run_dir import RunDir
from nlft.training.settings import checkpoint_choice


def training_encoder(tokenizer: PreTrainedTokenizerBase, args: Any, limits: ModelLimits | None) -> ConditionEncoder:
    """Make the encoder of a training. Note in the settings which day the chat template writes.

    run.yaml then has the day, so that a replay renders the same tokens. A resumed run goes on with the run's day.

    Args:
        args: the settings of a training.
        limits: what the model can read.

    Raises:
        UserError: the chat template cannot be used.
    """
    run = RunDir(args.output_dir)
    if (
        checkpoint_choice(args.resume_from_checkpoint)
        and args.chat_template_date is None
        and run.settings_path.is_file()
    ):
        args.chat_template_date = run.settings().get("training", {}).get("chat_template_date")
    listed = getattr(args, "strike_words", None) or ()
    encoder = ConditionEncoder(tokenizer, args.templates(), args.max_length, listed, limits)
    args.chat_template_date = encoder.date
    args.chat_template_kwargs = dict(encoder.templates.inputs.kwargs) or None
    return encoder


def check_for_trl(encoder: TurnEncoder, examples: Sequence[Example], *, has_columns: bool = True) -> None:
    """Try out every example's prompt and replies with the chat template.

    TRL renders a prompt, and prompt and completion together. So the second must begin with the first. It takes a table,
    in which all examples have the same variables for the template.

    Args:
        encoder: renders as the method's settings say.
        has_columns: whether the method takes the columns `tools` and `chat_template_kwargs`. A method that does not
            also trains what TRL renders and tokenises: today's date, and special tokens by their names, are refused.

    Raises:
        UserError: TRL would render something else than nlft, or the template refuses some examples.
    """
    if encoder.chat is None:
        return
    if encoder.templates.inputs.date and not has_columns:
        raise UserError(
            "--chat_template_date: TRL renders the prompts of this method itself, with today's date.\n"
            "  Leave it out, or give the template's variable: --chat_template_kwargs "
            '\'{"date_string": "26 Jul 2024"}\'.'
        )
    problems: list[Problem] = []
    for example in examples:
        where, own = f"example {example.id!r}", inputs_of(example.extra)
        if own and not has_columns:
            what = f"has {' and '.join(own.as_json())}, but TRL renders all prompts of this method alike."
            problems.append(Problem(where, what, "Remove the columns, or set --chat_template_kwargs for all examples."))
            continue
        try:
            encoder.prompt_ids(example.prompt, own)
            form = encoder.form(own)
            for text in (completion_text(example), revision_text(example)):
                if text:
                    form.written(text)
        except TemplateRefusal as error:
            problems.append(Problem(where, error.what, error.cure))
            continue
        if not has_columns and encoder.names_special_token(example.prompt):
            what = "has the name of a special token in its prompt, which TRL reads as that token."
            problems.append(Problem(where, what, "Remove the name from the prompt, or use another method."))
        if not form.is_prefix:
            what = "is rendered without the end of its prompt by TRL, because a reply does not repeat it."
            problems.append(Problem(where, what, "Use `nlft train` or `nlft sft`, or correct the chat template."))
    names = {frozenset(inputs_of(e.extra).kwargs) for e in examples}
    if len(names) > 1 and not problems:
        every = ", ".join(sorted(frozenset.union(*names)))
        what = f"have different variables in chat_template_kwargs ({every}), which TRL's table cannot hold."
        problems.append(Problem("the examples", what, "Give every example the same variables."))
    if problems:
        raise RecordsError(problems)
