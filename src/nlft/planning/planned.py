"""The settings of a training that is planned here and run elsewhere."""

from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import Trainer, get_scheduler

from nlft.config import is_set, shown_of
from nlft.core.base_below import refuse_leak
from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.errors import ConfigError, Problem
from nlft.library_errors import unmade_optimizer
from nlft.models.loading import ModelSettings
from nlft.models.quantising import quantization_config, refuse_trained_quantised
from nlft.training.guards import guard_actions
from nlft.training.honoured import refuse_float16, refuse_idle_adapter, refuse_idle_scheme, refuse_unfit
from nlft.training.kept_conditions import refuse_unkept
from nlft.training.settings import checkpoint_choice
from nlft.training.trainer import NLFTConfig
from nlft.training.watching import choose_watched

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
        if checkpoint_choice(self.resume_from_checkpoint):
            what = f"is {self.resume_from_checkpoint}, but the plan is of a whole training, from its first step"
            problems.append(Problem("--resume_from_checkpoint", what, "Leave it out."))
        if problems:  # before transformers completes them
            raise ConfigError(problems)
        kept = {name: getattr(self, name) for name in _OF_A_CARD}
        defaults = {one.name: one.default for one in fields(self)}
        for name in _OF_A_CARD:
            setattr(self, name, defaults[name])
        super().__post_init__()
        for name, value in kept.items():
            setattr(self, name, value)


def refuse_unplanned(
    settings: ModelSettings, args: Any, scheme: Scheme, saliency: object, examples: list[Example] | None
) -> None:
    """Refuse what the training would refuse, and settings that have no formula here.

    Args:
        args: an `NLFTConfig`.
        examples: the training file, if there is one.

    Raises:
        UserError: names the settings.
    """
    refuse_idle_adapter(settings)
    refuse_trained_quantised(settings)
    quantization_config(settings)
    if getattr(args.accelerator_config, "split_batches", False):
        why = "splits batches over processes, and the plan does not"
        raise ConfigError([Problem("--accelerator_config", why, "Leave split_batches out.")])
    needs = scheme.needs(saliency)
    refuse_unfit(args, held_out=False, strikes=scheme.strikes, holds="hold" in needs)
    refuse_idle_scheme(scheme, saliency)
    guard_actions(args.guard)
    if examples is not None:
        choose_watched(examples, args.watch, args.watch_ids or ())


def refuse_unmade(args: Any, steps: int) -> None:
    """Refuse an optimizer or a schedule that the training could not make. An optimizer of a missing package passes.

    Args:
        args: an `NLFTConfig`.
        steps: optimizer steps of the training.

    Raises:
        UserError: says what is wrong with it.
    """
    one = [torch.nn.Parameter(torch.zeros(1))]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(one, lr=args.learning_rate)
    try:
        with suppress(ImportError):
            cls, given = Trainer.get_optimizer_cls_and_kwargs(args)
            if not cls.__module__.startswith("bitsandbytes"):  # it may want a card
                optimizer = cls(one, **given)
        warmup, given = args.get_warmup_steps(steps), args.lr_scheduler_kwargs
        get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, given)
    except (TypeError, KeyError, ValueError) as error:
        raise unmade_optimizer(error) from error


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
