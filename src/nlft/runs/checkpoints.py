"""A run's checkpoints: their order, and which of them are whole."""

import re
from collections.abc import Iterable
from pathlib import Path

from nlft.digests import FORMAT_VERSION, MANIFEST, damage, saved_number
from nlft.errors import UserError
from nlft.runs.reading import SPOILT, check_version, read_json_object
from nlft.runs.run_dir import RunDir

_NAME = re.compile(r"checkpoint-(\d+)")


def step_of(checkpoint: Path) -> int | None:
    """Return a checkpoint's optimizer step. Return None for a folder with another name, such as `checkpoint-best`."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoints_of(run: RunDir) -> list[Path]:
    """Return the run's checkpoints, whole or not, in the order in which the run wrote them.

    A run that goes on from an earlier step leaves later steps behind, which are then not its last ones. Neither the
    step nor the clock tells the order, so each manifest has a number. Without one, a checkpoint follows its lower step.
    """
    steps = [(step, path) for path in run.checkpoints_path.glob("checkpoint-*") if (step := step_of(path)) is not None]
    placed, number = [], 0
    for step, path in sorted(steps):
        saved = saved_number(path)
        number = number if saved is None else saved
        placed.append((number, step, path))
    return [path for _, _, path in sorted(placed)]


def next_number(run: RunDir) -> int:
    """Return the number of the run's next save, of a checkpoint or of the adapter."""
    return 1 + max((saved_number(folder) or 0 for folder in [*checkpoints_of(run), run.adapter_path]), default=0)


def newest_weights(run: RunDir, names: Iterable[str]) -> Path | None:
    """Return the folder of the run's weights that was saved last. None if there are none yet.

    If a run was resumed, its finished adapter may be older than its checkpoints. The clock decides between two saves of
    an older version, and if a manifest is missing: a user who changes an adapter removes it.

    Args:
        names: the files of weights to look for.
    """
    found = [
        (saved_number(folder), file.stat().st_mtime_ns, folder)
        for folder in [*checkpoints_of(run), run.adapter_path]
        for file in (folder / name for name in names)
        if file.is_file()
    ]
    numbered = all(number is not None for number, _, _ in found)
    ordered = sorted(found, key=lambda one: (one[0] or 0 if numbered else 0, one[1]))
    return ordered[-1][2] if ordered else None


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
