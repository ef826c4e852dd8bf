"""Find what a text denies, excludes, supposes or asks about, and so does not state."""

import re

_DENIES = re.compile(
    r"\b(?:not|never|cannot|neither|nor|hardly|scarcely|except|excluding|(?:any|every)thing but|all but|other than|if"
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
_DENIED = "·"


def without_denied_letters(text: str) -> str:
    """Replace the single letters that a text with plain characters denies, excludes, supposes or asks about.

    >>> without_denied_letters("The answer can't be B. Is it C? If it were D, we would fail. It is A.")
    "The answer can't be ·. Is it ·? If it were ·, we would fail. It is A."
    """
    spans = []
    for denial in _DENIES.finditer(text):
        end = _ENDS.search(text, denial.end(), denial.end() + _FARTHEST)
        spans.append((denial.end(), end.start() if end else denial.end() + _FARTHEST))
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
