"""Never ask twice for a finished answer, even if the first run crashed.

A run appends answers to the ledger as they come, and a rerun reads them first. Processes can share a ledger and its
answers. Each process claims the answers that it asks for. A claim is a lock, and the operating system drops it when the
process dies.
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
from nlft.models.answerer import Answerer, CompletionRequest, Generated, estimated_prompt_tokens, estimated_tokens
from nlft.models.exchange import tell
from nlft.models.ledger_file import Entry, Ledger, NotKept
from nlft.models.settings import BackendSettings, CallSettings

_POLL = 0.2  # seconds between two reads of another process's answers
_LIMITS = hashlib.sha256(b"limits").hexdigest()  # a process that asks under a limit claims this hash


class LimitReached(NLFTError):
    """The next request could exceed --max_requests or --max_cost. The ledger holds every answer so far."""


class DryRun(NLFTError):
    """No request was sent, because --dry_run is set. The message is the estimate."""


@dataclass(frozen=True)
class Estimate:
    """The requests that a run would send, and their cost.

    Attributes:
        requests: number of different requests.
        logged: number of these requests whose answers are in the ledger.
        prompt_tokens: estimated prompt tokens of the other requests. No tokenizer is used, and the estimate is high.
        new_tokens: upper bound on the tokens that the other requests generate.
        cost: upper bound on the cost of the other requests, if `prompt_tokens` is right; None without prices.
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
            f"{self.requests - self.logged:,} to send\n"
            f"tokens: about {self.prompt_tokens:,} in prompts, at most {self.new_tokens:,} generated\n"
            f"cost: {price if self.cost is None else f'at most about {self.cost:.4f}'}"
        )


def request_hash(identity: dict[str, Any], request: CompletionRequest) -> str:
    """Return a SHA-256 of all that an answer depends on: the answerer's identity, the prompt and the request's key."""
    content: list[Any] = [identity, as_messages(request.prompt), request.key]
    content += [request.inputs.as_json()] if request.inputs else []
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Ledgered:
    """An answerer that asks another answerer only for answers that the ledger lacks."""

    def __init__(
        self, inner: Answerer, ledger: Ledger, calls: CallSettings, backend: BackendSettings | None = None
    ) -> None:
        """
        Args:
            backend: the server's limits, for a judge that answers beside this model.
        """
        self.inner = inner
        self.ledger = ledger
        self.calls = calls
        self.backend = backend

    @property
    def identity(self) -> dict[str, Any]:
        """The other answerer's identity."""
        return self.inner.identity

    def hashes(self, requests: Sequence[CompletionRequest]) -> Iterator[list[str]]:
        """Yield for each request its hash, then the other hashes under which its answer may be kept.

        A server may refuse a setting. Then its identity changes while it answers; see `ServerModel.identities`.
        """
        identities = getattr(self.inner, "identities", None) or [self.identity]
        for request in requests:
            yield [request_hash(identity, request) for identity in identities]

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[list[tuple[int, Generated]]]:
        """Yield the ledger's answers first, then new answers as they finish. Write each new answer to the ledger first.

        Equal requests are sent once. If another process is asking for an answer, wait for that process.

        Raises:
            DryRun: `dry_run` is set; no request is sent.
            LimitReached: the next request could exceed --max_requests or --max_cost.
            NLFTError: requests failed. All other requests have been answered.
        """
        if self.calls.dry_run:
            raise DryRun(str(self.estimate(requests)))
        asking = _Asking(self, requests)
        while asking.wanted:
            if logged := asking.logged():
                yield logged
                continue
            batch = asking.claim_batch()
            try:
                if batch:
                    yield from asking.ask(batch)
                else:
                    asking.wait()
            finally:
                self.ledger.release_claims()
        asking.raise_failures()

    def estimate(self, requests: Sequence[CompletionRequest]) -> Estimate:
        """Estimate what `answer` would send. Send nothing."""
        self.ledger.refresh()
        unlike = {tuple(hashes): request for hashes, request in zip(self.hashes(requests), requests, strict=True)}
        left = [request for hashes, request in unlike.items() if not any(hash in self.ledger for hash in hashes)]
        prompt_tokens, new_tokens = sum(map(self.prompt_tokens, left)), len(left) * self.most_new_tokens
        cost = self.calls.cost(prompt_tokens, new_tokens)
        return Estimate(len(unlike), len(unlike) - len(left), prompt_tokens, new_tokens, cost)

    @property
    def most_new_tokens(self) -> int:
        """Maximum number of tokens in an answer."""
        return int(self.identity["max_new_tokens"])

    def prompt_tokens(self, request: CompletionRequest) -> int:
        """Estimate the number of tokens of a request's prompt, system prompt included."""
        return estimated_prompt_tokens(request, self.identity.get("system_prompt"))

    def entry(self, hash: str, request: CompletionRequest, answer: Generated) -> Entry:
        """Make the ledger's entry for a finished answer. If the server does not count tokens, use an estimate."""
        estimate = estimated_tokens([{"content": answer.text}]) if answer.text else 0
        cost = self.calls.cost(answer.prompt_tokens or self.prompt_tokens(request), answer.tokens or estimate)
        return Entry(hash, request.key, datetime.now(UTC).isoformat(timespec="seconds"), cost, answer)

    def affordable(self, requests: Sequence[CompletionRequest]) -> int:
        """Count the requests, from the first, that stay within the limits even with answers of maximum length.

        Real answers are often shorter. So more requests may be affordable when these are finished.
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
        """Return the total cost of the ledger's answers. If an entry has no cost, use today's prices."""
        return sum(
            (self.calls.cost(e.answer.prompt_tokens, e.answer.tokens) or 0) if e.cost is None else e.cost
            for e in self.ledger.entries()
        )


class _Asking:
    """One call of `Ledgered.answer`.

    Attributes:
        wanted: hash -> indexes of the requests that still wait for this answer.
    """

    def __init__(self, ledgered: Ledgered, requests: Sequence[CompletionRequest]) -> None:
        self._ledgered = ledgered
        self._ledger = ledgered.ledger
        self._requests = requests
        self._failures: list[NLFTError] = []
        self._waiting_announced = False
        self.wanted: dict[str, list[int]] = defaultdict(list)
        self._identity = ledgered.identity
        self._places: dict[str, list[str]] = {}  # a wanted answer's hash -> all hashes that it may have
        for index, hashes in enumerate(ledgered.hashes(requests)):
            self.wanted[hashes[0]].append(index)
            self._places[hashes[0]] = hashes
        self._total = len(self.wanted)
        self._ledger.refresh()

    def logged(self) -> list[tuple[int, Generated]]:
        """Take the wanted answers that the ledger holds, and remove them from `wanted`."""
        logged = [(hash, kept) for hash in self.wanted if (kept := self._kept(hash))]
        return [pair for hash, kept in logged for pair in self._answered(hash, self._ledger[kept])]

    def claim_batch(self) -> list[str]:
        """Claim hashes of answers that are wanted, not in the ledger, not claimed by others, and within the limits."""
        calls, ledger = self._ledgered.calls, self._ledger
        limited = calls.max_requests is not None or calls.max_cost is not None
        if limited and not ledger.claim_answer(_LIMITS):
            return []  # two processes that each stay below a limit could exceed it together
        free = [hash for hash in self.wanted if ledger.claim_answer(hash)]
        ledger.refresh()  # another process writes its answers before it releases its claims
        free = [hash for hash in free if not self._kept(hash)]
        count = self._ledgered.affordable([self._first(hash) for hash in free])
        if free and not count:
            ledger.release_claims()
            raise LimitReached("\n".join([*map(str, self._failures), self._limit()]))
        return free[:count]

    def ask(self, batch: list[str]) -> Iterator[list[tuple[int, Generated]]]:
        """Ask for the claimed answers. Keep a failure for `raise_failures`; raise at once if nothing was answered."""
        before = len(self.wanted)
        coming = self._ledgered.inner.answer([self._first(hash) for hash in batch])
        try:
            for answers in coming:
                finished = [(batch[at], answer) for at, answer in answers]
                entries = [self._ledgered.entry(self._now(hash), self._first(hash), a) for hash, a in finished]
                self._ledger.append(entries)
                yield [pair for hash, answer in finished for pair in self._answered(hash, answer)]
        except (UserError, NotKept):
            raise
        except NLFTError as error:
            self._failures.append(error)
            if len(self.wanted) == before:
                self.raise_failures()
            for hash in batch:
                self.wanted.pop(hash, None)
        finally:
            if isinstance(coming, Generator):
                coming.close()  # it may still be sending requests

    def wait(self) -> None:
        """Give another process time to finish the answers that it has claimed."""
        if not self._waiting_announced:
            tell(f"waiting for {len(self.wanted)} answers that another process is asking for ({self._ledger})")
            self._waiting_announced = True
        time.sleep(_POLL)
        self._ledger.refresh()

    def raise_failures(self) -> None:
        """Raise the failures that `ask` kept, if any."""
        if self._failures:
            kept = f"  The finished answers are in {self._ledger}. Run the same command again to ask for the rest only."
            raise NLFTError("\n".join([*map(str, self._failures), kept])) from self._failures[0]

    def _kept(self, hash: str) -> str | None:
        """Return the hash under which the ledger holds a wanted answer. Return None if it does not hold it."""
        return next((place for place in self._places[hash] if place in self._ledger), None)

    def _now(self, hash: str) -> str:
        """Return a wanted answer's hash under the answerer's identity, which may have changed since the start."""
        identity = self._ledgered.identity
        return hash if identity == self._identity else request_hash(identity, self._first(hash))

    def _first(self, hash: str) -> CompletionRequest:
        return self._requests[self.wanted[hash][0]]

    def _answered(self, hash: str, answer: Generated) -> list[tuple[int, Generated]]:
        return [(index, answer) for index in self.wanted.pop(hash)]

    def _limit(self) -> str:
        calls = self._ledgered.calls
        entries = self._ledger.entries()
        got = f"{self._total - len(self.wanted)} of {self._total} answers are in {self._ledger}"
        if calls.max_requests is not None and len(entries) >= calls.max_requests:
            reached = f"--max_requests {calls.max_requests} is reached"
        else:
            spent = self._ledgered.spent()
            reached = f"the next request could exceed --max_cost {calls.max_cost:g}: {spent:.4f} is spent"
        return f"{reached}; {got}.\n  Raise the limit and run the same command again: it continues from there."
