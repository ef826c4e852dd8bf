"""KTO, a baseline that learns from right and wrong as such, through TRL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftConfig
from trl import KTOConfig, KTOTrainer

from nlft.data.export import form_for, prompted, rows_for
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.training.callbacks import record
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.settings import KTOOptions


@dataclass
class KTOSettings(KTOOptions, KTOConfig):  # type: ignore[misc]
    """TRL's KTO settings with NLFTConfig's defaults where they mean the same."""


class KTOBaseline(SafeCheckpoints, KTOTrainer):  # type: ignore[misc]
    """TRL's KTOTrainer on the completions and their labels, writing a run directory."""

    def __init__(
        self,
        model: Any,
        args: KTOSettings,
        examples: Sequence[Example],
        processing_class: Any,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Raises:
            UserError: the examples are all right or all wrong, of which KTO can learn nothing.
        """
        if len({example.label for example in examples}) < 2:
            raise UserError(
                "KTO needs right and wrong completions, and all are alike.\n  Sample more of the other kind."
            )
        if args.per_device_train_batch_size < 2:
            raise UserError("KTO's KL term needs two examples a step.\n  Set --per_device_train_batch_size 2 or more.")
        balance(args, [example.label for example in examples])
        rows = rows_for(prompted(examples, args.system_prompt), "kto", form=form_for(processing_class)).rows
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
            peft_config=peft_config,
        )
        weights = {"desirable_weight": args.desirable_weight, "undesirable_weight": args.undesirable_weight}
        record(self, "kto", "KTO through TRL", examples, {"beta": args.beta, **weights})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours is written once, in adapter/."""


def balance(args: KTOConfig, labels: Sequence[bool]) -> None:
    """Weigh the rarer kind up until both count alike (arXiv 2402.01306), unless weights are set."""
    if (args.desirable_weight, args.undesirable_weight) != (1.0, 1.0):
        return
    right = sum(labels)
    wrong = len(labels) - right
    args.desirable_weight = max(1.0, wrong / right)
    args.undesirable_weight = max(1.0, right / wrong)
