"""Render and tokenise one completion under three prompts, and pad the results to aligned rows.

No code outside this module and `logprobs` depends on the length of a prompt.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nlft.core.chat_template import ENDS_WITH_REPLY
from nlft.core.limits import ModelLimits
from nlft.core.prompts import (
    CORRECTION_MARK,
    NO_INPUTS,
    Prompt,
    TemplateInputs,
    Templates,
    fill_prompt,
    without_corrections,
)
from nlft.core.reply_form import TemplateRefusal
from nlft.core.spans import Span, TokenSpan, merged_spans, occurrences, patched_text, token_spans, touched
from nlft.core.turn_encoding import TurnEncoder
from nlft.core.word_search import listed_word
from nlft.errors import Problem, ProblemsError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Patched:
    """A completion with its replacements in place of the spans that have one.

    Attributes:
        ids: ends with the model's end-of-turn token.
        places: (start, end) tokens of each span, or of what stands there now, in the order of the spans; `end`
            exclusive. Empty where nothing stands there now.
    """

    ids: list[int]
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class EncodedExample:
    """Token ids of one example: the same completion ids follow every condition's prompt.

    Attributes:
        base, standard, judge: prompt ids; `judge` is None for right completions, which do not need it, and for wrong
            ones that have spans but no judgment.
        completion: ends with the model's end-of-turn token.
        target: ids of the text that `answer_weight` trains: the revision, else the standard answer. Ends with the same
            token. None if there is neither. Feedback is never trained.
        target_refused: why the chat template cannot write that text as a reply; then `target` is None.
        spans: the marked parts of the completion, in order, without overlaps.
        patched: the completion with its replacements in place; None if no span has one.
        listed: words that are struck wherever this reply could have them, also if nobody marked them.
        kept: the reply must stay as it is: nothing that was struck elsewhere is struck here.
    """

    id: str | int
    label: bool
    base: list[int]
    standard: list[int]
    judge: list[int] | None
    completion: list[int]
    target: list[int] | None
    spans: tuple[TokenSpan, ...] = ()
    patched: Patched | None = None
    listed: tuple[str, ...] = ()
    kept: bool = False
    target_refused: Problem | None = None


class ConditionEncoder(TurnEncoder):
    """Renders one completion under its three prompts, and tokenises them."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        templates: Templates | None = None,
        max_length: int | None = None,
        listed: Sequence[str] = (),
        limits: ModelLimits | None = None,
    ) -> None:
        """
        Args:
            tokenizer: a transformers tokenizer.
            max_length: maximum number of tokens in prompt and completion together; None for no limit.
            listed: words that are marked in every wrong completion, see `EncodedExample.listed`.
            limits: what the model can read. An example beyond it is refused like one over `max_length`.

        Raises:
            UserError: the chat template refuses a conversation or loses a text, the end of a turn is unknown, or the
                padding token is not one of the model's.
        """
        super().__init__(tokenizer, templates or Templates())
        self.max_length = max_length
        self.listed = tuple(dict.fromkeys(map(listed_word, listed)))
        self.limits = limits
        if limits is not None:
            limits.check_padding(tokenizer)

    def limited_to(self, max_length: int | None) -> "ConditionEncoder":
        """Return the same encoder with another `max_length`."""
        other = copy(self)
        other.max_length = max_length
        return other

    def encode(
        self,
        *,
        id: str | int,
        prompt: Prompt,
        completion: str,
        label: bool,
        answer: str | None = None,
        feedback: str | None = None,
        judgment: str | None = None,
        revision: str | None = None,
        spans: Sequence[Span] = (),
        kept: bool = False,
        inputs: TemplateInputs = NO_INPUTS,
    ) -> EncodedExample:
        """Encode one example under its conditions.

        Args:
            answer, feedback: the standard condition shows the answer, else the feedback. Without both, its prompt is
                the plain prompt.
            spans: marked parts of the completion, in order, without overlaps. With them, a wrong completion needs no
                judgment.
            kept: see `EncodedExample.kept`.
            inputs: what the example's own record gives to the chat template.

        Raises:
            ProblemsError: a wrong completion has no spans, and its judgment is missing or has only corrections; or a
                prompt does not fit `max_length` or the model. No prompt is cut, because a cut prompt would be another
                condition. Or the tokenizer cannot say which tokens a span covers. Or the chat template refuses the
                example, or the prompt ends with an assistant's message.
        """
        if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
            raise ProblemsError([Problem(f"example {id!r}", *ENDS_WITH_REPLY)])
        with _refusals_of(id):
            listed = () if label else self.listed
            spans = merged_spans(spans, occurrences(completion, listed, any_case=True))
            judge = None if label else self._judge_ids(id, prompt, judgment or "", inputs, needed=not spans)
            marked = self._token_spans(id, completion, spans, inputs) if spans else ()
            shown, target = answer or feedback, revision or answer
            standard = fill_prompt(prompt, self.templates.standard, answer=shown) if shown else prompt
            self.check_reply(prompt, completion, inputs)
            ids, refused = self._target(id, prompt, target, inputs) if target else (None, None)
            encoded = EncodedExample(
                id=id,
                label=label,
                base=self.prompt_ids(prompt, inputs),
                standard=self.prompt_ids(standard, inputs),
                judge=judge,
                completion=self.completion_ids(completion, inputs),
                target=ids,
                spans=marked,
                patched=self._patched(completion, marked, inputs),
                listed=listed,
                kept=kept,
                target_refused=refused,
            )
            self._check_lengths(encoded)
            return encoded

    def _judge_ids(
        self, id: str | int, prompt: Prompt, judgment: str, inputs: TemplateInputs, *, needed: bool
    ) -> list[int] | None:
        """Return the judge prompt's ids; None if the judgment has nothing to show.

        Raises:
            ProblemsError: it has nothing to show, and the prompt is needed.
        """
        shown = judgment if self.templates.judge_shows_correction else without_corrections(judgment)
        if shown.strip():
            return self.prompt_ids(fill_prompt(prompt, self.templates.judge, judgment=shown), inputs)
        if needed:
            raise ProblemsError([_nothing_to_show(id)])
        return None

    def _target(
        self, id: str | int, prompt: Prompt, text: str, inputs: TemplateInputs
    ) -> tuple[list[int] | None, Problem | None]:
        """Tokenise the text that `answer_weight` trains. If the template cannot write it, say why."""
        try:
            self.check_reply(prompt, text, inputs)
            return self.completion_ids(text, inputs), None
        except TemplateRefusal as error:
            return None, Problem(f"example {id!r}", f"its answer or revision: {error.what}", error.cure)

    def _token_spans(
        self, id: str | int, completion: str, spans: Sequence[Span], inputs: TemplateInputs
    ) -> tuple[TokenSpan, ...]:
        """Return the tokens of the spans.

        Raises:
            ProblemsError: the tokenizer gives no offsets, or a span covers no token.
        """
        where = f"example {id!r}"
        if not self.tokenizer.is_fast:
            what = f"has spans, but {type(self.tokenizer).__name__} does not say where in the text a token stands."
            cure = "Load a fast tokenizer (use_fast=True, a tokenizer.json beside the model), or remove the spans."
            raise ProblemsError([Problem(where, what, cure)])
        try:
            return token_spans(completion, self.offsets(completion, inputs), spans)
        except ValueError as error:
            what = f"cannot be encoded: {error}."
            raise ProblemsError([Problem(where, what, "Mark more of the text, or remove the span.")]) from None

    def _patched(self, completion: str, spans: Sequence[TokenSpan], inputs: TemplateInputs) -> Patched | None:
        if all(span.replace is None for span in spans):
            return None
        text, characters = patched_text(completion, self.offsets(completion, inputs), spans)
        ids, offsets = self.completion_ids(text, inputs), self.offsets(text, inputs)
        return Patched(ids, tuple(touched(offsets, *place) for place in characters))

    def _check_lengths(self, encoded: EncodedExample) -> None:
        rows = [
            ("base", encoded.base, encoded.completion),
            ("standard", encoded.standard, encoded.completion),
            ("judge", encoded.judge or [], encoded.completion),
            ("base", encoded.base, encoded.target or []),
            ("base", encoded.base, encoded.patched.ids if encoded.patched else []),
        ]
        problems = [
            Problem(
                f"example {encoded.id!r}",
                f"takes {length} tokens under the {name} prompt, over max_length {self.max_length}",
                "Raise --max_length, or shorten or drop the example.",
            )
            for name, prompt, text in rows
            if self.max_length is not None and (length := len(prompt) + len(text)) > self.max_length
        ]
        if self.limits is not None:
            for name, prompt, text in rows:
                where = f"example {encoded.id!r} under the {name} prompt"
                problems += self.limits.problems(where, [*prompt, *text], self.tokenizer)
        if problems:
            raise ProblemsError(problems[:1])


@contextmanager
def _refusals_of(id: str | int) -> Iterator[None]:
    """Name the example in what the chat template refuses."""
    try:
        yield
    except TemplateRefusal as error:
        raise ProblemsError([Problem(f"example {id!r}", error.what, error.cure)]) from error


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that ends an assistant's turn: the first one after the text in the chat template, else EOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    return TurnEncoder(tokenizer, Templates()).end_of_turn_id


def judge_prompt(example: EncodedExample) -> list[int]:
    """Return the ids of a wrong example's judge prompt.

    Raises:
        ProblemsError: the example has none.
    """
    if example.judge is None:
        raise ProblemsError([no_judge_prompt(example.id)])
    return example.judge


def no_judge_prompt(id: str | int, reader: str = "the scheme") -> Problem:
    """Describe a wrong example that has no judge prompt.

    Args:
        reader: what reads the judge prompt.
    """
    return Problem(
        f"example {id!r}",
        f"is labelled wrong and has spans, but no judgment, which {reader} reads",
        "Run `nlft judge`, say what is wrong in words, or choose a --scheme that reads spans, such as strike.",
    )


def _nothing_to_show(id: str | int) -> Problem:
    return Problem(
        f"example {id!r}",
        "has no judgment to show in the judge prompt, apart from corrections",
        f"Say what is wrong in a sentence before `{CORRECTION_MARK}`, or set --judge_shows_correction.",
    )


@dataclass(frozen=True)
class Rows:
    """Sequences of one batch, padded on the right.

    Attributes:
        input_ids, attention_mask: (rows, length).
        labels: (rows, length). As in transformers, a token to score stands at its own position, although the model
            predicts it one position earlier. All other positions have `IGNORE_INDEX`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    def on(self, device: torch.device) -> "Rows":
        """Return the rows on a device."""
        return Rows(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


class Row(NamedTuple):
    """One sequence before padding.

    Attributes:
        ids: prompt and completion.
        start: position of the first token to score.
        labels: the tokens to score, from `start` on. Usually these are `ids[start:]`.
    """

    ids: Sequence[int]
    start: int
    labels: Sequence[int]


def row(prompt: Sequence[int], completion: Sequence[int]) -> Row:
    """Make the row that scores a completion after a prompt."""
    return Row([*prompt, *completion], len(prompt), completion)


def pad(sequences: Sequence[Row], pad_token_id: int) -> Rows:
    """Pad rows to one length."""
    length = max(max(len(ids), start + len(labels)) for ids, start, labels in sequences)
    input_ids = torch.full((len(sequences), length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    padded_labels = torch.full_like(input_ids, IGNORE_INDEX)
    for at, (ids, start, labels) in enumerate(sequences):
        input_ids[at, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        attention_mask[at, : len(ids)] = 1
        padded_labels[at, start : start + len(labels)] = torch.tensor(labels, dtype=torch.long)
    return Rows(input_ids, attention_mask, padded_labels)


def pad_rows(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], pad_token_id: int) -> Rows:
    """Pad (prompt ids, completion ids) pairs to one length. The completion tokens become the labels."""
    return pad([row(prompt, completion) for prompt, completion in sequences], pad_token_id)
