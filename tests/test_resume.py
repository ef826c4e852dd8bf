"""Going on after a crash: the same weights and the same log, with the run's own settings, and no work thrown away."""

import copy
import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from fnmatch import fnmatch

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

from helpers import tiny
from helpers.training import COMMON, REDIRECTED, Ask, adapter, examples, lora, nlft_trainer
from nlft import cli
from nlft.baselines.sft import SFTSettings, sft_trainer
from nlft.data.records import write_examples
from nlft.errors import UserError
from nlft.files import append_whole
from nlft.runs.checkpoints import checkpoints_of, last_whole_checkpoint, next_number, problem_of, step_of
from nlft.runs.run_dir import RunDir
from nlft.training import checkpoints, manifest
from nlft.training.checkpoints import checkpoint_to_resume
from nlft.training.differences import differences
from nlft.training.rescore_worker import newest_adapter
from nlft.training.resuming import check_resume
from nlft.training.start import make_room, where_to_start
from nlft.training.trainer import NLFTConfig, NLFTTrainer

EACH_STEP = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 99}
OF_THE_CLOCK = {"time", "eta_seconds", "tokens_per_second", "train_runtime"}
OF_THE_CLOCK |= {"train_samples_per_second", "train_steps_per_second"}


def untimed(run):
    return [{name: value for name, value in e.items() if name not in OF_THE_CLOCK} for e in run.events()]


def dropping():
    return lora(tiny.model(), lora_dropout=0.2)


def sft_run(folder, engine="nlft", **settings):
    args = SFTSettings(output_dir=str(folder), target="answer", engine=engine, **{**COMMON, **settings})
    return sft_trainer(dropping(), args, examples(), tiny.tokenizer(), None)


def trl_run(folder, **settings):
    return sft_run(folder, "trl", **settings)


def dropping_nlft_trainer(folder, **settings):
    return nlft_trainer(folder, model=dropping(), saliency=REDIRECTED, watch=0, **settings)


def nlft(*argv):
    return cli.main([str(a) for a in argv])


# The log and the weights


@pytest.mark.parametrize("make", [dropping_nlft_trainer, sft_run, trl_run])
@pytest.mark.parametrize(("every", "cut"), [(1, 2), (3, 4)])
def test_a_killed_and_resumed_run_logs_and_ends_as_an_unbroken_one(tmp_path, make, every, cut):
    options = {"num_train_epochs": 4, "logging_steps": every, **EACH_STEP}
    whole = make(tmp_path, **options)
    whole.train()
    run = RunDir(tmp_path)
    unbroken = untimed(run)
    assert len(unbroken) == 8 // every + 1
    assert unbroken[-1]["train_loss"] > 0
    # PEFT's card would be one, with headings and no text, and the adapter's is ours.
    assert [one.parent for one in tmp_path.rglob("README.md")] == [run.adapter_path]
    again = make(tmp_path, **options)
    again.train(resume_from_checkpoint=str(run.checkpoints_path / f"checkpoint-{cut}"))
    assert untimed(run) == unbroken
    assert [e["step"] for e in run.events(superseded=True) if e.get("superseded")]
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name


def test_a_finished_run_that_is_resumed_gets_no_new_line_and_keeps_its_record(tmp_path):
    nlft_trainer(tmp_path, **EACH_STEP).train()
    run = RunDir(tmp_path)
    before, record = run.events_path.read_bytes(), run.settings()
    again = nlft_trainer(tmp_path, **EACH_STEP)
    again.train(resume_from_checkpoint=True)
    assert run.events_path.read_bytes() == before
    assert run.settings() == record


@pytest.mark.parametrize("make", [dropping_nlft_trainer, sft_run, trl_run])
def test_a_run_that_is_killed_after_its_last_checkpoint_trains_no_step_more(tmp_path, make):
    """The last step is in the middle of an epoch, and the rate is constant: one step more would change the weights."""
    options = {"max_steps": 3, "lr_scheduler_type": "constant", **EACH_STEP}
    whole = make(tmp_path, **options)
    whole.train()
    unbroken = untimed(RunDir(tmp_path))
    again = make(tmp_path, **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    assert untimed(RunDir(tmp_path)) == unbroken
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name


def test_the_intervals_of_a_resumed_run_are_the_ones_that_it_is_given(tmp_path):
    nlft_trainer(tmp_path, logging_steps=1, num_train_epochs=3, **EACH_STEP).train()
    again = nlft_trainer(tmp_path, logging_steps=2, num_train_epochs=3, **EACH_STEP)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-2"))
    assert [e["step"] for e in RunDir(tmp_path).events() if "loss" in e] == [1, 2, 4, 6]


def test_every_kind_of_random_number_continues_from_the_checkpoint(tmp_path):
    trainer = nlft_trainer(tmp_path)
    draws = [lambda: torch.rand(3).tolist(), lambda: np.random.rand(3).tolist(), lambda: [random.random()]]
    trainer._tr_loss, trainer._total_loss_scalar, trainer._globalstep_last_logged = torch.tensor(0.0), 0.0, 0
    trainer._save_rng_state(str(tmp_path / "c"))
    first = [draw() for draw in draws]
    assert all(one != draw() for one, draw in zip(first, draws, strict=True))
    trainer._load_rng_state(str(tmp_path / "c"))
    assert [draw() for draw in draws] == first


def test_a_checkpoint_that_is_asked_for_before_the_first_step_leaves_the_resumed_one_as_it_is(tmp_path):
    """The random numbers are loaded after the requests are taken. A new checkpoint would have others."""
    options = {"num_train_epochs": 3, **EACH_STEP}
    whole = dropping_nlft_trainer(tmp_path / "run", **options)
    whole.train()
    source = tmp_path / "run" / "checkpoints" / "checkpoint-3"  # in the middle of an epoch
    for folder in (tmp_path / "run", tmp_path / "other"):
        RunDir(folder).write_request("save", None, "page")
        again = dropping_nlft_trainer(folder, **options)
        again.train(resume_from_checkpoint=str(source))
        assert [(e["step"], e["control"], e["taken"]) for e in RunDir(folder).controls()] == [(4, "save", True)]
        assert all(torch.equal(weight, adapter(again.model)[name]) for name, weight in adapter(whole.model).items())
        assert problem_of(folder / "checkpoints" / "checkpoint-3") is None


class Opened:
    """A pickle that shows when it is opened."""

    def __init__(self, sign):
        self.sign = str(sign)

    def __reduce__(self):
        return os.mkdir, (self.sign,)


@pytest.mark.parametrize("scaler", [None, object()])
def test_a_pickle_that_somebody_puts_into_a_checkpoint_is_neither_opened_nor_in_the_way(tmp_path, scaler):
    whole = dropping_nlft_trainer(tmp_path / "run", **EACH_STEP)
    whole.train()
    source = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    for name in ("scaler.pt", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (source / name).write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
    again = dropping_nlft_trainer(tmp_path / "run", **EACH_STEP)
    if scaler is not None:
        again.accelerator.scaler = scaler
        again._load_scaler(str(source))
        again.accelerator.scaler = None
    again.train(resume_from_checkpoint=str(source))
    assert not (tmp_path / "opened").exists()
    assert all(torch.equal(weight, adapter(again.model)[name]) for name, weight in adapter(whole.model).items())


# The best checkpoint


def evaluated(folder, **settings):
    options = {"num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "watch": 0}
    args = NLFTConfig(output_dir=str(folder), **{**COMMON, **options, **settings})
    return NLFTTrainer(
        lora(tiny.model()), args, examples(9), eval_dataset=examples(12)[9:], processing_class=tiny.tokenizer()
    )


@pytest.mark.parametrize("strategy", ["epoch", "best"])
@pytest.mark.parametrize("greater", [True, False])
def test_the_best_checkpoint_is_kept_and_is_the_result(tmp_path, strategy, greater):
    trainer = evaluated(tmp_path, save_strategy=strategy, greater_is_better=greater)
    trainer.train()
    run = RunDir(tmp_path)
    losses = {e["step"]: e["eval_loss"] for e in run.events() if "eval_loss" in e}
    best = (max if greater else min)(losses, key=losses.get)
    assert run.settings()["best"] == {"step": best, "eval_loss": losses[best]}
    assert f"step {best}" in (run.adapter_path / "README.md").read_text()
    kept = load_file(run.checkpoints_path / f"checkpoint-{best}" / "adapter_model.safetensors")
    result = load_file(run.adapter_path / "adapter_model.safetensors")
    assert all(torch.equal(result[name], kept[name]) for name in kept)
    assert problem_of(run.checkpoints_path / f"checkpoint-{best}") is None


def test_the_best_step_is_saved_between_the_intervals_of_saving(tmp_path, monkeypatch, capsys):
    losses = {1: 3.0, 2: 2.0, 3: 1.0, 4: 1.5, 5: float("nan")}
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 4, "max_steps": 5}
    for name, measured, best in (("a", losses, 3), ("b", dict.fromkeys(losses, float("nan")), None)):
        trainer, run = evaluated(tmp_path / name, **steps), RunDir(tmp_path / name)
        monkeypatch.setattr(
            trainer, "_evaluate", lambda *_, m=measured, t=trainer: {"eval_loss": m[t.state.global_step]}
        )
        trainer.train()
        assert run.settings().get("best", {}).get("step") == best
        kept = {path.name for path in run.checkpoints_path.glob("checkpoint-*")}
        assert kept == ({"checkpoint-3", "checkpoint-5"} if best else {"checkpoint-5"})
        assert ("load_best_model_at_end" in capsys.readouterr().err) == (best is None)


def test_the_best_checkpoint_is_found_after_a_move_and_a_resume(tmp_path):
    evaluated(tmp_path / "run", greater_is_better=True, save_total_limit=9).train()
    first = RunDir(tmp_path / "run")
    best = first.settings()["best"]
    weights = load_file(first.adapter_path / "adapter_model.safetensors")
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = RunDir(tmp_path / "moved")
    last = checkpoint_to_resume(moved, "true", 1)
    assert step_of(last) != best["step"]
    shutil.rmtree(moved.adapter_path)
    evaluated(moved.path, greater_is_better=True, save_total_limit=9).train(resume_from_checkpoint=str(last))
    assert moved.settings()["best"] == best
    again = load_file(moved.adapter_path / "adapter_model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_other_folders_beside_the_checkpoints_are_no_checkpoints(tmp_path):
    nlft_trainer(tmp_path, **EACH_STEP).train()
    run = RunDir(tmp_path)
    shutil.copytree(run.checkpoints_path / "checkpoint-2", run.checkpoints_path / "checkpoint-best")
    (run.checkpoints_path / "checkpoint-2-old").mkdir()
    assert checkpoint_to_resume(run, "true", 1).name == "checkpoint-4"
    assert newest_adapter(run) is not None


def test_the_last_checkpoint_is_the_one_with_the_highest_number(tmp_path):
    nlft_trainer(tmp_path, max_steps=2, **EACH_STEP).train()
    run = RunDir(tmp_path)
    for number in (9, 10):
        (run.checkpoints_path / f"checkpoint-{number - 8}").rename(run.checkpoints_path / f"checkpoint-{number}")
    assert checkpoint_to_resume(run, "true", 1).name == "checkpoint-10"
    with pytest.raises(UserError, match=r"1 processes, but this run has 2"):
        checkpoint_to_resume(run, "true", 2)


# Which checkpoint is the last one


class WithAnotherClock(TrainerCallback):
    """Gives each checkpoint that is there a time to come, as if the clock were then set back."""

    def on_save(self, args, state, control, **_):
        for path in RunDir(args.output_dir).checkpoints_path.glob("checkpoint-*"):
            for place in (path, *path.iterdir()):
                os.utime(place, (time.time() + 3600,) * 2)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_clock_that_is_set_back_deletes_no_new_checkpoint(tmp_path, limit):
    left = tmp_path / "checkpoints" / manifest.WRITING / "checkpoint-9"  # from a process that was killed
    left.mkdir(parents=True)
    os.utime(left, (time.time() + 7200,) * 2)
    options = {**EACH_STEP, "save_total_limit": limit, "callbacks": [WithAnotherClock()], "watch": 0}
    nlft_trainer(tmp_path, **options).train()
    run = RunDir(tmp_path)
    assert [path.name for path in checkpoints_of(run)] == [f"checkpoint-{step}" for step in range(5 - limit, 5)]
    assert {path.name for path in run.checkpoints_path.iterdir()} == {path.name for path in checkpoints_of(run)}
    assert newest_adapter(run) == run.adapter_path


def test_a_limit_keeps_the_best_checkpoint_and_folders_that_are_no_checkpoints(tmp_path):
    run = RunDir(tmp_path)
    for number, step in enumerate((4, 2, 3), start=1):
        (run.checkpoints_path / f"checkpoint-{step}").mkdir(parents=True)
        (run.checkpoints_path / f"checkpoint-{step}" / "manifest.json").write_text(json.dumps({"saved": number}))
    (run.checkpoints_path / "checkpoint-2-old").mkdir()
    named = {step: run.checkpoints_path / f"checkpoint-{step}" for step in (2, 3, 4)}
    for limit in (None, 0, 3):
        manifest.rotate(run, limit, named[3])
        assert len(checkpoints_of(run)) == 3
    manifest.rotate(run, 2, named[3], tmp_path / "elsewhere" / "checkpoint-1")
    assert checkpoints_of(run) == [named[2], named[3]]
    manifest.rotate(run, 1, named[3], named[2])
    assert checkpoints_of(run) == [named[2], named[3]]
    assert (run.checkpoints_path / "checkpoint-2-old").is_dir()


@pytest.mark.parametrize("stop", ["at once", "after a step"])
def test_after_a_resume_from_an_earlier_checkpoint_later_ones_are_not_the_last(tmp_path, stop):
    nlft_trainer(tmp_path, watch=0, **EACH_STEP).train()
    run = RunDir(tmp_path)
    again = nlft_trainer(tmp_path, watch=0, **{**EACH_STEP, "save_steps": 1 if stop == "after a step" else 99})

    class Breaks(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == (1 if stop == "at once" else 2):
                raise RuntimeError("killed")

    again.add_callback(Breaks())
    with pytest.raises(RuntimeError, match="killed"):
        again.train(resume_from_checkpoint=str(run.checkpoints_path / "checkpoint-1"), anyway=True)
    expected = "checkpoint-1" if stop == "at once" else "checkpoint-2"
    assert checkpoint_to_resume(run, "true", 1).name == where_to_start(run, "auto", overwrite=False, world_size=1).name
    assert checkpoint_to_resume(run, "true", 1).name == last_whole_checkpoint(run).name == expected
    assert newest_adapter(run).name == expected
    assert [problem_of(path) for path in checkpoints_of(run)] == [None] * 4


def test_a_checkpoint_without_a_number_follows_its_lower_step(tmp_path):
    run = RunDir(tmp_path)
    for step, text in {9: "{}", 10: "{}", 3: '{"saved": 1}', 11: None, 12: "[", 13: '{"saved": 2}'}.items():
        folder = run.checkpoints_path / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if text is not None:
            (folder / "manifest.json").write_text(text)
    # 9, 10: an older version's. 11, 12: torn, after 10.
    assert [step_of(path) for path in checkpoints_of(run)] == [9, 10, 11, 12, 3, 13]
    assert next_number(run) == 3


# Other settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four steps with a checkpoint at each, of a model in a folder."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (0, 5):
        tiny.model(seed=seed).save_pretrained(folder / f"model-{seed}")
    trainer = nlft_trainer(folder / "run", model=loaded(folder / "model-0"), watch=0, **EACH_STEP)
    trainer.train()
    return folder


def loaded(folder, shape=lora, **options):
    return shape(AutoModelForCausalLM.from_pretrained(folder, **options))


def edited(which):
    made = examples()
    return [*made[:which], replace(made[which], judgment="It is off by three."), *made[which + 1 :]]


OTHERS = {
    "data": [{"data": edited(-2)}, {"data": examples()[::-1]}, {"data": examples(6)}, {"data": examples(24)}],
    "--scheme": [{"saliency": "cut"}],
    "--saliency.mistake_ratio": [{"saliency": REDIRECTED}],
    "--seed": [{"seed": 1}],
    "--per_device_train_batch_size": [{"per_device_train_batch_size": 2}],
    "--gradient_accumulation_steps": [{"gradient_accumulation_steps": 1}],
    "--learning_rate": [{"learning_rate": 1e-3}],
    "--lr_scheduler_type": [{"lr_scheduler_type": "cosine"}],
    "--warmup_steps": [{"warmup_steps": 2}],
    "--num_train_epochs": [{"num_train_epochs": 5}],
    "--max_steps": [{"max_steps": 3}],
    "--weight_decay": [{"weight_decay": 0.1}],
    "--max_grad_norm": [{"max_grad_norm": 0.5}],
    "--answer_weight": [{"answer_weight": 1.0}],
    "--loss_normalization": [{"loss_normalization": "token"}],
    "--system_prompt": [{"system_prompt": "Be brief."}],
    "--optim": [{"optim": "sgd"}],
}  # fmt: skip


@pytest.mark.parametrize("named", OTHERS)
def test_another_setting_or_example_is_refused_by_name(trained, named):
    for other in OTHERS[named]:
        trainer = nlft_trainer(trained / "run", model=loaded(trained / "model-0"), **{"watch": 0, **EACH_STEP, **other})
        before = RunDir(trained / "run").settings_path.read_bytes()
        with pytest.raises(UserError) as caught:
            trainer.train(resume_from_checkpoint=True)
        assert f"{named}: was " in str(caught.value)
        assert RunDir(trained / "run").settings_path.read_bytes() == before


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("--model_name_or_path", lambda at: loaded(at / "model-5")),
        ("--dtype", lambda at: loaded(at / "model-0", dtype=torch.bfloat16)),
        ("--use_rslora", lambda at: loaded(at / "model-0", lambda m: lora(m, use_rslora=True))),
        ("--lora_alpha", lambda at: of_rank(at, 4, alpha=16)),
        ("--lora_r", lambda at: of_rank(at, 2)),
        ("--use_peft", lambda at: loaded(at / "model-0", lambda m: m)),
    ],
)
def test_another_model_or_adapter_is_refused_by_name(trained, named, change):
    trainer = nlft_trainer(trained / "run", model=change(trained), watch=0, **EACH_STEP) if named != "--use_peft" else (
        NLFTTrainer(
            change(trained),
            NLFTConfig(output_dir=str(trained / "run"), **{**COMMON, **EACH_STEP}, watch=0),
            examples(),
            processing_class=tiny.tokenizer(),
            peft_config=None,
        )
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        trainer.train(resume_from_checkpoint=True)
    assert f"{named}: was " in str(caught.value)
    if named in ("--lora_r", "--use_peft"):
        with pytest.raises(UserError, match="fits no other"):
            trainer.train(resume_from_checkpoint=True, anyway=True)


@pytest.mark.parametrize(("before", "now"), [(None, {"r": 4}), ({"r": 4}, None)])
def test_a_training_with_and_one_without_an_adapter_are_told_which_is_which(before, now):
    (found,) = differences({"adapter_config": before}, {"adapter_config": now})
    assert (found.before, found.now) == (before is not None, now is not None)
    assert f"--use_peft {str(before is not None).lower()}" in found.cure


def of_rank(at, r, alpha=8):
    from peft import LoraConfig, get_peft_model

    return loaded(
        at / "model-0", lambda m: get_peft_model(m, LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear"))
    )


def test_other_weights_under_the_same_name_are_refused(trained, tmp_path):
    shutil.copytree(trained / "model-0", tmp_path / "model")
    nlft_trainer(tmp_path / "run", model=loaded(tmp_path / "model"), watch=0, **EACH_STEP).train()
    shutil.copy(trained / "model-5" / "model.safetensors", tmp_path / "model" / "model.safetensors")
    again = nlft_trainer(tmp_path / "run", model=loaded(tmp_path / "model"), watch=0, **EACH_STEP)
    with pytest.raises(UserError, match="weights of the model: was "):
        again.train(resume_from_checkpoint=True)


def test_another_chat_template_is_refused(trained):
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("<s>", "<s><|system|>Today is Sunday.<|end|>")
    again = NLFTTrainer(
        loaded(trained / "model-0"),
        NLFTConfig(output_dir=str(trained / "run"), watch=0, **{**COMMON, **EACH_STEP}),
        examples(),
        processing_class=tokenizer,
    )
    with pytest.raises(UserError, match="token ids of the examples: was "):
        again.train(resume_from_checkpoint=True)


def test_what_changes_no_weight_is_not_refused(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "run", tmp_path / "run")
    monkeypatch.chdir(trained)  # the same model by another path
    for model in ("model-0", trained / "model-0"):
        free = {"logging_steps": 2, "save_steps": 2, "watch": 3, "disable_tqdm": True}
        again = nlft_trainer(tmp_path / "run", model=loaded(model), **{**EACH_STEP, **free})
        again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / "checkpoint-2"))


def test_everything_is_listed_at_once_and_anyway_makes_it_so(trained, tmp_path, capsys):
    """What run.yaml says of the rate and of the optimizer is what trains, from the checkpoint on."""
    shutil.copytree(trained / "run", tmp_path / "run")
    source = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    new = {"learning_rate": 3e-3, "weight_decay": 0.1, "lr_scheduler_type": "cosine", "warmup_steps": 1, "watch": 0}

    def trainer():
        return nlft_trainer(tmp_path / "run", edited(0), model=loaded(trained / "model-0"), **{**EACH_STEP, **new})

    with pytest.raises(UserError) as caught:
        trainer().train(resume_from_checkpoint=str(source))
    names = ["--learning_rate", "--weight_decay", "--lr_scheduler_type", "--warmup_steps", "data"]
    assert all(f"{name}: was " in str(caught.value) for name in [*names, "--anyway"][:-1])
    assert "--anyway" in str(caught.value)
    again = trainer()
    again.train(resume_from_checkpoint=str(source), anyway=True)
    told = capsys.readouterr().err
    assert all(name.lstrip("-") in told for name in names)
    fresh = nlft_trainer(tmp_path / "fresh", edited(0), model=loaded(trained / "model-0"), **new)
    fresh.train()
    rates = [[e["learning_rate"] for e in RunDir(tmp_path / name).events() if "loss" in e] for name in ("run", "fresh")]
    assert rates[0][2:] == rates[1][2:]
    assert rates[0][:2] != rates[1][:2]
    assert {group["weight_decay"] for group in again.optimizer.param_groups} == {0.1, 0.0}
    (resumed,) = RunDir(tmp_path / "run").settings()["resumed"]
    assert resumed["step"] == 2
    assert set(resumed["changed"]) == {name.lstrip("-") for name in names}
    assert resumed["before"]["learning_rate"] == 1e-2
    with pytest.raises(UserError, match=r"--learning_rate: was 0\.01"):  # an older checkpoint is still of the old run
        trainer().train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / "checkpoint-1"))


@pytest.mark.parametrize("tell", [True, False])
def test_one_process_alone_prints_what_was_accepted(trained, capsys, tell):
    run = RunDir(trained / "run")
    source = trained / "run" / "checkpoints" / "checkpoint-2"
    record = run.settings()
    record["training"]["learning_rate"] = 3e-3
    found = check_resume(source, run, record, anyway=True, engine=False, tell=tell)
    assert found.changed == {"learning_rate": 1e-2}
    assert ("learning_rate" in capsys.readouterr().err) is tell


def test_baselines_are_compared_too(tmp_path):
    sft_run(tmp_path, max_steps=2, **EACH_STEP).train()
    with pytest.raises(UserError, match="--learning_rate: was "):
        sft_run(tmp_path, max_steps=2, **{**EACH_STEP, "learning_rate": 1e-3}).train(resume_from_checkpoint=True)
    with pytest.raises(UserError, match="method: was sft"):
        nlft_trainer(tmp_path, max_steps=2, **EACH_STEP).train(resume_from_checkpoint=True)


# The same command again


def asked(folder, choice=None, overwrite=False):
    run = RunDir(folder)
    checkpoint = where_to_start(run, choice, overwrite=overwrite, world_size=1)
    make_room(run, checkpoint)
    return checkpoint


@pytest.fixture
def unfinished(trained, tmp_path):
    """The run as a kill leaves it after step 3."""
    run = RunDir(shutil.copytree(trained / "run", tmp_path / "killed"))
    shutil.rmtree(run.adapter_path)
    shutil.rmtree(run.checkpoints_path / "checkpoint-4")
    return run


@pytest.mark.parametrize("choice", ["no", "false", "none", None, "yes", "true", True])
def test_yamls_words_for_true_and_false_say_whether_to_resume(unfinished, choice):
    if choice in ("yes", "true", True):
        assert asked(unfinished.path, choice).name == "checkpoint-3"
    else:
        with pytest.raises(UserError, match="--resume"):
            asked(unfinished.path, choice)


def test_a_folder_with_any_work_in_it_is_refused_without_a_flag(unfinished, trained, tmp_path):
    for left in ("checkpoints/checkpoint-3", "adapter", "controls.jsonl", "events.jsonl"):
        folder = tmp_path / "only" / left
        folder.parent.mkdir(parents=True, exist_ok=True)
        if left == "controls.jsonl":
            folder.write_text('{"id": "a", "step": 1, "control": "save", "who": "cli", "new": null, "taken": true}\n')
        else:
            source = trained / "run" / left
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder)
        for choice in (None, "false", False, ""):
            with pytest.raises(UserError) as caught:
                asked(tmp_path / "only", choice)
            assert left.partition("/")[0] in str(caught.value)
            assert "--resume" in str(caught.value)
            assert "--overwrite" in str(caught.value)
        assert asked(tmp_path / "only", overwrite=True) is None
        assert not folder.exists()
        shutil.rmtree(tmp_path / "only")


@pytest.mark.parametrize("choice", ["auto", "AUTO", "true", "True", True])
def test_a_run_goes_on_from_its_last_checkpoint(unfinished, choice):
    assert asked(unfinished.path, choice).name == "checkpoint-3"
    with pytest.raises(UserError, match="--overwrite"):
        asked(unfinished.path, choice, overwrite=True)


def test_auto_passes_over_a_damaged_checkpoint_and_true_names_the_whole_one(unfinished, capsys):
    weights = unfinished.checkpoints_path / "checkpoint-3" / "optimizer.safetensors"
    data = bytearray(weights.read_bytes())
    data[-9] ^= 1  # the size stays
    weights.write_bytes(data)
    assert asked(unfinished.path, "auto").name == "checkpoint-2"
    assert "checkpoint-3" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"(?s)optimizer\.safetensors.*checkpoint-2"):
        asked(unfinished.path, "true")


def test_auto_starts_at_the_first_step_when_nothing_of_worth_is_there(unfinished, tmp_path, capsys):
    assert asked(tmp_path / "new", "auto") is None
    shutil.rmtree(unfinished.checkpoints_path)
    unfinished.controls_path.unlink()
    assert asked(unfinished.path, "auto") is None
    assert "events.jsonl" in capsys.readouterr().err
    assert unfinished.events() == []
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        asked(unfinished.path, "true")


def test_auto_never_deletes_a_result_hand_made_changes_or_damaged_checkpoints(trained, tmp_path):
    for place in ("adapter", "controls.jsonl", "checkpoints"):
        run = RunDir(shutil.copytree(trained / "run", tmp_path / place))
        if place == "checkpoints":
            for path in run.checkpoints_path.iterdir():
                (path / "manifest.json").unlink()
        else:
            shutil.rmtree(run.checkpoints_path)
        if place != "adapter":
            shutil.rmtree(run.adapter_path)
        if place == "controls.jsonl":
            run.controls_path.write_text('{"step": 1, "taken": true}\n')
        with pytest.raises(UserError) as caught:
            asked(run.path, "auto")
        assert place in str(caught.value)
        assert (run.path / place).exists()


def test_a_requeue_script_needs_one_command(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "e.jsonl", examples(6))
    command = ["train", tmp_path / "e.jsonl", "--model_name_or_path", model_folder, "--output_dir", tmp_path / "run"]
    command += ["--use_cpu", "--dtype", "float32", "--disable_tqdm", "true", "--watch", 0, "--max_steps", 4]
    command += ["--save_strategy", "steps", "--save_steps", 1, "--resume_from_checkpoint", "auto"]

    def early(self, *_, **__):  # nothing is trained yet, so nothing is waited for
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        pytest.fail("the signal was not taken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NLFTTrainer, "before_first_step", early)
        assert nlft(*command) == 128 + signal.SIGTERM
    assert "no checkpoint" in capsys.readouterr().err

    def unplug(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NLFTTrainer, "training_step", unplug)
        assert nlft(*command) == 130
    assert "no checkpoint" in capsys.readouterr().err

    def terminated(self, *args, **kwargs):
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    step = NLFTTrainer.training_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NLFTTrainer, "training_step", terminated)
        assert nlft(*command) == 128 + signal.SIGTERM
    told = capsys.readouterr().err
    assert "after step 2" in told
    assert "checkpoint-2" in told
    assert f"next: nlft train {tmp_path / 'e.jsonl'}" in told
    assert told.rstrip().endswith("--resume\nterminated")
    ended = [e for e in RunDir(tmp_path / "run").events() if "ended" in e]
    assert [(e["ended"], e["step"]) for e in ended] == [("interrupted", 2)]
    assert not (tmp_path / "run" / "adapter").exists()
    assert nlft(*command) == 0
    assert [e["step"] for e in RunDir(tmp_path / "run").events() if "loss" in e] == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert nlft(*command[:-2]) == 2
    assert nlft(*command[:-1], "false") == 2
    assert nlft(*command, "--learning_rate", "0.5") == 2
    assert "--learning_rate: was 0.0002" in capsys.readouterr().err


# A full disk


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    Exception("No space left on device (os error 28)"),
    RuntimeError("Input/output error (os error 5)"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["save_file", "finish_checkpoint"])
def test_a_full_disk_refuses_a_checkpoint_that_was_asked_for(tmp_path, monkeypatch, error, place):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(checkpoints, place, full)
    trainer = nlft_trainer(tmp_path, callbacks=[Ask(tmp_path, {3: [("save", None)]})], watch=0)
    trainer.train()
    (line,) = RunDir(tmp_path).controls()
    assert (line["taken"], line["step"]) == (False, 3)
    assert "os error" in line["reason"] or "No space left" in line["reason"]
    assert trainer.state.global_step == 4
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert list((tmp_path / "checkpoints").glob("**/*")) == []


def test_a_full_disk_ends_a_run_with_scheduled_checkpoints_and_keeps_the_last_good_one(tmp_path, monkeypatch):
    tokenizer = tiny.tokenizer()
    saved = type(tokenizer).save_pretrained

    def fills_up(self, folder, *args, **kwargs):
        if "checkpoint-3" in str(folder):
            raise Exception("No space left on device (os error 28)")
        return saved(self, folder, *args, **kwargs)

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fills_up)
    with pytest.raises(manifest.NotSaved, match=r"checkpoint-3.*No space left"):
        nlft_trainer(tmp_path, watch=0, **{**EACH_STEP, "save_total_limit": 1}).train()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert problem_of(tmp_path / "checkpoints" / "checkpoint-2") is None
    assert issubclass(manifest.NotSaved, UserError)


def test_a_real_full_disk_is_survived(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=450k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        trainer = nlft_trainer(disk / "run", callbacks=[Ask(disk / "run", {3: [("save", None)]})], watch=0)
        (disk / "ballast").write_bytes(b"0" * 345_000)  # room for the adapter, some 50 kB, not for a checkpoint, 140 kB
        trainer.train()
        (line,) = RunDir(disk / "run").controls()
        assert line["taken"] is False
        assert (disk / "run" / "adapter" / "adapter_model.safetensors").is_file()
        (disk / "ballast").unlink()
        shutil.rmtree(disk / "run")
        with pytest.raises(manifest.NotSaved):
            nlft_trainer(disk / "run", watch=0, **EACH_STEP).train()
        last = checkpoint_to_resume(RunDir(disk / "run"), "true", 1)
        assert problem_of(last) is None
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_adapter_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    nlft_trainer(tmp_path, watch=0, **EACH_STEP).train()
    before = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    saved = NLFTTrainer.save_model

    def full(self, folder, **options):
        saved(self, folder, **options)
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(NLFTTrainer, "save_model", full)
    with pytest.raises(manifest.NotSaved, match="adapter"):
        nlft_trainer(tmp_path, watch=0, **EACH_STEP).train(
            resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-3")
        )
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "error", [Exception("a bug"), RuntimeError("a bug"), SafetensorError("not contiguous"), KeyError(1)]
)
def test_a_fault_that_is_not_the_disks_is_not_taken_for_one(error):
    with pytest.raises(type(error)) as caught, manifest.saving("this"):
        raise error
    assert caught.value is error


def test_a_kill_while_a_checkpoint_replaces_another_loses_neither(unfinished, monkeypatch):
    place = unfinished.checkpoints_path / "checkpoint-3"
    writing = unfinished.checkpoints_path / ".writing"
    shutil.copytree(place, writing / "checkpoint-3")
    moves = []

    def killed(source, target):
        if moves:
            raise KeyboardInterrupt
        moves.append(os.rename(source, target))

    with monkeypatch.context() as patch:
        patch.setattr(manifest.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            manifest.put_in_place(writing / "checkpoint-3", place)
    assert not place.exists()
    assert asked(unfinished.path, "auto") == place
    assert problem_of(place) is None


# Files that grow


@pytest.mark.parametrize(("torn", "kept"), [(b'{"a": 3, "b', []), (b'{"a": 3}', [{"a": 3}]), (b"\xff{", [])])
def test_half_a_last_line_does_not_spoil_the_next(tmp_path, torn, kept):
    path = tmp_path / "log.jsonl"
    append_whole(path, b'{"a": 1}\n{"a": 2}\n')
    path.write_bytes(path.read_bytes() + torn)
    append_whole(path, b'{"a": 4}\n')
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [{"a": 1}, {"a": 2}, *kept, {"a": 4}]


# Requests


def test_the_factor_on_the_rate_is_gone_after_the_step(tmp_path):
    after = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args, state, control, optimizer, **_):
            after.append([group["lr"] for group in optimizer.param_groups])

    trainer = nlft_trainer(
        tmp_path, callbacks=[Ask(tmp_path, {2: [("learning_rate", 0.5)]})], lr_scheduler_type="constant", watch=0
    )
    trainer.add_callback(Rates())  # after the trainer's own
    trainer.train()
    assert [e["learning_rate"] for e in RunDir(tmp_path).events() if "loss" in e] == [1e-2, 5e-3, 5e-3, 5e-3]
    assert after == [[1e-2, 1e-2]] * 4


def test_a_replay_takes_only_what_was_taken(tmp_path):
    trainer = nlft_trainer(tmp_path)
    line = {"id": "1", "step": 2, "who": "page", "control": "learning_rate", "old": 1.0, "new": 0.5, "reason": None}
    refused = {**line, "id": "2", "taken": False, "reason": "the disk was full"}
    trainer.steering.replay([{**line, "taken": True}, refused])
    assert [e["id"] for e in trainer.steering.replayed] == ["1"]


def test_a_request_stays_until_its_line_is_written(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDir, "append_control", killed)
    trainer = nlft_trainer(tmp_path, callbacks=[Ask(tmp_path, {2: [("learning_rate", 0.5)]})], watch=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(RunDir(tmp_path).pending_requests()) == 1


def test_a_run_that_has_all_its_steps_trains_no_more_in_the_middle_of_an_epoch(tmp_path):
    """Trainer itself would train one step more."""
    options = {"data": examples(8), "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "watch": 0}
    run = nlft_trainer(tmp_path / "run", max_steps=2, save_steps=1, save_strategy="steps", **options)
    run.train()
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items() if "lora" in name}
    again = nlft_trainer(tmp_path / "run", max_steps=2, save_steps=1, save_strategy="steps", **options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2
    assert all(again.model.state_dict()[name].equal(tensor) for name, tensor in weights.items())


@pytest.mark.parametrize(
    ("old", "new", "best", "told"),
    [
        ("a", "b", True, True),
        ("a", "b", False, False),
        (None, "b", True, False),
        ("a", None, True, False),
    ],
)
def test_other_held_out_examples_count_only_if_both_have_some_and_they_decide(old, new, best, told):
    def record(digest):
        held = {} if digest is None else {"held_out": {"sha256": digest * 64}}
        return {"data": {"sha256": "c" * 64}, "training": {"load_best_model_at_end": best}, **held}

    found = [one.name for one in differences(record(old), record(new))]
    assert found == (["held_out"] if told else [])


def test_the_folder_of_a_newer_version_is_not_gone_on_in_and_a_spoilt_record_is_told(unfinished, capsys):
    path, checkpoint = unfinished.settings_path, unfinished.checkpoints_path / "checkpoint-3"
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r"format_version: \d+", "format_version: 99", text), encoding="utf-8")
    record = RunDir(checkpoint).settings()
    with pytest.raises(UserError, match=r"run\.yaml.*99"):
        check_resume(checkpoint, unfinished, record, anyway=True)
    assert "99" in path.read_text(encoding="utf-8")
    path.write_text("scheme: [", encoding="utf-8")
    check_resume(checkpoint, unfinished, record, anyway=False)
    assert "run.yaml" in capsys.readouterr().err


SHA = {name: name * 64 for name in "abcd"}
START = {"name": "x", "sha256": SHA["a"], "config_sha256": SHA["b"]}
# Two records; then what is told of each difference: its name, both values as shown, the cure, and if it is fixed.
DIFFERENCES = [
    ({}, {}, []),
    ({"versions": {"torch": "2.8"}}, {"versions": {"torch": "2.9"}}, ["torch: 2.8, 2.9 | Install torch 2.8."]),
    ({"versions": {}}, {"versions": {"ray": "2"}}, ["ray: not set, 2 | Remove ray."]),
    ({"threads": 2}, {"threads": 4}, ["threads: 2, 4 | Start with OMP_NUM_THREADS=2."]),
    ({"threads": 2}, {}, []),
    ({}, {"threads": 4}, []),
    ({}, {"processes": 2}, ["processes: 1, 2 | Start 1 processes."]),
    ({}, {"processes": 1}, []),
    ({"device": "cpu"}, {"device": "cuda"}, ["device: cpu, cuda | Train on the same device: cpu."]),
    (
        {"data": {"sha256": SHA["a"]}},
        {"data": {"sha256": SHA["b"]}},
        [f"data: {'a' * 16}, {'b' * 16} | Restore the file whose SHA-256 begins with {'a' * 16}."],
    ),
    ({"data": {}}, {"data": {"sha256": SHA["b"]}}, [f"data: not set, {'b' * 16} | Restore the file whose SHA-256*"]),
    (
        {"model_name_or_path": "a"},
        {"model_name_or_path": "b"},
        ["model_name_or_path: a, b | Give --model_name_or_path a."],
    ),
    ({"model_name_or_path": "a"}, {"model_name_or_path": "a"}, []),
    ({"model_name_or_path": "a"}, {}, []),
    ({}, {"model_name_or_path": "b"}, []),
    (
        {"weights": SHA["a"]},
        {"weights": SHA["b"]},
        ["weights of the model: aaaa*, bbbb* | Restore the model*"],
    ),
    ({"weights": SHA["a"]}, {"weights": "b" * 40}, []),
    ({"weights": SHA["a"]}, {}, []),
    ({}, {"weights": SHA["a"]}, []),
    ({"starting_adapter": START}, {"starting_adapter": START}, []),
    ({"starting_adapter": START}, {}, []),
    ({}, {"starting_adapter": START}, []),
    ({"starting_adapter": None}, {"starting_adapter": START}, ["starting adapter: not set, *"]),
    ({"starting_adapter": START}, {"starting_adapter": {**START, "config_sha256": SHA["c"]}}, ["starting adapter: *"]),
    ({"starting_adapter": START}, {"starting_adapter": {**START, "sha256": SHA["c"]}}, ["starting adapter: *"]),
    ({"starting_adapter": START}, {"starting_adapter": {**START, "name": "y"}}, []),
    ({"starting_adapter": {"name": "x"}}, {"starting_adapter": {"name": "y"}}, ["starting adapter: *"]),
    ({"starting_adapter": {"sha256": SHA["a"]}}, {"starting_adapter": START}, []),
    (
        {"method": "sft"},
        {"method": "kto"},
        ["method: sft, kto | Go on with * sft. fixed"],
    ),
    ({"method": "sft"}, {}, []),
    ({"model": {"dtype": "float32"}}, {"model": {"dtype": "auto"}}, ["dtype: float32, auto | Give --dtype float32."]),
    ({"model": {"dtype": "float32"}, "dtype": "x"}, {"model": {"dtype": "auto"}, "dtype": "x"}, []),
    ({"model": {"dtype": "float32"}, "dtype": "x"}, {"model": {"dtype": "auto"}}, ["dtype: *"]),
    ({"model": {"model_revision": "a"}}, {"model": {"model_revision": "b"}}, []),
    ({"scheme": "nlft", "saliency": {"w": 1}}, {"scheme": "nlft", "saliency": {"w": 2}}, ["saliency.w: 1, 2 | *"]),
    ({"scheme": "nlft", "saliency": {"w": 1}}, {"scheme": "cut", "saliency": {"w": 2}}, ["scheme: nlft, cut | *"]),
    ({"training": {"optim": "sgd"}}, {"training": {"optim": "adamw"}}, ["optim: sgd, adamw | Give --optim sgd. fixed"]),
    ({"training": {"learning_rate": 1.0}}, {"training": {"learning_rate": 2.0}}, ["learning_rate: 1.0, 2.0 | *"]),
    (
        {"training": {"learning_rate": 1.0, "lr_scheduler_type": "greedy"}},
        {"training": {"learning_rate": 2.0, "lr_scheduler_type": "greedy"}},
        ["learning_rate: 1.0, 2.0 | Give --learning_rate 1.0. fixed"],
    ),
    (
        {"training": {"optim": "sgd", "lr_scheduler_type": "greedy"}},
        {"training": {"optim": "adamw", "lr_scheduler_type": "greedy"}},
        ["optim: sgd, adamw | Give --optim sgd. fixed"],
    ),
    ({"training": {"eval_steps": 1}}, {"training": {"eval_steps": 2}}, []),
    (
        {"training": {"eval_steps": 1}},
        {"training": {"eval_steps": 2, "save_strategy": "best"}},
        ["eval_steps: 1, 2 | Give --eval_steps 1."],
    ),
    (
        {"training": {"neftune_noise_alpha": None}},
        {"training": {"neftune_noise_alpha": 5}},
        ["*Leave out --neft*"],
    ),
    ({"training": {"a": [2, 1]}}, {"training": {"a": (1, 2)}}, []),
    ({"training": {"a": [2, 1]}}, {"training": {"a": [3]}}, ["a: 1 2, 3 | Give --a 1 2."]),
    ({"training": {"a": True}}, {"training": {"a": False}}, ["a: true, false | Give --a true."]),
    ({"method": "sft"}, {"method": "sft", "training": {"engine": "trl"}}, []),
    ({"method": "sft"}, {"method": "sft", "training": {"engine": "nlft"}}, ["engine: trl, nlft | *"]),
    ({"adapter_config": {"r": 4}}, {"adapter_config": {"r": 8}}, ["lora_r: 4, 8 | Give --lora_r 4. fixed"]),
    ({"adapter_config": {"bias": "none"}}, {"adapter_config": {"bias": "all"}}, ["bias: none, all | * fixed"]),
    (
        {"adapter_config": {"rank_pattern": {}}},
        {"adapter_config": {"rank_pattern": {"q": 1}}},
        ["rank*: * fixed"],
    ),
    (
        {"adapter_config": {"layers_to_transform": [1]}},
        {"adapter_config": {"layers_to_transform": [2]}},
        ["layers_to_transform: 1, 2 | * fixed"],
    ),
    ({"adapter_config": {"r": 4}}, {}, []),
    ({"data": {"tokens_sha256": SHA["a"]}}, {"data": {"tokens_sha256": SHA["b"]}}, ["token ids of the examples: *"]),
    (
        {"seed": 1, "data": {"tokens_sha256": SHA["a"]}},
        {"seed": 2, "data": {"tokens_sha256": SHA["b"]}},
        ["seed: 1, 2 | Give --seed 1."],
    ),
    (
        {"threads": 1, "data": {"tokens_sha256": SHA["a"]}},
        {"threads": 2, "data": {"tokens_sha256": SHA["b"]}},
        ["threads: *", "token ids of the examples: *"],
    ),
]


@pytest.mark.parametrize(("old", "new", "told"), DIFFERENCES)
def test_each_difference_of_two_records_is_told_with_its_cure_and_no_other(old, new, told):
    found = []
    for one in differences(old, new):
        was, now = re.fullmatch(rf"{one.name} was (.*) in the run, and is (.*) now", str(one)).groups()
        found.append(f"{one.name}: {was}, {now} | {one.cure}{' fixed' if one.fixed else ''}")
        assert one.environment == (one.name in ("torch", "ray", "threads", "processes", "device"))
        assert one.setting == one.cure.startswith(("Give --", "Leave out --"))
        assert one.problem().where == ("--" if one.setting else "") + one.name
    assert len(found) == len(told), found
    for given, wanted in zip(found, told, strict=True):
        assert fnmatch(given, wanted), given
