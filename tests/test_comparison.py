"""What a comparison makes of a grid of verdicts, here made up: contrasts, verdict, table, page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from nlft.experiments.arms import BUILT_IN
from nlft.results.collateral import Breach
from nlft.results.comparison import Cells, Contrast, VerdictKind, contrasts, rate_of, unmade, verdict
from nlft.results.comparison_page import page
from nlft.results.comparison_report import comparison_report, contrast_lines, grid_of, read_report, verdict_sentence
from nlft.results.comparison_tables import arms_table, costs, grid_table
from nlft.results.stats import Difference, wilson
from nlft.runs import card_results

TITLES = {name: arm.title for name, arm in BUILT_IN.items()}
PROMPTED = ("base", "few-shot")
RESULT = {"train_seconds": 10.0, "peak_memory_bytes": 2**31, "num_tokens": 1000}


def cells(share: float, seeds: int = 2, questions: int = 200, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    rows = [[bool(x) for x in rng.permutation(np.arange(questions) < share * questions)] for _ in range(seeds)]
    return Cells(rows, [RESULT] * seeds, {})


def test_a_prompt_that_is_out_of_bounds_is_no_rival():
    """Replies that copy an example of the prompt break no rule, and are no use either."""
    grid = {("base", 50): cells(0.3, 1), ("few-shot", 50): cells(1.0, 3), ("nlft", 50): cells(0.8, 3, seed=2)}
    made = contrasts(grid, [("nlft", "base")])
    assert verdict(grid, made, PROMPTED).prompt == "few-shot"
    spoilt = Breach("max_length_change", "task", "mean length 20 → 30 words", 0.1)
    grid["few-shot", 50] = replace(grid["few-shot", 50], broken=(spoilt,))
    decided = verdict(grid, made, PROMPTED)
    assert (decided.kind, decided.best, decided.prompt) == ("train", "nlft", "base")
    assert decided.excluded == {"few-shot": (spoilt,)}


def test_a_method_that_beats_prompting_is_recommended_with_its_gap():
    grid = {("base", 50): cells(0.1, 1), ("sft-answer", 50): cells(0.6, 3, seed=1)}
    grid["nlft", 50] = cells(0.3, 3, seed=2)
    found = contrasts(grid, [("nlft", "base"), ("nlft", "sft-answer")])
    decided = verdict(grid, found, PROMPTED)
    assert (decided.kind, decided.best, decided.prompt, decided.planned) == ("train", "sft-answer", "base", False)
    assert decided.rates["sft-answer"].value == pytest.approx(0.6)
    assert decided.gap.value == pytest.approx(0.5)
    assert decided.rivals == decided.better == decided.missing == ()
    said = verdict_sentence(decided, TITLES)
    for named in ("SFT on answers", "60.0%", "+50.0 points", "prompted base"):
        assert named in said


def test_the_verdict_is_of_the_largest_size():
    grid = {("base", size): cells(0.1, 1) for size in (50, 200)}
    grid |= {("nlft", 50): cells(0.9, 3, seed=1), ("kto", 50): cells(0.2, 3, seed=2)}
    grid |= {("nlft", 200): cells(0.3, 3, seed=3), ("kto", 200): cells(0.8, 3, seed=4)}
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert decided.best == "kto"
    assert decided.rates["kto"].value == pytest.approx(0.8)


def test_bounds_that_count_are_those_of_the_largest_size():
    spoilt = Breach("max_ends_fall", "task", "replies that end by themselves 98% → 40%", 0.1)
    grid = {("base", size): cells(0.1, 1) for size in (50, 200)}
    grid |= {("nlft", 50): replace(cells(0.9, 3, seed=1), broken=(spoilt,)), ("nlft", 200): cells(0.9, 3, seed=3)}
    grid |= {("kto", 50): cells(0.8, 3, seed=2), ("kto", 200): replace(cells(0.95, 3, seed=4), broken=(spoilt,))}
    decided = verdict(grid, contrasts(grid, [("nlft", "base"), ("kto", "base")]), PROMPTED)
    assert decided.best == "nlft"
    assert decided.excluded == {"kto": (spoilt,)}


def test_the_strongest_prompt_is_the_rival():
    grid = {("base", 50): cells(0.2, 1), ("few-shot", 50): cells(0.6, 3, seed=3), ("nlft", 50): cells(0.8, 3, seed=1)}
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert decided.prompt == "few-shot"
    assert decided.gap.value == pytest.approx(0.2)


def test_a_seed_is_paired_with_itself_wherever_it_stands():
    first, second = cells(0.5, seeds=2, seed=1).verdicts
    ours, theirs = Cells([first, second], [], {}, [3, 8]), Cells([second, first], [], {}, [8, 3])
    (contrast,) = contrasts({("nlft", 50): ours, ("kto", 50): theirs}, [("nlft", "kto")])
    assert (contrast.wins, contrast.losses) == (0, 0)


def test_prompting_wins_where_nothing_beats_it():
    grid = {("base", 50): cells(0.7, 1), ("few-shot", 50): cells(0.5, seed=3), ("nlft", 50): cells(0.4, seed=1)}
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert (decided.kind, decided.best, decided.prompt) == ("do_not_train", "nlft", "base")
    assert f"{TITLES['base']}, 70.0%" in verdict_sentence(decided, TITLES)


def test_nothing_is_significant_on_two_seeds_and_the_verdict_asks_for_a_third():
    for seeds, kind in ((1, "train"), (2, "more_seeds"), (3, "train")):
        ours = cells(0.6, seeds, seed=1)
        grid = {
            ("base", 50): cells(0.1, 1),
            ("nlft", 50): Cells(ours.verdicts, ours.results, {}, list(range(seeds))),
            ("kto", 50): Cells(cells(0.2, seeds, seed=4).verdicts, ours.results, {}, list(range(seeds))),
        }
        made = contrasts(grid, [("nlft", "base"), ("nlft", "kto")])
        decided = verdict(grid, made, PROMPTED)
        assert [one.significant for one in made] == [seeds != 2] * 2
        assert (decided.kind, decided.gap.seeds) == (kind, seeds)
        assert (decided.needed is None) == (seeds != 2)
    cut = {at: replace(one, verdicts=one.verdicts[:2], seeds=one.seeds and one.seeds[:2]) for at, one in grid.items()}
    two = verdict(cut, [], PROMPTED)
    assert two.needed.seeds == 3
    assert "2 seeds" in verdict_sentence(two, TITLES)
    assert "3 seeds (you have 2)" in verdict_sentence(two, TITLES)


def test_a_seed_that_failed_leaves_what_the_other_seeds_can_tell():
    base, three = cells(0.1, 1), cells(0.6, 3, seed=1)
    for left in (1, 2):
        grid = {("base", 50): base, ("nlft", 50): Cells(three.verdicts[:left], [], {9: "no memory"}, [*range(left)])}
        (made,) = contrasts(grid, [("nlft", "base")])
        assert (made.gap.seeds, made.significant) == (left, left == 1)


def test_an_interval_of_one_seed_reads_of_this_one_training_in_tables_page_and_verdict():
    def said(seeds):
        ours = Cells(cells(0.6, seeds, seed=1).verdicts, [RESULT] * seeds, {}, list(range(seeds)))
        grid = {("base", 50): cells(0.1, 1), ("nlft", 50): ours}
        about = {"model": "m", "settings": {"seeds": list(range(seeds))}}
        report = json.loads(json.dumps(comparison_report(grid, [("nlft", "base")], TITLES, PROMPTED, about)))
        base, nlft = grid_table(grid, TITLES).rows
        assert not re.search("training|seeds", base[1]), "the base is not trained"
        return [nlft[1], contrast_lines(report)[0], report["verdict"], *re.findall("<td>[^<]*</td>", page(report))]

    one, two, three = said(1), said(2), said(3)
    for texts, note in ((one, "of this one training"), (two, "on 2 seeds"), (three, "on 3 seeds")):
        assert all(note in text for text in texts[:3])
        assert sum(note in cell for cell in texts[3:]) == 2, "the rate and the difference"
    assert not any("one training" in text for text in [*two, *three])


def test_too_few_questions_are_called_too_few_and_how_many_it_takes():
    grid = {("base", 50): cells(0.4, 1, 20), ("nlft", 50): cells(0.5, 1, 20, seed=1)}
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert (decided.kind, decided.questions) == ("more_questions", 20)
    assert 100 < decided.needed.questions < 2000
    assert decided.needed.fewest < decided.needed.questions < decided.needed.most
    said = verdict_sentence(decided, TITLES)
    for named in (decided.needed.questions, decided.needed.fewest, decided.needed.most, 20):
        assert str(named) in said


def test_where_there_are_questions_enough_no_more_are_asked_for():
    rng = np.random.default_rng(0)
    base = rng.random(6000) < 0.4
    ours = base ^ (rng.random(6000) < 0.1)
    grid = {("base", 50): Cells([base.tolist()], [], {}), ("nlft", 50): Cells([ours.tolist()], [], {}, [0])}
    close = Contrast(50, "nlft", "base", Difference(0.005, -0.011, 0.021, 0.5), 1.0, 330, 300)
    decided = verdict(grid, [close], PROMPTED)
    assert (decided.kind, decided.gap, decided.questions) == ("too_close", close.gap, 6000)
    assert decided.worthwhile == pytest.approx(0.03)
    assert decided.needed.questions <= 6000
    said = verdict_sentence(decided, TITLES)
    for named in ("NLFT", "+0.5 points", "6000", "3.0 points"):
        assert named in said


def test_where_seeds_differ_more_of_them_are_asked_for():
    rng = np.random.default_rng(0)
    ours = [(rng.random(2000) < share).tolist() for share in (0.36, 0.50)]
    grid = {("base", 50): cells(0.4, 1, 2000), ("nlft", 50): Cells(ours, [], {}, [0, 1])}
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert (decided.kind, decided.seeds, decided.questions) == ("more_seeds", 2, 2000)
    assert decided.needed.seeds > 2
    said = verdict_sentence(decided, TITLES)
    assert f"{decided.needed.seeds} seeds" in said
    assert f"{max(decided.needed.questions, 2000)} test questions" in said


def test_what_holm_takes_back_is_not_claimed():
    rng = np.random.default_rng(0)
    rows = {name: [[bool(x) for x in rng.random(200) < share]] for name, share in (("base", 0.30), ("nlft", 0.40))}
    grid = {(name, 50): Cells(made, [], {}, None if name == "base" else [0]) for name, made in rows.items()}
    for at in range(8):
        grid[f"other-{at}", 50] = cells(0.3, 1, seed=at + 5)
    others = [("nlft", name) for name, _ in grid if name != "nlft"]
    alone, many = contrasts(grid, others[:1]), contrasts(grid, others)
    assert alone[0].significant
    assert not many[0].significant
    assert (verdict(grid, alone, PROMPTED).kind, verdict(grid, alone, PROMPTED).best) == ("train", "nlft")
    assert verdict(grid, many, PROMPTED).kind == "more_questions"


def test_an_arm_with_one_seed_is_not_recommended_and_one_without_a_result_is_named():
    ours = cells(0.6, 3, seed=1)
    lucky = Cells(cells(0.9, 1, seed=2).verdicts, [], {}, [0], once=True)
    grid = {
        ("base", 50): cells(0.1, 1),
        ("nlft", 50): Cells(ours.verdicts, ours.results, {}, [0, 1, 2]),
        ("reft", 50): lucky,
        ("sft-answer", 50): Cells([], [], {0: "no memory", 1: "no memory", 2: "no memory"}, []),
    }
    decided = verdict(grid, contrasts(grid, [("nlft", "base"), ("nlft", "reft")]), PROMPTED)
    assert (decided.kind, decided.best, decided.better) == ("train", "nlft", ("reft",))
    assert decided.missing == ("sft-answer",)
    said = verdict_sentence(decided, TITLES)
    assert "ReFT" in said
    assert "SFT on answers" in said


def test_no_verdict_says_that_nothing_beats_the_prompt_where_an_arm_with_fewer_seeds_does():
    high = cells(0.9, 4, seed=2)
    failed = Cells(high.verdicts, [], {4: "killed"}, [0, 1, 2, 3])
    lucky = Cells(high.verdicts[:1], [], {}, [0], once=True)
    for share, kind in ((0.42, "unfinished"), (0.51, "more_questions"), (0.9, "train")):
        for other in (failed, lucky):
            grid = {("base", 50): cells(0.5, 1), ("reft", 50): other}
            grid["nlft", 50] = Cells(cells(share, 5, seed=1).verdicts, [], {}, [0, 1, 2, 3, 4])
            decided = verdict(grid, contrasts(grid, [("nlft", "base"), ("nlft", "reft")]), PROMPTED)
            assert (decided.kind, decided.best) == (kind, "nlft")
            assert decided.above == (() if kind == "train" else ("reft",))
            assert decided.better == (() if kind == "train" else ("reft",))
            assert "ReFT" in verdict_sentence(decided, TITLES)
    spoilt = {("reft", 50): replace(failed, broken=(Breach("max_length_change", "task", "20 → 30 words", 0.1),))}
    bound = verdict({**grid, **spoilt, ("nlft", 50): cells(0.42, 5, seed=1)}, [], PROMPTED)
    assert (bound.kind, bound.above) == ("do_not_train", ())
    assert "within the bounds" in verdict_sentence(bound, TITLES)


def test_arms_with_one_seed_in_the_plan_are_recommended_if_there_are_no_others():
    lucky = Cells(cells(0.9, 1, seed=2).verdicts, [], {}, [0], once=True)
    grid = {("base", 50): cells(0.5, 1), ("nlft", 50): lucky}
    assert verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED).kind == "train"
    spoilt = replace(cells(0.95, 3), broken=(Breach("max_length_change", "task", "20 → 30 words", 0.1),))
    decided = verdict({**grid, ("reft", 50): spoilt}, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert (decided.kind, decided.best) == ("train", "nlft")


def test_a_comparison_is_planned_whichever_side_the_plan_names_first():
    grid = {("base", 50): cells(0.5, 1), ("nlft", 50): cells(0.53, 1, seed=1), ("kto", 50): cells(0.3, 1, seed=2)}
    ways = [[("nlft", "base"), ("nlft", "kto")], [("base", "nlft"), ("nlft", "kto")]]
    one, other = (verdict(grid, contrasts(grid, pairs), PROMPTED) for pairs in ways)
    assert one.planned
    assert other.planned
    assert one.needed == other.needed
    grid["nlft", 50] = cells(0.8, 3, seed=1)
    assert verdict(grid, contrasts(grid, [("base", "nlft")]), PROMPTED).planned


def test_no_verdict_is_drawn_from_questions_that_all_arms_fail():
    nothing = Cells([[False] * 5], [], {})
    grid = {("base", 50): nothing, ("nlft", 50): nothing}
    assert verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED).kind == "more_questions"
    assert rate_of([[False] * 5, [False] * 5]).high > 0.3


def test_comparisons_are_corrected_for_all_of_them():
    grid = {(name, 50): cells(0.3 + 0.02 * at, seed=at) for at, name in enumerate(["base", "sft-answer", "nlft"])}
    one = contrasts(grid, [("nlft", "base")])
    two = contrasts(grid, [("nlft", "base"), ("nlft", "sft-answer")])
    assert one[0].corrected == one[0].gap.p_value
    assert two[0].corrected >= one[0].corrected
    assert two[0].wins - two[0].losses == pytest.approx(two[0].gap.value * 400)


def test_a_failed_seed_is_in_the_table_and_out_of_the_comparisons():
    whole, broken = cells(0.5), cells(0.4)
    broken = Cells(broken.verdicts[:1] * 0, broken.results, {1: "out of memory"})
    grid = {("base", 50): whole, ("nlft", 50): broken}
    assert "1 failed: out of memory" in grid_table(grid, TITLES).markdown()
    assert contrasts(grid, [("nlft", "base")]) == []
    assert unmade(grid, [("nlft", "base")]) == [(50, "nlft", "base")]


def test_comparisons_that_could_not_be_made_stay_among_those_that_are_corrected_for():
    grid = {("base", 50): cells(0.3, 1), ("nlft", 50): cells(0.36, 1, seed=1)}
    grid |= {(arm, 50): Cells([], [], {0: "no memory"}, []) for arm in ("kto", "reft", "sft-answer")}
    alone = contrasts(grid, [("nlft", "base")])[0]
    beside = contrasts(grid, [("nlft", arm) for arm in ("base", "kto", "reft", "sft-answer")])
    assert len(beside) == 1
    asked = [verdict(grid, [alone], PROMPTED, lacking).needed.questions for lacking in (0, 3)]
    assert asked[1] > 1.2 * asked[0]
    assert beside[0].corrected == pytest.approx(min(1.0, 4 * alone.corrected))


def test_the_best_of_many_is_not_recommended_for_what_chance_gives_the_best_of_many():
    recommended = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        rows = {arm: [(rng.random(150) < 0.4).tolist()] for arm in ("base", *(f"arm-{n}" for n in range(6)))}
        grid = {(arm, 50): Cells(made, [], {}, [0]) for arm, made in rows.items()}
        recommended += verdict(grid, contrasts(grid, [("arm-0", "base")]), PROMPTED).kind == "train"
    assert recommended <= 3


def test_an_arm_that_failed_on_some_seeds_is_not_recommended_for_the_others():
    grid = {
        ("base", 50): cells(0.1, 1),
        ("nlft", 50): Cells(cells(0.4, 3, seed=1).verdicts, [], {}, [0, 1, 2]),
        ("sft-answer", 50): Cells(cells(0.6, 1, seed=2).verdicts, [], {1: "no memory", 2: "no memory"}, [0]),
    }
    decided = verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED)
    assert (decided.kind, decided.best, decided.failed_seeds) == ("train", "nlft", 0)
    del grid["nlft", 50]
    decided = verdict(grid, [], PROMPTED)
    assert (decided.kind, decided.best, decided.seeds, decided.failed_seeds) == ("train", "sft-answer", 1, 2)
    assert "1 of 3 seeds" in verdict_sentence(decided, TITLES)


def test_without_a_prompt_a_trained_arm_or_a_common_seed_there_is_no_recommendation():
    ours, prompt = Cells(cells(0.5).verdicts, [], {}, [0, 1]), Cells(cells(0.2, 1).verdicts, [], {}, [2])
    assert verdict({("nlft", 5): ours}, [], PROMPTED).kind == "no_arms"
    assert verdict({("base", 5): prompt}, [], PROMPTED).kind == "no_arms"
    apart = verdict({("few-shot", 5): prompt, ("nlft", 5): ours}, [], PROMPTED)
    assert (apart.kind, apart.best) == ("no_common_seed", "nlft")
    ungraded = Cells([], [RESULT], {}, [])
    assert verdict({("base", 5): ungraded, ("nlft", 5): ungraded}, [], PROMPTED).kind == "nothing_graded"
    for kind in ("no_arms", "no_common_seed", "nothing_graded"):
        assert verdict_sentence(replace(apart, kind=kind), TITLES)


def test_a_model_card_and_the_docs_know_each_kind_of_verdict():
    kinds, page = get_args(VerdictKind), Path("docs/COMPARE.md").read_text(encoding="utf-8")
    assert set(card_results._VERDICTS) == set(kinds)
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def test_arms_are_compared_on_the_seeds_that_both_have():
    whole = cells(0.5, 3)
    one = Cells(whole.verdicts[1:2], whole.results[1:2], {}, [7], once=True)
    ours = Cells(whole.verdicts, whole.results, {}, [5, 7, 9])
    grid = {("nlft", 50): ours, ("kto", 50): one, ("sft-answer", 50): Cells([], [], {5: "no memory"}, [])}
    found = contrasts(grid, [("nlft", "kto"), ("nlft", "sft-answer")])
    assert [(c.theirs, c.gap.value, c.wins, c.losses) for c in found] == [("kto", 0.0, 0, 0)]
    assert "(only seed 7)" in grid_table(grid, TITLES).markdown()


def few(**more):
    rows = {"base": [[True, False, False, True]], "nlft": [[True, True, False, False], [True, True, True, False]]}
    grid = {(arm, 5): Cells(row, [], {}, None if arm == "base" else [0, 1]) for arm, row in rows.items()}
    asked = [{"id": n, "prompt": f"question <{n}>", "answer": ""} for n in range(4)]
    about = {"model": "m", "settings": {"seeds": [0, 1], "max_steps": 3}, "asked": asked, **more}
    return grid, comparison_report(grid, [("nlft", "base")], TITLES, PROMPTED, about)


def test_the_page_lists_the_questions_that_either_side_alone_answered_right():
    lists = page(few()[1]).partition("<h2>Question by question</h2>")[2]
    assert "NLFT against prompted base, 5 examples: 2 questions won, 1 lost" in lists
    won, lost = (re.findall("<li>(.*?)</li>", part) for part in lists.split("Right by prompted base alone:"))
    assert won == ["1: question &lt;1&gt;", "2: question &lt;2&gt;"], "the question of both seeds first"
    assert lost == ["3: question &lt;3&gt;"]


def test_what_was_added_after_a_result_is_said():
    _, found = few(grown={"seeds": [1], "sizes": [5]})
    wanted = "Added after a first result: seeds 1; sizes 5."
    assert wanted in page(found)
    assert wanted in contrast_lines(found)
    assert "Added after" not in page(few()[1])


def test_steps_are_the_same_for_every_method_if_they_are_at_every_size():
    def said(*steps):
        places = [("nlft", 4), ("kto", 4), ("nlft", 8), ("kto", 8)]
        grid = {at: Cells([[True]], [{**RESULT, "steps": n}], {}, [0]) for at, n in zip(places, steps, strict=True)}
        return page(comparison_report(grid, [], TITLES, PROMPTED, {"model": "m", "settings": {"seeds": [0]}}))

    assert "number of optimizer steps" in said(12, 12, 24, 24)
    assert "number of epochs" in said(12, 2, 24, 24)
    assert "number of epochs" in said(None, None, None, None)


def test_the_grid_is_read_back_from_a_report():
    grid, found = few()
    assert grid_of(found) == grid


def test_the_verdict_stands_in_the_report_as_data_beside_its_sentence():
    grid, found = few()
    assert found["verdict_data"]["kind"] == verdict(grid, contrasts(grid, [("nlft", "base")]), PROMPTED).kind
    assert found["verdict_data"]["best"] == "nlft"
    assert json.loads(json.dumps(found["verdict_data"]))["gap"]["value"] == pytest.approx(0.125)
    assert [c["significant"] for c in found["contrasts"]] == [False]


def test_a_report_of_an_older_version_is_read_in_this_versions_format(tmp_path):
    new = json.loads(json.dumps(few()[1]))
    second = {**new, "format_version": 2, "contrasts": [{**c, "significant": True} for c in new["contrasts"]]}
    (tmp_path / "compare.json").write_text(json.dumps(second))
    assert read_report(tmp_path / "compare.json")["contrasts"] == new["contrasts"], "computed from the verdicts"
    old = {key: value for key, value in new.items() if key not in ("format_version", "verdict_data")}
    old["contrasts"] = [{("told" if k == "significant" else k): v for k, v in c.items()} for c in new["contrasts"]]
    for arm in old["arms"]:
        arm["readings"] = {"strict": 0.25}
    (tmp_path / "compare.json").write_text(json.dumps(old))
    read = json.loads(json.dumps(read_report(tmp_path / "compare.json")))
    assert read.keys() == new.keys()
    assert (read["contrasts"], read["verdict_data"]) == (new["contrasts"], new["verdict_data"])
    assert [arm["readings"] for arm in read["arms"]] == [{"strict": 0.25}] * 2


def graded(right: int, wrong: int) -> Cells:
    n = right + wrong
    readings = {"strict": vars(wilson(1, n)), "flexible": vars(wilson(right, n))}
    summary = {"questions": n, "accuracy": readings, "graded_share": {"strict": 0.5, "flexible": 1.0}}
    summary |= {"mean_tokens": 20, "answer_logp": None}
    took = {**RESULT, "evaluate_seconds": 1.0, "summary": summary}
    return Cells([[True] * right + [False] * wrong], [took], {}, [0])


def test_numbers_are_read_as_when_the_examples_were_labelled_and_the_other_reading_is_shown():
    grid = {("base", 9): graded(3, 197), ("nlft", 9): Cells([], [], {0: "no memory\nmore"}, [])}
    flexible = arms_table(grid, TITLES, "flexible")
    assert flexible.head[1:4] == ["right of 200, flexible [95%]", "strict", "graded"]
    assert flexible.rows[0][1:4] == [str(wilson(3, 200)), "0.5%", "100%"]
    assert flexible.rows[1][:3] == ["NLFT", "no memory", ""]
    assert arms_table(grid, TITLES, "strict").head[1:3] == ["right of 200, strict [95%]", "flexible"]


def test_the_page_shows_what_a_model_wrote_as_text():
    grid = {("nlft", 5): Cells([[True, False, True]], [{**RESULT, "steps": 4}], {1: "<b>"}, [0], once=True)}
    about = {"model": "<script>alert(1)</script>", "settings": {"seeds": [0]}}
    made = page({**comparison_report(grid, [], TITLES, PROMPTED, about), "verdict": "a < b"})
    assert "<script>alert" not in made
    assert "&lt;script&gt;" in made
    assert "&lt;b&gt;" in made
    assert "<polyline" in made
    assert "; seed 0. Every method" in made
    assert "number of optimizer steps" in made
    assert "<td>NLFT (only seed 0)</td>" in made


def test_no_two_of_forty_methods_look_alike_on_the_page():
    grid = {(str(n), size): cells(0.5, 1) for n in range(40) for size in (5, 9)}
    titles = {str(n): f"method {n}" for n in range(40)}
    made = page(comparison_report(grid, [], titles, (), {"model": "m", "settings": {"seeds": [0]}}))
    legend = made.partition("<figcaption>")[2].partition("</figcaption>")[0]
    marks = re.findall("<path[^>]*>", legend)
    assert len(marks) == len(set(marks)) == 40
    lines = re.findall('<polyline points="[^"]*"([^>]*)>', made)
    assert len(lines) == len(set(lines)) == 40


def test_costs_are_of_all_seeds_at_the_largest_size_and_none_of_what_trains_nothing():
    results = [
        {"steps": 3, "train_seconds": 10, "peak_memory_bytes": 2**30, "num_tokens": 1000},
        {"steps": 5, "train_seconds": 21, "peak_memory_bytes": 3 * 2**29, "num_tokens": None},
    ]
    assert costs(results) == ["4", "16 s", "1.5 GiB", "500"]
    assert costs([RESULT])[0] == "", "an older result, which did not say"
    assert costs([]) == ["", "", "", ""]
    prompted = Cells([[True]], [{"train_seconds": 0, "peak_memory_bytes": 2**30, "num_tokens": None}], {})
    trained, failed = Cells([[True]], results, {}), Cells([], [], {0: "why"})
    grid = {("base", 5): prompted, ("nlft", 5): trained, ("nlft", 9): failed}
    rows = grid_table(grid, {"base": "base", "nlft": "NLFT"}).markdown().splitlines()[2:]
    assert [row.count("GiB") for row in rows] == [0, 1]
    assert "| 4     | 16 s  | 1.5 GiB     | 500 " in rows[1]
