"""Baselines that learn from right and wrong as such: ReFT (warm-up, then reinforcement learning) and KTO, through TRL.

ReFT (arXiv 2401.08967) trains on standard answers first, then by reinforcement learning on answer correctness with a
KL penalty towards the warmed-up model. It used PPO, which TRL 1.x no longer has; GRPO (arXiv 2402.03300) takes its
place: advantages from a group of samples to the same question, instead of a value model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from trl import GRPOConfig, GRPOTrainer

from nlft.data.export import form_for, prompted, rows_for
from nlft.data.grading import get_grader
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir
from nlft.training.callbacks import TimeBudget, record
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.settings import ReFTOptions
from nlft.training.sft import SFTBaseline, SFTSettings


@dataclass
class ReFTSettings(ReFTOptions, GRPOConfig):  # type: ignore[misc]
    """TRL's GRPO settings, with a KL penalty and the warm-up."""


class ReFTBaseline(SafeCheckpoints, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer on a model that has been warmed up on the answers, writing a run directory."""

    def __init__(
        self,
        model: Any,
        args: ReFTSettings,
        examples: Sequence[Example],
        processing_class: Any,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Raises:
            UserError: the settings leave no room for a group of samples, or nothing can be graded.
        """
        if args.grader == "label":
            raise UserError("reinforcement learning needs answers that can be graded.\n  Choose another --grader.")
        warm, self.warm_up_steps = _warmed_up(model, args, examples, processing_class, peft_config)
        rows = rows_for(prompted(examples, args.system_prompt), "reft", form=form_for(processing_class)).rows
        super().__init__(
            model=warm,
            reward_funcs=[_correctness(args)],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": r["prompt"], "answer": r["answer"]} for r in rows]),
            processing_class=processing_class,
        )
        record(self, "reft", "ReFT through TRL", examples, {"sft_epochs": args.sft_epochs, "beta": args.beta})

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # The frozen copy that the KL penalty is measured from is no part of the result.
        if isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            self.model.save_pretrained(output_dir or self.args.output_dir, selected_adapters=["default"])
            if self.args.should_save and self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir or self.args.output_dir)
            return
        super()._save(output_dir, state_dict)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours is written once, in adapter/."""


def _warmed_up(
    model: Any, args: ReFTSettings, examples: Sequence[Example], tokenizer: Any, peft_config: PeftConfig | None
) -> tuple[Any, int]:
    """The model after the warm-up, and how many optimizer steps that took."""
    settings = SFTSettings(
        output_dir=str(RunDir(str(args.output_dir)).path / "warm-up"),
        target="answer",
        num_train_epochs=args.sft_epochs,
        max_steps=args.sft_steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        learning_rate=args.warmup_learning_rate,
        activation_checkpointing=args.activation_checkpointing,
        save_strategy="no",
        lr_scheduler_type="constant" if args.sft_seconds else "linear",
        seed=args.seed,
        system_prompt=args.system_prompt,
    )
    trainer = SFTBaseline(model, settings, examples, tokenizer, peft_config)
    if args.sft_seconds:
        trainer.add_callback(TimeBudget(args.sft_seconds))
    if args.sft_epochs or args.sft_steps > 0:
        trainer.train()
    return trainer.model, trainer.state.global_step


def _correctness(args: ReFTSettings) -> Any:
    """A reward of 1 where the grader passes a completion, else 0."""
    grader = get_grader(args.grader, **({"extraction": args.extraction} if args.grader == "number" else {}))

    def correctness(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [float(grader(t, a).grade == "right") for t, a in zip(texts, answer, strict=True)]

    return correctness
