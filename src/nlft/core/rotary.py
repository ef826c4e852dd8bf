"""At which number of tokens the rotary angles of a model change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LengthRule:
    """Rotary angles that follow from the longest row that the model reads, for all its tokens and all other rows.

    Attributes:
        switch: number of tokens above which other angles are used (`longrope`); None if there is no such number.
        grows: number of tokens above which each length has its own angles (`dynamic`); None if there is no such number.
    """

    switch: int | None
    grows: int | None

    @property
    def limit(self) -> int:
        """Number of tokens up to which the angles do not depend on the length."""
        return min(limit for limit in (self.switch, self.grows) if limit is not None)


def length_rule(config: Any) -> LengthRule | None:
    """Return how rotary angles follow from the length, or None if they do not.

    Args:
        config: of a text model; see `get_text_config`.
    """
    switch = grows = None
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        kind, context = rope.get("rope_type") or "default", getattr(config, "max_position_embeddings", 0)
        if "dynamic" in kind:
            grows = context
        elif kind == "longrope":
            trained = "original_max_position_embeddings"  # Phi-3 has it beside the parameters, too
            switch = rope.get(trained) or getattr(config, trained, None) or context
    return None if switch is None and grows is None else LengthRule(switch, grows)


def _ropes(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of all layers, or those of each kind of layer."""
    kinds = [one for one in given.values() if isinstance(one, dict)]
    yield from kinds or [given]
