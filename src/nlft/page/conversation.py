"""The models of a page's conversation: started with the server, or when a reader asks for them."""

import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from nlft.page.application import JSONAnswer
from nlft.page.replies import Replies

Body = Callable[[Request], Awaitable[dict[str, Any]]]
_OF_MARK = ("talk", "turn", "at", "shown", "good", "why", "spans")


class Conversation:
    """The routes of the tab *Replies*. Its models are loaded once, in a process of their own."""

    def __init__(self, run: Path, settings: Mapping[str, Any], *, at_once: bool) -> None:
        """
        Args:
            run, settings: see `Replies`. No browser can change them.
            at_once: load the models now; otherwise when a reader asks for it.
        """
        self._run, self._settings = run, settings
        self._lock = threading.Lock()
        self._replies: Replies | None = None
        if at_once:
            self.load()

    def load(self) -> None:
        """Start the models' process, unless it runs. One that has failed or ended is started again."""
        with self._lock:
            if self._replies is not None and not self._replies.failed:
                return
            if self._replies is not None:
                self._replies.close()
            self._replies = Replies(self._run, self._settings)

    def kill(self) -> None:
        """End the models' process at once. Requests that wait for an answer fail."""
        if self._replies is not None:
            self._replies.kill()

    def close(self) -> None:
        """End the models' process."""
        if self._replies is not None:
            self._replies.close()

    def routes(self, body: Body) -> list[Route]:
        """Return the server's routes.

        Args:
            body: reads and checks a request's JSON.
        """

        async def ask(request: Request) -> Response:
            return await self._loaded().ask(request, await body(request))

        async def start(request: Request) -> Response:
            await body(request)
            await run_in_threadpool(self.load)
            return await self.about(request)

        def quick(do: str, *names: str) -> Callable[[Request], Awaitable[Response]]:
            async def answer(request: Request) -> Response:
                given = await body(request)
                asked = {"do": do, **{name: given.get(name) for name in names}}
                return JSONAnswer(await self._loaded().answer(asked))

            return answer

        return [
            Route("/api/chat", self.about),
            Route("/api/chat/start", start, methods=["POST"]),
            Route("/api/chat/ask", ask, methods=["POST"]),
            Route("/api/chat/mark", quick("mark", *_OF_MARK), methods=["POST"]),
            Route("/api/chat/choose", quick("choose", "talk", "turn", "at"), methods=["POST"]),
        ]

    async def about(self, request: Request) -> Response:
        """Say whether the models are started and loaded, and what they are."""
        return JSONAnswer({"stopped": True} if self._replies is None else await self._replies.about())

    def _loaded(self) -> Replies:
        if self._replies is None:
            raise HTTPException(409, "The models are not started. Press Start the models.")
        return self._replies
