"""A run's files: their only reader and writer. The format is public, and docs/RUN_DIRECTORY.md describes it.

Trainer and page meet only here, in files, so either may crash or restart alone. Nothing is a pickle. Imports
neither torch nor transformers, so that the page stays light.
"""

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nlft.errors import UserError, display_path

FORMAT_VERSION = 1
_STEP_FILE = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True)
class WatchedExample:
    """An example whose tokens the map shows: what does not change from step to step.

    Attributes:
        tokens: the completion's tokens as text; joined they read as the completion, end-of-turn token last.
        judgment: None for right completions without one.
    """

    id: str | int
    label: bool
    prompt: str
    answer: str
    judgment: str | None
    tokens: list[str]


@dataclass(frozen=True)
class TokenScores:
    """One watched example at one step; each array is (completion_len,).

    Attributes:
        base, standard, judge: natural-log probabilities, float32; `judge` is None for right completions.
        likelihood, unlikelihood: the token weights that the scheme gave, float32, >= 0.
        tag: uint8, an index into `Snapshot.tag_names`.
        band: (completion_len, 17) float16 inner products of hidden states, or None where the scheme needs none.
    """

    base: NDArray[np.float32]
    standard: NDArray[np.float32] | None
    judge: NDArray[np.float32] | None
    likelihood: NDArray[np.float32]
    unlikelihood: NDArray[np.float32]
    tag: NDArray[np.uint8]
    band: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Snapshot:
    """All watched examples at one optimizer step, in the order of `RunDir.watched()`."""

    step: int
    epoch: float
    scheme: str
    settings: dict[str, Any]
    tag_names: list[str]
    scores: list[TokenScores]


class RunDir:
    """`runs/NAME`: settings, events, watched examples' tokens, checkpoints, adapter, evaluation."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.settings_path = self.path / "run.yaml"
        self.events_path = self.path / "events.jsonl"
        self.saliency_path = self.path / "saliency"
        self.checkpoints_path = self.path / "checkpoints"
        self.adapter_path = self.path / "adapter"
        self.evaluation_path = self.path / "evaluation.json"

    @classmethod
    def open(cls, path: Path | str) -> "RunDir":
        """An existing run, for reading.

        Raises:
            UserError: the folder is missing or holds no run.
        """
        run = cls(path)
        if not run.settings_path.is_file():
            what = "holds no run.yaml" if run.path.is_dir() else "does not exist"
            raise UserError(
                f"{display_path(path)}: {what}, so it is no run directory.\n"
                "  Give the --output_dir of an `nlft train` or `nlft sft` run."
            )
        return run

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write run.yaml: resolved settings, versions, seeds, data fingerprint."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({"format_version": FORMAT_VERSION, **settings}, sort_keys=False, allow_unicode=True)
        write_whole(self.settings_path, text.encode())

    def settings(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.settings_path.read_text(encoding="utf-8")))

    def clear(self) -> None:
        """Remove an earlier run's files, and nothing that is not a run's."""
        for folder in (self.saliency_path, self.checkpoints_path, self.adapter_path):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.settings_path, self.events_path, self.evaluation_path):
            file.unlink(missing_ok=True)

    def start_events(self, resumed_step: int | None) -> None:
        """Make room for this run's events: an empty log, or one whose later lines are marked superseded.

        Args:
            resumed_step: the checkpoint's optimizer step, or None for a run that starts anew.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if resumed_step is None:
            write_whole(self.events_path, b"")
            for old in self._step_files():
                old.unlink()
            return
        kept = [
            {**event, "superseded": True} if event.get("step", 0) > resumed_step else event
            for event in read_jsonl(self.events_path)
        ]
        write_whole(self.events_path, b"".join(_line(event) for event in kept))
        for old in self._step_files():
            if _step_of(old) > resumed_step:
                old.unlink()

    def append_event(self, event: dict[str, Any]) -> None:
        """Append one line to events.jsonl; NaN and infinities become null."""
        with self.events_path.open("ab") as file:
            file.write(_line(event))

    def events(self, *, superseded: bool = False) -> list[dict[str, Any]]:
        """The logged steps in order; with `superseded`, also those that a resume trained again."""
        return [e for e in read_jsonl(self.events_path) if superseded or not e.get("superseded")]

    def write_watched(self, examples: list[WatchedExample]) -> None:
        self.saliency_path.mkdir(parents=True, exist_ok=True)
        payload = {"format_version": FORMAT_VERSION, "examples": [asdict(e) for e in examples]}
        write_whole(self.saliency_path / "examples.json", json.dumps(payload, ensure_ascii=False).encode())

    def watched(self) -> list[WatchedExample]:
        """The watched examples; empty where the run watched none."""
        path = self.saliency_path / "examples.json"
        if not path.is_file():
            return []
        return [WatchedExample(**e) for e in json.loads(path.read_text(encoding="utf-8"))["examples"]]

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Write one step's tokens. A full disk or a lost mount warns and goes on: the map never stops a run."""
        from safetensors.numpy import save

        tensors = {
            f"{index}.{field.name}": value
            for index, scores in enumerate(snapshot.scores)
            for field in fields(scores)
            if (value := getattr(scores, field.name)) is not None
        }
        header = {f.name: getattr(snapshot, f.name) for f in fields(snapshot) if f.name != "scores"}
        header["examples"] = len(snapshot.scores)
        try:
            self.saliency_path.mkdir(parents=True, exist_ok=True)
            data = save(tensors, metadata={"nlft": json.dumps(header)})
            write_whole(self._step_path(snapshot.step), data)
        except OSError as error:
            warnings.warn(
                f"could not write the saliency map of step {snapshot.step}: {error}; training goes on.",
                stacklevel=2,
            )

    def snapshot_steps(self) -> list[int]:
        """Optimizer steps that have a snapshot, ascending."""
        return sorted(_step_of(path) for path in self._step_files())

    def snapshot(self, step: int) -> Snapshot:
        """The watched examples at one step.

        Raises:
            FileNotFoundError: the step has none (any more).
            UserError: it cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        path = self._step_path(step)
        try:
            return self._read_snapshot(path, safe_open)
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{display_path(path)} cannot be read: {error}\n  Delete it; the other steps do not need it."
            ) from error

    @staticmethod
    def _read_snapshot(path: Path, safe_open: Any) -> Snapshot:
        with safe_open(path, framework="numpy") as file:
            header = json.loads(file.metadata()["nlft"])
            names = set(file.keys())

            def scores(index: int) -> TokenScores:
                keys = {f.name: f"{index}.{f.name}" for f in fields(TokenScores)}
                found: dict[str, Any] = {n: file.get_tensor(k) if k in names else None for n, k in keys.items()}
                return TokenScores(**found)

            examples = header.pop("examples")
            return Snapshot(**header, scores=[scores(index) for index in range(examples)])

    def _step_path(self, step: int) -> Path:
        return self.saliency_path / f"step-{step:08d}.safetensors"

    def _step_files(self) -> Iterator[Path]:
        if self.saliency_path.is_dir():
            yield from (p for p in self.saliency_path.iterdir() if _STEP_FILE.fullmatch(p.name))


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, then rename: a reader sees the old file or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a torn last line, as a killed writer leaves it, is ignored."""
    if not path.is_file():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    del torn
    return [json.loads(line) for line in lines if line.strip()]


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(_finite(event), ensure_ascii=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    """The one place where NaN and infinities turn into null: JSON has no word for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _step_of(path: Path) -> int:
    match = _STEP_FILE.fullmatch(path.name)
    assert match, path
    return int(match[1])
