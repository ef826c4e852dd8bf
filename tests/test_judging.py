"""Judges by rules, by a model, on a server and by hand: their opinions, and why these never change a label."""

import codecs
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
import unicodedata
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import tiny
from helpers.scripted_model import ScriptedModel, serving
from nlft import cli
from nlft.collect.human_judge import judge_by_hand
from nlft.collect.judging import (
    JUDGE_PROMPT,
    JudgeSettings,
    ModelJudge,
    judge_examples,
    relabel,
    require_judgments,
    rules_judge,
    summary_lines,
)
from nlft.collect.opinions import plain_text, read_opinion
from nlft.core.conditions import ConditionEncoder
from nlft.core.prompts import without_corrections
from nlft.core.spans import Span
from nlft.data.encoding import encode
from nlft.data.grading import get_grader
from nlft.data.records import Example, read_examples, write_examples
from nlft.errors import ProblemsError, UserError

WRONG = Example(
    id="marbles",
    prompt="Tom has 64 marbles and gives away 35. How many are left?",
    completion="64 - 35 = 34\n#### 34",
    label=False,
    answer="64 - 35 = 29\n#### 29",
)
RIGHT = replace(WRONG, id="right", completion="He has 64 - 35 = 29 left.\n#### 29", label=True)
FEEDBACK = 'The step "64 - 35 = 34" is miscalculated.'
GOOD = f"{FEEDBACK}\nCorrection: 64 - 35 = 29.\nVerdict: wrong"


def numbered(count):
    return [replace(WRONG, id=f"e{i}", prompt=f"Question {i}: {WRONG.prompt}") for i in range(count)]


def opinion(text, reason="stop", example=WRONG):
    return read_opinion(text, reason, JUDGE_PROMPT, example)


def nlft(*argv):
    return cli.main([str(a) for a in argv])


# Reading a model's opinion.

JUDGMENT = f"{FEEDBACK}\nCorrection: 64 - 35 = 29."
READ = {
    "the form that is asked for": (GOOD, JUDGMENT, "wrong"),
    "bold headings": (
        GOOD.replace("Correction:", "**Correction:**").replace("Verdict", "**Verdict**"),
        JUDGMENT,
        "wrong",
    ),
    "small letters": (GOOD.replace("Correction", "correction").replace("Verdict", "VERDICT"), JUDGMENT, "wrong"),
    "a heading of its own": (f"Feedback: {GOOD}", JUDGMENT, "wrong"),
    "all on one line": (GOOD.replace("\n", " "), JUDGMENT, "wrong"),
    "the verdict first": (f"Verdict: wrong\n{JUDGMENT}", JUDGMENT, "wrong"),
    "talk after the verdict": (f"{GOOD}\nI hope that this helps!", JUDGMENT, "wrong"),
    "a correction over several lines": (
        f"{FEEDBACK}\nCorrection:\n64 - 35 = 29.\n\n#### 29",
        f"{JUDGMENT} #### 29",
        None,
    ),
    "no correction": (f"{FEEDBACK}\nVerdict: incorrect.", FEEDBACK, "wrong"),
    "an empty correction": (f"{FEEDBACK}\nCorrection: ...\nVerdict: not correct", FEEDBACK, "wrong"),
    "a verdict that is none": (f"{JUDGMENT}\nVerdict: right or wrong", JUDGMENT, None),
    "a verdict by halves": (f"{JUDGMENT}\nVerdict: partially correct", JUDGMENT, None),
    "no quotation": ("The subtraction is miscalculated.", "The subtraction is miscalculated.", None),
    "a thought before": (
        f'<think>\nThe step "64" is fine.\nVerdict: right so far?\n</think>\n\n{GOOD}',
        JUDGMENT,
        "wrong",
    ),
    "a thought that the template opened": (f"Verdict: right.\nNo.\n</think>\n{GOOD}", JUDGMENT, "wrong"),
    "two thoughts": (f"<thinking>Verdict: right</thinking>Hm.<reasoning>x</reasoning>{GOOD}", JUDGMENT, "wrong"),
    "a thought in brackets": (f"[THINK]Verdict: right[/THINK]{GOOD}", JUDGMENT, "wrong"),
    "a thought on a channel": (
        f"<|channel|>analysis<|message|>Verdict: right<|end|><|start|>assistant<|channel|>final<|message|>{GOOD}",
        JUDGMENT,
        "wrong",
    ),
    "a thought after the words": (f"{GOOD}\n<think>Verdict: right</think>", JUDGMENT, "wrong"),
    "full-width colons": (GOOD.replace(": ", "："), JUDGMENT, "wrong"),
    "full-width letters": (GOOD.replace("Verdict:", "Ｖｅｒｄｉｃｔ："), JUDGMENT, "wrong"),
    "a space before the colon": (GOOD.replace(":", " :"), JUDGMENT, "wrong"),
    "headings on lines of their own": (
        f"{FEEDBACK}\n\n### Correction\n64 - 35 = 29.\n\n### Verdict\n**wrong**",
        JUDGMENT,
        "wrong",
    ),
    "Chinese": (f"{FEEDBACK}\n更正：64 - 35 = 29.\n结论：不正确", JUDGMENT, "wrong"),
    "Japanese": (f"{FEEDBACK}\n訂正：64 - 35 = 29.\n判定：誤り", JUDGMENT, "wrong"),
    "Korean": (f"{FEEDBACK}\n정정: 64 - 35 = 29.\n판정: 틀림", JUDGMENT, "wrong"),
    "German": (f"{FEEDBACK}\nKorrektur: 64 - 35 = 29.\nUrteil: nicht richtig", JUDGMENT, "wrong"),
    "French": (f"{FEEDBACK}\nCorrection : 64 - 35 = 29.\nVerdict : faux", JUDGMENT, "wrong"),
    "Spanish": (f"{FEEDBACK}\nCorrección: 64 - 35 = 29.\nVeredicto: incorrecto", JUDGMENT, "wrong"),
    "Russian": (f"{FEEDBACK}\nИсправление: 64 - 35 = 29.\nВердикт: неверно", JUDGMENT, "wrong"),
    "German quotes": ("The step „64 - 35 = 34“ errs.", "The step „64 - 35 = 34“ errs.", None),
    "talk before tags": (
        f"<analysis>Is it 30?</analysis>\n{FEEDBACK}\n<correction>64 - 35 = 29.</correction><verdict>wrong</verdict>",
        JUDGMENT,
        "wrong",
    ),
    "prose before JSON": (
        f'{FEEDBACK}\n```json\n{{"correction": "64 - 35 = 29.", "verdict": "wrong"}}\n```',
        JUDGMENT,
        "wrong",
    ),
    "a step and a reason in JSON": (
        '{"step": "64 - 35 = 34", "why": "It is miscalculated.", "isCorrect": false, "answer": "29"}',
        '"64 - 35 = 34": It is miscalculated.',
        "wrong",
    ),
    "a list of steps in JSON": (
        '[{"step": "64 - 35 = 34", "why": "off", "verdict": "wrong"}, '
        '{"step": "#### 34", "why": "follows", "verdict": "right"}]',
        '"64 - 35 = 34": off',
        "wrong",
    ),
    "a column of signs": (
        "| Step | Reason | Correct? |\n|:--|:-:|--:|\n"
        "| 64 - 35 = 34 | It is off. | ❌ |\n| #### 34 | It follows. | ✅ |",
        '"64 - 35 = 34": It is off.',
        "wrong",
    ),
    "a trailing comma in JSON": (
        '{"reason": "It is off.", "correction": "64 - 35 = 29.", "verdict": "wrong",}',
        "It is off.\nCorrection: 64 - 35 = 29.",
        "wrong",
    ),
    "expected and actual in JSON": (
        json.dumps({"feedback": FEEDBACK, "expected_answer": "29", "actual_answer": "28"}),
        f"{FEEDBACK}\nCorrection: 29",
        None,
    ),
    "criticism alone in JSON": (json.dumps({"feedback": FEEDBACK}), FEEDBACK, None),
    "criticism alone in a tag": (f"<feedback>{FEEDBACK}</feedback>", FEEDBACK, None),
    "a judgment that is a verdict": (
        json.dumps({"judgment": "incorrect", "explanation": FEEDBACK}),
        FEEDBACK,
        "wrong",
    ),
    "the response's own JSON first": (
        '{"name": "X"} lacks a field: "64 - 35 = 34".\nVerdict: wrong',
        '{"name": "X"} lacks a field: "64 - 35 = 34".',
        "wrong",
    ),
    "correct: No.": (json.dumps({"correct": "No.", "feedback": FEEDBACK}), FEEDBACK, "wrong"),
    "correct: partially": (json.dumps({"correct": "partially", "feedback": FEEDBACK}), FEEDBACK, None),
    "correct: a figure": (json.dumps({"correct": "64 - 35 = 29.", "feedback": FEEDBACK}), JUDGMENT, None),
    "a verdict that contradicts": (
        json.dumps({"feedback": f"{FEEDBACK} Verdict: wrong", "verdict": "right"}),
        FEEDBACK,
        None,
    ),
    "a verdict and a correction twice": (
        json.dumps({"feedback": f"{JUDGMENT}\nVerdict: wrong", "correction": "64 - 35 = 29.", "verdict": "wrong"}),
        JUDGMENT,
        "wrong",
    ),
    "curly quotes": ("The step “64 - 35 = 34” errs.", "The step “64 - 35 = 34” errs.", None),
}


_NAMED = {"reason": FEEDBACK, "correction": "64 - 35 = 29.", "verdict": "wrong"}
FORMS = {
    "compact JSON": lambda parts: json.dumps(parts),
    "JSON over lines": lambda parts: json.dumps(parts, indent=2),
    "fenced JSON": lambda parts: f"Here it is:\n```json\n{json.dumps(parts, indent=2)}\n```",
    "JSON in an object": lambda parts: json.dumps({"review": parts}),
    "tags": lambda parts: "\n".join(f"<{name}>{value}</{name}>" for name, value in parts.items()),
    "tags in a tag": lambda parts: (
        f"<review>{''.join(f'<{name}>{value}</{name}>' for name, value in parts.items())}</review>"
    ),
    "a table": lambda parts: (
        f"Review\n\n| {' | '.join(name.title() for name in parts)} |\n{'|---' * len(parts)}|\n"
        f"| {' | '.join(parts.values())} |"
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reason", ["reason", "analysis", "feedback", "problem"])
def test_an_opinion_in_json_tags_or_a_table_is_read_whatever_comes_first(form, reason):
    for names in permutations(_NAMED):
        parts = {reason if name == "reason" else name: _NAMED[name] for name in names}
        for correction in ("correction", "correct_answer", "correctedStep", "should_be"):
            named = {correction if name == "correction" else name: value for name, value in parts.items()}
            found = opinion(FORMS[form](named))
            assert (found.judgment, found.says, found.refused) == (JUDGMENT, "wrong", ""), named
        assert opinion(FORMS[form]({**parts, "verdict": "right"})).refused == "calls it right"


HEADINGS = (
    "Correct|Instead|Actual answer|It should have been|The correct step is|Revised step|Corrected response"
    "|Proper calculation|<correct_answer>|The right answer is"
)


@pytest.mark.parametrize("heading", HEADINGS.split("|"))
def test_no_heading_of_a_correction_leaves_its_value_in_the_judge_prompt(heading):
    line = f"{heading}29</correct_answer>" if heading.startswith("<") else f"{heading}: 29"
    found = opinion(f"{FEEDBACK}\n{line}\nVerdict: wrong")
    assert (without_corrections(found.judgment), found.says) == (FEEDBACK, "wrong")


@pytest.mark.parametrize("name", READ)
def test_feedback_correction_and_verdict_are_read_from_small_models_answers(name):
    text, judgment, verdict = READ[name]
    found = opinion(text)
    assert (found.judgment, found.says, found.refused) == (judgment, verdict, "")


REFUSED = {
    "says nothing": [f"<think>{GOOD}</think>", f"<think>\n{GOOD}", "", " \n", "...", "-> 29", "Verdict: wrong"],
    "only a correction": ["Correction: 64 - 35 = 29.", "Correction: it is 29\nVerdict: wrong"],
    "only repeats its prompt": [
        "Wrong.",
        'The step "..." is wrong because ...\nCorrection: ...\nVerdict: ...',
        "Below are a question, its standard answer, and a response to be reviewed.",
    ],
    "quotes text that is not in the response": [
        "Der Schritt „12 * 3 = 30“ ist falsch.",
        'The step "12 * 3 = 30" is wrong.',
        'In "64 - 35 = 29" it errs.',
    ],
    "answers the question instead": ["Tom has 64 - 35 = 29 marbles left.\n#### 29"],
    "its verdict is not understood: hopeless": [
        f"{FEEDBACK}\nVerdict: hopeless",
        '{"why": "x", "verdict": "hopeless"}',
    ],
    "its verdict is not understood: yes": [f"{FEEDBACK}\nVerdict: yes"],
    "its verdict is not understood: true": [f"{FEEDBACK}\nVerdict: true", json.dumps({"why": "x", "verdict": True})],
    "its verdict is not understood: false": [f"{FEEDBACK}\nVerdict: false"],
    "its JSON cannot be read": ['{"reason": "The step "64 - 35 = 34" is off", "verdict": "wrong"}'],
    "calls it right": [
        f"<think>{GOOD}</think>\nVerdict: right",
        f"{FEEDBACK}\n结论：正确",
        f"{FEEDBACK}\nUrteil: richtig",
        "Well done, all of it holds.\nVerdict: right",
        f"{FEEDBACK}\nVerdict: correct",
        json.dumps({"reason": FEEDBACK, "is_correct": True}),
    ],
}


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason in REFUSED for text in REFUSED[reason]])
def test_an_unusable_answer_is_not_a_judgment_and_the_reason_is_named(reason, text):
    found = opinion(text)
    assert found.judgment is None
    assert found.refused == reason


def test_a_cut_off_answer_is_not_a_judgment_unless_it_reached_its_verdict():
    assert opinion(FEEDBACK, "length").refused == "cut off by --max_new_tokens"
    assert opinion(f"{GOOD}\nAnd now", "length").judgment == JUDGMENT
    assert opinion(f"<think>{GOOD}\nBut is it", "length").refused == "cut off by --max_new_tokens"
    assert opinion(GOOD, "content_filter").judgment is None
    assert "unknown" in opinion(FEEDBACK, "unknown").refused
    assert opinion(GOOD, "unknown").judgment == JUDGMENT


@settings(deadline=None)
@given(
    st.text(min_size=1).filter(lambda t: re.search(r"\w", t)),
    st.sampled_from(
        [
            "Correction: ",
            "correction:\n",
            "**Correction:** ",
            " CORRECTION : ",
            "\n- Corrections: ",
            "Correction：",
            "更正：",
        ]
    ),
)
def test_the_judge_prompt_shows_no_part_of_a_correction(correction, mark):
    found = opinion(f"{FEEDBACK} {mark.replace(' :', ':')}{correction}")
    if found.judgment:
        assert without_corrections(found.judgment) == FEEDBACK
        assert found.judgment.count("\n") <= 1


def test_a_judgment_that_was_accepted_can_be_trained_on():
    for text, _, _ in READ.values():
        example = replace(WRONG, judgment=opinion(text).judgment)
        assert encode(ConditionEncoder(tiny.tokenizer()), example).judge


# Asking.


def test_each_example_is_asked_with_its_own_parts_and_braces_in_them_stay():
    odd = replace(WRONG, prompt="What is {answer}?", completion='{"a": {prompt}}', answer="{completion} 3")
    model = ScriptedModel(lambda text, nth: GOOD)
    ModelJudge(model, "{label}|{prompt}|{answer}|{completion}")([odd, RIGHT])
    assert model.requests[0].prompt == 'wrong|What is {answer}?|{completion} 3|{"a": {prompt}}'
    assert model.requests[1].prompt == f"right|{RIGHT.prompt}|{RIGHT.answer}|{RIGHT.completion}"


def test_chat_messages_are_judged_as_text_and_stay_messages():
    chat = replace(
        WRONG,
        prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": WRONG.prompt}],
        completion=[{"role": "assistant", "content": WRONG.completion}],
    )
    model = ScriptedModel(lambda text, nth: GOOD)
    judged = judge_examples([chat], ModelJudge(model)).examples[0]
    assert "system: Be brief.\n\nuser: Tom has 64" in model.requests[0].prompt
    assert "Response:\n64 - 35 = 34\n#### 34\n" in model.requests[0].prompt
    assert judged == replace(chat, judgment=JUDGMENT, extra={"judge_verdict": "wrong"})


def test_an_unusable_answer_is_asked_for_again_under_another_key_and_listed_if_all_tries_fail():
    def says(text, nth):
        number = int(re.search(r"Question (\d)", text)[1])
        return GOOD if nth >= number else ("The step", "length")

    model = ScriptedModel(says)
    judged = judge_examples(numbered(5), ModelJudge(model, tries=3))
    assert [bool(e.judgment) for e in judged.examples] == [True, True, True, False, False]
    assert judged.failed == dict.fromkeys(("e3", "e4"), "cut off by --max_new_tokens")
    asked = [request.key for request in model.requests]
    assert len(asked) == len(set(asked)) == 5 + 4 + 3


def test_an_existing_judgment_stays_without_overwrite():
    mine = replace(WRONG, judgment="My own words.")
    assert judge_examples([mine], ModelJudge(ScriptedModel(lambda text, nth: GOOD))).examples == [mine]
    for answer, kept in [(GOOD, JUDGMENT), ("", "My own words.")]:
        judged = judge_examples([mine], ModelJudge(ScriptedModel(lambda *_, a=answer: a)), overwrite=True)
        assert judged.examples[0].judgment == kept
    assert judged.failed == {"marbles": "says nothing"}


# Labels and conflicts.


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_a_label_is_never_the_judges(label, verdict):
    model = ScriptedModel(lambda text, nth: f"{FEEDBACK}\nVerdict: {verdict}")
    example = replace(WRONG, label=label, extra={"verdict": "ungraded", "conflict": "of long ago"})
    judged = judge_examples([example], ModelJudge(model), check_right=True)
    found = judged.examples[0]
    assert found.label is label
    assert found.extra["judge_verdict"] == verdict
    disagrees = (verdict == "right") != label
    assert found.extra.get("conflict") == (FEEDBACK if disagrees else None)
    assert judged.conflicts == ([found] if disagrees else [])


def test_an_unusable_later_try_does_not_replace_an_earlier_opinion():
    answers = ["Well done.\nVerdict: right", ("cut", "length"), ""]
    judged = judge_examples([WRONG], ModelJudge(ScriptedModel(lambda text, nth: answers[nth]), tries=3))
    assert judged.conflicts
    assert judged.failed == {"marbles": "calls it right"}


def test_right_completions_are_asked_about_only_with_check_right_once_and_get_no_judgment():
    model = ScriptedModel(lambda text, nth: "")
    assert judge_examples([RIGHT], ModelJudge(model, tries=3)).examples == [RIGHT]
    assert not model.requests
    assert judge_examples([RIGHT], ModelJudge(model, tries=3), check_right=True).examples == [RIGHT]
    assert len(model.requests) == 1


def test_the_grader_relabels_and_keeps_examples_that_it_cannot_compare():
    mislabelled = [replace(WRONG, label=True), replace(RIGHT, label=False)]
    nothing_said = replace(WRONG, completion="I do not know.", label=True)
    no_number = replace(WRONG, answer="I liked the tone.", label=True)
    found = relabel([*mislabelled, nothing_said, no_number], get_grader("number"))
    assert [e.label for e in found] == [False, True, False, True]
    assert [e.extra.get("verdict") for e in found] == ["wrong", "right", "ungraded", None]


def test_a_wrong_reply_with_spans_needs_no_judgment():
    marked = replace(WRONG, id="marked", answer=None, spans=(Span(0, 2),))
    judged = judge_examples([marked, WRONG], rules_judge)
    require_judgments(judged, "")
    [told] = [line for line in summary_lines([marked, WRONG], judged, JudgeSettings()) if "spans" in line]
    assert "'marked'" in told


def test_another_label_drops_what_belonged_to_the_old_one_and_nothing_hand_written(monkeypatch):
    by_judge, by_hand = Span(0, 2, note="It fails."), Span(3, 4, note="Not this.")
    seen = {"judge_verdict": "wrong", "conflict": "?", "item": "x"}
    judged = replace(WRONG, completion="64 - 35 = 29", judgment="It fails.", spans=(by_judge, by_hand), extra=seen)
    written = replace(judged, extra={"item": "x"})
    # A grader calls them right.
    found = relabel([judged, written], get_grader("number"))
    assert [(e.label, e.judgment, e.spans) for e in found] == [
        (True, None, (by_hand,)),
        (True, "It fails.", written.spans),
    ]
    assert [e.extra for e in found] == [{"item": "x", "verdict": "right"}] * 2
    assert relabel(found, get_grader("number")) == found
    # A reply to keep is out of the scope of what the grader checks.
    kept = replace(WRONG, label=True, keep=True)
    assert relabel([kept], get_grader("number")) == [kept]
    # A person calls it right, and calls the reply to keep wrong.
    typed = iter(["/right", "/wrong", "Vague.", "", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    right, wrong = judge_by_hand([judged, kept], lambda saved: None, check_right=True, overwrite=True).examples
    assert (right.label, right.judgment, right.spans, right.extra) == (True, None, (by_hand,), {"item": "x"})
    assert (wrong.label, wrong.judgment, wrong.keep) == (False, "Vague.", False)


def test_rules_note_a_wrong_step_in_a_completion_labelled_right():
    lucky = replace(RIGHT, completion="64 - 30 = 35, and so 29 are left.\n#### 29")
    judged = judge_examples([RIGHT, lucky], rules_judge, check_right=True)
    assert judged.examples[0] == RIGHT
    assert judged.examples[1].label
    assert judged.examples[1].judgment is None
    assert judged.examples[1].extra["conflict"] == 'The step "64 - 30 = 35" is miscalculated.'
    assert judged.conflicts == [judged.examples[1]]


def test_rules_accept_a_liked_response_with_an_open_ended_answer():
    liked = replace(RIGHT, completion="Once there was a cat.", answer="I liked all 3 sentences.", prompt="Tell a tale.")
    assert judge_examples([liked], rules_judge, check_right=True).examples == [liked]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"judge_prompt": "Judge {prompt}"}, "has no {completion}"),
        ({"tries": 2, "temperature": 0.0}, "--tries 2 at --temperature 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, told):
    with pytest.raises((ProblemsError, UserError), match=re.escape(told)):
        JudgeSettings(**settings)


# The command.


def test_a_judge_on_a_server_writes_its_judgments_lists_the_rest_and_exits_with_1(tmp_path, capsys):
    path = tmp_path / "e.jsonl"
    write_examples(path, [*numbered(3), RIGHT])
    model = ["--model_name_or_path", "m", "--tries", "2", "--check_right"]

    def says(text, nth):
        if RIGHT.completion in text:
            return 'The step "64 - 35 = 29" is wrong.\nVerdict: wrong'
        return GOOD if "Question 1" not in text else "Correction: 29"

    with serving(says) as (url, bodies):
        assert nlft("judge", path, "--judge", "openai", "--base_url", url, *model) == 1
        assert len(bodies) == 4 + 1
        seeds = [b["seed"] for b in bodies if "Question 1" in b["messages"][-1]["content"]]
        assert len(set(seeds)) == 2
        told = capsys.readouterr()
        assert "2 judged now (openai)" in told.out
        assert "2 of the 2 quote the response" in told.out
        assert "conflicts: 1" in told.out
        assert "'right' is labelled right; the judge: The step" in told.out
        assert "1 of 3 wrong examples have no judgment: 'e1' (" in told.err
        found = read_examples(path, require_judgment=False)
        assert [e.judgment for e in found] == [JUDGMENT, None, JUDGMENT, None]
        # Finished answers are never asked for again, even unusable ones.
        assert nlft("judge", path, "--judge", "self", "--base_url", url, *model) == 1
        assert len(bodies) == 5


def test_a_local_model_judges_itself(tmp_path, model_folder, capsys):
    path, out = tmp_path / "e.jsonl", tmp_path / "judged.jsonl"
    short = [replace(e, prompt="2?", completion="34", answer="29") for e in numbered(3)]
    write_examples(path, short)
    prompt = ["--judge_prompt", "{prompt} {completion}", "--max_new_tokens", "20", "--dtype", "float32"]
    code = nlft("judge", path, "--out", out, "--judge", "self", "--model_name_or_path", model_folder, *prompt)
    found = read_examples(out, require_judgment=False)
    assert [replace(e, judgment=None, extra={}) for e in found] == short
    assert code == (0 if all(e.judgment for e in found) else 1)
    told = capsys.readouterr()
    assert f"{sum(bool(e.judgment) for e in found)} judged now (self)" in told.out
    assert all(e.judgment or f"{e.id!r} (" in told.err for e in found)
    assert len((tmp_path / "judged.calls.jsonl").read_text().splitlines()) >= 3


def test_rules_write_their_judgments_and_exit_with_1_where_they_find_nothing(tmp_path, capsys):
    path = tmp_path / "e.jsonl"
    silent = replace(WRONG, id="tone", prompt="Hello?", completion="Go away.", answer="Be friendly.")
    write_examples(path, [WRONG, silent])
    assert nlft("judge", path) == 1
    assert "'tone' (the rules find nothing wrong)" in capsys.readouterr().err
    assert [bool(e.judgment) for e in read_examples(path, require_judgment=False)] == [True, False]


def test_the_grader_runs_before_the_judge_and_its_changes_are_reported(tmp_path, capsys):
    path = tmp_path / "e.jsonl"
    write_examples(path, [replace(WRONG, label=True), RIGHT])
    assert nlft("judge", path, "--grader", "number") == 0
    assert "1 labels changed by the grader number: 'marbles' (now wrong)" in capsys.readouterr().out
    assert FEEDBACK in read_examples(path)[0].judgment


def test_the_original_projects_files_are_judged_into_another(tmp_path, capsys):
    record = {
        "id": 7,
        "instruction": WRONG.prompt,
        "output": WRONG.completion,
        "answer": WRONG.answer,
        "correct": False,
    }
    path, out = tmp_path / "chunk.json", tmp_path / "judged.jsonl"
    path.write_text(json.dumps([record]))
    assert nlft("judge", path) == 2
    message = capsys.readouterr().err
    assert "--out" in message
    assert "chunk.jsonl" in message
    assert nlft("judge", path, "--out", out) == 0
    assert FEEDBACK in read_examples(out)[0].judgment


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--judge", "self"], "--model_name_or_path is missing"),
        (["--model_name_or_path", "m"], "--judge self"),
        (["--judge", "nobody"], "invalid choice"),
        (["--judge", "human"], "asks in the terminal"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--grader", "no.such:thing"], "no.such"),
    ],
)
def test_wrong_input_exits_with_2(argv, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_examples("e.jsonl", [WRONG])
    assert nlft("judge", "e.jsonl", *argv) == 2
    assert told in capsys.readouterr().err


def test_the_judge_may_be_named_in_yaml(tmp_path, capsys):
    path, config = tmp_path / "e.jsonl", tmp_path / "c.yaml"
    write_examples(path, [WRONG])
    with serving(lambda text, nth: GOOD) as (url, bodies):
        config.write_text(f"judge: openai\nbase_url: {url}\nmodel_name_or_path: m\n")
        assert nlft("judge", path, "--config", config) == 0
    assert len(bodies) == 1


def test_the_judge_by_rules_does_not_import_torch(tmp_path):
    path = tmp_path / "e.jsonl"
    chat = replace(WRONG, id="chat", prompt=[{"role": "user", "content": WRONG.prompt}], completion=WRONG.completion)
    write_examples(path, [WRONG, chat])
    code = "import sys; from nlft import cli; print(cli.main(['judge', sys.argv[1]]), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n0 False\n")


# The user as a judge, in a real terminal.


class Session:
    """`nlft judge FILE --judge human` in a pseudo-terminal."""

    def __init__(self, *argv):
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "nlft.cli", "judge", *map(str, argv), "--judge", "human"]
        environment = os.environ | {"TERM": "xterm"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.screen = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def until(self, text, seconds=60):
        """Wait for this text; return everything since the last call up to it."""
        end = time.monotonic() + seconds
        while text not in self.screen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            try:
                data = os.read(self.master, 65536) if ready else b""
            except OSError:  # the other side has closed
                data = b""
            assert data, f"{text!r} did not come; on the screen: {self.screen!r}"
            self.screen += self._decode(data)
        before, _, self.screen = self.screen.partition(text)
        return before

    def type(self, text):
        """Answer the next question."""
        self.until("> ")
        os.write(self.master, text.encode())

    def leave(self):
        """The rest of the screen, and the exit code."""
        code = None
        while code is None:
            try:
                self.screen += self._decode(os.read(self.master, 65536))
            except OSError:
                code = self.process.wait(60)
        os.close(self.master)
        return self.screen, code


def judgments(path):
    return [e.judgment for e in read_examples(path, require_judgment=False)]


def test_by_hand_one_by_one_saved_after_each_with_going_back_quitting_and_going_on(tmp_path):
    path = tmp_path / "e.jsonl"
    write_examples(path, [RIGHT, *numbered(4)])
    first = Session(path)
    shown = first.until("e0, labelled wrong")
    assert "1 of 4" in shown
    shown = first.until("> ")
    assert all(f"│ {line}" in shown for line in ("Question 0: Tom", "64 - 35 = 34", "#### 34", "64 - 35 = 29"))
    first.screen += "> "
    first.type('The step "64 - 35 = 34"\rerrs.\rcorrection: it is 29\r\r')
    first.until("2 of 4: e1")
    assert judgments(path) == [None, 'The step "64 - 35 = 34"\nerrs.\nCorrection: it is 29', None, None, None]
    first.type("Second.\r\r")
    first.until("3 of 4: e2")
    first.type("/back\r")
    assert "2 of 4: e1" in first.until("Judgment so far")
    first.type("Second, mended.\r\r")
    first.until("3 of 4: e2")
    first.type("/quit\r")
    screen, code = first.leave()
    assert code == 1
    assert re.search(r"'e2' \(.*\), 'e3' \(", screen)
    assert judgments(path)[1:] == [
        'The step "64 - 35 = 34"\nerrs.\nCorrection: it is 29',
        "Second, mended.",
        None,
        None,
    ]

    second = Session(path)
    second.until("3 of 4: e2")
    second.type("/skip\r")
    second.until("4 of 4: e3")
    second.type("Correction: 29\r\r")
    second.until("before Correction:")
    second.type("\r")
    second.until("/skip to leave")
    second.type("/nonsense\r")
    second.until("command /nonsense")
    second.type(" /4 is meant.\r\r")
    second.until("last example")
    second.type("/back\r")
    second.until("4 of 4: e3")
    second.type("\r")
    second.until("last example")
    second.type("\r")
    assert second.leave()[1] == 1
    assert judgments(path)[3:] == [None, "/4 is meant."]

    third = Session(path)
    third.until("3 of 4: e2")
    third.type("Third.\r\r")
    third.until("last example")
    third.type("\r")
    screen, code = third.leave()
    assert code == 0
    assert "1 judged now (human), 3 " in screen
    screen, code = Session(path).leave()
    assert code == 0
    assert "0 judged now (human), 4 " in screen


def test_by_hand_the_label_is_the_users_only_where_no_grader_decides(tmp_path):
    path, out = tmp_path / "e.jsonl", tmp_path / "judged.jsonl"
    free, graded = numbered(2)
    write_examples(path, [free, replace(graded, extra={"verdict": "wrong"})])
    session = Session(path, "--out", out)
    session.until("e0, labelled wrong ─")
    session.type("/wrong\r")
    session.until("Now say what is wrong")
    session.type("/right\r")
    session.until("e1, labelled wrong by the grader")
    assert [e.label for e in read_examples(out, require_judgment=False)] == [True, False]
    session.type("/right\r")
    session.until("as a conflict")
    session.type("/quit\r")
    screen, code = session.leave()
    assert code == 1
    assert "'e1' is labelled wrong; the judge: calls it right" in screen
    found = read_examples(out, require_judgment=False)
    assert [e.label for e in found] == [True, False]
    assert found[1].extra["judge_verdict"] == "right"
    assert judgments(path) == [None, None]

    again = Session(path, "--out", out)  # goes on from --out, not from FILE
    again.until("1 of 1: e1")
    again.type("It errs.\r\r")
    again.until("last example")
    again.type("\r")
    assert again.leave()[1] == 0
    assert [(e.label, e.judgment, e.extra) for e in read_examples(out)] == [
        (True, None, {}),
        (False, "It errs.", {"verdict": "wrong"}),
    ]


def test_by_hand_a_liked_reply_is_asked_why_and_steps_are_spoken_of_only_where_something_is_calculated(
    monkeypatch, capsys
):
    words = replace(WRONG, id="words", completion="A lovely board.", answer=None)
    liked = replace(words, id="liked", label=True)
    told = replace(liked, id="told", feedback="Short.")
    graded = replace(liked, id="graded", extra={"verdict": "right"})
    typed = iter(['"lovely" praises.', "", "States", "facts.", "", "/right", "Dry.", "", "It errs.", "", ""])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    examples = [words, liked, told, graded, RIGHT, replace(words, id="turned"), WRONG]
    saved = []
    judged = judge_by_hand(examples, saved.append)
    found = {e.id: (e.label, e.judgment, e.feedback) for e in judged.examples}
    assert found == {
        "words": (False, '"lovely" praises.', None),
        "liked": (True, None, "States\nfacts."),
        "told": (True, None, "Short."),
        "graded": (True, None, None),
        "right": (True, None, None),
        "turned": (True, None, "Dry."),
        "marbles": (False, "It errs.", None),
    }
    assert len(saved) == 5
    shown = dict(re.findall(r"─ \d of 4: (\w+), (.*?)(?=──── |$)", capsys.readouterr().out, re.DOTALL))
    assert {name for name, screen in shown.items() if "step" in screen} == {"marbles"}
    assert {name for name, screen in shown.items() if "what you like" in screen} == {"liked", "turned"}


def test_by_hand_another_datasets_judgments_are_not_overwritten(tmp_path):
    path, out = tmp_path / "e.jsonl", tmp_path / "judged.jsonl"
    write_examples(path, numbered(2))
    write_examples(out, [replace(WRONG, judgment="Mine.")])
    session = Session(path, "--out", out)
    screen, code = session.leave()
    assert code == 2
    assert "holds other examples" in screen
    assert judgments(out) == ["Mine."]


def test_the_end_of_input_quits_and_keeps_the_judgments(tmp_path):
    path = tmp_path / "e.jsonl"
    write_examples(path, numbered(2))
    session = Session(path)
    session.type("First.\r\x04")  # Ctrl-D ends the text
    session.until("2 of 2: e1")
    session.type("\x04")
    assert session.leave()[1] == 1
    assert judgments(path) == ["First.", None]


NASTY = "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x1b[0m a\rb \x9b1mc \x1bPq#1\x1b\\d \u202egnp\u202c \x00\x08e"


def test_a_models_words_cannot_steer_the_terminal(tmp_path):
    assert plain_text(NASTY) == "red a\nb c d gnp e"
    path = tmp_path / "e.jsonl"
    write_examples(path, [replace(WRONG, completion=NASTY, prompt=NASTY, answer=NASTY)])
    session = Session(path)
    shown = session.until("Say what is wrong")
    assert "owned" not in shown
    assert not re.search(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", shown.partition("1 of 1")[2])
    session.type("/quit\r")
    session.leave()
    assert read_examples(path, require_judgment=False)[0].completion == NASTY


@settings(deadline=None)
@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b[]0;m\x07\\P\r\n\t")))
def test_no_control_character_is_ever_shown(text):
    assert all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") for c in plain_text(text))


def test_text_without_control_characters_is_shown_as_it_is():
    text = Path(__file__).read_text(encoding="utf-8").replace("\u202e", "")
    assert plain_text(text) == text
