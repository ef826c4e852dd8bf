"""Keep a log's unfinished sums in a checkpoint, so that a resumed run logs what an unbroken one does.

A line of the log is a mean over the steps since the last line. A checkpoint may stand between two lines. Trainer and
TRL start these sums and their counts of tokens again at each start.
"""

import json
from pathlib import Path
from typing import Any

import torch

from nlft.files import write_whole


def store_log(trainer: Any, folder: Path) -> None:
    """Write this rank's sums into a checkpoint.

    Args:
        trainer: a `SafeCheckpoints`, between two steps.
    """
    state = {
        "last_line": trainer._globalstep_last_logged,
        "loss_since": float(trainer._tr_loss),
        "loss_sum": trainer._total_loss_scalar,
        "own": trainer.own_log_sums(),
        "counts": trainer.counts(),
    }
    write_whole(_file(trainer, folder), json.dumps(state).encode())


def restore_log(trainer: Any, checkpoint: str | None) -> None:
    """Set the sums when training begins: to those of the checkpoint, or to none for a new run.

    The sums of a checkpoint of an older version start at its step.
    """
    path = _file(trainer, Path(checkpoint)) if checkpoint is not None else None
    stored = json.loads(path.read_bytes()) if path is not None and path.is_file() else None
    if stored is not None:
        trainer._globalstep_last_logged = stored["last_line"]
        trainer._tr_loss = torch.tensor(stored["loss_since"], device=trainer.args.device)
        trainer._total_loss_scalar = stored["loss_sum"]
        if stored.get("counts"):
            trainer.take_counts(stored["counts"])
    trainer.take_log_sums(stored and stored["own"])


def trl_sums(trainer: Any) -> dict[str, Any]:
    """Return the sums of one of TRL's trainers: its count of tokens, and each metric's values since the last line."""
    values = getattr(trainer, "_metrics", {}).get("train", {})
    return {
        "num_tokens": getattr(trainer, "_total_train_tokens", None),
        "values": {name: list(map(float, some)) for name, some in values.items()},
    }


def take_trl_sums(trainer: Any, stored: dict[str, Any] | None) -> None:
    """Set the sums of one of TRL's trainers to those of a checkpoint, if there are any."""
    if stored is None:
        return
    if stored["num_tokens"] is not None:
        trainer._total_train_tokens = stored["num_tokens"]
    for name, values in stored.get("values", {}).items():  # a run of another trainer has other sums
        trainer._metrics["train"][name] = values


def _file(trainer: Any, folder: Path) -> Path:
    return folder / f"log_state_{trainer.args.process_index}.json"
