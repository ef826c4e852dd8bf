"""Graders: they read numbers as lm-evaluation-harness and the original do, and grades keep their evidence."""

import json
import random
import re
import time
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.harness import harness_reading, harness_verdict
from helpers.readings import KEPT, readings
from nlft.data.answers.choices import read_choice
from nlft.data.answers.final_answers import read_standard
from nlft.data.answers.number_words import SCALES
from nlft.data.answers.plain_text import composed
from nlft.data.answers.quantities import plain_value
from nlft.data.gradable import is_undecided, unclear_numbers, why_unclear
from nlft.data.grading import (
    ExtractionSettings,
    Grade,
    extract_flexible,
    extract_original,
    extract_original_gold,
    extract_strict,
    get_grader,
)
from nlft.data.records import Question
from nlft.errors import UserError

HERE = Path(__file__).parent
CASES = json.loads((HERE / "golden" / "answer_extraction_cases.json").read_text(encoding="utf-8"))["cases"]
HARD = "0123456789.,' -−–+*/^×:=%$√½²٣{}()[]\\\\\n#xe&~|_\"" + "abint"
TEXTS = st.text(alphabet="0123456789$,.- #\n", max_size=24) | st.text(max_size=12)


def kind_of_difference(reading: str, completion: str, answer: str) -> str | None:
    """The row of docs/GRADING.md that explains why the grades differ; None if they are equal."""
    grade = get_grader("number", extraction=reading)(completion, answer)
    harness = harness_verdict(reading, completion, answer)
    if "</think>" in completion:
        return "thoughts in the completion"
    if grade.grade == ("right" if harness else "wrong"):
        return None
    if grade.grade == "ungraded":
        if grade.expected is None or why_unclear(answer, get_grader("number", extraction=reading)):
            return "no single number in the answer"
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
    assert len(rows) == 13
    for kind, reading, completion, answer, harness, verdict in rows:
        assert harness_verdict(reading, completion, answer) == harness
        assert get_grader("number", extraction=reading)(completion, answer).grade == verdict
        assert kind_of_difference(reading, completion, answer) == kind


@pytest.mark.parametrize("reading", ["strict", "flexible"])
def test_no_grade_differs_from_the_harness_in_another_way(reading):
    rng = random.Random(0)
    kinds = {kind for kind, *_ in documented_differences()}
    parts = ["#### ", "####", "1", "18", "-7", "0", ",", ".", "$", "-", " ", "\n", "so", "1,000", "18.00"]
    seen = {"thoughts in the completion"}  # the parts have none
    for _ in range(800):  # enough to see every kind
        completion, answer = ("".join(rng.choices(parts, k=rng.randint(0, 5))) for _ in range(2))
        if rng.random() < 0.5:
            answer = completion
        seen.add(kind_of_difference(reading, completion, answer))
    assert seen == kinds | {None}


@pytest.mark.parametrize(
    ("text", "value"),
    [("18.00", "18"), ("1,000", "1000"), ("72.", "72"), ("$ 5 ", "5"), ("-$3.50", "-3.5"), (".5", "0.5"), ("-0", "0")],
)
def test_numbers_are_equal_however_they_are_written(text, value):
    assert plain_value(text) == plain_value(value) is not None


@pytest.mark.parametrize("text", ["", ",", ".", "1.2.3", "72..", "-", "five", "1e5", "٣", "1 000", "NaN", "Infinity"])
def test_odd_strings_are_not_numbers_for_the_readings_of_the_harness(text):
    assert plain_value(text) is None


def test_huge_numbers_are_compared_exactly():
    grade = get_grader("number")
    digits = "9" * 50_000
    assert grade(f"#### {digits}", f"#### {digits}").grade == "right"
    assert grade(f"#### {digits}.50", f"#### {digits}.5").grade == "right"
    assert grade(f"#### {digits}", f"#### {digits[:-1]}8").grade == "wrong"
    assert grade(f"#### -{digits}", f"#### {digits}").grade == "wrong"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("She has 64 - 35 = 29 left.\n#### 29", "29"),
        ("#### $1,234.50", "$1,234.50"),
        ("####18", "18"),
        ("#### 12 hours", "12"),
        (" 18 ", "18"),
        ("First 5, then 8, so 13.", "13"),
        ("She pays 18 dollars.", "18"),
        ("-5 degrees", "-5"),
        ("64 - 35 = 29\n#### none", None),
        ("#### 5 or so\n#### 6", "6"),
    ],
)
def test_the_standard_answer_gives_its_final_number(answer, number):
    stated = read_standard(answer)
    assert (stated and stated.text) == number


@pytest.mark.parametrize("text", ["5 = +", "x = 5 = + $", "5 = )x6", "#### 5/N", "5^N", "5 = N/6", "7 = )x0730"])
def test_what_is_cut_off_or_names_an_unknown_is_unclear_and_never_an_error(text):
    assert read_standard(text).readings == frozenset()
    assert get_grader("number")(text, "#### 5").grade == "ungraded"


UNCLEAR = (
    "4 and 9|5 or 6|2x+1|7:30|3:4|3-4|1, 2|(3, 4)|12/05/2024|May 5, 2024|√2|\\sqrt{2}|3π|x > 5|5 ± 1|10-3"
    "|2 feet 6 inches"
)


@pytest.mark.parametrize("answer", UNCLEAR.split("|"))
@pytest.mark.parametrize("extraction", ["final", "strict", "flexible"])
def test_a_standard_answer_of_several_numbers_is_never_compared_by_one_of_them(answer, extraction):
    grade = get_grader("number", extraction=extraction)
    assert why_unclear(f"#### {answer}", grade)
    for number in re.findall(r"[0-9]+", answer):
        for completion in (f"#### {number}", f"#### -{number}", f"It is {number}", f"#### {number}/7"):
            assert grade(completion, f"#### {answer}").grade == "ungraded", completion
    if extraction == "final":
        assert grade(f"So it is clear.\n#### {answer}.", f"#### {answer}").grade == "right"


def test_a_grade_keeps_its_evidence():
    grade = get_grader("number")
    assert grade("#### 34", "#### 29") == Grade("wrong", "34", "29", '"34" was given, "29" expected.')
    assert grade("#### 29.0", "#### 29").grade == "right"


def test_a_missing_number_is_ungraded_and_the_explanation_says_where():
    grade = get_grader("number", extraction="strict")
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
        ("Ｂ", "B"),
        ("Answer: B", "B"),
        ("The answer is **B**.", "B"),
        ("Option (C) is right, so the answer is (C).", "C"),
        ("B) Paris", "B"),
        ("It must be (D), I think.", "D"),
        ("So 4.\n#### D", "D"),
        ("Answer: I think it is D", "D"),
        ("The answer is (B) Paris. A common error is to answer A.", "B"),
        ("Answer: A is wrong; it is C", "C"),
        (r"So we get $\boxed{D}$.", "D"),
        (r"\boxed{\text{D}}", "D"),
        ("I would choose option b", "B"),
        ("It's B", "B"),
        ("C is correct.", "C"),
        ("(A) is wrong, so (B)", "B"),
        ("(A) and (C) are wrong, so it is (B)", "B"),
        ("<think>Answer: A</think>Answer: B", "B"),
        ("The answer is not A, it is (C)", "C"),
        ("**Final answer:** (E) none of these", "E"),
        ("A) Rome\nB) Paris", None),
        ("Answer: A or B", None),
        ("I think a cat", None),
        ("The answer is Apple", None),
        ("A common error", None),
        ("", None),
    ],
)
def test_choice_reads_the_letter_that_a_text_chooses(text, letter):
    chosen = read_choice(text)
    assert (chosen and chosen.value) == letter


def test_a_letter_in_a_tag_is_chosen_and_a_further_question_does_not_choose():
    assert read_choice("I think <answer>B</answer>").value == "B"
    assert read_choice("B\n\nQ: What now?").value == "B"
    assert read_choice("The answer is B.\nQuestion: x\nAnswer: B").value == "B"
    assert read_choice("The answer is B.\nQuestion: x\nAnswer: C").readings == frozenset()
    assert read_choice("Question: x\nAnswer: C").value == "C"


def test_choice_grades_letters():
    assert get_grader("choice")("The answer is (B).", "B").grade == "right"
    assert get_grader("choice")("(A)", "Answer: B").grade == "wrong"
    several = get_grader("choice")("A) or B)?\nA) x\nB) y", "B")
    assert (several.grade, several.extracted) == ("ungraded", "A, B")
    assert get_grader("choice")("I cannot say", "B").extracted is None


def test_exact_ignores_white_space_and_optionally_case():
    assert get_grader("exact")("  New\n York ", "New York").grade == "right"
    assert get_grader("exact")("new york", "New York").grade == "wrong"
    assert get_grader("exact", ignore_case=True)("new york", "It is there.\n#### New York").grade == "right"
    assert get_grader("exact")("x", "####").grade == "ungraded"
    assert get_grader("exact")("<think>New York", "New York").grade == "ungraded"


@pytest.mark.parametrize(
    "completion",
    ["Paris.", "**Paris**", '"Paris"', "Answer: Paris", "The answer is Paris.", r"It is \boxed{Paris}", "####Paris ."],
)
def test_exact_reads_words_as_a_person_does(completion):
    assert get_grader("exact")(completion, "Paris").grade == "right"
    assert get_grader("exact")(completion, "Rome").grade == "wrong"


EMPHASIS = r"""
**Answer:** @|**Answer**: @|__Answer:__ @|__Answer__: @|*Answer:* @|_Answer:_ @|**_Answer:_** @|**Answer:**@
**Answer: @**|***Answer: @***|__Answer: @__|Answer: **@**|Answer: _@_|__@__|_@_|**Answer:** **@**|- **Answer:** @
**Answer:**~@|**Answer:~@**|**The answer is:** @|**The answer is @.**|**The answer is @.** It is big.|_The answer is_ @
**So the answer is: @.**|**Final answer: @**|__Final answer: @__|**Réponse :** @|**答案：** @|**答案：**@
**Answer:** \boxed{@}|#### **Answer:** @|#### \boxed{@}
"""


@pytest.mark.parametrize("reply", EMPHASIS.strip().replace("\n", "|").split("|"))
def test_exact_ignores_emphasis_that_begins_before_the_answer(reply):
    for words in ("Paris", "St. Ives", "snake_case", "巴黎"):
        completion = reply.replace("~", "\n").replace("@", words)
        assert get_grader("exact")(completion, words).grade == "right", completion
        assert get_grader("exact")(completion, "Rome").grade == "wrong"


def test_exact_keeps_asterisks_and_underscores_that_are_no_emphasis():
    assert get_grader("exact")("Answer: **args", "**args").grade == "right"
    assert get_grader("exact")("**Answer**: a **big** one", "a **big** one").grade == "right"
    assert get_grader("exact")("*Answer: 2*3*", "2*3").grade == "right"
    assert get_grader("exact")("__init__", "__init__").grade == "right"
    assert get_grader("exact")("* Answer: 2 * 3", "2 * 3").grade == "right"
    assert get_grader("exact")("init", "__init__").grade == "wrong"
    assert get_grader("exact")("final_answer: Paris", "Paris").grade == "wrong"


@pytest.mark.parametrize(
    "words", ["St. Louis", "J. K. Rowling", "Yahoo! Inc.", "e.g. this", "What? No!", "Mr. T. of St. Ives", "Paris"]
)
def test_exact_reads_a_full_stop_within_an_answer(words):
    for reply in (
        f"The answer is {words.rstrip('.')}.",
        f"The answer is {words}",
        f"So the answer is {words.rstrip('.')}. It is big. Very big.",
    ):
        assert get_grader("exact")(reply, words).grade == "right"
        assert get_grader("exact")(reply, "Rome").grade == "wrong"


def test_exact_reads_no_answer_that_the_reply_does_not_state():
    assert get_grader("exact")("The answer is Paris. A common wrong answer is Rome.", "Paris").grade == "right"
    assert get_grader("exact")("I don't think the answer is Rome.", "Rome").grade == "wrong"


def test_exact_knows_one_form_of_each_letter():
    assert get_grader("exact")("cafe\u0301", "caf\u00e9").grade == "right"
    # Python sorts accents in quadratic time, so a text with more than 30 in a row stays as it is.
    assert composed(30 * "\u0301" + "e\u0301").endswith("\u0301\u00e9")
    assert composed(31 * "\u0301" + "e\u0301").endswith("e\u0301")
    assert get_grader("exact")("don’t", "don't").grade == "right"
    assert get_grader("exact")("x²", "x2").grade == "wrong"


def test_regex_compares_the_group_and_not_what_stands_around_it():
    either = get_grader("regex", pattern=r"(?:x|Answer)[:=] (\S+)")
    assert either("Answer: 5", "x= 5").grade == "right"
    assert either("Answer: 5", "x= 6").grade == "wrong"
    assert either("Answer: 5", "x= 5").extracted == "5"


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
        ("number", {"extraction": "loose"}, "final, strict, flexible or original"),
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
@given(
    TEXTS | st.text(HARD, max_size=40),
    TEXTS | st.text(HARD, max_size=20),
    st.sampled_from(["number", "exact", "choice"]),
)
def test_every_text_gets_a_grade(completion, answer, name):
    assert get_grader(name)(completion, answer).grade in ("right", "wrong", "ungraded")


def graded(completion: str, answer: str, extraction: str = "final") -> str:
    return get_grader("number", extraction=extraction)(completion, answer).grade


RIGHT = [
    # the end of a sentence, and punctuation
    ("The order comes to $29.00.", "29"),
    ("It is 18.50.", "18.50"),
    ("It is 3.142.", "3.142"),
    ("The bill is 1,250.75.", "1250.75"),
    ("It is 18...", "18"),
    ("The total is 72. Is anything unclear...", "72"),
    ("So we get:\n$$\n72\n$$", "72"),
    ("It is 5!", "5"),
    # fractions, powers
    ("Each part is 3/4 of a metre.", "3/4"),
    ("It is 0.5.", "1/2"),
    (r"The answer is $\frac{1}{2}$.", "0.5"),
    (r"$2\frac{1}{2}$", "5/2"),
    (r"$-\dfrac12$", "-1/2"),
    ("#### 2 1/2", "2.5"),
    ("2½", "2.5"),
    ("10³", "1000"),
    ("10⁻²", "0.01"),
    (r"$3 \times 10^{2}$", "300"),
    ("It costs 1.5e6 dollars", "1500000"),
    ("It holds 5km2.", "5 km2"),
    ("2 + 3 = 5 and 5 - 1 = 4", "4"),
    ("#### 1. First\nx\n#### 2. Then\ny\n#### 72", "72"),
    ("Page 3 has 18 words", "18"),
    ("1e0400", "1" + 400 * "0"),
    # the writing of other countries
    ("C'est 12 000 euros", "12000"),
    ("12'000", "12000"),
    ("12’000", "12000"),
    (r"1{,}234", "1234"),
    (r"$1\,234$", "1234"),
    ("1.234,56 €", "1234.56"),
    ("1.234.567", "1234567"),
    ("1\u202f234,5", "1234.5"),
    ("12.000", "12.000"),
    ("3,5", "3,5"),
    ("١٨", "18"),
    ("１８", "18"),
    ("答案是18。", "18"),
    # signs and units
    ("2 − 7 = −5", "-5"),
    ("–5", "-5"),
    ("#### -5", "−5"),
    ("-$5", "-5"),
    ("negative 5", "-5"),
    ("+5", "5"),
    ("The area is 12 m^2", "12 m²"),
    ("The area is 12 square meters", "12 m^2"),
    ("9.8 m/s^2", "9.8"),
    ("It is 20 percent", "20%"),
    ("It is 20%", "20"),
    ("20 dollars", "$20"),
    ("90°", "90"),
    # where the answer is
    ("<think>\nmaybe #### 10\n</think>\n\n5 + 12 = 17\n#### 17", "17"),
    ("It may be 10</think>It is 17", "17"),
    ("Answer: 5 (out of 120)", "5"),
    ("**Answer:** 8\n\nThis follows from 3 + 5, and 2 are left.", "8"),
    ("**Final Answer**\n\n8", "8"),
    ("<answer>18</answer> of 20", "18"),
    (r"Therefore the answer is: $\boxed{18}$. Problem 2 is next.", "18"),
    ("\\boxed{18}\nThere are 3 ways to see that.", "18"),
    ("The answer is 18.\n\\boxed{}", "18"),
    ("#### Step 1: find 5\n#### Step 2: add 3\nThe answer is 8", "8"),
    ("Answer: Natalia sold 48 clips. She sold 24 more, so 72.", "72"),
    ("After 3 days she has 18 eggs.", "18"),
    ("The two friends have 18 eggs.", "18"),
    (r"So she has \frac{3}{4} left.", "3/4"),
    ("So she has ¾ left.", "3/4"),
    ("3 bags x 6 eggs = 18 eggs", "18"),
    ("64-35=<<64-35=29>>29", "29"),
    ("It is 18, not 20", "18"),
    ("| total | 18 |", "18"),
]
WRONG = [
    ("#### 1/3", "1/2"),
    ("#### 1", "1/2"),
    ("#### 10^2", "10^3"),
    ("#### 1e3", "1e6"),
    ("#### 2 1/4", "2 1/2"),
    ("#### 1 500", "1 000"),
    ("It is 5", "−5"),
    ("It is 3.142", "3.5"),
    ("It is 30%", "20%"),
    ("Answer: 5 (out of 120)", "120"),
]
NEITHER = [
    ("It is 35 litres", "3,5"),
    ("It is 3.5 litres", "3,5"),
    ("Es sind 18,5", "185"),
    ("Das sind 12.000 Bäume", "12000"),
    ("It is 12", "12.000"),
    ("#### - 5", "-5"),
    ("#### 20%", "20 dollars"),
    ("It is 20%", "0.2"),
    ("720 minutes", "12 hours"),
    ("12 m", "12 m^2"),
    ("1.5 million", "1500000"),
    ("1.5 million", "1.5"),
    ("10k", "10"),
    ("2.5M", "2.5"),
    ("3 quarters", "3"),
    ("2 and a half", "2"),
    ("#### 18 and 20", "18"),
    ("#### 18:30", "18"),
    ("#### 5:1", "5"),
    ("18 eggs in 2 days", "18"),
    ("18 eggs in 2 days", "2"),
    ("There are twelve eggs in 3 boxes.", "12"),
    ("So x <= 5", "5"),
    ("x != 5", "5"),
    ("5 GB", "5 MB"),
    ("In 3 days he eats twenty-one eggs.", "21"),
    ("5 out of 6", "6"),
    ("from 20 to 30", "30"),
    ("20–30", "20"),
    ("3 hours and 30 minutes", "30"),
    ("x = 5 or x = -5", "-5"),
    ("more than 5", "5"),
    ("5 or more", "5"),
    ("It is 5 squared.", "5"),
    ("5 km2", "5 m2"),
    ("5e401", "5"),
    ("5 factorial", "5"),
    ("x = 5, y = 6", "6"),
    ("3 + 2 = 5; x = 6", "6"),
    ("The answer is not 18", "18"),
    ("#### 10\nNo.\n#### 72", "72"),
    ("#### 72\n\nQuestion: Tom has 5.\nAnswer: 5", "72"),
    ("It is 72.\n\nQuestion: Tom has 5 hats?", "72"),
    ("There are 5. Answer: unknown", "5"),
    ("<think>so #### 5", "5"),
    ("|-5|", "-5"),
    ("CO2", "2"),
    ("v1.2.3", "2.3"),
    ("5 May 2024", "5"),
    ("\\boxed{}", "5"),
    ("three", "3"),
]


@pytest.mark.parametrize(
    ("completion", "answer", "grade"),
    [(*pair, name) for name, pairs in (("right", RIGHT), ("wrong", WRONG), ("ungraded", NEITHER)) for pair in pairs],
)
def test_the_final_answer_is_read_as_a_person_reads_it(completion, answer, grade):
    assert graded(completion, f"#### {answer}") == grade


@pytest.mark.parametrize(
    ("words", "worth"),
    [
        ("hundred 百", "100"),
        ("thousand thousands k mille tausend mil 千 тысяч тыс", "1000"),
        ("万 萬", "10000"),
        ("lakh lakhs", "100000"),
        ("million millions mio mn millionen millones миллион", "1000000"),
        ("crore crores", "10000000"),
        ("亿 億", "100000000"),
        ("billion billions bn milliard milliards milliarden", "1000000000"),
        ("trillion trillions trn", "1000000000000"),
        ("dozen dozens", "12"),
        ("half halves", "1/2"),
        ("third thirds", "1/3"),
        ("quarter quarters fourth fourths", "1/4"),
        ("fifth fifths", "1/5"),
        ("sixth sixths", "1/6"),
        ("seventh sevenths", "1/7"),
        ("eighth eighths", "1/8"),
        ("ninth ninths", "1/9"),
        ("tenth tenths", "1/10"),
        ("hundredth hundredths", "1/100"),
        ("thousandth thousandths", "1/1000"),
    ],
)
def test_words_that_scale_a_number_have_their_worth(words, worth):
    assert {SCALES[word] for word in words.split()} == {Fraction(worth).as_integer_ratio()}


def test_the_final_answer_is_the_default_everywhere():
    from nlft.auditing.settings import AuditSettings
    from nlft.collect.judging import JudgeSettings
    from nlft.collect.sampling import SamplingSettings
    from nlft.results.settings import EvaluationSettings
    from nlft.training.settings import ReFTOptions

    holders = (ExtractionSettings, SamplingSettings, JudgeSettings, AuditSettings, EvaluationSettings, ReFTOptions)
    assert {next(f.default for f in fields(holder) if f.name == "extraction") for holder in holders} == {"final"}
    assert get_grader("number")("The answer is 18.", "18").grade == "right"


def test_the_readings_of_the_harness_read_no_thoughts():
    for extraction in ("strict", "flexible"):
        assert graded("#### 10 </think>\n#### 17", "#### 17", extraction) == "right"
        assert graded("<think>#### 17", "#### 17", extraction) == "ungraded"


@pytest.mark.parametrize("name", ["exact", "choice"])
def test_thoughts_are_no_answer(name):
    assert get_grader(name)("<think>Answer: A</think>Answer: B", "B").grade == "right"
    assert get_grader(name)("<think>B", "B").grade == "ungraded"


def test_a_pattern_reads_thoughts_only_if_it_names_them():
    assert get_grader("regex", pattern="x = ([0-9])", which="first")("x = 1</think>x = 2", "x = 2").grade == "right"
    assert get_grader("regex", pattern="</think>(.)")("x</think>y", "</think>y").grade == "right"


def test_original_takes_any_scripts_digits_and_splits_before_it_removes_commas():
    assert extract_original("It is ٣.") == "٣"
    assert extract_original("7 ##,## 5 6") == "6"
    assert extract_original("#### 1,234 and 5") == "1234"


def test_a_reply_that_cannot_be_compared_is_undecided_and_one_without_an_answer_is_not():
    grader = get_grader("number")
    assert is_undecided(grader("It is 4 or 9", "#### 4"), grader)
    assert is_undecided(grader("It is 4", "#### 4 and 9"), grader)
    assert is_undecided(grader("I cannot say", "#### many"), grader)
    assert not is_undecided(grader("I cannot say", "#### 4"), grader)
    assert not is_undecided(grader("It is 5", "#### 4"), grader)
    assert not is_undecided(get_grader("label")("It is 5", "#### 4"), get_grader("label"))


def test_standard_answers_that_are_not_one_number_are_listed_where_numbers_are_usual():
    clear = [Question(n, "?", f"#### {n}") for n in range(4)]
    listed = unclear_numbers([*clear, Question("a", "?", "#### 4 and 9"), Question("b", "?", "12.000")])
    assert [line.split(":")[0] for line in listed] == ["'a'", "'b'"]
    assert "4 and 9" in listed[0]
    assert unclear_numbers([Question("a", "?", "Paris"), Question("b", "?", "Rome"), clear[0]]) == []


REPEATED = (
    "1|9,|1 |1 000 |$|\\|\\frac|\\frac{1}{2}|{|{}|(|(a|((|<|<a|<<|</think>|<think>|####|#### 1 |answer:|answer: 1 |"
    "answer is |the answer is 1 |\\boxed{|\\boxed{1}|\n| |\t|*|**|-|- |–|=|1 = 2 |x=1,|1/|1^|½|¹|√|٣|１|a1|1a|not 1 |"
    "1 and |"
    "...|1. |"
    "question:|\nquestion: 1|final answer |'|1e9|e|_|a_|%|1 m^2 |and a half |a.|a-|A |(A) |A is wrong |"
    "not A |option |\u0301\u0323"
)


@pytest.mark.parametrize("name", ["final", "strict", "flexible", "original", "exact", "choice"])
def test_the_time_grows_no_faster_than_the_text(name):
    numbers = name not in ("exact", "choice")
    grader = get_grader("number", extraction=name) if numbers else get_grader(name)
    for piece in REPEATED.split("|"):
        # A quadratic reader that takes over 2 s for all of the text takes over 0.02 s for a tenth of it.
        if any(_seconds(grader, _repeated(piece, 10_000), "5") < 0.02 for _ in range(2)):
            continue
        assert _seconds(grader, _repeated(piece, 100_000), "5") < 1, piece


def _repeated(piece, size):
    return (piece * (size // len(piece)))[: size - 1] + "5"


def _seconds(grader, text, answer):
    began = time.process_time()
    grader(text, answer)
    return time.process_time() - began


def test_a_long_standard_answer_is_read_as_fast():
    for name in ("final", "strict"):
        for piece in ("1 and ", "1/", "{", "answer: 1 "):
            text = piece * (100_000 // len(piece)) + "5"
            assert _seconds(get_grader("number", extraction=name), "5", text) < 1, piece


def test_no_reading_has_changed_unseen():
    changed = [
        f"was: {was}\nis:  {now}"
        for was, now in zip(KEPT.read_text(encoding="utf-8").splitlines(), readings(), strict=True)
        if was != now
    ]
    assert not changed, f"{len(changed)} have; if all are right, run {KEPT.name}'s helper with --write:\n" + "\n".join(
        changed[:20]
    )
