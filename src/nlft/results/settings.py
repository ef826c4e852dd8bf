"""Settings of an evaluation and of the collateral that it measures. No torch."""

from dataclasses import dataclass, field, fields
from math import inf
from typing import Annotated, ClassVar

from nlft.collect.sampling import AskSettings, LimitSettings, SamplingSettings
from nlft.config import Range, override
from nlft.core.prompts import SystemPromptSettings
from nlft.data.checks_grader import CheckSettings
from nlft.data.grading import ExtractionSettings
from nlft.models.settings import AnswerSettings


@dataclass
class CollateralSettings:
    """Settings of collateral: what a training changed besides its aim, and how much of it is allowed."""

    rare: ClassVar[tuple[str, ...]] = (
        "kl_replies",
        "max_ends_fall",
        "max_length_change",
        "phrase_rare",
        "phrase_common",
    )

    collateral: bool = field(
        default=False,
        metadata={"help": "Also measure what else the adapter changed."},
    )
    keep: str | None = field(
        default=None,
        metadata={"help": "File of prompts whose replies must not change (default: 40 general prompts)."},
    )
    kl_replies: Annotated[int, Range(0, inf)] = field(
        default=64,
        metadata={"help": "Maximum number of the task's replies on which KL is computed."},
    )
    max_ends_fall: Annotated[float, Range(0, 1)] = field(
        default=0.1,
        metadata={
            "help": "Bound: fall of the share of replies that end by themselves, as a fraction of the base's.",
        },
    )
    max_length_change: Annotated[float, Range(0, inf)] = field(
        default=0.1,
        metadata={
            "help": "Bound: change of the mean length in words, up or down, as a fraction of the base's.",
        },
    )
    phrase_rare: Annotated[float, Range(0, 1)] = field(
        default=0.1,
        metadata={"help": "A phrase in a smaller share of the base's replies can break phrase_common."},
    )
    phrase_common: Annotated[float, Range(0, 1)] = field(
        default=1 / 3,
        metadata={
            "help": "Bound: share of the replies that may have a phrase which was rare (default: a third).",
        },
    )


@dataclass
class AfterTrainingSettings(CollateralSettings):
    """Settings of collateral that `nlft train` measures when it has trained."""

    rare: ClassVar[tuple[str, ...]] = ("collateral", "keep", *CollateralSettings.rare)

    collateral: bool = override(
        CollateralSettings,
        "collateral",
        also=" After the training, on at most 64 of its prompts and on those of --keep.",
    )


@dataclass
class ClusterSettings:
    """The setting by which intervals count test questions that are about one thing."""

    rare: ClassVar[tuple[str, ...]] = ("cluster",)

    cluster: str | None = field(
        default=None,
        metadata={
            "help": "Field of the test questions that names what each is about, such as item. Intervals and tests then "
            "count items instead of questions (default: questions are independent)."
        },
    )


@dataclass
class EvaluationSettings(
    ExtractionSettings, CheckSettings, AskSettings, AnswerSettings, LimitSettings, SystemPromptSettings,
    CollateralSettings, ClusterSettings,
):  # fmt: skip
    """Settings for asking questions and grading answers."""

    rare: ClassVar[tuple[str, ...]] = (*CollateralSettings.rare, *ClusterSettings.rare)

    eval_batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Questions per batch of a local model."}
    )

    def __post_init__(self) -> None:
        self.settle_checks()


def as_asked(asking: SamplingSettings) -> EvaluationSettings:
    """Return settings that ask questions and grade answers as sampling did for the training examples.

    Args:
        asking: `limit`, `temperature` and `samples_per_question` do not apply: all questions are answered, once each
            and greedily.
    """
    return EvaluationSettings(
        **{f.name: getattr(asking, f.name) for f in fields(CheckSettings)},
        extraction=asking.extraction,
        prompt_template=asking.prompt_template,
        max_new_tokens=asking.max_new_tokens,
        eval_batch_size=asking.batch_size,
        system_prompt=asking.system_prompt,
        chat_template_kwargs=asking.chat_template_kwargs,
        chat_template_date=asking.chat_template_date,
    )
