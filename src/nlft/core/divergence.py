"""KL divergence of a model with an adapter from the same model without it, token by token."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nlft.core.base_below import adapter_off, refuse_leak
from nlft.core.conditions import Rows
from nlft.core.heads import DEFAULT_CHUNK_BYTES, Head
from nlft.core.logprobs import causal_lm, enable_scoring, evaluating, scored_mask, states_of
from nlft.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

_LIVE_COPIES = 6  # logits of both models, their log-probabilities, and two products of these


@torch.no_grad()
def kl_to_base(model: "PeftModel", rows: Rows, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> tuple[Tensor, Tensor]:
    """Compute KL(base ‖ tuned) = Σ_k b(k) (log b(k) − log p(k)) where the model predicts each labelled token.

    b is the model with its adapter switched off, p the model with its adapter. Both are in eval mode. Equals the
    difference of whole log-softmaxes, but the logits of only a few tokens are in memory at once.

    Args:
        model: a PEFT model whose adapter can be switched off.
        chunk_bytes: maximum memory for the logits of one chunk of tokens, with their copies.

    Returns:
        The divergence in nats, float32, 0 on padding; and the mask of labelled tokens. Both are (rows, completion_len),
        padded on the right.

    Raises:
        UserError: the model has no adapter, or one that leaves traces in the base when it is off.
        NLFTError: the model changes its logits in a way that nlft does not support.
    """
    if not hasattr(model, "disable_adapter"):
        raise UserError(
            f"KL to base: {type(model).__name__} has no adapter to switch off, so its base is not in memory.\n"
            "  Give a PEFT model."
        )
    refuse_leak(model, "KL to base")
    if not hasattr(causal_lm(model), "_nlft_finish_logits"):
        enable_scoring(model)
    mask = scored_mask(rows)
    with evaluating(model):
        tuned = states_of(model, rows)
        with adapter_off(model):
            base = states_of(model, rows)
        head = Head(causal_lm(model))
        size = max(1, chunk_bytes // (4 * _LIVE_COPIES * head.vocabulary))
        parts = [_kl(model, head, b, p) for b, p in zip(base.split(size), tuned.split(size), strict=True)]
    flat = torch.cat(parts) if parts else base.new_zeros(0, dtype=torch.float32)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter_(mask, flat), mask


def _kl(model: "PeftModel", head: Head, base: Tensor, tuned: Tensor) -> Tensor:
    # An adapter may also change the head, so the head needs the same switch as the decoder.
    with adapter_off(model):
        log_b = head.logits(base).log_softmax(1)
    log_p = head.logits(tuned).log_softmax(1)
    # Rounding can make a divergence of 0 slightly negative.
    return (log_b.exp() * log_b.sub_(log_p)).sum(1).clamp_(min=0)
