"""Find a sentence that goes against an answer before it, and concludes with another number: "However, it is 18"."""

import re

_STARTS = r"(?:(?<=[.!?*)}$] )|(?<=\s\s)|(?<=\n))[*_>-]{0,3} ?"
# Some words are also names in an English text: Ma, Mas. English conclusions count for all words but these.
_AGAINST = re.compile(
    rf"{_STARTS}(?:(?P<german>jedoch|allerdings|aber|doch)|(?P<name>pero|però|ma|mas|mais|но)"
    r"|however|but|yet|still|nevertheless|nonetheless|except|although|though|that said|unfortunately|in reality"
    r"|cependant|pourtant|toutefois|sin embargo|tuttavia|porém"
    r"|однако)\b|但是?|不过|然而|しかし|ただし|하지만|그러나",
    re.IGNORECASE,
)
_NUMBER = r"(?P<number>[0-9][0-9.,]*+)"
_NO_PART = r"(?! ?(?:of|davon|de|di|von|из)\b)"  # "3 of them" counts a part
_UPTO = rf"[^.!?¬\n]{{0,60}}?{_NUMBER}"
_WHAT = r"(?:it|that|this|total|result|answer|number|count|sum|amount)"
_IN_ENGLISH = (
    r"\b(?:so|thus|therefore|hence|leaving|leaves|left with|remain(?:s|ing)?|means|(?:must|should) (?:be|have been)"
    r"|actual(?:ly)?|instead|giving|gives|making|makes|yield(?:s|ing)|which is|we (?:\w+ ){0,3}(?:get|got|have)"
    r"|(?:comes?|amounts?|adds up|brings? \w+) to|becomes|in total|total of|altogether"
    r"|in (?:fact|truth|reality|the end)|at the end|ends? up|after all|now|(?-i:there) (?:is|are|was|were)"
    r"|asked|recount\w*|closer look"
    rf"|(?:right|correct|true|real|final|proper)(?!-))\b{_UPTO}"
    # "It is a holiday" and "it is worth a note" conclude nothing.
    rf"|\b{_WHAT}(?:'s| is| was| would be)\b"
    rf"(?! (?:an?|also|worth|important|interesting|possible|useful|helpful|nice)\b){_UPTO}"
    rf"|\b(?:only|just)(?: \w{{1,15}})?\W{{1,4}}{_NUMBER}{_NO_PART}"
    r"|(?P<before>[0-9][0-9.,]*+)(?: [a-z]{1,15}){0,2} (?:are |is |were |was )?(?:left|remain(?:s|ing|ed)?)\b"
    rf"|\b(?:but|rather)\W{{1,4}}{_NUMBER}"
    rf"|\b(?:with|without|add(?:ing)?|counting|including|excluding|minus|plus|after|subtract(?:ing)?)\b"
    rf"[^.!?¬\n0-9]{{0,40}}[0-9][0-9.,]*+{_UPTO}"
)
_IN_OTHERS = (
    r"\b(?:somit|daher|deshalb|bleib(?:en|t)|ergibt|sondern|nur|insgesamt|eigentlich|tatsächlich|in wahrheit|ergebnis"
    r"|gesamtzahl|summe|donc|restes?|restent|en réalité|en fait|en tout|seulement|résultat|somme|entonces"
    r"|por (?:lo )?tanto|así que|quedan?|sino|en realidad|s[oó]lo|en total|resultado|suma|total|quindi|restano"
    r"|rimangono|in realtà|soltanto|in tutto|totale|risultato|portanto|então|restam|na verdade|só|apenas|ao todo"
    r"|поэтому|значит|остаётся|остается|осталось|всего|на самом деле|итого|их|а)\b" + _UPTO + r"|"
    rf"\b(?:es sind|es ist|sind es|c'est|ce sont|il y en a|son|sono|são|es)[ *]{{1,3}}{_NUMBER}{_NO_PART}"
    rf"|(?:所以|因此|而是|应该是|应为|正确|实际|其实|一共|总共|剩|ので|だから|正しく|実際|実は|残り|合計|따라서|실제|사실은?"
    rf"|남|정답){_UPTO}|{_NUMBER}(?:개|個|个)?(?:입니다|이다|です|だ\b)"
)
_CALCULATES = rf"[=¬][ \t*$,;]{{0,4}}-?{_NUMBER}|[:—–][ \t*$]{{0,4}}{_NUMBER}[\s*.$]{{0,4}}\Z"

# A number that counts no thing that is named: "she ends up with 18", "18 is better". It may be another answer, whatever
# the words before it. A clock's hour, an age and a year are none.
_COUNTS_NOTHING = (
    r"(?<![0-9.,])(?<!who is )(?<!opens at )(?<!closes at )(?<!starts at )(?<!begins at )(?<!step )(?<!rule )(?<!day )"
    r"(?!(?<=\bin )(?:19|20)[0-9]{2}\b)(?P<number>[0-9]++(?:[.,][0-9]++)*+)"
    r"(?=[\s*_$€£¢%)}]{0,9}(?:\Z|[.,;:!?。，；]|[—–] )| ?[€£¢円元]|\$"
    r"| (?:dollars?|cents?|euros?|pounds?|is|are|was|were|be|would|will|can|could|should|must|may|it|to|for|in|on|at|by"
    r"|with|without|and|or|but|each|per|now|then|instead|altogether|overall|only|when|while|if|because|since|as|after"
    r"|before|from|end|ends|stay|go|come|do|get|make|survive|fits?|seems?|looks?|sounds?|[^\W\d_]{2,12}ed|sind|ist|und"
    r"|est|sont|et|son|es|y|sono|è|e|são|é|это|и)\b)"
)
_IN_ENGLISH_TEXT = re.compile(r"\b(?:is|was|had|and|the|he|she|they|with|sold|bought|who)\b", re.IGNORECASE)
_REASON = re.compile(
    r"¬,? ?(?:because|since|as|for|weil|da|parce que|car|porque|perché|потому что)\b[^.;,!?\n]*", re.IGNORECASE
)


def _either(*patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds one of several, which may name the same groups."""
    numbers = iter(range(99))
    named = "|".join(patterns)
    return re.compile(re.sub(r"\(\?P<\w+>", lambda match: f"(?P<n{next(numbers)}>", named), re.IGNORECASE)


_CONCLUDES = _either(_IN_ENGLISH, _IN_OTHERS, _CALCULATES, _COUNTS_NOTHING)
_CONCLUDES_IN_GERMAN = _either(_IN_ENGLISH, _IN_OTHERS, rf"\balso\b{_UPTO}", _CALCULATES, _COUNTS_NOTHING)
_CONCLUDES_IN_OTHERS = _either(_IN_OTHERS, _CALCULATES, _COUNTS_NOTHING)
_CONCLUDES_BESIDE_A_NAME = _either(_IN_OTHERS, _CALCULATES)

# What a sentence denies, between the negation and a number: "it does not mean that she has 20".
_DENIES = re.compile(
    r"(?:n't\b|\b(?:not|never|cannot|no longer|doubt(?:s|ed|ful)?|unlikely|nicht|pas|no|non|não|niet|не)\b|不是|不)"
    r"(?: (?:be|been|mean|meant|equal|equals|really|actually|necessarily|simply|just|only|exactly|that|it|this|she|he"
    r"|they|get|there|is|are|was|were|has|have|the|total|answer|result|number|always|usually|quite|as|many|much|also|to"
    r"|convinced|sure|certain|think|believe|likely|right|true|clear|possible|it's|that's|i'm|son|es|sono|são|sind"
    r"|ist)){0,6}[ *$:]{0,4}(?P<number>[0-9][0-9.,]*+)",
    re.IGNORECASE,
)
# What would be if something were so that is not: "if she had sold 20, it would be 40".
_DONE = (
    r"(?:\w+ed|been|bought|brought|broken|built|caught|come|cost|cut|driven|eaten|fallen|found|given|gone|got|gotten"
    r"|grown|held|kept|laid|left|lent|lost|made|met|paid|put|read|run|sent|set|slept|sold|spent|stolen|taken|thrown|won|worn)"
)
_IS_UNTRUE = (
    rf"(?:\bhad(?:n't| (?:not|never|only|also|all|just|both|each)){{0,2}} {_DONE}\b|\b(?:it|he|she|this)"
    r" were(?:n't)?\b|\binstead\b|\bhätten?\b|\bwären?\b|\bavai(?:t|ent) \w{1,12}[uéist]\b|\bhubie(?:ra|se)n?\b"
    r"|\b(?:avess|foss)(?:e|ero)\b|\b(?:tives|fos)sem?\b|\bбы\b)"
)
_WOULD = (
    r"(?:'d\b|\b(?:would|could|might|wären?|hätten?|würden?|бы"
    r"|[^\W\d_]{1,12}(?:rai(?:t|ent)|ría[ns]?|rebber?o?|riam?))\b)"
)
_SUPPOSES = re.compile(
    rf"(?:\b(?:if|wenn|falls|si|se|если)\b[^.!?;:\n]{{0,80}}?{_IS_UNTRUE}"
    rf"|(?:\A|,)\W{{0,4}}had [^.!?;:,\n]{{1,40}}? {_DONE}\b)"
    rf"[^.!?;:\n]{{0,80}}?{_WOULD}[^.!?;:\n]{{0,60}}?[0-9][0-9.,]*+"
    rf"|{_WHAT} would (?:have been|be|equal) \W{{0,4}}[0-9][0-9.,]*+[^.!?;:\n]{{0,40}}?\bif\b"
    rf"[^.!?;:,\n]{{0,80}}?{_IS_UNTRUE}[^.!?;:,\n]{{0,80}}",
    re.IGNORECASE,
)
# Words of one who corrects a solution, and supposes nothing else.
_CORRECTS = re.compile(
    r"\b(?:(?:i|we|you|(?<!each )(?<!every )one|ich|wir|man|nous|on|je|мы|read)\b|j'|subtract|count|includ|exclud"
    r"|deduct|remov|consider|round|ignor|notic|correct|right|proper|actual|ask|abgezogen|abzieh|gezählt|mitgezählt"
    r"|berücksichtig|richtig|rest[aá]|cont[aeé]|correg|sottra|calcol|dédu|soustr|compt|corrig|вычт|вычест|учт|учест"
    r"|правильн)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\b(?:and|but|which|since|because|as|und|aber|et|mais|y|pero|e|ma|mas|и|но)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;])\s+|\n+")
_COUNTED = re.compile(r"(?P<number>[0-9][0-9.,]*+) (?:more |other |whole )?(?P<thing>[^\W\d_]{3,20})")
_BEFORE = 2000  # characters before that word which are read for the things that are counted there
_NEAR = 200  # characters after an answer, and after the word that goes against it
_VALUE = re.compile(r"[0-9][0-9.,]*")
_ENDS = re.compile(r"(?<![-/^0-9.,])[0-9][0-9.,]*[\s*_$.!)}]{0,9}\Z")
_NOT_PLAIN = re.compile(r"[-/^%]")


def contrasts(text: str, start: int) -> list[re.Match[str]]:
    """Return the words that begin a sentence against what stands before it, near a place: "However", "Aber".

    Args:
        text: with plain characters.
    """
    return list(_AGAINST.finditer(text, start, start + _NEAR))


def conclusion(text: str, against: re.Match[str], answer: str) -> str:
    """Return what a text concludes after a word that goes against an answer. Empty: it only adds something.

    It adds something if it has no number, counts another thing than the text did before ("3 dogs"), denies another
    number ("it is not 20"), supposes what is not so ("if she had sold 20, it would be 40"), or comes to the answer.

    Args:
        against: one of `contrasts`.
        answer: what stands before it.

    Returns:
        The number, or the rest of the text if the number is the answer's and may be another one by its sign or unit.
        `not 20` if the text denies the answer, or supposes another one in a correction of itself.
    """
    values = _VALUE.findall(answer)
    digits = {_bare(value) for value in values}
    plain = len(values) == 1 and not _NOT_PLAIN.search(answer)
    before = {thing for thing, _ in _counted(text[max(0, against.start() - _BEFORE) : against.start()])}
    for sentence in _SENTENCES.split(text[against.end() : against.end() + _NEAR]):
        denies = any(_bare(match["number"]) in digits for match in _DENIES.finditer(sentence))
        if denies or any(_is_correction(match) for match in _SUPPOSES.finditer(sentence)):
            return f"not {values[0]}" if values else text[against.end() :]
        rest = _REASON.sub("", _DENIES.sub(" ¬", _SUPPOSES.sub(" ", sentence)))
        concludes = _pattern(against, sentence)
        found = [match[match.lastgroup] for match in concludes.finditer(rest) if match.lastgroup]
        counted = _counted(rest) if concludes is not _CONCLUDES_BESIDE_A_NAME else []
        before |= {thing for at, (thing, _) in enumerate(counted) if thing in dict(counted[:at])}  # 2 books, 18 books
        found = found or [number for thing, number in counted if thing in before]
        if others := [number for number in found if _bare(number) not in digits]:
            return others[0].rstrip(".,")
        if found and not (plain and _comes_to(values[0], found, rest)):
            return text[against.end() :]
    return ""


def _counted(text: str) -> list[tuple[str, str]]:
    """Return what numbers count in a text, each thing without the ending of a plural and with its number."""
    return [(match["thing"].lower().rstrip("s"), match["number"]) for match in _COUNTED.finditer(text)]


def _pattern(against: re.Match[str], sentence: str) -> re.Pattern[str]:
    """Return the pattern of conclusions for a word and the sentence that it begins."""
    if against["name"]:
        return _CONCLUDES_BESIDE_A_NAME if _IN_ENGLISH_TEXT.search(sentence) else _CONCLUDES_IN_OTHERS
    return _CONCLUDES_IN_GERMAN if against["german"] else _CONCLUDES


def _is_correction(supposed: re.Match[str]) -> bool:
    """Return whether what would be so may be so: "if I had read it well, it would be 18"."""
    return bool(_CORRECTS.search(supposed[0]) or _GOES_ON.search(supposed.string, supposed.end()))


def _comes_to(value: str, found: list[str], sentence: str) -> bool:
    """Return whether a sentence ends in the answer, and concludes nothing else."""
    same = all(number.rstrip(".,") == value.rstrip(".,") for number in [*found, _VALUE.findall(sentence)[-1]])
    return same and _ENDS.search(sentence) is not None


def _bare(number: str) -> str:
    """Return a number's digits. Numbers may be equal if these are: 1,000 and 1000, 18 and 18.0."""
    return number.replace(".", "").replace(",", "").rstrip("0")
