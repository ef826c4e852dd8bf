"""Closed streams, readers that leave, full disks and poor encodings: none of them ends a command's work."""

import errno
import io
import os
import shlex
import subprocess
import sys

import pytest

from helpers.training import examples, in_a_process
from helpers.waiting import until
from nlft.data.records import write_examples
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.streams import Lasting, outliving_readers

NLFT = f"{shlex.quote(sys.executable)} -m nlft"


def shell(command, folder, **environment):
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )


@pytest.fixture
def folder(tmp_path):
    write_examples(tmp_path / "größe.jsonl", examples(6))
    return tmp_path


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["--version", "import größe.jsonl --out made.jsonl"])
def test_a_closed_stream_ends_no_command(folder, command, closed):
    done = shell(f"{NLFT} {command} {closed}", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "made.jsonl").exists() == command.startswith("import")


def test_a_training_without_streams_writes_its_adapter(folder, model_folder):
    options = f"--model_name_or_path {model_folder} --dtype float32 --use_cpu --max_steps 1 --watch 0 --output_dir run"
    done = shell(f"{NLFT} train größe.jsonl {options} <&- >&- 2>&-", folder)
    assert done.returncode == 0
    assert (folder / "run/adapter/adapter_model.safetensors").is_file()


def test_a_closed_input_is_no_terminal(folder):
    done = shell(f"{NLFT} judge größe.jsonl --judge human --out judged.jsonl <&-", folder)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --judge human")


TAKES_A_NUMBER = """
import os, sys
from nlft.streams import open_closed_streams
open_closed_streams()
with open("data", "w") as file:
    assert file.fileno() > 2, file.fileno()
    os.system("echo from another process")
    print("ours", file=file)
"""


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    done = shell(f"{sys.executable} -c {shlex.quote(TAKES_A_NUMBER)} <&- >&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "data").read_text() == "ours\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["--version", "train --help", "audit größe.jsonl", "import größe.jsonl"])
def test_an_output_on_a_full_disk_ends_in_a_sentence(folder, command):
    done = shell(f"{NLFT} {command} > /dev/full", folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2].startswith("failed: the disk is full")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("cp1252", marks=pytest.mark.long)])
def test_an_encoding_that_lacks_a_character_ends_no_command(folder, encoding):
    (folder / "größe.jsonl").rename(folder / "größe-五.jsonl")
    done = shell(f"{NLFT} audit größe-五.jsonl", folder, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "\\u4e94" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "leaves"),
    [
        ("train", "later"),
        pytest.param("train", "at once", marks=pytest.mark.long),
        pytest.param("tune", "at once", marks=pytest.mark.long),
    ],
)
def test_a_training_outlives_the_reader_of_its_log(tmp_path, model_folder, command, leaves):
    words, run = in_a_process(command, tmp_path, model_folder, 8)
    ours, theirs = os.pipe()
    process = subprocess.Popen(words, stdout=theirs, stderr=theirs)
    os.close(theirs)
    if leaves == "later":
        until(lambda: any("loss" in event for event in run.events()), seconds=180)
    os.close(ours)
    assert process.wait(180) == 0
    assert (run.adapter_path / "adapter_model.safetensors").is_file()
    assert [problem_of(path) for path in checkpoints_of(run)] in ([None], [])


class Full(io.StringIO):
    """A file on a disk that is full until there is room."""

    room = False

    def write(self, text):
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_log_on_a_full_disk_goes_on_when_there_is_room(monkeypatch):
    full = Full()
    monkeypatch.setattr(sys, "stderr", full)
    with outliving_readers("stderr"), outliving_readers():
        assert isinstance(sys.stderr, Lasting)
        assert not isinstance(sys.stderr.stream, Lasting)
        print("lost", file=sys.stderr, flush=True)
        full.room = True
        print("kept", file=sys.stderr, flush=True)
        assert sys.stderr.refused.errno == errno.ENOSPC
    assert sys.stderr is full
    assert full.getvalue().strip() == "kept"
