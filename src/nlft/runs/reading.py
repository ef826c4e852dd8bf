"""Read a run's own files, and say what is wrong with one that is spoilt. Write settings as it reads them.

A run may come from another machine, another version or a person's editor. So nothing in it is believed unseen.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from nlft import __version__
from nlft.errors import NLFTError, UserError, display_path
from nlft.files import refuse_waiting_file

CURE = "Copy the file again, or correct it"
DEEPEST = 64  # levels in a YAML file
MOST_NODES = 2_000_000
"""Values in a YAML file. A short file can stand for any number of them, because an alias repeats what it names."""
SPOILT = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError, OverflowError, yaml.YAMLError)
"""What code raises that reads a value of another kind than nlft writes."""

# libyaml reads a file in a tenth of the time. Some builds of PyYAML lack it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def spoilt(path: Path, what: object, line: int | None = None) -> UserError:
    """Return the error of a file that is not as nlft wrote it.

    Args:
        line: number of the line, from 1; None if it is not known.
    """
    where = display_path(path) + (f":{line}" if line else "")
    told = str(what) or type(what).__name__
    if isinstance(what, KeyError):
        told = f"{told} is missing"
    elif isinstance(what, RecursionError):
        told = "it is nested too deeply"
    return UserError(f"{where}: is not as nlft wrote it: {_shortened(told)}.\n  {CURE}.")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a file, or a run's folder, inside this context. An error about its content names it.

    Raises:
        UserError: a value is not of the kind that nlft writes.
    """
    try:
        yield
    except NLFTError:
        raise
    except SPOILT as error:
        raise spoilt(path, error) from error


def check_version(path: Path, found: Mapping[str, Any], newest: int) -> None:
    """Refuse a file of a newer format.

    Raises:
        UserError: names both versions of the format.
    """
    version = found.get("format_version", 1)
    if isinstance(version, bool) or not isinstance(version, int):
        raise spoilt(path, f"format_version is {version!r}, not a whole number")
    if version > newest:
        raise UserError(
            f"{display_path(path)}: has format {version}, but nlft {__version__} reads formats up to {newest}.\n"
            "  Install a newer nlft: pip install --upgrade nlft"
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping in bounded time and memory.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is not a YAML mapping, or is nested too deeply, or stands for too many values.
    """
    refuse_waiting_file(path)
    data = path.read_bytes()
    try:
        # libyaml refuses half of a surrogate pair, which stands for a byte in a name that is not UTF-8.
        loader = yaml.SafeLoader if b"\\uD" in data else _Loader
        _check_depth(data, loader)
        found = yaml.load(data, Loader=loader)
        _count(found, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise spoilt(path, error.problem or error, mark.line + 1 if mark else None) from error
    except SPOILT as error:
        raise spoilt(path, error) from error
    if not isinstance(found, dict):
        raise spoilt(path, "it holds no mapping of settings")
    if not all(isinstance(name, str) for name in found):
        raise spoilt(path, "a name is not a text")
    return found


def yaml_bytes(settings: dict[str, Any]) -> bytes:
    """Return settings as the YAML that `read_yaml` reads, in their order."""
    try:  # libyaml takes a sixth of the time, but no name of a file that is not UTF-8
        text: str = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    except UnicodeEncodeError:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return text.encode()


def _check_depth(data: bytes, loader: Any) -> None:
    """Refuse what would overflow the stack of a composer. The parsers need no stack."""
    depth = 0
    for event in yaml.parse(data, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} levels")


def _count(value: Any, known: dict[int, int]) -> int:
    """Count the values that a value stands for. A list under several aliases is one object, and counts each time."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) in known:
        if known[id(value)] == 0:
            raise ValueError("a value contains itself")
        return known[id(value)]
    known[id(value)] = 0
    inside = value.values() if isinstance(value, dict) else value
    total = 1 + sum(_count(one, known) for one in inside)
    if total > MOST_NODES:
        raise ValueError(f"it stands for more than {MOST_NODES:,} values")
    known[id(value)] = total
    return total


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: the file cannot be opened.
        UserError: it is not a JSON object.
    """
    refuse_waiting_file(path)
    try:
        found = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise spoilt(path, error.msg, error.lineno) from error
    except SPOILT as error:
        raise spoilt(path, error) from error
    if not isinstance(found, dict):
        raise spoilt(path, "it holds no JSON object")
    return found


def check_kinds(found: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> str | None:
    """Return which field has a value of the wrong kind; None if all are right. A missing field or null is right."""
    for name, kind in kinds.items():
        value = found.get(name)
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is int)
        if value is not None and wrong:
            return f'"{name}" is {_shortened(repr(value), 60)}'
    return None


def _shortened(text: str, most: int = 300) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else one_line[:most] + "..."
