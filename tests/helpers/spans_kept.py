"""Where many judgments' quotes are found in texts, and what tokens and replacements they have, as recorded.

`--write` records them anew. Other tests say what is right; this one says what changed.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from helpers.kept import write
from nlft.core.quotes import quote_places, quotes_replaced
from nlft.core.spans import (
    Span,
    blame,
    merged_spans,
    occurrences,
    patched_text,
    quoted_spans,
    replaced_text,
    token_spans,
)

KEPT = Path(__file__).parents[1] / "golden" / "spans.json"
TEXTS = (
    "Dear customer, we are\nnot liable. You’ll get a state‑of‑the‑art, durable bike. "
    "The art is in the start, 34 not 34.5.",
    'A sleek sleek pan, and a SLEEK lid; it\'s "sleek" – isn’t it? Sleekness...',
    "首先,这个锅很时尚。时尚的锅! 价格是 3,500 元。",
    "aaaa aa a",
    "It costs $5 (five dollars), i.e. 5% of 100—or so.",
    "",
)
JUDGMENTS = [
    line.replace("~", "\n") for line in KEPT.with_name("span-judgments.txt").read_text(encoding="utf-8").splitlines()
]
SPANS = ((0, 4, None), (0, 4, ""), (2, 9, "x"), (5, 6, "why not"), (14, 21, " "), (0, 1, "D"))


def found() -> dict[str, Any]:
    """Return what is found, by text and judgment; then what marks make of each text."""
    made: dict[str, Any] = {}
    for text, judgment in itertools.product(TEXTS, JUDGMENTS):
        quoted = quoted_spans(text, judgment)
        if quoted.spans or quoted.missing:
            made[f"{judgment} in {text[:12]}"] = [[[s.start, s.end] for s in quoted.spans], list(quoted.missing)]
    for judgment in JUDGMENTS:
        made[f"quotes of {judgment}"] = [blame(judgment), quote_places(judgment), quotes_replaced(judgment, "Q")]
    for text in TEXTS:
        words = [text[at : at + 5].strip() or "x" for at in range(0, len(text), 7)]
        offsets = [(at, min(at + 3, len(text))) for at in range(0, len(text), 3)]
        pieces = [(at, min(at + 2, len(text))) for at in range(0, len(text), 2)]
        made[f"words of {text[:12]}"] = [[s.start, s.end] for s in occurrences(text, words)]
        for count in (1, 2):
            for chosen in itertools.combinations([Span(*one) for one in SPANS if one[1] <= len(text)], count):
                if any(a.end > b.start for a, b in itertools.pairwise(sorted(chosen, key=lambda span: span.start))):
                    continue
                ordered = sorted(chosen, key=lambda span: span.start)
                name = f"{[(s.start, s.end, s.replace) for s in ordered]} in {text[:12]}"
                tokens = [token_spans(text, cut, ordered) for cut in (offsets, pieces)]
                merged = merged_spans(ordered, quoted_spans(text, JUDGMENTS[0]).spans)
                made[name] = [
                    *([[t.start, t.end, t.text, t.replace] for t in each] for each in tokens),
                    replaced_text(text, ordered),
                    [[s.start, s.end, s.replace] for s in merged],
                    patched_text(text, offsets, tokens[0]),
                ]
    return {name: json.loads(json.dumps(value)) for name, value in made.items()}


if __name__ == "__main__" and "--write" in sys.argv:
    write(found(), KEPT)
