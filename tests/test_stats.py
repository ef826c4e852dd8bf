"""Intervals, differences and corrections, against scipy and statsmodels."""

import itertools

import numpy as np
import pytest
from scipy.stats import bootstrap
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from nlft.results.stats import Difference, holm, needed, paired_difference, seeded_difference, symmetric_p, wilson

RNG = np.random.default_rng(5)


@pytest.mark.parametrize(("count", "n"), [(0, 10), (3, 10), (43, 200), (200, 200), (1, 1)])
def test_the_interval_of_a_share_is_wilsons(count, n):
    found = wilson(count, n)
    low, high = proportion_confint(count, n, method="wilson")
    assert found.value == count / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_corrected_p_values_are_holms(n, monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: 0)  # statsmodels does at each call: half a second after many tests
    for _ in range(20):
        values = RNG.random(n) ** 3
        assert holm(list(values)) == pytest.approx(multipletests(values, method="holm")[1])
    assert holm([]) == []


def test_the_difference_over_questions_is_scipys_bootstrap():
    ours, theirs = RNG.random(300) < 0.5, RNG.random(300) < 0.4
    found = paired_difference(list(ours), list(theirs))
    gaps = ours.astype(float) - theirs
    scipys = bootstrap((gaps,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1))
    assert found.value == pytest.approx(gaps.mean())
    assert found.low == pytest.approx(scipys.confidence_interval.low, abs=0.01)
    assert found.high == pytest.approx(scipys.confidence_interval.high, abs=0.01)


def test_the_difference_over_seeds_and_questions_is_the_two_fold_draw_written_out():
    ours, theirs = RNG.random((3, 80)) < 0.6, RNG.random((3, 80)) < 0.45
    gaps = ours.astype(float) - theirs
    rng = np.random.default_rng(2)
    means = []
    for _ in range(4000):
        seeds, questions = rng.integers(0, 3, 3), rng.integers(0, 80, 80)
        means.append(gaps[np.ix_(seeds, questions)].mean())
    found = seeded_difference(ours, theirs)
    assert found.value == pytest.approx(gaps.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.015)
    more = seeded_difference(np.repeat(ours, 8, axis=0), np.repeat(theirs, 8, axis=0))
    assert more.high - more.low < found.high - found.low, "more seeds leave less doubt"


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        found = seeded_difference([rng.random(120) < 0.5], [rng.random(120) < 0.4], samples=1999)
        covered += found.low <= 0.1 <= found.high
    assert 180 <= covered <= 199


@pytest.mark.parametrize("seeds", [1, 3])
def test_p_values_promise_no_more_than_they_keep_also_where_few_questions_differ(seeds):
    values = []
    for rng in map(np.random.default_rng, range(300)):
        differ = rng.random((seeds, 100)) < 0.08
        ours = rng.random((seeds, 100)) < 0.5
        values.append(seeded_difference(ours, ours ^ differ, samples=999).p_value)
    found = np.array(values)
    assert np.mean(found < 0.005) <= 0.01
    assert np.mean(found < 0.05) < 0.075
    assert 0.1 < np.mean(found < 0.5) < 0.57


@pytest.mark.parametrize(("won", "lost", "p_value"), [(4, 0, 0.125), (5, 0, 0.0625), (10, 1, 0.01171875)])
def test_the_p_value_of_one_seed_is_no_less_than_mcnemars(won, lost, p_value):
    ours = [True] * won + [False] * lost + [True] * 50
    theirs = [False] * won + [True] * lost + [True] * 50
    assert seeded_difference([ours], [theirs]).p_value == pytest.approx(p_value)


def test_the_p_value_of_several_seeds_is_that_of_all_turnings_written_out():
    gaps = np.array([[1, 1, 0, 1, -1, 0, 1], [1, 0, 0, 1, -1, 1, 1]])
    each = gaps.sum(0)
    turned = [abs(np.dot(signs, each)) for signs in itertools.product([-1, 1], repeat=7)]
    wanted = np.mean(np.array(turned) >= abs(each.sum()))
    assert symmetric_p(gaps, 9999, 0) == pytest.approx(wanted, abs=0.012)


def test_a_prompted_model_with_one_seed_stands_beside_each_of_the_others():
    ours = [[True, True, False, True], [True, False, False, True]]
    found = seeded_difference(ours, [[False, False, False, True]])
    assert found.value == pytest.approx((2 + 1) / 8)
    with pytest.raises(ValueError, match="cannot be paired"):
        seeded_difference(ours, [[True]])


def test_identical_verdicts_have_the_interval_of_the_rule_of_three():
    rows = [[True, False] * 150]
    assert seeded_difference(rows, rows) == Difference(0.0, -0.01, 0.01, 1.0)
    assert seeded_difference([[True]], [[True]]) == Difference(0.0, -1.0, 1.0, 1.0)


def test_the_interval_over_two_seeds_holds_for_seeds_that_differ():
    rng, missed, times = np.random.default_rng(0), 0, 100
    for _ in range(times):
        shares = rng.normal(0.4, 0.05, (2, 2, 1))
        ours, theirs = (rng.random((2, 200)) < share for share in shares)
        gap = seeded_difference(ours.tolist(), theirs.tolist(), samples=999)
        missed += not gap.low <= 0 <= gap.high
    assert missed <= 12  # 5 are wanted; without the widening it is about 15


def draw(rng, seeds, questions, hard):
    """Ours and theirs, 8 points apart; `hard`: how far questions differ in difficulty."""
    easy = rng.normal(0, hard, (1, questions))
    return tuple(easy + rng.normal(0, 1, (seeds, questions)) < at for at in (0.20, 0.0))


@pytest.mark.parametrize(("seeds", "hard"), [(1, 0), (3, 0), (3, 1)])
def test_what_is_needed_tells_the_difference_in_four_runs_of_five(seeds, hard):
    rng = np.random.default_rng(0)
    ours, theirs = draw(rng, seeds, 5000, hard)
    wanted = needed(ours, theirs, (ours.mean() - theirs.mean()))
    assert wanted.seeds is None
    told = 0
    for _ in range(60):
        a, b = draw(rng, seeds, wanted.questions, hard)
        told += seeded_difference(a, b, samples=999).p_value < 0.05
    assert 0.65 < told / 60 < 0.95


def test_half_the_difference_takes_four_times_the_questions_and_more_comparisons_more():
    ours, theirs = draw(np.random.default_rng(0), 1, 500, 0)
    wanted = needed(ours, theirs, 0.1)
    assert needed(ours, theirs, 0.05).questions == pytest.approx(4 * wanted.questions, rel=0.03)
    assert needed(ours, theirs, 0.1, tests=16).questions > 1.5 * wanted.questions


def test_where_seeds_are_what_differs_more_of_them_are_asked_for_and_not_ever_more_questions():
    rng = np.random.default_rng(1)
    asked = []
    for questions in (200, 2000, 20000):
        ours = np.stack([rng.random(questions) < share for share in (0.36, 0.50)])
        theirs = rng.random((1, questions)) < 0.40
        asked.append(needed(ours, theirs, 0.03))
    assert all(found.seeds > 20 for found in asked)
    assert max(found.questions for found in asked) < 2 * min(found.questions for found in asked)
