"""The settings of a training that is planned here and run elsewhere."""

from dataclasses import dataclass, fields
from typing import Any

from nlft.config import is_set, shown_of
from nlft.core.base_below import refuse_leak
from nlft.core.schemes.scheme import Scheme
from nlft.errors import ConfigError, Problem
from nlft.models.loading import ModelSettings
from nlft.models.quantising import refuse_trained_quantised
from nlft.training.honoured import refuse_float16, refuse_idle_adapter, refuse_idle_scheme, refuse_unfit
from nlft.training.kept_conditions import refuse_unkept
from nlft.training.trainer import NLFTConfig

_OF_A_CARD = ("bf16", "fp16", "tf32")
_EVALUATES = ("the plan has no evaluation", "Leave it out, and leave room for its batches.")
_SHARDS = ("the plan shards over --processes", "Give --processes with the number of cards.")
_UNPLANNED = {
    **dict.fromkeys(("eval_strategy", "eval_on_start", "per_device_eval_batch_size"), _EVALUATES),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed"), _SHARDS),
}
"""Settings of a training that change its memory or time in a way that has no formula here."""


@dataclass
class PlannedConfig(NLFTConfig):
    """Settings of a training on another machine: what needs a GPU is not looked for here."""

    def __post_init__(self) -> None:
        problems = [
            Problem(f"--{name}", f"is {shown_of(self, name)}, but {why}", cure)
            for name, (why, cure) in _UNPLANNED.items()
            if is_set(self, self.__dataclass_fields__[name])
        ]
        if problems:  # before transformers completes them
            raise ConfigError(problems)
        kept = {name: getattr(self, name) for name in _OF_A_CARD}
        defaults = {one.name: one.default for one in fields(self)}
        for name in _OF_A_CARD:
            setattr(self, name, defaults[name])
        super().__post_init__()
        for name, value in kept.items():
            setattr(self, name, value)


def refuse_unplanned(settings: ModelSettings, args: Any, scheme: Scheme, saliency: object) -> None:
    """Refuse what the training would refuse, and settings that have no formula here.

    Args:
        args: an `NLFTConfig`.

    Raises:
        UserError: names the settings.
    """
    refuse_idle_adapter(settings)
    refuse_trained_quantised(settings)
    if getattr(args.accelerator_config, "split_batches", False):
        why = "splits batches over processes, and the plan does not"
        raise ConfigError([Problem("--accelerator_config", why, "Leave split_batches out.")])
    needs = scheme.needs(saliency)
    refuse_unfit(args, held_out=False, strikes=scheme.strikes, holds="hold" in needs)
    refuse_idle_scheme(scheme, saliency)


def refuse_unfit_model(model: Any, args: Any, scheme: Scheme, saliency: object) -> None:
    """Refuse what the training would refuse for this model.

    Args:
        model: with its adapter, built without weights.
        args: an `NLFTConfig`.

    Raises:
        UserError: names the setting.
    """
    refuse_float16(args, model)
    refuse_unkept(scheme, saliency, model, args.condition_logprobs)
    if "hold" in scheme.needs(saliency):
        refuse_leak(model, f"The scheme {scheme.name}")
