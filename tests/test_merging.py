"""`nlft merge`: an adapter merged into its model."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import tiny
from nlft.cli import main

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
