"""The `cut` scheme against its equations written out plainly, and the one pass more that it asks for."""

from dataclasses import fields, replace
from math import exp

import pytest
import torch

from helpers import tiny
from helpers.tiny import encoded
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.logprobs import enable_scoring
from nlft.core.saliency import ConditionLogprobs, Tag
from nlft.core.schemes.cut import CutSettings, cut_weights
from nlft.core.schemes.registry import get_scheme, usable_schemes
from nlft.core.schemes.scheme import HoldSettings

PAPER = CutSettings()
CODE = replace(PAPER, inappropriate_exponent=0.0)
LENGTHS, LABELS = [40, 9, 25, 33], [False, True, True, False]


def random_batch(seed, lengths=LENGTHS, labels=LABELS):
    numbers = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    base, judge = (
        torch.nn.functional.logsigmoid(2 * torch.randn(mask.shape, generator=numbers)) * mask for _ in range(2)
    )
    # Some tokens as likely under both, and some on either side of the threshold.
    near = base + torch.rand(mask.shape, generator=numbers) * 0.2
    judge = torch.where(torch.rand(mask.shape, generator=numbers) < 0.5, near.clamp(max=0), judge) * mask
    return ConditionLogprobs(base=base, judge=judge, mask=mask, label=torch.tensor(labels))


def slow_weights(base, judge, right, cfg):
    """(likelihood, unlikelihood) of one sample, as equations 5 and 6 read."""
    likelihood, unlikelihood = [], []
    for b, j in zip(base, judge, strict=True):
        pb, pj = exp(b), exp(j)
        if not right and pj - cfg.inappropriate_ratio * pb > 0:
            likelihood.append(0.0)
            unlikelihood.append(cfg.inappropriate_weight * pj**cfg.inappropriate_exponent)
        else:
            likelihood.append(1.0)
            unlikelihood.append(0.0)
    return likelihood, unlikelihood


@pytest.mark.parametrize("cfg", [PAPER, CODE, CutSettings(1.2, 0.25, 2.0), CutSettings(1.0, 0.5, 0.5)])
@pytest.mark.parametrize("seed", range(5))
def test_weights_equal_the_equations_written_out(seed, cfg):
    batch = random_batch(seed)
    weights = cut_weights(batch, cfg)
    pushed = 0
    for i, n in enumerate(LENGTHS):
        base, judge = batch.base[i, :n].double().tolist(), batch.judge[i, :n].double().tolist()
        likelihood, unlikelihood = slow_weights(base, judge, LABELS[i], cfg)
        torch.testing.assert_close(weights.likelihood[i, :n], torch.tensor(likelihood))
        torch.testing.assert_close(weights.unlikelihood[i, :n], torch.tensor(unlikelihood))
        assert weights.salient[i, :n].tolist() == [u > 0 for u in unlikelihood]
        pushed += sum(u > 0 for u in unlikelihood)
    assert 10 < pushed < 60
    assert not weights.gated.any()


def test_right_samples_are_learnt_as_they_are_whatever_they_hold_for_judge():
    batch = random_batch(1)
    right = batch.label[:, None]
    weights = cut_weights(replace(batch, judge=torch.where(right, torch.nan, batch.judge)), PAPER)
    assert torch.equal(weights.likelihood * right, (batch.mask & right).float())
    assert not (weights.unlikelihood * right).any()
    assert weights.unlikelihood.isfinite().all()


def test_padding_has_no_weight_and_a_mixed_batch_gives_each_what_it_gets_alone():
    batch = random_batch(2)
    together = cut_weights(batch, PAPER)
    for i, n in enumerate(LENGTHS):
        alone = cut_weights(
            ConditionLogprobs(
                base=batch.base[i : i + 1, :n],
                judge=batch.judge[i : i + 1, :n],
                mask=batch.mask[i : i + 1, :n],
                label=batch.label[i : i + 1],
            ),
            PAPER,
        )
        for name in ("likelihood", "unlikelihood", "tag"):
            assert torch.equal(getattr(together, name)[i, :n], getattr(alone, name)[0]), name
            assert not getattr(together, name)[i, n:].any(), "padding has a weight"


def test_with_a_ratio_that_nothing_reaches_it_is_plain_fine_tuning():
    batch = random_batch(3)
    weights = cut_weights(batch, replace(PAPER, inappropriate_ratio=1e9))
    assert torch.equal(weights.likelihood, batch.mask.float())
    assert not weights.unlikelihood.any()


# What it needs scored.

NEEDS = get_scheme("cut").needs(PAPER)


@pytest.fixture(scope="module")
def model():
    net = tiny.model()
    enable_scoring(net)
    return net


def scored(model, examples, needs):
    builder = BatchBuilder(tiny.tokenizer().pad_token_id, needs=needs)
    features = builder(examples)
    with torch.no_grad():
        return features, score_batch(model, builder.batch(features), needs)


def test_only_judge_rows_are_scored_besides_base_and_stand_beside_their_samples(model):
    examples = encoded()
    assert frozenset({"judge"}) == NEEDS
    features, found = scored(model, examples, NEEDS)
    assert len(features["scored_input_ids"]) == 2
    assert found.conditions.standard is None
    _, full = scored(model, examples, frozenset({"standard", "judge", "band"}))
    assert full.conditions.standard is not None
    torch.testing.assert_close(found.conditions.judge, full.conditions.judge, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.conditions.base, full.conditions.base, atol=1e-5, rtol=0)
    for i, example in enumerate(examples):
        if not example.label:
            _, alone = scored(model, [example], NEEDS)
            n = len(example.completion)
            torch.testing.assert_close(found.conditions.judge[i, :n], alone.conditions.judge[0], atol=1e-5, rtol=0)
            assert (alone.conditions.judge - alone.conditions.base).abs().max() > 1e-3, "judge is base"


def test_a_batch_of_right_samples_alone_can_be_scored(model):
    """It still runs the pass without gradient, for which other ranks may be waiting."""
    right = [e for e in encoded() if e.label]
    features, found = scored(model, right[::-1], NEEDS)
    assert len(features["scored_input_ids"]) == 1
    assert torch.equal(found.conditions.judge, found.conditions.base)
    weights = cut_weights(found.conditions, PAPER)
    assert torch.equal(weights.likelihood, found.conditions.mask.float())


def test_its_settings_are_told_apart_from_every_other_schemes():
    """One command takes them all as flags, so no two schemes may use a name for different things."""
    ours = {f.name for f in fields(CutSettings)} - {f.name for f in fields(HoldSettings)}
    others = {f.name for s in usable_schemes().values() if s.settings is not CutSettings for f in fields(s.settings)}
    assert len(ours) == 3
    assert not ours & others


def test_tags_are_salient_or_plain():
    tags = cut_weights(random_batch(4), PAPER).tag
    assert set(tags.unique().tolist()) == {Tag.PLAIN, Tag.SALIENT}


def test_it_trains(tmp_path):
    from helpers.training import nlft_trainer

    trainer = nlft_trainer(tmp_path, saliency="cut", per_device_train_batch_size=1, gradient_accumulation_steps=3)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 8
    assert losses[-1] < losses[0]
