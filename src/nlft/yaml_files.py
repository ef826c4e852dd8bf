"""Read a YAML file as its top node, or as settings. A file that is deep, or made to fill the memory, is refused."""

import re
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import yaml

from nlft.config import SALIENCY, GivenSetting
from nlft.errors import UserError, display_path
from nlft.files import refuse_waiting_file

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_MOST_NODES = 100_000  # values of a YAML file with its aliases written out: far more than any file of ours has


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that also takes `1e-4` for a number, as YAML 1.2 and people do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def yaml_entries(path: Path) -> list[GivenSetting]:
    """Return the settings in a YAML file, in the file's order. `saliency: {NAME: value}` becomes `saliency.NAME`.

    Raises:
        UserError: the file cannot be read, or is not a mapping.
    """
    where = display_path(path)
    node = yaml_node(path, "Give a YAML file of settings.")
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}: holds no settings.\n  Write one `name: value` per line.")
    pairs = list(_pairs(node, where))
    try:
        construct = _Loader("").construct_object
        return [
            GivenSetting(f"{where}:{at.start_mark.line + 1}", name, construct(item, deep=True), _written(item))
            for name, at, item in pairs
        ]
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        # A number of thousands of digits, a date like 2020-99-99, a tag, nested levels, an anchor within itself.
        raise UserError(
            f"{where}: a value cannot be read: {error}\n  Put the value in quotes, or correct it."
        ) from error


def _pairs(node: yaml.MappingNode, where: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Yield each setting's name, with the nodes of its key and its value.

    Raises:
        UserError: settings come from elsewhere in the file (`<<`): where each is set would be hard to see.
    """
    for key, value in node.value:
        if key.tag == _MERGE:
            at = f"{where}:{key.start_mark.line + 1}"
            raise UserError(f"{at}: << cannot bring in settings.\n  Write each of them as a line of its own.")
        if key.value != SALIENCY.rstrip("."):
            yield str(key.value), key, value
        elif isinstance(value, yaml.MappingNode):
            yield from ((f"{SALIENCY}{name}", inner, item) for name, inner, item in _pairs(value, where))
        elif value.tag != _NULL:  # without a value, all lines under it are comments
            yield str(key.value), key, value


def _written(node: yaml.Node) -> str | list[Any] | None:
    """Return a value's text, or the texts of a list, as they are written. Null and mappings have none."""
    if isinstance(node, yaml.SequenceNode):
        return [_written(item) for item in node.value]
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != _NULL else None


def yaml_node(path: Path, cure: str) -> yaml.Node | None:
    """Parse a YAML file, and return its top node, which knows its lines. Return None if the file is empty.

    Args:
        cure: what to do if the file cannot be read.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    where = display_path(path)
    try:
        refuse_waiting_file(path)
        node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read: {error}\n  {cure}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not YAML: {error}") from error
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply.\n  Write it with fewer levels.") from error
    if _written_out(node, {}) > _MOST_NODES:
        raise UserError(f"{where}: its aliases (*name) repeat too much.\n  Write the values out.")
    return node


def _written_out(node: yaml.Node | None, known: dict[int, float]) -> float:
    """Return how many values a YAML node has if each alias is replaced with what it names: infinity within itself."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = inf  # until it is known: an alias of itself is inside
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]
