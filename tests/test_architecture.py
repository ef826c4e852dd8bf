"""ARCHITECTURE.md against the tree and the imports; limits on size; what is imported when."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "nlft"
TESTS = ROOT / "tests"
MODULES = sorted(str(p.relative_to(SOURCE)) for p in SOURCE.rglob("*.py") if p.name != "__init__.py")
PAGE = (ROOT / "ARCHITECTURE.md").read_text()
LISTED = re.findall(r"^\| `([\w/]+\.py)` \| \S", PAGE, re.MULTILINE)
ROOMS = [name or "top" for name in re.findall(r"^## `(?:nlft|(\w+))/`$", PAGE, re.MULTILINE)]
TOP = {
    "__main__.py",
    "cli.py",
    "config.py",
    "digests.py",
    "errors.py",
    "files.py",
    "labels.py",
    "launch.py",
    "library_errors.py",
    "locks.py",
    "yaml_files.py",
    "outputs.py",
    "path_settings.py",
    "processes.py",
    "progress.py",
    "streams.py",
}


def room_of(module: str) -> str:
    return module.split("/")[0] if "/" in module else "top"


def may_import() -> dict[str, set[str]]:
    """What each room's section says that it may import: room -> rooms."""
    allowed = {}
    for place, section in enumerate(PAGE.split("\n## `")[1:]):
        said = re.search(r"May import: ([\w, ]+)\.", section)[1]
        rooms = {"nothing": [], "all": ROOMS[:place]}.get(said, said.split(", "))
        assert set(rooms) <= set(ROOMS[:place]), f"{ROOMS[place]} may import only from rooms above it"
        allowed[ROOMS[place]] = set(rooms)
    return allowed


def imports(path: Path) -> set[str]:
    """The project's modules that a file imports, anywhere in it, as paths in the tree."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("nlft."):
                modules.add(name.removeprefix("nlft.").replace(".", "/") + ".py")
    return modules & set(MODULES)


def test_architecture_lists_every_module_once_and_no_other():
    assert len(MODULES) > 90
    assert sorted(LISTED) == MODULES
    assert {m for m in MODULES if room_of(m) == "top"} <= TOP
    assert len(ROOMS) == 19


def test_each_module_stands_in_its_rooms_section():
    rooms = [room_of(module) for module in LISTED]
    assert sorted(rooms, key=ROOMS.index) == rooms


def test_a_room_imports_only_from_the_rooms_that_its_section_names():
    allowed, checked = may_import(), 0
    for module in MODULES:
        for other in imports(SOURCE / module):
            checked += 1
            assert room_of(other) in allowed[room_of(module)] | {room_of(module)}, (module, other)
    assert checked > 200


def test_imports_form_no_circle():
    graph = {module: imports(SOURCE / module) for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError
    assert sorted(order) == MODULES


def test_only_the_command_line_imports_commands():
    importers = {m for m in MODULES for other in imports(SOURCE / m) if room_of(other) == "commands"}
    assert {m for m in importers if room_of(m) != "commands"} <= {"cli.py"}


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


def test_no_test_module_imports_another():
    """What tests share stands in tests/helpers. Programs in strings count too."""
    files = [*TESTS.rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    assert len(files) > 50
    for path in files:
        imported = re.search(r"^\s*(?:from|import) (?:tests\.)?(test_\w+)", path.read_text(), re.MULTILINE)
        assert imported is None, (
            f"{path.relative_to(ROOT)} imports {imported[1]}: move what they share to tests/helpers"
        )


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_nlft_and_its_command_brings_no_torch():
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy'}"
    assert run(f"import sys, nlft, nlft.cli; print({heavy} & set(sys.modules))") == "set()\n"
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'datasets'}"
    assert run(f"import sys, nlft.page.export, nlft.data.records; print({heavy} & set(sys.modules))") == "set()\n"


def test_a_wheel_holds_every_file_that_is_no_module():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["nlft"]
    held = {path for pattern in patterns for path in SOURCE.glob(pattern)}
    other = {p for p in SOURCE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert len(other) > 30
    assert sorted(other - held) == []


def test_every_direct_dependency_is_pinned():
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
    from helpers.docs_settings import PAGE, page_with_tables

    assert PAGE.read_text(encoding="utf-8") == page_with_tables(), "run python tests/helpers/docs_settings.py --write"
