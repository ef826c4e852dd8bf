"""The memory of a training step, part by part, as a formula of a model's sizes and a batch's. No torch."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from nlft.models.settings import ModelOptions
from nlft.planning.optimizers import ADAMW, Optimizer

if TYPE_CHECKING:
    from nlft.models.sizes import ModelSizes

FLOAT32 = 4
_MIB = 2**20
# Copies of a chunk's float32 logits that are in memory at once, without a frozen base and with one (core/heads.py).
_COPIES, _COPIES_WITH_BASE = 4, 8
# Bytes of a kept token of the base: an id, and its log-probability in float32 (core/topk.py).
_KEPT_TOKEN = 8 + 4
_AUTOCAST = 2  # bytes of an entry in bfloat16 or float16
# Bytes of an entry of a quantised linear layer. NF4 keeps a scale of 4 bytes for 64 entries. Double quantisation keeps
# that scale in 1 byte, and 4 bytes for 256 scales. LLM.int8 keeps one scale of 4 bytes for each output, under 0.1%.
_NF4, _NF4_DOUBLE, _INT8 = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / (64 * 256), 1.0


@dataclass(frozen=True)
class Rows:
    """A batch's rows, with their padding.

    Attributes:
        count, length: rows, and tokens of the longest.
        scored: tokens that reach the head, of all rows.
    """

    count: int
    length: int
    scored: int

    @property
    def tokens(self) -> int:
        """Tokens through the decoder, padding included."""
        return self.count * self.length


@dataclass(frozen=True)
class Step:
    """What one process does in a step, as far as memory follows from it.

    Attributes:
        trained: rows with gradient.
        conditions: rows without gradient, of one pass; no rows if the scheme reads no condition.
        checkpointing: whether the layers' activations are computed again in backward.
        holds: whether the scheme holds the model to its frozen base.
        reads: whether a step reads the standard or the judge condition.
        kept: whether the conditions and the frozen base are scored apart from the steps (`--condition_logprobs`).
        kept_tokens: kept tokens of the base at each scored place, if it is scored apart.
        clean: whether base is read once more without noise, before the pass with gradient.
        padded: whether rows have padding, so that attention reads a mask.
        bits: 4, 8, or None: how the base's linear layers are quantised.
        double: whether the scales of 4 bits are quantised, too.
        chunk_bytes: most bytes of a chunk of logits.
        autocast: whether products are computed in another data type than the weights'.
        optimizer: what the optimizer keeps.
        processes: number of processes over which FSDP2 or ZeRO-3 shards; 1: nothing is sharded.
    """

    trained: Rows
    conditions: Rows
    checkpointing: bool = True
    holds: bool = False
    reads: bool = True
    kept: bool = False
    kept_tokens: int = 0
    clean: bool = False
    padded: bool = True
    bits: Literal[4, 8] | None = None
    double: bool = True
    chunk_bytes: int = 256 * _MIB
    autocast: bool = False
    optimizer: Optimizer = ADAMW
    processes: int = 1


@dataclass(frozen=True)
class Memory:
    """The peak memory of a step on one process, in bytes, part by part.

    The parts up to `optimizer` stay from step to step. Of the others, only the largest phase is in memory at a time:
    the conditions' pass, forward and backward, or the optimizer's step.

    Attributes:
        weights: the base's.
        adapter: the adapter's weights; 0 without one, since then the base's weights are trained.
        gradients: of the trained weights.
        optimizer: the optimizer's state, such as AdamW's two moments and its counters.
        gathered: two layers' whole weights, where they are sharded.
        casts: copies of weights in the data type of autocast.
        activations: what backward reads.
        working: the layer that backward is in: its activations, and their gradients.
        head: a chunk of logits with its copies, and the states that reach the head.
        beginnings: keys and values of base's prompts, from which the conditions go on in base's place. They are let go
            before backward.
        conditions: the pass without gradient. If base is read without noise first, it has base's keys and values too.
        step: copies that the optimizer makes while it steps.
    """

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    gathered: int
    casts: int
    activations: int
    working: int
    head: int
    beginnings: int
    conditions: int
    step: int

    @property
    def steady(self) -> int:
        """What stays from step to step."""
        return self.weights + self.adapter + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The peak of a step."""
        backward = self.activations + max(self.working, self.head)
        conditions = self.conditions
        if self.beginnings:  # then the conditions come after base's own forward
            conditions = self.activations + self.beginnings + max(self.head, self.conditions)
        return self.steady + max(self.gathered + self.casts + max(backward, conditions), self.step)

    def json(self) -> dict[str, int]:
        """Return the parts, `steady` and `peak`, in bytes."""
        return {**asdict(self), "steady": self.steady, "peak": self.peak}


def memory_of(model: "ModelSizes", step: Step) -> Memory:
    """Compute the peak memory of a step, part by part."""
    shards = step.processes
    trained = model.trained * model.trained_width
    per_token = layer_bytes_per_token(model, step)
    width = model.width
    one_layer = step.trained.tokens * per_token
    states = step.trained.tokens * model.hidden
    # The embedding's output and the final norm's float32 copy stay in any case.
    kept = states * (width + FLOAT32)
    one_layer += FLOAT32 * model.dora_weights
    activations = kept + (states * width * model.layers if step.checkpointing else one_layer * model.layers)
    beginnings, conditions = _beginnings(model, step), _pass_without_gradient(model, step)
    working = 2 * one_layer if step.checkpointing else one_layer
    return Memory(
        weights=weight_bytes(model, step) // shards,
        adapter=trained // shards if model.has_adapter else 0,
        gradients=trained // shards,
        optimizer=step.optimizer.size(model) // shards,
        gathered=0 if shards == 1 else 2 * _layer_bytes(model, step),
        casts=_casts(model, step),
        activations=activations,
        working=working + FLOAT32 * model.dora,
        head=head_bytes(model, step, step.trained.scored),
        # Read without noise, base and the conditions are done before anything is kept for backward.
        beginnings=0 if step.clean else beginnings,
        conditions=conditions + beginnings if step.clean else conditions,
        step=trained // shards,
    )


def weight_bytes(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of the base's weights. Only its linear layers are quantised, and not the head."""
    whole = (model.all_weights - model.linear) * model.width
    return whole + int(model.linear * _linear_width(model, step))


def layer_bytes_per_token(model: "ModelSizes", step: Step) -> int:
    """Return the bytes that a layer's backward reads for each token.

    - The norms keep their input in float32; if they are trained, also what they scale.
    - Attention keeps q, k, v and its output, each heads x size; k and v are repeated for grouped heads. It keeps one
      float32 number for each head, which is left out here; with padding, it also keeps a row of the mask. `eager`
      attention keeps its matrices, and neither the output nor the mask.
    - The MLP keeps the input of its activation; with a gate, also both factors of the product.
    - A layer with an adapter keeps its input in float32, and the rank's entries. Without an adapter, a linear layer
      keeps its input in the base's data type; layers with the same input keep it once. With dropout, each layer with an
      adapter keeps its own input, and a byte for each entry. With DoRA, it keeps its own and the adapter's output.
    - Under autocast, all but the norms is in autocast's data type, and each layer keeps its own input.
    """
    width, adapters = _width(model, step), _AUTOCAST if step.autocast else FLOAT32
    norms = (FLOAT32 if model.has_adapter else FLOAT32 + model.width) * model.norms
    mask = step.trained.length if step.padded else 0
    attention = width * (3 * model.attention if model.matrices else 4 * model.attention + mask)
    attention += _matrix_bytes(model, step, step.trained)
    mlp = width * model.inner * (3 if model.gated else 2)
    if not model.has_adapter:
        return int(norms + attention + mlp + width * (model.cast if step.autocast else model.shared))
    inputs = model.shared if width == FLOAT32 and not model.dropout else model.cast
    dropped = model.cast if model.dropout else 0
    dora = model.dora_outputs * (adapters + (adapters if model.dropout else width))
    return int(norms + attention + mlp + adapters * (inputs + model.rank) + dropped + dora)


def _width(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of an entry that a linear layer writes."""
    return _AUTOCAST if step.autocast else model.width


def _matrix_bytes(model: "ModelSizes", step: Step, rows: Rows) -> int:
    """Return what `eager` attention keeps for each token: its row of each head's matrix, in float32 and cast back."""
    width = _width(model, step)
    return model.matrices * rows.length * (FLOAT32 + (width if width != FLOAT32 else 0))


def _casts(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of the weights' copies under autocast: of all that are trained, and of float32 weights in use.

    A frozen layer's copy lives until its backward. With checkpointing, that is one layer's at a time.
    """
    if not step.autocast:
        return 0
    frozen = model.all_weights if model.has_adapter and model.width == FLOAT32 else 0
    if step.checkpointing and frozen:
        frozen = model.layer + model.head
    return _AUTOCAST * (model.trained + frozen)


def head_bytes(model: "ModelSizes", step: Step, scored: int) -> int:
    """Return the bytes of one chunk of logits, and of the states that reach the head with their slopes."""
    copies = _COPIES_WITH_BASE if step.holds else _COPIES
    row = FLOAT32 * copies * model.vocabulary
    rows = min(scored, max(1, step.chunk_bytes // row))
    states = scored * model.hidden * model.width * (4 if step.holds and not step.kept else 2)
    likeliest = scored * min(step.kept_tokens, model.vocabulary) * _KEPT_TOKEN if step.holds else 0
    return rows * row + states + likeliest


def _beginnings(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of the keys and values of each example's prompt, at most those of all rows with gradient."""
    rows = step.trained
    if not (model.shares and step.reads and step.conditions.count and rows.count):
        return 0
    prompts = rows.tokens - rows.scored
    return prompts * 2 * model.keys * model.width * model.layers


def _pass_without_gradient(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of the conditions' pass: one layer's tensors at a time, then the head."""
    rows = step.conditions
    if not rows.count:
        return 0
    width = _width(model, step)
    states = rows.tokens * model.hidden * model.width
    # In a layer: the input, the norm's float32 copy, and the larger of attention's and the MLP's own tensors.
    mlp = model.inner * width * (3 if model.gated else 2) + FLOAT32 * model.inner * model.has_adapter
    attention = 4 * model.attention * width + _matrix_bytes(model, step, rows)
    layer = states + rows.tokens * (FLOAT32 * model.hidden + max(attention, mlp)) + FLOAT32 * model.dora
    unheld = replace(step, holds=False)  # the base's likeliest tokens go to the CPU, chunk by chunk
    return max(layer, states + head_bytes(model, unheld, rows.scored))


def _linear_width(model: "ModelSizes", step: Step) -> float:
    widths = {4: _NF4_DOUBLE if step.double else _NF4, 8: _INT8}
    return widths[step.bits] if step.bits else float(model.width)


def _layer_bytes(model: "ModelSizes", step: Step) -> int:
    """Return the bytes of one layer's whole weights. Nearly all of them are in linear layers."""
    return int(model.layer * _linear_width(model, step))


def bits_of(settings: ModelOptions) -> Literal[4, 8] | None:
    """Return in how many bits the settings load the base: 4, 8, or None."""
    return 4 if settings.load_in_4bit else 8 if getattr(settings, "load_in_8bit", False) else None
