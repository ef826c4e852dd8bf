"""ReFT through TRL: a baseline with a supervised warm-up, then reinforcement learning.

ReFT (arXiv 2401.08967) trains on standard answers first. Then it uses reinforcement learning on the correctness of the
answers, with a KL penalty towards the warmed-up model. The paper uses PPO, which TRL 1.x no longer has. Here GRPO
(arXiv 2402.03300) takes its place: it computes advantages from a group of samples to the same question, without a value
model.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from nlft.baselines.sft import SFTBaseline, SFTSettings
from nlft.baselines.trl_rows import check_all_rows
from nlft.config import override
from nlft.core.turn_encoding import TurnEncoder
from nlft.data.export import Form, form_for, prompted, rows_for
from nlft.data.gradable import check_gradable, is_undecided
from nlft.data.grading import CHECKS, Grader, get_grader, needs_answers
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.models.ends import name_trained_end
from nlft.runs.run_dir import RunDir
from nlft.training.callbacks import TimeBudget, add_run_directory
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import EXAMPLE, StopsWhenDiverged
from nlft.training.honoured import refuse_float16
from nlft.training.prompting import check_for_trl
from nlft.training.settings import ReFTOptions
from nlft.training.start import own_checkpoint


@dataclass
class ReFTSettings(ReFTOptions, GRPOConfig):  # type: ignore[misc]
    """TRL's GRPO settings, with a KL penalty and the warm-up."""

    logging_nan_inf_filter: bool = override(GRPOConfig, "logging_nan_inf_filter", False)


class ReFTBaseline(StopsWhenDiverged, SafeCheckpoints, GRPOTrainer):  # type: ignore[misc]
    """TRL's GRPOTrainer on a model that was warmed up on the answers. It writes a run directory."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        args: ReFTSettings,
        examples: Sequence[Example],
        processing_class: PreTrainedTokenizerBase,
        peft_config: PeftConfig | None,
    ) -> None:
        """
        Raises:
            UserError: the grader is `label`, which cannot grade new answers, or `checks`, which needs whole questions;
                or examples lack the standard answers that the grader needs. Or TRL renders other prompts than nlft.
        """
        if args.grader in ("label", CHECKS):
            what = f"reinforcement learning needs answers that can be graded, and --grader {args.grader} compares none."
            raise UserError(f"{what}\n  Choose another --grader.")
        check_gradable(examples, _grader(args), args.grader)
        check_for_trl(TurnEncoder(processing_class, args.templates()), examples, has_columns=False)
        args.chat_template_kwargs = dict(args.template_inputs().kwargs) or None  # TRL gives them to every prompt
        warm, self.warm_up_steps = _warmed_up(model, args, examples, processing_class, peft_config)
        name_trained_end(warm, processing_class)  # TRL samples until one of the ends that generation_config names
        self.rewards = Correctness(_grader(args))
        rows = question_rows(prompted(examples, args.system_prompt), form_for(processing_class))
        super().__init__(
            model=warm,
            reward_funcs=[self.rewards],
            args=args,
            train_dataset=Dataset.from_list(rows),
            processing_class=processing_class,
        )
        refuse_float16(args, self.model)
        check_all_rows(len(self.train_dataset), len(rows))
        self.name_examples([example.id for example in examples])
        add_run_directory(self, "reft", examples, {"sft_epochs": args.sft_epochs, "beta": args.beta})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # Leave out the frozen copy of the adapter, which only the KL penalty needs.
        if isinstance(self.model, PeftModel) and "ref" in self.model.peft_config:
            self.model.save_pretrained(output_dir or self.args.output_dir, selected_adapters=["default"])
            if self.args.should_save and self.processing_class is not None:
                self.processing_class.save_pretrained(output_dir or self.args.output_dir)
            return
        super()._save(output_dir, state_dict)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of answers that could not be graded, and had no part in the rewards."""
        if "loss" in logs and self.rewards.answers:
            logs["nlft/ungraded_fraction"] = self.rewards.ungraded / self.rewards.answers
        super().log(logs, start_time)

    def counts(self) -> list[int]:
        return [self.rewards.answers, self.rewards.ungraded]

    def take_counts(self, counts: Sequence[int]) -> None:
        self.rewards.answers, self.rewards.ungraded = counts

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        return OrderOfEpoch(super()._get_train_sampler(dataset))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no card here: `RunDirCallback` writes one card, in adapter/."""


class OrderOfEpoch(Sampler[int]):
    """TRL's order of the questions, each epoch by its own seed. The first epoch is TRL's.

    TRL's sampler draws each epoch after the one before, so a run that is resumed in a later epoch would begin again
    with the first one's order.
    """

    def __init__(self, sampler: Any) -> None:
        """
        Args:
            sampler: a `RepeatSampler` of TRL.
        """
        self.sampler, self.epoch = sampler, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        if self.sampler.shuffle:
            self.sampler.generator.manual_seed(self.sampler.seed + 1_000_003 * self.epoch)
        yield from self.sampler


def question_rows(examples: Sequence[Example], form: Form) -> list[dict[str, Any]]:
    """Make one row for each question and answer: prompt, answer, and the place of the first example that has them."""
    places: dict[str, int] = {}
    for at, example in enumerate(examples):
        places.setdefault(json.dumps(rows_for([example], "reft", form=form).rows[0], sort_keys=True), at)
    return [
        {"prompt": row["prompt"], "answer": row["answer"], EXAMPLE: places[json.dumps(row, sort_keys=True)]}
        for row in rows_for(examples, "reft", form=form).rows
    ]


# Batches to add up are no part: they make room for the answers to one question.
_OF_BOTH = (
    *("save_strategy", "save_steps", "save_total_limit", "use_cpu", "bf16", "fp16", "tf32", "full_determinism"),
    *("optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    "max_grad_norm",
)
"""Settings of reinforcement that its supervised warm-up has too."""


def _warmed_up(
    model: PreTrainedModel | PeftModel,
    args: ReFTSettings,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    peft_config: PeftConfig | None,
) -> tuple[PreTrainedModel | PeftModel, int]:
    """Warm up the model. Return it with the number of optimizer steps."""
    run = RunDir(Path(str(args.output_dir)) / "warm-up")
    settings = SFTSettings(
        output_dir=str(run.path),
        target="answer",
        engine="trl",
        num_train_epochs=args.sft_epochs or 1.0,  # without a warm-up, nothing reads it
        max_steps=args.sft_steps,
        per_device_train_batch_size=args.per_device_train_batch_size,
        learning_rate=args.warmup_learning_rate,
        activation_checkpointing=args.activation_checkpointing,
        **{name: getattr(args, name) for name in _OF_BOTH},
        lr_scheduler_type="constant" if args.sft_seconds else "linear",
        seed=args.seed,
        system_prompt=args.system_prompt,
        chat_template_kwargs=args.chat_template_kwargs,
        chat_template_date=args.chat_template_date,
    )
    trainer = SFTBaseline(model, settings, examples, tokenizer, peft_config)
    if args.sft_seconds:
        trainer.add_callback(TimeBudget(args.sft_seconds))
    if args.sft_epochs or args.sft_steps > 0:
        checkpoint = own_checkpoint(trainer, run) if args.save_strategy != "no" else None
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.model, trainer.state.global_step


def _grader(args: ReFTSettings) -> Grader:
    return get_grader(args.grader, **({"extraction": args.extraction} if args.grader == "number" else {}))


class Correctness:
    """The reward function: 1 if the grader says right, 0 if wrong. An ungraded answer has no reward, and is counted.

    TRL leaves answers without a reward out of their group's mean, and gives them no gradient.

    Attributes:
        answers, ungraded: number of answers so far in this run, and of those that could not be graded.
    """

    __name__ = "correctness"  # TRL logs rewards by this name

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self.answers = self.ungraded = 0

    def __call__(self, completions: list[Any], answer: list[str], **_: Any) -> list[float | None]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        rewards = [self._reward(text, expected) for text, expected in zip(texts, answer, strict=True)]
        self.answers += len(rewards)
        self.ungraded += rewards.count(None)
        return rewards

    def _reward(self, text: str, answer: str) -> float | None:
        grade = self.grader(text, answer)
        if grade.grade == "ungraded" and (not needs_answers(self.grader) or is_undecided(grade, self.grader)):
            return None
        return float(grade.grade == "right")
