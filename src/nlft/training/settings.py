"""What the trainers' settings have in common, so that a comparison differs in the method alone.

Each class stands before transformers' or TRL's own among the bases, to override its defaults.
"""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated

import torch

from nlft.config import Range


@dataclass
class CommonSettings:
    """Of every method."""

    logging_steps: float = field(default=1, metadata={"help": "Log every so many optimizer steps."})
    activation_checkpointing: bool | None = field(
        default=None,
        metadata={"help": "Recompute activations in backward: less memory, some 20% slower. On unless set."},
    )

    def __post_init__(self) -> None:
        # TRL's name for it; `gradient_checkpointing` is the older one.
        if self.activation_checkpointing is None:
            older = self.gradient_checkpointing  # type: ignore[attr-defined]
            self.activation_checkpointing = True if older is None else older
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False  # nothing to pin for, and torch says so at each start
        super().__post_init__()  # type: ignore[misc]


@dataclass
class SupervisedSettings(CommonSettings):
    """Of the methods that are taught what to say: NLFT and SFT."""

    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Initial learning rate of AdamW."}
    )
    # A few dozen examples are a few dozen steps at the usual batch and epochs: far too few (docs/LOG.md).
    per_device_train_batch_size: Annotated[int, Range(1, inf)] = field(
        default=2, metadata={"help": "Examples that a process takes at a time."}
    )
    num_train_epochs: Annotated[float, Range(0, inf)] = field(
        default=6.0, metadata={"help": "Passes over the examples."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint: no, steps, epoch."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints to keep."})
    max_length: Annotated[int | None, Range(8, inf)] = field(
        default=1024,
        metadata={"help": "Most tokens of prompt and completion; longer is an error, never a cut."},
    )


@dataclass
class BaselineSettings(CommonSettings):
    """What the trainers of TRL have in common: NLFTConfig's settings where TRL's are others."""

    save_strategy: str = field(default="no", metadata={"help": "When to write a checkpoint: no, steps, epoch."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    bf16: bool | None = field(
        default=False, metadata={"help": "Autocast to bf16. The base model's weights are in `dtype` anyway."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})
