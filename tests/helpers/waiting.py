"""Wait for what another process does."""

import time
from collections.abc import Callable
from typing import Any

LONG = 120  # seconds to wait for what takes a few on an idle machine


def until(condition: Callable[[], Any], seconds: float = LONG) -> Any:
    """Return what the condition returns, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
    return found
