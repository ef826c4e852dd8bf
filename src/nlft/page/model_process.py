"""A model in a process of its own, so that the page's server needs no torch."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

from nlft.files import json_object
from nlft.launch import without_launcher

LAST_WAIT_SECONDS = 2.0
_BEGIN = "import sys; from nlft.processes import run_module; run_module(*sys.argv[1:])"


class ModelProcess:
    """Starts a process that has a model, and ends it. Each line of its input and output is JSON.

    The constructor starts the process, because a model takes seconds to load.
    """

    def __init__(self, module: str, *arguments: str, command: str) -> None:
        """
        Args:
            module: the module whose `main` is run. It is named, because importing it would import torch.
            arguments: its arguments.
            command: the command to start again when the process has ended, such as `nlft map`.
        """
        self._lock = threading.Lock()
        self._gone = {"error": f"the model's process has ended; start `{command}` again"}
        # -P: do not import modules from the user's working folder.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BEGIN, module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=without_launcher(),
            start_new_session=True,
        )

    def kill(self) -> None:
        """Kill the process. Requests that wait for an answer fail."""
        self._process.kill()

    def close(self) -> None:
        """End the process. Without this call, it ends when the server has ended."""
        if self._process.stdin:
            with suppress(OSError):  # a killed process has not read the last request
                self._process.stdin.close()
        try:
            self._process.wait(LAST_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, request: dict[str, Any]) -> None:
        """Send a line.

        Raises:
            OSError: the process has ended.
            ValueError: this side is closed.
        """
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()


class AskedProcess(ModelProcess):
    """A model's process that answers one line with one line. Requests wait until the model is loaded."""

    def __init__(self, module: str, *arguments: str, command: str) -> None:
        super().__init__(module, *arguments, command=command)
        self._ready: dict[str, Any] | None = None

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer. It has `error` if the model cannot be loaded, or cannot answer."""
        with self._lock:
            if self._ready is None:
                self._ready = self._line()
            return self._ready if "error" in self._ready else self._ask(question)

    def close(self) -> None:
        """End the process. Without this call, it ends when the server has ended."""
        super().close()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            self._write(question)
        except OSError:
            return self._gone
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        for text in self._process.stdout:
            if (line := json_object(text)) is not None:
                return line
        return self._gone
