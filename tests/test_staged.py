"""Processes of a staged run: what of the machine each may have, and that none outlives what started it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers.processes import linger
from helpers.training import examples
from helpers.waiting import until
from nlft.data.records import write_examples
from nlft.errors import NLFTError
from nlft.experiments.settings import TuneSettings
from nlft.experiments.staged import Resources, Staged, check_ended, ending_with_us, split_machine
from nlft.progress import progress
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.runs.lock import LOCK
from nlft.runs.run_dir import RunDir


@pytest.fixture
def staged(tmp_path):
    return Staged("questions.jsonl", {}, TuneSettings(output_dir=str(tmp_path)))


def tell(folder, job, name):
    """Run in a child process."""
    with progress("work", 2, "step") as bar:
        shown = not bar.disable
    seen = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": torch.get_num_threads(), "bars": shown}
    (folder / name).write_text(json.dumps(seen))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("named", [None, "3,5", "GPU-a", "0,"])
def test_gpus_go_round_one_for_each_process_and_cores_are_divided(monkeypatch, named):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    gpus = {None: ["0", "1", "0"], "3,5": ["3", "5", "3"], "GPU-a": [None] * 3, "0,": [None] * 3}[named]
    assert split_machine(3) == [Resources(2, gpu, bars=False) for gpu in gpus]
    assert split_machine(1) == [Resources(None, gpus[0], bars=True)], (
        "one trainer takes one GPU, also where there are several"
    )


def test_without_a_gpu_nothing_is_hidden_and_no_process_is_left_without_a_core(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert {part.gpu for part in split_machine(4)} == {None}
    assert min(part.threads for part in split_machine(4096)) == 1


def test_processes_that_run_at_once_have_their_own_split_machine(staged, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = [Resources(1, "7", bars=False), Resources()]
    running = [staged.begin(part, tell, f"{n}.json") for n, part in enumerate(given)]
    for process in running:
        process.join()
        check_ended(process)
    first, second = (json.loads((staged.folder / f"{n}.json").read_text()) for n in range(2))
    assert first == {"gpu": "7", "threads": 1, "bars": False}
    assert second["gpu"] is None
    assert second["bars"]


def test_what_is_interrupted_ends_the_processes_that_it_started(staged):
    running = [staged.begin(Resources(), linger)]
    wait_for((staged.folder / "started").exists)
    with pytest.raises(KeyboardInterrupt), ending_with_us(running):
        raise KeyboardInterrupt
    assert running[0].exitcode not in (None, 0)
    with pytest.raises(NLFTError, match="linger stopped"):
        check_ended(running[0])


PARENT = """
import sys
from nlft.experiments import staged
from nlft.experiments.staged import Resources, Staged
from nlft.experiments.settings import TuneSettings
from helpers.processes import linger

staged._PRELOADED = ()  # `linger` needs none of it, and the imports take seconds
if __name__ == "__main__":
    Staged("questions.jsonl", {}, TuneSettings(output_dir=sys.argv[1])).begin(Resources(), linger).join()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_what_started_it(tmp_path, how):
    (tmp_path / "parent.py").write_text(PARENT)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as parent:
        wait_for(lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text())
        child = int((tmp_path / "started").read_text())
        os.kill(child, 0)
        parent.send_signal(how)
    wait_for(lambda: not running(child), seconds=10)


def running(process):
    """Whether it is there, and not merely unburied."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_for_the_parent_lets_the_training_in_its_stage_write_a_checkpoint(tmp_path, model_folder):
    write_examples(tmp_path / "e.jsonl", examples(8))
    command = [sys.executable, "-m", "nlft", "tune", str(tmp_path / "e.jsonl"), "--model_name_or_path", model_folder]
    command += ["--dtype", "float32", "--arms", "nlft", "--max_steps", "100000", "--output_dir", str(tmp_path / "tn")]
    command += ["--max_new_tokens", "4", "--keep_truncated", "true", "--test_share", "0.25", "--audit", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as parent:
        run = RunDir(tmp_path / "tn" / "nlft")
        until(lambda: sum("loss" in e for e in run.events()) > 2 or parent.poll() is not None, seconds=180)
        parent.terminate()
        told = parent.communicate(timeout=60)[1]
    assert parent.returncode == 128 + signal.SIGTERM, told
    assert "kept in" in told
    assert "next: nlft tune" in told
    last = checkpoints_of(run)[-1]
    assert problem_of(last) is None
    assert int(last.name.partition("-")[2]) < 10_000, "none of the ten that an arm writes anyway"
    assert not (tmp_path / "tn" / LOCK).exists()
