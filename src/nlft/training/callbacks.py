"""Trainer callbacks: write run.yaml and events, show progress, save the adapter, stop after a time budget."""

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from nlft.data.records import Example
from nlft.data.training_file import data_fingerprint
from nlft.digests import write_manifest
from nlft.errors import display_path
from nlft.files import give_usual_modes, sync_tree, write_whole
from nlft.progress import progress
from nlft.runs.card_facts import known_of
from nlft.runs.checkpoints import next_number
from nlft.runs.heartbeat import Heartbeat
from nlft.runs.model_card import CARD, card_text
from nlft.runs.run_dir import RunDir
from nlft.training.guards import Guards
from nlft.training.manifest import put_in_place, saving
from nlft.training.resuming import Resumed, begin_epoch
from nlft.training.run_record import environment, model_record
from nlft.training.tracking import follow_with_trackio

UNTIL_TIME_IS_UP = 10**9  # number of optimizer steps to set if `TimeBudget` ends the training


class RunDirCallback(TrainerCallback):  # type: ignore[misc]
    """Writes run.yaml, then events.jsonl during training, then adapter/ with a model card."""

    def __init__(self, run: RunDir, settings: dict[str, Any]) -> None:
        """
        Args:
            settings: content of run.yaml.
        """
        self.run = run
        self.settings = settings
        self.trainer: Any = None  # set by the caller that owns both; saving needs all ranks
        self._heart: Heartbeat | None = None
        self._first_step: int | None = None  # None: no training has begun
        self._start, self._over = 0.0, False

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **_: Any,
    ) -> None:
        begin_epoch(train_dataloader, int((state.epoch or 0) + 1e-6))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start, self._first_step = time.monotonic(), state.global_step
        trainer = self.trainer
        trainer.start_log()
        trainer.find_best()
        self._over = bool(state.global_step) and state.global_step >= state.max_steps
        if self._over:  # in the middle of an epoch, Trainer would train one step more
            control.should_training_stop = True
        self.settings.pop("resumed", None)
        if state.global_step:
            resumed = trainer.resumed or Resumed(known=False)
            again = [] if self._over and not resumed.changed else [resumed.line(state.global_step)]
            if past := [*resumed.history, *again]:
                self.settings["resumed"] = past
        if state.is_world_process_zero:
            self.run.write_settings(self.settings)
            self.run.start_events(state.global_step or None)
            last = self.run.events()[-1:]
            self._over = self._over and any("train_loss" in e and e["step"] == state.global_step for e in last)
            self._heart = Heartbeat(self.run, getattr(trainer, "command", None))
            self._heart.start(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._heart is not None:
            self._heart.step = state.global_step

    def end(self, how: str, reason: str | None = None) -> None:
        """Log that the training ended before its last step.

        Args:
            how: `interrupted`, `diverged` or `failed`.
            reason: more about it, for people.
        """
        if self._heart is not None:  # the training had begun, in this process
            step = self.trainer.state.global_step
            self.run.append_event({"step": step, "time": _now(), "ended": how, "reason": reason})
            self.run.finish_logs()
            self._stop_heart()

    def _stop_heart(self) -> None:
        if self._heart is not None:
            self._heart.stop()
            self._heart = None

    def add_pause(self, seconds: float) -> None:
        """Exclude a pause from the estimate of the time left."""
        self._start += seconds

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None or self._first_step is None:
            return  # an evaluation before the training is no part of the run
        if "train_loss" in logs and self._over:
            return  # a run that had ended was resumed, and has its last line
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        known = done and _ends_by_steps(state)
        eta = (time.monotonic() - self._start) / done * left if known else None
        self.run.append_event({"step": state.global_step, "time": _now(), **logs, "eta_seconds": eta})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        with saving(display_path(self.run.adapter_path)):
            self._write_adapter(args, state)
        if state.is_world_process_zero:
            self.run.finish_logs()
            self._stop_heart()

    def _write_adapter(self, args: TrainingArguments, state: TrainerState) -> None:
        """Write adapter/ beside its place and rename it, so that an earlier one is never half overwritten."""
        aside = self.run.path / ".adapter"
        if state.is_world_process_zero:
            shutil.rmtree(aside, ignore_errors=True)
        self.trainer.accelerator.wait_for_everyone()
        self.trainer.save_model(str(aside))
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            best = _best_of(args, state)
            more = {"best": best} if best else {}
            # What a run's earlier adapter was evaluated with says nothing of this one.
            new = {
                "settings": {**self.settings, **more},
                "steps": state.global_step,
                "evaluation": {},
                "outdated": False,
                "collateral": {},
            }
            known = replace(known_of(self.run), **new)
            write_whole(aside / CARD, card_text(known, aside, self.run.path.resolve().name).encode())
            write_manifest(aside, CARD, saved=next_number(self.run))
            give_usual_modes(aside)
            sync_tree(aside)
            put_in_place(aside, self.run.adapter_path)
            if best:
                self.settings |= more
                self.run.write_settings(self.settings)
            elif args.load_best_model_at_end:
                print(_without_best(args, state), file=sys.stderr)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _best_of(args: TrainingArguments, state: TrainerState) -> dict[str, Any] | None:
    """Return the step whose weights the adapter has, if evaluations chose it, with the metric that chose it."""
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    metric = str(args.metric_for_best_model).removeprefix("eval_")
    return {"step": state.best_global_step, f"eval_{metric}": float(state.best_metric)}


def _without_best(args: TrainingArguments, state: TrainerState) -> str:
    metric = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
    why = f"no evaluation measured a finite {metric}"
    if state.best_global_step:
        why = f"checkpoint-{state.best_global_step} is gone"
    elif not any(metric in line for line in state.log_history):
        why = f"no evaluation took place in {state.global_step} steps"
    return f"--load_best_model_at_end: no checkpoint is the best, because {why}. adapter/ has the last step's weights."


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """Shows one bar for the whole training, with the last loss and the time left."""

    def __init__(self) -> None:
        self._bar = progress("training", 0, "step", disable=True)  # an evaluation before the training logs too

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        shown = state.is_world_process_zero and not args.disable_tqdm
        total = state.max_steps if _ends_by_steps(state) else None
        self._bar = progress("training", total, "step", disable=not shown)
        self._bar.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        logs = logs or {}
        struck = "nlft/struck_probability" in logs  # a scheme that strikes tags no tokens
        looked_for = {"nlft/struck_probability": "struck"} if struck else {"nlft/salient_fraction": "tagged"}
        shown = {"loss": "loss", **looked_for, "eval_loss": "eval_loss"}
        postfix = {name: f"{logs[key]:.3g}" for key, name in shown.items() if key in logs}
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)

    def show_pause(self, paused: bool) -> None:
        """Show whether the run is paused."""
        self._bar.set_postfix_str("paused" if paused else "", refresh=True)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.close()


def _ends_by_steps(state: TrainerState) -> bool:
    """Whether the number of steps is known.

    If the number is not known, `max_steps` is `UNTIL_TIME_IS_UP`. In ReFT, each of the two stages has half that value.
    """
    return bool(state.max_steps < UNTIL_TIME_IS_UP / 2)


class TimeBudget(TrainerCallback):  # type: ignore[misc]
    """Ends training at the first optimizer step that finishes after `seconds`."""

    def __init__(self, seconds: float, excluded: Callable[[], float] = lambda: 0.0) -> None:
        """
        Args:
            excluded: returns the seconds so far that do not count towards `seconds`.
        """
        self.seconds = seconds
        self.excluded = excluded

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start = time.monotonic() - self.excluded()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if time.monotonic() - self._start - self.excluded() >= self.seconds:
            control.should_training_stop = True


def show_own_progress(trainer: Trainer) -> ProgressLine:
    """Show our bar in place of transformers' own. In a notebook that is a table, and both would be shown."""
    for unwanted in (ProgressCallback, PrinterCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(unwanted)
    shown = ProgressLine()
    trainer.add_callback(shown)
    return shown


def add_run_directory(trainer: Trainer, method: str, examples: Sequence[Example], settings: dict[str, Any]) -> None:
    """Make one of TRL's trainers write a run directory and show our progress line, like every other method.

    Args:
        method: name of the method in run.yaml and in the model card.
        settings: the method's own settings, for run.yaml.
    """
    show_own_progress(trainer)
    right = sum(example.label for example in examples)
    record = {
        "method": method,
        **model_record(trainer.model),
        **settings,
        "seed": trainer.args.seed,
        **environment(),
        "processes": trainer.args.world_size,
        "data": {"examples": len(examples), "right": right, "sha256": data_fingerprint(list(examples))},
        "training": json.loads(trainer.args.to_json_string()),
    }
    callback = RunDirCallback(RunDir(trainer.args.output_dir), record)
    callback.trainer, trainer.record, trainer.recorder = trainer, record, callback
    trainer.add_callback(callback)
    trainer.add_callback(Guards(trainer, trainer.args.guard))
    follow_with_trackio(trainer, callback.run)
