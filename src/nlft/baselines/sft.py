"""SFT on the same file and the same token ids as NLFT: the settings, and SFT through TRL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from nlft.baselines.sft_own import OwnSFT
from nlft.baselines.sft_rows import sft_rows
from nlft.baselines.trl_rows import check_all_rows, note_long_rows
from nlft.config import override
from nlft.core.limits import limits_of
from nlft.data.records import Example
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import StopsWhenDiverged
from nlft.training.honoured import refuse_float16, refuse_other_engine
from nlft.training.prompting import training_encoder
from nlft.training.settings import SFTOptions


@dataclass
class SFTSettings(SFTOptions, SFTConfig):  # type: ignore[misc]
    """TRL's settings with NLFTConfig's defaults, so that compared runs differ only in the method.

    `engine` says which trainer they are for.
    """

    logging_nan_inf_filter: bool = override(SFTConfig, "logging_nan_inf_filter", False)


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
        refuse_other_engine(args, "trl")
        encoder = training_encoder(processing_class, args, limits_of(model))
        torch.manual_seed(args.seed)  # the adapter's random start follows the seed, and is the same with both engines
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
            note_long_rows(self.model, self.train_dataset, ["input_ids"])
        self.name_examples([example.id for example in examples])
        add_run_directory(self, "sft", examples, {"target": args.target, "engine": "trl", "rows": len(rows)})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card at each checkpoint, as TRL would. `RunDirCallback` writes one card, in adapter/."""


def sft_trainer(
    model: PreTrainedModel | PeftModel,
    args: SFTSettings,
    examples: Sequence[Example],
    processing_class: PreTrainedTokenizerBase,
    peft_config: PeftConfig | None,
) -> OwnSFT | SFTBaseline:
    """Make the trainer of the engine that the settings name."""
    made = SFTBaseline if args.engine == "trl" else OwnSFT
    return made(model, args, examples, processing_class, peft_config)
