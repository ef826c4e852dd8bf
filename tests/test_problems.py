"""Generated word problems: the same everywhere, true in every calculation, and never in both splits."""

import hashlib
import json
import re
from collections import Counter
from dataclasses import asdict
from fractions import Fraction

import pytest

from nlft.data.grading import get_grader
from nlft.data.problems import _ONE_STEP, _TWO_STEP, generate_problems, make_splits, skeleton
from nlft.errors import UserError

MANY = generate_problems(2000, seed=7)
SHA256_OF_SPLITS = "?"


def calculations(answer: str) -> list[tuple[str, int, str, int, int]]:
    found = re.findall(r"((\d+) ([-+*/]) (\d+) = (\d+))", answer)
    return [(text, int(a), sign, int(b), int(result)) for text, a, sign, b, result in found]


def test_splits_are_the_recorded_ones():
    text = json.dumps([[asdict(question) for question in split] for split in make_splits()])
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256_OF_SPLITS


def test_the_seed_alone_decides():
    assert generate_problems(50, seed=1) == generate_problems(50, seed=1)
    assert generate_problems(50, seed=1) != generate_problems(50, seed=2)


def test_splits_share_no_template_with_the_same_numbers():
    train, test = make_splits(train=400, test=400, seed=3)
    texts = [question.prompt for question in train + test]
    assert len({skeleton(text) for text in texts}) == len(set(texts)) == 800
    assert len({question.id for question in train + test}) == 800
    assert (train[0].id, test[-1].id) == ("train-0001", "test-0400")


def test_more_training_problems_leave_the_test_problems_alone():
    small, large = make_splits(train=10), make_splits(train=60)
    assert small[1] == large[1]
    assert small[0] == large[0][:10]


def test_a_skeleton_tells_template_and_numbers_but_not_names():
    assert skeleton("Anna has 5 marbles.") == skeleton("Ben has 5 coins.") != skeleton("Ben has 6 coins.")


def test_every_written_calculation_is_true_and_leads_to_the_answer():
    operators = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: Fraction(a, b),
    }
    for question in MANY:
        steps = calculations(question.answer)
        assert steps
        for _, left, sign, right, result in steps:
            assert operators[sign](left, right) == result >= 2
        assert question.answer.endswith(f"\n#### {steps[-1][4]}")


def test_every_number_of_a_calculation_is_known_by_then():
    for question in MANY:
        known = set(map(int, re.findall(r"\d+", question.prompt)))
        used = set()
        for _, left, _, right, result in calculations(question.answer):
            assert {left, right} <= known
            used |= {left, right}
            known.add(result)
        assert set(map(int, re.findall(r"\d+", question.prompt))) == used & known - set() or used >= set(
            map(int, re.findall(r"\d+", question.prompt))
        )


def test_every_answer_is_right_by_the_grader():
    grade = get_grader("number")
    assert all(grade(question.answer, question.answer).verdict == "right" for question in MANY)


def test_one_and_two_steps_take_turns():
    assert Counter(len(calculations(question.answer)) for question in MANY) == {1: 1000, 2: 1000}
    assert all(len(calculations(q.answer)) == 2 for q in generate_problems(30, seed=0, steps=(2,)))


def test_every_template_is_used():
    assert len(_ONE_STEP) >= 12
    assert len(_TWO_STEP) >= 12
    shapes = {re.sub(r"\d+", "#", skeleton(question.prompt)) for question in MANY}
    assert len(shapes) == len(_ONE_STEP) + len(_TWO_STEP)


def test_numbers_stay_small():
    for question in MANY:
        for _, left, sign, right, _ in calculations(question.answer):
            assert sign != "*" or max(left, right) <= 12 or (min(left, right) <= 9 and max(left, right) <= 30)
            assert sign != "/" or right <= 12


def test_excluded_problems_do_not_come_back_under_other_names():
    first = generate_problems(100, seed=5)
    again = generate_problems(100, seed=5, exclude=first)
    assert not {skeleton(q.prompt) for q in first} & {skeleton(q.prompt) for q in again}


def test_asking_for_what_there_is_not_is_an_error():
    with pytest.raises(UserError, match="steps"):
        generate_problems(1, seed=0, steps=(3,))
    with pytest.raises(UserError, match="Ask for fewer"):
        generate_problems(10**6, seed=0, steps=(1,))
