"""Pure: words and phrases of replies, and which phrases became commoner. No torch."""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise

from nlft.core.word_search import JOINED

COPIED_WORDS = 6
"""A run of so many words that also stands in another text counts as copied from it."""

LONGEST_PHRASE = 4  # words
TIMES_COMMONER = 5
FEWEST_REPLIES, SMALLEST_SHARE = 5, 0.08  # a phrase in fewer replies is not reported

_MARKS = re.compile(r"[^\w\s]+")
_KOREAN = r"\uac00-\ud7af"  # it joins particles to its words, but writes spaces between them
_JOINED = rf"{JOINED}々〆〇ｦ-ﾟ\U00020000-\U0003ffff"
_UNSPACED = re.compile(rf"(?![{_KOREAN}])[{_JOINED}]")
# These change a sign, such as an emoji, and not a letter: the signs around a sound stay as they are.
_ON_SIGNS = re.compile("[\u20d0-\u20ff\ufe00-\ufe0f]")


@dataclass(frozen=True)
class Phrase:
    """A phrase that became commoner. `before` and `after` are numbers of replies that have it."""

    text: str
    before: int
    after: int


def commoner_phrases(replies: Sequence[tuple[str, str, str]]) -> tuple[Phrase, ...]:
    """Return the phrases that at least five times as many replies have after as before, the commonest first.

    A phrase is one to four words in lower case, or one run of other characters, such as `**` or `!`. Phrases that
    follow each other in the same replies are joined. A phrase must be in at least 5 of the replies after, and in at
    least 8% of them. Words that stand in a reply's own prompt do not count for that reply. A part of a
    longer reported phrase, or a phrase that runs into a reported one, is reported only if it became commoner in other
    replies too.

    Args:
        replies: each prompt, the reply to it before, and the reply after.
    """
    floor = max(FEWEST_REPLIES, SMALLEST_SHARE * len(replies))
    known = [_phrases(prompt, set()) for prompt, _, _ in replies]
    after = [_phrases(new, own) for (_, _, new), own in zip(replies, known, strict=True)]
    counts = Counter(phrase for found in after for phrase in found)
    common = {phrase for phrase, count in counts.items() if count >= floor}
    before = Counter(
        phrase for (_, old, _), own in zip(replies, known, strict=True) for phrase in _phrases(old, own) & common
    )
    risen = {phrase for phrase in common if counts[phrase] >= TIMES_COMMONER * before[phrase]}
    where = {phrase: frozenset(at for at, found in enumerate(after) if phrase in found) for phrase in risen}
    for phrase, parts in _joined(where).items():
        where[phrase], counts[phrase] = where[parts[0]], counts[parts[0]]
        before[phrase] = min(before[part] for part in parts)
    kept: list[tuple[str, ...]] = []
    for phrase in sorted(where, key=lambda p: (-len(p), -counts[p], p)):
        longer = [where[other] for other in kept if _is_part(phrase, other) or _overlap(phrase, other)]
        alone = len(where[phrase].difference(*longer))
        if alone >= floor and alone >= TIMES_COMMONER * before[phrase]:
            kept.append(phrase)
    kept.sort(key=lambda p: (-counts[p], p))
    return tuple(Phrase(_written(phrase), before[phrase], counts[phrase]) for phrase in kept)


def runs_of(texts: Iterable[str]) -> set[tuple[str, ...]]:
    """Return all runs of `COPIED_WORDS` words of the texts."""
    return {gram for text in texts for gram in grams_of(words_of(text), COPIED_WORDS)}


def copied(texts: Iterable[str], known: Collection[tuple[str, ...]]) -> tuple[int, int]:
    """Return how many runs of the texts are known, and how many runs they have."""
    grams = [gram for text in texts for gram in grams_of(words_of(text), COPIED_WORDS)]
    return sum(gram in known for gram in grams), len(grams)


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case. In a script without spaces, such as Chinese, each character is one."""
    return _word().findall(_form(text).lower())


def word_places(text: str) -> list[tuple[int, int]]:
    """Return where the words of a text stand: (start, end) in characters, `end` exclusive."""
    return [match.span() for match in _word().finditer(text)]


def spaced(text: str) -> str:
    """Put spaces around each character of the scripts that are written without them."""
    return text if text.isascii() else _UNSPACED.sub(r" \g<0> ", text)


def grams_of(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Return each run of `size` words, in order."""
    return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]


def _phrases(text: str, prompt: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the text's phrases, without those whose words and marks all stand in the prompt."""
    words = words_of(text)
    found = {gram for size in range(1, LONGEST_PHRASE + 1) for gram in grams_of(words, size)}
    found |= {(marks,) for marks in _MARKS.findall(_bare(text))}
    return {gram for gram in found if not all((part,) in prompt for part in gram)}


@lru_cache(maxsize=1)
def _word() -> re.Pattern[str]:
    """Return the pattern of a word: a letter keeps its accents and vowel signs, which are no letters to `re`."""
    accents = rf"[{_accents()}]*+"
    letters = rf"(?:(?:[^\W{_JOINED}]++|[{_KOREAN}]++){accents}(?:[\u200c\u200d](?=\w))?)++"
    return re.compile(rf"{_UNSPACED.pattern}{accents}|{letters}(?:['’-]{letters})*")


@lru_cache(maxsize=1)
def _accents() -> str:
    """Return the characters that belong to the letter before them, as they stand between the brackets of a pattern."""
    every = [at for at in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)) if unicodedata.category(chr(at))[0] == "M"]
    kept = [at for at in every if not _ON_SIGNS.match(chr(at))]
    runs = [list(run) for _, run in groupby(enumerate(kept), key=lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0][1])}-{chr(run[-1][1])}" for run in runs)


def _form(text: str) -> str:
    """Return the text with each accented letter in one form, so that two ways to store it are one word."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _bare(text: str) -> str:
    """Return the text without what is written on or between the letters of a word."""
    if text.isascii():
        return text
    text = re.sub(rf"(?<=\w)[{_accents()}]+", "", _form(text))
    return re.sub(r"(?<=\w)[\u200c\u200d](?=\w)", "", text)


def _written(phrase: Sequence[str]) -> str:
    """Write the words of a phrase as a text has them: without spaces in scripts that have none."""
    text = phrase[0]
    for before, word in pairwise(phrase):
        text += word if _UNSPACED.match(before) and _UNSPACED.match(word) else f" {word}"
    return text


def _is_part(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    size = len(phrase)
    return size < len(other) and any(other[at : at + size] == phrase for at in range(len(other) - size + 1))


def _overlap(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Return whether both are three words or longer, and one ends with two or more words that begin the other."""
    shorter = min(len(phrase), len(other))
    return any(phrase[-n:] == other[:n] or other[-n:] == phrase[:n] for n in range(2, shorter))


def _joined(where: Mapping[tuple[str, ...], frozenset[int]]) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Join four-word phrases that follow each other in the same replies to longer phrases, each with its parts."""
    windows = sorted(phrase for phrase in where if len(phrase) == LONGEST_PHRASE)
    after: dict[tuple[str, ...], tuple[str, ...]] = {}
    for one in windows:
        follow = [other for other in windows if other[:-1] == one[1:] and where[other] == where[one]]
        if len(follow) == 1:
            after[one] = follow[0]
    found = {}
    for first in sorted(after.keys() - set(after.values())):
        parts = [first]
        while parts[-1] in after and after[parts[-1]] not in parts:
            parts.append(after[parts[-1]])
        found[(*first, *(part[-1] for part in parts[1:]))] = parts
    return found
