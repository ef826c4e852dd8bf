"""Which tokens `strike` takes out of the frozen base's distribution, and where. See docs/STRIKE.md.

A span's pivot is its first token, the first one that its replacement does not share, or one that was chosen before.
White space that stands before the marked text is none.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import TYPE_CHECKING

from nlft.core.conditions import EncodedExample, Row, row
from nlft.core.function_words import FUNCTION_WORDS
from nlft.core.hold import Marks, Role
from nlft.core.spans import TokenSpan, touched
from nlft.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORTEST_WORD = 4
"""Letters of the shortest word that may be struck where nobody marked it. Shorter ones are parts of other words."""

_WORDS = re.compile(r"\w[\w-]*")


@dataclass(frozen=True)
class Strike:
    """A span of one example as `strike` trains it, in tokens of the completion.

    Attributes:
        start, end: the whole span, `end` exclusive.
        pivots: the tokens that are struck.
    """

    start: int
    end: int
    pivots: tuple[int, ...]


class StrikePlan:
    """The plan of `strike` for one training file.

    Attributes:
        words: the tokens that spell the struck words, W of docs/STRIKE.md.
        whole_words: the same words as text, in small letters.
        only_said: words that begin a longer span and are struck only where they were said.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        everywhere: bool = True,
        every_token: bool = False,
        chosen: bool = False,
        temperature: float = 1.0,
        train_liked: bool = False,
    ) -> None:
        """
        Args:
            examples: the training file. What is struck in one example is struck in all.
            everywhere: ban whole words at every token of the reviewed replies, not only where they were said.
            every_token: strike every token of a span, not only its first.
            chosen: strike the token that each span names as its pivot.
            temperature: softens the base's distribution at struck tokens.
            train_liked: the liked replies' own tokens are trained too.

        Raises:
            UserError: pivots are wanted, and a span names none.
        """
        if chosen:
            _check_chosen(examples)
        self.temperature = temperature
        self.tokenizer = tokenizer
        self.vocabulary = tokenizer.get_vocab()
        self.everywhere = everywhere
        self.every_token = every_token
        self.chosen = chosen
        self.train_liked = train_liked
        listed = dict.fromkeys(word for example in examples for word in example.listed)
        self.first_tokens = self._first_tokens(examples, listed)
        begun, self.only_said = self._begun_words(examples, listed)
        spelled = {word: self._spellings(word) for word in [*listed, *begun]}
        self.words = tuple(dict.fromkeys(token for tokens in spelled.values() for token in tokens))
        self.whole_words = tuple(dict.fromkeys(word.lower() for word, tokens in spelled.items() if tokens))

    def rows(self, example: EncodedExample) -> list[Row]:
        """Return the row of the reply with its replacements in place, if it has any."""
        return [row(example.base, example.patched.ids)] if example.patched and self._replaced(example) else []

    def marks(self, example: EncodedExample) -> list[Marks]:
        """Return the marks of the completion, and those of the reply with its replacements."""
        return [self._marks(example), *([self._patched_marks(example)] if self._replaced(example) else [])]

    def is_struck(self, example: EncodedExample) -> bool:
        """Tell whether anything of the example is struck or replaced."""
        return any(strike.pivots for strike in self.strikes(example)) or bool(self._replaced(example))

    def unchanged(self, example: EncodedExample) -> list[TokenSpan]:
        """Return the spans whose replacement is what was said. Nothing is struck or replaced there, only held."""
        return [span for index, span in enumerate(example.spans) if self._is_unchanged(example, index)]

    def strikes(self, example: EncodedExample) -> list[Strike]:
        """Return the example's spans with their pivots."""
        found = []
        for index, span in enumerate(example.spans):
            begin = first_word(self.tokenizer, example.completion, span.start, span.end, span.text)
            first = max(begin, span.start + self._shared(example, index))
            if self.chosen and span.pivot is not None and span.replace is None:
                first = span.pivot
            last = span.end if self.every_token else min(first + 1, span.end)
            if self._is_unchanged(example, index):
                first = last = span.end
            found.append(Strike(span.start, span.end, tuple(range(first, last))))
        return found

    def _marks(self, example: EncodedExample) -> Marks:
        ids = example.completion
        words = () if example.kept or not self.everywhere else self.words
        said = set(words)
        roles: list[int] = [Role.KEPT if example.kept else Role.HELD] * len(ids)
        bans = [() if token in said else words for token in ids]
        for span, strike in zip(example.spans, self.strikes(example), strict=True):
            first = strike.pivots[0] if strike.pivots else strike.end
            roles[first : strike.end] = [Role.INSIDE] * (strike.end - first)
            bans[first : strike.end] = [()] * (strike.end - first)
            for pivot in strike.pivots:
                roles[pivot] = Role.STRUCK
                bans[pivot] = self._banned(ids, pivot, span, first)
        liked = self.train_liked and example.label and not example.kept and not example.spans
        return Marks(roles, bans, [liked] * len(ids))

    def _patched_marks(self, example: EncodedExample) -> Marks:
        """Train the replacements, and hold what follows the first. What stands before it is held in the completion."""
        patched = example.patched
        assert patched is not None
        words = self.words if self.everywhere else ()
        said = set(words)
        placed = list(zip(example.spans, patched.places, strict=True))
        trained = self._replaced(example)
        first = min(patched.places[index][0] + self._shared(example, index) for index in trained)
        roles: list[int] = [*[Role.FREE] * first, *[Role.HELD] * (len(patched.ids) - first)]
        for span, (start, end) in placed:
            if span.replace is None:
                roles[start:end] = [Role.INSIDE] * (end - start)
        for index in trained:
            start, end = patched.places[index]
            start += self._shared(example, index)
            # An empty replacement has no token of its own. Then the token that follows is trained.
            end = max(end, start + 1)
            roles[start:end] = [Role.REPLACED] * (end - start)
        bans = [
            words if role == Role.HELD and t not in said else () for role, t in zip(roles, patched.ids, strict=True)
        ]
        return Marks(roles, bans, [role == Role.REPLACED for role in roles], len(trained))

    def _replaced(self, example: EncodedExample) -> list[int]:
        """Return the indexes of the spans whose replacement is trained."""
        return [
            index
            for index, span in enumerate(example.spans)
            if span.replace is not None and not self._is_unchanged(example, index)
        ]

    def _is_unchanged(self, example: EncodedExample, index: int) -> bool:
        """Return whether a span's replacement is the same text. The tokens may differ: another change stands beside."""
        span, patched = example.spans[index], example.patched
        if span.replace is None or patched is None:
            return False
        start, end = patched.places[index]
        return self._spelled(example.completion[span.start : span.end]) == self._spelled(patched.ids[start:end])

    def _shared(self, example: EncodedExample, index: int) -> int:
        """Count the tokens with which both a span and its replacement begin. They are not struck."""
        span, patched = example.spans[index], example.patched
        if span.replace is None or patched is None:
            return 0
        start, end = patched.places[index]
        pairs = zip(example.completion[span.start : span.end], patched.ids[start:end], strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))

    def _banned(self, ids: Sequence[int], pivot: int, span: TokenSpan, first: int) -> tuple[int, ...]:
        """Return what the base may not say at a pivot: any first token, this one, and the beginnings of the span."""
        beginnings = self._beginnings(ids[pivot : span.end]) if pivot == first else []
        return tuple(dict.fromkeys([ids[pivot], *self.first_tokens, *beginnings]))

    def _beginnings(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens whose text begins the text of these, with at least one letter or digit."""
        text = self._spelled(ids)
        tries = (self.vocabulary.get(text[:end]) for end in range(1, len(text) + 1))
        return [token for token in tries if token is not None and any(map(str.isalnum, self._text(token)))]

    def _spelled(self, ids: Sequence[int]) -> str:
        """Return the text of tokens as the vocabulary writes it, with the space before the first."""
        return "".join(self.tokenizer.convert_ids_to_tokens(list(ids)))

    def _text(self, token: int) -> str:
        return str(self.tokenizer.decode([token])).strip()

    def _first_tokens(self, examples: Sequence[EncodedExample], listed: Iterable[str]) -> tuple[int, ...]:
        """Return the first tokens of all spans, and of the listed words inside a sentence."""
        found = [e.completion[pivot] for e in examples for strike in self.strikes(e) for pivot in strike.pivots[:1]]
        for word in listed:
            ids = self._ids(word, " ")
            at = first_word(self.tokenizer, ids, 0, len(ids), word)
            found += ids[at : at + 1]
        return tuple(dict.fromkeys(found))

    def _begun_words(
        self, examples: Sequence[EncodedExample], listed: Iterable[str]
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return the words that begin the struck spans; and, in small letters, those that are struck only there.

        A function word that begins a longer span is rarely the matter, and every reply needs it.
        """
        words: dict[str, None] = {}
        begins: dict[str, None] = {}
        for example in examples:
            for strike, span in zip(self.strikes(example), example.spans, strict=True):
                if strike.pivots and (word := self._word(example, span, strike.pivots[0])):
                    is_alone = len(_WORDS.findall(span.text)) == 1
                    if is_alone or word.lower() not in FUNCTION_WORDS:
                        words[word] = None
                    else:
                        begins[word.lower()] = None
        known = {word.lower() for word in (*words, *listed)}
        return list(words), tuple(word for word in begins if word not in known)

    def _word(self, example: EncodedExample, span: TokenSpan, pivot: int) -> str | None:
        """Return the first word of a span if the pivot alone spells it. A word that a contrast chose is a guess."""
        word = _WORDS.match(span.text)
        if not word or pivot != span.start or (self.chosen and word[0] != span.text):
            return None
        return word[0] if self._text(example.completion[pivot]) == word[0] else None

    def _spellings(self, word: str) -> list[int]:
        """Return the tokens that spell a word that was struck or listed: any case, with and without a space before."""
        if sum(map(str.isalpha, word)) < SHORTEST_WORD or " " in word:
            return []
        cases = dict.fromkeys([word, word.lower(), word.capitalize(), word.upper()])
        single = [ids[0] for case in cases for lead in (" ", "\n") if len(ids := self._ids(case, lead)) == 1]
        return [token for token in single if self._text(token).lower() == word.lower()]

    def _ids(self, word: str, lead: str) -> list[int]:
        """Return the tokens of a word that follows `lead` inside a text.

        Some tokenizers write a space before each text. So the text begins with a letter, and the space with it.
        """
        text, is_fast = f"x{lead}{word}", self.tokenizer.is_fast
        if not is_fast:  # it does not say where its tokens stand
            text = lead + word
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=is_fast)
        ids = list(found["input_ids"])
        if not is_fast:
            return list(dropwhile(lambda token: not self._text(token), ids))
        first, last = touched(found["offset_mapping"], len(text) - len(word), len(text))
        return ids[first:last]


def first_word(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int], start: int, end: int, text: str) -> int:
    """Return the first token from `start` to `end` (exclusive) that belongs to a marked text.

    Some tokenizers write the space before a rare word as a token. Struck, it would be improbable before every word. A
    text that begins with white space, such as the line break before a list, begins with its first token.
    """
    if text[:1].isspace():
        return start
    return next((at for at in range(start, end) if str(tokenizer.decode([ids[at]])).strip()), start)


def _check_chosen(examples: Sequence[EncodedExample]) -> None:
    missing = [example.id for example in examples if any(span.pivot is None for span in example.spans)]
    if missing:
        raise UserError(
            f"pivot contrast: no token was chosen in example {missing[0]!r}. They are chosen before training starts.\n"
            "  Start the training with --saliency.pivot contrast, or set pivot to first or all."
        )
