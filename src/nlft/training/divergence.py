"""Stop a training that diverges: at the first loss, gradient norm or weight that is not finite."""

import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from nlft.errors import NLFTError, display_path
from nlft.runs.checkpoints import checkpoints_of
from nlft.runs.run_dir import RunDir

EXAMPLE = "example_at"
"""Column of a row and key of a batch: the place of each row's example in the training file."""

IDS_SHOWN = 8
MOST_SKIPPED = 20
"""Steps in a row that float16 may skip while its scaling looks for a factor. It halves the factor at each one."""

NO_PROBABILITIES = "probability tensor contains"  # torch, of probabilities from which nothing can be drawn

HIGHEST_RATE = 0.1
"""Adam's steps are about as long as its rate, and a model's weights are about 0.02."""


class Diverged(NLFTError):
    """A loss, a gradient norm or a weight is not finite."""


class StopsWhenDiverged(Trainer):  # type: ignore[misc]
    """Mixin for a Trainer that writes a run directory. A diverged run ends with an error and writes no adapter.

    Trainer itself goes on: it leaves a loss that is not finite out of the log, and saves weights that are not numbers.
    """

    data_collator: Any  # set by Trainer
    _signature_columns: Any
    _example_ids: Sequence[str | int] = ()
    _in_step: Sequence[Any] = ()  # for each micro-batch, its examples' ids, or their places as a tensor
    _losses: Sequence[Tensor] = ()
    _told_of_rate = False
    _skipped = 0

    def name_examples(self, ids: Sequence[str | int]) -> None:
        """Let the messages name examples. The rows of the training data have a column `EXAMPLE`.

        Args:
            ids: the examples' ids, in the order of the training file.
        """
        self._example_ids = ids
        self.data_collator = _KeepsPlaces(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if EXAMPLE not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, EXAMPLE]

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the window's micro-batches, and remember their examples. A training that is over gets none."""
        if self.control.should_training_stop:
            self._in_step = []
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._in_step, self._losses = [_examples_of(batch) for batch in batches], []
        return batches, items

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train on one micro-batch, and remember its loss.

        Raises:
            NLFTError: the model's probabilities are not finite, so it cannot generate.
        """
        try:
            loss: Tensor = super().training_step(*args, **kwargs)
        except RuntimeError as error:
            if NO_PROBABILITIES not in str(error):
                raise
            blamed = [at == len(self._losses) for at in range(len(self._in_step))]
            raise self._diverged("the model's probabilities are not finite", blamed, everywhere=False) from error
        self._losses = [*self._losses, loss.detach()]
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Return the gradient norm. Check it, and the losses, before the optimizer's step."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        self._check_step(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        return norm

    def _check_step(self, norm: Any) -> None:
        """Wait for the device once, and check the window's losses and its gradient norm.

        Raises:
            NLFTError: one of them is not finite.
        """
        losses = torch.stack([one.float() for one in self._losses])
        known = [] if norm is None else [torch.as_tensor(norm, dtype=torch.float32, device=losses.device).reshape(1)]
        *each, total = torch.cat([losses, *(known or [losses[:1]])]).tolist()
        if not all(map(isfinite, each)):
            said = ", ".join(f"{loss:g}" for loss in each if not isfinite(loss))
            raise self._diverged(f"the loss is {said}", [not isfinite(loss) for loss in each], everywhere=False)
        if isfinite(total):
            self._skipped = 0
            self._warn_of_rate()
        elif self._scales_float16() and self._skipped < MOST_SKIPPED:
            self._skipped += 1
        else:
            raise self._diverged(f"the gradient norm is {total:g}", [True] * len(each), everywhere=True)

    def _scales_float16(self) -> bool:
        return bool(self.accelerator.scaler is not None or (self.is_deepspeed_enabled and self.args.fp16))

    def _warn_of_rate(self) -> None:
        """Warn once about a rate that is far too high. `Guards` look at a loss that is finite, but explodes."""
        rate, told = self.args.learning_rate, self._told_of_rate
        self._told_of_rate = True
        if not told and rate >= HIGHEST_RATE and "adam" in self.args.optim and self.args.should_save:
            what = f"--learning_rate {rate:g}: Adam moves each weight by about as much per step."
            print(f"warning: {what}\n  The training may diverge. Lower --learning_rate.", file=sys.stderr)

    def ids_in_step(self) -> list[str | int]:
        """Return the ids of this process's examples in the last step."""
        return [id for batch in self._in_step for id in self._ids(batch)]

    def guard_error(self, what: str, step: int, cure: str) -> "Diverged":
        """Return the error of a guard that stops the training after a step.

        Args:
            what: what the guard saw.
            cure: what to do about it.
        """
        return self._diverged(what, [True] * len(self._in_step), everywhere=True, step=step, cure=cure)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, for a checkpoint or at the end.

        Raises:
            NLFTError: trained weights are not finite. Nothing is written.
        """
        weights = [_local(one.detach()) for one in self.model.parameters() if one.requires_grad]
        broken = torch.stack([(~one.isfinite()).any().to(self.args.device) for one in weights])
        bad = int(self.accelerator.reduce(broken.sum().float(), "sum"))
        if bad:
            what = f"{bad} of {len(weights)} trained tensors are not finite"
            raise self._diverged(what, [True] * len(self._in_step), everywhere=True, step=self.state.global_step)
        super().save_model(output_dir, _internal_call=_internal_call)

    def _diverged(
        self, what: str, batches: Sequence[bool], *, everywhere: bool, step: int | None = None, cure: str | None = None
    ) -> Diverged:
        """Make the error.

        Args:
            batches: for each micro-batch of the step, whether it is to blame.
            everywhere: whether all processes raise this error. Then it names the examples of all.
            step: the step; by default, the one under way.
            cure: what to do against what a guard saw; by default, against a loss that is not finite.
        """
        ids = [id for batch, blamed in zip(self._in_step, batches, strict=True) if blamed for id in self._ids(batch)]
        if everywhere and self.accelerator.num_processes > 1:
            from accelerate.utils import gather_object

            ids = gather_object(ids)
        ids = list(dict.fromkeys(ids))
        shown = ", ".join(map(repr, ids[:IDS_SHOWN])) + (f" and {len(ids) - IDS_SHOWN} more" * (len(ids) > IDS_SHOWN))
        kept = checkpoints_of(RunDir(self.args.output_dir))
        last = f"The last checkpoint is {display_path(kept[-1])}." if kept else "There is no checkpoint before it."
        how = "stopped" if cure else "diverged"
        cure = cure or f"Lower --learning_rate, which is {self.args.learning_rate:g}, or look at these examples."
        return Diverged(
            f"training {how} at step {self.state.global_step + 1 if step is None else step}: {what}.\n"
            f"  Examples in that step: {shown or 'unknown'}. {last} No adapter was written.\n"
            f"  {cure}"
        )

    def _ids(self, batch: Any) -> list[str | int]:
        if not isinstance(batch, Tensor):
            return list(batch)
        return [self._example_ids[at] for at in batch.tolist()] if self._example_ids else []


class _KeepsPlaces:
    """A data collator that keeps the column `EXAMPLE`, as a tensor."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, rows: list[Any]) -> Any:
        if not rows or EXAMPLE not in rows[0]:
            return self.collate(rows)
        batch = self.collate([{name: value for name, value in row.items() if name != EXAMPLE} for row in rows])
        if not isinstance(batch, MutableMapping):
            return self.collate(rows)  # GRPO's batches are rows
        batch[EXAMPLE] = torch.tensor([row[EXAMPLE] for row in rows])
        return batch


def _examples_of(batch: Any) -> Any:
    """Return a micro-batch's examples: ids, or places as a tensor. Take the places out, which no model reads."""
    if isinstance(batch, Mapping) and "examples" in batch:
        return [one.id for one in batch["examples"]]
    if isinstance(batch, MutableMapping):
        return batch.pop(EXAMPLE, ())
    places = [row[EXAMPLE] for row in batch if EXAMPLE in row]
    return torch.tensor(places, dtype=torch.long)


def _local(weight: Tensor) -> Tensor:
    """Return the part of a weight that this process has."""
    return weight.to_local() if hasattr(weight, "to_local") else weight
