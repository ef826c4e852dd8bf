"""Asks a model about edited feedback: a process of its own holds it, so that the page's server needs no torch."""

import base64
import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nlft.errors import NLFTError
from nlft.page.feedback import Edit
from nlft.page.steps import ARRAYS, Shown, pack_step
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores

MODULE = "nlft.training.rescore_worker"  # started by name: to import it would bring torch
LAST_WAIT_SECONDS = 2.0


class Rescorer:
    """Starts the process at once, since a model takes seconds to load; questions that come meanwhile wait for it."""

    def __init__(self, run: RunDir, model: str, data: Path | None = None) -> None:
        """
        Args:
            model: folder or hub name, from whoever started the server: nothing that a browser sends names one.
            data: what the run was trained on; None for the file that run.yaml names.
        """
        self.run = run
        self._lock = threading.Lock()
        self._ready: dict[str, Any] | None = None
        # -P: what lies in the user's working folder is no module of ours.
        command = [sys.executable, "-P", "-m", MODULE, str(run.path), model, *([] if data is None else [str(data)])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def score(self, edit: Edit, tokens: int) -> bytes:
        """The example's scores under an edited label and judgment, as one step of one example, see `pack_step`.

        Args:
            tokens: how many the example has.

        Raises:
            NLFTError: the model cannot be loaded, or the example not be scored so.
        """
        with self._lock:
            if self._ready is None:
                self._ready = self._line()
            found = self._ready if "error" in self._ready else self._ask(edit)
        if "error" in found:
            raise NLFTError(f"not re-scored: {found['error']}")
        arrays: dict[str, Any] = dict.fromkeys(("standard", "judge", "band"))
        arrays |= {n: np.frombuffer(base64.b64decode(text), ARRAYS[n]) for n, text in found["arrays"].items()}
        if len(arrays["base"]) != tokens:
            own = len(arrays["base"])
            raise NLFTError(
                f"not re-scored: this model makes {own} tokens of the completion, and the run's {tokens}.\n"
                "  Start `nlft map` with the --model that the run trains."
            )
        scores = TokenScores(**arrays)
        step = max(self.run.snapshot_steps(), default=0)
        snapshot = Snapshot(step, 0.0, found["scheme"], found["settings"], found["tag_names"], [scores])
        return pack_step(snapshot, [Shown(snapshot, scores)])

    def kill(self) -> None:
        """End the process at once: whoever waits for its answer is told that it has gone."""
        self._process.kill()

    def close(self) -> None:
        """End the process; it also ends by itself when the server is gone."""
        if self._process.stdin:
            with suppress(OSError):  # a question that a killed process has not read
                self._process.stdin.close()
        try:
            self._process.wait(LAST_WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, edit: Edit) -> dict[str, Any]:
        assert self._process.stdin
        question = {"example": edit.example, "id": edit.id, "label": edit.label, "judgment": edit.judgment}
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            return _GONE
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # what some library printed while it was imported
            line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else _GONE


_GONE = {"error": "the process that holds the model has ended; start `nlft map` again"}
