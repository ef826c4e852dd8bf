"""Which step fits on which card, and how long it takes. No torch."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from nlft.planning.memory import Memory, Rows, Step, memory_of

if TYPE_CHECKING:
    from nlft.models.sizes import ModelSizes

GB, TERA = 10**9, 10**12
# What is not ours: the CUDA context with torch's kernels, and what the allocator cannot reuse.
CONTEXT_BYTES, FRAGMENTED = 10**9, 0.06
# The share of the maker's dense figure that training reaches, whole and with 4-bit weights, which each product unpacks.
REACHED, REACHED_QUANTISED = 0.35, 0.25
MOST_PROCESSES = 64


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        gb: memory in GB (10^9 bytes), as its maker counts.
        tflops: the maker's TFLOP/s of dense products in bfloat16, or in float16 where the card has no bfloat16; None if
            it is not known.
    """

    name: str
    gb: float
    tflops: float | None = None

    @property
    def usable(self) -> float:
        """Bytes that a step can use."""
        return (self.gb * GB - CONTEXT_BYTES) * (1 - FRAGMENTED)


CARDS = (
    Card("16 GB (T4, V100)", 16, 65),
    Card("24 GB (L4, A10, RTX 4090)", 24, 121),
    Card("48 GB (L40S, A6000)", 48, 155),
    Card("80 GB (A100, H100)", 80, 312),
    Card("141 GB (H200)", 141, 989),
    Card("192 GB (B200, MI300X)", 192, 1300),
)


@dataclass(frozen=True)
class Fit:
    """What fits on a card.

    Attributes:
        setup: the first way of `setups` that fits; None if none does.
        flags: what to type for it.
        memory: the step's memory; None if nothing fits.
        batch, length: the largest batch at the planned length, and the longest row at a batch of 1.
        seconds: of the whole training, or of a step if there is no file; None if the card's speed is not known.
    """

    card: Card
    setup: str | None
    flags: str
    memory: Memory | None
    batch: int
    length: int
    seconds: float | None

    def json(self) -> dict[str, Any]:
        """Return it as JSON."""
        memory = self.memory.json() if self.memory else None
        return {**asdict(self), "card": asdict(self.card), "memory": memory}


class Setup(NamedTuple):
    """A way to train: what it is, its flags, its step, the examples of its batch, and the batches of its step."""

    name: str
    flags: str
    step: Step
    samples: int
    accumulated: int


def setups(step: Step, samples: int, accumulated: int, *, has_adapter: bool, packed: bool = False) -> Iterator[Setup]:
    """Yield ways to train, from the quickest to the most frugal. The user's own settings come first.

    Args:
        samples: examples of a batch.
        accumulated: batches of a step.
        packed: whether the model's files have quantised weights, which cannot be whole.
    """
    sharded = f" over {step.processes} cards" if step.processes > 1 else ""
    yield Setup(f"as set{sharded}", "", step, samples, accumulated)
    if not step.checkpointing:
        step = replace(step, checkpointing=True)
        yield Setup(f"checkpointing{sharded}", "--activation_checkpointing true", step, samples, accumulated)
    if has_adapter and step.bits is None and step.processes == 1:
        quantised = replace(step, bits=4)
        yield Setup("4 bits (QLoRA)", "--load_in_4bit true", quantised, samples, accumulated)
        if samples > 1:
            flags = "--load_in_4bit true --per_device_train_batch_size 1 --gradient_accumulation_steps"
            one = with_rows(quantised, samples=1, of=samples)
            batches = samples * accumulated
            yield Setup("4 bits, 1 example a batch", f"{flags} {batches}", one, 1, batches)
    if step.processes == 1 and not packed:
        count = 2
        while count <= MOST_PROCESSES:
            flags = f"accelerate launch --config_file examples/accelerate/fsdp2.yaml --num_processes {count}"
            whole = replace(step, bits=None, processes=count)
            yield Setup(f"FSDP2 over {count} cards", flags, whole, samples, accumulated)
            count *= 2


def fit(
    model: "ModelSizes",
    step: Step,
    samples: int,
    card: Card,
    flops: Callable[[Setup], float],
    tflops: float | None,
    *,
    accumulated: int = 1,
    shared: bool = True,
) -> Fit:
    """Find the first way to train that fits on a card, and its largest batch and length.

    Args:
        samples: examples of a batch.
        flops: operations of the training, or of a step of one process, in a way to train.
        tflops: what the card reaches, in TFLOP/s; None: a share of the maker's figure.
        accumulated: batches of a step.
        shared: whether several processes share these operations.
    """
    ways = setups(step, samples, accumulated, has_adapter=model.has_adapter, packed=model.bits is not None)
    for one in ways:
        setup, flags, way, now, _ = one
        memory = memory_of(model, way)
        if memory.peak > card.usable:
            continue
        reached = tflops or (card.tflops or 0) * (REACHED_QUANTISED if way.bits else REACHED)
        seconds = flops(one) / (reached * TERA * (way.processes if shared else 1)) if reached else None
        batch = _largest(partial(_fits, model, card, way, now))
        length = _largest(lambda long, way=way, now=now: _fits(model, card, way, now, 1, long))  # type: ignore[misc]
        return Fit(card, setup, flags, memory, batch, length, seconds)
    return Fit(card, None, "", None, 0, 0, None)


def with_rows(step: Step, *, samples: int, of: int, length: int | None = None) -> Step:
    """Return the step with another number of samples, and with rows of another length.

    Args:
        samples: number of samples; the rows grow with it.
        of: number of samples that the step has now.
    """

    def changed(rows: Rows) -> Rows:
        count = -(-rows.count * samples // of)
        longer = (length or rows.length) / max(1, rows.length)
        scored = rows.scored / max(1, rows.count) * count * longer
        return Rows(count, length or rows.length, round(scored))

    def scored_apart(rows: Rows) -> Rows:
        """Return the rows of one pass: a longer row leaves place for fewer of them."""
        long = length or rows.length
        count = min(rows.count, max(1, rows.tokens // max(1, long)))
        return Rows(count, long, round(rows.scored / max(1, rows.tokens) * count * long))

    trained = changed(step.trained)
    conditions = scored_apart(step.conditions) if step.kept else changed(step.conditions)
    return replace(step, trained=trained, conditions=conditions, padded=trained.count > 1)


def _fits(model: "ModelSizes", card: Card, step: Step, of: int, samples: int, length: int | None = None) -> bool:
    """Whether a number of samples fits, at a length or at that of the step."""
    return memory_of(model, with_rows(step, samples=samples, of=of, length=length)).peak <= card.usable


def _largest(holds: Callable[[int], bool]) -> int:
    """Return the largest number up to 2^24 for which `holds`, which holds up to some number and not beyond; else 0."""
    low, high = 0, 1
    while high < 2**24 and holds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def flops_of(model: "ModelSizes", step: Step, trained: float, conditions: float, scored: float) -> float:
    """Return the floating-point operations of these tokens.

    A forward takes 2 for each weight and token. Backward takes 2 to pass the gradient on, and 2 more for each weight
    that is trained. Checkpointing repeats forward. Attention adds 2 x 2 x length x heads x size for each layer and
    token, half of it where a token sees only those before it.

    Args:
        trained, conditions, scored: tokens with gradient, without, and those of both that reach the head.
    """
    body = model.all_weights - model.head
    at = 2 * model.layers * model.attention
    share = model.trained / (model.trained + body) if model.has_adapter else 1.0
    forwards = 2 + step.checkpointing + share  # forward, the gradient's way back, the repeated forward, the weights'
    with_gradient = trained * forwards * (2 * body + at * step.trained.length)
    without = conditions * (2 * body + at * step.conditions.length)
    return float(with_gradient + without + scored * 2 * 2 * model.head)
