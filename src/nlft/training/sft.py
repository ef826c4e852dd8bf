"""SFT through TRL, on the same file and the same token ids as NLFT."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from nlft.config import override
from nlft.core.conditions import IGNORE_INDEX, ConditionEncoder
from nlft.core.limits import limits_of
from nlft.core.reply_form import TemplateRefusal
from nlft.data.encoding import check_readable, encode_examples
from nlft.data.export import SFTTarget, check_trainable, sft_texts
from nlft.data.records import Example
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import EXAMPLE, StopsWhenDiverged
from nlft.training.honoured import refuse_float16
from nlft.training.settings import SFTOptions
from nlft.training.trl_rows import check_all_rows


@dataclass
class SFTSettings(SFTOptions, SFTConfig):  # type: ignore[misc]
    """TRL's settings with NLFTConfig's defaults, so that compared runs differ only in the method."""

    logging_nan_inf_filter: bool = override(SFTConfig, "logging_nan_inf_filter", False)


def sft_rows(examples: Sequence[Example], encoder: ConditionEncoder, target: SFTTarget) -> list[dict[str, Any]]:
    """Make the token ids and labels that SFT trains on. Prompts are the same as in NLFT's base condition.

    Each row also has the place of its example.

    Raises:
        UserError: there is no text to train on, a text exceeds max_length or the model, or `target` is unknown.
    """
    if target not in get_args(SFTTarget):
        raise UserError(f"--target {target} does not exist.\n  Choose one of {', '.join(get_args(SFTTarget))}.")
    check_trainable(examples, target)
    texts = [(example, text) for example in examples for text in sft_texts(example, target)]
    if not texts:
        raise UserError(
            f"none of the {len(examples)} examples has a right completion or a revision.\n"
            "  Train on --target answer, or add right completions."
        )
    rows = []
    encoded = encode_examples(examples, encoder.limited_to(None))
    prompts = {example.id: e.base for example, e in zip(examples, encoded, strict=True)}
    places = {example.id: at for at, example in enumerate(examples)}
    for example, text in texts:
        prompt, completion = prompts[example.id], _reply_ids(encoder, example, text)
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
                EXAMPLE: places[example.id],
            }
        )
    return rows


def _reply_ids(encoder: ConditionEncoder, example: Example, text: str) -> list[int]:
    """Tokenise a text that is trained.

    Raises:
        UserError: the chat template cannot write it as a reply.
    """
    try:
        return encoder.completion_ids(text, inputs_of(example.extra))
    except TemplateRefusal as error:
        raise UserError(f"example {example.id!r}: {error}") from error


class SFTBaseline(StopsWhenDiverged, SafeCheckpoints, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer. It writes a run directory."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: SFTSettings,
        examples: Sequence[Example],
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig | None,
    ) -> None:
        encoder = ConditionEncoder(processing_class, args.templates(), args.max_length, limits=limits_of(model))
        rows = sft_rows(examples, encoder, args.target)
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
            peft_config=peft_config,
        )
        refuse_float16(args, self.model)
        if not args.packing:
            check_all_rows(len(self.train_dataset), len(rows))
        self.name_examples([example.id for example in examples])
        add_run_directory(self, "sft", examples, {"target": args.target, "rows": len(rows)})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card at each checkpoint, as TRL would. `RunDirCallback` writes one card, in adapter/."""
