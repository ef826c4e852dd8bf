"""Group judgments into rules by their unquoted part. The quotes are what falls under a rule. No model, no torch."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import count
from typing import Any

from nlft.auditing.words import content
from nlft.core.prompts import prompt_text
from nlft.core.quotes import quote_places, quotes_replaced
from nlft.core.spans import Span, blame, quoted_spans
from nlft.core.word_search import listed_word
from nlft.data.language import is_common, words
from nlft.data.records import Example, completion_text
from nlft.data.rules_file import Rule
from nlft.progress import table

SIMILAR = 0.6
"""Two judgments are one rule if they share at least this proportion of the content words that either has."""

BELONGS = 0.5
"""A sentence without quotes belongs to one with quotes if this proportion of the judgments with that one have it."""

SHORTEST = 4
"""Letters of the shortest word that is proposed."""

LEAST_REPLIES = 3
"""A word is proposed only if at least this many of the rule's replies have it..."""

FAR_MORE = 3.0
"""...and if its share of the rule's replies is at least this many times its share of the right replies."""

MOST_PROPOSED = 12
"""Most words that are proposed for one rule."""

_ENDS = re.compile(r"(?<![.!?])[.!?]++(?:\s++|$)|\n+")
_GAP = "\0"
_GAPS = re.compile(rf"{_GAP}(?:[\s,;/&]*+(?:(?:and|or|und|oder|et|ou|y|o|e)\b[\s,;/&]*+)?{_GAP})*")
_WORDLESS = "marked"
_SLUG_WORDS = 3


@dataclass(frozen=True)
class Objection:
    """One thing that one judgment objects to.

    Attributes:
        example: the index of the wrong example.
        text: the judgment's sentence without its quotes; empty if the reader marked words and said nothing.
        quotes: the quoted or marked words, as the completion has them.
    """

    example: int
    text: str
    quotes: tuple[str, ...]


@dataclass(frozen=True)
class FoundRule:
    """Objections that say the same.

    Attributes:
        rule: as the file of rules would have it.
        members: the indexes of the wrong examples that carry it.
        prompts: how many different prompts these examples have.
    """

    rule: Rule
    members: tuple[int, ...]
    prompts: int

    @property
    def remark(self) -> str:
        """Return why this is not a rule that can be struck; empty if it is one."""
        if self.prompts == 1:
            return f"not a rule: about one {'example' if len(self.members) == 1 else 'prompt'} only"
        return "" if self.rule.words else "quotes nothing: it has no words to strike"

    def json(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the rule, its examples' ids and the remark, as JSON values."""
        ids = [examples[index].id for index in self.members]
        return {**asdict(self.rule), "ids": ids, "prompts": self.prompts, "remark": self.remark}


def is_habit(examples: Sequence[Example]) -> bool:
    """Tell whether the examples are about a habit: wrong ones have quotes or marks, and none has a worked answer."""
    marked = (e.spans or quote_places(blame(e.judgment)) for e in examples if not e.label)
    return all(e.answer is None for e in examples) and any(marked)


def find_rules(examples: Sequence[Example]) -> list[FoundRule]:
    """Group the wrong examples' judgments into rules, those with the most examples first."""
    groups = _grouped(objections(examples), examples)
    named = _Names()
    found = [_rule(group, examples, named) for group in groups]
    proposed = _commoner_words(found, examples)
    return [with_proposals(one, proposed[one.rule.name]) for one in found]


def written_rules(found: Sequence[FoundRule]) -> tuple[list[Rule], list[str]]:
    """Return the rules that go into a file of rules, and a remark about each other one."""
    rules = [one.rule for one in found if not one.remark]
    return rules, [f"left out: {one.rule.name} ({one.remark}): {one.rule.rule}" for one in found if one.remark]


def with_proposals(found: FoundRule, more: Iterable[str], *, first: bool = False) -> FoundRule:
    """Add proposals to those that a rule has.

    Args:
        first: put them before the others. No more than `MOST_PROPOSED` stay.
    """
    both = [*more, *found.rule.proposed] if first else [*found.rule.proposed, *more]
    proposed = tuple(dict.fromkeys(both))[:MOST_PROPOSED]
    return replace(found, rule=replace(found.rule, proposed=proposed))


def rules_table(found: Sequence[FoundRule]) -> str:
    """Lay out the rules as a table: name, examples, words, proposed."""
    rows = [
        (one.rule.name, one.rule.examples, ", ".join(one.rule.words), one.remark or ", ".join(one.rule.proposed))
        for one in found
    ]
    return table(rows, ("name", "examples", "words", "proposed"))


# From judgments to objections.


def objections(examples: Sequence[Example]) -> list[Objection]:
    """Return what the wrong examples' judgments object to, in their order.

    A judgment is cut into sentences. Each sentence with quotes is an objection. A sentence without quotes belongs to
    the one with quotes before it, or else after it, if it usually accompanies it; else it is an objection of its own.
    """
    cut = [[] if e.label else _sentences(blame(e.judgment)) for e in examples]
    pairs = [_beside(sentences) for sentences in cut]
    own = [[_folded(_without_quotes(sentence)) for sentence in sentences] for sentences in cut]
    alone: Counter[frozenset[str]] = Counter()
    together: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
    for folded, beside in zip(own, pairs, strict=True):
        alone.update(set(folded))
        together.update({(folded[at], folded[other]) for at, other in beside.items()})
    found = []
    for index, (sentences, folded, beside) in enumerate(zip(cut, own, pairs, strict=True)):
        joined = {
            at: other
            for at, other in beside.items()
            if together[folded[at], folded[other]] >= BELONGS * alone[folded[other]]
        }
        found += _of_judgment(index, examples[index], sentences, joined)
    return found


def _of_judgment(index: int, example: Example, sentences: Sequence[str], joined: Mapping[int, int]) -> list[Objection]:
    """Return one example's objections.

    Args:
        joined: the sentences that belong to another one, by their place.
    """
    text = completion_text(example)
    own = () if example.label else example.spans
    together: dict[int, list[int]] = defaultdict(list)
    for part in range(len(sentences)):
        together[joined.get(part, part)].append(part)
    quotes = {sentence: _quotes(text, sentence) for sentence in {sentences[at] for at in together}}
    found = []
    for at, parts in sorted(together.items()):
        said = " ".join(filter(None, (_without_quotes(_unmarked(sentences[part], text, own)) for part in parts)))
        found.append(Objection(index, said, quotes[sentences[at]]))
    notes: dict[str, list[str]] = defaultdict(list)
    for span in own:
        notes["" if span.note is None else span.note].append(text[span.start : span.end])
    if found and notes.get(""):  # the judgment says why these are marked
        found[0] = replace(found[0], quotes=(*found[0].quotes, *notes.pop("")))
    return [*found, *(Objection(index, _without_quotes(note), tuple(marked)) for note, marked in notes.items())]


def _quotes(text: str, sentence: str) -> tuple[str, ...]:
    return tuple(text[span.start : span.end] for span in quoted_spans(text, sentence).spans)


def _sentences(judgment: str) -> list[str]:
    """Cut a judgment into sentences. A quote is never cut."""
    masked = list(judgment)
    for start, end in quote_places(judgment):
        ends = judgment[end - 2 : end - 1] if judgment[end - 2 : end - 1] in ".!?" else "x"
        masked[start:end] = [*"x" * (end - start - 1), ends]
    begins = [0, *(match.end() for match in _ENDS.finditer("".join(masked)))]
    parts = (judgment[start:end].strip() for start, end in zip(begins, [*begins[1:], None], strict=True))
    return [part for part in parts if part]


def _beside(sentences: Sequence[str]) -> dict[int, int]:
    """Return for each sentence without quotes the one with quotes that it stands beside: before it, else after it."""
    quoting = [bool(quote_places(sentence)) for sentence in sentences]
    beside: dict[int, int] = {}
    nearest = quoting.index(True) if any(quoting) else None
    for at, quotes in enumerate(quoting):
        if quotes:
            nearest = at
        elif nearest is not None:
            beside[at] = nearest
    return beside


def _unmarked(sentence: str, text: str, own: Sequence[Span]) -> str:
    """Put quotation marks around the words of the sentence that the reader marked in the completion."""
    for marked in sorted({text[span.start : span.end] for span in own}, key=len, reverse=True):
        sentence = re.sub(rf'(?<![\w"]){re.escape(marked)}(?![\w"])', lambda match: f'"{match[0]}"', sentence)
    return sentence


@lru_cache(maxsize=4096)  # judges repeat their sentences
def _without_quotes(sentence: str) -> str:
    """Return a sentence without its quotes. A lead such as `The reply says "sleek":` goes with them."""
    sentence = _GAPS.sub(_GAP, " ".join(quotes_replaced(sentence, _GAP).split()))
    head, gap, tail = sentence.partition(_GAP)
    if gap and re.match(r"\s*[:–—]\s*\w+\W+\w", tail) and _GAP not in tail:
        head, tail = "", re.sub(r"^\s*[:–—]\s*", "", tail)
    elif gap and not re.search(r"\w", tail):
        head, tail = head.rstrip(" :,;-–—("), "." if head.strip() else ""
    elif gap:
        head, tail = f"{head}…", tail.replace(_GAP, "…")
    said = f"{head}{tail}".strip()
    return said[:1].upper() + said[1:] if re.search(r"\w", said) else ""


# From objections to rules.

_Forms = tuple[frozenset[str], frozenset[str]]  # the words of a text: all of them, and those that its prompt lacks
_WORDLESS_FORM = frozenset({""})


@lru_cache(maxsize=4096)
def _folded(text: str) -> frozenset[str]:
    """Return a text's words without case, numbers and punctuation; its content words if it has any."""
    kept = {word for word in words(text) if not any(map(str.isdigit, word))}
    return frozenset(kept & content(text) or kept)


def _similarity(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0


def _grouped(found: Sequence[Objection], examples: Sequence[Example]) -> list[list[Objection]]:
    """Put similar objections together. The commonest wording of a group decides what joins it.

    Words of the example's own prompt may differ: they name what the reply is about.
    """
    wordings: dict[_Forms, list[Objection]] = defaultdict(list)
    prompts = {index: prompt_words(examples[index]) for index in {one.example for one in found}}
    for one in found:
        full = _folded(one.text)
        bare = full - prompts[one.example]
        wordings[full, bare or full].append(one)
    leaders, groups = _Leaders(), list[list[Objection]]()
    for forms, members in sorted(wordings.items(), key=lambda item: (-len(item[1]), item[1][0].example)):
        place = leaders.place_of(forms)
        if place == len(groups):
            groups.append([])
        groups[place] += members
    return sorted(groups, key=lambda group: (-len({o.example for o in group}), group[0].example))


class _Leaders:
    """The commonest wording of each group, found by its words and not by comparing it with every wording."""

    def __init__(self) -> None:
        self._leaders: list[_Forms] = []
        # For the whole form and the one without the prompt's words: word -> places of the leaders that have it.
        self._having: tuple[dict[str, list[int]], dict[str, list[int]]] = (defaultdict(list), defaultdict(list))

    def place_of(self, forms: _Forms) -> int:
        """Return the place of the first leader that is similar. Without one, the wording becomes the last leader."""
        near = sorted(
            {place for form, having in zip(forms, self._having, strict=True) for place in _near(form, having)}
        )
        for place in near:
            if max(map(_similarity, forms, self._leaders[place])) >= SIMILAR:
                return place
        for form, having in zip(forms, self._having, strict=True):
            for word in form or _WORDLESS_FORM:
                having[word].append(len(self._leaders))
        self._leaders.append(forms)
        return len(self._leaders) - 1


def _near(form: frozenset[str], having: Mapping[str, list[int]]) -> Iterator[int]:
    """Yield the places of all leaders that can be similar, and of some others.

    A similar one lacks at most `1 - SIMILAR` of the words, so it has one of any larger part of them.
    """
    rarest = sorted(form or _WORDLESS_FORM, key=lambda word: len(having.get(word, ())))
    for word in rarest[: int((1 - SIMILAR) * len(rarest)) + 1]:
        yield from having.get(word, ())


def _rule(group: Sequence[Objection], examples: Sequence[Example], names: "_Names") -> FoundRule:
    members = tuple(dict.fromkeys(sorted(one.example for one in group)))
    wording = Counter(one.text for one in group).most_common(1)[0][0]
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for quote in (listed_word(quote) for one in group for quote in one.quotes):
        said[quote.casefold()][quote] += 1
    # In any case, as most replies have it.
    listed = tuple(max(forms, key=lambda form: (forms[form], form.islower())) for forms in said.values())
    text = wording or f"Do not say: {', '.join(listed)}."
    rule = Rule(names.new(wording), text, None, listed, (), len(members))
    return FoundRule(rule, members, len({prompt_text(examples[index].prompt) for index in members}))


class _Names:
    """Gives each rule a short name of its own."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def new(self, wording: str) -> str:
        """Return a slug of the first content words."""
        plain = unicodedata.normalize("NFKD", wording).encode("ascii", "ignore").decode()
        folded = _folded(plain)
        telling = [word for word in words(plain) if word in folded]
        slug = re.sub(r"[^a-z0-9]+", "-", " ".join(dict.fromkeys(telling[:_SLUG_WORDS]))).strip("-")
        slug = slug or ("rule" if wording else _WORDLESS)
        name = next(name for n in count(1) if (name := slug if n == 1 else f"{slug}-{n}") not in self.taken)
        self.taken.add(name)
        return name


# What else may fall under a rule.


def may_be_proposed(word: str, prompts: Collection[str], known: Collection[str]) -> bool:
    """Tell whether a word can be proposed: letters only, not too short, not a common one, not the prompt's own.

    Args:
        prompts: the words of the prompts where the word was said, lower-case.
        known: the words that rules quote already, lower-case.
    """
    lower = word.lower()
    plain = len(word) >= SHORTEST and word.isalpha() and bool(content(lower)) and not is_common(lower)
    return plain and lower not in prompts and lower not in known


def prompt_words(example: Example) -> frozenset[str]:
    """Return the words of an example's prompt, lower-case."""
    return frozenset(words(prompt_text(example.prompt)))


def quoted_words(found: Sequence[FoundRule]) -> frozenset[str]:
    """Return the words that any rule quotes, lower-case."""
    return frozenset(word for one in found for quote in one.rule.words for word in words(quote))


def _commoner_words(found: Sequence[FoundRule], examples: Sequence[Example]) -> dict[str, list[str]]:
    """Return for each rule the words that its replies have far more often than the right replies have them.

    Without right replies there is nothing to compare with, and nothing is proposed.
    """
    right = [frozenset(words(completion_text(e))) for e in examples if e.label and not e.keep]
    known = quoted_words(found)
    proposed: dict[str, list[str]] = {}
    for one in found:
        seen: Counter[str] = Counter()
        for index in one.members if right and not one.remark else ():
            prompt = prompt_words(examples[index])
            said = dict.fromkeys(words(completion_text(examples[index])))
            seen.update(word for word in said if may_be_proposed(word, prompt, known))
        shares = {word: (n / len(one.members), _smooth(word, right)) for word, n in seen.items() if n >= LEAST_REPLIES}
        far = {word: wrong - usual for word, (wrong, usual) in shares.items() if wrong >= FAR_MORE * usual}
        proposed[one.rule.name] = sorted(far, key=lambda word: (-far[word], word))
    return proposed


def _smooth(word: str, replies: Sequence[frozenset[str]]) -> float:
    """Return the share of replies that have the word. Half a reply more keeps a rare word from having none."""
    return (sum(word in reply for reply in replies) + 0.5) / (len(replies) + 1)
