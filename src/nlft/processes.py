"""Processes that end with the one that started them."""

import multiprocessing
import os
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """End this process when its parent ends for any reason. Call this in a thread of its own."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
