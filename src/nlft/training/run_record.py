"""What a run records of itself: run.yaml, from which it can be trained again, and the model card."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from nlft.core.conditions import EncodedExample
from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.models.loading import adapter_fingerprint
from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS, steering_record

# Where a run stands, what it is called and what it writes does not reach its weights.
_NO_PART_OF_TRAINING = (
    *("output_dir", "run_name", "resume_from_checkpoint", "disable_tqdm", "report_to", "hub_", "push_to_hub"),
    *("save_", "logging_", "log_level", "watch", "retake_controls"),
)


def run_record(
    args: Any,
    model: Any,
    scheme: Scheme,
    saliency: Any,
    examples: list[Example],
    encoded: Sequence[EncodedExample],
    schemes: Mapping[str, Scheme],
    unavailable: Mapping[str, str],
) -> dict[str, Any]:
    """What run.yaml holds of an NLFT training, besides the format version.

    Args:
        args: the `NLFTConfig`.
        saliency: the scheme's settings.
        encoded: the same examples, encoded: they tell which conditions can be scored.
        schemes: those that can be chosen while the run trains, by name.
        unavailable: controls that this run cannot offer, and why.
    """
    needs = scheme.needs(saliency)
    return {
        "method": "nlft",
        "model_name_or_path": base_name(model),
        "adapter_config": _adapter_config(model),
        "scheme": scheme.name,
        "saliency": asdict(saliency),
        "scored": ["base", *_conditions(needs)],
        "seed": args.seed,
        **environment(),
        "processes": args.world_size,
        "data": {"examples": len(examples), "sha256": data_fingerprint(examples)},
        "training": json.loads(args.to_json_string()),
        **steering_record(
            {name: s.settings for name, s in schemes.items()},
            {name: _conditions(s.needs(s.settings())) for name, s in schemes.items()},
            ["standard", "judge"] if all(e.label or e.judge is not None for e in encoded) else ["standard"],
            unavailable,
        ),
    }


def add_command(record: dict[str, Any], model_settings: Any, file: Path) -> None:
    """Add what a command knows and a trainer does not: with it, `nlft replay` can train the run again.

    Args:
        record: the trainer's, before it trains.
        file: the examples'.
    """
    model = asdict(model_settings)
    for name in ("model_name_or_path", "adapter"):  # a folder's relative path holds from here alone
        if model[name] and Path(model[name]).exists():
            model[name] = str(Path(model[name]).resolve())
    record["model"] = model
    record["starting_adapter"] = adapter_fingerprint(model["adapter"])
    record["data"]["file"] = str(file.resolve())


def _conditions(needs: frozenset[str]) -> list[str]:
    return [name for name in ("standard", "judge") if name in needs]


def _adapter_config(model: Any) -> dict[str, Any] | None:
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter].to_dict()
    return dict(json.loads(json.dumps(config, default=lambda x: sorted(x) if isinstance(x, set) else str(x))))


def environment() -> dict[str, Any]:
    """Versions, thread count and device: what else a result depends on."""
    packages = ("nlft", "torch", "transformers", "peft", "trl", "accelerate")
    gpu = torch.cuda.is_available()
    return {
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.backends.cpu.get_cpu_capability()}",
    }


def data_fingerprint(examples: list[Example]) -> str:
    """SHA-256 over the examples as JSON lines."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def base_name(model: Any) -> str:
    """The base model's name or folder."""
    return str(model.config._name_or_path)


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that differ between two run.yaml and may change the weights."""
    plain = ("model_name_or_path", "adapter_config", "scheme", "saliency", "versions", "threads", "device", "processes")
    found = [name for name in plain if old.get(name) != new.get(name)]
    found += ["data"] if old.get("data", {}).get("sha256") != new["data"]["sha256"] else []
    before, now = old.get("training", {}), new["training"]
    names = sorted(name for name in before.keys() | now.keys() if not name.startswith(_NO_PART_OF_TRAINING))
    return found + [f"training.{name}" for name in names if before.get(name) != now.get(name)]


def model_card(base: str, method: str, details: str, examples: list[Example]) -> str:
    """A short model card in the hub's format."""
    right = sum(e.label for e in examples)
    return (
        f"---\nbase_model: {json.dumps(base)}\nlibrary_name: peft\ntags: [nlft, {method}]\n---\n\n"
        f"# Adapter for {base}\n\n"
        f"Trained with nlft {version('nlft')} ({details}) on {len(examples)} examples, {right} right and "
        f"{len(examples) - right} wrong (SHA-256 {data_fingerprint(examples)[:16]}). The run directory's `run.yaml` "
        f"has every setting.\n\n"
        "Load it with `peft.PeftModel.from_pretrained(base, this_folder)`.\n"
    )


def changes_note(lines: Sequence[Mapping[str, Any]]) -> str:
    """For the model card: what was changed while it trained, from controls.jsonl; empty if nothing was."""
    found = [e for e in lines if e["taken"] and e["control"] not in WITHOUT_EFFECT_ON_WEIGHTS]
    told = [f"- step {e['step']}: `{e['control']}`" + (f" {e['new']}" if e["new"] is not None else "") for e in found]
    return "\n".join(["\nChanged while it trained (`controls.jsonl`):\n", *told, ""]) if told else ""
