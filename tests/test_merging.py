"""`nlft merge`: an adapter merged into its model."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from copy import deepcopy
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from helpers import tiny
from nlft.chat.settings import ChatSettings
from nlft.chat.sides import Sides
from nlft.chat.target import find_target
from nlft.cli import main
from nlft.errors import UserError
from nlft.models.loading import ModelSettings
from nlft.models.own_tokenizer import own_tokenizer
from nlft.models.weights_check import weights_fingerprint
from nlft.runs.run_dir import RunDir
from nlft.training import merging

HUB, MAIN, V1 = {"model_name_or_path": "org/tiny"}, "1" * 40, "2" * 40
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@pytest.fixture
def adapter(tmp_path):
    """An adapter that moves the logits, in a run directory; the base beside it."""
    base = tiny.model()
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = get_peft_model(loaded, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "run" / "adapter")
    return tmp_path / "run"


def named(run):
    return ["--model_name_or_path", str(run.parent / "base"), "--adapter", str(run)]


@pytest.fixture
def tied(tmp_path):
    """A base model with one matrix for its input and output embeddings, in bfloat16."""
    config = LlamaConfig(**tiny._SMALL, **tiny._HEADS, tie_word_embeddings=True)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 3, 0
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for weight in base.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)
    base.save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def put_on(base, config, run):
    """Save an adapter of `base` whose every weight changes something."""
    torch.manual_seed(1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PEFT warns about adapters on tied layers
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        for weight in (p for p in model.parameters() if p.requires_grad):
            weight.add_(torch.randn_like(weight), alpha=0.3)
        model.save_pretrained(run / "adapter")
    return run


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_merged_model_says_what_model_and_adapter_say(adapter, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", *named(adapter), "--out", str(out), "--dtype", "float32"]) == 0
    assert "merged" in capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = logits(base)
    both = logits(PeftModel.from_pretrained(base, adapter / "adapter"))
    merged = logits(AutoModelForCausalLM.from_pretrained(out))
    assert (both - before).abs().max() > 1e-2
    torch.testing.assert_close(merged, both, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.tokenizer().chat_template
    assert not [path for path in out.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.fixture
def on_hub(adapter, tmp_path, monkeypatch):
    """The run's base on the hub under the tag v1; main has other weights."""
    hub = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tmp_path / "base", hub / "snapshots" / V1)
    shutil.copytree(tmp_path / "base", hub / "snapshots" / MAIN)
    tiny.model(seed=1).save_pretrained(hub / "snapshots" / MAIN)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(MAIN)
    (hub / "refs" / "v1").write_text(V1)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    RunDir(adapter).write_settings({"method": "nlft", "weights": V1, "model": {**HUB, "model_revision": "v1"}})
    return adapter


def gate(folder):
    return load_file(folder / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"]


def test_a_run_is_merged_into_the_revision_that_it_was_trained_on(on_hub, tmp_path):
    assert main(["merge", *named(on_hub), "--out", str(tmp_path / "right")]) == 0
    assert main(["merge", str(on_hub), "--out", str(tmp_path / "merge")]) == 0
    assert main(["export", str(on_hub / "adapter"), "--to", "merged", "--out", str(tmp_path / "export")]) == 0
    (tmp_path / "hub" / "models--org--tiny" / "refs" / "v1").unlink()
    RunDir(on_hub).write_settings({"method": "nlft", "weights": V1, **HUB})  # as from Python: only the commit is known
    assert main(["merge", str(on_hub), "--out", str(tmp_path / "python")]) == 0
    assert find_target(str(on_hub), None).revision == V1
    for out in ("merge", "export", "python"):
        torch.testing.assert_close(gate(tmp_path / out), gate(tmp_path / "right"), rtol=0, atol=0)


def test_a_revision_that_the_user_gives_is_taken(on_hub, tmp_path):
    assert main(["merge", str(on_hub), "--model_revision", "main", "--out", str(tmp_path / "main")]) == 0
    told = ["--model_name_or_path", "org/tiny", "--adapter", str(on_hub)]
    assert main(["merge", *told, "--out", str(tmp_path / "both")]) == 0
    torch.testing.assert_close(gate(tmp_path / "main"), gate(tmp_path / "both"), rtol=0, atol=0)
    assert find_target(str(on_hub), str(tmp_path / "base")).revision is None


def test_a_base_that_has_changed_in_its_place_is_not_merged_into_unless_the_user_names_it(adapter, tmp_path, capsys):
    base, out = str(tmp_path / "base"), str(tmp_path / "out")
    known = {"model_name_or_path": base, "weights": weights_fingerprint(base, None)}
    RunDir(adapter).write_settings({"method": "nlft", **known})
    tiny.model(seed=1).save_pretrained(base)
    for command in (["merge", str(adapter)], ["export", str(adapter), "--to", "merged"]):
        assert main([*command, "--out", out]) == 2
        told = capsys.readouterr().err
        assert f"--model_name_or_path {base}" in told
        assert str(adapter) in told
    assert main(["merge", str(adapter), "--model_name_or_path", base, "--out", out]) == 0
    assert "warning" in capsys.readouterr().out


def test_a_merged_model_has_the_chat_template_that_the_adapter_was_trained_with(adapter, tmp_path):
    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.chat_template = tiny.CHAT_TEMPLATE.replace("<s>", "<s><s>")
    tokenizer.save_pretrained(adapter / "adapter")
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "out")]) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template
    RunDir(adapter).write_settings({"method": "nlft", "model_name_or_path": str(tmp_path / "base")})
    sides = Sides(find_target(str(adapter), None), ChatSettings())
    assert sides.encoder.tokenizer.chat_template == tokenizer.chat_template


def test_it_is_written_in_the_wanted_type_rounded_once(adapter, tmp_path):
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "exact"), "--dtype", "float32"]) == 0
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    exact = AutoModelForCausalLM.from_pretrained(tmp_path / "exact").state_dict()
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto").state_dict()
    assert all(torch.equal(half[name], weight.bfloat16()) for name, weight in exact.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--adapter is missing"),
        (["--adapter", "{run}", "--load_in_4bit"], "--load_in_4bit"),
        (["--adapter", "{run}", "--out", "{run}"], "--out"),
        (["--adapter", "{run}/no-such"], "no-such"),
    ],
)
def test_what_cannot_be_merged_is_refused(adapter, tmp_path, capsys, arguments, message):
    told = [*named(adapter)[:2], *(word.format(run=adapter) for word in arguments)]
    if "--out" not in told:
        told += ["--out", str(tmp_path / "out")]
    assert main(["merge", *told]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_whose_files_are_quantised_is_refused_before_it_is_loaded(adapter, tmp_path, capsys):
    written = json.loads((adapter.parent / "base" / "config.json").read_text())
    written["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "config.json").write_text(json.dumps(written))
    given = [
        "--model_name_or_path",
        str(tmp_path / "packed"),
        "--adapter",
        str(adapter),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["merge", *given]) == 2
    assert "quantised" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


ADAPTERS = {
    "head": (LoraConfig(target_modules=["lm_head"]), False),
    "embeddings": (LoraConfig(target_modules=["embed_tokens", "q_proj"]), False),
    "saved head": (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), False),
    "saved embeddings": (LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"]), False),
    "both alike": (LoraConfig(target_modules=["q_proj", "embed_tokens"], ensure_weight_tying=True), True),
    "neither": (LoraConfig(target_modules=["q_proj"], use_dora=True), True),
    "IA3": (IA3Config(target_modules=["v_proj"], feedforward_modules=[]), True),
}


@pytest.mark.parametrize(("config", "stays_tied"), ADAPTERS.values(), ids=ADAPTERS)
def test_a_tied_head_is_untied_where_the_adapter_tells_it_from_the_embeddings(tied, tmp_path, config, stays_tied):
    run, out = put_on(tied, config, tmp_path / "run"), tmp_path / "out"
    assert main(["merge", *named(run), "--out", str(out), "--dtype", "float32"]) == 0
    base = AutoModelForCausalLM.from_pretrained(tied, dtype=torch.float32)
    before = logits(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = logits(PeftModel.from_pretrained(base, run / "adapter"))
    assert (both - before).abs().max() > 1e-2
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(out)), both, atol=1e-4, rtol=1e-4)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is stays_tied


def test_the_result_has_the_data_type_of_the_base_models_files_by_default(tied, tmp_path):
    run, out = put_on(tied, LoraConfig(target_modules=["q_proj"]), tmp_path / "run"), tmp_path / "out"
    assert main(["merge", *named(run), "--out", str(out)]) == 0
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}


def test_a_merged_model_names_the_end_it_was_trained_with_beside_its_own(tied, tmp_path):
    run, out = put_on(tied, LoraConfig(target_modules=["q_proj"]), tmp_path / "run"), tmp_path / "out"
    assert main(["merge", *named(run), "--out", str(out)]) == 0
    end = tiny.tokenizer().convert_tokens_to_ids("<|end|>")
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [3, end]


def test_every_merge_is_compared_and_the_difference_and_tolerance_are_printed(adapter, tmp_path, capsys):
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    told = capsys.readouterr().out
    assert f"tolerance {merging.TOLERANCE:g}" in told
    assert f"tolerance {merging.ROUNDING_TOLERANCE[torch.bfloat16]:g}" in told


def test_the_page_on_models_has_the_tolerances():
    page = (Path(__file__).parent.parent / "docs" / "MODELS.md").read_text(encoding="utf-8")
    rounding = merging.ROUNDING_TOLERANCE
    assert f"and the folder | {merging.TOLERANCE:g} |" in page
    assert f"| {rounding[torch.float16]:g} in float16, {rounding[torch.bfloat16]:g} in bfloat16 |" in page


def test_a_merge_that_loses_part_of_the_adapter_is_refused_and_leaves_nothing(adapter, tmp_path, capsys, monkeypatch):
    def lossy(whole, adapter):
        with torch.no_grad():
            next(p for name, p in whole.named_parameters() if "lora_B" in name).zero_()
        return whole.merge_and_unload()

    monkeypatch.setattr(merging, "merged_model", lossy)
    for out in (tmp_path / "new", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["merge", *named(adapter), "--out", str(out), "--dtype", "float32"]) == 1
        assert f"tolerance {merging.TOLERANCE:g}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_a_file_that_is_written_wrong_is_noticed(adapter, tmp_path, capsys, monkeypatch):
    move = merging._log_probs

    def spoiling(model, tokenizer):
        for path in tmp_path.glob("out/.writing/model.safetensors"):
            tensors = load_file(path)
            tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.1
            save_file(tensors, path, metadata={"format": "pt"})
        return move(model, tokenizer)

    monkeypatch.setattr(merging, "_log_probs", spoiling)
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 1
    assert not (tmp_path / "out").exists()


def test_too_coarse_a_type_is_refused_with_the_tolerance(adapter, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(merging.ROUNDING_TOLERANCE, torch.bfloat16, 1e-9)
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "out"), "--dtype", "bfloat16"]) == 1
    assert "--dtype float32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_an_adapter_that_is_not_finite_or_makes_the_sum_so_is_not_merged(adapter, tmp_path, capsys, value):
    path = adapter / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * value for name, tensor in load_file(path).items()}, path)
    assert main(["merge", *named(adapter), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 2
    assert "learning" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*lora_bias")
@pytest.mark.parametrize("options", [{"lora_bias": True}, {"alora_invocation_tokens": [5]}])
def test_an_adapter_of_a_kind_that_cannot_be_merged_is_refused_without_talk_of_the_rate(tmp_path, capsys, options):
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    run = put_on(
        tmp_path / "base", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **options), tmp_path / "run"
    )
    assert main(["merge", *named(run), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 2
    told = capsys.readouterr().err
    assert str(run) in told
    assert "rate" not in told
    assert not (tmp_path / "out").exists()


def test_a_lack_of_memory_is_no_fault_of_the_adapter():
    for error in (torch.OutOfMemoryError("full"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        whole = tiny.model()
        whole.merge_and_unload = Mock(side_effect=error)
        with pytest.raises(type(error), match=str(error)):
            merging.merged_model(whole, "a")


@pytest.mark.parametrize("way", ["flag", "file"])
def test_a_run_and_another_adapter_are_not_both_merged(adapter, tmp_path, capsys, way):
    other = str(tmp_path / "other")
    (tmp_path / "c.yaml").write_text(f"adapter: {other}\n")
    more = ["--adapter", other] if way == "flag" else ["--config", str(tmp_path / "c.yaml")]
    assert main(["merge", str(adapter), *more, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"--adapter {other}" in told
    assert str(adapter) in told


def test_the_function_itself_refuses_what_cannot_be_merged_before_it_loads_a_model(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    base = {"model_name_or_path": str(tmp_path / "base")}
    for settings, out, named in (
        (base, "out", "--adapter is missing"),
        ({**base, "adapter": str(adapter)}, "full", "--out"),
        ({**base, "adapter": str(adapter), "load_in_8bit": True}, "out", "--load_in_8bit"),
    ):
        with pytest.raises(UserError, match=named):
            merging.merge_adapter(ModelSettings(**settings), tmp_path / out)


def test_others_may_read_a_merged_model_as_the_umask_says(adapter, tmp_path):
    before = os.umask(0o022)
    try:
        assert main(["merge", *named(adapter), "--out", str(tmp_path / "out"), "--dtype", "float32"]) == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o644}, modes


def test_what_a_killed_merge_has_left_is_in_nobodys_way(adapter, tmp_path, capsys):
    out = tmp_path / "out"
    (out / merging.WRITING).mkdir(parents=True)
    (out / merging.WRITING / "model.safetensors").write_bytes(b"half")
    assert main(["merge", *named(adapter), "--out", str(out), "--dtype", "float32"]) == 0
    assert (out / "config.json").is_file()
    assert not (out / merging.WRITING).exists()


def test_two_merges_into_one_folder_do_not_take_each_others_files(adapter, tmp_path, capsys):
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from nlft.training.merging import whole_folder\n"
        f"with whole_folder(Path({str(out)!r})) as place:\n"
        "    (place / 'half').touch(); print('writing', flush=True); time.sleep(120)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "writing\n"
        assert main(["merge", *named(adapter), "--out", str(out), "--dtype", "float32"]) == 2
        assert (out / merging.WRITING / "half").exists()
        assert str(other.pid) in capsys.readouterr().err
        other.kill()
    assert main(["merge", *named(adapter), "--out", str(out), "--dtype", "float32"]) == 0


def test_an_adapter_whose_template_was_not_copied_keeps_that_of_its_base(tmp_path, capsys):
    base = tiny.tokenizer()
    folder = tmp_path / "adapter"
    base.save_pretrained(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert own_tokenizer(str(folder), base, "base") is None
    (folder / "chat_template.jinja").write_text(base.chat_template + "\n")  # an editor's last line break
    assert own_tokenizer(str(folder), base, "base") is None
    (folder / "chat_template.jinja").unlink()
    assert own_tokenizer(str(folder), base, "base") is None
    assert not capsys.readouterr().out
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    own = own_tokenizer(str(folder), base, "base")
    assert own is not None
    assert own.chat_template.endswith("!")
    assert "chat template" in capsys.readouterr().out
