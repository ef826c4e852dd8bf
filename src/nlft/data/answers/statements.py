"""Read the number that a sentence or a short answer states. Something that is not one number is not read by a part."""

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from nlft.data.answers import number_words as w
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity, Value, compare, continued, negated, readings_of_parts
from nlft.data.answers.runs import MOST_WORDS, Run, Token, runs_of

_ASIDE = re.compile(r"\([^()\n]*\)")
# 5ではありません, 5가 아닙니다: these scripts put no space between words.
_DENIED_AFTER = re.compile(r".{0,3}?(?:では?あり?ま|では?ない|じゃな|でな[いく]|아니|아닙|아닌|아님|नह)")
_PART_AFTER = re.compile(r".?(?:の半分|の倍|的一半|의절반|を超え|より)")
_EXPLAINS = re.compile(r"[^\W\d_]{2}|[%=]")
_EDGES = frozenset(".,;:!?\"'()[]{}_#~@&|—")
_DIGITS = frozenset("0123456789")
_LONGEST = 2000  # characters of a statement; longer ones are read from their end


def read_statement(text: str, *, marked: bool = False) -> Quantity | None:
    """Read the number that a text states.

    Args:
        text: a sentence, or a short answer, without markup.
        marked: the text is an answer. If it begins with a number, other numbers in it make it unclear. In any other
            text the last number counts, unless a word such as `in` may join it to an earlier one.

    Returns:
        The number. A quantity without readings: the text has numbers, but does not clearly state one. None: it has no
        number.
    """
    short = _without_asides(_shortened(text))
    all_runs = runs_of(short)
    if not all_runs:
        return None
    unclear = Quantity(" ".join(short.split()), NOT_ONE_NUMBER)
    if marked and len(text) - max(len(token.text) for token in all_runs[0].tokens) > 2 * _LONGEST:
        return unclear
    runs = [run for run in all_runs if not _is_negated(run)]
    if not runs or _several_unknowns(runs) or _is_supposed(runs[-1]):
        return unclear
    found = [_quantity(run) for run in runs]
    start = max((at for at, run in enumerate(runs) if run.is_result), default=0)
    if marked and not all_runs[0].before:
        if all(run.continues for run in runs[1 : start + 1]):
            found = found[start:]
        return found[0] if _agree(found) or len(all_runs) == 1 else unclear
    explains = start > 0 and not w.REASONS.isdisjoint(runs[start].before)  # 5 are left, because 3 + 2 = 5
    numbers = {token.text for run in runs[:start] for token in run.tokens}
    if explains and found[start].text.strip("$€£%") not in numbers:
        return unclear
    return _last_stated(runs[start:], found[start:]) or unclear


def begins_with_number(text: str) -> bool:
    """Return whether no word stands before the text's first number."""
    runs = runs_of(_without_asides(text[:_LONGEST]))
    return bool(runs) and not runs[0].before


def is_short(text: str) -> bool:
    """Return whether a text that begins with a number has at most three words after it, and no calculation."""
    runs = runs_of(_without_asides(text[: 2 * _LONGEST]))
    return len(runs) == 1 and len(runs[0].after) <= MOST_WORDS and not runs[0].is_result


def _shortened(text: str) -> str:
    """Return a long text's last part. A long number at its beginning is kept whole."""
    start = max(0, len(text) - _LONGEST)
    while start and (text[start] in _DIGITS or (text[start] in ".,'_" and text[start + 1] in _DIGITS)):
        start -= 1
    return text[start:]


def _last_stated(runs: list[Run], found: list[Quantity]) -> Quantity | None:
    """Return the last number; None if it is unclear, or if a word may join it to an earlier one."""
    named = [at for at, run in enumerate(runs) if not _is_label(run)]
    if not named:
        return found[0] if len(found) == 1 and runs[0].unit == w.ORDINAL else None
    if any(_is_label(run) and len(run.before) == 1 for run in runs[1:]):  # 5 May 2024
        return None
    runs, found = [runs[at] for at in named], [found[at] for at in named]
    if _is_joined_to_words(runs[-1]):
        return None
    if _agree(found):
        return found[-1]
    joined = _is_joined(runs[-1]) or (len(runs) > 1 and _is_parallel(*runs[-2:]))
    return None if not found[-1].readings or joined else found[-1]


def _agree(found: Sequence[Quantity]) -> bool:
    return bool(found[0].readings) and all(compare(found[0], other) == "right" for other in found[1:])


def _without_asides(text: str) -> str:
    """Leave out what parentheses explain, if a number stands outside them: `5 (out of 120)`."""
    outside = _ASIDE.sub(lambda match: " " if _EXPLAINS.search(match[0]) else match[0], text)
    return outside if re.search("[0-9]", outside) else text


# What words and signs around a number make of it.


def _is_negated(run: Run) -> bool:
    """Return whether the words around say that it is not this number."""
    words = list(run.before)
    if any(tuple(words[-2 - back : len(words) - back]) in w.INSTEAD for back in (0, 1)):
        return True
    if any(one in w.NOT or one.endswith("n't") for one in words[-5:] if {"think", "believe"} & set(words[-5:])):
        return True
    while words and words[-1] in w.AFTER_NOT:
        words.pop()
    if words and (words[-1] in w.NOT or words[-1].endswith("n't")):
        return True
    after = run.after[:MOST_WORDS]
    surely = after[1:2] and after[1].endswith("ly")  # 5 is definitely not the answer
    if not w.DENIED_AFTER.isdisjoint(after[:2]) or tuple(after[:3:2] if surely else after[:2]) in w.IS_NOT:
        return True
    return _DENIED_AFTER.match("".join(run.after[:8])) is not None


def _is_supposed(run: Run) -> bool:
    """Return whether words before make an assumption or a doubt of it: `if it were 5`."""
    return not run.is_result and not w.DOUBT.isdisjoint(run.before)


def _several_unknowns(runs: Sequence[Run]) -> bool:
    """Return whether several unknowns have a value: `x = 5 or x = -5`."""
    unknowns = 0
    for run in runs:
        sides = _sides(run.tokens)
        unknowns += len(sides) > 1 and not any(token.kind == "number" for token in sides[0])
        if any(token.text in ",;" for side in sides[1:-1] for token in side):
            return True
    return unknowns > 1


def _is_label(run: Run) -> bool:
    return run.unit == w.ORDINAL or (bool(run.before) and run.before[-1] in w.LABELS)


def _is_joined(run: Run) -> bool:
    """Return whether the words before may join a run to the run before it: `18 eggs in 2 days`, `4 and 9`."""
    words = list(run.before)
    if run.is_result:
        return False
    if not w.ASIDES.isdisjoint(words):
        return True
    while len(words) > 1 and words[-1] in w.DETERMINERS:
        words.pop()
    if len(words) <= 1:
        return not (words and words[0] in w.LINKS)
    if words[-1] == "of" and words[-2] in w.TOTALS:
        return False
    if words[-1] == "to" and words[-2] in w.TO_A_RESULT:
        return False
    return words[-1] in w.JOINS


def _is_parallel(earlier: Run, run: Run) -> bool:
    """Return whether two numbers are said of two things, in one way: `Tom has 5 and Ann has 7`."""
    before, words = earlier.before, run.before
    if run.is_result or len(words) < 2 or len(before) < 2 or not w.CONCLUDES.isdisjoint(words):
        return False
    same = words[-1] == before[-1] and words[-1] in w.LINKS
    return same and words[-2] != before[-2] and words[-2] not in w.TOTALS


def _is_joined_to_words(run: Run) -> bool:
    """Return whether a word may join a run to a number in words: `twelve eggs in 3 boxes`, `in 3 days twelve eggs`."""
    if run.is_result:
        return False
    before, after = (not w.SPELLED.isdisjoint(words) for words in (run.before, run.after))
    return (before and _is_joined(run)) or (after and not w.JOINS.isdisjoint(run.before[-1:]))


def _is_bound(run: Run) -> bool:
    """Return whether words make something else of a number: `more than 5`, `5 or more`, `5 squared`, `half of 5`."""
    before, after = run.before, run.after[: MOST_WORDS + 1]
    while before and before[-1] in w.DETERMINERS:  # half of the 10
        before = before[:-1]
    if before[-1:] and before[-1] in w.BOUND_BEFORE:
        return True
    if len(before) > 1 and before[-2] in w.BOUND_BEFORE and before[-1] in w.OF:
        return True
    if (
        tuple(before[-2:]) == ("up", "to")
        and not run.is_result
        and (len(before) < 3 or before[-3] not in w.TO_A_RESULT)
    ):
        return True
    if before[-1:] and before[-1] in w.AS and not w.BOUND_BEFORE.isdisjoint(before[-5:-1]):  # twice as many as 5
        return True
    if (after[:1] and after[0] in w.BOUND_AFTER) or not w.BOUND_AFTER_COUNT.isdisjoint(after[1:2]):
        return True
    if _PART_AFTER.match("".join(run.after[:8])) or any(pair in w.OPEN_AFTER for pair in pairwise(after)):
        return True
    return any(one == "and" and other in ("a", "one") and third in w.PARTS
               for one, other, third in zip(after, after[1:], run.after[2:], strict=False))  # fmt: skip


def _quantity(run: Run) -> Quantity:
    """Read the number of a run: what stands after its last equals sign."""
    tokens = _stripped(_sides(run.tokens)[-1], run)
    text = "".join(" " * bool(at and tokens[at - 1].end < t.start) + t.text for at, t in enumerate(tokens))
    unit = run.unit
    parts: list[str] = []
    for at, token in enumerate(tokens):
        if token.text in w.CURRENCIES or token.text in "%°":
            unit = unit or w.UNITS[token.text]
            if token.text in w.CURRENCIES and 0 < at < len(tokens) - 1 and parts not in (["-"], ["+"], ["–"]):
                parts.append(token.text)
        elif parts and token.kind == "number" and tokens[at - 1].kind == "number":
            parts += [" ", token.text]
        else:
            parts.append("×" if token.text == "*" else token.text)
    enclosed = _is_enclosed(run)
    is_function = enclosed and run.hyphened and len(_sides(run.tokens)) == 1  # f(5)
    follows_point = run.hyphened and run.tokens[0].text == "." and run.tokens[0].end == run.tokens[1].start  # v1.2.3
    if follows_point or is_function or _is_bound(run) or not parts:
        return Quantity(" ".join([*run.before[-2:], text, *run.after[:MOST_WORDS]]), NOT_ONE_NUMBER)
    readings = _signed(parts, tokens, run)
    if run.scale:
        readings |= {value * run.scale if isinstance(value, Fraction) else None for value in readings}
    is_below = any(pair in w.BELOW_ZERO for pair in pairwise(run.after[:3]))
    if is_below or (run.before[-1:] and run.before[-1] in w.NEGATIVE):
        readings = frozenset(None if value is None else negated(value) for value in readings)
        text = f"-{text}"
    return Quantity(text, readings, unit, _otherwise(tokens, run, enclosed, readings))


def _is_enclosed(run: Run) -> bool:
    """Return whether parentheses surround the number, with its currency: `(5)`, `($5)`."""
    marks = [token.text for token in run.tokens if token.kind != "number" and token.text not in w.CURRENCIES]
    return marks[:2] == ["(", ")"] and run.tokens[0].text == "("


def _otherwise(
    tokens: Sequence[Token], run: Run, enclosed: bool, readings: frozenset[Value | None]
) -> frozenset[Value | None]:
    """Return what else a number may mean, if it is not the expected one.

    Accounts write `(5)` for -5, `5 m below sea level` may be -5, and `0.333...` a third.
    """
    found: set[Value | None] = set()
    if enclosed or any(pair in w.BELOW_A_LEVEL for pair in pairwise(run.after[:3])):
        found |= {None if value is None else negated(value) for value in readings}
    last = tokens[-1]
    if last.kind == "number" and any(t.kind == "dots" and t.start == last.end for t in run.tokens):
        found |= continued(last.text)
    return frozenset(found)


def _signed(parts: list[str], tokens: Sequence[Token], run: Run) -> frozenset[Value | None]:
    """Read a number with its sign. A dash that a space sets apart from the number may be no sign."""
    if parts[0] not in ("-", "–", "+"):
        return readings_of_parts(parts)
    if len(parts) == 1:  # 5 = +
        return NOT_ONE_NUMBER
    readings = readings_of_parts(parts[1:]) if "^" not in parts else NOT_ONE_NUMBER
    sign = next(token for token in tokens if token.text == parts[0])
    after = tokens[tokens.index(sign) + 1]
    apart, hyphen = sign.end < after.start, run.hyphened and sign is run.tokens[0]
    if parts[0] == "+":
        return NOT_ONE_NUMBER if apart or hyphen else readings
    if hyphen:
        return NOT_ONE_NUMBER
    negative = frozenset(None if value is None else negated(value) for value in readings)
    return negative | readings if apart and not run.is_result else negative


def _sides(tokens: Sequence[Token]) -> list[list[Token]]:
    """Split tokens at the equals signs."""
    sides: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    return sides


def _stripped(side: list[Token], run: Run) -> list[Token]:
    """Leave out punctuation, brackets and emphasis around a number."""
    first, last = 0, len(side)
    bullet = {"*", "×"} if side and (not run.before or side[0].end == side[-1].start) else {"*"}
    while first < last and (side[first].text in _EDGES | bullet or side[first].kind == "dots"):
        glued = first + 1 < last and side[first].end == side[first + 1].start
        if side[first].text in bullet and run.before and not glued:
            break
        if side[first].text == "|" and glued and side[first + 1].text in ("-", "–"):
            break  # an absolute value
        first += 1
    while last > first and (side[last - 1].text in _EDGES | {"*", "-", "–"} or side[last - 1].kind == "dots"):
        last -= 1
    return side[first:last]
