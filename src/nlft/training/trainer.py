"""NLFTTrainer: transformers' Trainer with the loss of Natural Language Fine-Tuning."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from nlft.config import override
from nlft.core.base_below import refuse_leak
from nlft.core.batches import counts_of
from nlft.core.beginnings import shares_beginnings
from nlft.core.condition_scores import ScoredBatch, is_noisy, score_batch
from nlft.core.conditions import ConditionEncoder, EncodedExample
from nlft.core.limits import limits_of
from nlft.core.loss import LossPart, above_and_below, windows_of
from nlft.core.schemes.registry import DEFAULT_SCHEME, scheme_of, usable_schemes
from nlft.core.strikes import StrikePlan
from nlft.data.encoding import check_targets, condition_readers, encode_examples
from nlft.data.records import Example, as_examples
from nlft.data.training_file import data_fingerprint
from nlft.errors import UserError
from nlft.models.loading import ModelSettings, default_lora, load_model, load_tokenizer, wrap_to_score
from nlft.progress import note
from nlft.runs.run_dir import RunDir
from nlft.training.batching import KeepingBuilder
from nlft.training.callbacks import RunDirCallback, show_own_progress
from nlft.training.checkpoints import SafeCheckpoints
from nlft.training.divergence import StopsWhenDiverged
from nlft.training.guards import Guards
from nlft.training.honoured import refuse_float16, refuse_idle_scheme, refuse_unfit
from nlft.training.kept_conditions import KeptConditions, refuse_unkept
from nlft.training.pivots import NOT_CHOSEN, restore_pivots, settle_pivots, store_pivots
from nlft.training.prompting import training_encoder
from nlft.training.run_record import base_name, run_record
from nlft.training.settings import NLFTOptions
from nlft.training.sharding import check_start
from nlft.training.steering import Steering
from nlft.training.step_start import own_random_numbers
from nlft.training.striking import StrikeDose, strike_sampler, struck_lines, struck_record
from nlft.training.token_log import LogsSums
from nlft.training.tracking import follow_with_trackio
from nlft.training.watching import WatchCallback, choose_watched, watched_example


@dataclass
class NLFTConfig(NLFTOptions, TrainingArguments):  # type: ignore[misc]
    """Settings of a training run. The scheme's own settings are in the trainer's `saliency`."""

    remove_unused_columns: bool = override(TrainingArguments, "remove_unused_columns", False)
    logging_nan_inf_filter: bool = override(TrainingArguments, "logging_nan_inf_filter", False)


class NLFTTrainer(LogsSums, StopsWhenDiverged, SafeCheckpoints):
    """Trains a causal LM on examples with written feedback.

    The `output_dir` becomes a run directory: run.yaml, events.jsonl, controls.jsonl, saliency/, checkpoints/, adapter/.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | PeftModel,
        args: NLFTConfig | None = None,
        train_dataset: Iterable[Example | Mapping[str, Any]] | None = None,
        eval_dataset: Iterable[Example | Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | Literal["default"] | None = "default",
        saliency: object = DEFAULT_SCHEME,
    ) -> None:
        """
        Args:
            model: a model, bare or with a PEFT adapter to continue training; or a model's name.
            train_dataset, eval_dataset: examples, or rows with the fields of examples, such as a `datasets.Dataset`.
            processing_class: the tokenizer; by default, the one with the model's name is loaded.
            peft_config: the adapter to add. By default the paper's LoRA, unless the model has an adapter already;
                None trains all weights.
            saliency: a scheme's name, its settings object, or a `Scheme`.

        Raises:
            UserError: the data, the settings or the model cannot be used.
        """
        args = args or NLFTConfig(output_dir="runs/nlft")
        check_start(args)
        if train_dataset is None:
            raise UserError("`train_dataset` is missing.\n  Give a list of examples, or a datasets.Dataset of them.")
        self.scheme, self.saliency = scheme_of(saliency)
        holds = "hold" in self.scheme.needs(self.saliency)
        refuse_unfit(args, held_out=eval_dataset is not None, strikes=self.scheme.strikes, holds=holds)
        refuse_idle_scheme(self.scheme, self.saliency)
        model, tokenizer = _prepare_model(model, processing_class, peft_config, args)
        refuse_float16(args, model)
        self.schemes = usable_schemes(self.scheme)
        self.examples = as_examples(train_dataset)
        encoder = training_encoder(tokenizer, args, limits_of(model))
        held_out_examples = None if eval_dataset is None else as_examples(eval_dataset)
        train, held_out = self._encode(encoder, args, held_out_examples)
        share = args.scores_live and shares_beginnings(model)
        self.builder = KeepingBuilder(
            tokenizer, train, answers=args.answer_weight > 0, live=args.scores_live, share=share
        )
        refuse_unkept(self.scheme, self.saliency, model, args.condition_logprobs)
        if holds:
            refuse_leak(model, f"The scheme {self.scheme.name}")
        self._dose: StrikeDose | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=self.builder,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # `compute_loss` divides by the whole window itself. `sample` cannot use Trainer's own count of label tokens.
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        self._noisy = bool(args.neftune_noise_alpha) or is_noisy(model)
        self.start_sums()
        self._held_out = torch.zeros(2, 2, device=args.device)
        self._watch: WatchCallback | None = None
        self._follow(encoder, train, (held_out_examples or [], held_out or []))

    def _encode(
        self, encoder: ConditionEncoder, args: NLFTConfig, held_out: list[Example] | None
    ) -> tuple[list[EncodedExample], list[EncodedExample] | None]:
        """Return the encoded examples, and the held-out ones if there are any."""
        readers = condition_readers(self.scheme.name, self.scheme.needs(self.saliency))
        train = encode_examples(self.examples, encoder, **readers)
        check_targets(train, args.answer_weight)
        return train, None if held_out is None else encode_examples(held_out, encoder, **readers)

    def _follow(
        self,
        encoder: ConditionEncoder,
        train: list[EncodedExample],
        held_out: tuple[list[Example], list[EncodedExample]],
    ) -> None:
        """Make the scheme's plan. Add the callbacks for progress, the run directory, requests, watched examples."""
        pivots = None
        if "pivots" in self.scheme.needs(self.saliency):
            pivots = settle_pivots(self, encoder, [(self.examples, train), held_out])
        self.builder.use(self.scheme, self.saliency)
        self._progress = show_own_progress(self)
        run = RunDir(self.args.output_dir)
        self.record = run_record(
            self.args, self.model, self.scheme, self.saliency, self.examples, train, self.schemes, self._unavailable()
        )
        self.record |= {} if pivots is None else {"pivots": pivots}
        self.record |= {"held_out": {"sha256": data_fingerprint(held_out[0])}} if held_out[0] else {}
        self.recorder = RunDirCallback(run, self.record)
        self.recorder.trainer = self
        self.add_callback(self.recorder)
        self.steering = Steering(run, self, self.record)
        self.add_callback(self.steering)
        self.kept = KeptConditions(self, train, held_out[1])
        self.add_callback(self.kept)
        self._follow_strikes()
        watched = choose_watched(self.examples, self.args.watch, self.args.watch_ids or [])
        if watched:
            shown = [watched_example(self.examples[i], train[i], encoder.tokenizer) for i in watched]
            self._watch = WatchCallback(run, self, [train[i] for i in watched], shown)
            self.add_callback(self._watch)
        self.add_callback(Guards(self, self.args.guard))
        follow_with_trackio(self, run)

    def _unavailable(self) -> dict[str, str]:
        """Return the controls that this run cannot offer, each with the reason."""
        found = {} if self.eval_dataset is not None else {"evaluate": "this run has no held-out examples"}
        if self.is_deepspeed_enabled:
            found["learning_rate"] = "under DeepSpeed the engine steps the optimizer, out of reach"
        if "pivots" not in self.scheme.needs(self.saliency):
            found["saliency.pivot=contrast"] = NOT_CHOSEN
        return found

    @property
    def watch_seconds(self) -> float:
        """Seconds that scoring the watched examples has taken so far."""
        return self._watch.seconds if self._watch else 0.0

    @property
    def training_seconds(self) -> float:
        """Seconds that the training has taken so far, without pauses; 0 if no example is watched."""
        return self._watch.training_seconds if self._watch else 0.0

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """Return the window's micro-batches. Count the loss's divisor over all of them and over all ranks."""
        if self.control.should_training_stop:  # a stop was requested before the first step
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        # One batch was made before the last step. Another scheme may have become active since then.
        batches = [self._as_needed(batch) for batch in batches]
        if batches:
            counts = torch.stack([counts_of(b) for b in batches]).sum(0).to(device)
            self._windows = windows_of(self.accelerator.reduce(counts, "sum"))
        return batches, items

    def use_scheme(self, name: str, settings: dict[str, Any]) -> None:
        """From the next step on, weigh tokens by another scheme or with other settings."""
        self.scheme = self.schemes[name]
        self.saliency = self.scheme.settings(**settings)
        self.builder.use(self.scheme, self.saliency)
        self._follow_strikes()

    def _follow_strikes(self) -> None:
        """Follow what is struck, so that `stop_below` counts. A run may change to `strike` while it trains."""
        if self._dose is None and isinstance(self.builder.plan, StrikePlan):
            struck = struck_record(self.builder.plan, self.builder.examples)
            self.record["struck"] = struck
            if self.is_world_process_zero() and (lines := struck_lines(struck)):
                note("\n".join(lines))
            self._dose = StrikeDose(self, self.builder.examples, self.builder.plan)
            self._dose.restore()
            self.add_callback(self._dose)
        elif self._dose is not None and isinstance(self.builder.plan, StrikePlan):
            self._dose.follow(self.builder.examples, self.builder.plan)

    def before_first_step(self, *, resumes: bool) -> None:
        self.kept.before_first_step(resumes=resumes)

    @property
    def needs(self) -> frozenset[str]:
        """The conditions and states that the active scheme reads, see `Scheme.needs`."""
        return self.builder.needs

    def evaluate_now(self) -> None:
        """Log the loss on the held-out examples."""
        with own_random_numbers():
            self.evaluate()

    def show_pause(self, seconds: float | None) -> None:
        """Show that the run is paused (None), or that it continues after a pause of `seconds`."""
        self._progress.show_pause(seconds is None)
        if seconds is not None:
            self.recorder.add_pause(seconds)
            if self._watch:
                self._watch.add_pause(seconds)
            self._logged_at = (self._logged_at[0] + seconds, self._logged_at[1])

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            self.steering.take_requests(self.state.global_step + 1)

    def _get_learning_rate(self) -> float:
        return float(super()._get_learning_rate()) * self.steering.factor

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            restore_pivots(self, Path(checkpoint))

    def _add_to_checkpoint(self, folder: Path) -> None:
        store_pivots(self, folder)
        self.kept.write(folder)
        self.steering.write_checkpoint(folder)
        if self._dose:
            self._dose.write(folder)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        plan = self.builder.plan
        if not isinstance(plan, StrikePlan):
            return super()._get_train_sampler(train_dataset)
        return strike_sampler(plan, self.train_dataset, self.args, self.args.world_size)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        training = model.training
        batch = self.builder.batch(inputs)
        extra = self.scheme.extra_loss(self.saliency)
        scored = score_batch(
            model,
            batch,
            self.needs,
            noisy=training and self._noisy,
            choose=extra.choose if extra else None,
        )
        weights = self.scheme.weigh(scored.conditions, self.saliency)
        losses = self.scheme.losses(weights, scored, self.saliency)
        made = {f"nlft/{name}_loss": LossPart(part, scored.lengths) for name, part in losses.parts.items()}
        if extra and scored.extra_losses is not None:
            made[f"nlft/{extra.name}_loss"] = LossPart(scored.extra_losses, scored.lengths, extra.weight)
        if scored.answer_logp is not None and scored.answer_lengths is not None:
            answers = -scored.answer_logp.sum(1)
            made["nlft/answer_loss"] = LossPart(answers, scored.answer_lengths, self.args.answer_weight, True)
        windows = self._windows if training else windows_of(counts_of(inputs).to(batch.label.device))
        parts = {name: part.normalized(windows, self.args.loss_normalization) for name, part in made.items()}
        if not training:
            self._add_held_out(above_and_below(made.values(), self.args.loss_normalization).detach())
        loss = torch.stack(list(parts.values())).sum()
        self._record("train" if training else "eval", loss, parts, scored, weights, inputs)
        if training and self._dose and scored.held:
            self._dose.collect(inputs["examples"], scored.held)
        if training and self._watch and self.args.watch_batches:
            self._watch.collect(inputs["examples"], scored.conditions, weights)
        if training:
            loss = loss * self.accelerator.num_processes  # DDP takes the mean over ranks, but the window has the sum
        return (loss, {}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(self._as_needed(inputs))).detach(), None, None

    def _add_held_out(self, rows: Tensor) -> None:
        """Add what a batch's samples have above and below the line. Leave out those that fill the last batch up."""
        rows = self.accelerator.gather_for_metrics(self.accelerator.pad_across_processes(rows.float()))
        self._held_out = self._held_out + rows.sum(0)

    def evaluation_loop(self, dataloader: Any, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Evaluate. The loss is that of all held-out examples together; Trainer's is a mean of its batches' losses."""
        self.kept.before_evaluation(dataloader.dataset)
        self._held_out = torch.zeros(2, 2, device=self.args.device)
        self._metrics["eval"].clear()  # of an evaluation that was broken off
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        above, below = self._held_out.unbind(1)
        if below.any():
            output.metrics[f"{metric_key_prefix}_loss"] = float((above / below.clamp(min=1)).sum())
        return output

    def _as_needed(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch, with scores that are kept. Build it again if it was built for another scheme."""
        fits = batch["built_for"] == self.builder.built_for
        return self.kept.attach(batch if fits else self.builder(batch["examples"]))

    def _record(
        self,
        mode: str,
        loss: Tensor,
        parts: dict[str, Tensor],
        scored: ScoredBatch,
        weights: Any,
        inputs: Any,
    ) -> None:
        """Add to the sums that `log` divides. Do not wait for the device."""
        mask, wrong = scored.conditions.mask, ~scored.conditions.label
        one = torch.zeros_like(loss)  # `log` replaces it with the number of steps
        new = {
            "loss": (loss.detach(), one),
            **{name: (value.detach(), one) for name, value in parts.items()},
            "mean_token_accuracy": ((scored.top1 & scored.trained).sum(), scored.trained.sum()),
            "nlft/salient_fraction": (weights.salient.sum(), mask.sum()),
            "nlft/gated_fraction": (weights.gated.sum(), wrong.sum()),
            "num_tokens": (inputs["attention_mask"].sum(), one),
        }
        self.add_sums(mode, new)

    def _means(self, totals: dict[str, list[float]], mode: str) -> dict[str, float]:
        struck = self._dose.metrics() if self._dose and mode == "train" else {}
        return {**super()._means(totals, mode), **struck}


def _prepare_model(
    model: str | PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | Literal["default"] | None,
    args: NLFTConfig,
) -> tuple[Any, Any]:
    """Return the model, with its adapter and able to score, and the tokenizer. Load what is given as a name."""
    torch.manual_seed(args.seed)  # the adapter's random start must follow the seed
    if isinstance(model, str):
        settings = ModelSettings(model_name_or_path=model)
        model = load_model(settings, trainable=True)
        tokenizer = tokenizer or load_tokenizer(settings)
    elif tokenizer is None:
        tokenizer = load_tokenizer(ModelSettings(model_name_or_path=base_name(model)))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if peft_config == "default":
        peft_config = None if isinstance(model, PeftModel) else default_lora(model)
    model = wrap_to_score(
        model, peft_config, chunk_bytes=args.logit_chunk_mib * 2**20, checkpoints=bool(args.activation_checkpointing)
    )
    return model, tokenizer
