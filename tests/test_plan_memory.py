"""`nlft plan`: its formulas against the bytes that live tensors take, setting by setting."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from helpers.live_memory import LiveMemory
from nlft.core.batches import BatchBuilder
from nlft.core.beginnings import shares_beginnings
from nlft.core.logprobs import enable_scoring
from nlft.core.schemes.registry import get_scheme
from nlft.models.loading import default_lora, wrap
from nlft.models.sizes import measured
from nlft.planning.memory import Rows, Step, memory_of

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import plan_check

CHUNK = 2**18
SETTINGS = {
    "plain": {},
    "16 bits": {"dtype": torch.bfloat16},
    "all weights": {"peft": False},
    "eager": {"attention": "eager"},
    "eager in 16 bits": {"attention": "eager", "dtype": torch.bfloat16},
    "DoRA": {"dora": True},
    "DoRA in 16 bits": {"dora": True, "dtype": torch.bfloat16},
    "DoRA with dropout": {"dora": True, "dtype": torch.bfloat16, "dropout": 0.1},
    "dropout": {"dropout": 0.1},
    "autocast": {"autocast": True},
    "autocast of 16 bits": {"autocast": True, "dtype": torch.bfloat16},
    "autocast of all weights": {"autocast": True, "peft": False},
    "autocast, eager": {"autocast": True, "attention": "eager"},
    "autocast, DoRA": {"autocast": True, "dora": True},
}


def made(layers, *, attention="sdpa", dora=False, dropout=0.0, peft=True, dtype=torch.float32, autocast=False):
    """Make a model that is large enough for its activations to outweigh what is left out of the formulas."""
    config = LlamaConfig(
        vocab_size=1100, hidden_size=64, intermediate_size=176, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    net = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    adapter = default_lora(net)
    adapter.use_dora, adapter.lora_dropout = dora, dropout
    model = wrap(net, adapter if peft else None).train()
    if peft:
        model.enable_input_require_grads()
    return net, model, torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()


@pytest.mark.parametrize("given", SETTINGS.values(), ids=SETTINGS)
def test_what_a_layer_keeps_for_backward_follows_the_formula_to_three_in_a_hundred(given):
    rows = Rows(2, 40, 80)
    step = Step(rows, Rows(0, 0, 0), checkpointing=False, autocast=given.get("autocast", False))
    kept, planned = [], []
    for layers in (1, 2):
        net, model, autocast = made(layers, **given)
        ids, mask = torch.randint(5, 90, (rows.count, rows.length)), torch.ones(rows.count, rows.length).long()
        mask[0, :5] = 0
        live = LiveMemory([*model.parameters(), *model.buffers()])
        with live, autocast:
            states = net.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            kept.append(live.now)
        assert states.requires_grad
        sizes = measured(model, "small")
        memory = memory_of(sizes, step)
        planned.append(memory.activations + memory.casts)
    mask = 3 * sizes.cast * rows.tokens if given.get("dropout") else 0  # on a CPU it has 4 bytes an entry, on a GPU 1
    assert kept[1] - kept[0] - mask == pytest.approx(planned[1] - planned[0], rel=0.03)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("name", ["plain", "eager", "DoRA", "DoRA with dropout", "autocast"])
def test_no_step_needs_more_than_the_plan_says_nor_less_than_half(name, checkpointing):
    given = SETTINGS[name]
    net, model, autocast = made(4, **given)
    enable_scoring(model, CHUNK)
    if checkpointing:
        net.activation_checkpointing_enable({"use_reentrant": False})
    scheme = get_scheme("nlft")
    saliency = scheme.settings()
    builder = BatchBuilder(0, needs=scheme.needs(saliency), share=shares_beginnings(model))
    live = LiveMemory([*model.parameters(), *model.buffers()])
    with live, autocast:
        features = plan_check.one_step(model, builder, scheme, saliency, 2, 72)
    step = plan_check.step_of(features, builder, checkpointing=checkpointing, autocast=given.get("autocast", False),
                              chunk_bytes=CHUNK)  # fmt: skip
    memory = memory_of(measured(model, "small"), step)
    planned = memory.peak - memory.weights - memory.adapter - memory.optimizer
    assert 0.5 < live.most / planned <= 1, (live.most, memory)
