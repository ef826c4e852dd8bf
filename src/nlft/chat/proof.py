"""Prove that the base model under an adapter is the base: by its weights, its switches and its log-probabilities."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from nlft.core.base_below import quietly_off, switches
from nlft.core.conditions import ConditionEncoder

TOLERANCE = 1e-4  # nats; the same weights on the same input give the same numbers, or nearly so on a GPU
_PROMPT = "Describe a wooden chair in two sentences. Then add 17 and 25."
_REPLY = (
    "The chair has four legs and a straight back. 17 + 25 = 42.\nÜber Größe: „süß“, 你好, naïve; def f(x): return x"
)


@dataclass(frozen=True)
class Proof:
    """What was found when the base was compared with the model before its adapter was put on.

    Attributes:
        tensors: number of weights of the base.
        changed: names of those that the adapter changed or replaced in the model. Empty if none.
        layers: number of the adapter's parts that can be switched off: one for each adapted layer, or two.
        still_on: names of those that stay on when the adapter is off. Empty if none.
        tokens: number of tokens of the probe.
        difference: largest difference of log-probabilities over the whole vocabulary at every token of the probe,
            between the model without adapter and the model with its adapter off, in nats.
        tuned: the same difference for the trained model.
    """

    tensors: int
    changed: tuple[str, ...]
    layers: int
    still_on: tuple[str, ...]
    tokens: int
    difference: float
    tuned: float

    @property
    def holds(self) -> bool:
        """Whether the model with its adapter off is the base."""
        return not self.changed and not self.still_on and self.difference <= TOLERANCE

    def leak(self) -> str:
        """Say what of the adapter stays when it is off."""
        found = []
        if self.changed:
            found.append(f"it changed {len(self.changed)} weights of the base, such as {self.changed[0]}")
        if self.still_on:
            found.append(f"{len(self.still_on)} of its parts cannot be switched off, such as {self.still_on[0]}")
        if self.difference > TOLERANCE:
            found.append(f"log-probabilities of a probe differ by up to {self.difference:.3g} nats")
        return "; ".join(found)


class Probe:
    """The base before an adapter is put on it: a digest of each weight, and its log-probabilities on a probe."""

    def __init__(self, base: PreTrainedModel, encoder: ConditionEncoder) -> None:
        """
        Args:
            base: the model without an adapter, in eval mode.
        """
        ids = [*encoder.prompt_ids(_PROMPT), *encoder.generated_ids(_REPLY)]
        longest = getattr(base.config.get_text_config(), "max_position_embeddings", None)
        self.ids = ids[: longest or len(ids)]
        self._weights = [(name, tensor, digest(tensor)) for name, tensor in _tensors(base)]
        self._logprobs = logprobs(base, self.ids)

    def difference(self, model: nn.Module) -> float:
        """Return the largest difference of log-probabilities on the probe, in nats. NaN counts as infinite."""
        gap = (logprobs(model, self.ids) - self._logprobs).abs().max()
        return float("inf") if gap.isnan() else float(gap)

    def prove(self, model: PeftModel) -> Proof:
        """Compare the model with its adapter off, and with it on, with the base as it was.

        Args:
            model: the same base in memory, now with its adapter.
        """
        present = {id(tensor) for _, tensor in _tensors(model)}
        changed = [n for n, tensor, was in self._weights if id(tensor) not in present or digest(tensor) != was]
        tuned = self.difference(model)
        with quietly_off(model):
            parts = switches(model)
            off = self.difference(model)
        on = tuple(name for name, is_off in parts if not is_off)
        return Proof(len(self._weights), tuple(changed), len(parts), on, len(self.ids), off, tuned)


@torch.inference_mode()
def logprobs(model: nn.Module, ids: Sequence[int]) -> Tensor:
    """Return the log-probabilities of every next token after each of the ids: (tokens, vocabulary), float32, on CPU."""
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits
    return logits[0].float().log_softmax(-1).cpu()


def digest(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor's bytes."""
    values = tensor.detach().reshape(-1).cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(values.numpy().data).digest()


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()
