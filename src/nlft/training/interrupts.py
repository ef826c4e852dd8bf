"""End a training that the system or the user interrupts: with a checkpoint where there is time, and with a word.

Clusters and spot machines send SIGTERM some seconds before they kill a process. Ctrl-C sends SIGINT. A terminal that
is closed sends SIGHUP.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.errors import NLFTError, display_path
from nlft.processes import ENDING, Terminated
from nlft.runs.checkpoints import last_whole_checkpoint
from nlft.runs.run_dir import RunDir
from nlft.training.divergence import Diverged

AGREE_SECONDS = 1.0  # how often several processes ask each other between micro-batches: asking waits for the device


class TerminationCallback(TrainerCallback):  # type: ignore[misc]
    """After SIGTERM, SIGHUP or Ctrl-C, writes a checkpoint and ends the training without an adapter.

    It does so after the micro-batch. If the step is then half-made, it is thrown away, and the checkpoint is that of
    the last whole step. DeepSpeed's engine keeps the gradients to itself, so there it waits for the end of the step.

    Several processes agree at the end of each step, and about each second between two micro-batches. So all write the
    checkpoint of the same step, also if only one of them got the signal. Before the first step is whole there is
    nothing to write.
    """

    asked: int | None = None  # the signal

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._steps = False  # whether the first step has begun
        self._over = False  # whether the last one is whole
        self._left = self._span = 1  # micro-batches until the processes ask each other, and between two such times
        self._agreed_at = time.monotonic()

    def terminate(self, signal_number: int, *_: object) -> None:
        """Take the signal. A second one ends the process at once, but not if either came from a closed terminal.

        The shell, torchrun and the system may each report the closed terminal, and none of them means "at once".
        """
        if not self._steps:
            raise _ending(signal_number)
        if self.asked is not None:
            if "SIGHUP" in (_name(self.asked), _name(signal_number)):
                return
            raise _ending(signal_number)
        self.asked = signal_number
        if self.trainer.args.should_save:
            again = " Press it again to stop at once." if signal_number == signal.SIGINT else ""
            print(f"\n{_name(signal_number)}: {self._what_comes()}.{again}", file=sys.stderr)

    def _what_comes(self) -> str:
        if self._over:
            return "the training is done, its files are written"
        when = "step" if self.trainer.is_deepspeed_enabled else "micro-batch"
        return f"{'writing a checkpoint' if self.trainer.state.global_step else 'ending'} after this {when}"

    def check(self) -> None:
        """Between two steps, end the training with a checkpoint if a signal has come. All processes call this."""
        if self._is_asked():
            self._end()

    def _end(self) -> None:
        try:
            self.trainer.break_off()
        except NLFTError as error:
            print(error, file=sys.stderr)
        self.trainer.accelerator.wait_for_everyone()
        raise _ending(self.asked)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._steps = True

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.trainer.is_deepspeed_enabled and self._is_asked_in_step():
            self._end()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_asked():
            control.should_save, control.should_evaluate = True, False  # an evaluation may take longer than is left

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._over = True

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Break off an evaluation: the step before it is whole."""
        if self._steps:
            self.check()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._is_asked():
            # What started the processes ends them all when the first one ends.
            self.trainer.accelerator.wait_for_everyone()
            raise _ending(self.asked)

    def _is_asked(self) -> bool:
        """Return whether any process got a signal. All processes call this at the same place."""
        if self.trainer.args.world_size > 1:
            own = torch.tensor([self.asked or 0], device=self.trainer.accelerator.device)
            self.asked = int(self.trainer.accelerator.gather(own).max()) or None
        return self.asked is not None

    def _is_asked_in_step(self) -> bool:
        """Return whether any process got a signal. All processes call this after each micro-batch but a step's last.

        Asking waits for the device. So they ask once in as many micro-batches as the slowest of them makes in
        `AGREE_SECONDS`, and all know that number.
        """
        if self.trainer.args.world_size == 1:
            return self.asked is not None
        self._left -= 1
        if self._left > 0:
            return False
        each = (time.monotonic() - self._agreed_at) / self._span
        own = torch.tensor([float(self.asked or 0), each], device=self.trainer.accelerator.device)
        asked, slowest = self.trainer.accelerator.gather(own).reshape(-1, 2).amax(0).tolist()
        self.asked = int(asked) or None
        self._left = self._span = max(1, int(AGREE_SECONDS / max(slowest, 1e-6)))
        self._agreed_at = time.monotonic()
        return self.asked is not None


def _ending(signal_number: int | None) -> BaseException:
    assert signal_number is not None, "only a signal that came ends a training"
    return KeyboardInterrupt() if signal_number == signal.SIGINT else Terminated(signal_number)


def _name(signal_number: int) -> str:
    return "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name


@contextmanager
def interruptible(trainer: Any, run: RunDir, *, tell: bool = True) -> Iterator[None]:
    """Train inside this context. It takes SIGTERM, SIGHUP and Ctrl-C, and says how to go on after an interruption.

    Args:
        tell: whether the user has started this very training, and so is told how to go on.
    """
    callback = TerminationCallback(trainer)
    trainer.add_callback(callback)
    trainer.termination = callback
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only this thread may set a signal's handler
        for one in (signal.SIGINT, *ENDING):
            # A shell ignores Ctrl-C for what it runs in the background, and `nohup` SIGHUP.
            if signal.getsignal(one) is not signal.SIG_IGN:
                before[one] = signal.signal(one, callback.terminate)
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        if tell and trainer.args.should_save:
            print(how_to_go_on(run, trainer.state.global_step, trainer.command), file=sys.stderr)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def saying_how_it_ended(trainer: Any) -> Iterator[None]:
    """Train inside this context. If the training ends early, events.jsonl says how."""
    try:
        yield
    except BaseException as error:
        if trainer.recorder is not None:
            first = str(error).partition("\n")[0] or None
            if isinstance(error, KeyboardInterrupt | Terminated):
                trainer.recorder.end("interrupted", _name(getattr(error, "number", signal.SIGINT)))
            else:
                trainer.recorder.end("diverged" if isinstance(error, Diverged) else "failed", first)
        raise


def how_to_go_on(run: RunDir, step: int, command: str | None = None) -> str:
    """Return for the user where the training ended, what is kept, and what to type to go on.

    Args:
        command: the command that goes on, if it is known.
    """
    whole = last_whole_checkpoint(run)
    where = f"stopped after step {step}"
    if whole is None:
        where += "; there is no checkpoint, so the next training starts from the beginning"
    else:
        where += f"; kept: {display_path(whole)}"
    return f"{where}\nnext: {command}" if command else f"{where}\nTo go on, add --resume to the same command."
