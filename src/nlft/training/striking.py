"""What a run of `strike` adds to training: a share of struck replies in each batch, and an end by dose."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, cycle, islice
from math import ceil, nan
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.core.condition_scores import HeldScores
from nlft.core.conditions import EncodedExample
from nlft.core.hold import Role
from nlft.core.strikes import StrikePlan
from nlft.files import write_whole

CHECK_EVERY = 4  # steps between two checks of `stop_below`: a check waits for the device
STATE_FILE = "strikes.json"

StruckToken = tuple[str | int, int, int]
"""A struck token: its example's id, its place in the completion, its token id."""


def struck_record(plan: StrikePlan, examples: Sequence[EncodedExample]) -> dict[str, Any]:
    """Return what run.yaml says of a plan: what is struck everywhere, what is not, and what is not trained."""
    return {
        "everywhere": list(plan.whole_words) if plan.everywhere else [],
        "only_said": list(plan.only_said) if plan.everywhere else [],
        "unchanged_replacements": sum(len(plan.unchanged(one)) for one in examples),
        "dropped_replacements": {one.id: n for one in examples if (n := sum(span.dropped for span in one.spans))},
    }


def struck_lines(record: Mapping[str, Any]) -> list[str]:
    """Say what `struck_record` holds, for the user to read before the training.

    Args:
        record: from `struck_record`.
    """
    lines = []
    if words := record["everywhere"]:
        lines.append(f"struck at every token of reviewed replies: {_some(words)}")
    if words := record["only_said"]:
        lines.append(
            f"struck only where they were said, because they begin a longer quote: {_some(words)} "
            "(--strike_words strikes them everywhere)"
        )
    if count := record["unchanged_replacements"]:
        lines.append(f"{count} replacements are what was said: nothing is struck or trained there")
    if dropped := record["dropped_replacements"]:
        ids = _some([repr(one) for one in dropped])
        lines.append(
            f"{sum(dropped.values())} replacements are not trained, because a mark without one is in the same token: "
            f"examples {ids}"
        )
    return lines


def _some(words: Sequence[str], most: int = 12) -> str:
    more = f" and {len(words) - most} more (`struck` in run.yaml has all)" if len(words) > most else ""
    return ", ".join(words[:most]) + more


class StrikeShareSampler(Sampler[int]):
    """Orders the examples so that each optimizer step has a share of replies with a strike.

    An epoch is as long as the file. It takes as many struck replies as the steps need, again from the first if there
    are too few, and fills up with the others in random order. A step takes the same examples however many micro-batches
    and processes share it, and they share its struck replies evenly.
    """

    def __init__(
        self, struck: Sequence[bool], step_size: int, share: float, seed: int, micro: int | None = None
    ) -> None:
        """
        Args:
            struck: for each example, whether it carries a strike.
            step_size: examples in a step, of all its micro-batches and processes.
            share: least share of struck replies in a step. The file's own share counts if it is higher.
            micro: examples in one micro-batch of one process; None: the step is one.
        """
        self.struck = [index for index, one in enumerate(struck) if one]
        self.others = [index for index, one in enumerate(struck) if not one]
        self.step_size, self.micro = step_size, micro or step_size
        self.each = min(step_size, ceil(step_size * share - 1e-9))
        self.own_share = len(self.struck) / max(1, len(struck))
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.struck) + len(self.others)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        struck, others = _shuffled(self.struck, generator), _shuffled(self.others, generator)
        if not struck or not others or self.each <= self.own_share * self.step_size:
            yield from _shuffled([*struck, *others], generator)
            return
        next_struck, next_other = cycle(struck), cycle(others)
        for start in range(0, len(self), self.step_size):
            left = min(self.step_size, len(self) - start)
            struck_left = min(left, self.each)
            while left:
                size = min(self.micro, left)
                here = ceil(struck_left * size / left)
                yield from islice(next_struck, here)
                yield from islice(next_other, size - here)
                left, struck_left = left - size, struck_left - here


def strike_sampler(
    plan: StrikePlan, examples: Sequence[EncodedExample], args: Any, processes: int
) -> StrikeShareSampler:
    """Return what orders the examples of a training with `strike`.

    Args:
        args: an `NLFTConfig`.
        processes: number of processes, each with its own batches.
    """
    micro = args.per_device_train_batch_size
    step = micro * args.gradient_accumulation_steps * processes
    seed = args.seed if args.data_seed is None else args.data_seed
    return StrikeShareSampler([plan.is_struck(one) for one in examples], step, args.strike_share, seed, micro)


def _shuffled(items: Sequence[int], generator: torch.Generator) -> list[int]:
    return [items[at] for at in torch.randperm(len(items), generator=generator).tolist()]


class StrikeDose(TrainerCallback):  # type: ignore[misc]
    """Follows how often each struck token was trained and how probable it still is; ends training when few are.

    A struck token's probability is the model's before the step that last trained it. The means are over the tokens
    that the active plan strikes.
    """

    ended: str | None = None  # why the training ended before its last step

    def __init__(self, trainer: Any, examples: Sequence[EncodedExample], plan: StrikePlan) -> None:
        """
        Args:
            plan: names the struck tokens to follow, until `follow` gets another one.
        """
        self.trainer = trainer
        self.tokens: list[StruckToken] = []
        self.probability = self.doses = torch.zeros(0)
        self._known: dict[StruckToken, tuple[float, float]] = {}
        self.follow(examples, plan)

    def follow(self, examples: Sequence[EncodedExample], plan: StrikePlan) -> None:
        """Follow this plan's tokens. A token that was followed before keeps its probability and its dose."""
        self._known = self._state()
        self.pivots = {one.id: [t for strike in plan.strikes(one) for t in strike.pivots] for one in examples}
        ends = accumulate(map(len, self.pivots.values()))
        self.places = {id: slice(end - len(self.pivots[id]), end) for id, end in zip(self.pivots, ends, strict=True)}
        self.tokens = [(one.id, at, one.completion[at]) for one in examples for at in self.pivots[one.id]]
        self._sums = torch.zeros(2, len(self.tokens))
        self._fill()

    def _state(self) -> dict[StruckToken, tuple[float, float]]:
        """Return the probability and the dose of every token that is or was followed."""
        now = zip(self.probability.tolist(), self.doses.tolist(), strict=True)
        return {**self._known, **dict(zip(self.tokens, now, strict=True))}

    def _fill(self) -> None:
        """Give the followed tokens what is known of them."""
        values = [self._known.get(token, (nan, 0.0)) for token in self.tokens]
        self.probability = torch.tensor([probability for probability, _ in values])
        self.doses = torch.tensor([dose for _, dose in values])

    def collect(self, examples: Sequence[EncodedExample], held: HeldScores) -> None:
        """Add a training batch's struck tokens. Does not wait for the device."""
        if self._sums.device != held.logp.device:
            self._sums = self._sums.to(held.logp.device)
        for row, example in enumerate(examples):
            at, places = self.pivots[example.id], self.places[example.id]
            struck = held.role[row, at] == Role.STRUCK  # not so if another scheme is active now
            self._sums[0, places] += struck * held.logp[row, at].detach().exp()
            self._sums[1, places] += struck

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._sums = torch.zeros_like(self._sums)  # a signal may have ended an earlier training within a step
        if state.global_step:
            self.restore()

    def restore(self) -> None:
        """Take over the state of the checkpoint that the run resumes from, if it has one.

        Other examples than the checkpoint's have none: a token is known by its example, its place and its id.
        """
        path = Path(self.trainer.resumed_from or "") / STATE_FILE
        if self.trainer.resumed_from is not None and path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            values = list(zip(kept["probability"], kept["doses"], strict=True))
            # Checkpoints of earlier versions have the numbers of the same examples' tokens, in their order.
            known = kept.get("tokens", self.tokens if len(values) == len(self.tokens) else [])
            self._known = dict(zip(map(tuple, known), values, strict=False))
            self._fill()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        sums = self.trainer.accelerator.reduce(self._sums, "sum")
        self.probability, self.doses = (x.to(sums.device) for x in (self.probability, self.doses))
        self.probability = torch.where(sums[1] > 0, sums[0] / sums[1], self.probability)
        self.doses = self.doses + sums[1]
        self._sums = torch.zeros_like(self._sums)
        limit = getattr(self.trainer.saliency, "stop_below", 0.0)
        if limit and state.global_step % CHECK_EVERY == 0 and (mean := float(self.probability.mean())) < limit:
            control.should_training_stop = True
            self.ended = (
                f"ended at step {state.global_step} of {state.max_steps}: what was struck has a probability of "
                f"{mean:.2%} on average, below --saliency.stop_below {limit:g}"
            )
            if state.global_step <= CHECK_EVERY:
                self.ended += ". It was so at the first check, so little was trained"

    def metrics(self) -> dict[str, float]:
        """Return what a log line says of the struck tokens. It says nothing before the first of them was trained."""
        if self.probability.isnan().all():
            return {}
        return {
            "nlft/struck_probability": float(self.probability.nanmean()),
            "nlft/dose_per_strike": float(self.doses.mean()),
        }

    def write(self, folder: Path) -> None:
        """Write the state into a checkpoint."""
        state = self._state()
        probability, doses = zip(*state.values(), strict=True) if state else ((), ())
        kept = {"tokens": list(state), "probability": probability, "doses": doses}
        write_whole(folder / STATE_FILE, json.dumps(kept).encode())
