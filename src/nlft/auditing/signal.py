"""What the judgments do to the model: which tokens they move, and whether another example's judgment moves them too.

Every completion is scored under its conditions as training does it. Each wrong one is scored under the judgments of a
few other examples as well (placebos). A judgment is believed to say something about its completion if it adds more
probability to the completion's tokens than placebos do, or makes the whole completion likelier; by how much placebos
differ among themselves says what is more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nlft.auditing.findings import Finding, quoted
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import evaluating, score_batch
from nlft.core.conditions import ConditionEncoder, EncodedExample, pad_rows
from nlft.core.logprobs import enable_scoring, score
from nlft.core.saliency import Tag
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights
from nlft.data.records import Example, completion_text
from nlft.errors import ProblemsError
from nlft.progress import progress

Floats = NDArray[np.float64]

STYLE_SHARE = 0.4  # so much of the movement on punctuation and white space is mostly style: content moves at digits too
_SIGNS = frozenset("+-−*/×÷·=<>%$€£^")  # in a calculation these are content
_NEEDS = frozenset({"standard", "judge", "band"})


@dataclass
class Measured:
    """One completion under its conditions; probabilities, one a token, the end of turn included.

    Attributes:
        tokens: their texts.
        base, standard, judge: `judge` is base where the completion is right.
        salient: which tokens training would tag.
        placebos: under other examples' judgments, by those examples' ids.
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
        """Probability that a judgment adds, summed over the tokens whose probability it raises."""
        return float(np.maximum(under - self.base, 0).sum())

    @property
    def gap(self) -> float:
        """By how much the own judgment adds more than placebos do on average."""
        return self.added(self.judge) - float(np.mean([self.added(p) for p in self.placebos.values()]))

    @property
    def fit(self) -> float:
        """Nats by which the completion is likelier under its own judgment than under placebos on average."""
        return float(np.mean([_nats(self.judge, placebo) for placebo in self.placebos.values()]))

    @property
    def style_share(self) -> float:
        """Of what the judgment alone adds, the share on punctuation, white space and the end of turn.

        The smaller one of two shares: of what it adds over base and placebos, and over standard as well.
        """
        usual = np.mean([*self.placebos.values()], axis=0) if self.placebos else self.base
        style = [is_style(token) for token in self.tokens]
        shares = []
        for reference in (self.base, np.maximum(self.base, self.standard)):
            added = np.maximum(self.judge - np.maximum(reference, usual), 0)
            shares.append(float(added[style].sum() / added.sum()) if added.sum() > 0 else 0.0)
        return min(shares)


def is_style(token: str) -> bool:
    """Whether a token is punctuation, white space or a control token, and no sign of a calculation."""
    text = token.strip()
    return text.startswith("<|") or (text not in _SIGNS and not any(map(str.isalnum, text)))


def _nats(one: Floats, other: Floats) -> float:
    tiny = np.finfo(np.float64).tiny
    return float((np.log(np.maximum(one, tiny)) - np.log(np.maximum(other, tiny))).sum())


# Scoring.


def measure(
    model: Any,
    encoder: ConditionEncoder,
    examples: Sequence[tuple[Example, EncodedExample]],
    saliency: NLFTSettings,
    *,
    placebos: int,
    batch_size: int,
    seed: int,
) -> list[Measured]:
    """Score the examples under their conditions, and the wrong ones under `placebos` other judgments each."""
    enable_scoring(model)
    wrong = [at for at, (example, _) in enumerate(examples) if not example.label]
    given = [(at, example, row) for at, example, row in _placebo_rows(encoder, examples, wrong, placebos, seed)]
    found: dict[int, Measured] = {}
    with torch.no_grad(), evaluating(model), progress("scoring", len(examples) + len(given), "row") as bar:
        for batch in _batches([_length(encoded) for _, encoded in examples], batch_size):
            measured = _score([examples[at][1] for at in batch], model, encoder.tokenizer, saliency)
            found.update(zip(batch, measured, strict=True))
            bar.update(len(batch))
        for batch in _batches([len(prompt) + len(completion) for _, _, (prompt, completion) in given], batch_size):
            rows = pad_rows([given[at][2] for at in batch], encoder.tokenizer.pad_token_id)
            scored = score(model, _on(rows, model))
            for row, place in enumerate(batch):
                at, other, _ = given[place]
                found[at].placebos[other] = _probabilities(scored.logp[row], len(found[at].tokens))
            bar.update(len(batch))
    return [found[at] for at in range(len(examples))]


def _score(encoded: list[EncodedExample], model: Any, tokenizer: Any, saliency: NLFTSettings) -> list[Measured]:
    builder = BatchBuilder(tokenizer.pad_token_id, needs=_NEEDS, targets=False)
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
    wanted: int,
    seed: int,
) -> list[tuple[int, str | int, tuple[list[int], list[int]]]]:
    """(place, id of the judgment's example, row) of each completion under the next few other judgments in a shuffle."""
    order = list(wrong)
    Random(seed).shuffle(order)
    rows = []
    for turn, at in enumerate(order if wanted else []):
        example, encoded = examples[at]
        seen = {example.judgment}
        for step in range(1, len(order)):
            other = examples[order[(turn + step) % len(order)]][0]
            if len(seen) > wanted:
                break
            if other.judgment in seen:
                continue
            try:
                judge = _encode(encoder, example, other.judgment or "").judge or []
            except ProblemsError:  # too long for this prompt
                continue
            seen.add(other.judgment)
            rows.append((at, other.id, (judge, encoded.completion)))
    return rows


def _encode(encoder: ConditionEncoder, example: Example, judgment: str) -> EncodedExample:
    return encoder.encode(
        id=example.id,
        prompt=example.prompt,
        completion=completion_text(example),
        label=False,
        answer=example.answer,
        judgment=judgment,
    )


def _length(encoded: EncodedExample) -> int:
    return len(encoded.completion) + max(len(encoded.standard), len(encoded.judge or []))


def _batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places in batches of like length, the longest first, so that memory runs out at once or not at all."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    return [order[start : start + size] for start in range(0, len(order), size)]


def _device(model: Any) -> Any:
    return next(model.parameters()).device


def _on(rows: Any, model: Any) -> Any:
    device = _device(model)
    return type(rows)(rows.input_ids.to(device), rows.attention_mask.to(device), rows.labels.to(device))


def _probabilities(logp: torch.Tensor, length: int) -> Floats:
    return logp[:length].double().exp().cpu().numpy()


# From measurements to findings.


@dataclass(frozen=True)
class Margins:
    """What a judgment must exceed, each for a completion of one token; grows with the root of the length.

    Attributes:
        gap, fit: see `Measured`; both 0 where there is one placebo, and nothing to tell their spread by.
    """

    gap: float = 0.0
    fit: float = 0.0


def margins(measured: Sequence[Measured], level: float) -> Margins:
    """By how much placebos differ from each other, at this quantile over the examples."""
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
    """Whether the own judgment moves more than others do; true where there was nothing to compare with."""
    scale = len(one.tokens) ** 0.5
    return not one.placebos or one.gap > margin.gap * scale or one.fit > margin.fit * scale


def has_signal(one: Measured, margin: Margins) -> bool:
    """Whether training has something to go by: a tagged token, and in a wrong completion more than a placebo's."""
    return bool(one.salient.any()) and (one.label or beats_placebo(one, margin))


def signal_findings(measured: Sequence[Measured], margin: Margins) -> list[Finding]:
    """At most one finding for each wrong completion."""
    found = []
    for one in measured:
        if not one.label and (said := _finding(one, margin)):
            found.append(Finding(said[0], one.id, said[1]))
    return found


def _finding(one: Measured, margin: Margins) -> tuple[str, str] | None:
    tagged, beats = int(one.salient.sum()), beats_placebo(one, margin)
    # Where it adds much more than placebos do, something besides punctuation moves as well.
    little = not one.placebos or one.gap <= margin.gap * len(one.tokens) ** 0.5
    if little and one.style_share > STYLE_SHARE:
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
    return f"{one.style_share:.0%} of what it moves is punctuation, white space or the end of turn, such as {shown}"


def _against(one: Measured) -> str:
    others = " and ".join(f"{one.added(p):.2f}" for p in one.placebos.values())
    return f"its judgment adds {one.added(one.judge):.2f} of probability, other examples' add {others}"


def _most_moved(one: Measured) -> str:
    at = int(np.argmax(one.judge - np.maximum(one.base, one.standard)))
    return (
        f"most moved is {quoted(one.tokens[at])}, from {one.base[at]:.2f} to {one.judge[at]:.2f} "
        f"({one.standard[at]:.2f} in view of the answer)"
    )


def figures(one: Measured, margin: Margins) -> Mapping[str, Any]:
    """The measurements of one example, ready for JSON."""
    wrong = {
        "added": round(one.added(one.judge), 4),
        "placebos": {str(id): round(one.added(p), 4) for id, p in one.placebos.items()},
        "fit": round(one.fit, 4) if one.placebos else None,
        "style_share": round(one.style_share, 4),
    }
    return {
        "id": one.id,
        "label": one.label,
        "tokens": len(one.tokens),
        "tagged": int(one.salient.sum()),
        **({} if one.label else wrong),
        "signal": has_signal(one, margin),
    }
