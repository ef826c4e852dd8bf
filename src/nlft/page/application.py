"""What all pages' servers share: routes behind a guard, errors as JSON, bodies that are read with limits."""

import asyncio
import json
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from nlft.errors import NLFTError
from nlft.files import json_bytes
from nlft.page.access import Access
from nlft.page.guard import Guard

LONGEST_BODY = 1_000_000  # bytes; the largest body is feedback on many examples
BEAT_EVERY = 10.0  # seconds without data after which a stream sends a heartbeat; some proxies cut it after 60
BODY_WITHIN = 30.0  # seconds in which a request's body must arrive


def guarded(routes: list[Route], token: str | Access, hosts: set[str], cookie: str) -> ASGIApp:
    """Return an application of these routes behind its guard."""
    return Guard(application(routes), token, hosts, cookie)


def application(routes: list[Route]) -> ASGIApp:
    """Return an application of these routes. Errors are answered as JSON with `error`."""
    handlers: dict[Any, Any] = {NLFTError: _refused, HTTPException: _failed, ClientDisconnect: _left}
    return Starlette(routes=routes, exception_handlers=handlers)


class JSONAnswer(JSONResponse):
    """An answer as JSON, which may hold a file name that is not UTF-8."""

    def render(self, content: Any) -> bytes:
        return json_bytes(content, allow_nan=False)


async def json_body(request: Request) -> dict[str, Any]:
    """Read the request's JSON object. Refuse a body that is too long or is not a JSON object."""
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise HTTPException(415, "Send JSON.")
    try:
        async with asyncio.timeout(BODY_WITHIN):
            data = await _received(request)
    except TimeoutError as error:
        raise HTTPException(408, "The body did not arrive in time.") from error
    try:
        body = json.loads(data)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()  # raises for NaN and half a surrogate pair
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "The body is not JSON.") from error
    if not isinstance(body, dict):
        raise HTTPException(400, "Send a JSON object.")
    return body


async def _refused(request: Request, error: Exception) -> Response:
    return JSONAnswer({"error": str(error)}, status_code=422)


async def _left(request: Request, error: Exception) -> Response:
    """Answer nobody: the browser left while it sent its request."""
    return Response(status_code=400)


async def _received(request: Request) -> bytes:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > LONGEST_BODY:
            raise HTTPException(413, f"Send at most {LONGEST_BODY} bytes.")
    return data


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONAnswer({"error": error.detail}, status_code=error.status_code, headers=error.headers)
