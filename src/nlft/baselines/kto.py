"""KTO through TRL: a baseline that learns from the labels right and wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import KTOConfig, KTOTrainer

from nlft.baselines.trl_rows import check_all_rows, check_lengths, note_long_rows, with_own_ids
from nlft.config import override
from nlft.core.limits import limits_of
from nlft.data.encoding import check_replies
from nlft.data.export import form_for, prompted, rows_for
from nlft.data.records import Example, completion_text
from nlft.data.template_columns import with_columns
from nlft.errors import UserError
from nlft.progress import note_once
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import EXAMPLE, StopsWhenDiverged
from nlft.training.honoured import refuse_float16
from nlft.training.prompting import check_for_trl, training_encoder
from nlft.training.settings import KTOOptions

_BALANCED = " If neither weight is set, both labels count equally."


@dataclass
class KTOSettings(KTOOptions, KTOConfig):  # type: ignore[misc]
    """TRL's KTO settings. Fields with the same meaning have NLFTConfig's defaults."""

    logging_nan_inf_filter: bool = override(KTOConfig, "logging_nan_inf_filter", False)
    desirable_weight: float | None = override(KTOConfig, "desirable_weight", None, _BALANCED)
    undesirable_weight: float | None = override(KTOConfig, "undesirable_weight", None, _BALANCED)


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
        encoder = training_encoder(processing_class, args, limits_of(model)).limited_to(None)
        check_replies(examples, encoder)
        balance(args, [example.label for example in examples])
        check_for_trl(encoder, examples)
        self._given = (examples, encoder)
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
        note_long_rows(self.model, self.train_dataset, ["completion_ids"])
        self.name_examples([example.id for example in examples])
        weights = {"desirable_weight": args.desirable_weight, "undesirable_weight": args.undesirable_weight}
        add_run_directory(self, "kto", examples, {"beta": args.beta, **weights})

    def _prepare_dataset(
        self, dataset: Dataset, processing_class: Any, args: KTOSettings, *more: Any, **options: Any
    ) -> Dataset:
        rows = super()._prepare_dataset(dataset, processing_class, args, *more, **options)
        own = with_own_ids(rows, *self._given, {"completion_ids": completion_text})
        return with_partners(own, args.per_device_train_batch_size)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card here: `RunDirCallback` writes one card, in adapter/."""


def balance(args: KTOConfig, labels: Sequence[bool]) -> None:
    """Raise the weight of the rarer label until both labels count equally (arXiv 2402.01306). Say so.

    Keep weights that the user has set. If only one is set, the other is 1.
    """
    if args.desirable_weight is not None or args.undesirable_weight is not None:
        args.desirable_weight = 1.0 if args.desirable_weight is None else args.desirable_weight
        args.undesirable_weight = 1.0 if args.undesirable_weight is None else args.undesirable_weight
        return
    right = sum(labels)
    wrong = len(labels) - right
    args.desirable_weight = max(1.0, wrong / right)
    args.undesirable_weight = max(1.0, right / wrong)
    if right != wrong and args.process_index == 0:
        chosen = f"--desirable_weight {args.desirable_weight:g} --undesirable_weight {args.undesirable_weight:g}"
        note_once(f"note: {right} right and {wrong} wrong completions, so {chosen}")


def with_partners(rows: Dataset, batch_size: int) -> Dataset:
    """Pair each prompt with another completion of its batch, for the KL term, as TRL does.

    A last row that is alone in its batch gets the completion of the row before it. TRL would pair it with its own
    completion, and the KL term would be the row's own reward.
    """
    if "KL_completion_ids" not in rows.column_names:
        return rows
    completions = rows["completion_ids"]
    last = len(rows) - 1

    def partner(at: int) -> int:
        if at % batch_size:
            return at - 1
        end = min(at + batch_size - 1, last)
        return end if end > at else max(at - 1, 0)

    return rows.map(lambda _, at: {"KL_completion_ids": completions[partner(at)]}, with_indices=True)
