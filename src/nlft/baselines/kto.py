"""KTO through TRL: a baseline that learns from the labels right and wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import KTOConfig, KTOTrainer

from nlft.baselines.trl_rows import check_all_rows, check_lengths
from nlft.config import override
from nlft.core.conditions import ConditionEncoder
from nlft.core.limits import limits_of
from nlft.data.encoding import check_replies
from nlft.data.export import form_for, prompted, rows_for
from nlft.data.records import Example
from nlft.data.template_columns import with_columns
from nlft.errors import UserError
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import EXAMPLE, StopsWhenDiverged
from nlft.training.honoured import refuse_float16
from nlft.training.prompting import check_for_trl
from nlft.training.settings import KTOOptions


@dataclass
class KTOSettings(KTOOptions, KTOConfig):  # type: ignore[misc]
    """TRL's KTO settings. Fields with the same meaning have NLFTConfig's defaults."""

    logging_nan_inf_filter: bool = override(KTOConfig, "logging_nan_inf_filter", False)


class KTOBaseline(StopsWhenDiverged, SafeCheckpoints, KTOTrainer):  # type: ignore[misc]
    """TRL's KTOTrainer on the completions and their labels. It writes a run directory."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: KTOSettings,
        examples: Sequence[Example],
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Raises:
            UserError: the examples are all right or all wrong, or a batch has only one example.
            RecordsError: names every example that the model cannot read, or that is longer than max_length.
        """
        if len({example.label for example in examples}) < 2:
            raise UserError(
                "KTO needs right and wrong completions, but all examples have one label.\n"
                "  Add examples with the other label."
            )
        if args.per_device_train_batch_size < 2:
            raise UserError(
                "KTO's KL term needs two examples per step.\n  Set --per_device_train_batch_size 2 or more."
            )
        encoder = ConditionEncoder(processing_class, args.templates(), limits=limits_of(model))
        check_replies(examples, encoder)
        balance(args, [example.label for example in examples])
        check_for_trl(encoder, examples)
        shown = prompted(examples, args.system_prompt, args.template_inputs())
        rows = with_columns(rows_for(shown, "kto", form=form_for(processing_class)).rows)
        longest, args.max_length = args.max_length, None  # TRL would cut longer rows, and leave some out
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list([{**row, EXAMPLE: at} for at, row in enumerate(rows)]),
            processing_class=processing_class,
            peft_config=peft_config,
        )
        args.max_length = longest
        refuse_float16(args, self.model)
        check_lengths(self.train_dataset, ["completion_ids"], examples, longest)
        check_all_rows(len(self.train_dataset), len(examples))
        self.name_examples([example.id for example in examples])
        weights = {"desirable_weight": args.desirable_weight, "undesirable_weight": args.undesirable_weight}
        add_run_directory(self, "kto", examples, {"beta": args.beta, **weights})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card here: `RunDirCallback` writes one card, in adapter/."""


def balance(args: KTOConfig, labels: Sequence[bool]) -> None:
    """Raise the weight of the rarer label until both labels count equally (arXiv 2402.01306).

    Keep weights that the user has set.
    """
    if (args.desirable_weight, args.undesirable_weight) != (1.0, 1.0):
        return
    right = sum(labels)
    wrong = len(labels) - right
    args.desirable_weight = max(1.0, wrong / right)
    args.undesirable_weight = max(1.0, right / wrong)
