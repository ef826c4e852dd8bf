"""What a run writes and shows while it trains: events, progress, watched examples, and the adapter at its end."""

import time
from datetime import UTC, datetime
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import ScoredBatch, evaluating, score_batch
from nlft.core.conditions import EncodedExample, prompt_text
from nlft.core.saliency import TAG_NAMES, TokenWeights
from nlft.core.schemes import Scheme
from nlft.data.records import Example
from nlft.progress import progress
from nlft.training.run_dir import RunDir, Snapshot, TokenScores, WatchedExample, write_whole


class RunDirCallback(TrainerCallback):  # type: ignore[misc]
    """events.jsonl as training goes, and adapter/ with a model card when it is done."""

    def __init__(self, run: RunDir, settings: dict[str, Any], card: str) -> None:
        """
        Args:
            settings: what run.yaml records.
            card: the model card, Markdown with its front matter.
        """
        self.run = run
        self.settings = settings
        self.card = card
        self.trainer: Any = None  # set by whoever owns both; saving needs all ranks

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._start, self._first_step = time.monotonic(), state.global_step
        if state.is_world_process_zero:
            self.run.write_settings(self.settings)
            self.run.start_events(state.global_step or None)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None:
            return
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        eta = (time.monotonic() - self._start) / done * left if done else None
        event = {"step": state.global_step, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        self.run.append_event({**event, **logs, "eta_seconds": eta})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer.save_model(str(self.run.adapter_path))
        if state.is_world_process_zero:
            write_whole(self.run.adapter_path / "README.md", self.card.encode())


class ProgressLine(TrainerCallback):  # type: ignore[misc]
    """One bar for the whole training, with the last loss and the time left."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        shown = state.is_world_process_zero and not args.disable_tqdm
        self._bar = progress("training", state.max_steps, "step", disable=not shown)
        self._bar.update(state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        shown = {"loss": "loss", "nlft/salient_fraction": "salient", "eval_loss": "eval_loss"}
        found = {name: f"{logs[key]:.3g}" for key, name in shown.items() if logs and key in logs}
        if found:
            self._bar.set_postfix(found, refresh=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._bar.close()


class WatchCallback(TrainerCallback):  # type: ignore[misc]
    """Scores the watched examples before the first step, every `every` steps, and after the last one.

    The scores are the model's at that step under every condition, in eval mode and without gradient; they cost
    forward passes of their own, whose time `seconds` adds up.
    """

    def __init__(
        self,
        run: RunDir,
        builder: BatchBuilder,
        scheme: Scheme,
        settings: Any,
        watched: list[EncodedExample],
        every: int,
    ) -> None:
        self.run, self.builder, self.watched, self.every = run, builder, watched, every
        self.scheme, self.settings = scheme, settings
        self.seconds = 0.0
        self._last_step = -1

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        self._write(state, model)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        if self.every and state.global_step % self.every == 0:
            self._write(state, model)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        self._write(state, model)

    def _write(self, state: TrainerState, model: Any) -> None:
        if state.global_step == self._last_step:
            return
        start = time.monotonic()
        self._last_step = state.global_step
        scores = [self._score(model, example) for example in self.watched]
        if state.is_world_process_zero:
            settings = {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__}
            self.run.write_snapshot(
                Snapshot(
                    step=state.global_step,
                    epoch=float(state.epoch or 0),
                    scheme=self.scheme.name,
                    settings=settings,
                    tag_names=TAG_NAMES,
                    scores=scores,
                )
            )
        self.seconds += time.monotonic() - start

    @torch.no_grad()
    def _score(self, model: Any, example: EncodedExample) -> TokenScores:
        # Alone, at its own length: another batch's padding would move a bf16 score.
        device = next(model.parameters()).device
        features = {name: tensor.to(device) for name, tensor in self.builder([example]).items()}
        batch = self.builder.batch(features)
        with evaluating(model):
            scored = score_batch(model, batch, self.builder.needs)
        return _token_scores(example, scored, self.scheme.weigh(scored.conditions, self.settings))


def _token_scores(example: EncodedExample, scored: ScoredBatch, weights: TokenWeights) -> TokenScores:
    def array(tensor: torch.Tensor | None) -> Any:
        return None if tensor is None else tensor[0].cpu().numpy()

    conditions = scored.conditions
    return TokenScores(
        base=array(conditions.base.float()),
        standard=array(conditions.standard),
        judge=None if example.label else array(conditions.judge),
        likelihood=array(weights.likelihood.float()),
        unlikelihood=array(weights.unlikelihood.float()),
        tag=array(weights.tag),
        band=array(conditions.band),
    )


def choose_watched(examples: list[Example], count: int) -> list[int]:
    """Which examples to watch: wrong and right ones in turn as they come in the file, `count` in all."""
    wrong = [i for i, e in enumerate(examples) if not e.label]
    right = [i for i, e in enumerate(examples) if e.label]
    halves = min(len(right), count - min(len(wrong), (count + 1) // 2))
    return sorted([*wrong[: count - halves], *right[:halves]])


def watched_example(example: Example, encoded: EncodedExample, tokenizer: Any) -> WatchedExample:
    return WatchedExample(
        id=example.id,
        label=example.label,
        prompt=prompt_text(example.prompt),
        answer=example.answer,
        judgment=example.judgment,
        tokens=token_texts(tokenizer, encoded.completion),
    )


def token_texts(tokenizer: Any, ids: list[int]) -> list[str]:
    """Each token as it adds to the text so far; joined they read as the completion.

    A character of several byte-level tokens is shown at the token that completes it.
    """
    texts: list[str] = []
    shown = 0
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        whole = len(text) if end == len(ids) else len(text.rstrip("\ufffd"))
        texts.append(text[shown : max(shown, whole)])
        shown = max(shown, whole)
    return texts
