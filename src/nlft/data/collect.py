"""From questions to judged examples: a model answers, a grader labels, a judge says in words what is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Annotated, Literal

from nlft.config import Range
from nlft.core.conditions import Prompt, fill, prompt_text
from nlft.data.generation import LocalModel
from nlft.data.grading import Grader, get_grader
from nlft.data.records import Example, Question, completion_text
from nlft.data.rules import judge_by_rules
from nlft.errors import UserError
from nlft.progress import progress


@dataclass
class SamplingSettings:
    """How questions are answered for training."""

    grader: str = field(
        default="number",
        metadata={"help": "number, exact, choice, regex, or a Python function's dotted path."},
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="flexible",
        metadata={"help": "How the number grader reads an answer: after ####, or the last number."},
    )
    prompt_template: str = field(
        default="{prompt}", metadata={"help": "What the model is asked; {prompt} is the question."}
    )
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Longest answer, in tokens."}
    )
    temperature: Annotated[float, Range(0, inf)] = field(default=0.0, metadata={"help": "0 is greedy."})
    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Questions answered at a time."}
    )
    limit: Annotated[int | None, Range(1, 1_000_000_000)] = field(
        default=None, metadata={"help": "Only the first so many questions."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})
    seed: int = field(default=0, metadata={"help": "Seed of the random draws."})


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


def sample(questions: Sequence[Question], model: LocalModel, template: str, grader: Grader) -> list[Example]:
    """One answer to each question, labelled by the grader; wrong ones are still without judgment.

    An answer that could not be graded counts as wrong, and its record says so (`verdict`), as it says how it
    ended (`finish_reason`).
    """
    prompts = [ask(question, template) for question in questions]
    found: dict[int, Example] = {}
    with progress("sampling", len(questions), "question") as bar:
        for batch in model.answer([(str(q.id), p) for q, p in zip(questions, prompts, strict=True)]):
            for at, answer in batch:
                question = questions[at]
                grade = grader(answer.text, question.answer)
                found[at] = Example(
                    id=question.id,
                    prompt=prompts[at],
                    completion=answer.text or " ",
                    label=grade.verdict == "right",
                    answer=question.answer,
                    extra={"verdict": grade.verdict, "finish_reason": answer.finish_reason},
                )
            bar.update(len(batch))
    return [found[at] for at in range(len(questions))]


def judge(examples: Sequence[Example]) -> list[Example]:
    """The examples with a judgment by rules on every wrong one that has none yet.

    Raises:
        UserError: the rules find nothing to say about some of them.
    """
    judged: list[Example] = []
    silent: list[str | int] = []
    for example in examples:
        if example.label or example.judgment:
            judged.append(example)
            continue
        words = judge_by_rules(
            prompt_text(example.prompt),
            completion_text(example),
            example.answer,
            truncated=example.extra.get("finish_reason") == "length",
        )
        if words is None:
            silent.append(example.id)
        else:
            judged.append(replace(example, judgment=words))
    if silent:
        raise UserError(
            f"the rules find nothing wrong with {len(silent)} examples labelled wrong: {_listed(silent)}.\n"
            "  Write their judgments by hand, or correct the labels."
        )
    return judged


def _listed(ids: Sequence[str | int], most: int = 10) -> str:
    named = ", ".join(map(repr, ids[:most]))
    return named if len(ids) <= most else f"{named} and {len(ids) - most} more"
