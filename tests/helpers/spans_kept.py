"""Where many judgments' quotes are found in texts, and what tokens and replacements they have, as recorded.

`--write` records them anew. Other tests say what is right; this one says what changed.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

from helpers.kept import write
from nlft.core.quote_links import quote_links
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
from nlft.core.word_search import SearchedText, SoughtWord, listed_word, without_last_marks

KEPT = Path(__file__).parents[1] / "golden" / "spans.json"
TEXTS = (
    "Dear customer, we are\nnot liable. You’ll get a state‑of‑the‑art, durable bike. "
    "The art is in the start, 34 not 34.5.",
    'A sleek sleek pan, and a SLEEK lid; it\'s "sleek" – isn’t it? Sleekness...',
    "首先,这个锅很时尚。时尚的锅! 价格是 3,500 元。",
    "aaaa aa a",
    "It costs $5 (five dollars), i.e. 5% of 100—or so.",
    "",
    "The cafe\u0301 re\u0301sume\u0301 of l'homme can't be: we're at Tom's 1 000, 1'000, at 12:30 o'clock. "
    "👍🏽 a\u200db",
    "The cat. The cat — the cat; so a...b and c … d [...] e.",
    "Step 1: 64 - 35 = 34.\nStep 2: 34+5=39",
)
JUDGMENTS = [
    line.replace("~", "\n") for line in KEPT.with_name("span-judgments.txt").read_text(encoding="utf-8").splitlines()
]
QUOTES = (
    "art|durable,|34|34.|sleek|SLEEK|isn't it|the cat|not liable|we are not|时尚|$5|5%|64-35=29|64-35=34|café|résumé"
    "|homme|l'homme|can|t|o'clock|Tom|Tom's|1 000|000|1|1'000|👍|a...b|the … cat|—|-|...|12|30|12:30|A sleek...lid"
    "|[...]|c [...] e|start, 34|a|aa|You'll|state-of-the-art|of|STATE|e|cat.|cat;|d e|Step 1|= 34.|39| "
)
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
    quotes = QUOTES.split("|")
    for quote in quotes:
        made[f"word {quote}"] = [listed_word(quote), without_last_marks(quote)]
    for text, quote in itertools.product(TEXTS, quotes):
        searched, words = SearchedText(text), [SoughtWord.of(quote)] if quote.strip() else []
        places = [searched.quote(quote), searched.quote(quote, any_case=True), searched.first(words)]
        if any(places):
            made[f"{quote} sought in {text[:12]}"] = places
    for text, judgment in itertools.product(TEXTS, JUDGMENTS):
        tokens = [text[at : at + 3] for at in range(0, len(text), 3)]
        if links := quote_links({"judgment": judgment, "feedback": None, "answer": "x"}, [*tokens, "<end>"]):
            made[f"{judgment} links to {text[:12]}"] = links["judgment"]
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
