"""A small model and its tokenizer, of kinds that can be exported for other programs."""

import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Qwen2Config,
    Qwen3Config,
)

from helpers import tiny
from nlft.data.records import Example

SIZES = {**tiny._SMALL, **tiny._HEADS}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "llama": lambda: LlamaConfig(**SIZES, attention_bias=True),
    "tied llama3": lambda: LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, query_pre_attn_scalar=8, sliding_window=16),
}
EXAMPLES = [
    Example(id="a", prompt="Name a city.", completion="Paris, in 1999 — über 2,000,000 people!", label=True),
    Example(id="b", prompt="Und auf Deutsch?", completion="Köln\n\tist's 🙂", label=False, judgment="Too short."),
]


def tokenizer(template=tiny.CHAT_TEMPLATE):
    """A tokenizer that splits words as GPT-2 does, which llama.cpp knows."""
    made = tiny.own_tokenizer(words=("Paris", " people", " 20"))
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.chat_template = template
    return made


def network(kind):
    config = KINDS[kind]()
    config.vocab_size = 320
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    torch.manual_seed(0)
    net = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
            else:
                weight.add_(torch.randn_like(weight), alpha=0.3)
    return net.eval()
