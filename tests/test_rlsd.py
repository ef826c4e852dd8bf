"""The `rlsd` scheme against its formula written out plainly, in value and gradient."""

from dataclasses import fields, replace
from math import exp, log, log1p

import pytest
import torch

from helpers import tiny
from helpers.tiny import encoded
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.logprobs import enable_scoring
from nlft.core.loss import sample_losses
from nlft.core.saliency import ConditionLogprobs, Tag
from nlft.core.schemes.registry import get_scheme, usable_schemes
from nlft.core.schemes.rlsd import RLSDSettings, rlsd_weights

PLAIN = RLSDSettings()
CONTRAST = replace(PLAIN, credit_contrast=True)
LENGTHS, LABELS = [40, 9, 25, 33], [False, True, True, False]


def random_batch(seed):
    numbers = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    base = torch.nn.functional.logsigmoid(2 * torch.randn(mask.shape, generator=numbers))
    # Within the clip as often as beyond it, on either side.
    standard, judge = ((base + 0.4 * torch.randn(mask.shape, generator=numbers)).clamp(max=0) for _ in range(2))
    return ConditionLogprobs(
        base=base * mask, standard=standard * mask, judge=judge * mask, mask=mask, label=torch.tensor(LABELS)
    )


def slow_weights(base, standard, judge, right, cfg):
    """(likelihood, unlikelihood) of one sample, from probabilities."""
    found = []
    for b, s, j in zip(base, standard, judge, strict=True):
        ratio = exp(s) / exp(b) if right else exp(j if cfg.credit_contrast else b) / exp(s)
        weight = min(max(ratio, 1 - cfg.credit_clip), 1 + cfg.credit_clip)
        found.append((weight, 0.0) if right else (0.0, cfg.wrong_weight * weight))
    return found


@pytest.mark.parametrize("cfg", [PLAIN, CONTRAST, RLSDSettings(1.0, False, 2.0), RLSDSettings(0.0, True, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_weights_and_gradient_equal_the_formula_written_out(seed, cfg):
    batch = random_batch(seed)
    weights = rlsd_weights(batch, cfg)
    logp = batch.base.double().clone().requires_grad_()
    log1mp = torch.log(-torch.expm1(logp.masked_fill(~batch.mask, -1)))
    sample_losses(weights, logp, log1mp).total.sum().backward()
    for i, n in enumerate(LENGTHS):
        rows = [getattr(batch, name)[i, :n].double().tolist() for name in ("base", "standard", "judge")]
        expected = torch.tensor(slow_weights(*rows, LABELS[i], cfg))
        torch.testing.assert_close(weights.likelihood[i, :n], expected[:, 0])
        torch.testing.assert_close(weights.unlikelihood[i, :n], expected[:, 1])
        p = batch.base[i, :n].double().exp()
        gradient = -expected[:, 0].double() + expected[:, 1].double() * p / (1 - p)  # d log(1-p) / d log p = -p/(1-p)
        torch.testing.assert_close(logp.grad[i, :n], gradient, rtol=1e-5, atol=1e-6)


def test_what_reaches_the_clip_is_salient_and_nothing_else():
    batch = random_batch(1)
    tags = rlsd_weights(batch, PLAIN).tag
    for i, n in enumerate(LENGTHS):
        agreed = (batch.standard - batch.base)[i, :n] * (1 if LABELS[i] else -1)
        assert tags[i, :n].tolist() == [Tag.SALIENT if e > log1p(0.2) else Tag.PLAIN for e in agreed.tolist()]
    assert 5 < (tags == Tag.SALIENT).sum() < 80


def test_the_contrast_cancels_what_both_hints_do_alike():
    batch = random_batch(2)
    shift = torch.full_like(batch.base, log(3)) * batch.mask  # both hints make the same tokens three times likelier
    alike = replace(batch, standard=batch.base - shift, judge=batch.base - shift)
    wrong = ~batch.label[:, None] & batch.mask
    assert torch.equal(rlsd_weights(alike, CONTRAST).unlikelihood[wrong], torch.full((73,), 0.1))
    assert rlsd_weights(alike, PLAIN).unlikelihood[wrong].min() > 0.11, "without it, style is blamed"


def test_padding_weighs_nothing_and_right_samples_need_no_judge():
    batch = random_batch(3)
    blank = replace(batch, judge=torch.where(batch.label[:, None], torch.nan, batch.judge))
    weights = rlsd_weights(blank, CONTRAST)
    for name in ("likelihood", "unlikelihood", "tag"):
        assert not getattr(weights, name)[~batch.mask].any(), name
    assert weights.likelihood.isfinite().all()
    assert not weights.gated.any()


@pytest.mark.parametrize(("settings", "rows"), [(PLAIN, 4), (CONTRAST, 6)])
def test_only_the_conditions_that_it_reads_are_scored(settings, rows):
    needs = get_scheme("rlsd").needs(settings)
    assert needs == {"standard"} | ({"judge"} if settings.credit_contrast else set())
    examples = encoded()
    assert [example.label for example in examples].count(False) == 2
    builder = BatchBuilder(tiny.tokenizer().pad_token_id, needs=needs)
    features = builder(examples)
    assert len(features["scored_input_ids"]) == rows
    net = tiny.model()
    enable_scoring(net)
    found = score_batch(net, builder.batch(features), needs).conditions
    assert (found.judge is not None) == settings.credit_contrast
    assert found.standard is not None
    assert rlsd_weights(replace(random_batch(4), judge=None), PLAIN).unlikelihood.any()


def test_its_settings_are_told_apart_from_every_other_schemes():
    ours = {f.name for f in fields(RLSDSettings)}
    others = {f.name for s in usable_schemes().values() if s.settings is not RLSDSettings for f in fields(s.settings)}
    assert not ours & others


@pytest.mark.parametrize("settings", [PLAIN, CONTRAST])
def test_it_trains(tmp_path, settings):
    from helpers.training import nlft_trainer

    trainer = nlft_trainer(tmp_path, saliency=settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) > 3
    assert losses[-1] < losses[0]
