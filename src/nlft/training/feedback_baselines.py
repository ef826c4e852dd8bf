"""Baselines that learn from right and wrong as such: ReFT (warm-up, then reinforcement learning) and KTO, through TRL.

ReFT (arXiv 2401.08967) trains on standard answers first, then by reinforcement learning on answer correctness with a
KL penalty towards the warmed-up model. It used PPO, which TRL 1.x no longer has; GRPO (arXiv 2402.03300) takes its
place: advantages from a group of samples to the same question, instead of a value model.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Literal

from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer

from nlft.config import Range
from nlft.data.export import Form, rows_for, with_system_prompt
from nlft.data.grading import get_grader
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.training.baselines import SFTBaseline, SFTSettings
from nlft.training.callbacks import ProgressLine, RunDirCallback, TimeBudget
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.run_dir import RunDir
from nlft.training.run_record import data_fingerprint, environment, model_card
from nlft.training.trainer import settle

_HELP = {
    "logging_steps": "Log every so many optimizer steps.",
    "save_strategy": "When to write a checkpoint: no, steps, epoch.",
    "bf16": "Autocast to bf16. The base model's weights are in `dtype` anyway.",
    "activation_checkpointing": "Recompute activations in backward: less memory, some 20% slower. On unless set.",
    "system_prompt": "Put before prompts that have none.",
}


@dataclass
class ReFTSettings(GRPOConfig):  # type: ignore[misc]
    """TRL's GRPO settings, with a KL penalty and the warm-up."""

    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=5e-5, metadata={"help": "Initial learning rate of AdamW in the reinforcement stage."}
    )
    warmup_learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Learning rate of the supervised warm-up."}
    )
    sft_epochs: Annotated[float, Range(0, inf)] = field(
        default=2.0, metadata={"help": "Supervised passes over the standard answers before reinforcement."}
    )
    sft_steps: Annotated[int, Range(-1, inf)] = field(
        default=-1, metadata={"help": "Supervised steps, instead of sft_epochs."}
    )
    sft_seconds: Annotated[float | None, Range(0, inf)] = field(
        default=None, metadata={"help": "Stop the supervised passes after so many seconds."}
    )
    beta: float = field(default=0.05, metadata={"help": "Weight of the KL penalty towards the warmed-up model."})
    grader: str = field(
        default="number", metadata={"help": "number, exact, choice, regex, or a Python function's dotted path."}
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="strict", metadata={"help": "How the number grader reads an answer."}
    )
    logging_steps: float = field(default=1, metadata={"help": _HELP["logging_steps"]})
    save_strategy: str = field(default="no", metadata={"help": _HELP["save_strategy"]})
    bf16: bool | None = field(default=False, metadata={"help": _HELP["bf16"]})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    activation_checkpointing: bool | None = field(default=None, metadata={"help": _HELP["activation_checkpointing"]})
    system_prompt: str | None = field(default=None, metadata={"help": _HELP["system_prompt"]})

    def __post_init__(self) -> None:
        settle(self)
        super().__post_init__()


@dataclass
class KTOSettings(KTOConfig):  # type: ignore[misc]
    """TRL's KTO settings with NLFTConfig's defaults where they mean the same."""

    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=5e-5, metadata={"help": "Initial learning rate of AdamW."}
    )
    logging_steps: float = field(default=1, metadata={"help": _HELP["logging_steps"]})
    save_strategy: str = field(default="no", metadata={"help": _HELP["save_strategy"]})
    bf16: bool | None = field(default=False, metadata={"help": _HELP["bf16"]})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    activation_checkpointing: bool | None = field(default=None, metadata={"help": _HELP["activation_checkpointing"]})
    system_prompt: str | None = field(default=None, metadata={"help": _HELP["system_prompt"]})

    def __post_init__(self) -> None:
        settle(self)
        super().__post_init__()


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
        warm = _warmed_up(model, args, examples, processing_class, peft_config)
        rows = rows_for(_prompted(examples, args.system_prompt), "reft", form=_form(processing_class)).rows
        super().__init__(
            model=warm,
            reward_funcs=[_correctness(args)],
            args=args,
            train_dataset=Dataset.from_list([{"prompt": r["prompt"], "answer": r["answer"]} for r in rows]),
            processing_class=processing_class,
        )
        _record(self, "reft", examples, {"sft_epochs": args.sft_epochs, "beta": args.beta})

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
        rows = rows_for(_prompted(examples, args.system_prompt), "kto", form=_form(processing_class)).rows
        super().__init__(
            model=model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
            peft_config=peft_config,
        )
        weights = {"desirable_weight": args.desirable_weight, "undesirable_weight": args.undesirable_weight}
        _record(self, "kto", examples, {"beta": args.beta, **weights})

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


def _warmed_up(
    model: Any, args: ReFTSettings, examples: Sequence[Example], tokenizer: Any, peft_config: PeftConfig | None
) -> Any:
    settings = SFTSettings(
        output_dir=str(RunDir(args.output_dir).path / "warm-up"),
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
    return trainer.model


def _correctness(args: ReFTSettings) -> Any:
    """A reward of 1 where the grader passes a completion, else 0."""
    grader = get_grader(args.grader, **({"extraction": args.extraction} if args.grader == "number" else {}))

    def correctness(completions: list[Any], answer: list[str], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return [float(grader(t, a).verdict == "right") for t, a in zip(texts, answer, strict=True)]

    return correctness


def _prompted(examples: Sequence[Example], system_prompt: str | None) -> list[Example]:
    return [with_system_prompt(example, system_prompt) if system_prompt else example for example in examples]


def _form(tokenizer: Any) -> Form:
    return "text" if tokenizer.chat_template is None else "messages"


def _record(trainer: Any, method: str, examples: Sequence[Example], more: dict[str, Any]) -> None:
    """Progress and a run directory, as for every method."""
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    trainer.add_callback(ProgressLine())
    base = str(trainer.model.config._name_or_path)
    settings = {
        "method": method,
        "model_name_or_path": base,
        **more,
        "seed": trainer.args.seed,
        **environment(),
        "data": {"examples": len(examples), "sha256": data_fingerprint(list(examples))},
        "training": json.loads(trainer.args.to_json_string()),
    }
    card = model_card(base, method, f"{method.upper()} through TRL", list(examples))
    recorder = RunDirCallback(RunDir(trainer.args.output_dir), settings, card)
    recorder.trainer = trainer
    trainer.add_callback(recorder)
