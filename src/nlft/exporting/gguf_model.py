"""Write a model's weights and sizes as GGUF, for the architectures that are known here exactly."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from torch import Tensor

from nlft.errors import UserError

QUANTIZATION = {
    "f32": GGMLQuantizationType.F32,
    "bf16": GGMLQuantizationType.BF16,
    "f16": GGMLQuantizationType.F16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
_BLOCK = 32  # numbers that q8_0 quantises together; they are in one row
_CURE = "Use llama.cpp's own converter (--converter PATH), or --to merged."


@dataclass(frozen=True)
class Family:
    """What differs between the architectures that are known here.

    Attributes:
        arch: llama.cpp's architecture.
        rotates_pairs: llama.cpp rotates neighbours, transformers halves: rows of q and k change places.
        norm_shift: added to every norm's weight, because llama.cpp multiplies by the weight alone.
        activations: the MLP's activations under which llama.cpp computes the same.
    """

    arch: gguf.MODEL_ARCH
    rotates_pairs: bool = False
    norm_shift: float = 0.0
    activations: tuple[str, ...] = ("silu",)


FAMILIES = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, rotates_pairs=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3),
    "gemma3_text": Family(gguf.MODEL_ARCH.GEMMA3, norm_shift=1.0, activations=("gelu_pytorch_tanh",)),
}


def family_of(config: Any) -> Family:
    """Return the model's family.

    Raises:
        UserError: it is none of those known here, or llama.cpp computes something else for this config.
    """
    kind = config.model_type
    family = FAMILIES.get(kind)
    if family is None:
        raise UserError(f"nlft's own writer knows {', '.join(FAMILIES)}, and this model is {kind}.\n  {_CURE}")
    rope = _rope(config)
    known = ("default", "llama3") if kind == "llama" else ("default",)
    for what, found, wanted in (
        ("quantization_config", getattr(config, "quantization_config", None) is not None, (False,)),
        ("activation", getattr(config, "hidden_activation", None) or config.hidden_act, family.activations),
        ("rope_type", rope.get("rope_type", "default"), known),
        ("use_sliding_window", getattr(config, "use_sliding_window", False) or False, (False,)),
        ("partial_rotary_factor", rope.get("partial_rotary_factor") or 1.0, (1.0,)),
        *(_gemma_wants(config) if kind == "gemma3_text" else ()),
    ):
        if found not in wanted:
            raise UserError(
                f"this {kind} model has {what} {found!r}, and nlft's own writer knows {', '.join(map(repr, wanted))}."
                f"\n  {_CURE}"
            )
    return family


def _gemma_wants(config: Any) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """What llama.cpp takes for granted of Gemma 3: it reads none of this from the file."""
    pattern = ["full_attention" if (n + 1) % 6 == 0 else "sliding_attention" for n in range(config.num_hidden_layers)]
    local = config.rope_parameters["sliding_attention"]
    return [
        ("layer_types", config.layer_types, (pattern,)),
        ("query_pre_attn_scalar", config.query_pre_attn_scalar, (config.head_dim,)),
        ("attn_logit_softcapping", config.attn_logit_softcapping, (None,)),
        ("final_logit_softcapping", config.final_logit_softcapping, (None,)),
        ("use_bidirectional_attention", config.use_bidirectional_attention or False, (False,)),
        ("local rope_theta", local["rope_theta"], (10_000.0,)),
        ("local rope_type", local.get("rope_type", "default"), ("default",)),
    ]


def _rope(config: Any) -> dict[str, Any]:
    rope = config.rope_parameters or {}
    return dict(rope.get("full_attention", rope))


def add_sizes(writer: GGUFWriter, config: Any, rows: int, outtype: str) -> None:
    """Add the model's sizes to the file."""
    head = _head_size(config)
    writer.add_file_type(_FILE_TYPES[outtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(rows)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def add_weights(writer: GGUFWriter, model: Any, family: Family, outtype: str) -> Callable[[], None]:
    """Announce every weight to the file.

    Args:
        model: the merged model in float32.

    Returns:
        A function that writes the weights, one after the other, when the file's head is written.

    Raises:
        UserError: llama.cpp has no place for a weight.
    """
    plan = list(_plan(model, family, outtype))
    for name, make, kind, shape in plan:
        size = int(np.prod(shape)) * _bytes(kind)[0] // _bytes(kind)[1]
        # A shape in bytes is what the writer expects of quantised data.
        raw = gguf.quant_shape_to_byte_shape(shape, kind) if kind != GGMLQuantizationType.F32 else shape
        writer.add_tensor_info(name, raw, np.dtype(np.float32 if raw is shape else np.uint8), size, raw_dtype=kind)
        del make

    def write() -> None:
        for name, make, kind, _ in plan:
            values = make()
            data = gguf.quants.quantize(values, kind)
            if not np.isfinite(gguf.quants.dequantize(data, kind)).all():
                raise UserError(f"{name} has values that are not finite as {outtype}.\n  Choose --outtype bf16 or f32.")
            writer.write_tensor_data(data)

    return write


def _bytes(kind: GGMLQuantizationType) -> tuple[int, int]:
    """Return how many bytes a block of how many numbers takes."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return size, numbers


def _plan(
    model: Any, family: Family, outtype: str
) -> Iterator[tuple[str, Callable[[], NDArray[np.float32]], GGMLQuantizationType, tuple[int, ...]]]:
    """Yield each weight's name in the file, a function that makes its values, its type, and its shape."""
    config = model.config
    places = gguf.get_tensor_name_map(family.arch, config.num_hidden_layers)
    factors = _rope_factors(model)
    if factors is not None:
        yield "rope_freqs.weight", lambda: factors, GGMLQuantizationType.F32, factors.shape
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    for name, weight in model.state_dict(keep_vars=True).items():
        if tied and name == "lm_head.weight":
            continue  # llama.cpp takes the input embedding where the file has no other
        place = places.get_name(name, try_suffixes=(".weight", ".bias"))
        if place is None:
            raise UserError(f"the GGUF format has no place for the weight {name}.\n  {_CURE}")
        yield place, _values(name, weight, family, config), _kind(weight, outtype), tuple(weight.shape)


def _kind(weight: Tensor, outtype: str) -> GGMLQuantizationType:
    """Return the type in which the file has a weight."""
    kind = QUANTIZATION[outtype]
    if weight.dim() < 2:
        return GGMLQuantizationType.F32  # llama.cpp computes norms and biases in float32
    if kind == GGMLQuantizationType.Q8_0 and weight.shape[-1] % _BLOCK:
        return GGMLQuantizationType.F16  # as llama.cpp's own converter does
    return kind


def _values(name: str, weight: Tensor, family: Family, config: Any) -> Callable[[], NDArray[np.float32]]:
    def make() -> NDArray[np.float32]:
        values = weight.detach().to("cpu", torch.float32)
        part = name.rsplit(".", 2)[-2]
        if family.rotates_pairs and part in ("q_proj", "k_proj"):
            heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
            values = pairs_from_halves(values, heads)
        if part.endswith("norm"):
            values = values + family.norm_shift
        found: NDArray[np.float32] = np.ascontiguousarray(values.numpy())
        return found

    return make


def pairs_from_halves(values: Tensor, heads: int) -> Tensor:
    """Put the rows that rotate together side by side.

    transformers rotates row i of a head with row i + half; llama.cpp's `llama` rotates row 2i with row 2i + 1.

    Args:
        values: (heads × size, ...), a weight or a bias.
    """
    size = values.shape[0] // heads
    order = torch.arange(size).view(2, size // 2).T.reshape(-1)  # 0, half, 1, half + 1, ...
    return values.view(heads, size, *values.shape[1:])[:, order].reshape(values.shape)


def round_weights(model: Any, outtype: str) -> None:
    """Give a model in float32 the values that its weights have in the file."""
    for weight in model.parameters():
        kind = _kind(weight, outtype)
        if kind != GGMLQuantizationType.F32:
            data = gguf.quants.quantize(np.ascontiguousarray(weight.detach().cpu().numpy()), kind)
            rounded = torch.from_numpy(np.array(gguf.quants.dequantize(data, kind)))
            weight.data = rounded.to(weight.device, weight.dtype)


def _rope_factors(model: Any) -> NDArray[np.float32] | None:
    """Return what llama.cpp divides each rotary frequency by, for Llama 3's scaling; None without it."""
    rope = _rope(model.config)
    if rope.get("rope_type", "default") != "llama3":
        return None
    size = _head_size(model.config)
    plain = rope["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    found: NDArray[np.float32] = (plain / model.model.rotary_emb.inv_freq.double()).float().numpy()
    return found
