"""Get answers from an OpenAI-compatible server.

The client's own retries are off, because they ignore broken bodies and empty answers and wait at most eight seconds.
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from itertools import combinations
from typing import TYPE_CHECKING, Any

from nlft.core.prompts import NO_INPUTS, TemplateInputs, as_messages
from nlft.errors import UserError
from nlft.models.answerer import CompletionRequest, Generated, estimated_prompt_tokens
from nlft.models.exchange import Attempt, AttemptFailed, Blame, Exchange, Pace, tell
from nlft.models.refusals import Subject, refused_parameter, retry_after, subject
from nlft.models.reply_reading import read_error, read_reason, read_text, read_usage, said
from nlft.models.server_access import read_access
from nlft.models.settings import BackendSettings

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

_ACCOUNT_STATUSES = (401, 402, 403, 404, 405, 407, 410)  # they refuse the key, the address or the model, not a question
_LIMITS = ("max_tokens", "max_completion_tokens")  # the second is sent to servers that refuse the first


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
        inputs: TemplateInputs = NO_INPUTS,
    ) -> None:
        """
        Args:
            model: the model's name on the server.
            temperature: 0 is greedy.
            seed: seed and request key together determine the seed in a request that samples. Few servers guarantee
                equal answers for equal seeds.
            inputs: what the server's chat template gets with every prompt. Sent as `chat_template_kwargs` and `tools`.

        Raises:
            UserError: the address or the key cannot be used, or `inputs` has a date, which no server takes.
        """
        if inputs.date:
            raise UserError(
                "--chat_template_date: the server renders its own chat template, with its own date.\n"
                "  Leave it out, or give the template's variable: --chat_template_kwargs "
                '\'{"date_string": "26 Jul 2024"}\'.'
            )
        self.inputs = inputs
        self.model = model
        self.settings = settings
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.system_prompt = system_prompt
        self._access = read_access(settings)
        self.server = self._access.server
        self._refused: set[str] = set()  # parameters that this server has refused
        self._strange: set[str] = set()  # reasons for the end of an answer that nobody knows

    @property
    def identity(self) -> dict[str, Any]:
        """The server, the model and every setting that changes an answer; see `Answerer`.

        `left_out` names the settings that the server has refused, and that are no longer sent.
        """
        return self._identity(self._refused.intersection(self._may_be_left_out))

    @property
    def identities(self) -> list[dict[str, Any]]:
        """The identity, then those with other settings left out. An answer under any of them need not be asked again.

        Which settings the server refuses is known only after the first request.
        """
        names = self._may_be_left_out
        subsets = [frozenset(some) for count in range(len(names) + 1) for some in combinations(names, count)]
        now = self._refused.intersection(names)
        return [self._identity(some) for some in sorted(subsets, key=lambda some: some != now)]

    @property
    def _may_be_left_out(self) -> tuple[str, ...]:
        return ("temperature", "seed") if self.temperature > 0 else ("temperature",)

    def _identity(self, left_out: Collection[str]) -> dict[str, Any]:
        sampled = {"seed": self.seed} if self.temperature > 0 else {}
        return {
            "server": self.server,
            "model": self.model,
            "system_prompt": self.system_prompt,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **sampled,
            **({"left_out": sorted(left_out)} if left_out else {}),
            **self.inputs.as_json(),
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
            lambda request: self.max_new_tokens + estimated_prompt_tokens(request, self.system_prompt),
        )
        return Exchange(self._connected, requests, pace, f"{self.model} at {self.server}").answers()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Attempt]:
        async with self._access.client(self.settings.request_timeout) as client:

            async def attempt(request: CompletionRequest) -> Generated:
                return await self._attempt(client, request)

            yield attempt

    async def _attempt(self, client: "AsyncOpenAI", request: CompletionRequest) -> Generated:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        while True:
            body = self.body(request)
            try:
                response = await client.chat.completions.with_raw_response.create(**_for_client(body))
            except APITimeoutError:
                raise TimeoutError from None
            except APIConnectionError as error:
                why = self._access.redact(f"no connection: {error.__cause__ or error}")
                raise AttemptFailed(why, self._access.unreachable_cure, again=True) from None
            except APIStatusError as error:
                if error.status_code in (400, 422):
                    if read_reason(error.code) == "content_filter":  # as Azure refuses one question
                        return Generated("", 0, "content_filter")
                    if self.do_without(body, error.body):
                        continue
                raise self._failed(error) from None
            return self.parse(response.http_response.content, response.http_response.charset_encoding)

    def body(self, request: CompletionRequest) -> dict[str, Any]:
        """Make the request's JSON body."""
        limit = _LIMITS["max_tokens" in self._refused]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": as_messages(request.prompt, system_prompt=self.system_prompt),
            "temperature": self.temperature,
            limit: self.max_new_tokens,
            **self.inputs.updated(request.inputs).as_json(),
        }
        if self.temperature > 0:
            digest = hashlib.sha256(f"{self.seed}\0{request.key}".encode()).digest()
            body["seed"] = int.from_bytes(digest[:4], "little") >> 1
        return {name: value for name, value in body.items() if name == limit or name not in self._refused}

    def do_without(self, body: Mapping[str, Any], error: object) -> bool:
        """If the server refused an optional parameter, stop sending it. Return whether it did.

        Args:
            body: the request's body.
            error: the server's error, as JSON.
        """
        name = refused_parameter(error, body)
        if name is None:
            return False
        if name not in self._refused:
            lost = {
                "seed": "a seed. It is left out: asking again will give a different answer",
                "temperature": f"temperature {self.temperature:g}. It is left out: the server uses its own",
                "max_tokens": "max_tokens. It gets max_completion_tokens instead",
            }
            tell(f"{self.server} does not accept {lost[name]}.")
        self._refused.add(name)
        return True

    def parse(self, body: bytes, charset: str | None = None) -> Generated:
        """Read the answer from a response's body.

        JSON is in UTF-8, whatever the response's headers say. Only what is not UTF-8 is read in their character set.

        Args:
            charset: the character set that the response's headers name.

        Raises:
            AttemptFailed: the body is not a chat completion, is cut off, or carries an error instead of an answer.
        """
        try:
            data = _json(body, charset)
            error = read_error(data)
            if error is None:
                choice = data["choices"][0]
                text, ended = read_text(choice["message"]), choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            start = _short(self._access.redact(body.decode(errors="replace")), 120) or "nothing"
            cure = f"Check that {self.server} is an OpenAI-compatible server. Its address usually ends in /v1."
            raise AttemptFailed(f"its answer is not a chat completion: {start}", cure, again=True) from None
        if error is not None:
            why = f"an error instead of an answer: {_short(self._access.redact(error))}"
            raise AttemptFailed(why, self._cure("server"), again=True)
        tokens, prompt_tokens = read_usage(data)
        # A file cannot hold a lone surrogate.
        text = self._access.redact_reply(text).encode("utf-8", "replace").decode()
        reason = read_reason(ended)
        if reason == "unknown" and str(ended) not in self._strange:
            self._strange.add(str(ended))
            why = _short(self._access.redact(str(ended)), 40)
            tell(f"{self.server} ends answers for a reason that is not known: {why}. They count as unfinished.")
        return Generated(text.strip(), tokens, reason, prompt_tokens)

    def _failed(self, error: "APIStatusError") -> AttemptFailed:
        """Turn a status of 300 or more into a failed attempt."""
        status = error.status_code
        message = _short(self._access.redact(said(error.body)))
        why = f"{status} {_phrase(status)}{': ' if message else ''}{message}"
        exhausted = error.code == "insufficient_quota"  # OpenAI's 429 for a spent quota: waiting does not help
        again = (status in (408, 409, 425, 429) or status >= 500) and not exhausted
        blame: Blame = "server" if again or exhausted else "request"
        if status in _ACCOUNT_STATUSES or status < 400:
            blame = "account"
        wait = retry_after(error.response.headers, time.time())
        return AttemptFailed(why, self._cure(subject(status, message)), again=again, wait=wait, blame=blame)

    def _cure(self, about: Subject) -> str:
        variable, setting = self.settings.api_key_env, self._access.setting
        proxy = f"the proxy ({self._access.proxy})" if self._access.proxy else "the proxy"
        key = f"Put the key into the environment variable {variable}, or name another one with --api_key_env."
        if self._access.key:
            key = f"Check the key in the environment variable {variable}, and its permissions."
        if withheld := self._access.withheld:
            key += f" This server does not get {', '.join(withheld)}: only the server of OPENAI_BASE_URL does."
        cures: dict[Subject, str] = {
            "key": key,
            "address": f"Check {setting} (it usually ends in /v1) and --model_name_or_path (the model's name there).",
            "model": "Check --model_name_or_path: it is the model's name on the server.",
            "credit": "Check the credit and the plan of the account at the server.",
            "proxy": f"Give {proxy} its name and password, or add the server to NO_PROXY.",
            "pace": "Lower --concurrency, or set --requests_per_minute or --tokens_per_minute, or check your quota.",
            "server": "Read the server's log, or try again later.",
            "length": "Shorten the question or the system prompt, or lower --max_new_tokens.",
            "request": "Change the question or the setting that the server's message names.",
        }
        return cures[about]


def _for_client(body: Mapping[str, Any]) -> dict[str, Any]:
    """Put what OpenAI's own API does not know where its client expects it. The body that is sent stays the same."""
    more = {name: value for name, value in body.items() if name == "chat_template_kwargs"}
    return {name: value for name, value in body.items() if name not in more} | ({"extra_body": more} if more else {})


def _json(body: bytes, charset: str | None) -> Any:
    try:
        return json.loads(body)
    except UnicodeDecodeError:
        if charset is None:
            raise
        return json.loads(body.decode(charset))


def _short(text: str, most: int = 300) -> str:
    """Put a text on one line, and cut it to `most` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[:most] + " …"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "status"
