"""What commands that write a folder leave: nothing if they are refused; what is kept if they are interrupted."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlft.commands.next_steps import print_room
from nlft.errors import UserError, display_path, typed
from nlft.processes import Terminated
from nlft.runs.json_lines import read_jsonl
from nlft.runs.lock import LOCK

STARTS_WITH = ("settings.json", "stages.json")
"""Files that these commands write into their folder before they do any work."""

_STAGES = (
    "train.jsonl",
    "test.jsonl",
    "sampled.jsonl",
    "judged.jsonl",
    "examples.jsonl",
    "audit.json",
    "revised.jsonl",
)


@contextmanager
def telling_kept(prog: str, argv: Sequence[str], folder: Path | str) -> Iterator[None]:
    """Run the stages inside this context. If they are interrupted, say what is kept and how to go on."""
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        print(f"\nkept in {display_path(folder)}: {_kept(Path(folder))}.", file=sys.stderr)
        print(f"next: {typed(*prog.split(), *argv)}", file=sys.stderr)
        raise


def _kept(folder: Path) -> str:
    """Return the finished work in words."""
    stages = [name for name in _STAGES if (folder / name).is_file()]
    trained = len(list(folder.rglob("result.json"))) + len(list(folder.rglob("trained.json")))
    calls = sum(1 for _ in folder.rglob("*.calls.jsonl"))
    parts = [", ".join(stages)] if stages else []
    parts += [f"{trained} finished training{'s' * (trained > 1)}"] if trained else []
    parts += ["the answers so far"] if calls else []
    return "; ".join(parts) or "nothing yet"


def print_staged_room(prog: str, argv: Sequence[str], settings: Any) -> None:
    """Print what to type so that replies end by themselves, if the model's first answers were cut off."""
    sampled = Path(settings.output_dir) / "sampled.jsonl"
    reasons = [row.get("finish_reason") for row in read_jsonl(sampled)]
    cut = reasons.count("length")
    folder = f"{settings.output_dir}-{2 * settings.max_new_tokens}-tokens"  # the folder's settings cannot change
    print_room(prog, argv, settings.max_new_tokens, cut, len(reasons), output_dir=folder)


@contextmanager
def claims_nothing(folder: Path | str, own: Sequence[str] = ()) -> Iterator[None]:
    """Run a command that writes into a folder inside this context. If it is refused, the folder is as it was.

    Args:
        own: names of the files that the command writes before it does any work.
    """
    folder = Path(folder)
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    held = _files(folder)
    had = [path for path in folder.rglob("*") if path.is_dir()] if folder.is_dir() else []
    try:
        yield
    except UserError:
        left = [path for path in _files(folder) if path not in held]
        if all(path.name in own for path in left):
            for path in left:
                path.unlink()
            for path in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), *new]:
                if (path in new or not held) and path not in had and path.is_dir() and not any(path.iterdir()):
                    path.rmdir()
        raise


def _files(folder: Path) -> list[Path]:
    """Return the files of the folder, without the lock that the command holds on it."""
    if not folder.is_dir():
        return []
    return [path for path in folder.rglob("*") if not path.is_dir() and path != folder / LOCK]
