"""What is read in many judges' words: corrections, verdicts, named parts, thoughts and quotes, as recorded.

`--write` records them anew. Other tests say what is right; this one says what changed.
"""

import json
import sys
from pathlib import Path
from typing import Any

from helpers.kept import write
from nlft.core import marks
from nlft.core.named_parts import looks_like_json, read_parts
from nlft.core.prompts import without_corrections
from nlft.core.quotes import quote_places, quote_readings, quotes_replaced, unread_quote
from nlft.core.spans import blame
from nlft.core.thoughts import closes_thought, open_at_end, thought_tags, without_thoughts, words_place

KEPT = Path(__file__).parents[1] / "golden" / "judgments.json"
TEXTS = [
    line.replace("~", "\n") for line in KEPT.with_name("judgment-texts.txt").read_text(encoding="utf-8").splitlines()
]
MARKS = ("Correct:", "Correction:")


def found() -> dict[str, Any]:
    """Return what is read, by text."""
    return {text: json.loads(json.dumps(_of(text))) for text in TEXTS}


def _of(text: str) -> dict[str, Any]:
    parts = read_parts(text)
    verdict = marks.verdict(text)
    words = text[verdict[1] :] if verdict else text
    return {
        "corrections": [marks.corrections(text, expected=expected) for expected in (None, True, False)],
        "left": without_corrections(text),
        "blame": blame(text),
        "criticizes again": [marks.criticizes_again(m, text, expected=e) for m in MARKS for e in (True, False)],
        "expected": marks.names_expected(text),
        "heading": marks.without_heading(text),
        "verdict": verdict,
        "says": [marks.says_right(words), marks.says_wrong(words), marks.says_something(words)],
        "names": [marks.names_correction(text), marks.names_verdict(text)],
        "parts": parts and [parts.records, parts.around],
        "is json": looks_like_json(text),
        "thoughts": [without_thoughts(text), words_place(text), thought_tags(text), closes_thought(text)],
        "opens": open_at_end(text),
        "quotes": [quote_places(text), quotes_replaced(text, "Q"), list(quote_readings(text)), unread_quote(text)],
    }


if __name__ == "__main__" and "--write" in sys.argv:
    write(found(), KEPT)
