"""SFT on the scoring forward of `core.logprobs`: the loss of TRL's SFTTrainer, of the trained positions alone."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlft.baselines.sft_rows import sft_rows
from nlft.core.conditions import Row, Rows, pad
from nlft.core.limits import limits_of
from nlft.core.logprobs import score
from nlft.data.records import Example
from nlft.models.loading import wrap_to_score
from nlft.training.callbacks import add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import StopsWhenDiverged
from nlft.training.honoured import refuse_float16, refuse_other_engine
from nlft.training.prompting import training_encoder
from nlft.training.token_log import LogsSums


class RowCollator:
    """A Trainer's `data_collator`: pads rows of token ids and labels on the right."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask` and `labels`, each (rows, length)."""
        padded = pad([Row(one["input_ids"], 0, one["labels"]) for one in rows], self.pad_token_id)
        return {name: getattr(padded, name) for name in ("input_ids", "attention_mask", "labels")}


class OwnSFT(LogsSums, StopsWhenDiverged, SafeCheckpoints):
    """Supervised fine-tuning with `engine` nlft. It writes a run directory.

    Same rows, order and adapter as with TRL's SFTTrainer; loss and gradients are equal to 1e-5 in float32.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: Any,
        examples: Sequence[Example],
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Args:
            args: an `SFTSettings` with `engine` nlft.

        Raises:
            UserError: the settings, the examples or the model cannot be used.
        """
        refuse_other_engine(args, "nlft")
        encoder = training_encoder(processing_class, args, limits_of(model))
        rows = sft_rows(examples, encoder, args.target)
        torch.manual_seed(args.seed)  # the adapter's random start follows the seed, and is the same with both engines
        if processing_class.pad_token_id is None:
            processing_class.pad_token = processing_class.eos_token
        super().__init__(
            model=wrap_to_score(model, peft_config, checkpoints=bool(args.activation_checkpointing)),
            args=args,
            data_collator=RowCollator(int(processing_class.pad_token_id)),
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
        )
        # Trainer then counts the window's trained tokens, and leaves the division by them to `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self.start_sums()
        refuse_float16(args, self.model)
        self.name_examples([example.id for example in examples])
        add_run_directory(self, "sft", examples, {"target": args.target, "engine": "nlft", "rows": len(rows)})

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the micro-batch's share of the window's mean negative log-likelihood.

        Args:
            num_items_in_batch: trained tokens of the window: on all ranks with `average_tokens_across_devices`, else on
                this one.
        """
        scored = score(model, Rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"]))
        counted = scored.mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        share = -scored.logp.sum() / counted.clamp(min=1)
        processes = self.accelerator.num_processes
        over_all = self.args.average_tokens_across_devices and num_items_in_batch is not None
        one = torch.zeros_like(share)
        self.add_sums(
            "train",
            {
                "loss": (share.detach() / (1 if over_all else processes), one),  # `log` adds up the ranks
                "mean_token_accuracy": (scored.top1.sum(), scored.mask.sum()),
                "num_tokens": (inputs["attention_mask"].sum(), one),
            },
        )
        loss = share * processes if over_all else share  # DDP takes the mean over ranks
        return (loss, {}) if return_outputs else loss
