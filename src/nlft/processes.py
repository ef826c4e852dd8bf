"""Processes that end with the one that started them, or in order when SIGTERM comes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait

TERMINATED = 128 + signal.SIGTERM  # exit code of a process that SIGTERM ended


class Terminated(SystemExit):
    """SIGTERM ended the work."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def end_with_parent() -> None:
    """End this process when its parent ends for any reason. Call this in a thread of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def terminable() -> Iterator[None]:
    """Work inside this context. SIGTERM ends it with `Terminated`, so locks are released and it is said what is kept.

    Without it, the system ends the process at once. A handler that someone else has set stays.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:  # only the main thread may set a handler
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(*_: object) -> None:
    raise Terminated
