"""What a step changes before it is whole, besides gradients: random numbers, and the sums of the log.

A signal may come between two micro-batches of a long step. The half-made step is then thrown away, and the checkpoint
is that of the last whole step. It must hold the random numbers and the sums of that moment, or the resumed run would
take another way.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class StepStart:
    """The state between two steps that the next step's micro-batches change. Taking it does not wait for the device.

    Attributes:
        step: the last whole step.
        loss, flos, tokens_seen: Trainer's own sums since the last line.
        metrics, tokens: the sums of a trainer of ours or of TRL, if it has them.
        counts: see `SafeCheckpoints.counts`.
    """

    step: int
    python: Any
    numpy: Any
    torch: Tensor
    cuda: Tensor | None
    loss: Tensor
    flos: float
    tokens_seen: Any
    metrics: dict[str, Any] | None
    tokens: Any
    counts: list[int]

    @classmethod
    def of(cls, trainer: Any) -> "StepStart":
        """Take the state of a trainer that is between two steps."""
        metrics = getattr(trainer, "_metrics", {}).get("train")
        return cls(
            step=trainer.state.global_step,
            python=random.getstate(),
            numpy=np.random.get_state(),
            torch=torch.random.get_rng_state(),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            loss=trainer._tr_loss.clone(),  # Trainer adds to it in place
            flos=trainer.current_flos,
            tokens_seen=trainer.state.num_input_tokens_seen,
            metrics=None if metrics is None else _copied(metrics),
            tokens=getattr(trainer, "_total_train_tokens", None),
            counts=trainer.counts(),
        )

    def put_back(self, trainer: Any) -> None:
        """Set the trainer to this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.random.set_rng_state(self.torch)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)
        trainer._tr_loss = self.loss.clone()
        trainer.current_flos = self.flos
        trainer.state.num_input_tokens_seen = self.tokens_seen
        if self.metrics is not None:
            trainer._metrics["train"].clear()
            trainer._metrics["train"].update(_copied(self.metrics))
        if self.tokens is not None:
            trainer._total_train_tokens = self.tokens
        if self.counts:
            trainer.take_counts(self.counts)


def _copied(metrics: dict[str, Any]) -> dict[str, Any]:
    """Copy the sums. TRL's are lists that grow; ours are tuples of tensors that are replaced."""
    return {name: list(some) if isinstance(some, list) else some for name, some in metrics.items()}


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Restore every random state of this process afterwards."""
    python, numbers = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
