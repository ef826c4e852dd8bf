"""The kinds of finding that an audit reports, worst first, each with its meaning and its cure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nlft.data.records import Example, completion_text, revision_text

Severity = Literal["stops training", "misleads", "weakens", "note"]

# An example with one of these carries no usable signal, whichever tokens its judgment moves.
_SPOILT = """
unreadable too-long no-judgment correction-only contradiction grader foreign-answer quote prompt-copy garbage vague echo
"""
SPOILT = frozenset(_SPOILT.split())


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: names the problem, for a heading.
        cure: tells the user what to do.
    """

    name: str
    severity: Severity
    title: str
    cure: str


@dataclass(frozen=True)
class Finding:
    """One problem that the audit found.

    Attributes:
        kind: a name in `KINDS`.
        id: the example's id; None if the finding is about the whole data.
        what: describes the problem, with its numbers. It may quote the example, so treat it as text, not as markup.
        others: ids of other examples or test questions that the finding is about.
    """

    kind: str
    id: str | int | None
    what: str
    others: tuple[str | int, ...] = ()


_KINDS: list[tuple[Severity, list[tuple[str, str, str]]]] = [
    (
        "stops training",
        [
            ("unreadable", "Cannot be encoded", "Correct the example, or drop it."),
            (
                "too-long",
                "Longer than max_length under some condition",
                "Raise --max_length, shorten the text, or drop the example.",
            ),
            (
                "no-judgment",
                "Labelled wrong, with neither judgment nor spans",
                "Run `nlft judge`, or say in words what is wrong.",
            ),
            (
                "correction-only",
                "The judgment is only a correction",
                "Say what is wrong in a sentence before `Correction:`.",
            ),
        ],
    ),
    (
        "misleads",
        [
            (
                "overlap",
                "Also in the test file",
                "Remove it from the training or the test file; otherwise the evaluation looks too good.",
            ),
            ("grader", "The label disagrees with the grader", "Check the answer, and correct the label."),
            (
                "contradiction",
                "The judgment contradicts the label",
                "Correct the label, or write a judgment that fits it.",
            ),
            (
                "foreign-answer",
                "The standard answer seems to belong to another question",
                "Replace it with the answer to this question.",
            ),
            (
                "quote",
                "The judgment is about text that the completion does not have",
                "Quote the wrong step exactly. If the judgment belongs to another example, move it there.",
            ),
            (
                "prompt-copy",
                "The completion holds the prompt, or another turn",
                "Keep only the model's answer.",
            ),
            ("garbage", "Markup, control tokens or broken characters", "Clean the text where it is exported."),
        ],
    ),
    (
        "weakens",
        [
            ("no-movement", "The judgment moves no token", "Quote the wrong step exactly, and say what is wrong."),
            (
                "placebo",
                "The judgment moves no more than another example's judgment does",
                "Say what is wrong in this completion. Check that the judgment belongs to this example.",
            ),
            (
                "style-movement",
                "The judgment mostly moves punctuation and style",
                "Write about the content: quote the wrong step.",
            ),
            ("vague", "The judgment says nothing specific", "Say what is wrong, and where."),
            (
                "echo",
                "The judgment only repeats the answer",
                "Say what is wrong in the completion. Write the right answer on a line that begins with `Correction:`.",
            ),
            (
                "leak",
                "The judgment shows the right answer",
                "Write the right answer on a line that begins with `Correction:`, which the judge prompt omits.",
            ),
            ("language", "In a different language from the rest", "Write it in the language of the question."),
            ("answer", "The standard answer cannot be graded", "Write the answer in a form that the grader can read."),
            ("bare-answer", "The standard answer has no reasoning", "Add the steps that lead to it."),
            (
                "unfinished",
                "The completion does not end",
                "Sample it again with a larger --max_new_tokens, or drop it.",
            ),
            ("duplicate", "A copy of an earlier example", "Keep one of them."),
            (
                "near-duplicate",
                "Almost a copy of an earlier example",
                "Keep one of them, unless they differ on purpose.",
            ),
        ],
    ),
    (
        "note",
        [
            (
                "lost-quote",
                "A quote of the judgment is nowhere in the completion",
                "Copy the words exactly, or mark them as a span: quotes and spans say which words a reader objects to.",
            ),
            (
                "untagged",
                "The judgment fits, but no token passes the tests for a mistake",
                "The model is sure of the mistake, or gives its tokens a low probability. Try other scheme settings.",
            ),
        ],
    ),
]
KINDS = {name: Kind(name, severity, title, cure) for severity, kinds in _KINDS for name, title, cure in kinds}


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings in the order of `KINDS`. Findings of one kind keep their order."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def texts(example: Example) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each of the example's texts, except its prompt."""
    yield "completion", completion_text(example)
    if example.answer:
        yield "answer", example.answer
    if example.feedback:
        yield "feedback", example.feedback
    if example.judgment:
        yield "judgment", example.judgment
    if revision := revision_text(example):
        yield "revision", revision


def quoted(text: str, most: int = 60) -> str:
    """Put the text on one line, in quotes, shortened to at most `most` characters."""
    line = " ".join(text.split()) or text.replace("\n", "\\n")
    return f'"{line}"' if len(line) <= most else f'"{line[: most - 3]}..."'
