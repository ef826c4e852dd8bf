"""Load a base model in 4 or 8 bits with bitsandbytes, as QLoRA does, and make it ready for training."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from nlft.config import is_set, shown_of
from nlft.errors import ConfigError, Problem, UserError
from nlft.models.machine import fast_dtype, why_not_quantised

_LEAVE_OUT = "Leave it out."
_IN_FILES = {  # settings of 4 bits, by their names in config.json, with the defaults there
    "bnb_4bit_quant_type": ("bnb_4bit_quant_type", "fp4"),
    "use_bnb_nested_quant": ("bnb_4bit_use_double_quant", False),
    "bnb_4bit_quant_storage": ("bnb_4bit_quant_storage", "uint8"),
}


def quantization_flag(settings: Any) -> str | None:
    """Return the flag that asks for a quantised base, or None.

    Args:
        settings: a `NamedModel`.
    """
    return "--load_in_4bit" if settings.load_in_4bit else "--load_in_8bit" if settings.load_in_8bit else None


def check_quantization(settings: Any, *, trainable: bool) -> None:
    """Refuse to quantise where it does not work.

    Args:
        settings: a `NamedModel`.
        trainable: whether the model is trained.

    Raises:
        UserError: bitsandbytes or a CUDA card is missing, or all weights are to be trained.
    """
    flag = quantization_flag(settings)
    if flag is None:
        return
    if (why := why_not_quantised()) is not None:
        raise UserError(f"{flag} cannot be used here: {why}.\n  Or leave out {flag}. `nlft env` says what works here.")
    if trainable:
        refuse_trained_quantised(settings)


def refuse_trained_quantised(settings: Any) -> None:
    """Refuse to train the weights of a quantised base.

    Args:
        settings: a `NamedModel`.

    Raises:
        UserError: all weights are to be trained.
    """
    flag = quantization_flag(settings)
    if flag and not settings.use_peft and not settings.adapter:
        raise UserError(
            f"{flag} with --use_peft false: quantised weights cannot be trained, only an adapter on them.\n"
            "  Leave out one of them."
        )


def quantization_config(settings: Any) -> BitsAndBytesConfig | None:
    """Return how bitsandbytes quantises the base, or None if it stays as it is.

    4 bits are QLoRA's: NF4 with double quantisation, and products in bfloat16, unless the settings say otherwise.
    Products use the data type of `dtype`, which is also that of the weights that stay whole: embeddings, norms, head.

    Args:
        settings: a `NamedModel`; a `dtype` of None or "auto" means `fast_dtype()`.

    Raises:
        UserError: there is no such `bnb_4bit_quant_storage`.
    """
    if settings.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    if not settings.load_in_4bit:
        return None
    products = fast_dtype() if settings.dtype in (None, "auto") else settings.dtype
    try:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=settings.bnb_4bit_quant_type,
            bnb_4bit_use_double_quant=settings.use_bnb_nested_quant,
            bnb_4bit_compute_dtype=getattr(torch, products),
            bnb_4bit_quant_storage=settings.bnb_4bit_quant_storage,
        )
    except ValueError as error:
        said = str(error).rstrip(" .")
        raise UserError(
            f"--bnb_4bit_quant_storage {settings.bnb_4bit_quant_storage}: {said}.\n  Leave it out for uint8."
        ) from error


def freeze_quantised(model: nn.Module) -> None:
    """Make a quantised base ready for an adapter: none of its own weights is trained.

    PEFT's `prepare_model_for_kbit_training` also casts the whole weights to float32 and turns on gradient
    checkpointing. Neither is done here. With float32 norms every state between the layers would be float32, in twice
    the memory, and embeddings and head would double; the model that is trained would not be the one that is evaluated.
    Checkpointing follows `activation_checkpointing`, and the trainer lets the inputs have a gradient for it.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def entries(weight: Tensor) -> int:
    """Return how many entries a weight has. 4-bit weights are stored two or more to a number."""
    state = getattr(weight, "quant_state", None)
    shape = getattr(state, "shape", None)
    return int(torch.Size(shape).numel()) if shape is not None else weight.numel()


def check_own_quantization(config: Any, settings: Any, *, trainable: bool) -> None:
    """Refuse settings that contradict how the model's own files are quantised. transformers would follow the files.

    Args:
        config: the model's configuration, as read from its config.json.
        settings: a `NamedModel`.
        trainable: whether the model is trained.

    Raises:
        UserError: the files are quantised in another way, or all weights are to be trained, or config.json does not say
            how they are quantised.
    """
    own, found, name = quantization_record(config), _of_config(config), settings.model_name_or_path
    if own is None:
        return
    where, how = f"--model_name_or_path {name}", f"in {own['bits']} bits" if "bits" in own else own["method"]
    if "bits" not in own and not found.get("quant_method"):
        raise UserError(
            f"{where}: quantization_config in its config.json has no quant_method, which says how the weights are "
            "quantised.\n  Download config.json again. If the weights are whole, remove quantization_config from it."
        )
    whole = "or give the model that it was made from"
    flag, asked = quantization_flag(settings), 4 if settings.load_in_4bit else 8
    if flag and asked != own.get("bits"):
        raise UserError(
            f"{flag}: by its config.json, the weights of {name} are quantised already: {how}.\n"
            f"  Leave out {flag}, {whole}."
        )
    if trainable and not settings.use_peft and not settings.adapter:
        raise UserError(
            f"{where} --use_peft false: by its config.json, its weights are quantised ({how}), and only an adapter on "
            f"them can be trained.\n  Leave out --use_peft, {whole}."
        )
    problems = [
        Problem(f"--{one.name}", f"is {shown_of(settings, one.name)}, but the files of {name} have {there}", _LEAVE_OUT)
        for one in fields(settings)
        if one.name in _IN_FILES and flag and is_set(settings, one)
        if str(getattr(settings, one.name)) != (there := str(found.get(*_IN_FILES[one.name])))
    ]
    if problems:
        raise ConfigError(problems)


def quantization_record(config: Any) -> dict[str, Any] | None:
    """Return how a model was quantised when it was loaded, for run.yaml; None if it was not.

    Args:
        config: the model's configuration. An empty `quantization_config` in it is none.
    """
    found = _of_config(config)
    if not found:
        return None
    if not found.get("load_in_4bit"):
        return {"bits": 8} if found.get("load_in_8bit") else {"method": str(found.get("quant_method"))}
    return {
        "bits": 4,
        "type": found.get("bnb_4bit_quant_type", "fp4"),
        "double": found.get("bnb_4bit_use_double_quant", False),
        "products": str(found.get("bnb_4bit_compute_dtype", "float32")).removeprefix("torch."),
    }


def _of_config(config: Any) -> dict[str, Any]:
    """Return a model's `quantization_config`, which may stand in that of its text model; empty if there is none."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    found = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None) or {}
    return found if isinstance(found, dict) else dict(found.to_dict())
