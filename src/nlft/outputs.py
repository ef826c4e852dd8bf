"""No output replaces an input, or a file that nlft did not write."""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from nlft.errors import UserError, display_path

GENERATOR = '<meta name="generator" content="nlft">'
"""Stands in the head of every page that nlft writes."""
_HEAD = 4096  # bytes of a page in which its head begins


def refuse_inputs(
    flag: str, out: Path | str | None, inputs: Mapping[str, object], writes: Collection[str] | None = None
) -> None:
    """Refuse an output that is an input, under any name: a link, another case, a relative path.

    An output that is a folder must not hold an input where its own files go, because they could replace it.

    Args:
        flag: the output's flag, such as `--out`.
        out: the file or folder to write; None: nothing is written.
        inputs: what the command reads, by flag: paths, lists of paths, or None. Names that are not paths, such as a
            model of the hub, are passed over.
        writes: for a folder, the names of what the command writes into it; None: it may write anything.

    Raises:
        UserError: the output is an input or holds one. The message names both.
    """
    if out is None:
        return
    for name, given in inputs.items():
        for item in given if isinstance(given, list | tuple) else [given]:
            if isinstance(item, str | os.PathLike) and (what := _clash(Path(out), Path(item), writes)):
                raise UserError(
                    f"{flag} {display_path(out)}: {what} {name} {display_path(Path(item))}, which would be replaced.\n"
                    "  Give the output another name or folder."
                )


def _clash(out: Path, given: Path, writes: Collection[str] | None) -> str:
    """Return how the output meets the input; empty if it does not."""
    if _same(out, given):
        return "is the same as"
    if not given.exists() or (out.exists() and not out.is_dir()):
        return ""
    whole = given.resolve()
    at = next((n for n, folder in enumerate(whole.parents) if _same(out, folder)), None)
    if at is None:
        return ""
    return "holds" if writes is None or whole.parts[-at - 1] in writes else ""


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths are one file, also by a hard link or on a file system that ignores case."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def refuse_foreign(
    flag: str,
    out: Path | None,
    is_ours: Callable[[Path], bool],
    *,
    overwrite: bool = False,
    consent: str = "--overwrite",
) -> None:
    """Refuse to replace a file that is not an earlier output of the same kind.

    Args:
        is_ours: whether an existing file may be replaced. An error of reading means that it may not.
        overwrite: whether the user allows it.
        consent: what the user adds to allow it.

    Raises:
        UserError: the file exists and may not be replaced.
    """
    if out is None or overwrite or not out.exists() or out.is_dir() or _may_go(out, is_ours):
        return
    raise UserError(
        f"{flag} {display_path(out)}: exists already, and nlft did not write it, or it was edited since.\n"
        f"  Give another name, move it away, or add {consent}."
    )


def _may_go(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    try:
        return path.is_file() and (path.stat().st_size == 0 or is_ours(path))
    except (OSError, ValueError, RecursionError):
        return False


@contextmanager
def keeping_before(*outputs: Path | None, report: Callable[[Path], bool] | None = None) -> Iterator[None]:
    """Write the outputs inside this context. It keeps each file that they replace, and prints where.

    The copy is made first, because a killed command runs nothing at its end. If a file stays as it was, the copy is
    removed again.

    Args:
        report: whether a file is such a report, which is made again at any time. Then only the last one is kept, and
            an earlier copy of it may go. By default the file of every run is kept, as FILE.bak, FILE.bak2, ...: a file
            of examples may have what a person wrote.

    Raises:
        UserError: there is no room for the copy.
    """
    kept = {path: _before(path, report) for path in outputs if path is not None and _has_content(path)}
    copies = {path: path.with_name(f".{path.name}.before") for path in kept}
    try:
        for path, aside in copies.items():
            shutil.copy2(path, aside)
    except OSError as error:
        raise UserError(
            f"{display_path(path)}: cannot be kept as {display_path(aside)}: {error.strerror}. Nothing was replaced.\n"
            "  Free some disk space, or give the output another name."
        ) from error
    try:
        yield
    finally:
        for path, aside in kept.items():
            if path.exists() and path.read_bytes() == copies[path].read_bytes():
                copies[path].unlink()  # nothing was replaced, so an earlier copy stays as it is
            else:
                os.replace(copies[path], aside)
                print(f"{display_path(path)}: replaced. The file before is {display_path(aside)}")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _before(path: Path, report: Callable[[Path], bool] | None) -> Path:
    """Return the name under which the file is kept: a free one, or that of an earlier copy that may go."""
    names = (path.with_name(f"{path.name}.bak{number if number > 1 else ''}") for number in count(1))
    return next(name for name in names if not name.exists() or (report is not None and _may_go(name, report)))


def is_our_page(path: Path) -> bool:
    """Return whether the file is a page that nlft wrote."""
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(_HEAD)


def is_our_json(*keys: str) -> Callable[[Path], bool]:
    """Make a test for JSON objects that have all the keys."""

    def has_keys(path: Path) -> bool:
        found = json.loads(path.read_bytes())
        return isinstance(found, dict) and set(keys) <= found.keys()

    return has_keys


def begins_with(line: str) -> Callable[[Path], bool]:
    """Make a test for text files by their first line."""

    def has_line(path: Path) -> bool:
        with path.open("rb") as file:
            return file.readline().decode().rstrip("\r\n") == line

    return has_line
