"""Settings of `tune`, `compare` and `rounds`. Imports no torch, so that `--help` answers at once."""

from dataclasses import dataclass, field
from math import ceil, inf
from typing import Annotated, Any, Literal

from nlft.collect.sampling import SamplingSettings
from nlft.config import Range
from nlft.errors import UserError
from nlft.experiments.arms import BUILT_IN, Arm, plan_arms

TUNE_ARMS = ("base", "sft-answer", "sft-completion", "nlft", "control")
COMPARE_ARMS = ("base", "few-shot", "sft-answer", "sft-completion", "nlft", "control", "uniform-right", "shuffled")


@dataclass
class Budget:
    """What every arm's training has in common."""

    max_steps: Annotated[int, Range(-1, inf)] = field(
        default=-1,
        metadata={
            "help": "Optimizer steps of every arm; -1: the number that num_train_epochs over all examples takes."
        },
    )
    num_train_epochs: Annotated[float, Range(0, inf)] = field(
        default=6.0,
        metadata={
            "help": "Passes over all examples. A few dozen examples need more passes than usual. An arm that trains on "
            "only some of the examples takes the same number of steps, and so more passes."
        },
    )
    per_device_train_batch_size: Annotated[int, Range(1, inf)] = field(
        default=2, metadata={"help": "Examples per step."}
    )
    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Initial learning rate of AdamW."}
    )
    answer_weight: Annotated[float, Range(0, inf)] = field(
        default=1.0, metadata={"help": "lambda: weight of the standard answer's NLL in NLFT's loss."}
    )
    max_seconds: Annotated[float | None, Range(1, inf)] = field(
        default=None,
        metadata={"help": "Stop each arm's training after this many seconds. The learning rate is then constant."},
    )
    activation_checkpointing: bool = field(
        default=True, metadata={"help": "Recompute activations in the backward pass: less memory, about 20% slower."}
    )
    watch_every: Annotated[int, Range(0, inf)] = field(
        default=10, metadata={"help": "Score the examples of the saliency map every this many steps."}
    )

    def training(self, examples: int) -> dict[str, Any]:
        """The budget as fields of transformers' TrainingArguments: the same number of steps, or of seconds, per arm.

        Args:
            examples: number of all examples, of which an arm may train on some.
        """
        from nlft.training.callbacks import UNTIL_TIME_IS_UP

        names = ("per_device_train_batch_size", "learning_rate", "activation_checkpointing")
        chosen = {name: getattr(self, name) for name in names}
        chosen["max_steps"] = self.max_steps
        if self.max_steps <= 0:
            passed = self.num_train_epochs * ceil(examples / self.per_device_train_batch_size)
            chosen["max_steps"] = max(1, ceil(passed))
        if self.max_seconds:  # a schedule would have to know the number of steps
            chosen |= {"lr_scheduler_type": "constant", "max_steps": UNTIL_TIME_IS_UP}
        return {**chosen, "save_strategy": "no"}


@dataclass
class TuneSettings(SamplingSettings, Budget):
    """Everything from the file to the table. The commands of the single stages have more settings."""

    output_dir: str = field(default="runs/tune", metadata={"help": "Folder for all results."})
    train_file: str | None = field(
        default=None,
        metadata={"help": "Questions with standard answers, or examples. In a config file, this replaces FILE."},
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Questions to evaluate on. Without it, some questions of FILE are held out."}
    )
    test_share: Annotated[float, Range(0.01, 0.9)] = field(
        default=0.3, metadata={"help": "Fraction of the file's questions to hold out if there is no test file."}
    )
    judge: Literal["rules", "self"] = field(
        default="rules",
        metadata={
            "help": "Who judges wrong completions that have no judgment: rules, for arithmetic; or the model itself."
        },
    )
    size: Annotated[int | None, Range(1, inf)] = field(
        default=None, metadata={"help": "Number of examples to train on (default: all)."}
    )
    ratio: str | None = field(
        default=None, metadata={"help": "Ratio of right to wrong examples, met exactly, such as 1:2."}
    )
    keep_truncated: bool = field(
        default=False, metadata={"help": "Also train on completions that max_new_tokens cut off."}
    )
    audit: bool = field(default=True, metadata={"help": "Audit the examples with the model before training."})
    arms: list[str] = field(
        default_factory=lambda: list(TUNE_ARMS), metadata={"help": f"Methods to compare: {', '.join(BUILT_IN)}."}
    )
    shots: Annotated[int, Range(1, inf)] = field(
        default=4, metadata={"help": "Examples with standard answers in the prompt of the few-shot arm."}
    )
    extra_arms: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "In YAML: more arms by name, each with method, settings, title and examples."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_seconds and self.max_steps > 0:
            raise UserError("--max_seconds and --max_steps: only one of them can end a training.\n  Remove one.")
        known = self.known_arms()
        self.arms = list(dict.fromkeys([*self.arms, *self.extra_arms]))
        unknown = [name for name in self.arms if name not in known]
        if unknown:
            raise UserError(f"--arms {', '.join(unknown)}: no such arm.\n  Choose from {', '.join(known)}.")

    def known_arms(self) -> dict[str, Arm]:
        """The arms that this plan may compare, by name: the built-in ones and its own.

        Raises:
            UserError: an extra arm has a wrong definition.
        """
        return plan_arms(self.shots, self.extra_arms)


@dataclass
class CompareSettings(TuneSettings):
    """What to compare, and on which data. `comparisons` are fixed before the run, and corrected for their number."""

    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for all results."})
    arms: list[str] = field(
        default_factory=lambda: list(COMPARE_ARMS),
        metadata={"help": f"Methods: {', '.join(BUILT_IN)}. The baselines and controls of NLFT are always included."},
    )
    sizes: list[int] = field(
        default_factory=list,
        metadata={"help": "Numbers of training examples (default: all available, and half of them)."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds. Each seed draws and trains on its own examples."}
    )
    once: list[str] = field(
        default_factory=list,
        metadata={"help": "Arms too expensive for the whole grid. They run at the largest size and first seed only."},
    )
    folds: Annotated[int, Range(2, inf)] = field(
        default=5, metadata={"help": "Number of cross-validation folds if there is no test file."}
    )
    test_share: float = field(default=0.3, init=False)  # unused: without a test file, questions are folded
    jobs: Annotated[int, Range(1, 1024)] = field(
        default=1,
        metadata={
            "help": "Cells to run in parallel. Cores are split evenly, so each cell's times are those of its part of "
            "the machine. GPUs are assigned round-robin."
        },
    )
    comparisons: list[str] = field(
        default_factory=list,
        metadata={"help": "Pairs OURS:THEIRS (default: NLFT against every other method)."},
    )
    audit: bool = field(default=False, metadata={"help": "Audit the examples with the model before training."})

    def __post_init__(self) -> None:
        self.arms = list(dict.fromkeys([*COMPARE_ARMS, *self.arms, *self.once, *self.extra_arms]))
        super().__post_init__()
        if self.grader == "label":
            raise UserError("--grader label grades nothing, so nothing can be compared.\n  Choose another --grader.")
        if not self.seeds or min(self.sizes, default=1) < 1:
            raise UserError(
                "--sizes must be 1 or more, and --seeds needs at least one.\n  Give --sizes 25 50 --seeds 0 1 2."
            )
        for name, values in (("sizes", self.sizes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise UserError(f"--{name}: has a number twice; repeating it measures nothing new.\n  Give each once.")
        if self.jobs > 1 and self.max_seconds:
            raise UserError(
                "--max_seconds with --jobs: cells that share the machine train fewer steps in the same time.\n"
                "  Remove one of them, or set --max_steps."
            )
        self.pairs()

    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons as pairs of arms.

        Raises:
            UserError: a comparison does not name two arms of this plan.
        """
        pairs = []
        for text in self.comparisons or [f"nlft:{name}" for name in self.arms if name != "nlft"]:
            ours, _, theirs = text.partition(":")
            if ours not in self.arms or theirs not in self.arms:
                raise UserError(
                    f"--comparisons {text}: does not name two arms of the plan.\n  Write nlft:sft-answer, for example."
                )
            pairs.append((ours, theirs))
        return pairs
