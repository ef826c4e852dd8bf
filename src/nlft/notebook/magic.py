"""`%nlft_map RUN` in IPython, after `%load_ext nlft`."""

import shlex
from typing import Any

from nlft.errors import UserError
from nlft.notebook.run import Run, RunMap

USAGE = "%nlft_map RUN [AGAINST]"


def nlft_map(line: str) -> RunMap:
    """Show the saliency map of a run, or of two beside each other: `%nlft_map runs/a runs/b`."""
    from IPython.core.error import UsageError  # IPython shows it as one line, without a traceback

    try:
        folders = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{USAGE}: {error}") from error
    if len(folders) not in (1, 2):
        raise UsageError(f"{USAGE}: give one run directory, or two to compare.")
    try:
        return Run(folders[0]).map(*folders[1:])
    except UserError as error:
        raise UsageError(str(error)) from error


def register(ipython: Any) -> None:
    """Add the magic to a running IPython."""
    ipython.register_magic_function(nlft_map, "line", "nlft_map")
