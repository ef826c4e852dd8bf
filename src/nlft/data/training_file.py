"""Read the file of examples that a run has trained on, in the way that the run read it; no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nlft.data.records import Example, read_examples
from nlft.sources.settings import recorded_reading


def read_training_file(
    file: str | Path, recorded: Mapping[str, Any], *, require_judgment: bool = False
) -> list[Example]:
    """Return the examples. For the errors, see `read_examples`.

    Args:
        file: the file, which may have been moved.
        recorded: the part `data` of run.yaml. It says which columns the run read, and as which format.
    """
    return read_examples(file, require_judgment=require_judgment, **recorded_reading(recorded))
