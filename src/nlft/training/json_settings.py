"""Settings that are JSON objects, written as text. Imports no torch."""

import json
from typing import Any

from nlft.config import in_short
from nlft.errors import Problem

_CURE = """Put names in double quotes: '{"num_cycles": 2}'. In YAML, write a mapping without quotes."""


def broken_json(args: Any) -> list[Problem]:
    """Report texts that should be JSON objects and are not. transformers would not say which setting it means."""
    problems = []
    for name in getattr(args, "_VALID_DICT_FIELDS", ()):
        text = getattr(args, name)
        if not isinstance(text, str) or not (text.startswith("{") or name.endswith("_kwargs")):
            continue  # the others may be files
        try:
            wrong = "" if isinstance(json.loads(text), dict) else "no JSON object"
        except (ValueError, RecursionError) as error:
            wrong = f"not JSON: {error}"
        if wrong:
            problems.append(Problem(f"--{name}", f"is {in_short(text)}, which is {wrong}", _CURE))
    return problems
