"""The private methods of transformers' Trainer that are overridden here, held to the installed version."""

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from transformers import Trainer

from nlft.errors import NLFTError
from nlft.training.overrides import OVERRIDDEN, SUPPORTED, check_overrides

ROOT = Path(__file__).parent.parent


def test_the_installed_trainer_has_every_method_that_is_overridden():
    check_overrides(Trainer)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_missing_method_is_named_with_the_installed_and_the_supported_versions(name):
    methods = {other: getattr(Trainer, other) for other in OVERRIDDEN if other != name}
    with pytest.raises(NLFTError) as raised:
        check_overrides(type("Trainer", (), methods))
    for part in (name, version("transformers"), SUPPORTED):
        assert part in str(raised.value)


def test_a_method_with_other_parameters_is_refused():
    methods = {**{name: getattr(Trainer, name) for name in OVERRIDDEN}, "_save_rng_state": lambda self, folder: None}
    with pytest.raises(NLFTError, match=r"_save_rng_state.*\(folder\).*\(output_dir\)"):
        check_overrides(type("Trainer", (), methods))


def test_the_list_is_what_the_trainers_override():
    overridden = set()
    for module in (ROOT / "src" / "nlft" / "training").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ClassDef):
                overridden |= {m.name for m in node.body if isinstance(m, ast.FunctionDef) and hasattr(Trainer, m.name)}
    assert {name for name in overridden if name.startswith("_") and not name.startswith("__")} == set(OVERRIDDEN)


def test_the_project_asks_for_the_supported_versions_only():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert SUPPORTED in wanted
    assert {"peft>=0.21,<1", "trl>=1.16,<2"} <= set(wanted)
