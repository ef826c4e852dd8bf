"""From questions to answers: a model answers each as often as asked, and a grader labels what it said."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

from nlft.config import Range
from nlft.core.prompts import Prompt, fill
from nlft.data.grading import Grader, get_grader
from nlft.data.records import Example, Question
from nlft.errors import UserError
from nlft.models.answerer import Answerer, Generated, Request, complete


@dataclass
class SamplingSettings:
    """How questions are answered for training."""

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
                f"--samples_per_question {self.samples_per_question} at --temperature 0 gives copies.\n"
                "  Set a temperature, 0.8 for example."
            )


def sampling_grader(settings: SamplingSettings) -> Grader:
    """The grader that labels sampled answers."""
    options = {"extraction": settings.extraction} if settings.grader == "number" else {}
    return get_grader(settings.grader, **options)


def ask(question: Question, template: str) -> Prompt:
    """The question as a model is asked it, in sampling, training and evaluation alike."""
    if isinstance(question.prompt, str):
        return fill(template, prompt=question.prompt)
    *earlier, last = question.prompt
    return [*earlier, {**last, "content": fill(template, prompt=last["content"])}]


def sample(
    questions: Sequence[Question], model: Answerer, template: str, grader: Grader, *, per_question: int = 1
) -> list[Example]:
    """Answers to each question, labelled by the grader; wrong ones are still without judgment.

    An answer that could not be graded counts as wrong, and its record says so (`verdict`), as it says how it
    ended (`finish_reason`). With several a question, the second of `gsm8k-7` is called `gsm8k-7#2`.
    """
    wanted = [(question, f"{question.id}#{n}") for question in questions for n in range(1, per_question + 1)]
    requests = [Request(key, ask(question, template)) for question, key in wanted]
    answers = complete(requests, model, "sampling")
    return [
        _example(question, question.id if per_question == 1 else key, request.prompt, answer, grader)
        for (question, key), request, answer in zip(wanted, requests, answers, strict=True)
    ]


def _example(question: Question, id: str | int, prompt: Prompt, answer: Generated, grader: Grader) -> Example:
    grade = grader(answer.text, question.answer)
    return Example(
        id=id,
        prompt=prompt,
        completion=answer.text or " ",
        label=grade.verdict == "right",
        answer=question.answer,
        extra={"verdict": grade.verdict, "finish_reason": answer.finish_reason},
    )
