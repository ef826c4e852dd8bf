"""Use a model that is already in memory as an answerer."""

import hashlib

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import NO_INPUTS, TemplateInputs, Templates
from nlft.models.fingerprints import adapter_parts, config_digest, digest_of
from nlft.models.local import LocalModel

_SAMPLED = 1024  # values per tensor: training changes all values of a tensor that it trains


def loaded_answerer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_new_tokens: int = 256,
    batch_size: int = 32,
    system_prompt: str | None = None,
    inputs: TemplateInputs = NO_INPUTS,
) -> LocalModel:
    """Make an answerer of a loaded transformers or PEFT model. It answers greedily.

    Its identity has digests of the weights, the configuration and the adapters that are on. So a ledger returns only
    answers of the model as it is now, even if it is trained or its adapters are switched between two calls.

    Args:
        max_new_tokens: maximum length of an answer, in tokens.
        batch_size: answers to generate at a time.
        system_prompt: put before prompts that have no system message.
        inputs: what the chat template gets with every prompt.
    """
    encoder = ConditionEncoder(tokenizer, Templates(system_prompt=system_prompt, inputs=inputs))
    name = {
        "model": getattr(model.config, "_name_or_path", ""),
        "weights": weights_digest(model),
        "config": config_digest(model),
        "adapters": digest_of(adapter_parts(model)),
        "chat_template": tokenizer.chat_template,
    }
    return LocalModel(model, encoder, max_new_tokens=max_new_tokens, batch_size=batch_size, name=name)


@torch.no_grad()
def weights_digest(model: torch.nn.Module) -> str:
    """Return a SHA-256 over evenly spaced values of every parameter."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
        digest.update(_sampled_bytes(parameter))
    return digest.hexdigest()


def _sampled_bytes(parameter: Tensor) -> bytes:
    flat = parameter.detach().reshape(-1)
    values = flat[:: max(1, flat.numel() // _SAMPLED)].cpu().contiguous()
    return values.view(torch.uint8).numpy().tobytes()
