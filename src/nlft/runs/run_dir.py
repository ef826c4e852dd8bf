"""Read and write a run's files. Only this module does. docs/RUN_DIRECTORY.md describes the public format.

Trainer and page share only these files, so each can crash or restart alone. No file is a pickle. This module imports
neither torch nor transformers, so that the page starts fast.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlft.errors import UserError, display_path
from nlft.files import append_whole, json_bytes, write_whole
from nlft.runs.json_lines import jsonl_line, read_jsonl, supersede
from nlft.runs.reading import SPOILT, check_version, read_json_object, read_yaml, reading, spoilt, yaml_bytes
from nlft.runs.request_file import ControlRequest, new_request, read_request
from nlft.runs.shapes import beat_problem, event_problem, line_problem, settings_problem, watched_problem

FORMAT_VERSION = 1
MOST_EXAMPLES = 1_000_000  # of a snapshot; a larger number is no number that was counted
LIVE_KEPT = 1000  # number of batch snapshots to keep on disk, so that a long run does not fill the folder
_STEP_FILE = re.compile(r"(step|batch)-(\d+)\.safetensors")


@dataclass(frozen=True)
class WatchedExample:
    """An example whose tokens the map shows: the fields that stay the same at every step.

    Attributes:
        tokens: the completion's tokens as text. Joined, they give the completion, with the end-of-turn token last.
        answer, judgment, feedback: None if the example has none.
        replacements: what a reader wants in the place of marked tokens: the index of the last of these tokens, as text
            for JSON, to the text. Empty if nothing should stand there.
        spans: [start, end] of each marked or quoted part in tokens, `end` exclusive.
        quotes: the judgment and the feedback, each as a list of its parts: [text, places], see `core.quote_links`. A
            text without quotes is left out.
    """

    id: str | int
    label: bool
    prompt: str
    answer: str | None
    judgment: str | None
    tokens: list[str]
    feedback: str | None = None
    replacements: dict[str, str] = field(default_factory=dict)
    spans: list[list[int]] = field(default_factory=list)
    quotes: Mapping[str, list[list[Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenScores:
    """One watched example at one step. Each array is (completion_len,).

    Attributes:
        base, standard, judge: natural-log probabilities, float32. `judge` is None for right completions.
        likelihood, unlikelihood: the scheme's token weights, float32, >= 0.
        tag: index into `Snapshot.tag_names`, uint8.
        band: inner products of hidden states, (completion_len, 17) float16; None if the scheme needs none.
        signal: the token's part of the example's loss, float32; None where the two weights already give it.
        current: log-probabilities under base at this step, float32, if the conditions were scored before
            (`condition_logprobs: epoch` or `frozen`); else None, because `base` has them.
    """

    base: NDArray[np.float32]
    standard: NDArray[np.float32] | None
    judge: NDArray[np.float32] | None
    likelihood: NDArray[np.float32]
    unlikelihood: NDArray[np.float32]
    tag: NDArray[np.uint8]
    band: NDArray[np.float16] | None = None
    signal: NDArray[np.float32] | None = None
    current: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Snapshot:
    """The watched examples after `step` optimizer steps, in the order of `RunDir.watched()`.

    Attributes:
        scores: one entry per watched example; None for examples that were not scored.
        whole: True if every watched example was scored alone, at its own length. False if the scores come from the
            next step's batch, at its padded shape; examples outside that batch have none.
        alternatives: for each example what the base model and the model in training would say at touched tokens, see
            `nlft.training.said_instead`; None for examples without any. None for a snapshot that has none at all.
    """

    step: int
    epoch: float
    scheme: str
    settings: dict[str, Any]
    tag_names: list[str]
    scores: list[TokenScores | None]
    whole: bool = True
    alternatives: list[dict[str, Any] | None] | None = None


class RunDir:
    """`runs/NAME`: settings, events, watched examples' tokens, checkpoints, adapter, evaluation."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.settings_path = self.path / "run.yaml"
        self.events_path = self.path / "events.jsonl"
        self.saliency_path = self.path / "saliency"
        self.requests_path = self.path / "requests"
        self.controls_path = self.path / "controls.jsonl"
        self.heartbeat_path = self.path / "heartbeat.json"
        self.checkpoints_path = self.path / "checkpoints"
        self.adapter_path = self.path / "adapter"
        self.evaluation_path = self.path / "evaluation.json"
        self.collateral_path = self.path / "collateral.json"
        self._kept: dict[Path, list[bytes]] = {self.events_path: [], self.controls_path: []}

    @property
    def own_names(self) -> set[str]:
        """The names of the files and folders that a run writes into its folder."""
        return {path.name for name, path in vars(self).items() if name.endswith("_path")}

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """Open an existing run for reading.

        Raises:
            UserError: the folder is missing or is not a run directory.
        """
        run = cls(path)
        if not run.settings_path.is_file():
            what = "holds no run.yaml" if run.path.is_dir() else "does not exist"
            raise UserError(
                f"{display_path(path)} {what}, so it is not a run directory.\n"
                "  Give the --output_dir of an `nlft train` or `nlft sft` run."
            )
        return run

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write run.yaml: resolved settings, versions, seeds, data fingerprint."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.settings_path, yaml_bytes({"format_version": FORMAT_VERSION, **settings}))

    def settings(self) -> dict[str, Any]:
        """Return run.yaml. A `UserError` names a file that is not as nlft wrote it, or of a newer version."""
        found = read_yaml(self.settings_path)
        check_version(self.settings_path, found, FORMAT_VERSION)
        if wrong := settings_problem(found):
            raise spoilt(self.settings_path, wrong)
        return found

    def clear(self) -> None:
        """Remove an earlier run's files, and no other files."""
        for folder in (self.saliency_path, self.requests_path, self.checkpoints_path, self.adapter_path):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.settings_path, self.events_path, self.controls_path, self.heartbeat_path):
            file.unlink(missing_ok=True)
        for file in (self.evaluation_path, self.collateral_path):
            file.unlink(missing_ok=True)

    def start_events(self, resumed_step: int | None) -> None:
        """Start the log of events. A new run starts with an empty log.

        A resumed run marks the lines after its checkpoint as superseded and removes the snapshots after it.

        Args:
            resumed_step: the checkpoint's optimizer step; None for a new run.
        """
        self._kept[self.events_path].clear()
        supersede(self.events_path, resumed_step, event_problem)
        for old in self._step_files():
            if resumed_step is None or _step_of(old) > resumed_step:
                old.unlink()

    def append_event(self, event: dict[str, Any]) -> None:
        """Append one line to events.jsonl. NaN and infinities become null."""
        self._append(self.events_path, event)

    def _append(self, path: Path, entry: dict[str, Any]) -> None:
        """Append one line. If the disk is full, keep the line and write it with the next one.

        A disk that is full for a moment must neither end a run nor leave a gap in its record.
        """
        self._kept[path].append(jsonl_line(entry))
        try:
            self._write_kept(path)
        except OSError as error:
            if len(self._kept[path]) == 1:
                warnings.warn(
                    f"could not write to {display_path(path)}: {error}. Training continues and keeps the lines in "
                    "memory until there is room. Free some disk space.",
                    stacklevel=3,
                )

    def _write_kept(self, path: Path) -> None:
        if self._kept[path]:
            # A reader's changes cannot be made again. Events can, by a resume, and come at each step.
            append_whole(path, b"".join(self._kept[path]), durable=path == self.controls_path)
            self._kept[path].clear()

    def finish_logs(self) -> None:
        """Write the lines that could not be written before. Warn if they are lost."""
        for path, kept in self._kept.items():
            try:
                self._write_kept(path)
            except OSError as error:
                warnings.warn(f"lost the last {len(kept)} lines of {display_path(path)}: {error}", stacklevel=2)

    def events(self, *, superseded: bool = False) -> list[dict[str, Any]]:
        """Return the logged steps in order. With `superseded`, include the steps that a resume trained again."""
        return [e for e in read_jsonl(self.events_path, event_problem) if superseded or not e.get("superseded")]

    def start_controls(self, resumed_step: int | None) -> None:
        """Start the folder of requests and controls.jsonl, as `start_events` does for events."""
        self._kept[self.controls_path].clear()
        self.requests_path.mkdir(parents=True, exist_ok=True)
        supersede(self.controls_path, resumed_step, line_problem)

    def write_request(self, control: str, value: object, who: str) -> str:
        """Send the trainer a request. The trainer takes or refuses it between two steps, and logs it in controls.jsonl.

        Args:
            control: name of a control, see `nlft.runs.controls`. The function `refusal` there returns why a request
                would be refused.
            value: the control's new value; None for an action.
            who: `page`, `cli` or a user's name.

        Returns:
            The request's id.
        """
        return self.write_requests([(control, value)], who)[0]

    def write_requests(self, changes: list[tuple[str, Any]], who: str) -> list[str]:
        """Send several requests together. If the disk is full, send none.

        Args:
            changes: (control, value) pairs.

        Raises:
            OSError: the requests cannot be written.
        """
        made = [new_request(control, value, who) for control, value in changes]
        asides = [self.requests_path / f".{request.file}.tmp" for request, _ in made]
        self.requests_path.mkdir(parents=True, exist_ok=True)
        try:
            for aside, (_, data) in zip(asides, made, strict=True):
                aside.write_bytes(data)
            for aside, (request, _) in zip(asides, made, strict=True):
                os.replace(aside, self.requests_path / request.file)
        finally:
            for aside in asides:
                aside.unlink(missing_ok=True)
        return [request.id for request, _ in made]

    def pending_requests(self, most: int | None = None) -> list[ControlRequest]:
        """Return the requests that the trainer has not answered yet, oldest first.

        For a file that is not a request, the result has a request with a `problem`.

        Args:
            most: maximum number of requests to read; None for all.
        """
        try:
            names = sorted(n for n in os.listdir(self.requests_path) if n.endswith(".json") and n[0] != ".")
        except FileNotFoundError:
            return []
        requests = (read_request(self.requests_path / name) for name in names[:most])
        return [request for request in requests if request is not None]

    def remove_request(self, request: ControlRequest) -> None:
        (self.requests_path / request.file).unlink(missing_ok=True)

    def write_heartbeat(self, beat: dict[str, Any]) -> None:
        """Write the trainer's sign of life, see `nlft.runs.heartbeat`."""
        write_whole(self.heartbeat_path, jsonl_line(beat), durable=False)

    def heartbeat(self) -> dict[str, Any] | None:
        """Return the last sign of life; None if there is none that can be read."""
        try:
            found = read_json_object(self.heartbeat_path)
        except (OSError, UserError):
            return None
        return found if beat_problem(found) is None else None

    def append_control(self, line: dict[str, Any]) -> None:
        """Append one line to controls.jsonl. Only the trainer calls this."""
        self._append(self.controls_path, line)

    def controls(self, *, superseded: bool = False) -> list[dict[str, Any]]:
        """Return the answered requests in order. `superseded`: include those of steps that a resume trained again."""
        return [c for c in read_jsonl(self.controls_path, line_problem) if superseded or not c.get("superseded")]

    def write_watched(self, examples: list[WatchedExample]) -> None:
        self.saliency_path.mkdir(parents=True, exist_ok=True)
        payload = {"format_version": FORMAT_VERSION, "examples": [asdict(e) for e in examples]}
        write_whole(self.saliency_path / "examples.json", json_bytes(payload))

    def watched(self) -> list[WatchedExample]:
        """Return the watched examples; an empty list if the run watched none.

        Raises:
            UserError: the file is not as nlft wrote it, or of a newer version.
        """
        path = self.saliency_path / "examples.json"
        if not path.is_file():
            return []
        found = read_json_object(path)
        check_version(path, found, FORMAT_VERSION)
        with reading(path):
            listed = list(found["examples"])
            for at, one in enumerate(listed, start=1):
                if wrong := watched_problem(one):
                    raise spoilt(path, f"example {at}: {wrong}")
            return [WatchedExample(**one) for one in listed]

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Write one step's snapshot. Keep only the last `LIVE_KEPT` batch snapshots.

        Raises:
            OSError: the disk is full or missing.
        """
        from safetensors.numpy import save

        tensors = {
            f"{index}.{field.name}": value
            for index, scores in enumerate(snapshot.scores)
            if scores is not None
            for field in fields(scores)
            if (value := getattr(scores, field.name)) is not None
        }
        header = {f.name: getattr(snapshot, f.name) for f in fields(snapshot) if f.name != "scores"}
        header["examples"] = len(snapshot.scores)
        data = save(tensors, metadata={"nlft": json.dumps(header)})
        write_whole(self._step_path(snapshot.step, snapshot.whole), data, durable=snapshot.whole)
        live = sorted(path for path in self._step_files() if path.name.startswith("batch"))
        for old in live[:-LIVE_KEPT]:
            old.unlink(missing_ok=True)

    def snapshot_steps(self, *, whole: bool = False) -> list[int]:
        """Return the optimizer steps with a snapshot, ascending. `whole`: only snapshots of all watched examples."""
        steps = {_step_of(path) for path in self._step_files() if not whole or path.name.startswith("step")}
        return sorted(steps)

    def snapshot(self, step: int) -> Snapshot:
        """Read one step's snapshot. If there are two, read the one of all watched examples.

        Raises:
            FileNotFoundError: the step has no snapshot, or no longer has one.
            UserError: the file cannot be read.
        """
        from safetensors import SafetensorError

        path = self._step_path(step, whole=True)
        if not path.is_file():
            path = self._step_path(step, whole=False)
        try:
            return self._read_snapshot(path)
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, *SPOILT) as error:
            raise UserError(
                f"cannot read {display_path(path)}: {error}\n  Delete the file. The other steps do not need it."
            ) from error

    @staticmethod
    def _read_snapshot(path: Path) -> Snapshot:
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["nlft"])
            names = set(file.keys())

            def scores(index: int) -> TokenScores | None:
                keys = {f.name: f"{index}.{f.name}" for f in fields(TokenScores)}
                arrays: dict[str, Any] = {n: file.get_tensor(k) if k in names else None for n, k in keys.items()}
                return TokenScores(**arrays) if arrays["base"] is not None else None

            examples = header.pop("examples")
            if not 0 <= examples <= MOST_EXAMPLES:
                raise ValueError(f"it says that it has {examples} examples")
            return Snapshot(**header, scores=[scores(index) for index in range(examples)])

    def _step_path(self, step: int, whole: bool) -> Path:
        return self.saliency_path / f"{'step' if whole else 'batch'}-{step:08d}.safetensors"

    def _step_files(self) -> Iterator[Path]:
        if self.saliency_path.is_dir():
            yield from (p for p in self.saliency_path.iterdir() if _STEP_FILE.fullmatch(p.name))


def _step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match, path
    return int(match[2])


def short_model_name(settings: dict[str, Any]) -> str | None:
    """Return the last part of the name of a run's model, for a table."""
    return Path(str(settings.get("model_name_or_path") or "")).name or None
