"""The judge that reads a file of checks: its judgments name the checks that a completion fails, and quote what it did.

Quotes are verbatim, so that they mark the words in the completion.
"""

from collections.abc import Callable, Sequence

from nlft.collect.opinions import Opinion
from nlft.data.checks import Check, CheckResult
from nlft.data.checks_grader import ChecksGrader
from nlft.data.records import Example, completion_text, reply_to


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
    if words:
        return Opinion(None if label else words, "wrong", words)
    undecided = [result.name for result in results if result.passed is None]
    if undecided:
        return Opinion(None, None, "", "" if label else f"no check failed; not decided: {', '.join(undecided)}")
    return Opinion(None, "right", "passes all checks", "" if label else "passes all checks")


def _sentence(check: Check, result: CheckResult, text: str) -> str:
    """Say which check failed, with every found part in quotes."""
    says = check.say.rstrip(" .") or check.name
    quotes = [quote for start, end in result.hits for quote in _quotes(text[start:end])]
    if quotes:
        *others, last = dict.fromkeys(quotes)
        named = f"{', '.join(others)} and {last}" if others else last
        return f"The reply says {named}: {says}."
    if check.say:
        return f"{says}."
    return f"The reply fails the check {check.name}: {result.evidence}."


def _quotes(part: str) -> list[str]:
    """Quote a part verbatim. A quote is on one line, and has no quotation mark of its own kind."""
    lines = [line.strip() for line in part.split("\n") if line.strip()]
    return [f'"{line}"' if '"' not in line else f"“{line}”" for line in lines]
