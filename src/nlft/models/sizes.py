"""A model's sizes from its config.json alone: it is built without memory for its weights."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from nlft.core.beginnings import may_share
from nlft.core.condition_scores import is_noisy
from nlft.errors import UserError
from nlft.models.adapters import is_linear, mlp_weights
from nlft.models.loading import ModelSettings, check_attention, lora_config
from nlft.models.machine import fast_dtype
from nlft.models.quantising import check_own_quantization, quantization_record
from nlft.models.saved_adapters import adapter_config, adapter_files
from nlft.models.trained_on import note_other_base
from nlft.models.weights_check import loaded

FLOAT32 = 4
_SMALL = 4096  # entries below which bitsandbytes keeps an optimizer's state in float32
_OTHER_LAYERS = "Name its layers with --lora_target_modules, or plan to train all weights with --use_peft false."


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
        trained_small: entries that training changes in tensors of fewer than 4096.
        trained_edges: of all tensors that training changes, the rows and columns of matrices, entries of others.
        matrices: the heads whose whole attention matrices a layer keeps: all with `eager` attention, else 0.
        noisy: whether it draws random numbers in training mode, see `is_noisy`.
        dropout: whether its adapter drops entries of its inputs.
        dora: entries that DoRA puts together for one layer at a time, see `_dora`; it and the next two are 0 without.
        dora_outputs: entries that the layers with DoRA write, for one token of a decoder layer.
        dora_weights: entries of whole matrices that DoRA keeps in float32 for backward, of a decoder layer.
        bits, double: how config.json says that the weights are quantised, see `Step`; None: they are not.
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
    trained_small: int
    trained_edges: int
    matrices: int
    noisy: bool
    dropout: bool
    dora: int
    dora_outputs: int
    dora_weights: int
    bits: Literal[4, 8] | None
    double: bool


def sizes_from_config(settings: ModelSettings) -> ModelSizes:
    """Measure the model that the settings describe, see `built` and `sizes_of`.

    Raises:
        UserError: see there.
    """
    return sizes_of(built(settings), settings)


def built(settings: ModelSettings) -> PreTrainedModel | PeftModel:
    """Build the model without memory for its weights, with the adapter that the settings describe.

    A folder needs config.json alone. Of a hub name, config.json alone is fetched, and of an adapter no weights.

    Raises:
        UserError: there is no such config, transformers does not have the architecture, or no layer can be adapted.
    """
    name = str(settings.model_name_or_path)
    flag, cure = f"--model_name_or_path {name}", "Give a folder with config.json, or a hub name."
    check_attention(settings.attn_implementation)
    # What needs a package of its own for a GPU, such as FlashAttention, may be missing here.
    elsewhere = str(settings.attn_implementation).startswith("flash") or "/" in str(settings.attn_implementation)
    attention = {} if elsewhere else {"attn_implementation": settings.attn_implementation}

    def build() -> Any:
        config = AutoConfig.from_pretrained(name, revision=settings.model_revision, trust_remote_code=False)
        check_own_quantization(config, settings, trainable=True)
        dtype = fast_dtype() if settings.dtype in (None, "auto") else str(settings.dtype)
        given = {"dtype": getattr(torch, dtype), "trust_remote_code": False, **attention}
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **given)

    model: Any = loaded(build, flag, Path(name), cure)
    if elsewhere and not model._supports_flash_attn:
        raise UserError(
            f"--attn_implementation {settings.attn_implementation}: {type(model).__name__} does not support it.\n"
            "  Leave it out."
        )
    _own_bits(model, flag)
    if settings.adapter:
        return _with_saved(model, settings.adapter)
    if not settings.use_peft:
        return model.requires_grad_(True)
    with torch.device("meta"):
        return loaded(lambda: get_peft_model(model, lora_config(settings, model)), flag, Path(name), _OTHER_LAYERS)


def sizes_of(model: PreTrainedModel | PeftModel, settings: ModelSettings) -> ModelSizes:
    """Measure a model from `built`.

    Raises:
        UserError: its configuration does not say what its layers keep.
    """
    name = str(settings.model_name_or_path)
    try:
        found = measured(model, name)
    except UserError:
        raise
    except Exception as error:  # any architecture may come here, and each names its sizes in its own way
        what = " ".join(str(error).split())[:200]
        raise UserError(
            f"--model_name_or_path {name}: the sizes of its layers cannot be read ({type(error).__name__}: {what}).\n"
            "  `nlft plan` has no formula for this architecture."
        ) from error
    # Only torch's own attention lets the conditions go on from base's keys.
    return found if settings.attn_implementation in (None, "sdpa") else replace(found, shares=False)


def _with_saved(model: PreTrainedModel, adapter: str) -> PeftModel:
    """Put an adapter of a saved one's shape on the model, without its weights."""
    flag, place = f"--adapter {adapter}", adapter_files(adapter, weights=False)
    config = adapter_config(place, flag)
    if config.peft_type != PeftType.LORA:
        raise UserError(
            f"{flag}: its type is {config.peft_type.value}, and `nlft plan` has a formula for LoRA alone.\n"
            "  Leave out --adapter to plan for a new LoRA adapter."
        )
    note_other_base(adapter, str(model.config._name_or_path), getattr(model.config, "_commit_hash", None))
    config.inference_mode, config.base_model_name_or_path = False, None  # PEFT would warn of any other path
    with torch.device("meta"):
        return loaded(lambda: get_peft_model(model, config), flag, place, "Give the adapter's own base model.")


def _own_bits(base: Any, flag: str) -> tuple[Literal[4, 8] | None, bool]:
    """Return in how many bits config.json says that the weights are, and whether their scales are quantised, too.

    Raises:
        UserError: they are quantised in another way than bitsandbytes does.
    """
    found = quantization_record(base.config)
    if found is None:
        return None, True
    if "method" in found:
        raise UserError(
            f"{flag}: by its config.json its weights are quantised with {found['method']}, and `nlft plan` has no "
            "formula for it.\n  Plan for the model that it was made from, with --load_in_4bit if it does not fit."
        )
    return (4, bool(found["double"])) if found["bits"] == 4 else (8, True)


def measured(model: PreTrainedModel | PeftModel, name: str) -> ModelSizes:
    """Measure a model, on any device, with its adapter or without one.

    Args:
        name: the model, for messages.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    configs = _layer_configs(base)
    config = configs[0]
    prefix = model.base_model.prefix if isinstance(model, PeftModel) else None
    of_adapter = {id(p) for n, p in model.named_parameters() if prefix and prefix in n}
    own = [p for p in model.parameters() if id(p) not in of_adapter]
    trained = [p for p in model.parameters() if p.requires_grad]
    adapters = list(model.peft_config.values()) if isinstance(model, PeftModel) else []
    layers = _layers(base, int(config.num_hidden_layers))
    head = base.get_output_embeddings().weight
    hidden = int(config.hidden_size)
    attention, keys, heads = (max(sizes) for sizes in zip(*map(_attention, configs), strict=True))
    bits, double = _own_bits(base, f"--model_name_or_path {name}")
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
        keys=keys,
        shares=may_share(base),
        norms=max(sum(_norms(layer, hidden, attention)) for layer in layers),
        inner=max(map(_inner, configs)),
        gated=_is_gated(base, len(layers)),
        cast=sum(size for _, size, _ in inputs) // len(layers),
        shared=sum({key: size for key, size, _ in inputs}.values()) // len(layers),
        rank=sum(rank for _, _, rank in inputs) // len(layers),
        trained_small=sum(p.numel() for p in trained if p.numel() < _SMALL),
        trained_edges=sum(_edges(p.shape) for p in trained),
        matrices=heads if config._attn_implementation == "eager" else 0,
        noisy=is_noisy(model),
        dropout=any(getattr(one, "lora_dropout", 0) for one in adapters),
        **_dora(base, len(layers), copies=any(getattr(one, "lora_dropout", 0) for one in adapters)),
        bits=bits,
        double=double,
    )


def _layer_configs(base: Any) -> list[Any]:
    """Return the text model's configuration; that of each layer, if they differ."""
    config = base.config.get_text_config()
    return list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]


def _attention(config: Any) -> tuple[int, int, int]:
    """Return heads x size of a head, the same of the keys, and the number of heads."""
    hidden, heads = int(config.hidden_size), _most(getattr(config, "num_attention_heads", None))
    size = _most(getattr(config, "head_dim", None)) or (hidden // heads if heads else 0)
    keys = _most(getattr(config, "num_key_value_heads", None)) or heads
    return heads * size or hidden, keys * size or hidden, heads


def _most(value: Any) -> int:
    """Return a number of a configuration, or the largest if it has one for each layer; 0 if it has none."""
    return max(map(int, value), default=0) if isinstance(value, list | tuple) else int(value or 0)


def _edges(shape: torch.Size) -> int:
    count = int(shape.numel())
    return count if len(shape) < 2 else count // shape[-1] + count // shape[-2]


def _dora(base: nn.Module, layers: int, *, copies: bool) -> dict[str, int]:
    """Return the sizes of an adapter with DoRA, by their names in `ModelSizes`.

    For each layer, PEFT sends an identity matrix through the adapter, scales the product, and adds it to the weight in
    float32. With dropout, it multiplies by that float32 weight once more, so backward needs it.

    Args:
        layers: number of decoder layers.
        copies: whether there is dropout.
    """
    found = [m for m in base.modules() if isinstance(m, LoraLayer) and m.lora_magnitude_vector]
    weights = [one.get_base_layer().weight for one in found]
    shapes = [(int(one.in_features), int(one.out_features)) for one in found]
    narrow = [weight.dtype != torch.float32 for weight in weights]
    together = [i * i + (3 + cast) * i * o for (i, o), cast in zip(shapes, narrow, strict=True)]
    kept = [i * o for (i, o), cast in zip(shapes, narrow, strict=True) if cast and copies]
    return {
        "dora": max(together, default=0),
        "dora_outputs": sum(o for _, o in shapes) // layers,
        "dora_weights": sum(kept) // layers,
    }


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
    plain = _most(getattr(config, "intermediate_size", None)) or 4 * int(config.hidden_size)
    experts = _most(getattr(config, "num_experts_per_tok", None))
    if not experts:
        return plain
    each = _most(getattr(config, "moe_intermediate_size", None)) or plain
    return experts * each + _most(getattr(config, "shared_expert_intermediate_size", None))


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
