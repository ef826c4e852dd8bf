"""Let a model answer questions, and let a grader label the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from nlft.config import Range
from nlft.core.prompts import SystemPromptSettings, fill_prompt
from nlft.data.checks_grader import CheckSettings
from nlft.data.gradable import check_gradable, is_undecided
from nlft.data.grading import CHECKS, ExtractionSettings, Grader, ReplyGrader, grade_replies
from nlft.data.records import Example, Question, reply_to
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.models.answerer import Answerer, CompletionRequest, complete
from nlft.models.settings import GenerationSettings


@dataclass
class AskSettings:
    """Settings of the request that asks a question."""

    prompt_template: str = field(
        default="{prompt}", metadata={"help": "What the model is asked. {prompt} is the question."}
    )


@dataclass
class LimitSettings:
    """Limit on the number of questions."""

    limit: Annotated[int | None, Range(1, 1_000_000_000)] = field(
        default=None, metadata={"help": "Number of questions to use, from the first on."}
    )


@dataclass
class SamplesSettings:
    """Number of answers per question."""

    samples_per_question: Annotated[int, Range(1, 10_000)] = field(
        default=1, metadata={"help": "Completions per question. More than one needs a temperature above 0."}
    )


@dataclass
class SamplingSettings(
    SamplesSettings, AskSettings, LimitSettings, ExtractionSettings, CheckSettings, GenerationSettings,
    SystemPromptSettings,
):  # fmt: skip
    """Settings for sampling answers for training."""

    def __post_init__(self) -> None:
        self.settle_checks()
        if self.samples_per_question > 1 and self.temperature == 0:
            raise UserError(
                f"--samples_per_question {self.samples_per_question}: at --temperature 0 all of them are the same.\n"
                "  Set a temperature, 0.8 for example."
            )


def sample_answers(
    questions: Sequence[Question],
    model: Answerer,
    template: str,
    grader: Grader | ReplyGrader,
    *,
    per_question: int = 1,
) -> list[Example]:
    """Let the model answer each question, and label the answers with the grader. Wrong answers get no judgment yet.

    An answer that states something which could not be compared with the standard answer is left out: it is neither
    right nor wrong. So is an answer that fails no check while one is undecided. An answer that states nothing, or did
    not end by itself, is labelled wrong; its record has `verdict` "ungraded". Each record also holds the answer's
    `finish_reason`, and the question's other fields.

    Args:
        template: the text to send to the model, with `{prompt}` for the question.
        grader: grades the answers. Questions without a standard answer are refused if it needs one.
        per_question: answers per question. If there are several, the second answer to `gsm8k-7` has the id
            `gsm8k-7#2`.
    """
    check_gradable(questions, grader)
    keyed = [(question, f"{question.id}#{n}") for question in questions for n in range(1, per_question + 1)]
    requests = [
        CompletionRequest(key, fill_prompt(question.prompt, template), inputs_of(question.extra))
        for question, key in keyed
    ]
    answers = complete(requests, model, "sampling")
    replies = [
        reply_to(question, answer.text, request.prompt, key)
        for (question, key), request, answer in zip(keyed, requests, answers, strict=True)
    ]
    grades = grade_replies(grader, replies)
    return [
        Example(
            id=question.id if per_question == 1 else key,
            prompt=reply.prompt,
            completion=answer.text or " ",
            label=grade.grade == "right",
            answer=question.answer,
            extra={**question.extra, "verdict": grade.grade, "finish_reason": answer.finish_reason},
        )
        for (question, key), reply, answer, grade in zip(keyed, replies, answers, grades, strict=True)
        if answer.finish_reason != "stop" or not is_undecided(grade, grader)
    ]


def left_out_line(left_out: int, grader: str) -> str:
    """Say how many answers sampling left out, and why.

    Args:
        grader: the grader's name.
    """
    why = "they cannot be compared with their standard answers (docs/GRADING.md)"
    if grader == CHECKS:
        why = "no check failed, but some are undecided (docs/CHECKS.md)"
    return f"{left_out} more answers left out: {why}"
