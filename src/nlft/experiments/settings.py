"""What `nlft tune` compares, and its settings."""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Any, Literal

from nlft.collect.sampling import SamplingSettings
from nlft.config import Range
from nlft.errors import UserError
from nlft.experiments.arms import ARMS, Budget, defined, few_shot

COMPARED = ["base", "sft-answer", "sft-completion", "nlft", "control"]


@dataclass
class TuneSettings(SamplingSettings, Budget):
    """Everything from the file to the table; the parts' own commands have more settings."""

    output_dir: str = field(default="runs/tune", metadata={"help": "Folder for everything that comes of it."})
    train_file: str | None = field(
        default=None, metadata={"help": "Questions with standard answers, or examples; in a config, instead of FILE."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Questions to evaluate on; without it some of the file's are held out."}
    )
    test_share: Annotated[float, Range(0.01, 0.9)] = field(
        default=0.3, metadata={"help": "Share of the file's questions that is held out where no test file is given."}
    )
    judge: Literal["rules", "self"] = field(
        default="rules",
        metadata={"help": "Who judges wrong completions that have no judgment: rules for arithmetic, or the model."},
    )
    size: Annotated[int | None, Range(1, inf)] = field(
        default=None, metadata={"help": "Examples to train on (default: all there are)."}
    )
    ratio: str | None = field(default=None, metadata={"help": "Right to wrong ones, met exactly: 1:2."})
    keep_truncated: bool = field(
        default=False, metadata={"help": "Also train on completions that max_new_tokens cut off."}
    )
    audit: bool = field(default=True, metadata={"help": "Audit the examples with the model before training."})
    arms: list[str] = field(
        default_factory=lambda: list(COMPARED), metadata={"help": f"What to compare: {', '.join(ARMS)}."}
    )
    shots: Annotated[int, Range(1, inf)] = field(
        default=4, metadata={"help": "Examples, with their standard answers, in the prompt of the few-shot arm."}
    )
    extra_arms: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "In YAML: more arms by name, each with method, settings, title and examples."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_seconds and self.max_steps > 0:
            raise UserError("--max_seconds and --max_steps: a training ends by one of them.\n  Leave the other out.")
        ARMS["few-shot"] = few_shot(self.shots)
        for name, spec in self.extra_arms.items():
            ARMS[name] = defined(name, spec)
        self.arms = list(dict.fromkeys([*self.arms, *self.extra_arms]))
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise UserError(f"--arms {', '.join(unknown)}: no such arm.\n  Choose among {', '.join(ARMS)}.")
