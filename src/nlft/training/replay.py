"""Train a run again from its run.yaml and controls.jsonl, and compare the two adapters."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nlft.core.schemes.registry import get_scheme
from nlft.errors import Problem, UserError, display_path
from nlft.models.fingerprints import adapter_fingerprint
from nlft.models.loading import ModelSettings
from nlft.models.saved_adapters import WEIGHTS
from nlft.models.weights_check import weights_fingerprint
from nlft.runs.run_dir import RunDir
from nlft.training.differences import differences
from nlft.training.honoured import EVALUATION, NEVER
from nlft.training.run_record import environment
from nlft.training.trainer import NLFTConfig


def recorded_settings(run: RunDir, output_dir: Path) -> tuple[ModelSettings, NLFTConfig, Any, Path]:
    """Read the run's model settings, training settings, scheme settings and examples' file from run.yaml.

    The training settings are changed: a replay writes no checkpoints, evaluates nothing, and reports to no tracker.

    Args:
        output_dir: folder of the replay.

    Raises:
        UserError: run.yaml lacks some of these, or the run cannot be replayed.
    """
    record = run.settings()
    where = display_path(run.settings_path)
    if record.get("method") != "nlft":
        raise UserError(
            f"{where}: the run's method is {record.get('method')}.\n  Only runs of `nlft train` can be replayed."
        )
    if "model" not in record or "file" not in record.get("data", {}):
        raise UserError(
            f"{where}: the run was trained from Python, so its model settings and training file are not recorded.\n"
            "  Build the same NLFTTrainer, call trainer.steering.replay(RunDir.open(run).controls()), and train."
        )
    if record["training"].get("load_best_model_at_end"):
        raise UserError(
            f"{where}: the run used load_best_model_at_end, so an evaluation chose its checkpoint.\n"
            "  A replay does not evaluate. Repeat the `nlft train` command with another --output_dir instead."
        )
    if record["training"].get("lr_scheduler_type") == "reduce_lr_on_plateau":
        raise UserError(
            f"{where}: the run used lr_scheduler_type reduce_lr_on_plateau, so evaluations set its learning rates.\n"
            "  A replay does not evaluate. Repeat the `nlft train` command with another --output_dir instead."
        )
    unchanged = {
        "output_dir": str(output_dir),
        "save_strategy": "no",
        "report_to": "none",
        "run_name": None,
        "resume_from_checkpoint": None,
    }
    without = EVALUATION | {"save_steps"} | NEVER.keys()
    names = [f.name for f in fields(NLFTConfig) if f.init and f.name in record["training"] and f.name not in without]
    training = {name: record["training"][name] for name in names} | unchanged
    saliency = get_scheme(record["scheme"]).settings(**record["saliency"])
    return ModelSettings(**record["model"]), NLFTConfig(**training), saliency, Path(record["data"]["file"])


def replay_differences(record: Mapping[str, Any], fingerprint: str, processes: int) -> list[Problem]:
    """Return every difference between now and the run's training that would lead to another adapter.

    Args:
        record: run.yaml.
        fingerprint: SHA-256 of the examples as they are now.
        processes: number of processes that train now.
    """
    model = record.get("model") or {}
    now = {
        **environment(),
        "processes": processes,
        "data": {"sha256": fingerprint},
        "weights": weights_fingerprint(str(model.get("model_name_or_path")), record.get("weights")),
        "starting_adapter": adapter_fingerprint(model.get("adapter")),
    }
    found = [one.problem() for one in differences(record, now)]
    for resumed in record.get("resumed", []):
        if resumed["changed"]:
            what = f"was resumed at step {resumed['step']} with another {', '.join(resumed['changed'])}"
            found.append(Problem("run", what, "No replay has two sets of settings."))
    return found


def adapter_difference(one: Path, other: Path) -> tuple[int, int, float]:
    """Return the number of tensors in two adapter folders, the number that differ, and the largest difference."""
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
