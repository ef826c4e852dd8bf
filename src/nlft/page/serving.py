"""Serve a page on a socket until it is interrupted."""

import os
import secrets
import socket
import sys
import webbrowser
from types import FrameType
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp

from nlft.page.access import Access
from nlft.page.connections import PatientProtocol, listen
from nlft.page.ports import USUAL_PORTS

QUEUE = 32  # number of connections that are accepted at once


class Served(Protocol):
    """What a web server serves: the page of one run, the list of a folder's runs, or another page."""

    def app(self, token: str | Access, hosts: set[str], cookie: str) -> ASGIApp:
        """Return the whole application behind its guard."""
        ...

    def close(self) -> None:
        """End everything that open pages wait for."""
        ...


def serve_map(
    page: Served, host: str, port: int | None, *, hosts: set[str], access: Access | None = None, opens: bool = False
) -> None:
    """Print the page's address and serve it until interrupted.

    Args:
        port: port to listen on; None for the usual port, or for any free port if that is taken.
        hosts: host names that browsers may use for the server.
        access: the page's tokens, and its path behind a proxy; None: a new token.
        opens: whether to open the address in the user's browser, if there is one.

    Raises:
        UserError: the server cannot listen on the address.
    """
    try:
        listening = listen(host, port, USUAL_PORTS["map"])
        access = access or Access(secrets.token_urlsafe(24))
        address = say_address("map", host, listening.getsockname()[1], access)
        print("Press Ctrl-C to stop the page. Training continues.", flush=True)
        if opens and (sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()):
            webbrowser.open(address)
        web_server(page, listening, access, hosts).serve_until_stopped()
    finally:
        page.close()  # ends the processes behind the page, also if nobody can reach it


def say_address(name: str, host: str, port: int, access: Access) -> str:
    """Print a page's address, and how to reach it over SSH. Return the address. A token that was given stays secret."""
    shown = f"[{host}]" if ":" in host else host
    token = "TOKEN" if access.shared else access.token
    address = f"http://{shown}:{port}{access.root_path}/?token={token}"
    print(f"{name}: {address}", flush=True)
    if "SSH_CONNECTION" in os.environ:
        print(
            f"On your own computer, run: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE\nThen open the same address.",
            flush=True,
        )
    return address


def web_server(page: Served, listening: socket.socket, token: str | Access, hosts: set[str]) -> "WebServer":
    """Make a web server on the given socket. Call `serve_until_stopped`, and `stop` from another thread."""
    port = listening.getsockname()[1]
    app = page.app(token, hosts, cookie=f"nlft-map-{port}")
    settings: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False, "lifespan": "off"}
    # A short queue: asyncio accepts the whole of it before it looks at the number of connections.
    config = uvicorn.Config(app, http=PatientProtocol, loop="asyncio", backlog=QUEUE, **settings)
    return WebServer(config, page, listening)


class WebServer(uvicorn.Server):
    """Runs uvicorn on our own socket. When it stops, it does not wait for the streams of open pages."""

    def __init__(self, config: uvicorn.Config, page: Served, listening: socket.socket) -> None:
        super().__init__(config)
        self.page, self.listening = page, listening

    def serve_until_stopped(self) -> None:
        """Serve until interrupted or stopped."""
        self.run(sockets=[self.listening])

    def stop(self) -> None:
        self.should_exit = True
        self.page.close()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.page.close()
        super().handle_exit(sig, frame)
