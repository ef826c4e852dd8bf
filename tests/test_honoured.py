"""Settings of transformers, TRL and ours: one that would have no effect is refused by its name."""

import inspect
from dataclasses import MISSING, fields, replace

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments, trainer_optimizer

from helpers import striking, tiny
from helpers.training import examples, lora, nlft_trainer
from nlft.baselines.dpo import DPOSettings
from nlft.baselines.kto import KTOSettings
from nlft.baselines.reft import ReFTSettings
from nlft.baselines.sft import SFTSettings
from nlft.commands.parsing import Command
from nlft.config import checked, declared
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.strike import StrikeSettings
from nlft.errors import ConfigError, UserError
from nlft.models.idle import refuse_idle_server
from nlft.models.loading import ModelSettings
from nlft.models.opening import open_model
from nlft.models.settings import BackendSettings
from nlft.training import honoured
from nlft.training.guards import Guards
from nlft.training.optim_args import keys_of
from nlft.training.trainer import NLFTConfig, NLFTTrainer
from nlft.yaml_files import yaml_entries

CLASSES = {"nlft": NLFTConfig, "sft": SFTSettings, "kto": KTOSettings, "dpo": DPOSettings, "reft": ReFTSettings}
ALL = {f.name for f in fields(TrainingArguments)}

# For each setting that some method refuses: a value, and what else makes it idle.
IDLE = {
    "learning_rate": 0.0, "max_steps": 0, "num_train_epochs": 0.0, "sft_steps": 0, "lr_scheduler_kwargs": {"x": 1},
    "gradient_checkpointing": True,
    "label_names": ["x"], "remove_unused_columns": None, "prediction_loss_only": True, "eval_do_concat_batches": False,
    "eval_use_gather_object": True, "eval_accumulation_steps": 2, "include_for_metrics": ["loss"],
    "batch_eval_metrics": True, "bf16_full_eval": True, "fp16_full_eval": True, "include_num_input_tokens_seen": "all",
    "logging_nan_inf_filter": True, "auto_find_batch_size": True, "save_only_model": True, "do_train": True,
    "enable_jit_checkpoint": True,
    "do_eval": True, "do_predict": True, "push_to_hub": True, "hub_token": "x", "hub_private_repo": True,
    "hub_model_id": "x/y", "hub_strategy": "end", "hub_always_push": True, "hub_revision": "x",
    "eval_strategy": "epoch", "eval_steps": 5, "eval_delay": 3, "per_device_eval_batch_size": 3, "eval_on_start": True,
    "load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False,
    "save_strategy": "best", "save_steps": 7, "label_smoothing_factor": 0.1, "average_tokens_across_devices": False,
    "torch_compile": True, "torch_compile_backend": "eager", "torch_compile_mode": "default", "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True}, "use_cache": True, "fp16": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
    "gradient_checkpointing_kwargs": {"use_reentrant": False}, "train_sampling_strategy": "group_by_length",
    "length_column_name": "size", "parallelism_config": object(), "warmup_steps": 10, "adam_beta1": 0.5,
    "adam_beta2": 0.5, "adam_epsilon": 0.5, "optim_args": "x=1", "optim_target_modules": ["q"], "run_name": "x",
    "project": "x",
    "trackio_space_id": "x", "trackio_bucket_id": "x", "trackio_static_space_id": "x",
    "dataloader_persistent_workers": True,
    "dataloader_prefetch_factor": 2, "dataloader_in_order": False, "dataloader_multiprocessing_context": "spawn",
    "watch_every": 3, "watch_batches": False,
    "watch_share": 0.5, "warmup_learning_rate": 1.0, "sft_seconds": 1.0, "extraction": "strict",
    "model_init_kwargs": {"x": 1}, "trust_remote_code": True, "dataset_text_field": "x", "dataset_kwargs": {"x": 1},
    "chat_template_path": "x", "eos_token": "x", "completion_only_loss": False, "assistant_only_loss": True,
    "eval_packing": True, "truncation_mode": "keep_end", "ref_model_mixup_alpha": 0.1, "ref_model_sync_steps": 3,
    "precompute_ref_batch_size": 3, "num_generations_eval": 2, "loss_type": "dft", "packing": True,
    "packing_strategy": "wrapped", "padding_free": True, "pad_to_multiple_of": 8, "pad_token": "x",
    "shuffle_dataset": True, "dataset_num_proc": 2, "activation_offloading": True, "router_aux_loss_coef": 0.1,
    "condition_cache": "x", "hold_mass": 0.5, "hold_tokens": 3, "report_to": ["wand"],
}  # fmt: skip
BESIDE = {
    "lr_scheduler_kwargs": {"lr_scheduler_type": "constant"},
    "gradient_checkpointing": {"activation_checkpointing": False},
    "adam_beta1": {"optim": "sgd"}, "adam_beta2": {"optim": "adafactor"}, "adam_epsilon": {"optim": "rmsprop"},
    "warmup_steps": {"lr_scheduler_type": "constant"}, "watch_every": {"watch": 0}, "watch_batches": {"watch": 0},
    "watch_share": {"watch": 0}, "load_best_model_at_end": {"save_strategy": "no"},
    "activation_checkpointing_kwargs": {"activation_checkpointing": False}, "fp16": {"use_cpu": True},
    "gradient_checkpointing_kwargs": {"activation_checkpointing": False}, "extraction": {"grader": "exact"},
    "label_smoothing_factor": {"loss_type": "dft"},
    "warmup_learning_rate": {"sft_epochs": 0.0}, "sft_seconds": {"sft_epochs": 0.0},
}  # fmt: skip
"""For some of `IDLE`, the other settings that leave it without effect."""


def refused(args, method):
    """Return the names that are refused. `args` are checked as they are before transformers completes them."""
    try:
        honoured.refuse_idle(args, method)
    except ConfigError as error:
        return {problem.where.removeprefix("--") for problem in error.problems}
    return set()


def given(cls, values):
    """Make an instance that `__post_init__` has not seen."""
    made = cls.__new__(cls)
    for field in fields(cls):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        setattr(made, field.name, values.get(field.name, default))
    return made


def test_every_field_of_transformers_is_in_one_table():
    tables = [honoured.HONOURED, honoured.AROUND, honoured.NEVER.keys()]
    assert set().union(*tables) == ALL, "transformers added or dropped a setting: decide what the trainers make of it"
    assert sum(map(len, tables)) == len(ALL) > 100


def test_each_refusal_names_a_setting_that_exists_and_says_why_and_what_to_do():
    for one in honoured.REFUSALS:
        names = [{f.name for f in fields(CLASSES[method])} for method in one.methods]
        assert any(one.setting in known for known in names), one.setting
        assert one.why
        assert one.cure.endswith(".")
    assert {one.setting for one in honoured.REFUSALS} == IDLE.keys()
    assert honoured.NEVER.keys() | honoured.EVALUATION <= IDLE.keys()


@pytest.mark.parametrize("setting", IDLE)
def test_a_setting_without_effect_is_refused_by_its_name(setting):
    methods = {method for one in honoured.REFUSALS if one.setting == setting for method in one.methods}
    seen = 0
    for method, cls in CLASSES.items():
        field = next((f for f in fields(cls) if f.name == setting), None)
        if method not in methods or field is None:
            continue
        value = (not field.default) if IDLE[setting] is None else IDLE[setting]
        if value == field.default or (setting == "metric_for_best_model" and method != "nlft"):
            continue
        args = given(cls, {"output_dir": "x", setting: value, **BESIDE.get(setting, {})})
        assert setting in refused(args, method), (method, setting)
        seen += 1
    assert seen


@pytest.mark.parametrize("method", CLASSES)
def test_defaults_and_what_transformers_makes_of_them_are_taken(tmp_path, method):
    args = CLASSES[method](output_dir=str(tmp_path), report_to="none")
    assert not refused(args, method)
    if method == "nlft":
        evaluating = replace(
            args, eval_strategy="steps", load_best_model_at_end=True, save_strategy="steps", save_steps=500
        )
        assert evaluating.do_eval
        assert evaluating.metric_for_best_model == "loss"
        assert not refused(evaluating, method)


def test_what_a_method_honours_it_takes(tmp_path):
    SFTSettings(output_dir=str(tmp_path), report_to="none", engine="trl", label_smoothing_factor=0.1)
    NLFTConfig(output_dir=str(tmp_path), warmup_steps=3, lr_scheduler_type="constant_with_warmup", weight_decay=0.1)
    NLFTConfig(output_dir=str(tmp_path), run_name="x", report_to="tensorboard", max_grad_norm=0.5)
    NLFTConfig(output_dir=str(tmp_path), neftune_noise_alpha=5)


@pytest.mark.parametrize("method", CLASSES)
def test_defaults_are_taken_as_a_command_reads_them(tmp_path, method):
    made = Command("test", "", [CLASSES[method]]).parse(["--output_dir", str(tmp_path)])[0]
    assert made.output_dir == str(tmp_path)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "answer_weight", "max_grad_norm", "adam_beta1"])
def test_a_number_that_is_not_finite_is_refused(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"--{name}"):
        NLFTConfig(output_dir=str(tmp_path), **{name: value})


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"eval_on_start": True}, "eval_on_start"),
        ({"per_device_eval_batch_size": 2}, "per_device_eval_batch_size"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "save_strategy"),
        ({"save_strategy": "best", "metric_for_best_model": "loss", "load_best_model_at_end": True}, "load_best"),
        ({"strike_words": ["sleek"]}, "strike_words"),
        ({"strike_share": 0.2}, "strike_share"),
        ({"hold_mass": 0.5, "condition_logprobs": "frozen"}, "hold_mass"),
        ({"hold_tokens": 5, "condition_logprobs": "epoch"}, "hold_tokens"),
    ],
)
def test_settings_that_this_run_cannot_follow_are_refused(tmp_path, settings, name):
    with pytest.raises(UserError, match=f"--{name}"):
        nlft_trainer(tmp_path, **settings)


def test_a_best_checkpoint_needs_a_metric_that_evaluations_measure(tmp_path):
    best = {"load_best_model_at_end": True, "save_strategy": "epoch", "metric_for_best_model": "eval_accuracy"}
    shared = {"per_device_train_batch_size": 3, "max_steps": 1, "use_cpu": True, "disable_tqdm": True}

    def trainer(**more):
        args = NLFTConfig(output_dir=str(tmp_path), **{"eval_strategy": "epoch", **shared, **more})
        data, held_out = examples(3), examples(6)[3:]
        return NLFTTrainer(lora(tiny.model()), args, data, held_out, processing_class=tiny.tokenizer())

    with pytest.raises(UserError, match="eval_accuracy"):
        trainer(**best)
    with pytest.raises(UserError, match="--eval_strategy"):
        trainer(**{**best, "save_strategy": "best", "metric_for_best_model": "loss"}, eval_strategy="no")
    measuring = trainer(save_strategy="no")
    measuring.train()
    found = next(line for line in measuring.state.log_history if "eval_loss" in line)
    assert {f"eval_{name}" for name in honoured.EVALUATED} <= found.keys()


def test_strikes_own_order_of_examples_admits_no_other(tmp_path):
    with pytest.raises(UserError, match="--train_sampling_strategy"):
        striking.trainer(tmp_path, train_sampling_strategy="sequential")


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (NLFTSettings(redirect_tokens=4, redirect_weight=2.0), ["redirect_weight", "redirect_tokens"]),
        (NLFTSettings(contradiction_base=0.4), ["contradiction_base"]),
        (NLFTSettings(contradiction_standard=0.4), ["contradiction_standard"]),
        (StrikeSettings(strike_at="said", ban_weight=1.0), ["ban_weight"]),
        (StrikeSettings(keep_weight=0.0, keep_mass=0.5), ["keep_mass"]),
        (StrikeSettings(strike_weight=0.0, strike_temperature=2.0), ["strike_temperature"]),
    ],
)
def test_a_schemes_setting_without_effect_beside_the_others_is_refused(tmp_path, settings, names):
    with pytest.raises(ConfigError) as caught:
        nlft_trainer(tmp_path, saliency=settings)
    assert [problem.where for problem in caught.value.problems] == [f"--saliency.{name}" for name in names]


def test_the_shape_of_a_new_adapter_is_refused_where_none_is_made():
    honoured.refuse_idle_adapter(ModelSettings(model_name_or_path="x", lora_r=4))
    for options, names in (
        ({"adapter": "run", "lora_r": 4, "use_dora": True}, {"--lora_r", "--use_dora"}),
        ({"use_peft": False, "lora_alpha": 4, "lora_target_modules": ["q"]}, {"--lora_alpha", "--lora_target_modules"}),
    ):
        with pytest.raises(ConfigError) as caught:
            honoured.refuse_idle_adapter(ModelSettings(model_name_or_path="x", **options))
        assert {problem.where for problem in caught.value.problems} == names


def test_float16_is_refused_where_the_weights_break_it():
    args = given(NLFTConfig, {"fp16": True})
    honoured.refuse_float16(args, lora(tiny.model()))
    with pytest.raises(ConfigError, match="bfloat16"):
        honoured.refuse_float16(args, lora(tiny.model(dtype=torch.bfloat16)))
    with pytest.raises(ConfigError, match="trained in float16"):
        honoured.refuse_float16(args, tiny.model(dtype=torch.float16))
    honoured.refuse_float16(args, lora(tiny.model(dtype=torch.float16)))


@pytest.mark.parametrize(
    ("method", "settings", "names"),
    [
        ("nlft", {"max_steps": 0}, {"max_steps"}),
        ("nlft", {"learning_rate": 0.0}, {"learning_rate"}),
        ("reft", {"warmup_learning_rate": 0.0}, {"warmup_learning_rate"}),
        ("kto", {"num_train_epochs": 0.0}, {"num_train_epochs"}),
        ("kto", {"num_train_epochs": 0.0, "max_steps": 0}, {"num_train_epochs", "max_steps"}),
        ("kto", {"num_train_epochs": 0.0, "max_steps": 3}, set()),
        ("reft", {"sft_steps": 0}, {"sft_steps"}),
        (
            "sft",
            {"label_smoothing_factor": 0.1, "engine": "trl", "loss_type": "chunked_nll"},
            {"label_smoothing_factor"},
        ),
        ("sft", {"label_smoothing_factor": 0.1, "engine": "trl", "loss_type": "nll"}, set()),
        ("reft", {"sft_epochs": 0.0}, set()),
        ("nlft", {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {"x": 1}}, {"lr_scheduler_kwargs"}),
        (
            "sft",
            {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"x": 1}},
            {"lr_scheduler_kwargs"},
        ),
        ("nlft", {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}}, set()),
        ("nlft", {"gradient_checkpointing": True, "activation_checkpointing": False}, {"gradient_checkpointing"}),
        ("sft", {"gradient_checkpointing": False, "activation_checkpointing": True}, {"gradient_checkpointing"}),
        ("sft", {"gradient_checkpointing": False}, set()),
        ("nlft", {"gradient_checkpointing": True}, set()),
    ],
)
def test_what_would_train_nothing_or_contradicts_is_refused(tmp_path, method, settings, names):
    assert refused(given(CLASSES[method], {"output_dir": str(tmp_path), **settings}), method) >= names
    if names:
        with pytest.raises(ConfigError, match=f"--{min(names)}"):
            CLASSES[method](output_dir=str(tmp_path), report_to="none", **settings)
    else:
        CLASSES[method](output_dir=str(tmp_path), report_to="none", **settings)


@pytest.mark.parametrize(
    ("optim", "text", "cure"),
    [
        ("sgd", "momentm=0.9", "momentum"),
        ("sgd", "momentum=0.9, nesterov=true", None),
        ("sgd", "weight_decay=0.1", "--weight_decay"),
        ("rmsprop", "centred=true", "centered"),
        ("rmsprop_bnb", "anything=1", None),
        ("adagrad", "zzz=1", "lr_decay, eps"),
        ("stable_adamw", "max_lrs=1", "max_lr"),
        ("sgd", "momentum=abc", "a number"),
        ("sgd", "momentum=nan", "a number"),
        ("sgd", "nesterov=maybe", "true or false"),
        ("sgd", "momentum", "NAME=VALUE"),
        ("sgd", "momentum=0.9,nesterov", "NAME=VALUE"),
        ("galore_adamw", "rank=1.5", "whole"),
        ("apollo_adamw", "proj=random,rank=4,scale_type=tensor", None),
        ("stable_adamw", "kahan_sum=false", "true"),
    ],
)
def test_a_key_or_a_value_that_the_optimizer_does_not_read_is_refused(tmp_path, optim, text, cure):
    if cure is None:
        NLFTConfig(output_dir=str(tmp_path), optim=optim, optim_args=text)
        return
    with pytest.raises(ConfigError, match=text.partition("=")[0]) as caught:
        NLFTConfig(output_dir=str(tmp_path), optim=optim, optim_args=text)
    assert cure in str(caught.value)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor", "lion_8bit", "paged_adamw_8bit", "adamw_bnb_8bit"])
def test_keys_are_refused_for_optimizers_that_read_none(tmp_path, optim):
    with pytest.raises(ConfigError, match="--optim_args"):
        NLFTConfig(output_dir=str(tmp_path), optim=optim, optim_args="x=1")


def test_the_keys_of_optimizers_are_those_that_transformers_reads():
    assert len(trainer_optimizer._OPTIMIZER_HANDLERS) > 30
    for name, handler in trainer_optimizer._OPTIMIZER_HANDLERS.items():
        source = inspect.getsource(handler)
        reads = "optim_args" in source
        for key in keys_of(str(name.value)) or ():
            assert f'"{key}"' in source, (name, key)
        if not reads:
            assert keys_of(str(name.value)) == (), name


@pytest.mark.parametrize("text", [{"use_seedable_sampler": False}, '{"use_seedable_sampler": false}'])
@pytest.mark.parametrize("method", ["nlft", "sft"])
def test_a_sampler_without_a_seed_is_refused_because_no_resume_could_repeat_it(tmp_path, method, text):
    settings = {"output_dir": str(tmp_path), "report_to": "none"}
    with pytest.raises(ConfigError, match="use_seedable_sampler"):
        CLASSES[method](**settings, accelerator_config=text)
    CLASSES[method](**settings, accelerator_config={"even_batches": False})


@pytest.mark.parametrize(("name", "value"), [("lora_dropout", "1"), ("lora_alpha", "0"), ("lora_alpha", "-16")])
def test_an_adapter_that_changes_nothing_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"--{name}"):
        Command("test", "", [ModelSettings]).parse(["--model_name_or_path", "x", f"--{name}", value])


@pytest.mark.parametrize("text", ["{min_lr_rate: 0.1}", "min_lr_rate=0.1", "[1]", "0.1"])
@pytest.mark.parametrize("method", ["nlft", "sft"])
def test_a_text_that_is_no_json_object_is_refused_by_its_setting(tmp_path, method, text):
    with pytest.raises(ConfigError, match="--lr_scheduler_kwargs") as caught:
        CLASSES[method](output_dir=str(tmp_path), report_to="none", lr_scheduler_kwargs=text)
    assert text in str(caught.value)
    given = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": '{"min_lr_rate": 0.1}'}
    assert CLASSES[method](output_dir=str(tmp_path), **given).lr_scheduler_kwargs == {"min_lr_rate": 0.1}


def test_yamls_words_for_texts_of_a_training_are_read(tmp_path):
    text = "eval_strategy: no\nsave_strategy: no\nreport_to: no\nresume_from_checkpoint: true\nwatch_ids: [1, 2]\n"
    (tmp_path / "c.yaml").write_text(text + "chat_template_date: 2024-07-26\nlr_scheduler_kwargs: {min_lr: 1e-5}\n")
    values = checked(yaml_entries(tmp_path / "c.yaml"), declared(NLFTConfig))
    assert values == {
        "eval_strategy": "no", "save_strategy": "no", "report_to": "no", "resume_from_checkpoint": "true",
        "watch_ids": ["1", "2"], "chat_template_date": "2024-07-26", "lr_scheduler_kwargs": {"min_lr": 1e-5},
    }  # fmt: skip
    args = NLFTConfig(output_dir=str(tmp_path), **values | {"lr_scheduler_type": "cosine_with_min_lr"})
    assert (args.eval_strategy, args.report_to) == ("no", [])
    for none in (None, "none", ["no"]):
        assert NLFTConfig(output_dir=str(tmp_path), report_to=none).report_to == []


@pytest.mark.parametrize(
    ("warm_up", "steps", "highest"), [(100, 2, "2e-06"), (0.9, 5, "0.00016"), (1, 1, "0"), (4, 5, None), (0, 5, None)]
)
def test_a_warm_up_as_long_as_the_training_is_told_with_the_highest_rate(tmp_path, capsys, warm_up, steps, highest):
    args = NLFTConfig(output_dir=str(tmp_path), warmup_steps=warm_up)
    state = TrainerState(max_steps=steps)
    Guards(None, None).on_train_begin(args, state, TrainerControl())
    told = capsys.readouterr().err
    assert (f"highest value is {highest}." in told and "--warmup_steps" in told) if highest else not told


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--bnb_4bit_quant_type", "fp4"], {"bnb_4bit_quant_type"}),
        (["--use_bnb_nested_quant", "false", "--model_revision", "a"], {"use_bnb_nested_quant", "model_revision"}),
        (["--bnb_4bit_quant_storage", "bfloat16", "--load_in_8bit", "true"], {"bnb_4bit_quant_storage"}),
        (["--bnb_4bit_quant_type", "fp4", "--load_in_4bit", "true"], set()),
        (["--model_revision", "abc"], {"model_revision"}),
        ([], set()),
    ],
)  # fmt: skip
def test_settings_of_a_model_without_effect_are_refused(tmp_path, words, names):
    command = Command("test", "", [ModelSettings])
    words = ["--model_name_or_path", str(tmp_path), *words]
    (tmp_path / "config.json").write_text("{}")
    if not names:
        command.parse(words)
        return
    with pytest.raises(ConfigError) as caught:
        command.parse(words)
    assert {problem.where for problem in caught.value.problems} == {f"--{name}" for name in names}


def test_settings_of_a_server_are_refused_for_a_local_model():
    refuse_idle_server(BackendSettings())
    refuse_idle_server(BackendSettings(base_url="http://localhost/v1", requests_per_minute=5))
    with pytest.raises(ConfigError) as caught:
        open_model(
            ModelSettings(model_name_or_path="x"),
            BackendSettings(requests_per_minute=5, max_retries=0, api_key_env="X"),
            max_new_tokens=1,
            batch_size=1,
        )
    names = {"--requests_per_minute", "--max_retries", "--api_key_env"}
    assert {problem.where for problem in caught.value.problems} == names
