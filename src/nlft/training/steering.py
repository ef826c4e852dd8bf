"""Takes requests while a run trains: between two steps, on all ranks alike, each with a line in controls.jsonl."""

import time
import warnings
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS, ControlState, after, outcome, refusal, resolve, state_of
from nlft.runs.request_file import ControlRequest
from nlft.runs.run_dir import RunDir, read_jsonl, write_jsonl

POLL_SECONDS = 0.2
MOST_AT_ONCE = 64  # requests answered between two steps; whoever sends more waits
CHECKPOINT_FILE = "controls.jsonl"

Line = dict[str, Any]


class Steering(TrainerCallback):  # type: ignore[misc]
    """Where a run's controls stand, and what changes them: requests, a ledger to replay, a checkpoint's past.

    A line's `step` is the first optimizer step that is trained under it. So a checkpoint of step N is past all lines
    up to N; on resume later ones are superseded, and those that change the weights are taken again at their steps.
    """

    def __init__(self, run: RunDir, trainer: Any, record: dict[str, Any]) -> None:
        """
        Args:
            trainer: an `NLFTTrainer`; its `use_scheme`, `save_now`, `evaluate_now` and `show_pause` are called.
            record: run.yaml.
        """
        self.run, self.trainer, self.record = run, trainer, record
        self.replayed: list[Line] = []
        self._warned: set[str] = set()
        self._reset()
        self._left = frozenset(request.file for request in self._pending(None))  # by whoever asked an earlier run

    def _reset(self) -> None:
        state = state_of(self.record, [])
        assert state is not None
        self.state: ControlState = state
        self.lines: list[Line] = []  # all that was taken so far: what a checkpoint holds
        self._due: list[Line] = []
        self._answered: set[str] = set()
        self._rates: list[Any] = []

    def replay(self, lines: Iterable[Line]) -> None:
        """Take another run's controls at their steps, from the next training's start on.

        Args:
            lines: `RunDir.controls()` of that run.
        """
        self.replayed = [e for e in lines if e["taken"] and e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._reset()
        past, self._due = self._shared(self._history(state.global_step or None) if self._main else None)
        for line in past:
            self._restore(line)
        self.trainer.use_scheme(self.state.scheme, self.state.settings)
        self._first_step = state.global_step

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._first_step:  # later steps are preceded by one that ends
            self.take_requests(state.global_step + 1)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        # Only around the step itself: a schedule that works from the last rate must not see the factor.
        if self.factor != 1:
            self._rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.factor

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        for group, rate in zip(optimizer.param_groups if self._rates else [], self._rates, strict=True):
            group["lr"] = rate
        self._rates = []

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._main:
            for request in self._pending(None):
                self._refuse(request, state.global_step + 1, "the training is over")

    @property
    def factor(self) -> float:
        """What the schedule's learning rate is multiplied by."""
        return float(self.state.values["learning_rate"])

    @property
    def _main(self) -> bool:
        return bool(self.trainer.is_world_process_zero())

    def take_requests(self, step: int) -> None:
        """Take what is due and what is asked for before the forward of `step`; waits while the run is paused."""
        began = None
        while True:
            for line, request in self._shared(self._answers(step) if self._main else None):
                done = self._carry_out(line)
                self.state = after(self.state, done)
                self.lines += [done] if done["taken"] else []
                if self._main:
                    self._record(done, request)
            if not self.state.paused or self.trainer.control.should_training_stop:
                break
            if began is None:
                began = time.monotonic()
                self.trainer.show_pause(None)
            time.sleep(POLL_SECONDS)
        if began is not None:
            self.trainer.show_pause(time.monotonic() - began)

    def write_checkpoint(self, folder: Path) -> None:
        """Put what was taken so far into a checkpoint, so that it can be resumed from anywhere."""
        write_jsonl(folder / CHECKPOINT_FILE, self.lines)

    def _history(self, resumed_step: int | None) -> tuple[list[Line], list[Line]]:
        """Lines in force at the start, and lines to take at their steps; starts the run's ledger."""
        ledger = self.run.controls()
        self._answered = {e["id"] for e in self.run.controls(superseded=True)} if resumed_step is not None else set()
        self.run.start_controls(resumed_step)
        if resumed_step is None:
            for request in self._pending(None):
                if request.file in self._left:
                    self._refuse(request, 1, "it was asked before this training began")
            return [], list(self.replayed)
        for request in self._pending(None):
            if request.control in ("stop", "pause"):  # it was meant for the run that ended, not for this one
                self._refuse(request, resumed_step + 1, "it was asked before the run was resumed")
        stored = read_jsonl(Path(self.trainer.resumed_from) / CHECKPOINT_FILE)
        known = {e["id"] for e in stored}
        taken = stored + [e for e in ledger if e["taken"] and e["id"] not in known]
        past = [e for e in taken if e["step"] <= resumed_step]
        for line in past:  # of a checkpoint that another folder's run wrote
            if line["id"] not in self._answered:
                self.run.append_control(line)
        later = [e for e in taken if e["step"] > resumed_step] if self.trainer.args.retake_controls else []
        return past, [e for e in later if e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS | {"stop"}]

    def _restore(self, line: Line) -> None:
        """Put a line of the past in force again, unless the settings of this resume leave no room for it."""
        reason = None
        if line["control"] not in WITHOUT_EFFECT_ON_WEIGHTS:
            reason = refusal(line["control"], line["new"], self.state)
        if reason:
            self._warn_once(f"{line['control']} = {line['new']} of step {line['step']} is not in force: {reason}.")
            return
        self.state = after(self.state, line)
        self.lines.append(line)

    def _answers(self, step: int) -> list[tuple[Line, ControlRequest | None]]:
        """Lines for what is due and what is asked, each judged as the ones before it leave the controls."""
        asked: list[tuple[Line, ControlRequest | None]] = [(line, None) for line in self._due if line["step"] <= step]
        self._due = [line for line in self._due if line["step"] > step]
        asked += [(_ask(request), request) for request in self._pending(MOST_AT_ONCE)]
        answers: list[tuple[Line, ControlRequest | None]] = []
        state = self.state
        for ask, request in asked:
            problem = request.problem if request is not None else None
            line = _line(ask, step, problem or refusal(ask["control"], ask["new"], state), state)
            state = after(state, line)
            answers.append((line, request))
            if line["taken"] and line["control"] == "stop":
                break  # whatever else was asked has no step left to be in force at
        return answers

    def _carry_out(self, line: Line) -> Line:
        """Do what a taken line asks for, on all ranks; returns the line, refused after all where that failed."""
        control = line["control"]
        if not line["taken"]:
            return line
        if control == "stop":
            self.trainer.control.should_training_stop = True
            if self.trainer.args.save_strategy == "steps" and line["step"] > 1:  # as at the last step of all
                self.trainer.save_now()
        elif control == "evaluate":
            self.trainer.evaluate_now()
        elif control == "save":
            try:
                self.trainer.save_now()
            except OSError as error:
                if self.trainer.args.world_size > 1:
                    raise  # the other ranks wait in the middle of it
                return {**line, "taken": False, "reason": f"the checkpoint cannot be written: {error}"}
        elif control == "scheme" or control.startswith("saliency."):
            changed = after(self.state, line)
            self.trainer.use_scheme(changed.scheme, changed.settings)
        return line

    def _pending(self, most: int | None) -> list[ControlRequest]:
        """Requests to answer; files that were answered before, and could not be removed, are not among them."""
        try:
            found = self.run.pending_requests(most)
        except OSError as error:
            self._warn_once(f"cannot read the run's requests: {error}; training goes on without them.")
            return []
        for request in found:
            if request.id in self._answered:
                self._remove(request)
        unique = {request.id: request for request in reversed(found) if request.id not in self._answered}
        return list(reversed(unique.values()))

    def _record(self, line: Line, request: ControlRequest | None) -> None:
        """Write the line, then remove the request: killed in between, the request is not answered twice."""
        self._answered.add(line["id"])
        self.run.append_control(line)
        if request is not None:
            self._remove(request)

    def _refuse(self, request: ControlRequest, step: int, reason: str) -> None:
        self._record(_line(_ask(request), step, request.problem or reason, self.state), request)

    def _remove(self, request: ControlRequest) -> None:
        try:
            self.run.remove_request(request)
        except OSError as error:
            self._warn_once(f"cannot remove {request.file} from the run's requests: {error}; it is not taken again.")

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=3)

    def _shared(self, value: Any) -> Any:
        """The main process's value, on all ranks."""
        if self.trainer.args.world_size == 1:
            return value
        return broadcast_object_list([value])[0]


def _ask(request: ControlRequest) -> Line:
    """A request in a line's words."""
    return {"id": request.id, "who": request.who, "control": request.control, "new": request.value}


def _line(ask: Line, step: int, reason: str | None, state: ControlState) -> Line:
    """A line of controls.jsonl for a request (or a line to take again) that is refused with a reason, or taken."""
    control, new, old = ask["control"], ask["new"], None
    undoes = new if control == "undo" else ask.get("undoes")
    if reason is None:
        control, new = resolve(control, new, state)
        old, new = outcome(control, new, state)
    return {
        "id": ask["id"],
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": ask["who"],
        "control": control,
        "old": old,
        "new": new,
        "taken": reason is None,
        "reason": reason,
        **({"undoes": undoes} if undoes is not None else {}),
    }
