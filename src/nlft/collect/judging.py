"""Judges say in words what is wrong with a wrong completion, and the examples record where judge and label disagree.

The label comes from the grader, or from the user if there is no grader. A judge's opinion never changes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nlft.collect.opinions import Opinion, RightOrWrong, plain_text, quotes, read_opinion
from nlft.collect.rules import judge_by_rules
from nlft.config import Range
from nlft.core.prompts import fill, prompt_text
from nlft.data.grading import Grader, get_grader
from nlft.data.records import Example, completion_text
from nlft.errors import NLFTError, Problem, ProblemsError, UserError

if TYPE_CHECKING:  # importing it loads torch, which the judge by rules does not need
    from nlft.models.answerer import Answerer

JUDGE_PROMPT = """\
Below are a question, its standard answer, and a response to be reviewed.

Question:
{prompt}

Standard answer:
{answer}

Response:
{completion}

Do not answer the question; review the response. Follow its own steps in their order, and find the first one that is \
wrong. Quote that step, a single sentence or calculation, in double quotes, exactly as the response has it. Say in a \
sentence or two why it is wrong, but not what it should be. What it should be comes on the next line, after \
"Correction:". The last line says "Verdict: right" or "Verdict: wrong".

The review has this form:
The step "..." is wrong because ...
Correction: ...
Verdict: ..."""

Judge = Callable[[Sequence[Example]], list[Opinion]]
"""Examples -> one opinion per example, in the same order."""

LABELS_STAY = "label"  # the grader that grades nothing
_MOST_LISTED = 20


@dataclass
class JudgeSettings:
    """Who judges the completions, and how."""

    judge: Literal["rules", "self", "openai", "human"] = field(
        default="rules",
        metadata={
            "help": "rules: deterministic, offline; self: the model itself; openai: an OpenAI-compatible server; "
            "human: you, one by one, in the terminal."
        },
    )
    judge_prompt: str = field(
        default=JUDGE_PROMPT,
        metadata={
            "help": "What a model is asked. {prompt}, {answer}, {completion} and, if you like, {label} are filled in."
        },
    )
    grader: str = field(
        default=LABELS_STAY,
        metadata={
            "help": "Label the completions anew: number, exact, choice, regex, or a Python function's dotted path; "
            "label keeps the labels as they are."
        },
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="flexible",
        metadata={"help": "How the number grader reads an answer: after ####, or the last number."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Judge those again that have a judgment already."})
    check_right: bool = field(
        default=False,
        metadata={"help": "Ask a model about the right completions too, and note where it disagrees with the label."},
    )
    tries: Annotated[int, Range(1, 100)] = field(
        default=3, metadata={"help": "How often a model is asked for a judgment that can be used."}
    )
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Longest judgment, in tokens."}
    )
    temperature: Annotated[float, Range(0, inf)] = field(default=0.7, metadata={"help": "0 is greedy."})
    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Judgments that a local model writes at a time."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before the judge prompt."})
    seed: int = field(default=0, metadata={"help": "Seed of the random draws."})

    def __post_init__(self) -> None:
        check_template("judge_prompt", self.judge_prompt, "{prompt}", "{completion}")
        check_tries(self.tries, self.temperature)


@dataclass(frozen=True)
class Judged:
    """The result of judging.

    Attributes:
        examples: all examples, in their order. `extra` holds the judge's opinion as `judge_verdict` ("right" or
            "wrong"), and its feedback as `conflict` if the opinion differs from the label.
        asked: ids of the examples that the judge saw.
        failed: ids of wrong examples without a usable judgment, each with the reason.
    """

    examples: list[Example]
    asked: list[str | int]
    failed: dict[str | int, str]

    @property
    def conflicts(self) -> list[Example]:
        """The judged examples whose judge and label disagree."""
        seen = set(self.asked)
        return [e for e in self.examples if e.id in seen and "conflict" in e.extra]


def judge_with_rules(examples: Sequence[Example]) -> list[Example]:
    """Add a judgment by rules to every wrong example without a judgment.

    Raises:
        NLFTError: the rules find nothing wrong with some of these examples.
    """
    judged = judge_examples(examples, rules_judge, check_right=True)
    require_judgments(judged, "Write their judgments by hand, or correct the labels.")
    return judged.examples


def relabel(examples: Sequence[Example], grader: Grader) -> list[Example]:
    """Set each example's label and its `verdict` by the grader.

    A completion without an answer is labelled wrong, as in sampling. If the standard answer has no answer to compare
    with, the example stays as it is.
    """
    relabelled = []
    for example in examples:
        grade = grader(completion_text(example), example.answer)
        if grade.grade == "ungraded" and grade.expected is None:
            relabelled.append(example)
        else:
            extra = example.extra | {"verdict": grade.grade}
            relabelled.append(replace(example, label=grade.grade == "right", extra=extra))
    return relabelled


def grader_for(settings: JudgeSettings) -> Grader | None:
    """Return the grader that labels the completions again; None to keep the labels."""
    if settings.grader == LABELS_STAY:
        return None
    return get_grader(settings.grader, **({"extraction": settings.extraction} if settings.grader == "number" else {}))


def judge_examples(
    examples: Sequence[Example], judge: Judge, *, overwrite: bool = False, check_right: bool = False
) -> Judged:
    """Ask the judge about the wrong examples without a judgment, and add its judgments.

    Args:
        overwrite: ask also about wrong examples with a judgment. An example keeps its judgment if the new one cannot
            be used.
        check_right: ask also about right examples, to find conflicts. They get no judgment.
    """
    to_judge = [at for at, e in enumerate(examples) if (check_right if e.label else overwrite or not e.judgment)]
    opinions = judge([examples[at] for at in to_judge])
    judged, failed = list(examples), {}
    for at, opinion in zip(to_judge, opinions, strict=True):
        example = examples[at]
        judgment = opinion.judgment or example.judgment
        judged[at] = replace(with_opinion(example, opinion.says, opinion.feedback), judgment=judgment)
        if not example.label and opinion.judgment is None:
            failed[example.id] = opinion.refused
    return Judged(judged, [examples[at].id for at in to_judge], failed)


def rules_judge(examples: Sequence[Example]) -> list[Opinion]:
    """Judge by `nlft.collect.rules`. For a right completion, report only miscalculated steps."""
    opinions = []
    for example in examples:
        words = judge_by_rules(
            prompt_text(example.prompt),
            completion_text(example),
            example.answer,
            truncated=example.extra.get("finish_reason") == "length",
        )
        if not example.label:
            opinions.append(
                Opinion(words, feedback=words or "", refused="" if words else "the rules find nothing wrong")
            )
            continue
        wrong = [line for line in (words or "").split("\n") if line.endswith('" is miscalculated.')]
        opinions.append(Opinion(None, "wrong" if wrong else None, "\n".join(wrong)))
    return opinions


@dataclass(frozen=True)
class ModelJudge:
    """A language model as a judge.

    Attributes:
        model: answers the judge prompts.
        prompt: template with the slots `{prompt}`, `{answer}`, `{completion}` and `{label}`.
        tries: how often to ask about a wrong completion until a judgment can be used. Each try has its own random
            draws. The model is asked once about a right completion.
    """

    model: "Answerer"
    prompt: str = JUDGE_PROMPT
    tries: int = 1

    def __call__(self, examples: Sequence[Example]) -> list[Opinion]:
        from nlft.models.answerer import Request, complete

        prompts = [self._ask(example) for example in examples]
        opinions: dict[int, Opinion] = {}
        waiting = list(range(len(examples)))
        for attempt in range(1, self.tries + 1):
            if not waiting:
                break
            requests = [Request(f"{examples[at].id}#judge-{attempt}", prompts[at]) for at in waiting]
            answers = complete(requests, self.model, "judging" if attempt == 1 else f"judging, try {attempt}")
            for at, answer in zip(waiting, answers, strict=True):
                opinion = read_opinion(answer.text, answer.finish_reason, prompts[at], examples[at])
                # Keep an earlier try that said right or wrong if this one cannot be used.
                if at not in opinions or not opinion.refused or not opinions[at].says:
                    opinions[at] = opinion
            waiting = [at for at in waiting if opinions[at].refused]
        return [opinions[at] for at in range(len(examples))]

    def _ask(self, example: Example) -> str:
        return fill(
            self.prompt,
            prompt=prompt_text(example.prompt),
            answer=example.answer,
            completion=completion_text(example),
            label="right" if example.label else "wrong",
        )


def summary_lines(before: Sequence[Example], judged: Judged, settings: JudgeSettings) -> list[str]:
    """Say in a few lines how many examples were judged, and which labels the grader changed.

    Args:
        before: the examples before judging, in the same order.
    """
    wrong = [e for e in judged.examples if not e.label]
    seen = set(judged.asked) - set(judged.failed)
    new = [e for e in wrong if e.id in seen]
    had = sum(bool(e.judgment) for e in wrong) - len(new)
    lines = [
        f"{len(judged.examples)} examples, {len(judged.examples) - len(wrong)} right and {len(wrong)} wrong; "
        f"{len(new)} judged now ({settings.judge}), {had} judged earlier"
    ]
    if settings.judge in ("self", "openai") and new:
        quoting = sum(quotes(e.judgment or "", completion_text(e)) for e in new)
        lines.append(f"{quoting} of the {len(new)} quote the response")
    pairs = zip(before, judged.examples, strict=True)
    changed = [f"{new.id!r} (now {'right' if new.label else 'wrong'})" for old, new in pairs if old.label != new.label]
    if changed:
        by = "hand" if settings.grader == LABELS_STAY else f"the grader {settings.grader}"
        lines.append(f"{len(changed)} labels changed by {by}: {shortened(changed)}")
    if kept := _failed(judged, with_judgment=True):
        lines.append(f"{len(kept)} keep their earlier judgment: {shortened(kept)}")
    return lines


def require_judgments(judged: Judged, cure: str) -> None:
    """Check that every wrong example has a judgment.

    Args:
        cure: what the user can do about missing judgments.

    Raises:
        NLFTError: names the wrong examples without a judgment, each with the reason.
    """
    if left := _failed(judged, with_judgment=False):
        wrong = sum(not e.label for e in judged.examples)
        raise NLFTError(f"{len(left)} of {wrong} wrong examples have no judgment: {shortened(left)}.\n  {cure}")


def _failed(judged: Judged, *, with_judgment: bool) -> list[str]:
    """Ids and reasons of the failed examples that have, or do not have, an earlier judgment."""
    ids = [e.id for e in judged.examples if e.id in judged.failed and bool(e.judgment) == with_judgment]
    return [f"{id!r} ({judged.failed[id]})" for id in ids]


def conflict_lines(conflicts: Sequence[Example], file: str) -> list[str]:
    """List where judge and label disagree, for people. The file has all of them, in the field `conflict`."""
    if not conflicts:
        return []
    lines = [f"conflicts: {len(conflicts)}. Judge and label disagree; the labels were not changed."]
    for example in conflicts[:_MOST_LISTED]:
        feedback = " ".join(plain_text(str(example.extra["conflict"])).split())
        feedback = feedback if len(feedback) <= 160 else f"{feedback[:159]}…"
        lines.append(f"  {example.id!r} is labelled {'right' if example.label else 'wrong'}; the judge: {feedback}")
    if len(conflicts) > _MOST_LISTED:
        lines.append(f'  and {len(conflicts) - _MOST_LISTED} more; look for "conflict" in {file}')
    return lines


def shortened(items: Sequence[str], most: int = _MOST_LISTED) -> str:
    """Join the first `most` items, and say how many more there are."""
    named = ", ".join(items[:most])
    return named if len(items) <= most else f"{named} and {len(items) - most} more"


def check_template(name: str, template: str, *slots: str) -> None:
    """Check that the template has all slots.

    Raises:
        ProblemsError: names each missing slot.
    """
    missing = [Problem(f"--{name}", f"has no {s}", f"Add {s} to the text.") for s in slots if s not in template]
    if missing:
        raise ProblemsError(missing)


def check_tries(tries: int, temperature: float) -> None:
    """Check that a second try can differ from the first.

    Raises:
        UserError: there are several tries at temperature 0.
    """
    if tries > 1 and temperature == 0:
        raise UserError(
            f"--tries {tries} at --temperature 0 gives the same answer each time.\n"
            "  Set --temperature above 0, for example 0.7, or --tries 1."
        )


def with_opinion(example: Example, says: RightOrWrong | None, feedback: str) -> Example:
    """Replace the judge's opinion in the example's `extra`.

    Args:
        says: stored as `judge_verdict`; None removes an earlier opinion.
        feedback: stored as `conflict` if `says` differs from the label.
    """
    extra: dict[str, Any] = {k: v for k, v in example.extra.items() if k not in ("judge_verdict", "conflict")}
    if says:
        extra["judge_verdict"] = says
        if (says == "right") != example.label:
            extra["conflict"] = feedback or f"says {says}, without a reason"
    return replace(example, extra=extra)
