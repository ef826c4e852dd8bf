"""rules.yaml: what is read, what is refused, and the checks that rules become."""

import json
import re

import pytest

from helpers import tiny
from helpers.scripted_model import serving
from nlft import cli
from nlft.core.conditions import ConditionEncoder
from nlft.core.spans import Span, WordFinder, occurrences, quoted_spans
from nlft.data.checks import check_reply
from nlft.data.checks_file import read_checks
from nlft.data.checks_grader import needs_of_questions
from nlft.data.grading import Reply
from nlft.data.rules_file import Rule, checks_of, read_rules, words_of, write_rules
from nlft.errors import ConfigError, UserError

FILE = """\
rules:
  - name: praise
    rule: The catalogue does not praise.
    reworded: Our catalogue states plain facts.
    words: [sleek, durable, no]
    proposed: [modern, elegant]
    examples: 21
  - name: greeting-1
    rule: "Do not greet: say what the thing is."
    words: ["Dear {name}", "!"]
"""
PRAISE = Rule(
    "praise",
    "The catalogue does not praise.",
    "Our catalogue states plain facts.",
    ("sleek", "durable", "no"),
    ("modern", "elegant"),
    21,
)
GREETING = Rule("greeting-1", "Do not greet: say what the thing is.", None, ("Dear {name}", "!"), (), None)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text):
    with open("rules.yaml", "w", encoding="utf-8") as file:
        file.write(text)
    return "rules.yaml"


def test_rules_are_read_in_order_and_words_as_they_are_written():
    assert read_rules(write(FILE)) == [PRAISE, GREETING]


def test_what_is_written_is_read_again_and_says_what_its_lists_are_for():
    long = Rule("long", "It says: \"much\" # and 'more'", None, tuple(f"word{n} of many" for n in range(30)), ("ü",), 0)
    write_rules("out.yaml", [PRAISE, GREETING, long], ["left out: other,\n a: b"])
    assert read_rules("out.yaml") == [PRAISE, GREETING, long]
    with open("out.yaml", encoding="utf-8") as file:
        text = file.read()
    assert "# words:" in text
    assert "# proposed:" in text
    assert text.endswith("# left out: other, a: b\n")
    assert "words: [sleek, durable, 'no']" in text, "on one line, to be edited"


@pytest.mark.parametrize(
    ("text", "line", "names"),
    [
        ("rules:\n- name: a\n  rule: x\n", 2, ["'a'", '"words"', "missing"]),
        ("rules:\n- name: a\n  rule: x\n  words: []\n", 4, ["'a'", '"words"']),
        ("rules:\n- name: a\n  rule: x\n  words: sleek\n", 4, ["'a'", '"words"', "words: [sleek, durable]"]),
        ("rules:\n- name: a\n  rule: x\n  words: [sleek, '']\n", 4, ["'a'", '"words"']),
        ("rules:\n- name: a\n  rule: x\n  words: [sleek, Sleek]\n", 4, ["'a'", '"words"', "'Sleek'"]),
        ("rules:\n- name: a\n  rule: x\n  words: [[sleek]]\n", 4, ["'a'", '"words"']),
        ("rules:\n- name: a\n  words: [sleek]\n", 2, ["'a'", '"rule"']),
        ("rules:\n- name: a\n  rule: ''\n  words: [sleek]\n", 3, ["'a'", '"rule"']),
        ("rules:\n- name: a\n  rule: x\n  reworded:\n  words: [sleek]\n", 4, ["'a'", '"reworded"']),
        ("rules:\n- name: a\n  rule: x\n  word: [sleek]\n", 4, ["'a'", '"word"', "words"]),
        ("rules:\n- name: a\n  rule: x\n  words: [sleek]\n  words: [big]\n", 5, ['"words"']),
        ("rules:\n- name: a\n  rule: x\n  words: [sleek]\n  examples: many\n", 5, ["'a'", '"examples"', "'many'"]),
        ("rules:\n- name: No Praise\n  rule: x\n  words: [sleek]\n", 2, ["'No Praise'", '"name"']),
        ("rules:\n- rule: x\n  words: [sleek]\n", 2, ['"name"']),
        ("rules:\n- {name: a, rule: x, words: [b]}\n- {name: a, rule: y, words: [c]}\n", 3, ["'a'", "rules.yaml:2"]),
        ("rules:\n- sleek\n", 2, ["docs/AUDIT.md"]),
        ("rules: []\n", 1, ['"rules"']),
        ("rules:\n", 1, ['"rules"']),
        ("- name: a\n", 1, ["docs/AUDIT.md"]),
        ("words: [a]\n", 1, ['"words"', "rules"]),
    ],
)
def test_a_wrong_rule_is_refused_with_its_line_its_name_and_its_field(text, line, names):
    with pytest.raises(ConfigError) as caught:
        read_rules(write(text))
    assert f"rules.yaml:{line}" in {problem.where for problem in caught.value.problems}
    assert [name for name in names if name not in str(caught.value)] == []


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        read_rules(write("rules:\n- {name: a, rule: x}\n- {name: b, words: [c]}\n"))
    assert [problem.where for problem in caught.value.problems] == ["rules.yaml:2", "rules.yaml:3"]


def test_a_file_without_rules_or_without_a_file_is_refused():
    with pytest.raises(UserError, match=r"rules\.yaml"):
        read_rules(write("# none yet\n"))
    with pytest.raises(UserError, match=r"gone\.yaml"):
        read_rules("gone.yaml")


def test_each_rule_is_one_check_for_its_words_as_whole_words_in_any_case():
    praise, greeting = checks_of([PRAISE, GREETING])
    assert (praise.name, praise.must, praise.say) == ("praise", False, PRAISE.rule)

    def passes(check, text):
        return check_reply(check, Reply("q1", "Describe it.", "", text, {})).passed

    assert passes(praise, "A modern bottle of known durability."), "proposed words are not checked"
    assert not passes(praise, "A SLEEK bottle.")
    assert not passes(greeting, "dear  {name}, a bottle.")
    assert passes(greeting, "Dear Ada, a bottle."), "braces in a word are no slot"
    assert not passes(greeting, "A bottle!"), "a sign may follow a word"


def test_a_file_of_rules_stands_in_for_a_file_of_checks():
    assert read_checks(write(FILE)) == checks_of([PRAISE, GREETING])
    assert needs_of_questions("rules.yaml") == {"require_answer": False, "needed_fields": frozenset()}
    with pytest.raises(ConfigError, match="'a'"):
        read_checks(write("rules:\n- name: a\n  rule: x\n"))


def test_an_evaluation_reports_each_rule_with_its_interval(capsys):
    """The model praises lamps, and greets nobody."""
    items = ["cup", "lamp", "desk lamp"]
    with open("q.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": item, "prompt": f"Describe a {item}."}) + "\n" for item in items)

    def answer(prompt, before):
        return "A Sleek lamp." if "lamp" in prompt else "A cup."

    with serving(answer) as (url, _):
        asked = ["--base_url", url, "--model_name_or_path", "m", "--out", "e.json"]
        assert cli.main(["evaluate", "q.jsonl", "--checks", write(FILE), *asked]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"praise +33\.3% \[6\.1%, 79\.2%\] of 3", shown)
    assert re.search(r"greeting-1 +100\.0% \[43\.9%, 100\.0%\] of 3", shown)


def test_words_of_several_rules_are_listed_once():
    other = Rule("other", "x", None, ("Sleek", "big"), ("huge",), None)
    assert words_of([PRAISE, other]) == ["sleek", "durable", "no", "big"]


def test_a_word_stands_without_the_stop_or_comma_of_american_quotes(tmp_path):
    (tmp_path / "rules.yaml").write_text(
        "rules:\n- {name: r, rule: No., words: ['durable.', 'sleek,', '耐用。', 'wait...', '...', 'U.S.', 'Sure!']}\n"
    )
    [rule] = read_rules(tmp_path / "rules.yaml")
    assert rule.words == ("durable", "sleek", "耐用", "wait...", "...", "U.S", "Sure!")
    text = "A durable pan. It is durable."
    encoder = ConditionEncoder(tiny.tokenizer(), listed=["durable."])
    one = encoder.encode(id=1, prompt="Say", completion=text, label=False, judgment="No.")
    assert (one.listed, [span.text for span in one.spans]) == (("durable",), ["durable", "durable"])
    assert WordFinder(["durable."]).first(text) == Span(2, 9)
    (tmp_path / "rules.yaml").write_text("rules:\n- {name: r, rule: No., words: ['durable.', Durable]}\n")
    with pytest.raises(ConfigError, match="'Durable' twice"):
        read_rules(tmp_path / "rules.yaml")


WORDS = {
    "Chinese": ("漂亮", "这个锅很漂亮。", 1),
    "Japanese": ("美しい", "とても美しい鍋です。", 1),
    "Thai": ("สวย", "หม้อสวยมาก", 1),
    "Korean": ("예쁜", "예쁜냄비", 1),
    "Chinese beside Latin letters": ("漂亮", "A很漂亮B", 1),
    "Latin beside Chinese": ("sleek", "这个sleek锅", 1),
    "a phrase in two scripts": ("很 sleek", "锅很 sleek锅", 1),
    "both cases": ("durable", "Durable pan. It is durable.", 2),
    "capitals only": ("durable", "DURABLE pan", 1),
    "inside a word": ("no", "knows nothing, noon", 0),
    "inside a name": ("no", "no_thing", 0),
    "an umlaut is a letter": ("blau", "ungläubig hellblauäugig", 0),
    "Cyrillic has spaces": ("мода", "модальный", 0),
    "a sign": ("!", "great!", 1),
}


@pytest.mark.parametrize(("word", "text", "places"), WORDS.values(), ids=WORDS)
def test_a_word_of_the_list_is_checked_struck_and_banned_at_the_same_places(word, text, places):
    (check,) = checks_of([Rule("r", "No praise.", None, (word,), (), None)])
    checked = check_reply(check, Reply("1", "p", None, text, {}))
    assert checked.passed is (places == 0)
    assert len(checked.hits) == places
    assert tuple((span.start, span.end) for span in occurrences(text, [word], any_case=True)) == checked.hits
    first = WordFinder([word]).first(text)
    assert (first and (first.start, first.end)) == (checked.hits[0] if checked.hits else None)


def test_training_strikes_the_words_of_a_list_in_every_case_and_a_quote_only_in_its_own():
    text = "Durable pan. It is durable."
    encoder = ConditionEncoder(tiny.tokenizer(), listed=["durable"])
    one = encoder.encode(id=1, prompt="Say", completion=text, label=False, judgment="No.")
    assert [span.text for span in one.spans] == ["Durable", "durable"]
    assert [text[span.start : span.end] for span in quoted_spans(text, 'It says "durable".').spans] == ["durable"]
