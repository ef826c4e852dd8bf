"""The readings of some seven thousand replies, as they were recorded. `--write` records them anew: look what changed.

They are every form of a number that people and models write, in every sentence that may stand around it. Nobody has
checked each by hand: the cases of test_grading.py say what is right, and this says what changed.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from nlft.data.answers.final_answers import read_final, read_standard
from nlft.data.answers.quantities import Quantity
from nlft.data.answers.text_answers import read_choice

KEPT = Path(__file__).parents[1] / "golden" / "readings.jsonl"
FORMS = KEPT.with_name("number-forms.txt")

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
    """Yield the replies: forms in frames. Those of the file's first part stand in further frames as well."""
    usual, _, further = FORMS.read_text(encoding="utf-8").partition("\n\n")
    for frames, forms in ((FRAMES, usual), (MORE_FRAMES, usual), (FRAMES, further)):
        for frame in frames.strip().splitlines():
            for form in forms.splitlines():
                yield frame.replace("@", form).replace("~", "\n")


def reading(quantity: Quantity | None) -> str:
    """Return a reading in one line: its words, what they may mean, and their unit."""
    if quantity is None:
        return "nothing"
    values = " or ".join(sorted(map(str, quantity.readings)))
    return f"{quantity.text!r} is {values}" + (f" in {quantity.unit}" if quantity.unit else "")


def readings() -> list[str]:
    """Return a line per reply: the reply and its reading, as a standard answer if that differs, as a choice if any."""
    found = []
    for text in dict.fromkeys(texts()):
        final, standard, choice = (reading(read(text)) for read in (read_final, read_standard, read_choice))
        row = {"text": text, "reply": final}
        row |= {"standard": standard} if standard != final else {}
        row |= {"choice": choice} if choice != "nothing" else {}
        found.append(json.dumps(row, ensure_ascii=False))
    return found


if __name__ == "__main__" and "--write" in sys.argv:
    KEPT.write_text("\n".join(readings()) + "\n", encoding="utf-8")
