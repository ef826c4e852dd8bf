"""`nlft compare --executor ray`: cells as tasks of Ray, one of whose workers is killed."""

import json
import os
import shutil
import signal
import sys
import time
from threading import Thread
from types import SimpleNamespace

import psutil
import pytest

from nlft.cli import main
from nlft.errors import NLFTError, UserError
from nlft.experiments.compare import Compare
from nlft.experiments.demo import write_problems
from nlft.experiments.on_ray import run_on_ray
from nlft.experiments.settings import CompareSettings
from nlft.models.answerer import CompletionRequest
from nlft.models.on_ray import RayModel, check_resources
from nlft.models.settings import BackendSettings, ExecutorSettings


def grid(folder, model, **more):
    settings = CompareSettings(
        output_dir=str(folder / "out"), sizes=[6], seeds=[0], test_file=str(folder / "problems" / "test.jsonl"),
        max_new_tokens=6, keep_truncated=True, batch_size=16, max_steps=1, comparisons=["nlft:base"], **more,
    )  # fmt: skip
    settings.arms = ["base", "nlft"]  # two cells do, and each takes seconds
    return Compare(folder / "problems" / "train.jsonl", {"model_name_or_path": model, "dtype": "float32"}, settings)


def kill_once(place, killed):
    """Kill the process of a cell when its training has begun."""
    while not (place / "heartbeat.json").is_file():
        time.sleep(0.02)
    pid = json.loads((place / "heartbeat.json").read_text())["pid"]
    assert pid != os.getpid()
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)


@pytest.mark.timeout(900)
def test_a_cell_whose_worker_is_killed_is_run_again_and_the_comparison_is_the_local_one(tmp_path, model_folder):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    write_problems(tmp_path / "problems", 14, 4)
    grid(tmp_path, model_folder).run()
    report = tmp_path / "out" / "compare.json"
    local = json.loads(report.read_text())
    shutil.rmtree(tmp_path / "out" / "cells")
    report.unlink()
    cell = tmp_path / "out" / "cells" / "size-6" / "seed-0" / "fold-0" / "nlft"
    killed: list[int] = []
    watcher = Thread(target=kill_once, args=(cell, killed), daemon=True)
    watcher.start()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        shown = grid(tmp_path, model_folder, executor="ray").run()
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert json.loads((cell / "heartbeat.json").read_text())["pid"] != killed[0], "another process ran the cell again"
    remote = json.loads(report.read_text())
    assert remote["verdict"] in shown
    assert remote["verdict_data"] == local["verdict_data"]
    assert [(a["arm"], a["verdicts"], a["failed"]) for a in remote["arms"]] == [
        (a["arm"], a["verdicts"], a["failed"]) for a in local["arms"]
    ]
    assert all(not arm["failed"] for arm in remote["arms"])


def answers(out):
    """What a command kept of its answers, without the times."""
    lines = [json.loads(line) for line in out.with_suffix(".calls.jsonl").read_text().splitlines()]
    return {one["hash"]: one["answer"] for one in lines}


def kill_a_worker(ledger, killed):
    """Kill a worker that holds the model, as soon as the first answers are kept."""
    while not ledger.is_file() or not ledger.read_bytes().count(b"\n"):
        time.sleep(0.01)
    busy = [p for p in psutil.process_iter(["cmdline"]) if "ray::_Worker" in " ".join(p.info["cmdline"] or [])]
    busy[0].kill()
    killed.append(busy[0].pid)


@pytest.mark.timeout(900)
@pytest.mark.long
def test_a_model_that_answers_in_two_workers_one_of_them_killed_gives_the_answers_of_this_machine(
    tmp_path, model_folder, capsys
):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    write_problems(tmp_path / "problems", 40, 4)
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    words = ["sample", str(tmp_path / "problems" / "train.jsonl"), "--model_name_or_path", model_folder]
    words += ["--dtype", "float32", "--max_new_tokens", "24", "--batch_size", "4"]
    assert main([*words, "--out", str(here)]) == 0
    killed: list[int] = []
    Thread(target=kill_a_worker, args=(there.with_suffix(".calls.jsonl"), killed), daemon=True).start()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        assert main([*words, "--out", str(there), "--executor", "ray"]) == 0, capsys.readouterr().err
        judge = ["judge", str(here), "--judge", "self", "--model_name_or_path", model_folder, "--dtype", "float32"]
        judge += ["--max_new_tokens", "8", "--tries", "1"]
        # A random model's words are no judgment, and the command says so in both cases.
        ends = [main([*judge, "--out", str(tmp_path / "a.jsonl")])]
        ends += [main([*judge, "--out", str(tmp_path / "b.jsonl"), "--executor", "ray"])]
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert answers(there) == answers(here), "the same answers under the same names, so a ledger serves both"
    assert there.read_text() == here.read_text()
    assert ends[0] == ends[1]
    assert len(answers(tmp_path / "a.jsonl")) > 10
    assert answers(tmp_path / "a.jsonl") == answers(tmp_path / "b.jsonl")


def test_what_is_wrong_with_a_worker_is_said_where_the_command_runs(tmp_path, model_folder, capsys):
    pytest.importorskip("ray", reason="Ray is not installed")
    write_problems(tmp_path / "problems", 4, 4)
    words = ["sample", str(tmp_path / "problems" / "train.jsonl"), "--out", str(tmp_path / "o.jsonl")]
    assert main([*words, "--executor", "ray", "--model_name_or_path", model_folder, "--adapter", "no/such"]) == 2
    assert "no/such" in capsys.readouterr().err
    with pytest.raises(UserError, match="--executor ray with --backend openai"):
        BackendSettings(executor="ray", base_url="http://localhost:1/v1")


@pytest.mark.parametrize(
    ("kind", "words", "tries", "said"),
    [
        ("OutOfMemoryError", ["of 7"], 4, "of 7"),
        ("WorkerCrashedError", [], 4, "--batch_size"),
        ("RayTaskError", ["answer", "of 7", ValueError()], 1, "of 7"),
    ],
)
def test_a_worker_that_is_lost_in_any_way_is_replaced_and_then_said(kind, words, tries, said):
    """A fake of Ray's module, each of whose workers is lost; no process is started."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    error, killed = vars(ray.exceptions)[kind](*words), []

    def get(done):
        raise error

    made = [SimpleNamespace(answer=SimpleNamespace(remote=lambda part: object())) for _ in range(tries)]
    model = object.__new__(RayModel)
    model._batch_size, model._system_prompt, model._executor = 2, None, ExecutorSettings(executor="ray", ray_gpus=0)
    model._idle, left = [], list(made)
    model._worker = left.pop
    node = {"Alive": True, "Resources": {"CPU": 1.0}}
    model._ray = SimpleNamespace(
        exceptions=ray.exceptions, nodes=lambda: [node], wait=lambda busy, num_returns: (busy, []), get=get,
        kill=killed.append, cluster_resources=dict,
    )  # fmt: skip
    with pytest.raises(NLFTError, match=f"(?s)--executor ray: .*{said}"):
        list(model.answer([CompletionRequest("a", "What is 1?")]))
    assert not left
    assert len(killed) == tries, "a lost worker keeps no place"


def test_without_ray_the_message_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"nlft\[ray\]"):
        run_on_ray([], tmp_path, {}, "", lambda *_: None, cpus=1, gpus=None)


def test_settings_that_ray_does_not_read_are_refused():
    with pytest.raises(UserError, match="--jobs 2 with --executor ray"):
        CompareSettings(executor="ray", jobs=2)
    with pytest.raises(UserError, match="--ray_gpus"):
        CompareSettings(ray_gpus=1.0)


def test_a_cell_that_fits_on_no_machine_does_not_wait_forever():
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]
    check_resources(nodes, 4, 0.5)
    with pytest.raises(NLFTError, match="--ray_cpus or --ray_gpus"):
        check_resources(nodes, 8, 0)
