"""The saliency map as one HTML file: it loads nothing, and so opens anywhere, years later, with no server.

What a model wrote is untrusted here: it travels as an escaped JSON block and reaches the page as text only.
The page's policy lets no script or style run but the two whose hashes it names.
"""

import base64
import hashlib
import html
import json
import re
import warnings
from dataclasses import asdict
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlft.errors import UserError, display_path
from nlft.training.run_dir import RunDir, Snapshot, TokenScores, WatchedExample, write_whole

DECIMALS = 4
MAX_STEPS = 200


def export_map(run: RunDir, out: Path, *, max_steps: int = MAX_STEPS) -> Path:
    """Write the map of a run's watched examples, for every step that has a snapshot.

    Args:
        out: the HTML file; an older one is replaced whole.
        max_steps: a run with more snapshots is thinned evenly, first and last kept, and the page says so.

    Returns:
        `out`.

    Raises:
        UserError: the run watched nothing, or none of its snapshots can be read, or `out` cannot be written.
    """
    _require_writable(out)
    data = map_data(run, max_steps=max_steps)
    page = render(f"{data['run']}: saliency map", data)
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise UserError(
            f"{display_path(out)}: cannot be written ({error.strerror}).\n  Give another --out, or make room there."
        ) from error
    return out


def map_data(run: RunDir, *, max_steps: int = MAX_STEPS) -> dict[str, Any]:
    """What the page shows, ready for JSON: the watched examples, and per step each token's numbers.

    Raises:
        UserError: the run watched no examples, or none of its snapshots can be read.
    """
    name = display_path(run.path)
    examples = _watched(run, name)
    recorded = run.snapshot_steps()
    if not examples or not recorded:
        missing = "watched no examples" if not examples else "has recorded no step of its watched examples yet"
        raise UserError(
            f"{name}: this run {missing}, so there is nothing to map.\n"
            "  Train with --watch 8, or wait for the run's first logged step."
        )
    chosen = thin_steps(recorded, max_steps)
    steps, unreadable = [], []
    for step in chosen:
        snapshot = _read(run, step, examples)
        if isinstance(snapshot, str):
            unreadable.append(f"{step} ({snapshot})")
        else:
            steps.append(_step_data(snapshot))
    if not steps:
        raise UserError(
            f"{name}: none of its snapshots can be read: step {', '.join(unreadable)}.\n"
            "  Train again with --watch 8, or copy the run's saliency folder once more."
        )
    notes = []
    if len(chosen) < len(recorded):
        notes.append(f"Thinned: {len(chosen)} of {len(recorded)} recorded steps, evenly spaced, first and last kept.")
    if unreadable:
        notes.append(f"Left out, because their files cannot be read: step {', '.join(unreadable)}.")
        warnings.warn(f"{name}: {notes[-1]}", stacklevel=2)
    return {
        "run": run.path.resolve().name,
        "notes": notes,
        "examples": [asdict(example) for example in examples],
        "steps": steps,
    }


def thin_steps(steps: list[int], max_steps: int) -> list[int]:
    """At most `max_steps` of the steps, evenly spaced, the first and the last among them."""
    if max_steps < 2:
        raise UserError(f"max_steps is {max_steps}, but a map needs the first step and the last.\n  Give 2 or more.")
    if len(steps) <= max_steps:
        return steps
    last = len(steps) - 1
    kept = [steps[round(index * last / (max_steps - 1))] for index in range(max_steps)]
    assert all(earlier < later for earlier, later in pairwise(kept))
    return kept


def render(title: str, data: dict[str, Any]) -> str:
    """The whole page. Its policy names its one style and its one script by their hashes."""
    style, script = _static("map.css"), _static("map.js")
    assert "</style" not in style, "it would end the page's style block"
    assert "</script" not in script, "it would end the page's script block"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "title": html.escape(title),
        "policy": policy,
        "style": style,
        "data": json_block(data),
        "script": script,
    }
    # One pass: what a model wrote may itself read "{{script}}".
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _static("map.html"))


def json_block(data: dict[str, Any]) -> str:
    """JSON that nothing in it can break out of a script block with: ASCII, without `<`, `>` or `&`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _require_writable(out: Path) -> None:
    if not out.parent.is_dir():
        raise UserError(
            f"{display_path(out)}: the folder {display_path(out.parent)} does not exist.\n"
            "  Make it first, or give another --out."
        )
    if out.is_dir():
        raise UserError(
            f"{display_path(out)}: this is a folder.\n"
            f"  Give --out a file name, such as {display_path(out / 'map.html')}."
        )


def _watched(run: RunDir, name: str) -> list[WatchedExample]:
    try:
        return run.watched()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}: its list of watched examples, saliency/examples.json, cannot be read ({error}).\n"
            "  Train again with --watch 8, or copy the run's saliency folder once more."
        ) from error


def _read(run: RunDir, step: int, examples: list[WatchedExample]) -> Snapshot | str:
    """One snapshot, or in a few words why it cannot be shown."""
    try:
        snapshot = run.snapshot(step)
    except FileNotFoundError:
        return "gone since the map was begun"
    except UserError as error:
        return f"damaged: {error}"
    lengths = [len(scores.base) for scores in snapshot.scores]
    if lengths != [len(example.tokens) for example in examples]:
        return "made for other examples than the ones watched now"
    return snapshot


def _step_data(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "step": snapshot.step,
        "epoch": round(snapshot.epoch, DECIMALS),
        "scheme": snapshot.scheme,
        "tag_names": snapshot.tag_names,
        "scores": [_scores_data(scores) for scores in snapshot.scores],
    }


def _scores_data(scores: TokenScores) -> dict[str, Any]:
    return {
        "base": _numbers(scores.base),
        "standard": None if scores.standard is None else _numbers(scores.standard),
        "judge": None if scores.judge is None else _numbers(scores.judge),
        "likelihood": _numbers(scores.likelihood),
        "unlikelihood": _numbers(scores.unlikelihood),
        "tag": scores.tag.tolist(),
    }


def _numbers(values: NDArray[np.float32]) -> list[float | None]:
    """Rounded, whole numbers without their ".0", and null for what JSON has no word for."""
    rounded: list[float] = np.round(values.astype(np.float64), DECIMALS).tolist()
    return [(int(x) if x.is_integer() else x) if np.isfinite(x) else None for x in rounded]


def _static(name: str) -> str:
    return (files("nlft.page") / "static" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
