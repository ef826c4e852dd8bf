"""Ask a model in another process about the reply on the page, so that the page's server needs no torch."""

import json
from typing import Any

from nlft.errors import NLFTError
from nlft.page.model_process import AskedProcess
from nlft.page.rescorer import unpacked
from nlft.page.steps import Shown, pack_step
from nlft.runs.run_dir import Snapshot

MODULE = "nlft.training.label_worker"  # started by name, because importing it would import torch


class LabelProcess(AskedProcess):
    """The model's process: it scores replies and continues them."""

    def __init__(self, model: str, adapter: str | None, max_new_tokens: int) -> None:
        """
        Args:
            model: folder or hub name. It comes from the command line; a browser cannot choose a model.
            max_new_tokens: maximum length of a continuation, in tokens.
        """
        self.name, self.adapter, self.max_new_tokens = model, adapter, max_new_tokens
        settings = {"model_name_or_path": model, "adapter": adapter, "max_new_tokens": max_new_tokens}
        super().__init__(MODULE, json.dumps(settings), command="nlft label")

    def score(self, record: dict[str, Any]) -> tuple[list[str], bytes]:
        """Return the tokens of an example's reply, and their scores in the format of `pack_step`.

        Raises:
            NLFTError: the model cannot be loaded, or cannot score the example.
        """
        reply = self._answer({"score": record}, "not scored")
        scores = unpacked(reply["arrays"])
        snapshot = Snapshot(0, 0.0, reply["scheme"], reply["settings"], reply["tag_names"], [scores])
        return list(reply["tokens"]), pack_step(snapshot, [Shown(snapshot, scores)])

    def resume(self, record: dict[str, Any], begun: str) -> dict[str, Any]:
        """Return what the model writes after the beginning of a reply: `text`, its `tokens`, and whether it is `cut`.

        Raises:
            NLFTError: the model cannot be loaded, or cannot read the reply.
        """
        return self._answer({"resume": {**record, "begun": begun}}, "not continued")

    def _answer(self, question: dict[str, Any], failed: str) -> dict[str, Any]:
        reply = self.ask(question)
        if "error" in reply:
            raise NLFTError(f"{failed}: {reply['error']}")
        return reply
