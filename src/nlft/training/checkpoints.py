"""Write checkpoints without pickles, whole or not at all, and refuse incomplete ones.

Trainer saves optimizer, scheduler, RNG state and arguments with torch.save. If such a file is missing, Trainer resumes
without an error and ends with different weights. The overrides here write safetensors, JSON and a manifest.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import SCALER_NAME, TRAINER_STATE_NAME

from nlft.digests import MANIFEST
from nlft.errors import UserError, display_path
from nlft.files import give_usual_modes, sync_tree, write_whole
from nlft.models.ends import name_trained_end
from nlft.models.saved_adapters import without_card
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.runs.lock import owning
from nlft.runs.run_dir import RunDir
from nlft.streams import outliving_readers
from nlft.training.interrupts import saying_how_it_ended
from nlft.training.log_state import restore_log, store_log, take_trl_sums, trl_sums
from nlft.training.manifest import WRITING, finish_checkpoint, make_last, put_in_place, recover, rotate, saving
from nlft.training.overrides import check_overrides
from nlft.training.resuming import Resumed, check_resume, use_new_settings
from nlft.training.sharding import ShardsModel, refuse_no_batch, sharded_like, whole
from nlft.training.step_start import StepStart, own_random_numbers

OPTIMIZER = "optimizer.safetensors"
SCHEDULER = "scheduler.json"

check_overrides(Trainer)


class SafeCheckpoints(ShardsModel):
    """Mixin for a Trainer whose `output_dir` is a run directory."""

    control: Any  # set by Trainer
    record: dict[str, Any]  # what run.yaml will say
    resumed_from: str | None = None  # the checkpoint that the last resumed training started from
    resumed: Resumed | None = None
    termination: Any = None  # takes SIGTERM and Ctrl-C, see `interruptible`
    recorder: Any = None  # the run's `RunDirCallback`
    command: str | None = None  # what the user types to go on after an interruption
    _writing: Path | None = None
    _saved_step: int | None = None  # the step of the checkpoint that this training wrote last
    _start: StepStart | None = None  # what the step that is under way began with

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on from a checkpoint.

        Args:
            resume_from_checkpoint: a checkpoint's folder; or true for the run's last one.
            anyway: go on even if settings or examples are not those of the run so far.

        Raises:
            UserError: the run so far had other settings or examples, and `anyway` is not set; or another process writes
                the run's folder.
        """
        with owning(self.args.output_dir) if self.args.process_index == 0 else nullcontext():
            return self._train_alone(resume_from_checkpoint, *args, **kwargs)

    def _train_alone(self, resume_from_checkpoint: str | bool | None, *args: Any, **kwargs: Any) -> Any:
        """Train in a folder that no other process writes."""
        anyway = bool(kwargs.pop("anyway", False))
        self.resumed = self._saved_step = self._start = None
        refuse_no_batch(self.args, self.train_dataset)
        if resume_from_checkpoint:
            run = RunDir(self.args.output_dir)
            if resume_from_checkpoint is True:
                resume_from_checkpoint = str(checkpoint_to_resume(run, True, self.args.world_size))
            self.resumed = check_resume(
                Path(resume_from_checkpoint),
                run,
                self.record,
                anyway=anyway,
                engine=self.is_deepspeed_enabled,
                tell=self.is_world_process_zero(),
            )
        with outliving_readers(), saying_how_it_ended(self):
            self.before_first_step(resumes=bool(resume_from_checkpoint))
            return super().train(resume_from_checkpoint or None, *args, **kwargs)

    def before_first_step(self, *, resumes: bool) -> None:
        """Do what needs the model as it was before the first step, also where a checkpoint's weights follow."""

    def start_log(self) -> None:
        """Begin the sums of the log. `RunDirCallback` calls this when training begins."""
        self.state.compute_steps(self.args, self.state.max_steps)  # a checkpoint's state has the old intervals
        restore_log(self, self.resumed_from)
        self._go_on_after(self.resumed_from)

    def _go_on_after(self, checkpoint: str | None) -> None:
        """Leave later checkpoints of this run behind: a resume of this training must not take one of them."""
        run = RunDir(self.args.output_dir)
        found = [path.resolve() for path in checkpoints_of(run)]
        if self.args.should_save and checkpoint and Path(checkpoint).resolve() in found[:-1]:
            make_last(Path(checkpoint), run)

    def own_log_sums(self) -> dict[str, Any]:
        """Return what this trainer's lines of the log sum up, as JSON."""
        return trl_sums(self)

    def take_log_sums(self, stored: dict[str, Any] | None) -> None:
        """Set these sums to a checkpoint's; None for a new run."""
        take_trl_sums(self, stored)

    def counts(self) -> list[int]:
        """Return further counts of the log, over all steps so far, that each micro-batch may raise."""
        return []

    def take_counts(self, counts: Sequence[int]) -> None:
        """Set these counts to those of a checkpoint, or of a step's beginning."""

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log one line. The last line's mean loss is over all steps, also those before a resume."""
        if "train_loss" in logs and self.resumed_from is not None:
            logs["train_loss"] = self._total_loss_scalar / max(self.state.global_step, 1)
        super().log(logs, *args, **kwargs)

    def _get_output_dir(self, trial: object = None) -> str:
        return str(self._writing or RunDir(self.args.output_dir).checkpoints_path)

    def _save_checkpoint(self, model: torch.nn.Module, trial: object = None) -> None:
        home = RunDir(self.args.output_dir).checkpoints_path
        name = f"checkpoint-{self.state.global_step}"
        try:
            with saving(display_path(home / name)):
                self._write_checkpoint(model, trial, home / WRITING, home / name)
        except UserError:
            if self.args.should_save:  # half a checkpoint would take the room that the adapter needs
                shutil.rmtree(home / WRITING, ignore_errors=True)
            raise
        self._saved_step = self.state.global_step

    def save_now(self) -> None:
        """Write a checkpoint between two steps."""
        if not self.keep_resumed():
            self._save_checkpoint(self.model_wrapped, None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def break_off(self) -> None:
        """Throw a half-made step away, and write the checkpoint of the last whole step if it is not there."""
        self.model.zero_grad()
        self.put_back_step()
        if self.state.global_step and self._saved_step != self.state.global_step:
            self.save_now()

    def put_back_step(self) -> None:
        """Set random numbers and sums to those of the last whole step, if something has been drawn or added since."""
        if self._start is not None and self._start.step == self.state.global_step:
            self._start.put_back(self)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        self._start = StepStart.of(self)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        # An evaluation must not change the weights, so it must not change the random numbers that training draws. A
        # signal breaks an evaluation off: the checkpoint then needs the numbers from before it.
        self._start = StepStart.of(self)
        with own_random_numbers():
            return super()._evaluate(*args, **kwargs)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True  # Trainer saves at its intervals alone, so the best step could be lost
        return is_best

    def keep_resumed(self) -> bool:
        """Return whether a checkpoint of this step is there, because training was resumed from it and is still there.

        It cannot be written again: before the first step, the random numbers are not yet those of the checkpoint. If it
        is in another run's folder, it is copied.
        """
        if self.resumed_from is None or self.state.global_step != self._initial_global_step:
            return False
        home = RunDir(self.args.output_dir).checkpoints_path
        place = home / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and not place.exists():
            with saving(display_path(place)):
                shutil.copytree(self.resumed_from, home / WRITING / place.name)
                make_last(home / WRITING / place.name, RunDir(self.args.output_dir))
                sync_tree(home / WRITING / place.name)
                put_in_place(home / WRITING / place.name, place)
        return True

    def _write_checkpoint(self, model: torch.nn.Module, trial: object, writing: Path, place: Path) -> None:
        """Write a checkpoint in the folder `writing`. When it is whole, rename it to `place`."""
        run, best, limit = RunDir(self.args.output_dir), self.state.best_model_checkpoint, self.args.save_total_limit
        self._writing, self.args.save_total_limit = writing, None  # Trainer would delete by the clock
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writing, self.state.best_model_checkpoint, self.args.save_total_limit = None, best, limit
        aside = writing / place.name
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(place)  # Trainer took its place for the one where it was written
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(aside / TRAINER_STATE_NAME))
            RunDir(aside).write_settings(self.record)
            self._add_to_checkpoint(aside)
            give_usual_modes(aside)
            finish_checkpoint(aside, run, self.args.world_size)
            put_in_place(aside, place)
            shutil.rmtree(writing)  # also remove half-written files that a killed process left there
            best = self.state.best_model_checkpoint
            rotate(run, limit, place, *([Path(best)] if best else []))
        self.accelerator.wait_for_everyone()

    def _finalize_training(self, trial: object, num_train_samples: int, start_time: float) -> Any:
        # With a limit of 1, Trainer would delete the last checkpoint if it is not the best. A resume needs it.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(trial, num_train_samples, start_time)
        finally:
            self.args.save_total_limit = limit

    def find_best(self) -> None:
        """After a resume, look for the best checkpoint so far where the runs are now. Forget it if it is gone."""
        step = self.state.best_global_step
        if self.resumed_from is None or not step:
            return
        places = (RunDir(self.args.output_dir).checkpoints_path, Path(self.resumed_from).parent)
        found = [place / f"checkpoint-{step}" for place in places if (place / f"checkpoint-{step}").is_dir()]
        if found:
            self.state.best_model_checkpoint = str(found[0])
            return
        self.state.best_model_checkpoint = self.state.best_metric = self.state.best_global_step = None
        print(
            f"checkpoint-{step}, the best one so far, is gone. The best one is chosen from the steps that follow.",
            file=sys.stderr,
        )

    def _add_to_checkpoint(self, folder: Path) -> None:
        """Write further files into a checkpoint. Only the main process calls this."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        folder = output_dir or self.args.output_dir
        if self.args.should_save:
            Path(folder).mkdir(parents=True, exist_ok=True)
        if not isinstance(self.model, PeftModel) and self.processing_class is not None:
            name_trained_end(self.model, self.processing_class)
        with without_card(self.model):
            self.model.save_pretrained(folder, state_dict=state_dict, is_main_process=self.args.should_save)
        if self.args.should_save and self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:  # it has its own format
            super()._save_optimizer_and_scheduler(output_dir)
            return
        tensors, as_json = _split(self.optimizer.state_dict())  # gathers shards, so all processes call it
        if not self.args.should_save:
            return
        save_file(tensors, os.path.join(output_dir, OPTIMIZER), metadata={"plain": json.dumps(as_json)})
        write_whole(Path(output_dir) / SCHEDULER, json.dumps(self.lr_scheduler.state_dict()).encode())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self.resumed_from = checkpoint
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        from safetensors import safe_open

        fresh = [{name: v for name, v in group.items() if name != "params"} for group in self.optimizer.param_groups]
        path = os.path.join(checkpoint, OPTIMIZER)
        with safe_open(path, framework="pt") as file:
            as_json = json.loads(file.metadata()["plain"])
        state, weights = _join(load_file(path), as_json), [w for g in self.optimizer.param_groups for w in g["params"]]
        for index, values in state["state"].items():
            like = weights[index]
            values.update({name: sharded_like(v, like) for name, v in values.items() if torch.is_tensor(v)})
        self.optimizer.load_state_dict(state)
        self.lr_scheduler.load_state_dict(json.loads((Path(checkpoint) / SCHEDULER).read_text()))
        if self.resumed and self.resumed.changed:
            use_new_settings(self.optimizer, self.lr_scheduler, fresh)

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
        store_log(self, Path(output_dir))  # here, because every rank has its own; it makes the folder if no rank has
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

    def _load_scaler(self, checkpoint: str | None) -> None:
        # Only a float16 training has a scaler. Another file of that name is a pickle from elsewhere.
        if checkpoint is not None and self.accelerator.scaler is not None and SCALER_NAME in files_of(checkpoint):
            super()._load_scaler(checkpoint)

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
        recover(run)
        checkpoints = checkpoints_of(run)
        if not checkpoints:
            raise UserError(
                f"{display_path(run.path)} has no checkpoint to resume from.\n  Leave out --resume_from_checkpoint, or "
                "give it as auto: then a run without a checkpoint starts."
            )
        path = checkpoints[-1]
    else:
        path = Path(str(choice))
    where = display_path(path)
    if problem := problem_of(path):
        whole = [p for p in reversed(checkpoints_of(run)) if p.name != path.name and problem_of(p) is None]
        other = f"--resume_from_checkpoint {display_path(whole[0])}" if whole else "another checkpoint"
        raise UserError(f"{where} {problem}.\n  Resume from {other}.")
    check_processes(path, world_size)
    return path


def files_of(checkpoint: str | Path) -> set[str]:
    """Return the names of the files that nlft wrote into a checkpoint."""
    return set(json.loads((Path(checkpoint) / MANIFEST).read_text())["files"])


def check_processes(checkpoint: Path, world_size: int) -> None:
    """Refuse a whole checkpoint of another number of processes.

    Raises:
        UserError: names both numbers.
    """
    written = json.loads((checkpoint / MANIFEST).read_text())["world_size"]
    if written != world_size:
        raise UserError(
            f"{display_path(checkpoint)} was written by {written} processes, but this run has {world_size}.\n"
            f"  Start {written} processes."
        )


def _split(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Split an optimizer's state into tensors and values that JSON can hold."""
    tensors: dict[str, torch.Tensor] = {}
    as_json: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, values in state["state"].items():
        as_json["state"][index] = {}
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{name}"] = whole(value).contiguous()
            else:
                as_json["state"][index][name] = value
    return tensors, as_json


def _join(tensors: dict[str, torch.Tensor], as_json: dict[str, Any]) -> dict[str, Any]:
    state = {int(index): dict(values) for index, values in as_json["state"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state[int(index)][name] = tensor
    return {"state": state, "param_groups": as_json["param_groups"]}
