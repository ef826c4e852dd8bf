"""The ledger of calls: no finished answer is asked for twice, whatever ended the run that asked.

Answers are appended as they come, and a rerun reads them first. Processes that share a ledger share the answers: each
claims what it asks for, by locks that the operating system drops when their holder dies.
"""

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nlft.core.prompts import as_messages
from nlft.errors import NLFTError, UserError
from nlft.models.answerer import Answerer, Generated, Request, estimated_tokens
from nlft.models.exchange import tell
from nlft.models.ledger_file import Entry, Ledger, NotKept
from nlft.models.settings import CallSettings

_POLL = 0.2  # seconds between looks at what another process has finished
_LIMITS = hashlib.sha256(b"limits").hexdigest()  # claimed by whoever asks under a limit


class LimitReached(NLFTError):
    """--max_requests or --max_cost would be crossed; everything answered so far is in the ledger."""


class DryRun(NLFTError):
    """Nothing was asked, as --dry_run wants it; the message is the estimate."""


@dataclass(frozen=True)
class Estimate:
    """What a run would ask for.

    Attributes:
        requests: all; `logged` of them are in the ledger already.
        prompt_tokens: of the others, about; estimated without a tokenizer, rather too high.
        new_tokens: of the others, at most.
        cost: of the others, at most, as far as `prompt_tokens` is right; None without prices.
    """

    requests: int
    logged: int
    prompt_tokens: int
    new_tokens: int
    cost: float | None

    def __str__(self) -> str:
        price = "unknown; give --price_per_million_input and --price_per_million_output"
        return (
            f"dry run: {self.requests:,} requests, {self.logged:,} of them answered in the ledger, "
            f"{self.requests - self.logged:,} to ask\n"
            f"tokens: about {self.prompt_tokens:,} in prompts, at most {self.new_tokens:,} generated\n"
            f"cost: {price if self.cost is None else f'at most about {self.cost:.4f}'}"
        )


def request_hash(identity: dict[str, Any], request: Request) -> str:
    """A name for all that an answer depends on: who answers, what is asked, and the request's key."""
    content = [identity, as_messages(request.prompt), request.key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Ledgered:
    """An answerer that asks another only for what the ledger does not hold."""

    def __init__(self, inner: Answerer, ledger: Ledger, calls: CallSettings) -> None:
        self.inner = inner
        self.ledger = ledger
        self.calls = calls

    @property
    def identity(self) -> dict[str, Any]:
        """The other answerer's."""
        return self.inner.identity

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Generated]]]:
        """What is in the ledger at once, then the rest as it finishes; each is in the ledger before it is yielded.

        Equal requests are asked once. What another process is asking for is waited for.

        Raises:
            DryRun: instead of anything else, if the settings ask for it.
            LimitReached: the rest could cross --max_requests or --max_cost.
            NLFTError: requests failed, and all others are answered.
        """
        if self.calls.dry_run:
            raise DryRun(str(self.estimate(requests)))
        asking = _Asking(self, requests)
        while asking.wanted:
            if logged := asking.logged():
                yield logged
                continue
            batch = asking.claim()
            try:
                if batch:
                    yield from asking.ask(batch)
                else:
                    asking.wait()
            finally:
                self.ledger.release()
        asking.check()

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        """What `answer` would ask for; asks nothing."""
        self.ledger.refresh()
        identity = self.identity
        unlike = {request_hash(identity, request): request for request in requests}
        left = [request for hash, request in unlike.items() if hash not in self.ledger]
        prompt_tokens, new_tokens = sum(map(self.prompt_tokens, left)), len(left) * self.most_new_tokens
        cost = self.calls.cost(prompt_tokens, new_tokens)
        return Estimate(len(unlike), len(unlike) - len(left), prompt_tokens, new_tokens, cost)

    @property
    def most_new_tokens(self) -> int:
        """The longest answer there can be."""
        return int(self.identity["max_new_tokens"])

    def prompt_tokens(self, request: Request) -> int:
        """About how many tokens a request's prompt has, system prompt included."""
        return estimated_tokens(as_messages(request.prompt, system_prompt=self.identity.get("system_prompt")))

    def entry(self, hash: str, request: Request, answer: Generated) -> Entry:
        """A finished answer's line; a server that does not count tokens is charged with an estimate."""
        said = estimated_tokens([{"content": answer.text}]) if answer.text else 0
        cost = self.calls.cost(answer.prompt_tokens or self.prompt_tokens(request), answer.tokens or said)
        return Entry(hash, request.key, datetime.now(UTC).isoformat(timespec="seconds"), cost, answer)

    def affordable(self, requests: Sequence[Request]) -> int:
        """How many of the requests, from the first, cross no limit even at their longest.

        Answers vary in length: more may turn out to be affordable when these are finished.
        """
        calls, entries = self.calls, self.ledger.entries()
        count = len(requests)
        if calls.max_requests is not None:
            count = min(count, max(0, calls.max_requests - len(entries)))
        if calls.max_cost is None:
            return count
        left = calls.max_cost - self.spent()
        for number, request in enumerate(requests[:count]):
            left -= calls.cost(self.prompt_tokens(request), self.most_new_tokens) or 0
            if left < 0:
                return number
        return count

    def spent(self) -> float:
        """What the ledger's answers cost; those that were logged without prices, by today's."""
        return sum(
            (self.calls.cost(e.answer.prompt_tokens, e.answer.tokens) or 0) if e.cost is None else e.cost
            for e in self.ledger.entries()
        )


class _Asking:
    """One call of `Ledgered.answer`.

    Attributes:
        wanted: hash → indexes of the requests that still want this answer.
    """

    def __init__(self, ledgered: Ledgered, requests: Sequence[Request]) -> None:
        self._ledgered = ledgered
        self._ledger = ledgered.ledger
        self._requests = requests
        self._failures: list[NLFTError] = []
        self._told = False
        self.wanted: dict[str, list[int]] = defaultdict(list)
        identity = ledgered.identity
        for index, request in enumerate(requests):
            self.wanted[request_hash(identity, request)].append(index)
        self._total = len(self.wanted)
        self._ledger.refresh()

    def logged(self) -> list[tuple[int, Generated]]:
        """What the ledger holds of what is wanted; it is no longer wanted then."""
        found = [hash for hash in self.wanted if hash in self._ledger]
        return [pair for hash in found for pair in self._answered(hash, self._ledger[hash])]

    def claim(self) -> list[str]:
        """What this process is now to ask for: wanted, claimed by no other, not in the ledger, within the limits."""
        calls, ledger = self._ledgered.calls, self._ledger
        limited = calls.max_requests is not None or calls.max_cost is not None
        if limited and not ledger.claim(_LIMITS):
            return []  # two that each keep below a limit may cross it together
        free = [hash for hash in self.wanted if ledger.claim(hash)]
        ledger.refresh()  # claims are given up after their answers are written
        free = [hash for hash in free if hash not in ledger]
        count = self._ledgered.affordable([self._first(hash) for hash in free])
        if free and not count:
            ledger.release()
            raise LimitReached("\n".join([*map(str, self._failures), self._limit()]))
        return free[:count]

    def ask(self, batch: list[str]) -> Iterator[list[tuple[int, Generated]]]:
        """Ask for what has been claimed. A failure is kept for `check`, unless nothing at all was answered."""
        before = len(self.wanted)
        coming = self._ledgered.inner.answer([self._first(hash) for hash in batch])
        try:
            for answers in coming:
                finished = [(batch[at], answer) for at, answer in answers]
                entries = [self._ledgered.entry(hash, self._first(hash), answer) for hash, answer in finished]
                self._ledger.append(entries)
                yield [pair for hash, answer in finished for pair in self._answered(hash, answer)]
        except (UserError, NotKept):
            raise
        except NLFTError as error:
            self._failures.append(error)
            if len(self.wanted) == before:
                self.check()
            for hash in batch:
                self.wanted.pop(hash, None)
        finally:
            if isinstance(coming, Generator):
                coming.close()  # it may be asking still

    def wait(self) -> None:
        """Give another process time to finish what it has claimed."""
        if not self._told:
            tell(f"waiting for {len(self.wanted)} answers that another process is asking for ({self._ledger})")
            self._told = True
        time.sleep(_POLL)
        self._ledger.refresh()

    def check(self) -> None:
        """Raise what failed."""
        if self._failures:
            kept = (
                f"  What was answered is in {self._ledger}: run the same command again, and only the rest is asked for."
            )
            raise NLFTError("\n".join([*map(str, self._failures), kept])) from self._failures[0]

    def _first(self, hash: str) -> Request:
        return self._requests[self.wanted[hash][0]]

    def _answered(self, hash: str, answer: Generated) -> list[tuple[int, Generated]]:
        return [(index, answer) for index in self.wanted.pop(hash)]

    def _limit(self) -> str:
        calls = self._ledgered.calls
        entries = self._ledger.entries()
        got = f"{self._total - len(self.wanted)} of {self._total} answers are there, all in {self._ledger}"
        if calls.max_requests is not None and len(entries) >= calls.max_requests:
            reached = f"--max_requests {calls.max_requests} is reached"
        else:
            spent = self._ledgered.spent()
            reached = f"--max_cost {calls.max_cost:g} could be crossed by the next request: {spent:.4f} is spent"
        return f"{reached}; {got}.\n  Raise the limit and run the same command again: it goes on from there."
