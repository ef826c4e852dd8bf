"""The rows that supervised fine-tuning trains on, as token ids with labels."""

from collections.abc import Sequence
from typing import Any, get_args

from nlft.core.conditions import IGNORE_INDEX, ConditionEncoder
from nlft.core.reply_form import TemplateRefusal
from nlft.data.encoding import check_readable, encode_examples
from nlft.data.export import SFTTarget, check_trainable, sft_texts
from nlft.data.records import Example
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.training.divergence import EXAMPLE


def sft_rows(examples: Sequence[Example], encoder: ConditionEncoder, target: SFTTarget) -> list[dict[str, Any]]:
    """Make the token ids and labels that SFT trains on. Prompts are the same as in NLFT's base condition.

    Each row also has the place of its example.

    Raises:
        UserError: there is no text to train on, a text exceeds max_length or the model, or `target` is unknown.
    """
    if target not in get_args(SFTTarget):
        raise UserError(f"--target {target} does not exist.\n  Choose one of {', '.join(get_args(SFTTarget))}.")
    check_trainable(examples, target)
    texts = [(at, text) for at, example in enumerate(examples) for text in sft_texts(example, target)]
    if not texts:
        raise UserError(
            f"none of the {len(examples)} examples has a right completion or a revision.\n"
            "  Train on --target answer, or add right completions."
        )
    rows = []
    encoded = encode_examples(examples, encoder.limited_to(None))
    for at, text in texts:
        example, prompt = examples[at], encoded[at].base
        completion = _reply_ids(encoder, example, text)
        if encoder.max_length is not None and len(prompt) + len(completion) > encoder.max_length:
            raise UserError(
                f"example {example.id!r} has {len(prompt) + len(completion)} tokens, more than max_length "
                f"{encoder.max_length}.\n  Raise --max_length, or shorten or remove the example."
            )
        check_readable(encoder, example.id, [*prompt, *completion])
        rows.append(
            {
                "input_ids": [*prompt, *completion],
                "labels": [IGNORE_INDEX] * len(prompt) + completion,
                EXAMPLE: at,
            }
        )
    return rows


def _reply_ids(encoder: ConditionEncoder, example: Example, text: str) -> list[int]:
    """Tokenise a text that is trained.

    Raises:
        UserError: the chat template cannot write it as a reply.
    """
    try:
        encoder.check_reply(example.prompt, text, inputs_of(example.extra))
        return encoder.completion_ids(text, inputs_of(example.extra))
    except TemplateRefusal as error:
        raise UserError(f"example {example.id!r}: {error}") from error
