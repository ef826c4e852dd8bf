"""One process at a time writes a folder. A dead owner's lock is taken over, and says so."""

import errno
import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from helpers.training import nlft_trainer
from helpers.waiting import until
from nlft import cli
from nlft.commands.map import _holds_other_work
from nlft.errors import UserError
from nlft.experiments.settings import RoundsPlan, TuneSettings
from nlft.experiments.staged import Staged
from nlft.runs import lock
from nlft.runs.lock import LOCK, owning, owning_file

HOLDER = """
import sys, time
from nlft.runs.lock import owning, owning_file
with (owning_file if sys.argv[2] == "file" else owning)(sys.argv[1]):
    print("held", flush=True)
    time.sleep(120)
"""


class Holder:
    """Another process that holds the lock of a path."""

    def __init__(self, path, kind="folder"):
        command = [sys.executable, "-c", HOLDER, str(path), kind]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "held\n"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def holder(tmp_path):
    """A process to kill."""
    held = Holder(tmp_path / "run")
    yield held
    held.kill()


@pytest.fixture(scope="module")
def owned(tmp_path_factory):
    """A folder that another process writes, and its number."""
    folder = tmp_path_factory.mktemp("owned") / "run"
    held = Holder(folder)
    yield folder, str(held.process.pid)
    held.kill()


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock.owning.__wrapped__, "__defaults__", ("choose another --output_dir", 0.0))


def test_a_second_process_is_refused_and_told_who_writes_and_since_when(owned):
    folder, pid = owned
    with pytest.raises(UserError) as refused, owning(folder):
        pass
    since = json.loads((folder / LOCK).read_text())["since"]
    for part in (pid, platform.node(), since, str(folder), "--output_dir"):
        assert part in str(refused.value)


def test_a_dead_owners_lock_is_taken_over_with_a_word(tmp_path, holder, capsys):
    holder.kill()
    assert (tmp_path / "run" / LOCK).is_file()
    with owning(tmp_path / "run"):
        told = capsys.readouterr().err
        assert str(holder.process.pid) in told
        assert "network disk" not in told
    assert not (tmp_path / "run" / LOCK).exists()


def test_an_owner_on_another_machine_is_a_warning(tmp_path, capsys):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "yesterday"}))
    with owning(tmp_path):
        told = capsys.readouterr().err
    assert "7" in told
    assert "elsewhere" in told
    assert "network disk" in told


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\0", b"{" * 5000, b'{"pid": {}}'])
def test_a_spoilt_lock_file_stops_nobody(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with owning(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_an_owner_may_take_its_lock_again_and_keeps_it(tmp_path):
    with owning(tmp_path / "new" / "run"):
        with owning(tmp_path / "new" / "run"):
            pass
        assert (tmp_path / "new" / "run" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == [], "nothing is left where nothing was written"


def test_the_next_owner_waits_a_moment_for_the_last(tmp_path, holder):
    signalled = []

    def soon(_):
        if not signalled:
            holder.kill()
        signalled.append(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock.time, "sleep", soon)
        with owning(tmp_path / "run", patience=60):
            assert signalled


def test_a_file_system_without_locks_stops_nobody(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", refuse)
    with owning(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


# The commands


def test_no_training_begins_in_a_folder_that_another_process_writes(owned):
    folder, pid = owned
    trainer = nlft_trainer(folder, watch=0)
    with pytest.raises(UserError, match=pid):
        trainer.train()
    assert [path.name for path in folder.iterdir()] == [LOCK]


def test_other_ranks_take_no_lock(owned, monkeypatch):
    trainer = nlft_trainer(owned[0], watch=0)
    monkeypatch.setattr(type(trainer.args), "process_index", 1)
    monkeypatch.setattr(type(trainer), "_train_alone", lambda *_, **__: "trained")
    assert trainer.train() == "trained"


def examples_file(folder):
    row = {"id": 1, "prompt": "p", "completion": "c", "label": False, "judgment": "j", "answer": "a"}
    path = folder / "examples.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("name", "flag"), [("train", []), ("train", ["--resume"]), ("sft", ["--overwrite"]), ("kto", []), ("reft", [])]
)
def test_every_training_command_is_refused_before_it_loads_a_model(
    tmp_path, owned, capsys, monkeypatch, model_folder, name, flag
):
    folder, pid = owned
    monkeypatch.setattr("nlft.models.loading.AutoModelForCausalLM", None)
    model = ["--model_name_or_path", model_folder]
    assert cli.main([name, examples_file(tmp_path), *model, "--output_dir", str(folder), "--use_cpu", "true", *flag])
    assert pid in capsys.readouterr().err


@pytest.mark.parametrize("settings", [TuneSettings, RoundsPlan])
def test_stages_are_refused_too(owned, settings):
    with pytest.raises(UserError, match=owned[1]):
        Staged("questions.jsonl", {}, settings(output_dir=str(owned[0]))).run()


def test_a_refused_command_leaves_no_folder(tmp_path, capsys, model_folder):
    options = ["--output_dir", str(tmp_path / "deep" / "run"), "--use_cpu", "true", "--max_length", "3"]
    assert cli.main(["train", examples_file(tmp_path), "--model_name_or_path", model_folder, *options]) == 2
    assert "max_length" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_a_file_of_answers_has_one_writer(tmp_path):
    out = tmp_path / "out.jsonl"
    held = Holder(out, "file")
    try:
        with pytest.raises(UserError) as refused, owning_file(out):
            pass
    finally:
        held.kill()
    assert str(held.process.pid) in str(refused.value)
    assert "--out" in str(refused.value)
    with owning_file(out):
        assert until(lambda: [path.name for path in tmp_path.iterdir()]) == [".out.jsonl.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_its_lock_alone_is_a_run_that_begins(tmp_path):
    """A command holds the lock before its model is loaded, and the map of that run waits."""
    with owning(tmp_path / "run"):
        assert [one.name for one in (tmp_path / "run").iterdir()] == [LOCK]
        assert not _holds_other_work(tmp_path / "run")
        (tmp_path / "run" / "notes.txt").write_text("mine")
        assert _holds_other_work(tmp_path / "run")
