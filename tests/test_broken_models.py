"""Models and adapters whose files are not what they should be are refused by name, before any work."""

import json
import shutil
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from helpers import tiny
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import Sides
from nlft.chat.target import find_target
from nlft.cli import main
from nlft.core.conditions import ConditionEncoder
from nlft.core.limits import limits_of
from nlft.errors import UserError
from nlft.models.answerer import CompletionRequest
from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
from nlft.models.local import LocalModel
from nlft.models.sizes import sizes_from_config
from nlft.models.trained_on import same_model
from nlft.models.weights_check import weights_fingerprint
from nlft.runs.run_dir import RunDir

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1234\n"
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"
DATA = {"id": "a", "prompt": "5 + 7?", "completion": "5 + 7 = 12", "label": True, "answer": "#### 12"}


@pytest.fixture
def model(model_folder, tmp_path):
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.fixture
def adapter(model, tmp_path):
    """A LoRA adapter of that model that changes something."""
    return saved(model, LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False), tmp_path / "adapter")


def saved(base, config, out):
    torch.manual_seed(0)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(out)
    return out


def load(folder, **more):
    settings = ModelSettings(model_name_or_path=str(folder), dtype="float32", **more)
    load_tokenizer(settings)
    return load_model(settings, trainable=False)


def refused(folder, **more):
    with pytest.raises(UserError) as caught:
        load(folder, **more)
    return str(caught.value)


def rewrite(path, change):
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


def configured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json", "config.json", "chat_template.jinja"])
def test_a_pointer_to_large_files_is_refused_by_the_files_name(model, name):
    (model / name).write_text(POINTER)
    assert name in refused(model)
    assert "git lfs pull" in refused(model)


@pytest.mark.parametrize("size", [0, 5000])
def test_cut_weights_are_refused_by_name_and_size(model, size):
    (model / WEIGHTS).write_bytes((model / WEIGHTS).read_bytes()[:size])
    assert WEIGHTS in refused(model)
    assert f"{size} bytes" in refused(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
def test_json_that_cannot_be_read_is_refused_by_the_files_name(model, name):
    (model / name).write_text('{"a": rubbish')
    assert f"{name} is not JSON" in refused(model)


def test_missing_shards_and_a_missing_index_are_refused_by_name(model):
    first, second = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))
    names = load_file(model / WEIGHTS)
    (model / WEIGHTS).rename(model / first)
    assert "model.safetensors.index.json" in refused(model)
    where = {name: second if "layers.1" in name else first for name in names}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert second in refused(model)


@pytest.mark.parametrize("name", ["model.gguf", "pytorch_model.bin"])
def test_weights_in_another_format_are_refused_by_name(model, name):
    (model / WEIGHTS).rename(model / name)
    assert name in refused(model)


def test_weights_that_the_files_lack_are_not_drawn_at_random(model):
    rewrite(model / WEIGHTS, lambda old: {name: t for name, t in old.items() if "layers.1.mlp" not in name})
    assert "model.layers.1.mlp.down_proj.weight" in refused(model)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"hidden_size": 64}, ["(262, 32)", "(262, 64)"]),
        ({"num_hidden_layers": 1}, ["model.layers.1."]),
        ({"num_hidden_layers": 3}, ["model.layers.2."]),
    ],
)
def test_a_config_of_another_size_is_refused(model, changed, named):
    configured(model, **changed)
    told = refused(model)
    assert "config.json" in told
    assert all(word in told for word in named)


def test_further_weights_that_no_layer_has_are_named_and_left_out(model, capsys):
    rewrite(model / WEIGHTS, lambda old: old | {"mtp.extra.weight": torch.ones(2)})
    load(model)
    assert "mtp.extra.weight" in capsys.readouterr().out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(model, adapter, value):
    def spoil(old):
        next(iter(old.values()))[0, 0] = value
        return old

    rewrite(adapter / ADAPTER, spoil)
    assert "up_proj.lora_A" in refused(model, adapter=str(adapter))
    rewrite(model / WEIGHTS, spoil)
    assert next(iter(load_file(model / WEIGHTS))) in refused(model)


def test_a_models_own_code_is_neither_run_nor_asked_about(model, monkeypatch):
    def asked(*_):
        raise AssertionError("asked at the terminal")

    monkeypatch.setattr("builtins.input", asked)
    configured(model, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})
    (model / "own.py").write_text(f"open({str(model / 'ran')!r}, 'w')\n")
    assert "code of its own" in refused(model)
    assert not (model / "ran").exists()


def test_what_is_not_installed_is_named_with_the_setting(model):
    assert "FlashAttention2" in refused(model, attn_implementation="flash_attention_2")


def test_every_layer_that_is_named_must_exist(model):
    base = load(model)
    for field, names in [
        ("lora_target_modules", ["gate_proj", "no_such"]),
        ("lora_modules_to_save", ["no_such"]),
        ("lora_target_parameters", ["no_such"]),
    ]:
        settings = ModelSettings(model_name_or_path=str(model), **{field: names})
        with pytest.raises(UserError, match=f"--{field}: no_such"):
            lora_config(settings, base)
    lora_config(ModelSettings(model_name_or_path=str(model), lora_target_modules=["mlp.gate_proj"]), base)


# Adapters


def test_a_damaged_adapter_is_refused_by_the_files_name(model, adapter):
    whole = (adapter / ADAPTER).read_bytes()
    for content in (POINTER.encode(), whole[:100], b""):
        (adapter / ADAPTER).write_bytes(content)
        assert ADAPTER in refused(model, adapter=str(adapter))
    (adapter / "adapter_config.json").write_text("{rubbish")
    assert "adapter_config.json" in refused(model, adapter=str(adapter))


def test_an_adapter_in_a_pickle_is_not_opened(model, adapter):
    torch.save(load_file(adapter / ADAPTER), adapter / "adapter_model.bin")
    load(model, adapter=str(adapter))
    (adapter / ADAPTER).unlink()
    assert "adapter_model.bin" in refused(model, adapter=str(adapter))


@pytest.mark.parametrize(
    "change",
    [
        lambda old: {name: t for name, t in old.items() if "layers.0" in name},
        lambda old: {name.replace("layers", "h"): t for name, t in old.items()},
        lambda old: old | {name.replace("layers.1", "layers.7"): t.clone() for name, t in old.items()},
        lambda old: {name: t[:, :-1] for name, t in old.items()},
    ],
    ids=["part", "none", "more", "size"],
)
def test_an_adapter_is_refused_unless_all_of_its_weights_fit_and_none_is_missing(model, adapter, change):
    rewrite(adapter / ADAPTER, change)
    assert str(adapter) in refused(model, adapter=str(adapter))


def test_an_adapter_that_lengthens_prompts_is_refused(model, tmp_path):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    assert "PREFIX_TUNING" in refused(model, adapter=str(saved(model, config, tmp_path / "prefix")))


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(task_type="CAUSAL_LM"),
        LoraConfig(use_dora=True, bias="all", target_modules="all-linear", modules_to_save=["lm_head"]),
    ],
    ids=["IA3", "DoRA"],
)
def test_other_adapters_that_change_layers_are_loaded(model, tmp_path, config):
    load(model, adapter=str(saved(model, config, tmp_path / "other")))


def test_a_run_that_has_not_written_its_adapter_names_a_checkpoint(model, adapter, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "checkpoints" / "checkpoint-4")
    (run / "run.yaml").write_text("method: nlft\n")
    assert str(run / "checkpoints" / "checkpoint-4") in refused(model, adapter=str(run))
    shutil.copytree(adapter, run / "checkpoints" / "checkpoint-10")
    assert str(run / "checkpoints" / "checkpoint-10") in refused(model, adapter=str(run))


def test_an_adapter_of_another_base_is_used_with_a_warning_that_names_both(model, adapter, capsys):
    load(model, adapter=str(adapter))
    assert "warning" not in capsys.readouterr().out
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "someone/larger"}))
    load(model, adapter=str(adapter))
    told = capsys.readouterr().out
    assert "someone/larger" in told
    assert str(model) in told
    asked = ModelSettings(model_name_or_path=str(model), dtype="float32", adapter=str(adapter))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # of PEFT, which names no setting
        sizes_from_config(asked)
    assert capsys.readouterr().out == told, "a plan says the same"
    kept = [load_model(asked, trainable=on).peft_config["default"].base_model_name_or_path for on in (False, True)]
    assert kept == ["someone/larger", str(model)], "what is trained further belongs to the base that it is trained on"


def test_a_change_of_any_tensor_of_a_large_file_is_another_fingerprint(tmp_path):
    """The samples of the whole file lie 16 KiB apart, so most of the small tensors lie between two of them."""
    tensors = {f"layer.{at}.weight": torch.zeros(count) for at, count in enumerate([10**6, *[300] * 20, 9000])}
    save_file(tensors, tmp_path / WEIGHTS)
    seen = {weights_fingerprint(str(tmp_path), None)}
    for name, tensor in tensors.items():
        save_file({**tensors, name: torch.ones_like(tensor)}, tmp_path / WEIGHTS)
        seen.add(weights_fingerprint(str(tmp_path), None))
    save_file({**tensors, "layer.x.weight": torch.zeros(300)}, tmp_path / WEIGHTS)
    seen.add(weights_fingerprint(str(tmp_path), None))
    assert len(seen) == len(tensors) + 2
    (tmp_path / WEIGHTS).write_bytes(b"\xff" * 100)
    assert weights_fingerprint(str(tmp_path), None) not in seen


def test_a_runs_base_is_known_by_its_weights_wherever_it_lies(model, adapter, tmp_path, capsys):
    run = RunDir(tmp_path / "run")
    shutil.move(adapter, run.adapter_path)
    known = {"model_name_or_path": str(model), "weights": weights_fingerprint(str(model), None)}
    run.write_settings({"method": "nlft", **known})
    moved = shutil.move(model, tmp_path / "moved")
    for named in (run.path, run.adapter_path):
        load(moved, adapter=str(named))
    assert "warning" not in capsys.readouterr().out
    shutil.copytree(moved, model)
    rewrite(model / WEIGHTS, lambda old: {name: t * 1.01 for name, t in old.items()})
    load(model, adapter=str(run.path))
    told = capsys.readouterr().out
    assert "warning" in told
    assert str(model) in told
    sides = Sides(find_target(str(run.path), None), ChatSettings())
    assert any("warning" in line and str(model) in line for line in sides.lines())
    run.settings_path.write_text("[")  # a spoilt record says nothing, and the names are compared
    load(model, adapter=str(run.path))
    assert "warning" not in capsys.readouterr().out


def test_a_base_model_is_the_same_under_each_of_its_names(model, tmp_path, monkeypatch):
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "copied")
    other = shutil.copytree(model, tmp_path / "other")
    rewrite(other / WEIGHTS, lambda old: {name: t + 1 for name, t in old.items()})
    monkeypatch.chdir(tmp_path)
    assert same_model("model", str(model))
    assert same_model(str(model), "./model")
    assert same_model(str(model), str(copied))
    assert not same_model(str(model), str(other))
    assert not same_model("model", "other")
    assert same_model("org/name", "/cache/models--org--name/snapshots/abc")
    assert same_model("org/name", "/models/name")
    assert not same_model("org/name", "/models/named")
    assert same_model("models/gone", "/far/models/gone")
    assert not same_model("/a/gone", "/b/gone")


# Tokenizers and lengths


def with_tokens(folder, words, **special):
    tokenizer = load_tokenizer(ModelSettings(model_name_or_path=str(folder)))
    tokenizer.add_tokens(words)
    tokenizer.add_special_tokens(special)
    tokenizer.save_pretrained(folder)


def beside(adapter, **parts):
    """Save a tokenizer into the adapter's folder: the base's, with some parts changed."""
    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(parts.pop("tokens", []))
    for name, value in parts.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(adapter)


def test_the_same_tokenizer_beside_an_adapter_changes_nothing_and_is_not_mentioned(model, adapter, capsys):
    settings = ModelSettings(model_name_or_path=str(model), adapter=str(adapter))
    template = tiny.CHAT_TEMPLATE + "{#\r\n#}"  # a saved line break is read as another one
    for at_base, at_adapter in (({}, {}), ({}, {"pad_token": "[PAD]"}), *([{"chat_template": template}] * 2,)):
        beside(model, **at_base)
        beside(adapter, **at_adapter)
        assert load_tokenizer(settings).name_or_path == str(model)
    (adapter / "tokenizer_config.json").unlink()
    assert load_tokenizer(settings).name_or_path == str(model)
    (adapter / "tokenizer_config.json").write_text("{")
    assert load_tokenizer(settings).name_or_path == str(model)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1, "only the tokenizer that cannot be loaded"
    assert str(adapter) in told[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chat_template": "{{ messages[0]['content'] }}<|user|>"}, "chat template"),
        ({"tokens": ["<calc>"]}, "tokens"),
        ({"eos_token": "<|user|>"}, "<|user|>"),
    ],
)
def test_an_adapters_tokenizer_is_used_if_it_is_another_one_than_the_bases(model, adapter, capsys, change, named):
    beside(adapter, **change)
    found = load_tokenizer(ModelSettings(model_name_or_path=str(model), adapter=str(adapter)))
    assert found.name_or_path == str(adapter)
    assert found.pad_token is not None
    told = capsys.readouterr().out
    assert named in told
    assert str(adapter) in told
    assert str(model) in told


@pytest.mark.parametrize("command", ["train", "sft", "kto"])
def test_a_token_without_a_row_in_the_embedding_is_refused_before_training(model, tmp_path, capsys, command):
    with_tokens(model, ["<calc>"])
    rows = [DATA | {"completion": "<calc>12", "answer": "<calc>12"}]
    rows.append(rows[0] | {"id": "b", "label": False, "judgment": 'The "12" is wrong.'})
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = ["--model_name_or_path", str(model), "--dtype", "float32", "--max_steps", "1", "--report_to", "none"]
    assert main([command, str(tmp_path / "x.jsonl"), *usual, "--output_dir", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert "'<calc>'" in told
    assert str(tiny.VOCAB) in told
    assert f"resize_token_embeddings({tiny.VOCAB + 1})" in told


def local(folder, **more):
    settings = ModelSettings(model_name_or_path=str(folder), dtype="float32")
    encoder = ConditionEncoder(load_tokenizer(settings))
    return LocalModel(load_model(settings, trainable=False), encoder, **{"max_new_tokens": 8, "batch_size": 2} | more)


def test_only_the_tokens_that_are_used_need_a_row(model):
    with_tokens(model, ["<calc>"])
    answerer = local(model)
    assert len(list(answerer.answer([CompletionRequest("q", "2 + 3?")]))) == 1
    with pytest.raises(UserError, match="<calc>"):
        list(answerer.answer([CompletionRequest("q", "<calc>2 + 3?")]))


def test_a_padding_token_without_a_row_is_refused(model):
    with_tokens(model, [], pad_token="[PAD]")
    with pytest.raises(UserError, match=r"\[PAD\]"):
        list(local(model).answer([CompletionRequest("q", "2 + 3?")]))
    settings = ModelSettings(model_name_or_path=str(model), dtype="float32")
    with pytest.raises(UserError, match=r"\[PAD\]"):
        ConditionEncoder(load_tokenizer(settings), limits=limits_of(load_model(settings, trainable=True)))


def test_without_an_end_of_sequence_token_the_templates_end_of_turn_pads(model):
    tokenizer = load_tokenizer(ModelSettings(model_name_or_path=str(model)))
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(model)
    assert load_tokenizer(ModelSettings(model_name_or_path=str(model))).pad_token == "<|end|>"
    (model / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="eos_token"):
        load_tokenizer(ModelSettings(model_name_or_path=str(model)))


@pytest.fixture
def short(tmp_path):
    """A model with 64 learned positions."""
    config = GPT2Config(vocab_size=tiny.VOCAB, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "short")
    tiny.tokenizer().save_pretrained(tmp_path / "short")
    return tmp_path / "short"


def test_an_example_beyond_the_models_positions_is_refused_with_the_limit(short, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text(json.dumps(DATA | {"prompt": "7 " * 40}) + "\n")
    usual = ["--model_name_or_path", str(short), "--dtype", "float32", "--report_to", "none"]
    assert main(["train", str(tmp_path / "x.jsonl"), *usual, "--output_dir", str(tmp_path / "run")]) == 2
    assert "'a'" in (told := capsys.readouterr().err)
    assert " 64" in told


def test_an_answer_stops_at_the_models_last_position(short):
    answerer = local(short, max_new_tokens=200)
    requests = [CompletionRequest("long", "7" * 40), CompletionRequest("short", "7")]
    found = {at: answer for batch in answerer.answer(requests) for at, answer in batch}
    for answer in found.values():
        assert answer.prompt_tokens + answer.tokens <= 64
        assert answer.finish_reason == "stop" or answer.prompt_tokens + answer.tokens == 64
    with pytest.raises(UserError, match="64"):
        list(answerer.answer([CompletionRequest("q", "7" * 64)]))


def test_a_prompt_beyond_a_rotary_models_context_is_said(model, capsys):
    answerer = local(model)
    list(answerer.answer([CompletionRequest("q", "7" * 400)]))
    assert "512" not in capsys.readouterr().out
    list(answerer.answer([CompletionRequest("q", "7" * 600)]))
    assert "512" in capsys.readouterr().out
