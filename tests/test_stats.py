"""Intervals, differences and corrections, against scipy and statsmodels."""

import itertools

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import bootstrap, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from helpers import statistics_kept
from helpers.kept import changed
from nlft.results.components import components
from nlft.results.power import Variances, _factors, _pilots, _take, needed, power
from nlft.results.stats import (
    Difference,
    Interval,
    holm,
    paired_difference,
    paired_ratio,
    rate_per_token,
    seeded_difference,
    symmetric_p,
    tango,
    wilson,
)

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


def two_way(numbers):
    """Mean squares of a crossed layout, written out: of questions, of seeds, of the rest."""
    seeds, questions = numbers.shape
    mean = numbers.mean()
    rows, columns = numbers.mean(1), numbers.mean(0)
    of_questions = seeds * sum((column - mean) ** 2 for column in columns) / (questions - 1)
    of_seeds = questions * sum((row - mean) ** 2 for row in rows) / (seeds - 1)
    rest = sum(
        (numbers[s, q] - rows[s] - columns[q] + mean) ** 2 for s, q in itertools.product(range(seeds), range(questions))
    )
    return of_questions, of_seeds, rest / (seeds - 1) / (questions - 1)


@pytest.mark.parametrize("apart", [0.0, 0.3])
def test_the_difference_over_seeds_and_questions_is_the_analysis_of_variance_written_out(apart):
    shares = np.array([[0.5], [0.5 + apart], [0.5 - apart]])
    ours, theirs = RNG.random((3, 80)) < shares, RNG.random((3, 80)) < 0.35
    gaps = ours.astype(float) - theirs
    of_questions, _, noise = two_way(gaps)
    a, b = two_way(ours.astype(float))[1], two_way(theirs.astype(float))[1]
    above = of_questions + max(0.0, a + b - noise)
    of_seeds = min(4, max(2, 4 * (a + b) ** 2 / (a**2 + b**2) - 2))
    degrees = above * (of_questions + a + b) / (of_questions**2 / 79 + (a + b) ** 2 / of_seeds)
    half = t.ppf(0.975, min(max(degrees, 2), 83)) * np.sqrt(above / 240)
    found = seeded_difference(ours, theirs)
    assert (found.value, found.seeds) == (pytest.approx(gaps.mean()), 3)
    if found.p_value < 0.05:
        assert (found.low, found.high) == pytest.approx((gaps.mean() - half, gaps.mean() + half))
    else:
        assert found.high - found.low >= 2 * half - 1e-9


@pytest.mark.parametrize(("won", "lost", "n"), [(1, 0, 5), (3, 1, 10), (20, 11, 80), (0, 7, 7)])
def test_the_interval_of_one_seed_is_the_score_test_turned_round(won, lost, n):
    low, high = tango(won / n, lost / n, n)
    shares = np.linspace(0, 1, 100001)[1:-1]
    for at in (low, high):
        if abs(at) == 1:
            continue
        ours = shares + at
        allowed = (ours > 0) & (ours + shares < 1)
        logs = won * np.log(ours[allowed]) + lost * np.log(shares[allowed])
        logs += (n - won - lost) * np.log(1 - ours[allowed] - shares[allowed])
        best = shares[allowed][np.argmax(logs)]
        variance = (2 * best + at - at**2) / n
        assert abs(won - lost - n * at) / n / np.sqrt(variance) == pytest.approx(1.96, abs=0.02)


def test_an_interval_never_contradicts_its_p_value():
    for n, seeds in itertools.product((1, 2, 3, 5, 6, 10, 40), (1, 2, 3)):
        for won, lost in ((0, 0), (1, 0), (0, 1), (n, 0), (0, n), (n // 2, 0), (n // 2, n - n // 2)):
            ours = [[True] * won + [False] * (n - won)] * seeds
            theirs = [[False] * won + [True] * lost + [False] * (n - won - lost)]
            found = seeded_difference(ours, theirs, samples=999)
            assert -1 <= found.low <= found.value <= found.high <= 1
            assert found.low < found.high, "nothing is certain"
            assert (found.low <= 0 <= found.high) == (found.p_value >= 0.05), (n, seeds, won, lost)


def test_three_of_three_is_no_proof_and_ten_of_ten_no_certainty():
    three, ten = (seeded_difference([[True] * n], [[False] * n]) for n in (3, 10))
    assert (three.value, three.p_value) == (1.0, 0.25)
    assert three.low < 0
    assert 0.3 < ten.low < 0.7
    assert seeded_difference([[True] * 3] * 4, [[False] * 3]).low <= 0


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


def runs_of(rng, runs, seeds, questions, seed_sd, gap=0.0, prompted=False):
    """Verdicts (runs, seeds, questions) of two arms. Difficulty is shared; each seed of an arm has its own share.

    Args:
        prompted: the other arm has one row of verdicts, and no seeds.
    """
    easy = rng.normal(0, 1, (runs, 1, questions))

    def arm(share, rows, sd):
        shares = np.clip(share + sd * rng.normal(size=(runs, rows, 1)), 0.01, 0.99)
        return (rng.random((runs, rows, questions)) < ndtr(np.sqrt(2) * ndtri(shares) + easy)).astype(float)

    ours = arm(0.4 + gap, seeds, seed_sd)
    return ours, arm(0.4, 1, 0.0) if prompted else arm(0.4, seeds, seed_sd)


def test_components_of_many_comparisons_at_once_are_those_of_each():
    rng = np.random.default_rng(5)
    ours, theirs = rng.random((2, 6, 3, 4))  # as many comparisons as would fit a wrong axis
    together = components(ours, theirs)
    for place in range(6):
        alone = components(ours[place], theirs[place])
        assert together.of_units[place] == pytest.approx(alone.of_units)
        assert together.noise[place] == pytest.approx(alone.noise)
        assert [one[place] for one in together.of_seeds] == pytest.approx(alone.of_seeds)


def covered(seeds, questions, seed_sd, runs, prompted=False):
    """How often the interval holds the truth, and its width as a multiple of the ideal one's (known variance)."""
    rng, holds, widths, found = np.random.default_rng(1), [], [], []
    for _ in range(runs // 100):
        ours, theirs = runs_of(rng, 100, seeds, questions, seed_sd, prompted=prompted)
        margin, gap = components(ours, theirs).margin(), (ours - theirs).mean((1, 2))
        holds, widths, found = [*holds, *(abs(gap) <= margin)], [*widths, *margin], [*found, *gap]
    return np.mean(holds), np.mean(widths) / (1.96 * np.std(found))


ROWS = [(3, 200, 0.0), (3, 200, 0.017), (5, 200, 0.017), (3, 200, 0.034), (3, 1319, 0.017), (3, 1000, 0.034)]


@pytest.mark.parametrize(("seeds", "questions", "seed_sd"), [*ROWS[:4], (3, 600, 0.034)])
def test_the_interval_over_seeds_covers_what_it_says_at_little_more_than_the_ideal_width(seeds, questions, seed_sd):
    holds, width = covered(seeds, questions, seed_sd, 500)
    assert 0.92 <= holds <= 0.99
    assert width <= 1.45


@pytest.mark.long
@pytest.mark.parametrize(("seeds", "questions", "seed_sd"), [*ROWS, (3, 1000, 0.056), (5, 1000, 0.056)])
def test_the_interval_over_seeds_covers_what_it_says_in_many_runs(seeds, questions, seed_sd):
    holds, width = covered(seeds, questions, seed_sd, 4000)
    print(f"{seeds} seeds, {questions} questions, sd {seed_sd}: covers {holds:.1%} at {width:.2f} of the ideal width")
    assert 0.93 <= holds <= 0.98
    assert width <= (1.5 if (seeds, seed_sd) == (3, 0.056) else 1.35), "docs/COMPARE.md has the row that is wider"


@pytest.mark.long
@pytest.mark.parametrize(("seeds", "questions", "seed_sd"), [*ROWS, (3, 1000, 0.056), (5, 1000, 0.056)])
def test_the_interval_over_the_seeds_of_one_arm_alone_covers_in_many_runs(seeds, questions, seed_sd):
    holds, width = covered(seeds, questions, seed_sd, 4000, prompted=True)
    print(f"{seeds} seeds, {questions} questions, sd {seed_sd}: covers {holds:.1%} at {width:.2f} of the ideal width")
    assert 0.915 <= holds <= 0.985, "docs/COMPARE.md has the rows below 93"


@pytest.mark.parametrize("seed_sd", [0.0, 0.034])
def test_three_seeds_are_not_called_different_by_chance_more_often_than_promised(seed_sd):
    ours, theirs = runs_of(np.random.default_rng(4), 300, 3, 100, seed_sd)
    told = [seeded_difference(a, b, samples=999).p_value < 0.05 for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(told) < 0.08


def test_three_trainings_tell_more_than_one():
    ours, theirs = runs_of(np.random.default_rng(2), 60, 3, 200, 0.0, gap=0.07)
    pairs = list(zip(ours, theirs, strict=True))
    three = np.mean([(d := seeded_difference(a, b, samples=999)).high - d.low for a, b in pairs])
    one = np.mean([(d := seeded_difference(a[:1], b[:1])).high - d.low for a, b in pairs])
    assert three < 0.85 * one


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
    for _ in range(100):
        a, b = draw(rng, seeds, wanted.questions, hard)
        told += seeded_difference(a, b, samples=999).p_value < 0.05
    assert 0.68 < told / 100 < 0.95


def test_two_questions_do_where_they_show_the_difference():
    assert _take(Variances(of_units=1e-9, of_seeds=1e-9, noise=1e-9, arms=2), 3, 0.5, 0.05) == (2.0, 3)


def test_a_variance_of_two_units_is_used_and_of_one_or_of_equal_units_is_not():
    by_rule_of_three = (1.0, 1.0, 3.0)
    assert _factors(np.array([0.5])) == _factors(np.array([1.0, 1.0])) == by_rule_of_three
    low, middle, high = _factors(np.array([0.0, 1.0]))
    assert (low, middle) != by_rule_of_three[:2]
    assert low < middle < high
    assert low * high == pytest.approx(1)


@pytest.mark.parametrize(("seed_sd", "tests"), [(0.0, 1), (0.017, 1), (0.017, 7)])
def test_what_is_needed_of_seeds_that_differ_tells_the_difference_in_four_runs_of_five(seed_sd, tests):
    rng, gap = np.random.default_rng(0), 0.08
    ours, theirs = (one[0] for one in runs_of(rng, 1, 40, 4000, seed_sd, gap))
    take = needed(ours, theirs, gap, tests=tests).questions  # at 40 seeds, few questions do
    whole = Variances(**vars(_pilots(ours, theirs)[1]))
    questions, seeds = _take(whole, 3, gap, 0.05 / tests)
    assert take < questions
    ours, theirs = runs_of(rng, 600, seeds, int(questions), seed_sd, gap)
    parts, found = components(ours, theirs), (ours - theirs).mean((1, 2))
    told = np.mean(abs(found) > parts.margin(0.05 / tests))
    assert 0.75 < told < 0.86
    assert power(whole, questions, seeds, gap, 0.05 / tests) == pytest.approx(0.8, abs=0.01)


def test_the_range_of_what_is_needed_of_one_seed_covers_the_noise_of_the_pilot():
    rng, gap = np.random.default_rng(0), 0.08
    truth = needed(*(one[0] for one in runs_of(rng, 1, 1, 40000, 0.0, gap)), gap).questions
    pairs = zip(*runs_of(rng, 200, 1, 200, 0.0, gap), strict=True)
    found = [needed(a, b, gap) for a, b in pairs]
    assert 0.7 < np.mean([one.fewest <= truth <= one.most for one in found]) < 0.95  # 80 of 100 are wanted


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.017), (3, 0.0), (3, 0.034)])
def test_the_upper_end_of_what_is_needed_keeps_the_promise_for_nine_pilots_of_ten(seeds, seed_sd):
    rng, gap = np.random.default_rng(0), 0.08
    truth = _pilots(*(one[0] for one in runs_of(rng, 1, 40, 4000, seed_sd, gap)))[1]
    found = [needed(a, b, gap) for a, b in zip(*runs_of(rng, 60, seeds, 200, seed_sd, gap), strict=True)]
    kept = [power(truth, one.most, one.most_seeds or seeds, gap, 0.05) >= 0.79 for one in found]
    assert np.mean(kept) > 0.85
    assert all(one.seeds >= 3 for one in found if seeds == 2), "two seeds never show a difference"


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


def test_a_ratio_is_never_more_certain_than_its_draws():
    """Where every draw and every flip of signs agrees, the p-value is that of the one draw that was not made."""
    ours, theirs = np.full((1, 60), 5.0), np.full((1, 60), 1.0)
    for samples in (499, 1999):
        assert paired_ratio(ours, theirs, samples=samples).p_value == pytest.approx(2 / samples)


def test_the_interval_of_a_ratio_over_seeds_is_as_wide_below_as_above_in_logarithms():
    rng = np.random.default_rng(2)
    theirs = rng.uniform(1, 2, (3, 40))
    found = paired_ratio(2 * theirs * rng.uniform(0.9, 1.1, (3, 40)), theirs)
    assert found.p_value < 0.05
    assert 1 < found.low < found.value < found.high
    assert found.low * found.high == pytest.approx(found.value**2)


def test_a_ratio_over_seeds_is_that_of_each_replys_share_whatever_the_unit():
    rng = np.random.default_rng(4)
    ours, theirs = rng.uniform(0.5, 2, (3, 40)), rng.uniform(0.5, 2, (3, 40))
    one, other = paired_ratio(ours, theirs), paired_ratio(ours * 1000, theirs * 1000)
    assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))
    # Not told apart, so the interval holds 1, and no more than that is added to it.
    ours = theirs * rng.uniform(0.97, 1.06, (3, 40))
    found = paired_ratio(ours, theirs)
    assert found.p_value >= 0.05
    assert found.low <= 1 <= found.high < 1.1


def test_the_interval_of_a_rate_over_seeds_is_that_of_its_logarithm_and_zero_has_none():
    rng = np.random.default_rng(3)
    tokens = rng.integers(10, 40, (3, 30))
    found = rate_per_token(tokens * rng.uniform(0.05, 0.15, (3, 30)), tokens)
    assert 0 < found.low < found.value < found.high
    assert found.low * found.high == pytest.approx(found.value**2)
    assert rate_per_token(np.zeros((3, 30)), tokens) == Interval(0.0, 0.0, 0.0)


def test_the_interval_of_a_certain_difference_ends_at_one():
    for won, lost in ((1.0, 0.0), (0.0, 1.0)):
        low, high = tango(won, lost, 20)
        assert {low, high} & {won - lost}
        assert 0.6 < min(abs(low), abs(high)) < 1


def test_no_interval_and_no_p_value_has_changed_unseen():
    assert not changed(statistics_kept.found(), statistics_kept.KEPT)
