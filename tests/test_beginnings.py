"""The conditions' rows go on from base's beginning: the scores, the losses and the gradient are those of whole rows."""

import weakref

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from helpers import tiny
from nlft.core.batches import BatchBuilder
from nlft.core.beginnings import Beginnings, cut, shares_beginnings
from nlft.core.condition_scores import is_noisy, score_batch
from nlft.core.conditions import ConditionEncoder, row
from nlft.core.logprobs import enable_scoring, score
from nlft.core.schemes.registry import get_scheme
from nlft.models.loading import default_lora, wrap

NLFT = get_scheme("nlft")
SETTINGS = NLFT.settings()
NEEDS = NLFT.needs(SETTINGS)
SHARING = ["llama", "qwen3", "gemma", "cohere", "granite", "mixtral"]


def encoded(labels=(False, True, False, True)):
    """Examples whose prompt is the larger part of a row. The questions have other lengths, and so have the answers."""
    encoder = ConditionEncoder(tiny.tokenizer())
    return [
        encoder.encode(
            id=at,
            prompt="Tell me about the " + "very " * (4 + 3 * at) + "old red house at the end of this long street.",
            completion="It is " + "so " * at + "old.",
            label=label,
            answer="Red" + "!" * at,
            judgment=None if label else 'It says "old".',
        )
        for at, label in enumerate(labels)
    ]


def scored_and_gradient(model, share, *, noisy=False, examples=None):
    """Score one batch, and return the conditions, the loss, the gradient of each parameter and the tokens read."""
    builder = BatchBuilder(0, needs=NEEDS, share=share)
    features = builder(examples or encoded())
    model.zero_grad()
    torch.manual_seed(3)  # of the dropout in the pass with gradient
    found = score_batch(model, builder.batch(features), NEEDS, noisy=noisy)
    loss = NLFT.losses(NLFT.weigh(found.conditions, SETTINGS), found, SETTINGS).total.sum()
    loss.backward()
    gradient = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return found.conditions, loss.detach(), gradient, features["scored_input_ids"].numel()


def assert_alike(model, **given):
    whole, loss, gradient, tokens = scored_and_gradient(model, False, **given)
    cut_rows, cut_loss, cut_gradient, fewer = scored_and_gradient(model, True, **given)
    assert fewer < 0.9 * tokens
    for name in ("base", "standard", "judge"):
        torch.testing.assert_close(getattr(cut_rows, name), getattr(whole, name), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(cut_loss, loss, atol=1e-6, rtol=1e-5)
    assert gradient.keys() == cut_gradient.keys()
    assert any(one.abs().max() > 1e-3 for one in gradient.values())
    for name, one in gradient.items():
        torch.testing.assert_close(cut_gradient[name], one, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", SHARING)
def test_scores_loss_and_gradient_are_those_of_whole_rows(family):
    model = tiny.model(family)
    enable_scoring(model)
    assert shares_beginnings(model)
    assert_alike(model.train())


def test_so_are_they_with_an_adapter_dropout_and_activations_computed_again():
    net = tiny.model()
    model = wrap(net, default_lora(net))
    enable_scoring(model)
    model.train()
    assert shares_beginnings(model)
    net.activation_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.3)
    assert_alike(model)
    for name, module in model.named_modules():
        if name.endswith("lora_dropout"):
            module["default"] = torch.nn.Dropout(0.2)
    model.train()
    assert is_noisy(model)
    assert_alike(model, noisy=True)


def test_activation_checkpointing_takes_an_ordinary_cache_away_afterwards_as_before():
    net = tiny.model()
    enable_scoring(net)
    net.train().activation_checkpointing_enable({"use_reentrant": False})
    scored_and_gradient(net, True)
    assert not any(layer._can_checkpoint_with_cache for layer in net.model.layers)


def test_a_batch_of_right_samples_alone_shares_too():
    model = tiny.model()
    enable_scoring(model)
    assert_alike(model, examples=encoded((True, True, True)))


def small(config, **more):
    made = config(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **more,
    )
    return AutoModelForCausalLM.from_config(made)


def test_layers_that_see_less_or_angles_of_the_rows_length_are_scored_whole():
    far = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    others = [
        tiny.model("gemma2"),  # a sliding window in every other layer
        tiny.model("gpt2"),  # learnt positions
        small(MistralConfig, sliding_window=16),
        small(LlamaConfig, rope_parameters=far),
        small(LlamaConfig, attn_implementation="eager"),
    ]
    assert [shares_beginnings(one) for one in others] == [False] * len(others)
    assert shares_beginnings(small(MistralConfig, sliding_window=None)), "without a window it is tried"


def test_an_adapter_that_reads_more_than_one_token_is_scored_whole():
    for config in (
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], alora_invocation_tokens=[4]),
    ):
        assert not shares_beginnings(get_peft_model(tiny.model(), config)), config.peft_type


def test_the_beginnings_are_let_go_as_they_are_read():
    model = tiny.model()
    enable_scoring(model)
    builder = BatchBuilder(0, needs=NEEDS, share=True)
    batch = builder.batch(builder(encoded()))
    kept = Beginnings(batch.begun)
    score(model.train(), batch.trained_rows, keep=kept)
    held = [weakref.ref(one.untyped_storage()) for pair in kept.kept.values() for one in pair]
    assert all(one() is not None for one in held)
    with torch.no_grad():
        score(model, batch.scored_rows, after=kept)
    assert not any(one.numel() for pair in kept.kept.values() for one in pair)
    assert not any(one() is not None and one().nbytes() for one in held)


def test_base_is_scored_first_in_every_batch_of_a_training_that_shares():
    """Ranks whose batches are cut and ranks whose batches are not must come to their passes in the same order."""
    model = tiny.model()
    enable_scoring(model)
    graded = []
    model.model.register_forward_pre_hook(lambda *_: graded.append(torch.is_grad_enabled()))
    for examples in (encoded(), tiny.encoded()):  # the second ones share too little
        builder = BatchBuilder(0, needs=NEEDS, share=True)
        features = builder(examples)
        score_batch(model, builder.batch(features), NEEDS)
        graded.append("begun_seen" in features)
    assert graded == [True, False, True, True, False, False]


def test_a_model_that_reads_its_positions_in_its_own_way_fails_the_trial(monkeypatch):
    model = tiny.model()
    assert shares_beginnings(model)
    rotary = model.model.rotary_emb
    plain = rotary.forward
    monkeypatch.setattr(rotary, "forward", lambda x, position_ids: plain(x, position_ids - position_ids.min()))
    assert not shares_beginnings(model)


def test_rows_are_cut_before_the_position_that_predicts_the_first_scored_token():
    base = row([1, 2, 3, 4], [9, 8])
    same, other, none = row([1, 2, 3, 4], [9, 8]), row([1, 2, 5, 6, 4], [9, 8]), row([7, 2, 3], [9, 8])
    tails, begun = cut([same, other, none][:2], [0, 0], [base])
    assert tails == [([4, 9, 8], 1, [9, 8]), ([5, 6, 4, 9, 8], 3, [9, 8])]
    assert begun.seen.tolist() == [[True, True, True], [True, True, False]]
    assert (begun.kept.tolist(), begun.source.tolist()) == ([0], [0, 0])
    _, begun = cut([other, same, same], [3, 1, 3], [none, base, none, base])
    assert (begun.kept.tolist(), begun.source.tolist()) == ([1, 3], [1, 0, 1])
    assert cut([none], [0], [base]) is None, "nothing is shared"
    longest = row([7, 2, 3, 4, 5], [9, 8])
    assert cut([other, longest], [0, 0], [base]) is None, "padded to the longest, nothing is saved"
