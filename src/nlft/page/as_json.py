"""Convert values for JSON, so that the page gets no NaN, no infinity and only types that JSON has."""

import math
from collections.abc import Mapping
from typing import Any


def as_json(value: object) -> object:
    """Convert NaN and infinities to None, tuples to lists, keys to text, and values of other types to text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return str(value)


def object_as_json(value: Mapping[str, object]) -> dict[str, Any]:
    """Convert the values of a mapping for JSON; see `as_json`."""
    return {name: as_json(item) for name, item in value.items()}
