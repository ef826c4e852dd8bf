"""What each optimizer reads in `--optim_args`. transformers drops every other key without a word. Imports no torch."""

from math import isfinite

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

# How transformers reads a key's value; other keys are numbers. It takes a yes or no that it does not know for a no.
_WHOLE = ("rank", "update_proj_gap", "block_size", "t_alpha", "t_beta3")
_TRUTHS = ("nesterov", "centered", "use_kahan_summation", "bf16_stochastic_round")
_ONLY_TRUE = ("kahan_sum", "decouple_lr")  # any text is a yes
_TEXTS = ("proj", "proj_type", "scale_type", "momentum_dtype", "variance_dtype", "compensation_buffer_dtype")
YES, _NO = ("true", "1", "yes"), ("false", "0", "no")


def keys_of(optim: str) -> tuple[str, ...] | None:
    """Return the keys that an optimizer reads in `--optim_args`. Return None if the optimizer itself checks them."""
    return next((keys for name, keys in _READS if optim.startswith(name)), ())


def read_args(text: str | None) -> dict[str, str]:
    """Return the keys and values of `--optim_args`, as transformers reads them.

    Raises:
        ValueError: a part is not `NAME=VALUE`. It names the part.
    """
    parts = (text or "").replace(" ", "").split(",") if text else []
    if broken := [part for part in parts if part.count("=") != 1 or part[0] == "="]:
        raise ValueError(f"{broken[0]!r} is not NAME=VALUE")
    return {name: value for name, _, value in (part.partition("=") for part in parts)}


def wrong_args(optim: str, text: str | None) -> list[Problem]:
    """Report the keys of `--optim_args` that the optimizer does not read, and values that it cannot read.

    Args:
        optim: the optimizer's name.
        text: value of `--optim_args`, such as `momentum=0.9,nesterov=true`.
    """
    keys, problems = keys_of(optim), []
    if keys == ():  # an optimizer without keys is refused as a whole
        return []
    try:
        found = read_args(text)
    except ValueError as error:
        cure = "Give NAME=VALUE, with a comma between two of them, such as momentum=0.9,nesterov=true."
        return [Problem("--optim_args", f"is {text}, but {error}", cure)]
    if keys is None:
        return []
    for given, value in found.items():
        if given in keys:
            if must := _must_be(given, value):
                problems.append(Problem("--optim_args", f"has {given}={value}, but {given} is {must}", f"Give {must}."))
            continue
        near = closest(given, keys)
        cure = f"Did you mean {near}?" if near else f"It reads {', '.join(keys)}."
        if given == "weight_decay":
            cure = "Use --weight_decay."
        problems.append(Problem("--optim_args", f"has {given}, but the optimizer {optim} does not read it", cure))
    return problems


def _must_be(key: str, value: str) -> str | None:
    """Return what a key's value must be; None if it is that."""
    if key in _TEXTS:
        return None
    if key in _TRUTHS:
        return None if value.lower() in YES + _NO else "true or false"
    if key in _ONLY_TRUE:
        return None if value.lower() in YES else "true, or is left out"
    try:
        read = int(value) if key in _WHOLE else float(value)
    except ValueError:
        read = float("nan")
    return None if isfinite(read) else "a whole number" if key in _WHOLE else "a number"
