"""The run directory's reader and writer."""

import json
import os

import numpy as np
import pytest

from helpers.snapshots import scores, snapshot
from nlft.errors import UserError
from nlft.runs.json_lines import jsonl_line
from nlft.runs.run_dir import RunDir, WatchedExample


def test_a_snapshot_comes_back_as_it_went_in(tmp_path):
    run = RunDir(tmp_path)
    run.store_snapshot(snapshot(20))
    run.store_snapshot(snapshot(3))
    assert run.snapshot_steps() == [3, 20]
    back = run.snapshot(20)
    assert (back.step, back.epoch, back.scheme, back.settings) == (20, 0.5, "nlft", {"mistake_ratio": 1.5})
    assert back.scores[1].judge is None
    for name in ("base", "standard", "judge", "likelihood", "unlikelihood", "tag", "band"):
        ours, theirs = getattr(back.scores[0], name), getattr(scores(), name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_watched_examples_come_back_with_odd_characters(tmp_path):
    odd = WatchedExample("é", False, "p\u2028", "a", None, ["\x00", "\u202e", "</script>", "\x1b[31m"])
    run = RunDir(tmp_path)
    run.write_watched([odd])
    assert run.watched() == [odd]
    assert RunDir(tmp_path / "none").watched() == []


def test_numbers_that_json_has_no_word_for_become_null(tmp_path):
    run = RunDir(tmp_path)
    run.append_event({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    assert run.events() == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.5}]
    json.loads(run.events_path.read_text())


def test_a_torn_last_line_is_ignored(tmp_path):
    run = RunDir(tmp_path)
    run.append_event({"step": 1})
    with run.events_path.open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert run.events() == [{"step": 1}]


def test_a_full_disk_leaves_no_part_of_a_snapshot(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        RunDir(tmp_path).store_snapshot(snapshot(20))
    assert RunDir(tmp_path).snapshot_steps() == []


def test_a_torn_snapshot_is_named(tmp_path):
    run = RunDir(tmp_path)
    run.store_snapshot(snapshot(20))
    path = next(run.saliency_path.iterdir())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"step-00000020\.safetensors"):
        run.snapshot(20)


def test_resume_marks_later_lines_superseded_and_drops_later_snapshots(tmp_path):
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        run.append_event({"step": step})
        run.store_snapshot(snapshot(step))
    run.start_events(resumed_step=1)
    assert run.events() == [{"step": 1}]
    assert [e["step"] for e in run.events(superseded=True)] == [1, 2, 3]
    assert run.snapshot_steps() == [1]


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_no_run_is_refused(tmp_path, there):
    folder = tmp_path if there else tmp_path / "none"
    with pytest.raises(UserError, match=r"holds no run.yaml|does not exist"):
        RunDir.open(folder)


def test_clearing_a_run_leaves_everything_else(tmp_path):
    run = RunDir(tmp_path)
    run.write_settings({})
    run.append_event({"step": 1})
    run.store_snapshot(snapshot(1))
    (tmp_path / "notes.txt").write_text("mine")
    run.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_name_that_is_not_utf_8_is_kept_and_read_again(tmp_path):
    run, name = RunDir(tmp_path), os.fsdecode(b"caf\xe9.jsonl")
    run.write_settings({"data": {"file": name}})
    assert run.settings()["data"]["file"] == name
    assert json.loads(jsonl_line({"command": [name]})) == {"command": [name]}
