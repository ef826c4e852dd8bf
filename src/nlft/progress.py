"""What a user sees of long work: a bar in a terminal, a line now and then anywhere else, no library's chatter."""

import os
import sys
import warnings
from typing import Any

from tqdm import tqdm

_hidden = False


class _Lines(tqdm):  # type: ignore[type-arg]
    """Whole lines for a log file, where carriage returns would pile up in one."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.fp.write((msg if msg is not None else str(self)) + "\n")


def progress(desc: str, total: int | None, unit: str, *, disable: bool = False) -> "tqdm[Any]":
    """A progress bar with rate and time left, on standard error; use it as a context manager.

    Args:
        total: how much there is to do; None: nobody knows, so no time is left to show.
    """
    terminal = sys.stderr.isatty()
    return (tqdm if terminal else _Lines)(
        desc=desc,
        total=total,
        unit=unit,
        disable=disable or _hidden,
        mininterval=0.2 if terminal else 15,
        # A slow step must not wait for a number of steps that only fast ones reach.
        miniters=1,
        leave=True,
        ncols=None if terminal else 100,
        dynamic_ncols=terminal,
        file=sys.stderr,
    )


def hide_bars() -> None:
    """Show no bar in this process: it is one of several."""
    global _hidden
    _hidden = True


def quiet_libraries() -> None:
    """Keep other packages' notes to developers away from users."""
    # PEFT 0.21 and TRL 1.16 ask transformers 5.23 for gradient checkpointing by its older name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning)
    # Bars for a few milliseconds of work, one a step of TRL's preparation.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at each fork
