"""Intervals by item: against all draws and all signs written out, and the same as by question at one question each."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.proportion import proportion_confint

from nlft.data.records import Example, Question, read_questions, write_examples
from nlft.errors import UserError
from nlft.experiments import stages
from nlft.experiments.compare import Compare
from nlft.experiments.settings import CompareSettings
from nlft.results.clusters import Clusters, read_clusters
from nlft.results.comparison import Cells, contrasts, rate_of, verdict
from nlft.results.comparison_page import page
from nlft.results.comparison_report import comparison_report, contrast_lines, grid_of, verdict_sentence
from nlft.results.comparison_tables import grid_table
from nlft.results.components import by_unit
from nlft.results.front import ArmKL, kl_contrasts
from nlft.results.power import needed
from nlft.results.stats import (
    clustered_wilson,
    paired_ratio,
    rate_per_token,
    seeded_difference,
    symmetric_p,
    tango,
    wilson,
)

EXAMPLES = Path(__file__).parent.parent / "examples"
TITLES = {"base": "prompted base", "nlft": "NLFT"}
RESULT = {"train_seconds": 10.0, "peak_memory_bytes": 2**31, "num_tokens": 1000}


def by(*sizes):
    """Clusters of these sizes, with their questions mixed."""
    of = [f"item-{at}" for at, size in enumerate(sizes) for _ in range(size)]
    return Clusters("item", tuple(np.random.default_rng(0).permutation(of).tolist()))


def drawn_places(clusters):
    """The places of the questions in each draw of as many clusters as there are."""
    members = [[at for at, name in enumerate(clusters.of) if name == one] for one in dict.fromkeys(clusters.of)]
    for drawn in itertools.product(members, repeat=len(members)):
        yield [at for group in drawn for at in group]


def every_draw(each, clusters, seeds=1):
    """The numbers (seeds, questions) of each draw of clusters and seeds."""
    for rows in itertools.product(range(seeds), repeat=seeds):
        for places in drawn_places(clusters):
            yield each[np.ix_(rows, places)]


def test_the_interval_of_a_difference_is_tangos_for_the_effective_number_of_questions():
    clusters = by(*[8] * 30)
    items = np.array([int(name.split("-")[1]) for name in clusters.of])
    found = seeded_difference([items < 12], [items >= 26], clusters=clusters)
    # Each item's replies are alike: 30 independent items, of which a variance of 29 degrees of freedom is known.
    effective = 29 * 240 / 239 * (t.ppf(0.975, 239) / t.ppf(0.975, 29)) ** 2
    assert (found.low, found.high) == pytest.approx(tango(12 / 30, 4 / 30, effective))
    alone = seeded_difference([items < 12], [items >= 26])
    assert found.high - found.low > 2 * (alone.high - alone.low)
    won = seeded_difference([[True] * 240], [[False] * 240], clusters=clusters)
    assert won.low == pytest.approx(tango(1.0, 0.0, 30)[0]), "all replies alike are 30 pieces of evidence"


def test_the_interval_over_seeds_of_items_that_are_answered_alike_is_that_of_one_question_each():
    clusters, rng = Clusters("item", tuple(at // 4 for at in range(160))), np.random.default_rng(3)
    ours, theirs = rng.random((3, 40)) < 0.6, rng.random((3, 40)) < 0.4
    found = seeded_difference(np.repeat(ours, 4, 1), np.repeat(theirs, 4, 1), clusters=clusters)
    single = seeded_difference(ours, theirs)
    assert (found.low, found.high) == pytest.approx((single.low, single.high))
    assert found.p_value == pytest.approx(single.p_value)


@pytest.mark.parametrize("of", [(0, 0, 1, 1, 2, 2), (0, 1, 1, 1, 2, 2)])
def test_numbers_by_cluster_have_the_mean_over_questions_of_each_seed(of):
    each = np.random.default_rng(0).random((3, 6))
    units = by_unit(each, Clusters("item", of))
    assert units.shape == (3, 3)
    np.testing.assert_allclose(units.mean(1), each.mean(1))
    if of[1] == 0:
        np.testing.assert_allclose(units, each.reshape(3, 3, 2).mean(2))


def test_the_interval_over_seeds_holds_for_items_of_several_sizes():
    sizes = np.random.default_rng(0).integers(1, 12, 40)
    of = np.repeat(np.arange(40), sizes)
    clusters, missed = Clusters("item", tuple(of.tolist())), np.zeros(2)
    for rng in map(np.random.default_rng, range(200)):
        gaps = rng.normal(0, 0.2, 40)[of] + np.zeros((3, 1))
        ours, theirs = rng.random((3, len(of))) < 0.5 + gaps, rng.random((3, len(of))) < 0.5
        for at, by_item in enumerate((clusters, None)):
            found = seeded_difference(ours, theirs, clusters=by_item, samples=99)
            missed[at] += not found.low <= 0 <= found.high
    assert missed[0] <= 18  # 10 are wanted
    assert missed[1] > 20


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_of_one_seed_is_that_of_all_signs_of_clusters_written_out(seed):
    clusters = by(3, 2, 4, 1, 5, 2, 3, 4)
    gaps = np.random.default_rng(seed).integers(-1, 3, (1, 24)).clip(-1, 1)
    each = clusters.sums(gaps)[0]
    turned = [abs(np.dot(signs, each)) >= abs(each.sum()) for signs in itertools.product([-1, 1], repeat=8)]
    assert symmetric_p(gaps, 9999, 0, clusters) == pytest.approx(np.mean(turned), abs=1e-12)


def test_the_p_value_of_several_seeds_is_that_of_all_signs_of_clusters_written_out():
    clusters = by(3, 2, 4, 1, 5, 2, 3, 4)
    gaps = np.random.default_rng(7).integers(-1, 3, (2, 24)).clip(-1, 1)
    each = clusters.sums(gaps).sum(0)
    turned = [abs(np.dot(signs, each)) >= abs(each.sum()) for signs in itertools.product([-1, 1], repeat=8)]
    assert symmetric_p(gaps, 9999, 0, clusters) == pytest.approx(np.mean(turned), abs=0.012)


def test_eight_replies_about_each_of_five_items_are_no_forty_pieces_of_evidence():
    clusters = by(8, 8, 8, 8, 8)
    found = seeded_difference([[True] * 40], [[name != "item-0" for name in clusters.of]], clusters=clusters)
    assert found.p_value == 1.0, "one item decides"
    won = [name != "item-4" for name in clusters.of]
    assert seeded_difference([won], [[False] * 40], clusters=clusters).p_value == pytest.approx(2 / 16)
    assert seeded_difference([won], [[False] * 40]).p_value < 0.001


def test_differences_that_cancel_out_in_each_cluster_leave_the_rule_of_three_over_clusters():
    clusters = Clusters("item", tuple(at // 2 for at in range(40)))
    ours = [at % 2 == 0 for at in range(40)]
    found = seeded_difference([ours], [[not right for right in ours]], clusters=clusters)
    assert (found.value, found.low, found.high, found.p_value) == (0.0, -3 / 20, 3 / 20, 1.0)


def test_the_ratio_and_the_rate_of_kl_are_those_of_all_draws_of_clusters_written_out():
    clusters = by(1, 2, 4, 3)
    rng = np.random.default_rng(1)
    ours, theirs, tokens = rng.gamma(2, 1, (1, 10)), rng.gamma(2, 1, (1, 10)), rng.integers(5, 40, (1, 10))
    pairs = np.stack([ours[0], theirs[0], tokens[0]])
    draws = np.array([pairs[:, places].sum(1) for places in drawn_places(clusters)])
    ratio = paired_ratio(ours, theirs, clusters=clusters, samples=40000)
    per_token = rate_per_token(ours, tokens, clusters=clusters, samples=40000)
    for found, drawn in ((ratio, draws[:, 0] / draws[:, 1]), (per_token, draws[:, 0] / draws[:, 2])):
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)
    each = clusters.sums(ours - theirs)[0]
    turned = [abs(np.dot(signs, each)) >= abs(each.sum()) - 1e-12 for signs in itertools.product([-1, 1], repeat=4)]
    assert ratio.p_value >= np.mean(turned) - 0.01


@pytest.mark.parametrize("seeds", [1, 3])
def test_with_one_question_in_each_cluster_every_number_is_that_without_clusters(seeds):
    rng = np.random.default_rng(seeds)
    single = Clusters("item", tuple(f"item-{at}" for at in rng.permutation(60)))
    ours, theirs = rng.random((seeds, 60)) < 0.6, rng.random((seeds, 60)) < 0.4
    assert seeded_difference(ours, theirs, clusters=single) == seeded_difference(ours, theirs)
    assert seeded_difference(ours, ours, clusters=single) == seeded_difference(ours, ours)
    nats, other, tokens = rng.gamma(2, 1, (seeds, 60)), rng.gamma(2, 1, (seeds, 60)), rng.integers(5, 40, (seeds, 60))
    assert paired_ratio(nats, other, clusters=single) == paired_ratio(nats, other)
    assert rate_per_token(nats, tokens, clusters=single) == rate_per_token(nats, tokens)
    assert rate_of(ours.tolist(), single) == rate_of(ours.tolist())
    with_items, without = needed(ours, theirs, 0.05, clusters=single), needed(ours, theirs, 0.05)
    assert (with_items.questions, with_items.seeds) == (without.questions, without.seeds)
    assert clustered_wilson(ours[0].tolist(), single) == wilson(int(ours[0].sum()), 60)


def test_a_reply_without_tokens_widens_no_rate():
    found = rate_per_token([[0.2, 0.0, 0.4]], [[2, 0, 4]])
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert rate_per_token([[2.0, 1.0]], [[0, 10]]).high <= 1
    assert rate_per_token([[2.0]], [[0]]).high == 2


def test_the_interval_of_one_rate_is_wilsons_for_the_effective_number_of_questions():
    clusters = by(*[8] * 30)
    whole = [int(name.split("-")[1]) < 12 for name in clusters.of]
    found = clustered_wilson(whole, clusters)
    # Each item's replies are alike: 30 independent items, of which a variance of 29 degrees of freedom is known.
    effective = 29 * 240 / 239 * (t.ppf(0.975, 239) / t.ppf(0.975, 29)) ** 2
    assert (found.count, found.n) == (96, 240)
    assert (found.low, found.high) == pytest.approx(proportion_confint(0.4 * effective, effective, method="wilson"))
    none, many = clustered_wilson([False] * 240, clusters), wilson(0, 30)
    assert (none.low, none.high) == pytest.approx((many.low, many.high))
    alike = clustered_wilson([at % 2 == 0 for at in range(240)], Clusters("item", tuple(at // 8 for at in range(240))))
    alone = wilson(120, 240)
    assert (alike.low, alike.high) == pytest.approx((alone.low, alone.high)), "never narrower than by question"


def test_the_interval_of_one_rate_holds_for_items_that_differ_and_that_by_question_does_not():
    clusters, missed = Clusters("item", tuple(at // 8 for at in range(240))), np.zeros(2)
    for rng in map(np.random.default_rng, range(300)):
        right = (rng.random(240) < np.repeat(rng.beta(0.7, 1.3, 30), 8)).tolist()
        for at, found in enumerate((clustered_wilson(right, clusters), wilson(sum(right), 240))):
            missed[at] += not found.low <= 0.35 <= found.high
    assert missed[0] <= 24  # 15 are wanted
    assert missed[1] > 60


def test_what_is_needed_is_counted_in_items():
    rng, clusters = np.random.default_rng(0), Clusters("item", tuple(at // 8 for at in range(400)))
    gap = np.repeat(rng.random(50) < 0.3, 8)
    found, alone = needed([gap], [[False] * 400], 0.05, clusters=clusters), needed([gap], [[False] * 400], 0.05)
    assert found.questions == pytest.approx(8 * alone.questions, rel=0.05)
    assert found.clusters == math.ceil(found.questions / 8)


def questions(*items):
    return [Question(f"q{at}", "?", None, {} if item is None else {"item": item}) for at, item in enumerate(items)]


def test_a_question_without_the_field_is_refused_by_its_id():
    assert read_clusters(questions("a", "b", "a"), "item") == Clusters("item", ("a", "b", "a"))
    assert read_clusters(questions("a", None), None) is None
    assert read_clusters(questions(1, "1", 1.0, " 1", "1.5", 1.5, "A"), "item").count == 3, "1, 1.5 and A"
    with pytest.raises(UserError, match="'q1'"):
        read_clusters(questions("a", " ", "b"), "item")
    with pytest.raises(UserError, match=r"(?s)2 problems.*'q1'.*\"item\".*--cluster item.*Write it.*'q3'"):
        read_clusters(questions("a", None, "b", ["c"]), "item")
    with pytest.raises(UserError, match=r'--cluster item: all 2 questions have the item "a"'):
        read_clusters(questions("a", "a"), "item")


def test_the_items_of_the_example_are_thirty_of_eight():
    found = read_clusters(read_questions(EXAMPLES / "catalogue-test-240.jsonl", require_answer=False), "item")
    assert str(found) == "intervals by item (30 items)"
    assert {found.of.count(name) for name in found.of} == {8}


def grid(clusters):
    rng = np.random.default_rng(2)
    easy = np.repeat(rng.random(30), 8)
    rows = [[(rng.random(240) < share * easy).tolist() for _ in range(2)] for share in (0.6, 0.9)]
    kl = tuple(tuple((float(x), 20) for x in rng.gamma(2, 1, 64)) for _ in range(2))
    few = Clusters(clusters.field, clusters.of[:64]) if clusters else None
    return {
        ("base", 50): Cells(rows[0][:1], [RESULT], {}, clusters=clusters),
        ("nlft", 50): Cells(rows[1], [RESULT] * 2, {}, [0, 1], kl=kl, clusters=clusters, kl_clusters=few),
    }


def test_report_and_page_count_items_and_the_grid_is_read_back_with_them():
    clusters = Clusters("item", tuple(f"item {at // 8}" for at in range(240)))
    settings = {"model": "m", "settings": {"seeds": [0, 1]}}
    report, plain = (
        comparison_report(grid(given), [("nlft", "base")], TITLES, ["base"], settings) for given in (clusters, None)
    )
    stored = json.loads(json.dumps(report))
    assert "intervals by item (30 items)" in contrast_lines(stored)[-1]
    assert "intervals by item (30 items)" in page(stored)
    assert "by item" not in page(plain) + " ".join(contrast_lines(plain))
    again = grid_of(stored)
    assert (again["nlft", 50].clusters, again["nlft", 50].kl_clusters.of) == (clusters, clusters.of[:64])
    made = contrasts(again, [("nlft", "base")])
    assert vars(made[0].gap) == stored["contrasts"][0]["gap"]
    assert grid_table(again, TITLES).rows == grid_table(grid(clusters), TITLES).rows
    for one, other in zip(*([arm["share"] for arm in each["arms"]] for each in (report, plain)), strict=True):
        assert one["high"] - one["low"] > 1.1 * (other["high"] - other["low"])
    assert report["plane"][1]["kl"] != plain["plane"][1]["kl"]
    mine, other = again["nlft", 50].kl, tuple(row[::-1] for row in again["nlft", 50].kl)
    for groups in (again["nlft", 50].kl_clusters, None):
        (found,) = kl_contrasts({"a": ArmKL(mine, [0, 1], groups), "b": ArmKL(other, [0, 1], groups)})
        nats = [[[each for each, _ in row] for row in rows] for rows in (mine, other)]
        assert found.ratio == paired_ratio(*nats, clusters=groups)


def test_a_verdict_that_asks_for_more_asks_for_items():
    clusters = Clusters("item", tuple(at // 8 for at in range(80)))
    base, nlft = ([at // 8 in items for at in range(80)] for items in ((0, 1), (1, 2, 3, 4, 5)))
    cells = {
        ("base", 50): Cells([base], [RESULT], {}, clusters=clusters),
        ("nlft", 50): Cells([nlft], [RESULT], {}, [0], clusters=clusters),
    }
    decided = verdict(cells, contrasts(cells, [("nlft", "base")]), ["base"])
    assert (decided.kind, decided.cluster) == ("more_questions", "item")
    assert decided.needed.questions > 100
    need = f"about {decided.needed.questions}, on {decided.needed.clusters} items (you have 80)"
    assert need in verdict_sentence(decided, TITLES)
    assert f"{decided.needed.fewest} to {decided.needed.most} questions" in verdict_sentence(decided, TITLES)
    alone = {at: replace(one, clusters=None) for at, one in cells.items()}
    assert verdict(alone, contrasts(alone, [("nlft", "base")]), ["base"]).kind == "train", "by question it seems clear"


def planned(folder, file, **more):
    plan = {"sizes": [2], "seeds": [0, 1], "folds": 2, "arms": ["strike"], "cluster": "item", **more}
    return Compare(file, {"model_name_or_path": "m"}, CompareSettings(output_dir=str(folder), **plan))


def write_questions(path, rows):
    path.write_text("".join(json.dumps({"id": f"q{at}", **row}) + "\n" for at, row in enumerate(rows)))
    return path


def test_a_comparison_reads_the_clusters_of_its_folds_and_of_the_scored_replies(tmp_path, monkeypatch):
    rows = [{"prompt": f"{at} + 1?", "answer": f"#### {at + 1}", "item": f"item {at // 2}"} for at in range(10)]
    grid = planned(tmp_path / "out", write_questions(tmp_path / "given.jsonl", rows))
    grid.record_settings()
    stages.split_stage(grid.folder, grid.job(), hold_out=False)
    trained = [Example(f"q{at}", row["prompt"], "#### 9", True, row["answer"]) for at, row in enumerate(rows)]
    write_examples(grid.folder / "examples.jsonl", trained)
    grid._draw()
    item_of = {f"q{at}": row["item"] for at, row in enumerate(rows)}
    folds = [[item_of[question.id] for question in fold] for fold in grid.questions()]
    assert [list(one.of) for one in grid.clusters()] == folds
    assert [len(fold) for fold in folds] == [5, 5]

    def result(arm, size, seed, fold):
        if (arm, seed, fold) == ("strike", 1, 1):
            return SimpleNamespace(failed="it ended")
        kl = None if arm == "base" else ((0.5, 9), (0.2, 9), (0.1, 9))
        return SimpleNamespace(failed=None, took={}, right=[True] * 5, collateral=None, kl_each=kl)

    monkeypatch.setattr(grid, "result", result)
    found = grid.grid()
    assert found["strike", 2].clusters == found["base", 2].clusters == Clusters("item", (*folds[0], *folds[1]))
    assert found["strike", 2].kl_clusters == Clusters("item", (*folds[0][:3], *folds[1][:3]))
    assert found["base", 2].kl_clusters is None
    assert len(found["strike", 2].kl[0]) == 6


@pytest.mark.parametrize("given", ["questions", "examples"])
def test_a_comparison_refuses_questions_without_the_field_before_it_trains(tmp_path, given):
    row = {"answer": "#### 9", **({"completion": "#### 9", "label": True} if given == "examples" else {})}
    rows = [{"prompt": f"{at} + 1?", **row, **({"item": f"item {at}"} if at != 3 else {})} for at in range(6)]
    file = write_questions(tmp_path / "given.jsonl", rows)
    grid = planned(tmp_path / "out", file)
    with pytest.raises(UserError, match=r"question 'q3': has no text or number in the field \"item\""):
        stages.split_stage(grid.folder, grid.job(), hold_out=False)
    write_questions(file, [row for row in rows if "item" in row])
    stages.split_stage(grid.folder, grid.job(), hold_out=False)
    assert [question.extra["item"] for question in stages.read_test(grid.folder)][3] == "item 4"


def test_a_result_can_get_a_cluster_later_and_says_so_and_keeps_it(tmp_path):
    rows = [{"prompt": f"{at} + 1?", "answer": "#### 9", "item": f"item {at}"} for at in range(6)]
    file = write_questions(tmp_path / "given.jsonl", rows)

    def again(cluster):
        grid = planned(tmp_path / "out", file, cluster=cluster)
        grid.record_settings()
        grid._refuse_less()
        return grid._grown()

    assert again(None) == {}
    assert again("item") == {"cluster": ["item"]}
    with pytest.raises(UserError, match=r"\(cluster item\)"):
        again(None)
