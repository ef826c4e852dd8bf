"""Find duplicates, near-duplicates, and training examples that are also in the test file.

Two texts are near-duplicates if they hold the same numbers in the same order, and if the character 5-grams of their
words overlap. Numbers must be equal because one template with other numbers is another problem. Text that most
examples share, such as an instruction around every question, does not count.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import chain
from math import ceil
from sys import intern

from nlft.auditing.findings import Finding
from nlft.core.prompts import prompt_text
from nlft.data.records import Example, Question, completion_text

Shingles = frozenset[str]

SHINGLE = 5
CONTAINED = 0.95  # a training prompt overlaps with a test question if it holds this proportion of its 5-grams
_MET = 4  # shingles that two texts must have in common before they are compared: far fewer texts that differ do
_ENOUGH = 20  # with fewer texts than this, a phrase that they share may be a copy instead of an instruction
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+")
_SPELT = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_SPELT += " seventeen eighteen nineteen twenty"
SPELT = {word: str(value) for value, word in enumerate(_SPELT.split())}
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
SPELT |= {word: str(30 + 10 * place) for place, word in enumerate(_TENS.split())} | {"thousand": "1000"}


def copies(examples: Sequence[Example], threshold: float) -> list[Finding]:
    """Find examples that repeat an earlier one.

    A duplicate has the same prompt and completion. A near-duplicate has nearly the same prompt, or the same prompt and
    nearly the same completion. Different answers to one prompt are not duplicates.

    Args:
        threshold: minimum Jaccard similarity of near-duplicates, 0 to 1.
    """
    findings: list[Finding] = []
    by_prompt: dict[str, list[int]] = defaultdict(list)
    first: dict[tuple[str, str], int] = {}
    for at, example in enumerate(examples):
        prompt = _spaced(prompt_text(example.prompt))
        original = first.setdefault((prompt, _spaced(completion_text(example))), at)
        if original == at:
            by_prompt[prompt].append(at)
        else:
            findings.append(_duplicate(example, examples[original]))
    groups = list(by_prompt.values())
    near = {}
    for i, j, similarity in similar([_words(prompt) for prompt in by_prompt], threshold):
        near.update({at: (groups[i][0], similarity, "question is") for at in groups[j] if at not in near})
    for group in groups:
        answers = [_words(completion_text(examples[at])) for at in group]
        for i, j, similarity in similar(answers, threshold) if len(group) > 1 else ():
            near.setdefault(group[j], (group[i], similarity, "completion to the same prompt is"))
    for at, (other, similarity, part) in sorted(near.items()):
        what = f"its {part} {similarity:.0%} the same as in example {examples[other].id!r}, with the same numbers"
        findings.append(Finding("near-duplicate", examples[at].id, what, (examples[other].id,)))
    return findings


def overlap(examples: Sequence[Example], test: Sequence[Question], threshold: float) -> list[Finding]:
    """Find training prompts that equal or contain a test question, in the same or nearly the same words.

    Args:
        threshold: minimum Jaccard similarity of near-duplicates, 0 to 1.
    """
    ours = [prompt_text(e.prompt) for e in examples]
    theirs = [prompt_text(q.prompt) for q in test]
    exact = {_spaced(text): at for at, text in reversed(list(enumerate(theirs)))}
    best: dict[int, tuple[float, int]] = {}
    for i, j, similarity in similar_across([_words(t) for t in ours], [_words(t) for t in theirs], threshold):
        best[i] = max(best.get(i, (0.0, 0)), (similarity, -j))
    findings = []
    for at, example in enumerate(examples):
        if (same := exact.get(_spaced(ours[at]))) is not None:
            what, other = f"its question equals test question {test[same].id!r} word for word", same
        elif at in best:
            similarity, other = best[at][0], -best[at][1]
            what = f"its question is {similarity:.0%} the same as test question {test[other].id!r}"
        else:
            continue
        findings.append(Finding("overlap", example.id, what, (test[other].id,)))
    return findings


def _duplicate(example: Example, original: Example) -> Finding:
    if example.label != original.label:
        what = f"the same completion is labelled {str(original.label).lower()} in example {original.id!r}"
        return Finding("contradiction", example.id, what, (original.id,))
    return Finding("duplicate", example.id, f"the same as example {original.id!r}", (original.id,))


# Find pairs of similar texts.


@dataclass(frozen=True)
class _Words:
    """A text as lower-case words, and the numbers in it, in order. Number words become digits."""

    words: list[str]

    @property
    def numbers(self) -> tuple[str, ...]:
        written = {word: _number(word) for word in set(self.words)}  # a text that loops repeats its words
        return tuple(filter(None, (written[word] for word in self.words)))

    @property
    def text(self) -> str:
        return " ".join(self.words)


def numbers(text: str) -> tuple[str, ...]:
    """Return the numbers in a text, in order. `1,200.50` becomes 1200.5, and `three` becomes 3."""
    return _words(text).numbers


def similar(texts: Sequence[_Words], threshold: float) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of near-duplicates as (earlier place, later place, Jaccard similarity)."""
    texts = _without_frame(texts)
    keys = [text.numbers for text in texts]
    shingles, counts = _compared(texts, keys)
    holders: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for j in sorted(shingles, key=lambda at: len(shingles[at])):
        size = len(shingles[j])
        # No other text has a shingle that is counted once.
        rarest = _rarest(shingles[j], counts, threshold, met=_MET)
        rare = [(shingle, keys[j]) for shingle in rarest if counts[shingle] > 1]
        met = Counter(chain.from_iterable(holders[key] for key in rare))
        enough = max(1, min(_MET, _least(size, threshold)))
        for i in sorted(i for i, times in met.items() if times >= enough):
            if len(shingles[i]) >= threshold * size and (s := _jaccard(shingles[i], shingles[j])) >= threshold:
                yield min(i, j), max(i, j), s
        for key in rare:
            holders[key].append(j)


def _compared(texts: Sequence[_Words], keys: Sequence[tuple[str, ...]]) -> tuple[dict[int, Shingles], Counter[str]]:
    """Return the shingles of the texts whose numbers another text has too, by place, and how many texts hold each.

    All texts count. The others' shingles are not kept: of 100,000 texts they would take gigabytes.
    """
    same, counts = Counter(keys), Counter[str]()
    known: dict[str, str] = {}  # equal shingles are one object
    kept: dict[int, Shingles] = {}
    for at, text in enumerate(texts):
        items = _shingles(text.text)
        counts.update(items)
        if same[keys[at]] > 1:
            kept[at] = frozenset(known.setdefault(shingle, shingle) for shingle in items)
    if len(texts) >= _ENOUGH:
        common = _common(counts, len(texts))
        for at, items in kept.items():
            kept[at] = items - common or items
    return kept, counts


def similar_across(
    ours: Sequence[_Words], theirs: Sequence[_Words], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Yield (place in ours, place in theirs, similarity) where our text nearly equals theirs, or contains it."""
    ours, theirs = _without_frame(ours), _without_frame(theirs)
    our_numbers, their_numbers = [t.numbers for t in ours], [t.numbers for t in theirs]
    left = _without_common([_shingles(t.text) for t in ours])
    right = _without_common([_shingles(t.text) for t in theirs])
    counts = _counts([*left, *right])
    holders: dict[str, list[int]] = defaultdict(list)
    for j, items in enumerate(right):
        for shingle in _rarest(items, counts, threshold):
            holders[shingle].append(j)
    for i, items in enumerate(left):
        for j in sorted({j for shingle in items & holders.keys() for j in holders[shingle]}):
            common = len(items & right[j])
            if _jaccard(items, right[j]) >= threshold and our_numbers[i] == their_numbers[j]:
                yield i, j, _jaccard(items, right[j])
            elif common >= CONTAINED * len(right[j]) and _inside(their_numbers[j], our_numbers[i]):
                yield i, j, common / len(right[j])


def _inside(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    """Return whether the whole contains the part as consecutive items."""
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def _words(text: str) -> _Words:
    return _Words([intern(word) for word in _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())])


def _number(word: str) -> str | None:
    """Write a number word or number in one normal form of digits. Return None if the word is not a number."""
    if word in SPELT:
        return SPELT[word]
    if not word[0].isdigit():
        return None
    whole, point, decimals = re.sub(r",(?=\d{3}(?:\D|$))", "", word).partition(".")
    return (whole.lstrip("0") or "0") + (f"{point}{decimals}".rstrip("0").rstrip("."))


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _without_frame(texts: Sequence[_Words]) -> list[_Words]:
    """Remove the words that all texts begin or end with."""
    if len(texts) < _ENOUGH:
        return list(texts)
    begin, end = _shared([t.words for t in texts]), _shared([t.words[::-1] for t in texts])
    return [_Words(t.words[begin : len(t.words) - end]) for t in texts]


def _shared(lists: Sequence[list[str]]) -> int:
    """Return how many words at the beginning are equal in all lists."""
    shared = 0
    for column in zip(*lists, strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def _shingles(text: str) -> Shingles:
    """Return the text's distinct character 5-grams. If the text is shorter, return the whole text, padded."""
    padded = f" {text} ".ljust(SHINGLE)
    return frozenset(padded[at : at + SHINGLE] for at in range(len(padded) - SHINGLE + 1)) if text else frozenset()


def _without_common(sets: list[Shingles]) -> list[Shingles]:
    """Remove the shingles that more than half of the texts hold. A text that would lose all its shingles keeps them."""
    if len(sets) < _ENOUGH:
        return sets
    common = _common(_counts(sets), len(sets))
    return [items - common or items for items in sets]


def _common(counts: Counter[str], texts: int) -> Shingles:
    """Return the shingles that more than half of the texts hold."""
    return frozenset(shingle for shingle, count in counts.items() if count > texts / 2)


def _counts(sets: list[Shingles]) -> Counter[str]:
    """Count for each shingle the texts that contain it."""
    return Counter(chain.from_iterable(sets))


def _rarest(items: Shingles, counts: Counter[str], threshold: float, met: int = 1) -> list[str]:
    """Return the (1 - t) |A| + `met` rarest shingles of a text.

    Two sets with a Jaccard similarity of t or more have at least `met` of these shingles in common, or all that they
    have in common.
    """
    reach = len(items) - _least(len(items), threshold) + met
    return nsmallest(reach, items, key=lambda shingle: (counts[shingle], shingle))


def _least(size: int, threshold: float) -> int:
    """Return how many shingles a text of this size has in common with one that is similar to it, at least."""
    return ceil(threshold * size - 1e-9)


def _jaccard(one: Shingles, other: Shingles) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)
