"""YAML and flags to dataclasses: precedence, types, ranges, and every problem at once."""

from dataclasses import dataclass, field
from math import inf
from typing import Annotated, Literal

import pytest

from helpers import settings_list
from nlft.commands.parsing import Command
from nlft.config import Range, settle
from nlft.errors import ConfigError, UserError


@dataclass
class Settings:
    """Something of each kind."""

    rate: Annotated[float, Range(0, inf)] = field(default=0.5, metadata={"help": "a rate"})
    count: Annotated[int | None, Range(1, 10)] = field(default=None, metadata={"help": "a count"})
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    words: list[str] | None = None


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


def test_all_problems_of_a_file_are_told_with_their_lines(tmp_path):
    text = "rate: [1]\nnmae: x\ncount: true\nflag: 1\nmode: c\nrate: 2\nwords: 5\nname: 3\n"
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
