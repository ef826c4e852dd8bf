"""Files that are there whole or not at all."""

import os
from collections.abc import Iterable
from pathlib import Path

from nlft.errors import UserError, display_path


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of it.

    Args:
        data: the file's content, or its parts, each written as it comes and then let go.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_output(path: Path, data: bytes | Iterable[bytes]) -> None:
    """`write_whole` for a file that the user named.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"{display_path(path)}: {error.strerror}.\n  Write to another place.") from error
