"""Many requests under way at once: paced, repeated where an attempt failed, given up where a server is gone.

It knows requests, answers and failed attempts; how an attempt is made is `server_model`'s.
"""

import asyncio
import random
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Literal

from tqdm import tqdm

from nlft.errors import NLFTError, UserError
from nlft.models.answerer import Generated, Request

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds, where the server does not say
LONGEST_PAUSE = 600.0  # seconds, where it does; who asks for more is as good as closed
EMPTY_REPEATS = 2
GIVE_UP_AFTER = 10  # failures in a row that are not the requests' own

Attempt = Callable[[Request], Awaitable[Generated]]
Blame = Literal["request", "server", "account"]


class AttemptFailed(Exception):
    """An attempt that brought no answer.

    Attributes:
        why: for the user, without secrets.
        cure: what the user can do about it; without secrets.
        again: whether another attempt may bring an answer.
        wait: seconds that the server asks for; None if it does not say.
        blame: `request` if others may well succeed; `account` if key, model or address are refused.
    """

    def __init__(self, why: str, cure: str, *, again: bool, wait: float | None = None, blame: Blame = "server") -> None:
        super().__init__(why)
        self.why, self.cure, self.again, self.wait, self.blame = why, cure, again, wait, blame


@dataclass(frozen=True)
class Pace:
    """How hard a server is worked.

    Attributes:
        timeout: seconds that an attempt may take.
        tokens: of a request, as `tokens_per_minute` counts them.
    """

    concurrency: int
    max_retries: int
    timeout: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    tokens: Callable[[Request], int]


class Exchange:
    """Requests and their answers. It runs in a thread of its own, so that time-outs run on while the caller is busy
    with an answer, and so that it works inside a notebook's event loop."""

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Attempt]],
        requests: Sequence[Request],
        pace: Pace,
        server: str,
    ) -> None:
        """
        Args:
            connect: opens what attempts are made with; an attempt raises `AttemptFailed`.
            server: what to call it.
        """
        self._connect, self._requests, self._pace, self._server = connect, requests, pace, server
        self._finished: SimpleQueue[tuple[int, Generated] | None] = SimpleQueue()
        self._failed: dict[int, AttemptFailed] = {}
        self._answered = self._in_a_row = self._not_asked = 0
        self._closed = self._cancelled = False
        self._paused_until = 0.0
        self._request_turns = _Turns(pace.requests_per_minute)
        self._token_turns = _Turns(pace.tokens_per_minute)
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._error: BaseException | None = None

    def answers(self) -> Iterator[list[tuple[int, Generated]]]:
        """(index, answer) pairs as they finish.

        Raises:
            UserError: key, model or address are refused.
            NLFTError: requests failed; all others have been answered, unless the server seems to be gone.
        """
        thread = Thread(target=self._main, name="nlft-requests", daemon=True)
        thread.start()
        try:
            while (pair := self._finished.get()) is not None:
                yield [pair]
        finally:  # also on Ctrl-C, and when nobody wants the rest
            self._cancel()
            thread.join(timeout=2)
        if self._error is not None:
            raise self._error
        if self._failed:
            refused = not self._answered and all(f.blame == "account" for f in self._failed.values())
            raise (UserError if refused else NLFTError)(self._report())

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # the caller's thread raises it
            self._error = error
        finally:
            self._finished.put(None)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._running is not None:
            loop, task = self._running
            with suppress(RuntimeError):  # all is done, and the loop closed
                loop.call_soon_threadsafe(task.cancel)

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = asyncio.get_running_loop(), task
        if self._cancelled:
            return
        todo = iter(range(len(self._requests)))
        async with self._connect() as attempt, asyncio.TaskGroup() as group:
            for _ in range(min(self._pace.concurrency, len(self._requests))):
                group.create_task(self._work(attempt, todo))

    async def _work(self, attempt: Attempt, todo: Iterator[int]) -> None:
        for index in todo:
            if self._closed:
                self._not_asked += 1
                continue
            try:
                answer = await self._ask(attempt, self._requests[index])
            except AttemptFailed as failure:
                self._note(index, failure)
            else:
                self._answered += 1
                self._in_a_row = 0
                self._finished.put((index, answer))

    def _note(self, index: int, failure: AttemptFailed) -> None:
        self._failed[index] = failure
        if failure.blame == "request":
            return
        self._in_a_row += 1
        most = max(GIVE_UP_AFTER, self._pace.concurrency)
        self._closed |= self._in_a_row >= most or (failure.blame == "account" and not self._answered)

    async def _ask(self, attempt: Attempt, request: Request) -> Generated:
        """One request's answer, after as many attempts as it takes and as are allowed."""
        empty = 0
        for number in range(self._pace.max_retries + 1):
            await self._turn(request)
            last = number == self._pace.max_retries
            wait = None
            try:
                answer = await self._attempt(attempt, request)
            except AttemptFailed as failure:
                wait = failure.wait
                if last or not failure.again or (wait or 0) > LONGEST_PAUSE:
                    raise _after(failure, number + 1) from None
                if wait:
                    self._pause(wait, failure.why)
            else:
                empty += 1
                if answer.text or answer.finish_reason != "stop" or empty > EMPTY_REPEATS or last:
                    return answer
            if not wait:
                await asyncio.sleep(backoff(number))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, attempt: Attempt, request: Request) -> Generated:
        try:
            async with asyncio.timeout(self._pace.timeout):
                return await attempt(request)
        except TimeoutError:
            cure = "Raise --request_timeout or lower --concurrency, if the server is only slow."
            raise AttemptFailed(f"no answer within {self._pace.timeout:g} s", cure, again=True) from None

    async def _turn(self, request: Request) -> None:
        """Wait until another attempt may be made."""
        clock = asyncio.get_running_loop().time
        while True:
            while (rest := self._paused_until - clock()) > 0:
                await asyncio.sleep(rest * (1 + random.random() / 10))
            await self._request_turns.wait(1)
            await self._token_turns.wait(self._pace.tokens(request) if self._pace.tokens_per_minute else 0)
            if self._paused_until <= clock():
                return

    def _pause(self, seconds: float, why: str) -> None:
        """Nobody asks for so long: what one request is told holds for all."""
        until = asyncio.get_running_loop().time() + seconds
        if seconds >= 5 and until > self._paused_until + 1:
            tell(f"{self._server}: {why}; waiting {seconds:.0f} s, as it asks.")
        self._paused_until = max(self._paused_until, until)

    def _report(self) -> str:
        """What failed, and why, and how to mend it."""
        alike: dict[str, list[str]] = defaultdict(list)
        for index, failure in sorted(self._failed.items()):
            alike[failure.why].append(self._requests[index].key)
        rest = f", and {self._not_asked} more were not asked" if self._not_asked else ""
        lines = [f"{len(self._failed)} of {len(self._requests)} requests to {self._server} failed{rest}:"]
        lines += [f"  {_listed(keys)}: {why}" for why, keys in alike.items()]
        lines += [f"  {cure}" for cure in dict.fromkeys(f.cure for f in self._failed.values())]
        return "\n".join(lines)


class _Turns:
    """Spaces things out evenly, so that no minute holds more than its share; the first one neither."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 60 / per_minute if per_minute else 0.0
        self._free = 0.0

    async def wait(self, amount: float) -> None:
        now = asyncio.get_running_loop().time()
        start = max(now, self._free)
        self._free = start + amount * self._seconds
        if start > now:
            await asyncio.sleep(start - now)


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures before this one: doubling, between half and all of it, so that requests
    that failed together do not come back together."""
    return float(min(FIRST_WAIT * 2 ** min(failures, 30), LONGEST_WAIT) * random.uniform(0.5, 1))


def tell(note: str) -> None:
    """A line on standard error that spares a progress bar."""
    tqdm.write(note, file=sys.stderr)


def _after(failure: AttemptFailed, attempts: int) -> AttemptFailed:
    why = f"{failure.why} (after {attempts} attempts)" if attempts > 1 else failure.why
    if (failure.wait or 0) > LONGEST_PAUSE:
        why += f" (it asks to be left alone for {failure.wait:.0f} s)"
    return AttemptFailed(why, failure.cure, again=False, blame=failure.blame)


def _listed(keys: Sequence[str], most: int = 5) -> str:
    named = ", ".join(keys[:most])
    return named if len(keys) <= most else f"{named} and {len(keys) - most} more"
