"""Violations and KL together: the statistics, the arms that none beats, the words, the table and the chart."""

import json
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap

from nlft.results.chart_marks import look
from nlft.results.collateral import Breach
from nlft.results.comparison import Cells, contrasts, verdict
from nlft.results.comparison_page import page
from nlft.results.comparison_plane import plane, plane_table
from nlft.results.comparison_report import comparison_report, grid_of
from nlft.results.curves import CurvePoint
from nlft.results.front import ArmKL, front, kl_contrasts
from nlft.results.plane_chart import plane_chart
from nlft.results.stats import paired_ratio, rate_per_token

TITLES = {"base": "prompted base", "rule": "the rule", "strike": "strike and hold", "sft": "SFT", "kto": "KTO"}
PROMPTED = ("base", "rule")


def nats(mean, replies=40, seed=0):
    return np.random.default_rng(seed).gamma(2.0, mean / 2, replies)


def test_the_interval_of_kl_over_replies_is_scipys_bootstrap():
    above, tokens = nats(0.5), np.random.default_rng(1).integers(5, 40, 40)
    found = rate_per_token([above], [tokens])
    drawn = bootstrap(
        (above, tokens),
        lambda a, t, axis: a.sum(axis) / t.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.value == pytest.approx(above.sum() / tokens.sum())
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), rel=0.03)


def test_the_ratio_of_two_kls_is_scipys_bootstrap_and_flips_are_those_written_out():
    ours, theirs = nats(0.5, 12), nats(0.5, 12) + np.linspace(-0.1, 0.25, 12)
    found = paired_ratio([ours], [theirs])
    drawn = bootstrap(
        (ours, theirs),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert found.value == pytest.approx(ours.sum() / theirs.sum())
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), rel=0.03)
    gaps = ours - theirs
    beyond = [abs(np.dot(signs, gaps)) >= abs(gaps.sum()) - 1e-12 for signs in product((-1, 1), repeat=12)]
    assert found.p_value == pytest.approx(np.mean(beyond), abs=0.01)
    assert 0.005 < found.p_value < 0.05


def test_equal_kls_are_not_told_apart_and_seeds_count():
    same = nats(0.5)
    assert paired_ratio([same], [same]).p_value == 1.0
    assert paired_ratio([same], [2 * same]).value == pytest.approx(0.5)
    ours = np.array([nats(0.1, seed=1), nats(0.9, seed=2)])
    theirs = np.array([nats(0.6, seed=3), nats(0.6, seed=4)])
    alone = paired_ratio(ours.mean(0, keepdims=True), theirs.mean(0, keepdims=True))
    both = paired_ratio(ours, theirs)
    assert both.high - both.low > 2 * (alone.high - alone.low), "seeds that differ widen the interval"


def test_kl_is_compared_on_common_seeds_and_corrected_for_all_pairs():
    measured = {
        "a": ArmKL(rows(0.1, seeds=2), [0, 1]),
        "b": ArmKL(rows(0.2, seeds=1, seed=7), [1]),
        "c": ArmKL(rows(0.2, seeds=1, seed=8), [2]),
        "d": ArmKL(rows(0.11, seeds=2, seed=9), [0, 1]),
    }
    made = {(one.ours, one.theirs): one for one in kl_contrasts(measured)}
    assert set(made) == {("a", "b"), ("a", "d"), ("b", "d")}, "c shares no seed with any"
    a, b = (measured[arm].nats([1]) for arm in "ab")
    assert made["a", "b"].ratio.value == pytest.approx(np.sum(a) / np.sum(b))
    assert made["a", "b"].corrected >= made["a", "b"].ratio.p_value


# The front


def rows(mean, seeds=1, replies=40, seed=0):
    return tuple(tuple((float(x), 10) for x in nats(10 * mean, replies, seed + 50 * s)) for s in range(seeds))


def measured(**kl):
    return {arm: ArmKL(rows(mean, seed=at), [0]) for at, (arm, mean) in enumerate(kl.items())}


def test_an_arm_is_beaten_by_one_that_is_better_in_one_and_not_worse_in_the_other():
    fewer = {("strike", "base"), ("sft", "base"), ("best", "base"), ("best", "strike"), ("best", "sft")}
    fewer |= {(arm, "idle") for arm in ("strike", "sft", "best")}
    kl = measured(strike=0.01, sft=0.5, best=0.5, idle=0.01)
    found = front(["base"], kl, lambda a, b: (a, b) in fewer, ["old"])
    assert found.arms == ("base", "strike", "best")
    assert found.beaten == {"sft": ("strike", "best"), "idle": ("base", "strike")}
    assert found.unmeasured == ("old",)


def test_a_prompt_with_fewer_violations_beats_the_base_and_every_arm_without_fewer():
    found = front(["base", "rule"], measured(sft=0.1), lambda a, b: (a, b) == ("rule", "base"))
    assert found.arms == ("rule",)
    assert found.beaten == {"base": ("rule",), "sft": ("base", "rule")}
    still = front(["base"], {"none": ArmKL((((0.0, 5),),), [0])}, lambda a, b: False)
    assert still.arms == ("base", "none"), "an arm that changed nothing has no KL"


def arm(right, kl=None, *, of=100, curve=(), chosen=None, broken=(), seeds=(0,)):
    verdicts = [[(n * 37) % of < right for n in range(of)] for _ in seeds]
    form = {"words": 5.0, "ends": 1.0, "repetition": 0.0, "kl_elsewhere": 0.001, "kl_elsewhere_tokens": 5}
    points = [CurvePoint(at, r, of, kl=k, kl_tokens=400, **form).as_json() for at, r, k in curve]
    more = {} if chosen is None else {"chosen_step": chosen}
    results = [{"train_seconds": 1.0, "peak_memory_bytes": 1, "num_tokens": 1, "steps": 9, "curve": points, **more}]
    each = None if kl is None else rows(kl, len(seeds))
    return Cells(verdicts, results * len(seeds), {}, list(seeds), False, None, broken, each)


def compared(**arms):
    grid = {("base", 5): Cells([[(n * 37) % 100 < 20 for n in range(100)]], [], {})}
    grid |= {(name, 5): cells for name, cells in arms.items()}
    about = {"model": "m", "settings": {"seeds": [0], "grader": "checks"}}
    return grid, comparison_report(grid, [("strike", "base")], TITLES, PROMPTED, about)


STRIKE = arm(80, 0.01, curve=[(6, 50, 0.004), (12, 80, 0.01)], chosen=12)
SFT = arm(84, 0.5, curve=[(6, 60, 0.2), (12, 84, 0.5)], chosen=12)


def test_the_verdict_recommends_an_arm_of_the_front_and_says_who_beats_the_others():
    _, report = compared(strike=STRIKE, sft=SFT, kto=arm(25, 0.3, curve=[(12, 25, 0.3)]))
    decided = json.loads(json.dumps(report["verdict_data"]))
    assert (decided["kind"], decided["best"]) == ("train", "strike"), "SFT is better by 4 points, and that is chance"
    assert decided["front"]["arms"] == ["base", "strike"]
    assert decided["front"]["beaten"]["sft"] == ["strike"]
    assert set(decided["front"]["beaten"]["kto"]) == {"base", "strike"}
    assert decided["rivals"] == []
    first, *others, last = report["both"]
    assert "prompted base (80.0%, KL 0), strike and hold (20.0%, KL 0.0" in first
    assert "step 12" in first
    assert any("strike and hold" in line and "SFT (16.0%, KL 0." in line for line in others)
    assert any("prompted base" in line and "KTO (75.0%" in line for line in others)
    assert "every other method" not in report["verdict"]
    # At 20% violations SFT is 20/24 on the way from step 6 (0.2) to step 12 (0.5).
    (sft, kto) = report["equal_violation"]["others"]
    mine = next(row for row in report["plane"] if row["arm"] == "strike")["kl"]["value"]
    assert (sft["arm"], sft["kl"], sft["ratio"]) == ("sft", pytest.approx(0.45), pytest.approx(0.45 / mine))
    assert kto == {"arm": "kto", "kl": None, "ratio": None}
    assert f"SFT {0.45 / mine:.2g} times (0.45)" in last
    assert "20.0%" in last
    assert "KTO" in last


def test_without_the_front_the_most_right_answers_decide_as_before():
    grid, _ = compared(strike=arm(80), sft=arm(84))
    decided = verdict(grid, contrasts(grid, [("strike", "base")]), PROMPTED)
    assert (decided.front, decided.best, decided.rivals) == (None, "sft", ("strike",))
    assert compared(strike=arm(80))[1].keys() & {"plane", "both", "equal_violation"} == set()


def test_an_arm_out_of_bounds_neither_wins_nor_beats():
    breach = Breach("max_length_change", "keep", "mean length 10 → 5 words", 0.1)
    _, report = compared(strike=arm(80, 0.01, broken=(breach,)), sft=SFT)
    decided = report["verdict_data"]
    assert (decided["kind"], decided["best"], list(decided["excluded"])) == ("train", "sft", ["strike"])
    assert decided["front"]["arms"] == ("base", "sft")
    assert not decided["front"]["beaten"]
    _, alone = compared(strike=arm(80, 0.01, broken=(breach,)))
    assert alone["verdict_data"]["kind"] == "out_of_bounds"
    assert alone["verdict_data"]["front"]["arms"] == ("base",)
    assert [row["arm"] for row in alone["plane"]] == ["base", "strike"], "its numbers are shown all the same"


def test_where_prompts_beat_every_trained_arm_none_is_recommended():
    _, report = compared(rule=arm(60), strike=arm(21, 0.01), sft=arm(22, 0.5))
    assert report["verdict_data"]["front"]["arms"] == ("rule",)
    assert report["verdict_data"]["kind"] == "do_not_train"


def test_an_arm_without_a_kl_of_each_reply_is_named():
    _, report = compared(strike=STRIKE, sft=arm(84))
    assert report["verdict_data"]["front"]["unmeasured"] == ("sft",)
    assert any("SFT" in line for line in report["both"])
    row = next(row for row in report["plane"] if row["arm"] == "sft")
    assert row["kl"] is None


def test_the_report_keeps_kl_and_the_same_numbers_stand_in_table_and_page():
    grid, report = compared(rule=arm(30), strike=STRIKE, sft=SFT)
    read = json.loads(json.dumps(report))
    assert grid_of(read) == grid
    shown = plane_table(read["plane"], TITLES)
    assert [row[0] for row in shown.rows] == ["prompted base", "the rule", "strike and hold", "SFT"]
    strike = shown.rows[2]
    assert strike[shown.head.index("violations [95%]")].startswith("20.0% [")
    assert "12: 20%, 0.01" in strike[-1]
    assert "12" in strike[shown.head.index("chosen step")]
    assert shown.rows[0][shown.head.index("KL [95%]")] == "0"
    made = page(read, links=[("Audit", "audit.html")], runs=["runs/<b>"])
    assert '<a href="audit.html">Audit</a>' in made
    assert "nlft map runs/&lt;b&gt;" in made
    assert "share of replies that break a check" in made
    for row in shown.rows:
        assert all(f"<td>{cell}</td>" in made for cell in row[1:])
    assert report["both"][0].split(" (")[0] in made


def test_the_chart_has_zero_at_the_left_and_a_line_along_the_steps():
    grid, _ = compared(strike=STRIKE, sft=SFT)
    chart = plane_chart(plane(grid, PROMPTED), TITLES, "y")
    base, strike, sft = chart["arms"]
    assert float(base["x"]) < chart["break"] < float(strike["x"]) < float(sft["x"])
    assert float(base["y"]) < float(strike["y"]), "fewer violations are lower"
    assert float(strike["left"]) < float(strike["x"]) < float(strike["right"])
    assert float(strike["high"]) < float(strike["y"]) < float(strike["low"])
    ticks = {tick["text"]: float(tick["x"]) for tick in chart["ticks"]}
    assert ticks["0.1"] - ticks["0.01"] == pytest.approx(ticks["1"] - ticks["0.1"], abs=0.2)
    first, last = (float(step["x"]) for step in sft["steps"])
    assert (last - first) / (ticks["1"] - ticks["0.1"]) == pytest.approx(np.log10(2.5), abs=0.01)
    assert sft["line"].count(",") == 2
    assert (strike["look"], sft["look"]) == (look(2), look(3)), "as in the other chart, whatever has no KL"
    assert plane_chart(plane({("base", 5): grid["base", 5]}, PROMPTED), TITLES, "y") is None
