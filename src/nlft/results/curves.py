"""Follow an arm along its training: points of its curve, the choice of a dose, the KL at equal violation. No torch.

A violation is an answer that is not right by the deciding reading. With checks, it is a reply that breaks a check.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nlft.results.collateral import Collateral, Reply, style
from nlft.results.evaluate import Evaluation, deciding_reading

TOLERANCE = 0.02  # share of the training prompts by which a step may have more violations than the best step


@dataclass(frozen=True)
class OnTraining:
    """What an arm does on its training prompts.

    Attributes:
        violations: number of answers that are not right.
        prompts: number of different training prompts.
        kl: KL(base ‖ tuned) in nats per token of the base's answers to them; None if not measured.
    """

    violations: int
    prompts: int
    kl: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """An arm after a number of optimizer steps, on the test questions.

    Attributes:
        right, questions: numbers of right answers and of questions.
        words, ends, repetition: mean length, share that ended by itself, share of repeated word sequences; see `Style`.
        kl, kl_tokens: KL to base on the task's prompts, in nats per token outside struck tokens, and the number of
            these tokens; None and 0 if not measured.
        kl_elsewhere, kl_elsewhere_tokens: the same on the prompts to keep.
        dose: how often a struck token was trained on average; None if nothing is struck.
        training: the arm on its training prompts; None if it was not asked them.
    """

    step: int
    right: int
    questions: int
    words: float
    ends: float
    repetition: float
    kl: float | None = None
    kl_tokens: int = 0
    kl_elsewhere: float | None = None
    kl_elsewhere_tokens: int = 0
    dose: float | None = None
    training: OnTraining | None = None

    @property
    def violation(self) -> float:
        """Share of answers that are not right."""
        return 1 - self.right / self.questions

    def as_json(self) -> dict[str, Any]:
        """Return the point as result.json stores it."""
        return {**asdict(self), "violation": self.violation}


def curve_point(
    step: int,
    evaluation: Evaluation,
    extraction: str,
    *,
    dose: float | None = None,
    training: OnTraining | None = None,
) -> CurvePoint:
    """Make a point of the curve from an evaluation on the test questions.

    Args:
        extraction: how numbers were read when the examples were labelled.
    """
    deciding = evaluation.accuracy[deciding_reading(evaluation.accuracy, extraction)]
    form = style([Reply(a.output, a.tokens, a.finish_reason == "stop") for a in evaluation.answers])
    task, elsewhere = (_kl(evaluation.collateral, name) for name in ("task", "keep"))
    return CurvePoint(
        step, deciding.count, deciding.n, form.words, form.ends, form.repetition, *task, *elsewhere, dose, training
    )


def _kl(found: Collateral | None, name: str) -> tuple[float | None, int]:
    kl = found.sets[name].kl if found else None
    return (kl.outside, kl.tokens) if kl else (None, 0)


def points_of(result: Mapping[str, Any]) -> list[CurvePoint]:
    """Read the points of the curve from a result.json, in the order of the steps."""
    found = []
    for stored in result.get("curve", []):
        data = {name: value for name, value in stored.items() if name != "violation"}
        training = OnTraining(**data["training"]) if data["training"] else None
        found.append(CurvePoint(**{**data, "training": training}))
    return found


def mean_curve(results: Iterable[Mapping[str, Any]]) -> list[CurvePoint]:
    """Return the curve over several cells. A step is the mean over the cells that have it, by answers and by tokens.

    Args:
        results: the contents of the cells' result.json.
    """
    by_step: dict[int, list[CurvePoint]] = {}
    for result in results:
        for point in points_of(result):
            by_step.setdefault(point.step, []).append(point)
    return [_mean(points) for _, points in sorted(by_step.items())]


def _mean(points: Sequence[CurvePoint]) -> CurvePoint:
    questions = [p.questions for p in points]
    kl, tokens = _pooled([(p.kl, p.kl_tokens) for p in points])
    elsewhere, elsewhere_tokens = _pooled([(p.kl_elsewhere, p.kl_elsewhere_tokens) for p in points])
    doses = [p.dose for p in points if p.dose is not None]
    return CurvePoint(
        step=points[0].step,
        right=sum(p.right for p in points),
        questions=sum(questions),
        words=_weighted([p.words for p in points], questions),
        ends=_weighted([p.ends for p in points], questions),
        repetition=_weighted([p.repetition for p in points], questions),
        kl=kl,
        kl_tokens=tokens,
        kl_elsewhere=elsewhere,
        kl_elsewhere_tokens=elsewhere_tokens,
        dose=sum(doses) / len(doses) if doses else None,
    )


def _pooled(measured: Sequence[tuple[float | None, int]]) -> tuple[float | None, int]:
    known = [(kl, tokens) for kl, tokens in measured if kl is not None]
    if len(known) < len(measured):
        return None, 0
    tokens = [count for _, count in known]
    return _weighted([kl for kl, _ in known], tokens), sum(tokens)


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(v * w for v, w in zip(values, weights, strict=True)) / max(1, sum(weights))


def chosen_step(points: Iterable[CurvePoint]) -> int:
    """Choose the dose: the step whose answers to the training prompts are the arm's result.

    Take the steps with the fewest violations on the training prompts, and those that have at most 2% of the prompts
    more, or one prompt more. Of these steps, choose the one with the least KL on the training prompts. Without KL, and
    between equals, choose the earliest. Nothing of the test questions is read.

    The tolerance is there because one reply more or less is chance, while the KL grows with every step. Without it,
    chance would choose a later step and a model that changed more.
    """
    known = {point.step: point.training for point in points if point.training is not None}
    fewest = min(one.violations for one in known.values())
    near = {step: one for step, one in known.items() if one.violations - fewest <= max(1.0, TOLERANCE * one.prompts)}
    return min(near, key=lambda step: (near[step].kl or 0.0, step))


def kl_at(curve: Sequence[CurvePoint], violation: float, base: float) -> float | None:
    """Return the KL at which a curve first has a share of violations, in nats per token.

    The curve starts at the base, whose KL is 0. Between two points, both numbers are taken to change in a straight
    line.

    Args:
        violation: share of violations to reach.
        base: share of violations of the base.

    Returns:
        None if no point reaches the share, or a point has no KL.
    """
    if base <= violation:
        return 0.0
    share, kl = base, 0.0
    for point in curve:
        if point.kl is None:
            return None
        if point.violation <= violation:  # so the share falls here: it was above `violation` before
            return kl + (share - violation) / (share - point.violation) * (point.kl - kl)
        share, kl = point.violation, point.kl
    return None
