"""Revisions are right completions in a model's own words.

The request for a revision shows the model the standard answer and the judgment. A model that sees the answer often
copies it, or writes only its last line. `refuse_revision` rejects such replies: a revision must contain its own
reasoning.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from fractions import Fraction
from typing import Annotated, Literal

from nlft.collect.arithmetic import find_calculations, miscalculated
from nlft.collect.judging import LABELS_STAY, RetrySettings, check_template, check_tries, shortened
from nlft.config import Range, with_defaults
from nlft.core.prompts import Prompt, SystemPromptSettings, as_messages, fill_prompt
from nlft.core.thoughts import without_thoughts
from nlft.data.gradable import check_answers
from nlft.data.grading import MARK, ExtractionSettings, Grader, get_grader
from nlft.data.records import Example, completion_text
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.models.answerer import Answerer, CompletionRequest, Generated, complete
from nlft.models.settings import GenerationSettings

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
_SENTENCE_WORDS = 4  # a line with this many words is a sentence, even without a calculation
# Words of a reply to the request for a revision instead of to the question.
_TASK = re.compile(
    r"\b(?:(?:reference|standard|sample) (?:solution|answer)|(?:first|second|previous|original) (?:attempt|response)"
    r"|judge?ment|correction:|what is wrong|not a step of|(?:is|was|are|were) (?:incorrect|wrong|miscalculated)"
    r"|(?:my|your) own words)",
    re.IGNORECASE,
)
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


@dataclass
@with_defaults(tries=4, temperature=0.7)
class RevisionSettings(ExtractionSettings, RetrySettings, GenerationSettings, SystemPromptSettings):
    """Settings for requesting revisions, and for keeping or rejecting them."""

    revision_prompt: str = field(
        default=REVISION_PROMPT,
        metadata={"help": "Prompt for a revision. Needs {prompt} and {answer}; may have {completion} and {judgment}."},
    )
    least_reasoning: Annotated[float, Range(0, 1)] = field(
        default=0.3,
        metadata={
            "help": "Minimum length of a revision's reasoning in words, as a fraction of the standard answer's. If a "
            "revision shows no calculation, it must also contain this fraction of the standard answer's "
            "intermediate results."
        },
    )
    most_alike: Annotated[float, Range(0, 1)] = field(
        default=0.9,
        metadata={
            "help": "A revision counts as copied if its word similarity to the standard answer reaches this ratio."
        },
    )

    def __post_init__(self) -> None:
        check_template("revision_prompt", self.revision_prompt, "{prompt}", "{answer}")
        check_tries(self.tries, self.temperature)
        if self.grader == LABELS_STAY:
            raise UserError(
                "--grader label cannot check a revision.\n"
                "  Name a grader. If nothing can be graded, write revisions by hand, into the field `revision`."
            )


@dataclass(frozen=True)
class Revised:
    """The result of revising.

    Attributes:
        examples: all examples, in their order.
        kept: ids of the examples with a new revision.
        refused: ids of the examples without a new revision, each with one reason per try.
    """

    examples: list[Example]
    kept: list[str | int]
    refused: dict[str | int, list[Refusal]]

    def summary_lines(self) -> list[str]:
        """Describe in a few lines how many revisions were kept, and why the others were refused."""
        asked = len(self.kept) + len(self.refused)
        lines = [f"{len(self.kept)} of {asked} revisions kept"]
        if self.refused:
            tries = Counter(reason for reasons in self.refused.values() for reason in reasons)
            counts = ", ".join(f"{count} {reason}" for reason, count in tries.most_common())
            ids = [f"{id!r} ({', '.join(reasons)})" for id, reasons in self.refused.items()]
            lines += [f"not kept: {len(self.refused)}; their tries: {counts}", f"  {shortened(ids)}"]
        return lines


def revise_examples(examples: Sequence[Example], model: Answerer, settings: RevisionSettings) -> Revised:
    """Ask the model for a revision of every wrong example without one, up to `settings.tries` times each.

    Raises:
        RecordsError: some of these examples have no standard answer to check a revision by.
    """
    grader = settings.make_grader()
    revised, refused = list(examples), dict[int, list[Refusal]]()
    to_revise = [at for at, e in enumerate(examples) if not e.label and (settings.overwrite or not e.revision)]
    check_answers([examples[at] for at in to_revise], "the check of a revision", "Or write its `revision` by hand.")
    waiting = to_revise
    for attempt in range(1, settings.tries + 1):
        if not waiting:
            break
        requests = [
            CompletionRequest(
                f"{examples[at].id}#revise-{attempt}",
                revision_request(examples[at], settings.revision_prompt),
                inputs_of(examples[at].extra),
            )
            for at in waiting
        ]
        answers = complete(requests, model, "revising" if attempt == 1 else f"revising, try {attempt}")
        for at, reply in zip(waiting, answers, strict=True):
            # The thoughts are about the request, which the trained prompt does not have.
            answer = replace(reply, text=without_thoughts(reply.text))
            reason = refuse_revision(answer, examples[at].answer or "", grader, settings)
            if reason is None:
                revised[at] = _with_revision(examples[at], answer.text)
            else:
                refused.setdefault(at, []).append(reason)
        waiting = [at for at in waiting if len(refused.get(at, ())) == attempt]
    kept = [examples[at].id for at in to_revise if at not in waiting]
    return Revised(revised, kept, {examples[at].id: refused[at] for at in waiting})


def refuse_revision(answer: Generated, standard: str, grader: Grader, settings: RevisionSettings) -> Refusal | None:
    """Return the first reason in this list that applies for not keeping a revision. Return None to keep it.

    - `cut off`: the model did not end the revision by itself.
    - `wrong`: the grader does not grade it right.
    - `bare answer`: before the final answer it has neither a calculation nor a sentence, or its number of words is less
      than `least_reasoning` times the standard answer's. This reason also applies if it has no calculation and names
      less than that proportion of the standard answer's intermediate results.
    - `several answers`: it marks more than one final answer, or the grader read a different answer.
    - `wrong step`: one of its calculations is wrong, and the standard answer does not have the same one.
    - `about the task`: it mentions parts of the request, such as the reference solution or the first attempt, and the
      standard answer does not. The phrases are English.
    - `copied`: its words contain the standard answer's words in a row, or difflib's ratio of the two is at least
      `most_alike`. Case, punctuation and line breaks do not count. This never applies to a standard answer without
      reasoning.
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
    if not steps and _rate_of_results(words, reference) < settings.least_reasoning:
        return "bare answer"
    if (phrase := _TASK.search(answer.text)) and phrase[0].casefold() not in standard.casefold():
        return "about the task"
    if _is_reasoned(reference) and _is_copied(words, known, settings.most_alike):
        return "copied"
    return None


def revision_request(example: Example, template: str) -> Prompt:
    """Fill the template's slots with the example's texts, and replace the prompt's last message with the result."""
    return fill_prompt(
        example.prompt,
        template,
        completion=completion_text(example),
        judgment=example.judgment or "",
        answer=example.answer or "",
    )


def _with_revision(example: Example, text: str) -> Example:
    """Set the revision, in the form of the completion: text or messages."""
    revision = text if isinstance(example.completion, str) else as_messages(text, "assistant")
    return replace(example, revision=revision)


def _reasoning(text: str) -> str:
    """Return the text before the marker of the final answer, or the whole text if there is no marker."""
    return _CALCULATOR.sub("", text).partition(MARK)[0].strip()


def _is_reasoned(text: str) -> bool:
    """Return whether a text has a calculation or a sentence."""
    sentences = re.split(r"(?<=[.!?])\s|\n", text)
    return any(find_calculations(text)) or any(len(re.findall(r"[^\W\d_]+", s)) >= _SENTENCE_WORDS for s in sentences)


def _marks_another(text: str, standard: str) -> bool:
    """Return whether the answer after `####` is wrong. The grader may have read a right number elsewhere."""
    return MARK in text and get_grader("number", extraction="strict")(text, standard).grade == "wrong"


def _rate_of_results(words: Sequence[str], reference: str) -> float:
    """Return the proportion of the reference's intermediate results that are among the words; 1 if it has none."""
    results = [step.result for step in find_calculations(reference)]
    intermediate = set(results[:-1]) - set(results[-1:])
    numbers = {Fraction(word.replace(",", "")) for word in words if word[0].isdigit()}
    return len(intermediate & numbers) / len(intermediate) if intermediate else 1.0


def _words(text: str) -> list[str]:
    """Split a text into words, numbers and signs, so that `48/2=24` and `48 / 2 = 24` are equal."""
    return re.findall(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[-+*/=%$×÷]", text.casefold())


def _is_copied(words: list[str], known: list[str], most_alike: float) -> bool:
    contained = f" {' '.join(known)} " in f" {' '.join(words)} "
    return contained or SequenceMatcher(None, words, known, autojunk=False).ratio() >= most_alike
