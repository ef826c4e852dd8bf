"""Find the final answer of a reply, as a person does, and read its number.

In this order: a marked answer (`####`, `Answer:`, `Final answer`, `<answer>`), `\\boxed{}`, "the answer is", and the
last number. Thoughts count for nothing. Two different answers of one kind are unclear.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.denials import after_retraction, is_not_stated
from nlft.data.answers.number_words import BEGINS, NO_NUMBER
from nlft.data.answers.plain_text import plain_characters, plain_markup
from nlft.data.answers.quantities import NOT_ONE_NUMBER, Quantity, compare
from nlft.data.answers.statements import begins_with_number, is_short, read_statement

MARK = "####"  # the final answer follows this mark, as in GSM8K

_NAMES = r"answer|antwort|réponse|respuesta|risposta|resposta|ответ"
# Where a word begins and ends. Underscores around it are emphasis, but `final_answer` is one word.
_BEGINS, _ENDS = r"(?<![^\W_])(?<![^\W_]_)(?<![^\W_]__)", r"(?![^\W_])"
MARKS = re.compile(
    rf"(?P<hash>####+)|(?P<tag><answer>)|(?:{_BEGINS}(?:{_NAMES}){_ENDS}[*_ \t]{{0,4}}[:=]|答案 ?:|答え ?:)"
    rf"|{_BEGINS}final answer{_ENDS}[*_#.: \t]{{0,4}}(?=\n|[-$\\+]{{0,2}}[0-9])",
    re.IGNORECASE,
)
SAYS = re.compile(
    rf"(?:{_BEGINS}answer\b(?!>)[^.\n!?=:]{{0,60}}?\b(?:is|was|be|equals){_ENDS}|\bantwort (?:ist|lautet)|\bréponse est"
    r"|\brespuesta es|答案是|答案为|答えは)(?! *not\b)[: \t]{0,3}",
    re.IGNORECASE,
)
_TAG_ENDS = re.compile(r"</answer>", re.IGNORECASE)
BOX = re.compile(r"\\f?boxed ?\{")
NEXT_TURN = re.compile(
    r"^[ \t#*]{0,12}(?:user|human|question|q|instruction|problem)[ \t]{0,3}[0-9]{0,3}[*_ \t]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
# Some full stops end no sentence: `vs. 3`, `no. 5`.
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\bvs\.)(?<!\bca\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bapprox\.)(?!(?<=\bno\.)[ \t][0-9])[ \t]+(?=\S)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[ \t*_]*([0-9]{1,2})[.)][ \t]+(?=[^\s0-9])")
_ITEM = re.compile(r"^[ \t]*(?:[-*×+][ \t]+)?[0-9]{1,2}[.)][ \t]+(?=[^\s0-9])")
_STEP = re.compile(r"^[ \t#*]{0,12}(?:step|part)[ \t]?[0-9]{1,3}(?=\W|$)", re.IGNORECASE)
# A line that is only a number, perhaps as the value of an unknown.
_BARE = re.compile(
    r"[\s*•-]{0,8}(?:(?P<unknown>[A-Za-z])[ \t]?[=:][ \t]?)?[-+$€£]{0,2}[0-9][0-9.,]{0,40}%?[\s*.,;]{0,8}"
)
# A sentence that checks, explains or vouches for an answer: its numbers are no answer.
_BESIDE = re.compile(
    r"^\W{0,4}(?:(?:let's|let us|let me|now|to|we|i|can|you|double|quick|and)[ -]){0,3}"
    r"(?:check|verif|substituting back|plugging|confiden|source|notes?\b|reference|proof\b|time taken|probe\b|vérif"
    r"|compr(?:uebo|obac)|hinweis|anmerkung|quelle)"
    r"|\b(?:sure|certain|confident|positive|sicher|confian[çc]a|certeza|seguro|sûr|sicuro|zeker)\W{0,3}$"
    r"|^\W{0,4}\([^()]*[^\W\d_]{2}[^()]*\)\W{0,4}$|^[^()]*\b(?:decimals|decimal places|significant)\b",
    re.IGNORECASE,
)
_FACTORIAL = re.compile(r"[0-9A-Za-z)]!")  # in a box, where no sentence ends
_CITES = re.compile(r"\W{0,4}\[[0-9 ,]{1,9}\]\W{0,4}")
_ASKS = re.compile(r"[?？][\s*_)\"'$]{0,8}$")
_MOST_WORDS, _FEW_WORDS = 6, 3
_LINES_AFTER = 3
_LONGEST = 200
_MOST_MARKS = 50  # read from the beginning, and as many from the end; a model that repeats itself writes thousands
_MOST_LINES = 200
_MOST_ENDS = 5


def read_final(text: str) -> Quantity | None:
    """Read the number of a reply's final answer.

    Returns:
        The number. A quantity without readings: there is an answer, but it is not clearly one number. None: there is
        no number.
    """
    text = plain_characters(without_thoughts(text))
    if (turn := NEXT_TURN.search(text)) and (first := _read(text[: turn.start()])):
        return _agreed([first, _read(text) or first])
    return _read(text)


@lru_cache(maxsize=1024)  # many replies are compared with one answer
def read_standard(answer: str) -> Quantity | None:
    """Read a standard answer's number: all that follows its last `####`, else the whole answer if it begins with a
    number, else its final answer. It is as in `read_final`."""
    _, mark, after = plain_characters(without_thoughts(answer)).rpartition(MARK)
    after = plain_markup(after).strip()
    if mark or ("\n" not in after and begins_with_number(after)):
        return read_statement(after.replace("\n", " ; "), marked=True)
    return read_final(answer)


def _read(text: str) -> Quantity | None:
    for pattern, read in ((MARKS, _marked), (BOX, _boxed), (SAYS, _said)):
        if stated := read(text):
            corrected = _read(after_retraction(text, last_end((pattern,), text)))
            return _agreed([*stated, corrected] if corrected else stated)
    last = _last_number(text)
    return _agreed([*_not_stated(text), last]) if last else None


def _agreed(found: list[Quantity]) -> Quantity:
    """Return the quantity that all are equal to; else an unclear one."""
    if all(compare(found[0], other) == "right" for other in found[1:]):
        return found[-1]
    return Quantity("; ".join(dict.fromkeys(one.text[:_LONGEST] for one in found)), NOT_ONE_NUMBER)


def _marked(text: str) -> list[Quantity]:
    """Read each marked answer. Headings (`#### Step 1`) and the beginnings of solutions (`Answer: First`) are none."""
    found: list[Quantity | None] = []
    last_digit = _last_digit(text)
    headings = 0
    for mark, region, start in regions(MARKS, text):
        if mark["hash"] and (heading := _HEADING.match(region)) and int(heading[1]) == headings + 1:
            headings += 1
            continue
        if mark["hash"] and _STEP.match(region):
            continue
        first = first_sentence(region)
        sentence, ends = plain_markup(first), last_digit < start + len(first)
        following = (
            _next_line(text, start + len(region))
            if first == region and not mark["tag"] and _BARE.fullmatch(sentence)
            else ""
        )
        if _BARE.fullmatch(following):
            found.append(_agreed([one for line in (sentence, following) if (one := read_statement(line))]))
        elif begins_with_number(sentence) and (mark["hash"] or mark["tag"] or ends or is_short(sentence)):
            found.append(read_statement(sentence, marked=True))
        elif ends or mark["tag"]:
            found.append(read_statement(sentence) or _words(sentence))
        elif last_digit < mark.end() or _is_in_words(sentence, few=not mark["hash"]):
            found.append(_words(sentence))
    return [one for one in found if one]


def _next_line(text: str, at: int) -> str:
    """Return the first line with words after a place."""
    return plain_markup(text[at : at + 2 * _LONGEST].lstrip().partition("\n")[0])


def _is_in_words(sentence: str, *, few: bool) -> bool:
    """Return whether a sentence without digits is an answer, such as `none`, and not the beginning of a solution.

    Args:
        few: any few words are an answer, unless solutions begin so.
    """
    words = re.findall(r"[^\W\d_]+(?:['-][^\W\d_]+)*", sentence.lower())
    if not words or len(words) > _MOST_WORDS or re.search("[0-9]", sentence) or sentence.rstrip(" *_").endswith(":"):
        return False
    return not NO_NUMBER.isdisjoint(words) or (few and len(words) <= _FEW_WORDS and BEGINS.isdisjoint(words))


def _said(text: str) -> list[Quantity]:
    """Read each "the answer is"."""
    last_digit = _last_digit(text)
    found = []
    for mark, region, _ in regions(SAYS, text):
        sentence = plain_markup(first_sentence(region))
        stated = _unless_asked(sentence, read_statement(sentence, marked=True))
        in_words = last_digit < mark.end() or _is_in_words(sentence, few=True)
        found.append(stated or (_words(sentence) if in_words else None))
    return [one for one in found if one]


def _not_stated(text: str) -> list[Quantity]:
    """Read each answer that the text denies, supposes or doubts."""
    sentences = [
        plain_markup(first_sentence(region))
        for pattern in (MARKS, SAYS)
        for _, region, _ in regions(pattern, text, stated=False)
    ]
    return [one for sentence in sentences if (one := read_statement(sentence, marked=True))]


def _unless_asked(sentence: str, stated: Quantity | None) -> Quantity | None:
    """Return what a sentence states; an unclear quantity if it asks."""
    return _words(sentence) if stated and _ASKS.search(sentence) else stated


def _words(text: str) -> Quantity | None:
    """Return an answer in words, such as `none`, which is unclear; None if there are no words."""
    text = " ".join(text.split()).strip("*.:# ")
    return Quantity(text, NOT_ONE_NUMBER) if re.search(r"\w", text) else None


def _last_digit(text: str) -> int:
    return next((at for at in range(len(text) - 1, -1, -1) if "0" <= text[at] <= "9"), -1)


def regions(pattern: re.Pattern[str], text: str, *, stated: bool = True) -> Iterator[tuple[re.Match[str], str, int]]:
    """Yield each match with the line after it, and where that line begins.

    If the line is empty, it is the next one. It never reaches to the next match.

    Args:
        pattern: `MARKS` or `SAYS`.
        text: with plain characters.
        stated: yield the answers that the text states; else those that it denies, supposes or doubts.
    """
    matches = list(pattern.finditer(text))
    stops = [*(match.start() for match in matches[1:]), len(text)]
    pairs = list(zip(matches, stops, strict=False))
    for match, stop in pairs if len(pairs) <= 2 * _MOST_MARKS else pairs[:_MOST_MARKS] + pairs[-_MOST_MARKS:]:
        if is_not_stated(match) is stated:
            continue
        start = match.end()
        for _ in range(_LINES_AFTER):
            end = text.find("\n", start, stop)
            end = stop if end < 0 else end
            if end == stop or re.search(r"[^\W_]", text[start:end].replace("answer", "")):
                break
            start = end + 1
        yield match, _TAG_ENDS.split(text[start:end], maxsplit=1)[0], start


def last_end(patterns: Iterable[re.Pattern[str]], text: str) -> int:
    """Return where the last match of one of the patterns ends; 0 if there is none."""
    return max((match.end() for pattern in patterns for match in pattern.finditer(text)), default=0)


def first_sentence(region: str) -> str:
    """Return the text up to the end of its first sentence."""
    return _SENTENCE.split(region, maxsplit=1)[0]


def beginnings(region: str) -> list[str]:
    """Return the text up to the end of its first sentence, of its first two, and so on, and the whole text."""
    ends = [match.start() for match, _ in zip(_SENTENCE.finditer(region), range(_MOST_ENDS), strict=False)]
    return [region[:end] for end in ends] + [region]


def boxed(text: str) -> list[str]:
    r"""Return what stands in each `\boxed{}`, except in a box within a box."""
    starts = [match.end() for match in BOX.finditer(text)]
    ends: dict[int, int] = {}
    if starts:
        opened = []
        for match in re.finditer(r"(?<!\\)[{}]", text):
            if match[0] == "{":
                opened.append(match.end())
            elif opened:
                ends[opened.pop()] = match.start()
    found, upto = [], 0
    for start in starts:
        if start >= upto and start in ends:
            upto = ends[start]
            found.append(text[start:upto])
    return found


def _boxed(text: str) -> list[Quantity]:
    contents = [plain_markup(content) for content in boxed(text)[-2 * _MOST_MARKS :]]
    found = [
        _words(content) if _FACTORIAL.search(content) else read_statement(content, marked=True) or _words(content)
        for content in contents
    ]
    return [one for one in found if one]


def _last_number(text: str) -> Quantity | None:
    """Read the last sentence that has a number."""
    lines = [line for line in text.split("\n") if re.search("[0-9]", line)]
    if (last := [_BARE.fullmatch(plain_markup(line)) for line in lines[-2:]]) and all(last) and len(last) == 2:
        return _agreed([one for line in lines[-2:] if (one := read_statement(plain_markup(line)))])
    for line in reversed(lines[-_MOST_LINES:]):
        words = plain_markup(_STEP.sub("", line))
        rest = _ITEM.sub("", words)
        for sentence in reversed(_SENTENCE.split(rest)):
            if stated := _unless_asked(sentence, read_statement(sentence)):
                beside = _BESIDE.search(sentence) or (_CITES.fullmatch(sentence) and sentence.strip() != text.strip())
                return _words(sentence) if beside else stated
        if rest != words:  # is this the third item, or three?
            return Quantity(words, NOT_ONE_NUMBER)
    return None
