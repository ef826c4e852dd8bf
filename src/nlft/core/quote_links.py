"""The quotes in a text about a completion, each with the tokens that it names. Needs no torch."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from nlft.core.quotes import quote_places
from nlft.core.spans import blame, quoted_spans, touched

Part = list[str | list[list[int]] | None]
"""A part of a text; and [first, last] tokens of each place that it names. None if it is no quote."""


def quote_links(texts: Mapping[str, str | None], tokens: Sequence[str]) -> dict[str, list[Part]]:
    """Split each text that has quotes at them. Joined, the parts are the text.

    A quote names the places that it marks in training. In a correction, or in a mark "right", it names none.

    Args:
        texts: by name, such as the judgment.
        tokens: the completion's tokens as text, with the end-of-turn token last.
    """
    found = {name: _parts(text, tokens) for name, text in texts.items() if text}
    return {name: parts for name, parts in found.items() if len(parts) > 1 or parts[0][1] is not None}


def _parts(text: str, tokens: Sequence[str]) -> list[Part]:
    completion = "".join(tokens[:-1])
    ends = list(accumulate(map(len, tokens[:-1])))
    offsets = list(zip([0, *ends], ends, strict=False))
    named: dict[str, list[list[int]]] = {}  # a judge that loops repeats its quotes
    parts: list[Part] = []
    done = 0
    for start, end in _blaming_quotes(text):
        quote = text[start:end]
        if quote not in named:
            places = [touched(offsets, span.start, span.end) for span in quoted_spans(completion, quote).spans]
            named[quote] = [[first, last - 1] for first, last in places]
        parts += [[text[done:start], None], [quote, named[quote]]] if start > done else [[quote, named[quote]]]
        done = end
    return [*parts, [text[done:], None]] if done < len(text) else parts


def _blaming_quotes(text: str) -> list[tuple[int, int]]:
    """Return the places of the quotes that object to something. Of each line, `blame` keeps a beginning or nothing."""
    left = [line for line in reversed(blame(text).split("\n")) if line]
    quotes = list(reversed(quote_places(text)))
    found, at = [], 0
    for line in text.split("\n"):
        kept = at + len(left.pop()) if left and line.startswith(left[-1]) else at
        at += len(line) + 1
        while quotes and quotes[-1][0] < at:
            start, end = quotes.pop()
            if start < kept:
                found.append((start, end))
    return found
