"""A run trained again from its run.yaml and controls.jsonl, and whether that gave the same adapter."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nlft.core.schemes.registry import get_scheme
from nlft.errors import Problem, UserError, display_path
from nlft.models.loading import ModelSettings, adapter_fingerprint
from nlft.runs.run_dir import RunDir
from nlft.training.run_record import environment
from nlft.training.trainer import NLFTConfig

WEIGHTS = "adapter_model.safetensors"


def recorded_settings(run: RunDir, output_dir: Path) -> tuple[ModelSettings, NLFTConfig, Any, Path]:
    """What the run was trained with: model settings, training settings, the scheme's settings, the examples' file.

    Args:
        output_dir: where the replay goes. It writes no checkpoints, evaluates nothing, and reports to no tracker.

    Raises:
        UserError: run.yaml does not hold all of it.
    """
    record = run.settings()
    where = display_path(run.settings_path)
    if record.get("method") != "nlft":
        raise UserError(f"{where}: method {record.get('method')}.\n  Only runs of `nlft train` can be replayed.")
    if "model" not in record or "file" not in record.get("data", {}):
        raise UserError(
            f"{where}: does not say which model settings and which file were used: the run was trained from Python.\n"
            "  Build the same NLFTTrainer, call trainer.steering.replay(RunDir.open(run).controls()), and train."
        )
    if record["training"].get("load_best_model_at_end"):
        raise UserError(
            f"{where}: load_best_model_at_end.\n"
            "  The adapter is that of a checkpoint which an evaluation chose; a replay evaluates nothing."
        )
    if record["training"].get("lr_scheduler_type") == "reduce_lr_on_plateau":
        raise UserError(
            f"{where}: lr_scheduler_type reduce_lr_on_plateau.\n"
            "  Its learning rates follow from evaluations; a replay evaluates nothing."
        )
    unchanged = {
        "output_dir": str(output_dir),
        "save_strategy": "no",
        "eval_strategy": "no",
        "eval_on_start": False,
        "report_to": "none",
        "push_to_hub": False,
        "hub_token": None,
        "run_name": None,
        "resume_from_checkpoint": None,
    }
    names = [f.name for f in fields(NLFTConfig) if f.init and f.name in record["training"]]
    training = {name: record["training"][name] for name in names} | unchanged
    saliency = get_scheme(record["scheme"]).settings(**record["saliency"])
    return ModelSettings(**record["model"]), NLFTConfig(**training), saliency, Path(record["data"]["file"])


def differences(record: Mapping[str, Any], fingerprint: str, processes: int) -> list[Problem]:
    """Everything that is other now than when the run was trained, and would lead to another adapter.

    Args:
        record: run.yaml.
        fingerprint: SHA-256 of the examples as they are now.
        processes: how many train now.
    """
    now = environment()
    before = record["versions"]
    pairs = [(name, before.get(name), now["versions"].get(name)) for name in sorted({*before, *now["versions"]})]
    found = [
        Problem(name, f"was {old}, and is {new}", f"Install {name} {old}." if old else f"Remove {name}.")
        for name, old, new in pairs
        if old != new
    ]
    fixed = [
        ("threads", record["threads"], now["threads"], "Start with OMP_NUM_THREADS={}."),
        ("device", record.get("device"), now["device"], "Replay where the run was trained: {}."),
        ("processes", record.get("processes", 1), processes, "Start {} processes."),
        ("data", record["data"]["sha256"][:16], fingerprint[:16], "Bring back the file with SHA-256 {}...."),
    ]
    found += [Problem(n, f"was {old}, and is {new}", cure.format(old)) for n, old, new, cure in fixed if old != new]
    old_start, start = record.get("starting_adapter"), adapter_fingerprint((record.get("model") or {}).get("adapter"))
    if old_start != start:
        found.append(Problem("starting adapter", f"was {old_start}, and is {start}", "Bring back its weights."))
    for resumed in record.get("resumed", []):
        if resumed["changed"]:
            what = f"was resumed at step {resumed['step']} with another {', '.join(resumed['changed'])}"
            found.append(Problem("run", what, "Its first part cannot be trained from run.yaml."))
    return found


def adapter_difference(one: Path, other: Path) -> tuple[int, int, float]:
    """Of two adapter folders: how many tensors there are, how many differ, and by how much at most."""
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    names = ours.keys() | theirs.keys()
    largest, unlike = 0.0, 0
    for name in names:
        if name not in ours or name not in theirs or ours[name].shape != theirs[name].shape:
            unlike, largest = unlike + 1, float("inf")
        elif not torch.equal(ours[name], theirs[name]):
            unlike += 1
            largest = max(largest, float((ours[name].double() - theirs[name].double()).abs().max()))
    return len(names), unlike, largest
