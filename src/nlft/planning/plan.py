"""Plan a training before anything is rented: its memory, its tokens, its time, and the cards that it fits on."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.models.loading import ModelSettings, load_tokenizer
from nlft.models.sizes import ModelSizes, built, sizes_of
from nlft.planning.cards import CARDS, REACHED, REACHED_QUANTISED, Card, Fit, Setup, fit, flops_of, with_rows
from nlft.planning.memory import Memory, Rows, Step, bits_of, memory_of
from nlft.planning.planned import refuse_unfit_model, refuse_unmade, refuse_unplanned
from nlft.planning.settings import PlanSettings
from nlft.planning.steps import step_of
from nlft.planning.tokens import CHARACTERS, Tokens, count_tokens, estimate_tokens, without_file

GIB = 2**30
_PARTS = {
    "weights": "base weights",
    "adapter": "adapter weights",
    "gradients": "gradients of what is trained",
    "optimizer": "what the optimizer keeps",
    "gathered": "two layers' whole weights, while they are used",
    "casts": "weights in the data type of autocast",
    "activations": "activations that backward reads",
    "working": "the layer that backward is in",
    "head": "a chunk of logits, and the scored states",
    "beginnings": "keys of the prompts, for the conditions (instead of backward's)",
    "conditions": "the pass without gradient (instead of backward's)",
    "step": "the optimizer's copies (instead of backward's)",
}


@dataclass(frozen=True)
class Plan:
    """The plan of a training.

    Attributes:
        samples: examples of a step on one process.
        tokens: the training's tokens; None without a file.
        flops: operations of the training, or of one step if there is no file.
        notes: what was assumed.
    """

    model: ModelSizes
    step: Step
    samples: int
    memory: Memory
    tokens: Tokens | None
    flops: float
    fits: list[Fit]
    notes: list[str]

    def json(self) -> dict[str, Any]:
        """Return everything as JSON. Memory is in bytes."""
        return {
            "format_version": 1,
            "model": asdict(self.model),
            "step": asdict(self.step),
            "samples": self.samples,
            "memory": self.memory.json(),
            "tokens": self.tokens.json() if self.tokens else None,
            "flops": self.flops,
            "cards": [one.json() for one in self.fits],
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """Return the plan as text."""
        return [*self._model(), "", *self._memory(), "", *self._tokens(), "", *self._cards(), "", *self.notes]

    def _model(self) -> list[str]:
        model, step = self.model, self.step
        bits = f"linear layers in {step.bits} bits" if step.bits else f"{8 * model.width} bits"
        share = f", {model.trained / model.all_weights:.2%} of it as an adapter" if model.has_adapter else ""
        return [
            f"{model.name}: {model.all_weights:,} weights ({bits}), {model.layers} layers, "
            f"vocabulary {model.vocabulary:,}; {model.trained:,} are trained{share}"
        ]

    def _memory(self) -> list[str]:
        trained, conditions = self.step.trained, self.step.conditions
        when = " before the steps" if self.step.kept else ""
        extra = f", and {conditions.count} x {conditions.length} without{when}" if conditions.count else ""
        sharded = f" on each of {self.step.processes} cards, sharded," if self.step.processes > 1 else ""
        parts = [(name, what, getattr(self.memory, name)) for name, what in _PARTS.items()]
        width = max(len(what) for _, what, size in parts if size)
        return [
            f"memory{sharded} at {self.samples} examples a step: {trained.count} x {trained.length} tokens with "
            f"gradient{extra}; checkpointing {'on' if self.step.checkpointing else 'off'}, {self.step.optimizer.name}",
            *(f"  {what:{width}}  {size / GIB:8.2f} GiB" for _, what, size in parts if size),
            f"  {'peak':{width}}  {self.memory.peak / GIB:8.2f} GiB",
        ]

    def _tokens(self) -> list[str]:
        if self.tokens is None:
            return [f"one step: {self.flops:.3g} floating-point operations. Name a FILE for the tokens of a training."]
        one, total = self.tokens, self.tokens.json()["total"]
        how = "counted" if one.counted else f"estimated, {CHARACTERS:g} characters a token"
        return [
            f"tokens ({how}): {one.examples} examples, {one.steps} steps, {one.passes:.3g} passes",
            f"  with gradient     {total['trained']:>14,}  ({total['trained'] // one.steps:,} a step)",
            f"  without gradient  {total['conditions']:>14,}  ({total['conditions'] // one.steps:,} a step)",
            f"  through the head  {total['scored']:>14,}",
            f"  {one.real:.0%} of them are no padding; {self.flops:.3g} floating-point operations in all",
        ]

    def _cards(self) -> list[str]:
        what = "training" if self.tokens else "step"
        rows = [("card", "setting that fits", "peak", "largest batch", "longest at 1", what)]
        for one in self.fits:
            if one.memory is None:
                rows.append((one.card.name, "none", "", "", "", ""))
                continue
            peak = f"{one.memory.peak / GIB:.1f} GiB"
            rows.append((one.card.name, str(one.setup), peak, f"{one.batch:,}", f"{one.length:,}", _span(one.seconds)))
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        flags = {str(one.setup): one.flags for one in self.fits if one.flags}
        return [*(line.rstrip() for line in table), *(f"  {setup}: {what}" for setup, what in flags.items())]


def make_plan(
    model_settings: ModelSettings,
    args: Any,
    scheme: Scheme,
    saliency: object,
    settings: PlanSettings,
    examples: list[Example] | None = None,
) -> Plan:
    """Plan a training from the model's config. No weights are loaded.

    Args:
        args: an `NLFTConfig`.
        examples: the training file; None: a batch of the longest rows stands in for it.

    Raises:
        UserError: the model has no config here, or no layer to adapt; a setting has no formula; or the training would
            refuse the settings.
    """
    refuse_unplanned(model_settings, args, scheme, saliency, examples)
    net = built(model_settings)
    refuse_unfit_model(net, args, scheme, saliency)
    model = sizes_of(net, model_settings)
    notes: list[str] = []
    tokens: Tokens | None = None
    if examples is not None:
        tokens = _tokens(model_settings, args, scheme, saliency, examples, settings.processes, notes, model)
    length = settings.length or args.max_length or model.context or 2048
    largest = tokens.largest if tokens else without_file(args, scheme, saliency, length, noisy=model.noisy)
    step = step_of(
        args,
        scheme,
        saliency,
        largest,
        noisy=model.noisy,
        bits=model.bits or bits_of(model_settings),
        double=model.double if model.bits else bool(model_settings.use_bnb_nested_quant),
        processes=settings.processes,
    )
    refuse_unmade(args, tokens.steps if tokens else max(1, args.max_steps))
    samples = args.per_device_train_batch_size
    if tokens:
        samples = min(samples, tokens.examples)  # a batch has no more than the file
        if settings.length:
            step = with_rows(step, samples=samples, of=samples, length=settings.length)
    accumulated = args.gradient_accumulation_steps
    flops = partial(_flops, model, tokens)
    cards = [*CARDS, *([Card("yours", settings.card_gb)] if settings.card_gb else [])]
    beside: dict[str, Any] = {"accumulated": accumulated, "shared": tokens is not None}
    fits = [fit(model, step, samples, card, flops, settings.tflops, **beside) for card in cards]
    own = flops(Setup("as set", "", step, samples, accumulated))
    notes += _assumed(settings)
    return Plan(model, step, samples, memory_of(model, step), tokens, own, fits, notes)


def _tokens(
    model_settings: ModelSettings,
    args: Any,
    scheme: Scheme,
    saliency: object,
    examples: list[Example],
    processes: int,
    notes: list[str],
    model: ModelSizes,
) -> Tokens:
    """Count the tokens, or estimate them if the tokenizer is not there."""
    try:
        tokenizer = load_tokenizer(model_settings)
    except UserError as error:
        notes.append(f"The tokens are estimated, because the tokenizer is not there: {str(error).splitlines()[0]}")
        return estimate_tokens(examples, args, scheme, saliency, processes, noisy=model.noisy)
    share, noisy = model.shares, model.noisy
    return count_tokens(examples, args, scheme, saliency, tokenizer, processes, share=share, noisy=noisy)


def _flops(model: ModelSizes, tokens: Tokens | None, way: Setup) -> float:
    """Return the operations of the whole training; without a file, of one process's part of a step."""
    step = way.step
    if tokens is not None:
        total = tokens.json()["total"]
        return flops_of(model, step, total["trained"], total["conditions"], total["scored"])
    without = Rows(0, 0, 0) if step.kept else step.conditions  # scored apart from the steps
    scored = step.trained.scored + without.scored
    return way.accumulated * flops_of(model, step, step.trained.tokens, without.tokens, scored)


def _assumed(settings: PlanSettings) -> list[str]:
    speed = (
        f"Time: {settings.tflops:g} TFLOP/s, as given."
        if settings.tflops
        else f"Time: {REACHED:.0%} of the maker's dense figure, {REACHED_QUANTISED:.0%} in 4 or 8 bits. This is an "
        "assumption. Measure one step, and give --tflops."
    )
    return [
        "A card loses 1 GB to CUDA and 6% to fragments. Largest batch: examples a step at this length. Longest: tokens "
        "of a row at one example a step.",
        f"{speed} Loading, evaluation and checkpoints are not in it.",
        "docs/SCALE.md has the formula, how far it is from measured peaks, and the commands for several cards.",
    ]


def _span(seconds: float | None) -> str:
    """Return a time in words of at most two units."""
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
