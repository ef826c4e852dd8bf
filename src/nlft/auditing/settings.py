"""Settings of the audit. No torch."""

from dataclasses import dataclass, field
from typing import Annotated

from nlft.config import Range, override, with_defaults
from nlft.core.prompts import PromptSettings
from nlft.data.grading import ExtractionSettings
from nlft.models.settings import BatchSizeSettings, MaxLengthSettings, SeedSettings


@dataclass
class HeldOutSettings:
    """Questions to evaluate on."""

    test_file: str | None = field(
        default=None, metadata={"help": "Questions to evaluate on. None of them may be trained on."}
    )


@dataclass
@with_defaults(batch_size=16)
class AuditSettings(
    HeldOutSettings, ExtractionSettings, PromptSettings, MaxLengthSettings, BatchSizeSettings, SeedSettings
):
    """Settings of the audit. Set those that training also has, such as `max_length`, to training's values.

    `grader: auto` chooses the number grader if most answers have a `####`. Otherwise it chooses none.
    """

    grader: str = override(ExtractionSettings, "grader", "auto", also=" auto: number if the answers have ####.")
    near_duplicate: Annotated[float, Range(0.3, 1)] = field(
        default=0.7,
        metadata={"help": "Texts are near-duplicates if they share at least this fraction of their character 5-grams."},
    )
    placebos: Annotated[int, Range(0, 16)] = field(
        default=2,
        metadata={
            "help": "Number of placebos: judgments of other examples under which each wrong completion is also "
            "scored. 0: none."
        },
    )
    placebo_level: Annotated[float, Range(0, 1)] = field(
        default=0.7,
        metadata={"help": "A judgment's effect must exceed this quantile of the differences between placebos."},
    )
    preflight: bool = field(
        default=True,
        metadata={
            "help": "With a model and quoted judgments: ask up to 32 prompts in up to four forms, and say whether to "
            "prompt, strike, or train on what is liked."
        },
    )
    most_listed: Annotated[int, Range(1, 1_000_000)] = field(
        default=20,
        metadata={"help": "Maximum findings to print per kind. The --html and --json files list all of them."},
    )
