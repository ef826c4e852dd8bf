"""Every setting with its default and what it may be, as they were recorded. `--write` records them anew.

Users rely on defaults, so a changed one must be seen by who reviews the change, and stand in CHANGELOG.md.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import nlft
from nlft.config import range_of

KEPT = Path(__file__).parents[1] / "golden" / "settings.txt"


def settings_classes() -> Iterator[type]:
    """Yield the dataclasses of nlft that have settings: fields with a help."""
    found = {}
    for module in pkgutil.walk_packages(nlft.__path__, "nlft."):
        if not module.name.endswith("__main__"):
            for one in vars(importlib.import_module(module.name)).values():
                if isinstance(one, type) and is_dataclass(one) and one.__module__.startswith("nlft."):
                    found[f"{one.__module__}.{one.__qualname__}"] = one
    yield from (found[name] for name in sorted(found) if any("help" in f.metadata for f in fields(found[name])))


def lines() -> list[str]:
    """Return a line per setting, at each class that declares it or gives it another default or range."""
    found = []
    for cls in settings_classes():
        inherited = {
            line for base in cls.__mro__[1:] if base.__module__.startswith("nlft.") for line in _declared(base)
        }
        name = f"{cls.__module__}.{cls.__qualname__}"
        found += [f"{name}.{line}" for line in _declared(cls) if line not in inherited]
    return found


def _declared(cls: type) -> list[str]:
    """Return a line per field that nlft declares, and none for those of other packages."""
    if not is_dataclass(cls):
        return []
    hints = get_type_hints(cls, include_extras=True)
    ours = [base for base in cls.__mro__ if base.__module__.startswith("nlft.")]
    own = {name for base in ours for name in vars(base).get("__annotations__", {})}
    return [f"{f.name} = {_default(f)}  {_kind(hints[f.name])}".rstrip() for f in fields(cls) if f.name in own]


def _default(one: Field[Any]) -> str:
    if one.default is not MISSING:
        return repr(one.default)
    return "(needed)" if one.default_factory is MISSING else repr(one.default_factory())


def _kind(hint: Any) -> str:
    if (found := range_of(hint)) is not None:
        return str(found)
    choices = [one for one in get_args(hint) if isinstance(one, str)]
    return ", ".join(choices) if choices and get_origin(hint) is not None else ""


if __name__ == "__main__" and "--write" in sys.argv:
    KEPT.write_text("\n".join(lines()) + "\n", encoding="utf-8")
