"""`nlft plan`: the parts that can be counted are exact, and the rest follows its formula."""

import json
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from helpers import architectures, tiny
from helpers.training import examples
from nlft.cli import main
from nlft.core.schemes.registry import get_scheme
from nlft.core.snapshot import SCORING_TOKENS
from nlft.data.records import write_examples
from nlft.errors import UserError
from nlft.models import sizes
from nlft.models.loading import ModelSettings, default_lora, wrap
from nlft.models.sizes import measured, sizes_from_config
from nlft.planning.cards import CARDS, Card, fit, flops_of, setups
from nlft.planning.memory import Rows, Step, layer_bytes_per_token, memory_of, weight_bytes
from nlft.planning.tokens import count_tokens, estimate_tokens, largest_of, rows_of, steps_of
from nlft.training.trainer import NLFTConfig, NLFTTrainer

MIB = 2**20
STEP = Step(Rows(2, 256, 300), Rows(3, 300, 400))


def saved(family, folder, **changes):
    """Save a model's config alone, without weights."""
    config = tiny.FAMILIES[family]()
    config.update({"dtype": "bfloat16", **changes})
    config.save_pretrained(folder)
    return str(folder)


def size(tensors):
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "mixtral", "gpt2"])
@pytest.mark.parametrize("use_peft", [True, False])
def test_weights_adapter_gradients_and_optimizer_are_counted_to_the_byte(family, use_peft, tmp_path):
    settings = ModelSettings(
        model_name_or_path=saved(family, tmp_path), dtype="bfloat16", use_peft=use_peft, lora_r=4, lora_alpha=4
    )
    found = sizes_from_config(settings)
    assert found.gated == (family != "gpt2")
    planned = memory_of(found, STEP)
    net = tiny.model(family, dtype=torch.bfloat16)
    lora = default_lora(net)
    lora.r = 4
    model = wrap(net, lora if use_peft else None)
    of_adapter = [p for name, p in model.named_parameters() if "lora_" in name]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(10, 100, (2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    unused = [p for p in trained if p.grad is None]  # experts that no token passed
    for parameter in unused:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = [value for one in optimizer.state.values() for value in one.values()]
    assert planned.weights == size(model.parameters()) - size(of_adapter)
    assert planned.adapter == size(of_adapter)
    assert planned.gradients == size(p.grad for p in trained)
    assert planned.optimizer == size(state)


def test_a_plan_of_a_config_is_that_of_the_loaded_model(tmp_path):
    settings = ModelSettings(model_name_or_path=saved("llama", tmp_path), dtype="bfloat16")
    net = tiny.model(dtype=torch.bfloat16)
    loaded = measured(wrap(net, default_lora(net)), settings.model_name_or_path)
    assert sizes_from_config(settings) == loaded
    assert not list(tmp_path.glob("*.safetensors"))
    assert loaded.gated
    assert (loaded.layers, loaded.hidden, loaded.inner, loaded.attention) == (2, 32, 48, 32)


def test_large_models_are_measured_without_their_weights(tmp_path):
    big = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "vocab_size": 128256}
    heads = {"num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128}
    name = saved("llama", tmp_path, **big, **heads, tie_word_embeddings=False)
    found = sizes_from_config(ModelSettings(model_name_or_path=name, dtype="bfloat16"))
    assert found.all_weights == 70_553_706_496  # Llama 3 70B
    assert found.trained == 80 * 3 * 16 * (8192 + 28672)


def test_four_bits_leave_head_and_embeddings_whole():
    found = measured(tiny.model(dtype=torch.bfloat16), "tiny")
    net = tiny.model()
    linear = sum(m.weight.numel() for n, m in net.named_modules() if isinstance(m, nn.Linear) and n != "lm_head")
    assert found.linear == linear
    whole = weight_bytes(found, STEP)
    assert whole == 2 * found.all_weights
    four = weight_bytes(found, replace(STEP, bits=4, double=False))
    assert four == 2 * (found.all_weights - linear) + int(linear * (0.5 + 4 / 64))
    assert four > weight_bytes(found, replace(STEP, bits=4))
    assert weight_bytes(found, replace(STEP, bits=8)) == 2 * found.all_weights - linear


def test_each_measure_against_memory_lowers_the_peak_and_sharding_divides_what_it_shards():
    net = tiny.model(dtype=torch.bfloat16)
    found = replace(measured(wrap(net, default_lora(net)), "tiny"), layers=40)
    plain = memory_of(found, replace(STEP, checkpointing=False))
    less = memory_of(found, STEP)
    assert less.activations < plain.activations
    assert less.peak < plain.peak
    shared = memory_of(found, replace(STEP, processes=4))
    for part in ("weights", "adapter", "gradients", "optimizer"):
        assert getattr(shared, part) == getattr(less, part) // 4
    assert shared.activations == less.activations
    assert shared.gathered > 0
    assert less.gathered == 0


def test_activations_grow_with_batch_length_and_layers_as_the_formula_says():
    net = tiny.model(dtype=torch.bfloat16)
    found = measured(wrap(net, default_lora(net)), "tiny")
    h, i, a, r = 32, 48, 32, 16
    norms, attention = 4 * 2 * h, 2 * (4 * a + STEP.trained.length)
    mlp = 2 * 3 * i + 4 * (2 * h + i + 3 * r)
    assert layer_bytes_per_token(found, STEP) == norms + attention + mlp
    once = memory_of(found, STEP).activations
    assert memory_of(found, replace(STEP, trained=Rows(4, 256, 600))).activations == 2 * once
    tokens, own = STEP.trained.tokens, (2 + 4) * h
    assert once == tokens * (own + 2 * found.layers * h)


@pytest.mark.parametrize("scored", [1, 10, 10**6])
def test_a_chunk_of_logits_has_a_bound(scored):
    found = replace(measured(tiny.model(dtype=torch.bfloat16), "tiny"), vocabulary=262_144)
    step = replace(STEP, trained=Rows(2, 256, scored), chunk_bytes=64 * MIB)
    states = 2 * scored * found.hidden * 2
    assert memory_of(found, step).head == states + 4 * 4 * 262_144 * min(scored, 16)


def config(tmp_path, **given):
    return NLFTConfig(output_dir=str(tmp_path / "run"), use_cpu=True, per_device_train_batch_size=2, **given)


@pytest.mark.parametrize("scheme", ["nlft", "uniform", "strike"])
def test_tokens_are_those_of_the_batches_that_training_makes(scheme, tmp_path):
    args = config(tmp_path, watch=0, save_strategy="no", max_steps=1)
    found = get_scheme(scheme)
    share = measured(tiny.model(), "tiny").shares
    tokens = count_tokens(examples(), args, found, found.settings(), tiny.tokenizer(), 1, share=share)
    trainer = NLFTTrainer(tiny.model(), args, examples(), processing_class=tiny.tokenizer(), saliency=scheme)
    rows, batches = trainer.train_dataset, list(trainer.get_train_dataloader())
    assert tokens.counted
    assert scheme != "nlft" or any("begun_seen" in one for one in batches), "the prompts' beginnings are read once"
    assert tokens.trained == sum(one["input_ids"].numel() for one in batches)
    reads = sum(one["scored_input_ids"].numel() for one in batches if "scored_input_ids" in one)
    assert tokens.conditions == reads + (tokens.trained if scheme == "strike" else 0)
    assert 0 < tokens.real <= 1
    assert tokens.examples == len(rows)


@pytest.mark.parametrize("scheme", ["nlft", "cut", "uniform", "strike"])
def test_the_largest_batch_is_that_of_any_order(scheme, tmp_path):
    right, wrong = ([one for one in examples(16) if one.label == label][:4] for label in (True, False))
    wrong = [replace(one, completion=one.completion + " and so on" * 9 * at) for at, one in enumerate(wrong)]
    mixed = [one for pair in zip(wrong, right, strict=True) for one in pair]
    found = get_scheme(scheme)
    planned = [
        count_tokens(order, config(tmp_path), found, found.settings(), tiny.tokenizer(), 1, share=True).largest
        for order in (mixed, [*wrong, *right])
    ]
    assert planned[0] == planned[1]
    trainer = NLFTTrainer(
        tiny.model(), config(tmp_path, watch=0), mixed, processing_class=tiny.tokenizer(), saliency=scheme
    )
    trainer.builder.share = scheme in ("nlft", "cut")
    batches = [trainer.builder(list(pair)) for pair in combinations(trainer.train_dataset, 2)]
    made = [largest_of([rows_of(one, "") for one in batches])]
    made.append(largest_of([rows_of(one, "scored_") for one in batches if "scored_input_ids" in one]))
    made[1] = largest_of([made[1], made[0]] if scheme == "strike" else [made[1]])
    assert planned[0] == tuple(made)


def test_the_largest_scoring_pass_is_one_that_is_made_and_not_the_longest_row_as_often_as_short_ones(tmp_path):
    file = [replace(one, id=f"{one.id}-{at}") for at in range(8) for one in examples(24)]
    file[0] = replace(file[0], completion=file[0].completion + " and so on" * 80)
    found, args = get_scheme("nlft"), config(tmp_path, condition_logprobs="frozen")
    tokens = count_tokens(file, args, found, found.settings(), tiny.tokenizer(), 1)
    _, scored = tokens.largest
    assert scored.tokens <= SCORING_TOKENS
    assert scored.count * scored.length * 2 > SCORING_TOKENS, "many short rows fill a pass"


def test_a_batch_that_is_larger_than_the_file_is_planned_as_the_file(tmp_path, capsys):
    name = saved("llama", tmp_path / "m")
    write_examples(tmp_path / "e.jsonl", examples(12))
    plans = []
    for batch in (12, 120):
        assert (
            main(["plan", name, str(tmp_path / "e.jsonl"), "--per_device_train_batch_size", str(batch), "--json"]) == 0
        )
        plans.append(json.loads(capsys.readouterr().out))
    assert plans[0]["samples"] == plans[1]["samples"] == 12
    assert [one["batch"] for one in plans[0]["cards"]] == [one["batch"] for one in plans[1]["cards"]]


def test_without_a_tokenizer_the_tokens_are_estimated_and_the_plan_says_so(tmp_path, capsys):
    name = saved("llama", tmp_path / "m")
    write_examples(tmp_path / "e.jsonl", examples())
    assert main(["plan", name, str(tmp_path / "e.jsonl"), "--output_dir", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "estimated" in told
    assert not (tmp_path / "run").exists()
    one = estimate_tokens(examples(), config(tmp_path), get_scheme("nlft"), get_scheme("nlft").settings(), 1)
    assert not one.counted
    assert one.trained > 0


@pytest.mark.parametrize(
    ("given", "examples", "processes", "steps", "passes"),
    [
        ({}, 10, 1, 30, 6),
        ({"dataloader_drop_last": True}, 11, 1, 30, 6),
        ({"max_steps": 7}, 10, 1, 7, 1.4),
        ({"gradient_accumulation_steps": 2}, 10, 2, 12, 6),
    ],
)
def test_steps_are_those_of_trainer(given, examples, processes, steps, passes, tmp_path):
    assert steps_of(config(tmp_path, **given), examples, processes) == (steps, pytest.approx(passes))


def test_without_a_whole_batch_dropping_the_last_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="--dataloader_drop_last"):
        steps_of(config(tmp_path, dataloader_drop_last=True), 3, 2)


def test_a_larger_card_fits_larger_batches_and_a_small_one_needs_more():
    net = tiny.model(dtype=torch.bfloat16)
    large = replace(
        measured(wrap(net, default_lora(net)), "8B"),
        all_weights=8_030_000_000, linear=6_980_000_000, head=525_000_000, layer=218_000_000, vocabulary=128_256,
        hidden=4096, layers=32, attention=4096, norms=8192, inner=14336, cast=22528, shared=18432, rank=48,
        trained=28_000_000,
    )  # fmt: skip
    step = replace(STEP, trained=Rows(2, 1024, 1400), conditions=Rows(4, 1100, 2800))
    found = [fit(large, step, 2, card, lambda _: 1e18, None) for card in CARDS]
    assert [one.setup for one in found[:3]] == ["4 bits (QLoRA)", "as set", "as set"]
    for smaller, larger in pairwise(found[1:]):
        assert smaller.batch < larger.batch
        assert smaller.length < larger.length
    assert found[1].memory.peak <= found[1].card.usable
    assert fit(large, step, 2, Card("too small", 0.5), lambda _: 1e18, None).setup is None
    given = fit(large, step, 2, CARDS[3], lambda _: 1e18, 100.0)
    assert given.seconds == pytest.approx(1e18 / 100e12)
    ways = list(setups(replace(step, checkpointing=False), 2, 4, has_adapter=True))
    (one,) = [way for way in ways if way.samples == 1]
    assert one.flags.endswith("--gradient_accumulation_steps 8"), "the window keeps its examples"
    names = [way.name for way in ways]
    assert names[:3] == ["as set", "checkpointing", "4 bits (QLoRA)"]
    assert not any("4 bits" in way.name for way in setups(step, 2, 4, has_adapter=False))


def test_operations_are_two_for_each_weight_and_token_of_a_pass():
    found = replace(measured(tiny.model(), "tiny"), has_adapter=True, trained=0, attention=0)
    body = found.all_weights - found.head
    plain = replace(STEP, checkpointing=False)
    assert flops_of(found, plain, 100, 0, 0) == 2 * 2 * body * 100
    assert flops_of(found, STEP, 100, 0, 0) == 3 * 2 * body * 100
    assert flops_of(found, plain, 0, 100, 0) == 2 * body * 100
    assert flops_of(found, plain, 0, 0, 100) == 4 * found.head * 100


def test_the_command_prints_parts_tokens_and_cards_and_the_same_as_json(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "m"
    name = saved("llama", folder)
    tiny.tokenizer().save_pretrained(folder)
    write_examples(tmp_path / "e.jsonl", examples())
    given = ["plan", name, str(tmp_path / "e.jsonl"), "--scheme", "uniform", "--card_gb", "3", "--length", "64"]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory"]["peak"] > found["memory"]["weights"] > 0
    assert found["tokens"]["conditions"] == 0
    assert found["step"]["trained"]["length"] == 64
    assert [one["card"]["gb"] for one in found["cards"]] == [16, 24, 48, 80, 141, 192, 3]
    monkeypatch.setattr(sizes, "fast_dtype", lambda: "float32")
    assert main(given) == 0
    told = capsys.readouterr().out
    for word in ("base weights", "peak", "counted", "141 GB", "SCALE.md"):
        assert word in told, word
    *_, following = told.splitlines()
    assert following.startswith(
        f"next: nlft train {tmp_path / 'e.jsonl'} --model_name_or_path {name} --scheme uniform "
    )
    assert not {"--card_gb", "--length"} & set(following.split())


def test_the_tables_in_the_docs_are_those_of_the_code():
    from helpers.docs_scale import PAGE, page_with_tables

    assert PAGE.read_text(encoding="utf-8") == page_with_tables(), "run python tests/helpers/docs_scale.py --write"


@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text", "blt"])
def test_models_whose_layers_differ_are_measured_or_refused(family, tmp_path):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "vocab_size": 96}
    given = {} if family == "blt" else small | {"num_hidden_layers": 2}
    config = (
        architectures.model(family).config
        if family in architectures.FAMILIES
        else AutoConfig.for_model(family, **given)
    )
    config.save_pretrained(tmp_path)
    settings = ModelSettings(model_name_or_path=str(tmp_path), dtype="bfloat16")
    if family == "blt":
        with pytest.raises(UserError, match="no formula"):
            sizes_from_config(settings)
        return
    found = sizes_from_config(settings)
    per_layer = getattr(config, "per_layer_config", [config])
    assert found.attention == max(one.num_attention_heads * one.head_dim for one in per_layer)
    assert found.inner == 48
    assert memory_of(found, STEP).peak > 0


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "nosuch"}, "nosuch"),
        ({"model_type": "t5"}, "T5"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
            "Python code",
        ),
    ],
)
def test_a_config_that_cannot_be_planned_says_what_is_wrong_with_it(config, named, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=named) as caught:
        sizes_from_config(ModelSettings(model_name_or_path=str(tmp_path)))
    assert "safetensors" not in str(caught.value)


def test_what_cannot_be_planned_is_refused(tmp_path, capsys):
    name = saved("llama", tmp_path)
    assert main(["plan", name, "--use_peft", "false", "--load_in_4bit"]) == 2
    assert "--load_in_4bit" in capsys.readouterr().err
    assert main(["plan", "--model_name_or_path", name]) == 2
    assert "nlft plan MODEL" in capsys.readouterr().err
    assert main(["plan", "--scheme", "strike"]) == 2
    assert "model" in capsys.readouterr().err
    assert main(["plan", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
