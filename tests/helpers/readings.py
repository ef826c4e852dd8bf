"""The readings of some seven thousand replies, as they were recorded. `--write` records them anew: look what changed.

They are every form of a number that people and models write, in every sentence that may stand around it. Nobody has
checked each by hand: the cases of test_grading.py say what is right, and this says what changed.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from nlft.data.answers.choices import read_choice
from nlft.data.answers.final_answers import read_final, read_standard
from nlft.data.answers.quantities import Quantity, compare, why_ungraded
from nlft.data.answers.text_answers import read_words

KEPT = Path(__file__).parents[1] / "golden" / "readings.jsonl"
FORMS = KEPT.with_name("number-forms.txt")

COMPARED = (
    "5|5.0|-5|5%|0.05|50%|0.5|1/2|5 m|5 m^2|5 cm|$5|5 euros|5 cents|500|3,5|3.500|5 million|5 or 6|10:30|x = 5|five"
    "|20 - 15 = 5|5 pm|5 am|17|17:00|12 pm|12 am|12|0|0.333...|0.333|1/3|0.1666...|1/6|0.142857...|1/7|(5)|1/9"
)
FRAMES = r"""
@
@.
Answer: @
So she has @ left.
She has 7 bags and the @
@ x 6 eggs = 18 eggs
"""
MORE_FRAMES = r"""
The answer is @.
#### @
\boxed{@}
It makes = @
**Final answer:** @ (approximately)
It is @ in all, of 20.
He sold a total of @ to the end of the week
<think>9</think>@
Step 1: 4 cups.~@
There are 3 bags with @
Therefore, x = @ and that is all
1. The first has @~2. It is @
It is @, not 8
7 = @
@ = 8
Answer: @~Answer: 4
The answer is @ and not 8.
I think <answer>@</answer>
$\boxed{@}$ is the answer, after 3 steps
The correct option is @ here
"""


def texts() -> Iterator[str]:
    """Yield the replies: forms in frames, and whole replies.

    The file has three parts, with an empty line between them: forms that stand in all frames, those that stand in the
    first ones only, and whole replies.
    """
    usual, further, whole = FORMS.read_text(encoding="utf-8").split("\n\n")
    for frames, forms in ((FRAMES, usual), (MORE_FRAMES, usual), (FRAMES, further), ("@", whole)):
        for frame in frames.strip().splitlines():
            for form in forms.splitlines():
                yield frame.replace("@", form).replace("~", "\n")


def reading(quantity: Quantity | None) -> str:
    """Return a reading in one line: its words, what they may mean, and their unit."""
    if quantity is None:
        return "nothing"
    values = " or ".join(sorted(map(str, quantity.readings)))
    otherwise = " or ".join(sorted(map(str, quantity.otherwise)))
    unit = f" in {quantity.unit}" if quantity.unit else ""
    return f"{quantity.text!r} is {values}{unit}" + (f", else {otherwise}" if otherwise else "")


def readings() -> list[str]:
    """Return a line per reply: the reply and its reading; as a standard answer, a choice and words if those differ."""
    found = []
    for text in dict.fromkeys(texts()):
        final, standard, choice = (reading(read(text)) for read in (read_final, read_standard, read_choice))
        words = read_words(text)
        row = {"text": text, "reply": final}
        row |= {"standard": standard} if standard != final else {}
        row |= {"choice": choice} if choice != "nothing" else {}
        row |= {"words": words} if words not in (None, (text, text)) else {}
        found.append(json.dumps(row, ensure_ascii=False))
    return [*found, *comparisons()]


def comparisons() -> Iterator[str]:
    """Yield a line per answer: how each other one compares with it, and why some do not."""
    read = {text: read_standard(text) for text in COMPARED.split("|")}
    for text, expected in read.items():
        row = {other: compare(given, expected) for other, given in read.items() if given and expected}
        why = {
            other: why_ungraded(read[other], expected, "number")
            for other, verdict in row.items()
            if verdict == "ungraded"
        }
        yield json.dumps({"expected": text, "verdicts": row | why}, ensure_ascii=False)


if __name__ == "__main__" and "--write" in sys.argv:
    KEPT.write_text("\n".join(readings()) + "\n", encoding="utf-8")
