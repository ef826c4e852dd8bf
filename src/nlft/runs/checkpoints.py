"""A run's checkpoints: their order, and which of them are whole."""

import re
from pathlib import Path

from nlft.digests import FORMAT_VERSION, MANIFEST, damage
from nlft.errors import UserError
from nlft.runs.reading import SPOILT, check_version, read_json_object
from nlft.runs.run_dir import RunDir

_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int | None:
    """Return a checkpoint's optimizer step. Return None for a folder with another name, such as `checkpoint-best`."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoints_of(run: RunDir) -> list[Path]:
    """Return the run's checkpoints, whole or not, by step."""
    steps = [(step, path) for path in run.checkpoints_path.glob("checkpoint-*") if (step := step_of(path)) is not None]
    return [path for _, path in sorted(steps)]


def problem_of(checkpoint: Path) -> str | None:
    """Return why a checkpoint is not whole. Return None if it is whole."""
    path = checkpoint / MANIFEST
    if not path.is_file():
        return f"has no {MANIFEST}, so it is not a whole checkpoint"
    try:
        manifest = read_json_object(path)
        check_version(path, manifest, FORMAT_VERSION)
        int(manifest["world_size"])
        return damage(checkpoint, manifest)
    except (*SPOILT, UserError) as error:
        return f"has a {MANIFEST} that cannot be read ({str(error).partition(chr(10))[0]})"


def last_whole_checkpoint(run: RunDir) -> Path | None:
    """Return a run's newest whole checkpoint. Older ones are not read, since reading one takes as long as its size."""
    return next((path for path in reversed(checkpoints_of(run)) if problem_of(path) is None), None)
