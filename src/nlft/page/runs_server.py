"""Serve the list of a folder's runs, and the page of each of them.

A run's page is made when somebody opens it. A browser names a run by its number in the list, never by a path.
"""

import re
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nlft.errors import NLFTError, display_path
from nlft.page.access import Access
from nlft.page.application import JSONAnswer
from nlft.page.as_json import object_as_json
from nlft.page.bundle import list_page
from nlft.page.guard import Guard
from nlft.page.server import PageServer
from nlft.runs.listing import RunList
from nlft.runs.run_dir import RunDir

_RUN = re.compile(r"/run/(\d{1,6})(/.*)")


class RunsServer:
    """The list's routes, and the pages of the opened runs below `/run/NUMBER/`."""

    def __init__(self, runs: RunList, open_run: Callable[[RunDir], PageServer]) -> None:
        """
        Args:
            open_run: makes the page of one run.
        """
        self.runs, self.open_run = runs, open_run
        self._pages: dict[int, tuple[PageServer, ASGIApp]] = {}
        self._opening = threading.Lock()
        self._list = Starlette(
            routes=[
                Route("/", self.page),
                Route("/static/{name}", self.static),
                Route("/api/list", self.listed),
            ]
        )
        self.runs.rows()

    def app(self, token: str | Access, hosts: set[str], cookie: str = "nlft-map") -> ASGIApp:
        """Return the whole application behind its guard."""
        return Guard(self._serve, token, hosts, cookie)

    def close(self) -> None:
        """End everything that open pages wait for, so that the server can stop."""
        for page, _ in self._pages.values():
            page.close()

    async def page(self, request: Request) -> Response:
        return HTMLResponse(list_page())

    async def static(self, request: Request) -> Response:
        return PageServer.file(request.path_params["name"])

    async def listed(self, request: Request) -> Response:
        rows = await run_in_threadpool(self.runs.rows)
        runs = [{"number": number, **asdict(row)} for number, row in rows]
        return JSONAnswer(object_as_json({"folder": display_path(self.runs.folder), "runs": runs}))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _RUN.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._list(scope, receive, send)
            return
        try:
            app = await run_in_threadpool(self._app_of, int(found[1]))
        except (NLFTError, OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            await JSONAnswer({"error": f"this run cannot be read: {error}"}, status_code=422)(scope, receive, send)
            return
        if app is None:
            await JSONAnswer({"error": "no such run"}, status_code=404)(scope, receive, send)
            return
        inner: dict[str, Any] = {**scope, "path": found[2], "raw_path": found[2].encode()}
        await app(inner, receive, send)

    def _app_of(self, number: int) -> ASGIApp | None:
        if number >= len(self.runs.paths):
            return None
        with self._opening:  # two tabs may ask at once
            if number not in self._pages:
                page = self.open_run(RunDir(self.runs.paths[number]))
                self._pages[number] = (page, page.routes())
            return self._pages[number][1]
