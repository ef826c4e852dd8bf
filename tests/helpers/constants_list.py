"""Every number that the code reads, keeps or decides by, as it was recorded. `--write` records them anew.

Most are bounds, such as how many characters around a quote are read. No other test meets each of them at its edge, so a
changed one must be seen by who reviews the change. `settings_list` has the defaults of settings.
"""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import nlft

KEPT = Path(__file__).parents[1] / "golden" / "constants.txt"
PACKAGES = ("baselines", "core", "data", "results", "training")


def lines() -> list[str]:
    """Return a line per constant of a module or class, and per default of a function."""
    found = []
    for name in PACKAGES:
        package = importlib.import_module(f"nlft.{name}")
        for one in pkgutil.walk_packages(package.__path__, f"nlft.{name}."):
            found += sorted(set(_of(importlib.import_module(one.name))))
    return found


def _of(module: ModuleType) -> Iterator[str]:
    short = module.__name__.removeprefix(f"{nlft.__name__}.")
    for name in _assigned(Path(inspect.getfile(module))):
        if _is_number(vars(module).get(name)):
            yield f"{short}.{name} = {vars(module)[name]!r}"
    for value in vars(module).values():
        if getattr(value, "__module__", None) == module.__name__:
            yield from (f"{short}.{line}" for line in _within(value))


def _assigned(path: Path) -> Iterator[str]:
    """Yield the names to which a module assigns, without those that it imports."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))


def _within(value: Any) -> Iterator[str]:
    """Yield the numbers of a class and its functions, or of a function."""
    if isinstance(value, FunctionType):
        for parameter in inspect.signature(value).parameters.values():
            if _is_number(parameter.default):
                yield f"{value.__qualname__}({parameter.name}={parameter.default!r})"
    elif isinstance(value, type):
        made = {field.name: field.metadata for field in fields(value)} if is_dataclass(value) else {}
        for name, part in vars(value).items():
            part = getattr(part, "__func__", part)  # of a class method or a static one
            if isinstance(part, FunctionType) and part.__module__ == value.__module__:
                yield from _within(part) if not made or name != "__init__" else ()
            elif _is_number(part) and not name.startswith("__") and "help" not in made.get(name, ()):
                yield f"{value.__qualname__}.{name} = {part!r}"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number or a list of numbers, but no member of an enumeration."""
    if isinstance(value, tuple | list):
        return bool(value) and all(map(_is_number, value))
    return type(value) in (int, float, bool)


if __name__ == "__main__" and "--write" in sys.argv:
    KEPT.write_text("\n".join(lines()) + "\n", encoding="utf-8")
