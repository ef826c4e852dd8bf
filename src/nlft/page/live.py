"""Follow a run for the page: its state, what is new since the last poll, and each step's bytes."""

import hashlib
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from nlft.errors import UserError, display_path
from nlft.files import stamp
from nlft.page.as_json import object_as_json
from nlft.page.events import Events, JsonlTail
from nlft.page.feedback import fingerprint
from nlft.page.requests import NOT_STEERABLE, control_panel, expected_state, send_requests
from nlft.page.steps import Unreadable, pack_step, shown_at
from nlft.runs.controls import ControlState, state_of
from nlft.runs.reading import SPOILT
from nlft.runs.run_dir import RunDir, WatchedExample, short_model_name
from nlft.runs.shapes import line_problem
from nlft.runs.state import RunState, run_state

KEPT_BYTES = 16_000_000  # size of the cache of packed steps
SETTLED = 2.0  # seconds; an older modification time of a folder shows every change


class LiveRun:
    """Follows one run directory. `poll` reads what is new in it. All other methods use the state from the last poll.

    The server calls the methods from several threads. Each result comes from one poll, never from parts of two.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.name = run.path.resolve().name
        # Under which a browser keeps the drafts of this run.
        self._key = hashlib.sha256(os.fsencode(run.path.resolve())).hexdigest()[:16]
        self.generation = 0  # increases when the data that a page has fetched is no longer valid
        self.steps_seen = 0  # increases when the list of steps changes
        self.settings: dict[str, Any] = {}
        self.examples: list[WatchedExample] = []
        self.steps: list[int] = []
        self.events = Events()
        self.controls: list[dict[str, Any]] = []
        self.waiting: list[dict[str, Any]] = []
        self.problem: str | None = None
        self._event_lines = JsonlTail(run.events_path)
        self._control_lines = JsonlTail(run.controls_path)
        self._stamps: dict[str, Any] = {}
        self._packed: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._lock = threading.RLock()
        self._now = RunState("waiting")
        self._known_state: tuple[tuple[int, int], ControlState | None] | None = None
        self.poll()

    @property
    def version(self) -> list[Any]:
        """A value that changes whenever there is something new to fetch."""
        with self._lock:
            counts = [self.generation, self.steps_seen, len(self.events), len(self.controls), len(self.waiting)]
            return [*counts, self.state(), self.problem]

    def poll(self) -> None:
        """Read what is new. If a file cannot be read now, set `problem`, and try again at the next poll."""
        with self._lock:
            self.problem = None
            try:
                self._poll_settings()
                self._poll_lines()
                self._poll_steps()
                self._poll_requests()
                self._now = self._run_state()
            except (OSError, UserError, *SPOILT) as error:
                self._stamps.clear()
                self.problem = f"cannot read {display_path(self.run.path)} at the moment: {error}"

    def about(self) -> dict[str, Any]:
        """Return the run's data that stays the same from step to step."""
        with self._lock:
            return self._about()

    def _about(self) -> dict[str, Any]:
        settings = self.settings
        training = settings.get("training") or {}
        about = {
            "run": self.name,
            "begun": bool(settings),
            "generation": self.generation,
            "key": self._key,
            "examples": [{**vars(e), "id": str(e.id), "fingerprint": fingerprint(e)} for e in self.examples],
            "scheme": settings.get("scheme"),
            "saliency": settings.get("saliency") or {},
            "schemes": settings.get("schemes") or {},
            "method": settings.get("method"),
            "model": short_model_name(settings),
            "seed": settings.get("seed"),
            "loss_normalization": training.get("loss_normalization") or "sample",
            "preview": bool(settings.get("preview")),
            "max_steps": training.get("max_steps"),
            "epochs": training.get("num_train_epochs"),
        }
        return object_as_json(about)

    def changes(self, generation: int, steps: int, events: int, controls: int) -> dict[str, Any]:
        """Return the data that a page does not have yet.

        Args:
            generation, steps: the page's last values of `generation` and `steps_seen`.
            events, controls: number of events and controls that the page has.
        """
        with self._lock:
            return self._changes(generation, steps, events, controls)

    def _changes(self, generation: int, steps: int, events: int, controls: int) -> dict[str, Any]:
        fresh = generation != self.generation
        changes = {
            "generation": self.generation,
            "steps_seen": self.steps_seen,
            "steps": self.steps if fresh or steps != self.steps_seen else None,
            "events": self.events.since(0 if fresh else events),
            "controls": self.controls[0 if fresh else controls :],
            "waiting": self.waiting,
            "state": self.state(),
            "refusal": self._now.refusal,
            "command": self._now.command,
            "folder": self._now.folder,
            "steering": control_panel(self._control_state()),
            "problem": self.problem,
        }
        return object_as_json(changes)

    def state(self) -> str:
        """Return what the run is doing, as one of `nlft.runs.state.STATES`."""
        return self._now.name

    def _run_state(self) -> RunState:
        last, steering = self.events.last, None
        step = last["step"] if last is not None else 0
        if any(line["taken"] and line["control"] == "stop" and line["step"] >= step for line in self.controls):
            steering = "stopping"
        elif (state := self._control_state()) is not None and state.paused:
            steering = "paused"
        logged = self.run.events_path.stat().st_mtime if self.run.events_path.is_file() else None
        return run_state(last, steering=steering, beat=self.run.heartbeat(), logged=logged)

    def send_requests(self, changes: list[tuple[str, Any]], who: str) -> tuple[list[str], list[tuple[str, str]]]:
        """Send requests to the trainer; see `nlft.page.requests.send_requests`."""
        with self._lock:  # two calls at the same time would be checked without each other's requests
            state = self._control_state()
            self._now = self._run_state()  # a process may have died since the last poll
            reason = self._now.refusal or (NOT_STEERABLE if state is None else None)
            if state is None or reason is not None:
                return [], [(name, str(reason)) for name, _ in changes]
            return send_requests(self.run, expected_state(state, self.run.pending_requests()), changes, who)

    def step(self, step: int) -> bytes:
        """Return one step's bytes; see `nlft.page.steps`.

        Raises:
            Unreadable: the step has no snapshot, or it cannot be shown.
        """
        with self._lock:
            generation, steps, examples = self.generation, self.steps, self.examples
            if step not in steps:
                raise Unreadable("this step is not recorded")
            packed_at, data = self._packed.get(step, (None, b""))
            if packed_at == generation:
                self._packed.move_to_end(step)
                return data
        data = pack_step(*shown_at(self.run, steps, step, examples))
        with self._lock:
            self._packed[step] = (generation, data)
            self._packed.move_to_end(step)
            while len(self._packed) > 1 and sum(len(one) for _, one in self._packed.values()) > KEPT_BYTES:
                self._packed.popitem(last=False)
        return data

    def _control_state(self) -> ControlState | None:
        key = (self.generation, len(self.controls))
        if self._known_state is None or self._known_state[0] != key:
            self._known_state = (key, state_of(self.settings, self.controls))
        return self._known_state[1]

    def _poll_settings(self) -> None:
        if self._changed("settings", self.run.settings_path):
            begun = bool(self.settings)  # then a missing file is a problem, and not a run that is still to begin
            self.settings = self.run.settings() if begun or self.run.settings_path.is_file() else {}
            self.generation += 1
        if self._changed("examples", self.run.saliency_path / "examples.json"):
            self.examples = self.run.watched()
            self.generation += 1

    def _poll_steps(self) -> None:
        if not self._changed("steps", self.run.saliency_path, folder=True):
            return
        steps = self.run.snapshot_steps()
        if steps == self.steps:
            return
        if self.steps and (not steps or steps[-1] < self.steps[-1]):
            self.generation += 1  # a run that was resumed or started again writes these steps again
        self.steps = steps
        self.steps_seen += 1

    def _poll_lines(self) -> None:
        replaced, lines = self._event_lines.read()
        if replaced:
            self.events = Events()
        for line in lines:
            self.events.append(line)
        controls_replaced, lines = self._control_lines.read()
        lines = [line for line in lines if not line.get("superseded") and line_problem(line) is None]
        self.controls = ([] if controls_replaced else self.controls) + lines
        self.generation += replaced or controls_replaced

    def _poll_requests(self) -> None:
        requests = self.run.pending_requests(50)
        self.waiting = [{name: value for name, value in vars(one).items() if name != "file"} for one in requests]

    def _changed(self, name: str, path: Path, *, folder: bool = False) -> bool:
        """Whether a file was replaced or changed since the last call.

        Args:
            folder: the path is a folder. Two changes in one tick of the clock give a folder the same time, so a folder
                with a recent time counts as changed.
        """
        now: Any = stamp(path)
        if folder and now is not None and time.time() - now[1] / 1e9 < SETTLED:
            now = object()
        before = self._stamps.get(name, self)  # after an error a file counts as changed, even if it is gone by now
        self._stamps[name] = now
        return bool(now != before)
