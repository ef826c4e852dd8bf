"""The connections of the page's server: limited in number, and closed if nothing comes over them."""

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from nlft.errors import UserError

HEADERS_WITHIN = 10.0  # seconds in which a request must arrive, so that half-open connections end
BACKLOG = 128  # number of connections that may wait to be accepted
MOST_CONNECTIONS = 256  # fewer if the system allows the process fewer files


def most_connections() -> int:
    """Return how many connections may be open: at most half of the files that the process may open."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if files == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, files // 2)


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which waits for a request for ever, with an end to its patience."""

    _timer: asyncio.TimerHandle | None = None
    _seen: object = None  # the request that was the last one when the timer went off

    def connection_made(self, transport: Any) -> None:
        """Take the connection. If there are too many, close one that has sent no request, or else this one."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEADERS_WITHIN, self._look)
        if len(self.connections) > most_connections():
            idle = [c for c in self.connections if isinstance(c, PatientProtocol) and c.is_idle and c is not self]
            (idle[0] if idle else self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        """Close the connection if it was idle for the whole time."""
        if self.is_idle and self._seen is self.cycle:
            self.transport.close()
            return
        self._seen = self.cycle
        self._timer = self.loop.call_later(HEADERS_WITHIN, self._look)


def listen(host: str, port: int | None, preferred: int) -> socket.socket:
    """Open a socket to serve on.

    Args:
        port: the port that the user chose; None for the preferred port, or for any free port if that is taken.
        preferred: the usual port.

    Raises:
        UserError: the server cannot listen on the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port is not None else [preferred, 0]:
        # With the protocol named, asyncio sends each answer at once (TCP_NODELAY). Otherwise every request on an open
        # connection waits 40 ms for the browser's acknowledgement.
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host, candidate))
            made.listen(BACKLOG)  # listen before the address is printed, so that a browser can connect at once
        except OSError as error:
            made.close()
            problem = error
        else:
            return made
    raise UserError(
        f"cannot listen on {host}:{port if port is not None else preferred} ({problem.strerror}).\n"
        "  Give another --port, or another --host."
    )
