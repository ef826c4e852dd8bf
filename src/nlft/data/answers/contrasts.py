"""Find a sentence that goes against an answer before it and may give another one: "However, it is 18"."""

import re

_STARTS = r"(?:(?<=[.!?*)}$] )|(?<=\s\s)|(?<=\n))[*_>-]{0,3} ?"
_AGAINST = re.compile(
    rf"{_STARTS}(?:however|but|yet|still|nevertheless|nonetheless|except|although|though|that said|unfortunately"
    r"|in reality|(?P<foreign>jedoch|allerdings|aber|doch|cependant|pourtant|mais|toutefois|sin embargo|pero|però"
    r"|tuttavia|ma|porém|mas|но|однако))\b|但是?|不过|然而|しかし|ただし|하지만|그러나",
    re.IGNORECASE,
)
# After a foreign word, these tell that it is a name in an English text: "Ma is 40 years old".
_ENGLISH = re.compile(r"\b(?:is|was|had|has|and|the|he|she|with|sold|bought)\b", re.IGNORECASE)
_VALUE = re.compile(r"(?:(?<![\w)])-)?[0-9][0-9.,]*+(?: (?:hundred|thousand|million)\b)?")
# A number that the sentence denies, and why: "it does not mean that she has 20, because 2 broke".
_DENIED = re.compile(
    r"(?:(?:n't|\b(?:not|never|doubt|nicht|pas|non?|não|не)|不是)\b"
    r"(?: (?:be|been|mean|equal|get|really|exactly|definitely|necessarily|that|it|this|she|he|they|is|are|was|has|have"
    r"|the|same|as|total|answer|meant|convinced|sure|to|son|sono)){0,6} ?|\bonly [a-z]{3,15} of the )"
    r"(?P<number>[0-9][0-9.,]*+)(?:,? (?:because|since)\b[^.,;!?\n]*)?",
    re.IGNORECASE,
)
# What would be if something were so that is not: "if she had sold 20, it would be 40". One who says I or we corrects.
_SUPPOSED = re.compile(
    r"\b(?:if|had)\b[^.!?;\n]*\b(?:had|(?:it|he|she) were|instead)\b[^.!?;\n]*\bwould\b[^.!?;\n]*"
    r"|\bhad\b[^.!?;,\n]*,[^.!?;\n]*\bwould\b[^.!?;\n]*|\bwould\b[^.!?;\n]*\bif\b[^.!?;\n]*\bhad\b[^.!?;\n]*",
    re.IGNORECASE,
)
_CORRECTS = re.compile(
    r"\b(?:i|we|you|(?<!each )(?<!every )one|right|correct|read|subtract\w*|count\w*|and|but)\b", re.IGNORECASE
)
# What counts a part, a time, a step or an age, and is no other answer.
_BESIDE = re.compile(
    r"[0-9][0-9.,]*+(?: (?:of (?:them|those|these|the)|davon|из них|years? old|ways|steps?|days a|days? ago)\b)"
    r"|\b(?:in|step|rule|at) [0-9]++|其中[0-9]++|\bfor [0-9]++ (?:day|week|hour|minute)",
    re.IGNORECASE,
)
_SEVERAL_SIGNS = re.compile(r"[/^%]")  # a part of 1/2 is another number
_SENTENCES = re.compile(r"(?<=[.!?;])\s+|(?<=。)|\n+")
_NEAR = 200  # characters after an answer, and after the word that goes against it


def contrasts(text: str, start: int) -> list[re.Match[str]]:
    """Return the words that begin a sentence against what stands before it, near a place: "However", "Aber".

    Args:
        text: with plain characters.
    """
    return list(_AGAINST.finditer(text, start, start + _NEAR))


def other_answer(text: str, against: re.Match[str], answer: str) -> str:
    """Return the number that may take back an answer, behind a word that goes against it. Empty: there is none.

    It stands in that word's sentence or in the next one. It takes nothing back if it is denied ("it is not 25"),
    supposed ("if she had sold 20, it would be 40") or counts a part ("3 of them"), or if the sentence calculates the
    answer ("to check: 20 - 2 = 18").

    Args:
        against: one of `contrasts`.
        answer: what stands before it.

    Returns:
        `not 20` if the text denies the answer itself.
    """
    found: list[str] = _VALUE.findall(answer)
    values = set(found) if len(found) == 1 and not _SEVERAL_SIGNS.search(answer) else set()
    rest = text[against.end() : against.end() + _NEAR]
    for sentence in [part for part in _SENTENCES.split(rest) if part][:2]:
        if against["foreign"] and _ENGLISH.search(sentence):
            return ""
        if any(_bare(denied["number"]) in map(_bare, found) for denied in _DENIED.finditer(sentence)):
            return f"not {found[0]}"
        left = _BESIDE.sub(" ", _DENIED.sub(" ", _SUPPOSED.sub(_unless_corrected, sentence)))
        numbers: list[str] = [number.rstrip(".,") for number in _VALUE.findall(left)]
        others = [number for number in numbers if number not in values]
        if others and not ("=" in left and numbers[-1] in values):
            return others[-1]
    return ""


def _unless_corrected(supposed: re.Match[str]) -> str:
    return supposed[0] if _CORRECTS.search(supposed[0]) else " "


def _bare(number: str) -> str:
    """Return a number's digits. Numbers may be equal if these are: 1,000 and 1000."""
    return number.replace(".", "").replace(",", "")
