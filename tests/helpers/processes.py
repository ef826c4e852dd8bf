"""Work of processes that tests start: a process finds these by name, in a module that is no test."""

import os
import time
from dataclasses import replace

from nlft.experiments.demo import arithmetic_settings, habit_settings
from nlft.experiments.settings import TuneSettings

SMALL = {"max_new_tokens": 6, "batch_size": 4, "max_steps": 2, "watch_every": 1}


def small(folder) -> TuneSettings:
    return replace(arithmetic_settings(folder), **SMALL, keep_truncated=True)


def small_habit(folder) -> TuneSettings:
    return replace(habit_settings(folder), **SMALL)


def linger(folder, job):
    (folder / "started").write_text(str(os.getpid()))
    time.sleep(120)
