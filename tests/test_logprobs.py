"""Log-probabilities against the plain full-softmax form, in values, gradients and memory."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model

from helpers import tiny
from nlft.core import logprobs
from nlft.core.conditions import IGNORE_INDEX, pad_rows
from nlft.core.heads import logit_finisher
from nlft.core.logit_slopes import LogOdds
from nlft.core.logprobs import enable_scoring, evaluating, score
from nlft.errors import NLFTError, UserError
from nlft.models.adapters import lora


def some_rows(seed=0):
    numbers = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(6, tiny.VOCAB, (n,), generator=numbers).tolist()

    return pad_rows([(ids(7), ids(5)), (ids(3), ids(11)), (ids(12), ids(1))], pad_token_id=0)


def plain(model, rows):
    """The naive form: all logits, their softmax in float64, the labels' entries."""
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits.double()
    logp = logits.log_softmax(-1)[:, :-1]
    labels = rows.labels[:, 1:]
    wanted = labels != IGNORE_INDEX
    at_label = logp.gather(2, labels.clamp(min=0)[..., None])
    others = logp.scatter(2, labels.clamp(min=0)[..., None], -torch.inf).logsumexp(-1)
    return at_label[..., 0][wanted], others[wanted]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_values_and_gradients_equal_the_full_softmax(family):
    model = tiny.model(family)
    model.requires_grad_(False)
    options = {"r": 4, "init_lora_weights": False}
    if family == "mixtral":  # PEFT would put "all-linear" on the router, too
        config = lora(model, **options)
    else:
        config = LoraConfig(target_modules="all-linear", fan_in_fan_out=family == "gpt2", **options)
    adapted = get_peft_model(model, config)
    enable_scoring(adapted, chunk_bytes=20_000)  # a few positions a chunk
    rows = some_rows()
    adapters = [p for p in adapted.parameters() if p.requires_grad]
    weights = torch.randn(17, generator=torch.Generator().manual_seed(1)).double()

    ours = score(adapted, rows)
    logp, log1mp = ours.logp[ours.mask], ours.log1mp[ours.mask]
    (weights * logp - 0.5 * weights * log1mp).sum().backward()
    our_grads = [p.grad.clone() for p in adapters]
    adapted.zero_grad()
    plain_logp, plain_log1mp = plain(adapted, rows)
    (weights * plain_logp - 0.5 * weights * plain_log1mp).sum().backward()

    torch.testing.assert_close(logp.double(), plain_logp, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(log1mp.double(), plain_log1mp, atol=1e-5, rtol=1e-5)
    for ours_, parameter in zip(our_grads, adapters, strict=True):
        torch.testing.assert_close(ours_, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_fine_tuning_and_a_trained_head_get_the_same_gradients(family):
    """Every weight trains, the (tied) head too: the checkpointed path."""
    model = tiny.model(family)
    enable_scoring(model, chunk_bytes=20_000)
    rows = some_rows()
    scored = score(model, rows)
    scored.logp.sum().backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    plain(model, rows)[0].sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("gap", [-200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 200.0])
def test_probabilities_that_round_to_zero_and_one_keep_their_logs_and_gradients(gap):
    """At a gap of ±90 and beyond, p is 0 or 1 in float32; the logs and their gradients are still exact."""
    logits = torch.tensor([[gap, 0.3, -0.2, -50.0], [gap, -300.0, 0.0, 0.5]], requires_grad=True)
    targets = torch.tensor([0, 0])
    odds, _ = LogOdds.apply(logits, targets)
    logp, log1mp = torch.nn.functional.logsigmoid(odds), torch.nn.functional.logsigmoid(-odds)
    exact = logits.detach().double().requires_grad_()
    exact_logp = exact[:, 0] - exact.logsumexp(1)
    exact_log1mp = exact[:, 1:].logsumexp(1) - exact.logsumexp(1)
    for ours, theirs in [(logp, exact_logp), (log1mp, exact_log1mp)]:
        assert ours.isfinite().all()
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-6)
        (our_grad,) = torch.autograd.grad(ours.sum(), logits, retain_graph=True)
        (their_grad,) = torch.autograd.grad(theirs.sum(), exact, retain_graph=True)
        torch.testing.assert_close(our_grad.double(), their_grad, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_first_choice_is_marked():
    """Every second label is the model's own choice, the others are not."""
    model = tiny.model()
    enable_scoring(model)
    rows = some_rows()
    best = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits.argmax(-1)[:, :-1]
    labels = rows.labels[:, 1:]
    wanted = labels != IGNORE_INDEX
    chosen = torch.where(torch.arange(best.shape[1]) % 2 == 0, best, (best + 1) % tiny.VOCAB)
    rows.labels[:, 1:][wanted] = chosen[wanted]
    expected = (best == chosen)[wanted]
    assert 3 <= int(expected.sum()) <= len(expected) - 3
    scored = score(model, rows)
    assert torch.equal(scored.top1[scored.mask], expected)


def test_a_token_beside_an_equal_one_is_a_first_choice():
    """As argmax may take either, neither of two equal logits is worse than the other."""
    _, first = LogOdds.apply(torch.tensor([[2.0, 2.0, 1.0], [2.0, 2.0, 1.0], [2.0, 2.0, 1.0]]), torch.tensor([0, 1, 2]))
    assert first.tolist() == [True, True, False]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_does_not_change_a_score(family):
    model = tiny.model(family)
    enable_scoring(model)
    alone = pad_rows([([7, 8, 9], [10, 11, 12])], pad_token_id=0)
    padded = pad_rows([([7, 8, 9], [10, 11, 12]), (list(range(6, 40)), list(range(40, 60)))], pad_token_id=0)
    with torch.no_grad():
        torch.testing.assert_close(score(model, padded).logp[0, :3], score(model, alone).logp[0], atol=1e-5, rtol=1e-5)


def test_generation_goes_on_working():
    model = tiny.model()
    ids = torch.tensor([[6, 7, 8]])
    before = model.generate(ids, max_new_tokens=5, do_sample=False)
    enable_scoring(model)
    assert torch.equal(model.generate(ids, max_new_tokens=5, do_sample=False), before)


def test_a_row_without_completion_costs_nothing_and_breaks_nothing():
    model = tiny.model()
    enable_scoring(model)
    rows = pad_rows([([7, 8, 9], []), ([7, 8], [9])], pad_token_id=0)
    scored = score(model, rows)
    assert scored.mask.tolist() == [[False], [True]]
    scored.logp.sum().backward()


@pytest.mark.parametrize("change", [lambda z: 2 * z, lambda z: z / 8, lambda z: 1.1 * z])
def test_a_model_with_an_unknown_way_with_its_logits_is_refused(change):
    model = tiny.model()
    forward = model.forward

    def changed(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = change(out.logits)
        return out

    model.forward = changed
    with pytest.raises(NLFTError, match="LlamaForCausalLM changes its logits"):
        enable_scoring(model)


@pytest.mark.parametrize(
    ("family", "name", "value"),
    [
        ("cohere", "logit_scale", 1.0),
        ("cohere", "logit_scale", 2.0),
        ("granite", "logits_scaling", 1.0),
        ("granite", "logits_scaling", 1 / 8),
        ("gemma2", "final_logit_softcapping", None),
        ("gemma2", "final_logit_softcapping", 7.0),
    ],
)
def test_another_scale_or_cap_than_the_models_own_is_refused(monkeypatch, family, name, value):
    model = tiny.model(family)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)  # a cap changes large logits only
    other = copy.deepcopy(model.config)
    setattr(other, name, value)
    monkeypatch.setattr(logprobs, "logit_finisher", lambda _: logit_finisher(other))
    with pytest.raises(NLFTError, match="changes its logits"):
        enable_scoring(model)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PromptEncoderConfig])
def test_an_adapter_with_virtual_tokens_is_refused_by_its_type(kind):
    config = kind(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(UserError, match=config.peft_type.value):
        enable_scoring(get_peft_model(tiny.model(), config))


def test_an_adapter_of_prefixes_is_scored():
    model = get_peft_model(tiny.model(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    enable_scoring(model)
    rows = some_rows()
    with torch.no_grad():
        scored = score(model, rows)
        torch.testing.assert_close(scored.logp[scored.mask].double(), plain(model, rows)[0], atol=1e-5, rtol=1e-5)


MEMORY = """
import resource, sys, torch
from transformers import AutoModelForCausalLM, LlamaConfig
from nlft.core.conditions import pad_rows
from nlft.core.logprobs import enable_scoring, score

vocab, tokens, chunk = 128_000, 2048, 128 * 2**20
config = LlamaConfig(vocab_size=vocab, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                     num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=4096)
model = AutoModelForCausalLM.from_config(config).requires_grad_(False)
model.model.layers[0].mlp.up_proj.weight.requires_grad_()
enable_scoring(model, chunk)

def step(n, form="chunked"):
    # Short rows: attention over one long one would need as much as the logits do.
    rows = pad_rows([([5], [7] * 128)] * (n // 128), 0)
    if form == "chunked":
        loss = score(model, rows).logp.sum()
    else:
        logits = model(input_ids=rows.input_ids).logits
        loss = logits[:, :-1].float().log_softmax(-1)[..., 7].sum()
    loss.backward()

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

step(128)  # warm-up: threads, kernels, autograd
before = peak()
for form, part in ("chunked", 1), ("plain", 8):  # a peak never falls, so the smaller one comes first
    step(tokens // part, form)
    print(peak() - before)
"""


def peak_rises() -> tuple[int, int]:
    """Return by how many bytes the peak rises in chunks, and then in the plain form with an eighth of the tokens."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    chunked, plain = done.stdout.split()
    return int(chunked), int(plain)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_peak_memory_at_a_large_vocabulary_stays_within_one_chunk():
    chunk = 128 * 2**20
    # The allocator adds to a peak by chance and never takes from it, so one run within the bound shows what is needed.
    ours, plain_form = next((rises for rises in (peak_rises() for _ in range(4)) if rises[0] < chunk), (None, 0))
    assert ours is not None
    print(f"\nvocabulary 128,000: chunked {ours / 2**20:.0f} MiB, plain {plain_form / 2**20:.0f} MiB for an eighth")
    assert plain_form > chunk, "the plain form must fail what the chunked form passes"


def test_a_model_that_trains_in_part_is_scored_in_eval_mode_and_is_as_before():
    model = tiny.model()
    model.eval()
    part = model.get_output_embeddings()
    part.train()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module for module in model.modules() if module.training] == list(part.modules())
    model.train()
    part.eval()
    with evaluating(model):
        assert not model.training
    assert [module for module in model.modules() if not module.training] == list(part.modules())


def test_eval_mode_calls_what_a_module_does_of_its_own():
    """DoRA's layers keep a norm in eval mode and drop it in training."""
    model = get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["up_proj"], use_dora=True)).train()
    layers = [module for module in model.modules() if type(module).__name__ == "DoraLinearLayer"]
    assert layers
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        for layer in layers:
            layer._cache_store("norm", 1)
    assert all(module.training for module in model.modules())
    assert all(layer._cache_get("norm", None) is None for layer in layers)


def of_lengths(*lengths):
    """Pairs of prompt and completion; a third of the tokens are the completion."""
    ids = [[6 + (7 * row + 3 * at) % 200 for at in range(length)] for row, length in enumerate(lengths)]
    return [(one[: -len(one) // 3], one[-len(one) // 3 :]) for one in ids]


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_angles_follow_each_rows_own_length(kind):
    """Rows below, at and beyond the 32 tokens where the angles change: scores and gradients are those of each alone."""
    pairs = of_lengths(60, 9, 45, 32, 33, 20)
    model = tiny.turning(kind)
    enable_scoring(model)
    weight = model.model.layers[0].self_attn.o_proj.weight
    mixed = score(model, pad_rows(pairs, 0))
    (gradient,) = torch.autograd.grad(mixed.logp.sum(), weight)
    whole = torch.zeros_like(gradient)
    for at, pair in enumerate(pairs):
        other = tiny.turning(kind)  # one that has read no longer row
        alone, _ = plain(other, pad_rows([pair], 0))
        torch.testing.assert_close(mixed.logp[at][mixed.mask[at]].double(), alone, atol=1e-5, rtol=1e-5)
        whole += torch.autograd.grad(alone.sum(), other.model.layers[0].self_attn.o_proj.weight)[0]
    torch.testing.assert_close(gradient, whole, atol=1e-4, rtol=1e-4)
    assert not any(one._forward_hooks for one in model.modules())
    with torch.no_grad():
        turned = score(model, pad_rows(pairs[::-1], 0))
        torch.testing.assert_close(turned.logp.flip(0), mixed.logp.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_below_the_length_where_rotary_angles_change_have_them_computed_once(kind):
    model = tiny.turning(kind)
    enable_scoring(model)
    rope, calls = model.model.rotary_emb, []
    forward = rope.forward
    rope.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)
    for lengths, count in (((31, 12, 5), 1), ((60, 12, 40), None)):
        calls.clear()
        score(model, pad_rows(of_lengths(*lengths), 0))
        assert (len(calls) == count) if count else len(calls) > 2
