"""Judges describe what is wrong with a wrong completion. The examples record where judge and label disagree.

The label comes from the grader, or from the user if there is no grader. A judge's opinion never changes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from nlft.collect.opinions import Opinion, RightOrWrong, plain_text, quotes, read_opinion
from nlft.collect.rules import judge_by_rules
from nlft.config import Range, override, with_defaults
from nlft.core.prompts import SystemPromptSettings, fill, prompt_text
from nlft.core.spans import merged_spans
from nlft.data.checks_grader import CheckSettings, ChecksGrader
from nlft.data.gradable import check_gradable, is_undecided
from nlft.data.grading import CHECKS, ExtractionSettings, Grader, ReplyGrader, grade_replies
from nlft.data.records import Example, completion_text, reply_to
from nlft.data.relabelling import hand_spans, with_label
from nlft.errors import NLFTError, Problem, ProblemsError, UserError
from nlft.models.settings import GenerationSettings

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
"""A function from examples to one opinion per example, in the same order."""

LABELS_STAY = "label"  # the grader that grades nothing
_MOST_LISTED = 20


@dataclass
class JudgeChoice:
    """Choice of the judge."""

    judge: Literal["rules", "self", "checks"] = field(
        default="rules",
        metadata={
            "help": "What judges wrong completions. rules: arithmetic, offline; checks: see --checks; self: the model"
        },
    )


@dataclass
class RetrySettings:
    """Settings for repeated requests to a model, and for the choice of examples."""

    tries: Annotated[int, Range(1, 100)] = field(
        default=3, metadata={"help": "Maximum requests per example. Asking ends at the first usable answer."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Also redo the examples that are done already."})


@dataclass
@with_defaults(grader=LABELS_STAY, temperature=0.7)
class JudgeSettings(
    JudgeChoice, ExtractionSettings, CheckSettings, RetrySettings, GenerationSettings, SystemPromptSettings
):
    """Settings for judging completions."""

    judge: Literal["rules", "self", "checks", "openai", "human"] = override(  # type: ignore[assignment]
        JudgeChoice, "judge", also="; openai: a server; human: you, in the terminal"
    )
    judge_prompt: str = field(
        default=JUDGE_PROMPT,
        metadata={
            "help": "Prompt for a model as judge. Needs {prompt} and {completion}; may have {answer} and {label}."
        },
    )
    check_right: bool = field(
        default=False,
        metadata={"help": "Also ask a model about right completions, and note where it disagrees with the label."},
    )

    def __post_init__(self) -> None:
        self.settle_checks(also=(LABELS_STAY,))
        check_judge_has_checks(self.judge, self.checks)
        if self.checks and self.judge != CHECKS and self.grader != CHECKS:
            raise UserError("--checks is not used.\n  Add --judge checks, or --grader checks to label by them.")
        check_template("judge_prompt", self.judge_prompt, "{prompt}", "{completion}")
        check_tries(self.tries, self.temperature)


@dataclass(frozen=True)
class Judged:
    """The result of judging.

    Attributes:
        examples: all examples, in their order. `extra["judge_verdict"]` is the judge's opinion, "right" or "wrong". If
            it differs from the label, `extra["conflict"]` is the judge's feedback.
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


def relabel(examples: Sequence[Example], grader: Grader | ReplyGrader) -> list[Example]:
    """Set each example's label and its `verdict` by the grader; a changed label drops what `with_label` says.

    A completion without an answer is labelled wrong, as in sampling. If completion or standard answer cannot be
    compared, the example stays as it is. So does a reply that must be kept: it is out of the feedback's scope.

    Raises:
        RecordsError: the grader needs standard answers, and some examples have none.
    """
    check_gradable(examples, grader)
    relabelled = []
    grades = grade_replies(grader, [reply_to(example, completion_text(example)) for example in examples])
    for example, grade in zip(examples, grades, strict=True):
        not_compared = (grade.grade == "ungraded" and grade.expected is None) or is_undecided(grade, grader)
        if example.keep or not_compared:
            relabelled.append(example)
        else:
            changed = with_label(example, grade.grade == "right")
            relabelled.append(replace(changed, extra=changed.extra | {"verdict": grade.grade}))
    return relabelled


def grader_for(settings: JudgeSettings, checks: ChecksGrader | None) -> Grader | ReplyGrader | None:
    """Return the grader that labels the completions again. Return None to keep the labels.

    Args:
        checks: the grader of the settings' checks.
    """
    if settings.grader == LABELS_STAY:
        return None
    return checks if settings.grader == CHECKS else settings.make_grader()


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
        judged[at] = with_opinion(_with_judgment(example, opinion), opinion.says, opinion.feedback)
        if not example.label and opinion.judgment is None:
            failed[example.id] = opinion.refused
    return Judged(judged, [examples[at].id for at in to_judge], failed)


def _with_judgment(example: Example, opinion: Opinion) -> Example:
    """Return the example with the opinion's judgment and spans in place of those of an earlier judgment.

    Args:
        example: with its earlier `judge_verdict`, which says whether a judge wrote the earlier judgment.
    """
    if opinion.judgment is None:
        return example
    spans = hand_spans(example)
    for span in opinion.spans:
        spans = merged_spans(spans, [span])  # what a reader marked stays
    return replace(example, judgment=opinion.judgment, spans=spans)


def rules_judge(examples: Sequence[Example]) -> list[Opinion]:
    """Judge by `nlft.collect.rules`. For a right completion, report only miscalculated steps."""
    opinions = []
    for example in examples:
        if example.answer is None:
            opinions.append(Opinion(None, refused="the rules need a standard answer"))
            continue
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
        from nlft.models.answerer import CompletionRequest, complete

        prompts = [self._ask(example) for example in examples]
        opinions: dict[int, Opinion] = {}
        waiting = list(range(len(examples)))
        for attempt in range(1, self.tries + 1):
            if not waiting:
                break
            requests = [CompletionRequest(f"{examples[at].id}#judge-{attempt}", prompts[at]) for at in waiting]
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
            answer=example.answer or example.feedback or "(none)",
            completion=completion_text(example),
            label="right" if example.label else "wrong",
        )


def summary_lines(before: Sequence[Example], judged: Judged, settings: JudgeSettings) -> list[str]:
    """Describe in a few lines how many examples were judged, and which labels the grader changed.

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
    if kept := _failed(judged, lambda example: bool(example.judgment)):
        lines.append(f"{len(kept)} keep their earlier judgment: {shortened(kept)}")
    if marked := _failed(judged, lambda example: bool(example.spans) and not example.judgment):
        lines.append(f"{len(marked)} have spans but no judgment, which only some schemes need: {shortened(marked)}")
    return lines


def is_open(example: Example) -> bool:
    """Return whether the example still needs a judgment or marks."""
    return not (example.label or example.judgment or example.spans)


def require_judgments(judged: Judged, cure: str) -> None:
    """Check that every wrong example has a judgment or spans.

    Args:
        cure: what the user can do about missing judgments.

    Raises:
        NLFTError: names the wrong examples without either, each with the reason.
    """
    if left := _failed(judged, is_open):
        wrong = sum(not e.label for e in judged.examples)
        raise NLFTError(f"{len(left)} of {wrong} wrong examples have no judgment: {shortened(left)}.\n  {cure}")


def _failed(judged: Judged, which: Callable[[Example], bool]) -> list[str]:
    """Return the ids and reasons of those of the failed examples."""
    ids = [e.id for e in judged.examples if e.id in judged.failed and which(e)]
    return [f"{id!r} ({judged.failed[id]})" for id in ids]


def conflict_lines(conflicts: Sequence[Example], file: str) -> list[str]:
    """List some examples where judge and label disagree, for people. The file has all, in the field `conflict`."""
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
    """Join at most the first `most` items, and add how many more there are."""
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


def check_judge_has_checks(judge: str, checks: str | None) -> None:
    """Check that the judge `checks` has a file of checks.

    Raises:
        UserError: it has none.
    """
    if judge == CHECKS and not checks:
        raise UserError("--judge checks needs a file of checks.\n  Give it with --checks FILE.")


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
