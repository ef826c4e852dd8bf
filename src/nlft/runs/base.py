"""The base model that a run was trained on: its name, its revision, and what its weights were."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Base:
    """The base model of a run or of an adapter.

    Attributes:
        name: folder or hub name.
        revision: the hub's branch, tag or commit that was asked for; None for the default.
        weights: what identified the weights when the run began: the hub's commit, or what `weights_fingerprint` says
            of a folder; None if it is not known.
    """

    name: str
    revision: str | None = None
    weights: str | None = None

    @property
    def exact(self) -> str | None:
        """The revision to load: the hub's commit if it is known, because a branch or a tag may have moved."""
        return self.weights if self.weights and re.fullmatch("[0-9a-f]{40}", self.weights) else self.revision


def recorded_base(record: Mapping[str, Any]) -> Base | None:
    """Return the base model that a run's record names. None if it names none."""
    given = record.get("model") or {}
    name = given.get("model_name_or_path") or record.get("model_name_or_path")
    return Base(str(name), as_revision(given.get("model_revision")), record.get("weights")) if name else None


def adapters_base(config: Path) -> Base | None:
    """Return the base model that an adapter's configuration file names. None if it names none or cannot be read."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
        name, revision = found.get("base_model_name_or_path"), found.get("revision")
    except (OSError, ValueError, AttributeError):
        return None  # loading the adapter says what is wrong with the file
    return Base(str(name), as_revision(revision)) if name else None


def chosen_base(named: str | None, recorded: Base | None) -> Base | None:
    """Return the base that the user names, else the recorded one. The recorded one has its revision under its name."""
    return Base(named) if named and (recorded is None or recorded.name != named) else recorded


def as_revision(given: object) -> str | None:
    """Return a revision as text. None for the default one, which has several names."""
    return None if given in (None, "", "main") else str(given)


def home_of(path: Path) -> Path | None:
    """Return the run directory that a path names, or that it is in as the adapter or a checkpoint. None without one."""
    for folder, inside in ((path.parent, "adapter"), (path.parent.parent, "checkpoints")):
        if (folder / "run.yaml").is_file() and path.relative_to(folder).parts[:1] == (inside,):
            return folder
    return path if (path / "run.yaml").is_file() else None
