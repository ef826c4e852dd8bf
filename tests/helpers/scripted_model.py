"""A model whose answers are a function, in this process or behind a chat-completions server on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from nlft.models.answerer import Generated

Says = Callable[[str, int], str | tuple[str, str]]
"""(the last message's text, how often it came before) -> text, or text and finish_reason."""


class ScriptedModel:
    """An answerer; `requests` is everything it was asked."""

    def __init__(self, says: Says) -> None:
        self.identity = {"model": "scripted", "max_new_tokens": 50}
        self.says = says
        self.requests = []

    def answer(self, requests):
        for at, request in enumerate(requests):
            prompt = request.prompt
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            before = sum(r.prompt == prompt for r in self.requests)
            self.requests.append(request)
            yield [(at, _generated(self.says(text, before)))]


def _generated(said: str | tuple[str, str]) -> Generated:
    text, reason = (said, "stop") if isinstance(said, str) else said
    return Generated(text, len(text.split()) + 1, reason)


@contextmanager
def serving(says: Says) -> Iterator[tuple[str, list[dict]]]:
    """The base_url of a server that answers so, and the bodies that came in."""
    bodies: list[dict] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                before = sum(b["messages"] == body["messages"] for b in bodies)
                bodies.append(body)
            answer = _generated(says(body["messages"][-1]["content"], before))
            choice = {"index": 0, "finish_reason": answer.finish_reason}
            choice["message"] = {"role": "assistant", "content": answer.text}
            usage = {"prompt_tokens": 9, "completion_tokens": answer.tokens, "total_tokens": 9 + answer.tokens}
            rest = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            data = json.dumps({**rest, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
