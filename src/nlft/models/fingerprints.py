"""What shapes a model's answers and scores besides its weights: configuration, adapters, tokenizer files."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from nlft.core.base_below import AdapterPart
from nlft.digests import sha256_of
from nlft.models.saved_adapters import CONFIG, TOKENIZER, WEIGHTS, adapter_folder

NO_PART_OF_ADAPTER = ("base_model_name_or_path", "inference_mode", "peft_version", "revision", "auto_mapping")
_NO_PART_OF_MODEL = ("_name_or_path", "_model_name_or_path", "transformers_version", "use_cache")
# A trainer may set these on a loaded model. An answer's ends are told apart by themselves.
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def digest_of(parts: Any) -> str:
    """Return a SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def config_parts(model: Any) -> dict[str, Any]:
    """Return a model's configuration, without names and versions: the rotary positions, for example."""
    return {name: value for name, value in model.config.to_dict().items() if name not in _NO_PART_OF_MODEL}


def config_digest(model: Any) -> str:
    """Return a SHA-256 of what a model's configuration sets otherwise than its kind does by itself."""
    found = model.config.to_diff_dict()
    return digest_of({name: value for name, value in found.items() if name not in (*_NO_PART_OF_MODEL, *_TOKENS)})


def adapter_fingerprint(adapter: str | None) -> dict[str, str] | None:
    """Identify an adapter by its name and, if its files are on this machine, by their content.

    Args:
        adapter: a folder, a run directory or a hub name, which stands for the newest commit in the hub's cache.

    Returns:
        `name`, `sha256` of the weights and `config_sha256` of the configuration; None without an adapter.
    """
    if adapter is None:
        return None
    found, folder = {"name": adapter}, adapter_on_disk(adapter)
    if folder and (folder / WEIGHTS).is_file():
        found["sha256"] = sha256_of(folder / WEIGHTS)
    if folder and (folder / CONFIG).is_file():
        found["config_sha256"] = _config_file_digest(folder / CONFIG)
    return found


def _config_file_digest(path: Path) -> str:
    """Return a SHA-256 of an adapter_config.json's settings; of a spoilt file, its own."""
    try:
        return digest_of(_adapter_config(dict(json.loads(path.read_text(encoding="utf-8")))))
    except (ValueError, TypeError, RecursionError):  # whoever loads it says what is wrong with it
        return sha256_of(path)


def adapter_on_disk(adapter: str) -> Path | None:
    """Return an adapter's folder on this machine, in the hub's cache too. None if it is not here."""
    folder = Path(adapter_folder(adapter))
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(adapter, WEIGHTS)
    except ValueError:  # no name of the hub
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def tokenizer_fingerprint(*folders: Path | None) -> str | None:
    """Return a SHA-256 of the tokenizer's files in the folders that are there, or None if there are none."""
    found = [
        (path.name, sha256_of(path))
        for folder in folders
        if folder and folder.is_dir()
        for pattern in TOKENIZER
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]
    return digest_of(found) if found else None


def adapter_parts(model: Any, idle: Collection[str] = ()) -> dict[str, Any]:
    """Return what adapters do that no weight says: which are on, where, and at what scale.

    Args:
        model: a transformers or PEFT model.
        idle: names of adapters that change nothing. They are left out.

    Returns:
        Empty if no other adapter is there.
    """
    configs = {name: config for name, config in (getattr(model, "peft_config", None) or {}).items() if name not in idle}
    if not configs:
        return {}
    return {
        "configs": {name: _adapter_config(config.to_dict()) for name, config in configs.items()},
        # Adapters that add tokens to the prompt have no layers.
        "whole": [_without(idle, model.active_adapters), model._adapters_disabled]
        if isinstance(model, PeftModel)
        else [],
        "layers": [found for name, layer in model.named_modules() if (found := _layer(name, layer, idle))],
    }


def _layer(name: str, layer: torch.nn.Module, idle: Collection[str]) -> list[Any] | None:
    """Return which adapters of a layer are on, those that are merged into it, and their scales."""
    if not isinstance(layer, AdapterPart):
        return None
    active, merged = (_without(idle, getattr(layer, which, ())) for which in ("active_adapters", "merged_adapters"))
    if not active and not merged:
        return None
    scaling = getattr(layer, "scaling", {})
    scales = {one: scaling[one] for one in active if one in scaling} if isinstance(scaling, Mapping) else {}
    return [name, active, merged, bool(layer.disable_adapters), scales]


def _without(idle: Collection[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if name not in idle]


def _adapter_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an adapter's settings in a fixed order: the scale of a LoRA adapter, for example, stands in no weight."""
    return {name: _plain(value) for name, value in config.items() if name not in NO_PART_OF_ADAPTER}


def _plain(value: Any) -> Any:
    """Return a set as a list in a fixed order."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else value
