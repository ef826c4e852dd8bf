"""YAML and flags to dataclasses: precedence, types, ranges, and every problem at once."""

import re
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import pytest

from helpers import constants_list, settings_list
from nlft.commands.parsing import Command, early_setting, plain_parser
from nlft.config import Range, closest, settle
from nlft.errors import ConfigError, UserError
from nlft.path_settings import PATHS


@dataclass
class Settings:
    """Something of each kind."""

    rate: Annotated[float, Range(0, inf)] = field(default=0.5, metadata={"help": "a rate"})
    count: Annotated[int | None, Range(1, 10)] = field(default=None, metadata={"help": "a count"})
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    words: list[str] | None = None
    more: dict[str, Any] | None = None
    output_dir: str | None = None


def parse(argv):
    return Command("test", "", [Settings]).parse(argv)


def read(tmp_path, text="", *argv):
    (tmp_path / "c.yaml").write_text(text)
    config = ["--config", str(tmp_path / "c.yaml")] if text else []
    return parse([*config, *argv])[0]


def test_flags_override_the_file_which_overrides_the_defaults(tmp_path):
    found = read(tmp_path, "rate: 2\nname: from file\n", "--name", "from flag")
    assert (found.rate, found.name, found.mode) == (2.0, "from flag", "a")


def test_the_file_may_be_named_with_an_equals_sign(tmp_path):
    (tmp_path / "c.yaml").write_text("count: 3\n")
    assert parse([f"--config={tmp_path / 'c.yaml'}"])[0].count == 3


def test_yamls_1e_4_is_a_number(tmp_path):
    assert read(tmp_path, "rate: 1e-4\n").rate == 1e-4


def test_every_kind_of_value_is_read(tmp_path):
    found = read(tmp_path, "flag: true\nwords: [a, b]\nmode: b\ncount: null\n")
    assert (found.flag, found.words, found.mode, found.count) == (True, ["a", "b"], "b", None)


@pytest.mark.parametrize("text", ["2024", "007", "1:2", "2024-07-26", "1e5", "0x1f", ".5"])
def test_a_text_is_what_the_file_says_whatever_yaml_takes_it_for(tmp_path, text):
    found = read(tmp_path, f"name: {text}\nwords: [{text}, a]\n")
    assert (found.name, found.words) == (text, [text, "a"])


@pytest.mark.parametrize("text", ["no", "true", "Yes"])
def test_a_bare_yes_or_no_is_a_word_in_a_list_and_no_text_alone(tmp_path, text):
    assert read(tmp_path, f"words: [{text}, a]\n").words == [text, "a"]
    with pytest.raises(ConfigError, match=r'"name" is (True|False)\n.*in quotes'):
        read(tmp_path, f"name: {text}\n")
    assert read(tmp_path, f'name: "{text}"\n').name == text


def test_null_is_no_text(tmp_path):
    assert read(tmp_path, "words: null\n").words is None
    for text in ("name: null\n", "words: [a, ~]\n", "name: {a: 1}\n", "words: {a: 1}\n"):
        with pytest.raises(ConfigError):
            read(tmp_path, text)


def test_numbers_without_a_point_are_numbers_inside_a_mapping(tmp_path):
    assert read(tmp_path, 'more: {a: 1e-5, b: [2E3, "1e-5"], c: no}\n').more == {
        "a": 1e-5, "b": [2000.0, "1e-5"], "c": False,
    }  # fmt: skip


def test_the_saliency_of_a_file_may_be_empty_and_nothing_is_merged_into_it(tmp_path):
    assert read(tmp_path, "saliency:\nname: y\n").name == "y"
    for text, line in [("<<: {rate: 0.3}\n", 1), ("name: y\nsaliency:\n  <<: {a: 1}\n", 3)]:
        with pytest.raises(UserError, match=rf"c\.yaml:{line}: <<"):
            read(tmp_path, text)


def test_a_name_is_guessed_by_its_own_letters_and_not_by_its_prefix():
    known = ["learning_rate", "eval_file", "saliency.mistake_floor", "saliency.redirect", "saliency.pivot"]
    for name in ("foo", "x", "saliency", "--foo", "saliency.foo"):
        assert closest(name, known) is None, name
    assert closest("redirct", known) == closest("saliency.redirct", known) == "saliency.redirect"
    assert closest("saliency.learning_rat", known) == "learning_rate"


def test_two_files_are_refused_and_none_is_dropped(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("rate: 0.1\n")
    words = [f"--config={tmp_path / 'a.yaml'}", "--config", str(tmp_path / "b.yaml")]
    for reads in (parse, lambda argv: early_setting("test", argv, "rate")):
        with pytest.raises(UserError, match=r"(?s)--config.*2 times.*a\.yaml.*b\.yaml"):
            reads(words)


def test_a_path_may_begin_with_the_home_folder_wherever_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert read(tmp_path, "output_dir: ~/x\nname: ~/x\n").output_dir == "/home/me/x"
    found = read(tmp_path, "", "--output-dir=~/x", "--name", "~/x")
    assert (found.output_dir, found.name) == ("/home/me/x", "~/x")
    assert read(tmp_path, "", "--output_dir", "~").output_dir == "/home/me"
    assert read(tmp_path, "", "--output_dir", "~other/x").output_dir == "~other/x"
    (tmp_path / "c.yaml").write_text("checks: ~/c.yaml\n")
    assert early_setting("test", ["--config", str(tmp_path / "c.yaml")], "checks") == "/home/me/c.yaml"
    assert settle(Settings, {}, {"output_dir": "~/x"}, "mine").output_dir == "/home/me/x"
    parser = plain_parser("test", "")
    parser.add_argument("--out", type=Path)
    assert parser.parse_args(["--out=~/x"]).out == Path("/home/me/x")


def test_a_path_with_a_variable_is_refused(tmp_path):
    for text, argv in [("output_dir: $HOME/y\n", []), ("", ["--output_dir", "${HOME}/y"]), ("", ["--output_dir=$A"])]:
        with pytest.raises(ConfigError, match=r"(?s)output_dir.*\./\$"):
            read(tmp_path, text, *argv)
    assert read(tmp_path, "output_dir: ./$HOME/y\nname: $HOME\n").output_dir == "./$HOME/y"


def test_every_setting_that_names_a_file_or_folder_is_known_as_one():
    found = set()
    for cls in settings_list.settings_classes():
        for one in fields(cls):
            said = str(one.metadata.get("help", "")).lower()
            if re.match(r"(held-out|folder|file of)\b", said) or re.search(r"(a|its) folder\b|path to a json", said):
                found |= {one.name} if "str" in str(get_type_hints(cls)[one.name]) else set()
    assert found <= PATHS
    assert {"adapter", "checks", "deepspeed", "eval_file", "output_dir", "resume_from_checkpoint"} <= found


def test_all_problems_of_a_file_are_told_with_their_lines(tmp_path):
    text = "rate: [1]\nnmae: x\ncount: true\nflag: 1\nmode: c\nrate: 2\nwords: 5\nname: [3]\n"
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    told = [str(p) for p in caught.value.problems]
    for line, word in [
        (1, "a number"), (2, "Did you mean name?"), (3, "whole number"), (4, "true or false"),
        (5, "one of a, b"), (6, "a second time"), (7, "a list"), (8, "text"),
    ]:  # fmt: skip
        assert any(f"c.yaml:{line}" in t and word in t for t in told), (line, word, told)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--rate", "-1"], "--rate: is -1.0"),
        (["--rate", "nan"], "--rate: is nan"),
        (["--count", "11"], "Give 1 to 10"),
        (["--cuont", "3"], "Did you mean --count?"),
        (["--rate", "fast"], "invalid float value"),
        (["--mode", "c"], "invalid choice"),
        (["stray"], "stray"),
    ],
)
def test_bad_flags_are_refused_in_one_message(tmp_path, argv, told):
    with pytest.raises(UserError, match="(?s)" + told.replace("?", r"\?").replace(".", r"\.")):
        read(tmp_path, "", *argv)


@pytest.mark.parametrize("text", ["- a\n- b\n", "rate: [\n", "rate: {a: 1\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"c\.yaml"):
        read(tmp_path, text)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        parse(["--config", "none.yaml"])


def test_a_plans_own_values_are_read_as_a_files_are():
    made = settle(Settings, {"rate": 0.1, "name": "y"}, {"rate": "1e-3", "count": 3}, "mine")
    assert made == Settings(rate=0.001, count=3, name="y")
    with pytest.raises(ConfigError) as told:
        settle(Settings, {}, {"cuont": 3, "flag": "yes", "rate": "fast"}, "mine")
    for word in ('mine: "cuont"', "Did you mean count?", '"flag" is', "true or false", '"rate" is'):
        assert word in str(told.value), word
    with pytest.raises(ConfigError, match="is -1"):
        settle(Settings, {}, {"rate": -1}, "mine")


def test_no_default_and_no_range_has_changed_unseen():
    assert settings_list.lines() == settings_list.KEPT.read_text(encoding="utf-8").splitlines(), (
        "If the change is meant, run tests/helpers/settings_list.py --write, and say it in CHANGELOG.md."
    )


def test_no_number_that_the_code_decides_by_has_changed_unseen():
    assert constants_list.lines() == constants_list.KEPT.read_text(encoding="utf-8").splitlines(), (
        "If the change is meant, run tests/helpers/constants_list.py --write."
    )
