"""The runs of a folder, each with its state, in one table. What has not changed is read once."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlft.errors import UserError
from nlft.files import is_json, stamp
from nlft.runs.json_lines import read_jsonl
from nlft.runs.reading import SPOILT, read_yaml, spoilt
from nlft.runs.run_dir import RunDir, short_model_name
from nlft.runs.shapes import event_problem, line_problem, settings_problem
from nlft.runs.state import RunState, run_state

DEEPEST = 4  # folders below the given one: a comparison has SIZE/SEED/FOLD/ARM
_TAIL = 64 * 1024  # bytes at the end of events.jsonl that have its last lines
_OWN = {"checkpoints", "saliency", "requests", "adapter", "feedback"}  # folders of a run; a checkpoint has a run.yaml


@dataclass(frozen=True)
class RunRow:
    """One run in the list.

    Attributes:
        name: its folder, relative to the listed one.
        state, step: see `RunState`.
        steps: number of steps of the whole training; None if it is not known.
        scheme: the saliency scheme, or the method of a baseline.
        model: name of the model's folder or repository.
        loss: last logged loss.
        accuracy: share of right answers in its evaluation, from 0 to 1; None without one.
        changed: when it last logged something, in seconds since 1970.
    """

    name: str
    state: str
    step: int | None
    steps: int | None
    scheme: str | None
    model: str | None
    loss: float | None
    accuracy: float | None
    changed: float


def find_runs(folder: Path) -> list[Path]:
    """Return the run directories in a folder, by name. The folder of a warm-up inside a run is a run too."""
    return sorted(_runs_below(folder, DEEPEST))


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name[0] != "."]
    except OSError:
        return
    inside = (folder / "run.yaml").is_file()  # elsewhere, a run may have the name of a run's own folder
    for entry in entries:
        if inside and entry.name in _OWN:
            continue
        if entry.is_dir(follow_symlinks=False) and os.access(entry.path, os.R_OK | os.X_OK):
            path = Path(entry.path)
            if (path / "run.yaml").is_file():
                yield path
            if depth > 1:
                yield from _runs_below(path, depth - 1)


class RunList:
    """The runs of a folder. A run keeps its number, so that an address with the number stays valid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths: list[Path] = []
        self._kept: dict[Path, tuple[Any, Any]] = {}

    def rows(self) -> list[tuple[int, RunRow]]:
        """Look for runs, and return each with its number, the last changed first."""
        found = find_runs(self.folder)
        known = set(self.paths)
        self.paths += [path for path in found if path not in known]
        number = {path: at for at, path in enumerate(self.paths)}
        rows = [(number[path], self._row(RunDir(path))) for path in found]
        return sorted(rows, key=lambda row: -row[1].changed)

    def _row(self, run: RunDir) -> RunRow:
        settings = self._read(run.settings_path, _settings)
        events = self._read(run.events_path, last_events) or []
        evaluation = self._read(run.evaluation_path, _accuracy)
        state = self._state(run, events)
        training = settings.get("training") or {}
        losses = [event["loss"] for event in events if isinstance(event.get("loss"), int | float)]
        epochs = [e for e in events if e.get("epoch") and e.get("step") and training.get("num_train_epochs")]
        steps = training.get("max_steps") or 0
        if steps <= 0 and epochs:
            steps = round(epochs[-1]["step"] / epochs[-1]["epoch"] * training["num_train_epochs"])
        return RunRow(
            name=str(run.path.relative_to(self.folder)),
            state=state.name,
            step=state.step,
            steps=steps if 0 < steps < 10**8 else None,
            scheme=settings.get("scheme") or settings.get("method"),
            model=short_model_name(settings),
            loss=losses[-1] if losses else None,
            accuracy=evaluation,
            changed=max(_changed(run.events_path), _changed(run.settings_path)),
        )

    def _state(self, run: RunDir, events: list[dict[str, Any]]) -> RunState:
        last, steering = (events[-1] if events else None), None
        taken = [line for line in self._read(run.controls_path, _controls) or [] if line.get("taken")]
        pauses = [line["control"] for line in taken if line["control"] in ("pause", "resume")]
        if any(line["control"] == "stop" and line["step"] >= (last or {}).get("step", 0) for line in taken):
            steering = "stopping"
        elif pauses and pauses[-1] == "pause":
            steering = "paused"
        return run_state(last, steering=steering, beat=run.heartbeat(), logged=_changed(run.events_path) or None)

    def _read(self, path: Path, read: Any) -> Any:
        """Return what a file holds, read again only if the file changed. A file that cannot be read holds nothing."""
        try:
            now = stamp(path)
            if now is None or self._kept.get(path, (None,))[0] != now:
                self._kept[path] = (now, read(path))
            return self._kept[path][1]
        except (OSError, UserError, *SPOILT):
            return {} if read is _settings else None


def _settings(path: Path) -> dict[str, Any]:
    found = read_yaml(path)
    if wrong := settings_problem(found):
        raise spoilt(path, wrong)
    return {name: found.get(name) for name in ("scheme", "method", "model_name_or_path", "training")}


def last_events(path: Path) -> list[dict[str, Any]]:
    """Return the last events that are not superseded: those in the file's last bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        *lines, last = [b"", *file.read().split(b"\n")[1 if size > _TAIL else 0 :]]
    lines += [last] if is_json(last) else []  # else the trainer is writing it, or was killed at that
    events = [json.loads(line) for line in lines if line.strip()]
    known = [event for event in events if isinstance(event, dict) and event_problem(event) is None]
    return [event for event in known if not event.get("superseded") and event.get("step") is not None]


def _controls(path: Path) -> list[dict[str, Any]]:
    return read_jsonl(path, line_problem)


def _accuracy(path: Path) -> float | None:
    readings = json.loads(path.read_bytes())["summary"]["accuracy"]
    found: dict[str, Any] = next(iter(readings.values()), {})
    return float(found["count"] / found["n"]) if found.get("n") else None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
