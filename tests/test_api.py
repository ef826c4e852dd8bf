"""The public API: what `from nlft import ...` offers, how fast, and that docs/API.md says the same."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import nlft

PUBLIC = [
    *("NLFTTrainer", "NLFTConfig", "read_examples", "read_questions", "write_examples", "Example", "Question", "Span"),
    *("Scheme", "NLFTSettings", "StrikeSettings", "register_scheme", "evaluate", "EvaluationSettings"),
    *("audit", "AuditSettings"),
    *("Run", "ComparisonResult"),
    *("RunDir", "NLFTError", "UserError", "ProblemsError", "RecordsError", "ConfigError", "Problem"),
]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_public_names_are_these():
    assert nlft.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(nlft))
    for name in PUBLIC:
        public = getattr(nlft, name)
        assert public.__name__ == name
        assert public.__module__.startswith("nlft.")
        assert public.__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(nlft.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: f"{node.module}" for node in block.body for alias in node.names}
    assert seen == {name: getattr(nlft, name).__module__ for name in PUBLIC}


def test_importing_nlft_brings_nothing_heavy():
    assert run("import sys, nlft; print({'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules))") == "set()\n"
    used = "from nlft import Example, UserError, RunDir, read_examples, register_scheme"
    assert run(f"import sys; {used}; print('torch' in sys.modules)") == "False\n"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="NLFTTainer"):
        nlft.NLFTTainer  # noqa: B018
    with pytest.raises(ImportError, match="NLFTTainer"):
        exec("from nlft import NLFTTainer")


def test_no_module_hides_a_public_name():
    code = "import nlft.auditing.run, nlft.results.evaluate, nlft.core.schemes.nlft\nfrom nlft import audit, evaluate\n"
    assert run(code + "print(callable(audit), callable(evaluate))") == "True True\n"
    package = Path(nlft.__file__).parent
    assert not {path.stem for path in package.iterdir()} & set(PUBLIC)


def test_errors_are_also_the_usual_kinds():
    assert issubclass(nlft.UserError, ValueError)
    assert issubclass(nlft.NLFTError, RuntimeError)


def test_the_api_page_is_what_the_code_says():
    from helpers.docs_api import PAGE, page

    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/helpers/docs_api.py --write"
