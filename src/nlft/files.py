"""Write a file or append lines, whole or not at all, and fill the package's HTML templates."""

import base64
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path, printable
from nlft.progress import note_once


def write_whole(path: Path, data: bytes | Iterable[bytes], *, durable: bool = True) -> None:
    """Write a temporary file, then rename it. A reader sees the old file or the new one, never half of it.

    Args:
        data: the file's content, or its parts. Each part is written as it comes and then freed.
        durable: wait for the disk before and after the rename, so that this holds after a power cut too. False is for
            what is written often and can be lost.
    """
    aside = aside_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with aside.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def json_bytes(value: Any, indent: int | None = None, *, allow_nan: bool = True) -> bytes:
    """Return JSON in UTF-8. Half a surrogate pair is escaped: it stands for a byte in a name that is not UTF-8."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=allow_nan)
    return text.encode(errors="backslashreplace")


def aside_of(path: Path) -> Path:
    """Return a name beside a path for a temporary file. Two containers may have processes of one id."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def cache_folder() -> Path:
    """Return nlft's folder in the user's cache folder.

    Raises:
        UserError: the user has no home folder.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "nlft"
    try:
        return Path.home() / ".cache" / "nlft"
    except RuntimeError as error:
        raise UserError(
            "there is no cache folder: HOME and XDG_CACHE_HOME are not set, and this user has no home folder.\n"
            "  Set XDG_CACHE_HOME to a folder that can be written."
        ) from error


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder. Some systems cannot: there the names come when they come."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Wait until the disk has every file and every name below a folder, before the folder is renamed.

    Raises:
        OSError: the disk is full, for example.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when a file is written: inode, time in ns, size. None for a missing file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def append_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Append whole lines of JSON: all of them or none. Half a line would also corrupt the next line.

    A killed process or a full disk may have left half a last line. It is dropped first, with a word. If only its
    newline is missing, the line stays.

    Args:
        durable: wait for the disk, so that the lines are there after a power cut too. False is for what is written at
            each step and can be made again.

    Raises:
        OSError: the file cannot be written.
    """
    refuse_waiting_file(path)
    with path.open("a+b", buffering=0) as file:
        start = _end_of_whole_lines(file, path)
        left = memoryview(data)
        try:
            while left:  # an unbuffered write may write only a part
                left = left[file.write(left) :]
            if durable:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(start)
            raise
    if durable and start == 0:  # the file may be new
        sync_folder(path.parent)


def lines_of_json(path: Path, data: bytes) -> list[bytes]:
    """Split a file of JSON lines. Leave out half a last line, which a killed writer leaves, and say so.

    A last line that lacks only its newline is whole: no part of a JSON object is one itself.

    Args:
        data: the file's content.
    """
    *lines, last = data.split(b"\n")
    if last.strip():
        if is_json(last):
            return [*lines, last]
        tell_torn(path, last)
    return lines


def is_json(data: bytes) -> bool:
    """Return whether bytes are JSON."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def json_object(line: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line. None for another line, such as half a line of a process that was killed."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def tell_torn(path: Path, line: bytes) -> None:
    """Say that a file's last line is cut off, once for each process."""
    note_once(f"{display_path(path)}: the last line ({len(line)} bytes) was cut off, and is left out.")


def _end_of_whole_lines(file: Any, path: Path) -> int:
    """Drop or complete a torn last line. Return the size of the file then."""
    size = file.seek(0, os.SEEK_END)
    if not size or (file.seek(size - 1), file.read(1))[1] == b"\n":
        return int(size)
    file.seek(0)
    torn = file.readall().rpartition(b"\n")[2]
    if not is_json(torn):
        tell_torn(path, torn)
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


def read_json(path: Path, cure: str) -> dict[str, Any]:
    """Read a JSON object that nlft wrote.

    Args:
        cure: what to do if the file is missing or spoiled.

    Raises:
        UserError: the file is missing, or is no JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{display_path(path)}: cannot be read: {error.strerror}.\n  To go on, {cure}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{display_path(path)}: is not JSON: {error}.\n  To go on, {cure}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{display_path(path)}: holds no JSON object.\n  To go on, {cure}.")
    return found


def refuse_waiting_file(path: Path) -> None:
    """Refuse a named pipe, a socket or a device as input: reading it could wait for ever.

    A pipe of the shell (`<(command)`) has a writer, and passes.

    Raises:
        OSError: the path is such a file.
    """
    if (
        path.exists()
        and not (path.is_file() or path.is_dir())
        and not str(path).startswith(("/dev/fd/", "/proc/self/"))
    ):
        raise OSError(errno.EINVAL, "It is not an ordinary file", str(path))


def give_usual_modes(folder: Path) -> None:
    """Give every file in the folder the mode of a new file.

    Safetensors writes files that only their owner may read. Then others on the machine can read a run, but not its
    adapter.
    """
    mask = os.umask(0o022)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~mask)


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
    from markupsafe import Markup

    style = shared_style() + style
    assert "</style" not in style, "it would end the page's style block"
    return str(_template(package, template).render(style=Markup(style), **values))


def render_fragment(package: str, template: str, **values: Any) -> str:
    """Fill a room's template of a part of a page, such as a notebook's output. Every value is escaped.

    The part has no style sheet, because it would apply to the whole notebook. Its colours are those of the notebook, so
    it is light or dark like the notebook.
    """
    return str(_template(package, template).render(**values))


def framed(page: str, title: str, *, height: int, scripts: bool = False) -> str:
    """Put a whole page into an element of another page, such as a notebook, shut off from it.

    The page loads nothing, is in no other file, and cannot reach the page around it, the user's cookies or the network.

    Args:
        title: says what the frame holds, for readers of the screen.
        height: in pixels.
        scripts: whether the page's own scripts run.
    """
    from markupsafe import Markup

    style = f"width: 100%; height: {height}px; border: 1px solid gray; color-scheme: light dark"
    allowed = "allow-scripts" if scripts else ""
    frame = Markup('<iframe sandbox="{}" title="{}" style="{}" srcdoc="{}"></iframe>')
    return str(frame.format(allowed, title, style, page))


def _template(package: str, template: str) -> Any:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loader = ChoiceLoader([PackageLoader(package), PackageLoader("nlft")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"csp_hash": csp_hash, "printable": printable}
    return environment.get_template(template)


def shared_style() -> str:
    """Return the style sheet that every page starts with."""
    return read_template("nlft", "base.css")


def read_template(package: str, name: str) -> str:
    """Read a file of a package's `templates` folder as text."""
    return (files(package) / "templates" / name).read_text(encoding="utf-8")


def csp_hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
