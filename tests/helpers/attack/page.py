"""Rows 23 to 25: the page's real server, attacked over sockets, under load, and opened in a real browser."""

import contextlib
import json
import resource
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import httpx
import yaml
from playwright.sync_api import sync_playwright

from helpers.attack import Place, row
from helpers.page_runs import make_run
from nlft.page import connections
from nlft.page.access import Access
from nlft.page.connections import listen
from nlft.page.export import export_map
from nlft.page.feedback import Feedback
from nlft.page.live import LiveRun
from nlft.page.server import PageServer
from nlft.page.serving import web_server
from nlft.runs.run_dir import RunDir

TOKEN, LOOK = "a" * 24, "b" * 24
BEARER = f"Authorization: Bearer {TOKEN}"
STOP = '{"changes": [{"control": "stop", "value": null}]}'


@contextlib.contextmanager
def serving(run: RunDir) -> Iterator[int]:
    """Serve a run's page on a port of its own."""
    listening = listen("127.0.0.1", 0, 0)
    page = PageServer([LiveRun(run)], who="ann", feedback=Feedback(run))
    server = web_server(page, listening, Access(TOKEN, LOOK), set())
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.stop()
        thread.join(20)


def exchange(port: int, request: bytes, seconds: float = 0.5) -> bytes:
    """Send raw bytes, and return all that comes back."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as one, contextlib.suppress(OSError):
        one.sendall(request)
        while part := one.recv(65536):
            found += part
    return found


def request(line: str, *headers: str, body: str = "") -> bytes:
    lines = [f"{line} HTTP/1.1", *headers, "Connection: close"]
    if body:
        lines += [f"Content-Length: {len(body.encode())}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("utf-8", "surrogateescape")


def statuses(answer: bytes) -> list[int]:
    """The status of each answer on a connection."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


Attack = tuple[bytes, set[int]]
"""A request, and the statuses that its answer may have. No answer is fine too: the connection was closed."""
JSON = "Content-Type: application/json"
GETS = ["/", "/api/runs", "/api/runs/0/changes", "/api/runs/0/steps/10", "/static/app.js", "/api/runs/0/tokens.csv"]
HOSTS = ["evil.example", "127.0.0.1.evil.example", "127.0.0.1:80.evil.example", "", "10.0.0.7", "localhost.", "[::1"]
HOSTS += ["0.0.0.0", "127.0.0.1@evil.example", "evil.example#127.0.0.1", "localhost\x00", "evil.example:8642"]
ORIGINS = ["http://evil.example", "http://localhost:1", "null", "http://[", "http://127.0.0.1:1", "file://"]
TOKENS = [
    "",
    "Authorization: Bearer",
    "Authorization: Bearer x",
    f"Authorization: Token {TOKEN}",
    "Cookie: nlft-map-8642=x",
]
TOKENS += [f"Authorization: Bearer {TOKEN[:-1]}", f"Authorization: Bearer {TOKEN}x", f"Authorization: Basic {TOKEN}"]
PATHS = ["/static/../server.py", "/static/..%2f..%2fserver.py", "/static/%2e%2e/%2e%2e/guard.py", "//etc/passwd"]
PATHS += ["/static//etc/passwd", "/static/..\\server.py", "/static/%00", "/api/runs/-1/changes", "/api/runs/9"]
PATHS += ["/api/runs/0/steps/" + "9" * 5000, "/api/runs/0/steps/-1", "/api/runs/0/steps/x", "/api/runs/١/changes"]
PATHS += ["/api/runs/0/changes?events=-5&since=x", "/../../etc/passwd", "/%c0%ae%c0%ae/", "/.git/config", "/run.yaml"]
PATHS += ["/api/runs/" + "0" * 3000, "/api/../run.yaml", "/" + "a" * 60_000]
BODIES = ["", "{", "[]", "null", '{"changes": 1}', '{"changes": [1]}', '{"changes": [{"control": "nosuch"}]}', "\x80"]
BODIES += ['{"changes": [{"control": "learning_rate", "value": "x"}]}', '{"changes": [{"control": []}]}', "[" * 50_000]
BODIES += ['{"changes": [{"control": "learning_rate", "value": 1e999}]}', '{"a":' * 20_000, '{"changes": []}']
BODIES += ['{"__proto__": {"changes": []}}', '{"changes": [' + ",".join(['{"control": "stop"}'] * 5000) + "]}"]
METHODS = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "G\x00T", "get"]
LENGTHS = ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nTransfer-Encoding: chunked"]
LENGTHS += ["Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Content-Length: -1", "Content-Length: +5"]
LENGTHS += ["Content-Length: 5x", "Transfer-Encoding: chunked, x", "Content-Length : 4", "X: \r\n y"]


def strangers(own: str) -> Iterator[Attack]:
    """Other hosts, other origins, and no token or a wrong one."""
    for path in GETS[:4]:
        yield from ((request(f"GET {path}", f"Host: {name}", BEARER), {421, 400}) for name in HOSTS)
    for origin in ORIGINS:
        cookie = [own, f"Cookie: nlft-map-{own.rpartition(':')[2]}={TOKEN}", f"Origin: {origin}"]
        yield from ((request(f"GET {path}", *cookie), {403}) for path in GETS[1:4])
        yield request("POST /api/requests", *cookie, JSON, body=STOP), {403}
    for site in ("cross-site", "same-site"):
        headers = [own, f"Cookie: nlft-map-{own.rpartition(':')[2]}={TOKEN}", f"Sec-Fetch-Site: {site}", JSON]
        yield request("POST /api/requests", *headers, body=STOP), {403}
    for token in TOKENS:
        headers = [own, *([token] if token else [])]
        yield from ((request(f"GET {path}", *headers), {401}) for path in GETS)
        yield request("POST /api/requests", *headers, JSON, body=STOP), {401, 403}
    yield request("POST /api/requests", own, f"Authorization: Bearer {LOOK}", JSON, body=STOP), {403}


def spoilt(own: str) -> Iterator[Attack]:
    """Requests with the token whose path, body, type or method is wrong."""
    for path in PATHS:
        yield request(f"GET {path}", own, BEARER), {200, 400, 404, 405, 414, 422, 431}
    for path in ("/api/requests", "/api/feedback", "/api/rescore", "/api/export"):
        allowed = {400, 403, 404, 409, 413, 415, 422, 501, 503} | ({200} if path == "/api/export" else set())
        yield from ((request(f"POST {path}", own, BEARER, JSON, body=body), allowed) for body in BODIES)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        yield request("POST /api/requests", own, BEARER, f"Content-Type: {kind}", body=STOP), {415}
    for method in METHODS:
        yield request(f"{method} /api/runs", own, BEARER), {400, 403, 404, 405}


def smuggled(own: str) -> Iterator[Attack]:
    """A second request without a token behind a first one whose length is unclear; and what is no HTTP."""
    hidden = f"POST /api/requests HTTP/1.1\r\n{own}\r\n{JSON}\r\nContent-Length: {len(STOP)}\r\n\r\n{STOP}"
    for extra in LENGTHS:
        raw = f"POST /api/requests HTTP/1.1\r\n{own}\r\n{BEARER}\r\n{JSON}\r\n{extra}\r\n\r\n0\r\n\r\n{hidden}"
        yield raw.encode(), {400, 401, 403, 404, 413, 415, 422, 501}
    for raw in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 50 + b"\r\n\r\n"):
        yield raw, {400, 421, 505}


@row(23, "page: hosts, origins, tokens, paths, bodies, smuggling", "2 harmless of 171")
def _(place: Place) -> str:
    run = make_run(place.folder / "farm", steps=3)
    with serving(run) as port:
        own = f"Host: 127.0.0.1:{port}"
        tried = [*strangers(own), *spoilt(own), *smuggled(own)]
        for raw, allowed in tried:
            answer = exchange(port, raw)
            got = statuses(answer)
            assert set(got) <= allowed, (raw[:300], got, answer[:300])
            assert b"root:" not in answer
            if BEARER.encode() not in raw:  # who has the token gets it as a cookie too
                assert TOKEN.encode() not in answer, (raw[:300], answer[:600])
                assert len(answer) < 5000
        assert statuses(exchange(port, request("GET /api/runs", f"Host: 127.0.0.1:{port}", BEARER))) == [200]
    assert list(run.pending_requests()) == []
    return f"{len(tried)} requests over sockets: none got through, none is a 500, nothing was written"


def resident() -> int:
    """Return the memory of this process in MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024


@row(24, "page: 300 half-open, 200 listeners, 50 slow bodies, 10,000 polls", "48 ms a poll; locks out", slow=True)
def _(place: Place) -> str:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2000 or not Path("/proc/self/status").exists():
        return "not tried: this process may open too few files, or there is no /proc"
    run, took, before = make_run(place.folder / "farm", steps=2), [], 0
    with (
        mock.patch.object(connections, "HEADERS_WITHIN", 1.0),
        serving(run) as port,
        contextlib.ExitStack() as open_ones,
        httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30) as client,
    ):
        head = f"Host: 127.0.0.1:{port}\r\n{BEARER}\r\n"
        stream = f"GET /api/stream HTTP/1.1\r\n{head}\r\n"
        slow = f"POST /api/requests HTTP/1.1\r\n{head}Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n{{"
        for raw in [stream] * 200 + ["GET /api/ru"] * 300 + [slow] * 50:
            one = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(OSError):
                one.sendall(raw.encode())
        for number in range(10_000):
            start = time.monotonic()
            assert client.get(f"http://127.0.0.1:{port}/api/runs/0/changes").status_code == 200
            took.append(time.monotonic() - start)
            if number == 3000:
                before = resident()
        grown = resident() - before
    median = 1000 * statistics.median(took)
    assert grown < 10
    assert median < 20
    assert max(took) < 10
    return f"nobody is locked out; 10,000 polls with a median of {median:.1f} ms and {grown:+d} MiB"


NASTY = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "\u202eevil\u2066x",
    "\x1b[31mred",
]
NASTY += [
    "__proto__",
    "constructor",
    "{{7*7}}${7*7}",
    "\u200b\u2028\ufeff",
    "javascript:window.hacked=1",
    "' onclick=x a='",
]
INVISIBLE = "\u202e\u2066\u200b\ufeff\x1b"


@row(
    25,
    "page: markup, bidi, escapes, prototype names; live and as a file",
    "a hostile run.yaml made it throw",
    slow=True,
)
def _(place: Place) -> str:
    from helpers.browser import FLAGS, Watch  # not above: pytest is to import its plugin first

    executable = shutil.which("chromium")
    if executable is None:
        return "not tried: there is no chromium"
    run = hostile(place)
    shown = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        with serving(run) as port:
            here = f"http://127.0.0.1:{port}/"
            file = export_map(run, place.folder / "map.html")
            for address, allowed in (
                (f"{here}?token={TOKEN}", here),
                (file.resolve().as_uri(), file.resolve().as_uri()),
            ):
                page, watch = browser.new_page(), Watch()
                watch.follow(page)
                page.goto(address)
                page.wait_for_timeout(1500)
                for number in range(8):
                    page.keyboard.press("ArrowDown" if number % 2 else "ArrowRight")
                page.wait_for_timeout(300)
                text = page.inner_text("body")
                shown += len(text)
                assert page.evaluate("() => window.hacked") is None
                assert page.evaluate("() => ({}).changes === undefined && ({}).label === undefined")
                assert watch.complaints == [], watch.complaints
                assert [url for url in watch.requests if not url.startswith((allowed, "blob:", "data:"))] == []
                assert not set(INVISIBLE) & set(text), [character for character in INVISIBLE if character in text]
                assert len(text) > 500
                page.close()
        browser.close()
    return f"live and as a file: no script ran, no error, nothing asked for outside, {shown} characters all visible"


def hostile(place: Place) -> RunDir:
    """A run of which every text that a person or a model writes is hostile."""
    run = make_run(place.folder / "<b>run&amp;", steps=2)
    path = run.saliency_path / "examples.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    for at, one in enumerate(known["examples"]):
        nasty = NASTY[at % len(NASTY)]
        one |= {"id": f"{nasty}{at}", "prompt": "".join(NASTY), "answer": nasty}
        one["judgment"] = f'"{nasty}"' if one["judgment"] else None
        one["tokens"] = [nasty, *one["tokens"][1:-1], "".join(NASTY)]
    path.write_text(json.dumps(known), encoding="utf-8")
    record = yaml.safe_load(run.settings_path.read_text(encoding="utf-8"))
    record |= {
        "model_name_or_path": "".join(NASTY[:2]),
        "method": "nlft",
        "__proto__": {"changes": 1},
        "note": NASTY[0],
    }
    record.setdefault("training", {})
    record["training"] |= {"__proto__": "x", "constructor": NASTY[0], "run_name": NASTY[1]}
    run.settings_path.write_text(yaml.safe_dump(record), encoding="utf-8")
    run.write_request("learning_rate", 0.5, NASTY[0])
    run.write_request(NASTY[0], NASTY[1], NASTY[4])
    return run
