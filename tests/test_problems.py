"""Generated word problems: the same everywhere, true in every calculation, and never in both splits."""

import hashlib
import json
import re
from collections import Counter
from fractions import Fraction

import pytest

from nlft.data.grading import get_grader
from nlft.data.problems import FRIENDS, NAMES, THINGS, generate_problems, make_splits
from nlft.errors import UserError

SHA256_OF_SPLITS = "63a1243ffe73bdc69242bd72c36f4900c5c0e2620d47f9e09f57865171705ba6"
OPERATORS = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": Fraction,
}
MANY = generate_problems(1000, seed=7)
WORDS = re.compile(rf"\b(?:{'|'.join(NAMES + FRIENDS + THINGS)})\b")


def skeleton(question) -> str:
    """The question without its names and things: template and numbers."""
    return WORDS.sub("_", question.prompt)


def calculations(question) -> list[tuple[int, str, int, int]]:
    found = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", question.answer)
    return [(int(left), sign, int(right), int(result)) for left, sign, right, result in found]


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_splits_are_the_recorded_ones():
    text = json.dumps([[question.as_record() for question in split] for split in make_splits()])
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256_OF_SPLITS


def test_the_seed_alone_decides():
    assert generate_problems(50, seed=1) == generate_problems(50, seed=1)
    assert generate_problems(50, seed=1) != generate_problems(50, seed=2)


def test_splits_share_no_question_and_no_template_with_the_same_numbers():
    train, test = make_splits(train=200, test=300, seed=3)
    assert (train[0].id, test[-1].id) == ("train-0001", "test-0300")
    assert len({question.id for question in train + test}) == 500
    assert len({skeleton(question) for question in train + test}) == 500


def test_more_training_problems_do_not_change_the_test_problems():
    small, large = make_splits(train=10), make_splits(train=60)
    assert small[1] == large[1]
    assert small[0] == large[0][:10]


def test_excluded_problems_do_not_come_back_under_other_names():
    first = generate_problems(200, seed=5)
    again = generate_problems(200, seed=6, exclude=first)
    assert not {skeleton(question) for question in first} & {skeleton(question) for question in again}


def test_every_calculation_is_true_and_the_last_gives_the_answer():
    for question in MANY:
        steps = calculations(question)
        for left, sign, right, result in steps:
            assert OPERATORS[sign](left, right) == result >= 2, question
        assert question.answer.endswith(f"\n#### {steps[-1][3]}")


def test_a_problem_is_solved_from_its_own_numbers_and_needs_them_all():
    for question in MANY:
        known, used = set(numbers(question.prompt)), set()
        for left, _, right, result in calculations(question):
            assert {left, right} <= known, question
            used |= {left, right}
            known.add(result)
        assert set(numbers(question.prompt)) <= used, question


def test_a_number_is_never_one_so_that_every_noun_is_a_plural():
    for question in MANY:
        assert min(numbers(question.prompt) + numbers(question.answer)) >= 2


def test_multiplication_and_division_stay_small():
    for question in MANY:
        for left, sign, right, result in calculations(question):
            if sign == "*":
                assert max(left, right) <= 12 or min(left, right) <= 9
            if sign == "/":
                assert right <= 12
                assert result <= 50


def test_every_answer_is_right_by_the_grader():
    grade = get_grader("number")
    assert {grade(question.answer, question.answer).grade for question in MANY} == {"right"}


def test_one_and_two_steps_take_turns():
    assert Counter(len(calculations(question)) for question in MANY) == {1: 500, 2: 500}
    for steps in (1, 2):
        assert {len(calculations(q)) for q in generate_problems(30, seed=0, steps=(steps,))} == {steps}


def test_there_are_at_least_twelve_templates_of_each_length():
    shapes = {(len(calculations(q)), re.sub(r"\d+", "#", skeleton(q))) for q in MANY}
    counts = Counter(steps for steps, _ in shapes)
    assert min(counts[1], counts[2]) >= 12


@pytest.mark.parametrize(
    ("n", "options"), [(1, {"steps": (3,)}), (1, {"steps": ()}), (10**6, {"steps": (1,)}), (10**9, {})]
)
def test_impossible_numbers_of_problems_are_refused_with_a_cure(n, options):
    with pytest.raises(UserError, match="\n  "):
        generate_problems(n, seed=0, **options)
