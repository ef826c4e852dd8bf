"""The base below an adapter: turn the adapter off, and find out what of it stays."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from nlft.errors import UserError

# Initialisations of PEFT that take a part of each weight out of the base and give it to the adapter.
_TAKES_FROM_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")
AdapterPart: TypeAlias = BaseTunerLayer | AuxiliaryTrainingWrapper
# How PEFT switches a part of an adapter: besides `requires_grad`, it sets a flag of the part.
_FLAG_ONLY = (
    BaseTunerLayer.enable_adapters,
    AuxiliaryTrainingWrapper.enable_adapters,
    ModulesToSaveWrapper.enable_adapters,
)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Turn the model's adapter off. Restore it, and which parameters are trained, afterwards.

    Args:
        model: a PEFT model, wrapped for distributed training or not.

    Raises:
        UserError: the model has no adapter, so its base changes with it.
    """
    peft = peft_model(model)
    parts = adapter_parts(peft)
    plain = all(type(part).enable_adapters in _FLAG_ONLY for part in parts)
    with _parts_off(peft, parts) if plain and not _asks_peft(peft) else _off_as_peft_does(peft):
        yield


def adapter_parts(peft: PeftModel) -> list[AdapterPart]:
    """Return the modules that can be switched off."""
    return [part for part in peft.modules() if isinstance(part, AdapterPart)]


def _asks_peft(peft: PeftModel) -> bool:
    """Return whether PEFT does or says more than to set flags: for virtual tokens, and for trained biases."""
    return any(
        one.is_prompt_learning or one.is_adaption_prompt or getattr(one, "bias", "none") not in ("none", None)
        for one in peft.peft_config.values()
    )


@contextmanager
def _parts_off(peft: PeftModel, parts: Sequence[AdapterPart]) -> Iterator[None]:
    """Turn the adapter off by the flags of its parts alone.

    PEFT also asks each layer for its state and switches `requires_grad` twice: a twentieth of a step with 30 layers.
    """
    on = [part for part in parts if not part._disable_adapters]
    was_off = peft._adapters_disabled
    try:
        for part in on:
            part._disable_adapters = True
        peft._adapters_disabled = True
        yield
    finally:
        for part in on:
            part._disable_adapters = False
        peft._adapters_disabled = was_off


@contextmanager
def _off_as_peft_does(peft: PeftModel) -> Iterator[None]:
    trained = [p for p in peft.parameters() if p.requires_grad]
    try:
        with peft.disable_adapter():
            yield
    finally:
        # PEFT switches all of an adapter's parameters on again, also those that are not trained.
        for parameter in peft.parameters():
            parameter.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def quietly_off(model: nn.Module) -> Iterator[None]:
    """Turn the adapter off as `adapter_off` does, without PEFT's warning: what stays is looked at here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
        with adapter_off(model):
            yield


def find_peft(model: nn.Module) -> PeftModel | None:
    """Return the PEFT model inside a model's wrappers; None if there is none."""
    return next((part for part in model.modules() if isinstance(part, PeftModel)), None)


def peft_model(model: nn.Module) -> PeftModel:
    """Return the PEFT model inside a model's wrappers.

    Raises:
        UserError: there is none.
    """
    found = find_peft(model)
    if found is None:
        raise UserError(
            "Holding a model to its base needs an adapter: the base is the model with its adapter off.\n"
            "  Train a LoRA adapter (the default); or add --condition_logprobs frozen, which keeps the base on disk; "
            "or set hold_weight to 0 and use another scheme than `strike`."
        )
    return found


def switches(model: nn.Module) -> list[tuple[str, bool]]:
    """Return each part of the adapter, and whether it is off."""
    return [
        (name, bool(module.disable_adapters))
        for name, module in model.named_modules()
        if isinstance(module, AdapterPart)
    ]


def leak(model: nn.Module) -> str | None:
    """Return what of the adapter stays when it is off; None if nothing does, or there is no adapter.

    This reads the adapter's configuration and its switches. Only the base's own files could prove more.
    """
    peft = find_peft(model)
    if peft is None:
        return None
    found = []
    for config in peft.peft_config.values():
        bias = getattr(config, "bias", None) or "none"
        if bias != "none" and (biases := list(_biases(peft, only_adapted=bias != "all"))):
            found.append(f"it trains {len(biases)} biases of the base (bias {bias!r}), such as {biases[0]}")
        start = str(getattr(config, "init_lora_weights", "")).lower()
        if start.startswith(_TAKES_FROM_BASE):
            found.append(f"its initialisation {start!r} changes the base's weights")
    with quietly_off(peft):
        on = [name for name, is_off in switches(peft) if not is_off]
    if on:
        found.append(f"{len(on)} of its parts cannot be switched off, such as {on[0]}")
    return "; ".join(found) or None


def refuse_leak(model: nn.Module, purpose: str) -> None:
    """Refuse a model whose adapter leaves traces in the base when it is off.

    Args:
        purpose: what needs the base, as the subject of a sentence: `--collateral`.

    Raises:
        UserError: the adapter leaves traces.
    """
    if found := leak(model):
        raise UserError(
            f"{purpose} compares with the model whose adapter is off, but this adapter leaves traces in it: {found}.\n"
            '  Use an adapter with bias "none" and a plain initialisation. `nlft chat` loads the base beside this one.'
        )


def _biases(peft: PeftModel, *, only_adapted: bool) -> Iterator[str]:
    """Yield the names of the base's biases that an adapter trains, as PEFT chooses them."""
    ending = ".base_layer.bias" if only_adapted else ".bias"
    for name, _ in peft.named_parameters():
        if name.endswith(ending) and "lora_" not in name and ".modules_to_save." not in name:
            yield name
