"""Revisions: which ones are kept, why the others are refused, and what the command writes."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.scripted_model import ScriptedModel, serving
from nlft import cli
from nlft.collect.revising import REVISION_PROMPT, RevisionSettings, refuse_revision, revise_examples, revision_request
from nlft.data.grading import get_grader
from nlft.data.records import Example, read_examples, write_examples
from nlft.errors import ProblemsError, UserError
from nlft.models.answerer import Generated

STANDARD = (
    "Weng earns 12/60 = $<<12/60=0.2>>0.2 per minute.\n"
    "Working 50 minutes, she earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10"
)
OWN = (
    "An hour brings 12 dollars, so a minute brings 12 / 60 = 0.2 dollars.\nFifty minutes bring 50 * 0.2 = 10.\n#### 10"
)
WRONG = Example(
    id="weng",
    prompt="Weng earns $12 an hour. How much for 50 minutes?",
    completion="She earned 50 * 12 = 600.\n#### 600",
    label=False,
    answer=STANDARD,
    judgment='The step "50 * 12 = 600" takes minutes for hours.',
)


def reason(text, *, finish="stop", standard=STANDARD, grader="number", **settings):
    options = {"extraction": "flexible"} if grader == "number" else {}
    return refuse_revision(
        Generated(text, 9, finish), standard, get_grader(grader, **options), RevisionSettings(**settings)
    )


def numbered(count):
    return [replace(WRONG, id=f"e{i}", prompt=f"Question {i}: {WRONG.prompt}") for i in range(count)]


REFUSED = {
    "cut off": [(OWN, "length"), (OWN, "content_filter"), ("#### 10", "length")],
    "wrong": [OWN.replace("#### 10", "#### 12"), "", "#### 600", "I do not know how to say it."],
    "bare answer": [
        "#### 10",
        "10\n#### 10",
        "The answer:\n#### 10",
        "The whole of the fifty minutes brings her, as they say, 10 dollars.\n#### 10",  # it does not say how
        "The answer is 10.\n#### 10",  # a sentence, but too short beside the standard answer
        "\n\n#### 10\nAn hour brings 12 dollars, so a minute brings 12 / 60 = 0.2 dollars; 50 * 0.2 = 10.\n#### 10",
    ],
    "several answers": [
        OWN.replace(".\nFifty", ".\n#### 0.2\nFifty"),
        f"{OWN}\n#### 10",
        OWN.replace("#### 10", "#### 600\nThe answer is 10."),
    ],
    "wrong step": [OWN.replace("50 * 0.2 = 10", "5 * 0.2 = 10"), f"First, 60 - 12 = 50.\n{OWN}"],
    "about the task": [
        f"The first attempt took minutes for hours. {OWN}",
        OWN.replace("so a minute", "and as the reference solution says, a minute"),
        f"50 * 12 is wrong. {OWN}",
        f"Correction: {OWN}",
    ],
    "copied": [
        STANDARD,
        STANDARD.replace("<<12/60=0.2>>", "").replace("<<0.2*50=10>>", ""),
        STANDARD.upper().replace("\n", "\n\n").replace("12/60 = ", "12 / 60="),
        f"Sure! Here it is:\n{STANDARD}",
        f"Let me think about that question, which is about money and time, and then do it step by step.\n{STANDARD}",
        STANDARD.replace("Working", "By working"),
    ],
}


@pytest.mark.parametrize(("why", "said"), [(why, said) for why in REFUSED for said in REFUSED[why]])
def test_an_unusable_revision_is_refused_and_the_reason_named(why, said):
    text, finish = (said, "stop") if isinstance(said, str) else said
    assert reason(text, finish=finish) == why


@pytest.mark.parametrize(
    "text",
    [
        OWN,
        "12 / 60 * 50 = 0.2 * 50 = 10 dollars\n#### 10",
        OWN.replace("#### 10", ""),
        "Every minute is worth 0.2 dollars to her, and she worked for fifty of them.\n#### 10",  # on the way, in words
    ],
)
def test_a_right_completion_with_its_reasoning_in_other_words_is_kept(text):
    assert reason(text) is None


def test_least_reasoning_and_most_alike_can_be_set():
    short = "At 0.2 that just makes 10.\n#### 10"
    assert reason(short) == "bare answer"
    assert reason(short, least_reasoning=0.1) is None
    assert reason(OWN, least_reasoning=1) is None
    assert reason("12 / 60 * 50 = 10 dollars\n#### 10", least_reasoning=1) == "bare answer"
    assert reason(OWN, most_alike=0.2) == "copied"
    assert reason(STANDARD.replace("Working", "By working"), most_alike=1) is None
    assert reason(STANDARD, most_alike=1) == "copied"


def test_a_standard_answer_without_reasoning_cannot_be_copied():
    assert reason("He eats half of 8, which is 4.\n#### 4", standard="#### 4") is None
    assert reason("8 / 2 = 4", standard="4") is None
    assert reason("#### 4", standard="#### 4") == "bare answer"
    assert reason("B", standard="B", grader="choice") == "bare answer"
    assert reason("It must be even, so B.\n#### B", standard="B", grader="choice") is None


@settings(deadline=None)
@given(st.lists(st.sampled_from([" ", "  ", "\t", " \u00a0"]), min_size=60, max_size=60), st.booleans())
def test_other_spaces_and_letters_still_make_a_copy(spaces, shout):
    words = STANDARD.partition("####")[0].split()
    text = "".join(word + space for word, space in zip(words, spaces, strict=False)) + "\n#### 10"
    assert reason(text.upper() if shout else text) == "copied"


def test_the_model_sees_question_attempt_judgment_and_standard_answer_and_earlier_turns_stay():
    text = revision_request(WRONG, REVISION_PROMPT)
    assert all(part in text for part in (WRONG.prompt, WRONG.completion, WRONG.judgment, STANDARD))
    chat = replace(
        WRONG,
        prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "{answer}?"}],
        completion=[{"role": "assistant", "content": "{prompt}"}],
    )
    assert revision_request(chat, "{prompt}|{completion}|{answer}") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{{answer}}?|{{prompt}}|{STANDARD}"},
    ]


def test_each_try_has_its_own_key_and_every_refusal_is_reported():
    tries = {0: [OWN], 1: ["#### 10", OWN], 2: ["#### 600", STANDARD, "#### 10", ("so", "length")]}
    model = ScriptedModel(lambda text, nth: tries[int(re.search(r"Question (\d)", text)[1])][nth])
    revised = revise_examples(numbered(3), model, RevisionSettings(tries=4))
    assert [e.revision for e in revised.examples] == [OWN, OWN, None]
    assert revised.kept == ["e0", "e1"]
    assert revised.refused == {"e2": ["wrong", "copied", "bare answer", "cut off"]}
    keys = [request.key for request in model.requests]
    assert len(set(keys)) == len(keys) == 3 + 2 + 1 + 1
    assert revised.summary_lines() == [
        "2 of 3 revisions kept",
        "not kept: 1; their tries: 1 wrong, 1 copied, 1 bare answer, 1 cut off",
        "  'e2' (wrong, copied, bare answer, cut off)",
    ]


def test_only_wrong_examples_without_a_revision_are_revised_without_overwrite():
    right, done = replace(WRONG, id="right", label=True), replace(WRONG, id="done", revision="Mine.\n#### 10")
    model = ScriptedModel(lambda text, nth: OWN)
    assert revise_examples([right, done], model, RevisionSettings()).examples == [right, done]
    assert not model.requests
    assert [e.revision for e in revise_examples([right, done], model, RevisionSettings(overwrite=True)).examples] == [
        None,
        OWN,
    ]
    bare = ScriptedModel(lambda text, nth: "#### 10")
    assert revise_examples([done], bare, RevisionSettings(overwrite=True)).examples == [done]


def test_a_revision_takes_the_form_of_its_completion():
    chat = replace(
        WRONG,
        prompt=[{"role": "user", "content": WRONG.prompt}],
        completion=[{"role": "assistant", "content": WRONG.completion}],
    )
    revised = revise_examples([chat], ScriptedModel(lambda text, nth: OWN), RevisionSettings()).examples
    assert revised[0].revision == [{"role": "assistant", "content": OWN}]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"grader": "label"}, "--grader label "),
        ({"temperature": 0.0}, "--tries 4 at --temperature 0"),
        ({"revision_prompt": "Do it."}, "has no {answer}"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, told):
    with pytest.raises((UserError, ProblemsError), match=re.escape(told)):
        RevisionSettings(**settings)


def test_the_command_writes_kept_revisions_and_names_the_reasons_for_the_rest(tmp_path, capsys):
    path, out = tmp_path / "e.jsonl", tmp_path / "revised.jsonl"
    write_examples(path, numbered(4))
    with serving(lambda text, nth: OWN if "Question 2" not in text else "#### 10") as (url, bodies):
        argv = ["revise", path, "--out", out, "--base_url", url, "--model_name_or_path", "m", "--tries", "2"]
        assert cli.main(list(map(str, argv))) == 0
    told = capsys.readouterr().out
    assert "revised.jsonl: 3 of 4 revisions kept\n" in told
    assert "'e2' (bare answer, bare answer)" in told
    assert len(bodies) == 5
    assert [e.revision for e in read_examples(out)] == [OWN, OWN, None, OWN]


def test_examples_without_a_judgment_are_refused_with_the_judge_command(tmp_path, capsys):
    path = tmp_path / "e.jsonl"
    write_examples(path, [replace(WRONG, judgment=None)])
    assert cli.main(["revise", str(path), "--model_name_or_path", "m", "--base_url", "http://127.0.0.1:9/v1"]) == 2
    assert "nlft judge" in capsys.readouterr().err
