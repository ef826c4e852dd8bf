"""Choose the word of a quoted sentence that a judgment is about: `pivot: contrast`. See docs/STRIKE.md.

The frozen base scores each completion under the words of its own judgment, and under the words of other judgments.
All quotes are left out: a quote in the prompt makes each of its tokens nearly certain, whatever the words say.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled

from nlft.core.base_below import adapter_off, find_peft
from nlft.core.conditions import ConditionEncoder, EncodedExample, pad_rows
from nlft.core.logprobs import enable_scoring, evaluating, score
from nlft.core.prompts import fill_prompt
from nlft.core.quotes import quotes_replaced
from nlft.core.spans import TokenSpan, blame
from nlft.core.strikes import StrikePlan, first_word
from nlft.data.records import Example
from nlft.data.template_columns import inputs_of
from nlft.errors import NLFTError, UserError
from nlft.files import write_whole
from nlft.progress import note, progress
from nlft.training.striking import StrikeDose
from nlft.training.watching import WatchCallback, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_RULES = 3
"""Maximum number of other rules that one judgment is compared with."""

ALIKE = 0.5
"""Two judgments are the same rule if they share at least this proportion of the words that either has."""

PIVOTS_FILE = "pivots.json"  # in a checkpoint
NOT_CHOSEN = "these tokens are chosen before training starts: start the run with --saliency.pivot contrast"
BATCH = 8  # rows in one forward pass

_GOES_ON = re.compile(r"[\w'’-]")  # how a token begins that belongs to the word before it
_GAP = "\0"
_GAPS = re.compile(rf"{_GAP}(?:(?:\s|[,;/&]|\b(?:and|or)\b)*{_GAP})*")

Floats = NDArray[np.float64]
Pivots = list[list[int]]
"""For each example, the chosen token of each of its spans."""


def unquoted(judgment: str | None) -> str:
    """Return a judgment's own words: without its quotes, its corrections and its marks "right". Empty without words.

    >>> unquoted('It praises: "sleek", "durable". Our catalogue states facts.')
    'It praises. Our catalogue states facts.'
    """
    first, *parts = _GAPS.sub(_GAP, quotes_replaced(blame(judgment), _GAP)).split(_GAP)
    said = [first]
    for at, part in enumerate(parts, start=1):
        after = part.lstrip()
        if after.startswith((".", "!", "?")) or (not after and at == len(parts)):
            # A quote at a sentence's end goes with its lead: `It praises: "sleek".` is `It praises.`
            said[-1] = said[-1].rstrip().rstrip(":,;–—-").rstrip()
            said.append(after)
        else:
            said += ["…", part]
    text = " ".join("".join(said).split())
    return text if re.search(r"\w", text) else ""


def other_rules(own: str, rules: Sequence[str]) -> list[str]:
    """Return the words of at most `MOST_RULES` rules that differ from a judgment's.

    Args:
        own: the judgment's words, from `unquoted`.
        rules: the words of all rules, the most frequent first.
    """
    return [words for words in rules if _likeness(own, words) < ALIKE][:MOST_RULES]


def rules_of(examples: Iterable[Example]) -> list[str]:
    """Return the words of the wrong examples' judgments, each once, the most frequent first."""
    found = Counter(words for example in examples if not example.label and (words := unquoted(example.judgment)))
    return [words for words, _ in found.most_common()]


def candidates(tokenizer: "PreTrainedTokenizerBase", completion: Sequence[int], span: TokenSpan) -> list[int]:
    """Return the tokens of a span that may be its pivot: those that spell a whole word.

    If there are none, return the tokens that begin a word, and else the span's first token. White space before the
    marked text is none.
    """
    texts = token_texts(tokenizer, list(completion))
    first = first_word(tokenizer, completion, span.start, span.end, span.text)
    begins = [at for at in range(first, span.end) if _begins_word(texts, at, first)]
    whole = [at for at in begins if re.fullmatch(r"\s*\w+", texts[at]) and not _goes_on(texts, at)]
    return whole or begins or [first]


@dataclass(frozen=True)
class Contrasted:
    """A completion whose quotes have several words, and the prompts to score it under.

    Attributes:
        index: the example's place.
        own: ids of the prompt with the judgment's words.
        others: ids of the prompts with other rules' words, at least one.
    """

    index: int
    own: list[int]
    others: list[list[int]]


def choose_pivots(
    model: nn.Module,
    encoder: ConditionEncoder,
    examples: Sequence[Example],
    encoded: Sequence[EncodedExample],
    rules: Sequence[str],
) -> tuple[Pivots, int]:
    """Choose each span's token with the largest log p(own words) − mean log p(other rules' words).

    A span with a replacement, or with one word, needs no scoring.

    Args:
        model: the model that will be trained. Its adapter is switched off.
        encoded: the same examples, encoded.
        rules: from `rules_of` the training file.

    Returns:
        The tokens, and the number of spans of several words that got their first word, because nobody said in words
        what is wrong with them.

    Raises:
        UserError: a span has several words, and no other rule can be compared with its judgment.
    """
    tokenizer = encoder.tokenizer
    choices = [[candidates(tokenizer, one.completion, span) for span in one.spans] for one in encoded]
    open_spans = [
        [len(tokens) > 1 and span.replace is None for tokens, span in zip(choice, one.spans, strict=True)]
        for choice, one in zip(choices, encoded, strict=True)
    ]
    questions = [
        question
        for index, example in enumerate(examples)
        if any(open_spans[index]) and (question := _question(index, example, encoded[index], encoder, rules))
    ]
    contrasts = contrast(model, questions, encoded, tokenizer.pad_token_id)
    pivots = [[_likeliest(tokens, contrasts.get(index)) for tokens in choice] for index, choice in enumerate(choices)]
    silent = sum(sum(of) for index, of in enumerate(open_spans) if index not in contrasts)
    return pivots, silent


def contrast(
    model: nn.Module, questions: Sequence[Contrasted], encoded: Sequence[EncodedExample], pad_token_id: int
) -> dict[int, Floats]:
    """Compute log p(own words) − mean log p(other rules' words) of each completion's tokens, by the example's place.

    Args:
        encoded: the examples in whose list a question's `index` counts.
    """
    rows = [(q.index, prompt) for q in questions for prompt in (q.own, *q.others)]
    scored = score_rows(model, [(prompt, encoded[index].completion) for index, prompt in rows], pad_token_id)
    found, at = {}, 0
    for q in questions:
        own, *others = scored[at : at + 1 + len(q.others)]
        found[q.index] = own - np.mean(others, axis=0)
        at += 1 + len(q.others)
    return found


def score_rows(
    model: nn.Module, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int
) -> list[Floats]:
    """Compute log p of each row's completion tokens under its prompt, with the model's adapter off.

    Args:
        rows: (prompt ids, completion ids).
    """
    if not rows:
        return []
    enable_scoring(model)
    device = next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda at: -sum(map(len, rows[at])))
    found: dict[int, Floats] = {}
    has_adapter = find_peft(model) is not None
    off = adapter_off(model) if has_adapter else nullcontext()
    with torch.no_grad(), evaluating(model), off, progress("choosing pivots", len(rows), "row") as bar:
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            logp = score(model, pad_rows([rows[at] for at in batch], pad_token_id).on(device)).logp
            found.update((at, logp[i, : len(rows[at][1])].double().cpu().numpy()) for i, at in enumerate(batch))
            bar.update(len(batch))
    return [found[at] for at in range(len(rows))]


def with_pivots(encoded: Sequence[EncodedExample], pivots: Sequence[Sequence[int]]) -> list[EncodedExample]:
    """Return the examples with the chosen token in each span.

    Raises:
        ValueError: the tokens are not those of these examples' spans.
    """
    if [len(one.spans) for one in encoded] != [len(tokens) for tokens in pivots]:
        raise ValueError("there are other spans than pivots")
    placed = []
    for one, tokens in zip(encoded, pivots, strict=True):
        if any(not span.start <= at < span.end for span, at in zip(one.spans, tokens, strict=True)):
            raise ValueError(f"a pivot of example {one.id!r} is outside its span")
        spans = tuple(replace(span, pivot=at) for span, at in zip(one.spans, tokens, strict=True))
        placed.append(replace(one, spans=spans))
    return placed


def settle_pivots(
    trainer: Any, encoder: ConditionEncoder, lists: Sequence[tuple[Sequence[Example], list[EncodedExample]]]
) -> Pivots:
    """Choose the pivots before training starts, and write them into the encoded examples. Tell the user the words.

    The main process chooses, and the others take its choice, so that all train the same tokens.

    Args:
        trainer: an `NLFTTrainer` with its model in place.
        lists: examples with their encoded form: the training file, then others. Only the first gives rules.

    Returns:
        The pivots of the training file.

    Raises:
        NLFTError: the pivots cannot be chosen.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError(
            "pivot contrast: DeepSpeed ZeRO-3 keeps only a part of the model in each process before training starts.\n"
            "  Use ZeRO-2, or set --saliency.pivot first or all."
        )
    rules = rules_of(lists[0][0])

    def choose() -> list[tuple[Pivots, int]] | NLFTError:
        try:
            return [choose_pivots(trainer.model, encoder, *one, rules) for one in lists]
        except NLFTError as error:
            return error  # the other processes must not wait for a choice that never comes

    main = trainer.is_world_process_zero()
    found = choose() if main else None
    if trainer.args.world_size > 1:
        (found,) = broadcast_object_list([found])
    if isinstance(found, NLFTError):
        raise found
    assert found is not None
    for (_, encoded), (pivots, _) in zip(lists, found, strict=True):
        encoded[:] = with_pivots(encoded, pivots)
    pivots, silent = found[0]
    if main:
        note(chosen_words(encoder.tokenizer, lists[0][1], silent))
    return pivots


def use_pivots(trainer: Any, pivots: Pivots) -> None:
    """Strike the tokens that an earlier part of this run chose, or the run that this one repeats.

    Args:
        trainer: an `NLFTTrainer`.
        pivots: `pivots` of that run's run.yaml. If the spans have changed since, warn and do nothing.
    """
    if pivots == trainer.record.get("pivots"):
        return
    try:
        trainer.train_dataset[:] = with_pivots(trainer.train_dataset, pivots)
    except ValueError as error:
        warnings.warn(f"the recorded pivots do not fit the examples: {error}. New ones are used.", stacklevel=2)
        return
    trainer.record["pivots"] = pivots
    trainer.builder.use(trainer.scheme, trainer.saliency)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, WatchCallback):
            callback.take_over(trainer.train_dataset)
        if isinstance(callback, StrikeDose) and isinstance(trainer.builder.plan, StrikePlan):
            callback.follow(trainer.train_dataset, trainer.builder.plan)


def store_pivots(trainer: Any, folder: Path) -> None:
    """Write the run's pivots into a checkpoint, if it chose any."""
    if "pivots" in trainer.record:
        write_whole(folder / PIVOTS_FILE, json.dumps(trainer.record["pivots"]).encode())


def restore_pivots(trainer: Any, folder: Path) -> None:
    """Take a checkpoint's pivots, if it has any."""
    if (folder / PIVOTS_FILE).is_file():
        use_pivots(trainer, json.loads((folder / PIVOTS_FILE).read_text(encoding="utf-8")))


def chosen_words(
    tokenizer: "PreTrainedTokenizerBase", encoded: Sequence[EncodedExample], silent: int, most: int = 12
) -> str:
    """Say which words were chosen, the most frequent first.

    Args:
        silent: see `choose_pivots`.
    """
    words = Counter(
        str(tokenizer.decode([one.completion[span.pivot]])).strip()
        for one in encoded
        for span in one.spans
        if span.pivot is not None
    )
    line = "pivots by contrast: " + ", ".join(f"{word} ({count})" for word, count in words.most_common(most))
    line += f" and {len(words) - most} more" if len(words) > most else ""
    if not silent:
        return line
    return f"{line}; {silent} spans of several words have a judgment without words, and got their first word"


def _likeliest(tokens: Sequence[int], by: Floats | None) -> int:
    return tokens[0] if by is None else max(tokens, key=lambda at: float(by[at]))


def _question(
    index: int, example: Example, encoded: EncodedExample, encoder: ConditionEncoder, rules: Sequence[str]
) -> Contrasted | None:
    """Return the prompts that decide an example's pivots; None if its judgment has no words."""
    own = unquoted(example.judgment)
    if not own:
        return None

    def prompt(words: str) -> list[int]:
        shown = fill_prompt(example.prompt, encoder.templates.judge, judgment=words)
        return encoder.prompt_ids(shown, inputs_of(example.extra))

    others = [prompt(words) for words in other_rules(own, rules)]
    if not others:
        raise UserError(
            f"pivot contrast: example {example.id!r} quotes several words, and no other judgment of the file says "
            f"anything else than {own!r}.\n"
            "  Mark the words themselves, add examples of another rule, or set --saliency.pivot first or all."
        )
    length = max(map(len, others)) + len(encoded.completion)
    if encoder.max_length is not None and length > encoder.max_length:
        raise UserError(
            f"pivot contrast: example {example.id!r} takes {length} tokens with another example's judgment, over "
            f"max_length {encoder.max_length}.\n  Raise --max_length, or set --saliency.pivot first or all."
        )
    return Contrasted(index, prompt(own), others)


def _likeness(one: str, other: str) -> float:
    ours, theirs = (set(re.findall(r"\w+", text.casefold())) for text in (one, other))
    return len(ours & theirs) / max(1, len(ours | theirs))


def _begins_word(texts: Sequence[str], at: int, first: int) -> bool:
    """Return whether a token is the first of a word, or the span's first one with a letter or digit."""
    if not re.search(r"\w", texts[at]):
        return False
    return at == first or not re.search(r"[\w'’-]$", texts[at - 1]) or not _GOES_ON.match(texts[at])


def _goes_on(texts: Sequence[str], at: int) -> bool:
    return at + 1 < len(texts) and bool(_GOES_ON.match(texts[at + 1]))
