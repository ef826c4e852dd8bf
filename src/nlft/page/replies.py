"""The page's side of a conversation. The models are in another process, so that the server needs no torch."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from nlft.errors import NLFTError
from nlft.files import json_object
from nlft.page.application import BEAT_EVERY
from nlft.page.model_process import ModelProcess

MODULE = "nlft.chat.worker"  # started by name, because importing it would import torch
MOST_WAITING = 4  # prompts at a time; the model answers one after the other
LOOK_EVERY = 0.5  # seconds between two looks whether the reader is still there


@dataclass(frozen=True)
class _Listener:
    """Who waits for the answers to a request."""

    loop: asyncio.AbstractEventLoop
    queue: "asyncio.Queue[dict[str, Any]]"

    def tell(self, line: dict[str, Any]) -> None:
        with suppress(RuntimeError):  # the server has stopped meanwhile
            self.loop.call_soon_threadsafe(self.queue.put_nowait, line)


class Replies(ModelProcess):
    """Starts the models' process, and passes requests and answers on."""

    def __init__(self, run: Path, settings: Mapping[str, Any]) -> None:
        """
        Args:
            run: the run directory. Like the settings, it comes from the server's command line, not from a browser.
            settings: fields of `ChatSettings`, as JSON values.
        """
        super().__init__(MODULE, str(run), json.dumps(dict(settings)), command="nlft map RUN --chat")
        self._first: dict[str, Any] | None = None
        self._listeners: dict[int, _Listener] = {}
        self._numbers = count(1)
        self._asking = 0
        threading.Thread(target=self._read, name="nlft-replies", daemon=True).start()

    @property
    def failed(self) -> bool:
        """Whether the models could not be loaded, or their process has ended."""
        return self._first is not None and "error" in self._first

    async def about(self) -> dict[str, Any]:
        """Say whether the models are loaded, what they are, and what is kept by now."""
        if self._first is None:
            return {"loading": True}
        try:
            return self._first if "error" in self._first else await self.answer({"do": "about"})
        except NLFTError as error:
            return {"error": str(error)}

    async def ask(self, request: Request, body: dict[str, Any]) -> Response:
        """Stream the replies to a prompt, one JSON object a line. An empty line is a heartbeat."""
        asked = {name: body.get(name) for name in ("talk", "text", "question", "blind", "rule", "turn", "shown")}
        question = asked["question"]
        if not isinstance(asked["talk"], str) or not (isinstance(asked["text"], str) or isinstance(question, int)):
            raise HTTPException(400, "Send the conversation's name, and a text or the number of a held-out prompt.")
        if self._asking >= MOST_WAITING:
            raise HTTPException(429, f"{MOST_WAITING} prompts are waiting for the model. Send yours in a moment.")
        self._check()
        return StreamingResponse(self._stream(request, {"do": "ask", **asked}), media_type="application/x-ndjson")

    async def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Send a request that has one answer.

        Raises:
            NLFTError: the process refuses it, or has ended.
        """
        number, listener = self._listen()
        try:
            self._check()  # after the listener is known: a process that ends from now on tells it
            self._send({"n": number, **asked})
            line = await listener.queue.get()
        finally:
            self._listeners.pop(number, None)
        if "error" in line:
            raise NLFTError(line["error"])
        return {name: value for name, value in line.items() if name != "n"}

    async def _stream(self, request: Request, asked: dict[str, Any]) -> AsyncIterator[str]:
        number, listener = self._listen()
        over = False
        self._asking += 1
        try:
            if self._first is self._gone:  # it ended since `ask` looked, and has told all listeners
                listener.tell(self._gone)
            self._send({"n": number, **asked})
            spoke = time.monotonic()
            while not over:
                try:
                    async with asyncio.timeout(LOOK_EVERY):
                        line = await listener.queue.get()
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    if time.monotonic() - spoke > BEAT_EVERY:
                        spoke = time.monotonic()
                        yield "\n"
                    continue
                spoke = time.monotonic()
                over = "done" in line or "error" in line
                yield json.dumps({name: value for name, value in line.items() if name != "n"}) + "\n"
        finally:  # also if the reader has left or pressed Stop
            self._asking -= 1
            self._listeners.pop(number, None)
            if not over:
                self._send({"cancel": number})

    def _check(self) -> None:
        """Refuse a request that cannot be answered now."""
        if self._first is None:
            raise NLFTError("the models are still loading; try again in a moment")
        if "error" in self._first:
            raise NLFTError(self._first["error"])

    def _listen(self) -> tuple[int, _Listener]:
        number = next(self._numbers)
        listener = _Listener(asyncio.get_running_loop(), asyncio.Queue())
        with self._lock:
            self._listeners[number] = listener
        return number, listener

    def _send(self, request: dict[str, Any]) -> None:
        # If the process has ended, the reading thread tells all listeners.
        with suppress(OSError, ValueError), self._lock:
            self._write(request)

    def _read(self) -> None:
        """Pass each line of the process to whoever waits for it, until the process ends."""
        assert self._process.stdout
        try:
            with self._process.stdout as lines:
                for text in lines:
                    if (line := json_object(text)) is None:
                        continue
                    if self._first is None:
                        self._first = line
                    elif listener := self._listeners.get(line.get("n", 0)):
                        listener.tell(line)
        finally:  # whatever ended the reading, nobody waits for ever
            if self._first is None or "error" not in self._first:
                self._first = self._gone
            with self._lock:
                waiting = list(self._listeners.values())
            for listener in waiting:
                listener.tell(self._gone)
