"""What this machine can do: `nlft env`, and models in 4 or 8 bits, which need what this machine may lack."""

import ast
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn
from transformers import BitsAndBytesConfig

from helpers import tiny
from nlft.cli import main
from nlft.errors import UserError
from nlft.models import machine, quantising
from nlft.models.adapters import adapted
from nlft.models.loading import ModelSettings, default_lora, load_model, wrap
from nlft.models.machine import features
from nlft.models.named import NamedModel
from nlft.models.sizes import sizes_from_config
from nlft.runs.card_facts import bits_of_base

SOURCE = Path(__file__).parent.parent / "src" / "nlft"
CARD = {"name": "A card", "memory": 16 * 2**30, "compute_capability": "7.5"}
NOTHING = {"threads": 1, "memory": None, "cuda_of_torch": None, "cuda": [], "mps": False}


def test_env_prints_versions_devices_and_reasons_and_no_environment_variable(capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_no_one_else")
    assert main(["env"]) == 0
    told = capsys.readouterr().out
    assert f"torch {torch.__version__}" in told
    assert "load_in_4bit" in told
    assert f"{torch.get_num_threads()} threads" in told
    assert not [name for name, value in os.environ.items() if len(value) > 12 and "TOKEN" in name and value in told]


def test_env_as_json_says_of_each_part_whether_it_works_and_why(capsys):
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format_version"] == 1
    assert found["versions"]["torch"] == torch.__version__
    assert found["devices"]["threads"] == torch.get_num_threads()
    assert len(found["features"]) >= 12
    assert all(one["why"] for one in found["features"])
    by_name = {one["name"]: one for one in found["features"]}
    assert by_name["read .xlsx"]["works"] == (found["versions"]["openpyxl"] is not None)


def test_an_old_card_has_no_flash_attention_and_the_reason_names_its_capability():
    found = {one.name: one for one in features({"flash_attn": "2"}, {**NOTHING, "cuda": [CARD]})}
    flash = found["--attn_implementation flash_attention_2"]
    assert not flash.works
    assert "7.5" in flash.why
    newer = {**CARD, "compute_capability": "10.0"}
    found = {one.name: one for one in features({"flash_attn": "2"}, {**NOTHING, "cuda": [newer]})}
    assert found["--attn_implementation flash_attention_2"].works


def test_a_missing_package_is_named_with_what_to_install():
    missing = [one for one in features({}, NOTHING) if "is not installed" in one.why]
    assert {"trackio", "wandb", "ray", "openpyxl"} <= {one.why.split()[0] for one in missing}
    assert all("pip install" in one.why and not one.works for one in missing)


def settings(**given):
    return NamedModel(model_name_or_path="some/model", **given)


def test_four_bits_are_those_of_qlora(monkeypatch):
    monkeypatch.setattr(quantising, "fast_dtype", lambda: "bfloat16")
    found = quantising.quantization_config(settings(load_in_4bit=True))
    assert isinstance(found, BitsAndBytesConfig)
    assert found.load_in_4bit
    assert not found.load_in_8bit
    assert found.bnb_4bit_quant_type == "nf4"
    assert found.bnb_4bit_use_double_quant
    assert found.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["auto", None, "float32"])
def test_products_in_four_bits_use_the_models_data_type(dtype, monkeypatch):
    monkeypatch.setattr(quantising, "fast_dtype", lambda: "bfloat16")
    found = quantising.quantization_config(settings(load_in_4bit=True, dtype=dtype, use_bnb_nested_quant=False))
    assert found.bnb_4bit_compute_dtype == (torch.float32 if dtype == "float32" else torch.bfloat16)
    assert not found.bnb_4bit_use_double_quant


def test_eight_bits_and_none():
    found = quantising.quantization_config(settings(load_in_8bit=True))
    assert found.load_in_8bit
    assert not found.load_in_4bit
    assert quantising.quantization_config(settings()) is None


@pytest.mark.parametrize("flag", ["load_in_4bit", "load_in_8bit"])
def test_without_the_package_or_a_card_no_weights_are_loaded(flag, monkeypatch):
    def loads(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("nlft.models.loading._from_pretrained", loads)
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=f"--{flag}.*bitsandbytes.*pip install"):
        load_model(settings(**{flag: True}), trainable=False)
    monkeypatch.setattr(machine, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--{flag}.*CUDA"):
        load_model(settings(**{flag: True}), trainable=True)


def test_a_machine_without_a_card_is_told_so_before_any_package(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = machine.why_not_quantised()
    assert "CUDA card" in said
    assert "pip" not in said


def test_all_weights_are_not_trained_in_four_bits(monkeypatch):
    monkeypatch.setattr(quantising, "why_not_quantised", lambda: None)
    with pytest.raises(UserError, match="--use_peft false"):
        load_model(settings(load_in_4bit=True, use_peft=False), trainable=True)


def test_the_config_reaches_the_loader_and_the_base_is_frozen_as_it_is(monkeypatch):
    """The loader stands in for bitsandbytes. It gets the config, and what it returns is frozen and not cast."""
    given, net = {}, tiny.model(dtype=torch.bfloat16)

    def loads(cls, settings, **options):
        given.update(options)
        return net, {"mismatched_keys": [], "missing_keys": [], "unexpected_keys": []}

    monkeypatch.setattr("nlft.models.loading._from_pretrained", loads)
    monkeypatch.setattr(quantising, "why_not_quantised", lambda: None)
    found = load_model(ModelSettings(model_name_or_path="m", dtype="bfloat16", load_in_4bit=True), trainable=True)
    assert given["quantization_config"].bnb_4bit_quant_type == "nf4"
    assert found is net
    assert not any(one.requires_grad for one in net.parameters())
    assert {one.dtype for one in net.parameters()} == {torch.bfloat16}
    assert not net.is_gradient_checkpointing


FOUR = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def quantised_folder(folder, own):
    """Write a model's config.json that says how its weights are quantised."""
    net = tiny.model()
    net.config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, "quantization_config": own}))
    return str(folder)


def both(own, folder, monkeypatch, **given):
    """Read a model as a training does, up to its weights, and as a plan does. Return what the loader is given."""

    def loads(cls, settings, **options):
        found.update(options)
        return tiny.model(), {"mismatched_keys": [], "missing_keys": [], "unexpected_keys": []}

    found = {}
    monkeypatch.setattr("nlft.models.loading._from_pretrained", loads)
    monkeypatch.setattr(quantising, "why_not_quantised", lambda: None)
    asked = ModelSettings(model_name_or_path=quantised_folder(folder, own), dtype="float32", **given)
    said = []
    for read in (lambda: load_model(asked, trainable=True), lambda: sizes_from_config(asked)):
        try:
            read()
        except UserError as error:
            said.append(str(error))
    if said:
        assert said[0] == said[-1]
        assert len(said) == 2
        raise UserError(said[0])
    return found


@pytest.mark.parametrize(
    ("own", "given", "named"),
    [
        (FOUR, {"load_in_8bit": True}, ("--load_in_8bit", "4 bits")),
        (EIGHT, {"load_in_4bit": True}, ("--load_in_4bit", "8 bits")),
        ({"quant_method": "gptq", "bits": 4}, {"load_in_4bit": True}, ("--load_in_4bit", "gptq")),
        ({"quant_method": "awq", "bits": 4}, {"load_in_8bit": True}, ("--load_in_8bit", "awq")),
        (FOUR, {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, ("--bnb_4bit_quant_type", "fp4", "nf4")),
        (FOUR, {"use_peft": False}, ("--use_peft false", "4 bits")),
        ({"bits": 4}, {}, ("quant_method", "config.json")),
        ({"quant_method": None}, {"load_in_4bit": True}, ("quant_method", "config.json")),
    ],
)
def test_a_setting_that_contradicts_the_files_own_quantisation_is_refused(own, given, named, tmp_path, monkeypatch):
    with pytest.raises(UserError) as caught:
        both(own, tmp_path, monkeypatch, **given)
    for name in named:
        assert name in str(caught.value)


def test_weights_that_are_in_four_bits_already_stay_as_they_are(tmp_path, monkeypatch):
    for given in ({}, {"load_in_4bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}):
        found = both(FOUR, tmp_path, monkeypatch, **given)
        assert "quantization_config" not in found, "one of None would load them as if they were whole"


@pytest.mark.parametrize("own", [{}, None])
def test_an_empty_quantisation_is_none(own, tmp_path):
    net = tiny.model()
    net.save_pretrained(tmp_path)
    quantised_folder(tmp_path, own)
    asked = ModelSettings(model_name_or_path=str(tmp_path), dtype="float32")
    assert sizes_from_config(asked).bits is None
    found = load_model(asked, trainable=True)
    assert quantising.quantization_record(found.config) is None
    assert torch.equal(found.get_output_embeddings().weight, net.get_output_embeddings().weight)


def test_a_packed_weight_counts_its_entries_and_the_adapters_share_follows():
    packed = torch.zeros(8, 1, dtype=torch.uint8)
    assert quantising.entries(packed) == 8
    packed.quant_state = SimpleNamespace(shape=torch.Size([4, 4]))
    assert quantising.entries(packed) == 16
    net = wrap(tiny.model(), default_lora(tiny.model()))
    whole = adapted(net)
    for module in net.modules():
        inner = getattr(module, "base_layer", None)
        if isinstance(inner, nn.Linear):
            shape = inner.weight.shape
            inner.weight = nn.Parameter(torch.zeros(shape.numel() // 2, 1, dtype=torch.uint8), requires_grad=False)
            inner.weight.quant_state = SimpleNamespace(shape=shape)
    assert adapted(net) == whole


def test_a_run_records_the_bits_and_later_commands_find_them(tmp_path):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    record = quantising.quantization_record(SimpleNamespace(quantization_config=config))
    assert record == {"bits": 4, "type": "nf4", "double": False, "products": "bfloat16"}
    assert quantising.quantization_record(SimpleNamespace()) is None
    (tmp_path / "adapter").mkdir()
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"format_version": 1, "quantization": record}))
    assert bits_of_base(str(tmp_path)) == bits_of_base(str(tmp_path / "adapter")) == 4
    assert bits_of_base(None) is None
    assert bits_of_base("some/adapter") is None


# These answer on every machine. All else of torch.cuda needs a card.
ASKS = {"is_available", "device_count", "is_bf16_supported"}


def test_no_module_uses_a_card_without_asking_whether_there_is_one():
    """On a Mac with MPS, as on a CPU, a call that needs CUDA would end the command."""
    seen = 0
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            used = {found.attr for found in ast.walk(node) if isinstance(found, ast.Attribute)
                    and ast.unparse(found.value) == "torch.cuda"}  # fmt: skip
            seen += bool(used)
            assert not used - ASKS or used & ASKS, f"{path.name}: {node.name} uses torch.cuda without asking"
    assert seen >= 8


def test_an_accelerator_that_is_no_cuda_card_computes_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert machine.fast_dtype() == "bfloat16"
