"""Count the tokens of a training: through forward and backward, by step and in all."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlft.core.conditions import EncodedExample
from nlft.core.schemes.scheme import Scheme
from nlft.data.encoding import check_targets, condition_readers, encode_examples
from nlft.data.records import Example, completion_text
from nlft.planning.memory import Rows
from nlft.training.batching import KeepingBuilder
from nlft.training.prompting import training_encoder

CHARACTERS = 4.0  # of a token, in English texts; a guess for a model whose tokenizer is not there
_WORDS = 40  # tokens that a chat template and our own words add to a prompt; the same guess


@dataclass(frozen=True)
class Tokens:
    """The tokens of a training, on all processes together.

    Attributes:
        examples: number of examples.
        steps: optimizer steps.
        passes: passes over the examples.
        trained, conditions: tokens through the decoder in one pass over the examples, padding included: with gradient,
            and without.
        scored: of both, tokens that reach the head.
        real: share of `trained` and `conditions` that is not padding, from 0 to 1.
        largest: the largest batch that another order could make: its rows with gradient, and its rows without.
        counted: whether the tokenizer counted them; else they are estimated from the texts' lengths.
    """

    examples: int
    steps: int
    passes: float
    trained: int
    conditions: int
    scored: int
    real: float
    largest: tuple[Rows, Rows]
    counted: bool

    def json(self) -> dict[str, Any]:
        """Return the counts, with those of the whole training."""
        found = asdict(self)
        found["largest"] = {"trained": asdict(self.largest[0]), "conditions": asdict(self.largest[1])}
        total = {name: round(getattr(self, name) * self.passes) for name in ("trained", "conditions", "scored")}
        return {**found, "total": total}


def steps_of(args: Any, examples: int, processes: int) -> tuple[int, float]:
    """Return the optimizer steps of a training, and its passes over the examples, as Trainer counts them.

    Args:
        args: an `NLFTConfig`.
        processes: number of processes, each with its own batches.
    """
    batches = ceil(examples / (args.per_device_train_batch_size * processes))
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
) -> Tokens:
    """Count the tokens of the batches that the training would make, in the order of the file.

    Args:
        args: an `NLFTConfig`.
        processes: number of processes, each with its own batches.
        share: see `KeepingBuilder`.

    Raises:
        RecordsError: names every example that cannot be encoded.
    """
    encoder = training_encoder(tokenizer, args, None)
    encoded = encode_examples(examples, encoder, **condition_readers(scheme.name, scheme.needs(saliency)))
    check_targets(encoded, args.answer_weight)
    builder = KeepingBuilder(tokenizer, encoded, answers=args.answer_weight > 0, share=share)
    builder.use(scheme, saliency)
    return _counted(encoded, builder, args, processes)


def _counted(
    encoded: Sequence[EncodedExample], builder: KeepingBuilder, args: Any, processes: int, *, counted: bool = True
) -> Tokens:
    """Sum the rows of every batch."""
    size, nothing = args.per_device_train_batch_size, Rows(0, 0, 0)
    trained, conditions, real = [], [], 0
    for start in range(0, len(encoded), size):
        features = builder(encoded[start : start + size])
        rows = rows_of(features, "")
        trained.append(rows)
        without = [rows_of(features, "scored_")] if "scored_input_ids" in features else []
        without += [rows] if "hold" in builder.needs else []  # the frozen base's pass over the same rows
        conditions += without or [nothing]
        masks = [features[name] for name in ("attention_mask", "scored_attention_mask") if name in features]
        real += sum(int(mask.sum()) for mask in masks) + (int(masks[0].sum()) if "hold" in builder.needs else 0)
    steps, passes = steps_of(args, len(encoded), processes)
    most = [largest_of(found) for found in (trained, conditions)]
    sums = [sum(one.tokens for one in found) for found in (trained, conditions)]
    return Tokens(
        examples=len(encoded),
        steps=steps,
        passes=passes,
        trained=sums[0],
        conditions=sums[1],
        scored=sum(one.scored for one in (*trained, *conditions)),
        real=real / max(1, sum(sums)),
        largest=(most[0], most[1]),
        counted=counted,
    )


def largest_of(found: Sequence[Rows]) -> Rows:
    """Return the most rows, the longest row and the most scored tokens of the batches, as if one batch had all."""
    return Rows(*(max(getattr(one, name) for one in found) for name in ("count", "length", "scored")))


def rows_of(features: dict[str, Any], prefix: str) -> Rows:
    """Return the rows of a batch: those with gradient, or with the prefix `scored_` those without."""
    count, length = features[f"{prefix}input_ids"].shape
    return Rows(int(count), int(length), int((features[f"{prefix}labels"] >= 0).sum()))


class _NoTokenizer:
    """Stands in for a tokenizer that is not there: only the id of the padding is read."""

    pad_token_id = 0


def estimate_tokens(examples: list[Example], args: Any, scheme: Scheme, saliency: object, processes: int) -> Tokens:
    """Estimate the tokens from the texts' lengths, for a model whose tokenizer is not there.

    A token is counted for every `CHARACTERS` characters. Rows that a scheme adds, such as replacements, are left out.
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
    builder = KeepingBuilder(tokenizer, encoded, answers=args.answer_weight > 0)
    builder.needs = scheme.needs(saliency)
    builder.built_for = scheme.name, builder.needs, None, False
    return _counted(encoded, builder, args, processes, counted=False)


def _plain(text: Any) -> str:
    return text if isinstance(text, str) else " ".join(str(turn.get("content") or "") for turn in text)


def without_file(args: Any, scheme: Scheme, saliency: object, length: int) -> tuple[Rows, Rows]:
    """Return the largest batch that `max_length` allows: all rows `length` tokens long, two thirds of them completion.

    Each sample is taken for a wrong one, which has the most rows.
    """
    needs, size = scheme.needs(saliency), args.per_device_train_batch_size
    with_gradient = size * (2 if args.answer_weight > 0 else 1)
    scored = length * 2 // 3
    conditions = size * len(needs & {"standard", "judge"})
    held = with_gradient if "hold" in needs else 0
    count = max(conditions, held)
    return Rows(with_gradient, length, with_gradient * scored), Rows(count, length, count * scored)
