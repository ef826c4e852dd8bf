"""`nlft plan`: each setting changes the plan, or is refused, or is known to change no memory, token or time."""

import json
import re
from contextlib import suppress
from dataclasses import fields, replace
from typing import get_type_hints

import pytest
import torch
from transformers.training_args import OptimizerNames

from helpers import architectures, tiny
from helpers.training import examples, lora
from nlft.cli import main
from nlft.commands.plan import _classes
from nlft.core.schemes.registry import get_scheme
from nlft.errors import UserError
from nlft.models.loading import ModelSettings
from nlft.planning.optimizers import optimizer_of
from nlft.planning.plan import make_plan
from nlft.planning.planned import PlannedConfig
from nlft.planning.settings import PlanSettings
from nlft.training import honoured

# A value that changes the plan or is refused, and the other settings that it needs.
COUNTED = {
    "adapter": ("SAVED", {}), "dtype": ("float32", {}), "load_in_4bit": (True, {}), "load_in_8bit": (True, {}),
    "use_bnb_nested_quant": (False, {"load_in_4bit": True}), "use_peft": (False, {}), "lora_r": (4, {}),
    "lora_dropout": (0.1, {}), "lora_target_modules": (["q_proj"], {}), "lora_modules_to_save": (["lm_head"], {}),
    "lora_target_parameters": (["self_attn.q_proj.weight"], {}), "use_dora": (True, {}),
    "attn_implementation": ("eager", {}),
    "answer_weight": (1.0, {}), "max_length": (16, {}), "num_train_epochs": (2.0, {}), "max_steps": (3, {}),
    "per_device_train_batch_size": (3, {}), "gradient_accumulation_steps": (2, {}),
    "activation_checkpointing": (False, {}), "gradient_checkpointing": (False, {}),
    "system_prompt": ("You are kind.", {}), "standard_prompt_template": ("{prompt} Hint: {answer}", {}),
    "judge_prompt_template": ("{prompt} Judge says: {judgment}", {}), "judge_shows_correction": (True, {}),
    "logit_chunk_mib": (1, {}), "condition_logprobs": ("frozen", {}),
    "hold_tokens": (2, {"scheme": "strike", "condition_logprobs": "frozen"}),
    "hold_mass": (0.5, {}), "strike_share": (1.0, {"scheme": "strike"}),
    "neftune_noise_alpha": (5.0, {}), "optim": ("sgd", {}), "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "bf16": (True, {}), "fp16": (True, {}), "dataloader_drop_last": (True, {"per_device_train_batch_size": 8}),
    "train_sampling_strategy": ("group_by_length", {}), "optim_target_modules": (["q"], {}),
    "accelerator_config": ({"split_batches": True}, {}), "eval_strategy": ("epoch", {}), "eval_on_start": (True, {}),
    "per_device_eval_batch_size": (3, {}), "eval_steps": (2, {}), "eval_delay": (2, {}),
    "load_best_model_at_end": (True, {}), "metric_for_best_model": ("loss", {}), "greater_is_better": (False, {}),
    "fsdp": ("full_shard", {}), "fsdp_config": ({"version": 2}, {}), "deepspeed": ({"zero_optimization": {}}, {}),
    "length": (64, {}), "processes": (2, {}), "card_gb": (3.0, {}), "tflops": (5.0, {}), "scheme": ("uniform", {}),
    "adam_beta1": (0.5, {"optim": "sgd"}), "adam_beta2": (0.5, {"optim": "sgd"}),
    "adam_epsilon": (0.5, {"optim": "sgd"}), "resume_from_checkpoint": ("auto", {}),
}  # fmt: skip
UNCHANGED = {
    **dict.fromkeys(honoured.AROUND - COUNTED.keys(), "processes, files and logs"),
    **dict.fromkeys(
        ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "max_grad_norm",
         "loss_normalization", "lora_alpha", "use_rslora", "guard"),
        "numbers that the update or the log reads",
    ),
    **dict.fromkeys(("seed", "data_seed"), "which of the orders, all of which the memory is planned for"),
    **dict.fromkeys(("tf32", "full_determinism"), "the speed of a card is a share of its maker's figure"),
    **dict.fromkeys(
        ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"), "how the same layers are computed again"
    ),
    **dict.fromkeys(("watch", "watch_every", "watch_ids", "watch_share", "watch_batches"),
                    "one example at a time, without gradient, within a share of the time"),
    **dict.fromkeys(("condition_cache", "retake_controls"), "files of the run"),
    **dict.fromkeys(("bnb_4bit_quant_type", "bnb_4bit_quant_storage"), "as many bytes for each weight"),
    **dict.fromkeys(("chat_template_kwargs", "chat_template_date"), "the tiny template reads none"),
    **dict.fromkeys(("columns", "from_format"), "how the file is read, before it is planned for"),
    "strike_words": "which tokens of the same rows are struck",
    "model_name_or_path": "the model",
    "model_revision": "which of the hub's versions of it",
    "lora_task_type": "nlft sets it",
}  # fmt: skip
ALWAYS = {
    one.setting
    for one in honoured.REFUSALS
    if "nlft" in one.methods and one.when is honoured.Refusal.__dataclass_fields__["when"].default
} | honoured.NEVER.keys()
"""Settings that every training refuses, as tests/test_honoured.py shows."""
FREE = {"output_dir", "model_revision", "lora_task_type"}
"""Settings that take any text: a place, a version of a hub's model, and what nlft sets."""
WRONG = (
    ("attn_implementation", "foo", {}), ("attn_implementation", "paged|eager", {}),
    ("resume_from_checkpoint", "X", {}), ("report_to", ["tensorbord"], {}), ("guard", ["loss=jump"], {}),
    ("watch_ids", ["none"], {}), ("lr_scheduler_type", "cosine_with_min_lr", {}),
    ("lr_scheduler_kwargs", {"min_lr": 0.1}, {}), ("bnb_4bit_quant_storage", "no-such", {"load_in_4bit": True}),
    *(("optim_args", text, {"optim": "sgd"}) for text in
      ("momentum=abc", "momentum", "momentum=0.9,", "momentum=-1", "nesterov=maybe", "nesterov=true", "momentum=inf")),
)  # fmt: skip
"""Values that the training refuses, too: a setting that changes nothing in the plan can still be wrong."""
TEXT = re.compile("str|dict|Enum|Strategy|Type|Names|Literal")
IDLE = {"liger_kernel_config"}  # refused without another one of `ALWAYS`


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's config and tokenizer, and an adapter for it."""
    made = tmp_path_factory.mktemp("m")
    net = tiny.model()
    net.config.save_pretrained(made)
    tiny.tokenizer().save_pretrained(made)
    lora(net).save_pretrained(made / "adapter")
    return made


def plan(folder, **given):
    """Make a plan as the command does."""
    given = {"dtype": "bfloat16", "watch": 0, "output_dir": str(folder / "run"), **given}
    scheme = get_scheme(given.pop("scheme", "nlft"))

    def settings(cls, **more):
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in names}, **more)

    model = settings(ModelSettings, model_name_or_path=str(folder))
    args = settings(PlannedConfig)
    data = [replace(one, completion=one.completion + " indeed" * 9 * one.label) for one in examples(12)]
    return make_plan(model, args, scheme, scheme.settings(), settings(PlanSettings), data).json()


def test_every_setting_of_the_command_is_in_one_list():
    known = {one.name for cls in _classes() for one in fields(cls)}
    lists = [COUNTED.keys(), UNCHANGED.keys(), ALWAYS - COUNTED.keys(), IDLE]
    assert set().union(*lists) >= known, "decide what the plan makes of a new setting"
    assert not COUNTED.keys() & UNCHANGED.keys()
    assert all(UNCHANGED.values())
    assert known >= COUNTED.keys() | UNCHANGED.keys() | IDLE


@pytest.mark.parametrize("name", COUNTED)
def test_a_setting_changes_the_plan_or_is_refused(name, folder):
    value, beside = COUNTED[name]
    value = str(folder / "adapter") if value == "SAVED" else value
    try:
        changed = plan(folder, **{name: value}, **beside)
    except ValueError as error:  # transformers' own, or a UserError
        assert name in str(error) or "eval" in str(error) or name == "max_length", str(error)  # noqa: PT017
        return
    assert changed != plan(folder, **beside)


def test_a_text_that_means_nothing_is_refused_or_changes_the_plan(folder, capsys):
    without = plan(folder)
    texts = {name for cls in _classes()[:2] for name, hint in get_type_hints(cls).items() if TEXT.search(str(hint))}
    texts -= {"model_name_or_path", "rare"}
    assert len(texts) > 50
    ignored = set()
    for name in texts:
        with suppress(ValueError, KeyError, OSError):  # as `cli` turns them into messages
            if plan(folder, **{name: "no-such"}) == without:
                ignored.add(name)
    assert ignored > FREE
    for name in ignored - FREE:  # these have choices, which a command checks
        assert main(["plan", str(folder), f"--{name}", "no-such"]) == 2
        assert name in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value", "beside"), WRONG, ids=str)
def test_what_the_training_refuses_is_refused_by_its_name(name, value, beside, folder):
    plan(folder, **beside)
    with pytest.raises(UserError, match=f"--{name}"):
        plan(folder, **{name: value}, **beside)


@pytest.mark.parametrize("attention", ["flash_attention_2", "owner/kernel", "flex_attention", "sdpa"])
def test_an_attention_that_needs_a_card_or_a_package_is_planned_on_a_machine_without(attention, folder):
    assert not plan(folder, attn_implementation=attention)["model"]["matrices"]


def test_an_attention_that_the_model_does_not_have_is_refused(tmp_path):
    architectures.model("mamba").config.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="--attn_implementation flash_attention_2"):
        plan(tmp_path, attn_implementation="flash_attention_2")


def test_kept_conditions_count_once_or_once_in_an_epoch_and_no_step_reads_them(folder):
    live, epoch, frozen = (
        plan(folder, condition_logprobs=mode, num_train_epochs=3.0) for mode in ("live", "epoch", "frozen")
    )
    once = frozen["tokens"]["conditions"]
    assert frozen["tokens"]["total"]["conditions"] == once
    assert epoch["tokens"]["total"]["conditions"] == 3 * once
    assert frozen["flops"] < min(epoch["flops"], live["flops"])
    assert frozen["memory"]["beginnings"] == 0
    assert frozen["tokens"]["total"]["trained"] == live["tokens"]["total"]["trained"]
    assert frozen["tokens"]["largest"]["conditions"]["count"] > live["tokens"]["largest"]["conditions"]["count"]


def test_a_pass_without_noise_counts(folder):
    plain, noisy = plan(folder), plan(folder, lora_dropout=0.1)
    assert noisy["model"]["noisy"]
    assert not plain["model"]["noisy"]
    assert noisy["tokens"]["conditions"] == plain["tokens"]["conditions"] + plain["tokens"]["trained"]
    assert plan(folder, neftune_noise_alpha=5.0)["tokens"] == noisy["tokens"]
    assert (
        plan(folder, lora_dropout=0.1, condition_logprobs="frozen")["tokens"]["total"]["conditions"]
        < (noisy["tokens"]["total"]["conditions"])
    )


def test_a_saved_adapter_is_planned_with_its_own_rank_and_layers(folder):
    trained = sum(p.numel() for p in lora(tiny.model()).parameters() if p.requires_grad)
    assert plan(folder, adapter=str(folder / "adapter"))["model"]["trained"] == trained


def test_the_time_of_each_way_has_its_own_operations(folder):
    two = plan(folder, activation_checkpointing=False)["flops"], plan(folder)["flops"]
    assert two[0] < two[1]
    from nlft.models.sizes import sizes_from_config
    from nlft.planning.cards import Setup, setups
    from nlft.planning.memory import Rows, Step
    from nlft.planning.plan import _flops

    model = sizes_from_config(ModelSettings(model_name_or_path=str(folder)))
    step = Step(Rows(2, 64, 80), Rows(4, 64, 160), checkpointing=False)
    ways = {way.name: _flops(model, None, way) for way in setups(step, 2, 1, has_adapter=True)}
    assert ways["checkpointing"] > ways["as set"]
    assert ways["4 bits, 1 example a batch"] == ways["4 bits (QLoRA)"] == ways["checkpointing"]
    assert Setup._fields[-1] == "accumulated"


@pytest.mark.parametrize(
    ("name", "given", "make"),
    [
        ("adamw_torch", None, torch.optim.AdamW),
        ("sgd", None, torch.optim.SGD),
        ("sgd", "momentum=0.9", lambda p: torch.optim.SGD(p, momentum=0.9)),
        ("adagrad", None, torch.optim.Adagrad),
        ("rmsprop", None, torch.optim.RMSprop),
        ("rmsprop", "momentum=0.5, centered=true", lambda p: torch.optim.RMSprop(p, momentum=0.5, centered=True)),
        ("adafactor", None, None),
    ],
)
def test_what_an_optimizer_keeps_is_counted_to_the_byte(name, given, make, folder):
    from transformers.optimization import Adafactor

    from nlft.models.sizes import measured

    net = tiny.model(dtype=torch.bfloat16)
    found = measured(net, "tiny")
    made = (make or (lambda p: Adafactor(p, scale_parameter=False, relative_step=False, lr=1e-3)))(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    made.step()
    kept = [x for one in made.state.values() for x in one.values() if isinstance(x, torch.Tensor)]
    if name == "adafactor":
        kept = [x for x in kept if x.dim()]  # besides one number of each tensor
    assert optimizer_of(name, given).size(found) == sum(x.numel() * x.element_size() for x in kept)


def test_an_optimizer_whose_state_is_not_known_is_refused_by_name(folder):
    known = {name.value for name in OptimizerNames if not _refuses(name.value)}
    assert {"adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "sgd", "lion_8bit"} <= known
    assert _refuses("galore_adamw")
    sizes = [plan(folder, optim=name, use_peft=False)["memory"]["optimizer"] for name in ("adamw_torch", "sgd")]
    assert sizes[0] > sizes[1] == 0


def _refuses(name):
    try:
        optimizer_of(name, None)
    except UserError as error:
        assert name in str(error)  # noqa: PT017
        return True
    return False


@pytest.mark.parametrize(
    ("quantised", "bits"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, None),
        ({"quant_method": "fp8"}, None),
    ],
)
def test_weights_that_are_quantised_in_the_files_count_as_they_are_packed(quantised, bits, folder, tmp_path):
    written = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "quantization_config": quantised}))
    if bits is None:
        with pytest.raises(UserError, match=quantised["quant_method"]):
            plan(tmp_path)
        return
    found, flag = plan(tmp_path), {4: "load_in_4bit", 8: "load_in_8bit"}[bits]
    assert found["step"]["bits"] == bits
    assert found["memory"]["weights"] == plan(folder, **{flag: True})["memory"]["weights"]
    assert not any("FSDP2" in str(card["setup"]) for card in found["cards"])
    with pytest.raises(UserError, match="--use_peft"):
        plan(tmp_path, use_peft=False)


def test_the_model_may_come_after_the_flags_and_bf16_is_planned_for_a_card(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["plan", "--scheme", "uniform", "--bf16", "true", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["conditions"] == 0
    assert found["step"]["autocast"]
    assert main(["plan", str(folder), "--use_peft", "false", "--lora_r", "64"]) == 2
    assert "--lora_r" in capsys.readouterr().err
