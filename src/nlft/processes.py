"""Processes that end with the one that started them, or in order when SIGTERM or SIGHUP comes."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import wait

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that end the work in order. A cluster sends SIGTERM, and a terminal that is closed SIGHUP."""


class Terminated(SystemExit):
    """A signal ended the work. Its code is what a shell reports for that signal."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.number, self.exit_code = number, 128 + number
        super().__init__(self.exit_code)


@contextmanager
def importing() -> Iterator[None]:
    """Import torch and what stands on it inside this context: a quarter quicker.

    The garbage collector waits until the end. It never looks at what is there then, not even when the process ends.
    In a process that has torch already, nothing changes: it may have garbage of its own.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if "torch" in sys.modules:
            gc.freeze()
        gc.enable()


def run_module(name: str, *arguments: str) -> None:
    """Import a module that needs torch, and call its `main` with a list of the arguments."""
    with importing():
        module = import_module(name)
    module.main(list(arguments))


def end_with_parent() -> None:
    """End this process when its parent ends for any reason. Call this in a thread of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def terminable() -> Iterator[None]:
    """Work inside this context. A signal ends it with `Terminated`, so locks are released and it is said what is kept.

    Without it, the system ends the process at once. A handler that someone else has set stays. `nohup` sets one: it
    ignores SIGHUP.
    """
    main = threading.current_thread() is threading.main_thread()  # only this thread may set a handler
    ours = [one for one in ENDING if main and signal.getsignal(one) is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, _raise)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


def _raise(number: int, *_: object) -> None:
    raise Terminated(number)
