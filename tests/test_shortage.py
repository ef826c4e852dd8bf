"""Out of memory: the message says what each setting would need, by the arithmetic of `nlft plan`."""

import re
from types import SimpleNamespace

import pytest
import torch

from helpers import tiny
from helpers.training import COMMON, examples, lora, nlft_trainer
from nlft import cli
from nlft.baselines.sft import SFTSettings, sft_trainer
from nlft.core.schemes.registry import get_scheme
from nlft.data.records import write_examples
from nlft.errors import NLFTError
from nlft.library_errors import MEMORY_CURE, message_and_code
from nlft.models.loading import ModelSettings
from nlft.models.sizes import measured
from nlft.planning import shortage
from nlft.planning.memory import memory_of
from nlft.planning.plan import make_plan
from nlft.planning.settings import PlanSettings
from nlft.planning.shortage import telling_what_fits, what_fits
from nlft.training.trainer import NLFTConfig

FIGURE = re.compile(r"([\d.]+) ([GM])iB +with (.+)")


def greedy(*_, **__):
    """Ask the real allocator for more than any machine has."""
    return torch.empty(2**56)


def figures(text):
    return {flags: float(size) * (2**30 if unit == "G" else 2**20) for size, unit, flags in FIGURE.findall(text)}


def test_a_training_that_runs_out_of_memory_says_what_each_setting_would_need(
    tmp_path, model_folder, monkeypatch, capsys
):
    write_examples(tmp_path / "e.jsonl", examples(8))
    monkeypatch.setattr("nlft.training.trainer.NLFTTrainer.training_step", greedy)
    words = ["train", tmp_path / "e.jsonl", "--model_name_or_path", model_folder, "--output_dir", tmp_path / "run"]
    words += ["--use_cpu", "--dtype", "float32", "--disable_tqdm", "true", "--watch", 0, "--max_steps", 2]
    words += ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 2]
    words += ["--activation_checkpointing", "false"]
    assert cli.main([str(word) for word in words]) == 1
    told = capsys.readouterr().err
    assert told.startswith("failed: out of memory: ")
    assert "allocate memory" in told
    found = figures(told)
    for fewer, accumulated in ((4, 4), (2, 8), (1, 16)):
        flags = f"--per_device_train_batch_size {fewer} --gradient_accumulation_steps {accumulated}"
        options = {**COMMON, "per_device_train_batch_size": fewer}
        args = NLFTConfig(output_dir=str(tmp_path / "plan"), **options)
        model = ModelSettings(model_name_or_path=str(model_folder), dtype="float32")
        scheme = get_scheme("nlft")
        planned = make_plan(model, args, scheme, scheme.settings(), PlanSettings(), examples(8)).memory.peak
        assert found[flags] == pytest.approx(planned, rel=0.1), "as `nlft plan` says; rows are counted for all batches"
    assert "--activation_checkpointing true" in found
    assert "per_device_train_batch_size 8" in told
    assert not any("load_in_4bit" in flags for flags in found), "on a CPU there are no 4 bits"
    assert "this machine has" in told


def test_the_figures_follow_the_batch_the_length_and_the_bits(tmp_path):
    trainer = nlft_trainer(tmp_path, per_device_train_batch_size=4, watch=0)
    text = what_fits(trainer)
    most = float(re.search(r"about ([\d.]+) MiB at", text)[1]) * 2**20
    step = shortage._step_of(trainer)
    assert (step.trained.count, step.bits, step.checkpointing) == (4, None, False)
    assert most == pytest.approx(memory_of(measured(trainer.model, "x"), step).peak, rel=0.04)
    assert list(figures(text).values()) == sorted(figures(text).values(), reverse=True)
    assert max(figures(text).values()) < most
    assert f"at most {max(step.trained.length, step.conditions.length) // 2} tokens" in text


def test_packed_weights_are_measured_as_if_they_were_not_packed():
    net = lora(tiny.model())
    whole = measured(net, "x")
    net.config.quantization_config = SimpleNamespace(load_in_4bit=True)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.shape[0] == 48:
            module.weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float32), requires_grad=False)
    found = shortage._sizes_of(net, True)
    assert (found.linear, found.all_weights, found.trained) == (whole.linear, whole.all_weights, whole.trained)


def out_of_memory(trainer):
    with pytest.raises(NLFTError) as caught, telling_what_fits(trainer):
        greedy()
    text, code = message_and_code(caught.value)
    assert code == 1
    assert text.startswith("failed: out of memory: ")
    return text


@pytest.mark.parametrize("engine", ["nlft", "trl"])
def test_sft_has_figures_with_our_own_loss_and_trls_has_the_usual_advice(tmp_path, engine):
    args = SFTSettings(output_dir=str(tmp_path), engine=engine, **COMMON)
    trainer = sft_trainer(lora(tiny.model()), args, examples(), tiny.tokenizer(), None)
    text = out_of_memory(trainer)
    assert bool(figures(text)) == (engine == "nlft")
    assert (MEMORY_CURE in text) == (engine == "trl")


def test_what_explains_an_error_does_not_end_in_one(tmp_path, monkeypatch):
    trainer = nlft_trainer(tmp_path, watch=0)

    def broken(*_):
        raise KeyError("no sizes")

    monkeypatch.setattr(shortage, "_sizes_of", broken)
    assert MEMORY_CURE in out_of_memory(trainer)
    assert MEMORY_CURE in out_of_memory(None)
    with pytest.raises(ValueError, match="other"), telling_what_fits(trainer):
        raise ValueError("other")
