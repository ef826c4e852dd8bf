"""Count the tokens of a training: through forward and backward, by step and in all."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, floor
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlft.core.conditions import EncodedExample, Row
from nlft.core.schemes.scheme import Scheme
from nlft.core.snapshot import SCORING_TOKENS, Kept, scoring_passes
from nlft.core.strikes import StrikePlan
from nlft.data.encoding import check_targets, condition_readers, encode_examples
from nlft.data.records import Example, completion_text
from nlft.errors import UserError
from nlft.planning.memory import Rows
from nlft.planning.steps import reads_again
from nlft.training.batching import KeepingBuilder
from nlft.training.kept_conditions import KEPT
from nlft.training.prompting import training_encoder
from nlft.training.striking import strike_sampler

CHARACTERS = 4.0  # of a token, in English texts; a guess for a model whose tokenizer is not there
_WORDS = 40  # tokens that a chat template and our own words add to a prompt; the same guess


@dataclass(frozen=True)
class Tokens:
    """The tokens of a training, on all processes together.

    Attributes:
        examples: number of examples.
        steps: optimizer steps.
        passes: passes over the examples.
        scorings: how often the examples are read without gradient: in each pass, or with `--condition_logprobs` once or
            once in each epoch.
        trained, conditions: tokens through the decoder, padding included: with gradient in one pass over the examples,
            and without in one scoring of them.
        scored, conditions_scored: of these, tokens that reach the head.
        real: share of `trained` and `conditions` that is not padding, from 0 to 1.
        largest: see `largest_batch`.
        counted: whether the tokenizer counted them; else they are estimated from the texts' lengths.
    """

    examples: int
    steps: int
    passes: float
    scorings: float
    trained: int
    conditions: int
    scored: int
    conditions_scored: int
    real: float
    largest: tuple[Rows, Rows]
    counted: bool

    def json(self) -> dict[str, Any]:
        """Return the counts, with those of the whole training."""
        found = asdict(self)
        found["largest"] = {"trained": asdict(self.largest[0]), "conditions": asdict(self.largest[1])}
        total = {"trained": self.trained * self.passes, "conditions": self.conditions * self.scorings}
        total["scored"] = self.scored * self.passes + self.conditions_scored * self.scorings
        return {**found, "total": {name: round(count) for name, count in total.items()}}


def steps_of(args: Any, examples: int, processes: int) -> tuple[int, float]:
    """Return the optimizer steps of a training, and its passes over the examples, as Trainer counts them.

    Args:
        args: an `NLFTConfig`.
        processes: number of processes, each with its own batches.

    Raises:
        UserError: there is no whole batch, and others are dropped.
    """
    whole = examples / (args.per_device_train_batch_size * processes)
    batches = floor(whole) if args.dataloader_drop_last else ceil(whole)
    if not batches:
        raise UserError(
            f"--dataloader_drop_last true: {examples} examples make no whole batch of "
            f"{args.per_device_train_batch_size} on {processes} processes, so none is trained.\n  Leave it out."
        )
    per_pass = max(1, ceil(batches / args.gradient_accumulation_steps))
    steps = args.max_steps if args.max_steps > 0 else ceil(args.num_train_epochs * per_pass)
    return steps, steps / per_pass


def count_tokens(
    examples: list[Example],
    args: Any,
    scheme: Scheme,
    saliency: object,
    tokenizer: PreTrainedTokenizerBase,
    processes: int,
    *,
    share: bool = False,
    noisy: bool = False,
) -> Tokens:
    """Count the tokens of the batches that the training makes in its first pass over the examples.

    Args:
        args: an `NLFTConfig`.
        processes: number of processes, each with its own batches.
        share: see `KeepingBuilder`.
        noisy: whether the model draws random numbers in training mode.

    Raises:
        RecordsError: names every example that cannot be encoded.
    """
    encoder = training_encoder(tokenizer, args, None)
    encoded = encode_examples(examples, encoder, **condition_readers(scheme.name, scheme.needs(saliency)))
    check_targets(encoded, args.answer_weight)
    live = args.scores_live
    builder = KeepingBuilder(tokenizer, encoded, answers=args.answer_weight > 0, live=live, share=share and live)
    builder.use(scheme, saliency)
    again = reads_again(args, scheme, saliency, noisy=noisy)
    return _counted(encoded, builder, args, processes, again=again)


def _counted(
    encoded: Sequence[EncodedExample],
    builder: KeepingBuilder,
    args: Any,
    processes: int,
    *,
    again: int,
    counted: bool = True,
) -> Tokens:
    """Sum the rows of every batch of the first pass, and of the scoring passes if they are apart.

    Args:
        again: see `reads_again`.
    """
    size = args.per_device_train_batch_size
    steps, passes = steps_of(args, len(encoded), processes)
    trained, conditions, real = [], [], 0
    for batch in _batches(encoded, builder, args, processes):
        features = builder(batch)
        rows = rows_of(features, "")
        trained.append(rows)
        without = [rows_of(features, "scored_")] if "scored_input_ids" in features else []
        conditions += [*without, *[rows] * again]
        masks = [features[name] for name in ("attention_mask", "scored_attention_mask") if name in features]
        real += sum(int(mask.sum()) for mask in masks) + int(masks[0].sum()) * again
    largest = largest_batch(encoded, builder, size, again=bool(again))
    if not args.scores_live:
        found = list(_scoring_passes(encoded, builder, args))
        conditions = list(map(_rows_of_pass, found))
        real += sum(len(row.ids) for rows in found for row in rows)
        largest = largest[0], _largest_pass(conditions)
    sums = [sum(one.tokens for one in found) for found in (trained, conditions)]
    return Tokens(
        examples=len(encoded),
        steps=steps,
        passes=passes,
        scorings={"live": passes, "epoch": ceil(passes), "frozen": 1}[args.condition_logprobs],
        trained=sums[0],
        conditions=sums[1],
        scored=sum(one.scored for one in trained),
        conditions_scored=sum(one.scored for one in conditions),
        real=real / max(1, sum(sums)),
        largest=largest,
        counted=counted,
    )


def _batches(
    encoded: Sequence[EncodedExample], builder: KeepingBuilder, args: Any, processes: int
) -> Iterator[list[EncodedExample]]:
    """Yield the batches of the first pass, of all processes, as Trainer draws them.

    With several processes, the first examples fill up the last batches. They are left out here.
    """
    size, seed = args.per_device_train_batch_size, args.seed if args.data_seed is None else args.data_seed
    order: Iterable[int] = range(len(encoded))
    if isinstance(builder.plan, StrikePlan):
        order = strike_sampler(builder.plan, encoded, args, processes)
    elif str(args.train_sampling_strategy) != "sequential":
        order = SeedableRandomSampler(encoded, data_seed=seed, generator=torch.Generator())
    drawn = list(order)
    end = len(drawn) // (size * processes) * size * processes if args.dataloader_drop_last else len(drawn)
    for start in range(0, end, size):
        yield [encoded[at] for at in drawn[start : start + size]]


def largest_batch(
    examples: Sequence[Any], collate: Callable[[list[Any]], dict[str, Any]], size: int, *, again: bool
) -> tuple[Rows, Rows]:
    """Return the largest batch that any order of the examples can make: its rows with gradient, and without.

    Each example is looked at alone. The batch has as many rows and scored tokens as the examples with the most, and its
    rows are as long as the longest of all.

    Args:
        collate: makes a batch of examples.
        size: examples of a batch.
        again: whether the rows with gradient are read without it, too: by a frozen base, or without noise.
    """
    alone = [collate([one]) for one in examples]
    trained = _together([rows_of(one, "") for one in alone], size)
    reading = [one for one in alone if "scored_input_ids" in one]
    found = [rows_of(one, "scored_") for one in reading]
    # A right example may have no row of its own: where nothing is to be scored, `BatchBuilder` scores one row anyway.
    judged = "standard" not in getattr(collate, "needs", ())
    own = [rows for one, rows in zip(reading, found, strict=True) if not (judged and one["label"].all())]
    conditions = largest_of([_together(own, size), *found])
    if any("begun_seen" in one for one in reading) and not all("begun_seen" in one for one in reading):
        # Such examples in one batch may leave the rows of all whole.
        whole = max(int(_seen(one).max()) for one in reading)
        conditions = replace(conditions, length=whole)
    return trained, largest_of([conditions, trained] if again else [conditions])


def _scoring_passes(encoded: Sequence[EncodedExample], builder: KeepingBuilder, args: Any) -> Iterator[Sequence[Row]]:
    """Yield the rows of each pass that scores the conditions and the base apart from the steps."""
    needs = builder.needs & KEPT
    if needs:
        yield from scoring_passes(encoded, Kept(needs, builder.plan, args.hold_mass, args.hold_tokens))


def largest_scoring(encoded: Sequence[EncodedExample], builder: KeepingBuilder, args: Any) -> Rows:
    """Return the largest pass that scores the conditions and the base apart from the steps.

    Args:
        args: an `NLFTConfig`.
    """
    return _largest_pass(list(map(_rows_of_pass, _scoring_passes(encoded, builder, args))))


def _rows_of_pass(rows: Sequence[Row]) -> Rows:
    length = max(max(len(row.ids), row.start + len(row.labels)) for row in rows)
    return Rows(len(rows), length, sum(label >= 0 for row in rows for label in row.labels))


def _largest_pass(found: Sequence[Rows]) -> Rows:
    """Return the pass with the most tokens, and the most scored tokens of any pass."""
    most = max(found, key=lambda one: one.tokens, default=Rows(0, 0, 0))
    return replace(most, scored=max((one.scored for one in found), default=0))


def _seen(features: dict[str, Any]) -> Tensor:
    """Return how many tokens each row without gradient has, with the beginning that was cut off."""
    own: Tensor = features["scored_attention_mask"].sum(1)
    return own + features["begun_seen"].sum(1) if "begun_seen" in features else own


def _together(found: Sequence[Rows], size: int) -> Rows:
    """Return the largest batch of `size` examples whose rows these are."""

    def most(name: str) -> int:
        return sum(sorted((getattr(one, name) for one in found), reverse=True)[:size])

    return Rows(most("count"), max((one.length for one in found), default=0), most("scored"))


def largest_of(found: Sequence[Rows]) -> Rows:
    """Return the most rows, the longest row and the most scored tokens of the batches, as if one batch had all."""
    return Rows(*(max((getattr(one, name) for one in found), default=0) for name in ("count", "length", "scored")))


def rows_of(features: dict[str, Any], prefix: str) -> Rows:
    """Return the rows of a batch: those with gradient, or with the prefix `scored_` those without."""
    count, length = features[f"{prefix}input_ids"].shape
    return Rows(int(count), int(length), int((features[f"{prefix}labels"] >= 0).sum()))


class _NoTokenizer:
    """Stands in for a tokenizer that is not there: only the id of the padding is read."""

    pad_token_id = 0


def estimate_tokens(
    examples: list[Example], args: Any, scheme: Scheme, saliency: object, processes: int, *, noisy: bool = False
) -> Tokens:
    """Estimate the tokens from the texts' lengths, for a model whose tokenizer is not there.

    A token is counted for every `CHARACTERS` characters. Rows that a scheme adds, such as replacements, are left out,
    and so is the share of struck replies.

    Args:
        args: an `NLFTConfig`.
        processes, noisy: see `count_tokens`.
    """

    def ids(*texts: Any) -> list[int]:
        return [1] * max(1, ceil(sum(len(_plain(text)) for text in texts if text) / CHARACTERS))

    around = [1] * _WORDS
    encoded = [
        EncodedExample(
            id=one.id,
            label=one.label,
            base=around + ids(one.prompt),
            standard=around + ids(one.prompt, one.answer or one.feedback),
            judge=None if one.label else around + ids(one.prompt, one.judgment),
            completion=ids(completion_text(one)),
            target=ids(one.revision or one.answer) if one.revision or one.answer else None,
        )
        for one in examples
    ]
    tokenizer: Any = _NoTokenizer()
    builder = KeepingBuilder(tokenizer, encoded, answers=args.answer_weight > 0, live=args.scores_live)
    builder.needs = scheme.needs(saliency)
    builder.built_for = scheme.name, builder.needs, None, False
    again = reads_again(args, scheme, saliency, noisy=noisy)
    return _counted(encoded, builder, args, processes, again=again, counted=False)


def _plain(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(str(turn.get("content") or "") for turn in text)


def without_file(args: Any, scheme: Scheme, saliency: object, length: int, *, noisy: bool = False) -> tuple[Rows, Rows]:
    """Return the largest batch that `max_length` allows: all rows `length` tokens long, two thirds of them completion.

    Each sample is taken for a wrong one, which has the most rows. Conditions that are scored apart from the steps fill
    their passes.

    Args:
        args, noisy: see `count_tokens`.
    """
    needs, size = scheme.needs(saliency), args.per_device_train_batch_size
    with_gradient = size * (2 if args.answer_weight > 0 else 1)
    scored = length * 2 // 3
    conditions = size * len(needs & {"standard", "judge"})
    again = with_gradient if reads_again(args, scheme, saliency, noisy=noisy) else 0
    count = max(conditions, again)
    if not args.scores_live:
        count = max(1, SCORING_TOKENS // length) if needs & KEPT else 0
    return Rows(with_gradient, length, with_gradient * scored), Rows(count, length, count * scored)
