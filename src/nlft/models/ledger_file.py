"""Store finished answers in a file, one per line. Writers may crash, and several processes can share the file."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import get_args

from nlft.errors import NLFTError, Problem, ProblemsError, UserError, display_path
from nlft.files import refuse_waiting_file, sync_folder
from nlft.models.answerer import Generated, Reason
from nlft.models.exchange import tell

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: only one process at a time may use a ledger
    fcntl = None

_START = b'{"hash": "'  # every line starts with this
_CLAIMS = 65_536  # number of locks; one lock per hash would be too many for the kernel's list
_MOST_PROBLEMS = 20


class NotKept(NLFTError):
    """The ledger cannot be written. The run stops, because further answers would be paid for and lost."""


@dataclass(frozen=True)
class Entry:
    """One line of a ledger.

    Attributes:
        hash: hash of everything that the answer depends on; see `request_hash`.
        request: the request's key, for human readers.
        at: time when the answer finished, UTC, ISO 8601.
        cost: cost of the request, in the currency of the prices; None without prices.
    """

    hash: str
    request: str
    at: str
    cost: float | None
    answer: Generated

    def line(self) -> bytes:
        """Return the entry as one line of the file. The line starts with `_START`."""
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_entry(line: bytes) -> Entry:
    """Read an entry from its line.

    Raises:
        ValueError: the line is not an entry. The message gives the reason.
    """
    data = json.loads(line)
    try:
        answer = Generated(**data.pop("answer"))
        entry = Entry(**data, answer=answer)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its fields are not those of a ledger: {error}") from error
    numbers = (answer.tokens, answer.prompt_tokens, 0 if entry.cost is None else entry.cost)
    strings = (entry.hash, entry.request, answer.text)
    if not all(isinstance(v, str) for v in strings) or not all(isinstance(v, int | float) for v in numbers):
        raise ValueError("a field has the wrong type")
    if answer.finish_reason not in get_args(Reason):
        raise ValueError(f'"finish_reason" is {answer.finish_reason!r}')
    return entry


class Ledger:
    """A file of finished answers, one per line. Several processes may read it and append to it."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: the ledger's file. It need not exist: the first answer or claim creates it.

        Raises:
            ProblemsError: some lines are not entries.
            UserError: the file cannot be read.
        """
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._read = self._lines = 0  # bytes and whole lines read so far
        self._locks: int | None = None
        self._lockable = fcntl is not None
        self.refresh()

    def __contains__(self, hash: str) -> bool:
        return hash in self._entries

    def __getitem__(self, hash: str) -> Generated:
        return self._entries[hash].answer

    def entries(self) -> list[Entry]:
        """Return all entries, in the order in which they finished."""
        return list(self._entries.values())

    def refresh(self) -> None:
        """Read the lines that any process has appended since the last read."""
        try:
            refuse_waiting_file(self.path)
            with self.path.open("rb") as file:
                file.seek(self._read)
                *lines, torn = file.read().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"cannot read {self}: {error.strerror}.\n  Give another --ledger.") from error
        problems = [p for number, line in enumerate(lines, self._lines + 1) if (p := self._take(line, number))]
        # A crash may cut off the last line. If only its newline is missing, the line is still an answer.
        if torn and (problem := self._take(torn, self._lines + len(lines) + 1)) and not _cut_off(torn):
            problems.append(problem)
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            rest = (
                [Problem(str(self), f"has {more} more lines with this problem", problems[0].cure)] if more > 0 else []
            )
            raise ProblemsError(problems[:_MOST_PROBLEMS] + rest)
        self._read += sum(map(len, lines)) + len(lines)
        self._lines += len(lines)

    def _take(self, line: bytes, number: int) -> Problem | None:
        if not line.strip():
            return None
        try:
            entry = parse_entry(line)
        except (ValueError, RecursionError) as error:
            cure = "Fix or remove the line, or give another --ledger. The answer of a removed line is asked for again."
            return Problem(f"{self}:{number}", f"is not an entry of a ledger: {error}", cure)
        self._entries.setdefault(entry.hash, entry)
        return None

    def append(self, entries: Sequence[Entry]) -> None:
        """Append entries in one write, so that a crash can cut off only the last line.

        Wait for the disk each time. That takes milliseconds; an answer or a local batch takes seconds.

        Raises:
            NotKept: the file cannot be written.
        """
        data = b"".join(entry.line() for entry in entries)
        try:
            with self._appending() as file:
                if os.write(file, data) < len(data):
                    raise OSError(0, "the disk is full")
                os.fsync(file)
                if os.fstat(file).st_size == len(data):  # the file may be new
                    sync_folder(self.path.parent)
        except OSError as error:
            raise self._not_kept(error) from error
        self._entries.update((entry.hash, entry) for entry in entries)

    @contextmanager
    def _appending(self) -> Iterator[int]:
        """Open the file for appending. Lock out other writers, and complete or drop a torn last line first."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        refuse_waiting_file(self.path)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            self._lock(0, wait=True)
            self._repair_last_line(file)
            yield file
        finally:
            self._unlock(0, 1)
            os.close(file)

    def _repair_last_line(self, file: int) -> None:
        """Add a missing newline to the last line, or drop a line that was cut off. The next line must not join it."""
        size = os.fstat(file).st_size
        if size == 0 or _read_from(file, size - 1) == b"\n":
            return
        torn = _read_from(file, min(self._read, size)).rpartition(b"\n")[2]
        if _cut_off(torn):
            os.ftruncate(file, size - len(torn))
            tell(f"{self}: dropped the last line ({len(torn)} bytes), which was cut off. Its answer is asked again.")
        else:
            os.write(file, b"\n")

    def claim_answer(self, hash: str) -> bool:
        """Claim the right to ask for this answer. Return False while another process holds the claim.

        There are 65,536 locks. Two hashes may share one, and then one process only waits a moment longer.
        """
        return self._lock(1 + int(hash[:4], 16) % _CLAIMS, wait=False)

    def release_claims(self) -> None:
        """Release all claims of this process."""
        self._unlock(1, _CLAIMS)

    def _lock(self, at: int, *, wait: bool) -> bool:
        """Lock one byte of a side file. (Closing the ledger itself would drop locks on the ledger.)"""
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
        except OSError as error:  # some network disks do not support locks
            self._lockable = False
            tell(f"cannot lock {self}: {error.strerror}. Let only one process at a time use it.")
        return True

    def _unlock(self, at: int, count: int) -> None:
        if fcntl is not None and self._lockable and self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, count, at)

    def _not_kept(self, error: OSError) -> NotKept:
        cure = "Make room or give another --ledger, and run the command again."
        return NotKept(f"cannot write {self}: {error.strerror}.\n  {cure}")

    def __str__(self) -> str:
        return display_path(self.path)


def _read_from(file: int, start: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)
    data = b""
    while block := os.read(file, 1 << 20):
        data += block
    return data


def _cut_off(line: bytes) -> bool:
    """Whether a line without a newline is the start of an entry. Other text is never dropped."""
    try:
        parse_entry(line)
    except (ValueError, RecursionError):
        return line.startswith(_START) or _START.startswith(line)
    return False
