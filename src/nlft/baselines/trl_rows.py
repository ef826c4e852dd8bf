"""The rows that TRL trains on: with nlft's token ids, none cut, and none left out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from nlft.core.logprobs import causal_lm
from nlft.core.rotary import length_rule
from nlft.core.turn_encoding import TurnEncoder
from nlft.data.records import Example
from nlft.data.template_columns import inputs_of
from nlft.errors import Problem, RecordsError, UserError
from nlft.progress import note
from nlft.training.divergence import EXAMPLE


def with_own_ids(
    rows: Dataset,
    examples: Sequence[Example],
    encoder: TurnEncoder,
    texts: Mapping[str, Callable[[Example], str | None]],
) -> Dataset:
    """Give rows the token ids with which every other method trains.

    TRL tokenises prompt and reply together. A token can then span both, and the prompt loses its end. The name of a
    special token in a reply becomes that token, and what the template writes after a reply is trained.

    Args:
        rows: TRL's tokenised rows, with `prompt_ids` and the column `EXAMPLE`.
        texts: for each column with the ids of a reply, the example's text.
    """

    def own(row: Mapping[str, Any]) -> dict[str, list[int]]:
        example = examples[row[EXAMPLE]]
        inputs = inputs_of(example.extra)
        replies = {name: encoder.completion_ids(text(example) or "", inputs) for name, text in texts.items()}
        return {"prompt_ids": encoder.prompt_ids(example.prompt, inputs), **replies}

    return rows.map(own)


def check_lengths(
    rows: Sequence[Mapping[str, Any]], texts: Sequence[str], examples: Sequence[Example], max_length: int | None
) -> None:
    """Refuse rows that are too long, as every method does. TRL itself would cut them.

    Args:
        rows: TRL's tokenised rows, with `prompt_ids` and the column `EXAMPLE`.
        texts: the columns with the ids of what follows the prompt.
        max_length: maximum tokens of prompt and text together; None for no limit.

    Raises:
        RecordsError: names every example that is too long.
    """
    if max_length is None:
        return
    longest = [(row[EXAMPLE], len(row["prompt_ids"]) + max(len(row[text]) for text in texts)) for row in rows]
    problems = [
        Problem(
            f"example {examples[at].id!r}",
            f"takes {length} tokens, over max_length {max_length}",
            "Raise --max_length, or shorten or drop the example.",
        )
        for at, length in longest
        if length > max_length
    ]
    if problems:
        raise RecordsError(problems)


def note_long_rows(model: Any, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> None:
    """Say if rows change one another's scores: TRL lets rotary angles follow from the longest row of a batch.

    Args:
        model: the trainer's, with its adapter or without.
        rows: TRL's tokenised rows.
        texts: the columns with the ids of what follows `prompt_ids`, or of whole rows.
    """
    rule = length_rule(causal_lm(model).config.get_text_config())
    if rule is None:
        return
    lengths = [len(row.get("prompt_ids", ())) + max(len(row[text]) for text in texts) for row in rows]
    over = sum(length > rule.limit for length in lengths)
    if over:
        note(
            f"warning: {over} of {len(lengths)} rows are longer than {rule.limit} tokens. Beyond that, this model's "
            "rotary positions follow from the length, and TRL computes them for the longest row of a batch. So a row "
            f"changes its neighbours.\n  Set --max_length {rule.limit}, or train by `nlft train` or by `nlft sft` "
            "without `--engine trl`, which read each row by its own length."
        )


def check_all_rows(kept: int, given: int) -> None:
    """Refuse to train on fewer rows than were given.

    Raises:
        UserError: rows are missing.
    """
    if kept < given:
        raise UserError(
            f"TRL left out {given - kept} of {given} rows.\n  Raise --max_length, or shorten or remove these examples."
        )
