"""Read a server's refusal: which optional parameter it does not take, when to come back, and what cures it."""

import math
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from nlft.models.reply_reading import said

Subject = Literal["key", "proxy", "address", "model", "credit", "pace", "server", "length", "request"]

_READ = 4000  # characters of a message; a refusal of a parameter is shorter
_NUMBER = r"-?\d+(?:\.\d+)?(?![\d.]*\d)(?!\s*(?:or|to|and|through|-|–|<|>|≤|≥|\.\.))"
# How a server says that it does not take a parameter at all, or only with its own value.
_REFUSED = re.compile(
    r"unsupported|not supported|(?:does not|doesn['’]t|do not|don['’]t|cannot|can['’]t) (?:support|accept|take|use)"
    r"|unrecogni[sz]ed|unknown|unexpected|not (?:permitted|allowed|available|compatible|recogni[sz]ed|configurable)"
    r"|incompatible|deprecated|disabled|disallowed|forbidden|prohibited|removed|obsolete|\bfixed\b|only the default"
    r"|\bonly\b.*\b(?:allowed|accepted|supported|valid)|\b(?:has|have|with) no\b"
    r"|(?:cannot|can['’]t|may not|must not) be (?:set|used|changed|specified|sent|given|modified)"
    rf"|\b(?:may|can|must|should|has to) (?:only |always )?(?:be|equal) (?:set to |exactly |equal to )?{_NUMBER}"
    rf"|\bexpected:? (?:value:? )?{_NUMBER}"
    r"|\b(?:property|parameter|argument|field|setting|option)\W+\w+\W+is (?:not valid|invalid)"
    r"|nicht unterstützt|non? (?:es )?(?:compatible|soportad|pris en charge|supportat)|не поддерживается|不支持|不支援",
    re.IGNORECASE,
)
# Here the parameter itself is unknown, whatever ranges other parameters have.
_NO_SUCH = re.compile(
    r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|extra)\s(?:\w+\s){0,2}(?:parameter|argument|field|property|name|input)"
    r"(?!\w|s?\svalue)|(?:unsupported|unknown|extra)\s(?:\w+\s){0,2}(?:parameter|argument|field|input)s\b(?!\svalue)",
    re.IGNORECASE,
)
# A value out of range is a mistake of the user, and stays an error.
_RANGE = re.compile(
    r"\b(?:between|within)\b\D{0,15}\d|\brange\b|\bout of\b|\boutside\b|\bexceeds?\b"
    r"|\btoo (?:large|high|big|small|low|long)\b"
    r"|\b(?:up to|at most|at least|maximum|minimum|max|min|context(?: length| window)?)\b\D{0,15}\d"
    r"|[<>≤≥]=?\s*-?\d|\d\s*[<>≤≥]|\b(?:less|greater|more|higher|larger|lower|smaller|bigger) than\b"
    r"|\d\s*or (?:less|more|greater|lower|higher|above|below)|\b(?:from|values?) -?\d[\d.]*\s*(?:-|–|to|through)\s*-?\d"
    r"|[\[(]\s*-?\d[\d.]*\s*,\s*-?\d[\d.]*\s*[\])]",
    re.IGNORECASE,
)
# NAME stands for the parameter, without a value. A range in the sentences around it is about something else.
_NAMED = "(?:parameter|argument|setting|option|field)"
_PLAIN = (
    rf"(?<!value of )(?<!value for )(?<!\w)NAME[\"'`”’]?(?: {_NAMED})? "
    r"(?:is|are) (?:unsupported|not (?:supported|permitted|allowed|available|accepted))\b"
    r"|(?:does not|doesn['’]t|do not|don['’]t|cannot|can['’]t) (?:support|accept|take|use) (?:the |a )?"
    rf"(?:{_NAMED} )?[\"'`“‘]?NAME[\"'`”’]?(?: {_NAMED})?"
    r"(?=\s*(?:$|[.,;)]|(?:with|for|on|in|by|when|while|here)\b))"
)
_OTHERWISE = re.compile(r"[,:(]?(?<!\s)\s++(?:please )?use\b", re.IGNORECASE)  # what follows is about another parameter
_NOT_ZERO = re.compile(r"\bpositive\b|non-?zero|\b(?:not|cannot|can['’]t) be (?:0|zero)\b", re.IGNORECASE)
# A sentence that begins like this goes on about what the one before names.
_GOES_ON = (
    r"(?:only|it|its|this (?:parameter|value|setting|field|option)|must|please|remove"
    r"|(?:the )?(?:supported|allowed|accepted|valid|permitted) (?:range|values?)(?! (?:for|of|in) other))\b"
)
_SENTENCE_END = re.compile(rf"(?<=[.!?;])\s+(?!{_GOES_ON})|\n+", re.IGNORECASE)
_QUOTE = re.compile(r'(?<!\w)["“«]([^"“”«»\s]+\s[^"“”«»]*)["”»]')
_ECHO = re.compile(r"\{[^{}]*['\"]?\b(?:model|messages|role|content)\b['\"]?\s*:[^{}]*\}")
_KEY = re.compile(r"\bapi[ _-]?key\b|\bapi[ _-]?token\b|unauthori[sz]ed|authenticat|credential", re.IGNORECASE)
_MODEL = re.compile(
    r"\b(?:invalid|unknown|unsupported|no such|not a valid) model\b|\bmodel\b.{0,80}\b(?:not (?:exist|found|available)"
    r"|doesn['’]t exist|does not exist|no longer|retired|not a valid)|model_not_found",
    re.IGNORECASE,
)
_LENGTH = re.compile(r"context[ _](?:length|window|size)|too long|too many tokens|maximum.{0,30}tokens", re.IGNORECASE)


def refused_parameter(body: object, sent: Mapping[str, Any]) -> str | None:
    """Return the optional parameter that a server's error says it does not take. Return None if it says no such thing.

    Local servers accept `max_tokens`, and some ignore unknown parameters. OpenAI's newer models refuse it and name
    `max_completion_tokens` in their message. Models that always reason refuse a `temperature`, or 0 as its value.

    Args:
        body: the error, as JSON. If it names a parameter apart from the message, no other one is meant.
        sent: the request's body. What the error repeats of its messages is passed over.
    """
    names = [name for name in ("max_tokens", "seed", "temperature") if name in sent]
    for about, text in _complaints(body):
        if about in ("body", "request"):  # what it is about stands in the message
            about = ""
        if about not in ("", *names):
            continue
        text = _without_echo(text, sent)[:_READ]
        for sentence in [text] if about else _sentences(text):
            name = about or _first_named(sentence, names)
            if name and _refuses(sentence, text, name, at_zero=name == "temperature" and sent[name] == 0):
                return name
    return None


def _refuses(sentence: str, text: str, name: str, *, at_zero: bool) -> bool:
    if at_zero and (_RANGE.search(sentence) or _NOT_ZERO.search(sentence)):
        return True  # it would take another value, but greedy decoding has only this one
    if not _REFUSED.search(sentence):
        return False
    return bool(_NO_SUCH.search(sentence)) or not _RANGE.search(text) or _says_plainly(sentence, name)


def _says_plainly(text: str, name: str) -> bool:
    """Return whether a sentence says that a parameter is not supported, and has no range of values for it."""
    plain = re.compile(_PLAIN.replace("NAME", name), re.IGNORECASE)
    clauses = [_OTHERWISE.split(sentence)[0] for sentence in _sentences(text) if not re.search(r"\bvalue:", sentence)]
    return any(plain.search(clause) and not _RANGE.search(clause) for clause in clauses)


def _complaints(body: object) -> Iterator[tuple[str, str]]:
    """Yield for each complaint in an error the parameter that it names apart, or an empty text, and its message."""
    details = body.get("detail") if isinstance(body, Mapping) else None
    if isinstance(details, list) and all(isinstance(one, Mapping) and "loc" in one for one in details):
        for one in details:
            place = one["loc"]
            yield str(place[-1] if isinstance(place, list) and place else place), str(one.get("msg"))
        return
    name = body.get("param") if isinstance(body, Mapping) else None
    yield re.split(r"[./]", name)[-1].lower() if isinstance(name, str) else "", said(body)


def _without_echo(text: str, sent: Mapping[str, Any]) -> str:
    for message in sent.get("messages", ()):
        if " " in (content := str(message.get("content"))):
            text = text.replace(content, " ")
    shorter = None
    while shorter != text:
        shorter, text = text, _ECHO.sub(" ", text)
    return text


def _sentences(text: str) -> Iterator[str]:
    """Yield a message's sentences. A quote of several words is one by itself: it may be words of the request."""
    for number, part in enumerate(_QUOTE.split(text)):
        yield from [part] if number % 2 else _SENTENCE_END.split(part)


def _first_named(sentence: str, names: list[str]) -> str | None:
    """Return the parameter that a sentence names first: it may go on to name those that the server knows."""
    places = {name: re.search(rf"\b{name}\b", sentence, re.IGNORECASE) for name in names}
    found = {name: match.start() for name, match in places.items() if match}
    return min(found, key=found.__getitem__, default=None)


def subject(status: int, text: str) -> Subject:
    """Return what a refusal is about.

    Args:
        status: the HTTP status.
        text: the server's message.
    """
    by_status: dict[int, Subject] = {401: "key", 403: "key", 402: "credit", 407: "proxy", 413: "length", 429: "pace"}
    if status in by_status:
        return by_status[status]
    if status < 400 or status in (404, 405, 410):
        return "address"
    if status in (408, 409, 425) or status >= 500:
        return "server"
    by_text: dict[Subject, re.Pattern[str]] = {"key": _KEY, "model": _MODEL, "length": _LENGTH}
    return next((about for about, pattern in by_text.items() if pattern.search(text)), "request")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait, from `retry-after-ms` or `Retry-After` (seconds, or a date).

    Args:
        headers: the response's headers, names in lower case.
        now: Unix time. It is used if there is no Date header; otherwise the server's own clock counts.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    until, clock = _timestamp(headers.get("retry-after", "")), _timestamp(headers.get("date", ""))
    if until is None:
        return None
    return max(until - (now if clock is None else clock), 0.0)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
