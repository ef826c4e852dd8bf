"""Tiny random models and a tokenizer made in-process: mathematics needs no trained weights, and no network."""

from functools import cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from nlft.core.conditions import ConditionEncoder

SPECIAL = ["<pad>", "<s>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "<s>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCAB = 256 + len(SPECIAL)

_SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
FAMILIES = {
    "llama": lambda: LlamaConfig(**_SMALL, **_HEADS),
    "qwen3": lambda: Qwen3Config(**_SMALL, **_HEADS),
    "gemma": lambda: GemmaConfig(**_SMALL, **_HEADS),
    "gemma2": lambda: Gemma2Config(**_SMALL, **_HEADS, final_logit_softcapping=5.0),
    "cohere": lambda: CohereConfig(**_SMALL, **_HEADS, logit_scale=0.25),
    "granite": lambda: GraniteConfig(**_SMALL, **_HEADS, logits_scaling=8.0),
    "mixtral": lambda: MixtralConfig(
        **_SMALL, **_HEADS, num_local_experts=4, num_experts_per_tok=2, router_aux_loss_coef=0.05
    ),
    "gpt2": lambda: GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=512),
}


def own_tokenizer(words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer that a test may change, as `tokenizer` makes it."""
    return tokenizer.__wrapped__(words=words)


@cache
def tokenizer(chat: bool = True, words: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """One token a byte, and a handful of special ones; with a chat template or without.

    Each of `words` is a token too, and so are its beginnings.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = [word.replace(" ", "Ġ") for word in words]
    merges = list(dict.fromkeys((word[:end], word[end]) for word in raw for end in range(1, len(word))))
    made = dict.fromkeys([*SPECIAL, *letters, *(left + right for left, right in merges)])
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(made)}, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    from tokenizers.decoders import ByteLevel

    core.decoder = ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[3:],
    )
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast


def model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, vocabulary: int = VOCAB):
    torch.manual_seed(seed)
    config = FAMILIES[family]()
    config.vocab_size = vocabulary
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return _made(config, dtype)


def turning(kind: str, limit: int = 32):
    """A model whose rotary angles are others for rows of more than `limit` tokens.

    Args:
        kind: `longrope` or `dynamic`.
    """
    torch.manual_seed(0)
    more = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
    if kind == "longrope":
        rope = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4, "original_max_position_embeddings": limit}
        made, more = Phi3Config, {**more, "original_max_position_embeddings": limit}
    else:
        rope, made = {"factor": 4.0}, LlamaConfig
        more["max_position_embeddings"] = limit
    rope = {"rope_type": kind, "rope_theta": 10000.0, **rope}
    heads = {name: value for name, value in _HEADS.items() if name != "head_dim"}
    return _made(made(**{**_SMALL, **heads, **more}, rope_parameters=rope), torch.float32)


def _made(config, dtype: torch.dtype):
    net = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Random weights of the usual size say next to nothing; larger ones make probabilities that differ.
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return net.eval()


def encoded():
    """Right and wrong ones; the longest completion is right, so that judge rows alone are narrower."""
    encoder = ConditionEncoder(tokenizer())
    texts = [("7", False), ("it is 12, as everyone knows", True), ("8 or so", False), ("12", True)]
    return [
        encoder.encode(
            id=i,
            prompt="5 + 7?",
            completion=text,
            label=label,
            answer="5 + 7 = 12",
            judgment=None if label else f'"{text}" is wrong.',
        )
        for i, (text, label) in enumerate(texts)
    ]
