"""A tiny random model of each family that nlft is tried on, made from its configuration class."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from helpers.tiny import VOCAB

_SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_HEADS = {"head_dim": 8}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
_SOFT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_OWN = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
_MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
_SHARED = {
    **_EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_DEEPSEEK = {**_MLA, **_SHARED, "num_key_value_heads": 4}
_LLAMA4 = {
    **_HEADS, "intermediate_size_mlp": 48, "num_local_experts": 4, "num_experts_per_tok": 1, "moe_layers": [1],
    "attention_chunk_size": 16,
}  # fmt: skip
_DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
_MAMBA2 = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 8}

# Families by the name in their configuration. `_SMALL` holds for all whose configuration is not given whole.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _HEADS,
    "mistral": {**_HEADS, "sliding_window": 8},
    "qwen2": {},
    "qwen3": _HEADS,
    "gemma": _HEADS,
    "gemma2": {**_HEADS, "final_logit_softcapping": 5.0},
    "gemma3_text": {**_HEADS, "final_logit_softcapping": 5.0},
    "gemma3n_text": {
        **_HEADS, "intermediate_size": [48, 48], "vocab_size_per_layer_input": VOCAB, "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0, "laurel_rank": 8, "layer_types": ["sliding_attention", "full_attention"],
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "cohere": {"logit_scale": 0.25},
    "cohere2": {**_HEADS, "logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0, "num_local_experts": 4, "num_experts_per_tok": 2},
    "granitemoeshared": {
        "logits_scaling": 8.0, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24,
    },
    "granitemoehybrid": {
        **_MAMBA2, "logits_scaling": 8.0, "num_local_experts": 4, "num_experts_per_tok": 2,
        "shared_intermediate_size": 24, "layer_types": ["mamba", "attention"],
    },
    "phi": {},
    "phi3": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_HEADS, **_EXPERTS, "num_experts": 4},
    "qwen3_next": {
        **_HEADS, **_EXPERTS, **_DELTA, "num_experts": 4, "shared_expert_intermediate_size": 24,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {**_GPT2, **_SOFT},
    "gpt_neo": {
        **_OWN, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8,
        "intermediate_size": 48, "max_position_embeddings": 512,
    },
    "gptj": {**_GPT2, **_SOFT, "rotary_dim": 4},
    "gpt_neox": {},
    "gpt_oss": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_bigcode": {**_GPT2, **_SOFT},
    "starcoder2": {},
    "opt": {**_OWN, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 24, "max_position_embeddings": 512},
    "bloom": {**_OWN, "n_layer": 2, "n_head": 4},
    "falcon": {},
    "mpt": {"vocab_size": VOCAB, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "stablelm": {},
    "persimmon": {},
    "nemotron": {},
    "glm": _HEADS,
    "glm4": _HEADS,
    "smollm3": {},
    "exaone4": {**_HEADS, "sliding_window": 16, "sliding_window_pattern": 2},
    "ernie4_5": _HEADS,
    "seed_oss": _HEADS,
    "arcee": _HEADS,
    "diffllama": _HEADS,
    "helium": _HEADS,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "falcon_h1": {**_HEADS, **_MAMBA2, "mamba_d_ssm": 64, "lm_head_multiplier": 0.25},
    "jamba": {
        "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_experts": 4, "num_experts_per_tok": 2,
        "attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2,
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1]},
    "zamba2": {
        **_MAMBA2, "mamba_ngroups": 1, "mamba_headdim": 16, "n_mamba_heads": 4, "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"], "num_mem_blocks": 1, "attention_head_dim": 16,
        "num_key_value_heads": 4, "chunk_size": 8, "adapter_rank": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "rwkv": {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 512},
    "minimax": {
        **_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "block_size": 8,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "nanochat": {"final_logit_softcapping": 5.0},
    "doge": {},
    "dots1": _SHARED,
    "hunyuan_v1_dense": _HEADS,
    "apertus": {},
    "vaultgemma": {**_HEADS, "final_logit_softcapping": 5.0},
    "bitnet": {},
    "mamba": {**_OWN, "state_size": 4, "time_step_rank": 4},
    "mamba2": {**_OWN, "state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    "falcon_mamba": {**_OWN, "state_size": 4, "time_step_rank": 4},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 16, "lru_width": 32, "logits_soft_cap": 5.0},
    "xlstm": {
        "vocab_size": VOCAB, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "chunk_size": 8,
        "qk_dim_factor": 1.0, "output_logit_soft_cap": 5.0,
    },
    "llama4_text": _LLAMA4,
    "codegen": {**_GPT2, **_SOFT, "rotary_dim": 4},
    "biogpt": {},
    "xglm": {
        "vocab_size": VOCAB, "d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "openai-gpt": {**_GPT2, **_SOFT},
    "glm4_moe": {**_HEADS, **_SHARED},
    "ernie4_5_moe": {
        **_HEADS, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_num_shared_experts": 1,
    },
    "hunyuan_v1_moe": {**_HEADS, "num_experts": 4, "moe_topk": 2},
    "lfm2_moe": {**_EXPERTS, "layer_types": ["conv", "full_attention"], "num_experts": 4, "num_dense_layers": 1},
    "nemotron_h": {
        **_OWN, **_HEADS, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
        "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"], "n_routed_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1,
    },
    "zamba": {
        "num_hidden_layers": 3, "attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4,
        "use_mamba_kernels": False, "mamba_d_state": 4, "n_mamba_heads": 2, "mamba_dt_rank": 4,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
    },
    "jetmoe": {"kv_channels": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "minimax_m2": {**_HEADS, "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": _HEADS,
    "afmoe": {
        **_HEADS, **_EXPERTS, "num_experts": 4, "num_dense_layers": 1, "num_shared_experts": 1, "n_group": 1,
        "topk_group": 1,
    },
    "exaone_moe": {**_HEADS, **_EXPERTS, "num_experts": 4, "num_shared_experts": 1, "first_k_dense_replace": 1},
    "cohere2_moe": {**_HEADS, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_5_text": {**_HEADS, **_DELTA},
    "qwen3_5_moe_text": {
        **_HEADS, **_EXPERTS, **_DELTA, "num_experts": 4, "shared_expert_intermediate_size": 24,
    },
    "modernbert-decoder": {},
    "gemma3": {
        "text_config": _SMALL | _HEADS, "mm_tokens_per_image": 4, "image_token_index": 90, "vision_config": _VISION,
    },
    "llama4": {
        "text_config": {**_SMALL, **_LLAMA4},
        "vision_config": {
            **_VISION, "vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16,
        },
    },
    "bert": {**_OWN, "intermediate_size": 48, "num_attention_heads": 4, "is_decoder": True},
}  # fmt: skip
_WHOLE = {
    "gpt2", "gpt_neo", "gptj", "gpt_bigcode", "opt", "bloom", "mpt", "rwkv", "mamba", "mamba2", "falcon_mamba", "xlstm",
    "codegen", "xglm", "openai-gpt", "nemotron_h", "gemma3", "llama4", "bert",
}  # fmt: skip


def model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model of two or three layers, in float32 and eval mode, whose probabilities differ."""
    torch.manual_seed(seed)
    given = FAMILIES[family] if family in _WHOLE else _SMALL | FAMILIES[family]
    config = AutoConfig.for_model(family, **given)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    net = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            if parameter.dim() > 1 and not parameter.any():  # a layer that starts as zero hides its neighbours
                parameter.normal_(std=0.08)
    return net.eval()
