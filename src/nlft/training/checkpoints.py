"""Write checkpoints without pickles, whole or not at all, and refuse incomplete ones.

Trainer saves optimizer, scheduler, RNG state and arguments with torch.save. If such a file is missing, Trainer resumes
without an error and ends with different weights. The overrides here write safetensors, JSON and a manifest.
"""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from nlft.errors import UserError, display_path
from nlft.files import write_whole
from nlft.models.ends import name_trained_end
from nlft.runs.run_dir import RunDir
from nlft.training.overrides import check_overrides

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
SCHEDULER = "scheduler.json"

check_overrides(Trainer)


class SafeCheckpoints(Trainer):  # type: ignore[misc]
    """Mixin for a Trainer whose `output_dir` is a run directory."""

    _writing: Path | None = None
    resumed_from: str | None = None  # the checkpoint that the last resumed training started from

    def _get_output_dir(self, trial: object = None) -> str:
        return str(self._writing or RunDir(self.args.output_dir).checkpoints_path)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object = None) -> None:
        home = RunDir(self.args.output_dir).checkpoints_path
        name = f"checkpoint-{self.state.global_step}"
        self._writing = home / ".writing"
        try:
            super()._save_checkpoint(model, trial)
        finally:
            aside, self._writing = self._writing / name, None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._add_to_checkpoint(aside)
            files = sorted(str(p.relative_to(aside)) for p in aside.rglob("*") if p.is_file())
            sizes = {name: (aside / name).stat().st_size for name in files}
            write_whole(aside / MANIFEST, json.dumps({"world_size": self.args.world_size, "files": sizes}).encode())
            shutil.rmtree(home / name, ignore_errors=True)
            os.replace(aside, home / name)
            shutil.rmtree(aside.parent)  # also remove half-written files that a killed process left there
            rotate_checkpoints(output_dir=str(home), save_total_limit=self.args.save_total_limit, use_mtime=True)
        self.accelerator.wait_for_everyone()

    def _add_to_checkpoint(self, folder: Path) -> None:
        """Write further files into a checkpoint. Only the main process calls this."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            Path(folder).mkdir(parents=True, exist_ok=True)
        if not isinstance(self.model, PeftModel) and self.processing_class is not None:
            name_trained_end(self.model, self.processing_class)
        self.model.save_pretrained(folder, state_dict=state_dict, is_main_process=self.args.should_save)
        if self.args.should_save and self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:  # these engines have their own formats
            super()._save_optimizer_and_scheduler(output_dir)
            return
        if not self.args.should_save:
            return
        tensors, as_json = _split(self.optimizer.state_dict())
        save_file(tensors, os.path.join(output_dir, OPTIMIZER), metadata={"plain": json.dumps(as_json)})
        write_whole(Path(output_dir) / SCHEDULER, json.dumps(self.lr_scheduler.state_dict()).encode())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self.resumed_from = checkpoint
        if checkpoint is None or self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        from safetensors import safe_open

        path = os.path.join(checkpoint, OPTIMIZER)
        with safe_open(path, framework="pt") as file:
            as_json = json.loads(file.metadata()["plain"])
        self.optimizer.load_state_dict(_join(load_file(path), as_json))
        self.lr_scheduler.load_state_dict(json.loads((Path(checkpoint) / SCHEDULER).read_text()))

    def _save_rng_state(self, output_dir: str) -> None:
        version, keys, position = random.getstate()
        algorithm, words, *rest = np.random.get_state()
        as_json = {"python": [version, position], "numpy": [algorithm, *(float(x) for x in rest)]}
        tensors = {
            "python": torch.tensor(keys, dtype=torch.int64),
            "numpy": torch.from_numpy(np.asarray(words).astype(np.int64)),
            "cpu": torch.random.get_rng_state(),
        }
        if torch.cuda.is_available():
            tensors["cuda"] = torch.cuda.get_rng_state()
        os.makedirs(output_dir, exist_ok=True)
        save_file(tensors, self._rng_file(output_dir), metadata={"plain": json.dumps(as_json)})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        from safetensors import safe_open

        path = self._rng_file(checkpoint)
        with safe_open(path, framework="pt") as file:
            as_json = json.loads(file.metadata()["plain"])
        tensors = load_file(path)
        version, position = as_json["python"]
        random.setstate((version, tuple(tensors["python"].tolist()), position))
        algorithm, at, has_gauss, gauss = as_json["numpy"]
        words = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state((algorithm, words, int(at), int(has_gauss), gauss))
        torch.random.set_rng_state(tensors["cpu"])
        if torch.cuda.is_available() and "cuda" in tensors:
            torch.cuda.set_rng_state(tensors["cuda"])

    def _rng_file(self, folder: str) -> str:
        return os.path.join(folder, f"rng_state_{self.args.process_index}.safetensors")


def checkpoint_to_resume(run: RunDir, choice: str | bool, world_size: int) -> Path:
    """Find the checkpoint to resume from, and check that it is whole.

    Args:
        choice: value of `--resume_from_checkpoint`: a checkpoint's folder, or `true` for the run's latest checkpoint.
        world_size: number of processes of this run.

    Raises:
        UserError: the checkpoint does not exist, is incomplete, or was written by another number of processes.
    """
    if str(choice).lower() == "true":
        checkpoints = sorted(run.checkpoints_path.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
        if not checkpoints:
            raise UserError(
                f"{display_path(run.path)} has no checkpoint to resume from.\n  Leave out --resume_from_checkpoint."
            )
        path = checkpoints[-1]
    else:
        path = Path(str(choice))
    where = display_path(path)
    if not (path / MANIFEST).is_file():
        raise UserError(f"{where} has no {MANIFEST}, so it is not a whole checkpoint.\n  Resume from another one.")
    manifest = json.loads((path / MANIFEST).read_text())
    for name, size in manifest["files"].items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise UserError(f"{where}: {name} is missing or cut off.\n  Resume from another checkpoint.")
    if manifest["world_size"] != world_size:
        raise UserError(
            f"{where} was written by {manifest['world_size']} processes, but this run has {world_size}.\n"
            f"  Start {manifest['world_size']} processes."
        )
    return path


def _split(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and values that JSON can hold."""
    tensors: dict[str, torch.Tensor] = {}
    as_json: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        as_json["state"][index] = {}
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{name}"] = value.contiguous()
            else:
                as_json["state"][index][name] = value
    return tensors, as_json


def _join(tensors: dict[str, torch.Tensor], as_json: dict[str, Any]) -> dict[str, Any]:
    state = {int(index): dict(values) for index, values in as_json["state"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state[int(index)][name] = tensor
    return {"state": state, "param_groups": as_json["param_groups"]}
