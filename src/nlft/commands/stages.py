"""What commands in stages (tune, compare, rounds, demo) print when they are interrupted, and at their end."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nlft.commands.next_steps import room_to_end, typed
from nlft.errors import display_path

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
    except KeyboardInterrupt:
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


def staged_room(prog: str, argv: Sequence[str], settings: Any) -> list[str]:
    """Return what to type so that replies end by themselves, if the model's first answers were cut off."""
    sampled = Path(settings.output_dir) / "sampled.jsonl"
    if not sampled.is_file():
        return []
    reasons = [json.loads(line).get("finish_reason") for line in sampled.read_text(encoding="utf-8").splitlines()]
    cut = reasons.count("length")
    folder = f"{settings.output_dir}-{2 * settings.max_new_tokens}-tokens"  # the folder's settings cannot change
    return room_to_end(prog, argv, settings.max_new_tokens, cut, len(reasons), output_dir=folder)
