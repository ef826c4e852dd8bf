"""End a training that the system or the user interrupts: with a checkpoint where there is time, and with a word.

Clusters and spot machines send SIGTERM some seconds before they kill a process.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.errors import NLFTError, display_path
from nlft.runs.run_dir import RunDir
from nlft.training.manifest import checkpoints_of, problem_of

TERMINATED = 128 + signal.SIGTERM  # exit code of a process that SIGTERM ended


class Terminated(SystemExit):
    """SIGTERM ended the training."""


class TerminationCallback(TrainerCallback):  # type: ignore[misc]
    """After SIGTERM, writes a checkpoint at the end of the step, and ends the training without an adapter."""

    asked = False

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def terminate(self, *_: object) -> None:
        """Take the signal. A second one ends the process at once, and so does the first one of several processes.

        Several processes do not get the signal in the same step, so they cannot write a checkpoint together.
        """
        if self.asked or self.trainer.args.world_size > 1:
            raise Terminated(TERMINATED)
        self.asked = True
        print("SIGTERM: writing a checkpoint after this step", file=sys.stderr)

    def check(self) -> None:
        """Between two steps, write the checkpoint and end the training if SIGTERM has come."""
        if self.asked:
            try:
                self.trainer.save_now()
            except NLFTError as error:
                print(error, file=sys.stderr)
            raise Terminated(TERMINATED)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.asked:
            raise Terminated(TERMINATED)


@contextmanager
def interruptible(trainer: Any, run: RunDir) -> Iterator[None]:
    """Train inside this context. It takes SIGTERM, and says how to go on after an interruption."""
    callback = TerminationCallback(trainer)
    trainer.add_callback(callback)
    trainer.termination = callback
    main = threading.current_thread() is threading.main_thread()  # only this thread may set a signal's handler
    before = signal.signal(signal.SIGTERM, callback.terminate) if main else None
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        if trainer.args.should_save:
            print(how_to_go_on(run, trainer.state.global_step), file=sys.stderr)
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def how_to_go_on(run: RunDir, step: int) -> str:
    """Return a sentence for the user: where the training ended, what is kept, and the flag to go on with."""
    whole = next((path for path in reversed(checkpoints_of(run)) if problem_of(path) is None), None)
    where = f"stopped after step {step}"
    if whole is None:
        return f"{where}; there is no checkpoint, so the next training starts from the beginning"
    return f"{where}; to go on from {display_path(whole)}, add --resume_from_checkpoint auto to the same command"
