"""Plain SFT on our own core: what TRL's SFTTrainer computes, in the same kind of run."""

from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments
from trl import SFTConfig

from helpers import tiny
from helpers.training import COMMON, adapter, examples, lora
from nlft import cli
from nlft.baselines.sft import SFTBaseline, SFTSettings, sft_trainer
from nlft.baselines.sft_own import OwnSFT
from nlft.baselines.sft_rows import sft_rows
from nlft.core.conditions import ConditionEncoder
from nlft.data.records import write_examples
from nlft.errors import ConfigError, UserError
from nlft.experiments.arm_run import baseline_trainer
from nlft.experiments.arms import BUILT_IN, defined_arm
from nlft.runs.run_dir import RunDir
from nlft.training import honoured
from nlft.training.divergence import EXAMPLE
from nlft.training.settings import SFTOptions

ENGINES = ("nlft", "trl")
# Decided elsewhere: our own, refused for both engines, or of no matter to what is computed.
DECIDED = {"model_init_kwargs", "trust_remote_code", "dataset_text_field", "dataset_kwargs", "chat_template_path"}
DECIDED |= {"eos_token", "completion_only_loss", "assistant_only_loss", "eval_packing", "truncation_mode", "max_length"}


def trainer(engine, folder, model=None, data=None, **changed):
    """Both engines' trainers, on rows of different lengths."""
    settings = {"target": "all-completions", **COMMON, **changed}
    args = SFTSettings(output_dir=str(folder / engine), engine=engine, **settings)
    net = model() if model else lora(tiny.model())
    return sft_trainer(net, args, data or ragged(), tiny.tokenizer(), None)


def ragged():
    return [replace(one, completion=one.completion + " so" * at) for at, one in enumerate(examples(9))]


def test_each_reply_is_trained_with_its_own_prompt_whatever_the_ids():
    some = [replace(one, id="same", prompt=f"{one.prompt} {at}") for at, one in enumerate(examples(3))]
    encoder = ConditionEncoder(tiny.tokenizer())
    rows = sft_rows(some, encoder, "all-completions")
    assert [row[EXAMPLE] for row in rows] == [0, 1, 2]
    for one, row in zip(some, rows, strict=True):
        (alone,) = sft_rows([one], encoder, "all-completions")
        assert row["input_ids"] == alone["input_ids"]


def window(made, places):
    """The loss of an accumulation window, as Trainer computes it, and the gradients."""
    made.model.train()
    batches = [made.data_collator([made.train_dataset[i] for i in part]) for part in places]
    batches, items = made.get_batch_samples(iter(batches), len(places), torch.device("cpu"))
    losses = [made.training_step(made.model, made._prepare_inputs(batch), items) for batch in batches]
    return torch.stack(losses), {n: p.grad.clone() for n, p in made.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_loss_and_gradients_of_a_window_are_those_of_trl(tmp_path, family):
    """Two micro-batches of two rows of different lengths, divided by the tokens of both."""
    places = [[0, 8], [3, 5]]
    ours, theirs = (
        window(trainer(e, tmp_path, lambda: lora(tiny.model(family), init_lora_weights=False)), places) for e in ENGINES
    )
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-5)
    assert ours[0][0] != ours[0][1]
    assert ours[1].keys() == theirs[1].keys()
    assert max(float(g.abs().max()) for g in ours[1].values()) > 1e-3
    for name, grad in ours[1].items():
        torch.testing.assert_close(grad, theirs[1][name], atol=1e-5, rtol=1e-5)


def test_all_weights_are_trained_as_trl_trains_them(tmp_path):
    ours, theirs = (window(trainer(e, tmp_path, tiny.model), [[0, 8], [3, 5]]) for e in ENGINES)
    assert ours[1].keys() == theirs[1].keys()
    assert any("embed_tokens" in name for name in ours[1])
    for name, grad in ours[1].items():
        torch.testing.assert_close(grad, theirs[1][name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changed", [{}, {"average_tokens_across_devices": False}, {"activation_checkpointing": True}])
def test_a_run_has_trls_order_losses_and_weights(tmp_path, changed):
    runs = [trainer(engine, tmp_path, **changed) for engine in ENGINES]
    assert [type(one) for one in runs] == [OwnSFT, SFTBaseline]
    for one in runs:
        one.train()
    logs = [[e for e in RunDir(tmp_path / engine).events() if "loss" in e] for engine in ENGINES]
    assert len(logs[0]) == len(logs[1]) == 4
    for ours, theirs in zip(*logs, strict=True):
        for name in ("loss", "grad_norm", "learning_rate", "epoch", "num_tokens"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
        assert 0 <= ours["mean_token_accuracy"] <= 1
        assert ours["tokens_per_second"] > 0
    weights = [adapter(one.model) for one in runs]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], atol=1e-4, rtol=1e-4)
    records = [RunDir(tmp_path / engine).settings() for engine in ENGINES]
    assert [r["engine"] for r in records] == list(ENGINES)
    assert {r["method"] for r in records} == {"sft"}
    assert records[0].keys() == records[1].keys()


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(tmp_path):
    losses, own = {}, tiny.tokenizer().pad_token
    for name in ("padding", "none"):
        tokenizer = tiny.tokenizer()
        tokenizer.pad_token = own if name == "padding" else None
        args = SFTSettings(output_dir=str(tmp_path / name), engine="nlft", target="all-completions", **COMMON)
        made = sft_trainer(lora(tiny.model()), args, ragged(), tokenizer, None)
        assert tokenizer.pad_token == (own if name == "padding" else tokenizer.eos_token)
        losses[name] = window(made, [range(4)])[0]
    assert torch.equal(losses["padding"], losses["none"])


def test_the_command_trains_on_our_core_and_ends_with_trls_adapter(tmp_path, model_folder, capsys):
    file = tmp_path / "examples.jsonl"
    write_examples(file, examples(4))
    for engine in ENGINES:
        args = ["sft", file, "--model_name_or_path", model_folder, "--output_dir", tmp_path / engine, "--max_steps", 3]
        args += ["--dtype", "float32", "--use_cpu", "--learning_rate", "0.01"]
        assert cli.main([str(a) for a in [*args, *(["--engine", "trl"] if engine == "trl" else [])]]) == 0
    ours, theirs = (load_file(RunDir(tmp_path / e).adapter_path / "adapter_model.safetensors") for e in ENGINES)
    assert max(float(weight.abs().max()) for name, weight in ours.items() if "lora_B" in name) > 1e-3
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-4, rtol=1e-4)
    assert (RunDir(tmp_path / "nlft").path / "checkpoints").is_dir()


def test_only_trls_settings_are_refused_by_name_and_the_engine_that_follows_them_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        SFTSettings(output_dir=str(tmp_path), packing=True, loss_type="chunked_nll", padding_free=True)
    for name in ("--packing", "--loss_type", "--padding_free", "--engine trl"):
        assert name in str(caught.value)
    SFTSettings(output_dir=str(tmp_path), engine="trl", packing=True, loss_type="dft")


def test_every_setting_of_trls_sft_is_followed_or_refused():
    """A new version of TRL may add settings: decide what our engine makes of them."""
    own = {f.name for f in fields(SFTConfig)} - {f.name for f in fields(TrainingArguments)}
    ours = {f.name for f in fields(SFTOptions)} - honoured.ONLY_TRL
    assert own - honoured.ONLY_TRL - ours == DECIDED - ours
    assert {f.name for f in fields(SFTSettings)} >= honoured.ONLY_TRL


def test_a_trainer_refuses_the_settings_of_the_other(tmp_path):
    for made, engine in ((OwnSFT, "trl"), (SFTBaseline, "nlft")):
        args = SFTSettings(output_dir=str(tmp_path), engine=engine, **COMMON)
        with pytest.raises(UserError, match=f"--engine.*{engine}"):
            made(lora(tiny.model()), args, examples(3), tiny.tokenizer(), None)


def test_a_run_of_the_other_engine_is_not_continued_unless_it_is_asked_for(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3}
    for first, second in (ENGINES, ENGINES[::-1]):
        folder = tmp_path / first
        trainer(first, tmp_path, **settings).train()
        kept = str(folder / "checkpoints" / "checkpoint-6")
        again = trainer(second, tmp_path / "again" / first, **{**settings, "num_train_epochs": 4})
        with pytest.raises(UserError, match=rf"--engine.*{first}"):
            again.train(resume_from_checkpoint=kept)
        again.train(resume_from_checkpoint=kept, anyway=True)
        assert again.state.global_step == 8


def test_a_comparison_trains_with_trl_unless_its_arm_names_the_engine(tmp_path):
    options = {"output_dir": str(tmp_path), "learning_rate": 1e-3, "per_device_train_batch_size": 2, "max_steps": 2}
    assert baseline_trainer(BUILT_IN["sft-answer"], options, None)[1].engine == "trl"
    arm = defined_arm("own", {"method": "sft", "settings": {"engine": "nlft", "target": "answer"}})
    assert baseline_trainer(arm, options, None)[1].engine == "nlft"
