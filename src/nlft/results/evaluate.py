"""Evaluate a model: let it answer questions greedily, and grade each answer with its evidence.

Grades come from `data.grading`, which also labels the training examples. A ledger keeps finished answers.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.core.prompts import Prompt, fill_prompt
from nlft.data.checks import ALL_CHECKS, CheckResult, all_passed
from nlft.data.checks_grader import ChecksGrader
from nlft.data.gradable import check_answers, check_gradable
from nlft.data.grading import CHECKS, Grade, Grader, get_grader
from nlft.data.records import Question, reply_to
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.files import json_bytes, write_whole
from nlft.models.answerer import Answerer, CompletionRequest, Generated, complete
from nlft.models.ledger import Ledgered
from nlft.models.ledger_file import Ledger
from nlft.models.settings import CallSettings
from nlft.results.clusters import Clusters, read_clusters
from nlft.results.collateral import Breach, Collateral, breaches
from nlft.results.collateral_report import collateral_json, collateral_lines
from nlft.results.settings import CollateralSettings, EvaluationSettings
from nlft.results.stats import Proportion, clustered_wilson

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nlft.models.local import LocalModel
    from nlft.results.beside import Reference

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Summary:
    """An evaluation in a few numbers.

    Attributes:
        accuracy: the rate of right answers by reading. The readings are those of `graders` for numbers; `all
            checks` and each check for checks; else `accuracy`. An ungraded answer does not count as right.
        graded_share: fraction of answers that could be graded, by reading.
        mean_tokens: mean length of the answers, in tokens.
        finished_share: fraction of answers that the model ended by itself.
        answer_logp: mean log-likelihood per token of the standard answers, if the grader grades nothing.
        intervals: what the intervals count, such as `intervals by item (30 items)`; None: independent questions.
    """

    questions: int
    accuracy: dict[str, Proportion]
    graded_share: dict[str, float]
    mean_tokens: float
    finished_share: float
    answer_logp: float | None = None
    intervals: str | None = None

    def lines(self) -> list[str]:
        """Return the summary as lines for the terminal."""
        length = f"mean length {self.mean_tokens:.0f} tokens, {self.finished_share:.0%} finished"
        if self.answer_logp is not None:
            logp = f"nothing was graded; mean log-likelihood per token of the standard answers {self.answer_logp:.3f}"
            return [f"{self.questions} questions: {logp}", length]
        width = max(9, *map(len, self.accuracy))
        rows = [
            f"{name:{width}} {proportion} of {self.questions}; {self.graded_share[name]:.0%} could be graded"
            for name, proportion in self.accuracy.items()
        ]
        return [*rows, *([f"95% {self.intervals}"] if self.intervals else []), length]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON, without the answers that an `Evaluation` has."""
        return asdict(Summary(**{f.name: getattr(self, f.name) for f in fields(Summary)}))


@dataclass(frozen=True)
class GradedAnswer:
    """A question, the model's answer to it, and the grades.

    Attributes:
        prompt: the text that the model was asked.
        answer: the standard answer, or None.
        output: the model's answer.
        tokens: length of the output.
        finish_reason: `stop` if the model ended its turn, `length` if `max_new_tokens` cut it off.
        grades: the grade by each reading.
        checks: the result of each check, if checks graded the answer.
    """

    id: str | int
    prompt: Prompt
    answer: str | None
    output: str
    tokens: int
    finish_reason: str
    grades: dict[str, Grade]
    checks: tuple[CheckResult, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the answer as evaluation.json stores it."""
        shown = {**vars(self), "grades": {name: grade.as_json() for name, grade in self.grades.items()}}
        del shown["checks"]
        return {**shown, "checks": [result.as_json() for result in self.checks]} if self.checks else shown


@dataclass(frozen=True)
class Evaluation(Summary):
    """A summary, with the answers that it summarises, in the order of the questions.

    Attributes:
        collateral: what else the adapter changed, and the bounds that this breaks; None and empty if not measured.
    """

    answers: tuple[GradedAnswer, ...] = ()
    collateral: Collateral | None = None
    broken: tuple[Breach, ...] = ()

    def lines(self) -> list[str]:
        """Return the summary and the collateral as lines for the terminal."""
        more = collateral_lines(self.collateral.figures(), self.broken) if self.collateral else []
        return [*super().lines(), *more]

    def _repr_html_(self) -> str:
        """Show the summary in a notebook, without the answers."""
        text = escape("\n".join(self.lines()))
        return f'<pre style="overflow-x: auto">{text}</pre>'


def graders(name: str, extraction: str = "final") -> dict[str, Grader]:
    """Return the graders that an evaluation reports, by name: one, or three for numbers (final, strict, flexible).

    Args:
        extraction: how numbers were read for the labels. This reading comes first, even if it is `original`.
    """
    if name == "number":
        readings = dict.fromkeys([extraction, "final", "strict", "flexible"])
        return {reading: get_grader("number", extraction=reading) for reading in readings}
    return {"accuracy": get_grader(name)}


def deciding_reading(readings: Iterable[str], extraction: str) -> str:
    """Return the reading that decides a comparison: the one by which the examples were labelled.

    Args:
        readings: the readings of an evaluation: those of `graders` for numbers; all checks, then each check, for
            checks; else only one. Earlier versions had only `strict` and `flexible`, which decides if neither is asked.
        extraction: how numbers were read for the labels.
    """
    names = list(readings)
    if ALL_CHECKS in names:
        return ALL_CHECKS
    if extraction in names:
        return extraction
    return "flexible" if "flexible" in names else names[0]


def evaluate(
    model: "Answerer | PreTrainedModel",
    questions: Sequence[Question],
    settings: EvaluationSettings | None = None,
    out: Path | str | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    about: Mapping[str, Any] | None = None,
    reference: "Reference | None" = None,
) -> Evaluation:
    """Answer every question and grade the answers.

    Args:
        model: an answerer, local or on a server; or a loaded transformers or PEFT model, with its `tokenizer`.
        settings: `max_new_tokens`, `eval_batch_size` and `system_prompt` apply only to a model that is passed with its
            tokenizer. An answerer has its own values.
        out: file to write, evaluation.json for example. None: write nothing. If the answerer has no ledger of its own,
            finished answers are kept beside the file in NAME.calls.jsonl, and are not asked for again.
        about: the evaluated model, adapter and file, to be written to `out`.
        reference: with `settings.collateral`, what the adapter is compared with; default: the same model without it.

    Raises:
        UserError: the settings do not suit the model, the grader is unknown, or it needs standard answers that some
            questions lack, or `cluster` a field; or the model cannot read a standard answer that it should score.
    """
    settings = settings or EvaluationSettings()
    out = Path(out) if out is not None else None
    answerer = _answerer(model, tokenizer, settings, out)
    readings = _readings(settings, answerer)
    local = _local_model(answerer)
    check_can_score(settings, elsewhere=local is None)
    questions = questions[: settings.limit]
    clusters = read_clusters(questions, settings.cluster)
    if settings.grader == "label":
        check_answers(questions, "--grader label", "It reports the log-likelihood of answers; or choose a --grader.")
    for grader in [readings] if isinstance(readings, ChecksGrader) else readings.values():
        check_gradable(questions, grader, settings.grader)
    requests = [
        CompletionRequest(str(q.id), fill_prompt(q.prompt, settings.prompt_template), inputs_of(q.extra))
        for q in questions
    ]
    rows = None
    if local and settings.grader == "label":  # before anything is asked: the model may not be able to read them
        from nlft.results.answer_scores import answer_rows, mean_logp

        rows = answer_rows(local, requests, [question.answer or "" for question in questions])
    generated = complete(requests, answerer, "evaluating")
    answers = _graded(questions, requests, generated, readings)
    logp = mean_logp(local, rows) if local and rows is not None else None
    names = readings.readings if isinstance(readings, ChecksGrader) else list(readings)
    evaluation = _summarize(answers, names, logp, clusters)
    if settings.collateral:
        found = _collateral(local, answerer, requests, generated, settings, reference)
        evaluation = replace(evaluation, collateral=found, broken=breaches(found.figures(), settings))
    if out is not None:
        _write(out, evaluation, settings, about or {})
    return evaluation


def _write(out: Path, evaluation: Evaluation, settings: EvaluationSettings, about: Mapping[str, Any]) -> None:
    """Write evaluation.json."""
    own = {f.name for f in fields(CollateralSettings)}  # they stand in `collateral`, if it was measured
    payload: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **about,
        **{name: value for name, value in asdict(settings).items() if name not in own},
        "summary": evaluation.as_json(),
    }
    if evaluation.collateral is not None:
        payload["collateral"] = collateral_json(evaluation.collateral, evaluation.broken, settings)
    payload["questions"] = [answer.as_json() for answer in evaluation.answers]
    write_whole(out, json_bytes(payload, indent=1))


def _collateral(local: "LocalModel | None", answerer: Answerer, *measured: Any) -> Collateral:
    """Measure the collateral of a local model with an adapter; see `measure_collateral`.

    Raises:
        UserError: the model is not local, or has no adapter.
    """
    from nlft.results.beside import measure_collateral

    if local is None or not hasattr(local.model, "disable_adapter"):
        raise no_base("the model is on a server or on Ray" if local is None else "the model has no adapter")
    return measure_collateral(local, answerer, *measured)


def _answerer(
    model: "Answerer | PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    settings: EvaluationSettings,
    out: Path | None,
) -> Answerer:
    """Return the model as an answerer. If it has no ledger, add one beside `out`.

    Raises:
        UserError: a transformers model comes without its tokenizer.
    """
    if tokenizer is not None:
        from nlft.models.loaded import loaded_answerer

        answerer: Answerer = loaded_answerer(
            model,
            tokenizer,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.eval_batch_size,
            system_prompt=settings.system_prompt,
            inputs=settings.template_inputs(),
        )
    elif hasattr(model, "answer") and hasattr(model, "identity"):
        answerer = model
    else:
        raise UserError(
            f"evaluate: {type(model).__name__} is not an answerer.\n"
            "  Give a loaded model together with its tokenizer: evaluate(model, questions, tokenizer=tokenizer)."
        )
    if out is None or isinstance(answerer, Ledgered):
        return answerer
    return Ledgered(answerer, Ledger(out.with_suffix(".calls.jsonl")), CallSettings())


def check_can_score(settings: EvaluationSettings, *, elsewhere: bool) -> None:
    """Refuse the grader `label` where the model is not loaded here.

    Raises:
        UserError: the grader is `label`, which needs log-likelihoods, and the model is not loaded here.
    """
    if settings.grader == "label" and elsewhere:
        raise UserError(
            "--grader label: it reports log-likelihoods of the standard answers, which only a local model gives.\n"
            "  Load the model here (without --base_url, --backend and --executor), or choose another --grader."
        )


def check_collateral(*, adapter: str | None, elsewhere: bool) -> None:
    """Refuse collateral where there is no base model to compare with.

    Raises:
        UserError: there is no adapter, or the model is not loaded here.
    """
    if elsewhere or adapter is None:
        raise no_base("the model is on a server or on Ray" if elsewhere else "there is no --adapter")


def no_base(why: str) -> UserError:
    """Return the error for collateral without a base model."""
    return UserError(
        f"--collateral compares an adapter with its base model, but {why}.\n"
        "  Give --adapter with a local model, or leave out --collateral."
    )


def _local_model(answerer: Answerer) -> "LocalModel | None":
    """Return the local model that the answerer uses. Return None if the answers come from elsewhere."""
    if "nlft.models.local" not in sys.modules:  # whoever made a local model has imported it; the import brings torch
        return None
    from nlft.models.local import LocalModel

    inner = answerer.inner if isinstance(answerer, Ledgered) else answerer
    return inner if isinstance(inner, LocalModel) else None


def _readings(settings: EvaluationSettings, answerer: Answerer) -> "Mapping[str, Grader] | ChecksGrader":
    """Return the graders that the settings name. A judge's answers go into the answerer's ledger, under its limits."""
    if settings.grader != CHECKS:
        return graders(settings.grader, settings.extraction)
    return settings.make_checks(answerer if isinstance(answerer, Ledgered) else None)


def _graded(
    questions: Sequence[Question],
    requests: Sequence[CompletionRequest],
    generated: Sequence[Generated],
    readings: "Mapping[str, Grader] | ChecksGrader",
) -> tuple[GradedAnswer, ...]:
    """Grade the answers by every reading."""
    replies = [
        reply_to(question, answer.text, request.prompt)
        for question, request, answer in zip(questions, requests, generated, strict=True)
    ]
    grades: list[dict[str, Grade]]
    checked: list[tuple[CheckResult, ...]] = [()] * len(replies)
    if isinstance(readings, ChecksGrader):
        checked = [tuple(results) for results in readings.check(replies)]
        grades = [
            {ALL_CHECKS: all_passed(results, reply.text), **{r.name: r.grade(reply.text) for r in results}}
            for results, reply in zip(checked, replies, strict=True)
        ]
    else:
        grades = [{name: grader(r.text, r.answer) for name, grader in readings.items()} for r in replies]
    return tuple(
        GradedAnswer(q.id, asked.prompt, q.answer, a.text, a.tokens, a.finish_reason, given, results)
        for q, asked, a, given, results in zip(questions, requests, generated, grades, checked, strict=True)
    )


def _summarize(
    answers: tuple[GradedAnswer, ...], readings: list[str], logp: float | None, clusters: Clusters | None
) -> Evaluation:
    n = len(answers)

    def rate(reading: str) -> Proportion:
        return clustered_wilson([answer.grades[reading].grade == "right" for answer in answers], clusters)

    return Evaluation(
        questions=n,
        accuracy={name: rate(name) for name in readings},
        graded_share={
            name: 1 - sum(answer.grades[name].grade == "ungraded" for answer in answers) / max(n, 1)
            for name in readings
        },
        mean_tokens=sum(answer.tokens for answer in answers) / max(n, 1),
        finished_share=sum(answer.finish_reason == "stop" for answer in answers) / max(n, 1),
        answer_logp=logp,
        intervals=str(clusters) if clusters and readings else None,
        answers=answers,
    )
