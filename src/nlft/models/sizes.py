"""A model's sizes from its config.json alone: it is built without memory for its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nlft.core.beginnings import may_share
from nlft.models.adapters import is_linear, mlp_weights
from nlft.models.loading import ModelSettings, lora_config
from nlft.models.machine import fast_dtype
from nlft.models.weights_check import loaded

FLOAT32 = 4


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model and of its adapter. Counts are of weights' entries unless stated otherwise.

    Attributes:
        name: the model, as given.
        all_weights: entries of the base model. A matrix that two layers share counts once.
        linear: of these, in linear layers that bitsandbytes quantises: all but the head.
        head: of the output embedding, also where it is the input embedding's matrix.
        layer: of the largest decoder layer.
        trained: entries that training changes.
        tensors: number of tensors that training changes.
        width: bytes of an entry of the base.
        trained_width: bytes of an entry that training changes: an adapter is float32 whatever the base is.
        has_adapter: whether an adapter is trained; else all weights are.
        vocabulary, hidden, layers: the head's rows, the states' width, the number of decoder layers.
        context: number of tokens that config.json gives as the context; None if it gives none.
        attention: heads x size of a head.
        keys: heads x size of a head, of the keys that a layer keeps for a token.
        shares: whether its conditions may go on from base's keys, see `may_share`.
        norms: entries that the norms of a layer read, for one token.
        inner: entries between an MLP's layers, for one token, of all experts that a token passes.
        gated: whether an MLP has a gate.
        cast: entries that the adapter's layers read, for one token of a layer; `shared` counts equal inputs once.
        shared: see `cast`. Without an adapter, of all linear layers.
        rank: entries between an adapter's two matrices, for one token of a layer.
    """

    name: str
    all_weights: int
    linear: int
    head: int
    layer: int
    trained: int
    tensors: int
    width: int
    trained_width: int
    has_adapter: bool
    vocabulary: int
    hidden: int
    layers: int
    context: int | None
    attention: int
    keys: int
    shares: bool
    norms: int
    inner: int
    gated: bool
    cast: int
    shared: int
    rank: int


def sizes_from_config(settings: ModelSettings) -> ModelSizes:
    """Build the model without its weights, add the adapter that the settings describe, and measure both.

    A folder needs config.json alone. Of a hub name, config.json alone is fetched.

    Raises:
        UserError: there is no such config, transformers does not have the architecture, or no layer can be adapted.
    """
    name = str(settings.model_name_or_path)
    cure = "Give a folder with config.json, or a hub name."

    def build() -> Any:
        config = AutoConfig.from_pretrained(name, revision=settings.model_revision, trust_remote_code=False)
        dtype = fast_dtype() if settings.dtype in (None, "auto") else str(settings.dtype)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)

    model: Any = loaded(build, f"--model_name_or_path {name}", Path(name), cure)
    if not settings.use_peft:
        return measured(model.requires_grad_(True), name)
    with torch.device("meta"):
        return measured(get_peft_model(model, lora_config(settings, model)), name)


def measured(model: PreTrainedModel | PeftModel, name: str) -> ModelSizes:
    """Measure a model, on any device, with its adapter or without one.

    Args:
        name: the model, for messages.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    config = base.config.get_text_config()
    prefix = model.base_model.prefix if isinstance(model, PeftModel) else None
    of_adapter = {id(p) for n, p in model.named_parameters() if prefix and prefix in n}
    own = [p for p in model.parameters() if id(p) not in of_adapter]
    trained = [p for p in model.parameters() if p.requires_grad]
    layers = _layers(base, int(config.num_hidden_layers))
    head = base.get_output_embeddings().weight
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    hidden = int(config.hidden_size)
    size = int(getattr(config, "head_dim", None) or (hidden // heads if heads else 0))
    attention = heads * size or hidden
    inputs = _inputs(model, base, layers)
    return ModelSizes(
        name=name,
        all_weights=sum(p.numel() for p in own),
        linear=sum(m.weight.numel() for m in _linear(base) if m.weight is not head),
        head=head.numel(),
        layer=max(sum(p.numel() for p in layer.parameters() if id(p) not in of_adapter) for layer in layers),
        trained=sum(p.numel() for p in trained),
        tensors=len(trained),
        width=head.element_size(),
        trained_width=trained[0].element_size() if trained else FLOAT32,
        has_adapter=prefix is not None,
        vocabulary=int(head.shape[0]),
        hidden=hidden,
        layers=len(layers),
        context=getattr(config, "max_position_embeddings", None),
        attention=attention,
        keys=int(getattr(config, "num_key_value_heads", None) or heads) * size or hidden,
        shares=may_share(base),
        norms=max(sum(_norms(layer, hidden, attention)) for layer in layers),
        inner=_inner(config),
        gated=_is_gated(base, len(layers)),
        cast=sum(size for _, size, _ in inputs) // len(layers),
        shared=sum({key: size for key, size, _ in inputs}.values()) // len(layers),
        rank=sum(rank for _, _, rank in inputs) // len(layers),
    )


def _layers(base: PreTrainedModel, count: int) -> list[nn.Module]:
    """Return the decoder's layers: the modules of a list of `count`; without one, the whole model as one layer."""
    lists = [m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(max(lists, key=lambda found: sum(1 for _ in found.modules()), default=[base]))


def _linear(base: nn.Module) -> Iterator[Any]:
    """Yield the linear layers themselves, without PEFT's wrappers and without its own matrices."""
    seen = {id(inner) for m in base.modules() if isinstance(m, LoraLayer) for inner in _of_adapter(m)}
    for module in base.modules():
        if is_linear(module) and not isinstance(module, LoraLayer) and id(module) not in seen:
            yield module


def _of_adapter(layer: Any) -> Iterator[nn.Module]:
    for part in (layer.lora_A, layer.lora_B):
        yield from part.modules()


def _norms(layer: nn.Module, hidden: int, attention: int) -> Iterator[int]:
    for module in layer.modules():
        weight = getattr(module, "weight", None)
        if "norm" in type(module).__name__.lower() and weight is not None:
            yield hidden if weight.numel() == hidden else attention


def _inner(config: Any) -> int:
    """Return the entries between an MLP's layers for one token; of a mixture, of all experts that a token passes."""
    plain = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    experts = int(getattr(config, "num_experts_per_tok", None) or 0)
    if not experts:
        return plain
    each = int(getattr(config, "moe_intermediate_size", None) or plain)
    return experts * each + int(getattr(config, "shared_expert_intermediate_size", None) or 0)


def _is_gated(base: PreTrainedModel, layers: int) -> bool:
    """Whether an MLP has a gate: three matrices in a layer, or fused experts, which have gate and input in one."""
    found = [(name, module) for name, module in mlp_weights(base) if "lora_" not in name]
    return len(found) >= 3 * layers or any(module is None for _, module in found)


def _inputs(model: Any, base: Any, layers: list[nn.Module]) -> list[tuple[tuple[str, int], int, int]]:
    """Return of each layer whose input backward needs: what tells equal inputs, the input's width, and the rank."""
    has_adapter = isinstance(model, PeftModel)
    found = []
    for at, layer in enumerate(layers):
        for name, module in layer.named_modules():
            if has_adapter and isinstance(module, LoraLayer):
                rank = max(module.r.values())
            elif not has_adapter and is_linear(module):
                rank = 0
            else:
                continue
            width = int(getattr(module, "in_features", 0) or getattr(module, "nx", 0))
            found.append(((f"{at}.{name.rpartition('.')[0]}", width), width, rank))
    return found
