"""Serve the live page. The routes read run directories and send requests to the trainers through files.

The server has no model and no training state, so a user can stop or restart it at any time. A browser cannot name a
path. It names runs and steps by number. The page's own files come from a list that is made at the start.
"""

import asyncio
import getpass
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from nlft.page.access import Access
from nlft.page.application import BEAT_EVERY, JSONAnswer, application, json_body
from nlft.page.bundle import live_page, static_files
from nlft.page.conversation import Conversation
from nlft.page.export import csv_parts, live_export
from nlft.page.feedback import ChangedMeanwhile, Check, Dataset, Feedback, parse_edits
from nlft.page.guard import Guard
from nlft.page.live import LiveRun
from nlft.page.requests import MOST_AT_ONCE
from nlft.page.rescorer import Rescorer
from nlft.page.steps import Unreadable
from nlft.runs.run_dir import RunDir

MOST_STEPS = 10**12  # a larger number is not a step
LOOK_EVERY = 0.3  # seconds between polls of the run directories while a page is open

Handler = Callable[[Request], Awaitable[Response]]


_own_files = cache(static_files)


class PageServer:
    """The server's routes, and the runs that they show."""

    def __init__(
        self,
        runs: list[LiveRun],
        *,
        who: str,
        read_only: bool = False,
        feedback: Feedback | None = None,
        rescorer: Rescorer | None = None,
        conversation: Conversation | None = None,
    ) -> None:
        """
        Args:
            runs: one run, or two to compare. The page can steer only the first one.
            who: name of this page's user in controls.jsonl.
            read_only: refuse requests, edits and re-scoring.
            feedback: stores edits; if None, the server refuses edits.
            rescorer: scores edited feedback while the user edits it; None without a model.
            conversation: lets the user talk to the run's models; None for a page without that.
        """
        self.runs, self.who, self.read_only = runs, who, read_only
        self.feedback = None if read_only else feedback
        self.rescorer = None if read_only else rescorer
        self.conversation = None if read_only else conversation
        self.closing = False
        self._looked = 0.0
        self._lock: asyncio.Lock | None = None
        self._asking: asyncio.Lock | None = None

    def app(self, token: str | Access, hosts: set[str], cookie: str = "nlft-map") -> ASGIApp:
        """Return the whole application behind its guard."""
        return Guard(self.routes(), token, hosts, cookie)

    def routes(self) -> ASGIApp:
        """Return the application without its guard."""
        routes = [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/runs", self.about),
            Route("/api/runs/{run}/changes", self.changes),
            Route("/api/runs/{run}/steps/{step}", self.step),
            Route("/api/runs/{run}/tokens.csv", self.csv),
            Route("/api/stream", self.stream),
            Route("/api/requests", self.request, methods=["POST"]),
            Route("/api/feedback", self.save_feedback, methods=["POST"]),
            Route("/api/rescore", self.rescore, methods=["POST"]),
            Route("/api/export", self.export, methods=["POST"]),
            *(self.conversation.routes(json_body) if self.conversation is not None else ()),
        ]
        return application(routes)

    def close(self) -> None:
        """End everything that open pages wait for, so that the server can stop."""
        self.closing = True
        if self.rescorer is not None:
            self.rescorer.kill()
        if self.conversation is not None:
            self.conversation.kill()

    async def page(self, request: Request) -> Response:
        return HTMLResponse(live_page())

    async def static(self, request: Request) -> Response:
        return self.file(request.path_params["name"])

    @staticmethod
    def file(name: str) -> Response:
        """Return one of the page's own files. Files of other names do not exist."""
        files = _own_files()
        if name not in files:
            return JSONAnswer({"error": "no such file"}, status_code=404)
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(files[name], media_type=kind)

    async def about(self, request: Request) -> Response:
        await self._look()
        feedback, examples = self.feedback, self.runs[0].examples
        looks = bool(request.scope.get("nlft_only_reads"))
        return JSONAnswer(
            {
                "runs": [run.about() for run in self.runs],
                "saved": await run_in_threadpool(feedback.saved, examples) if feedback is not None else [],
                "read_only": self.read_only or looks,
                "feedback": self.feedback is not None and not looks,
                "rescores": self.rescorer is not None and not looks,
                "chat": self.conversation is not None and not looks,
            }
        )

    async def changes(self, request: Request) -> Response:
        await self._look()
        run = self._run(request)
        have = [_number(request, name) for name in ("generation", "steps", "events", "controls")]
        return JSONAnswer(await run_in_threadpool(run.changes, *have))

    async def step(self, request: Request) -> Response:
        run = self._run(request)
        try:
            data = await run_in_threadpool(run.step, _in_path(request, "step"))
        except Unreadable as error:
            raise HTTPException(404, str(error)) from error
        return Response(data, media_type="application/octet-stream")

    async def csv(self, request: Request) -> Response:
        run = self._run(request)
        step = _number(request, "step") if "step" in request.query_params else None
        parts = await run_in_threadpool(csv_parts, run.run, step)
        headers = {"Content-Disposition": 'attachment; filename="tokens.csv"'}
        return StreamingResponse(parts, media_type="text/csv", headers=headers)

    async def stream(self, request: Request) -> Response:
        """Send server-sent events: one line whenever a run has new data. The page then fetches the data."""
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(self._news(), media_type="text/event-stream", headers=headers)

    async def request(self, request: Request) -> Response:
        body = await json_body(request)
        if self.read_only:
            raise HTTPException(403, "This page was started with --read-only.")
        changes = body.get("changes")
        if not isinstance(changes, list) or not 0 < len(changes) <= MOST_AT_ONCE or not all(map(_is_change, changes)):
            raise HTTPException(400, f"Send 1 to {MOST_AT_ONCE} changes, each with its control and value.")
        pairs = [(change["control"], change.get("value")) for change in changes]
        ids, refused = await run_in_threadpool(self.runs[0].send_requests, pairs, self.who)
        if refused:
            reasons = [{"control": name, "reason": reason} for name, reason in refused]
            return JSONAnswer({"refused": reasons}, status_code=422)
        return JSONAnswer({"ids": ids}, status_code=202)

    async def save_feedback(self, request: Request) -> Response:
        body = await json_body(request)
        if self.feedback is None:
            raise HTTPException(403, "This page was started with --read-only.")
        examples = self.runs[0].examples
        edits = parse_edits(body.get("edits"), examples)
        try:
            return JSONAnswer(await run_in_threadpool(self.feedback.save, edits, examples, self.who))
        except ChangedMeanwhile as error:
            now = await run_in_threadpool(self.feedback.saved, examples)
            return JSONAnswer({"error": str(error), "changed": error.examples, "saved": now}, status_code=409)

    async def rescore(self, request: Request) -> Response:
        body = await json_body(request)
        if self.rescorer is None:
            raise HTTPException(403, "This page was started without --model.")
        examples = self.runs[0].examples
        edits = parse_edits([body], examples)
        self._asking = self._asking or asyncio.Lock()
        async with self._asking:  # a waiting request holds no thread; often a keystroke cancels it
            if await request.is_disconnected():
                return Response(status_code=204)
            data = await run_in_threadpool(self.rescorer.score, edits[0], len(examples[edits[0].example].tokens))
        return Response(data, media_type="application/octet-stream")

    async def export(self, request: Request) -> Response:
        body = await json_body(request)
        step, view = body.get("step"), body.get("view")
        is_step = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < MOST_STEPS
        if not (step is None or is_step) or not isinstance(view, dict):
            raise HTTPException(400, "Send a step, or null for all steps, and the view.")
        text = await run_in_threadpool(live_export, self.runs, step, view)
        headers = {"Content-Disposition": 'attachment; filename="map.html"'}
        return Response(text, media_type="application/octet-stream", headers=headers)

    async def _news(self) -> AsyncIterator[str]:
        seen: Any = None
        spoke = time.monotonic()
        while not self.closing:
            await self._look()
            version = json.dumps(await run_in_threadpool(self._versions))
            if version != seen:
                seen, spoke = version, time.monotonic()
                yield f"data: {version}\n\n"
            elif time.monotonic() - spoke > BEAT_EVERY:
                spoke = time.monotonic()
                yield ": still here\n\n"
            await asyncio.sleep(LOOK_EVERY)

    def _versions(self) -> list[list[Any]]:
        return [run.version for run in self.runs]

    async def _look(self) -> None:
        """Poll the runs, at most once per interval, however many pages are open."""
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if time.monotonic() - self._looked >= LOOK_EVERY / 2:
                for run in self.runs:
                    await run_in_threadpool(run.poll)
                self._looked = time.monotonic()

    def _run(self, request: Request) -> LiveRun:
        index = _in_path(request, "run")
        if index >= len(self.runs):
            raise HTTPException(404, "no such run")
        return self.runs[index]


def page_of(
    runs: list[RunDir],
    *,
    read_only: bool,
    dataset: Dataset,
    check: Check | None = None,
    rescorer: Rescorer | None = None,
    conversation: Conversation | None = None,
) -> PageServer:
    """Make the page of a run that exists, or of one that is still to begin.

    Args:
        runs: one run, or two to compare.
        dataset, check, rescorer, conversation: of the first run, see `Feedback` and `PageServer`.
    """
    feedback, followed = Feedback(runs[0], dataset, check), [LiveRun(run) for run in runs]
    options: dict[str, Any] = {"feedback": feedback, "rescorer": rescorer, "conversation": conversation}
    return PageServer(followed, who=_user(), read_only=read_only, **options)


def _is_change(change: object) -> bool:
    return isinstance(change, dict) and isinstance(change.get("control"), str)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, as in some containers
        return "page"


def _in_path(request: Request, name: str) -> int:
    """Return a number of the path. A text that is not one leads nowhere."""
    text = request.path_params[name]
    if not _is_number(text):
        raise HTTPException(404, f"no such {name}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(MOST_STEPS)) - 1


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not _is_number(text):
        raise HTTPException(400, f"{name} is not a number")
    return int(text)
