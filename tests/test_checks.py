"""Checks: what a reply must or must not do, and every command that grades by them."""

import json
import re
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from helpers.scripted_model import ScriptedModel, serving
from nlft import cli
from nlft.collect.checks_judge import checks_judge, judgment_of
from nlft.collect.judging import judge_examples
from nlft.core.spans import Span, occurrences, quoted_spans
from nlft.data.checks import ALL_CHECKS, CheckResult, all_passed, check_reply, word_count
from nlft.data.checks_file import read_checks
from nlft.data.checks_grader import CheckSettings, ChecksGrader
from nlft.data.grading import Reply, get_grader
from nlft.data.records import Example, marked_spans, quotes_of, read_examples
from nlft.data.yes_or_no import says_yes
from nlft.errors import ConfigError, UserError
from nlft.experiments import stages
from nlft.experiments.arm_run import run_arm
from nlft.experiments.arms import defined_arm
from nlft.experiments.cells import cell_result
from nlft.experiments.settings import CompareSettings, RoundsSettings, TuneSettings
from nlft.experiments.staged import Staged
from nlft.models.ledger import Ledgered
from nlft.models.ledger_file import Ledger
from nlft.models.settings import BackendSettings, CallSettings
from nlft.results.settings import EvaluationSettings

BOTTLE = {"item": "Steel Bottle"}
FILE = """\
- name: no-empty-adjectives
  must_not: {words: [durable, sleek, "don't", no]}
  say: These words say nothing about this item.
- name: names-the-item
  must: {contains: "{item}"}
- name: short
  must: {max_words: 8}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def reply(text, **fields):
    return Reply("q1", "Describe it.", "", text, fields)


def write(text, name="checks.yaml"):
    Path(name).write_text(text, encoding="utf-8")
    return name


def only(rule, side="must_not", more=""):
    """The one check with this rule."""
    (check,) = read_checks(write(f"- name: it\n  {side}: {{{rule}}}\n{more}"))
    return check


def result(rule, text, side="must_not", more="", **fields):
    return check_reply(only(rule, side, more), reply(text, **fields))


def found(result, text):
    return [text[start:end] for start, end in result.hits]


# Reading


def test_a_file_is_read_in_order_with_the_line_of_each_check():
    checks = read_checks(write(FILE))
    assert [(c.name, c.kind, c.must, c.where) for c in checks] == [
        ("no-empty-adjectives", "words", False, "checks.yaml:1"),
        ("names-the-item", "contains", True, "checks.yaml:4"),
        ("short", "max_words", True, "checks.yaml:6"),
    ]
    assert checks[0].value == ("durable", "sleek", "don't", "no"), "no is the word, and not false"
    assert checks[1].slots == {"item"}
    assert checks[2].value == 8


@pytest.mark.parametrize(
    ("text", "line", "names"),
    [
        ("- name: a\n  must: {regexp: x}\n", 2, ["regexp", "regex"]),
        ("- nmae: a\n  must: {regex: x}\n", 1, ["nmae", "name"]),
        ("- name: a\n  must: {regex: x}\n- name: a\n  must: {regex: y}\n", 3, ["'a'", "checks.yaml:1"]),
        ("- name: all checks\n  must: {regex: x}\n", 1, ["all checks"]),
        ("- name: a\n  must_not: {regex: 'ab(c'}\n", 2, ["ab(c", "character 3"]),
        ("- name: a\n  must: {max_words: 0}\n", 2, ["max_words", "'0'"]),
        ("- name: a\n  must: {language: Klingon}\n", 2, ["Klingon", "English"]),
        ("- name: a\n  must: {words: []}\n", 2, ["words"]),
        ("- name: a\n  must: {contains: {item}}\n", 2, ["contains", "braces"]),
        ("- name: a\n  must: {contains: x, regex: y}\n", 2, ["must", "2"]),
        ("- name: a\n  must: {contains: x}\n  must_not: {contains: y}\n", 1, ["must_not"]),
        ("- name: a\n", 1, ["must", "must_not"]),
        ("- must: {contains: x}\n", 1, ["name"]),
        ("- name: a\n  must: {max_words: 3}\n  ignore_case: true\n", 3, ["ignore_case", "max_words"]),
        ("- name: a\n  name: b\n  must: {contains: x}\n", 2, ["name"]),
        ("- name: a\n  must: {function: no path}\n", 2, ["no path", "module:function"]),
        ("- hello\n", 1, ["docs/CHECKS.md"]),
    ],
)
def test_a_wrong_check_is_refused_with_its_line(text, line, names):
    with pytest.raises(ConfigError) as caught:
        read_checks(write(text))
    assert f"checks.yaml:{line}" in {problem.where for problem in caught.value.problems}
    assert [name for name in names if name not in str(caught.value)] == []


def test_all_wrong_checks_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        read_checks(write("- name: a\n  must: {regex: '('}\n- name: b\n  must: {max_words: many}\n"))
    assert [problem.where for problem in caught.value.problems] == ["checks.yaml:2", "checks.yaml:4"]


@pytest.mark.parametrize("text", ["", "# none yet\n", "[]\n", "name: a\n", "- [\n"])
def test_a_file_without_checks_is_refused(text):
    with pytest.raises(UserError, match=r"checks\.yaml"):
        read_checks(write(text))
    with pytest.raises(UserError, match=r"gone\.yaml"):
        read_checks("gone.yaml")


# Kinds


def test_words_are_found_whole_in_any_case_and_with_their_places():
    text = "Durable, undurable: a SLEEK thing; don’t say no-one."
    given = result('words: [durable, sleek, "don\'t", no]', text)
    assert given.passed is False
    assert found(given, text) == ["Durable", "SLEEK", "don’t", "no"]
    assert result("words: [durable]", "Durability counts.").passed


def test_every_text_must_occur_and_none_may():
    assert result("contains: [red, blue]", "Red and blue", "must").passed
    missing = result("contains: [red, blue]", "Red only", "must")
    assert (missing.passed, missing.hits) == (False, ())
    assert "blue" in missing.evidence
    assert "red" not in missing.evidence
    assert result("contains: [red, blue]", "Red only").passed is False
    assert result("contains: [red, blue]", "Green").passed


def test_a_slot_holds_a_field_of_the_questions_record_and_matches_it_literally():
    assert result('contains: "{item}"', "a steel bottle", "must", **BOTTLE).passed
    assert result('contains: "{item}"', "a steel bottle", "must", "  ignore_case: false\n", **BOTTLE).passed is False
    assert result("regex: '^{item}'", "a.b", "must", item="a.b").passed
    assert result("regex: '^{item}'", "axb", "must", item="a.b").passed is False
    assert result('contains: "{{item}}"', "Dear {item}", "must").passed, "doubled braces are braces"
    with pytest.raises(UserError, match=r"checks\.yaml:1.*'item'.*'q1'"):
        result('contains: "{item}"', "a steel bottle", "must")
    for item in ("", " ", None):
        with pytest.raises(UserError, match=r"checks\.yaml:1.*'item'.*empty.*'q1'"):
            result('contains: "{item}"', "a steel bottle", "must", item=item)


@pytest.mark.parametrize(
    ("word", "text", "said"),
    [
        ("state-of-the-art", "a state\u2011of\u2011the\u2011art pan", ["state\u2011of\u2011the\u2011art"]),
        ("café", "a cafe\u0301 here", ["cafe\u0301"]),
        ("cafe\u0301", "a café here", ["café"]),
        ("cafe", "a cafe\u0301 here", []),
        ("can", "you can't", []),
        ("we", "we\u2019re here", []),
        ("34", "34.5, 34", ["34"]),
        ("000", "1 000", []),
        ("कम", "कमाल, कम", ["कम"]),
        ("\U0001f44d", "\U0001f44d\U0001f3fd \U0001f44d", ["\U0001f44d"]),
        ("5 + 3", "5+3", ["5+3"]),
        ("we ... you", "So we love you", ["we love you"]),
        ("' art'", "start an art", ["art"]),
        ("Sure!", "I am sure. SURE!", ["SURE!"]),
        ("Sure!", "I am sure.", []),
    ],
)
def test_a_check_finds_a_word_where_strike_and_ban_do(word, text, said):
    given = result(f"words: [{word if word[0] in chr(39) else json.dumps(word, ensure_ascii=False)}]", text)
    assert found(given, text) == said
    quoted = occurrences(text, [word.strip("' ")], any_case=True)
    assert [text[span.start : span.end] for span in quoted] == said or word == "Sure!"


def test_a_check_that_minds_case_finds_no_word_of_another_case():
    for word, text, passed in (("Durable", "durable", True), ("Durable", "Durable", False), ("É", "e\u0301", True)):
        assert result(f"words: {word}", text, more="  ignore_case: false\n").passed is passed


def test_a_patterns_own_braces_are_no_slots():
    text = "a1 bb22 {item} –"
    given = result(r"regex: '\d{2}|\{item\}|\N{EN DASH}'", text)
    assert found(given, text) == ["22", "{item}", "–"]
    assert only(r"regex: '\d{2}|\{item\}|\N{BULLET}{grams}'").slots == {"grams"}


def test_a_pattern_minds_case_unless_the_check_says_otherwise():
    assert result("regex: praise", "Praise it").passed
    assert result("regex: praise", "Praise it", more="  ignore_case: true\n").passed is False


def test_the_limit_of_words_is_within_the_limit():
    assert word_count("It – costs 3.50, don't you think?") == 6
    assert word_count("这个锅非常漂亮，可以做饭。重 2 公斤") == 15, "Chinese writes no spaces: each character is a word"
    assert word_count("이 냄비는 아름답습니다") == 3
    assert word_count("one,two नमस्ते दुनिया") == 3
    assert result("max_words: 3", "one two three", "must").passed
    long = result("max_words: 3", "one two three four", "must")
    assert long.passed is False
    assert "4" in long.evidence
    assert result("max_words: 3", "one two three").passed is False, "must_not turns a check around"


def test_a_language_is_guessed_and_a_short_text_stays_open():
    german = "Die Flasche ist aus Stahl und wird nicht warm, auch wenn die Sonne auf sie scheint."
    assert result("language: en", german, "must").passed is False
    assert result("language: german", german, "must").passed
    assert result("language: german", "Flasche", "must").passed is None


def test_a_function_says_true_false_or_what_it_found(monkeypatch):
    write(
        "def shouts(prompt, reply):\n    return reply.isupper()\n"
        "def first(prompt, reply):\n    return reply.split()[0] if prompt == 'Describe it.' else ''\n"
        "def fails(prompt, reply):\n    raise KeyError('x')\n"
        "def nothing(prompt, reply):\n    pass\n",
        "own_checks_module.py",
    )
    assert result("function: own_checks_module:shouts", "LOUD").passed is False
    assert result("function: own_checks_module.shouts", "calm").passed
    given = result("function: own_checks_module:first", "sleek and sleek")
    assert (given.passed, given.hits) == (False, ((0, 5), (10, 15)))
    for name, why in (("fails", "KeyError"), ("nothing", "NoneType"), ("gone", "gone")):
        with pytest.raises(UserError, match=why):
            result(f"function: own_checks_module:{name}", "text")
    monkeypatch.delitem(sys.modules, "own_checks_module")


THOUGHT = '<think>The user may want "sleek" words, but I should not praise at all.</think>\n\n'


def test_what_a_reply_only_thinks_is_not_checked_and_places_are_those_in_the_whole_reply():
    text = THOUGHT + "A sturdy steel cup."
    assert result("words: [sleek]", text).passed
    assert result("contains: praise", text, "must").passed is False
    assert result("regex: '^A sturdy'", text, "must").passed
    assert result("max_words: 4", text, "must").passed
    given = result("words: [sturdy, steel]", text)
    assert (given.passed, found(given, text)) == (False, ["sturdy", "steel"])
    german = THOUGHT + "Die Flasche ist aus Stahl und wird nicht warm, auch wenn die Sonne auf sie scheint."
    assert result("language: german", german, "must").passed


def test_a_check_that_names_the_tag_of_a_thought_reads_the_thoughts():
    text = THOUGHT + "A cup."
    assert found(result("regex: '<think>'", text), text) == ["<think>"]
    assert result("contains: </think>", text, "must").passed
    assert result("regex: 'I think'", THOUGHT.replace("I should", "I think I should") + "A cup.").passed


@pytest.mark.parametrize(
    ("rule", "reads"),
    [
        (r"regex: '\b(guess|think)\b'", False),
        ("regex: '[^<]think'", False),
        ("regex: '[ ,]think'", False),
        ("regex: '(?<! )think'", False),
        (r"regex: '(?<!\.)think'", False),
        ("regex: '(?P<thinks>I think)'", False),
        (r"regex: '<\|think'", True),
        (r"regex: '(<|\[)/?think'", True),
        (r"regex: '\|think'", True),
        ("regex: '[[]think'", True),
        ("contains: '|think'", True),
        ("contains: '[think'", True),
        ("contains: 'I think'", False),
    ],
)
def test_signs_of_a_pattern_are_no_tag_of_a_thought(rule, reads):
    assert (result(rule, "<think>I think so.").passed is not None) == reads


@pytest.mark.parametrize("rule", ["words: [sleek]", "contains: cup", "max_words: 99", "regex: cup", "language: en"])
def test_a_thought_without_words_beside_it_decides_nothing(rule):
    for text in ("<think>A sleek cup, is", THOUGHT):
        assert (result(rule, text).passed, result(rule, text, "must").passed) == (None, None)


# The judge


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Yes, it does.", True),
        ("no", False),
        ("**No**, because ...", False),
        ("It is fine.\nAnswer: yes", True),
        ("Yes and no.", None),
        ("yes/no", None),
        ("No idea.", None),
        ("Perhaps.", None),
        ("", None),
        ("Nothing is praised.", None),
        ("Answer: yes. Verdict: no.", None),
        ("No doubt, it praises.", None),
        ("No question: it praises the product.", None),
        ("No one could miss it", None),
        ("No problem! Yes, it does.", True),
        ('No praise? It has "superb", so the answer is yes.', True),
        ("No.\nWait, actually yes.", None),
        ("No. Wait, it does say superb.", None),
        ("Yes.\n\nAnswer: no", None),
        ("Yes? No.", None),
        ("Yes, no praise is found", None),
        ('No, it says "yes" only.', False),
        ("Yes. It is praise, no doubt.", True),
        ("No it does not.", False),
        ("No. 1 praise word is found.", None),
        ("Yes-men praise.", None),
        ("Yes or no? No.", False),
        ("If the answer is yes, quote it. It is neutral.", None),
        ("<answer>yes</answer>", True),
        ("<reason>It says fine.</reason>\n<answer>no</answer>", False),
        ("| Answer | yes |", True),
        ("| Check | Answer |\n|---|---|\n| praise | yes |", True),
        ("\\boxed{\\text{Yes}}", True),
        ('```json\n{"reason": "It says \\"no\\".", "answer": "yes"}\n```', True),
        ('{"answer": false}', False),
        ("1. Yes", True),
        ("Sure! Yes, it does.", True),
        *((word, True) for word in ("Ja, das tut sie.", "Oui.", "Sí.", "是的，它说", "是。", "はい", "네", "Да")),
        *((word, False) for word in ("Nein.", "Non.", "Não", "不是", "否", "いいえ", "아니요", "Нет", "Nee.")),
        ("Não há elogio.", None),
        (f"Answer:{' ' * 300}yes", True),
        (f"| Answer |{' ' * 150}**yes** |", True),
        ('{"answer":' + "[" * 900 + "]" * 900 + "}", None),
    ],
)
def test_an_answer_that_is_not_yes_or_no_decides_nothing(text, says):
    assert says_yes(text) is says


JUDGED = """\
- name: no-praise
  must_not: {judge: "Does the reply praise the {item}?"}
- name: short
  must: {max_words: 4}
"""


def test_a_judge_sees_question_and_reply_and_its_answer_is_kept():
    def says(prompt, before):
        if "superb" in prompt:
            return 'Yes: it says "SUPERB bottle".'
        return "Hard to say." if "odd" in prompt else "No."

    model = ScriptedModel(says)
    grader = ChecksGrader(read_checks(write(JUDGED)), model)
    replies = [reply("A superb bottle", **BOTTLE), reply("A bottle", **BOTTLE), reply("An odd bottle", **BOTTLE)]
    results = grader.check(replies)
    assert [[r.passed for r in row] for row in results] == [[False, True], [True, True], [None, True]]
    assert found(results[0][0], replies[0].text) == ["superb bottle"]
    assert results[2][0].judge == {
        "question": "Does the reply praise the Steel Bottle?",
        "answer": "Hard to say.",
        "says": None,
    }
    shown = model.requests[0].prompt
    assert [part for part in ("Describe it.", "A superb bottle", "praise the Steel Bottle?") if part not in shown] == []
    assert [g.grade for g in grader.grade(replies)] == ["wrong", "right", "ungraded"], "never passed if undecided"


def test_a_thought_of_the_judge_decides_nothing_and_quotes_nothing():
    checks = read_checks(write('- name: no-praise\n  must_not: {judge: "Does it praise?"}\n'))
    thought = '<think>\nYes, "fine" may be praise. Answer: yes\n</think>\n\nNo. It states "red" as a fact.'
    [[result]] = ChecksGrader(checks, ScriptedModel(lambda text, before: thought)).check([reply("A fine red cup.")])
    assert (result.passed, result.hits, result.judge["says"]) == (True, (), "no")


def test_a_judge_sees_no_thought_of_the_reply_and_its_quotes_are_found_after_it():
    checks = read_checks(write('- name: no-praise\n  must_not: {judge: "Does it praise?"}\n'))
    model = ScriptedModel(lambda text, before: 'Yes. It says "steel cup".')
    texts = [THOUGHT + "A steel cup.", "<think>A steel cup", "A steel cup."]
    results = [row[0] for row in ChecksGrader(checks, model).check([reply(text) for text in texts])]
    assert [(r.passed, found(r, text)) for r, text in zip(results, texts, strict=True)] == [
        (False, ["steel cup"]),
        (None, []),
        (False, ["steel cup"]),
    ]
    assert [("sleek" in request.prompt, "A steel cup." in request.prompt) for request in model.requests] == [
        (False, True),
        (False, True),
    ]


@pytest.mark.parametrize(("reason", "named"), [("length", "--judge_max_new_tokens"), ("content_filter", "filter"),
                                               ("unknown", "unknown")])  # fmt: skip
def test_an_answer_of_the_judge_that_did_not_end_decides_nothing_and_says_why(reason, named, capsys):
    checks = read_checks(write('- name: no-praise\n  must_not: {judge: "Does it praise?"}\n'))
    model = ScriptedModel(lambda text, before: ("No, wait. The user", reason) if "odd" in text else "No.")
    [[cut], [whole]] = ChecksGrader(checks, model).check([reply("An odd cup."), reply("A cup.")])
    assert (cut.passed, cut.judge["says"], whole.passed) == (None, None, True)
    assert named in cut.evidence
    assert "1 of 2" in (told := capsys.readouterr().err)
    assert named in told


@pytest.mark.parametrize("quote", ["„superb cup“", "«superb cup»", "「superb cup」", '"superb cup"', "`superb cup`"])
def test_the_quotes_of_a_judge_are_found_in_every_form(quote):
    checks = read_checks(write('- name: no-praise\n  must_not: {judge: "Does it praise?"}\n'))
    [[result]] = ChecksGrader(checks, ScriptedModel(lambda text, before: f"Yes: {quote}.")).check(
        [reply("A superb cup.")]
    )
    assert found(result, "A superb cup.") == ["superb cup"]


ANSWERED = 'Sorry, the answer is yes. For that reason, I quote: "quote" it.'


@pytest.mark.parametrize(
    ("answer", "marked"),
    [
        ('{"answer": "yes", "quote": "Sorry"}', ["Sorry"]),
        ('```json\n{"answer": "yes", "quotes": ["Sorry", "that reason"]}\n```', ["Sorry", "that reason"]),
        ('{"answer": "yes", "reason": "It says \\"Sorry\\"."}', ["Sorry"]),
        ("<answer>yes</answer><quote>Sorry</quote>", ["Sorry"]),
        ('Answer: "yes". It says "Sorry".', ["Sorry"]),
        ('"Yes". It says "Sorry".', ["Sorry"]),
        ('Yes. It says "yes".', ["yes"]),
    ],
)
def test_the_names_and_the_yes_of_a_judges_answer_are_no_quotes(answer, marked):
    checks = read_checks(write(JUDGE_ONLY))
    [[result]] = ChecksGrader(checks, ScriptedModel(lambda text, before: answer)).check([reply(ANSWERED)])
    assert found(result, ANSWERED) == marked


def test_a_judge_that_nobody_names_is_refused_before_any_work():
    with pytest.raises(UserError, match=r"checks\.yaml:1.*no-praise(?s:.*)--judge_model"):
        ChecksGrader(read_checks(write(JUDGED)))


# The grade


def test_a_reply_is_right_if_it_passes_all_and_the_grade_lists_what_failed():
    grader = ChecksGrader(read_checks(write(FILE)))
    right, wrong = grader.grade(
        [reply("A steel bottle for water", **BOTTLE), reply("A durable, sleek " + "thing " * 9, **BOTTLE)]
    )
    assert (right.grade, wrong.grade) == ("right", "wrong")
    named = ("no-empty-adjectives", '"durable"', '"sleek"', "names-the-item", "short", "12")
    assert [part for part in named if part not in wrong.explanation] == []
    failed, open_one = CheckResult("a", False), CheckResult("b", None)
    assert all_passed([failed, open_one], "").grade == "wrong"


def test_checks_choose_the_grader_and_stand_beside_no_other():
    assert EvaluationSettings(checks="c.yaml").grader == "checks"
    for settings in (
        {"checks": "c.yaml", "grader": "exact"},
        {"grader": "checks"},
        {"judge_model": "m"},
        {"judge_max_new_tokens": 9},
    ):
        with pytest.raises(UserError, match="--checks"):
            EvaluationSettings(**settings)
    with pytest.raises(UserError, match="--checks"):
        get_grader("checks")


# Commands


def questions(*items):
    rows = [{"id": f"q{n}", "prompt": f"Describe a {item}.", "item": item} for n, item in enumerate(items)]
    return write("".join(json.dumps(row) + "\n" for row in rows), "q.jsonl")


def describe(prompt, before):
    """A catalogue's texts: every second one has the fault."""
    item = re.search(r"Describe an? (.+?)\.", prompt)[1]
    return f"A durable and sleek {item}." if "lamp" in item else f"A {item} that holds water."


def server(url):
    return ["--base_url", url, "--model_name_or_path", "m"]


def run(*argv):
    assert cli.main([str(word) for word in argv]) == 0


def test_evaluate_reports_each_check_with_its_interval_and_keeps_every_reply(capsys):
    file = questions("steel bottle", "desk lamp", "cup")
    with serving(describe) as (url, _):
        run(
            "evaluate", file, "--checks", write(FILE), "--base_url", url, "--model_name_or_path", "m", "--out", "e.json"
        )
    shown = capsys.readouterr().out
    kept = json.loads(Path("e.json").read_text())
    assert list(kept["summary"]["accuracy"]) == [ALL_CHECKS, "no-empty-adjectives", "names-the-item", "short"]
    assert [(p["count"], p["n"]) for p in kept["summary"]["accuracy"].values()] == [(2, 3), (2, 3), (3, 3), (3, 3)]
    assert re.search(r"no-empty-adjectives +66\.7% \[20\.8%, 93\.9%\] of 3", shown)
    lamp = kept["questions"][1]
    first = lamp["checks"][0]
    assert [lamp["output"][start:end] for start, end in first["hits"]] == ["durable", "sleek"]
    assert lamp["grades"][ALL_CHECKS]["verdict"] == "wrong"
    assert lamp["grades"]["short"]["verdict"] == "right"


def test_evaluate_asks_a_judge_through_the_ledger_and_never_twice(capsys):
    file, checks = questions("steel bottle", "desk lamp"), write(JUDGED.replace("max_words: 4", "max_words: 40"))

    def judge(prompt, before):
        return "Yes." if "sleek" in prompt else "I would rather not say."

    with serving(describe) as (url, _), serving(judge) as (judge_url, asked):
        command = [
            "evaluate",
            file,
            "--checks",
            checks,
            "--base_url",
            url,
            "--model_name_or_path",
            "m",
            "--out",
            "e.json",
        ]
        command += ["--judge_model", "j", "--judge_base_url", judge_url, "--judge_max_new_tokens", 77]
        run(*command)
        first = json.loads(Path("e.json").read_text())
        run(*command)
        assert len(asked) == 2
        assert (asked[0]["model"], asked[0]["max_tokens"]) == ("j", 77)
    assert [q["checks"][0]["passed"] for q in first["questions"]] == [None, False]
    assert [q["checks"][0]["judge"]["says"] for q in first["questions"]] == [None, "yes"]
    assert first["questions"][0]["checks"][0]["judge"]["answer"] == "I would rather not say."
    assert first["summary"]["graded_share"]["no-praise"] == 0.5
    assert first["summary"]["accuracy"][ALL_CHECKS]["count"] == 0


def test_evaluate_answers_open_questions_with_a_model_on_this_machine(model_folder):
    file = questions("steel bottle", "cup")
    run(
        *("evaluate", file, "--checks", write(FILE), "--model_name_or_path", model_folder, "--dtype", "float32"),
        *("--max_new_tokens", 4, "--out", "e.json"),
    )
    kept = json.loads(Path("e.json").read_text())
    assert [p["n"] for p in kept["summary"]["accuracy"].values()] == [2] * 4
    assert all(len(question["checks"]) == 3 for question in kept["questions"])


def test_a_question_without_the_field_that_a_check_names_is_refused_with_its_line(capsys):
    file = write('{"prompt": "a", "item": "cup"}\n{"prompt": "b"}\n', "q.jsonl")
    argv = ["evaluate", file, "--checks", write(FILE), "--model_name_or_path", "m", "--out", "e.json"]
    assert cli.main(argv) == 2
    shown = capsys.readouterr().err
    assert "q.jsonl:2" in shown
    assert '"item"' in shown
    assert not Path("e.json").exists()


def test_a_judge_is_missed_before_a_model_is_loaded(capsys):
    argv = ["evaluate", questions("cup"), "--checks", write(JUDGED), "--model_name_or_path", "gone/model"]
    assert cli.main([*argv, "--out", "e.json"]) == 2
    assert "--judge_model" in capsys.readouterr().err


def test_sample_labels_by_checks_and_keeps_the_questions_fields(capsys):
    file = questions("steel bottle", "desk lamp")
    with serving(describe) as (url, _):
        run("sample", file, "--checks", write(FILE), *server(url), "--out", "s.jsonl")
    examples = read_examples("s.jsonl", require_judgment=False)
    assert [(e.label, e.answer, e.extra["item"]) for e in examples] == [
        (True, None, "steel bottle"),
        (False, None, "desk lamp"),
    ]
    assert "answer" not in json.loads(Path("s.jsonl").read_text().splitlines()[0])


def test_sample_leaves_out_and_counts_the_replies_that_no_check_decides(capsys):
    checks = write("- name: german\n  must: {language: German}\n- name: no-adjectives\n  must_not: {words: [sleek]}\n")
    with serving(describe) as (url, _):
        run("sample", questions("cup", "desk lamp"), "--checks", checks, *server(url), "--out", "s.jsonl")
    assert [(e.id, e.extra["verdict"]) for e in read_examples("s.jsonl", require_judgment=False)] == [("q1", "wrong")]
    shown = capsys.readouterr().out
    assert "1 more answers left out" in shown
    assert "docs/CHECKS.md" in shown
    assert "docs/GRADING.md" not in shown


def test_judgments_from_checks_quote_every_hit_and_mark_it(capsys):
    file = questions("steel bottle", "desk lamp")
    with serving(describe) as (url, _):
        run("sample", file, "--checks", write(FILE), *server(url), "--out", "s.jsonl")
    run("judge", "s.jsonl", "--judge", "checks", "--checks", "checks.yaml", "--out", "j.jsonl")
    right, wrong = read_examples("j.jsonl")
    assert right.judgment is None
    assert wrong.judgment == 'The reply says "durable" and "sleek": These words say nothing about this item.'
    assert [wrong.completion[span.start : span.end] for span in marked_spans(wrong)] == ["durable", "sleek"]


JUDGE_ONLY = '- name: no-praise\n  must_not: {judge: "Does the reply praise?"}\n'
SUPERB = [{"id": n, "prompt": "p", "completion": f"A superb cup {n}.", "label": False} for n in range(3)]


@pytest.mark.parametrize("judge", ["openai", "checks", "rules", "human"])
def test_a_dry_run_and_the_limits_hold_for_a_judge_of_the_checks_that_label(judge, capsys):
    write("".join(json.dumps(row) + "\n" for row in SUPERB), "e.jsonl")
    before = Path("e.jsonl").read_bytes()
    with serving(lambda *_: "The reply is too fond.") as (url, told), serving(lambda *_: "Yes.") as (judge_url, asked):
        argv = ["judge", "e.jsonl", "--judge", judge, "--checks", write(JUDGE_ONLY), "--grader", "checks"]
        argv += ["--judge_model", "j", "--judge_base_url", judge_url, *(server(url) if judge == "openai" else [])]
        run(*argv, "--dry_run", "true")
        assert (asked, told, Path("e.jsonl").read_bytes()) == ([], [], before)
        shown = capsys.readouterr().out
        assert shown.count("3 requests") == 1 + (judge in ("openai", "checks"))
        assert cli.main([*argv, "--max_requests", "2", "--ledger", "mine.calls.jsonl"]) == 1
        assert "--max_requests 2" in capsys.readouterr().err
        assert (len(asked), told) == (2, [])
        assert len(Path("mine.calls.jsonl").read_text().splitlines()) >= 2
        assert not Path("e.calls.jsonl").exists()


def test_the_limits_of_a_server_hold_for_the_judge_of_the_checks():
    checks = CheckSettings(checks=write(JUDGE_ONLY), judge_model="j", judge_base_url="http://127.0.0.1:9/v1")
    limits = {"concurrency": 2, "max_retries": 0, "request_timeout": 5.0, "requests_per_minute": 7.0}
    limits["tokens_per_minute"] = 900.0
    for backend in (BackendSettings(base_url="http://127.0.0.1:8/v1", **limits), BackendSettings(**limits)):
        beside = Ledgered(ScriptedModel(describe), Ledger(Path("a.calls.jsonl")), CallSettings(max_requests=3), backend)
        judge = checks._open_judge(beside)
        assert {name: getattr(judge.inner.settings, name) for name in limits} == limits
        assert (judge.inner.settings.base_url, judge.ledger, judge.calls) == (
            checks.judge_base_url,
            beside.ledger,
            beside.calls,
        )


def test_a_local_model_takes_the_limits_of_a_judges_server(model_folder, capsys):
    with serving(lambda *_: "No.") as (judge_url, asked):
        argv = ["sample", questions("cup"), "--checks", write(JUDGE_ONLY), "--model_name_or_path", model_folder]
        argv += ["--judge_model", "j", "--judge_base_url", judge_url, "--max_new_tokens", 2, "--out", "s.jsonl"]
        run(*argv, "--concurrency", 2)
        assert len(asked) == 1
        assert cli.main([str(word) for word in [*argv, "--api_key_env", "OTHER"]]) == 2
    assert "--api_key_env" in capsys.readouterr().err


def test_a_judgment_has_a_sentence_for_each_failed_check_and_quotes_nothing_that_was_not_said():
    checks = read_checks(write(FILE + "- name: no-quotes\n  must_not: {regex: '\"b\\n\\nc'}\n"))
    text = 'durable "b\n\nc' + " d" * 9
    given = [check_reply(check, reply(text, **BOTTLE)) for check in checks]
    lines = judgment_of(checks, given, text).split("\n")
    assert lines[0].startswith('The reply says "durable": ')
    assert "names-the-item" in lines[1]
    assert "short" in lines[2]
    assert lines[3] == 'The reply says “"b” and "c": no-quotes.'
    assert len(lines) == 4
    for quote in re.findall(r'"([^"\n]+)"(?!b)|“([^”\n]+)”', "\n".join(lines)):
        assert "".join(quote) in text


def test_a_quote_has_the_whole_word_so_that_it_marks_it():
    checks = [only("regex: 'dur|瓶'")]
    text = "Its durability: 水瓶子."
    words = judgment_of(checks, [check_reply(checks[0], reply(text))], text)
    assert words == 'The reply says "durability" and "瓶": it.'
    assert len(quoted_spans(text, words).spans) == 2


@pytest.mark.parametrize(
    ("pattern", "text", "marked"),
    [
        ("34", "It is 34.5 kg", ["34"]),
        ("12", "at 12:30", ["12"]),
        ("can", "you can't", ["can"]),
        ("\U0001f468", "a \U0001f468\u200d\U0001f469\u200d\U0001f467 here", ["\U0001f468"]),
        ("(?<!very )flat", "very flat, flat", ["flat"]),
        ("“a.*c”", 'It has “a” and "b" and “c”', ['“a” and "b" and “c”']),
        ("flat|12", "flat at 12:30", ["flat", "12"]),
        (" +$", "flat  ", []),
    ],
)
def test_a_judge_by_checks_marks_by_spans_what_no_quote_marks(pattern, text, marked):
    extra = {"judge_verdict": "wrong"}
    rows = [Example(1, "p", text, False, judgment="earlier", spans=(Span(0, 1, note="earlier"),), extra=extra)]
    judge = checks_judge(ChecksGrader([only(f"regex: '{pattern}'")]))
    for overwritten in range(2):  # a second judgment replaces the first one's spans
        [judged] = rows = judge_examples(rows, judge, overwrite=True).examples
        assert [text[span.start : span.end] for span in marked_spans(judged)] == marked, overwritten
    assert quotes_of(judged).missing == (), "no quote is lost"
    assert {span.note for span in judged.spans} <= {judged.judgment}


def test_a_judge_by_checks_searches_many_hits_in_a_moment():
    text = " ".join(f"word{number} is" for number in range(1000))
    rows, start = [Example(1, "p", text, False)], time.process_time()
    [judged] = judge_examples(rows, checks_judge(ChecksGrader([only(r"regex: 'word\d+'")]))).examples
    assert time.process_time() - start < 6
    assert (judged.judgment.count('"'), judged.spans) == (2000, ())


def test_a_judge_by_checks_leaves_a_readers_marks():
    row = Example(1, "p", "at 12:30", False, spans=(Span(3, 8, "noon", "mine"),))
    judge = checks_judge(ChecksGrader([only("regex: 12")]))
    assert judge_examples([row], judge).examples[0].spans == row.spans
    by_hand = replace(row, judgment="Vague.", spans=(Span(0, 2, note="Vague."),))
    by_judge = replace(row, judgment="mine", extra={"judge_verdict": "wrong"})
    for again in (by_hand, by_judge):
        [judged] = judge_examples([again], judge, overwrite=True).examples
        assert judged.judgment != again.judgment
        assert again.spans[0] in judged.spans, "a reader's span can have a line of the judgment as its note"


def test_a_judge_by_checks_disagrees_with_a_label_and_does_not_change_it(capsys):
    rows = [
        {"id": 1, "prompt": "p", "completion": "sleek", "label": True, "item": "sleek"},
        {"id": 2, "prompt": "p", "completion": "a bottle", "label": False, "item": "bottle"},
    ]
    write("".join(json.dumps(row) + "\n" for row in rows), "e.jsonl")
    argv = ["judge", "e.jsonl", "--judge", "checks", "--checks", write(FILE), "--check_right", "--out", "j.jsonl"]
    assert cli.main(argv) == 1
    first, second = read_examples("j.jsonl", require_judgment=False)
    assert (first.label, second.label) == (True, False)
    assert '"sleek"' in first.extra["conflict"]
    assert "passes all checks" in capsys.readouterr().err
    run(*argv[:2], "--judge", "checks", "--checks", "checks.yaml", "--grader", "checks", "--out", "j.jsonl")
    assert [e.label for e in read_examples("j.jsonl")] == [False, True], "--grader checks labels them again"


@pytest.mark.parametrize("more", [["--judge", "checks"], ["--checks", "checks.yaml"]])
def test_a_judge_and_its_checks_come_together(more, capsys):
    write('{"id": 1, "prompt": "p", "completion": "c", "label": false}\n', "e.jsonl")
    write(FILE)
    assert cli.main(["judge", "e.jsonl", *more]) == 2
    assert "--checks" in capsys.readouterr().err


def test_checks_grade_every_stage_of_tune_compare_and_rounds(model_folder):
    """A tiny model's text is noise: it has no item, so each answer fails that check."""
    settings = TuneSettings(checks=write(FILE), output_dir="t", max_new_tokens=4, audit=False)
    assert (settings.grader, settings.judge) == ("checks", "checks")
    assert (CompareSettings(checks="c.yaml").judge, RoundsSettings(checks="c.yaml").judge) == ("checks", "checks")
    model = {"model_name_or_path": model_folder, "dtype": "float32"}
    job = {"file": questions(*(f"item{n}" for n in range(10))), "model": model, "settings": asdict(settings)}
    folder = Path("t")
    folder.mkdir()
    stages.split_stage(folder, job)
    stages.sample_stage(folder, job)
    stages.judge_stage(folder, job)
    judged = read_examples(folder / "judged.jsonl")
    assert len(judged) == 7
    assert all("names-the-item" in e.judgment for e in judged)
    assert [q.extra["item"][:4] for q in stages.read_test(folder)] == ["item"] * 3
    base = settings.known_arms()["base"]
    asked = {"examples": folder / "judged.jsonl", "test": folder / "test.jsonl", "out": folder / "base"}
    run_arm(base, **asked, model=model, asking=settings, budget=settings)
    result = cell_result(folder / "base", settings.extraction)
    assert result.right == [False] * 3
    assert list(result.took["summary"]["accuracy"]) == [ALL_CHECKS, "no-empty-adjectives", "names-the-item", "short"]
    ruled = defined_arm("brief", {"method": "prompt", "settings": {"prompt_template": "{prompt} Be brief."}})
    run_arm(ruled, **asked | {"out": folder / "rule"}, model=model, asking=settings, budget=settings)
    prompts = [q["prompt"] for q in json.loads((folder / "rule" / "evaluation.json").read_text())["questions"]]
    assert [str(prompt).count(" Be brief.") for prompt in prompts] == [1] * 3
    skipped = folder / "few-shot"
    run_arm(
        settings.known_arms()["few-shot"], **asked | {"out": skipped}, model=model, asking=settings, budget=settings
    )
    assert "answer" in json.loads((skipped / "result.json").read_text())["skipped"]


def test_a_run_folder_notices_edited_checks():
    staged = Staged(questions("cup"), {"model_name_or_path": "m"}, TuneSettings(checks=write(FILE), output_dir="t"))
    staged.record_settings()
    write(FILE + "- name: new\n  must: {contains: x}\n")
    with pytest.raises(UserError, match=r"checks\.yaml"):
        staged.record_settings()
