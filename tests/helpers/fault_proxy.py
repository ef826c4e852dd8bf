"""A real HTTP proxy on loopback that stumbles on script, and a small deterministic server to put behind it.

The proxy speaks HTTP/1.1 on bare sockets: no web framework lets a test reset a connection or stop in the middle of a
body. It keeps count of what arrived, what was passed on, and whose answer went back whole.
"""

import asyncio
import hashlib
import http.client
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """What to do instead of passing a request on and its answer back.

    Attributes:
        kind: `status` answers with `status`, `headers` and `body`; `hang` never answers; `reset` resets the connection
            at once, `reset-midway` half through the real answer; `truncated` ends the connection half through it, and
            `cut-stream` half through its chunks; `empty` empties its text; `slow` passes it back after `seconds`.
    """

    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"error": {"message": "scripted"}}'
    seconds: float = 0.0


@dataclass(frozen=True)
class Arrival:
    """A request as it came in.

    Attributes:
        number: counts all arrivals, from 1; `time` is its time on the monotonic clock.
        nth: counts those with this body, from 1.
        question: the last message's text.
    """

    number: int
    nth: int
    time: float
    body: dict
    headers: dict[str, str]

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"] if "messages" in self.body else ""


def body_key(body: dict) -> str:
    return json.dumps(body, sort_keys=True)


class FaultProxy:
    """Use as a context manager; `url` is what to give as base_url.

    Attributes:
        arrivals: everything that came in.
        passed: how often each body was passed on to the real server.
        delivered: how often each body's real answer was passed back whole.
        most_in_flight: requests that were under way at once.
    """

    def __init__(self, upstream: str, script: Callable[[Arrival], Fault | None] = lambda arrival: None) -> None:
        self.script = script
        self.arrivals: list[Arrival] = []
        self.passed: Counter[str] = Counter()
        self.delivered: Counter[str] = Counter()
        self.most_in_flight = self._in_flight = 0
        self._upstream = urlsplit(upstream)
        self._seen: Counter[str] = Counter()
        self._started = threading.Event()

    def __enter__(self) -> "FaultProxy":
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines) if k}
            raw = await reader.readexactly(int(headers.get("content-length", 0)))
            self._in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self._in_flight)
            try:
                await self._handle(first.split(" ")[1], headers, raw, reader, writer)
            finally:
                self._in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()

    async def _handle(self, path, headers, raw, reader, writer) -> None:
        body = json.loads(raw)
        key = body_key(body)
        self._seen[key] += 1
        arrival = Arrival(len(self.arrivals) + 1, self._seen[key], time.monotonic(), body, headers)
        self.arrivals.append(arrival)
        fault = self.script(arrival) or Fault("pass")
        if fault.kind == "status":
            return await _send(writer, fault.status, fault.headers, fault.body.encode())
        if fault.kind == "hang":
            return await _until_left(reader)
        if fault.kind == "reset":
            return _reset(writer)
        self.passed[key] += 1
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        status, answer = await asyncio.to_thread(self._ask, path, headers, raw)
        if fault.kind == "empty":
            answer = json.loads(answer)
            answer["choices"][0]["message"]["content"] = ""
            answer["choices"][0]["finish_reason"] = "stop"  # with "length" it would be a real answer: thoughts alone
            answer = json.dumps(answer).encode()
        if fault.kind in ("truncated", "reset-midway", "cut-stream"):
            return await _half(writer, answer, fault.kind)
        await _send(writer, status, {}, answer)
        if fault.kind != "empty" and not reader.at_eof():
            self.delivered[key] += 1
        return None

    def _ask(self, path: str, headers: dict[str, str], raw: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._upstream.hostname, self._upstream.port, timeout=120)
        kept = {k: v for k, v in headers.items() if k in ("content-type", "authorization")}
        try:
            connection.request("POST", path, raw, kept)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


async def _send(writer, status: int, headers: dict[str, str], body: bytes) -> None:
    fields = {"content-type": "application/json", "content-length": len(body), "connection": "close", **headers}
    lines = "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    writer.write(f"HTTP/1.1 {status} scripted\r\n{lines}\r\n".encode() + body)
    await writer.drain()


async def _half(writer, body: bytes, kind: str) -> None:
    half = body[: len(body) // 2]
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    if kind == "cut-stream":
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n{len(half):x}\r\n".encode() + half + b"\r\n")
    else:
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + half)
    await writer.drain()
    if kind == "reset-midway":
        await asyncio.sleep(0.02)
        _reset(writer)


async def _until_left(reader) -> None:
    while await reader.read(1024):
        pass


def _reset(writer) -> None:
    """Close with a RST instead of a FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class AnsweringServer:
    """A chat-completions server whose answer is a function of the messages; use as a context manager.

    Attributes:
        refuse: looks at a request's body and headers; a (status, message) or a (status, body) refuses it.
        seconds: how long an answer takes.
        usage: whether tokens are counted in the response.
        choice: what the answer's choice has in place of the usual.
    """

    def __init__(
        self,
        refuse: Callable[[dict, dict], tuple[int, str | dict] | None] = lambda body, headers: None,
        *,
        seconds: float = 0.0,
        usage: bool = True,
        text: Callable[[dict, dict], str] | None = None,
        choice: dict | None = None,
    ) -> None:
        outer = self
        self.choice = choice or {}
        self.refuse, self.seconds, self.usage = refuse, seconds, usage
        self.text = text or (lambda body, headers: answer_to(body["messages"]))
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                status, answer = outer.respond(body, {k.lower(): v for k, v in self.headers.items()})
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def respond(self, body: dict, headers: dict[str, str]) -> tuple[int, dict]:
        self.bodies.append(body)
        self.headers.append(headers)
        if refusal := self.refuse(body, headers):
            status, said = refusal
            return status, {"error": {"message": said}} if isinstance(said, str) else said
        time.sleep(self.seconds)
        text = self.text(body, headers)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        choice |= self.choice
        read = sum(len(m["content"].split()) for m in body["messages"])
        usage = {"prompt_tokens": read, "completion_tokens": len(text.split()), "total_tokens": 0}
        return 200, {"object": "chat.completion", "choices": [choice], **({"usage": usage} if self.usage else {})}

    def __enter__(self) -> "AnsweringServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def answer_to(messages: list[dict]) -> str:
    """What `AnsweringServer` says."""
    digest = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
    return f"I think so. #### {int(digest[:4], 16)}"
