"""Write a file or append lines, whole or not at all, and fill the package's HTML templates."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path


def write_whole(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a temporary file, then rename it. A reader sees the old file or the new one, never half of it.

    Args:
        data: the file's content, or its parts. Each part is written as it comes and then freed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def append_whole(path: Path, data: bytes) -> None:
    """Append whole lines of JSON: all of them or none. Half a line would also corrupt the next line.

    A killed process or a full disk may have left half a last line. It is dropped first. If only its newline is missing,
    the line stays.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a+b", buffering=0) as file:
        start = _end_of_whole_lines(file)
        left = memoryview(data)
        try:
            while left:  # an unbuffered write may write only a part
                left = left[file.write(left) :]
        except OSError:
            file.truncate(start)
            raise


def _end_of_whole_lines(file: Any) -> int:
    """Drop or complete a torn last line. Return the size of the file then."""
    size = file.seek(0, os.SEEK_END)
    if not size or (file.seek(size - 1), file.read(1))[1] == b"\n":
        return int(size)
    file.seek(0)
    torn = file.readall().rpartition(b"\n")[2]
    try:
        json.loads(torn)
    except ValueError:
        file.truncate(size - len(torn))
        return int(size - len(torn))
    file.write(b"\n")
    return int(size + 1)


def write_output(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file that the user named, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise UserError(f"cannot write {display_path(path)}: {error.strerror}.\n  Write to another place.") from error


def render_page(package: str, template: str, style: str, **values: Any) -> str:
    """Fill a room's HTML template, which extends the shared `templates/base.html`. Every value is escaped.

    Args:
        package: the room, such as `nlft.auditing`; its `templates` folder holds the template.
        template: file name of the template.
        style: the room's style sheet. It follows `templates/base.css` in the page's only style block.
        values: the template's variables. A missing name is an error.

    Returns:
        The page. Its content policy names the hash of the style block, so no other style applies.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    style = shared_style() + style
    assert "</style" not in style, "it would end the page's style block"
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("nlft")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"csp_hash": csp_hash, "printable": printable}
    return environment.get_template(template).render(style=Markup(style), **values)


def shared_style() -> str:
    """Return the style sheet that every page starts with."""
    return read_template("nlft", "base.css")


def read_template(package: str, name: str) -> str:
    """Read a file of a package's `templates` folder as text."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def printable(text: str) -> str:
    """Spell out control characters and half surrogate pairs, which HTML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
