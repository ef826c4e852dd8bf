"""Marked parts of a completion: what a reader objects to, and what should stand there instead.

A span comes from a record, or from a quote in its judgment. `token_spans` says which tokens it covers.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nlft.core.prompts import without_corrections
from nlft.core.quotes import quote_readings, unread_quote
from nlft.core.word_search import SearchedText, SoughtWord, listed_word


@dataclass(frozen=True)
class Span:
    """A marked part of a completion.

    Attributes:
        start, end: character offsets into the completion's text, `end` exclusive.
        replace: the text that should stand there; empty if nothing should; None if the reader does not say.
        note: the reader's remark.
    """

    start: int
    end: int
    replace: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class TokenSpan:
    """A marked part of a completion, as tokens.

    Attributes:
        start, end: indexes into the completion's tokens, `end` exclusive. A token that the span only begins or ends in
            belongs to it.
        text: the marked text.
        replace: the text that should stand in the place of these tokens; None if the reader does not say. If the span
            begins or ends inside a token, the token's other characters are part of this text: for `durable` in the
            token ` durable`, the reader's `solid` becomes ` solid`. Empty if nothing should stand there.
        pivot: the token that `pivot: contrast` strikes. None if it was not chosen.
        dropped: number of replacements that are left out, because another mark in the same token has none.
    """

    start: int
    end: int
    text: str
    replace: str | None = None
    pivot: int | None = None
    dropped: int = 0


@dataclass(frozen=True)
class Quoted:
    """The quotes of a judgment.

    Attributes:
        spans: all places of the quotes in the completion, in order, without overlaps.
        missing: the quotes that are nowhere in the completion, as the judgment writes them; the beginning of the text
            after an open mark if the judgment has quotation marks and no quote that can be read.
    """

    spans: tuple[Span, ...]
    missing: tuple[str, ...]


_PRAISE = re.compile(r'^[ \t]*"[^"\n]*" is right\.[ \t]*$', re.MULTILINE)  # how the page writes down a mark "right"


def quoted_spans(completion: str | SearchedText, judgment: str | None) -> Quoted:
    """Find the quotes of a judgment in the completion it is about, each wherever it stands.

    White space, and the forms of accents and of apostrophes and hyphens inside words, need not agree. Case, and the
    forms of other quotation marks and dashes, must agree, unless the quote is nowhere with its own; the latter always
    must in a quote without a letter or digit. A quote that begins or ends with a word or a number matches whole
    words and numbers. An ellipsis in a quote stands for at most `LONGEST_GAP` characters. Corrections are no quotes.
    """
    places: list[tuple[int, int]] = []
    missing: dict[str, None] = {}
    searched = SearchedText(completion) if isinstance(completion, str) else completion
    for readings in dict.fromkeys(map(tuple, quote_readings(blame(judgment)))):  # a judge that loops repeats its quotes
        found = next((spans for quote in readings if (spans := searched.quote(quote))), None)
        if found is None:
            missing[" ".join(readings[-1].split())] = None
        places += found or []
    if not places and not missing and (unread := unread_quote(blame(judgment))):
        missing[unread] = None
    return Quoted(_united(places), tuple(missing))


def blame(judgment: str | None) -> str:
    """Return the part of a judgment that objects to something: without corrections, and without marks "right"."""
    return _PRAISE.sub("", without_corrections(judgment or ""))


def occurrences(completion: str, words: Sequence[str], *, any_case: bool = False) -> tuple[Span, ...]:
    """Find words in a completion as quotes of them would: whole words, in any case if none has their own case.

    Args:
        any_case: find them in any case even so, as checks and bans find the words of a list.
    """
    searched = SearchedText(completion)
    return _united([place for word in words for place in searched.quote(word, any_case=any_case)])


class WordFinder:
    """Finds words in many texts: whole words in any case, as a quote of them would be found."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = [SoughtWord.of(listed_word(word)) for word in words if word.strip()]

    def first(self, text: str) -> Span | None:
        """Return the first place of any of the words; None if there is none."""
        found = SearchedText(text).first(self._words)
        return Span(*found) if found else None


def merged_spans(own: Sequence[Span], quoted: Sequence[Span]) -> tuple[Span, ...]:
    """Join the spans that a reader marked with those of quotes, in order.

    Of two spans with the same place, the first stays. A quote that overlaps a marked span gives way to it.
    """
    marked = {(span.start, span.end): span for span in reversed(own)}
    free = [q for q in quoted if not any(q.start < span.end and span.start < q.end for span in own)]
    return tuple(sorted([*marked.values(), *free], key=lambda span: span.start))


def token_spans(completion: str, offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> tuple[TokenSpan, ...]:
    """Say which tokens the spans cover.

    Spans that share a token become one. It has a replacement only if all of them have one; else it counts those it
    drops.

    Args:
        offsets: (tokens,) each token's first and last character (exclusive), as a tokenizer gives them.
        spans: in order, without overlaps.

    Raises:
        ValueError: a span covers no token; the message says which.
    """
    begins = _begins(offsets)
    groups: list[tuple[int, int, list[Span]]] = []
    for span in spans:
        first, last = touched(offsets, span.start, span.end)
        if first == last:
            raise ValueError(f"the span from {span.start} to {span.end} covers no token")
        if groups and first < groups[-1][1]:
            first, _, earlier = groups.pop()
            groups.append((first, last, [*earlier, span]))
        else:
            groups.append((first, last, [span]))
    return tuple(
        TokenSpan(
            first,
            last,
            completion[marked[0].start : marked[-1].end],
            _replacement(completion[begins[first] : max(offsets[last - 1][1], marked[-1].end)], begins[first], marked),
            dropped=0 if all(has := [one.replace is not None for one in marked]) else sum(has),
        )
        for first, last, marked in groups
    )


def touched(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    """Return the tokens that have a character from `start` to `end` (exclusive): first and last, the last exclusive.

    If there is none, both are the first token that ends after `start`. No span covers a token without characters,
    because the template added it.
    """
    begins = _begins(offsets)
    found = [at for at, (_, stop) in enumerate(offsets) if begins[at] < min(end, stop) and start < stop]
    if found:
        return found[0], found[-1] + 1
    after = next((at for at, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    return after, after


def patched_text(
    completion: str, offsets: Sequence[tuple[int, int]], spans: Sequence[TokenSpan]
) -> tuple[str, list[tuple[int, int]]]:
    """Put the replacements in place of the spans that have one.

    Args:
        offsets: each token's characters in the completion.

    Returns:
        The new text; and for each span the characters of what stands in its place, (start, end).
    """
    begins, text, places, done = _begins(offsets), "", [], 0
    for span in spans:
        first, last = begins[span.start], offsets[span.end - 1][1]
        text += completion[done:first]
        instead = completion[first:last] if span.replace is None else span.replace
        places.append((len(text), len(text) + len(instead)))
        text, done = text + instead, last
    return text + completion[done:], places


def replaced_text(completion: str, spans: Sequence[Span]) -> str:
    """Put each span's replacement in its place. A span without one is deleted, and so is the white space before it.

    Args:
        spans: in order, without overlaps.
    """
    text, done = "", 0
    for span in spans:
        text, done = text + completion[done : span.start], span.end
        if span.replace:
            text += span.replace
            continue
        text = text.rstrip(" ")
        if not text or text[-1].isspace():  # nothing stands before it in its line
            done = len(completion) - len(completion[done:].lstrip(" "))
    return text + completion[done:]


def _begins(offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return each token's first character, its leading space included: some tokenizers leave that out."""
    begins, reached = [], offsets[0][0] if offsets else 0
    for start, end in offsets:
        begins.append(min(start, reached))
        reached = max(reached, end)
    return begins


def _replacement(text: str, start: int, spans: Sequence[Span]) -> str | None:
    """Return the tokens' text with every span replaced, or None if a span does not say by what.

    Args:
        text: the text of the tokens, which begins at the completion's character `start`.
    """
    parts, at = [], 0  # a span can begin before the tokens, in white space that the template removes
    for span in spans:
        if span.replace is None:
            return None
        parts += [text[at : max(at, span.start - start)], span.replace]
        at = span.end - start
    made = "".join([*parts, text[at:]])
    # If nothing should stand there, the space before a word goes with the word.
    return "" if made.isspace() and not any(span.replace for span in spans) else made


def _united(places: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """Sort the places and unite those that overlap."""
    united: list[Span] = []
    for start, end in sorted(places):
        if united and start < united[-1].end:
            united[-1] = Span(united[-1].start, max(united[-1].end, end))
        else:
            united.append(Span(start, end))
    return tuple(united)
