"""A judge without a model. It recalculates the steps of a completion, and describes what is wrong.

The judge quotes a wrong step verbatim. The correction follows on its own line, which begins with `Correction:`.
Training omits these lines from the judge prompt: a model that sees the right number may avoid the wrong one, and then
no token shows the mistake. The judge ignores anything that is not clearly a calculation, because a false accusation
would teach a mistake.
"""

import re
from collections import Counter
from fractions import Fraction

from nlft.collect.arithmetic import find_calculations, miscalculated
from nlft.core.marks import corrections
from nlft.data.answers.final_answers import read_standard
from nlft.data.grading import FLEXIBLE, IN_SENTENCE, MARK, STRICT

MOST_FINDINGS = 3
REPEATED = 3  # a sentence or line that occurs this often counts as repetition
_LONGEST_QUOTE = 120

_MARKED = re.compile(rf"####\W{{0,8}}?({IN_SENTENCE.pattern})")  # includes other spellings of the mark
_DECIMAL_COMMA = re.compile(r"-?(?:[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?|(?<![0-9])[0-9]+,[0-9]+)")
_PIECE_ENDS = re.compile(r"(?<=[.!?])\s|[\n\r]")


def judge_by_rules(question: str, completion: str, answer: str, *, truncated: bool = False) -> str | None:
    """Describe what is wrong with a completion. Return None if the rules find nothing.

    Args:
        answer: the standard answer with its reasoning.
        truncated: the completion was cut off at the token limit.

    Returns:
        At most three findings, one per line. A line that begins with `Correction:` may follow a finding. Text in double
        quotes is copied verbatim from the completion. If the standard answer is one plain number, every completion
        whose final number differs or is missing gets a finding. A step or number is called wrong only if no reading of
        it is right.
    """
    final, is_wrong = _final_answer(question, completion, answer, truncated)
    findings = [
        *_wrong_steps(completion, answer, is_wrong),
        final,
        _repetition(completion),
        "The response breaks off unfinished." if truncated else None,
    ]
    return "\n".join([finding for finding in findings if finding][:MOST_FINDINGS]) or None


def _wrong_steps(completion: str, answer: str, answer_is_wrong: bool) -> list[str]:
    """Make at most two findings about steps.

    The findings are about miscalculated steps. If there are none and the final answer is wrong, the finding is about
    the first correct step whose numbers are not in the standard answer. A standard answer without calculations does
    not tell what the steps are. A step on the way to the right number is not wrong, whatever the standard answer does.
    """
    steps = list(find_calculations(completion))
    wrong = miscalculated(steps, answer)
    if wrong or not answer_is_wrong or not any(find_calculations(answer)):
        findings = [f'The step "{s.written}" is miscalculated.\nCorrection: {s.corrected}.' for s in wrong]
        return list(dict.fromkeys(findings))[: MOST_FINDINGS - 1]
    known = set[Fraction]().union(*map(_readings, IN_SENTENCE.findall(answer)))
    reached = _readings(_expected(answer) or "")
    after = max((at for at, step in enumerate(steps, start=1) if step.result in reached), default=0)
    stray = (step for step in steps[after:] if not {step.value, step.result} & known)
    return [f'The step "{step.written}" is not a step of the solution.' for step in stray][:1]


def _final_answer(question: str, completion: str, answer: str, truncated: bool) -> tuple[str | None, bool]:
    """Return the finding about the final answer, if any, and whether its number is wrong or missing."""
    expected = _expected(answer)
    if expected is None:
        return None, False
    correction = f"Correction: the answer is {expected}."
    written, number = _stated(question, completion, truncated)
    if not number:
        return f"The response never states a final answer.\n{correction}", True
    if _value(number) != _value(expected):
        if _readings(number) & _readings(expected):  # 12.000 may be 12000
            return f'The final answer "{written[:_LONGEST_QUOTE]}" is ambiguous.\n{correction}', False
        return f'The final answer "{written[:_LONGEST_QUOTE]}" is wrong.\n{correction}', True
    if MARK in answer and not STRICT.search(completion):
        finding = f'The final answer "{written}" is not written as {MARK}, a space and the number.'
        return f"{finding}\nCorrection: {MARK} {expected}", False
    last = FLEXIBLE.findall(completion)[-1][:_LONGEST_QUOTE]
    if _value(last) != _value(expected):
        return f'The response goes on after its final answer, up to "{last.rstrip(".,") or last}".', False
    return None, False


def _expected(answer: str) -> str | None:
    """Return a standard answer's number, as the graders read it; None if it is not clearly one plain number."""
    stated = read_standard(answer)
    plain = stated is not None and stated.value is not None and IN_SENTENCE.fullmatch(stated.text)
    return stated.text if stated and plain else None


def _stated(question: str, completion: str, truncated: bool) -> tuple[str, str]:
    """Return the final answer as written, and its number. Both are empty if the last number restates the question."""
    if match := STRICT.search(completion):
        return _quotable(match[0].rstrip(".,")), match[1]
    if match := _MARKED.search(completion):
        return (match[1] if re.search(r'["\n\r]', match[0]) else match[0]), match[1]
    numbers = IN_SENTENCE.findall(completion)
    if not numbers or truncated:
        return "", ""
    sentence = [piece for piece in _PIECE_ENDS.split(completion) if IN_SENTENCE.search(piece)][-1].strip()
    return ("", "") if " " in sentence and sentence in question else (numbers[-1], numbers[-1])


def _value(number: str) -> Fraction | None:
    """Convert a text to a number, ignoring dollar signs, commas and a trailing period.

    Return None if the text is not a number, or is longer than 300 characters.
    """
    digits = number.replace("$", "").replace(",", "").removesuffix(".")
    is_number = len(digits) <= 300 and re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", digits)
    return Fraction(digits) if is_number else None


def _readings(number: str) -> set[Fraction]:
    """Return the values that a number may have: with a decimal point, or with a decimal comma (3,5 and 12.000)."""
    text = number.replace("$", "").rstrip(".,")
    others = [text.replace(".", "").replace(",", ".")] if _DECIMAL_COMMA.fullmatch(text) else []
    return {value for reading in (text, *others) if (value := _value(reading)) is not None}


def _repetition(completion: str) -> str | None:
    """Make a finding about the first sentence or line that occurs at least `REPEATED` times."""
    for piece, count in Counter(map(str.strip, _PIECE_ENDS.split(completion))).items():
        if count >= REPEATED and len(piece) >= 5 and (quoted := _quotable(piece)):
            return f'The response repeats "{quoted}" again and again.'
    return None


def _quotable(text: str) -> str:
    """Return the longest prefix that a finding can quote: without quotation marks, line ends, marks of corrections."""
    line = re.split(r'["\n]', text.strip('" \n'))[0]
    marks = corrections(line)
    return line[: marks[0][0] if marks else _LONGEST_QUOTE][:_LONGEST_QUOTE].strip()
