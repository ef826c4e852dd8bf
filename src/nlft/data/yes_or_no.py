"""Read whether a judge says yes or no."""

import re

from nlft.core.marks import narrow
from nlft.core.named_parts import NamedParts, read_parts
from nlft.core.quotes import quote_places, quoted_texts, quotes_replaced

_YES = "yes|ja|oui|sí|sì|sim|да|evet|ναι|是的?|はい|네|예|نعم|हाँ|हां"
_NO = "no|nein|nee|nej|non|não|нет|hayır|όχι|否|不是?|いいえ|아니[요오]|لا|नहीं"
_SIGNS = r"[#>*_`\"'“”‘’«»„|(\[{$\\]"  # of headings, lists, bold type, quotes, tables and LaTeX
# Possessive and with a limit: a judge that loops writes signs by the thousand.
_OPENING = (
    rf"(?:\s+|{_SIGNS}|(?:boxed|text(?:bf|rm)?|mathrm)(?=\{{)|<\w{{1,20}}>|[-•–](?=\s)|\d{{1,2}}[.)](?=\s)){{0,99}}+"
)
_WORD = rf"(?P<{{}}>(?:{_YES}|{_NO})(?![^\W_]))"
# After a yes or no that stands for itself, a sentence, a clause or a line ends, or a subject begins.
_ENDS = (
    r"(?:[\"'“”‘’«»*_`)\]}$|]|\s(?=[*_`|)\]}]))*"
    r"(?:[.](?!\s?\d)|[!,;:。、，！；：]|\s*\Z|[ \t]*\n|\s[-–—]+\s|—|</|\|"
    r"|\s+(?:it|this|that|there|because|since|as|the\s(?:reply|response|answer|text))\b)"
)
_POLITE = (
    r"(?:(?:sure(?:\sthing)?|certainly|of\scourse|ok(?:ay)?|alright|all\sright|no\sproblem|absolutely|definitely|well"
    r"|h+mm*|understood|got\sit|(?:good|great)\squestion)[!.,:]+\s)?"
)
_NAMES = (
    r"(?:answer|verdict|decision|judge?ment|conclusion|antwort|urteil|réponse|respuesta|risposta|ответ|答案|回答|答え)"
)
_ECHO = re.compile(r"\byes\s?(?:or|/)\s?no\b[\"'”’)*_]*\s*[?:]", re.IGNORECASE)
_FIRST = re.compile(rf"\A{_POLITE}{_OPENING}{_WORD.format('word')}{_ENDS}", re.IGNORECASE)
_STATED = re.compile(
    rf"(?P<if>\b(?:if|whether|when|unless)\s+(?:(?:the|your|my|this)\s+)?)?\b{_NAMES}"
    rf"(?:\s(?:is|would\sbe|ist|est|es)\b|\W{{0,4}}[:=：|>]){_OPENING}{_WORD.format('word')}{_ENDS}"
    rf"|boxed\{{{_OPENING}{_WORD.format('boxed')}{_ENDS}",
    re.IGNORECASE,
)
_ALONE = re.compile(
    rf"(?<![^\W_]){_WORD.format('word')}(?=(?:[\"'”*_`)\]}}]*)(?:[.,;!?。，！]|\s*\Z|[ \t]*\n))", re.IGNORECASE
)
_SECOND_THOUGHT = re.compile(
    r"\bwait\b(?=\s?[,.!…—–-])|(?<=[.!?,\n]\s)(?:wait|actually)\b|\n(?:wait|actually)\b"
    r"|\b(?:hold\son|on\s(?:second|closer|reflection)|scratch\sthat|let\sme\s(?:re|check|think|look)|yes\W+no|no\W+yes)\b",
    re.IGNORECASE,
)
_SHORT = {"y": True, "true": True, "n": False, "false": False}
_ANSWERS = re.compile(rf"(?:(?:final|my|the|your)\s)?{_NAMES}|result|response|says?|yes\sor\sno|yes\sno|yes/no")

_QUOTES = re.compile(r"\b(?:quot(?:es?|ed|ation|ations)|evidence|excerpts?|words?|phrases?|passages?)\b")


def says_yes(text: str) -> bool | None:
    """Read a judge's answer: whether it says yes. Return None if it says neither yes nor no, or both.

    The first word decides, if it stands for itself, as in "No, ..." but not in "No doubt, ...". So does a stated
    answer: "Answer: yes", `\\boxed{yes}`, or a part of that name in JSON, tags or a table. A later yes or no that
    contradicts leaves it undecided.
    """
    text = narrow(text).strip()
    parts = read_parts(text)
    if parts and (found := _from_parts(parts)):
        return found.pop() if len(found) == 1 else None
    return _from_words(text)


def quoting_part(text: str) -> str:
    """Return the part of a judge's answer whose quotes are the reply's words.

    Names of JSON, tags and tables are left out, and so is the yes or no, which can stand in quotation marks.
    """
    parts = read_parts(text)
    if parts is None:
        return _without_quoted_answer(text)
    named = [pair for record in parts.records for pair in record if not _ANSWERS.fullmatch(pair[0])]
    return "\n".join([*(_as_quotes(value) if _QUOTES.search(name) else value for name, value in named), parts.around])


def _without_quoted_answer(text: str) -> str:
    said = narrow(text)
    answers = [match for match in [_FIRST.match(said), *_STATED.finditer(said)] if match]
    places = {match.start("word") for match in answers}
    for start, end in reversed(quote_places(text)):
        bare = said[start:end].strip("\"'“”‘’«»„`.!, ")
        if any(start < place < end for place in places) and re.fullmatch(f"{_YES}|{_NO}", bare, re.IGNORECASE):
            text = text[:start] + text[end:]
    return text


def _as_quotes(value: str) -> str:
    """Put each line of a value in quotation marks, unless it has some itself."""
    if quoted_texts(value):
        return value
    return "\n".join(f'"{line}"' if '"' not in line else f"“{line}”" for line in value.split("\n"))


def _from_parts(parts: NamedParts) -> set[bool | None]:
    """Return what the parts say that are named as an answer is."""
    return {_from_words(value) for record in parts.records for name, value in record if _ANSWERS.fullmatch(name)}


def _from_words(text: str) -> bool | None:
    text = _ECHO.sub(" ", text).strip()
    bare = text.strip(" \t\n.*_`\"'!").lower()
    if bare in _SHORT:
        return _SHORT[bare]
    said = {_is_yes(match["word"]) for match in [_FIRST.match(text)] if match}
    said |= {_is_yes(m["word"] or m["boxed"]) for m in _STATED.finditer(text) if not m["if"]}
    if len(said) != 1:
        return None
    [yes] = said
    prose = quotes_replaced(text, " ")  # a quoted yes or no is the reply's
    doubts = {_is_yes(match["word"]) for match in _ALONE.finditer(prose)} - {yes}
    if doubts or _SECOND_THOUGHT.search(prose) or (not yes and re.search(r"\byes\b", prose, re.IGNORECASE)):
        return None
    return yes


def _is_yes(word: str) -> bool:
    return re.fullmatch(_YES, word, re.IGNORECASE) is not None
