"""Load a base model in 4 or 8 bits with bitsandbytes, as QLoRA does, and make it ready for training."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from nlft.errors import UserError
from nlft.models.machine import fast_dtype, why_not_quantised


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


def quantization_record(model: Any) -> dict[str, Any] | None:
    """Return how a model was quantised when it was loaded, for run.yaml; None if it was not."""
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    found = config if isinstance(config, dict) else config.to_dict()
    if not found.get("load_in_4bit"):
        return {"bits": 8} if found.get("load_in_8bit") else {"method": str(found.get("quant_method"))}
    return {
        "bits": 4,
        "type": found.get("bnb_4bit_quant_type", "fp4"),
        "double": found.get("bnb_4bit_use_double_quant", False),
        "products": str(found.get("bnb_4bit_compute_dtype", "float32")).removeprefix("torch."),
    }
