"""What a run's files say, for its model card. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlft.digests import sha256_of
from nlft.runs.run_dir import RunDir, WatchedExample


@dataclass(frozen=True)
class Known:
    """What a run's files say.

    Attributes:
        settings: run.yaml.
        steps: optimizer steps taken.
        controls: the answered requests.
        evaluation, collateral: the contents of evaluation.json and of collateral.json, empty without them.
        comparison: the report of `nlft compare` or `nlft tune` that the run belongs to, empty without one.
        arm: the run's arm in that comparison, empty without one.
        audit: the content of audit.json, in the run's folder or in that of its comparison; empty without one.
        outdated: whether evaluation.json is about other weights than the run's adapter has now; then it is left out.
        watched: examples to show, with the texts of the user; normally none.
    """

    settings: Mapping[str, Any]
    steps: int = 0
    controls: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    collateral: Mapping[str, Any] = field(default_factory=dict)
    comparison: Mapping[str, Any] = field(default_factory=dict)
    arm: Mapping[str, Any] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)
    outdated: bool = False
    watched: Sequence[WatchedExample] = ()


def known_of(run: RunDir, *, examples: int = 0) -> Known:
    """Read what the run's files say. Files that cannot be read count as missing.

    Args:
        examples: number of watched examples to read.
    """
    path = run.path.resolve()
    place, comparison, arm = _comparison(path)
    evaluation = read_object(run.evaluation_path)
    outdated = _is_of_other_weights(run, evaluation)
    return Known(
        settings=run.settings() if run.settings_path.is_file() else {},
        steps=max((event.get("step") or 0 for event in run.events()), default=0),
        controls=run.controls(),
        evaluation={} if outdated else evaluation,
        collateral=read_object(run.collateral_path),
        comparison=comparison,
        arm=arm,
        audit=read_object(path / "audit.json") or read_object(place / "audit.json"),
        outdated=outdated,
        watched=run.watched()[:examples] if examples else (),
    )


def _is_of_other_weights(run: RunDir, evaluation: Mapping[str, Any]) -> bool:
    """Return whether an evaluation was made with another adapter than the run has now. Unknown counts as the same."""
    about, weights = evaluation.get("adapter"), run.adapter_path / "adapter_model.safetensors"
    recorded = about.get("sha256") if isinstance(about, dict) else None
    return bool(recorded and weights.is_file() and sha256_of(weights) != recorded)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if the file is missing or spoilt."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _comparison(run: Path) -> tuple[Path, dict[str, Any], Mapping[str, Any]]:
    """Return the folder and the report of the comparison that the run is a cell of, and the run's arm in it.

    The run lies at FOLDER/ARM in `nlft tune`, at FOLDER/cells/size-N/seed-N/fold-N/ARM in `nlft compare`. Without a
    comparison, the folder is the run's own.
    """
    parts = run.parts[-5:]
    place, name, size = run.parent, "tune.json", ""
    if len(run.parts) > 5 and parts[0] == "cells" and parts[1].startswith("size-"):
        place, name, size = run.parents[4], "compare.json", parts[1].removeprefix("size-")
    report = read_object(place / name)
    listed = report.get("arms")
    arms = [arm for arm in listed if isinstance(arm, dict)] if isinstance(listed, list) else []
    arms = [arm for arm in arms if arm.get("arm") == run.name]
    arms = [arm for arm in arms if not size or str(arm.get("size")) == size]
    return (place, report, arms[0]) if arms else (run, {}, {})


def public_name(base: object) -> str:
    """Return a model's hub name; for a folder only its last part, because the others say whose machine it is."""
    text = str(base or "an unknown model")
    return Path(text).name if Path(text).is_absolute() else text


def bits_of_base(adapter: str | None) -> int | None:
    """Return in how many bits the base was loaded when an adapter was trained: 4 or 8; None if whole, or not known.

    Args:
        adapter: a run directory, its `adapter/`, or any other name, of which nothing is known.
    """
    given = Path(adapter or "")
    place = next((p for p in (given, given.parent) if adapter and (p / "run.yaml").is_file()), None)
    bits = (RunDir(place).settings().get("quantization") or {}).get("bits") if place else None
    return bits if isinstance(bits, int) else None
