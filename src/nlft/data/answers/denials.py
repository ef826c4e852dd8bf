"""Find what a text denies, excludes, supposes, asks about or takes back, and so does not state."""

import re

from nlft.data.answers.contrasts import contrasts, other_answer

_DENIES = re.compile(
    r"\b(?=[^\W\d_])"  # each begins with a letter: skip all other places at once
    r"(?:not|never|cannot|neither|nor|hardly|scarcely|except|excluding|(?:any|every)thing but|all but|other than|if"
    r"|unless|whether|suppos\w{1,3}|assum\w{1,3}|doubt\w{0,3}|unlikely|nicht|keine?s?|weder|außer|wenn|falls|pas|sauf"
    r"|jamais|no es|no son|ni|excepto|salvo|nunca|non è|tranne|não é|exceto|niet|geen|behalve|не|кроме|если)\b|n't\b"
    r"|[不没沒非除若]|如果|もし|仮に|만약",
    re.IGNORECASE,
)
# Where a denial ends. A comma within a list of letters does not end it: "neither A, B nor C".
_ENDS = re.compile(
    r"[.!?;:\n]|,(?! ?(?:and |or |nor )?[(\[]?[A-Za-z](?![\w']))"
    r"|\b(?:but|so|then|therefore|instead|sondern|mais|sino)\b"
    r"|\b(?:it|this|that)(?:'s| is| must)\b",
    re.IGNORECASE,
)
_DENIED_BEFORE = re.compile(r"では?あり?ま|では?ない|じゃな|でない|아니|아닙|아닌|아님|\bdeğil\b|नहीं", re.IGNORECASE)
_SENTENCES = re.compile(r"[^.!?。？\n]+|[.!?。？\n]")
_LETTER = re.compile(r"(?<![\w'])[A-Za-z](?![\w'])", re.ASCII)
_FARTHEST = 100  # characters from a denial to what it denies
# What stands before "answer" if the text does not state that answer. At most two words may stand between.
_NOT_TRUE = (
    r"think|believe|say|mean|true|sure|certain|correct|right|the case|likely|possible|convinced|agree|claim|imply"
    r"|conclude|suggest|accept|clear"
)
_THINKS = r"(?:thinks?|thought|says?|said|claim(?:s|ed)?|believe[sd]?|expect(?:s|ed)?|guess(?:es|ed)?|assume[sd]?)"
_NOT_STATED = re.compile(
    r"(?:\b(?:if|unless|whether|supposing|assuming|imagine|angenommen,?|falls|wenn|si|supposons que|supongamos que"
    r"|(?<!i )(?<!can )(?<!may )(?:suppose|assume)|let's say|let us say|unlikely|no way"
    r"|(?<!no )(?<!not )(?<!n't )(?<!without )(?<!without a )(?<!little )doubt(?:s|ed|ful)?"
    r"|(?<!not )(?<!n't )(?:false|wrong|incorrect|untrue|a mistake|an error|impossible)"
    r" (?:that|to (?:say|think|assume|conclude|believe|claim))"
    r"|(?:you|one|some|many|people|they|students?)(?: (?:might|may|could|would|often|first|at first)){0,2} "
    rf"{_THINKS}|(?:i|we)(?: (?:first|at first|initially|originally))? (?:thought|believed|assumed|guessed)"
    rf"|(?:not|never|cannot|hardly)(?: (?:really|quite|necessarily))? (?:{_NOT_TRUE})"
    r"|(?:wrong|incorrect|false|mistaken|erroneous|naive|naïve|tempting|student's|pupil's|falsche|mauvaise)"
    r"(?! (?:that|to)\b))"
    rf"|n't(?: (?:really|quite|necessarily))? (?:{_NOT_TRUE}))"
    r"(?: that| to say| to say that| if| whether)?"
    r"(?: (?:the|an?|my|your|his|her|its|our|their|this|any|die|la|une))?(?: [\w'-]{1,20}){0,2} ?$"
    r"|(?:如果|假设|假設|假如|假定|若|不认为|怀疑|错误的?|もし|仮に)(?:说|正确的?|最终的?|その|正しい){0,2}$",
    re.IGNORECASE,
)
_EARLIER = re.compile(r"\b(?:first|initial|previous|earlier|original|old)(?: [\w'-]{1,20})? ?$", re.IGNORECASE)
_NOT_WITHIN = re.compile(
    r"(?:n't|\b(?:not|never|cannot|hardly|scarcely))(?: (?:possibly|really|ever|actually|simply|just|even))?"
    r" (?:be|is|was|equals?)[: \t]*$",
    re.IGNORECASE,
)
_DENIED = "·"
# What takes back an answer that stands before it.
_TAKES_BACK = re.compile(
    r"\b(?:oops|whoops|scratch that|my (?:mistake|bad)|wait,? no\b|no,? wait|on second thought|i stand corrected"
    r"|(?:correction|korrektur|corrección)[*_]{0,2} ?:|let me correct (?:that|this|it|myself|my)"
    r"|(?:i|we)(?:'ve| have|'d| had)?(?: just)? made (?:an?|another|some) (?:[a-z-]{1,15} )?(?:mistake|error)s?"
    r"|i (?:forgot|missed|misread|misunderstood|miscounted|miscalculated|overlooked|was (?:wrong|mistaken))\b"
    r"|(?:this|that|it|(?:this|that|the|my) (?:answer|result|value|calculation))"
    r"(?:(?:'s|(?: is| was)) (?:[*_]{0,2}(?:wrong|incorrect|mistaken)|not (?:right|correct|true))"
    r"|(?: isn't| wasn't) (?:right|correct))\b|(?:das ist falsch|das stimmt nicht|c'est faux|eso es incorrecto)\b"
    r"|actually,? (?=it(?:'s| is| should| must)\b|the (?:right|correct|answer|result)\b|no\b|[(*]{0,3}[a-z]\b))"
    r"|(?:(?<=[.!] )|(?<=\n))no[,:] |不对|更正|算错了|我错了",
    re.IGNORECASE,
)
# The same words take nothing back behind one of these: "let me know if that is wrong".
_TAKES_NOTHING = re.compile(r"\b(?:if|whether|unless|in case|not|nobody|would|might|cannot)\b|n't\b", re.IGNORECASE)
_PARTS = re.compile(r"(?<=[.!?])\s+|\n+")
_VALUE = re.compile(r"[0-9][0-9.,]*|(?<!\w)[A-HJ-Z](?!\w)")  # a number, or a letter that is no pronoun
_CLAUSE = re.compile(r"[.!?;:\n]")
_MARKUP = re.compile(r"[*_\"]")


def is_not_stated(match: re.Match[str]) -> bool:
    """Return whether the words before and within `Answer:` or "the answer is" deny, suppose or doubt it.

    So do "I don't think the answer is", "suppose the answer is", "the answer cannot be" and "a wrong answer is".

    Args:
        match: of a pattern that begins with the word for an answer, in a text with plain characters.
    """
    if not match[0][0].isalpha():  # `####`
        return False
    before = match.string[max(0, match.start() - _FARTHEST) : match.start()]
    clause = _MARKUP.sub("", _CLAUSE.split(before)[-1])
    earlier = match[0].rstrip(": \t").lower().endswith(" was") and _EARLIER.search(clause)
    return bool(_NOT_STATED.search(clause) or earlier or _NOT_WITHIN.search(match[0]))


def after_retraction(text: str, start: int) -> str:
    """Return what follows the words that take back an answer: "Wait, that is wrong", "Correction:".

    Between the answer and these words, no other number and no other letter may stand: it might be the wrong one.

    Args:
        text: with plain characters.
        start: where the answer begins.

    Returns:
        The rest of the text. Empty: nothing is taken back.
    """
    found = _TAKES_BACK.search(text, start, start + 2 * _FARTHEST)
    between = _between(text, start, found)
    return text[found.end() :] if found and between and not _TAKES_NOTHING.search(between[-1]) else ""


def after_contrast(text: str, start: int) -> str:
    """Return the number that a sentence against an answer may put in its place: "However, she ate 2, so it is 18."

    Where that sentence stands is as in `after_retraction`. `other_answer` says what takes nothing back, and that the
    result may be `not 20`. Empty: nothing is taken back.
    """
    for found in contrasts(text, start):
        between = _between(text, start, found)
        if between and (rest := other_answer(text, found, " ".join(between))):
            return rest
    return ""


def _between(text: str, start: int, found: re.Match[str] | None) -> list[str]:
    """Return the sentences between an answer's beginning and what may take it back; none if they hold another value."""
    if not found:
        return []
    answer, *others = _PARTS.split(text[start : found.start()].lstrip(" \t\n*_"))
    if len(_VALUE.findall(answer if not others else " ".join(others))) > (not others):
        return []
    return [answer, *others]


def without_denied_letters(text: str) -> str:
    """Replace the single letters that a text with plain characters denies, excludes, supposes or asks about.

    >>> without_denied_letters("The answer can't be B. Is it C? If it were D, we would fail. It is A.")
    "The answer can't be ·. Is it ·? If it were ·, we would fail. It is A."
    """
    spans = []
    end = 0
    for denial in _DENIES.finditer(text):
        if end < denial.end():  # else the denial before ends here too, and a search for each would take too long
            found = _ENDS.search(text, denial.end())
            end = found.start() if found else len(text)
        spans.append((denial.end(), min(end, denial.end() + _FARTHEST)))
    start = 0
    for part in _SENTENCES.finditer(text):
        if part[0] == "?":
            spans.append((start, part.start()))
        elif len(part[0]) > 1:
            start = part.start()
            spans += [(start, denial.start()) for denial in _DENIED_BEFORE.finditer(text, start, part.end())][-1:]
    denied = bytearray(len(text) + _FARTHEST)
    for begin, upto in spans:
        denied[begin:upto] = b"\1" * (upto - begin)
    return _LETTER.sub(lambda match: _DENIED if denied[match.start()] else match[0], text)
