"""The judge without a model: its findings, their wording, and texts that it must not report."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nlft.collect import arithmetic, rules
from nlft.collect.rules import judge_by_rules
from nlft.core.prompts import without_corrections
from nlft.data.grading import get_grader
from nlft.data.problems import generate_problems

QUESTION = "Tom has 64 marbles and gives 35 of them away. How many marbles does Tom have left?"
ANSWER = "Tom has 64 - 35 = 29 marbles left.\n#### 29"
IN_TWO_STEPS = "The pack holds 3 * 4 = 12 eggs.\nWith the others there are 12 + 5 = 17 eggs.\n#### 17"
SOLVED = generate_problems(400, seed=21)
CORRECTED = "Correction: the answer is 29."


def judged(completion, answer=ANSWER, **options):
    return judge_by_rules(QUESTION, completion, answer, **options)


def quotes(judgment):
    return re.findall('"([^"]*)"', without_corrections(judgment))


EXPECTED = [
    (
        "64 - 35 = 34\n#### 34",
        'The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.\n'
        f'The final answer "#### 34" is wrong.\n{CORRECTED}',
    ),
    (
        "Tom has **64 - 35 = 34** marbles.\n\n#### 34",
        'The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.\n'
        f'The final answer "#### 34" is wrong.\n{CORRECTED}',
    ),
    ("#### 34", f'The final answer "#### 34" is wrong.\n{CORRECTED}'),
    ("Tom has 34 marbles left.", f'The final answer "34" is wrong.\n{CORRECTED}'),
    ("#### 2,900", f'The final answer "#### 2,900" is wrong.\n{CORRECTED}'),
    ("#### -29", f'The final answer "#### -29" is wrong.\n{CORRECTED}'),
    ("#### $29.50", f'The final answer "#### $29.50" is wrong.\n{CORRECTED}'),
    ("I cannot say.", f"The response never states a final answer.\n{CORRECTED}"),
    (" ", f"The response never states a final answer.\n{CORRECTED}"),
    (
        "64 + 35 = 99\n#### 99",
        f'The step "64 + 35 = 99" is not a step of the solution.\nThe final answer "#### 99" is wrong.\n{CORRECTED}',
    ),
    (
        "First, 64 + 1 = 65. Then 65 - 35 = 31.\n#### 31",
        'The step "65 - 35 = 31" is miscalculated.\nCorrection: 65 - 35 = 30.\n'
        f'The final answer "#### 31" is wrong.\n{CORRECTED}',
    ),
    (
        "64 - 35 = 34\n34 + 2 = 36\n#### 36",
        'The step "64 - 35 = 34" is miscalculated.\nCorrection: 64 - 35 = 29.\n'
        f'The final answer "#### 36" is wrong.\n{CORRECTED}',
    ),
    (
        "Let us see. Let us see. Let us see.\n#### 30",
        f'The final answer "#### 30" is wrong.\n{CORRECTED}\nThe response repeats "Let us see." again and again.',
    ),
]


@pytest.mark.parametrize(("completion", "judgment"), EXPECTED)
def test_findings_about_a_wrong_completion_come_most_important_first(completion, judgment):
    assert judged(completion) == judgment


MISCALCULATED = [
    ("3 x 4 = 11", "3 x 4 = 11", "3 x 4 = 12"),
    ("3 × 4 = 11", "3 × 4 = 11", "3 × 4 = 12"),
    ("3*4=11", "3*4=11", "3*4 = 12"),
    ("12 ÷ 4 = 4", "12 ÷ 4 = 4", "12 ÷ 4 = 3"),
    ("He pays $5 * 3 = $16 for it.", "$5 * 3 = $16", "$5 * 3 = $15"),
    ("1,200 / 4 = 400", "1,200 / 4 = 400", "1,200 / 4 = 300"),
    ("3 + 4 + 5 = 13", "3 + 4 + 5 = 13", "3 + 4 + 5 = 12"),
    ("2 * (3 + 4) = 10", "2 * (3 + 4) = 10", "2 * (3 + 4) = 14"),
    ("(2 * (3 + 4) = 10)", "2 * (3 + 4) = 10", "2 * (3 + 4) = 14"),
    ("10% of 50 = 6", "10% of 50 = 6", "10% of 50 = 5"),
    ("1.5 + 2.25 = 3.76", "1.5 + 2.25 = 3.76", "1.5 + 2.25 = 3.75"),
    ("5 apples + 3 apples = 9 apples", "5 apples + 3 apples = 9 apples", "5 apples + 3 apples = 8"),
    ("5 boys + 3 girls = 9 children", "5 boys + 3 girls = 9", "5 boys + 3 girls = 8"),
    ("64 - 35 marbles = 34 marbles left", "64 - 35 marbles = 34 marbles", "64 - 35 marbles = 29"),
    ("Tom has 64 - 35 = 34 more.", "64 - 35 = 34", "64 - 35 = 29"),
    ("that's 5*5 = 26", "5*5 = 26", "5*5 = 25"),
    ("a total of 3 + 4 = 8", "3 + 4 = 8", "3 + 4 = 7"),
    ("4 hours * $20/hour = $90", "4 hours * $20/hour = $90", "4 hours * $20/hour = $80"),
    ("6 days/week * 4 weeks = 26 days", "6 days/week * 4 weeks = 26 days", "6 days/week * 4 weeks = 24"),
    (
        "8 jobs * 9 minutes per job = 71 minutes",
        "8 jobs * 9 minutes per job = 71 minutes",
        "8 jobs * 9 minutes per job = 72",
    ),
    ("8 hours * 5 days = 41 hours", "8 hours * 5 days = 41 hours", "8 hours * 5 days = 40"),
    ("It is $1,200 - $300 = $800 in total", "$1,200 - $300 = $800", "$1,200 - $300 = $900"),
    ("$$64 - 35 = 34$$", "64 - 35 = 34", "64 - 35 = 29"),
    ("3 + 4 = 8 + 5 = 13", "3 + 4 = 8 + 5", "3 + 4 = 7"),
    (r"\(3 \times 4 = 11\)", r"3 \times 4 = 11", r"3 \times 4 = 12"),
    (r"\[ 12 \div 4 = 4 \]", r"12 \div 4 = 4", r"12 \div 4 = 3"),
    ("$64 - 35 = 34$", "64 - 35 = 34", "64 - 35 = 29"),
    ("- 64 - 35 = 34", "64 - 35 = 34", "64 - 35 = 29"),
    ("1. 64 - 35 = 34", "64 - 35 = 34", "64 - 35 = 29"),
    ("Step 1: 64 - 35 = 34.", "64 - 35 = 34", "64 - 35 = 29"),
    ("Tom has 64-35=<<64-35=34>>34 left", "64-35=<<64-35=34>>34", "64-35 = 29"),
    ("5 - 8 = 3", "5 - 8 = 3", "5 - 8 = -3"),
    ("17 / 4 = 5", "17 / 4 = 5", "17 / 4 = 4.25"),
    ("10 / 3 = 3.5", "10 / 3 = 3.5", "10 / 3 = about 3.33"),
    ("2 * 3 = 6 + 1 = 8", "6 + 1 = 8", "6 + 1 = 7"),
]


@pytest.mark.parametrize(("completion", "step", "correction"), MISCALCULATED)
def test_a_miscalculated_step_is_quoted_verbatim_and_corrected_on_its_own_line(completion, step, correction):
    finding = f'The step "{step}" is miscalculated.\nCorrection: {correction}.'
    assert step in completion
    assert judged(f"{completion}\n#### 29") == finding


SOUND = [
    "3 x 4 = 12",
    r"\(12 \div 4 = 3\)",
    "$5 * 3 = $15 and 1,200 / 4 = 300",
    "3 + 4 = 7 + 5 = 12",
    "10 / 3 = 3.33, or 10 / 3 = 3.34",
    "50 * 10% = 5, and 5 / 50 = 10%",
    "20/50 * 100 = 40%",
    "5 + 3 = 4 + 4 = 8",
    "2x + 3 = 13, so x = 5",
    "x - 5 + 3 = 8",
    "5 + 3x = 8",
    "5 + ? = 8",
    "1 1/2 + 2 = 3.5",
    "1 hour + 30 minutes = 90 minutes",
    "$5 + 50 cents = $5.50",
    "2 dozen + 3 = 27",
    "twice 5 + 3 = 13",
    "half of 10 + 3 = 8",
    "100 / 3 = 33, rounded down",
    "60 miles/hour * 30 minutes = 30 miles",
    "2 hours * 60 = 120 minutes",
    "1 and 1/4 + 2 = 3.25",
    "9:30 + 2 = 11:30",
    "17 / 5 = 3 remainder 2",
    "2 ** 3 = 8 and 2^3 = 8",
    "5 + 3 => 9",
    "12 eggs = 1 dozen",
    "Total - 5 + 3 = 20",
    "3 + 4 = 7 = 2 + 5",
    "8 = 5 + 3",
    "A = 5 * 4 = 20",
    "200 - 20% = 160",
    "5 / 0 = 0",
    "007 - 5 = 2",
    "12 * 1000 = 12.000",
    "12.000 / 4 = 3000, and 12.000 / 4 = 3.000",
    "1,250 * 4 = 5",
    "$1.500 + $500 = $2.000",
    "12'500 * 2 = 25'000",
    r"12\,500 * 2 = 25\,000",
    "12 500 * 2 = 25 000",
    "1{,}250 * 4 = 5{,}000",
    "11 + 2 = 1 pm",
    "10 + 4 = 2 o'clock",
    "the average of 3 + 4 = 3.5",
    "log 100 + 1 = 3",
]


@pytest.mark.parametrize("text", SOUND)
def test_right_calculations_and_unclear_ones_are_never_reported(text):
    assert judged(f"{text}\n#### 29") is None


@pytest.mark.parametrize(
    "answer", ["34", "#### 34", "$34", "The answer is 34.", r"\boxed{34}", "Ines has 34 cups.\n#### 34"]
)
def test_a_standard_answer_without_calculations_knows_no_steps(answer):
    judgment = judged("12 + 5 = 17\n17 * 2 = 36\n#### 36", answer)
    assert '"12 + 5 = 17"' not in judgment
    assert 'The step "17 * 2 = 36" is miscalculated.' in judgment
    judgment = judged("12 + 5 = 17\n17 * 3 = 51\n#### 51", answer)
    assert "The step" not in judgment
    assert 'The final answer "#### 51" is wrong.' in judgment


def test_a_step_before_a_miscalculated_one_or_on_the_way_to_the_right_number_is_not_called_wrong():
    answer = "12 + 5 = 17\n17 * 2 = 34\n#### 34"
    for completion in (
        "12 * 2 = 24\n5 * 2 = 10\n24 + 10 = 35\n#### 35",
        "12 * 2 = 24\n5 * 2 = 10\n24 + 10 = 34\n#### 35",
    ):
        judgment = judged(completion, answer)
        assert "* 2" not in judgment
    assert '"34 + 1 = 35" is not a step' in judged("12 * 2 = 24\n24 + 10 = 34\n34 + 1 = 35\n#### 35", answer)


@pytest.mark.parametrize(
    ("written", "answer"),
    [("12.000", "12000"), ("3,5", "3.5"), ("1.234,50", "1234.5"), ("2,500", "2.5")],
)
def test_a_number_that_may_be_the_right_one_is_called_ambiguous_and_not_wrong(written, answer):
    judgment = judged(f"#### {written}", f"#### {answer}")
    assert "wrong" not in judgment
    assert f'"#### {written}" is ambiguous' in judgment
    assert answer not in without_corrections(judgment).replace(written, "")
    assert '"#### 12.001" is wrong' in judged("#### 12.001", "#### 12000")


def test_a_rounded_quotient_is_right_where_the_standard_answer_has_it_too():
    answer = "He fills 17/4 = 4 boxes.\n#### 4"
    assert judged("That is 17 / 4 = 4 boxes.\n#### 4", answer) is None
    assert '"17 / 4 = 5"' in judged("That is 17 / 4 = 5 boxes.\n#### 4", answer)


def test_a_right_answer_without_a_mark_is_reported():
    # The strict grader grades it ungraded, so its example is labelled wrong and needs a judgment.
    for completion in ("Tom has 29 marbles left.", "The answer is 29.", "####29", "#### $29", "#### **29**"):
        assert get_grader("number", extraction="strict")(completion, ANSWER).grade == "ungraded"
        assert "####" in without_corrections(judged(completion)), completion


def test_a_number_after_the_right_one_is_found_where_the_last_number_counts():
    completion = "#### 29\nSo it is 30."
    assert get_grader("number", extraction="flexible")(completion, ANSWER).grade == "wrong"
    assert '"30"' in judged(completion)


def test_an_unmarked_number_is_enough_if_the_standard_answer_has_no_mark():
    assert judged("Tom has 29 marbles.", "29") is None


def test_numbers_are_compared_by_value():
    assert judged("#### 29.00") is None
    assert judged("#### 1,200", "#### 1200") is None


def test_a_right_number_at_the_wrong_place_is_not_the_final_answer():
    assert '"#### 35"' in judged("64 - 35 = 29\n#### 35")


def test_a_step_whose_result_the_standard_answer_holds_belongs_to_the_solution():
    judgment = judged("3 * 4 = 12\n12 * 5 = 60\n#### 60", IN_TWO_STEPS)
    assert 'The step "12 * 5 = 60" is not a step of the solution.' in judgment
    assert '"3 * 4 = 12"' not in judgment


def test_only_the_stray_link_of_a_chain_is_quoted():
    assert 'The step "3 * 4 = 12" is not a step of the solution.' in judged("3 * 4 = 12 + 1 = 13\n#### 13")


def test_a_restated_question_is_not_a_final_answer_but_a_bare_number_is():
    assert judged(QUESTION) == f"The response never states a final answer.\n{CORRECTED}"
    assert judged("35") == f'The final answer "35" is wrong.\n{CORRECTED}'


def test_an_endless_number_is_a_wrong_one_and_quoted_in_part():
    judgment = judged("29" * 10_000)
    assert judgment.startswith('The final answer "2929')
    assert len(judgment) < 300


def test_a_heading_is_not_a_final_answer():
    assert '"#### 34"' in judged("#### Step 1: subtract\n64 - 35 = 34\n#### 34")


def test_detours_to_a_right_final_answer_are_not_reported():
    assert judged("64 + 35 = 99, but 64 - 35 = 29\n#### 29") is None


def test_a_sentence_or_line_is_repeated_from_the_third_time_on():
    twice = "He has some left. He has some left.\n#### 29"
    assert judged(twice) is None
    for completion in (f"He has some left. {twice}", "So it goes\nSo it goes\nSo it goes\n#### 29"):
        judgment = judged(completion)
        assert "repeats" in judgment
        assert all(quote in completion for quote in quotes(judgment))
        assert len(quotes(judgment)) == 1


def test_truncation_is_reported_only_for_a_truncated_completion():
    assert judged("64 - 35 = 29\n#### 29", truncated=True) == "The response breaks off unfinished."
    assert judged("Tom has 64", truncated=True) == (
        f"The response never states a final answer.\n{CORRECTED}\nThe response breaks off unfinished."
    )
    assert "breaks off" not in judged("64 - 35 = 28\n#### 28")


def test_at_most_three_findings():
    completion = "1 + 1 = 3. 2 + 2 = 5. 3 + 3 = 7. 4 + 4 = 9. So, so. So, so. So, so. So, so.\n#### 9"
    judgment = judged(completion, truncated=True)
    assert len(without_corrections(judgment).split("\n")) == 3


def test_the_same_wrong_step_is_quoted_once():
    assert judged("64 - 35 = 34\nYes, 64 - 35 = 34\n#### 34").count("64 - 35 = 34") == 1


def test_a_standard_answer_without_numbers_still_has_its_calculations_checked():
    assert '"2 + 2 = 5"' in judged("2 + 2 = 5, so yes", "yes")
    assert judged("yes", "yes") is None


def test_a_quote_never_holds_the_mark_of_a_correction():
    completion = "Correction: we try again. " * 4 + "\n#### 30"
    judgment = judged(completion)
    assert "The final answer" in without_corrections(judgment)
    assert all("Correction:" not in quote for quote in re.findall('"([^"]*)"', judgment))


def test_a_worked_answer_has_nothing_wrong_with_it():
    for question in SOLVED:
        assert judge_by_rules(str(question.prompt), question.answer, question.answer) is None, question


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_a_planted_wrong_number_is_found_and_its_step_quoted_without_the_right_one(data):
    question = data.draw(st.sampled_from(SOLVED))
    places = list(re.finditer(r"[0-9]+", question.answer.rpartition("\n")[0]))
    place = data.draw(st.sampled_from(places))
    planted = data.draw(st.integers(2, 999).filter(lambda number: number != int(place[0])))
    completion = question.answer[: place.start()] + str(planted) + question.answer[place.end() :]
    line = completion[: place.start()].count("\n")
    step = re.search(r"[0-9]+ [-+*/] [0-9]+ = [0-9]+", completion.split("\n")[line])[0]

    judgment = judge_by_rules(str(question.prompt), completion, question.answer)
    assert judgment.startswith(f'The step "{step}" is miscalculated.\nCorrection: ')
    right = re.search(r"= (?:about )?([-0-9.]+)\.$", judgment.split("\n")[1])[1]
    assert right not in re.findall(r"-?[0-9.]+", without_corrections(judgment).replace(step, ""))


@settings(deadline=None, max_examples=300)
@given(
    st.text(max_size=300)
    | st.text(st.sampled_from('0123456789 +-*/=().,%$x\\"#\n«<>ab'), max_size=300)
    | st.lists(
        st.sampled_from(["64", "35", "=", "-", "x", "of", "%", "####", "(", ")", "\n", ". ", "Correction:", '"'])
    ).map(" ".join)
)
def test_every_text_is_judged_and_quoted_verbatim(completion):
    judgment = judged(completion)
    verdicts = {get_grader("number", extraction=way)(completion, ANSWER).grade for way in ("strict", "flexible")}
    if "wrong" in verdicts or "ungraded" in verdicts:
        assert judgment is not None
        assert without_corrections(judgment).strip()
    if judgment is not None and '"' not in completion:
        assert all(quote in completion or quote == "####" for quote in quotes(judgment))


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "(",
            ")",
            "1",
            "1,",
            "1+",
            "1 = ",
            "=",
            "-",
            "#### ",
            " ",
            "\n",
            "a ",
            "1 a b c ",
            "So. ",
            "((1)) = ",
            "$",
        ),
        *("\\", "<<", "1.", "x ", "5 x 5 = 5 ", "9 * 9 = ", "**1", "/3", "%", "1:", "5 - ", "½", "0", ". "),
    ],
)
@pytest.mark.timeout(120)  # a pattern whose work grows with the square of the length takes many minutes
@pytest.mark.parametrize("answer", [ANSWER, "yes"])
def test_the_work_does_not_grow_with_the_square_of_the_length(piece, answer):
    judged((piece * 100_000)[:100_000], answer, truncated=True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("alphabet", ["0123456789+-*/= ", "01 =x().,%$\n", "abc ,.0=\n"])
def test_nor_does_it_on_random_characters(alphabet):
    judged("".join(random.Random(0).choices(alphabet, k=100_000)))


def test_no_pattern_needs_a_python_that_matches_possessive_groups_rightly():
    """Before 3.11.5 Python lets them match too much: "65." was a number with its full stop."""
    values = [*vars(rules).values(), *vars(arithmetic).values()]
    patterns = [value.pattern for value in values if isinstance(value, re.Pattern)]
    assert len(patterns) >= 10
    assert [pattern for pattern in patterns if re.search(r"(?<!\\)\)[*+?]\+|\(\?>", pattern)] == []
