"""What an audit can find, worst first, each kind with what it means and how to mend it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from nlft.data.records import Example, completion_text, revision_text

Severity = Literal["stops training", "misleads", "weakens", "note"]

# With one of these an example has nothing to give, whatever its tokens do.
_SPOILT = """
unreadable too-long no-judgment correction-only contradiction grader foreign-answer quote prompt-copy garbage vague echo
"""
SPOILT = frozenset(_SPOILT.split())


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: what is the matter, for a heading.
        cure: what to do about it.
    """

    name: str
    severity: Severity
    title: str
    cure: str


@dataclass(frozen=True)
class Finding:
    """One thing to mend.

    Attributes:
        kind: a name in `KINDS`.
        id: the example; None if it is about the data as a whole.
        what: what was seen, with its numbers; may quote the example, so it is text and never markup.
        others: examples or test questions that it is about as well.
    """

    kind: str
    id: str | int | None
    what: str
    others: tuple[str | int, ...] = ()


_KINDS: list[tuple[Severity, list[tuple[str, str, str]]]] = [
    (
        "stops training",
        [
            ("unreadable", "Cannot be encoded", "Mend the example, or drop it."),
            ("too-long", "Over max_length under some condition", "Raise --max_length, shorten the text, or drop it."),
            ("no-judgment", "Labelled wrong, without a judgment", "Run `nlft judge`, or say in words what is wrong."),
            (
                "correction-only",
                "The judgment is a correction and nothing else",
                "Say what is wrong in a sentence before `Correction:`.",
            ),
        ],
    ),
    (
        "misleads",
        [
            ("overlap", "Also in the test file", "Take it out of one of the two: it makes the evaluation look good."),
            ("grader", "The label disagrees with the grader", "Look at the answer, and correct the label."),
            (
                "contradiction",
                "The judgment contradicts the label",
                "Correct the label, or write the judgment that belongs to it.",
            ),
            (
                "foreign-answer",
                "The standard answer seems to belong to another question",
                "Put the question's own answer there.",
            ),
            (
                "quote",
                "The judgment speaks of what the completion does not say",
                "Quote the wrong step as it was written; if the judgment is another example's, put it back there.",
            ),
            (
                "prompt-copy",
                "The completion holds the prompt, or another turn",
                "Cut it down to what the model answered.",
            ),
            ("garbage", "Markup, control tokens or broken characters", "Clean the text where it was exported."),
        ],
    ),
    (
        "weakens",
        [
            ("no-movement", "The judgment moves no token", "Name the wrong step, quoted as it was written."),
            (
                "placebo",
                "The judgment moves no more than another example's does",
                "Name what is wrong in this completion; check that the judgment is this example's.",
            ),
            (
                "style-movement",
                "What the judgment moves is mostly punctuation and style",
                "Speak of the content: quote the step that is wrong.",
            ),
            ("vague", "The judgment says nothing in particular", "Say what is wrong, and where."),
            (
                "echo",
                "The judgment only repeats the answer",
                "Say what the completion got wrong; what is right belongs on a line that begins `Correction:`.",
            ),
            ("language", "In another language than the rest", "Write it in the language of the question."),
            ("answer", "The standard answer cannot be graded", "Write the answer as the grader reads it."),
            ("bare-answer", "A standard answer without its reasoning", "Write the steps that lead to it as well."),
            (
                "unfinished",
                "The completion does not end",
                "Sample it again with a larger --max_new_tokens, or drop it.",
            ),
            ("duplicate", "The same example again", "Keep one of them."),
            ("near-duplicate", "Nearly the same example again", "Keep one of them, unless they are meant to differ."),
        ],
    ),
    (
        "note",
        [
            (
                "untagged",
                "The judgment fits, but no token passes the tests for a mistake",
                "The model is sure of the mistake already, or its tokens stay improbable: other settings may see it.",
            ),
        ],
    ),
]
KINDS = {name: Kind(name, severity, title, cure) for severity, kinds in _KINDS for name, title, cure in kinds}


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """In the order of `KINDS`; within a kind as they were found."""
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def texts(example: Example) -> Iterator[tuple[str, str]]:
    """The names and texts of what the example says besides its prompt."""
    yield "completion", completion_text(example)
    yield "answer", example.answer
    if example.judgment:
        yield "judgment", example.judgment
    if revision := revision_text(example):
        yield "revision", revision


def quoted(text: str, most: int = 60) -> str:
    """The text on one line, in quotes, cut short."""
    line = " ".join(text.split()) or text.replace("\n", "\\n")
    return f'"{line}"' if len(line) <= most else f'"{line[: most - 3]}..."'
