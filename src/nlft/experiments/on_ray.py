"""Run the cells of a comparison as tasks of Ray, on one machine or on many that share a folder."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from platform import node
from typing import Any

from nlft import __version__
from nlft.errors import UserError
from nlft.experiments.cells import Cell, run_cell
from nlft.experiments.stages import Job

TRIES_AGAIN = 3
"""How often a cell is run again whose worker was killed. A cell that failed by itself is not run again."""

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
    with _connected() as ray:
        gpus = float(bool(ray.cluster_resources().get("GPU"))) if gpus is None else gpus
        _check_resources(ray.nodes(), cpus, gpus)
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
    from nlft.progress import hide_bars, quiet_libraries

    quiet_libraries()
    hide_bars()
    for place in (cwd, folder):
        if not Path(place).is_dir():
            return 0.0, f"{node()}: {place} is not there. All machines of Ray must share it."
    if version != __version__:
        return 0.0, f"{node()}: nlft is {__version__} there, but {version} where the comparison runs."
    os.chdir(cwd)  # the settings name files as the user typed them
    began = time.monotonic()
    try:
        run_cell(Path(folder), job, prompt_template, cell)
    except Exception as error:
        return time.monotonic() - began, str(explain(error) or f"{type(error).__name__}: {error}")
    return time.monotonic() - began, None


@contextmanager
def _connected() -> Iterator[Any]:
    """Connect to the Ray that RAY_ADDRESS or `ray start` names. Without one, start one on this machine, and end it.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray: Ray is not installed.\n  Type `pip install 'nlft[ray]'`, or leave out --executor."
        ) from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=True)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _check_resources(nodes: Iterable[Mapping[str, Any]], cpus: float, gpus: float) -> None:
    """Refuse cells that fit on no machine. Ray would wait for one forever."""
    has = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in has):
        most = max((one.get("CPU", 0), one.get("GPU", 0)) for one in has) if has else (0, 0)
        raise UserError(
            f"no machine of Ray has {cpus:g} CPUs and {gpus:g} GPUs for a cell; the largest has {most[0]:g} and "
            f"{most[1]:g}.\n  Lower --ray_cpus or --ray_gpus."
        )
