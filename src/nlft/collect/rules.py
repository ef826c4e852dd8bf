"""A judge without a model: it recalculates what a completion writes down, and says in words what is wrong.

A wrong step is quoted as it was written, and its correction has a line of its own that begins `Correction:`, because
training leaves those lines out of the judge prompt: in view of the right number a model may avoid the wrong one, and
the mistake would not show. What is not plainly a calculation is left alone: a false accusation teaches what is wrong.
"""

import re
from collections import Counter
from fractions import Fraction

from nlft.collect.arithmetic import find_calculations, miscalculated
from nlft.data.grading import FLEXIBLE, IN_SENTENCE, MARK, STRICT

MOST_FINDINGS = 3
REPEATED = 3  # so often the same sentence or line is no coincidence
_LONGEST_QUOTE = 120

_MARKED = re.compile(rf"####\W{{0,8}}?({IN_SENTENCE.pattern})")  # and other spellings of the mark
_PIECE_ENDS = re.compile(r"(?<=[.!?])\s|[\n\r]")


def judge_by_rules(question: str, completion: str, answer: str, *, truncated: bool = False) -> str | None:
    """Say what is wrong with a completion; None if nothing is found.

    Args:
        answer: the standard answer with its reasoning.
        truncated: the completion was cut off at the token limit.
    Returns:
        At most three findings, a line each, some followed by a line that begins `Correction:`. Text in double
        quotes is verbatim the completion's. Where the standard answer holds a number, every completion with
        another final number, or with none, has a finding.
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
    """At most two: miscalculated steps, and before them a right one whose result is not in the answer."""
    steps = list(find_calculations(completion))
    wrong = miscalculated(steps, answer)
    known = {value for found in IN_SENTENCE.findall(answer) if (value := _value(found)) is not None}
    findings: dict[str, None] = {}
    for step in steps:
        if step in wrong:
            findings[f'The step "{step.written}" is miscalculated.\nCorrection: {step.corrected}.'] = None
        elif answer_is_wrong and not findings and not {step.value, step.result} & known:
            findings[f'The step "{step.written}" is not a step of the solution.'] = None
    return list(findings)[: MOST_FINDINGS - 1]


def _final_answer(question: str, completion: str, answer: str, truncated: bool) -> tuple[str | None, bool]:
    """The finding on the final answer, if any, and whether its number is wrong or missing."""
    expected = _expected(answer)
    if expected is None:
        return None, False
    correction = f"Correction: the answer is {expected}."
    written, number = _stated(question, completion, truncated)
    if not number:
        return f"The response never states a final answer.\n{correction}", True
    if _value(number) != _value(expected):
        return f'The final answer "{written[:_LONGEST_QUOTE]}" is wrong.\n{correction}', True
    if MARK in answer and not STRICT.search(completion):
        finding = f'The final answer "{written}" is not written as {MARK}, a space and the number.'
        return f"{finding}\nCorrection: {MARK} {expected}", False
    last = FLEXIBLE.findall(completion)[-1][:_LONGEST_QUOTE]
    if _value(last) != _value(expected):
        return f'The response goes on after its final answer, up to "{last.rstrip(".,") or last}".', False
    return None, False


def _expected(answer: str) -> str | None:
    """The number of a standard answer: after its last mark, else its last number."""
    marked = IN_SENTENCE.search(answer.rpartition(MARK)[2]) if MARK in answer else None
    numbers = [marked[0]] if marked else IN_SENTENCE.findall(answer)
    return numbers[-1] if numbers else None


def _stated(question: str, completion: str, truncated: bool) -> tuple[str, str]:
    """The final answer as written, and its number; both empty where the last number only restates the question."""
    if found := STRICT.search(completion):
        return _quotable(found[0].rstrip(".,")), found[1]
    if found := _MARKED.search(completion):
        return (found[1] if re.search(r'["\n\r]', found[0]) else found[0]), found[1]
    numbers = IN_SENTENCE.findall(completion)
    if not numbers or truncated:
        return "", ""
    sentence = [piece for piece in _PIECE_ENDS.split(completion) if IN_SENTENCE.search(piece)][-1].strip()
    return ("", "") if " " in sentence and sentence in question else (numbers[-1], numbers[-1])


def _value(number: str) -> Fraction | None:
    """The number, without dollar signs, commas and a trailing period; None if it is none, or endless."""
    digits = number.replace("$", "").replace(",", "").removesuffix(".")
    plain = len(digits) <= 300 and re.fullmatch(r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)", digits)
    return Fraction(digits) if plain else None


def _repetition(completion: str) -> str | None:
    """The first sentence or line that is said over and over."""
    for piece, count in Counter(map(str.strip, _PIECE_ENDS.split(completion))).items():
        if count >= REPEATED and len(piece) >= 5 and (quoted := _quotable(piece)):
            return f'The response repeats "{quoted}" again and again.'
    return None


def _quotable(text: str) -> str:
    """The start of a text that can stand in quotes, in a line that is no correction."""
    return re.split(r'"|\n|Correction:', text.strip('" \n'))[0][:_LONGEST_QUOTE].strip()


# From text to calculations.
