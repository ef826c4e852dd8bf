"""What the base model and the model in training would say at a token: their first choices, for the map."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from nlft.core.base_below import find_peft, leak
from nlft.core.condition_scores import ScoredBatch
from nlft.core.conditions import EncodedExample, pad_rows
from nlft.core.hold import HoldEverything, Marks, Role, base_targets, hold_rows
from nlft.core.logprobs import evaluating, score
from nlft.core.saliency import Tag
from nlft.runs.run_dir import TokenScores

CHOICES = 5  # of each model at a token
MOST_PLACES = 24  # tokens of one example, so that a snapshot stays small

Alternatives = dict[str, Any]
"""`at`: n token indices; `base` and `now`: for each of them up to five [text, probability], the likeliest first."""


@torch.no_grad()
def alternatives(
    model: nn.Module,
    example: EncodedExample,
    scores: TokenScores,
    scored: ScoredBatch,
    tokenizer: PreTrainedTokenizerBase,
) -> Alternatives | None:
    """Return both models' first choices at the tokens that the feedback touches.

    Struck tokens have their logits in `scored`, unless the base was scored before. Salient ones need two more passes,
    one of them with the adapter off.

    Returns:
        None if nothing is touched, or the base is not in memory: the model has no adapter, or one that leaves traces.
    """
    struck = scored.held.struck if scored.held else None
    if struck is not None and len(struck.said):
        places, now, base = (scores.tag == Tag.STRUCK).nonzero()[0], struck.now, struck.base
        kept = slice(MOST_PLACES)
        return _chosen(places[kept].tolist(), now[kept], base[kept], tokenizer)
    pushed = scores.likelihood + scores.unlikelihood
    touched = np.isin(scores.tag, (Tag.SALIENT, Tag.STRUCK)).nonzero()[0]
    places = sorted(touched, key=lambda at: -float(pushed[at]))[:MOST_PLACES]
    if not places or find_peft(model) is None or leak(model):
        return None
    ordered = sorted(int(at) for at in places)
    return _chosen(ordered, *_both(model, example, ordered), tokenizer)


def _both(model: nn.Module, example: EncodedExample, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the logits of the model and of its base at some tokens of a completion: two of (places, vocabulary)."""
    count = len(example.completion)
    device = next(model.parameters()).device
    rows = pad_rows([(example.base, example.completion)], 0).on(device)
    plan = HoldEverything()
    held = hold_rows([Marks.alike(count, Role.HELD, graded=False)], plan).on(device)
    wanted = torch.zeros(1, count, dtype=torch.bool, device=device)
    wanted[0, list(places)] = True
    with evaluating(model):
        found = score(model, rows, base=base_targets(model, rows, held), logits_at=wanted)
    assert found.logits is not None
    assert found.base_logits is not None
    return found.logits, found.base_logits


def _chosen(places: list[int], now: Tensor, base: Tensor, tokenizer: PreTrainedTokenizerBase) -> Alternatives:
    return {"at": places, "base": _first(base, tokenizer), "now": _first(now, tokenizer)}


def _first(logits: Tensor, tokenizer: PreTrainedTokenizerBase) -> list[list[list[Any]]]:
    """Return the likeliest tokens of each row, as text, with three digits of their probabilities."""
    top = logits.detach().float().softmax(-1).topk(CHOICES, -1)
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [
        [[str(tokenizer.decode([token])), float(f"{p:.3g}")] for token, p in zip(ids, values, strict=True)]
        for ids, values in pairs
    ]
