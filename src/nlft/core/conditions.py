"""Render and tokenise one completion under three prompts, and pad the results to aligned rows.

No code outside this module and `logprobs` depends on the length of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nlft.core.limits import ModelLimits
from nlft.core.prompts import CORRECTION_MARK, Prompt, Templates, as_messages, fill_prompt, without_corrections
from nlft.core.spans import Span, TokenSpan, merged_spans, occurrences, patched_text, token_spans, touched
from nlft.errors import Problem, ProblemsError, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100
_SENTINEL = "nlft-completion-goes-here"


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


class ConditionEncoder:
    """Renders prompts with a tokenizer's chat template, or as plain text if it has none, and tokenises them."""

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
            UserError: the tokenizer has no token that ends a turn, or its padding token is not one of the model's.
        """
        self.tokenizer = tokenizer
        self.templates = templates or Templates()
        self.max_length = max_length
        self.listed = tuple(listed)
        self.limits = limits
        if limits is not None:
            limits.check_padding(tokenizer)
        self.end_of_turn_id = end_of_turn_id(tokenizer)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return a prompt's ids. The model's answer begins after the last one. Sampling and evaluation use this too."""
        if self.tokenizer.chat_template is None:
            text = _plain(prompt, self.templates.system_prompt)
            ids: list[int] = self.tokenizer(text)["input_ids"]
            # Some tokenizers end every text with EOS. A prompt must not end with it, because the completion follows.
            if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
                ids = ids[:-1]
            return ids
        messages = as_messages(prompt, system_prompt=self.templates.system_prompt)
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        # The template has already written the special tokens. Adding them again would double the first one.
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def completion_ids(self, completion: str) -> list[int]:
        """Tokenise a completion without its prompt, and add the end-of-turn token.

        If prompt and completion were tokenised together, a token could span their boundary, and the completion's
        length could differ between conditions.
        """
        ids: list[int] = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        return ids if ids and ids[-1] == self.end_of_turn_id else [*ids, self.end_of_turn_id]

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
    ) -> EncodedExample:
        """Encode one example under its conditions.

        Args:
            answer, feedback: the standard condition shows the answer, else the feedback. Without both, its prompt is
                the plain prompt.
            spans: marked parts of the completion, in order, without overlaps. With them, a wrong completion needs no
                judgment.
            kept: see `EncodedExample.kept`.

        Raises:
            ProblemsError: a wrong completion has no spans, and its judgment is missing or has only corrections; or a
                prompt does not fit `max_length` or the model. No prompt is cut, because a cut prompt would be another
                condition. Or the tokenizer cannot say which tokens a span covers.
        """
        judge = None
        listed = () if label else self.listed
        spans = merged_spans(spans, occurrences(completion, listed))
        if not label:
            blamed = judgment or ""
            if not self.templates.judge_shows_correction:
                blamed = without_corrections(blamed)
            if blamed.strip():
                judge = self.prompt_ids(fill_prompt(prompt, self.templates.judge, judgment=blamed))
            elif not spans:
                raise ProblemsError([_nothing_to_show(id)])
        marked = self._token_spans(id, completion, spans) if spans else ()
        shown, target = answer or feedback, revision or answer
        standard = fill_prompt(prompt, self.templates.standard, answer=shown) if shown else prompt
        encoded = EncodedExample(
            id=id,
            label=label,
            base=self.prompt_ids(prompt),
            standard=self.prompt_ids(standard),
            judge=judge,
            completion=self.completion_ids(completion),
            target=self.completion_ids(target) if target else None,
            spans=marked,
            patched=self._patched(completion, marked),
            listed=listed,
            kept=kept,
        )
        self._check_lengths(encoded)
        return encoded

    def _token_spans(self, id: str | int, completion: str, spans: Sequence[Span]) -> tuple[TokenSpan, ...]:
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
            return token_spans(completion, self._offsets(completion), spans)
        except ValueError as error:
            what = f"cannot be encoded: {error}."
            raise ProblemsError([Problem(where, what, "Mark more of the text, or remove the span.")]) from None

    def _patched(self, completion: str, spans: Sequence[TokenSpan]) -> Patched | None:
        if all(span.replace is None for span in spans):
            return None
        text, characters = patched_text(completion, self._offsets(completion), spans)
        ids, offsets = self.completion_ids(text), self._offsets(text)
        return Patched(ids, tuple(touched(offsets, *place) for place in characters))

    def _offsets(self, text: str) -> list[tuple[int, int]]:
        """Return the characters of each token, (start, end); `end` exclusive."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["offset_mapping"])

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


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that ends an assistant's turn: the first one after the text in the chat template, else EOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    if tokenizer.chat_template is not None:
        turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SENTINEL}]
        tail = tokenizer.apply_chat_template(turn, tokenize=False).rpartition(_SENTINEL)[2]
        ids = tokenizer(tail.lstrip(), add_special_tokens=False)["input_ids"]
        special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        if ids and ids[0] in special:
            return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token.\n  Set eos_token in tokenizer_config.json.")
    return int(tokenizer.eos_token_id)


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


def _plain(prompt: Prompt, system_prompt: str | None) -> str:
    parts = [m["content"] for m in as_messages(prompt, system_prompt=system_prompt)]
    text = "\n\n".join(parts)
    return text if text[-1:].isspace() else text + "\n"


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
