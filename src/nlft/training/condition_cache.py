"""Scored conditions on disk, in a folder that runs share, and the fingerprint that says whose they are."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nlft.core.rotary import length_rule
from nlft.core.snapshot import ConditionSnapshot
from nlft.errors import display_path
from nlft.files import aside_of, cache_folder
from nlft.models.fingerprints import adapter_parts, config_parts
from nlft.training.manifest import NotSaved, saving

FORMAT = 1
KEPT_DAYS = 30
"""A file that no run has read for so long is deleted when a run writes another one."""

_SUFFIX = ".safetensors"


def default_folder() -> Path:
    """Return `nlft/conditions` in the user's cache folder, see `cache_folder`."""
    return cache_folder() / "conditions"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """Return 32 hex digits that stand for everything that scores depend on."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def model_parts(model: Any) -> dict[str, Any]:
    """Return what a model's scores depend on: weights, configuration, implementation of attention, adapters.

    Args:
        model: a causal LM, bare or under PEFT. A LoRA adapter that adds nothing does not count.
    """
    named = model.state_dict()
    # Earlier versions let these follow from a batch's longest row.
    angles = {"angles": "of each row"} if length_rule(model.config.get_text_config()) else {}
    return {
        **angles,
        "weights": weights_digest(named.items()),
        "config": config_parts(model),
        "attention": model.config._attn_implementation,
        "adapters": adapter_parts(model, _idle_adapters(model, named)),
    }


def _idle_adapters(model: Any, named: Mapping[str, Tensor]) -> set[str]:
    """Return the names of LoRA adapters of which every tensor changes nothing. Other kinds may change much without."""
    others = {part for name in named.keys() - _idle_tensors(named) for part in name.split(".")}
    configs = getattr(model, "peft_config", None) or {}
    return {name for name, config in configs.items() if config.peft_type == "LORA" and name not in others}


def weights_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a BLAKE2b digest of tensors: names, types, shapes and all bytes. It takes about a second per gigabyte.

    A LoRA adapter that still adds nothing, because its B is 0, is left out. So runs with other seeds or other ranks
    share a base model's scores.
    """
    named = dict(tensors)
    found = hashlib.blake2b(digest_size=16)
    seen: dict[tuple[int, torch.Size, torch.dtype], str] = {}
    idle = _idle_tensors(named)
    for name in sorted(named.keys() - idle):
        tensor = named[name].detach()
        place = (tensor.data_ptr(), tensor.shape, tensor.dtype)
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {seen.get(place, '')}\n".encode())
        if place not in seen and tensor.numel():  # tied weights are read once
            found.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
            seen[place] = name
    return found.hexdigest()


def _idle_tensors(named: Mapping[str, Tensor]) -> set[str]:
    """Return the names of LoRA's tensors that change nothing. DoRA changes the rounding even while B is 0."""
    if any("lora_magnitude_vector" in name for name in named):
        return set()
    idle = set()
    for name, tensor in named.items():
        if (".lora_B." in name or ".lora_embedding_B." in name) and not tensor.any():
            idle |= {name, name.replace("lora_B", "lora_A").replace("lora_embedding_B", "lora_embedding_A")}
    return idle & named.keys()


class ConditionCache:
    """A folder of scored conditions: one file for each fingerprint.

    Several processes may use it at once. Each writes aside and renames, so a reader sees a whole file or none. Two that
    lack the same scores both compute them, and the files are equal.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return the place of a fingerprint's file."""
        return self.folder / f"{name}{_SUFFIX}"

    def load(self, name: str) -> ConditionSnapshot | None:
        """Return the scores of a fingerprint, or None if there are none. Warn of a damaged file, and return None."""
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            found = read_snapshot(path, name)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            warnings.warn(f"{display_path(path)} is damaged ({error}). The conditions are scored again.", stacklevel=2)
            return None
        with suppress(OSError):  # the folder may be somebody else's, whose owner decides what is kept
            os.utime(path)  # it was used today
        return found

    def store(self, name: str, snapshot: ConditionSnapshot) -> int | None:
        """Write scores. Delete files that no run has read for `KEPT_DAYS` days, and half-written ones after a day.

        Returns:
            The file's size in bytes; None, with a warning, if it cannot be written.
        """
        path = self.path(name)
        try:
            with saving(display_path(path)):
                self.folder.mkdir(parents=True, exist_ok=True)
                write_snapshot(path, name, snapshot)
                size = path.stat().st_size
        except NotSaved as error:
            why = str(error).partition("\n")[0]
            warnings.warn(
                f"{why}. This run keeps the scores in memory, and the next one scores again. Name another folder with "
                "--condition_cache.",
                stacklevel=2,
            )
            return None
        self._clean()
        return size

    def _clean(self) -> None:
        for path in self.folder.glob(f"*{_SUFFIX}*"):
            # A process that was killed left a half-written file. One that another machine writes now is younger.
            days = 1 if path.suffix == ".tmp" else KEPT_DAYS
            try:
                if path.stat().st_mtime < time.time() - days * 86400 and _is_ours(path):
                    path.unlink()
            except OSError:
                continue  # another process was first, or it is not ours to delete


def _is_ours(path: Path) -> bool:
    name = path.name.lstrip(".").partition(".")[0]
    return len(name) == 32 and all(letter in "0123456789abcdef" for letter in name)


def write_snapshot(path: Path, name: str, snapshot: ConditionSnapshot) -> None:
    """Write scores beside their place, with a checksum, and rename the file.

    Raises:
        OSError, SafetensorError: the disk refuses.
    """
    aside = aside_of(path)
    tensors = {key: value.contiguous() for key, value in snapshot.tensors.items()}
    about = {"fingerprint": name, "checksum": _checksum(tensors)}
    try:
        save_file(tensors, aside, metadata={"nlft": json.dumps(about)})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_snapshot(path: Path, name: str) -> ConditionSnapshot:
    """Read scores, and check them.

    Raises:
        OSError, SafetensorError, ValueError, KeyError: the file is not as it was written, or not of this fingerprint.
    """
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})["nlft"])
        tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a mapping
    if about["fingerprint"] != name:
        raise ValueError("it belongs to other conditions")
    if about["checksum"] != _checksum(tensors):
        raise ValueError("its checksum differs")
    if "top_counts" in tensors and "marks" not in tensors:
        raise ValueError("an earlier version wrote it, which did not tell two marks of one reply apart")
    return ConditionSnapshot(tensors)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return weights_digest(tensors.items())
