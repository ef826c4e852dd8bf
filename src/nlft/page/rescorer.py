"""Score edited feedback with a model in another process, so that the page's server needs no torch."""

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

MODULE = "nlft.training.rescore_worker"  # started by name, because importing it would import torch
LAST_WAIT_SECONDS = 2.0


class ModelProcess:
    """A model in a process of its own, which answers one line of JSON with one line of JSON.

    The constructor starts the process, because a model takes seconds to load. Requests wait until it is loaded.
    """

    def __init__(self, module: str, *arguments: str, command: str) -> None:
        """
        Args:
            module: the module to run. It is named, because importing it would import torch.
            arguments: its arguments.
            command: the command to start again when the process has ended, such as `nlft map`.
        """
        self._lock = threading.Lock()
        self._ready: dict[str, Any] | None = None
        self._gone = {"error": f"the model's process has ended; start `{command}` again"}
        # -P: do not import modules from the user's working folder.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the answer. It has `error` if the model cannot be loaded, or cannot answer."""
        with self._lock:
            if self._ready is None:
                self._ready = self._line()
            return self._ready if "error" in self._ready else self._ask(question)

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
        if self._process.stdout:
            self._process.stdout.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            return self._gone
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        while line and not line.startswith("{"):  # skip lines that libraries print when they are imported
            line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else self._gone


class Rescorer(ModelProcess):
    """Starts the worker process of a run, and asks it for scores."""

    def __init__(self, run: RunDir, model: str, data: Path | None = None) -> None:
        """
        Args:
            model: folder or hub name. It comes from the server's command line; a browser cannot choose a model.
            data: the file that the run was trained on; None for the file in run.yaml.
        """
        self.run = run
        super().__init__(MODULE, str(run.path), model, *([] if data is None else [str(data)]), command="nlft map")

    def score(self, edit: Edit, tokens: int) -> bytes:
        """Score an example under its edited label and judgment. Return the scores in
        the format of `pack_step`, with one step and one example.

        Args:
            tokens: number of tokens of the example in the run.

        Raises:
            NLFTError: the model cannot be loaded, or cannot score the example.
        """
        question = {"example": edit.example, "id": edit.id, "label": edit.label, "judgment": edit.judgment}
        reply = self.ask(question)
        if "error" in reply:
            raise NLFTError(f"not re-scored: {reply['error']}")
        scores = unpacked(reply["arrays"])
        if (own := len(scores.base)) != tokens:
            raise NLFTError(
                f"not re-scored: the completion has {own} tokens with this model, but {tokens} in the run.\n"
                "  Start `nlft map` with the --model that the run trains."
            )
        step = max(self.run.snapshot_steps(), default=0)
        snapshot = Snapshot(step, 0.0, reply["scheme"], reply["settings"], reply["tag_names"], [scores])
        return pack_step(snapshot, [Shown(snapshot, scores)])


def unpacked(arrays: dict[str, str]) -> TokenScores:
    """Read the arrays that a worker sends, as `nlft.training.rescore_worker.packed` writes them."""
    found: dict[str, Any] = dict.fromkeys(("standard", "judge", "band"))
    return TokenScores(**found | {n: np.frombuffer(base64.b64decode(text), ARRAYS[n]) for n, text in arrays.items()})
