"""Find what other packages add through entry points, and what users name by dotted path. Import it only on use."""

import importlib
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from pathlib import Path
from typing import Any

from nlft.errors import UserError


def plug_ins(group: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group by name, without importing them."""
    offered: dict[str, list[EntryPoint]] = {}
    for entry_point in _entry_points(group, tuple((folder, _changed(folder)) for folder in sys.path)):
        offered.setdefault(entry_point.name, []).append(entry_point)
    return offered


@lru_cache(maxsize=8)
def _entry_points(group: str, searched: tuple[tuple[str, int], ...]) -> EntryPoints:
    """Return the installed packages' entry points of a group.

    This reads a file of each package: 6 ms with 180 packages, and one trainer asks 20 times. So they are read again
    only when sys.path or one of its folders has changed, as it does when a package is installed or removed.
    """
    return entry_points(group=group)


def _changed(folder: str) -> int:
    try:
        return os.stat(folder or os.curdir).st_mtime_ns
    except OSError:
        return 0


def package_of(plug_in: EntryPoint) -> str:
    """Return the name of the package that offers an entry point."""
    return plug_in.dist.name if plug_in.dist else plug_in.value


def load_plug_in(plug_in: EntryPoint, kind: str) -> object:
    """Import the object that an entry point names.

    Args:
        kind: word for the object in a message: `scheme`, `grader`.

    Raises:
        UserError: the import fails, for whatever reason.
    """
    try:
        return plug_in.load()
    except Exception as error:  # another package's module may raise anything
        raise broken(plug_in, kind, f"cannot be imported: {type(error).__name__}: {error}") from error


def broken(plug_in: EntryPoint, kind: str, why: str) -> UserError:
    """Make the error for a plug-in that cannot be used."""
    package = package_of(plug_in)
    return UserError(
        f"The {kind} {plug_in.name!r} of the package {package} {why}.\n"
        f"  Fix or uninstall {package}, or choose another {kind}."
    )


def refuse_clash(kind: str, name: str, owners: list[str]) -> None:
    """Refuse a name that several places give to different things.

    Args:
        owners: the places, packages last.

    Raises:
        UserError: there is more than one place.
    """
    if len(owners) > 1:
        raise UserError(
            f"Several {kind}s have the name {name!r}. They come from {', '.join(owners)}.\n"
            f"  Uninstall {owners[-1]}, or rename its {kind}."
        )


def function_parts(path: str) -> tuple[str, str] | None:
    """Split `package.module:function` or `package.module.function` into module and function.

    Return None if the text is neither.
    """
    module_name, _, attribute = path.rpartition(":" if ":" in path else ".")
    return (module_name, attribute) if module_name and attribute else None


def import_function(path: str, kind: str, form: str) -> Callable[..., Any]:
    """Import the user's function at a dotted path. Its module may be in the working directory.

    Args:
        path: a path that `function_parts` can split.
        kind: word for the function in a message: `grader`, `check`.
        form: what the function takes and returns, for a message.

    Raises:
        UserError: the path cannot be imported, or does not lead to a function.
    """
    parts = function_parts(path)
    if parts is None:
        raise UserError(f"The {kind} {path!r} is not a path of a function.\n  Write package.module:function.")
    module_name, attribute = parts
    here = str(Path.cwd())
    sys.path.insert(0, here)  # unlike `python -m`, a console script does not search the working directory
    try:
        function = getattr(importlib.import_module(module_name), attribute, None)
    except Exception as error:  # the user's module may raise anything
        raise UserError(
            f"The {kind} {path!r} cannot be imported: {type(error).__name__}: {error}.\n"
            f"  Name a function as package.module:function. The module may be in {here}."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(function):
        what = f"has no {attribute!r}" if function is None else f"has {attribute!r}, but it is not a function"
        raise UserError(f"The module {module_name} {what}.\n  Name a function that takes {form}.")
    return function  # type: ignore[no-any-return]
