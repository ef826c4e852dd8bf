"""Kill a command at random moments, resume it, and compare what it leaves with an unbroken run.

A child is forked from this process, which has imported torch already, so a try costs no imports. Half of the kills come
at a random file operation in the folder (in a checkpoint, between two stages, while a cache fills, while a request is
taken), the others after a random time of the processor.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OF_THE_CLOCK = {"time", "eta_seconds", "tokens_per_second", "train_runtime", "entropy_seconds", "step_time"}
OF_THE_CLOCK |= {"train_samples_per_second", "train_steps_per_second", "completion_time", "id"}
WITHOUT_EFFECT = {"save", "pause", "resume", "evaluate"}
_OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"}
PATIENCE = 300  # seconds for one try on a busy machine


@dataclass
class Tally:
    """What the kills of one command did."""

    kills: int = 0
    runs: int = 0
    lost: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        return f"{name}: {self.kills} kills over {self.runs} runs, {len(self.lost)} lost {self.lost or ''}"


def forked(
    work: Callable[[], int], folder: Path, *, at_operation: int = 0, after_cpu: float = 0.0, within: str = ""
) -> tuple[str, int]:
    """Run the work in a child, and kill the child and its children at a moment.

    Args:
        folder: the run directory. Files beside it, such as a cache, count as its own.
        at_operation: kill at this operation on files, counted over all processes; 0 for never.
        after_cpu: kill after so many seconds of the child's processor time; 0 for never.
        within: count operations on paths with this text only.

    Returns:
        `killed`, `done` or `failed`; and the number of operations.
    """
    counter = multiprocessing.Value("q", 0)
    child = os.fork()
    if child == 0:
        _child(work, str(folder.parent.resolve()), counter, at_operation, after_cpu, within)
    end = time.monotonic() + PATIENCE
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            raise AssertionError("the command hangs")
        time.sleep(0.02)
    if os.WIFSIGNALED(status):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what a killed command started
        return "killed", counter.value
    return ("done" if os.WEXITSTATUS(status) == 0 else "failed"), counter.value


def _child(work: Callable[[], int], folder: str, counter: Any, at: int, cpu: float, within: str) -> None:
    os.setpgid(0, 0)
    quiet = os.open(os.path.join(folder, "killed.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.stdout = sys.stderr = os.fdopen(quiet, "w", buffering=1)

    def counted() -> None:
        with counter.get_lock():
            counter.value += 1
            now = counter.value
        if now == at:
            os.killpg(0, signal.SIGKILL)

    at_operations(folder, within, counted)
    if cpu:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process as SIGKILL does: no code of ours runs
        signal.setitimer(signal.ITIMER_PROF, cpu)
    code = 99
    try:
        code = work()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def at_operations(folder: str, within: str, then: Callable[[], None]) -> None:
    """Call `then` before each operation on a file of a folder whose path has the text `within`."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _OPERATIONS:
            paths = [one for one in map(_text, args) if isinstance(one, str)]
            if any(one.startswith(folder) and within in one for one in paths):
                then()

    sys.addaudithook(hook)


def launched(
    work: Callable[[], list[str]],
    folder: Path,
    *,
    at_operation: int = 0,
    victim: int = 0,
    later: float = 0.0,
    within: str = "run",
) -> tuple[str, int]:
    """Run a command in two processes that torchrun starts, and kill one of them, or all and torchrun with them.

    Args:
        work: gives the command's words.
        at_operation: kill when the victim comes to this operation on files of the run; 0 for never.
        victim: 0 or 1, the process that is killed; 2 for both and torchrun, when process 0 comes there.
        later: seconds after the operation, so that kills come within steps too.

    Returns:
        `killed`, `done` or `failed`; and the number of operations of process 0.
    """
    plan = {"folder": str(folder.parent.resolve()), "at": at_operation, "victim": victim, "later": later}
    plan |= {"within": within}
    environment = {**os.environ, "NLFT_TEST_KILL": json.dumps(plan), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*torchrun, str(Path(__file__).with_name("killed_rank.py")), *work()]
    with (folder.parent / "killed.log").open("ab") as log:
        done = subprocess.run(words, env=environment, stdout=log, stderr=log, timeout=PATIENCE, check=False)
    fallen, counted = folder.parent / "fallen", folder.parent / "operations"
    operations = int(counted.read_text()) if counted.exists() else 0
    if fallen.exists():
        fallen.unlink()
        return "killed", operations
    return ("done" if done.returncode == 0 else "failed"), operations


def _text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def by_operation_or_time(rng: random.Random, operations: int, seconds: float) -> dict[str, Any]:
    """Draw a moment: an operation on files, or a time of the processor."""
    if rng.random() < 0.5:
        return {"at_operation": rng.randint(1, max(1, operations))}
    return {"after_cpu": rng.uniform(0.02, 1.0) * seconds}


def by_operation(rng: random.Random, operations: int, _: float) -> dict[str, Any]:
    """Draw an operation on files."""
    return {"at_operation": rng.randint(1, max(1, operations))}


def by_rank(rng: random.Random, operations: int, _: float) -> dict[str, Any]:
    """Draw which of two processes is killed, or both; at an operation on files or a moment after it."""
    victim = rng.randint(0, 2)
    at = rng.randint(1, max(1, operations if victim != 1 else operations // 4))  # the second one writes less
    return {"at_operation": at, "victim": victim, "later": rng.choice((0.0, rng.uniform(0.0, 0.2)))}


NO_FORK = "Invalid thread pool"
"""What torch says in a forked process if it misses the threads of the one before. Such a try does not count."""
TRIES = 4  # of the unbroken run, for the same reason


def tried(
    start: Callable[[Path], Any],
    look: Callable[[Path], Any],
    folder: Path,
    *,
    kills: int,
    seed: int,
    most: int = 4,
    within: str = "",
    attempt: Callable[..., tuple[str, int]] = forked,
    draw: Callable[[random.Random, int, float], dict[str, Any]] = by_operation_or_time,
) -> Tally:
    """Kill a command `kills` times in all, at most `most` times in each run, and compare each run with an unbroken one.

    Args:
        start: the command that starts or goes on, given the folder. It returns the exit code.
        look: what must be the same at the end, given the folder.
        within: count operations on paths with this text only.
        attempt: how the command is run and killed.
        draw: the moment of a kill, as arguments of `attempt`.
    """
    gc.freeze()
    rng, tally = random.Random(seed), Tally()
    whole = folder / "whole" / "run"
    for _ in range(TRIES):
        whole.parent.mkdir(parents=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        how, operations = attempt(lambda: start(whole), whole, within=within)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        log = (whole.parent / "killed.log").read_text()
        if how == "done" or NO_FORK not in log:
            break
        shutil.rmtree(whole.parent)
    assert how == "done", log[-3000:]
    seconds = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    wanted = look(whole)
    while tally.kills < kills:
        tally.runs += 1
        run = folder / f"try-{tally.runs}" / "run"
        run.parent.mkdir(parents=True)
        told = []
        for left in range(min(most, kills - tally.kills), -1, -1):
            when: dict[str, Any] = {}
            if left:
                when = draw(rng, operations, seconds)
            how, _ = attempt(lambda run=run: start(run), run, within=within, **when)
            told.append(f"{how} {when}")
            tally.kills += how == "killed"
            if how != "killed":
                break
        log = (run.parent / "killed.log").read_text()
        if how == "failed" and NO_FORK in log:
            shutil.rmtree(run.parent)
            tally.runs -= 1
        elif how == "failed":
            tally.lost.append(f"{told}: {log[-1500:]}")
        elif (found := look(run)) != wanted:
            tally.lost.append(f"{told}: {_differing(wanted, found)}")
    return tally


def _differing(wanted: Any, found: Any) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        return "; ".join(f"{name}: {_differing(wanted.get(name), found.get(name))}" for name in names[:3])
    return f"{str(wanted)[:300]} became {str(found)[:300]}"


def of_run(folder: Path) -> dict[str, Any]:
    """Return what a run must end with: its adapter, its events, and the controls that change weights."""
    import hashlib

    from nlft.runs.run_dir import RunDir

    run = RunDir(folder)
    weights = run.adapter_path / "adapter_model.safetensors"
    return {
        "adapter": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "events": [untimed(event) for event in run.events() if "ended" not in event],
        "controls": [untimed(line) for line in run.controls() if line["control"] not in WITHOUT_EFFECT],
    }


def untimed(line: dict[str, Any]) -> str:
    kept = {
        name: value
        for name, value in line.items()
        if name not in OF_THE_CLOCK and not any(part in name for part in ("seconds", "runtime", "_per_second"))
    }
    return json.dumps(kept, sort_keys=True)
