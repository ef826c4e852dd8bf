"""Whether the base is still in memory below an adapter: an adapter that is switched off can leave traces in it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from nlft.core.hold import adapter_off, find_peft
from nlft.errors import UserError

# Initialisations of PEFT that take a part of each weight out of the base and give it to the adapter.
_TAKES_FROM_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")


@contextmanager
def quietly_off(model: nn.Module) -> Iterator[None]:
    """Turn the adapter off as `adapter_off` does, without PEFT's warning: what stays is looked at here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Careful, disabling adapter layers")
        with adapter_off(model):
            yield


def switches(model: nn.Module) -> list[tuple[str, bool]]:
    """Return each part of the adapter, and whether it is off."""
    return [
        (name, bool(module.disable_adapters))
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)
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
