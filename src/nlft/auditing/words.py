"""Classify a judgment by its words. Does it praise or blame? Does it have only stock phrases?

The lists of praise, blame and stock words are English. A judgment in another language therefore has no tone and is
never reported as vague.
"""

import re
from bisect import bisect_right
from typing import Literal

from nlft.data.language import WORD, words

_CLAUSES = re.compile(r"[.;:!?\n]+|,\s")

_PRAISE = re.compile(
    r"\b(?:correct(?:ly)?|right|accurate(?:ly)?|perfect(?:ly)?|excellent|great|good|fine|nice|flawless(?:ly)?|sound|valid"
    r"|well done|exactly|impeccable|spot on|checks? out|add(?:s|ed)? up|as it should be|agree|matches|bravo|splendid)\b"
)
_BLAME = re.compile(
    r"\b(?:wrong(?:ly)?|incorrect(?:ly)?|inaccurate(?:ly)?|false(?:ly)?|untrue|mistak\w+|errors?|erroneous(?:ly)?|errs?"
    r"|mis(?:calculat|read|understand|understood|interpret|count|copi|copy|stat|quot|spell|spelt|tak|took|us)\w*"
    r"|fail(?:s|ed|ure)?|flaw(?:s|ed)?|faults?|faulty|bad|poor(?:ly)?|missing|miss(?:es|ed)|lacks?|omit(?:s|ted)?"
    r"|forg(?:ets?|ot|otten)|slips?|problems?|issues?|complain\w*|confus\w+|mix(?:es|ed) up|unclear|incomplete"
    r"|irrelevant|nonsense|invalid|invented|illogical|contradict\w*|inconsistent|off|disagree|weak(?:ness(?:es)?)?"
    r"|should(?: have been| have| be| not)|repeats?|ignor(?:es|ed)|skip(?:s|ped)|stops|breaks off|instead|too)\b"
)
_NEGATION = re.compile(
    r"\b(?:not|no|none|never|nothing|nowhere|neither|nor|without|cannot|hardly|barely|free of|far from|lacks?"
    r"|\w+n['’]t)\b"
)
# "The correct answer is 29" does not praise, but "that is the correct answer" does.
_NAMED = re.compile(
    r"(?<!is )(?<!was )(?<!gives )(?<!gets )(?<!reaches )(?<!states )(?<!found )(?<!has )(?<!with )"
    r"\b(?:the|a|its?|your) (?:correct|right|accurate|valid|exact|good) "
    r"(?:final |numerical )?(?:answer|result|solution|value|number|amount|total|response|calculation|way|one)\b"
)
_OTHER_RIGHT = re.compile(r"right (?:side|hand|angle|away|now|after|before)|left and right|good[- ]bye|a good deal")
_REACH = 4  # a negation applies to a word if fewer than this many words stand between them
_NEVER_PRAISE = ("too", "instead", "off", "should", "should be", "should have", "repeats", "repeat")

Tone = Literal["praise", "blame", "doubt"]
_READINGS: tuple[tuple[re.Pattern[str], Tone, Tone], ...]
_READINGS = ((_BLAME, "blame", "praise"), (_PRAISE, "praise", "blame"))  # with what "not" makes of each

_STOCK_WORDS = """
a an the this that these it its is are was were be been being i we you he she they me us my your our and or
but so to of in on at for with as by from there here all any some something somewhere thing things else
what which who how much very really quite just only also too again please try do does did done has have had
can could would should will may might must need needs look looks seem seems see above below review check
checked mark marked answer answers response responses completion output result results solution text reply
final number numerical value one question task problem model assistant user reviewer student teacher
correct right wrong incorrect inaccurate false bad poor poorly good better best great enough fine ok okay
mistake mistakes error errors errs fault expected expect expecting want wanted hoped like liked dislike
not no none never nothing isn't wasn't don't doesn't didn't yes fail fails failed improve improved
improvement work works more less overall generally simply unfortunately sorry
todo tbd na n/a nil null fixme xxx placeholder judgment judgement feedback comment reference expected given
"""
_STOCK = frozenset(_STOCK_WORDS.split())


def tone(judgment: str) -> set[Tone]:
    """Return which of praise, blame and doubt an English judgment contains. Doubt is a negation of something else."""
    tones: set[Tone] = set()
    for clause in set(_CLAUSES.split(_NAMED.sub(" ", _OTHER_RIGHT.sub(" ", judgment.lower())))):
        tones |= _tone_of_clause(clause)
    return tones


def _tone_of_clause(clause: str) -> set[Tone]:
    """Find the tones of one clause. A negation reverses the next few words: "not correct", "no mistakes"."""
    tones: set[Tone] = set()
    used = set()
    negations = [match.end() for match in _NEGATION.finditer(clause)]
    for pattern, meaning, opposite in _READINGS:
        for match in pattern.finditer(clause):
            near = _near(negations, clause, match.start())
            if match[0] in _NEVER_PRAISE and near:
                continue
            used.update(near)
            tones.add(opposite if near else meaning)
    # A remaining negation reports something missing: "The total is not given".
    return tones | {"doubt"} if set(negations) - used else tones


def _near(negations: list[int], clause: str, at: int) -> list[int]:
    """Return those ends of negations from which fewer than `_REACH` words lead to the place `at`.

    The nearest comes first, and the search ends at the first that is too far away, so that a text of thousands of
    negations is read in linear time.
    """
    near = []
    for number in range(bisect_right(negations, at) - 1, -1, -1):
        if len(WORD.findall(clause[negations[number] : at])) >= _REACH:
            break
        near.append(negations[number])
    return near


def says_nothing(judgment: str) -> bool:
    """Return whether a judgment has only stock words: "This is wrong, please try again", "n/a", "-"."""
    return "/" not in judgment.replace("n/a", "") and all(word in _STOCK for word in words(judgment) if word != "n")


def content(text: str) -> set[str]:
    """Return the text's words and numbers, without stock words."""
    return set(words(text)) - _STOCK
