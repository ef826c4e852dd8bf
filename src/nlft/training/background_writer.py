"""Write in a thread of its own: a training never waits for the disk."""

import queue
import threading
import time
import warnings
from collections.abc import Callable

WAITING = 16  # maximum number of snapshots that wait for the disk
LAST_WAIT_SECONDS = 10.0  # maximum wait for the disk after training


class BackgroundWriter:
    """Writes in a separate thread, in order. Training never waits for the disk. All disk errors give one warning."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._trouble: OSError | None = None
        self._dropped = 0
        self._warned = False

    def submit(self, write: Callable[[], None]) -> None:
        """Call `write` soon in the thread, or never if too many writes are waiting.

        `write` may raise only OSError. A later call warns of the error.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="saliency map", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(write)
        except queue.Full:
            self._dropped += 1
        self._tell()

    def finish(self, seconds: float = LAST_WAIT_SECONDS) -> None:
        """Wait until everything is written, but at most this many seconds."""
        until = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)
        self._dropped += self._queue.unfinished_tasks
        if self._thread is not None and not self._queue.unfinished_tasks:
            self._queue.put(None)
            self._thread = None
        self._tell()

    def _work(self) -> None:
        while (write := self._queue.get()) is not None:
            try:
                write()
            except OSError as error:
                self._trouble = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _tell(self) -> None:
        if self._warned or not (self._trouble or self._dropped):
            return
        self._warned = True
        why = str(self._trouble) if self._trouble else "the disk is too slow for it"
        warnings.warn(f"could not write all of the saliency map: {why}; training goes on.", stacklevel=3)
