"""Errors: their kinds, their messages, and pickling."""

import importlib
import pickle
import pkgutil

import pytest

import nlft
from nlft.errors import ConfigError, NLFTError, Problem, ProblemsError, RecordsError, UserError


def subclasses(cls):
    return {cls} | {deeper for sub in cls.__subclasses__() for deeper in subclasses(sub)}


def all_errors():
    for module in pkgutil.walk_packages(nlft.__path__, "nlft."):
        if not module.name.endswith(("__main__", "rescore_worker")):
            importlib.import_module(module.name)
    return {cls for cls in subclasses(NLFTError) if cls.__module__.startswith("nlft.")}


def test_every_error_survives_pickling():
    problems = [Problem("a.jsonl:1", "is bad", "Fix it.", "label"), Problem("--x", "is 3", "Give 2.")]
    found = all_errors()
    assert len(found) >= 6
    for cls in found:
        error = cls(problems) if issubclass(cls, ProblemsError) else cls("something\n  cure")
        read = pickle.loads(pickle.dumps(error))
        assert type(read) is cls
        assert str(read) == str(error)
        assert getattr(read, "problems", None) == getattr(error, "problems", None)


def test_errors_can_be_caught_as_pythons_own():
    assert issubclass(NLFTError, RuntimeError)
    assert issubclass(UserError, ValueError)


def test_alike_problems_are_grouped_and_five_groups_are_shown():
    problems = [Problem(f"q.jsonl:{n}", "is missing", "Add it.", field) for n in range(1, 7474) for field in "abc"]
    problems += [Problem(f"q.jsonl:{n}", f"is {'x' * n}", f"Give {'y' * n}.", "d") for n in range(1, 5)]
    error = RecordsError(problems)
    text = str(error)
    assert error.problems == problems
    assert len(text.splitlines()) < 25
    for word in ("22,423 problems", "7 kinds", "q.jsonl:1", "2, 3, 4, 5, 6 and 7,467 more", "and 2 more kinds"):
        assert word in text, word


def test_values_do_not_keep_alike_problems_apart():
    error = RecordsError([Problem(f"q.jsonl:{n}", f"id 'q{n}' is used twice", "Rename one.") for n in range(1, 9)])
    assert "1 kind:" in str(error)


@pytest.mark.parametrize("kind", [ProblemsError, RecordsError])
def test_few_problems_are_listed_in_full(kind):
    text = str(kind([Problem("e.jsonl:1", "is bad", "Fix."), Problem("e.jsonl:2", "is bad", "Fix.")]))
    assert text == "2 problems:\ne.jsonl:1: is bad\n  Fix.\ne.jsonl:2: is bad\n  Fix."


def test_every_bad_setting_is_listed():
    text = str(ConfigError([Problem(f"--setting_{n}", "is 3", "Give 2.") for n in range(9)]))
    assert all(f"--setting_{n}: is 3" in text for n in range(9))
