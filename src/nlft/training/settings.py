"""Settings of all trainers, without torch: a command's help comes from here.

A trainer's module adds transformers' or TRL's class as the last base. Each class here stands before it among the bases,
so our defaults win. A comparison of methods then differs in the method alone.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, ClassVar, Literal

from nlft.config import Range, with_defaults
from nlft.core.prompts import PromptSettings, SystemPromptSettings
from nlft.data.export import TargetSettings
from nlft.data.grading import ExtractionSettings
from nlft.errors import ConfigError, Problem
from nlft.models.settings import MaxLengthSettings, SeedSettings

GuardAction = Literal["warn", "pause", "stop"]
GUARD_ACTIONS: tuple[GuardAction, ...] = ("warn", "pause", "stop")
MOST_EPOCHS, MOST_STEPS = 1e6, 10**9  # no training takes more, and a slip of the keyboard would never end
GUARDS = ("loss", "entropy", "length", "unlikelihood", "kl", "tagged", "gated")


@dataclass
class GuardSettings:
    """What a training does when its log looks wrong."""

    rare: ClassVar[tuple[str, ...]] = ("guard",)

    guard: list[str] | None = field(
        default=None,
        metadata={
            "help": f"What to do when the log looks wrong: NAME=ACTION, NAME of {', '.join(GUARDS)}, ACTION of "
            f"{', '.join(GUARD_ACTIONS)}. All warn if not set (docs/RUN_DIRECTORY.md)."
        },
    )


@dataclass
class OutputSettings:
    """Where a run's files go."""

    output_dir: str | None = field(default="trainer_output", metadata={"help": "Folder for the run's files."})


@dataclass
class LearningSettings:
    """How much and how fast a model learns."""

    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Initial learning rate of AdamW."}
    )
    # A few dozen examples are a few dozen steps at the usual batch and epochs: far too few (docs/LOG.md).
    num_train_epochs: Annotated[float, Range(0, MOST_EPOCHS)] = field(
        default=6.0, metadata={"help": "Passes over the examples."}
    )
    per_device_train_batch_size: Annotated[int, Range(1, inf)] = field(
        default=2, metadata={"help": "Examples per process and step."}
    )
    max_steps: Annotated[int, Range(-1, MOST_STEPS)] = field(
        default=-1, metadata={"help": "Optimizer steps, instead of num_train_epochs. -1: not set."}
    )


@dataclass
class ActivationSettings:
    """Memory against speed."""

    activation_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Recompute activations in backward: less memory, about 20% slower. On if not set."},
    )


@dataclass
class CommonSettings(ActivationSettings):
    """Settings of every method."""

    logging_steps: float = field(default=1, metadata={"help": "Optimizer steps between two log lines."})
    save_strategy: str = field(
        default="epoch", metadata={"help": "When to write a checkpoint.", "choices": ["no", "steps", "epoch", "best"]}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})

    method: ClassVar[str]

    def __post_init__(self) -> None:
        import torch

        from nlft.training.honoured import refuse_idle
        from nlft.training.trackers import without_missing_trackers

        args: Any = self
        if args.report_to in (None, "no", ["no"]):  # transformers knows only the word `none`
            args.report_to = "none"
        refuse_idle(self, self.method)

        # TRL's name for it; `gradient_checkpointing` is the older one.
        if self.activation_checkpointing is None:
            older = self.gradient_checkpointing  # type: ignore[attr-defined]
            self.activation_checkpointing = True if older is None else older
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # nothing to pin for, and torch says so at each start
        super().__post_init__()  # type: ignore[misc]
        _refuse_unseeded(self)
        without_missing_trackers(self)


@dataclass
@with_defaults(seed=42)
class TransformersSettings(SeedSettings):
    """The fields of transformers' TrainingArguments that people use next, with its defaults."""

    rare: ClassVar[tuple[str, ...]] = ("run_name", "resume_from_checkpoint")

    gradient_accumulation_steps: Annotated[int, Range(1, inf)] = field(
        default=1, metadata={"help": "Batches to add up before each optimizer step."}
    )
    lr_scheduler_type: str = field(
        default="linear", metadata={"help": "Learning-rate schedule: linear, cosine, constant, ..."}
    )
    warmup_steps: float = field(
        default=0,
        metadata={"help": "Steps until the learning rate reaches its full value; below 1, a fraction of all steps."},
    )
    weight_decay: float = field(default=0.0, metadata={"help": "Weight decay of AdamW."})
    bf16: bool | None = field(
        default=False, metadata={"help": "Autocast to bf16. Does not change the base model's weights; see --dtype."}
    )
    eval_strategy: str = field(default="no", metadata={"help": "When to evaluate: no, steps or epoch."})
    save_steps: float = field(default=500, metadata={"help": "Steps between checkpoints, with save_strategy steps."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "Checkpoint to resume: true, auto, or its folder."}
    )
    report_to: None | str | list[str] = field(  # noqa: RUF036 - transformers' parser takes the second type
        default="none", metadata={"help": "Log to wandb, trackio, tensorboard, ... as well."}
    )
    run_name: str | None = field(default=None, metadata={"help": "Name of the run for report_to."})


@dataclass
class AnswerWeightSettings:
    """How much the standard answer counts."""

    answer_weight: Annotated[float, Range(0, inf)] = field(
        default=0.0,
        metadata={
            "help": "Weight (lambda) of an added NLL of the revision or standard answer, given the plain prompt."
        },
    )


@dataclass
class WatchEverySettings:
    """How often the saliency map is drawn."""

    watch_every: Annotated[int, Range(0, inf)] = field(
        default=10,
        metadata={"help": "Least steps between two scorings for the map. 0: only at start and end."},
    )


@dataclass
class WatchSettings(WatchEverySettings):
    """What the saliency map shows."""

    watch: Annotated[int, Range(0, 1000)] = field(
        default=8, metadata={"help": "Number of examples that the saliency map shows."}
    )
    watch_ids: list[str] | None = field(
        default=None,
        metadata={"help": "Ids of examples to show, at both ends in any case. --watch adds others up to its number."},
    )


@dataclass
class NLFTMethodSettings(AnswerWeightSettings):
    """How NLFT sums its loss."""

    loss_normalization: Literal["sample", "token"] = field(
        default="sample",
        metadata={"help": "sample: mean of the samples' token means; token: mean over all tokens."},
    )


@dataclass
class ConditionSettings:
    """When the conditions are scored."""

    rare: ClassVar[tuple[str, ...]] = ("condition_logprobs", "condition_cache")

    condition_logprobs: Literal["live", "epoch", "frozen"] = field(
        default="live",
        metadata={
            "help": "When the conditions and the held base are scored. live: at each step, by the model in training; "
            "epoch: at the start of each epoch; frozen: once before the first step, and kept on disk."
        },
    )
    condition_cache: str | None = field(
        default=None,
        metadata={
            "help": "frozen: folder of the scored conditions, which runs share. Default: nlft/conditions in "
            "$XDG_CACHE_HOME, or in ~/.cache."
        },
    )

    @property
    def scores_live(self) -> bool:
        """Whether each step scores the conditions."""
        return self.condition_logprobs == "live"


@dataclass
class NLFTRareSettings:
    """Settings of NLFT that few people need."""

    logit_chunk_mib: Annotated[int, Range(1, inf)] = field(
        default=256, metadata={"help": "Memory in MiB for one chunk of logits, its copies and its gradient."}
    )
    hold_mass: Annotated[float, Range(0, 1)] = field(
        default=0.999,
        metadata={
            "help": "epoch, frozen: least share of the base's probability that its kept tokens hold at a held token. "
            "The others are one bucket."
        },
    )
    hold_tokens: Annotated[int, Range(1, inf)] = field(
        default=1024, metadata={"help": "epoch, frozen: largest number of kept tokens of the base at a held token."}
    )
    strike_words: list[str] | None = field(
        default=None,
        metadata={"help": "strike: words to strike in every wrong reply as if the judgment quoted them."},
    )
    strike_share: Annotated[float, Range(0, 1)] = field(
        default=0.5,
        metadata={
            "help": "strike: least share of each step's examples that carry a strike. Needs a step of 2 or more."
        },
    )
    watch_share: Annotated[float, Range(0, 1)] = field(
        default=0.05,
        metadata={
            "help": "Share of the training that scoring the watched examples may take. Start and end score as many of "
            "them as it allows, steps of watch_every wait for it. 1: all. 0: one at start and end."
        },
    )
    watch_batches: bool = field(
        default=True,
        metadata={"help": "Whenever a watched example is in a step's batch, also record its scores."},
    )
    retake_controls: bool = field(
        default=True,
        metadata={"help": "On resume, repeat the changes that were made after the checkpoint, at the same steps."},
    )


@dataclass
class SchemeSettings:
    """Which saliency scheme weighs the tokens."""

    scheme: str = field(
        default="nlft", metadata={"help": "Saliency scheme; its own settings are --saliency.NAME (docs/SALIENCY.md)."}
    )


@dataclass
class EvalFileSettings:
    """Held-out examples."""

    eval_file: str | None = field(default=None, metadata={"help": "Held-out examples for a loss after each epoch."})


@dataclass
class RulesSettings:
    """What is struck besides the quotes."""

    rules: str | None = field(
        default=None, metadata={"help": "strike: rules whose words are struck, .yaml (`nlft audit --rules_out`)."}
    )


@dataclass
class NLFTOptions(
    NLFTMethodSettings, PromptSettings, LearningSettings, MaxLengthSettings, OutputSettings, WatchSettings,
    NLFTRareSettings, ConditionSettings, CommonSettings, GuardSettings, TransformersSettings,
):  # fmt: skip
    """Our own settings of a training with NLFT."""

    method: ClassVar[str] = "nlft"


@dataclass
@with_defaults(save_strategy="no", save_total_limit=None)
class BaselineOptions(
    LearningSettings, OutputSettings, CommonSettings, GuardSettings, SystemPromptSettings, TransformersSettings
):
    """What TRL's trainers have in common: NLFTConfig's defaults where TRL's differ."""

    rare: ClassVar[tuple[str, ...]] = ("router_aux_loss_coef", "guard")

    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    router_aux_loss_coef: Annotated[float, Range(0, inf)] = field(
        default=0.0,
        metadata={"help": "Weight of a mixture of experts' load balancing. NLFT's loss has none, so the default is 0."},
    )


@dataclass
class EngineSettings:
    """Which code trains."""

    engine: Literal["nlft", "trl"] = field(
        default="nlft",
        metadata={
            "help": "Code that trains. nlft: our own, for the loss of TRL's SFTTrainer in less time and memory; trl: "
            "TRL's SFTTrainer with all its settings."
        },
    )


@dataclass
@with_defaults(save_strategy="epoch", save_total_limit=1)
class SFTOptions(TargetSettings, EngineSettings, MaxLengthSettings, BaselineOptions):
    """Our own settings of supervised fine-tuning."""

    method: ClassVar[str] = "sft"


@dataclass
@with_defaults(learning_rate=5e-5, num_train_epochs=3.0, per_device_train_batch_size=8)
class KTOOptions(MaxLengthSettings, BaselineOptions):
    """Our own settings of KTO."""

    method: ClassVar[str] = "kto"


@dataclass
@with_defaults(learning_rate=5e-5, num_train_epochs=3.0, per_device_train_batch_size=8)
class DPOOptions(MaxLengthSettings, BaselineOptions):
    """Our own settings of DPO."""

    method: ClassVar[str] = "dpo"

    beta: Annotated[float, Range(0, inf)] = field(
        default=0.1, metadata={"help": "How strongly DPO holds the model to its reference: the beta of its loss."}
    )


@dataclass
class WarmUpSettings:
    """The supervised stage before reinforcement."""

    warmup_learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Learning rate of the supervised warm-up."}
    )
    sft_epochs: Annotated[float, Range(0, MOST_EPOCHS)] = field(
        default=2.0, metadata={"help": "Supervised passes over the standard answers before reinforcement."}
    )
    sft_steps: Annotated[int, Range(-1, MOST_STEPS)] = field(
        default=-1, metadata={"help": "Supervised steps, instead of sft_epochs. -1: not set."}
    )
    sft_seconds: Annotated[float | None, Range(0, inf)] = field(
        default=None, metadata={"help": "Stop the supervised passes after this many seconds."}
    )


@dataclass
@with_defaults(learning_rate=5e-5, num_train_epochs=3.0, per_device_train_batch_size=8)
class ReFTOptions(WarmUpSettings, ExtractionSettings, BaselineOptions):
    """Our own settings of ReFT."""

    method: ClassVar[str] = "reft"

    beta: Annotated[float, Range(0, inf)] = field(
        default=0.05, metadata={"help": "Weight of the KL penalty towards the warmed-up model."}
    )


def _refuse_unseeded(args: Any) -> None:
    """Refuse a sampler without a seed, in settings that transformers has completed.

    Raises:
        ConfigError: `use_seedable_sampler` is false.
    """
    if args.accelerator_config.use_seedable_sampler is False:
        why = "has use_seedable_sampler false, but a resumed run would then read the examples in another order"
        raise ConfigError([Problem("--accelerator_config", why, "Leave it true.")])


def checkpoint_choice(choice: str | bool | None) -> str | bool:
    """Return what a value of `--resume_from_checkpoint` means: true, false, `auto`, or a checkpoint's folder."""
    text = str("" if choice is None else choice)
    if text.lower() in ("", "none", "false", "no"):
        return False
    return True if text.lower() in ("true", "yes") else "auto" if text.lower() == "auto" else text
