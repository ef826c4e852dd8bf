"""The judge that reads a file of checks: its judgments name the checks that a completion fails, and quote what it did.

Quotes are verbatim, so that they mark the words in the completion. A span marks what no quote can: a part of a word or
a number, or one of several places with the same words.
"""

from collections.abc import Callable, Sequence

from nlft.collect.opinions import Opinion
from nlft.core.spans import Span, quoted_spans
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
    pairs = zip(checks, results, strict=True)
    return "\n".join(_sentence(check, result, text) for check, result in pairs if result.passed is False)


def _opinion(label: bool, checks: Sequence[Check], results: Sequence[CheckResult], text: str) -> Opinion:
    words = judgment_of(checks, results, text)
    if label and words:
        return Opinion(None, "wrong", words)
    if words:
        return Opinion(words, "wrong", words, spans=_unquoted(checks, results, text))
    undecided = [result.name for result in results if result.passed is None]
    if undecided:
        return Opinion(None, None, "", "" if label else f"no check failed; not decided: {', '.join(undecided)}")
    return Opinion(None, "right", "passes all checks", "" if label else "passes all checks")


def _sentence(check: Check, result: CheckResult, text: str) -> str:
    """Say which check failed, with every found part in quotes."""
    says = check.say.rstrip(" .") or check.name
    parts = dict.fromkeys(_whole_words(text, *hit) for hit in result.hits)
    quotes = [quote for part in parts for quote in _quotes(part) if _marks(quote, result, text)]
    if quotes:
        *others, last = dict.fromkeys(quotes)
        named = f"{', '.join(others)} and {last}" if others else last
        return f"The reply says {named}: {says}."
    if check.say:
        return f"{says}."
    return f"The reply fails the check {check.name}: {result.evidence}."


def _marks(quote: str, result: CheckResult, text: str) -> bool:
    """Return whether a quote marks what the check found, whole and nothing else."""
    places = quoted_spans(text, quote).spans
    whole = all(span.end - span.start >= len(quote) - 2 for span in places)  # quotes can stand in a quote
    return (
        bool(places) and whole and all(any(a < span.end and span.start < b for a, b in result.hits) for span in places)
    )


def _unquoted(checks: Sequence[Check], results: Sequence[CheckResult], text: str) -> tuple[Span, ...]:
    """Return the found parts that the sentences about them do not mark by a quote, each with its sentence as note."""
    spans = []
    for check, result in zip(checks, results, strict=True):
        if result.passed is not False:
            continue
        sentence = _sentence(check, result, text)
        marked = quoted_spans(text, sentence).spans
        for start, end in result.hits:
            part = text[start:end]
            start, end = start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip())
            if start < end and not any(start < span.end and span.start < end for span in marked):
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
