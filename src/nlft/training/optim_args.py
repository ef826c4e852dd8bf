"""What each optimizer reads in `--optim_args`. transformers drops every other key without a word. Imports no torch."""

from nlft.config import closest
from nlft.errors import Problem

_LOW_RANK = ("rank", "update_proj_gap", "scale", "proj_type")
_OF_TORCHAO = ("block_size", "bf16_stochastic_round")
_OF_ADEMAMIX = ("beta1", "beta2", "beta3", "alpha", "eps", "t_alpha", "t_beta3")
_OF_ANYPRECISION = ("use_kahan_summation", "momentum_dtype", "variance_dtype", "compensation_buffer_dtype")
_OF_GROK = ("alpha_init", "lamb", "gamma", "grokking_signal_decay_rate", "gradient_clipping")

# By the beginning of the optimizer's name; the first that fits counts. None: the optimizer itself refuses wrong keys.
_READS: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("adamw_torch_4bit", _OF_TORCHAO),
    ("adamw_torch_8bit", _OF_TORCHAO),
    ("adamw_anyprecision", _OF_ANYPRECISION),
    ("sgd", ("momentum", "dampening", "nesterov")),
    ("adagrad", ("lr_decay", "eps")),
    ("rmsprop_", None),
    ("rmsprop", ("momentum", "alpha", "eps", "centered")),
    ("ademamix", _OF_ADEMAMIX),
    ("paged_ademamix", _OF_ADEMAMIX),
    ("galore", _LOW_RANK),
    ("apollo", (*_LOW_RANK, "proj", "scale_type")),
    ("grokadamw", _OF_GROK),
    ("schedule_free", ("weight_lr_power", "r")),
    ("stable_adamw", ("max_lr", "kahan_sum", "decouple_lr")),
)


def keys_of(optim: str) -> tuple[str, ...] | None:
    """Return the keys that an optimizer reads in `--optim_args`. Return None if the optimizer itself checks them."""
    return next((keys for name, keys in _READS if optim.startswith(name)), ())


def wrong_keys(optim: str, text: str | None) -> list[Problem]:
    """Report the keys of `--optim_args` that the optimizer does not read.

    Args:
        optim: the optimizer's name.
        text: value of `--optim_args`, such as `momentum=0.9,nesterov=true`.
    """
    keys, problems = keys_of(optim), []
    for given in (part.partition("=")[0].strip() for part in (text or "").split(",")):
        if not keys or not given or given in keys:  # an optimizer without keys is refused as a whole
            continue
        near = closest(given, keys)
        cure = f"Did you mean {near}?" if near else f"It reads {', '.join(keys)}."
        if given == "weight_decay":
            cure = "Use --weight_decay."
        problems.append(Problem("--optim_args", f"has {given}, but the optimizer {optim} does not read it", cure))
    return problems
