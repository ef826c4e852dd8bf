"""Find the final answer of a reply, as a person does, and read its number.

In this order: a marked answer (`####`, `Answer:`, `Final answer`, `<answer>`), `\\boxed{}`, "the answer is", and the
last number. Thoughts count for nothing. Two different answers of one kind are unclear.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice

from nlft.core.thoughts import without_thoughts
from nlft.data.answers.denials import after_contrast, after_retraction, is_not_stated
from nlft.data.answers.number_words import BEGINS, DETERMINERS, FILLERS, JOINS, LINKS, NO_NUMBER, OF
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
_WORDS_OF_MARKS = ("####", "答案", "答え", *_NAMES.split("|"))  # `MARKS` and `SAYS` find nothing without one of these
_TAG_ENDS = re.compile(r"</answer>", re.IGNORECASE)
BOX = re.compile(r"\\f?boxed ?\{")
# Another question, the next exercise, or a list of references: a reply's answer stands before it.
_NEXT_TURN = re.compile(
    r"^[ \t#*]{0,12}(?:(?:user|human|question|instruction|q|problem)[ \t]{0,3}[0-9]{0,3}[*_ \t]{0,3}:"
    r"|(?:exercise|example|task|aufgabe|beispiel|exercice|exemple|ejercicio|ejemplo|esercizio|练习|例题)[ \t]{0,3}"
    r"(?P<number>[0-9]{1,3})[*_ \t]{0,3}(?::|\.(?!\w)|$)"
    r"|(?:references|bibliography|works cited|sources|citations|footnotes|literatur|quellen|références|referencias"
    r"|参考文献)[*_ \t]{0,4}:?[*_ \t]{0,4}$)"
    r"|\[INST\]|<(?:\|im_start\||\|start_header_id\||start_of_turn)>user|<\|user\|>",
    re.IGNORECASE | re.MULTILINE,
)
# Some full stops end no sentence: `vs. 3`, `no. 5`, and that of an item, `**1.** First`.
_SENTENCE = re.compile(
    r"(?:(?<=[.!?])|(?<=[.!?]\*\*)(?<!\*\*[0-9]\.\*\*)(?<!\*\*[0-9]{2}\.\*\*))"
    r"(?<!\bvs\.)(?<!\bca\.)(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bapprox\.)(?<!\bp\.s\.)"
    r"(?!(?<=\bno\.)[ \t][0-9])[ \t]+(?=\S)",
    re.IGNORECASE,
)
# Read like `figure 2`, which is a name.
_ABBREVIATED = re.compile(r"\b(?:[Ff]igs?|[Ee]qs?|pp?|[Rr]efs?|[Vv]ol|Sec|Ch|Tab|Abb)\.(?=[ \t]\(?[0-9])")
_HEADING = re.compile(r"[ \t*_]*([0-9]{1,2})[.)][ \t]+(?=[^\s0-9])")
_ITEM = re.compile(r"^[ \t]*(?:[-*×+][ \t]+)?[0-9]{1,2}[.)][ \t]+(?=[^\s0-9])")
_FIRST_ITEM = re.compile(r"[ \t*_]{0,9}1[.)][*_]{0,4}(?:[ \t]|$)")
_SECOND_ITEM = re.compile(r"^[ \t*_]{0,9}2[.)][*_]{0,4}[ \t]", re.MULTILINE)
_STEP = re.compile(r"^[ \t#*]{0,12}(?:step|part)[ \t]?[0-9]{1,3}(?=\W|$)", re.IGNORECASE)
# A line that is only a number, perhaps as the value of an unknown.
_BARE = re.compile(
    r"[\s*•-]{0,8}(?:(?P<unknown>[A-Za-z])[ \t]?[=:][ \t]?)?[-+$€£]{0,2}[0-9][0-9.,]{0,40}%?[\s*.,;]{0,8}"
)
# A sentence that checks, explains or vouches for an answer: its numbers are no answer.
_BESIDE = re.compile(
    r"^\W{0,4}(?:(?:let's|let us|let me|now|to|we|i|can|you|double|quick|and)[ -]){0,3}"
    r"(?:check|verif|substituting back|plugging|confiden|source|notes?\b|reference|proof\b|time taken"
    r"|tokens used|difficulty\b|p\.s\.|probe\b|vérif|compr(?:uebo|obac)|hinweis|anmerkung|quelle)"
    r"|\b(?:sure|certain|confident|positive|sicher|confian[çc]a|certeza|seguro|sûr|sicuro|zeker)\W{0,3}$"
    r"|^\W{0,4}\([^()]*[^\W\d_]{2}[^()]*\)\W{0,4}$|^[^()]*\b(?:decimals|decimal places|significant)\b",
    re.IGNORECASE,
)
# A line at the end that may say how long or when, or how good or long the reply is, and not what was asked for.
_ABOUT = re.compile(
    r"[\W_]{0,6}+(?![^\d:]{0,40}(?:\b(?:total|final|overall|whole)|gesamt))(?:[^\W\d_]{1,15}[ \t]){0,2}"
    r"(?:time|duration|elapsed|date|deadline|version|(?P<length>length)|word count|(?P<score>score|rating)|zeit|dauer"
    r"|datum|temps|durée|tiempo|duración|fecha|tempo|durata|duração|data|длительность|время|дата)"
    r"(?:[ \t][^\W\d_]{1,15}){0,3}[*_ \t]{0,4}:"
    r"(?(length)[^\n0-9]{0,9}[0-9][0-9.,]{0,9}[ -](?:words?|characters?|chars|tokens?|letters?|sentences?|lines?)\b)"
    r"(?(score)(?![^\n0-9]{0,9}[0-9][0-9.,]{0,9} (?:points?|goals?|runs?|marks?)\W{0,9}\Z))"
    r"|[\W_]{0,6}+(?:时间|用时|耗时|日期|時間|所要時間|日付|시간|날짜) ?:",
    re.IGNORECASE,
)
_FACTORIAL = re.compile(r"[0-9A-Za-z)]!")  # in a box, where no sentence ends
_CITES = re.compile(r"\W{0,4}\[[0-9 ,]{1,9}\]\W{0,4}")
_REFERENCE = re.compile(
    r"[ \t]?\[(?:refs?|references?|sources?|cit(?:e|ation)|note|fig|figure|eq|table|quelle)\b[^\[\]\n]{0,40}\]"
    r"|\b(?:see|cf\.?)[ \t]{1,3}\[[0-9 ,]{1,9}\]|[ \t]?【[^【】\n]{0,30}†[^【】\n]{0,30}】",
    re.IGNORECASE,
)
_CITED = re.compile(r"\b(?P<word>[^\W\d_]{1,30})[ \t]?\[[0-9]{1,2}(?:[ \t,-]{1,3}[0-9]{1,2}){0,5}\](?=[\s.,;]|$)")
_STATES = LINKS | OF | JOINS | DETERMINERS | FILLERS  # a number in brackets after one of these is no source
_ASKS = re.compile(r"[?？][\s*_)\"'$]{0,8}$")
_MOST_WORDS, _FEW_WORDS = 6, 3
_LINES_AFTER = 3
_LONGEST = 200
_MOST_MARKS = 50  # read from the beginning, and as many from the end; a model that repeats itself writes thousands
_MOST_LINES = 200
_MOST_ENDS = 5

Place = tuple[re.Match[str], str, int]
"""A mark, the line after it, and where that line begins."""


def read_final(text: str) -> Quantity | None:
    """Read the number of a reply's final answer.

    Returns:
        The number. A quantity without readings: there is an answer, but it is not clearly one number. None: there is
        no number.
    """
    text = plain_characters(without_thoughts(text))
    if (turn := next_turn(text)) and (first := _read(text[: turn.start()])):
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
    marks = _places(MARKS, text)
    if stated := _marked(text, marks):
        return _unless_taken_back(stated, text, marks[-1][0].end())
    if stated := _boxed(text):
        return _unless_taken_back(stated, text, last_end((BOX,), text))
    says = _places(SAYS, text)
    if stated := _said(text, says):
        return _unless_taken_back(stated, text, says[-1][0].end())
    last = _last_number(text)
    return _agreed([*_not_stated([*marks, *says]), last]) if last else None


def _unless_taken_back(stated: list[Quantity], text: str, start: int) -> Quantity:
    """Return what all stated quantities are equal to; an unclear one if the text takes the last one back.

    Args:
        stated: at least one.
        text: where they stand.
        start: where the last one begins.
    """
    corrected = _read(after_retraction(text, start) or after_contrast(text, start))
    return _agreed([*stated, corrected] if corrected else stated)


def _agreed(found: list[Quantity]) -> Quantity:
    """Return the quantity that all are equal to; else an unclear one."""
    if all(compare(found[0], other) == "right" for other in found[1:]):
        return found[-1]
    return Quantity("; ".join(dict.fromkeys(one.text[:_LONGEST] for one in found)), NOT_ONE_NUMBER)


def _marked(text: str, places: list[Place]) -> list[Quantity]:
    """Read each marked answer.

    Headings (`#### Step 1`) and the beginnings of solutions (`Answer: First`, `Answer: 1. Add`) are none.
    """
    found: list[Quantity | None] = []
    last_digit, last_item = _last_digit(text), last_end((_SECOND_ITEM,), text)
    headings = 0
    for mark, region, start in _stated(places):
        if mark["hash"] and (heading := _HEADING.match(region)) and int(heading[1]) == headings + 1:
            headings += 1
            continue
        if mark["hash"] and _STEP.match(region):
            continue
        item = _HEADING.match(region)
        if last_item > start and _FIRST_ITEM.match(region):
            if not item:  # items of numbers alone: perhaps an answer each
                found.append(Quantity(" ".join(region.split()), NOT_ONE_NUMBER))
            continue
        first = first_sentence(region)
        sentence, ends = plain_markup(first), last_digit < start + len(first)
        following = (
            _next_line(text, start + len(region))
            if first == region and not mark["tag"] and _BARE.fullmatch(sentence)
            else ""
        )
        if item and item[1] == "1" and (rest := read_statement(plain_markup(region[item.end() :]))):
            found.append(_agreed([rest, read_statement("1") or rest]))  # is this an item, or the answer and a reason?
        elif _BARE.fullmatch(following):
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


def _said(text: str, places: list[Place]) -> list[Quantity]:
    """Read each "the answer is"."""
    last_digit = _last_digit(text)
    found = []
    for mark, region, _ in _stated(places):
        sentence = plain_markup(first_sentence(region))
        stated = _unless_asked(sentence, read_statement(sentence, marked=True))
        in_words = last_digit < mark.end() or _is_in_words(sentence, few=True)
        found.append(stated or (_words(sentence) if in_words else None))
    return [one for one in found if one]


def _not_stated(places: list[Place]) -> list[Quantity]:
    """Read each answer that the text denies, supposes or doubts."""
    sentences = [plain_markup(first_sentence(region)) for mark, region, _ in places if is_not_stated(mark)]
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


def regions(pattern: re.Pattern[str], text: str) -> Iterator[Place]:
    """Yield each match with the line after it, and where that line begins, except what the text does not state.

    If the line is empty, it is the next one. It never reaches to the next match.

    Args:
        pattern: `MARKS` or `SAYS`.
        text: with plain characters.
    """
    return _stated(_places(pattern, text))


def _stated(places: list[Place]) -> Iterator[Place]:
    return (place for place in places if not is_not_stated(place[0]))


def _places(pattern: re.Pattern[str], text: str) -> list[Place]:
    """Return what `regions` yields, and also the answers that the text denies, supposes or doubts."""
    found: list[Place] = []
    folded = text.casefold()
    if not any(word in folded for word in _WORDS_OF_MARKS):
        return found
    matches = list(pattern.finditer(text))
    stops = [*(match.start() for match in matches[1:]), len(text)]
    pairs = list(zip(matches, stops, strict=False))
    for match, stop in pairs if len(pairs) <= 2 * _MOST_MARKS else pairs[:_MOST_MARKS] + pairs[-_MOST_MARKS:]:
        start = match.end()
        for _ in range(_LINES_AFTER):
            end = text.find("\n", start, stop)
            end = stop if end < 0 else end
            if end == stop or re.search(r"[^\W_]", text[start:end].replace("answer", "")):
                break
            start = end + 1
        found.append((match, _TAG_ENDS.split(text[start:end], maxsplit=1)[0], start))
    return found


def next_turn(text: str) -> re.Match[str] | None:
    """Return where a reply goes on with another question or exercise, or lists its references.

    `Task 2:` is the next one, unless `Task 1:` stands before it: then the tasks are parts of the reply.
    """
    has_first = False
    for match in _NEXT_TURN.finditer(text):
        number = match["number"]
        if number is None or (int(number) > 1 and not has_first):
            return match
        has_first = has_first or int(number) == 1
    return None


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
    about: list[Quantity] = []
    for line in reversed(lines[-_MOST_LINES:]):
        words = plain_markup(_ABBREVIATED.sub("figure", _REFERENCE.sub("", _STEP.sub("", line))))
        rest = _ITEM.sub("", words)
        for sentence in reversed(_SENTENCE.split(rest)):
            if stated := _unless_asked(sentence, read_statement(sentence)):
                cites = _CITES.fullmatch(sentence) and sentence.strip() != text.strip()
                beside = _BESIDE.search(sentence) or cites or _ends_with_a_source(sentence, text)
                if not beside and _ABOUT.match(sentence) and "=" not in sentence:
                    about.append(stated)
                    continue
                return _words(sentence) if beside else _agreed([*about, stated])
        if rest != words:  # is this the third item, or three?
            return Quantity(words, NOT_ONE_NUMBER)
    return _agreed(about) if about else None


def _ends_with_a_source(sentence: str, text: str) -> bool:
    """Return whether a number in brackets may name a source, as in `18 students passed [1].`, and not an answer.

    A number after a verb such as `is` is an answer. So is one without another number in its sentence, unless the text
    has several numbers in brackets.
    """
    sources = list(_CITED.finditer(sentence))
    if not sources or sentence[sources[-1].end() :].strip(" .*_") or sources[-1]["word"].lower() in _STATES:
        return False
    beside_another = re.search("[0-9]", sentence[: sources[-1].start()]) is not None
    return beside_another or len(list(islice(_CITED.finditer(text), 2))) > 1
