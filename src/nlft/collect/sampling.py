"""Let a model answer questions, and let a grader label the answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

from nlft.config import Range
from nlft.core.prompts import Prompt, fill_prompt
from nlft.data.grading import Grader, get_grader
from nlft.data.records import Example, Question
from nlft.errors import UserError
from nlft.models.answerer import Answerer, Generated, Request, complete


@dataclass
class SamplingSettings:
    """How a model answers questions, and which grader labels the answers."""

    grader: str = field(
        default="number",
        metadata={
            "help": "number, exact, choice, regex, label (you label by hand), or a Python function's dotted path."
        },
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="flexible",
        metadata={"help": "How the number grader reads an answer: after ####, or the last number."},
    )
    prompt_template: str = field(
        default="{prompt}", metadata={"help": "What the model is asked; {prompt} is the question."}
    )
    samples_per_question: Annotated[int, Range(1, 10_000)] = field(
        default=1, metadata={"help": "Completions for each question; more than one needs a temperature."}
    )
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Longest answer, in tokens."}
    )
    temperature: Annotated[float, Range(0, inf)] = field(default=0.0, metadata={"help": "0 is greedy."})
    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Completions that a local model writes at a time."}
    )
    limit: Annotated[int | None, Range(1, 1_000_000_000)] = field(
        default=None, metadata={"help": "Only the first so many questions."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})
    seed: int = field(default=0, metadata={"help": "Seed of the random draws."})

    def __post_init__(self) -> None:
        if self.samples_per_question > 1 and self.temperature == 0:
            raise UserError(
                f"--samples_per_question {self.samples_per_question} at --temperature 0 gives identical answers.\n"
                "  Set --temperature above 0, for example 0.8."
            )


def sampling_grader(settings: SamplingSettings) -> Grader:
    """Return the grader that labels sampled answers."""
    options = {"extraction": settings.extraction} if settings.grader == "number" else {}
    return get_grader(settings.grader, **options)


def sample_answers(
    questions: Sequence[Question], model: Answerer, template: str, grader: Grader, *, per_question: int = 1
) -> list[Example]:
    """Let the model answer each question, and label the answers with the grader. Wrong answers get no judgment yet.

    An answer that could not be graded is labelled wrong. Its record then has `verdict` "ungraded". Each record also
    holds the answer's `finish_reason`.

    Args:
        template: the text to ask, with `{prompt}` for the question.
        per_question: answers per question. If there are several, the second answer to `gsm8k-7` has the id
            `gsm8k-7#2`.
    """
    keyed = [(question, f"{question.id}#{n}") for question in questions for n in range(1, per_question + 1)]
    requests = [Request(key, fill_prompt(question.prompt, template)) for question, key in keyed]
    answers = complete(requests, model, "sampling")
    return [
        _example(question, question.id if per_question == 1 else key, request.prompt, answer, grader)
        for (question, key), request, answer in zip(keyed, requests, answers, strict=True)
    ]


def _example(question: Question, id: str | int, prompt: Prompt, answer: Generated, grader: Grader) -> Example:
    grade = grader(answer.text, question.answer)
    return Example(
        id=id,
        prompt=prompt,
        completion=answer.text or " ",
        label=grade.grade == "right",
        answer=question.answer,
        extra={"verdict": grade.grade, "finish_reason": answer.finish_reason},
    )
