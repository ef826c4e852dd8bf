"""Values as JSON has them: what the page is handed holds no NaN, no infinity and nothing but plain types."""

import math
from typing import Any


def plain(value: Any) -> Any:
    """The value with NaN and infinities as None, tuples as lists, keys as text, and anything else as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)
