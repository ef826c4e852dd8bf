"""Marked parts of a completion: what a reader objects to, and what should stand there instead.

A span comes from a record, or from a quote in its judgment. `token_spans` says which tokens it covers.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from nlft.core.prompts import without_corrections
from nlft.core.word_search import LONGEST_GAP, SearchedText, SoughtWord


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
    """

    start: int
    end: int
    text: str
    replace: str | None = None
    pivot: int | None = None


@dataclass(frozen=True)
class Quoted:
    """The quotes of a judgment.

    Attributes:
        spans: all places of the quotes in the completion, in order, without overlaps.
        missing: the quotes that are nowhere in the completion, as the judgment writes them.
    """

    spans: tuple[Span, ...]
    missing: tuple[str, ...]


# A quote may go over a line's end, but not over an empty line. The mark in 5" is no quotation mark.
_INSIDE = r"(?:[^{0}\n]|\n(?!\s*\n))+?"
_PAIRS = [
    ("“", "”"),
    ("„", "“”"),
    ("”", "”"),
    ("«", "»"),
    ("»", "«"),
    ("「", "」"),
    ("『", "』"),
    ("‹", "›"),
    ("›", "‹"),
    ("‟", "”"),
    ("❝", "❞"),
    ("《", "》"),
    ("〈", "〉"),
    ("〝", "〞〟"),
    ("｢", "｣"),
    ("﹁", "﹂"),
    ("﹃", "﹄"),
    ("＂", "＂"),
]
_QUOTES = re.compile(
    "|".join(
        [
            # As TeX writes it: ``so''. No ` may stand inside, because two of them can also be a fence.
            r"(?:(?<![\w'])''|(?<!`)``|‘‘|(?<!\w),,)(?P<doubled>(?=\S)(?:(?!''|’’|‘‘|,,)[^`\n]|\n(?!\s*\n))+?(?<=\S))"
            r"(?:''|’’)(?![\w'])",
            r"(?<!`)(?P<fence>`+)(?P<code>(?:(?!`)[\s\S])+?)(?P=fence)(?!`)",
            rf'(?<!\d)"(?P<straight>(?=\S){_INSIDE.format(chr(34))}(?<=\S))"',
            # Between letters, the Hebrew mark stands in an abbreviation.
            r"(?<!\w)״(?P<hebrew>(?=\S)(?:[^״\n]|(?<=\w)״(?=\w))+?(?<=\S))״(?!\w)",
            *(f"{opens}(?P<k{at}>{_INSIDE.format(opens + ends)})[{ends}]" for at, (opens, ends) in enumerate(_PAIRS)),
            # A mark before a digit or a shortened word is an apostrophe: the '90s, 'em.
            r"(?:‚|‘|(?<![\w'])'(?!\d|(?:em|tis|twas|cause|til|n|bout|round|cos)\b))(?=\S)"
            r"(?P<single>(?:[^'‘’\n]|(?<=\w)['’](?=\w)|(?<=s)['’](?=\s+\w))+)(?<=\S)['’‘](?!\w)",
        ]
    ),
    re.IGNORECASE,
)
_PLURAL = re.compile(r"(?<=s)['’](?=\s)")
_CLOSES = re.compile(r'(?<=[^\s"])"(?!\w)')
_MOST_INCHES = 3  # marks of inches inside one quote
_PRAISE = re.compile(r'^[ \t]*"[^"\n]*" is right\.[ \t]*$', re.MULTILINE)  # how the page writes down a mark "right"


def quoted_spans(completion: str, judgment: str | None) -> Quoted:
    """Find the quotes of a judgment in the completion it is about, each wherever it stands.

    White space, and the forms of accents and of apostrophes and hyphens inside words, need not agree. Case, and the
    forms of other quotation marks and dashes, must agree, unless the quote is nowhere with its own; the latter always
    must in a quote without a letter or digit. A quote that begins or ends with a word or a number matches whole
    words and numbers. An ellipsis in a quote stands for at most `LONGEST_GAP` characters. Corrections are no quotes.
    """
    places: list[tuple[int, int]] = []
    missing: dict[str, None] = {}
    searched = SearchedText(completion)
    for readings in dict.fromkeys(map(tuple, _quotes(blame(judgment)))):  # a judge that loops repeats its quotes
        found = next((spans for quote in readings if (spans := searched.quote(quote))), None)
        if found is None:
            missing[" ".join(readings[-1].split())] = None
        places += found or []
    return Quoted(_united(places), tuple(missing))


def blame(judgment: str | None) -> str:
    """Return the part of a judgment that objects to something: without corrections, and without marks "right"."""
    return _PRAISE.sub("", without_corrections(judgment or ""))


def quote_places(text: str) -> list[tuple[int, int]]:
    """Return where a text has quotes, with their marks: (start, end) in characters, `end` exclusive."""
    return [match.span() for match in _QUOTES.finditer(text)]


def quotes_replaced(text: str, instead: str) -> str:
    """Put `instead` in the place of each of a text's quotes."""
    return _QUOTES.sub(lambda _: instead, text)


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
        self._words = [SoughtWord.of(word) for word in words if word.strip()]

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

    Spans that share a token become one. It has a replacement only if all of them have one.

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


def _quotes(judgment: str) -> Iterator[list[str]]:
    """Yield each quote of the text, as the readings that its marks allow, the longest first."""
    for match in _QUOTES.finditer(judgment):
        quote = next(text for name, text in match.groupdict().items() if text is not None and name != "fence")
        readings = [quote.strip()]
        if match["single"]:  # after an s, a mark can end the quote or be an apostrophe
            readings += [quote[: mark.start()].strip() for mark in reversed(list(_PLURAL.finditer(quote)))]
        if match["straight"] and quote[-1].isdigit():  # the mark can stand for inches
            readings = [*_with_inches(judgment, *match.span("straight")), *readings]
        if readings[-1]:
            yield readings


def _with_inches(judgment: str, start: int, end: int) -> list[str]:
    """Return the longer readings of a quote that seems to end at a mark of inches, as in `"5" wide"`."""
    line_end = judgment.find("\n", end)
    limit = min(len(judgment) if line_end < 0 else line_end, end + LONGEST_GAP)
    marks = islice(_CLOSES.finditer(judgment, end + 1, limit), _MOST_INCHES)
    return [judgment[start : mark.start()] for mark in marks][::-1]


def _united(places: Iterable[tuple[int, int]]) -> tuple[Span, ...]:
    """Sort the places and unite those that overlap."""
    united: list[Span] = []
    for start, end in sorted(places):
        if united and start < united[-1].end:
            united[-1] = Span(united[-1].start, max(united[-1].end, end))
        else:
            united.append(Span(start, end))
    return tuple(united)
