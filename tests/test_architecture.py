"""ARCHITECTURE.md against the tree and the imports; limits on size; what is imported when."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "nlft"
MODULES = sorted(str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if p.name != "__init__.py")
LISTED = re.findall(r"^\| `([\w/]+\.py)` \| \S", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, anywhere in it, as paths in the tree."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("nlft."):
                found.add(name.removeprefix("nlft.").replace(".", "/") + ".py")
    return found & set(MODULES)


def test_the_map_lists_every_module_once_and_no_other():
    assert len(MODULES) > 20
    assert sorted(LISTED) == MODULES


def test_a_module_imports_only_from_those_above_it():
    checked = 0
    for place, module in enumerate(LISTED):
        for other in imports(SOURCE / module):
            checked += 1
            assert LISTED.index(other) < place, (module, other)
    assert checked > 40


RUN_FILES = {"training/run_dir.py", "training/request_file.py", "training/controls.py"}


def test_the_page_knows_of_training_its_files_alone():
    pages = [m for m in MODULES if m.startswith("page/")]
    assert pages
    for page in pages:
        assert imports(SOURCE / page) <= {"errors.py", "files.py", *RUN_FILES, *pages}


def test_no_module_is_over_400_lines_and_no_function_over_a_screen():
    seen = 0
    for module in MODULES:
        text = (SOURCE / module).read_text()
        assert len(text.splitlines()) <= 410, module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                seen += 1
                assert node.end_lineno - node.lineno < 65, f"{module}: {node.name}"
    assert seen > 200


def test_public_things_say_what_they_are():
    for module in MODULES:
        tree = ast.parse((SOURCE / module).read_text())
        assert ast.get_docstring(tree), module
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}: {node.name}"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_nlft_and_its_command_brings_no_torch_and_takes_no_time():
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy'}"
    assert run(f"import sys, nlft, nlft.cli; print({heavy} & set(sys.modules))") == "set()\n"
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets'}"
    assert run(f"import sys, nlft.page.export, nlft.data.records; print({heavy} & set(sys.modules))") == "set()\n"

    def seconds(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds("-c", "import nlft") < 0.3
    assert seconds("-m", "nlft.cli", "--help") < 0.5


def test_every_direct_dependency_is_pinned():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.match(r"[\w.-]+", w)[0].lower() for w in wanted} - {"nlft"}
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(names) > 15
    assert names <= {pin.lower() for pin in pins}
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()


def test_the_settings_in_the_docs_are_those_in_the_code():
    from docs_settings import PAGE, page_with_tables

    assert PAGE.read_text(encoding="utf-8") == page_with_tables(), "run python tests/docs_settings.py --write"
