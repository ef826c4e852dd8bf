"""Work of processes that tests start: a process finds these by name, in a module that is no test."""

import os
import time
from dataclasses import replace

from nlft.experiments.demo import demo_settings
from nlft.experiments.settings import TuneSettings


def small(folder) -> TuneSettings:
    return replace(
        demo_settings(folder), max_new_tokens=6, batch_size=4, max_steps=2, watch_every=1, keep_truncated=True
    )


def linger(folder, job):
    (folder / "started").write_text(str(os.getpid()))
    time.sleep(120)
