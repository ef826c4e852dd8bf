"""`%nlft_map RUN` in IPython, after `%load_ext nlft`."""

import os
import shlex
from typing import Any

from nlft.errors import UserError
from nlft.notebook.run import Run, RunMap

USAGE = "%nlft_map RUN [AGAINST]"


def nlft_map(line: str) -> RunMap:
    """Show the saliency map of a run, or of two beside each other: `%nlft_map runs/a runs/b`."""
    from IPython.core.error import UsageError  # IPython shows it as one line, without a traceback

    try:
        folders = folders_of(line, windows=os.name == "nt")
    except ValueError as error:
        raise UsageError(f"{USAGE}: {error}") from error
    if len(folders) not in (1, 2):
        raise UsageError(f"{USAGE}: give one run directory, or two to compare.")
    try:
        return Run(folders[0]).map(*folders[1:])
    except UserError as error:
        raise UsageError(str(error)) from error


def folders_of(line: str, *, windows: bool) -> list[str]:
    """Split a line as a shell does. On Windows a backslash separates folders, and quotes nothing.

    Raises:
        ValueError: a quotation mark has no partner.
    """
    words = shlex.shlex(line, posix=True, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    words.escape = "" if windows else "\\"
    return list(words)


def register(ipython: Any) -> None:
    """Add the magic to a running IPython."""
    ipython.register_magic_function(nlft_map, "line", "nlft_map")
