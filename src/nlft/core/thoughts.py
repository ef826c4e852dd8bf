"""Tell a model's words from the thoughts that it writes before them. Needs neither tokenizer nor torch."""

import re

from nlft.core.marks import narrow

_NAMES = (
    r"(?:\w{1,20}[:_]|ant)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch_?pad|inner_monologue|analysis"
    r"|rationale|cot|think_never_used_\w{1,40})"
)
# A tag beside a quotation mark is quoted: it is about a tag, and is none.
_NOT_QUOTED = r"(?=[<\[◁])(?<![\"'“‘«`])(?:{})(?![\"'”’»`])"
_OPENS = re.compile(
    _NOT_QUOTED.format(
        rf"<{_NAMES}(?:\s[^<>]*)?>|\[{_NAMES}\]|◁{_NAMES}▷|<\|?(?:begin_of_|start_)(?:thought|thinking|think)\|?>"
        rf"|<\|{_NAMES}(?:_start|_begin)?\|>"
        r"|(?:<\|start\|>assistant)?<\|?channel\|?>(?:analysis|commentary|thought)\b[^<]*(?:<\|message\|>)?"
        r"|<unused94>(?:thought)?"
    ),
    re.IGNORECASE,
)
_CLOSES = re.compile(
    _NOT_QUOTED.format(
        rf"</{_NAMES}\s*>|\[/{_NAMES}\]|◁/{_NAMES}▷|<\|?end_(?:of_)?(?:thought|thinking|think)\|?>"
        rf"|<\|(?:/{_NAMES}|{_NAMES}_(?:end|stop))\|>"
        r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final(?:\s[^<]*)?<\|message\|>|<channel\|>|<unused95>"
    ),
    re.IGNORECASE,
)


def without_thoughts(text: str) -> str:
    r"""Return a reply without its thoughts: what follows the last closing tag, such as `</think>`.

    A chat template may write the opening tag, so a reply can have the closing tag alone. If nothing follows a closing
    tag, the words are what stands before the thought. A thought that never ends has no words after it.

    >>> without_thoughts("<think>\nVerdict: right?\n</think>\n\nVerdict: wrong")
    'Verdict: wrong'
    """
    start, end = words_place(text)
    return text[start:end]


def words_place(text: str) -> tuple[int, int]:
    """Return where the words of a reply stand that are no thoughts: (start, end), without white space around them.

    Both are equal if there are none. See `without_thoughts`.
    """
    tags = narrow(text)  # each character keeps its place
    *_, closed = [0, *(match.end() for match in _CLOSES.finditer(tags))]
    opening = _OPENS.search(tags, closed)
    start, end = stripped_place(text, closed, opening.start() if opening else len(text))
    if start < end or not closed:
        return start, end
    opening = _OPENS.search(tags)
    return stripped_place(text, 0, opening.start() if opening else 0)


def stripped_place(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a part of the text, (start, end), without the white space at both ends."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def thought_tags(text: str) -> list[tuple[int, int]]:
    """Return where the tags stand that open or close a thought: (start, end) of each, in order."""
    return sorted(match.span() for pattern in (_OPENS, _CLOSES) for match in pattern.finditer(narrow(text)))


def closes_thought(text: str) -> bool:
    """Return whether a text has a tag that ends a thought."""
    return _CLOSES.search(narrow(text)) is not None


def open_at_end(text: str) -> str:
    """Return the tag that opens a thought at the end of a text, with the white space after it; else an empty text."""
    *_, last = [None, *_OPENS.finditer(narrow(text))]
    return text[last.start() :] if last and not text[last.end() :].strip() else ""
