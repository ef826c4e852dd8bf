"""Send many requests at once: pace them, retry failed attempts, give up if the server is gone.

This module handles requests, answers and failed attempts. `models/server.py` makes the attempts.
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
from nlft.models.answerer import CompletionRequest, Generated

FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts, if the server asks for no wait
LONGEST_PAUSE = 600.0  # seconds; if the server asks for a longer wait, treat it as closed
EMPTY_REPEATS = 2
# Failures in a row for which the server or the account is to blame, or refusals in the same words before any answer.
GIVE_UP_AFTER = 10

Attempt = Callable[[CompletionRequest], Awaitable[Generated]]
Blame = Literal["request", "server", "account"]


class AttemptFailed(Exception):
    """An attempt failed to bring an answer.

    Attributes:
        why: the reason, for the user, without secrets.
        cure: what the user can do about it, without secrets.
        again: whether another attempt may succeed.
        wait: seconds that the server asks to wait; None if the server gives no time.
        blame: `request` if other requests may still succeed; `account` if the server refuses the key, the model or the
            address; else `server`.
    """

    def __init__(self, why: str, cure: str, *, again: bool, wait: float | None = None, blame: Blame = "server") -> None:
        super().__init__(why)
        self.why, self.cure, self.again, self.wait, self.blame = why, cure, again, wait, blame


@dataclass(frozen=True)
class Pace:
    """Limits on the load that requests put on a server.

    Attributes:
        timeout: seconds that one attempt may take.
        tokens: returns the number of tokens of a request, as `tokens_per_minute` counts them.
    """

    concurrency: int
    max_retries: int
    timeout: float
    requests_per_minute: float | None
    tokens_per_minute: float | None
    tokens: Callable[[CompletionRequest], int]


class Exchange:
    """Sends requests and collects their answers in a separate thread.

    Because of the thread, time-outs keep running while the caller processes an answer, and an Exchange can be used
    inside a notebook's event loop.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[Attempt]],
        requests: Sequence[CompletionRequest],
        pace: Pace,
        server: str,
    ) -> None:
        """
        Args:
            connect: opens the connection. Its value makes one attempt, and raises `AttemptFailed` if the attempt fails.
            server: name of the server in messages.
        """
        self._connect, self._requests, self._pace, self._server = connect, requests, pace, server
        self._finished: SimpleQueue[tuple[int, Generated] | None] = SimpleQueue()
        self._failed: dict[int, AttemptFailed] = {}
        self._answered = self._in_a_row = self._not_asked = 0
        self._reasons: set[str] = set()  # of the failures
        self._closed = self._cancelled = self._told = False
        self._paused_until = 0.0
        self._request_turns = _Turns(pace.requests_per_minute)
        self._token_turns = _Turns(pace.tokens_per_minute)
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._error: BaseException | None = None

    def answers(self) -> Iterator[list[tuple[int, Generated]]]:
        """Yield (index, answer) pairs as they finish.

        Raises:
            UserError: the server refuses key, model or address.
            NLFTError: requests failed. All other requests have been answered, unless the server seems to be gone.
        """
        thread = Thread(target=self._main, name="nlft-requests", daemon=True)
        thread.start()
        try:
            while (pair := self._finished.get()) is not None:
                yield [pair]
        finally:  # also after Ctrl-C, and if the caller stops early
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
            with suppress(RuntimeError):  # the work is done and the loop is closed
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
        self._reasons.add(failure.why)
        most = max(GIVE_UP_AFTER, self._pace.concurrency)
        if failure.blame == "request":
            # What the server says alike of every question is not about the questions.
            self._closed |= not self._answered and len(self._reasons) == 1 and len(self._failed) >= most
            return
        self._in_a_row += 1
        self._closed |= self._in_a_row >= most or (failure.blame == "account" and not self._answered)

    async def _ask(self, attempt: Attempt, request: CompletionRequest) -> Generated:
        """Answer one request, in at most `max_retries` + 1 attempts."""
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
                self._tell_first(failure)
            else:
                empty += 1
                if answer.text or answer.finish_reason in ("length", "content_filter") or empty > EMPTY_REPEATS or last:
                    return answer
            if not wait:
                await asyncio.sleep(backoff(number))
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, attempt: Attempt, request: CompletionRequest) -> Generated:
        try:
            async with asyncio.timeout(self._pace.timeout):
                return await attempt(request)
        except TimeoutError:
            cure = "If the server is only slow, raise --request_timeout or lower --concurrency."
            raise AttemptFailed(f"no answer within {self._pace.timeout:g} s", cure, again=True) from None

    async def _turn(self, request: CompletionRequest) -> None:
        """Wait until the pace allows another attempt."""
        clock = asyncio.get_running_loop().time
        while True:
            while (rest := self._paused_until - clock()) > 0:
                await asyncio.sleep(rest * (1 + random.random() / 10))
            await self._request_turns.wait(1)
            await self._token_turns.wait(self._pace.tokens(request) if self._pace.tokens_per_minute else 0)
            if self._paused_until <= clock():
                return

    def _pause(self, seconds: float, why: str) -> None:
        """Send no requests for this time. If the server asks one request to wait, all requests wait."""
        until = asyncio.get_running_loop().time() + seconds
        if seconds >= 5 and until > self._paused_until + 1:
            tell(f"{self._server}: {why}. The server asks to wait: waiting {seconds:.0f} s.")
            self._told = True
        self._paused_until = max(self._paused_until, until)

    def _tell_first(self, failure: AttemptFailed) -> None:
        """Tell of the first failure at once: with all retries, the report at the end may be minutes away."""
        if not self._told:
            why = failure.why.rstrip(".")
            tell(f"{self._server}: {why}. Trying again (--max_retries {self._pace.max_retries}).\n  {failure.cure}")
            self._told = True

    def _report(self) -> str:
        """Report which requests failed, the reasons, and what the user can do."""
        alike: dict[str, list[str]] = defaultdict(list)
        for index, failure in sorted(self._failed.items()):
            alike[failure.why].append(self._requests[index].key)
        rest = f" ({self._not_asked} more were not sent)" if self._not_asked else ""
        lines = [f"{len(self._failed)} of {len(self._requests)} requests to {self._server} failed{rest}:"]
        lines += [f"  {_listed(keys)}: {why}" for why, keys in alike.items()]
        lines += [f"  {cure}" for cure in dict.fromkeys(f.cure for f in self._failed.values())]
        return "\n".join(lines)


class _Turns:
    """Spaces events evenly, so that every minute, even the first, stays within the limit."""

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
    """Seconds to wait after a failure. The wait doubles with each earlier failure.

    A random factor between 0.5 and 1 keeps requests that failed together from coming back together.

    Args:
        failures: number of failures before this one.
    """
    return float(min(FIRST_WAIT * 2 ** min(failures, 30), LONGEST_WAIT) * random.uniform(0.5, 1))


def tell(note: str) -> None:
    """Print a line on standard error without breaking a progress bar."""
    tqdm.write(note, file=sys.stderr)


def _after(failure: AttemptFailed, attempts: int) -> AttemptFailed:
    why = f"{failure.why} (after {attempts} attempts)" if attempts > 1 else failure.why
    if (failure.wait or 0) > LONGEST_PAUSE:
        why += f" (the server asks to wait {failure.wait:.0f} s)"
    return AttemptFailed(why, failure.cure, again=False, blame=failure.blame)


def _listed(keys: Sequence[str], most: int = 5) -> str:
    named = ", ".join(keys[:most])
    return named if len(keys) <= most else f"{named} and {len(keys) - most} more"
