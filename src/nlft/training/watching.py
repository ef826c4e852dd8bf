"""Choose the watched examples, score their tokens during training, and write the scores."""

import queue
import threading
import time
import warnings
from collections.abc import Callable, Sequence
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
from nlft.core.saliency import TAG_NAMES, ConditionLogprobs, TokenWeights
from nlft.core.schemes.scheme import Scheme
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample
from nlft.training.said_instead import Alternatives, alternatives

WAITING = 16  # maximum number of snapshots that wait for the disk
LAST_WAIT_SECONDS = 10.0  # maximum wait for the disk after training


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Scores the watched examples before the first step, at regular steps, and after the last step.

    These are the model's scores at that step under every condition, in eval mode and without gradient. They need
    separate forward passes, and `seconds` is the total time of these passes. At the other steps, `collect` keeps the
    scores of watched examples that are in the training batch. A scheme that reads neither standard nor judge gives no
    scores to show.

    Between start and end, a scoring waits until it and the one at the end fit into `watch_share` of the time so far.
    So the sum of all scorings is within the share, unless start and end alone exceed it in a short training. The clock
    decides only when to score: scoring draws no random numbers and changes no batch and no weight.
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
        self._last_step = -1
        self._in_batch.clear()
        self.seconds, self._began, self._ended, self._due = 0.0, time.monotonic(), None, False
        if state.is_world_process_zero:
            self._writer.submit(lambda: self.run.write_watched(self.shown))
        self._score_all(state, model)

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
        if self._due and self.trainer.steering.from_main(self._may_score):
            self._due = not self._score_all(state, model, patient=True)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **_: Any,
    ) -> None:
        self._score_all(state, model)
        self._ended = time.monotonic()
        self._writer.finish()

    @property
    def training_seconds(self) -> float:
        """Seconds since the training began, without pauses, with the scorings."""
        return (time.monotonic() if self._ended is None else self._ended) - self._began

    def add_pause(self, seconds: float) -> None:
        """Exclude a pause from the training's time."""
        self._began += seconds

    def _may_score(self) -> bool:
        """Return whether a scoring now, and the one at the end, fit into the share, and no request waits."""
        share = self.trainer.args.watch_share
        fits = self.seconds + 2 * self._last_cost <= share * self.training_seconds
        return bool(share and (fits or share == 1)) and not self.trainer.steering.has_requests()

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
        """Write the scores from the step's batches. They are the model's scores before the step."""
        found, self._in_batch = self._in_batch, {}
        step, arrays = state.global_step - 1, _to_arrays(found)
        if self.trainer.args.world_size > 1:  # each example is in one rank's batch, and only the main process writes
            arrays = {index: array for part in gather_object([arrays]) for index, array in part.items()}
        if not arrays or step == self._last_step or not state.is_world_process_zero:
            return
        needs = self.trainer.needs
        scores = [
            _unpacked(arrays[index], needs, example) if index in arrays else None
            for index, example in enumerate(self.watched)
        ]
        self._submit(step, state, scores, whole=False)

    def _score_all(self, state: TrainerState, model: torch.nn.Module | None, *, patient: bool = False) -> bool:
        """Score all watched examples. Return False if a request came in between: it must not wait for the rest.

        Args:
            patient: whether to give way to requests. The ranks of several processes must stay together, so they do not.
        """
        if state.global_step == self._last_step or not self.trainer.needs & {"standard", "judge", "hold"}:
            return True
        assert model is not None, "Trainer passes the model to each callback"
        start = time.monotonic()
        gives_way = patient and self.trainer.args.world_size == 1
        pad, plan = self.trainer.builder.pad_token_id, self.trainer.builder.plan
        scheme, settings = self.trainer.scheme, self.trainer.saliency
        found: list[tuple[TokenScores, Alternatives | None]] = []
        with evaluating(model):  # once, and not for each example
            for example in self.watched:
                if found and gives_way and self.trainer.steering.has_requests():
                    self.seconds += time.monotonic() - start
                    return False
                found.append(
                    score_with_alternatives(model, example, pad, scheme, settings, plan, self.trainer.processing_class)
                )
        self._last_step = state.global_step
        if state.is_world_process_zero:
            said = [alternatives for _, alternatives in found]
            self._submit(state.global_step, state, [scores for scores, _ in found], whole=True, said=said)
        self._last_cost = time.monotonic() - start
        self.seconds += self._last_cost
        return True

    def _submit(
        self,
        step: int,
        state: TrainerState,
        scores: Sequence[TokenScores | None],
        *,
        whole: bool,
        said: list[Alternatives | None] | None = None,
    ) -> None:
        settings = self.trainer.saliency
        snapshot = Snapshot(
            step=step,
            epoch=float(state.epoch or 0),
            scheme=self.trainer.scheme.name,
            settings={name: getattr(settings, name) for name in settings.__dataclass_fields__},
            tag_names=TAG_NAMES,
            scores=list(scores),
            whole=whole,
            alternatives=said,
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
) -> tuple[TokenScores, Alternatives | None]:
    """Score an example as `score_alone` does. Also return what else the models would say at touched tokens."""
    needs = scheme.needs(settings)
    needs = needs | {"logits"} if "hold" in needs and scheme.strikes else needs
    builder = BatchBuilder(pad_token_id, needs=needs, plan=plan)
    scores, scored = _scored(model, example, builder, scheme, settings, needs)
    return scores, alternatives(model, example, scores, scored, tokenizer)


@torch.no_grad()
def _scored(
    model: torch.nn.Module,
    example: EncodedExample,
    builder: BatchBuilder,
    scheme: Scheme,
    settings: Any,
    needs: frozenset[str],
) -> tuple[TokenScores, ScoredBatch]:
    device = next(model.parameters()).device
    features = {name: tensor.to(device) for name, tensor in builder([example]).items()}
    with evaluating(model):
        scored = score_batch(model, builder.batch(features), needs)
    weights = scheme.weigh(scored.conditions, settings)
    packed = _packed(scored.conditions, weights, 0, len(example.completion))
    signal = scheme.signal(weights, scored, settings)
    scores = _unpacked(packed.cpu().numpy(), needs, example)
    if signal is not None:
        scores = replace(scores, signal=signal[0, : len(example.completion)].float().cpu().numpy())
    return scores, scored


class BackgroundWriter:
    """Writes in a separate thread, in order. Training never waits for the disk. All disk errors give one warning."""

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(waiting)
        self._thread: threading.Thread | None = None
        self._trouble: OSError | None = None
        self._dropped = 0
        self._warned = False

    def submit(self, write: Callable[[], None]) -> None:
        """Call `write` soon in the thread, or never if too many writes are waiting.

        `write` may raise only OSError. A later call warns of the error.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="saliency map", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(write)
        except queue.Full:
            self._dropped += 1
        self._tell()

    def finish(self, seconds: float = LAST_WAIT_SECONDS) -> None:
        """Wait until everything is written, but at most this many seconds."""
        until = time.monotonic() + seconds
        while self._queue.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)
        self._dropped += self._queue.unfinished_tasks
        if self._thread is not None and not self._queue.unfinished_tasks:
            self._queue.put(None)
            self._thread = None
        self._tell()

    def _work(self) -> None:
        while (write := self._queue.get()) is not None:
            try:
                write()
            except OSError as error:
                self._trouble = error
            finally:
                self._queue.task_done()
        self._queue.task_done()

    def _tell(self) -> None:
        if self._warned or not (self._trouble or self._dropped):
            return
        self._warned = True
        why = str(self._trouble) if self._trouble else "the disk is too slow for it"
        warnings.warn(f"could not write all of the saliency map: {why}; training goes on.", stacklevel=3)


def _packed(conditions: ConditionLogprobs, weights: TokenWeights, row: int, length: int) -> Tensor:
    """Pack one sample's values into one float32 tensor (length, 6 or 23), which needs only one transfer."""
    columns = [
        conditions.base,
        conditions.base if conditions.standard is None else conditions.standard,
        conditions.base if conditions.judge is None else conditions.judge,
        weights.likelihood,
        weights.unlikelihood,
        weights.tag,
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


def _unpacked(array: NDArray[np.float32], needs: frozenset[str], example: EncodedExample) -> TokenScores:
    base, standard, judge, likelihood, unlikelihood, tag = np.ascontiguousarray(array[:, :6].T)
    return TokenScores(
        base=base,
        standard=standard if "standard" in needs else None,
        judge=judge if "judge" in needs and not example.label else None,
        likelihood=likelihood,
        unlikelihood=unlikelihood,
        tag=tag.astype(np.uint8),
        band=array[:, 6:].astype(np.float16) if array.shape[1] > 6 else None,
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
        tokens=token_texts(tokenizer, encoded.completion),
        replacements={str(span.end - 1): span.replace for span in encoded.spans if span.replace is not None},
        spans=[[span.start, span.end] for span in encoded.spans],
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
