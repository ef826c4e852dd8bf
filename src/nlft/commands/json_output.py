"""`--json`: standard output is one JSON document and nothing else. Everything else goes to standard error."""

import json
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from nlft.errors import UserError
from nlft.page.as_json import object_as_json

STANDARD_OUTPUT = Path("-")


def json_flag(parser: ArgumentParser) -> None:
    """Add `--json` without a value, for a command that writes its document to a file in any case."""
    parser.add_argument("--json", action="store_true", help="print the result as one JSON document")


def json_file_flag(parser: ArgumentParser) -> None:
    """Add `--json [FILE]`. Without FILE, the value is `STANDARD_OUTPUT`."""
    what = "write everything as JSON as well; without FILE, print it"
    parser.add_argument("--json", type=Path, nargs="?", const=STANDARD_OUTPUT, metavar="[FILE]", help=what)


def refuse_swallowed(argv: Sequence[str], command: str) -> None:
    """Refuse `--json FILE` if that FILE is the only one and exists: it is the input, which comes first.

    Raises:
        UserError: the message has the right order.
    """
    if len(argv) > 1 and argv[0] == "--json" and Path(argv[1]).is_file() and all(w[:1] == "-" for w in argv[2:3]):
        raise UserError(
            f"--json {argv[1]}: names the file to write, and there is no FILE to read.\n"
            f"  Put FILE first: {command} {argv[1]} --json"
        )


@contextmanager
def printing_json(asked: bool) -> Iterator[dict[str, Any]]:
    """Yield a mapping for the command's result. At the end, print it as JSON if that is `asked`.

    While the command works, all that it prints goes to standard error, also from processes that it starts. After an
    error nothing is printed on standard output, and the exit code says what failed.
    """
    document: dict[str, Any] = {}
    if not asked:
        yield document
        return
    from nlft.models.ledger import DryRun

    sys.stdout.flush()
    with _standard_output_to_error(), redirect_stdout(sys.stderr):
        try:
            yield document
        except DryRun as found:  # --dry_run estimates the requests, and there is no result
            document["dry_run"] = str(found)
    print(json.dumps(object_as_json(document), ensure_ascii=True, allow_nan=False, indent=1))


@contextmanager
def _standard_output_to_error() -> Iterator[None]:
    """Let file descriptor 1, which other processes inherit, be standard error for a while."""
    try:
        own = sys.stdout.fileno() == 1
    except (OSError, ValueError):  # an object in its place, such as a test's
        own = False
    if not own:
        yield
        return
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
