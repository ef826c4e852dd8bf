"""The study of judgments: mistakes stand where they are said to, and the page says what was counted."""

import json
import re
import sys
from math import log
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import judgments
import planted

from nlft.collect.arithmetic import find_calculations
from nlft.core.prompts import without_corrections
from nlft.data.problems import generate_problems
from nlft.data.records import Question

CHAIN = Question(
    1,
    "Tom buys 4 boxes of 12 eggs, breaks 6 eggs, and sells the others at 3 dollars each. What does he get?",
    "He buys 4 * 12 = 48 eggs.\nHe sells 48 - 6 = 42 eggs.\nThat makes 42 * 3 = 126 dollars.\n#### 126",
)


def spans(wrong):
    return [wrong.completion[slice(*span)] for span in (wrong.mistake, *wrong.follows)]


def test_what_follows_from_a_planted_mistake_is_recalculated_and_nothing_else_changes():
    seen = set()
    for seed in range(40):
        wrong = planted.plant(CHAIN, Random(seed))
        if wrong is None:
            continue
        steps = list(find_calculations(wrong.completion))
        off = [i for i, step in enumerate(steps) if not step.right]
        assert len(off) == 1, wrong.completion
        seen.add(off[0])
        assert wrong.judgment.startswith(f'The step "{steps[off[0]].written}" is miscalculated.')
        assert "Correction: the answer is 126." in wrong.judgment
        numbers = re.findall(r"\d+", wrong.completion)
        changed = [a != b for a, b in zip(numbers, re.findall(r"\d+", CHAIN.answer), strict=True)]
        assert len(spans(wrong)) == sum(changed)
        assert re.sub(r"\d+", "", wrong.completion) == re.sub(r"\d+", "", CHAIN.answer)
    assert seen == {0, 1, 2}


def test_a_mistake_begins_where_the_number_departs_from_the_right_one():
    wrong = planted.Wrong("", "", "", "", planted._departure(10, "126", "129"), (), 99)
    assert wrong.mistake == (12, 13)
    assert planted._departure(10, "48", "38") == (10, 12)
    assert planted._departure(10, "9", "12") == (10, 12)
    assert planted._departure(10, "12", "1") == (10, 11)


def test_no_mistake_is_planted_where_it_is_not_known_what_follows():
    seen_before = Question(1, "Tom has 5 boxes of 3.", "He has 2 + 3 = 5 things.\n#### 5")
    uneven = Question(1, "Share.", "There are 10 + 14 = 24 things.\nEach gets 24 / 24 = 1 thing.\n#### 1")
    decimals = Question(1, "Add.", "It is 1.5 + 2.5 = 4.\n#### 4")
    for question in (seen_before, decimals):
        assert all(planted.plant(question, Random(seed)) is None for seed in range(30))
    for seed in range(30):
        wrong = planted.plant(uneven, Random(seed))
        assert wrong is None or "24 / 24" in wrong.completion


def test_planted_problems_have_one_wrong_step_each_and_another_final_answer():
    questions = generate_problems(80, seed=5)
    examples = planted.planted_examples(questions, 60, seed=1)
    assert len(examples) == 60
    for wrong in examples:
        assert sum(not step.right for step in find_calculations(wrong.completion)) == 1
        assert wrong.completion.split("####")[1] != wrong.answer.split("####")[1]
        assert all(text.isdigit() for text in spans(wrong))
        assert wrong.mistake < min(wrong.follows), "what follows a mistake stands after it"
        quoted = re.search(r'"([^"]+)"', wrong.judgment)[1]
        assert wrong.completion.index(quoted) < wrong.mistake[0] < wrong.completion.index(quoted) + len(quoted)
        assert "Correction" not in without_corrections(wrong.judgment)


def test_choosing_and_measuring_share_no_question(tmp_path):
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps({"question": f"What is {i}?", "answer": f"#### {i}"}) + "\n" for i in range(20)))
    chosen, fresh = (planted.question_sets(file, fresh=value) for value in (False, True))
    assert list(chosen) == list(fresh) == ["problems", "GSM8K"]
    for source in chosen:
        prompts = [{str(q.prompt) for q in sets[source]} for sets in (chosen, fresh)]
        assert min(map(len, prompts)) >= 10
        assert not prompts[0] & prompts[1]


def test_of_a_models_own_answer_only_what_is_known_to_be_right_or_wrong_is_counted():
    answer = "After buying more, Tom had 9 + 8 = 17 marbles.\nThen Tom has 17 - 5 = 12 marbles.\n#### 12"
    said = "Tom had 9 + 8 = 17 marbles. He has 17 - 5 = 13 marbles.\n#### 13"
    own = planted._own("?", answer, said)
    assert said[slice(*own.mistake)] == "3"
    kinds = planted.token_kinds(own, [(i, i + 1) for i in range(len(said) + 1)])
    assert kinds == [planted.RIGHT] * own.mistake[0] + [planted.MISTAKE] + [planted.UNKNOWN] * (
        len(said) - own.mistake[0]
    )
    assert planted._own("?", answer, "He has 9 - 5 = 3 marbles.\n#### 3") is None, "not a step of the solution"
    assert planted._own("?", answer, "He has 17 - 5 = 12 marbles.\n#### 12") is None, "right"


@given(n=st.integers(2, 60), seed=st.integers(0, 1000))
def test_no_judgment_stays_with_its_own_example(n, seed):
    words = [str(i) for i in range(n)]
    other = planted.shuffled(words, seed)
    assert sorted(other) == sorted(words)
    assert all(a != b for a, b in zip(words, other, strict=True))


def test_every_token_is_of_one_kind_and_the_closing_one_is_right():
    text = "2 + 3 = 64\n#### 64"
    wrong = planted.Wrong("?", "", text, "", (8, 10), ((16, 18),), len(text) + 1)
    offsets = [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9), (9, 10), (10, 16), (16, 17), (17, 18), (18, 19)]
    r, m, f = planted.RIGHT, planted.MISTAKE, planted.FOLLOWS
    kinds = planted.token_kinds(wrong, offsets)
    assert kinds == [r, r, r, r, m, m, r, f, f, r]
    counts = judgments.Counts()
    sure, unsure = [log(0.9)] * 10, [log(0.6)] * 10
    counts.add(kinds, [False, False, False, True, False, True, False, True, False, False], sure)
    counts.add(kinds, [False] * 4 + [True] + [False] * 5, unsure)
    counts.add(kinds, [False] * 10, sure)
    expected = {"examples": 3, "mistakes": 2, "first": 1, "before": 1, "clean": 2, "right": 18, "right_tagged": 1}
    assert counts == judgments.Counts(**expected, follows=6, follows_tagged=1, sure=2, sure_tagged=1)
    assert counts + judgments.Counts() == counts


def test_tags_are_counted_by_each_scheme_from_the_same_scores():
    def logs(*p):
        return [torch.tensor([log(x) for x in p])]

    kinds = [[planted.RIGHT, planted.MISTAKE, planted.MISTAKE]]
    base, standard, judge = logs(0.9, 0.2, 0.9), logs(0.9, 0.01, 0.01), logs(0.98, 0.8, 0.5)
    found = {name: judgments.tally(kinds, base, standard, judge, name) for name in judgments.SCHEMES}
    assert {name: (c.first, c.mistakes, c.right_tagged) for name, c in found.items()} == {
        "nlft": (1, 1, 0),
        "nlft + contradiction": (1, 1, 0),
        "contradiction alone": (0, 1, 0),
        "cut": (1, 1, 0),
    }


def test_merit_is_what_the_judgment_adds_less_what_is_tagged_wrongly():
    real = judgments.Counts(examples=10, mistakes=8, right=100, right_tagged=5)
    other = judgments.Counts(examples=10, mistakes=2, right=100, right_tagged=9)
    pair = {"rules": vars(real), "shuffled": vars(other)}
    assert judgments.merit(pair) == pytest.approx(0.8 - 0.2 - 0.05)
    worse = {"rules": vars(other), "shuffled": vars(other)}
    numbers = {"templates": {"m": {"problems": {"a | b": worse, "c | d": pair}}}}
    assert judgments.ranking(numbers)[0] == ("c | d", pytest.approx(0.55))


@pytest.fixture(scope="module")
def study(model_folder):
    return judgments.Study(model_folder)


def test_a_study_runs_through_and_counts_every_example_under_every_prompt(study):
    sets = {"problems": generate_problems(30, seed=5)}
    templates = judgments.measure_templates(study, sets, 3)
    pairs = len(judgments.STANDARD_TEMPLATES) * len(judgments.JUDGE_TEMPLATES)
    assert len(templates["problems"]) == pairs
    assert all(c["examples"] == 3 for told in templates["problems"].values() for c in told.values())
    measured = judgments.measure_judgments(study, sets, 3, ["default | default"])["problems"]["default | default"]
    assert set(measured) == set(judgments.TOLD)
    assert all(set(schemes) == set(judgments.SCHEMES) for schemes in measured.values())
    counts = [c for schemes in measured.values() for c in schemes.values()]
    assert {c["examples"] for c in counts} == {3}
    assert len({(c["right"], c["follows"]) for c in counts}) == 1, "the same tokens whatever the judgment"


def test_its_prompts_are_those_that_training_shows(study):
    """Else the study would say nothing of training."""
    from nlft.core.conditions import ConditionEncoder
    from nlft.core.prompts import Templates

    wrong = planted.planted_examples(generate_problems(5, seed=5), 1, seed=1)[0]
    for shows in (False, True):
        encoded = ConditionEncoder(study.tokenizer, Templates(judge_shows_correction=shows)).encode(
            id=1,
            prompt=wrong.prompt,
            completion=wrong.completion,
            label=False,
            answer=wrong.answer,
            judgment=wrong.judgment,
        )
        judge = judgments.judge_prompts([wrong], [wrong.judgment], judgments.JUDGE_PROMPT_TEMPLATE, shows)[0]
        standard = judgments.standard_prompts([wrong], judgments.STANDARD_PROMPT_TEMPLATE)[0]
        assert study.encoder.prompt_ids(judge) == encoded.judge
        assert study.encoder.prompt_ids(standard) == encoded.standard
        assert study.encoder.prompt_ids(wrong.prompt) == encoded.base
        assert len(study.kinds(wrong)) == len(encoded.completion)


def test_the_page_is_what_the_numbers_give():
    from judgments_page import PAGE, page

    numbers = json.loads(judgments.NUMBERS.read_text())
    assert PAGE.read_text() == page(numbers), "run python benchmarks/judgments.py write"
