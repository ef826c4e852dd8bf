"""What a run is doing, from its files. The page, its server and the list of runs ask here."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlft.runs.heartbeat import is_alive, silence

ENDED = ("finished", "interrupted", "diverged", "failed")
"""States of a training that ended by itself or was ended."""
GONE = (*ENDED, "dead")
"""States without a process that could answer a request."""
STATES = ("waiting", "training", "paused", "stopping", "stalled", *GONE)

STALLED_SECONDS = 120.0  # a process that is there, but has given no sign of life for so long, is suspended
OLD_SILENCE_SECONDS = 3600.0  # a run of an earlier version has no heartbeat; then its log decides


@dataclass(frozen=True)
class RunState:
    """The state of a run.

    Attributes:
        name: one of `STATES`. `waiting`: before the first logged step. `stalled`: its process is there, but suspended.
            `dead`: its process is gone, and it did not say why.
        step: last logged optimizer step; None before the first one.
        reason: why the training ended, if it said so.
        command: what to type to go on; None if this is not known, or the run has finished.
        folder: where to type it.
    """

    name: str
    step: int | None = None
    reason: str | None = None
    command: str | None = None
    folder: str | None = None

    @property
    def refusal(self) -> str | None:
        """Why a request would get no answer, as a sentence without full stop; None if the trainer would answer."""
        if self.name not in GONE:
            return None
        if self.name == "finished":
            return "the run has finished"
        after = "before its first step" if self.step is None else f"after step {self.step}"
        how = {"dead": "its process is gone", "diverged": "it diverged", "interrupted": "it was interrupted"}
        go_on = f"; to go on: {self.command}" if self.command else ""
        return f"the run ended {after}: {how.get(self.name, 'it failed')}{go_on}"


def run_state(
    last: Mapping[str, Any] | None,
    *,
    steering: str | None = None,
    beat: Mapping[str, Any] | None = None,
    logged: float | None = None,
    now: float | None = None,
) -> RunState:
    """Return the state of a run.

    Args:
        last: the last line of events.jsonl that is not superseded; None if there is none.
        steering: `paused` or `stopping` if the taken requests say so.
        beat: content of heartbeat.json; None without one.
        logged: when events.jsonl was last written, in seconds since 1970.
        now: seconds since 1970; by default, the current time.
    """
    now = time.time() if now is None else now
    step = last.get("step") if last is not None else None
    about = dict(beat or {})
    known = {"step": step, "command": about.get("command"), "folder": about.get("folder")}
    if last is not None and last.get("train_runtime") is not None:
        return RunState("finished", step)
    if last is not None and last.get("ended") in ENDED:
        return RunState(str(last["ended"]), reason=last.get("reason"), **known)
    if beat is not None and not is_alive(about, now):
        return RunState("dead", **known)
    if beat is not None and silence(about, now) > STALLED_SECONDS:
        return RunState("stalled", **known)
    if beat is None and last is not None and logged is not None and now - logged > OLD_SILENCE_SECONDS:
        return RunState("dead", **known)
    if last is None:
        return RunState("waiting", **known)
    return RunState(steering or "training", **known)
