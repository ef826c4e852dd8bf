"""Show progress: a bar in a terminal or notebook, an occasional line in a log file. Silence other libraries' notes."""

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nlft.errors import without_passwords

QUIET = "NLFT_QUIET"  # environment variable: any value except the empty one hides bars and notes
_NOTED: set[str] = set()  # a command may read a file more than once
_NOTEBOOK_TEXT = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_NUMBER = re.compile(r"[-+−]?[\d.]|$|–$|-$")


class _Lines(tqdm):  # type: ignore[type-arg]
    """Writes whole lines, for a log file, where carriage returns would pile up in one line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self.fp.write((msg if msg is not None else str(self)) + "\n")


class _Shown(tqdm):  # type: ignore[type-arg]
    """Shows one bar below a notebook's cell, and changes it there.

    tqdm's own bar for notebooks needs ipywidgets, which editors and shared pages often lack.
    """

    _place: Any = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        from IPython.display import HTML, display

        drawn = HTML(_bar_html(msg if msg is not None else str(self), self.n, self.total))
        if self._place is None:
            self._place = display(drawn, display_id=True)
        elif self._place:
            self._place.update(drawn)


def _bar_html(text: str, done: float, total: float | None) -> str:
    bar = f'<progress value="{done}" max="{total}" style="width: 16em"></progress> ' if total else ""
    return f'<div role="status" style="font-family: monospace">{bar}{escape(text)}</div>'


def in_notebook() -> bool:
    """Return whether this process runs the cells of a notebook, which shows HTML. IPython in a terminal does not."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def progress(desc: str, total: int | None, unit: str, *, disable: bool = False) -> "tqdm[Any]":
    """Show a progress bar with rate and time left on standard error, or below a notebook's cell.

    Use it as a context manager.

    The environment variable NLFT_QUIET hides all bars.

    Args:
        desc: label of the bar.
        total: number of units of work; None if unknown, and then the bar shows no time left.
        unit: name of one unit.
    """
    terminal, shown = sys.stderr.isatty(), in_notebook()
    return (_Shown if shown else tqdm if terminal else _Lines)(
        desc=desc,
        total=total,
        unit=unit,
        disable=disable or _is_quiet(),
        mininterval=0.2 if terminal or shown else 15,
        # Update after every step: slow steps would never reach a count that suits fast steps.
        miniters=1,
        leave=True,
        ncols=None if terminal else 100,
        dynamic_ncols=terminal,
        # The bar is an element of the page, so its text has none. tqdm ends its output with an empty line.
        bar_format=_NOTEBOOK_TEXT if shown and total else None,
        file=StringIO() if shown else sys.stderr,
    )


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """Lay out rows as text, as wide as the terminal, or 100 columns without one. Wrap long cells; cut none.

    Align a column to the right if all its cells begin with a digit or a sign.
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
    # In a notebook rich would show the table by itself and leave `out` empty.
    Console(file=out, width=text_width(), color_system=None, legacy_windows=False, force_jupyter=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def text_width() -> int:
    """Width of the terminal in columns; 100 if the output is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 100


def hide_bars() -> None:
    """Hide all bars and notes of this process and of processes that it starts."""
    os.environ[QUIET] = "1"


def _is_quiet() -> bool:
    return bool(os.environ.get(QUIET))


def note(text: str) -> None:
    """Print a line that is neither a result nor an error, such as the next command. `--quiet` hides it."""
    if not _is_quiet():
        print(text)


def note_once(text: str) -> None:
    """Print a note on standard error, unless this process has printed it before. `--quiet` hides it."""
    if not _is_quiet() and text not in _NOTED:
        _NOTED.add(text)
        print(text, file=sys.stderr)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide bars, notes and warnings of this process and of processes that it starts. Results and errors stay."""
    before = os.environ.get(QUIET, "")
    os.environ[QUIET] = "1"
    try:
        with Path(os.devnull).open("w") as sink, redirect_stderr(sink):
            yield
    finally:
        os.environ[QUIET] = before


def _hide_passwords() -> None:
    """Cut passwords out of the addresses in warnings and in log records: HF_ENDPOINT and a proxy may hold one."""
    make_record, form_warning = logging.getLogRecordFactory(), warnings.formatwarning
    if getattr(make_record, "hides_passwords", False):
        return

    def safe_record(*args: Any, **more: Any) -> logging.LogRecord:
        record = make_record(*args, **more)
        with suppress(Exception):  # a record whose text cannot be made is reported where it is written
            text = record.getMessage()
            if (safe := without_passwords(text)) != text:
                record.msg, record.args = safe, ()
        return record

    def safe_warning(*args: Any, **more: Any) -> str:
        return without_passwords(form_warning(*args, **more))

    safe_record.hides_passwords = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(safe_record)
    warnings.formatwarning = safe_warning


def quiet_libraries() -> None:
    """Hide notes that other packages print for developers, and passwords of addresses in their warnings and logs."""
    _hide_passwords()
    # PEFT 0.21 and TRL 1.16 use the older name of gradient checkpointing in transformers 5.23.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    # TRL's preparation shows a bar per step, each for a few milliseconds of work.
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # otherwise tokenizers warn at each fork
