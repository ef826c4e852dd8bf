"""Revisions: right completions in a model's own words, asked for with the standard answer and the judgment in view.

A model that is shown the answer likes to hand it back: as it stands, or as a bare last line. What is kept must have
been thought through again; `refusal` says what that means.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from fractions import Fraction
from math import inf
from typing import Annotated, Literal

from nlft.collect.arithmetic import find_calculations, miscalculated
from nlft.collect.judging import LABELS_STAY, check_template, check_tries, shortened
from nlft.config import Range
from nlft.core.prompts import Prompt, fill_prompt
from nlft.data.grading import MARK, Grader, get_grader
from nlft.data.records import Example, completion_text
from nlft.errors import UserError
from nlft.models.answerer import Answerer, Generated, Request, complete

REVISION_PROMPT = """\
{prompt}

A first attempt:
{completion}

What is wrong with it:
{judgment}

A reference solution:
{answer}

Now answer the question yourself, rightly and in your own words. Do not copy the reference solution. Show every step \
of the reasoning, and write the final answer last, in the form in which the reference solution has it."""

Refusal = Literal["cut off", "wrong", "several answers", "wrong step", "bare answer", "about the task", "copied"]
_SENTENCE_WORDS = 4  # so many in a line are a sentence, even without a calculation
# What a model says that answers the request for a revision, and not the question.
_TASK = re.compile(
    r"\b(?:(?:reference|standard|sample) (?:solution|answer)|(?:first|second|previous|original) (?:attempt|response)"
    r"|judge?ment|correction:|what is wrong|not a step of|(?:is|was|are|were) (?:incorrect|wrong|miscalculated)"
    r"|(?:my|your) own words)",
    re.IGNORECASE,
)
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass
class RevisionSettings:
    """How revisions are asked for, and which are kept."""

    grader: str = field(
        default="number",
        metadata={"help": "number, exact, choice, regex, or a Python function's dotted path; it must pass a revision."},
    )
    extraction: Literal["strict", "flexible", "original"] = field(
        default="flexible",
        metadata={"help": "How the number grader reads an answer: after ####, or the last number."},
    )
    revision_prompt: str = field(
        default=REVISION_PROMPT,
        metadata={"help": "What the model is asked. {prompt}, {completion}, {judgment} and {answer} are filled in."},
    )
    tries: Annotated[int, Range(1, 100)] = field(
        default=4, metadata={"help": "How often the model is asked for a revision that can be kept."}
    )
    least_reasoning: Annotated[float, Range(0, 1)] = field(
        default=0.3,
        metadata={
            "help": "Words before a revision's final answer, at least this share of the standard answer's; where it "
            "calculates nothing, also this share of the standard answer's results on the way."
        },
    )
    most_alike: Annotated[float, Range(0, 1)] = field(
        default=0.9,
        metadata={"help": "A revision is copied if its words match the standard answer's to this ratio or more."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Ask for those again that have a revision already."})
    max_new_tokens: Annotated[int, Range(1, 1_000_000)] = field(
        default=256, metadata={"help": "Longest revision, in tokens."}
    )
    temperature: Annotated[float, Range(0, inf)] = field(default=0.7, metadata={"help": "0 is greedy."})
    batch_size: Annotated[int, Range(1, 100_000)] = field(
        default=32, metadata={"help": "Revisions that a local model writes at a time."}
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before prompts that have none."})
    seed: int = field(default=0, metadata={"help": "Seed of the random draws."})

    def __post_init__(self) -> None:
        check_template("revision_prompt", self.revision_prompt, "{prompt}", "{answer}")
        check_tries(self.tries, self.temperature)
        if self.grader == LABELS_STAY:
            raise UserError(
                "--grader label passes no revision.\n"
                "  Name a grader. Where nothing can be graded, write revisions by hand, into the field `revision`."
            )


@dataclass(frozen=True)
class Revised:
    """What came of revising.

    Attributes:
        examples: all of them, in their order.
        kept: ids of the examples with a new revision.
        refused: ids of those without one, each with why, a reason a try.
    """

    examples: list[Example]
    kept: list[str | int]
    refused: dict[str | int, list[Refusal]]

    def summary_lines(self) -> list[str]:
        """For people: how many were kept, and why the others were not."""
        asked = len(self.kept) + len(self.refused)
        lines = [f"{len(self.kept)} of {asked} revisions kept"]
        if self.refused:
            tries = Counter(reason for reasons in self.refused.values() for reason in reasons)
            told = ", ".join(f"{count} {reason}" for reason, count in tries.most_common())
            named = [f"{id!r} ({', '.join(reasons)})" for id, reasons in self.refused.items()]
            lines += [f"not kept: {len(self.refused)}; their tries: {told}", f"  {shortened(named)}"]
        return lines


def revise_examples(examples: Sequence[Example], model: Answerer, settings: RevisionSettings) -> Revised:
    """Ask for a revision of every wrong example that has none yet, several times if need be."""
    grader = get_grader(settings.grader, **({"extraction": settings.extraction} if settings.grader == "number" else {}))
    revised, refused = list(examples), dict[int, list[Refusal]]()
    wanted = [at for at, e in enumerate(examples) if not e.label and (settings.overwrite or not e.revision)]
    waiting = wanted
    for attempt in range(1, settings.tries + 1):
        if not waiting:
            break
        requests = [
            Request(f"{examples[at].id}#revise-{attempt}", revision_request(examples[at], settings.revision_prompt))
            for at in waiting
        ]
        answers = complete(requests, model, "revising" if attempt == 1 else f"revising, try {attempt}")
        for at, answer in zip(waiting, answers, strict=True):
            reason = refusal(answer, examples[at].answer, grader, settings)
            if reason is None:
                revised[at] = _with_revision(examples[at], answer.text)
            else:
                refused.setdefault(at, []).append(reason)
        waiting = [at for at in waiting if len(refused.get(at, ())) == attempt]
    kept = [examples[at].id for at in wanted if at not in waiting]
    return Revised(revised, kept, {examples[at].id: refused[at] for at in waiting})


def refusal(answer: Generated, standard: str, grader: Grader, settings: RevisionSettings) -> Refusal | None:
    """Why a revision is not kept, the first of these that holds; None if it is.

    - `cut off`: it did not end by itself;
    - `wrong`: the grader does not pass it;
    - `bare answer`: before the final answer there is neither a calculation nor a sentence, or fewer words than
      `least_reasoning` of the standard answer's; or it calculates nothing, and names fewer than that share of the
      results that lead the standard answer to its own;
    - `several answers`: it marks more than one, or one that is not the one that the grader has read;
    - `wrong step`: a calculation in it does not hold, and is none of the standard answer's;
    - `about the task`: it speaks of what only the request for a revision showed, such as the reference solution or the
      first attempt, and the standard answer does not (English phrases);
    - `copied`: its words are the standard answer's, or nearly: they contain them in a row, or difflib's ratio of
      the two is `most_alike` or more. Case, punctuation and line breaks do not count. Where the standard answer has
      no reasoning there is none to copy.
    """
    if answer.finish_reason != "stop":
        return "cut off"
    if grader(answer.text, standard).grade != "right":
        return "wrong"
    reasoning, reference = _reasoning(answer.text), _reasoning(standard)
    words, known = _words(reasoning), _words(reference)
    if not _is_reasoned(reasoning) or len(words) < settings.least_reasoning * len(known):
        return "bare answer"
    if answer.text.count(MARK) > 1 or (settings.grader == "number" and _marks_another(answer.text, standard)):
        return "several answers"
    steps = list(find_calculations(reasoning))
    if miscalculated(steps, reference):
        return "wrong step"
    if not steps and _share_of_results(words, reference) < settings.least_reasoning:
        return "bare answer"
    if (said := _TASK.search(answer.text)) and said[0].casefold() not in standard.casefold():
        return "about the task"
    if _is_reasoned(reference) and _is_copied(words, known, settings.most_alike):
        return "copied"
    return None


def revision_request(example: Example, template: str) -> Prompt:
    """Put the template in place of the prompt's last message, with the example's texts in its slots."""
    return fill_prompt(
        example.prompt,
        template,
        completion=completion_text(example),
        judgment=example.judgment or "",
        answer=example.answer,
    )


def _with_revision(example: Example, text: str) -> Example:
    said = text if isinstance(example.completion, str) else [{"role": "assistant", "content": text}]
    return replace(example, revision=said)


def _reasoning(text: str) -> str:
    """What stands before the final answer's mark; without a mark, all of it."""
    return _CALCULATOR.sub("", text).partition(MARK)[0].strip()


def _is_reasoned(text: str) -> bool:
    sentences = re.split(r"(?<=[.!?])\s|\n", text)
    return any(find_calculations(text)) or any(len(re.findall(r"[^\W\d_]+", s)) >= _SENTENCE_WORDS for s in sentences)


def _marks_another(text: str, standard: str) -> bool:
    return MARK in text and get_grader("number", extraction="strict")(text, standard).grade == "wrong"


def _share_of_results(words: Sequence[str], reference: str) -> float:
    """Of the results on the way to the reference's last, the share that is among the words; 1 if it has none."""
    results = [step.result for step in find_calculations(reference)]
    way = set(results[:-1]) - set(results[-1:])
    said = {Fraction(word.replace(",", "")) for word in words if word[0].isdigit()}
    return len(way & said) / len(way) if way else 1.0


def _words(text: str) -> list[str]:
    """Words, numbers and signs, each one by itself: `48/2=24` and `48 / 2 = 24` are the same."""
    return re.findall(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[-+*/=%$×÷]", text.casefold())


def _is_copied(words: list[str], known: list[str], most_alike: float) -> bool:
    contained = f" {' '.join(known)} " in f" {' '.join(words)} "
    return contained or SequenceMatcher(None, words, known, autojunk=False).ratio() >= most_alike
