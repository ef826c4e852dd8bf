"""Settings of `nlft plan`, without torch."""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated

from nlft.config import Range, with_defaults
from nlft.models.settings import ModelOptions


@dataclass
class PlanSettings:
    """What is planned, besides the training's own settings."""

    length: Annotated[int | None, Range(8, inf)] = field(
        default=None,
        metadata={"help": "Tokens of the longest row (default: that of FILE; without FILE, --max_length)."},
    )
    processes: Annotated[int, Range(1, 4096)] = field(
        default=1, metadata={"help": "Cards that train together. FSDP2 and ZeRO-3 shard over them."}
    )
    card_gb: Annotated[float | None, Range(1, 100_000)] = field(
        default=None, metadata={"help": "Memory of your card in GB, as its maker counts it. Adds it to the table."}
    )
    tflops: Annotated[float | None, Range(0.001, inf)] = field(
        default=None,
        metadata={"help": "TFLOP/s that your card reaches in training (default: a share of the maker's figure)."},
    )


@dataclass
@with_defaults(dtype="bfloat16")
class PlannedModelOptions(ModelOptions):
    """A model to plan for: in bfloat16, whatever this machine computes in."""
