"""Compare how two trainings were set up: a run's record with a replay, or with the run that resumes it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nlft.errors import Problem
from nlft.models.fingerprints import NO_PART_OF_ADAPTER

# These settings change a run's place, its name and its output, but not its weights.
_NO_PART_OF_TRAINING = (
    *("output_dir", "run_name", "resume_from_checkpoint", "disable_tqdm", "report_to", "hub_", "push_to_hub"),
    *("save_", "logging_", "log_level", "log_on_each_node", "watch", "retake_controls", "guard", "project", "trackio_"),
    *("per_device_eval_batch_size", "dataloader_pin_memory", "local_rank", "do_"),
    "condition_cache",
)
# PEFT's names of what has another name on the command line.
_LORA = {name: f"lora_{name}" for name in ("r", "target_modules", "modules_to_save", "target_parameters")}
_ELSEWHERE = ("model_name_or_path", "adapter", "model_revision")  # settings of the model that are compared by content
# Where a record says what came of a setting, that is compared: two settings can mean the same.
_BY_CONTENT = (("dtype", "dtype"), *(("adapter_config", name) for name in ("lora_", "use_peft", "use_dora")))
# A checkpoint's tensors fit no other value of these.
_FIXED = frozenset(
    {"method", "use_peft", "optim", "use_dora", "peft_type", "bias", "rank_pattern", *_LORA.values()}
    | {"layers_to_transform", "layers_pattern", "exclude_modules", "lora_bias"}
)
# What a record of an older version does not say, because there was no choice.
_OLDER: Mapping[Any, dict[str, Any]] = MappingProxyType({"sft": {"engine": "trl"}})
# Under these schedules the rate follows from the losses so far. The checkpoint alone knows it.
_RATE_FROM_LOSSES = {"reduce_lr_on_plateau", "greedy"}
_RATE = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs"}


@dataclass(frozen=True)
class Deviation:
    """One thing that differs, and that may lead to another adapter.

    Attributes:
        name: a setting's name, or what else differs.
        before, now: the two values; for files, the beginnings of their SHA-256.
        cure: how to have the old value again.
        setting: whether it is a setting, with a flag of this name.
        environment: whether it is a matter of the machine: versions, threads, device, number of processes.
        fixed: whether a checkpoint cannot be used with another value.
    """

    name: str
    before: Any
    now: Any
    cure: str
    setting: bool = False
    environment: bool = False
    fixed: bool = False

    def __str__(self) -> str:
        return f"{self.name} was {_shown(self.before)} in the run, and is {_shown(self.now)} now"

    def problem(self) -> Problem:
        """Return the difference as a problem of an error."""
        _, _, what = str(self).partition(f"{self.name} ")
        return Problem(f"--{self.name}" if self.setting else self.name, what, self.cure)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Deviation]:
    """Return everything that differs and may change the weights. Compare only what both records have.

    Args:
        old: a run's record, the content of its run.yaml.
        new: the record of the training that would replay or resume it; or a part of it.
    """
    found: dict[str, Deviation] = {}
    for one in (*_environment(old, new), *_content(old, new), *_settings(old, new)):
        found.setdefault(one.name, one)
    was, now = ((record.get("data") or {}).get("tokens_sha256") for record in (old, new))
    if was and now and was != now and all(one.environment for one in found.values()):  # else they are the reason
        cure = "Restore the model's tokenizer and chat template; a template may also name the date."
        found["token ids of the examples"] = _digests("token ids of the examples", was, now, cure)
    return list(found.values())


def _environment(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Deviation]:
    before, now = old.get("versions", {}), new.get("versions", {})
    for name in sorted({*before, *now}):
        was = before.get(name)
        if was != now.get(name):
            cure = f"Install {name} {was}." if was else f"Remove {name}."
            yield Deviation(name, was, now.get(name), cure, environment=True)
    cures = {
        "threads": "Start with OMP_NUM_THREADS={}.",
        "device": "Train on the same device: {}.",
        "processes": "Start {} processes.",
    }
    for name, cure in cures.items():
        was = old.get(name, 1 if name == "processes" else None)
        if name in new and was is not None and was != new[name]:
            yield Deviation(name, was, new[name], cure.format(was), environment=True)


def _content(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Deviation]:
    """Compare examples, held-out examples, the model and the adapter that training started from."""
    for name, what in (("data", "the file"), ("held_out", "--eval_file")):
        was, now = ((record.get(name) or {}).get("sha256") for record in (old, new))
        if now != was and (name == "data" or ("held_out" in old and "held_out" in new and _chosen_by_loss(new))):
            yield _digests(name, was, now, f"Restore {what} whose SHA-256 begins with {{}}.")
    model, other = old.get("model_name_or_path"), new.get("model_name_or_path")
    if model is not None and other is not None and not _same_place(str(model), str(other)):
        yield Deviation("model_name_or_path", model, other, f"Give --model_name_or_path {model}.", setting=True)
    was, now = str(old.get("weights") or ""), str(new.get("weights") or "")
    if len(was) == len(now) and was != now:  # else one is a commit, or of an older version
        yield _digests("weights of the model", was, now, "Restore the model's own weights ({}).")
    if "starting_adapter" in old and "starting_adapter" in new:
        was, now = old["starting_adapter"] or {}, new["starting_adapter"] or {}
        # Older versions recorded the weights alone.
        other = all("config_sha256" in one for one in (was, now)) and was["config_sha256"] != now["config_sha256"]
        if other or (was.get("sha256") or was.get("name")) != (now.get("sha256") or now.get("name")):
            cure = "Restore the old weights and configuration."
            yield Deviation("starting adapter", _short(was), _short(now), cure)


def _settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Deviation]:
    if old.get("method") and new.get("method") and old["method"] != new["method"]:
        cure = f"Go on with the command that started the run: {old['method']}."
        yield Deviation("method", old["method"], new["method"], cure, fixed=True)
    yield from _adapters(old, new)
    known = (*_ELSEWHERE, *(prefix for name, prefix in _BY_CONTENT if name in old and name in new))
    yield from _unequal(old.get("model") or {}, new.get("model") or {}, leave_out=known)
    yield from _unequal(old, new, only=("dtype", "scheme", "seed"))
    if old.get("scheme") == new.get("scheme"):
        yield from _unequal(old.get("saliency") or {}, new.get("saliency") or {}, prefix="saliency.")
    before, now = ({**_OLDER.get(one.get("method"), {}), **(one.get("training") or {})} for one in (old, new))
    evaluations = () if _chosen_by_loss(new) else ("eval_", "metric_for_best_model", "greater_is_better")
    from_losses = {before.get("lr_scheduler_type"), now.get("lr_scheduler_type")} & _RATE_FROM_LOSSES
    yield from _unequal(
        before, now, leave_out=(*_NO_PART_OF_TRAINING, *evaluations), fixed=_FIXED | (_RATE if from_losses else set())
    )


def _adapters(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Deviation]:
    """Compare the adapters' shapes, by the names that the command line has for them."""
    if "adapter_config" not in old or "adapter_config" not in new:
        return
    before, now = old["adapter_config"], new["adapter_config"]
    if (before is None) != (now is None):
        use = str(before is not None).lower()
        yield Deviation(
            "use_peft", before is not None, now is not None, f"Give --use_peft {use}.", setting=True, fixed=True
        )
        return
    names = {name: _LORA.get(name, name) for name in (before or {}) if not name.startswith(NO_PART_OF_ADAPTER)}
    yield from _unequal(*({new: c[old] for old, new in names.items() if old in c} for c in (before or {}, now or {})))


def _unequal(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    only: tuple[str, ...] | None = None,
    leave_out: tuple[str, ...] = (),
    prefix: str = "",
    fixed: frozenset[str] | set[str] = _FIXED,
) -> Iterator[Deviation]:
    """Compare settings that both have. A setting of another version of a library says nothing."""
    for name in sorted(before.keys() & now.keys() if only is None else {*only} & before.keys() & now.keys()):
        if not name.startswith(leave_out or ("\0",)) and _plain(before[name]) != _plain(now[name]):
            flag = f"{prefix}{name}"
            was = before[name]
            cure = f"Leave out --{flag}." if was in (None, "", [], {}) else f"Give --{flag} {_shown(was)}."
            yield Deviation(flag, was, now[name], cure, setting=True, fixed=name in fixed)


def _chosen_by_loss(record: Mapping[str, Any]) -> bool:
    """Whether evaluations decide about the result."""
    training = record.get("training") or {}
    by_losses = training.get("lr_scheduler_type") in _RATE_FROM_LOSSES
    return bool(training.get("load_best_model_at_end") or by_losses or training.get("save_strategy") == "best")


def _digests(name: str, was: str | None, now: str | None, cure: str) -> Deviation:
    was, now = was and was[:16], now and now[:16]
    return Deviation(name, was, now, cure.format(was))


def _short(fingerprint: Mapping[str, str]) -> dict[str, str] | None:
    """Return an adapter's name and the beginnings of its digests."""
    return {name: value if name == "name" else value[:16] for name, value in fingerprint.items()} or None


def _same_place(one: str, other: str) -> bool:
    """Whether two names are of the same model: equal, or two ways to write the same folder."""
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


def _plain(value: Any) -> Any:
    """Return a value as YAML and JSON give it back: lists for tuples, sorted where the order means nothing."""
    return sorted(value, key=str) if isinstance(value, list | tuple | set) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | set):
        return " ".join(map(str, _plain(value)))
    return "not set" if value is None else str(value)
