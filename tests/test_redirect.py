"""`redirect` against its formula written out from whole softmaxes, and what it asks of the passes."""

from dataclasses import asdict, replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import tiny
from helpers.training import REDIRECTED, nlft_trainer
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.saliency import ConditionLogprobs, SparseTargets
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights, tag_mistakes
from nlft.core.schemes.registry import get_scheme

NEEDS = get_scheme("nlft").needs(REDIRECTED)
TEXTS = [
    ("it is 7", False),
    ("it is 12, as everyone knows", True),
    ("8 or so, I think", False),
    ("12", True),
    ("x", False),
]


def encoded():
    encoder = ConditionEncoder(tiny.tokenizer())
    return [
        encoder.encode(
            id=i,
            prompt=f"{i} + 7?" + " please" * i,
            completion=text,
            label=label,
            answer="5 + 7 = 12" * (1 + i % 2),
            judgment=None if label else f'"{text}" is wrong.',
        )
        for i, (text, label) in enumerate(TEXTS)
    ]


def adapted(family="llama", **options):
    torch.manual_seed(3)
    options = {"target_modules": "all-linear", "fan_in_fan_out": family == "gpt2", **options}
    net = get_peft_model(tiny.model(family), LoraConfig(r=4, **options))
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)  # at zero, lora_A would have no gradient
    return net.eval()  # GPT-2 has dropout of its own


def distributions(net, prompt, completion):
    """log p over the whole vocabulary at each completion token, (tokens, vocabulary)."""
    logits = net(input_ids=torch.tensor([prompt + completion])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def slow_loss(net, example, cfg):
    """One sample's redirect loss and where it looks, as the docs say it; None where there is no mistake."""
    if example.label:
        return None
    base = distributions(net, example.base, example.completion)
    with torch.no_grad():
        standard = distributions(net, example.standard, example.completion)
        judge = distributions(net, example.judge, example.completion)
    for t, said in enumerate(example.completion):
        b, s, j = (d[t, said].exp().item() for d in (base, standard, judge))
        if j / b > cfg.mistake_ratio and j / s > cfg.mistake_ratio and j > cfg.mistake_floor:
            order = standard[t].argsort(descending=True).tolist()
            best = [token for token in order if token != said][: cfg.redirect_tokens]
            total = sum(standard[t, token].exp() for token in best)
            return t, -sum(standard[t, token].exp() / total * base[t, token] for token in best)
    return None


def scored(net, examples, settings=REDIRECTED, **options):
    """The scores, and the targets that were chosen."""
    builder, chosen = BatchBuilder(0, needs=NEEDS), []

    def choose(*given):
        chosen.append(get_scheme("nlft").extra_loss(settings).choose(*given))
        return chosen[0]

    out = score_batch(net, builder.batch(builder(examples)), NEEDS, choose=choose, **options)
    (targets,) = chosen
    return out, targets


def gradients(net, loss):
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    parameters = [p for p in net.parameters() if p.requires_grad]
    return dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


@pytest.mark.parametrize("tokens", [8, 2])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "llama, all its weights"])
def test_value_and_gradient_equal_the_formula_from_whole_softmaxes(family, tokens):
    cfg = replace(REDIRECTED, redirect_tokens=tokens)
    net, examples = tiny.model() if "all" in family else adapted(family), encoded()
    plain = [slow_loss(net, e, cfg) for e in examples]
    assert sum(found is not None for found in plain) >= 2
    assert any(found is not None and found[0] > 0 for found in plain), "all at the first token"
    expected = torch.stack([torch.zeros(()) if found is None else found[1] for found in plain])
    wanted = gradients(net, expected.sum())

    enable_scoring(net, 2**12)  # small chunks
    out, targets = scored(net, examples, cfg)
    assert targets.weight.tolist() == [float(found is not None) for found in plain]
    torch.testing.assert_close(out.extra_losses, expected, atol=1e-5, rtol=1e-5)
    found = gradients(net, out.extra_losses.sum())
    assert len(found) > 10
    for name, gradient in found.items():
        assert wanted[name].abs().max() > 1e-5
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5)


def test_it_looks_at_the_first_salient_token_of_each_wrong_sample():
    net, examples = adapted(), encoded()
    enable_scoring(net)
    out, targets = scored(net, examples)
    salient = nlft_weights(out.conditions, REDIRECTED).salient & ~out.conditions.label[:, None]
    assert targets.sample.tolist() == list(range(len(examples)))
    assert targets.weight.bool().tolist() == salient.any(1).tolist()
    for row in range(len(examples)):
        if targets.weight[row]:
            assert int(targets.position[row]) == int(salient[row].nonzero()[0])


@pytest.mark.parametrize("tokens", [2, 1000])
def test_what_was_said_is_no_target_and_the_rest_adds_up_to_one(tokens):
    net, examples = adapted(), encoded()
    enable_scoring(net)
    out, targets = scored(net, examples, replace(REDIRECTED, redirect_tokens=tokens))
    assert out.extra_losses.isfinite().all()
    assert targets.ids.shape[1] == min(tokens, tiny.VOCAB - 1), "no more tokens than there are"
    torch.testing.assert_close(targets.probabilities.sum(1), torch.ones(len(examples)))
    for row, example in enumerate(examples):
        said, at = example.completion[int(targets.position[row])], int(targets.position[row])
        assert said not in targets.ids[row]
        standard = distributions(net, example.standard, example.completion)[at].exp().detach()
        shares = standard[targets.ids[row]]
        torch.testing.assert_close(targets.probabilities[row], shares / shares.sum(), atol=1e-5, rtol=1e-4)


def test_any_places_with_any_weights_add_their_cross_entropy_to_their_samples_loss():
    """Several places in one sample, none in another, one place twice; against whole softmaxes, in small chunks."""
    net, examples = adapted(), encoded()
    sample, position = torch.tensor([0, 0, 2, 2, 2, 4]), torch.tensor([0, 3, 1, 5, 5, 1])
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0, 0.25, 3.0])
    torch.manual_seed(0)
    excluded, raw = torch.randint(0, tiny.VOCAB, (6, 3)), torch.rand(6, 4)
    seen = []

    def choose(conditions, said, likeliest):
        assert said.shape == conditions.base.shape
        assert said[1, : len(examples[1].completion)].tolist() == examples[1].completion
        top = likeliest(sample, position, excluded, 4)
        seen.append(top)
        return SparseTargets(sample, position, top.ids, (raw + top.logits.softmax(1)) / 2, weight)

    dense = [distributions(net, e.base, e.completion) for e in examples]
    enable_scoring(net, 2**12)
    rows, head = [], net.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    builder = BatchBuilder(0, needs=NEEDS)
    out = score_batch(net, builder.batch(builder(examples)), NEEDS, choose=choose)
    assert max(rows) < 6, "all places in one chunk"
    (top,) = seen
    assert not any(token in top.ids[n] for n in range(6) for token in excluded[n])
    with torch.no_grad():
        standard = [distributions(net, e.standard, e.completion) for e in examples]
    expected = [0.0] * len(examples)
    for n in range(6):
        allowed = standard[sample[n]][position[n]].index_fill(0, excluded[n], -torch.inf)
        assert sorted(top.ids[n].tolist()) == sorted(allowed.topk(4).indices.tolist())
        q = (raw[n] + top.logits[n].softmax(0)) / 2
        expected[sample[n]] = expected[sample[n]] - weight[n] * (q * dense[sample[n]][position[n]][top.ids[n]]).sum()
    torch.testing.assert_close(
        out.extra_losses, torch.stack([torch.as_tensor(x) for x in expected]), atol=1e-5, rtol=1e-5
    )
    wanted = gradients(net, sum(expected))
    for name, gradient in gradients(net, out.extra_losses.sum()).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-5)


def test_padding_and_the_rest_of_the_batch_change_nothing():
    net, examples = adapted(), encoded()
    enable_scoring(net)
    together = scored(net, examples)[0].extra_losses
    turned = scored(net, examples[::-1])[0].extra_losses.flip(0)
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=1e-5)
    for row, example in enumerate(examples):
        alone = scored(net, [example])[0].extra_losses
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def test_samples_without_a_mistake_have_no_loss_and_no_gradient():
    net = adapted()
    enable_scoring(net)
    right = [e for e in encoded() if e.label]
    losses = scored(net, right)[0].extra_losses
    assert losses.tolist() == [0.0, 0.0]
    assert not any(g.any() for g in gradients(net, losses.sum()).values() if g is not None)


def test_with_dropout_the_tags_and_what_standard_says_are_without_it():
    net = adapted(lora_dropout=0.5, target_modules=["q_proj", "down_proj", "lm_head"])
    enable_scoring(net)
    clean, clean_targets = scored(net.eval(), encoded())
    torch.manual_seed(1)
    out, targets = scored(net.train(), encoded(), noisy=True)
    assert net.training
    for name in ("weight", "position", "ids"):
        assert torch.equal(getattr(targets, name), getattr(clean_targets, name))
    torch.testing.assert_close(targets.probabilities, clean_targets.probabilities, atol=1e-5, rtol=1e-5)
    assert (out.extra_losses - clean.extra_losses).abs().max() > 1e-2, "no dropout"


def test_a_contradiction_is_redirected_too():
    log = torch.tensor([[0.2, 0.9, 0.9]]).log()
    low = torch.tensor([[0.2, 0.01, 0.01]]).log()
    conditions = ConditionLogprobs(log, log > -9, torch.tensor([False]), standard=low, judge=log)
    assert not tag_mistakes(conditions, NLFTSettings()).any()
    assert tag_mistakes(conditions, NLFTSettings(contradiction=True)).tolist() == [[False, True, True]]
    assert not tag_mistakes(replace(conditions, label=torch.tensor([True])), NLFTSettings(contradiction=True)).any()


def passes(folder, settings):
    """(with gradient?, keywords) of each forward of one training step, and what it logged."""
    asked = []
    trainer = nlft_trainer(folder, saliency=settings, watch=0, max_steps=1)
    trainer.model.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append((torch.is_grad_enabled(), kwargs)), with_kwargs=True
    )
    trainer.train()
    return asked, trainer.state.log_history[0]


@pytest.mark.parametrize("settings", [replace(REDIRECTED, redirect=False), NLFTSettings(branch_weight=0.0)])
def test_off_it_asks_the_model_for_nothing_more(tmp_path, settings):
    asked, logged = passes(tmp_path, settings)
    assert asked
    assert all(kwargs["score_targets"] is None for _, kwargs in asked)
    assert not any(kwargs["score_hidden"] for graded, kwargs in asked if not graded)
    assert "nlft/redirect_loss" not in logged


def test_on_it_takes_no_further_pass(tmp_path):
    on, logged = passes(tmp_path / "on", REDIRECTED)
    off, _ = passes(tmp_path / "off", replace(REDIRECTED, redirect=False))
    assert logged["nlft/redirect_loss"] > 0
    # It reads whole rows, and the conditions first; without it, base comes first and lends them its beginning.
    rows = [sorted((graded, kwargs["input_ids"].shape[0]) for graded, kwargs in one) for one in (on, off)]
    assert rows[0] == rows[1]
    assert len(rows[0]) > 1


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_the_trainers_loss_is_the_sum_of_its_parts_in_the_windows_normalisation(tmp_path, normalization):
    trainer = nlft_trainer(tmp_path, saliency=REDIRECTED, loss_normalization=normalization)
    trainer.model.eval()
    data = trainer.train_dataset[:5]
    with torch.no_grad():
        with_it = trainer.compute_loss(trainer.model, trainer.builder(data))
        trainer.saliency = replace(REDIRECTED, redirect=False)
        without = trainer.compute_loss(trainer.model, trainer.builder(data))
        trainer.saliency = replace(REDIRECTED, redirect_weight=3.0, branch_weight=0.5)
        scaled = trainer.compute_loss(trainer.model, trainer.builder(data))
        trainer.saliency = replace(trainer.saliency, redirect=False)
        halved = trainer.compute_loss(trainer.model, trainer.builder(data))
        losses = scored(trainer.model, data)[0].extra_losses
    lengths = torch.tensor([len(e.completion) for e in data])
    expected = (losses / lengths).mean() if normalization == "sample" else losses.sum() / lengths.sum()
    assert expected > 1e-3
    torch.testing.assert_close(with_it - without, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scaled - halved, 1.5 * expected, atol=1e-5, rtol=1e-4)


def test_batch_size_and_accumulation_do_not_change_the_training(tmp_path):
    runs = []
    for size, accumulation in [(6, 1), (1, 6)]:
        trainer = nlft_trainer(
            tmp_path / f"{size}",
            saliency=REDIRECTED,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            learning_rate=1e-3,
            watch=0,
        )
        trainer.train()
        logged = [e for e in trainer.state.log_history if "loss" in e]
        runs.append([[e["loss"], e["nlft/redirect_loss"]] for e in logged])
    assert all(part > 0 for _, part in runs[0])
    torch.testing.assert_close(torch.tensor(runs[0]), torch.tensor(runs[1]), atol=1e-4, rtol=1e-3)


def test_it_can_be_switched_on_and_off_while_a_run_trains(tmp_path):
    off = replace(REDIRECTED, redirect=False)

    def line(step, new):
        request = {"id": f"r{step}", "control": "saliency.redirect", "value": new, "old": not new, "new": new}
        return {**request, "who": "test", "at": "now", "taken": True, "step": step}

    trainer = nlft_trainer(tmp_path, saliency=off, watch_every=1)
    trainer.steering.replay([line(2, True), line(4, False)])
    trainer.train()
    logged = [e for e in trainer.state.log_history if "loss" in e]
    assert ["nlft/redirect_loss" in e for e in logged] == [False, True, True, False]
    assert all(e["nlft/redirect_loss"] > 0 for e in logged[1:3])
    parts = [n for n in logged[1] if n.startswith("nlft/") and n.endswith("loss")]
    assert logged[1]["loss"] == pytest.approx(sum(logged[1][n] for n in parts), abs=1e-5)
    assert asdict(trainer.saliency) == asdict(off)
