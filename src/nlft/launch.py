"""What started this process, and how many others beside it: torchrun, accelerate, SLURM or MPI. No torch."""

import os
from collections.abc import Mapping, Sequence

from nlft.errors import UserError, typed

TRAINS = ("train", "sft", "kto", "reft", "replay")
"""Commands that run in several processes."""

_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SIZES = {
    "WORLD_SIZE": "torchrun or accelerate launch",
    "SLURM_STEP_NUM_TASKS": "srun",
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
    "MV2_COMM_WORLD_SIZE": "mpirun",
}


def beside(environment: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """Return the variable that says how many processes a launcher started, and their number. None if it is one."""
    for name in _SIZES:
        value = environment.get(name, "")
        if value.isdigit() and int(value) > 1:
            return name, int(value)
    return None


def without_launcher(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment for a child process that works alone. It must not join the training's processes."""
    dropped = (*_TORCHRUN, *_SIZES)
    kept = {name: value for name, value in environment.items() if name not in dropped}
    return {name: value for name, value in kept.items() if not name.startswith(("TORCHELASTIC_", "ACCELERATE_"))}


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether a command line asks for help only."""
    return bool({"-h", "--help", "--help-all", "--help_all"} & set(argv))


def refuse_launch(command: str, argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
    """Refuse a command that several processes run at once, each as if it was alone.

    Args:
        command: its name, such as `sample`.

    Raises:
        UserError: names the variable that says so, and the command to type.
    """
    found = beside(environment)
    if found is None or command == "env" or asks_for_help(argv):
        return
    name, count = found
    if command in TRAINS:
        if name == "WORLD_SIZE" and not {"RANK", "LOCAL_RANK"} <= set(environment):
            raise UserError(
                f"WORLD_SIZE is {count}, but RANK or LOCAL_RANK is not set, so this process does not know its place.\n"
                f"  To train in {count} processes, start with {_torchrun(command, count)}.\n"
                "  To train in one process, unset WORLD_SIZE."
            )
        return
    alone = (
        f"unset {name}" if name == "WORLD_SIZE" and "RANK" not in environment else f"start it without {_SIZES[name]}"
    )
    raise UserError(
        f"`nlft {command}` runs in one process, but {name} is {count}: {_SIZES[name]} starts it {count} times, and all "
        f"of them would do the same work and write the same files.\n  To run it once, {alone}: "
        f"{typed('nlft', command, *argv)}{_own_work(name)}"
    )


def refuse_wrong_start(
    method: str, processes: int, gpus: int, *, use_cpu: bool, environment: Mapping[str, str] = os.environ
) -> None:
    """Refuse a training that several processes would each do alone, or that sees several GPUs in one process.

    Args:
        method: `nlft`, `sft`, `kto`, `dpo` or `reft`.
        processes: the number of processes that train together, this one included.
        gpus: the number of GPUs that this process would use.
        use_cpu: whether the training was told to use no GPU.

    Raises:
        UserError: says what to type.
    """
    command = "train" if method == "nlft" else method
    if gpus > 1:
        raise UserError(
            f"This process sees {gpus} GPUs, but each process trains on one.\n"
            f"  To use all of them, start with {_torchrun(command, gpus)}.\n  To use one, set CUDA_VISIBLE_DEVICES=0."
        )
    found = beside(environment)
    if found is None or processes > 1:
        return
    name, count = found
    alone = (
        f"{name} is {count}, but this process trains alone, so {count} processes would train {count} models into one "
        "folder"
    )
    start = _torchrun(command, count)
    if name == "WORLD_SIZE" and not use_cpu:
        raise UserError(
            f"{alone}: there are no GPUs, and --use_cpu is not set.\n"
            f"  Add --use_cpu to {start}. In Python, set use_cpu=True in the trainer's settings."
        )
    raise UserError(f"{alone}: {_SIZES[name]} does not connect them.\n  Use {start}.{_own_work(name)}")


def _torchrun(command: str, count: int) -> str:
    return f"`torchrun --nproc_per_node {count} -m nlft {command} ...`"


def _own_work(name: str) -> str:
    return "" if name == "WORLD_SIZE" else f"\n  If each task has its own files, unset {name} before the command."
