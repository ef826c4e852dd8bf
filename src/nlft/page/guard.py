"""Let only the page itself, in a browser with the run's token, use the page's server.

Every request passes three checks:
- Host: refuse a host name that another site has pointed at this machine (DNS rebinding).
- Token: it comes in the first address, then in a cookie that scripts cannot read, or as `Authorization: Bearer`.
  Who has only the token for reading may look, but change nothing.
- Origin: a page of another site or port may neither read nor write, although the browser would send our cookie.
"""

import ipaddress
import json
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nlft.page.access import LOOKS, Access

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
NEEDS_TOKEN = "The token is missing or wrong. Open the whole address that `nlft map` or `nlft label` printed."


class Guard:
    """ASGI middleware: passes a request on to the app, or answers it with a 4xx status and the reason."""

    def __init__(self, app: ASGIApp, token: str | Access, hosts: set[str], cookie: str) -> None:
        """
        Args:
            token: the secret that every request must carry, or all that `Access` says.
            hosts: allowed host names, besides the loopback names. If one is an IP address, every IP address is
                allowed, because rebinding needs a name.
            cookie: the cookie's name. Cookies do not depend on ports, so two servers on a machine need two names.
        """
        self.access = token if isinstance(token, Access) else Access(token)
        self.app, self.cookie = app, cookie
        self.hosts = {host.lower() for host in hosts} | LOOPBACK
        self.open_to_addresses = any(_is_address(host) for host in self.hosts - LOOPBACK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the page opens none, and the checks below are of HTTP requests
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scope, below = self._below_root(scope)
        token = self._token(headers, scope["query_string"].decode("latin-1"))
        refusal = self.refusal(scope["method"], headers, token, scope["path"])
        scope["nlft_only_reads"] = token is not None and self.access.only_reads(token)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    answer[name] = value
                answer.setdefault("Cache-Control", "no-store")
                if refusal is None and self._cookie(headers) != token:
                    place = self.access.root_path or "/"
                    answer.append("Set-Cookie", f"{self.cookie}={token}; Path={place}; HttpOnly; SameSite=Strict")
            await send(message)

        if refusal is None and not below:  # without the last slash, the page's own files would not be found
            target = f"{self.access.root_path}/".encode()
            await send_guarded({"type": "http.response.start", "status": 307, "headers": [(b"location", target)]})
            await send({"type": "http.response.body", "body": b""})
            return
        if refusal is None:
            await self.app(scope, receive, send_guarded)
            return
        status, reason = refusal
        body = json.dumps({"error": reason}).encode()
        start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send_guarded({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": body})

    def _below_root(self, scope: Scope) -> tuple[Scope, bool]:
        """Return the scope without the proxy's path, which some proxies take away, and whether a path follows it."""
        root, path = self.access.root_path, scope["path"]
        if not root or not (path == root or path.startswith(f"{root}/")):
            return {**scope}, True
        inner = path.removeprefix(root)
        return {**scope, "path": inner or "/", "raw_path": (inner or "/").encode()}, bool(inner)

    def _token(self, headers: Headers, query: str) -> str | None:
        """Return the token that a request carries; None if it has no right one. The cookie counts last."""
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        given = [bearer, *parse_qs(query).get("token", []), self._cookie(headers)]
        return next((word for word in given if word and self.access.holds(word)), None)

    def refusal(self, method: str, headers: Headers, token: str | None, path: str) -> tuple[int, str] | None:
        """Return status and reason if the request is refused, or None if it passes.

        Args:
            token: the right token that the request carries; None if it has none.
        """
        host = headers.get("host", "")
        if not self.knows_host(host):
            return 421, "This server does not accept that host name. Start it with --allow_host NAME to add it."
        if token is None:
            return 401, NEEDS_TOKEN
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return 403, "Only the page itself may send this request."
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and _is_not_navigation(headers):
            return 403, "Only the page itself may send this request."
        # A form of another site sends the cookie too. Only our own scripts send our origin or have the token.
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if method not in ("GET", "HEAD") and origin is None and not self.access.holds(bearer):
            return 403, "Only the page itself may change anything."
        if method not in ("GET", "HEAD") and self.access.only_reads(token) and not path.endswith(LOOKS):
            return 403, "With this token you may look, but change nothing."
        return None

    def knows_host(self, host: str) -> bool:
        """Whether a Host header names this server. Accept any port, because a tunnel has its own port."""
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port  # raises for a port that is no number
        except ValueError:
            return False
        if parts.netloc != host or "@" in host:
            return False
        return name in self.hosts or (self.open_to_addresses and _is_address(name))

    def _cookie(self, headers: Headers) -> str:
        # Parse as browsers do: a malformed cookie of another app on this host must not hide ours.
        return cookie_parser(headers.get("cookie", "")).get(self.cookie, "")


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_not_navigation(headers: Headers) -> bool:
    return headers.get("sec-fetch-mode") != "navigate"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
