"""Standard streams that end no work: closed ones, readers that leave, encodings that lack a character."""

import errno
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN}  # there may be room again for the next line


def open_closed_streams() -> None:
    """Open a standard stream that the shell has closed (`>&-`) as one that holds nothing. Python has None there.

    The file descriptor is opened too. Else the next file that is opened gets its number, and with it what other
    processes and libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            taken = _is_open(number)  # by another file, since the process began
            if not taken:
                _point_to_nowhere(number)
            place, mode = (os.devnull if taken else number), ("w" if number else "r")
            setattr(sys, name, open(place, mode, encoding="utf-8", closefd=taken))  # noqa: SIM115 - open until the end


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _point_to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)
        return
    os.dup2(nowhere, number)
    os.close(nowhere)


def write_any_character() -> None:
    """Let the output show a character that its encoding lacks as its number. Else printing it would be an error."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def mute(number: int) -> None:
    """Let what is written to file descriptor 1 or 2 go nowhere, also what is still in a buffer."""
    if number in (1, 2):
        _point_to_nowhere(number)


def mute_lost() -> None:
    """If standard output or error is a closed terminal or a pipe without a reader, let what is written go nowhere.

    Otherwise each line and each progress bar would be an error, and would end the work before it is saved. Other
    processes inherit the streams.
    """
    for number in (1, 2):
        try:
            os.write(number, b"")
            lost = has_no_reader(number, unknown=False)
        except OSError:
            lost = True
        if lost:
            mute(number)


def has_no_reader(number: int, *, unknown: bool) -> bool:
    """Return whether the reader of a pipe is gone.

    Args:
        unknown: what to return where the system does not say (Windows).
    """
    if not hasattr(select, "poll"):
        return unknown
    stream = select.poll()
    stream.register(number, 0)  # errors are always reported
    return any(event & select.POLLERR for _, event in stream.poll(0))


class Lasting:
    """A stream that raises nothing if it cannot be written. It has everything else from the stream in it.

    Attributes:
        stream: the stream itself.
        refused: why a line could not be written for lack of room; None if all lines were.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.refused: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        self._do(self.stream.write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write, or drop the lines."""
        self._do(self.stream.writelines, lines)

    def flush(self) -> None:
        """Flush, or keep what is in the buffer."""
        self._do(self.stream.flush)

    def _do(self, call: Callable[..., object], *args: object) -> None:
        try:
            call(*args)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self.refused = error
            else:
                mute_stream(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def mute_stream(stream: TextIO) -> None:
    """Let what is written to a stream go nowhere, if it is a file descriptor."""
    try:
        mute(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return


@contextmanager
def outliving_readers(*names: str) -> Iterator[None]:
    """Work inside this context. It goes on if nobody reads its output any more, or if the disk of its log is full.

    A pipe's reader may leave (`2>&1 | head`, a `tee` that dies), and a terminal may close. What is printed then goes
    nowhere, as under `nohup`: no work is lost for a line of the log.

    Args:
        names: the streams, `stdout` or `stderr`; both by default.
    """
    before = {name: getattr(sys, name) for name in names or ("stdout", "stderr")}
    ours = {name: stream if isinstance(stream, Lasting) else Lasting(stream) for name, stream in before.items()}
    for name, stream in ours.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in ours.items():
            if getattr(sys, name) is stream:
                setattr(sys, name, before[name])
