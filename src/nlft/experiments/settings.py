"""Settings of `tune`, `compare` and `rounds`. Imports no torch, so that `--help` answers at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Annotated, Any, ClassVar

from nlft.auditing.settings import HeldOutSettings
from nlft.collect.judging import JudgeChoice, check_judge_has_checks
from nlft.collect.sampling import AskSettings, SamplesSettings, SamplingSettings
from nlft.config import Range, override, with_defaults
from nlft.data.build import SizeSettings, TruncatedSettings
from nlft.data.checks_grader import CheckSettings
from nlft.data.grading import CHECKS
from nlft.errors import UserError
from nlft.experiments.arms import ALIASES, Arm, plan_arms
from nlft.models.settings import (
    MOST_SEED,
    AnswerSettings,
    BatchSizeSettings,
    ExecutorSettings,
    TemperatureSettings,
)
from nlft.results.settings import ClusterSettings, CollateralSettings
from nlft.sources.settings import ReadingSettings
from nlft.training.settings import (
    ActivationSettings,
    AnswerWeightSettings,
    ConditionSettings,
    LearningSettings,
    OutputSettings,
    RulesSettings,
    WatchEverySettings,
)

TUNE_ARMS = ("base", "sft-answer", "sft-completion", "nlft", "control")
EXACT = ("number", "exact", "choice", "regex")  # graders for which length and form of a reply do not matter
COMPARE_ARMS = ("base", "few-shot", "sft-answer", "sft-completion", "nlft", "control", "uniform-right", "shuffled")
HABIT_ARMS = ("base", "rule", "sft-completion", "sft-revised-hold", "strike-random")
STRIKES = ("strike", "strike-list", "strike-said")


@dataclass
@with_defaults(answer_weight=1.0, activation_checkpointing=True)
class Budget(LearningSettings, ActivationSettings, AnswerWeightSettings, WatchEverySettings, ConditionSettings):
    """The training budget that all arms share.

    An arm that trains on only some of the examples takes the same number of steps as the other arms. So it makes more
    passes over its examples.
    """

    max_seconds: Annotated[float | None, Range(1, inf)] = field(
        default=None,
        metadata={
            "help": "Stop each arm's training after this many seconds. The learning rate is constant in this case."
        },
    )

    def training(self, examples: int, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the budget as fields of transformers' TrainingArguments.

        Every arm gets the same number of steps, or of seconds. An arm with `num_train_epochs` of its own gets as many
        steps as these epochs have with its own batch size and accumulation.

        Args:
            examples: number of all examples, of which an arm may train on some.
            own: the arm's own settings.
        """
        from nlft.training.callbacks import UNTIL_TIME_IS_UP

        names = ("per_device_train_batch_size", "learning_rate", "activation_checkpointing")
        chosen = {name: getattr(self, name) for name in names}
        chosen["max_steps"] = self.max_steps
        if own and "num_train_epochs" in own:
            size = _count(own, "per_device_train_batch_size", self.per_device_train_batch_size)
            size *= _count(own, "gradient_accumulation_steps", 1)
            chosen["max_steps"] = _steps(float(own["num_train_epochs"]), examples, size)
        elif self.max_steps <= 0:
            chosen["max_steps"] = _steps(self.num_train_epochs, examples, self.per_device_train_batch_size)
        if self.max_seconds:  # a schedule would have to know the number of steps
            chosen |= {"lr_scheduler_type": "constant", "max_steps": UNTIL_TIME_IS_UP}
        return {**chosen, "save_strategy": "no"}


def _count(own: Mapping[str, Any], name: str, usual: int) -> int:
    """Return an arm's own number. The trainer's settings refuse a value that is none."""
    value = own.get(name, usual)
    return value if isinstance(value, int) and value > 0 else usual


def _steps(epochs: float, examples: int, size: int) -> int:
    """Return the steps of these epochs, with `size` examples in a step."""
    return max(1, ceil(epochs * ceil(examples / size)))


@dataclass
class CurveSettings:
    """Settings of the curve of a trained arm: at which steps it is also evaluated, and whether a step is chosen."""

    rare: ClassVar[tuple[str, ...]] = ("curve", "choose_dose")

    curve: list[int] = field(
        default_factory=list,
        metadata={"help": "Also evaluate each trained arm after these numbers of optimizer steps."},
    )
    choose_dose: bool = field(
        default=False,
        metadata={"help": "Choose each arm's step of the curve on the training prompts. That step is its result."},
    )

    def check_curve(self, *, grades: bool) -> None:
        """Refuse a curve that cannot be measured, and sort its steps.

        Args:
            grades: whether the grader grades answers.

        Raises:
            UserError: a step is below 1 or occurs twice, there is no curve to choose from, or nothing is graded.
        """
        if min(self.curve, default=1) < 1 or len(set(self.curve)) < len(self.curve):
            raise UserError("--curve needs different numbers of steps, each 1 or more.\n  Give --curve 6 12 24.")
        if self.choose_dose and not self.curve:
            raise UserError("--choose_dose has no steps to choose from.\n  Give --curve 6 12 24, or leave it out.")
        if self.curve and not grades:
            raise UserError("--curve with --grader label: nothing is graded.\n  Choose another --grader.")
        self.curve = sorted(self.curve)


def judge_of(settings: "TuneSettings | RoundsSettings") -> Any:
    """Return the judge. Checks replace the judge by rules, which knows arithmetic only.

    Raises:
        UserError: the judge is `checks`, and there are none.
    """
    check_judge_has_checks(settings.judge, settings.checks)
    return CHECKS if settings.checks and settings.judge == "rules" else settings.judge


@dataclass
class TuneSettings(
    SamplingSettings, Budget, JudgeChoice, HeldOutSettings, SizeSettings, TruncatedSettings, OutputSettings,
    CollateralSettings, CurveSettings, ClusterSettings, ReadingSettings,
):  # fmt: skip
    """Settings of all stages of `nlft tune`, from reading the file to the result table.

    The commands of the single stages have more settings.
    """

    rare: ClassVar[tuple[str, ...]] = (
        *CollateralSettings.rare, *CurveSettings.rare, *ClusterSettings.rare, *ConditionSettings.rare, "keep",
        "extra_arms", "rules", "second_checks", "chat_template_kwargs",
    )  # fmt: skip
    output_dir: str = override(OutputSettings, "output_dir", "runs/tune")
    train_file: str | None = field(
        default=None,
        metadata={"help": "Questions with standard answers, or examples. In a config file, this replaces FILE."},
    )
    test_file: str | None = override(
        HeldOutSettings, "test_file", also=" Without it, some questions of FILE are held out."
    )
    test_share: Annotated[float, Range(0.01, 0.9)] = field(
        default=0.3, metadata={"help": "Fraction of the file's questions to hold out if there is no test file."}
    )
    collateral: bool | None = override(  # type: ignore[assignment]  # None: the grader decides
        CollateralSettings,
        "collateral",
        None,
        also=" Each adapter answers 50 more prompts (default: on, unless the grader takes exact answers).",
    )
    keep: str | None = override(CollateralSettings, "keep")
    audit: bool = field(default=True, metadata={"help": "Audit the examples with the model before training."})
    arms: list[str] = field(
        default_factory=lambda: list(TUNE_ARMS),
        metadata={"help": "Methods to compare, such as base, nlft or strike (docs/COMPARE.md lists all)."},
    )
    shots: Annotated[int, Range(1, inf)] = field(
        default=4, metadata={"help": "Examples with standard answers in the prompt of the few-shot arm."}
    )
    extra_arms: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": "More arms, only in YAML: a name for each, with method, settings, title and examples.",
        },
    )

    rules: str | None = override(RulesSettings, "rules", also=" Other arms show or ban them.")
    second_checks: str | None = field(
        default=None,
        metadata={"help": "File of other checks. They label and judge nothing: the report has their rates besides."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.judge = judge_of(self)
        self.check_curve(grades=self.grader != "label")
        if self.max_seconds and self.max_steps > 0:
            raise UserError("--max_seconds and --max_steps: only one of them can end the training.\n  Remove one.")
        if not self.learning_rate:
            raise UserError("--learning_rate 0: nothing would be trained.\n  Give more than 0.")
        known = self.known_arms()
        self.arms = list(dict.fromkeys(ALIASES.get(name, name) for name in [*self.arms, *self.extra_arms]))
        unknown = [name for name in self.arms if name not in known]
        if unknown:
            raise UserError(f"--arms {', '.join(unknown)}: no such arm.\n  Choose from {', '.join(known)}.")

    @property
    def lead(self) -> str | None:
        """The arm that the comparison is about: `nlft`, else the first that strikes; None if neither is in the plan."""
        return next((name for name in ("nlft", *STRIKES) if name in self.arms), None)

    def measures_collateral(self) -> bool:
        """Return whether to measure collateral of the trained arms, if they have a base model to compare with."""
        return self.grader not in EXACT if self.collateral is None else self.collateral

    def known_arms(self) -> dict[str, Arm]:
        """Return the arms that this plan may compare, by name: the built-in arms and the arms that it defines.

        Raises:
            UserError: an extra arm has a wrong definition.
        """
        return plan_arms(self.shots, self.extra_arms)


@dataclass
@with_defaults(output_dir="runs/compare", audit=False)
class CompareSettings(TuneSettings, ExecutorSettings):
    """Settings of `nlft compare`: the methods to compare, and the data.

    `comparisons` are fixed before the run. Their p-values are corrected for the number of comparisons.
    """

    rare: ClassVar[tuple[str, ...]] = (*TuneSettings.rare, *ExecutorSettings.rare)

    arms: list[str] = override(  # noqa: RUF009 - it returns a field, with a factory for the list
        TuneSettings,
        "arms",
        list(COMPARE_ARMS),
        also=" The rivals and controls of NLFT, or else of strike, are always included.",
    )
    sizes: list[int] = field(
        default_factory=list,
        metadata={"help": "Numbers of training examples (default: all available, and half of them)."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds. Each seed draws its own examples."}
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
        metadata={"help": "Cells to run in parallel. Each has its share of the cores; GPUs are assigned round-robin."},
    )
    comparisons: list[str] = field(
        default_factory=list,
        metadata={"help": "Pairs OURS:THEIRS (default: NLFT, else strike, against every other method)."},
    )

    def __post_init__(self) -> None:
        self.once = [ALIASES.get(name, name) for name in self.once]
        habit = "nlft" not in self.arms and bool(set(STRIKES) & set(self.arms))
        self.arms = [*(HABIT_ARMS if habit else COMPARE_ARMS), *self.arms, *self.once]
        super().__post_init__()
        if self.grader == "label":
            raise UserError("--grader label grades nothing, so nothing can be compared.\n  Choose another --grader.")
        if not self.seeds or min(self.sizes, default=1) < 1:
            raise UserError(
                "--sizes must be 1 or more, and --seeds needs at least one.\n  Give --sizes 25 50 --seeds 0 1 2."
            )
        if not 0 <= min(self.seeds) <= max(self.seeds) <= MOST_SEED:
            raise UserError(f"--seeds: a seed is a number from 0 to {MOST_SEED}.\n  Give --seeds 0 1 2.")
        for name, values in (("sizes", self.sizes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise UserError(f"--{name}: has a number twice; repeating it measures nothing new.\n  Give each once.")
        if self.executor == "ray" and self.jobs > 1:
            raise UserError(
                f"--jobs {self.jobs} with --executor ray: Ray runs as many cells at once as its machines allow.\n"
                "  Leave out --jobs, and set --ray_cpus and --ray_gpus."
            )
        self.refuse_idle_ray()
        if self.jobs > 1 and self.max_seconds:
            raise UserError(
                "--max_seconds with --jobs: cells that share the machine train fewer steps in the same time.\n"
                "  Remove one of them, or set --max_steps."
            )
        self.pairs()

    def pairs(self) -> list[tuple[str, str]]:
        """Return the comparisons as pairs of arms.

        Raises:
            UserError: a comparison does not name two arms of this plan.
        """
        pairs = []
        for text in self.comparisons or [f"{self.lead}:{name}" for name in self.arms if name != self.lead]:
            ours, theirs = (ALIASES.get(name, name) for name in text.partition(":")[::2])
            if ours not in self.arms or theirs not in self.arms:
                raise UserError(
                    f"--comparisons {text}: these are not two of the arms.\n  Write nlft:sft-answer, for example."
                )
            pairs.append((ours, theirs))
        return pairs


@dataclass
@with_defaults(samples_per_question=4, temperature=0.8)
class RoundsSettings(
    SamplesSettings, CheckSettings, AskSettings, AnswerSettings, TruncatedSettings, BatchSizeSettings,
    TemperatureSettings, JudgeChoice, ReadingSettings,
):  # fmt: skip
    """Settings of rounds: how they sample, grade, judge and end. Held-out questions are answered greedily."""

    rounds: Annotated[int, Range(1, 100)] = field(
        default=3,
        metadata={
            "help": "Maximum number of rounds. Each later round trains on answers of the previous round's model. "
            "Rounds end when accuracy on held-out questions stops rising."
        },
    )
    patience: Annotated[int, Range(1, 100)] = field(
        default=1, metadata={"help": "End after this many rounds in a row without a new best accuracy."}
    )
    held_out_share: Annotated[float, Range(0.01, 0.9)] = field(
        default=0.2, metadata={"help": "Fraction of the file's questions to hold out from training."}
    )

    def __post_init__(self) -> None:
        self.settle_checks()
        self.judge = judge_of(self)


@dataclass
class RoundsPlan(TuneSettings):
    """The settings of all rounds in a folder.

    They are the settings of `nlft tune` for the data, and the settings of the training.

    Attributes:
        trainer: fields of `NLFTConfig`.
        saliency: fields of the scheme's settings.
    """

    rounds: int = 2
    patience: int = 1
    trainer: dict[str, Any] = field(default_factory=dict)
    scheme: str = "nlft"
    saliency: dict[str, Any] = field(default_factory=dict)
