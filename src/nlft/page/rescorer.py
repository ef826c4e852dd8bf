"""Score edited feedback with a model in another process, so that the page's server needs no torch."""

import base64
from pathlib import Path
from typing import Any

import numpy as np

from nlft.errors import NLFTError
from nlft.page.feedback import Edit
from nlft.page.model_process import AskedProcess
from nlft.page.steps import ARRAYS, Shown, pack_step
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores

MODULE = "nlft.training.rescore_worker"  # started by name, because importing it would import torch


class Rescorer(AskedProcess):
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
