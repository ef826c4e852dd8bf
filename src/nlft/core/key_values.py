"""How a model takes and returns its cache: keys and values, or a state. transformers 5.24 gave both another name."""

import inspect
from typing import Any

_NAMES = ("cache", "past_key_values", "cache_params", "state")
"""The newest name first. The last two are those of models with a state, such as Mamba and RWKV."""


def cache_keyword(model: Any) -> str | None:
    """Return the keyword with which a causal LM or its decoder takes a cache. Return None if it takes none.

    transformers still takes the name before 5.24, but warns of it.
    """
    net = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes = inspect.signature(type(net).forward).parameters
    return next((name for name in _NAMES if name in takes), None)


def cache_of(output: Any) -> Any:
    """Return the cache in a model's output. Return None if there is none."""
    return next((getattr(output, name) for name in _NAMES if name in output.__dataclass_fields__), None)
