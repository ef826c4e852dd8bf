"""Serve the page on which a person labels the replies of a file.

The server reads the file once and keeps its replies in memory. A browser names replies by number, and no path. Every
decision is on disk before its answer is sent, so a killed server loses nothing.
"""

import asyncio
import base64
import secrets
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from nlft.errors import display_path, typed
from nlft.files import render_page
from nlft.label.labelling import Labelling, Outdated
from nlft.label.model import LabelProcess
from nlft.page.access import Access
from nlft.page.application import JSONAnswer, guarded, json_body
from nlft.page.bundle import static_files
from nlft.page.connections import listen
from nlft.page.ports import USUAL_PORTS
from nlft.page.serving import say_address, web_server

LONGEST_SEARCH = 1000  # characters
LONGEST_NAME = 100  # characters of a step's or a reader's name
STYLES = ("base.css", "map.css", "label.css")


class LabelServer:
    """The server's routes."""

    def __init__(self, labelling: Labelling, file: str, model: LabelProcess | None = None) -> None:
        """
        Args:
            file: the file's name as the page shows it.
            model: scores what is written, and continues replies; None without a model.
        """
        self.labelling, self.file, self.model = labelling, file, model
        self._files = {**static_files(), **_own_files()}
        self._asking: asyncio.Lock | None = None

    def app(self, token: str | Access, hosts: set[str], cookie: str = "nlft-label") -> ASGIApp:
        """Return the whole application behind its guard."""
        routes = [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/about", self.about),
            Route("/api/rows/{place}", self.row),
            Route("/api/search", self.search, methods=["POST"]),
            Route("/api/decide", self.decide, methods=["POST"]),
            Route("/api/undo", self.undo, methods=["POST"]),
            Route("/api/redo", self.redo, methods=["POST"]),
            Route("/api/score", self.score, methods=["POST"]),
            Route("/api/resume", self.resume, methods=["POST"]),
        ]
        return guarded(routes, token, hosts, cookie)

    def close(self) -> None:
        """End what open pages wait for, so that the server can stop."""
        if self.model is not None:
            self.model.kill()

    async def page(self, request: Request) -> Response:
        return HTMLResponse(render_page("nlft.label", "label.html", "", style_files=STYLES))

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404, "no such file")
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(self._files[name], media_type=kind)

    async def about(self, request: Request) -> Response:
        labelling, model = self.labelling, self.model
        name = model.name if model else None
        return JSONAnswer(
            {
                "file": self.file,
                "out": display_path(labelling.out),
                "decisions": display_path(labelling.journal.path),
                "rows": len(labelling.replies),
                "last": labelling.last_place,
                "elsewhere": labelling.elsewhere,
                "model": name,
                "max_new_tokens": model.max_new_tokens if model else None,
                "next": next_command(labelling, name, model.adapter if model else None),
                **self._progress(),
            }
        )

    async def row(self, request: Request) -> Response:
        place = request.path_params["place"]
        if not (place.isascii() and place.isdigit() and len(place) < 10) or int(place) >= len(self.labelling.replies):
            raise HTTPException(404, "no such reply")
        return JSONAnswer(self.labelling.row(int(place)))

    async def search(self, request: Request) -> Response:
        text = (await json_body(request)).get("text")
        if not isinstance(text, str) or len(text) > LONGEST_SEARCH:
            raise HTTPException(400, f"Search for at most {LONGEST_SEARCH} characters.")
        return JSONAnswer({"places": await run_in_threadpool(self.labelling.search, text)})

    async def decide(self, request: Request) -> Response:
        body = await json_body(request)
        place, seen, step = self._place(body), body.get("seen"), body.get("step", "")
        if not isinstance(seen, int) or not isinstance(step, str) or len(step) > LONGEST_NAME:
            raise HTTPException(400, "Send the revision that was seen, and the step.")
        try:
            await run_in_threadpool(self.labelling.decide, place, body.get("decision"), seen, step)
        except Outdated as error:
            return JSONAnswer({"error": str(error), "row": self.labelling.row(place)}, status_code=409)
        return JSONAnswer({"revision": self.labelling.revisions[place], **self._progress()})

    async def undo(self, request: Request) -> Response:
        return await self._turned(request, self.labelling.undo)

    async def redo(self, request: Request) -> Response:
        return await self._turned(request, self.labelling.redo)

    async def _turned(self, request: Request, turn: Callable[[str | None], int | None]) -> Response:
        who = (await json_body(request)).get("who")
        if not isinstance(who, str | None) or len(who or "") > LONGEST_NAME:
            raise HTTPException(400, "Send the reader's name.")
        try:
            place = await run_in_threadpool(turn, who)
        except Outdated as error:
            return JSONAnswer({"error": str(error)}, status_code=409)
        row = None if place is None else self.labelling.row(place)
        return JSONAnswer({"row": row, **self._progress()})

    async def score(self, request: Request) -> Response:
        body = await json_body(request)
        model, place = self._model(), self._place(body)
        record = self.labelling.example_with(place, body.get("decision"))
        if record is None:
            raise HTTPException(422, "Say first whether you like the reply, and why.")
        found = await self._ask(request, lambda: model.score(record))
        if found is None:
            return Response(status_code=204)
        return JSONAnswer({"tokens": found[0], "step": base64.b64encode(found[1]).decode()})

    async def resume(self, request: Request) -> Response:
        body = await json_body(request)
        model, place = self._model(), self._place(body)
        begun = body.get("begun")
        if not isinstance(begun, str) or not begun.strip():
            raise HTTPException(422, "Write first what should stand there.")
        record = self.labelling.prompt_record(place)
        found = await self._ask(request, lambda: model.resume(record, begun))
        return Response(status_code=204) if found is None else JSONAnswer(found)

    async def _ask(self, request: Request, question: Callable[[], Any]) -> Any:
        """Ask the model. A waiting question holds no thread. Return None if the browser has given up meanwhile."""
        self._asking = self._asking or asyncio.Lock()
        async with self._asking:
            if await request.is_disconnected():
                return None
            return await run_in_threadpool(question)

    def _model(self) -> LabelProcess:
        if self.model is None:
            raise HTTPException(403, "This page was started without --model_name_or_path.")
        return self.model

    def _place(self, body: dict[str, Any]) -> int:
        place = body.get("place")
        if not isinstance(place, int) or isinstance(place, bool) or not 0 <= place < len(self.labelling.replies):
            raise HTTPException(404, "no such reply")
        return place

    def _progress(self) -> dict[str, Any]:
        labelling = self.labelling
        return {"counts": labelling.counts(), "states": labelling.states(), "steps": labelling.steps}


def _own_files() -> dict[str, bytes]:
    folder = files("nlft.label") / "static"
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name.endswith((".js", ".css"))}


def next_command(labelling: Labelling, model: str | None, adapter: str | None = None) -> str:
    """Return the command that trains on the output, from the adapter on if there is one.

    With spans or quotes only, `strike` reads what is there.
    """
    unjudged = any(d.state == "disliked" and not d.judgment.strip() for d in labelling.now)
    scheme = ["--scheme", "strike"] if unjudged else []
    words: list[str | Path] = ["nlft", "train", labelling.out, *scheme, "--model_name_or_path", model or "MODEL"]
    words += ["--adapter", adapter] if adapter else []
    return typed(*words, "--output_dir", "runs/labelled")


def serve_label(
    labelling: Labelling,
    file: Path | str,
    host: str,
    port: int | None,
    *,
    hosts: set[str],
    model: LabelProcess | None,
    access: Access | None = None,
) -> None:
    """Print the page's address and where decisions go, and serve the page until interrupted.

    Args:
        port: port to listen on; None for the usual port, or for any free port if that is taken.
        hosts: host names that browsers may use for the server.
        access: the page's tokens, and its path behind a proxy; None: a new token.

    Raises:
        UserError: the server cannot listen on the address.
    """
    page = LabelServer(labelling, display_path(file), model)
    listening = listen(host, port, USUAL_PORTS["label"])
    access = access or Access(secrets.token_urlsafe(24))
    say_address("label", host, listening.getsockname()[1], access)
    print(f"labelled replies: {display_path(labelling.out)}; {display_path(file)} stays as it is", flush=True)
    print("Every decision is saved at once. Press Ctrl-C to stop; the same command goes on.", flush=True)
    with suppress(KeyboardInterrupt):  # the usual end
        web_server(page, listening, access, hosts).serve_until_stopped()
