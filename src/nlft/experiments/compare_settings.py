"""What `nlft compare` compares, and its settings."""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated

from nlft.config import Range
from nlft.errors import UserError
from nlft.experiments.arms import ARMS
from nlft.experiments.settings import TuneSettings

ALWAYS = ["base", "few-shot", "sft-answer", "sft-completion", "nlft", "control", "uniform-right", "shuffled"]


@dataclass
class CompareSettings(TuneSettings):
    """What is compared, on what. `comparisons` are fixed before the run, and corrected for their number."""

    output_dir: str = field(default="runs/compare", metadata={"help": "Folder for everything that comes of it."})
    arms: list[str] = field(
        default_factory=lambda: list(ALWAYS),
        metadata={"help": f"Methods: {', '.join(ARMS)}. The baselines and controls of NLFT are always among them."},
    )
    sizes: list[int] = field(
        default_factory=list,
        metadata={"help": "Numbers of training examples (default: all that there are to train on, and half of them)."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Each draws its own examples, and trains on them."}
    )
    once: list[str] = field(
        default_factory=list,
        metadata={"help": "Arms too dear for the whole grid: they get the largest size and the first seed alone."},
    )
    folds: Annotated[int, Range(2, inf)] = field(
        default=5, metadata={"help": "Cross-validation folds where there is no test file."}
    )
    test_share: float = field(default=0.3, init=False)  # nothing is held out: questions are folded
    jobs: Annotated[int, Range(1, 1024)] = field(
        default=1,
        metadata={
            "help": "Cells that run at once, each with its share of the cores, which its times are then with; GPUs are "
            "given out in turn."
        },
    )
    comparisons: list[str] = field(
        default_factory=list,
        metadata={"help": "Pairs OURS:THEIRS; by default NLFT against every other method."},
    )
    audit: bool = field(default=False, metadata={"help": "Audit the examples with the model before training."})

    def __post_init__(self) -> None:
        self.arms = list(dict.fromkeys([*ALWAYS, *self.arms, *self.once, *self.extra_arms]))
        super().__post_init__()
        if self.grader == "label":
            raise UserError("--grader label grades nothing, so nothing can be compared.\n  Choose another --grader.")
        if not self.seeds or min(self.sizes, default=1) < 1:
            raise UserError("--sizes are from 1 up, and --seeds one or more.\n  Give --sizes 25 50 --seeds 0 1 2.")
        for name, values in (("sizes", self.sizes), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise UserError(f"--{name}: has a number twice, which is no second measurement.\n  Give each once.")
        if self.jobs > 1 and self.max_seconds:
            raise UserError(
                "--max_seconds with --jobs: cells that share the machine would get less done in the same time.\n"
                "  Leave one of them out, or set --max_steps."
            )
        self.pairs()

    def pairs(self) -> list[tuple[str, str]]:
        """The comparisons as pairs of arms.

        Raises:
            UserError: one of them is no pair of arms.
        """
        found = []
        for text in self.comparisons or [f"nlft:{name}" for name in self.arms if name != "nlft"]:
            ours, _, theirs = text.partition(":")
            if ours not in self.arms or theirs not in self.arms:
                raise UserError(f"--comparisons {text}: is no pair of arms.\n  Write nlft:sft-answer, for example.")
            found.append((ours, theirs))
        return found
