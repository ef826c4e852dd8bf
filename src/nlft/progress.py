"""What a user sees of long work: a bar in a terminal, a line now and then anywhere else, no library's chatter."""

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

_hidden = False
_NUMBER = re.compile(r"[-+−]?[\d.]|$|–$|-$")


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


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """The rows as text. Fits the terminal, or 100 columns where there is none; long cells wrap, none is cut.

    Columns whose cells all begin with a digit or a sign stand to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=None)
    for at, name in enumerate(head):
        numbers = bool(rows) and all(_NUMBER.match(str(row[at])) for row in rows)
        grid.add_column(Text(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(str(cell)) for cell in row))
    out = StringIO()
    Console(file=out, width=text_width(), color_system=None, legacy_windows=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def text_width() -> int:
    """Columns of the terminal; 100 where the output is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100


def hide_bars() -> None:
    """Show no bar in this process: it is one of several."""
    global _hidden
    _hidden = True


def note(text: str) -> None:
    """Print what is neither a result nor an error, such as the next command. `--quiet` leaves it out."""
    if not _hidden:
        print(text)


@contextmanager
def quiet() -> Iterator[None]:
    """Show no bars, notes or warnings: only what is printed as a result, and errors."""
    global _hidden
    before, _hidden = _hidden, True
    try:
        with Path(os.devnull).open("w") as sink, redirect_stderr(sink):
            yield
    finally:
        _hidden = before


def quiet_libraries() -> None:
    """Keep other packages' notes to developers away from users."""
    # PEFT 0.21 and TRL 1.16 ask transformers 5.23 for gradient checkpointing by its older name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.* is deprecated", category=FutureWarning)
    # Bars for a few milliseconds of work, one a step of TRL's preparation.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at each fork
