"""A checkpoint's manifest: what makes it whole. Also what a failed write to disk looks like.

Until the manifest is written, the checkpoint stands in `checkpoints/.writing`. Nothing there counts as a checkpoint.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from nlft.digests import MANIFEST, write_manifest
from nlft.errors import UserError, display_path
from nlft.files import sync_folder, sync_tree, write_whole
from nlft.runs.checkpoints import checkpoints_of, next_number, problem_of, step_of
from nlft.runs.run_dir import RunDir

WRITING = ".writing"
# safetensors and tokenizers write in Rust. They turn the system's error into a text.
_DISK = re.compile(r"os error \d+|no space left|quota exceeded|read-only file system|input/output error", re.I)


class NotSaved(UserError):
    """A checkpoint or an adapter cannot be written: the disk is full, for example."""


@contextmanager
def saving(what: str) -> Iterator[None]:
    """Turn every error of the disk into one exception, whichever library meets it.

    Args:
        what: what is written, for the message.

    Raises:
        NotSaved: the disk refuses.
    """
    try:
        yield
    except NotSaved:
        raise
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        told = " ".join(str(error).split())
        raise NotSaved(f"cannot write {what}: {told}\n  Free some disk space, or check who may write there.") from error


def _is_of_the_disk(error: Exception) -> bool:
    """Whether the disk refused a write. The tokenizers' library raises a bare `Exception`, so the text decides."""
    if isinstance(error, OSError):
        return True
    by_text = isinstance(error, SafetensorError | RuntimeError) or type(error) is Exception
    return by_text and bool(_DISK.search(str(error)))


def finish_checkpoint(folder: Path, run: RunDir, world_size: int) -> None:
    """Write the manifest of a run's checkpoint, with the size and the SHA-256 of each file. Then wait for the disk.

    Without the wait, a power cut after the rename could leave a whole-looking checkpoint of empty files.
    """
    write_manifest(folder, world_size=world_size, saved=next_number(run))
    sync_tree(folder)


def make_last(folder: Path, run: RunDir) -> None:
    """Let a whole checkpoint be the last one of a run that goes on from it."""
    with saving(display_path(folder)):
        manifest = json.loads((folder / MANIFEST).read_bytes())
        write_whole(folder / MANIFEST, json.dumps({**manifest, "saved": next_number(run)}).encode())


def rotate(run: RunDir, limit: int | None, *kept: Path) -> None:
    """Delete the checkpoints that the run wrote first, until `limit` are left.

    transformers orders them by the clock. A clock that was set back would let it delete the newest one.

    Args:
        limit: number of checkpoints; None or 0 deletes none.
        kept: checkpoints to keep in any case.
    """
    if not limit or limit < 0:
        return
    found, safe = checkpoints_of(run), {path.resolve() for path in kept}
    others = [path for path in found if path.resolve() not in safe]
    room = max(limit - (len(found) - len(others)), 0)
    for path in others[: max(len(others) - room, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def put_in_place(aside: Path, place: Path) -> None:
    """Rename a whole folder to its place. An older one is deleted last, so one is always whole.

    Its files must be on the disk already; see `sync_tree`.
    """
    older = aside.with_name(f"older-{aside.name}")
    if place.exists():
        shutil.rmtree(older, ignore_errors=True)
        os.replace(place, older)
    os.replace(aside, place)
    sync_folder(place.parent)
    shutil.rmtree(older, ignore_errors=True)


def recover(run: RunDir) -> None:
    """Put a whole checkpoint in place that a killed process had written but not renamed."""
    for aside in (run.checkpoints_path / WRITING).glob("checkpoint-*"):
        place = run.checkpoints_path / aside.name
        if not place.exists() and step_of(aside) is not None and problem_of(aside) is None:
            os.replace(aside, place)
            print(f"{display_path(place)}: was written whole before the run was killed, and is put in its place")
