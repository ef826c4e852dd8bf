"""A file of finished answers, one a line, which survives whatever kills its writers, and serves several at once."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

from nlft.errors import NLFTError, Problem, ProblemsError, UserError, display_path
from nlft.models.answerer import Generated, Reason
from nlft.models.exchange import tell

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: a ledger is then for one process at a time
    fcntl = None

_START = b'{"hash": "'  # of every line
_CLAIMS = 65_536  # a lock for each hash would be too many for the kernel's list
_MOST_PROBLEMS = 20


class NotKept(NLFTError):
    """The ledger cannot be written; to go on would be to pay for answers and lose them."""


@dataclass(frozen=True)
class Entry:
    """One line of a ledger.

    Attributes:
        hash: of everything that the answer depends on; see `request_hash`.
        request: the request's key, for people.
        at: when it was finished, UTC, ISO 8601.
        cost: None where no prices were given.
    """

    hash: str
    request: str
    at: str
    cost: float | None
    answer: Generated

    def line(self) -> bytes:
        """The entry as its line, which begins with `_START`."""
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_entry(line: bytes) -> Entry:
    """An entry from its line.

    Raises:
        ValueError: it is none; the message says why.
    """
    data = json.loads(line)
    try:
        answer = Generated(**data.pop("answer"))
        entry = Entry(**data, answer=answer)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its fields are not a ledger's: {error}") from error
    numbers = (answer.tokens, answer.prompt_tokens, 0 if entry.cost is None else entry.cost)
    strings = (entry.hash, entry.request, answer.text)
    if not all(isinstance(v, str) for v in strings) or not all(isinstance(v, int | float) for v in numbers):
        raise ValueError("a field is of another type")
    if answer.finish_reason not in get_args(Reason):
        raise ValueError(f'"finish_reason" is {answer.finish_reason!r}')
    return entry


class Ledger:
    """A file of finished answers, one a line, which several processes may read and append to."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: need not exist; nothing is written before the first answer or claim.

        Raises:
            ProblemsError: lines that are no entries.
            UserError: the file cannot be read.
        """
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._read = self._lines = 0  # bytes and whole lines taken in so far
        self._locks: int | None = None
        self._lockable = fcntl is not None
        self.refresh()

    def __contains__(self, hash: str) -> bool:
        return hash in self._entries

    def __getitem__(self, hash: str) -> Generated:
        return self._entries[hash].answer

    def entries(self) -> list[Entry]:
        """All of them, as they were finished."""
        return list(self._entries.values())

    def refresh(self) -> None:
        """Take in what has been appended since, by whomever."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                *lines, torn = file.read().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{self}: cannot be read: {error.strerror}.\n  Give another --ledger.") from error
        problems = [p for number, line in enumerate(lines, self._lines + 1) if (p := self._take(line, number))]
        # A last line without its end was cut off by a crash, or lacks nothing else: that is an answer too.
        if torn and (problem := self._take(torn, self._lines + len(lines) + 1)) and not _cut_off(torn):
            problems.append(problem)
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            rest = [Problem(str(self), f"has {more} more such lines", problems[0].cure)] if more > 0 else []
            raise ProblemsError(problems[:_MOST_PROBLEMS] + rest)
        self._read += sum(map(len, lines)) + len(lines)
        self._lines += len(lines)

    def _take(self, line: bytes, number: int) -> Problem | None:
        if not line.strip():
            return None
        try:
            entry = parse_entry(line)
        except (ValueError, RecursionError) as error:
            cure = "Mend or remove the line (what it held is then asked for again), or give another --ledger."
            return Problem(f"{self}:{number}", f"is no entry of a ledger: {error}", cure)
        self._entries.setdefault(entry.hash, entry)
        return None

    def append(self, entries: Sequence[Entry]) -> None:
        """Write entries and see them to the disk. One write for all, so that a crash can tear only the last line.

        The disk is waited for each time: milliseconds, beside seconds for a server's answer or a local batch.

        Raises:
            NotKept: the file cannot be written.
        """
        data = b"".join(entry.line() for entry in entries)
        try:
            with self._appending() as file:
                if os.write(file, data) < len(data):
                    raise OSError(0, "the disk is full")
                os.fsync(file)
        except OSError as error:
            raise self._not_kept(error) from error
        self._entries.update((entry.hash, entry) for entry in entries)

    @contextmanager
    def _appending(self) -> Iterator[int]:
        """The file, open, its last line whole, and nobody else's for as long."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self._lock(0, wait=True)
            self._mend(file)
            yield file
        finally:
            self._unlock(0, 1)
            os.close(file)

    def _mend(self, file: int) -> None:
        """End a last line that has no end, or drop it if it was cut off: the next one must not join it."""
        size = os.fstat(file).st_size
        if size == 0 or _read_from(file, size - 1) == b"\n":
            return
        torn = _read_from(file, min(self._read, size)).rpartition(b"\n")[2]
        if _cut_off(torn):
            os.ftruncate(file, size - len(torn))
            tell(f"{self}: its last line was cut off and is dropped ({len(torn)} bytes); what it held is asked again.")
        else:
            os.write(file, b"\n")

    def claim(self, hash: str) -> bool:
        """Whether this process may ask; False while another one holds that claim.

        Two hashes in 65,536 share one, which costs a moment's waiting and no more.
        """
        return self._lock(1 + int(hash[:4], 16) % _CLAIMS, wait=False)

    def release(self) -> None:
        """Give up all claims."""
        self._unlock(1, _CLAIMS)

    def _lock(self, at: int, *, wait: bool) -> bool:
        """Lock one byte of a side file: closing the ledger itself would drop locks on it."""
        if fcntl is None or not self._lockable:
            return True
        if self._locks is None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._locks = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise self._not_kept(error) from error
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, at)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:  # some network disks know no locks
            self._lockable = False
            tell(f"{self}: cannot be locked ({error.strerror}); let only one process at a time use it.")
        return True

    def _unlock(self, at: int, count: int) -> None:
        if fcntl is not None and self._lockable and self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, count, at)

    def _not_kept(self, error: OSError) -> NotKept:
        cure = "Make room or give another --ledger, and run again."
        return NotKept(f"{self}: cannot be written: {error.strerror}.\n  {cure}")

    def __str__(self) -> str:
        return display_path(self.path)


def _read_from(file: int, start: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    data = b""
    while block := os.read(file, 1 << 20):
        data += block
    return data


def _cut_off(line: bytes) -> bool:
    """Whether a line without an end is the beginning of an entry; what else stands there is never thrown away."""
    try:
        parse_entry(line)
    except (ValueError, RecursionError):
        return line.startswith(_START) or _START.startswith(line)
    return False
