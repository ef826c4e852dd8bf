"""Take requests while a run trains.

They are taken between two steps, at the same step on all ranks. Each request gets a line in controls.jsonl.
"""

import time
import warnings
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS, ControlState, after, outcome, refusal, resolve, state_of
from nlft.runs.json_lines import read_jsonl, write_jsonl
from nlft.runs.request_file import ControlRequest
from nlft.runs.run_dir import RunDir
from nlft.training.manifest import NotSaved

POLL_SECONDS = 0.2
MOST_AT_ONCE = 64  # maximum number of requests between two steps; further ones wait for the next step
CHECKPOINT_FILE = "controls.jsonl"

Line = dict[str, Any]
T = TypeVar("T")


class Steering(TrainerCallback):  # type: ignore[misc]
    """Keeps the state of a run's controls. Requests, the controls of a replayed run and a checkpoint's lines change it.

    A line's `step` is the first optimizer step that it affects. So a checkpoint of step N includes all lines up to N.
    On resume, later lines are superseded, and the lines that change the weights are taken again at their steps.
    """

    def __init__(self, run: RunDir, trainer: Any, record: dict[str, Any]) -> None:
        """
        Args:
            trainer: an `NLFTTrainer`. Steering calls its `use_scheme`, `save_now`, `evaluate_now` and `show_pause`.
            record: content of run.yaml.
        """
        self.run, self.trainer, self.record = run, trainer, record
        self.replayed: list[Line] = []
        self._warned: set[str] = set()
        self._reset()
        self._left = frozenset(request.file for request in self._pending(None))  # requests to an earlier run

    def _reset(self) -> None:
        state = state_of(self.record, [])
        assert state is not None
        self.state: ControlState = state
        self.lines: list[Line] = []  # the taken lines so far, which a checkpoint stores
        self._due: list[Line] = []
        self._answered: set[str] = set()
        self._rates: list[Any] = []

    def replay(self, lines: Iterable[Line]) -> None:
        """Take another run's controls at their steps in the next training.

        Args:
            lines: that run's controls, from `RunDir.controls()`.
        """
        self.replayed = [e for e in lines if e["taken"] and e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS]

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._reset()
        past, self._due = self.from_main(lambda: self._history(state.global_step or None))
        for line in past:
            self._restore(line)
        self.trainer.use_scheme(self.state.scheme, self.state.settings)
        self._first_step = state.global_step

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self._first_step:  # at later steps, `_maybe_log_save_evaluate` takes them
            self.take_requests(state.global_step + 1)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
        **_: Any,
    ) -> None:
        # Change the rate only during the step: a schedule that reads the last rate must not read one with the factor.
        if self.factor != 1:
            self._rates = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.factor

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Optimizer,
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
        """The factor on the schedule's learning rate."""
        return self.state.factor

    @property
    def _main(self) -> bool:
        return bool(self.trainer.is_world_process_zero())

    def take_requests(self, step: int) -> None:
        """Take due lines and new requests before the forward of `step`. Wait while the run is paused."""
        began = None
        while True:
            for line, request in self.from_main(lambda: self._answers(step)):
                done = self._carry_out(line)
                self.state = after(self.state, done)
                self.lines += [done] if done["taken"] else []
                if self._main:
                    self._log_answer(done, request)
            if not self.state.paused or self.trainer.control.should_training_stop:
                break
            if began is None:
                began = time.monotonic()
                self.trainer.show_pause(None)
            if self.trainer.termination is not None:
                self.trainer.termination.check()
            time.sleep(POLL_SECONDS)
        if began is not None:
            self.trainer.show_pause(time.monotonic() - began)

    def has_requests(self) -> bool:
        """Return whether requests wait, or a signal. What takes time between two steps asks, and lets them go first."""
        ending = self.trainer.termination is not None and self.trainer.termination.asked is not None
        return ending or bool(self._pending(MOST_AT_ONCE))

    def write_checkpoint(self, folder: Path) -> None:
        """Write the lines taken so far into a checkpoint, so that a resume needs only the checkpoint."""
        write_jsonl(folder / CHECKPOINT_FILE, self.lines)

    def _history(self, resumed_step: int | None) -> tuple[list[Line], list[Line]]:
        """Return the lines in force at the start, and the lines to take later. Start controls.jsonl."""
        logged = self.run.controls()
        self._answered = {e["id"] for e in self.run.controls(superseded=True)} if resumed_step is not None else set()
        self.run.start_controls(resumed_step)
        if resumed_step is None:
            for request in self._pending(None):
                if request.file in self._left:
                    self._refuse(request, 1, "it was sent before this training began")
            return [], list(self.replayed)
        for request in self._pending(None):
            if request.control in ("stop", "pause"):  # the request was for the run that ended, not for this one
                self._refuse(request, resumed_step + 1, "it was sent before the run was resumed")
        stored = read_jsonl(Path(self.trainer.resumed_from) / CHECKPOINT_FILE)
        known = {e["id"] for e in stored}
        taken = stored + [e for e in logged if e["taken"] and e["id"] not in known]
        past = [e for e in taken if e["step"] <= resumed_step]
        for line in past:  # the checkpoint may come from another folder's run
            if line["id"] not in self._answered:
                self.run.append_control(line)
        later = [e for e in taken if e["step"] > resumed_step] if self.trainer.args.retake_controls else []
        return past, [e for e in later if e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS | {"stop"}]

    def _restore(self, line: Line) -> None:
        """Apply an earlier line again, unless the resumed run's settings refuse it."""
        reason = None
        if line["control"] not in WITHOUT_EFFECT_ON_WEIGHTS:
            reason = refusal(line["control"], line["new"], self.state)
            reason = reason or self._unscored(after(self.state, line), self.state)
        if reason:
            self._warn_once(f"{line['control']} = {line['new']} of step {line['step']} is not applied again: {reason}.")
            return
        self.state = after(self.state, line)
        self.lines.append(line)

    def _answers(self, step: int) -> list[tuple[Line, ControlRequest | None]]:
        """Answer due lines and new requests. Check each one against the state that the earlier ones leave."""
        unanswered: list[tuple[Line, ControlRequest | None]] = [
            (line, None) for line in self._due if line["step"] <= step
        ]
        self._due = [line for line in self._due if line["step"] > step]
        unanswered += [(_unanswered(request), request) for request in self._pending(MOST_AT_ONCE)]
        answers: list[tuple[Line, ControlRequest | None]] = []
        state = self.state
        for line, request in unanswered:
            problem = request.problem if request is not None else None
            answer = _answered(line, step, problem or refusal(line["control"], line["new"], state), state)
            if answer["taken"] and (reason := self._unscored(after(state, answer), state)):
                answer = _answered(line, step, reason, state)
            state = after(state, answer)
            answers.append((answer, request))
            if answer["taken"] and answer["control"] == "stop":
                break  # no step is left for the other requests
        return answers

    def _unscored(self, changed: ControlState, state: ControlState) -> str | None:
        """Return why a change of scheme or settings would need conditions that this run does not score, or None."""
        if (changed.scheme, changed.settings) == (state.scheme, state.settings):
            return None
        reason: str | None = self.trainer.kept.refusal(changed.scheme, changed.settings)
        return reason

    def _carry_out(self, line: Line) -> Line:
        """Carry out a taken line on all ranks. Return the line. If it fails, return it as refused."""
        control = line["control"]
        if not line["taken"]:
            return line
        if control == "stop":
            self.trainer.control.should_training_stop = True
            if self.trainer.args.save_strategy == "steps" and line["step"] > 1:  # Trainer also saves at its last step
                self.trainer.save_now()
        elif control == "evaluate":
            self.trainer.evaluate_now()
        elif control == "save":
            try:
                self.trainer.save_now()
            except NotSaved as error:
                if self.trainer.args.world_size > 1:
                    raise  # the other ranks wait in the middle of the save
                return {**line, "taken": False, "reason": str(error).partition("\n")[0]}
        elif control == "scheme" or control.startswith("saliency."):
            changed = after(self.state, line)
            self.trainer.use_scheme(changed.scheme, changed.settings)
        return line

    def _pending(self, most: int | None) -> list[ControlRequest]:
        """Return the requests to answer. Leave out answered requests whose files could not be removed."""
        try:
            requests = self.run.pending_requests(most)
        except OSError as error:
            self._warn_once(f"cannot read the run's requests: {error}. Training continues without them.")
            return []
        for request in requests:
            if request.id in self._answered:
                self._remove(request)
        unique = {request.id: request for request in reversed(requests) if request.id not in self._answered}
        return list(reversed(unique.values()))

    def _log_answer(self, line: Line, request: ControlRequest | None) -> None:
        """Write the line first, then remove the request, so that a crash in between cannot cause a second answer."""
        self._answered.add(line["id"])
        self.run.append_control(line)
        if request is not None:
            self._remove(request)

    def _refuse(self, request: ControlRequest, step: int, reason: str) -> None:
        self._log_answer(_answered(_unanswered(request), step, request.problem or reason, self.state), request)

    def _remove(self, request: ControlRequest) -> None:
        try:
            self.run.remove_request(request)
        except OSError as error:
            self._warn_once(f"cannot remove {request.file} from the run's requests: {error}. It is not taken again.")

    def _warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=3)

    def from_main(self, make: Callable[[], T]) -> T:
        """Make a value on the main process, and return it on all ranks."""
        if self.trainer.args.world_size == 1:
            return make()
        values: list[Any] = broadcast_object_list([make() if self._main else None])
        return cast(T, values[0])


def _unanswered(request: ControlRequest) -> Line:
    """Return the fields of a line of controls.jsonl that come from the request."""
    return {"id": request.id, "who": request.who, "control": request.control, "new": request.value}


def _answered(line: Line, step: int, reason: str | None, state: ControlState) -> Line:
    """Complete a line of controls.jsonl, for a new request or for a line to take again.

    Args:
        reason: why the request is refused; None if it is taken.
    """
    control, new, old = line["control"], line["new"], None
    undoes = new if control == "undo" else line.get("undoes")
    if reason is None:
        control, new = resolve(control, new, state)
        old, new = outcome(control, new, state)
    return {
        "id": line["id"],
        "step": step,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "who": line["who"],
        "control": control,
        "old": old,
        "new": new,
        "taken": reason is None,
        "reason": reason,
        **({"undoes": undoes} if undoes is not None else {}),
    }
