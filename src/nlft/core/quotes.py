"""The quotes of a text, by their quotation marks. Needs neither tokenizer nor torch."""

import re
from collections.abc import Iterator
from functools import cache
from itertools import islice

from nlft.core.word_search import JOINED, LONGEST_GAP

# A quote may go over a line's end, but not over an empty line. The mark in 5" is no quotation mark.
_INSIDE = r"(?:[^{0}\n]|\n(?!\s*\n))+?"
_PAIRS = [
    ("“", "”"),
    ("„", "“”"),
    ("«", "»"),
    ("»", "«"),
    ("「", "」"),
    ("『", "』"),
    ("‹", "›"),
    ("›", "‹"),
    ("‟", "”"),
    ("❝", "❞"),
    ("❛", "❜"),
    ("《", "》"),
    ("〈", "〉"),
    ("〝", "〞〟"),
    ("｢", "｣"),
    ("﹁", "﹂"),
    ("﹃", "﹄"),
    ("＂", "＂"),
]
# Writers mix these: „so", “so“, »so», "so”. Such a pair stands close around its words, with no other mark inside.
_DOUBLE = '"“”„‟«»＂'
_LETTER = rf"[^\W{JOINED}]"
# Behind a mark, and before one: no letter stands outside. Mark first: an alternative is passed over by its first sign.
_BEGINS, _ENDS = rf"(?<!{_LETTER}[{_DOUBLE}])", rf"(?!{_LETTER})"


def _mixed(opens: str, name: str) -> str:
    """Make the pattern of a quote that begins with a mark and ends with one that is not the mark's own."""
    own = {'"': '"'} | dict(_PAIRS)
    ends = "".join(mark for mark in "“”«»＂" if mark not in own.get(opens, ""))
    straight = "" if opens == '"' else r'|(?<!\d)"'
    return rf"{opens}{_BEGINS}(?=[^\s{_DOUBLE}])(?P<{name}>[^{_DOUBLE}\n]+)(?<=\S)(?:[{ends}]{straight}){_ENDS}"


def _pair(opens: str, ends: str, name: str) -> str:
    # “ ends a German quote, and begins an English one.
    return f"{opens}(?P<{name}>{_INSIDE.format(opens + ends)})[{ends}]{_ENDS if opens == '„' else ''}"


# A mark before a digit or a shortened word is an apostrophe: the '90s, 'em, “it”’s.
_SHORTENED = r"(?!\d|(?:em|tis|twas|cause|til|n|bout|round|cos|s|t|d|m|ll|re|ve)\b)"
_FORMS = [
    # As TeX writes it: ``so''. No ` may stand inside, because two of them can also be a fence.
    r"(?:(?<![\w'])''|(?<!`)``|‘‘|(?<!\w),,)(?P<doubled>(?=\S)(?:(?!''|’’|‘‘|,,)[^`\n]|\n(?!\s*\n))+?(?<=\S))"
    r"(?:''|’’)(?![\w'])",
    # `so', but not `the riders' gear`.
    r"`(?<![\w`]`)(?=[^\s`])(?![^`\n]*[^\s`]`(?!\w))(?P<grave>(?:[^`'’\n]|(?<=\w)['’](?=\w))+)(?<=\S)['’´](?!\w)",
    r"(?<!`)(?P<fence>`+)(?P<code>(?:(?!`)[\s\S])+?)(?P=fence)(?!`)",
    r"´(?<!\w´)(?P<acute>(?=\S)[^´`\n]+(?<=\S))´(?!\w)",
    r'\\"(?P<escaped>(?=\S)[^"\n]+?(?<=\S))\\"',
    *(_mixed(opens, f"mixed{at}") for at, opens in enumerate(_DOUBLE)),
    rf'"(?<!\d")(?P<straight>(?=\S){_INSIDE.format(chr(34))}(?<=\S))"',
    # Between letters, the Hebrew mark stands in an abbreviation.
    r"״(?<!\w״)(?P<hebrew>(?=\S)(?:[^״\n]|(?<=\w)״(?=\w))+?(?<=\S))״(?!\w)",
    *(_pair(opens, ends, f"pair{at}") for at, (opens, ends) in enumerate(_PAIRS)),
    rf"”{_BEGINS}(?P<swedish>(?=\S){_INSIDE.format(_DOUBLE)}(?<=\S))”{_ENDS}",
    rf'[“”„‟«»＂]{_BEGINS}(?P<number>(?=\S)[^{_DOUBLE}\n]*\d)"{_ENDS}',
    rf"(?:‚|‘|(?<![\w'])['’]{_SHORTENED})(?=\S)"
    r"(?P<single>(?:[^'‘’\n]|(?<=\w)['’](?=\w)|(?<=s)['’](?=\s+\w))+)(?<=\S)['’‘](?!\w)",
]
# The first character decides quickly that most places begin no quote.
_FIRST = _DOUBLE + "".join(opens for opens, _ in _PAIRS) + "'‘’‚`´״,\\\\"
_UNREAD = re.compile(r'(?<!\w)["“„‟«»](?=\w)[^\n]{1,60}')
_PLURAL = re.compile(r"(?<=s)['’](?=\s)")
_CLOSES = re.compile(r'(?<=[^\s"])"(?!\w)')
_MOST_INCHES = 3  # marks of inches inside one quote


@cache
def _quotes() -> re.Pattern[str]:
    """Return the pattern of all quotes. It takes a fifth of a second to compile, and most commands need none."""
    return re.compile(f"(?=[{_FIRST}])(?:{'|'.join(_FORMS)})", re.IGNORECASE)


def quote_places(text: str) -> list[tuple[int, int]]:
    """Return where a text has quotes, with their marks: (start, end) in characters, `end` exclusive."""
    return [match.span() for match in _quotes().finditer(text)]


def quoted_texts(text: str, *, doubtful: bool = True) -> list[str]:
    """Return the quotes of a text, without their marks.

    Args:
        doubtful: also those in single marks and in backticks, which people use for other things too.
    """
    found = [match.groupdict() for match in _quotes().finditer(text)]
    names = {"fence"} if doubtful else {"fence", "code", "grave", "acute", "single"}
    return [part.strip() for groups in found for name, part in groups.items() if part and name not in names]


def quotes_replaced(text: str, instead: str) -> str:
    """Put `instead` in the place of each of a text's quotes."""
    return _quotes().sub(lambda _: instead, text)


def quote_readings(judgment: str) -> Iterator[list[str]]:
    """Yield each quote of the text, as the readings that its marks allow, the longest first."""
    for match in _quotes().finditer(judgment):
        quote = next(text for name, text in match.groupdict().items() if text is not None and name != "fence")
        readings = [quote.strip()]
        if match["single"]:  # after an s, a mark can end the quote or be an apostrophe
            readings += [quote[: mark.start()].strip() for mark in reversed(list(_PLURAL.finditer(quote)))]
        if match["straight"] and quote[-1].isdigit():  # the mark can stand for inches
            readings = [*_with_inches(judgment, *match.span("straight")), *readings]
        if readings[-1]:
            yield readings


def unread_quote(judgment: str) -> str | None:
    """Return the beginning of what seems to be a quote, if a text has quotation marks and no quote that can be read."""
    unread = None if _quotes().search(judgment) else _UNREAD.search(judgment)
    return unread and unread[0].strip()


def _with_inches(judgment: str, start: int, end: int) -> list[str]:
    """Return the longer readings of a quote that seems to end at a mark of inches, as in `"5" wide"`."""
    line_end = judgment.find("\n", end)
    limit = min(len(judgment) if line_end < 0 else line_end, end + LONGEST_GAP)
    marks = islice(_CLOSES.finditer(judgment, end + 1, limit), _MOST_INCHES)
    return [judgment[start : mark.start()] for mark in marks][::-1]
