"""Measure which tokens a judgment makes more or less likely, and whether another example's judgment does the same.

The audit scores every completion under its conditions, as training does. It also scores each wrong completion under the
judgments of a few other examples (placebos). A judgment is specific to its completion if it raises the probabilities of
the completion's tokens more than placebos do, or if it makes the whole completion more likely than placebos do. The
required difference comes from the differences between placebos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from nlft.auditing.findings import Finding, quoted
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder, EncodedExample, Rows, pad_rows
from nlft.core.logprobs import enable_scoring, evaluating, score
from nlft.core.saliency import Tag
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights
from nlft.data.records import Example, completion_text
from nlft.data.template_columns import inputs_of
from nlft.errors import ProblemsError
from nlft.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]

STYLE_RATE = 0.4  # a judgment is mostly about style if more than this proportion of the movement is on style tokens
_SIGNS = frozenset("+-−*/×÷·=<>%$€£^")  # content, because calculations use them
_NEEDS = frozenset({"standard", "judge", "band"})


@dataclass
class Measured:
    """The token probabilities of one completion under its conditions.

    Attributes:
        tokens: the tokens' texts; the last one is the end of turn.
        base, standard, judge: probability of each token, (tokens,). `judge` equals `base` if the completion is right.
        salient: which tokens training would tag, (tokens,).
        placebos: id of another example -> probability of each token under that example's judgment, (tokens,).
    """

    id: str | int
    label: bool
    tokens: list[str]
    base: Floats
    standard: Floats
    judge: Floats
    salient: NDArray[np.bool_]
    placebos: dict[str | int, Floats] = field(default_factory=dict)

    def added(self, under: Floats) -> float:
        """Return the probability that a judgment adds, summed over the tokens that it makes more likely."""
        return float(np.maximum(under - self.base, 0).sum())

    @property
    def gap(self) -> float:
        """The probability that the example's judgment adds, minus the mean probability that a placebo adds."""
        return self.added(self.judge) - float(np.mean([self.added(p) for p in self.placebos.values()]))

    @property
    def fit(self) -> float:
        """Log-likelihood of the completion under its judgment, minus its mean under the placebo judgments, in nats."""
        return float(np.mean([_nats(self.judge, placebo) for placebo in self.placebos.values()]))

    @property
    def style_rate(self) -> float:
        """The proportion of the judgment's own added probability that is on style tokens, 0 to 1.

        This is the smaller of two proportions. The first uses the probability added over base and placebos. The second
        uses the probability added over base, placebos and standard.
        """
        usual = np.mean([*self.placebos.values()], axis=0) if self.placebos else self.base
        style = [is_style(token) for token in self.tokens]
        rates = []
        for reference in (self.base, np.maximum(self.base, self.standard)):
            added = np.maximum(self.judge - np.maximum(reference, usual), 0)
            rates.append(float(added[style].sum() / added.sum()) if added.sum() > 0 else 0.0)
        return min(rates)


def is_style(token: str) -> bool:
    """Return whether a token is punctuation, white space or a control token.

    Arithmetic signs such as + and = do not count as style.
    """
    text = token.strip()
    return text.startswith("<|") or (text not in _SIGNS and not any(map(str.isalnum, text)))


def _nats(one: Floats, other: Floats) -> float:
    """Return the sum over tokens of ln one - ln other."""
    tiny = np.finfo(np.float64).tiny
    return float((np.log(np.maximum(one, tiny)) - np.log(np.maximum(other, tiny))).sum())


# Score the completions.


def measure(
    model: torch.nn.Module,
    encoder: ConditionEncoder,
    examples: Sequence[tuple[Example, EncodedExample]],
    saliency: NLFTSettings,
    *,
    placebos: int,
    batch_size: int,
    seed: int,
) -> list[Measured]:
    """Score each example under its conditions, and each wrong example also under `placebos` other judgments.

    Args:
        model: a causal LM; scoring is enabled on it.
        examples: each example with its ids.
        saliency: decides which tokens count as salient.
        batch_size: rows per forward pass.
        seed: decides which judgments are the placebos.
    """
    enable_scoring(model)
    wrong = [at for at, (example, _) in enumerate(examples) if not example.label]
    given = [(at, example, row) for at, example, row in _placebo_rows(encoder, examples, wrong, placebos, seed)]
    results: dict[int, Measured] = {}
    with torch.no_grad(), evaluating(model), progress("scoring", len(examples) + len(given), "row") as bar:
        for batch in _batches([_length(encoded) for _, encoded in examples], batch_size):
            measured = _score([examples[at][1] for at in batch], model, encoder.tokenizer, saliency)
            results.update(zip(batch, measured, strict=True))
            bar.update(len(batch))
        for batch in _batches([len(prompt) + len(completion) for _, _, (prompt, completion) in given], batch_size):
            rows = pad_rows([given[at][2] for at in batch], encoder.tokenizer.pad_token_id)
            scored = score(model, rows_on(rows, model))
            for row, place in enumerate(batch):
                at, other, _ = given[place]
                results[at].placebos[other] = _probabilities(scored.logp[row], len(results[at].tokens))
            bar.update(len(batch))
    return [results[at] for at in range(len(examples))]


def _score(
    encoded: list[EncodedExample],
    model: torch.nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    saliency: NLFTSettings,
) -> list[Measured]:
    """Score one batch under its conditions."""
    builder = BatchBuilder(tokenizer.pad_token_id, needs=_NEEDS)
    features = {name: value.to(_device(model)) for name, value in builder(encoded).items()}
    conditions = score_batch(model, builder.batch(features), _NEEDS).conditions
    salient = nlft_weights(conditions, saliency).tag == Tag.SALIENT
    assert conditions.standard is not None
    assert conditions.judge is not None
    measured = []
    for row, example in enumerate(encoded):
        length = len(example.completion)
        measured.append(
            Measured(
                id=example.id,
                label=example.label,
                tokens=[tokenizer.decode([token]) for token in example.completion],
                base=_probabilities(conditions.base[row], length),
                standard=_probabilities(conditions.standard[row], length),
                judge=_probabilities(conditions.judge[row], length),
                salient=salient[row, :length].cpu().numpy(),
            )
        )
    return measured


def _placebo_rows(
    encoder: ConditionEncoder,
    examples: Sequence[tuple[Example, EncodedExample]],
    wrong: list[int],
    count: int,
    seed: int,
) -> list[tuple[int, str | int, tuple[list[int], list[int]]]]:
    """Combine each wrong completion with the next `count` different judgments in a random order of the wrong examples.

    Returns:
        For each combination: the completion's place, the id of the judgment's example, and (prompt ids, completion
        ids).
    """
    order = list(wrong)
    Random(seed).shuffle(order)
    rows = []
    for turn, at in enumerate(order if count else []):
        example, encoded = examples[at]
        seen = {example.judgment}
        for step in range(1, len(order)):
            other = examples[order[(turn + step) % len(order)]][0]
            if len(seen) > count:
                break
            if other.judgment in seen:
                continue
            try:
                judge = _encode(encoder, example, other.judgment or "").judge or []
            except ProblemsError:  # with this judgment, the prompt is too long
                continue
            seen.add(other.judgment)
            rows.append((at, other.id, (judge, encoded.completion)))
    return rows


def _encode(encoder: ConditionEncoder, example: Example, judgment: str) -> EncodedExample:
    """Encode a wrong example with another judgment."""
    return encoder.encode(
        id=example.id,
        prompt=example.prompt,
        completion=completion_text(example),
        label=False,
        answer=example.answer,
        feedback=example.feedback,
        judgment=judgment,
        inputs=inputs_of(example.extra),
    )


def _length(encoded: EncodedExample) -> int:
    return len(encoded.completion) + max(len(encoded.standard), len(encoded.judge or []))


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Group places by length, the longest first, so that the first batch fails if memory is too small."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    return [order[start : start + size] for start in range(0, len(order), size)]


def _device(model: torch.nn.Module) -> torch.device:
    return next(model.parameters()).device


def rows_on(rows: Rows, model: torch.nn.Module) -> Rows:
    """Move the rows to the model's device."""
    device = _device(model)
    return Rows(rows.input_ids.to(device), rows.attention_mask.to(device), rows.labels.to(device))


def _probabilities(logp: torch.Tensor, length: int) -> Floats:
    return logp[:length].double().exp().cpu().numpy()


# Derive findings from the measurements.


@dataclass(frozen=True)
class Margins:
    """The differences that a judgment must exceed, for a completion of one token.

    For longer completions, multiply the differences by the square root of the number of tokens.

    Attributes:
        gap, fit: see `Measured`. Both are 0 if no completion has two placebos, because the spread of placebos is then
            unknown.
    """

    gap: float = 0.0
    fit: float = 0.0


def margins(measured: Sequence[Measured], level: float) -> Margins:
    """Compute the margins: the quantile `level`, over all examples, of the differences between placebos."""
    gaps, fits = [], []
    for one in measured:
        first, *rest = one.placebos.values() or (None,)
        for second in rest:
            assert first is not None
            scale = len(one.tokens) ** 0.5
            gaps.append(abs(one.added(first) - one.added(second)) / scale)
            fits.append(abs(_nats(first, second)) / scale)
    return Margins(float(np.quantile(gaps, level)), float(np.quantile(fits, level))) if gaps else Margins()


def beats_placebo(one: Measured, margin: Margins) -> bool:
    """Return whether the judgment changes probabilities more than the placebos do; true if there are no placebos."""
    scale = len(one.tokens) ** 0.5
    return not one.placebos or one.gap > margin.gap * scale or one.fit > margin.fit * scale


def has_signal(one: Measured, margin: Margins) -> bool:
    """Return whether training can use the example.

    It can if a token is tagged. A wrong example's judgment must also beat the placebos.
    """
    return bool(one.salient.any()) and (one.label or beats_placebo(one, margin))


def signal_findings(measured: Sequence[Measured], margin: Margins) -> list[Finding]:
    """Make at most one finding for each wrong completion."""
    findings = []
    for one in measured:
        if not one.label and (kind_and_text := _finding(one, margin)):
            kind, what = kind_and_text
            findings.append(Finding(kind, one.id, what))
    return findings


def _finding(one: Measured, margin: Margins) -> tuple[str, str] | None:
    """Return the kind and text of the finding about a wrong completion. Return None if there is no finding."""
    tagged, beats = int(one.salient.sum()), beats_placebo(one, margin)
    # A judgment that adds much more than placebos do also moves content, not only punctuation.
    little = not one.placebos or one.gap <= margin.gap * len(one.tokens) ** 0.5
    if little and one.style_rate > STYLE_RATE:
        return "style-movement", _style_words(one)
    if not beats:
        return ("placebo", _against(one)) if tagged else ("no-movement", f"no token is tagged; {_against(one)}")
    if tagged:
        return None
    return ("untagged", _most_moved(one)) if one.placebos else ("no-movement", _most_moved(one))


def _style_words(one: Measured) -> str:
    moved = np.argsort(one.base - one.judge, kind="stable")
    most = [one.tokens[at] for at in moved if is_style(one.tokens[at]) and one.judge[at] > one.base[at]]
    shown = ", ".join(quoted(token, most=20) for token in list(dict.fromkeys(most))[:3])
    return f"{one.style_rate:.0%} of the movement is on punctuation, white space or the end of turn, such as {shown}"


def _against(one: Measured) -> str:
    others = " and ".join(f"{one.added(p):.2f}" for p in one.placebos.values())
    return f"its judgment adds a probability of {one.added(one.judge):.2f}, other examples' judgments add {others}"


def _most_moved(one: Measured) -> str:
    at = int(np.argmax(one.judge - np.maximum(one.base, one.standard)))
    return (
        f"the judgment moves {quoted(one.tokens[at])} most, from {one.base[at]:.2f} to {one.judge[at]:.2f} "
        f"({one.standard[at]:.2f} under standard)"
    )


def figures(one: Measured, margin: Margins) -> Mapping[str, Any]:
    """Return the measurements of one example, as JSON values."""
    wrong = {
        "added": round(one.added(one.judge), 4),
        "placebos": {str(id): round(one.added(p), 4) for id, p in one.placebos.items()},
        "fit": round(one.fit, 4) if one.placebos else None,
        "style_share": round(one.style_rate, 4),
    }
    return {
        "id": one.id,
        "label": one.label,
        "tokens": len(one.tokens),
        "tagged": int(one.salient.sum()),
        **({} if one.label else wrong),
        "signal": has_signal(one, margin),
    }
