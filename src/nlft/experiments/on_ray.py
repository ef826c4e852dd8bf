"""Run the cells of a comparison as tasks of Ray, on one machine or on many that share a folder."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nlft import __version__
from nlft.experiments.cells import Cell, run_cell
from nlft.experiments.stages import Job
from nlft.models.on_ray import TRIES_AGAIN, cannot_work, check_resources, connected

Ended = Callable[[Cell, str | None, float], None]
"""Called for each cell that ended: (cell, why it failed or None, seconds)."""


def run_on_ray(
    cells: Iterable[Cell],
    folder: Path,
    job: Job,
    prompt_template: str,
    ended: Ended,
    *,
    cpus: float,
    gpus: float | None,
) -> None:
    """Run cells in Ray's workers, as many at once as its CPUs and GPUs allow. Each gets a process of its own.

    Args:
        folder: the comparison's folder, which every machine must see under this path.
        prompt_template: see `run_cell`.
        cpus, gpus: what Ray reserves for a cell. None: one GPU if Ray has any.

    Raises:
        UserError: Ray is not installed, or no machine has what a cell needs.
    """
    with connected() as ray:
        gpus = float(bool(ray.cluster_resources().get("GPU"))) if gpus is None else gpus
        check_resources(ray.nodes(), cpus, gpus)
        # max_calls: a worker ends with its task, so each cell has its own peak memory, as in a process started here.
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=TRIES_AGAIN, max_calls=1)(_run)
        place = str(folder.resolve())
        began = time.monotonic()
        waiting = {
            task.remote(__version__, os.getcwd(), place, dict(job), prompt_template, cell): cell for cell in cells
        }
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            cell = waiting.pop(done)
            try:
                seconds, why = ray.get(done)
            except ray.exceptions.RayError as error:
                seconds, why = time.monotonic() - began, " ".join(str(error).split())
            ended(cell, why, seconds)


def _run(version: str, cwd: str, folder: str, job: Any, prompt_template: str, cell: Cell) -> tuple[float, str | None]:
    """Run one cell in a worker. Return its seconds, and why it failed, if it did."""
    from nlft.library_errors import explain

    if why := cannot_work(version, cwd, folder):
        return 0.0, why
    began = time.monotonic()
    try:
        run_cell(Path(folder), job, prompt_template, cell)
    except Exception as error:
        return time.monotonic() - began, str(explain(error) or f"{type(error).__name__}: {error}")
    return time.monotonic() - began, None
