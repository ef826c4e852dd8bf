"""Go on from a checkpoint: only with the settings and examples of the run so far, unless the user wants others."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from nlft.errors import UserError, display_path
from nlft.runs.reading import check_version, read_yaml, reading
from nlft.runs.run_dir import FORMAT_VERSION, RunDir
from nlft.training.differences import Deviation, differences

_NO_EFFECT = {
    "starting adapter": "has no effect: the weights come from the checkpoint",
    "seed": "orders the examples from here on; other random numbers continue from the checkpoint",
}
# DeepSpeed loads an optimizer itself. The rate is then the checkpoint's.
_ENGINE_LOADS = ("learning_rate", "lr_scheduler", "warmup", "weight_decay", "adam_", "num_train_epochs", "max_steps")


@dataclass(frozen=True)
class Resumed:
    """What a resumed training changes, for run.yaml.

    Attributes:
        changed: names of what changes, each with its value before.
        known: whether the run so far has a record to compare with.
        history: the earlier resumes of the run.
        scored_by: with `condition_logprobs: frozen`, what stands for the model that scored the conditions so far.
    """

    changed: dict[str, Any] = field(default_factory=dict)
    known: bool = True
    history: list[dict[str, Any]] = field(default_factory=list)
    scored_by: str | None = None

    def line(self, step: int) -> dict[str, Any]:
        """Return this resume as run.yaml lists it."""
        names = list(self.changed) if self.known else ["everything"]
        return {"step": step, "changed": names, **({"before": self.changed} if self.changed else {})}


def check_resume(
    checkpoint: Path, run: RunDir, record: dict[str, Any], *, anyway: bool, engine: bool = False, tell: bool = True
) -> Resumed:
    """Compare the training with what the checkpoint was made with.

    Args:
        record: what run.yaml will say. Where the checkpoint decides, its value is put back there.
        anyway: accept differences. Print each of them, and whether it has an effect.
        engine: whether DeepSpeed loads the optimizer.
        tell: whether this process prints.

    Raises:
        UserError: something differs that may change the weights. The message lists everything that does.
    """
    _check_folder(run, tell=tell)
    old = _recorded(checkpoint, run)
    if old is None:
        return Resumed(known=False)
    with reading(checkpoint):
        found = differences(old, record)
    ours = [one for one in found if not one.environment]
    fixed = [
        one for one in ours if one.fixed or (engine and one.name.startswith(_ENGINE_LOADS)) or _scores(one, record)
    ]
    if ours and (fixed or not anyway):
        raise UserError(_refusal(checkpoint, ours, fixed))
    for one in found if tell else []:
        effect = f" ({_NO_EFFECT[one.name]})" if one.name in _NO_EFFECT else ""
        print(f"{'differs' if one.environment else 'accepted'}: {one}{effect}", file=sys.stderr)
    if "starting_adapter" in old:
        record["starting_adapter"] = old["starting_adapter"]
    scored_by = (old.get("condition_cache") or {}).get("model")
    return Resumed({one.name: one.before for one in found}, history=list(old.get("resumed", [])), scored_by=scored_by)


def _scores(one: Deviation, record: dict[str, Any]) -> bool:
    """Whether what differs has scored the conditions of `frozen`: then the rest of the run would read other scores."""
    frozen = (record.get("training") or {}).get("condition_logprobs") == "frozen"
    return frozen and one.name in ("starting adapter", "weights of the model")


def use_new_settings(optimizer: Optimizer, schedule: Any, fresh: Sequence[dict[str, Any]]) -> None:
    """Let the optimizer's new settings take effect. A checkpoint's state brings the old ones along.

    The moments and the place in the schedule stay the checkpoint's.

    Args:
        schedule: the learning-rate schedule, already at the checkpoint's step.
        fresh: the optimizer's groups as made from the new settings, without parameters.
    """
    rates = isinstance(schedule, LambdaLR)
    for index, (group, new) in enumerate(zip(optimizer.param_groups, fresh, strict=True)):
        group.update({name: value for name, value in new.items() if rates or name not in ("lr", "initial_lr")})
        if rates:
            schedule.base_lrs[index] = new["initial_lr"]
            group["lr"] = schedule.base_lrs[index] * schedule.lr_lambdas[index](schedule.last_epoch)
    if rates:
        schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def _check_folder(run: RunDir, *, tell: bool) -> None:
    """Refuse the folder of a newer version. A spoilt run.yaml will be written again: the checkpoint has its own record.

    Raises:
        UserError: names both versions of the format.
    """
    if not run.settings_path.is_file():
        return
    try:
        found = read_yaml(run.settings_path)
    except UserError as error:
        what = str(error).partition("\n")[0]
        if tell:
            print(f"{what}\n  It is written again, from the checkpoint's record and these settings.", file=sys.stderr)
        return
    check_version(run.settings_path, found, FORMAT_VERSION)


def _recorded(checkpoint: Path, run: RunDir) -> dict[str, Any] | None:
    """Return the record of the run that wrote the checkpoint. Older versions wrote it beside `checkpoints/` alone."""
    for place in (RunDir(checkpoint), RunDir(checkpoint.resolve().parent.parent), run):
        if place.settings_path.is_file():
            return place.settings()
    return None


def _refusal(checkpoint: Path, ours: list[Deviation], fixed: list[Deviation]) -> str:
    count = "1 thing differs" if len(ours) == 1 else f"{len(ours)} things differ"
    lines = [f"{display_path(checkpoint)}: cannot go on from it: {count} from the run so far."]
    lines += [str(one.problem()) for one in ours]
    if fixed:
        names = ", ".join(one.problem().where for one in fixed)
        lines.append(f"The checkpoint fits no other {names}. Use the old values, or start in another --output_dir.")
    else:
        lines.append("Go on with the old values, or add --anyway to go on with the new ones.")
    return "\n".join(lines)


def begin_epoch(loader: Any, epoch: int) -> None:
    """Tell a data loader's samplers which epoch begins, whatever they are wrapped in.

    accelerate does not reach a sampler inside of both its shard for a process and its skipping of the batches that a
    resumed epoch has had. The order would then be that of the first epoch.
    """
    inner: list[Any] = [loader]
    while inner:
        one = inner.pop()
        if one is not loader and hasattr(one, "set_epoch"):
            one.set_epoch(epoch)
        inner += [getattr(one, name) for name in ("batch_sampler", "sampler") if hasattr(one, name)]
