"""Graders: they read numbers as lm-evaluation-harness and the original do, and grades keep their evidence."""

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.harness import harness_reading, harness_verdict
from nlft.data.grading import (
    Grade,
    as_number,
    extract_choice,
    extract_expected,
    extract_flexible,
    extract_original,
    extract_original_gold,
    extract_strict,
    get_grader,
)
from nlft.errors import UserError

HERE = Path(__file__).parent
CASES = json.loads((HERE / "golden" / "answer_extraction_cases.json").read_text(encoding="utf-8"))["cases"]
TEXTS = st.text(alphabet="0123456789$,.- #\n", max_size=24) | st.text(max_size=12)


def kind_of_difference(reading: str, completion: str, answer: str) -> str | None:
    """The row of docs/GRADING.md that explains why the grades differ; None if they are equal."""
    grade = get_grader("number", extraction=reading)(completion, answer)
    harness = harness_verdict(reading, completion, answer)
    if grade.grade == ("right" if harness else "wrong"):
        return None
    if grade.grade == "ungraded":
        if grade.expected is None:
            return "no number in the answer"
        return "no number in the completion" if grade.extracted is None else "the extracted text is not a number"
    assert (grade.grade, harness) == ("right", 0), (completion, answer, grade)
    bare = re.fullmatch(r"(?:(?s:.*)#### )?[-0-9.,$]*", answer)
    return "the same number, written differently" if bare else "the answer has more than a number after `#### `"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_original_readings_equal_the_recorded_ones(case):
    assert extract_original_gold(case["text"]) == case["reference_strict"]
    assert (extract_original(case["text"]) or "[invalid]") == case["reference_flexible"]


def test_all_forty_recorded_cases_are_read():
    assert len(CASES) == 40


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_strict_and_flexible_read_what_the_harness_reads(text):
    assert (extract_strict(text) or "[invalid]") == harness_reading("strict", text)
    assert (extract_flexible(text) or "[invalid]") == harness_reading("flexible", text)


def documented_differences() -> list[tuple[str, str, str, str, int, str]]:
    text = (HERE.parent / "docs" / "GRADING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| (\w+) \| `(\".*\")` \| `(\".*\")` \| ([01]) \| (\w+) \|$", text, re.MULTILINE)
    return [(k, r, json.loads(c), json.loads(a), int(h), n) for k, r, c, a, h, n in rows]


def test_documented_differences_from_the_harness_are_real():
    rows = documented_differences()
    assert len(rows) == 11
    for kind, reading, completion, answer, harness, verdict in rows:
        assert harness_verdict(reading, completion, answer) == harness
        assert get_grader("number", extraction=reading)(completion, answer).grade == verdict
        assert kind_of_difference(reading, completion, answer) == kind


@pytest.mark.parametrize("reading", ["strict", "flexible"])
def test_no_grade_differs_from_the_harness_in_another_way(reading):
    rng = random.Random(0)
    kinds = {kind for kind, *_ in documented_differences()}
    parts = ["#### ", "####", "1", "18", "-7", "0", ",", ".", "$", "-", " ", "\n", "so", "1,000", "18.00"]
    seen = set()
    for _ in range(1500):
        completion, answer = ("".join(rng.choices(parts, k=rng.randint(0, 5))) for _ in range(2))
        if rng.random() < 0.5:
            answer = completion
        seen.add(kind_of_difference(reading, completion, answer))
    assert seen == kinds | {None}


@pytest.mark.parametrize(
    ("text", "value"),
    [("18.00", "18"), ("1,000", "1000"), ("72.", "72"), ("$ 5 ", "5"), ("-$3.50", "-3.5"), (".5", "0.5")],
)
def test_numbers_are_equal_however_they_are_written(text, value):
    assert as_number(text) == as_number(value) is not None


@pytest.mark.parametrize("text", ["", ",", "1.2.3", "72..", "-", "five", "1e5", "٣", "1 000", "NaN", "Infinity"])
def test_odd_strings_are_not_numbers(text):
    assert as_number(text) is None


def test_huge_numbers_are_compared_exactly():
    grade = get_grader("number")
    digits = "9" * 50_000
    assert grade(f"#### {digits}", f"#### {digits}").grade == "right"
    assert grade(f"#### {digits}", f"#### {digits[:-1]}8").grade == "wrong"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("She has 64 - 35 = 29 left.\n#### 29", "29"),
        ("#### $1,234.50", "$1,234.50"),
        ("####18", "18"),
        ("#### 12 hours", "12"),
        (" 18 ", "18"),
        ("First 5, then 8, so 13.", "13"),
        ("He has 10-3 apples", "3"),
        ("#### none", None),
        ("#### 5 or so\n#### 6", "6"),
    ],
)
def test_the_standard_answer_gives_its_final_number(answer, number):
    assert extract_expected(answer) == number


def test_a_grade_keeps_its_evidence():
    grade = get_grader("number")
    assert grade("#### 34", "#### 29") == Grade("wrong", "34", "29", '"34" was given, "29" expected.')
    assert grade("#### 29.0", "#### 29").grade == "right"


def test_a_missing_number_is_ungraded_and_the_explanation_says_where():
    grade = get_grader("number")
    assert grade("It is 29.", "#### 29") == Grade("ungraded", None, "29", "No number was found in the completion.")
    assert grade("#### 29", "Many.").explanation == "No number was found in the standard answer."
    assert grade("#### 1.2.3", "#### 1").explanation == '"1.2.3", read from the completion, is not a number.'


def test_original_compares_as_text():
    grade = get_grader("number", extraction="original")
    assert grade("#### 18.00", "#### 18").grade == "wrong"
    assert grade("#### 18", "#### 18").grade == "right"
    assert grade("#### 18", "####18").grade == "ungraded"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("Answer: B", "B"),
        ("The answer is **B**.", "B"),
        ("Option (C) is right, so the answer is (C).", "C"),
        ("B) Paris", "B"),
        ("It must be (D), I think.", "D"),
        ("So 4.\n#### D", "D"),
        ("A) Rome\nB) Paris", None),
        ("I think a cat", None),
        ("The answer is Apple", None),
        ("", None),
    ],
)
def test_choice_reads_the_letter_that_a_text_chooses(text, letter):
    assert extract_choice(text) == letter


def test_choice_grades_letters():
    assert get_grader("choice")("The answer is (B).", "B").grade == "right"
    assert get_grader("choice")("(A)", "Answer: B").grade == "wrong"
    assert get_grader("choice")("A) or B)?\nA) x\nB) y", "B").grade == "ungraded"


def test_exact_ignores_white_space_and_optionally_case():
    assert get_grader("exact")("  New\n York ", "New York").grade == "right"
    assert get_grader("exact")("new york", "New York").grade == "wrong"
    assert get_grader("exact", ignore_case=True)("new york", "It is there.\n#### New York").grade == "right"
    assert get_grader("exact")("x", "####").grade == "ungraded"


def test_regex_compares_groups():
    grade = get_grader("regex", pattern=r"x = (\S+)")
    assert grade("x = 1, no, x = 2", "x = 2").grade == "right"
    assert get_grader("regex", pattern=r"x = (\S+)", which="first")("x = 1\nx = 2", "x = 2").grade == "wrong"
    assert grade("none", "x = 2").grade == "ungraded"


def test_label_grades_nothing():
    assert get_grader("label")("#### 29", "#### 29").grade == "ungraded"


def test_a_function_of_the_user_grades(tmp_path, monkeypatch):
    (tmp_path / "my_graders.py").write_text(
        "from nlft.data.grading import Grade\n"
        "def same(completion, answer, cut=0): return completion[cut:] == answer\n"
        "def full(completion, answer): return Grade('wrong', 'a', 'b', 'because')\n"
        "def number(completion, answer): return 1\n"
        "def broken(completion, answer): return 1 / 0\n"
        "value = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    assert get_grader("my_graders:same")("a", "a").grade == "right"
    assert get_grader("my_graders.same", cut=1)(" a", "a").grade == "right"
    assert get_grader("my_graders:full")("a", "a").explanation == "because"
    with pytest.raises(UserError, match="returned int"):
        get_grader("my_graders:number")("a", "a")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        get_grader("my_graders:broken")("a", "a")
    with pytest.raises(UserError, match="'value'"):
        get_grader("my_graders:value")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nmber", {}, "Did you mean number"),
        ("no_such_module:grade", {}, "cannot be imported"),
        ("json:no_such_function", {}, "has no 'no_such_function'"),
        ("a:b:c", {}, "cannot be imported"),
        (":", {}, "There is no grader ':'"),
        ("number", {"extract": "strict"}, "extraction"),
        ("number", {"extraction": "loose"}, "strict, flexible or original"),
        ("label", {"x": 1}, "'x'"),
        ("regex", {"pattern": "("}, "not a regular expression"),
        ("regex", {"pattern": "x"}, "no group"),
        ("regex", {"pattern": "(x)", "which": "best"}, "first or last"),
    ],
)
def test_a_grader_that_does_not_exist_is_named_with_a_cure(name, options, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        get_grader(name, **options)
    assert "\n  " in str(error.value)


@settings(deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["number", "exact", "choice"]))
def test_every_text_gets_a_grade(completion, answer, name):
    assert get_grader(name)(completion, answer).grade in ("right", "wrong", "ungraded")
