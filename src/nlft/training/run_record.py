"""Build the content of run.yaml. A run can be trained again from it."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, TrainingArguments

from nlft.core.conditions import EncodedExample
from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.data.training_file import data_fingerprint
from nlft.models.adapters import adapted
from nlft.models.fingerprints import adapter_fingerprint
from nlft.models.loading import ModelSettings
from nlft.models.quantising import quantization_record
from nlft.models.weights_check import weights_fingerprint
from nlft.runs.controls import steering_record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def run_record(
    args: TrainingArguments,
    model: PreTrainedModel | PeftModel,
    scheme: Scheme,
    saliency: "DataclassInstance",
    examples: list[Example],
    encoded: Sequence[EncodedExample],
    schemes: Mapping[str, Scheme],
    unavailable: Mapping[str, str],
) -> dict[str, Any]:
    """Build run.yaml's content for a training with NLFT, except the format version.

    Args:
        args: the trainer's settings, an `NLFTConfig`.
        saliency: the scheme's settings.
        encoded: the same examples, encoded. They decide which conditions the run can score.
        schemes: schemes that a user can choose while the run trains, by name.
        unavailable: see `ControlState.unavailable`.
    """
    needs = scheme.needs(saliency)
    return {
        "method": "nlft",
        **model_record(model),
        "scheme": scheme.name,
        "saliency": asdict(saliency),
        "scored": ["base", *_conditions(needs)],
        "seed": args.seed,
        **environment(),
        "processes": args.world_size,
        "data": {
            "examples": len(examples),
            "right": sum(e.label for e in examples),
            "sha256": data_fingerprint(examples),
            "tokens_sha256": tokens_fingerprint(encoded),
        },
        "training": json.loads(args.to_json_string()),
        **steering_record(
            {name: s.settings for name, s in schemes.items()},
            {name: _conditions(s.needs(s.settings())) for name, s in schemes.items()},
            ["standard", "judge"] if all(e.label or e.judge is not None for e in encoded) else ["standard"],
            unavailable,
        ),
    }


def add_command(record: dict[str, Any], model_settings: ModelSettings, file: Path) -> None:
    """Add the model's settings and the file of examples for `nlft replay`. Only a command has both.

    Args:
        record: the trainer's record, before it trains.
        file: the file of the examples.
    """
    model = asdict(model_settings)
    for name in ("model_name_or_path", "adapter"):  # a relative path is valid only from this folder
        if model[name] and Path(model[name]).exists():
            model[name] = str(Path(model[name]).resolve())
    record["model"] = model
    record["starting_adapter"] = adapter_fingerprint(model["adapter"])
    record["data"]["file"] = str(file.resolve())


def _conditions(needs: frozenset[str]) -> list[str]:
    return [name for name in ("standard", "judge") if name in needs]


def model_record(model: PreTrainedModel | PeftModel) -> dict[str, Any]:
    """Return what identifies the trained model: its base by name, content and data type, and its adapter's shape."""
    name, found, quantised = base_name(model), adapted(model), quantization_record(model.config)
    return {
        "model_name_or_path": str(Path(name).resolve()) if name and Path(name).is_dir() else name,
        "weights": weights_fingerprint(name, getattr(model.config, "_commit_hash", None)) if name else None,
        "dtype": str(model.dtype).removeprefix("torch."),
        "adapter_config": _adapter_config(model),
        **({} if quantised is None else {"quantization": quantised}),
        **({} if found is None else {"adapted": found.record()}),
    }


def _adapter_config(model: PreTrainedModel | PeftModel) -> dict[str, Any] | None:
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter].to_dict()
    return dict(json.loads(json.dumps(config, default=lambda x: sorted(x) if isinstance(x, set) else str(x))))


def environment() -> dict[str, Any]:
    """Return versions, thread count and device. A result depends on these as well as on settings and data."""
    packages = ("nlft", "torch", "transformers", "peft", "trl", "accelerate")
    gpu = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
    }


def tokens_fingerprint(encoded: Sequence[EncodedExample]) -> str:
    """Return a SHA-256 over the examples' token ids. It tells another tokenizer or chat template of the same name."""
    digest = hashlib.sha256()
    for one in encoded:
        ids = [one.base, one.standard, one.judge, one.completion, one.target]
        digest.update(json.dumps(ids, separators=(",", ":")).encode() + b"\n")
    return digest.hexdigest()


def base_name(model: PreTrainedModel | PeftModel) -> str:
    """Return the base model's name or folder."""
    return str(model.config._name_or_path)
