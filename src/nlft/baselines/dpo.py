"""DPO through TRL: a baseline that learns from pairs of a revision and the completion that it revises."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer

from nlft.baselines.trl_rows import check_all_rows, check_lengths, note_long_rows, with_own_ids
from nlft.config import override
from nlft.core.limits import limits_of
from nlft.data.encoding import check_replies
from nlft.data.export import Form, form_for, prompted, rows_for
from nlft.data.records import Example, completion_text, revision_text
from nlft.data.template_columns import columns_of, with_columns
from nlft.errors import UserError
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import EXAMPLE, StopsWhenDiverged
from nlft.training.honoured import refuse_float16
from nlft.training.prompting import check_for_trl, training_encoder
from nlft.training.settings import DPOOptions


@dataclass
class DPOSettings(DPOOptions, DPOConfig):  # type: ignore[misc]
    """TRL's DPO settings. Fields with the same meaning have NLFTConfig's defaults."""

    logging_nan_inf_filter: bool = override(DPOConfig, "logging_nan_inf_filter", False)


def preference_rows(examples: Sequence[Example], form: Form) -> list[dict[str, Any]]:
    """Make one row of prompt, `chosen` and `rejected` for each example with a revision that differs.

    Each row also has the place of its example.

    Raises:
        UserError: there is none.
    """
    differs = [e.revision is not None and revision_text(e) != completion_text(e) for e in examples]
    places = [at for at, one in enumerate(differs) if one]
    pairs = [examples[at] for at in places]
    if not pairs:
        raise UserError(
            f"DPO needs revisions to prefer, but none of the {len(examples)} examples has a revision.\n"
            "  Add revisions, or mark what should be replaced."
        )
    chosen = rows_for([replace(e, completion=e.revision or "") for e in pairs], "kto", form=form).rows
    rejected = rows_for(pairs, "kto", form=form).rows
    texts = zip(pairs, chosen, rejected, places, strict=True)
    return [
        {
            **columns_of(pair.extra),
            "prompt": better["prompt"],
            "chosen": better["completion"],
            "rejected": worse["completion"],
            EXAMPLE: at,
        }
        for pair, better, worse, at in texts
    ]


class DPOBaseline(StopsWhenDiverged, SafeCheckpoints, DPOTrainer):  # type: ignore[misc]
    """TRL's DPOTrainer on revisions over completions. The reference is the model without the new adapter."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: DPOSettings,
        examples: Sequence[Example],
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Raises:
            UserError: no example has a revision that differs from its completion.
            RecordsError: names every example that the model cannot read, or that is longer than max_length.
        """
        encoder = training_encoder(processing_class, args, limits_of(model)).limited_to(None)
        check_for_trl(encoder, examples)
        check_replies(examples, encoder)
        self._given = (examples, encoder)
        shown = prompted(examples, args.system_prompt, args.template_inputs())
        rows = with_columns(preference_rows(shown, form_for(processing_class)))
        longest, args.max_length = args.max_length, None  # TRL would cut longer rows, and leave some out
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
            peft_config=peft_config,
        )
        args.max_length = longest
        refuse_float16(args, self.model)
        check_lengths(self.train_dataset, ["chosen_ids", "rejected_ids"], examples, longest)
        check_all_rows(len(self.train_dataset), len(rows))
        note_long_rows(self.model, self.train_dataset, ["chosen_ids", "rejected_ids"])
        self.name_examples([example.id for example in examples])
        add_run_directory(self, "dpo", examples, {"beta": args.beta, "pairs": len(rows)})

    def _prepare_dataset(self, *given: Any, **options: Any) -> Dataset:
        rows = super()._prepare_dataset(*given, **options)
        return with_own_ids(rows, *self._given, {"chosen_ids": revision_text, "rejected_ids": completion_text})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card here: `RunDirCallback` writes one card, in adapter/."""
