"""Get answers from an OpenAI-compatible server.

The client's own retries are off, because they ignore broken bodies and empty answers and wait at most eight seconds.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from nlft.core.prompts import as_messages
from nlft.errors import UserError
from nlft.models.answerer import CompletionRequest, Generated, Reason, estimated_tokens
from nlft.models.exchange import Attempt, AttemptFailed, Blame, Exchange, Pace, tell
from nlft.models.settings import BackendSettings

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

HOSTED = "https://api.openai.com/v1"
NO_KEY = "none"  # the client requires a key

_NOT_KNOWN = re.compile(
    r"unsupported|not supported|unrecogni[sz]ed|unknown|unexpected|not (?:permitted|allowed)", re.IGNORECASE
)
_REASONS: dict[Any, Reason] = {"length": "length", "max_tokens": "length", "content_filter": "content_filter"}


class ServerModel:
    """A model on an OpenAI-compatible server, as an answerer."""

    def __init__(
        self,
        model: str,
        settings: BackendSettings,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        system_prompt: str | None = None,
    ) -> None:
        """
        Args:
            model: the model's name on the server.
            temperature: 0 is greedy.
            seed: seed and request key together determine the seed in a request that samples. Few servers guarantee
                equal answers for equal seeds.

        Raises:
            UserError: the address or the key cannot be used.
        """
        self.model = model
        self.settings = settings
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.system_prompt = system_prompt
        usual = os.environ.get("OPENAI_BASE_URL") or HOSTED
        self.base_url = usual if settings.base_url is None else settings.base_url
        address = _address(self.base_url)
        self.server = address.netloc + address.path.rstrip("/")
        self._key = _key(settings.api_key_env, needed=address.hostname == urlsplit(HOSTED).hostname)
        self._unknown: set[str] = set()  # parameters that this server has refused

    @property
    def identity(self) -> dict[str, Any]:
        """The server, the model and every setting that changes an answer; see `Answerer`."""
        sampled = {"seed": self.seed} if self.temperature > 0 else {}
        return {
            "server": self.server,
            "model": self.model,
            "system_prompt": self.system_prompt,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **sampled,
        }

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[list[tuple[int, Generated]]]:
        """Ask for all answers, `concurrency` at a time.

        Raises:
            UserError: the server refuses the key, the model or the address.
            NLFTError: some requests failed after all retries. All other answers have been yielded, unless the server
                seems to be gone.
        """
        pace = Pace(
            self.settings.concurrency,
            self.settings.max_retries,
            self.settings.request_timeout,
            self.settings.requests_per_minute,
            self.settings.tokens_per_minute,
            lambda request: (
                self.max_new_tokens + estimated_tokens(as_messages(request.prompt, system_prompt=self.system_prompt))
            ),
        )
        return Exchange(self._connected, requests, pace, f"{self.model} at {self.server}").answers()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Attempt]:
        from openai import AsyncOpenAI

        timeout = self.settings.request_timeout
        options: dict[str, Any] = {"base_url": self.base_url, "max_retries": 0, "timeout": timeout}
        async with AsyncOpenAI(api_key=self._key or NO_KEY, **options) as client:

            async def attempt(request: CompletionRequest) -> Generated:
                return await self._attempt(client, request)

            yield attempt

    async def _attempt(self, client: "AsyncOpenAI", request: CompletionRequest) -> Generated:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        while True:
            body = self.body(request)
            try:
                response = await client.chat.completions.with_raw_response.create(**body)
            except APITimeoutError:
                raise TimeoutError from None
            except APIConnectionError as error:
                why = self.redact(f"no connection: {error.__cause__ or error}")
                raise AttemptFailed(why, f"Check that a server runs at {self.server}.", again=True) from None
            except APIStatusError as error:
                if error.status_code in (400, 422) and self.do_without(body, _said(error)):
                    continue
                raise self._refused(error) from None
            return self.parse(response.http_response.text)

    def body(self, request: CompletionRequest) -> dict[str, Any]:
        """Make the request's JSON body."""
        limit = "max_completion_tokens" if "max_tokens" in self._unknown else "max_tokens"
        body = {
            "model": self.model,
            "messages": as_messages(request.prompt, system_prompt=self.system_prompt),
            "temperature": self.temperature,
            limit: self.max_new_tokens,
        }
        if self.temperature > 0 and "seed" not in self._unknown:
            digest = hashlib.sha256(f"{self.seed}\0{request.key}".encode()).digest()
            body["seed"] = int.from_bytes(digest[:4], "little") >> 1
        return body

    def do_without(self, body: Mapping[str, Any], refusal: str) -> bool:
        """If the server refused an optional parameter, stop sending it. Return whether it did.

        Local servers accept `max_tokens`, and some ignore unknown parameters. OpenAI's newer models refuse it and name
        `max_completion_tokens` in their message.
        """
        if not _NOT_KNOWN.search(refusal):
            return False
        for name in ("max_tokens", "seed"):
            if name in body and re.search(rf"\b{name}\b", refusal):
                if name == "seed" and name not in self._unknown:
                    tell(f"{self.server} does not accept a seed: asking again will give a different answer.")
                self._unknown.add(name)
                return True
        return False

    def parse(self, body: str) -> Generated:
        """Read the answer from a response's body.

        Raises:
            AttemptFailed: the body is not a chat completion, or is cut off.
        """
        try:
            data = json.loads(body)
            choice = data["choices"][0]
            message = choice["message"]
            said = message.get("content") or message.get("refusal") or ""
            text = said if isinstance(said, str) else "".join(part["text"] for part in said)
            reason = _REASONS.get(choice.get("finish_reason"), "stop")
            usage = data.get("usage") or {}
            tokens, prompt_tokens = (int(usage.get(f"{kind}_tokens") or 0) for kind in ("completion", "prompt"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            start = _short(self.redact(body), 120) or "nothing"
            cure = f"Check that {self.server} is an OpenAI-compatible server. Its address usually ends in /v1."
            raise AttemptFailed(f"its answer is not a chat completion: {start}", cure, again=True) from None
        # If a server echoes its headers, the key must not reach a file. A file cannot hold a lone surrogate either.
        text = (text.replace(self._key, "[key]") if self._key else text).encode("utf-8", "replace").decode()
        return Generated(text.strip(), tokens, reason, prompt_tokens)

    def redact(self, text: str) -> str:
        """Remove the key, and anything that looks like a key, from a text."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return re.sub(r"\bsk-[\w*.-]{4,}|(?<=Bearer )\S+", "[key]", text)

    def _refused(self, error: "APIStatusError") -> AttemptFailed:
        """Turn a status of 400 or more into a failed attempt."""
        status = error.status_code
        said = _short(self.redact(_said(error)))
        why = f"{status} {_phrase(status)}{': ' if said else ''}{said}"
        exhausted = error.code == "insufficient_quota"  # OpenAI's 429 for a spent quota: waiting does not help
        again = (status in (408, 409, 425, 429) or status >= 500) and not exhausted
        blame: Blame = "account" if status in (401, 403, 404) else "server" if again or exhausted else "request"
        wait = retry_after(error.response.headers, time.time())
        return AttemptFailed(why, self._cure(status), again=again, wait=wait, blame=blame)

    def _cure(self, status: int) -> str:
        variable = self.settings.api_key_env
        if status in (401, 403):
            if self._key:
                return f"Check the key in the environment variable {variable}, and its permissions."
            return f"Put the key into the environment variable {variable}, or name another one with --api_key_env."
        if status == 404:
            return "Check --base_url (it usually ends in /v1) and --model_name_or_path (the model's name there)."
        if status == 429:
            return "Lower --concurrency, or set --requests_per_minute or --tokens_per_minute, or check your quota."
        if status in (408, 409, 425) or status >= 500:
            return "Read the server's log, or try again later."
        return "Change the setting that the server's message names. --model_name_or_path is the model's name there."


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait, from `retry-after-ms` or `Retry-After` (seconds, or a date).

    Args:
        headers: the response's headers, names in lower case.
        now: Unix time. It is used if there is no Date header; otherwise the server's own clock counts.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    until, clock = _timestamp(headers.get("retry-after", "")), _timestamp(headers.get("date", ""))
    if until is None:
        return None
    return max(until - (now if clock is None else clock), 0.0)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None


def _said(error: "APIStatusError") -> str:
    """Return the server's own message."""
    body = error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body.get("error") or body
    return body if isinstance(body, str) else json.dumps(body) if body else ""


def _short(text: str, most: int = 300) -> str:
    """Put a text on one line, and cut it to `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + " …"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "status"


def _address(url: str) -> SplitResult:
    """Parse the server's address.

    Raises:
        UserError: it is not an address, or it may hold a secret. The message does not repeat a possible secret.
    """
    cure = "\n  Give the server's address, such as http://localhost:8000/v1"
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(f"--base_url holds more than an address: a name and password, or a query.{cure}, and put its "
                        "key into an environment variable (--api_key_env).")  # fmt: skip
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"--base_url {url} is not an address.{cure}.")
    return parts


def _key(variable: str, *, needed: bool) -> str | None:
    """Read the key from an environment variable. No message repeats the key or a wrong name, which may be the key."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise UserError("--api_key_env is not the name of an environment variable.\n  Give its name, not the key.")
    key = os.environ.get(variable, "").strip()
    if not key and needed:
        raise UserError(
            f"{urlsplit(HOSTED).hostname} requires a key.\n  Put it into the environment variable {variable}."
        )
    if not re.fullmatch(r"[!-~]*", key):
        raise UserError(f"the value of the environment variable {variable} is not a key.\n  Put the key into it.")
    return key or None
