"""The judge that reads a file of checks: its judgments name the checks that a completion fails, and quote what it did.

Quotes are verbatim, so that they mark the words in the completion. A span marks what no quote can: a part of a word or
a number, or one of several places with the same words.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from nlft.collect.opinions import Opinion
from nlft.core.spans import Span, quoted_spans
from nlft.core.thoughts import stripped_place
from nlft.core.word_search import SearchedText
from nlft.data.checks import Check, CheckResult
from nlft.data.checks_grader import ChecksGrader
from nlft.data.records import Example, completion_text, reply_to

_WITHOUT_SPACES = 0x0E00  # from here on, in Unicode: Thai, Chinese, Japanese, Korean


def checks_judge(grader: ChecksGrader) -> Callable[[Sequence[Example]], list[Opinion]]:
    """Return a judge that describes failed checks, one sentence for each."""

    def judge(examples: Sequence[Example]) -> list[Opinion]:
        texts = [completion_text(example) for example in examples]
        results = grader.check([reply_to(example, text) for example, text in zip(examples, texts, strict=True)])
        return [
            _opinion(example.label, grader.checks, given, text)
            for example, given, text in zip(examples, results, texts, strict=True)
        ]

    return judge


def judgment_of(checks: Sequence[Check], results: Sequence[CheckResult], text: str) -> str:
    """Describe the failed checks, one sentence on each line. Return an empty text if none failed.

    Args:
        text: the completion.
    """
    return "\n".join(sentence for _, sentence in _sentences(checks, results, text, SearchedText(text)))


def _opinion(label: bool, checks: Sequence[Check], results: Sequence[CheckResult], text: str) -> Opinion:
    searched = SearchedText(text)
    failed = _sentences(checks, results, text, searched)
    words = "\n".join(sentence for _, sentence in failed)
    if label and words:
        return Opinion(None, "wrong", words)
    if words:
        return Opinion(words, "wrong", words, spans=_unquoted(failed, text, searched))
    undecided = [result.name for result in results if result.passed is None]
    if undecided:
        return Opinion(None, None, "", "" if label else f"no check failed; not decided: {', '.join(undecided)}")
    return Opinion(None, "right", "passes all checks", "" if label else "passes all checks")


def _sentences(
    checks: Sequence[Check], results: Sequence[CheckResult], text: str, searched: SearchedText
) -> list[tuple[CheckResult, str]]:
    """Return the results of the failed checks, each with its sentence."""
    pairs = zip(checks, results, strict=True)
    return [(result, _sentence(check, result, text, searched)) for check, result in pairs if result.passed is False]


def _sentence(check: Check, result: CheckResult, text: str, searched: SearchedText) -> str:
    """Say which check failed, with every found part in quotes."""
    says = check.say.rstrip(" .") or check.name
    parts = dict.fromkeys(_whole_words(text, *hit) for hit in result.hits)
    hits = _Places(result.hits)
    quotes = [
        quote for quote in dict.fromkeys(q for part in parts for q in _quotes(part)) if _marks(quote, hits, searched)
    ]
    if quotes:
        *others, last = quotes
        named = f"{', '.join(others)} and {last}" if others else last
        return f"The reply says {named}: {says}."
    if check.say:
        return f"{says}."
    return f"The reply fails the check {check.name}: {result.evidence}."


class _Places:
    """Places in a text, for many questions whether one of them has a part of another place."""

    def __init__(self, places: Iterable[tuple[int, int]]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # the last end of all places up to this one
        for start, end in sorted(places):
            self._starts.append(start)
            self._ends.append(max(end, self._ends[-1]) if self._ends else end)

    def overlap(self, start: int, end: int) -> bool:
        """Return whether a place has a character from `start` to `end` (exclusive)."""
        before = bisect_left(self._starts, end)
        return before > 0 and start < self._ends[before - 1]


def _marks(quote: str, hits: _Places, searched: SearchedText) -> bool:
    """Return whether a quote marks what the check found, whole and nothing else."""
    places = quoted_spans(searched, quote).spans
    whole = all(span.end - span.start >= len(quote) - 2 for span in places)  # quotes can stand in a quote
    return bool(places) and whole and all(hits.overlap(span.start, span.end) for span in places)


def _unquoted(failed: Sequence[tuple[CheckResult, str]], text: str, searched: SearchedText) -> tuple[Span, ...]:
    """Return the found parts that the sentences about them do not mark by a quote, each with its sentence as note."""
    spans = []
    for result, sentence in failed:
        marked = _Places((span.start, span.end) for span in quoted_spans(searched, sentence).spans)
        for start, end in result.hits:
            start, end = stripped_place(text, start, end)
            if start < end and not marked.overlap(start, end):
                spans.append(Span(start, end, note=sentence))
    return tuple(spans)


def _whole_words(text: str, start: int, end: int) -> str:
    """Return the text from `start` to `end`, with the rest of the words that it cuts. A quote marks whole words."""
    while start > 0 and _joins(text[start - 1]) and _joins(text[start]):
        start -= 1
    while end < len(text) and _joins(text[end - 1]) and _joins(text[end]):
        end += 1
    return text[start:end]


def _joins(character: str) -> bool:
    """Return whether a character is part of a word, in a script that puts spaces between words."""
    return (character.isalnum() or character == "_") and ord(character) < _WITHOUT_SPACES


def _quotes(part: str) -> list[str]:
    """Quote a part verbatim. A quote is on one line, and has no quotation mark of its own kind."""
    lines = [line.strip() for line in part.split("\n") if line.strip()]
    return [f'"{line}"' if '"' not in line else f"“{line}”" for line in lines]
