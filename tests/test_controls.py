"""Steering a run while it trains: what is refused, what is taken and when, on resume, on two ranks, on a full disk."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import TrainerCallback

from helpers import tiny
from helpers.snapshots import scores, snapshot
from helpers.training import COMMON, Ask, adapter, examples, lora, nlft_trainer
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme, scheme_names
from nlft.errors import UserError
from nlft.runs import request_file, run_dir
from nlft.runs.controls import CONTROLS, after, controls_of, describe, outcome, refusal, resolve, state_of
from nlft.runs.request_file import new_request, read_request
from nlft.runs.run_dir import LIVE_KEPT, RunDir, Snapshot
from nlft.training import steering
from nlft.training.background_writer import BackgroundWriter
from nlft.training.checkpoints import checkpoint_to_resume
from nlft.training.watching import choose_watched, score_alone


def steered(folder, asked, **options):
    trainer = nlft_trainer(folder, callbacks=[Ask(folder, asked)], **options)
    trainer.train()
    return trainer


def ledger(folder, **options):
    return [(e["step"], e["control"], e["old"], e["new"], e["taken"]) for e in RunDir(folder).controls(**options)]


def same(one, other):
    ours, theirs = adapter(one.model), adapter(other.model)
    return all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """run.yaml of an NLFT run, as its file has it."""
    trainer = nlft_trainer(tmp_path_factory.mktemp("record"))
    return yaml.safe_load(yaml.safe_dump(trainer.record, sort_keys=False))


@pytest.fixture
def state(record):
    return state_of(record, [])


def put(state, control, value, id="x"):
    """The state once a request is taken."""
    assert refusal(control, value, state) is None
    control, value = resolve(control, value, state)
    old, new = outcome(control, value, state)
    return after(state, {"id": id, "taken": True, "control": control, "old": old, "new": new})


# What can be asked for


def test_controls_need_neither_torch_nor_transformers():
    code = "import sys, nlft.runs.controls, nlft.runs.run_dir; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_every_setting_of_every_scheme_is_a_control_with_its_range(record, state):
    found = {c.name: c for c in describe(NLFTSettings)}
    assert list(found) == list(NLFTSettings.__dataclass_fields__)
    assert (found["mistake_ratio"].low, found["mistake_ratio"].high, found["mistake_ratio"].default) == (1, None, 1.5)
    assert (found["contradiction"].kind, found["after_mistake"].choices) == ("flag", ["keep", "zero"])
    assert all(c.help for c in found.values())
    assert set(record["schemes"]) == set(scheme_names())
    json.dumps(record, allow_nan=False)
    for scheme in scheme_names():
        moved = put(state, "scheme", scheme)
        names = [c.name for c in controls_of(moved) if c.name.startswith("saliency.")]
        assert names == [f"saliency.{f}" for f in get_scheme(scheme).settings.__dataclass_fields__]
        assert get_scheme(scheme).settings(**moved.settings) == get_scheme(scheme).settings()


def test_a_run_that_takes_no_requests_has_no_state(record):
    assert state_of({"method": "sft"}, []) is None


FINE = [
    ("learning_rate", 0),
    ("learning_rate", 10.0),
    ("scheme", "uniform"),
    ("saliency.mistake_ratio", 1),
    ("saliency.mistake_ratio", 1e300),
    ("saliency.neighbour_similarity", -1),
    ("saliency.contradiction", True),
    ("saliency.after_mistake", "zero"),
    ("pause", None),
    ("save", None),
    ("stop", None),
]
REFUSED = [
    ("learning_rate", -0.1, "give 0 to 10"),
    ("learning_rate", 10.5, "give 0 to 10"),
    ("learning_rate", float("nan"), "give 0 to 10"),
    ("learning_rate", True, "give a number"),
    ("learning_rate", "1", "give a number"),
    ("learning_rate", None, "give a number"),
    ("learning_rate", [1], "give a number"),
    ("saliency.mistake_ratio", 0.5, "give 1 or more"),
    ("saliency.mistake_ratio", float("inf"), "give 1 or more"),
    ("saliency.mistake_ratio", 10**400, "give 1 or more"),
    ("saliency.neighbour_similarity", 2, "give -1 to 1"),
    ("saliency.contradiction", 1, "give true or false"),
    ("saliency.after_mistake", "drop", "choose one of keep, zero"),
    ("saliency.after_mistake", ["keep"], "choose one of"),
    ("saliency.inappropriate_ratio", 2, "is a setting of scheme cut, but nlft is active"),
    ("saliency.nothing", 2, "there is no control 'saliency.nothing'"),
    ("mistake_ratio", 2, "there is no control"),
    ("scheme", "magic", "choose one of "),
    ("scheme", None, "choose one of "),
    ("pause", 1, "pause takes no value"),
    ("resume", None, "the run is not paused"),
    ("evaluate", None, "no held-out examples"),
    ("undo", "nothing", "no taken request has this id"),
    ("undo", ["x"], "no taken request has this id"),
    ("undo", None, "no taken request has this id"),
    ("", None, "there is no control"),
]


@pytest.mark.parametrize(("control", "value"), FINE, ids=str)
def test_what_is_in_range_can_be_asked_for(state, control, value):
    assert refusal(control, value, state) is None


@pytest.mark.parametrize(("control", "value", "reason"), REFUSED, ids=lambda x: str(x)[:30])
def test_what_is_not_is_refused_with_the_reason(state, control, value, reason):
    assert reason in refusal(control, value, state)


def test_a_scheme_whose_conditions_cannot_be_scored_is_refused(record):
    state = state_of({**record, "scheme": "uniform", "saliency": {}, "scorable": ["standard"]}, [])
    assert (
        refusal("scheme", "nlft", state) == "scheme nlft needs judge, but this run's examples have no prompts for that"
    )
    assert refusal("scheme", "cut", state) is not None
    assert refusal("scheme", "uniform", state) is None


def test_undo_sets_back_what_a_request_changed_and_can_itself_be_undone(state):
    state = put(state, "learning_rate", 2, id="a")
    state = put(state, "learning_rate", 3, id="b")
    back = put(state, "undo", "b", id="c")
    assert back.values["learning_rate"] == 2
    assert put(back, "undo", "c", id="d").values["learning_rate"] == 3
    assert put(state, "undo", "a", id="c").values["learning_rate"] == 1
    paused = put(state, "pause", None, id="p")
    assert refusal("pause", None, paused) == "the run is already paused"
    assert not put(paused, "undo", "p", id="q").paused
    cut = put(put(state, "saliency.mistake_ratio", 2, id="m"), "scheme", "cut", id="s")
    assert "is a setting of scheme nlft, but cut is active" in refusal("undo", "m", cut)
    assert put(cut, "undo", "s", id="t").settings["mistake_ratio"] == 2
    for name in ("save", "stop"):
        assert refusal("undo", "z", put(state, name, None, id="z")) == f"{name} cannot be undone"


# Requests as files


def test_requests_come_back_in_the_order_in_which_they_were_asked(tmp_path):
    run = RunDir(tmp_path)
    assert run.pending_requests() == []
    ids = [run.write_request("learning_rate", value, "page") for value in (3, 1, 2)]
    found = run.pending_requests()
    assert [(r.id, r.value, r.who) for r in found] == list(zip(ids, (3, 1, 2), ["page"] * 3, strict=True))
    assert sorted(os.listdir(run.requests_path)) == [r.file for r in found]
    assert [r.value for r in run.pending_requests(2)] == [3, 1]
    run.remove_request(found[0])
    assert [r.value for r in run.pending_requests()] == [1, 2]


def odd_files(folder):
    """Files that are no requests, as a broken or hostile client might leave them."""
    whole = {"id": "i", "control": "stop", "value": None, "who": "page", "time": "now"}
    odd = {
        "long": json.dumps({**whole, "control": "x" * 70_000}),
        "torn": '{"id": "i", "cont',
        "list": "[1, 2]",
        "missing": json.dumps({k: v for k, v in whole.items() if k != "value"}),
        "number": json.dumps({**whole, "control": 7}),
        "nested": json.dumps({**whole, "value": {"a": 1}}),
        "deep": json.dumps(whole).replace("null", "[" * 20_000 + "]" * 20_000),
        "surrogate": json.dumps({**whole, "who": "x"}).replace('"x"', '"\\ud800"'),
        "text": json.dumps({**whole, "value": "y" * 1000}),
        "empty": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in odd.items():
        (folder / f"{name}.json").write_text(text)
    (folder / "bytes.json").write_bytes(b"\xff\xfe\x00")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{")
    os.mkfifo(folder / "pipe.json")
    (folder / "secret.json").symlink_to("/etc/hostname")
    (folder / ".aside.json.123.tmp").write_text('{"half":')  # as a killed server leaves one
    return [*odd, "bytes", "pipe", "secret", "name"]


def test_files_that_are_no_requests_are_refused_with_a_line_and_removed(tmp_path):
    names = odd_files(tmp_path / "requests")
    steered(tmp_path, {}, max_steps=2)
    lines = RunDir(tmp_path).controls()
    assert len(lines) == len(names) == 14
    assert all(not e["taken"] and e["reason"].startswith("the file ") for e in lines)
    told = " ".join(e["reason"] for e in lines)
    for word in ("64 KiB", "regular file", "cannot be read", "'value' is missing", "id, control, who and time", "null"):
        assert word in told
    assert os.listdir(tmp_path / "requests") == [".aside.json.123.tmp"]
    assert "hostname" not in (tmp_path / "controls.jsonl").read_text()


def test_without_flags_that_windows_lacks_requests_are_read_and_links_refused(tmp_path, monkeypatch):
    names = [name for name in dir(os) if name not in ("O_NONBLOCK", "O_NOFOLLOW")]
    monkeypatch.setattr(request_file, "os", types.SimpleNamespace(**{name: getattr(os, name) for name in names}))
    request, data = new_request("learning_rate", 0.5, "me")
    (tmp_path / "x.json").write_bytes(data)
    (tmp_path / "link.json").symlink_to(tmp_path / "x.json")
    assert read_request(tmp_path / "x.json") == replace(request, file="x.json")
    assert "link" in read_request(tmp_path / "link.json").problem
    assert read_request(tmp_path / "gone.json") is None


def test_a_folder_among_the_requests_is_refused_and_leaves_no_file_open(tmp_path):
    (tmp_path / "requests" / "x.json").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        assert "regular file" in RunDir(tmp_path).pending_requests()[0].problem
    assert len(os.listdir("/proc/self/fd")) == before


def test_requests_that_cannot_be_removed_are_answered_once_and_do_not_stop_the_run(tmp_path):
    (tmp_path / "requests" / "folder.json").mkdir(parents=True)
    with pytest.warns(UserWarning, match=r"cannot remove folder.json") as told:
        steered(tmp_path, {})
    assert len([w for w in told if "folder.json" in str(w.message)]) == 1
    assert len(RunDir(tmp_path).controls()) == 1


# What is taken, and when


def test_a_learning_rate_is_in_force_from_the_step_of_its_line(tmp_path):
    plain = nlft_trainer(tmp_path / "plain", num_train_epochs=3, lr_scheduler_type="cosine")
    plain.train()
    asked = {3: [("learning_rate", 0.5)], 5: [("undo", "learning_rate")]}
    steered(tmp_path / "run", asked, num_train_epochs=3, lr_scheduler_type="cosine")
    rates = [[e["learning_rate"] for e in RunDir(tmp_path / n).events() if "loss" in e] for n in ("plain", "run")]
    assert len(rates[0]) == 6
    assert rates[1] == [r * f for r, f in zip(rates[0], (1, 1, 0.5, 0.5, 1, 1), strict=True)]
    assert ledger(tmp_path / "run") == [(3, "learning_rate", 1.0, 0.5, True), (5, "learning_rate", 0.5, 1.0, True)]
    first, second = RunDir(tmp_path / "run").controls()
    assert second["undoes"] == first["id"]
    assert {"id", "step", "time", "who", "control", "old", "new", "taken", "reason"} <= set(first)
    losses = [[e["loss"] for e in RunDir(tmp_path / n).events() if "loss" in e] for n in ("plain", "run")]
    assert losses[0][:3] == losses[1][:3], "step 3 is the first to train with it, and step 4 the first to feel it"
    assert losses[0][3] != losses[1][3]


def test_a_learning_rate_of_zero_leaves_the_weights_alone(tmp_path):
    short = nlft_trainer(tmp_path / "short", max_steps=2, lr_scheduler_type="constant")
    short.train()
    run = steered(tmp_path / "run", {3: [("learning_rate", 0)]}, max_steps=4, lr_scheduler_type="constant")
    assert same(short, run)


def test_another_scheme_scores_its_conditions_from_its_step_on(tmp_path):
    """Also in the batch that was made ahead of the switch."""
    asked = {3: [("scheme", "nlft")], 5: [("scheme", "cut")], 6: [("scheme", "uniform")]}
    trainer = nlft_trainer(tmp_path, saliency="uniform", num_train_epochs=3, callbacks=[Ask(tmp_path, asked)])
    seen = []
    losses = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        rows = len(inputs["scored_input_ids"]) if "scored_input_ids" in inputs else 0
        seen.append((trainer.state.global_step + 1, trainer.scheme.name, rows, int((~inputs["label"]).sum())))
        return losses(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    schemes = {1: "uniform", 2: "uniform", 3: "nlft", 4: "nlft", 5: "cut", 6: "uniform"}
    assert len(seen) == 12
    for step, scheme, rows, wrong in seen:
        assert scheme == schemes[step]
        assert rows == {"uniform": 0, "nlft": 3 + wrong, "cut": max(wrong, 1)}[scheme]
    assert RunDir(tmp_path).settings()["scored"] == ["base"]


def test_a_switch_gives_the_losses_that_the_scheme_has_from_there(tmp_path):
    whole = nlft_trainer(tmp_path / "whole", saliency="cut", num_train_epochs=2)
    whole.train()
    steered(tmp_path / "run", {1: [("scheme", "cut")]}, saliency="uniform", num_train_epochs=2)
    losses = [[e["loss"] for e in RunDir(tmp_path / n).events() if "loss" in e] for n in ("whole", "run")]
    assert losses[0] == losses[1]


def test_at_most_64_requests_are_taken_between_two_steps_and_the_rest_at_the_next(tmp_path):
    steered(tmp_path, {1: [("learning_rate", 1 - number / 1000) for number in range(1, 67)]})
    steps = [step for step, *_ in ledger(tmp_path)]
    assert [steps.count(step) for step in sorted(set(steps))] == [64, 2]


def test_a_setting_is_in_force_and_in_the_snapshots(tmp_path):
    steered(
        tmp_path, {2: [("saliency.mistake_ratio", 3), ("saliency.contradiction", True)]}, watch_every=1, watch_share=1
    )
    run = RunDir(tmp_path)
    steps = run.snapshot_steps(whole=True)
    assert {0, 2, 3, 4} <= set(steps)  # the scoring of step 1 may give way to the request
    assert [run.snapshot(step).settings["mistake_ratio"] for step in steps] == [
        3 if step >= 2 else 1.5 for step in steps
    ]
    state = state_of(run.settings(), run.controls())
    assert state.settings["mistake_ratio"] == 3
    assert state.settings["contradiction"] is True


def test_what_the_trainer_cannot_do_is_refused_and_training_goes_on(tmp_path):
    asked = {2: [("learning_rate", 99), ("evaluate", None), ("scheme", "magic"), ("undo", "x")]}
    plain = nlft_trainer(tmp_path / "plain")
    plain.train()
    run = steered(tmp_path / "run", asked)
    assert [taken for *_, taken in ledger(tmp_path / "run")] == [False] * 4
    assert all(e["reason"] for e in RunDir(tmp_path / "run").controls())
    assert same(plain, run)
    assert os.listdir(tmp_path / "run" / "requests") == []


def test_stop_ends_the_run_with_its_adapter_and_a_checkpoint(tmp_path):
    asked = {3: [("stop", None), ("learning_rate", 2)]}
    stopped = steered(tmp_path / "run", asked, num_train_epochs=3, save_strategy="epoch", lr_scheduler_type="constant")
    assert stopped.state.global_step == 2
    run = RunDir(tmp_path / "run")
    assert (run.adapter_path / "adapter_model.safetensors").is_file()
    assert "- step 3: `stop`" in (run.adapter_path / "README.md").read_text()
    assert checkpoint_to_resume(run, "true", 1).name == "checkpoint-2"
    stop, other = run.controls()
    assert (stop["control"], stop["step"], stop["taken"]) == ("stop", 3, True)
    assert (other["taken"], other["reason"]) == (False, "the training is over")
    short = nlft_trainer(tmp_path / "short", max_steps=2, lr_scheduler_type="constant")
    short.train()
    assert same(short, stopped)


def test_what_was_asked_of_an_earlier_training_is_refused_by_a_fresh_one(tmp_path):
    run = RunDir(tmp_path)
    for control in ("stop", "pause"):
        run.write_request(control, None, "page")
    trainer = steered(tmp_path, {2: [("stop", None)]})
    assert trainer.state.global_step == 1
    assert [(e["step"], e["control"], e["taken"]) for e in run.controls()] == [
        (1, "stop", False), (1, "pause", False), (2, "stop", True),
    ]  # fmt: skip
    assert "before this training" in run.controls()[0]["reason"]


def test_stop_before_the_first_step_trains_nothing(tmp_path):
    trainer = nlft_trainer(tmp_path, callbacks=[Ask(tmp_path, {1: [("stop", None)]})])
    start = adapter(trainer.model)
    trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(w, start[n]) for n, w in adapter(trainer.model).items())


def test_a_checkpoint_can_be_asked_for(tmp_path):
    steered(tmp_path, {3: [("save", None)]})
    assert [p.name for p in RunDir(tmp_path).checkpoints_path.iterdir()] == ["checkpoint-2"]
    assert checkpoint_to_resume(RunDir(tmp_path), "true", 1)


def test_a_checkpoint_that_cannot_be_written_is_refused_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nlft.training.trainer.NLFTTrainer._save_rng_state", full)
    trainer = steered(tmp_path, {3: [("save", None)]})
    (line,) = RunDir(tmp_path).controls()
    assert (line["taken"], line["step"]) == (False, 3)
    assert "No space left" in line["reason"]
    assert trainer.state.global_step == 4


def test_what_a_killed_process_left_half_written_does_not_stop_the_next_checkpoint(tmp_path):
    left = tmp_path / "checkpoints" / ".writing" / "checkpoint-1" / "adapter"
    left.mkdir(parents=True)
    steered(tmp_path, {}, save_strategy="steps", save_steps=2)
    assert checkpoint_to_resume(RunDir(tmp_path), "true", 1).name == "checkpoint-4"
    assert not left.exists()


def test_an_evaluation_can_be_asked_for_and_changes_nothing_of_the_training(tmp_path):
    """Dropout draws random numbers at each step: an evaluation in between must not shift them."""

    def trained(name, asked):
        from nlft.training.trainer import NLFTConfig, NLFTTrainer

        folder = tmp_path / name
        trainer = NLFTTrainer(
            lora(tiny.model(), lora_dropout=0.2),
            NLFTConfig(output_dir=str(folder), **COMMON),
            examples(9),
            eval_dataset=examples(12)[9:],
            processing_class=tiny.tokenizer(),
            callbacks=[Ask(folder, asked)],
        )
        trainer.train()
        return trainer

    one, other = trained("one", {}), trained("other", {2: [("evaluate", None)]})
    assert same(one, other)
    assert [e["step"] for e in RunDir(tmp_path / "other").events() if "eval_loss" in e] == [1]
    assert not [e for e in RunDir(tmp_path / "one").events() if "eval_loss" in e]


def wait_for(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.01)


def test_while_paused_nothing_is_trained_or_written_and_save_and_stop_work(tmp_path, capsys):
    run = RunDir(tmp_path)
    found = {}

    def someone():
        try:
            wait_for(lambda: any(e["control"] == "pause" for e in run.controls()))
            time.sleep(0.3)
            before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
            time.sleep(0.6)
            found["still"] = before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
            found["events"] = len([e for e in run.events() if "loss" in e])
            run.write_request("save", None, "cli")
            run.write_request("learning_rate", 0.5, "cli")
            wait_for(lambda: len(run.controls()) == 3)
            run.write_request("resume", None, "cli")
            wait_for(lambda: any(e["step"] >= 4 for e in run.events() if "loss" in e))
        finally:
            run.write_request("stop", None, "cli")

    thread = threading.Thread(target=someone)
    thread.start()
    trainer = nlft_trainer(tmp_path, callbacks=[Ask(tmp_path, {3: [("pause", None)]})], max_steps=4, disable_tqdm=False)
    trainer.train()
    thread.join()
    assert found == {"still": True, "events": 2}
    assert [line[:4] for line in ledger(tmp_path)][:4] == [
        (3, "pause", False, True),
        (3, "save", None, None),
        (3, "learning_rate", 1.0, 0.5),
        (3, "resume", True, False),
    ]
    assert checkpoint_to_resume(run, "true", 1).name == "checkpoint-2"
    assert "paused" in capsys.readouterr().err
    assert max(e["eta_seconds"] for e in run.events() if e.get("step", 0) < 4) < 60


def test_the_bar_says_paused_until_the_run_goes_on(tmp_path):
    trainer, shown = nlft_trainer(tmp_path), []
    trainer._progress = types.SimpleNamespace(show_pause=shown.append)
    trainer.show_pause(None)
    trainer.show_pause(2.0)
    assert shown == [True, False]


def test_a_paused_run_can_be_stopped(tmp_path):
    run = RunDir(tmp_path)

    def someone():
        wait_for(lambda: len(run.controls()) == 1)
        run.write_request("stop", None, "cli")

    thread = threading.Thread(target=someone)
    thread.start()
    trainer = steered(tmp_path, {2: [("pause", None)]})
    thread.join()
    assert trainer.state.global_step == 1
    assert [line[1] for line in ledger(tmp_path)] == ["pause", "stop"]


def test_a_paused_run_trains_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(steering, "POLL_SECONDS", 0.01)
    plain = nlft_trainer(tmp_path / "plain")
    plain.train()
    assert same(
        plain,
        steered(tmp_path / "run", {2: [("pause", None), ("resume", None)], 3: [("pause", None), ("undo", "pause")]}),
    )
    assert [line[1:4] for line in ledger(tmp_path / "run")] == [("pause", False, True), ("resume", True, False)] * 2


# Resume


STEERED = {
    2: [("learning_rate", 0.5)],
    4: [("saliency.mistake_ratio", 1.1), ("save", None)],
    5: [("scheme", "cut"), ("pause", None), ("resume", None)],
    6: [("undo", "learning_rate"), ("scheme", "magic")],
}


@pytest.mark.parametrize("checkpoint", [3, 4])
def test_resume_is_bit_identical_with_controls_taken_before_and_after_the_checkpoint(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(steering, "POLL_SECONDS", 0.01)
    options = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 99}
    whole = steered(tmp_path / "run", STEERED, **options)
    assert whole.state.global_step == 8
    run = RunDir(tmp_path / "run")
    before = run.controls()
    again = nlft_trainer(run.path, **options)
    again.train(
        resume_from_checkpoint=str(checkpoint_to_resume(run, str(run.checkpoints_path / f"checkpoint-{checkpoint}"), 1))
    )
    assert same(whole, again)
    old = [e for e in run.controls(superseded=True) if e.get("superseded")]
    assert [e["step"] for e in old] == [e["step"] for e in before if e["step"] > checkpoint]
    changing = [
        e for e in before if e["taken"] and e["control"] in ("learning_rate", "scheme", "saliency.mistake_ratio")
    ]
    now = [
        e
        for e in run.controls()
        if e["taken"] and e["control"] in ("learning_rate", "scheme", "saliency.mistake_ratio")
    ]
    kept = ("id", "step", "control", "old", "new", "who", "undoes")
    assert [[e.get(k) for k in kept] for e in now] == [[e.get(k) for k in kept] for e in changing]
    assert state_of(run.settings(), run.controls()).scheme == "cut"
    assert run.settings()["resumed"] == [{"step": checkpoint, "changed": []}]


def test_a_checkpoint_brings_its_controls_to_another_folder(tmp_path):
    options = {"num_train_epochs": 4, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 99}
    asked = {2: [("learning_rate", 0.5)], 3: [("scheme", "cut")]}
    whole = steered(tmp_path / "run", asked, **options)
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    checkpoint = tmp_path / "other" / "checkpoints" / "checkpoint-3"
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").rename(checkpoint)
    again = nlft_trainer(tmp_path / "other", **options)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert same(whole, again)
    assert ledger(tmp_path / "other") == ledger(tmp_path / "run")


def test_what_came_after_the_checkpoint_can_be_left_out(tmp_path):
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 99}
    plain = nlft_trainer(tmp_path / "plain", **options)
    plain.train()
    steered(tmp_path / "run", {4: [("learning_rate", 0.1)]}, **options)
    again = nlft_trainer(tmp_path / "run", retake_controls=False, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / "checkpoint-2"))
    assert same(plain, again)
    assert ledger(tmp_path / "run") == []


def test_a_stopped_run_can_be_resumed_to_its_end(tmp_path):
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2}
    plain = nlft_trainer(tmp_path / "plain", **options)
    plain.train()
    stopped = steered(tmp_path / "run", {4: [("stop", None)]}, **options)
    assert stopped.state.global_step == 3
    assert checkpoint_to_resume(RunDir(tmp_path / "run"), "true", 1).name == "checkpoint-3"
    RunDir(tmp_path / "run").write_request("stop", None, "page")  # pressed again when nobody was there to hear it
    again = nlft_trainer(tmp_path / "run", **options)
    again.train(resume_from_checkpoint=str(checkpoint_to_resume(RunDir(tmp_path / "run"), "true", 1)))
    assert same(plain, again)
    (line,) = RunDir(tmp_path / "run").controls()
    assert line["taken"] is False
    assert "resumed" in line["reason"]


def test_a_request_that_a_killed_run_had_answered_is_not_answered_twice(tmp_path):
    """Killed between the line and the removal of the file: the line is taken again, the file is not."""
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 99}
    run = RunDir(tmp_path / "run")
    whole = steered(run.path, {4: [("learning_rate", 0.1)]}, **options)
    (line,) = run.controls()
    request = {"id": line["id"], "control": "learning_rate", "value": 0.1, "who": "page", "time": "t"}
    (run.requests_path / "1.json").write_text(json.dumps(request))
    again = nlft_trainer(run.path, **options)
    again.train(resume_from_checkpoint=str(run.checkpoints_path / "checkpoint-2"))
    assert same(whole, again)
    assert ledger(run.path) == [(4, "learning_rate", 1.0, 0.1, True)]
    assert os.listdir(run.requests_path) == []


def test_controls_that_no_longer_fit_are_named_on_resume(tmp_path):
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 99}
    steered(tmp_path, {2: [("saliency.mistake_ratio", 3)]}, **options)
    again = nlft_trainer(tmp_path, saliency="cut", **options)
    with pytest.warns(UserWarning, match=r"mistake_ratio = 3\.0 of step 2 .*cut"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-2"), anyway=True)


# Live tokens


def test_each_step_records_what_its_batch_scored_of_watched_examples(tmp_path):
    trainer = nlft_trainer(tmp_path, watch=4, watch_every=0, num_train_epochs=1, gradient_accumulation_steps=1)
    seen = []
    collate = trainer.data_collator

    class Spy(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            # What the model says of each watched example before the step, alone.
            pad = trainer.processing_class.pad_token_id
            watched = trainer._watch.watched
            seen.append([score_alone(trainer.model, e, pad, trainer.scheme, trainer.saliency) for e in watched])

    trainer.add_callback(Spy())
    trainer.train()
    run = RunDir(tmp_path)
    assert collate is trainer.builder
    assert run.snapshot_steps(whole=True) == [0, 4]
    live = [step for step in run.snapshot_steps() if step not in (0, 4)]
    found = 0
    for step in live:
        recorded = run.snapshot(step)
        assert (recorded.step, recorded.whole, recorded.scheme) == (step, False, "nlft")
        assert any(s is not None for s in recorded.scores)
        for ours, theirs in zip(recorded.scores, seen[step], strict=True):
            if ours is None:
                continue
            found += 1
            for name in ("base", "standard", "judge", "likelihood", "unlikelihood"):
                one, other = getattr(ours, name), getattr(theirs, name)
                assert (one is None) == (other is None)
                if one is not None:
                    assert one.dtype == other.dtype
                    np.testing.assert_allclose(one, other, atol=1e-3)
            np.testing.assert_array_equal(ours.tag, theirs.tag)
            assert ours.band.dtype == theirs.band.dtype
            assert ours.band.shape == theirs.band.shape
    assert found >= 2


def test_watching_batches_changes_no_weight_and_can_be_left_out(tmp_path):
    on = nlft_trainer(tmp_path / "on", watch_every=0)
    off = nlft_trainer(tmp_path / "off", watch_every=0, watch_batches=False)
    on.train(), off.train()
    assert same(on, off)
    assert len(RunDir(tmp_path / "on").snapshot_steps()) == 5
    assert RunDir(tmp_path / "off").snapshot_steps() == [0, 4]


def test_only_the_last_snapshots_of_batches_are_kept(tmp_path, monkeypatch):
    assert LIVE_KEPT >= 100
    monkeypatch.setattr(run_dir, "LIVE_KEPT", 3)
    run = RunDir(tmp_path)
    run.store_snapshot(snapshot(0))
    for step in range(1, 7):
        run.store_snapshot(Snapshot(step, 0.5, "nlft", {}, ["plain"], [None, scores(5)], whole=False))
    assert run.snapshot_steps() == [0, 4, 5, 6]
    assert run.snapshot(5).scores[0] is None
    assert len(run.snapshot(5).scores[1].base) == 5
    run.store_snapshot(snapshot(5))
    assert run.snapshot(5).whole


def test_snapshots_of_earlier_versions_can_be_read(tmp_path):
    from safetensors.numpy import load_file, save_file

    run = RunDir(tmp_path)
    run.store_snapshot(snapshot(3))
    (path,) = run.saliency_path.iterdir()
    header = {"step": 3, "epoch": 0.5, "scheme": "nlft", "settings": {}, "tag_names": ["plain"], "examples": 2}
    save_file(load_file(path), path, metadata={"nlft": json.dumps(header)})
    assert run.snapshot(3).whole
    assert len(run.snapshot(3).scores) == 2


def test_examples_can_be_watched_by_id(tmp_path):
    data = examples()
    assert choose_watched(data, 2, ["e7", "e1", "e2"]) == [1, 2, 7]
    assert choose_watched(data, 4, ["e5"]) == [0, 1, 2, 5]
    trainer = nlft_trainer(tmp_path, watch=1, watch_ids=["e5"], max_steps=1)
    trainer.train()
    assert [w.id for w in RunDir(tmp_path).watched()] == ["e5"]
    with pytest.raises(UserError, match=r"--watch_ids e99: no example has this id"):
        nlft_trainer(tmp_path, watch_ids=["e5", "e99"])


# A disk that is full, slow or gone


def full_disk(monkeypatch, which):
    """From now on writing to paths with this name in them fails; returns what makes room again."""
    write_whole, append, state = run_dir.write_whole, run_dir.append_whole, {"full": True}

    def guard(function):
        def write(path, data, **more):
            if state["full"] and which in str(path):
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(path, data, **more)

        return write

    monkeypatch.setattr(run_dir, "write_whole", guard(write_whole))
    monkeypatch.setattr(run_dir, "append_whole", guard(append))
    return lambda: state.update(full=False)


def test_a_full_disk_under_the_saliency_map_is_one_warning_and_nothing_else(tmp_path, monkeypatch):
    plain = nlft_trainer(tmp_path / "plain", watch_every=1)
    plain.train()
    full_disk(monkeypatch, "saliency")
    trainer = nlft_trainer(tmp_path / "run", watch_every=1)
    with pytest.warns(UserWarning, match=r"saliency map: .*No space left.*training goes on") as told:
        trainer.train()
    assert len([w for w in told if "saliency" in str(w.message)]) == 1
    assert same(plain, trainer)
    assert RunDir(tmp_path / "run").snapshot_steps() == []


def test_a_disk_that_is_really_full_stops_nothing(tmp_path):
    """A file system of 64 KiB under saliency/."""
    place = tmp_path / "run" / "saliency"
    place.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        trainer = nlft_trainer(tmp_path / "run", watch_every=1)
        with pytest.warns(UserWarning, match=r"saliency map: .*No space left"):
            trainer.train()
        run = RunDir(tmp_path / "run")
        assert trainer.state.global_step == 4
        for step in run.snapshot_steps():
            run.snapshot(step)  # what is there is whole
    finally:
        subprocess.run(["umount", place], check=True)


def test_events_and_controls_have_no_hole_once_there_is_room_again(tmp_path, monkeypatch):
    room = full_disk(monkeypatch, "jsonl")
    run = RunDir(tmp_path)
    with pytest.warns(UserWarning, match=r"events.jsonl.*No space left"):
        run.append_event({"step": 1})
    for step in (2, 3):
        run.append_event({"step": step})  # a second warning would be an error here
    line = {"id": "a", "step": 1, "control": "pause", "who": "page", "taken": False, "new": None}
    with pytest.warns(UserWarning, match=r"controls.jsonl"):
        run.append_control(line)
    assert run.events() == []
    room()
    run.append_event({"step": 4})
    run.finish_logs()
    assert [e["step"] for e in run.events()] == [1, 2, 3, 4]
    assert run.controls() == [line]


def test_lines_that_are_lost_in_the_end_are_told(tmp_path, monkeypatch):
    full_disk(monkeypatch, "events.jsonl")
    run = RunDir(tmp_path)
    with pytest.warns(UserWarning, match=r"events.jsonl"):
        run.append_event({"step": 1})
    with pytest.warns(UserWarning, match=r"lost.* 1 .*events.jsonl.*No space left"):
        run.finish_logs()


def test_half_a_line_is_taken_back(tmp_path):
    """On a disk with room for half of it."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        run = RunDir(place)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for step in range(30):
                run.append_event({"step": step, "text": "x" * 600})
        whole = [json.loads(line) for line in run.events_path.read_bytes().splitlines()]
        assert 3 < len(whole) < 30
        assert [e["step"] for e in whole] == list(range(len(whole)))
        assert run.events_path.read_bytes().endswith(b"\n")
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_that_hangs_is_not_waited_for():
    writer, hang, written = BackgroundWriter(waiting=2), threading.Event(), []
    writer.submit(hang.wait)
    wait_for(lambda: writer._queue.qsize() == 0)
    writer.submit(lambda: written.append(0))
    writer.submit(lambda: written.append(1))
    with pytest.warns(UserWarning, match=r"too slow for it; training goes on"):
        writer.submit(lambda: written.append(2))
    writer.submit(lambda: written.append(3))  # a second warning would be an error here
    writer.finish(seconds=0.1)
    assert written == []  # all of the above came back while the disk still hung
    hang.set()
    wait_for(lambda: len(written) == 2)
    assert written == [0, 1]


def test_the_controls_in_the_docs_are_those_in_the_code():
    text = (Path(__file__).parent.parent / "docs" / "RUN_DIRECTORY.md").read_text()
    for name in CONTROLS:
        assert f"`{name}`" in text, name
    for field in ("id", "step", "time", "who", "control", "old", "new", "taken", "reason", "undoes"):
        assert f"`{field}`" in text, field


def test_a_writer_that_has_finished_starts_again_in_a_new_thread():
    writer, written = BackgroundWriter(), []
    writer.finish()  # before anything was written
    for number in (1, 2):
        writer.submit(lambda number=number: written.append(number))
        thread = writer._thread
        writer.finish()
        assert writer._thread is None
        thread.join(5)
        assert not thread.is_alive()
    assert written == [1, 2]


@pytest.mark.parametrize(("scheme", "width"), [("uniform", None), ("cut", None), ("nlft", 17)])
def test_only_a_scheme_that_looks_at_neighbours_keeps_them_in_a_snapshot(tmp_path, scheme, width):
    trainer = nlft_trainer(tmp_path / "run", saliency=scheme, watch=0)
    pad = trainer.builder.pad_token_id
    found = score_alone(trainer.model, trainer.train_dataset[1], pad, trainer.scheme, trainer.saliency)
    assert (None if found.band is None else found.band.shape[1]) == width
