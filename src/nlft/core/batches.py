"""Encoded examples to aligned batches: which rows are scored with gradient, and which without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nlft.core.conditions import EncodedExample, Rows, pad_rows


@dataclass(frozen=True)
class Batch:
    """One micro-batch of B examples.

    Attributes:
        graded: rows scored with gradient: B under base, then (if `targets`) B answers, then (if `misread`) one for
            each wrong sample.
        frozen: rows scored without: B under standard, then one under judge for each wrong sample, of these what is
            needed; or None.
        label: (B,) bool.
        width: longest completion, end-of-turn token included.
    """

    graded: Rows
    frozen: Rows | None
    label: Tensor
    width: int
    targets: bool
    misread: bool


class BatchBuilder:
    """A Trainer's `data_collator`: encoded examples to the tensors that a `Batch` is read from."""

    def __init__(self, pad_token_id: int, *, needs: frozenset[str], targets: bool) -> None:
        """
        Args:
            needs: what the saliency scheme needs scored, see `Scheme.needs`.
            targets: also train the standard answers (or revisions).
        """
        self.pad_token_id = pad_token_id
        self.needs = needs
        self.targets = targets

    def __call__(self, examples: Sequence[EncodedExample]) -> dict[str, Any]:
        wrong = [e for e in examples if not e.label]
        graded = [(e.base, e.completion) for e in examples]
        if self.targets:
            graded += [(e.base, e.target) for e in examples]
        if "misread" in self.needs:
            graded += [(e.judge or [], e.completion) for e in wrong]
        rows = pad_rows(graded, self.pad_token_id)
        if "misread" in self.needs and wrong:
            # The original reads the judge row at the base row's positions, for the base row's labels.
            which = [row for row, e in enumerate(examples) if not e.label]
            rows.labels[-len(wrong) :] = rows.labels[which]
        features: dict[str, Any] = _features("", rows)
        if self.needs & {"standard", "judge"}:
            frozen = [(e.standard, e.completion) for e in examples if "standard" in self.needs]
            frozen += [(e.judge or [], e.completion) for e in wrong if "judge" in self.needs]
            # Without wrong samples one row is scored for nothing: under FSDP the other ranks wait for this pass.
            frozen = frozen or [(examples[0].base, examples[0].completion)]
            features |= _features("frozen_", pad_rows(frozen, self.pad_token_id))
        features["label"] = torch.tensor([e.label for e in examples])
        features["lengths"] = torch.tensor([len(e.completion) for e in examples])
        features["target_lengths"] = torch.tensor([len(e.target) if self.targets else 0 for e in examples])
        return features

    def batch(self, features: dict[str, Any]) -> Batch:
        """The features, on whatever device they came to, as a `Batch`."""
        return Batch(
            graded=_rows("", features),
            frozen=_rows("frozen_", features) if "frozen_input_ids" in features else None,
            label=features["label"],
            width=int(features["lengths"].max()),
            targets=self.targets,
            misread="misread" in self.needs,
        )


def counts_of(features: Mapping[str, Any]) -> Tensor:
    """What one micro-batch adds to a step's window, (4,): samples, completion tokens, trained answers, their tokens."""
    lengths, targets = features["lengths"], features["target_lengths"]
    return torch.stack([lengths.new_tensor(len(lengths)), lengths.sum(), (targets > 0).sum(), targets.sum()])


def _features(prefix: str, rows: Rows) -> dict[str, Tensor]:
    return {f"{prefix}{name}": getattr(rows, name) for name in ("input_ids", "attention_mask", "labels")}


def _rows(prefix: str, features: dict[str, Any]) -> Rows:
    return Rows(*(features[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "labels")))
