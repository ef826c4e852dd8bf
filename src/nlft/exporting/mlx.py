"""Write a LoRA adapter in mlx-lm's names, without mlx."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nlft.errors import NLFTError, UserError
from nlft.exporting.source import Trained, refuse_adapter

# The architectures whose layers have the same names in mlx-lm and in transformers.
KINDS = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
_LAYER = re.compile(r"model\.layers\.\d+\.(.+)")
# What adding up in float32 in another order may change, as a share of a layer's largest change.
TOLERANCE = 1e-5


def write_mlx(trained: Trained, model: Any, folder: Path) -> tuple[int, float]:
    """Write adapters.safetensors and adapter_config.json, read them again, and compare each layer's change.

    Args:
        model: the PEFT model, in float32.

    Returns:
        The number of layers, and the largest difference as a share of its layer's largest change.

    Raises:
        UserError: mlx-lm has no place for the adapter.
        NLFTError: what was read again is not the adapter.
    """
    refuse_adapter(trained, "mlx-lm", one_scale=False)
    kind = model.config.model_type
    if kind not in KINDS:
        raise UserError(
            f"--to mlx-adapter knows the layers of {', '.join(KINDS)}, and this model is {kind}.\n  Use --to merged."
        )
    layers = _lora_layers(model)
    rank = max(layer.r["default"] for layer in layers.values())
    scale = next(iter(layers.values())).scaling["default"]
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        tensors |= _transposed(name, layer, rank, scale)
    save_file(tensors, folder / "adapters.safetensors")
    config = {
        "fine_tune_type": "lora",
        "model": trained.base,
        "num_layers": model.config.num_hidden_layers,
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": _keys(layers)},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return len(layers), _compare(folder, layers)


def _lora_layers(model: Any) -> dict[str, Any]:
    """Return the adapted layers by their name in the base model."""
    found = {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }
    odd = [name for name in found if not _LAYER.fullmatch(name)]
    if odd or not found:
        what = f"it changes {odd[0]}, which is in none of the model's blocks" if odd else "it changes no layer"
        raise UserError(f"mlx-lm does not take this adapter: {what}.\n  Export the whole model: --to merged.")
    return found


def _keys(layers: dict[str, Any]) -> list[str]:
    """Return the layers' names within a block. mlx-lm adapts them in every block; elsewhere they change nothing."""
    found = (_LAYER.fullmatch(name) for name in layers)
    return sorted({match[1] for match in found if match})


def _transposed(name: str, layer: Any, rank: int, scale: float) -> dict[str, Tensor]:
    """Return a layer's matrices as mlx-lm multiplies them: x · lora_a · lora_b · scale.

    mlx-lm has one rank and one scale for all layers. So a smaller rank is filled up with zeros, and another scale goes
    into lora_b.
    """
    a, b = layer.lora_A["default"].weight.detach().float(), layer.lora_B["default"].weight.detach().float()
    fill = rank - a.shape[0]
    b = b * (layer.scaling["default"] / scale)
    return {
        f"{name}.lora_a": torch.nn.functional.pad(a.T, (0, fill)).contiguous().cpu(),
        f"{name}.lora_b": torch.nn.functional.pad(b.T, (0, 0, 0, fill)).contiguous().cpu(),
    }


def _compare(folder: Path, layers: dict[str, Any]) -> float:
    """Read the files again, and compare each layer's change of the weights with PEFT's."""
    read = load_file(folder / "adapters.safetensors")
    scale = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["lora_parameters"]["scale"]
    if set(read) != {f"{name}.{part}" for name in layers for part in ("lora_a", "lora_b")}:
        raise NLFTError("the written adapter has other layers than the trained one.\n  Nothing was kept.")
    largest = 0.0
    for name, layer in layers.items():
        ours = layer.get_delta_weight("default").detach().float().cpu()
        theirs = (scale * (read[f"{name}.lora_a"] @ read[f"{name}.lora_b"])).T
        # A layer that training left as it was changes nothing in both.
        size = float(ours.abs().max()) or 1.0
        largest = max(largest, float((ours - theirs).abs().max()) / size)
        if not largest <= TOLERANCE:
            raise NLFTError(
                f"the written adapter changes {name} by another amount: they differ by {largest:.3g} of it (tolerance "
                f"{TOLERANCE:g}).\n  Nothing was kept. Report this with the output of `nlft env`."
            )
    return largest
