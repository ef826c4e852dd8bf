"""The `nlft` scheme against its formulas written out plainly, one token at a time."""

from dataclasses import fields, replace
from math import exp, inf, log, sqrt
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlft.config import Range
from nlft.core.hold import Role
from nlft.core.loss import Window, normalize, sample_losses
from nlft.core.neighbourhood import hidden_band, neighbourhood
from nlft.core.saliency import ConditionLogprobs, Tag
from nlft.core.schemes.nlft import NLFTSettings, nlft_weights, tag_mistakes
from nlft.core.schemes.registry import get_scheme
from nlft.core.schemes.uniform import UniformSettings, uniform_weights

PAPER = NLFTSettings()


def random_batch(seed, lengths, labels, hidden_size=6, sharp=2.0):
    numbers = torch.Generator().manual_seed(seed)
    width = max(lengths)
    shape = (len(lengths), width)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]

    def logp():
        return torch.nn.functional.logsigmoid(sharp * torch.randn(shape, generator=numbers)) * mask

    steps = torch.randn(*shape, hidden_size, generator=numbers)
    hidden = 2 * steps + 0.4 * steps.cumsum(1)  # some neighbours resemble each other
    standard, base, judge = logp(), logp(), logp()
    return ConditionLogprobs(
        base=base,
        mask=mask,
        label=torch.tensor(labels),
        standard=torch.where(torch.rand(shape, generator=numbers) < 0.2, standard / 100, standard),
        judge=judge,
        band=hidden_band(hidden, mask),
    )


def row(batch, i):
    """One sample alone, without its padding."""
    n = int(batch.mask[i].sum())
    part = {name: getattr(batch, name)[i : i + 1, :n] for name in ("base", "mask", "standard", "judge", "band")}
    return ConditionLogprobs(label=batch.label[i : i + 1], **part)


def slow_walk(salient, band, kappa):
    """The walk as the definition reads, on one sample; centre as an explicit list of weights."""
    n = len(salient)

    def inner(a, b):
        lag = abs(a - b)
        return float(band[min(a, b), lag]) if lag <= 16 else 0.0

    reached = list(salient)
    for start in range(n):
        if not salient[start]:
            continue
        for step in (-1, 1):
            centre = {start: 1.0}
            at = start + step
            while 0 <= at < n:
                dot = sum(w * inner(j, at) for j, w in centre.items())
                norm = sum(a * b * inner(i, j) for i, a in centre.items() for j, b in centre.items())
                if not (norm > 0 and inner(at, at) > 0 and dot > kappa * sqrt(norm * inner(at, at))):
                    break
                reached[at] = True
                centre = {j: w / 2 for j, w in centre.items()}
                centre[at] = centre.get(at, 0.0) + 0.5
                at += step
    return reached


def slow_weights(batch, cfg):
    """(likelihood, unlikelihood) of a batch of one, as the paper's equations read."""
    pb, pj, ps = (x[0].double().exp().tolist() for x in (batch.base, batch.judge, batch.standard))
    n = len(pb)
    right = bool(batch.label[0])
    if right:
        salient = [s > cfg.certain_threshold for s in ps]
    else:
        salient = [
            (j / b > cfg.mistake_ratio and j / s > cfg.mistake_ratio and j > cfg.mistake_floor)
            or (cfg.contradiction and b > cfg.contradiction_base and s < cfg.contradiction_standard)
            for b, j, s in zip(pb, pj, ps, strict=True)
        ]
    near = slow_walk(salient, batch.band[0].double().numpy(), cfg.neighbour_similarity)
    gated = sum(salient) / n > cfg.gate_fraction
    likelihood, unlikelihood = [0.0] * n, [0.0] * n
    for t in range(n):
        if right:
            limit = cfg.certain_threshold
            if salient[t]:
                weight = 1 + ((ps[t] - limit) / (1 - limit)) ** cfg.certain_exponent
            else:
                weight = (ps[t] / limit) ** (cfg.neighbour_exponent if near[t] else cfg.plain_exponent)
            likelihood[t] = cfg.branch_weight * weight + cfg.nll_weight
        elif salient[t]:
            ratio = max(pj[t] / pb[t], cfg.mistake_ratio)
            unlikelihood[t] = cfg.branch_weight * 2 / (1 + exp(-(ratio - cfg.unlikelihood_shift)))
        else:
            after = cfg.after_mistake == "zero" and any(salient[:t])
            weight = cfg.branch_weight * cfg.wrong_likelihood * sqrt(ps[t])
            likelihood[t] = 0.0 if gated or near[t] or after else weight
    return likelihood, unlikelihood


OPEN = replace(PAPER, gate_fraction=1.0)
VARIED = [
    replace(PAPER, certain_threshold=0.8),
    replace(PAPER, certain_exponent=2.0),
    replace(PAPER, neighbour_exponent=0.1),
    replace(PAPER, plain_exponent=1.2),
    replace(PAPER, nll_weight=0.25),
    replace(OPEN, neighbour_similarity=0.1),
    replace(OPEN, unlikelihood_shift=0.5),
    replace(OPEN, mistake_floor=0.4),
    replace(OPEN, mistake_ratio=3.0),
    replace(PAPER, gate_fraction=0.2),
]
CASES = [
    (seed, label, cfg)
    for seed in range(12)
    for label in (True, False)
    for cfg in (
        PAPER,
        OPEN,
        replace(OPEN, after_mistake="zero"),
        replace(OPEN, branch_weight=0.5, wrong_likelihood=0.3),
        replace(OPEN, contradiction=True, contradiction_standard=0.2),
        replace(PAPER, contradiction=True, contradiction_base=0.3, mistake_ratio=2.0),
        *VARIED,
    )
]


@pytest.mark.parametrize(("seed", "label", "cfg"), CASES)
def test_weights_equal_the_equations_written_out(seed, label, cfg):
    batch = random_batch(seed, [40], [label])
    weights = nlft_weights(batch, cfg)
    likelihood, unlikelihood = slow_weights(batch, cfg)
    torch.testing.assert_close(weights.likelihood[0], torch.tensor(likelihood), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(weights.unlikelihood[0], torch.tensor(unlikelihood), atol=1e-5, rtol=1e-5)


def test_the_cases_above_meet_every_kind_of_token():
    """A comparison over samples without mistakes or neighbours would compare little."""
    seen = dict.fromkeys([Tag.PLAIN, Tag.SALIENT, Tag.NEIGHBOUR, Tag.GATED], 0)
    for seed, label, cfg in CASES:
        for tag in nlft_weights(random_batch(seed, [40], [label]), cfg).tag.flatten().tolist():
            seen[Tag(tag)] += 1
    assert all(count > 50 for count in seen.values()), seen


@pytest.mark.parametrize("cfg", VARIED)
def test_every_setting_that_is_varied_alone_changes_a_weight_of_the_cases(cfg):
    """Otherwise a setting that nobody reads would pass the comparison above."""
    (name,) = {name for name in vars(cfg) if getattr(cfg, name) not in (getattr(PAPER, name), getattr(OPEN, name))}
    usual = replace(cfg, **{name: getattr(PAPER, name)})
    changed = 0
    for seed in range(12):
        for label in (True, False):
            ours, theirs = (nlft_weights(random_batch(seed, [40], [label]), one) for one in (cfg, usual))
            changed += int(not torch.allclose(ours.likelihood, theirs.likelihood))
            changed += int(not torch.allclose(ours.unlikelihood, theirs.unlikelihood))
    assert changed >= 3, name


@given(seed=st.integers(0, 10_000), kappa=st.floats(-0.5, 0.95), share=st.floats(0.02, 0.6))
@settings(max_examples=60, deadline=None)
def test_the_walk_equals_the_definition(seed, kappa, share):
    numbers = torch.Generator().manual_seed(seed)
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[1, 17:] = False
    hidden = torch.randn(2, 30, 4, generator=numbers).cumsum(1)
    band = hidden_band(hidden, mask)
    salient = (torch.rand(2, 30, generator=numbers) < share) & mask
    found = neighbourhood(salient, band, kappa)
    for i in range(2):
        n = int(mask[i].sum())
        expected = slow_walk(salient[i, :n].tolist(), band[i, :n].double().numpy(), kappa)
        assert found[i, :n].tolist() == expected
        assert not found[i, n:].any()


def test_the_band_holds_inner_products_to_float16():
    mask = torch.tensor([[True] * 20])
    hidden = torch.randn(1, 20, 64) * 30
    band = hidden_band(hidden, mask)[0].double()
    exact = hidden[0].double() @ hidden[0].double().T
    exact = exact / exact.diagonal().max()
    assert band.shape == (20, 17)
    for lag in range(17):
        expected = exact.diagonal(lag)
        np.testing.assert_allclose(band[: 20 - lag, lag], expected, atol=1e-3)
        assert (band[20 - lag :, lag] == 0).all()


def test_the_band_of_padding_is_zero():
    mask = torch.tensor([[True] * 3 + [False] * 2])
    band = hidden_band(torch.full((1, 5, 4), 2.0), mask)[0]
    expected = torch.zeros(5, 17)
    for token in range(3):
        expected[token, : 3 - token] = 1
    assert torch.equal(band.float(), expected)


def test_each_tag_and_each_role_has_a_number_of_its_own():
    for kind in (Tag, Role):
        assert sorted(kind.__members__.values()) == list(range(len(kind.__members__)))


def three_tokens(label, base, judge, standard):
    return ConditionLogprobs(
        base=torch.tensor([base]).log(),
        mask=torch.ones(1, 3, dtype=torch.bool),
        label=torch.tensor([label]),
        standard=torch.tensor([standard]).log(),
        judge=torch.tensor([judge]).log(),
        band=torch.zeros(1, 3, 17, dtype=torch.float16),
    )


def test_contradiction_tags_the_mistake_that_the_model_is_sure_of_and_the_judgment_cannot_show():
    """Seen on a real model: the '3' of "64 - 35 = 34" at .90 under base, .12 under judge, .00 under standard."""
    seen = {"base": [0.99, 0.90, 0.60], "judge": [0.99, 0.12, 0.95], "standard": [0.99, 0.001, 0.02]}
    sure = replace(PAPER, contradiction=True)
    plain, ours = (nlft_weights(three_tokens(False, **seen), cfg) for cfg in (PAPER, sure))
    assert plain.salient[0].tolist() == [False, False, True]
    assert ours.salient[0].tolist() == [False, True, True]
    # It weighs what a mistake at the threshold of the judgment's own does; the judgment's own keep their weight.
    assert ours.unlikelihood[0, 1].item() == pytest.approx(2 / (1 + exp(-(1.5 - 1.5))))
    assert ours.unlikelihood[0, 2].item() == pytest.approx(2 / (1 + exp(-(0.95 / 0.60 - 1.5))))
    assert ours.unlikelihood[0, 2] == plain.unlikelihood[0, 2]
    right = [nlft_weights(three_tokens(True, **seen), cfg) for cfg in (PAPER, sure)]
    assert torch.equal(right[0].likelihood, right[1].likelihood)
    assert not right[1].unlikelihood.any()


def test_the_floor_leaves_out_what_is_unlikely_under_judge_too_and_zero_leaves_out_nothing():
    seen = {"base": [1e-5, 1e-3, 0.1], "judge": [1e-3, 0.02, 0.9], "standard": [1e-5, 1e-3, 0.1]}
    for floor, expected in [(0.0, [True] * 3), (0.01, [False, True, True]), (0.05, [False, False, True])]:
        tagged = nlft_weights(three_tokens(False, **seen), replace(PAPER, mistake_floor=floor)).salient
        assert tagged[0].tolist() == expected, floor


LENGTHS, LABELS = [40, 9, 25, 33], [False, True, True, False]


def test_padding_never_changes_a_weight_and_a_mixed_batch_gives_each_what_it_gets_alone():
    cfg = replace(PAPER, contradiction=True, contradiction_standard=0.5)
    batch = random_batch(3, LENGTHS, LABELS)
    together = nlft_weights(batch, cfg)
    for i, n in enumerate(LENGTHS):
        alone = nlft_weights(row(batch, i), cfg)
        for name in ("likelihood", "unlikelihood", "tag"):
            assert torch.equal(getattr(together, name)[i, :n], getattr(alone, name)[0]), name
            assert not getattr(together, name)[i, n:].any(), "padding has a weight"
        assert bool(together.gated[i]) == bool(alone.gated[0])


def test_what_padding_holds_changes_nothing():
    """Values that would make a mistake, a contradiction and a certain token of each place."""
    cfg = replace(PAPER, contradiction=True)
    batch = random_batch(3, LENGTHS, LABELS)
    for base, standard, judge in [(-5.0, -5.0, -0.01), (-0.01, -5.0, -5.0), (-5.0, -0.001, -5.0)]:
        values = {"base": base, "standard": standard, "judge": judge}
        other = replace(batch, **{n: getattr(batch, n).masked_fill(~batch.mask, v) for n, v in values.items()})
        assert torch.equal(tag_mistakes(other, cfg), tag_mistakes(batch, cfg))
        for name in ("likelihood", "unlikelihood", "tag", "gated"):
            ours, theirs = (getattr(nlft_weights(one, cfg), name) for one in (other, batch))
            assert torch.equal(ours, theirs), name


def test_what_a_right_sample_holds_for_judge_changes_nothing():
    batch = random_batch(4, LENGTHS, LABELS)
    nonsense = torch.where(batch.label[:, None], torch.full_like(batch.judge, float("nan")), batch.judge)
    weights = nlft_weights(batch, PAPER)
    other = nlft_weights(replace(batch, judge=nonsense), PAPER)
    assert torch.equal(weights.likelihood, other.likelihood)
    assert torch.equal(weights.unlikelihood, other.unlikelihood)


def test_at_six_percent_exactly_the_rest_is_kept_and_above_it_is_gated():
    def weights(mistakes, width=50):
        lp = torch.full((1, width), log(0.3))
        judge = lp.clone()
        judge[0, :mistakes] = log(0.9)
        band = torch.zeros(1, width, 17, dtype=torch.float16)
        batch = ConditionLogprobs(
            base=lp, mask=torch.arange(width)[None] < 50, label=torch.tensor([False]),
            standard=lp, judge=judge, band=band,
        )  # fmt: skip
        return nlft_weights(batch, PAPER)

    assert not weights(3).gated.item()
    assert weights(3).likelihood[0, 3:].gt(0).all()
    for width in (50, 70, 100):  # 6% of the completion, and not of the row that holds it
        assert weights(4, width).gated.item()
        assert weights(4, width).likelihood.eq(0).all()


def test_the_branch_off_leaves_plain_likelihood_of_right_samples():
    batch = random_batch(5, LENGTHS, LABELS)
    weights = nlft_weights(batch, replace(PAPER, branch_weight=0.0))
    assert torch.equal(weights.likelihood, (batch.mask & batch.label[:, None]).float())
    assert not weights.unlikelihood.any()


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_weights_of_one_give_plain_cross_entropy(normalization):
    numbers = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 12, 50, generator=numbers, dtype=torch.float64)
    labels = torch.randint(0, 50, (3, 12), generator=numbers)
    mask = torch.arange(12) < torch.tensor([12, 5, 8])[:, None]
    logp = logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    batch = ConditionLogprobs(base=logp, mask=mask, label=torch.tensor([True, False, True]))
    losses = sample_losses(uniform_weights(batch, UniformSettings()), logp * mask, logp * 0)
    ours = normalize(losses.total, mask.sum(1), Window(3, 25), normalization)
    if normalization == "token":
        expected = torch.nn.functional.cross_entropy(logits[mask], labels[mask])
    else:
        rows = [torch.nn.functional.cross_entropy(logits[i][mask[i]], labels[i][mask[i]]) for i in range(3)]
        expected = torch.stack(rows).mean()
    assert abs(float(ours - expected)) < 1e-6


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_batch_8x1_and_1x8_reach_the_same_loss(normalization):
    batch = random_batch(6, [40, 9, 25, 33, 12, 7, 28, 31], [True, False] * 4)
    weights = nlft_weights(batch, PAPER)
    lengths = batch.mask.sum(1)
    losses = sample_losses(weights, batch.base, batch.base - 1).total
    window = Window(8, float(lengths.sum()))
    whole = normalize(losses, lengths, window, normalization)
    parts = sum(normalize(losses[i : i + 1], lengths[i : i + 1], window, normalization) for i in range(8))
    torch.testing.assert_close(whole, parts)


def values_of(kind, *, ends):
    """Other values of each setting: the ends of its range, or also values near its default."""
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        hint, usual = hints[one.name], one.default
        if hint is bool or get_origin(hint) is Literal:
            tried = [not usual] if hint is bool else get_args(hint)
        else:
            (limits,) = (x for x in get_args(hint) if isinstance(x, Range))
            tried = [limits.low, limits.high, *([] if ends else [usual / 2, usual * 2, usual + 1])]
            tried = [type(usual)(x) for x in tried if limits.low <= x <= limits.high and abs(x) < inf]
        yield one.name, [x for x in tried if x != usual]


# In these random samples, so many tokens are then mistakes or neighbours of one that nothing else has a weight.
CROWDED = {("mistake_ratio", 1.0), ("contradiction", True), ("gate_fraction", 0.0), ("neighbour_similarity", -1.0)}


@pytest.mark.parametrize("name", ["nlft", "cut", "rlsd"])
def test_a_setting_is_called_idle_if_and_only_if_it_changes_no_loss(name):
    """Beside the defaults, and beside each other setting at an end of its range."""
    scheme, tried = get_scheme(name), 0
    kind = scheme.settings
    batch = random_batch(0, [24] * 16, [at % 2 == 0 for at in range(16)], sharp=3.0)

    def loss(cfg):
        weights, extra = scheme.weigh(batch, cfg), scheme.extra_loss(cfg)
        # Without a mistake, `redirect` has a place in each sample, and all weigh 0.
        redirected = extra and name == "nlft" and tag_mistakes(batch, cfg).any()
        more = (extra.weight, cfg.redirect_tokens) if redirected else None
        return weights.likelihood, weights.unlikelihood, more, getattr(cfg, "hold_weight", 0)

    for other, ends in [("", [None]), *values_of(kind, ends=True)]:
        for end in ends:
            base = replace(kind(), **({other: end} if other else {}))
            usual = loss(base)
            for one, values in values_of(kind, ends=False):
                if one == other:
                    continue
                varied = [replace(base, **{one: value}) for value in values]
                changed = any(
                    not all(torch.equal(x, y) for x, y in zip(now[:2], usual[:2], strict=True)) or now[2:] != usual[2:]
                    for now in map(loss, varied)
                )
                idle = {one in scheme.idle(cfg) for cfg in varied}
                tried += 1
                if not changed and idle == {False}:
                    assert (other, end) in CROWDED, (other, end, one)
                else:
                    assert idle == {not changed}, (other, end, one)
    assert tried > 6
