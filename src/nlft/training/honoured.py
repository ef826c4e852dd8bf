"""What the trainers make of each of transformers' settings. A setting that would have no effect is refused.

Every field of TrainingArguments is in one of three tables. A test compares them with transformers. Imports no torch.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from nlft.config import is_set, shown_of
from nlft.core.schemes.scheme import Scheme
from nlft.errors import ConfigError, Problem
from nlft.training.json_settings import broken_json
from nlft.training.optim_args import keys_of, wrong_args

BASELINES = frozenset({"sft", "kto", "dpo", "reft"})
NLFT = frozenset({"nlft"})
METHODS = BASELINES | NLFT
EVALUATED = (
    *("loss", "mean_token_accuracy", "nlft/salient_fraction", "nlft/gated_fraction"),
    *("runtime", "samples_per_second", "steps_per_second"),
)
"""The metrics of an evaluation, without `eval_`."""

EVALUATION = frozenset({
    "eval_strategy", "eval_steps", "eval_delay", "per_device_eval_batch_size", "eval_on_start",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
})  # fmt: skip
"""Settings of the evaluation while a model trains. Only `nlft` has one."""

HONOURED = EVALUATION | {
    "per_device_train_batch_size", "num_train_epochs", "max_steps", "gradient_accumulation_steps",
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps",
    "optim", "optim_args", "optim_target_modules", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_grad_norm", "average_tokens_across_devices", "label_smoothing_factor", "neftune_noise_alpha",
    "bf16", "fp16", "tf32", "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "use_liger_kernel", "liger_kernel_config", "use_cache",
    "seed", "data_seed", "full_determinism",
    "train_sampling_strategy", "length_column_name", "dataloader_drop_last", "accelerator_config", "parallelism_config",
}  # fmt: skip
"""Settings that at least one method's loss or trainer follows. `REFUSALS` has the methods and cases that do not."""

ONLY_TRL = frozenset({
    "loss_type", "packing", "packing_strategy", "padding_free", "pad_to_multiple_of", "pad_token", "shuffle_dataset",
    "dataset_num_proc", "activation_offloading", "router_aux_loss_coef", "label_smoothing_factor",
    "torch_compile", "torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "parallelism_config",
})  # fmt: skip
"""Settings of `nlft sft` that only `--engine trl` follows."""

AROUND = frozenset({
    "output_dir", "resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint",
    "save_strategy", "save_steps", "save_total_limit", "save_on_each_node",
    "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node", "log_level", "log_level_replica",
    "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id",
    "trackio_static_space_id", "skip_memory_metrics", "debug",
    "use_cpu", "local_rank", "torch_empty_cache_steps", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers",
    "ddp_static_graph", "ddp_backend", "ddp_timeout", "fsdp", "fsdp_config", "deepspeed",
})  # fmt: skip
"""Settings of processes, files and logs, which are not the loss's business."""

NEVER = {
    "label_names": "nlft makes the batches, and their labels have fixed names",
    "remove_unused_columns": "nlft makes the rows, and they have no other columns",
    "prediction_loss_only": "an evaluation computes the loss alone in any case",
    "eval_do_concat_batches": "an evaluation keeps no predictions",
    "eval_use_gather_object": "an evaluation keeps no predictions",
    "eval_accumulation_steps": "an evaluation keeps no predictions",
    "include_for_metrics": "an evaluation computes no metrics from predictions",
    "batch_eval_metrics": "an evaluation computes no metrics from predictions",
    "bf16_full_eval": "an evaluation during training uses the training's data type",
    "fp16_full_eval": "an evaluation during training uses the training's data type",
    "include_num_input_tokens_seen": "each line of the log has num_tokens already",
    "logging_nan_inf_filter": "the training stops at the first loss that is not finite",
    "auto_find_batch_size": "the batch would depend on free memory, and no record would say which one was used",
    "save_only_model": "a checkpoint without the optimizer cannot be resumed, and adapter/ has the model",
    "enable_jit_checkpoint": "SIGTERM writes a checkpoint in any case, and this would take the signal away from nlft",
    "do_train": "the command or the call decides what is done",
    "do_eval": "the command or the call decides what is done",
    "do_predict": "the command or the call decides what is done",
    **dict.fromkeys(
        ("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push",
         "hub_revision"),
        "a run uploads nothing",
    ),
}  # fmt: skip
"""Settings that no method follows, each with the reason."""

_CURES = {
    "auto_find_batch_size": "Lower --per_device_train_batch_size and raise --gradient_accumulation_steps.",
    **{name: "Upload the adapter afterwards: hf upload OWNER/NAME RUN/adapter." for name in NEVER if "hub" in name},
}
_LEAVE_OUT = "Leave it out."
_NO_ADAM = ("sgd", "adagrad", "rmsprop", "adafactor")
_LAYERWISE = ("galore", "apollo")
_BY_LENGTH = ("group_by_length", "batch_rebalance")


@dataclass(frozen=True)
class Refusal:
    """A setting that has no effect, or a wrong one.

    Attributes:
        why: completes the sentence "--SETTING is VALUE, but".
        methods: for which methods.
        when: whether these arguments make it so. Only a value other than the default is refused.
    """

    setting: str
    why: str
    cure: str = _LEAVE_OUT
    methods: frozenset[str] = METHODS
    when: Callable[[Any], bool] = lambda _: True


def _without_eval(args: Any) -> bool:
    return _text(args.eval_strategy) == "no" and not args.eval_on_start


def _chooses_best(args: Any) -> bool:
    plateau = _text(args.lr_scheduler_type) in ("reduce_lr_on_plateau", "greedy")
    return bool(args.load_best_model_at_end) or _text(args.save_strategy) == "best" or plateau


def _fp16_without_gpu(args: Any) -> bool:
    import torch

    return bool(args.use_cpu) or not torch.accelerator.is_available()


REFUSALS = (
    Refusal("max_steps", "no step would be trained", "Give 1 or more, or leave it out for --num_train_epochs.",
            when=lambda a: a.max_steps == 0),
    Refusal("num_train_epochs", "nothing would be trained", "Give more than 0, or add --max_steps.",
            when=lambda a: a.num_train_epochs <= 0 and a.max_steps <= 0),
    Refusal("learning_rate", "nothing would be trained", "Give more than 0.", when=lambda a: a.learning_rate == 0),
    Refusal("warmup_learning_rate", "the warm-up would train nothing", "Give more than 0, or --sft_epochs 0.",
            frozenset({"reft"}), lambda a: a.warmup_learning_rate == 0),
    Refusal("sft_steps", "no step would be trained", "Use --sft_epochs 0 for no warm-up.", frozenset({"reft"}),
            lambda a: a.sft_steps == 0),
    Refusal("lr_scheduler_kwargs", "the schedule of --lr_scheduler_type reads none",
            when=lambda a: _text(a.lr_scheduler_type) in ("constant", "constant_with_warmup")),
    Refusal("gradient_checkpointing", "--activation_checkpointing, its newer name, says otherwise", "Leave one out.",
            when=lambda a: a.activation_checkpointing not in (None, a.gradient_checkpointing)),
    *(Refusal(name, why, _CURES.get(name, _LEAVE_OUT)) for name, why in NEVER.items() if name != "do_eval"),
    Refusal("do_eval", NEVER["do_eval"], when=_without_eval),  # transformers sets it for --eval_strategy
    *(Refusal(name, "this method evaluates nothing while it trains", "Use `nlft evaluate` afterwards.", BASELINES)
      for name in sorted(EVALUATION)),
    Refusal("save_strategy", "this method evaluates nothing while it trains, so no checkpoint is the best",
            "Choose epoch, steps or no.", BASELINES, lambda a: _text(a.save_strategy) == "best"),
    Refusal("eval_steps", "only --eval_strategy steps reads it", "Add --eval_strategy steps.", NLFT,
            lambda a: _text(a.eval_strategy) != "steps"),
    Refusal("eval_delay", "--eval_strategy is no", "Add --eval_strategy epoch.", NLFT, _without_eval),
    Refusal("load_best_model_at_end", "--save_strategy no writes no checkpoint to choose from",
            "Add --save_strategy epoch.", NLFT, lambda a: _text(a.save_strategy) == "no"),
    Refusal("metric_for_best_model", "no checkpoint is chosen by it", "Add --load_best_model_at_end true.",
            NLFT, lambda a: not _chooses_best(a)),
    Refusal("greater_is_better", "no checkpoint is chosen by a metric", "Add --load_best_model_at_end true.",
            NLFT, lambda a: not _chooses_best(a)),
    Refusal("save_steps", "only --save_strategy steps reads it", "Add --save_strategy steps.",
            when=lambda a: _text(a.save_strategy) != "steps"),
    Refusal("label_smoothing_factor", "the loss of nlft weighs the tokens that were written, without smoothing",
            "Leave it out, or use `nlft sft --engine trl`, which smooths labels.", NLFT),
    Refusal("label_smoothing_factor", "the loss of this method has no labels to smooth",
            methods=frozenset({"kto", "dpo", "reft"})),
    Refusal("label_smoothing_factor", "only --loss_type nll smooths labels", methods=frozenset({"sft"}),
            when=lambda a: a.engine == "trl" and a.loss_type != "nll"),
    Refusal("average_tokens_across_devices", "the loss of nlft divides by the tokens of all processes",
            methods=NLFT),
    Refusal("average_tokens_across_devices", "this method counts no tokens for it",
            methods=frozenset({"kto", "dpo", "reft"})),
    Refusal("torch_compile", "the scoring forward of nlft is not compiled",
            "Leave out torch_compile, torch_compile_backend and torch_compile_mode.", NLFT),
    *(Refusal(name, "the scoring forward of nlft is not compiled", methods=NLFT)
      for name in ("torch_compile_backend", "torch_compile_mode")),
    Refusal("use_liger_kernel", "nlft computes log-probabilities itself, and liger replaces that forward",
            methods=NLFT),
    Refusal("liger_kernel_config", "--use_liger_kernel is false", when=lambda a: not a.use_liger_kernel),
    Refusal("use_cache", "a training step reads no cache", methods=METHODS - {"reft"}),
    Refusal("fp16", "there is no GPU", "Leave it out, or choose another --dtype.",
            when=_fp16_without_gpu),
    Refusal("activation_checkpointing_kwargs", "--activation_checkpointing is false",
            when=lambda a: a.activation_checkpointing is False),
    Refusal("gradient_checkpointing_kwargs", "--activation_checkpointing is false",
            when=lambda a: a.activation_checkpointing is False),
    Refusal("train_sampling_strategy", "the rows of this method have no lengths to group by", "Choose random.",
            METHODS - {"sft"}, lambda a: _text(a.train_sampling_strategy) in _BY_LENGTH),
    Refusal("train_sampling_strategy", "TRL's GRPO orders its questions itself", "Use --shuffle_dataset false instead.",
            frozenset({"reft"}), lambda a: _text(a.train_sampling_strategy) not in _BY_LENGTH),
    Refusal("length_column_name", "the rows have no such column"),
    Refusal("parallelism_config", "the loss of nlft needs whole sequences in each process",
            methods=NLFT),
    Refusal("warmup_steps", "the schedule has no warm-up", "Use --lr_scheduler_type constant_with_warmup.",
            when=lambda a: _text(a.lr_scheduler_type) in ("constant", "reduce_lr_on_plateau", "greedy")),
    *(Refusal(name, "the optimizer of --optim does not read it", when=lambda a: _text(a.optim).startswith(_NO_ADAM))
      for name in ("adam_beta1", "adam_beta2", "adam_epsilon")),
    Refusal("optim_args", "the optimizer of --optim does not read it", when=lambda a: keys_of(_text(a.optim)) == ()),
    Refusal("optim_target_modules", "only GaLore and APOLLO read it",
            when=lambda a: not _text(a.optim).startswith(_LAYERWISE)),
    Refusal("report_to", "transformers has no such tracker", "Choose another one, such as tensorboard, or none.",
            when=lambda a: not _trackers(a) <= _known_trackers()),
    Refusal("run_name", "--report_to is none, and only trackers read it", "Add --report_to, or change --output_dir.",
            when=lambda a: not _trackers(a)),
    *(Refusal(name, "--report_to has no trackio", "Add --report_to trackio.",
              when=lambda a: not {"trackio", "all"} & _trackers(a))
      for name in ("project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id")),
    *(Refusal(name, "--dataloader_num_workers is 0", "Add --dataloader_num_workers 1 or more.",
              when=lambda a: not a.dataloader_num_workers)
      for name in ("dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_in_order",
                   "dataloader_multiprocessing_context")),
    *(Refusal(name, "--watch is 0, so no example is watched", "Leave it out, or raise --watch.", NLFT,
              lambda a: not a.watch and not a.watch_ids)
      for name in ("watch_every", "watch_batches", "watch_share")),
    Refusal("condition_cache", "only --condition_logprobs frozen reads it", "Add --condition_logprobs frozen.", NLFT,
            lambda a: a.condition_logprobs != "frozen"),
    *(Refusal(name, "--condition_logprobs is live, which keeps nothing of the base", "Add --condition_logprobs frozen.",
              NLFT, lambda a: a.scores_live)
      for name in ("hold_mass", "hold_tokens")),
    *(Refusal(name, "there is no warm-up", "Leave it out, or raise --sft_epochs or --sft_steps.", frozenset({"reft"}),
              lambda a: not a.sft_epochs and a.sft_steps <= 0)
      for name in ("warmup_learning_rate", "sft_seconds")),
    Refusal("extraction", "only --grader number reads it", methods=frozenset({"reft"}),
            when=lambda a: a.grader != "number"),
    # TRL's own settings, where our rows or our models leave them without effect.
    *(Refusal(name, "nlft loads the model", "Use the settings of the model, such as --dtype.", BASELINES)
      for name in ("model_init_kwargs", "trust_remote_code")),
    *(Refusal(name, "nlft writes the rows as token ids with labels", methods=frozenset({"sft"}))
      for name in ("dataset_text_field", "dataset_kwargs", "chat_template_path", "eos_token", "completion_only_loss",
                   "assistant_only_loss", "eval_packing")),
    *(Refusal(name, "--engine nlft does not follow it", "Add --engine trl, or leave it out.", frozenset({"sft"}),
              lambda a: a.engine == "nlft")
      for name in sorted(ONLY_TRL)),
    Refusal("truncation_mode", "no row is cut", methods=frozenset({"sft", "dpo"})),
    *(Refusal(name, "--sync_ref_model is false", "Add --sync_ref_model true.", BASELINES - {"sft"},
              lambda a: not a.sync_ref_model)
      for name in ("ref_model_mixup_alpha", "ref_model_sync_steps")),
    Refusal("precompute_ref_batch_size", "--precompute_ref_log_probs is false", methods=frozenset({"kto", "dpo"}),
            when=lambda a: not a.precompute_ref_log_probs),
    Refusal("num_generations_eval", "this method evaluates nothing while it trains", methods=frozenset({"reft"})),
)  # fmt: skip
"""Every refusal that the arguments alone decide."""


def refuse_idle(args: Any, method: str) -> None:
    """Refuse settings that would have no effect, or not the intended one, and numbers that are not finite.

    Args:
        args: the settings of a training, before or after transformers has completed them.
        method: `nlft`, `sft`, `kto`, `dpo` or `reft`.

    Raises:
        ConfigError: every such setting.
    """
    known = {f.name: f for f in fields(args)}
    problems = [
        Problem(f"--{name}", f"is {value}", "Give a finite number.")
        for name in known
        if isinstance(value := getattr(args, name, None), float) and not isfinite(value)
    ]
    problems += [
        Problem(f"--{one.setting}", f"is {shown_of(args, one.setting)}, but {one.why}", one.cure)
        for one in REFUSALS
        if method in one.methods and one.setting in known and is_set(args, known[one.setting]) and one.when(args)
    ]
    problems += wrong_args(_text(args.optim), args.optim_args) if "optim_args" in known else []
    problems += _vllm(args, known)
    problems += broken_json(args)
    if problems:
        raise ConfigError(problems)


def refuse_idle_adapter(model: Any) -> None:
    """Refuse the shape of a new adapter where a saved adapter goes on, or all weights are trained.

    Args:
        model: the settings of the model, as a command reads them.

    Raises:
        ConfigError: every such setting.
    """
    if model.use_peft and not model.adapter:
        return
    why = "the adapter of --adapter keeps its shape" if model.use_peft else "--use_peft is false"
    problems = [
        Problem(f"--{one.name}", f"is {shown_of(model, one.name)}, but {why}", _LEAVE_OUT)
        for one in fields(model)
        if one.name.startswith(("lora_", "use_dora", "use_rslora")) and is_set(model, one)
    ]
    if problems:
        raise ConfigError(problems)


def refuse_unfit(args: Any, *, held_out: bool, strikes: bool, holds: bool) -> None:
    """Refuse settings of `nlft` that have no effect on these examples, or with this scheme.

    Args:
        held_out: whether there are held-out examples.
        strikes: whether the scheme strikes words.
        holds: whether the scheme holds the model to its base.

    Raises:
        ConfigError: every such setting.
    """
    without_effect: dict[str, tuple[str, str]] = {}
    if not held_out:
        cure = "Give held-out examples: --eval_file, or eval_dataset in Python."
        names = ("eval_on_start", "per_device_eval_batch_size", "load_best_model_at_end")
        without_effect |= dict.fromkeys(names, ("there are no held-out examples to evaluate on", cure))
        if _text(args.save_strategy) == "best":
            without_effect["save_strategy"] = ("there are no held-out examples to find the best checkpoint with", cure)
    elif _text(args.eval_strategy) == "no":
        without_effect["load_best_model_at_end"] = ("--eval_strategy is no", "Add --eval_strategy epoch.")
    elif _text(args.metric_for_best_model or "loss").removeprefix("eval_") not in EVALUATED:
        named = ", ".join(f"eval_{name}" for name in EVALUATED)
        without_effect["metric_for_best_model"] = ("no evaluation measures it", f"Choose one of {named}.")
    if not holds:
        reason = ("the scheme holds nothing to the base", "Add --saliency.hold_weight 1, or leave it out.")
        without_effect |= dict.fromkeys(("hold_mass", "hold_tokens"), reason)
    if not strikes:
        reason = ("the scheme strikes no words", "Add --scheme strike.")
        without_effect |= dict.fromkeys(("strike_words", "strike_share"), reason)
    else:
        reason = ("the scheme puts struck replies into each batch itself", "Choose random.")
        without_effect["train_sampling_strategy"] = reason
    problems = [
        Problem(f"--{one.name}", f"is {shown_of(args, one.name)}, but {why}", cure)
        for one in fields(args)
        if is_set(args, one)
        for why, cure in [without_effect.get(one.name, ("", ""))]
        if why
    ]
    if problems:
        raise ConfigError(problems)


def refuse_idle_scheme(scheme: Scheme, settings: Any) -> None:
    """Refuse settings of a scheme that have no effect beside its other settings.

    Raises:
        ConfigError: every such setting.
    """
    by_name = {f.name: f for f in fields(settings)}
    problems = [
        Problem(f"--saliency.{name}", f"is {shown_of(settings, name)}, but {why}", _LEAVE_OUT)
        for name, why in scheme.idle(settings).items()
        if is_set(settings, by_name[name])
    ]
    if problems:
        raise ConfigError(problems)


def refuse_other_engine(args: Any, engine: str) -> None:
    """Refuse the settings of `nlft sft` that are for another engine's trainer.

    Raises:
        ConfigError: `args.engine` is not `engine`.
    """
    if args.engine != engine:
        cure = f"Give engine={engine!r}, or let `nlft.baselines.sft.sft_trainer` choose the trainer."
        raise ConfigError([Problem("--engine", f"is {args.engine}, but this trainer is that of {engine}", cure)])


def refuse_float16(args: Any, model: Any) -> None:
    """Refuse fp16 where the weights have a data type with which it breaks.

    Args:
        model: the model with its adapter, a torch module.

    Raises:
        ConfigError: fp16 is on, and weights are bfloat16, or weights are trained in float16.
    """
    weights = model.parameters() if args.fp16 else ()
    found = {(str(one.dtype).removeprefix("torch."), one.requires_grad) for one in weights}
    problems = []
    if any(dtype == "bfloat16" for dtype, _ in found):
        what = "is true, but weights are bfloat16, whose large numbers float16 cannot hold"
        problems.append(Problem("--fp16", what, "Use --bf16 true instead, or --dtype float32."))
    if ("float16", True) in found:
        what = "is true, but weights are trained in float16, and their gradients cannot be scaled back"
        problems.append(Problem("--fp16", what, "Load the model with --dtype float32."))
    if problems:
        raise ConfigError(problems)


def _vllm(args: Any, known: Iterable[str]) -> list[Problem]:
    """Report settings of vLLM where no vLLM generates."""
    if "use_vllm" not in known or args.use_vllm:
        return []
    given = [f.name for f in fields(args) if f.name.startswith("vllm_") and is_set(args, f)]
    return [Problem(f"--{name}", "is set, but --use_vllm is false", "Add --use_vllm true.") for name in given]


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


def _trackers(args: Any) -> set[str]:
    named = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    return set(named) - {"none"}


def _known_trackers() -> set[str]:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    return {"all", *INTEGRATION_TO_CALLBACK}
