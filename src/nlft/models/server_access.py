"""What opens a server: its address, its key, the proxy on the way, and the client that sends requests.

Everything about a server that the environment holds is read here. Secrets are removed from texts here.
"""

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from nlft.errors import UserError, printable
from nlft.models.exchange import AttemptFailed
from nlft.models.settings import BackendSettings

if TYPE_CHECKING:
    from openai import AsyncOpenAI

HOSTED = "https://api.openai.com/v1"
NO_KEY = "none"  # the client requires a key
_PORTS = {"http": 80, "https": 443}
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
# What people write where the client requires a key and the server none. To remove it would change answers.
_PLACEHOLDER = re.compile(
    r"((your|local|test|dummy|fake)[-_]?)?(api[-_]?)?key|(no|sk[-_]no)([-_]?api)?[-_]?key([-_]?(needed|required))?"
    r"|not[-_]?(needed|required|used)|(sk[-_])?(none|dummy|fake|test)|anything|default|lm[-_]?studio|localhost|nothing"
    r"|ollama|placeholder|sglang|unused",
    re.IGNORECASE,
)
_SHORTEST_KEY = 6  # what is shorter is a placeholder too
_SECRET_HEADER = re.compile(r"auth|cookie|credential|key|pass|secret|token", re.IGNORECASE)
_CUSTOM_HEADERS = "OPENAI_CUSTOM_HEADERS"  # one `Name: value` a line
_ACCOUNT_HEADERS = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}  # by variable


@dataclass(frozen=True)
class Access:
    """How to reach a server.

    Attributes:
        base_url: its address.
        setting: what gave the address: `--base_url` or the environment variable `OPENAI_BASE_URL`.
        server: the address as messages and the ledger show it.
        key: the key, or None.
        own: whether the client's other variables in the environment, such as OPENAI_ORG_ID, are meant for this server.
    """

    base_url: str
    setting: str
    server: str
    key: str | None = field(repr=False)
    own: bool

    def client(self, timeout: float) -> "AsyncOpenAI":
        """Make the client that sends requests. It sends no other key than `key`.

        Raises:
            UserError: the address, a proxy or the certificates that the environment names cannot be used.
        """
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Omit

        _check_proxies()
        bearer = self.key or NO_KEY
        left_out = [] if self.own else [*_ACCOUNT_HEADERS.values(), *_custom_headers()]
        headers: dict[str, Any] = {**dict.fromkeys(left_out, Omit()), "Authorization": f"Bearer {bearer}"}
        options: dict[str, Any] = {"base_url": self.base_url, "timeout": timeout, "default_headers": headers}
        try:
            http = DefaultAsyncHttpxClient(timeout=timeout, event_hooks={"response": [self._refuse_redirect]})
            return AsyncOpenAI(api_key=bearer, max_retries=0, http_client=http, **options)
        except Exception as error:  # the HTTP client has errors of its own
            given = [name for name in _CERTIFICATES if os.environ.get(name)]
            given = [name for name in given if not os.path.exists(os.environ[name])] or given
            if isinstance(error, OSError) and not given:
                raise
            where = [f"{name} ({printable(os.environ[name])})" for name in given]
            if not isinstance(error, OSError):
                where = [self.setting, *(name for name, _ in _proxies().values())]
            said = self.redact(str(error)).rstrip(".")
            raise UserError(f"no client for {self.server}: {said}.\n  Check {' and '.join(where)}.") from error

    async def _refuse_redirect(self, response: Any) -> None:
        """Let a redirect pass only if it keeps method, server and body: 307 and 308 to the same server.

        Any other would turn the request into a GET, or send questions to a server that the user has not named.
        """
        location = response.headers.get("location")
        if not 300 <= response.status_code < 400 or location is None:
            return
        asked = urlsplit(str(response.url))
        try:
            target = urlsplit(urljoin(asked.geturl(), location))
            same, shown = _origin(target) in _origins_of(asked), f"{target.scheme}://{_place(target.netloc)}"
            shown = self.redact(printable(shown + target.path))
        except ValueError:
            same, shown = False, "an address that cannot be read"
        if same and response.status_code in (307, 308):
            return
        base = shown.rstrip("/").removesuffix("/chat/completions")
        cure = f"If it is the right server, give its address: {self.setting} {base}"
        if not shown.startswith(("http://", "https://")) or base == self.base_url.rstrip("/"):
            cure = f"Check {self.setting}."
        why = f"{response.status_code}: the server sends requests on to {shown}"
        raise AttemptFailed(why, cure, again=False, blame="account")

    def redact_reply(self, text: str) -> str:
        """Remove the key from a reply, in case a server echoes its headers.

        A placeholder such as `none`, `0` or `EMPTY` stays, and so does a short key that may be a word of the answer. To
        remove it would change the answer. After `Bearer ` every key is removed.
        """
        for secret in self._secrets():
            if _is_random(secret):
                text = text.replace(secret, "[key]")
            text = re.sub(rf"(?<=[Bb]earer ){re.escape(secret)}(?!\w)", "[key]", text)
        for secret in self._secrets(headers=_SECRET_HEADER):
            if len(secret) >= 8 and not re.fullmatch("[a-z]{,11}", secret):
                text = _without_word(text, secret)
        return text

    def redact(self, text: str) -> str:
        """Remove the key, and anything that looks like a key, from a message. A short key is removed as a word."""
        text = self.redact_reply(text)
        for secret in self._secrets():
            text = _without_word(text, secret)
        return re.sub(r"\bsk-[\w*.-]{4,}|(?<=Bearer )\S+", "[key]", text)

    def _secrets(self, headers: re.Pattern[str] = re.compile("")) -> list[str]:
        """Return the key, and what the custom headers hold whose names match. The longest comes first."""
        custom = [value.rpartition(" ")[2] for name, value in _custom_headers().items() if headers.search(name)]
        return sorted(filter(_can_be_secret, {self.key or "", *custom}), key=len, reverse=True)

    @property
    def withheld(self) -> list[str]:
        """The environment variables of the client that are set, and that this server does not get."""
        return [] if self.own else [name for name in (*_ACCOUNT_HEADERS, _CUSTOM_HEADERS) if os.environ.get(name)]

    @property
    def proxy(self) -> str | None:
        """The environment variable that names the proxy on the way, or None."""
        address, proxies = urlsplit(self.base_url), _proxies()
        if proxy_bypass(address.netloc):
            return None
        return next((proxies[scheme][0] for scheme in (address.scheme, "all") if scheme in proxies), None)

    @property
    def unreachable_cure(self) -> str:
        """What to check if there is no connection."""
        if not (variable := self.proxy):
            return f"Check that a server runs at {self.server}."
        return (
            f"Requests go through the proxy {_place(os.environ[variable])} ({variable}). Check it, and that a server "
            f"runs at {self.server}. NO_PROXY lists the servers to reach without a proxy."
        )


def read_access(settings: BackendSettings) -> Access:
    """Read how to reach the server that the settings name.

    Raises:
        UserError: the address or the key cannot be used.
    """
    given, setting = settings.base_url, "--base_url"
    if given is None and (given := os.environ.get("OPENAI_BASE_URL")):
        setting = "OPENAI_BASE_URL"
    base_url = (given if given is not None else HOSTED).strip() or (HOSTED if setting != "--base_url" else "")
    address = _address(base_url, setting)
    key = _key(settings.api_key_env, needed=address.hostname == urlsplit(HOSTED).hostname)
    hosts = {urlsplit(HOSTED).netloc, address.netloc if setting != "--base_url" else _usual_host()}
    return Access(base_url, setting, address.netloc + address.path.rstrip("/"), key, address.netloc in hosts)


def _usual_host() -> str:
    try:
        return urlsplit(os.environ.get("OPENAI_BASE_URL", "").strip()).netloc
    except ValueError:
        return ""


def _address(url: str, setting: str) -> SplitResult:
    """Parse the server's address.

    Raises:
        UserError: it is not an address, or it may hold a secret. The message does not repeat a possible secret.
    """
    cure = "\n  Give the server's address, such as http://localhost:8000/v1"
    if re.search(r"^[^/]*@|[?#]", url.partition("://")[2] or url):
        raise UserError(f"{setting} holds more than an address: a name and password, or a query.{cure}, and put its "
                        "key into an environment variable (--api_key_env).")  # fmt: skip
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PORTS and parts.hostname and (parts.port or True)
        usable = usable and not re.search(r"[\s\x00-\x1f\x7f]", url)
    except ValueError:
        usable = False
    if not usable:
        shown = "" if "@" in url else f" {printable(url)}"
        raise UserError(f"{setting}{shown} is not an address.{cure}.")
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


def _can_be_secret(key: str) -> bool:
    return len(key) >= _SHORTEST_KEY and not _PLACEHOLDER.fullmatch(key)


def _is_random(key: str) -> bool:
    """Return whether a key is so long and mixed that no word of an answer can hold it."""
    if len(key) >= 24 and key.lower() != key != key.upper():
        return True
    mixed = re.search(r"\d", key) and re.search(r"[A-Za-z]", key)
    return bool(mixed) and len(key) >= (12 if key.startswith("sk-") else 16)


def _without_word(text: str, secret: str) -> str:
    return re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "[key]", text)


def _custom_headers() -> dict[str, str]:
    """Return the headers that the environment adds to the client's own. The client leaves out their `Authorization`."""
    lines = [line.partition(":") for line in os.environ.get(_CUSTOM_HEADERS, "").split("\n")]
    named = {name.strip(): value.strip() for name, colon, value in lines if colon}
    return {name: value for name, value in named.items() if name.lower() != "authorization"}


def _proxies() -> dict[str, tuple[str, str]]:
    """Return for `http`, `https` and `all` the environment variable that names the proxy, and its value.

    With `*` in NO_PROXY the client uses none.
    """
    given = getproxies_environment()
    if "*" in [host.strip() for host in given.get("no", "").split(",")]:
        return {}
    used = {scheme: value for scheme, value in given.items() if scheme in (*_PORTS, "all")}
    names = {(name.lower(), value): name for name, value in os.environ.items()}
    return {scheme: (names[f"{scheme}_proxy", value], value) for scheme, value in used.items()}


def _check_proxies() -> None:
    """Refuse a proxy that the client cannot read. The message does not repeat its address, which may hold a password.

    Raises:
        UserError: an environment variable does not hold a proxy's address.
    """
    for name, value in _proxies().values():
        try:
            parts = urlsplit(value if "://" in value else f"http://{value}")
            usable = parts.scheme in _PROXY_SCHEMES and (parts.hostname or "").strip() and (parts.port or True)
        except ValueError:
            usable = False
        if not usable:
            raise UserError(
                f"the environment variable {name} does not hold a proxy's address.\n"
                "  Write it like http://host:port, or remove the variable."
            )


def _place(url: str) -> str:
    """Return an address's host and port, without a name and password."""
    return re.sub(r"^\w+://", "", url.rpartition("@")[2]).partition("/")[0]


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _origins_of(parts: SplitResult) -> list[tuple[str, str | None, int | None]]:
    """Return the server's own origin, and the encrypted one of the same name."""
    own = _origin(parts)
    return [own, ("https", own[1], 443)] if own[::2] == ("http", 80) else [own]
