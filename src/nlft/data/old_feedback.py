"""Tell files whose `answer` holds feedback: before the field `feedback` existed, praise of a reply stood there."""

import re
from collections.abc import Sequence
from statistics import median

from nlft.data.records import Example, completion_text

_FEWEST = 5  # answers; fewer say nothing
_SHARED = 0.15  # praise has fewer than this proportion of its words in common with the reply that it praises
_WORD, _NUMBER = re.compile(r"[^\W\d_]{4,}"), re.compile(r"\d+")


def holds_feedback(examples: Sequence[Example]) -> bool:
    """Return whether the answers seem to be feedback: sentences about right replies that share no words with them.

    A standard answer says the same as a right reply, so it shares words or numbers with it.
    """
    shared: dict[str, float] = {}
    for example in examples:
        if not example.label or example.answer is None or example.feedback is not None:
            continue
        answer, reply = example.answer.casefold(), completion_text(example).casefold()
        words = set(_WORD.findall(answer))
        alike = len(words & set(_WORD.findall(reply))) / max(len(words), 1)
        has_number = set(_NUMBER.findall(answer)) & set(_NUMBER.findall(reply))
        shared[answer] = 1.0 if has_number or len(words) < 4 else alike
    return len(shared) >= _FEWEST and median(shared.values()) < _SHARED


def feedback_note(examples: Sequence[Example]) -> str:
    """Return a note if the answers seem to be feedback, else an empty text."""
    if not holds_feedback(examples):
        return ""
    return (
        "`answer` seems to hold feedback, for it shares no words with right completions. An answer is a reply that may "
        "be trained. Rename the field to `feedback` if it says what a reader likes"
    )
