"""Choose the watched examples, score their tokens during training, and write the scores."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import ScoredBatch, score_batch
from nlft.core.conditions import EncodedExample
from nlft.core.hold import Plan
from nlft.core.logprobs import evaluating
from nlft.core.prompts import prompt_text
from nlft.core.quote_links import quote_links
from nlft.core.saliency import TAG_NAMES, ConditionLogprobs, TokenWeights
from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample
from nlft.training.background_writer import BackgroundWriter
from nlft.training.kept_conditions import KeptConditions
from nlft.training.said_instead import Alternatives, alternatives
from nlft.training.striking import CHECK_EVERY
from nlft.training.watch_budget import WatchBudget

Scored = tuple[TokenScores | None, Alternatives | None]
"""One watched example's scores, and what both models would say at touched tokens."""


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Scores the watched examples before the first step, at regular steps, and after the last step.

    These are the model's scores at that step under every condition, in eval mode and without gradient. Where the
    conditions were scored before, they are the scores that training uses, with `current` beside them. They need
    separate forward passes, and `seconds` is the total time of these passes. At the other steps, `collect` keeps the
    scores of watched examples that are in the training batch. A scheme that reads neither standard nor judge gives no
    scores to show.

    `budget` says which examples start and end can afford. The others get scores from the batches. Each example has
    scores when the training ends. Between start and end, a scoring waits until it and the one at the end fit into
    `watch_share`, by the budget and by the clock. Scoring draws no random numbers and changes no batch and no weight.
    """

    def __init__(self, run: RunDir, trainer: Any, watched: list[EncodedExample], shown: list[WatchedExample]) -> None:
        """
        Args:
            trainer: an `NLFTTrainer`. Its scheme, settings and builder are those of the current step.
            shown: the same examples in the form that the map shows.
        """
        self.run, self.trainer, self.watched, self.shown = run, trainer, watched, shown
        self.seconds = 0.0
        self._began: float = time.monotonic()
        self._ended: float | None = None
        self._due, self._last_cost = False, 0.0
        self.budget: WatchBudget | None = None
        self._unseen: set[int] = set()
        self._first: dict[int, Scored] = {}  # scored alone before the first step, if not all examples were
        self._began_at = 0
        self._index = {example.id: index for index, example in enumerate(watched)}
        self._in_batch: dict[int, Tensor] = {}
        self._last_step = -1
        self._writer = BackgroundWriter()

    def take_over(self, encoded: Sequence[EncodedExample]) -> None:
        """Watch the same examples as they are encoded now."""
        now = {example.id: example for example in encoded}
        self.watched = [now[example.id] for example in self.watched]

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: Any,
    ) -> None:
        self._last_step, self._began_at = -1, state.global_step
        self._in_batch.clear()
        self._first = {}
        self.seconds, self._began, self._ended, self._due = 0.0, time.monotonic(), None, False
        if state.is_world_process_zero:
            self._writer.submit(lambda: self.run.write_watched(self.shown))
        self.budget = WatchBudget(self.trainer, self.watched, self._sure_steps(state))
        self._unseen = set() if state.global_step else set(range(len(self.watched)))  # a resumed run has scores
        self._score(state, model, self.budget.at_start())

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: Any,
    ) -> None:
        self._write_batch(state)
        if args.watch_every and state.global_step % args.watch_every == 0:
            self._due = True
        if self._due and self.trainer.steering.from_main(lambda: self._may_score(self._trained(state))):
            self._due = not self._score(state, model, range(len(self.watched)), patient=True)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: Any,
    ) -> None:
        if self.budget is not None:
            self._score(state, model, self.budget.at_end(self._trained(state), self._unseen), last=True)
        self._ended = time.monotonic()
        self._writer.finish()

    @property
    def training_seconds(self) -> float:
        """Seconds since the training began, without pauses, with the scorings."""
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    def add_pause(self, seconds: float) -> None:
        """Exclude a pause from the training's time."""
        self._began += seconds

    def _sure_steps(self, state: TrainerState) -> int:
        """Return the number of steps that this training surely takes: an end by dose may come early."""
        planned = int(state.max_steps - state.global_step)
        by_dose = self.trainer._dose is not None and float(getattr(self.trainer.saliency, "stop_below", 0.0))
        return min(planned, CHECK_EVERY) if by_dose else planned

    def _trained(self, state: TrainerState) -> int:
        """Return the number of steps since this training began or was resumed."""
        return int(state.global_step) - self._began_at

    def _may_score(self, steps: int) -> bool:
        """Return whether a scoring now, and the one at the end, fit into the share, and no request waits."""
        share = self.trainer.args.watch_share
        in_time = share == 1 or self.seconds + 2 * self._last_cost <= share * self.training_seconds
        affordable = self.budget is not None and self.budget.allows_one_more(steps)
        return bool(share and in_time and affordable) and not self.trainer.steering.has_requests()

    def collect(self, examples: Sequence[EncodedExample], conditions: ConditionLogprobs, weights: TokenWeights) -> None:
        """Keep a batch's scores of watched examples on their device. Do not wait for the device.

        Args:
            examples: the batch's examples, one per row.
        """
        if conditions.standard is None and conditions.judge is None and conditions.role is None:
            return
        for row, example in enumerate(examples):
            index = self._index.get(example.id)
            if index is not None:
                self._in_batch[index] = _packed(conditions, weights, row, len(example.completion))

    def _write_batch(self, state: TrainerState) -> None:
        """Write the scores from the step's batches, with those from before the first step.

        They are the model's scores before the step.
        """
        first, self._first = self._first, {}
        packed, self._in_batch = self._in_batch, {}
        step, arrays = max(state.global_step - 1, self._began_at), _to_arrays(packed)
        if self.trainer.args.world_size > 1:  # each example is in one rank's batch, and only the main process writes
            arrays = {index: array for part in gather_object([arrays]) for index, array in part.items()}
        self._unseen -= arrays.keys()
        if not (arrays or first) or step == self._last_step:
            return
        needs = self.trainer.needs
        live = self.trainer.kept.live
        found = {index: (_unpacked(array, needs, self.watched[index], live), None) for index, array in arrays.items()}
        self._submit(step, state, found | first)

    def _score(
        self,
        state: TrainerState,
        model: torch.nn.Module | None,
        chosen: Sequence[int],
        *,
        patient: bool = False,
        last: bool = False,
    ) -> bool:
        """Score watched examples. Return False if a request came in between: it must not wait for the rest.

        Args:
            chosen: indices of the examples.
            patient: whether to give way to requests. The ranks of several processes must stay together, so they do not.
            last: whether no batch follows.
        """
        if state.global_step == self._last_step or not self.trainer.needs & {"standard", "judge", "hold"}:
            return True
        assert model is not None, "Trainer passes the model to each callback"
        assert self.budget is not None
        start = time.monotonic()
        gives_way = patient and self.trainer.args.world_size == 1
        pad, plan = self.trainer.builder.pad_token_id, self.trainer.builder.plan
        scheme, settings = self.trainer.scheme, self.trainer.saliency
        found: dict[int, Scored] = {}
        with evaluating(model):  # once, and not for each example
            for index in chosen:
                if found and gives_way and self.trainer.steering.has_requests():
                    self.seconds += time.monotonic() - start
                    return False
                found[index] = score_with_alternatives(
                    model,
                    self.watched[index],
                    pad,
                    scheme,
                    settings,
                    plan,
                    self.trainer.processing_class,
                    self.trainer.kept,
                )
                self.budget.spend(index)
        self._unseen -= found.keys()
        cost = time.monotonic() - start
        self._last_cost = cost * len(self.watched) / len(found)  # of a scoring of all examples
        self.seconds += cost
        found = self._first | found  # a training may end before its first batch
        if len(found) == len(self.watched):
            self._last_step = state.global_step
        if len(found) == len(self.watched) or last:
            self._submit(state.global_step, state, found)
        else:
            self._first = found  # the first batch adds its own scores to them
        return True

    def _submit(self, step: int, state: TrainerState, found: dict[int, Scored]) -> None:
        """Write a snapshot of the examples that have scores."""
        if not state.is_world_process_zero:
            return
        pairs = [found.get(index, (None, None)) for index in range(len(self.watched))]
        alone = step == self._last_step
        settings = self.trainer.saliency
        snapshot = Snapshot(
            step=step,
            epoch=float(state.epoch or 0),
            scheme=self.trainer.scheme.name,
            settings={name: getattr(settings, name) for name in settings.__dataclass_fields__},
            tag_names=TAG_NAMES,
            scores=[scores for scores, _ in pairs],
            whole=alone,
            alternatives=[said for _, said in pairs] if any(said for _, said in pairs) or alone else None,
        )
        self._writer.submit(lambda: self.run.store_snapshot(snapshot))


def score_alone(
    model: torch.nn.Module,
    example: EncodedExample,
    pad_token_id: int,
    scheme: Scheme,
    settings: Any,
    plan: Plan | None = None,
) -> TokenScores:
    """Score an example in eval mode under every condition that the scheme needs, and weigh its tokens.

    The example is scored alone, at its own length, because the padding of a batch would change a bf16 score.

    Args:
        plan: see `Scheme.plan`.
    """
    needs = scheme.needs(settings)
    return _scored(model, example, BatchBuilder(pad_token_id, needs=needs, plan=plan), scheme, settings, needs)[0]


def score_with_alternatives(
    model: torch.nn.Module,
    example: EncodedExample,
    pad_token_id: int,
    scheme: Scheme,
    settings: Any,
    plan: Plan | None,
    tokenizer: PreTrainedTokenizerBase,
    kept: KeptConditions | None = None,
) -> tuple[TokenScores, Alternatives | None]:
    """Score an example as `score_alone` does. Also return what else the models would say at touched tokens.

    Args:
        kept: the scores that training uses, if it does not score the conditions at each step.
    """
    needs, live = scheme.needs(settings), kept is None or kept.live
    needs = needs | {"logits"} if "hold" in needs and scheme.strikes and live else needs
    builder = BatchBuilder(pad_token_id, needs=needs, plan=plan, live=live)
    known = kept.known(builder, [example]) if kept else None
    scores, scored = _scored(model, example, builder, scheme, settings, needs, known)
    return scores, alternatives(model, example, scores, scored, tokenizer)


@torch.no_grad()
def _scored(
    model: torch.nn.Module,
    example: EncodedExample,
    builder: BatchBuilder,
    scheme: Scheme,
    settings: Any,
    needs: frozenset[str],
    known: dict[str, Tensor] | None = None,
) -> tuple[TokenScores, ScoredBatch]:
    device = next(model.parameters()).device
    features = {name: tensor.to(device) for name, tensor in (builder([example]) | (known or {})).items()}
    with evaluating(model):
        scored = score_batch(model, builder.batch(features), needs)
    weights = scheme.weigh(scored.conditions, settings)
    packed = _packed(scored.conditions, weights, 0, len(example.completion))
    signal = scheme.signal(weights, scored, settings)
    if signal is None and known:  # the weights give it by the scores of now, and a reader has those of before
        pushed = weights.likelihood * scored.logp + weights.unlikelihood * scored.log1mp
        signal = -pushed / scored.lengths[:, None]
    scores = _unpacked(packed.cpu().numpy(), needs, example, scored.conditions.current is None)
    if signal is not None:
        scores = replace(scores, signal=signal[0, : len(example.completion)].float().cpu().numpy())
    return scores, scored


def _packed(conditions: ConditionLogprobs, weights: TokenWeights, row: int, length: int) -> Tensor:
    """Pack one sample's values into one float32 tensor (length, 7 or 24), which needs only one transfer."""
    columns = [
        conditions.base,
        conditions.base if conditions.standard is None else conditions.standard,
        conditions.base if conditions.judge is None else conditions.judge,
        weights.likelihood,
        weights.unlikelihood,
        weights.tag,
        conditions.base if conditions.current is None else conditions.current,
    ]
    stacked = torch.stack([column[row, :length].detach().float() for column in columns], 1)
    if conditions.band is None:
        return stacked
    return torch.cat([stacked, conditions.band[row, :length].float()], 1)


def _to_arrays(packed: dict[int, Tensor]) -> dict[int, NDArray[np.float32]]:
    if not packed:
        return {}
    whole = torch.cat(list(packed.values())).cpu().numpy()
    ends = np.cumsum([len(tensor) for tensor in packed.values()])[:-1]
    return dict(zip(packed, np.split(whole, ends), strict=True))


def _unpacked(array: NDArray[np.float32], needs: frozenset[str], example: EncodedExample, live: bool) -> TokenScores:
    base, standard, judge, likelihood, unlikelihood, tag, now = np.ascontiguousarray(array[:, :7].T)
    return TokenScores(
        base=base,
        standard=standard if "standard" in needs else None,
        judge=judge if "judge" in needs and not example.label else None,
        likelihood=likelihood,
        unlikelihood=unlikelihood,
        tag=tag.astype(np.uint8),
        band=array[:, 7:].astype(np.float16) if array.shape[1] > 7 else None,
        current=None if live else now,
    )


def choose_watched(examples: list[Example], count: int, ids: Sequence[str] = ()) -> list[int]:
    """Choose the examples to watch: the named ones, then equally many wrong and right ones, the first in the file.

    If there are too few of one label, take more of the other.

    Args:
        count: total number of examples, unless `ids` has more.

    Raises:
        UserError: no example has an id of `ids`.
    """
    places = {str(example.id): place for place, example in enumerate(examples)}
    unknown = [name for name in ids if name not in places]
    if unknown:
        raise UserError(f"--watch_ids {' '.join(unknown)}: no example has this id.\n  Give ids of the file's examples.")
    named = {places[name] for name in ids}
    count = max(0, count - len(named))
    wrong = [i for i, e in enumerate(examples) if not e.label and i not in named]
    right = [i for i, e in enumerate(examples) if e.label and i not in named]
    halves = min(len(right), count - min(len(wrong), (count + 1) // 2))
    return sorted([*named, *wrong[: count - halves], *right[:halves]])


def watched_example(example: Example, encoded: EncodedExample, tokenizer: PreTrainedTokenizerBase) -> WatchedExample:
    """Convert an example to the form that the map shows."""
    return WatchedExample(
        id=example.id,
        label=example.label,
        prompt=prompt_text(example.prompt),
        answer=example.answer,
        feedback=example.feedback,
        judgment=example.judgment,
        tokens=(tokens := token_texts(tokenizer, encoded.completion)),
        replacements={str(span.end - 1): span.replace for span in encoded.spans if span.replace is not None},
        spans=[[span.start, span.end] for span in encoded.spans],
        quotes=quote_links({"judgment": example.judgment, "feedback": example.feedback}, tokens),
    )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """Return the text that each token adds to the text before it. Joined, the texts are the completion.

    A character of several byte-level tokens belongs to the token that completes it.
    """
    texts: list[str] = []
    shown = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        whole = len(text) if end == len(ids) else len(text.rstrip("\ufffd"))
        texts.append(text[shown : max(shown, whole)])
        shown = max(shown, whole)
    return texts
