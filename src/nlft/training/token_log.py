"""What a trainer of our own logs: means over the steps since the last line, from sums that all ranks share."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer


class LogsSums(Trainer):  # type: ignore[misc]
    """Mixin for a Trainer that counts its own loss and tokens. Trainer itself reports a wrong loss under DDP."""

    accelerator: Any  # set by Trainer
    state: Any

    def start_sums(self) -> None:
        """Begin with no sums. Call this after Trainer's `__init__`."""
        self._metrics: dict[str, dict[str, tuple[Tensor, Tensor]]] = {"train": {}, "eval": {}}
        self._num_tokens, self._logged_at = 0.0, (time.monotonic(), 0)
        self.last_sums: dict[str, tuple[float, float]] = {}  # of the last train line, over all ranks and its steps
        self._flops_of_a_token: int | None = None

    def add_sums(self, mode: str, new: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add to the sums that `log` divides. Do not wait for the device.

        Args:
            mode: `train` or `eval`.
            new: for each metric, what is added above and below the line. Where 0 is added below, `log` divides by the
                number of steps. `num_tokens` is logged as the count of all steps so far.
        """
        sums = self._metrics[mode]
        for name, (top, bottom) in new.items():
            old = sums.get(name, (0.0, 0.0))
            sums[name] = (old[0] + top.float(), old[1] + bottom.float())

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count as Trainer does, but the model's parameters once a run: Trainer walks through them in each step."""
        name = getattr(self.model, "main_input_name", "input_ids")
        if name not in inputs:
            return 0
        if self._flops_of_a_token is None:
            self._flops_of_a_token = super().floating_point_ops({name: torch.empty(1)})
        return self._flops_of_a_token * int(inputs[name].numel())

    def own_log_sums(self) -> dict[str, Any]:
        """Return the sums since the last line, as JSON, for a checkpoint."""
        sums = {name: [float(top), float(bottom)] for name, (top, bottom) in self._metrics["train"].items()}
        return {"num_tokens": self._num_tokens, "since": self._logged_at[1], "sums": sums}

    def take_log_sums(self, stored: dict[str, Any] | None) -> None:
        """Set the sums to those of a checkpoint. The sums of one of TRL's trainers are left out, except its tokens."""
        stored = stored or {}
        self._num_tokens = stored.get("num_tokens") or 0.0
        self._logged_at = (time.monotonic(), stored.get("since", self.state.global_step))
        tensors = {name: torch.tensor(pair, device=self.args.device) for name, pair in stored.get("sums", {}).items()}
        self._metrics["train"] = {name: (pair[0], pair[1]) for name, pair in tensors.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our own metrics, reduced over ranks."""
        mode = "train" if "loss" in logs else "eval" if any(k.startswith("eval_") for k in logs) else None
        if mode and self._metrics[mode]:
            names = list(self._metrics[mode])
            sums = torch.stack([torch.stack(self._metrics[mode][name]) for name in names])
            totals = self.accelerator.reduce(sums, "sum").tolist()
            self._metrics[mode].clear()
            if mode == "train":
                self.last_sums = {name: (top, bottom) for name, (top, bottom) in zip(names, totals, strict=True)}
            logs.update(self._means(dict(zip(names, totals, strict=True)), mode))
        super().log(logs, start_time)

    def _means(self, totals: dict[str, list[float]], mode: str) -> dict[str, float]:
        tokens = totals.pop("num_tokens")[0]
        now, (then, step) = time.monotonic(), self._logged_at
        windows = max(self.state.global_step - step, 1)
        means = {name: top / (bottom or windows) for name, (top, bottom) in totals.items() if bottom or top}
        means = {name: means.get(name, 0.0) for name in totals}
        if mode == "eval":
            return {f"eval_{name}": value for name, value in means.items() if not name.endswith("loss")}
        self._logged_at = (now, self.state.global_step)
        self._num_tokens += tokens
        return {**means, "num_tokens": self._num_tokens, "tokens_per_second": tokens / max(now - then, 1e-9)}
