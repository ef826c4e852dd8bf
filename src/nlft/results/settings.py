"""Settings of an evaluation. No torch."""

from dataclasses import dataclass, field
from typing import Annotated

from nlft.collect.sampling import AskSettings, LimitSettings
from nlft.config import Range
from nlft.core.prompts import SystemPromptSettings
from nlft.data.checks_grader import CheckSettings
from nlft.models.settings import AnswerSettings


@dataclass
class EvaluationSettings(CheckSettings, AskSettings, AnswerSettings, LimitSettings, SystemPromptSettings):
    """Settings for asking questions and grading answers."""

    eval_batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Questions per batch of a local model."}
    )

    def __post_init__(self) -> None:
        self.settle_checks()
