"""How a model takes and returns its cache of keys and values: transformers 5.24 gave both another name."""

import inspect
from typing import Any

_NEW, _OLD = "cache", "past_key_values"


def cache_keyword(model: Any) -> str:
    """Return the keyword with which a causal LM or its decoder takes a cache.

    transformers still takes the old name, but warns of it.
    """
    net = model.get_base_model() if hasattr(model, "get_base_model") else model
    return _NEW if _NEW in inspect.signature(type(net).forward).parameters else _OLD


def cache_of(output: Any) -> Any:
    """Return the cache in a model's output."""
    return getattr(output, _NEW if _NEW in output.__dataclass_fields__ else _OLD)
