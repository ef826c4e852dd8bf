"""Families of models: right scores, the whole MLP in the default adapter, or a refusal; docs/MODELS.md says which."""

import re
import warnings
from collections import deque

import pytest
import torch
from peft import get_peft_model
from torch import nn

from helpers import architectures, docs_models, tiny
from helpers.training import examples, nlft_trainer
from nlft.cli import main
from nlft.core.conditions import ConditionEncoder
from nlft.data.records import write_examples
from nlft.errors import UserError
from nlft.models.adapters import adapted, default_targets, lora
from nlft.models.loading import ModelSettings, default_lora, lora_config
from nlft.models.local import LocalModel, greedy
from nlft.runs.run_dir import RunDir

ROWS = {
    re.findall(r"`(.+?)`", line)[0]: line
    for line in docs_models.PAGE.read_text(encoding="utf-8").partition(docs_models.BEGIN)[2].splitlines()
    if "`" in line
}
MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "jamba", "gpt_oss", "phimoe", "llama4_text", "jetmoe"]

# Families that keep more than keys and values of their tokens, or nothing; and one of those that keep these alone.
STATES = [
    "llama", "granitemoehybrid", "qwen3_next", "falcon_h1", "jamba", "bamba", "zamba", "zamba2", "lfm2", "lfm2_moe",
    "rwkv", "minimax", "mamba", "mamba2", "falcon_mamba", "recurrent_gemma", "xlstm", "openai-gpt", "nemotron_h",
    "qwen3_5_text", "qwen3_5_moe_text",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _quiet():
    """Other packages warn of what tiny configurations leave out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("family", architectures.FAMILIES)
def test_scores_and_adapter_of_a_family_are_as_the_page_says(family):
    """`python tests/helpers/docs_models.py --write` writes the page anew."""
    assert docs_models.row(family) == ROWS[family]


def test_the_page_has_every_family_right_or_refused():
    assert ROWS.keys() == architectures.FAMILIES.keys()
    assert len(ROWS) > 85
    verdicts = [line.split("|")[3].split(":")[0].strip() for line in ROWS.values()]
    assert set(verdicts) == {"right", "refused"}
    assert verdicts.count("right") > 80


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=() if one in STATES else pytest.mark.long) for one in architectures.FAMILIES]
)
def test_a_family_decodes_rows_of_unequal_lengths_and_ends_as_it_reads_each_whole(family):
    net = architectures.model(family)
    local = LocalModel(net, ConditionEncoder(tiny.tokenizer()), max_new_tokens=9, batch_size=3)
    prompts = [[*range(5, 5 + length)] for length in (20, 11, 11, 4, 3)]
    ends = [9, 2, 5, 1, 4]
    decoder, waiting = local._decoder(prompts, greedy, lambda row, ids: len(ids) == ends[row], 0), deque(range(5))
    with local._answering():
        while waiting or decoder.alive:
            decoder.run(waiting)
        for row, prompt in enumerate(prompts):
            new = decoder.written[row]
            assert len(new) == ends[row]
            logits = net(torch.tensor([[*prompt, *new]])).logits[0, len(prompt) - 1 : -1]
            assert new == logits.argmax(-1).tolist()


@pytest.mark.long
@pytest.mark.parametrize("family", [family for family, line in ROWS.items() if "refused:" not in line])
def test_a_family_trains_with_the_trainer(tmp_path, family):
    net = architectures.model(family)
    options = {"max_steps": 2, "watch": 0, "activation_checkpointing": net.supports_gradient_checkpointing}
    trainer = nlft_trainer(tmp_path, examples(4), net, gradient_accumulation_steps=1, **options)
    start = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert [name for name, p in trainer.model.named_parameters() if name in start and torch.equal(p, start[name])] == []


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3n_text", "gemma3"])
def test_the_papers_layers_are_adapted_where_a_model_has_them(family):
    targets = default_targets(architectures.model(family))
    assert (targets.modules, targets.parameters) == (["gate_proj", "up_proj", "down_proj"], [])


@pytest.mark.parametrize("family", MIXTURES)
def test_no_router_of_a_mixture_is_adapted(family):
    """A router makes one number for each of the four experts."""
    net = architectures.model(family)
    routers = {id(p) for name, p in net.named_parameters() if re.search(r"\b(gate|router|shared_expert_gate)\b", name)}
    assert routers
    model = get_peft_model(net, default_lora(net))
    wrapped = [m for m in model.modules() if hasattr(m, "lora_A")]
    assert wrapped
    for module in wrapped:
        weight = getattr(module.get_base_layer(), getattr(module, "parameter_name", "weight"))
        assert id(weight) not in routers
    assert not any(p.requires_grad for p in model.parameters() if id(p) in routers)


class Unnamed(nn.Module):
    """A decoder whose MLP has names that no family has."""

    def __init__(self):
        super().__init__()
        self.self_attn = nn.Linear(8, 8)
        self.widen, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)


def test_an_mlp_with_unknown_names_is_found_beside_the_attention():
    net = tiny.model()
    net.model.layers = nn.ModuleList([Unnamed(), Unnamed()])
    assert default_targets(net).modules == ["widen", "narrow"]


def test_a_model_without_layers_is_refused_with_the_setting_that_helps():
    net = tiny.model()
    net.model.layers = nn.ModuleList()
    with pytest.raises(UserError, match=r"LlamaForCausalLM(.|\n)*--lora_target_modules"):
        default_targets(net)


@pytest.mark.parametrize("given", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_what_fused_experts_cannot_have_is_refused_by_name(given):
    settings = ModelSettings(model_name_or_path="x", **given)
    net = tiny.model("mixtral")
    with pytest.raises(UserError, match=f"MixtralForCausalLM(.|\n)*--{next(iter(given))}"):
        lora_config(settings, net)
    chosen = ModelSettings(model_name_or_path="x", lora_target_modules=["q_proj", "v_proj"], **given)
    assert lora_config(chosen, net).target_modules == {"q_proj", "v_proj"}


def test_shares_count_each_weight_once():
    net = tiny.model()
    every = sum(p.numel() for p in net.parameters())
    found = adapted(get_peft_model(net, lora(net, r=2)))
    assert found.layers == {"gate_proj": 2, "up_proj": 2, "down_proj": 2}
    assert found.weights == found.mlp_weights == found.all_mlp_weights == 2 * 3 * 32 * 48
    assert found.all_weights == every
    assert found.trained == 2 * 3 * 2 * (32 + 48)
    options = ModelSettings(model_name_or_path="x", lora_target_modules=["down_proj", "q_proj"])
    net = tiny.model()
    part = adapted(get_peft_model(net, lora(net, options, r=2)))
    assert part.record()["share_of_mlp"] == round(1 / 3, 4)
    assert part.weights == 2 * (32 * 48 + 32 * 32)
    assert adapted(tiny.model()) is None


@pytest.mark.parametrize("command", ["train", "sft"])
def test_what_is_adapted_is_printed_and_kept(tmp_path, model_folder, capsys, command):
    write_examples(tmp_path / "e.jsonl", examples(4))
    flags = ["--output_dir", tmp_path / "run", "--max_steps", 1, "--save_strategy", "no", "--use_cpu", "true"]
    base = [command, tmp_path / "e.jsonl", "--model_name_or_path", model_folder, "--lora_r", 2]
    target = ["--target", "completion"] if command == "sft" else []
    assert main([str(word) for word in [*base, *flags, *target]]) == 0
    said = capsys.readouterr()
    assert re.search(r"gate_proj \(2\), up_proj \(2\), down_proj \(2\): 100% of the MLP.*960 ", said.out + said.err)
    kept = RunDir.open(tmp_path / "run").settings()["adapted"]
    assert kept["layers"] == {"gate_proj": 2, "up_proj": 2, "down_proj": 2}
    assert kept["share_of_mlp"] == 1
    assert 0 < kept["share_of_all"] < 1
    assert kept["trained_parameters"] == 960
