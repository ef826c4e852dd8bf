"""Measure how probable the struck words are where they were said, and what the model would say in their place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nlft.auditing.rules import FoundRule, may_be_proposed, quoted_words
from nlft.auditing.signal import rows_on
from nlft.core.conditions import ConditionEncoder, EncodedExample, Row, pad, pad_rows
from nlft.core.heads import Head
from nlft.core.logprobs import causal_lm, enable_scoring, evaluating, states_of
from nlft.core.strikes import StrikePlan
from nlft.progress import progress

LIKELY = 0.05
"""An alternative counts if its probability is above this, once the struck tokens have none."""

MOST_COMPLETED = 64
"""Most distinct tokens that are followed to the end of their word."""

_MOST_AT_A_PLACE = 20  # 1 / LIKELY
_LONGEST_REST = 4  # tokens that may complete a word
_WORD_BEGINS = ("Ġ", "▁")  # how tokenizers write the space before a word


@dataclass(frozen=True)
class StruckPlace:
    """The first token of a span, under the plain prompt.

    Attributes:
        example: the index of the example.
        text: the span's text.
        probability: of the token that was said.
        alternatives: the tokens above `LIKELY` once the struck tokens have no probability: token id -> probability.
        words: the alternatives that spell whole words, with the probability of their first token.
    """

    example: int
    text: str
    probability: float
    alternatives: dict[int, float]
    words: dict[str, float]


@torch.no_grad()
def struck_places(
    model: torch.nn.Module,
    encoder: ConditionEncoder,
    examples: Sequence[tuple[int, EncodedExample]],
    batch_size: int,
) -> list[StruckPlace]:
    """Score the places that training with `strike` would strike.

    Args:
        model: a causal LM; scoring is enabled on it.
        examples: the examples that training would use, each with its index.
        batch_size: rows per forward pass.
    """
    enable_scoring(model)
    plan = StrikePlan([encoded for _, encoded in examples], encoder.tokenizer)
    struck = [(index, encoded) for index, encoded in examples if encoded.spans and not encoded.label]
    places: list[StruckPlace] = []
    prefixes: list[list[int]] = []
    with evaluating(model), progress("struck places", len(struck), "row") as bar:
        for start in range(0, len(struck), batch_size):
            batch = struck[start : start + batch_size]
            for found, prefix in _places(model, encoder, batch, plan):
                places.append(found)
                prefixes.append(prefix)
            bar.update(len(batch))
        spelled = _whole_words(model, encoder, places, prefixes, batch_size)
    return [
        replace(one, words={spelled[token]: p for token, p in one.alternatives.items() if token in spelled})
        for one in places
    ]


def alternatives_of(
    found: Sequence[FoundRule], places: Sequence[StruckPlace], prompts: Sequence[frozenset[str]]
) -> dict[str, list[str]]:
    """Return for each rule the words that the model would say instead, by their summed probability.

    Args:
        prompts: the words of each example's prompt, lower-case.
    """
    known = quoted_words(found)
    proposed: dict[str, list[str]] = {}
    for one in found:
        quotes = {quote.casefold() for quote in one.rule.words}
        mass: dict[str, float] = {}
        for place in places:
            if one.remark or place.example not in one.members or " ".join(place.text.split()).casefold() not in quotes:
                continue
            for word, p in place.words.items():
                if may_be_proposed(word, prompts[place.example], known):
                    mass[word.lower()] = mass.get(word.lower(), 0.0) + p
        proposed[one.rule.name] = sorted(mass, key=lambda word: (-mass[word], word))
    return proposed


def _places(
    model: torch.nn.Module, encoder: ConditionEncoder, batch: Sequence[tuple[int, EncodedExample]], plan: StrikePlan
) -> list[tuple[StruckPlace, list[int]]]:
    """Score one batch. Return each place with the tokens before it."""
    rows = pad_rows([(one.base, one.completion) for _, one in batch], encoder.tokenizer.pad_token_id)
    states = states_of(model, rows_on(rows, model))
    chosen: list[tuple[int, EncodedExample, int, str]] = []
    flat: list[int] = []
    offset = 0
    for index, one in batch:
        for strike, span in zip(plan.strikes(one), one.spans, strict=True):
            for pivot in strike.pivots[:1]:
                chosen.append((index, one, pivot, span.text))
                flat.append(offset + pivot)
        offset += len(one.completion)
    logits = Head(causal_lm(model)).logits(states[flat]) if flat else states.new_zeros(0, 1)
    found = []
    for (index, one, pivot, text), row in zip(chosen, logits, strict=True):
        said = one.completion[pivot]
        probability = float(row.softmax(0)[said])
        banned = list(plan.marks(one)[0].bans[pivot]) or [said]
        left = row.index_fill(0, torch.tensor(banned, device=row.device), -torch.inf).softmax(0)
        top = left.topk(min(_MOST_AT_A_PLACE, len(left)))
        likely = {int(token): float(p) for p, token in zip(*top, strict=True) if p > LIKELY}
        found.append((StruckPlace(index, text, probability, likely, {}), [*one.base, *one.completion[:pivot]]))
    return found


def _whole_words(
    model: torch.nn.Module,
    encoder: ConditionEncoder,
    places: Sequence[StruckPlace],
    prefixes: Sequence[list[int]],
    batch_size: int,
) -> dict[int, str]:
    """Return the words that the alternatives begin, by token. The model completes each at its likeliest place."""
    best: dict[int, tuple[float, list[int]]] = {}
    for place, prefix in zip(places, prefixes, strict=True):
        for token, p in place.alternatives.items():
            if _begins_word(encoder, token) and p > best.get(token, (0.0, []))[0]:
                best[token] = (p, prefix)
    tokens = sorted(best, key=lambda token: -best[token][0])[:MOST_COMPLETED]
    spelled = {}
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size]
        for token, rest in zip(batch, _rests(model, encoder, [[*best[t][1], t] for t in batch]), strict=True):
            text = str(encoder.tokenizer.decode([token, *rest])).strip()
            if text.isalpha():
                spelled[token] = text
    return spelled


def _rests(model: torch.nn.Module, encoder: ConditionEncoder, begun: Sequence[list[int]]) -> list[list[int]]:
    """Let the model end the words that these texts end in. Return the tokens that end each word."""
    rests: list[list[int]] = [[] for _ in begun]
    going = list(range(len(begun)))
    end = encoder.end_of_turn_id
    for _ in range(_LONGEST_REST):
        texts = [[*begun[at], *rests[at]] for at in going]
        rows = pad([Row([*ids, end], len(ids), [end]) for ids in texts], encoder.tokenizer.pad_token_id)
        following = Head(causal_lm(model)).logits(states_of(model, rows_on(rows, model))).argmax(1).tolist()
        ongoing = [(at, token) for at, token in zip(going, following, strict=True) if _continues(encoder, token)]
        for at, token in ongoing:
            rests[at].append(token)
        going = [at for at, _ in ongoing]
        if not going:
            break
    return rests


def _begins_word(encoder: ConditionEncoder, token: int) -> bool:
    """Tell whether a token is the space before a word, and letters."""
    return _has_space(encoder, token) and _text(encoder, token).strip().isalpha()


def _continues(encoder: ConditionEncoder, token: int) -> bool:
    """Tell whether a token goes on with the word before it."""
    return not _has_space(encoder, token) and _text(encoder, token)[:1].isalpha()


def _has_space(encoder: ConditionEncoder, token: int) -> bool:
    # Some tokenizers leave the space out of the decoded text.
    return str(encoder.tokenizer.convert_ids_to_tokens(token)).startswith(_WORD_BEGINS)


def _text(encoder: ConditionEncoder, token: int) -> str:
    return str(encoder.tokenizer.decode([token], skip_special_tokens=True))
