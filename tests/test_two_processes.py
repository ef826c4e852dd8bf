"""Two processes over gloo compute what one does: with DDP, and with a model that FSDP2 shards."""

import json
import signal
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from helpers import ranks, tiny
from nlft.models.saved_adapters import WEIGHTS
from nlft.runs.run_dir import RunDir
from nlft.training.checkpoints import checkpoint_to_resume
from nlft.training.sharding import FSDP2_FROM

needs_fsdp2 = pytest.mark.skipif(torch.__version__ < FSDP2_FROM, reason="FSDP2 fails with this torch, and is refused")
DOSE = {"nlft/struck_probability", "nlft/dose_per_strike"}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found: `found("train")` by the first of them, `found("train", 1)` by the second."""
    folder = tmp_path_factory.mktemp("two")
    tiny.model().save_pretrained(folder / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", ranks.__file__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

    def found(name, rank=0):
        return json.loads((folder / f"{name}-{rank}.json").read_text())

    return SimpleNamespace(folder=folder, found=found)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds: `alone("train")`, computed once."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def found(name):
        return getattr(ranks, name)(folder / name, 1)

    found.folder = folder
    return found


def test_two_processes_train_as_one_does(two, tmp_path):
    """DDP over gloo: the wrapped model is called, so gradients are reduced; losses are those of the whole batch."""
    alone, together = ranks.train(tmp_path, 1), two.found("train")
    assert list(alone) == ["sample", "token", "strike", "frozen", "epoch", "frozen-strike"]
    for name, one in alone.items():
        other = together[name]
        assert other["wrapper"] == "DistributedDataParallel"
        assert len(one["logs"]) == 2
        for ours, theirs in zip(one["logs"], other["logs"], strict=True):
            for key in ours.keys() & {"loss", "nlft/strike_loss", "nlft/hold_loss", "nlft/replace_loss", *DOSE}:
                assert theirs[key] == pytest.approx(ours[key], abs=1e-5), (name, key)
        assert_same_weights(one["weights"], other["weights"])
    passes = {name: (one["passes"], two.found("train", 1)[name]["passes"]) for name, one in together.items()}
    assert all(first == second for first, second in passes.values()), "the ranks made different numbers of passes"
    assert len(list((two.folder / "train" / "cache").iterdir())) == 2
    assert max(log["nlft/replace_loss"] for log in alone["strike"]["logs"]) > 0
    assert alone["strike"]["logs"][-1].keys() >= DOSE


def test_two_processes_fine_tune_as_one_does(two, tmp_path):
    one, other = ranks.supervise(tmp_path, 1), two.found("supervise")
    assert other["wrapper"] == "DistributedDataParallel"
    assert len(one["logs"]) == 2
    for ours, theirs in zip(one["logs"], other["logs"], strict=True):
        for key in ("loss", "mean_token_accuracy", "num_tokens"):
            assert theirs[key] == pytest.approx(ours[key], abs=1e-5), key
    assert_same_weights(one["weights"], other["weights"])


def test_two_processes_evaluate_as_one_does(two, tmp_path):
    one = ranks.held_out(tmp_path, 1)["loss"]
    assert [two.found("held_out", rank)["loss"] for rank in (0, 1)] == pytest.approx([one, one], abs=1e-5)


@pytest.mark.parametrize("name", ["nlft", "uniform", "cut", "strike"])
def test_two_processes_have_the_gradients_and_losses_of_one(two, alone, name):
    """Float32, no dropout: gradients of the first step to 1e-5, losses of ten steps to 1e-4, both relative."""
    one, first, second = alone("alike")[name], two.found("alike")[name], two.found("alike", 1)[name]
    assert first["wrapper"] == "DistributedDataParallel"
    assert first["gradients"] == second["gradients"]
    ours, theirs = (torch.cat([torch.tensor(g) for g in found["gradients"].values()]) for found in (one, first))
    assert len(ours) > 1000
    assert float((ours - theirs).norm() / ours.norm()) < 1e-5
    assert len(one["losses"]) == 10
    assert first["losses"] == pytest.approx(one["losses"], rel=1e-4)


@pytest.mark.parametrize("name", ["nlft", "uniform", "cut", "strike"])
def test_all_ranks_make_as_many_forwards_whatever_their_mix(two, name):
    ranks_found = [two.found("alike", rank)[name] for rank in (0, 1)]
    first, second = (found["forwards"] for found in ranks_found)
    assert first == second
    assert len(set(first)) == 1, "each step has as many as any other"
    mixed = ["wrong", *(["struck"] if name == "strike" else [])]
    for what in mixed:
        pairs = list(zip(*(found[what] for found in ranks_found), strict=True))
        assert any(min(pair) == 0 < max(pair) for pair in pairs), f"no step has {what} on one rank alone: {pairs}"


@needs_fsdp2
def test_a_sharded_training_clips_saves_and_resumes_as_one_process_does(two, alone):
    """FSDP2 through accelerate: DTensors, several and unequal chunks of logits, answers, activation checkpointing."""
    for name, one in alone("shards").items():
        other = two.found("shards")[name]
        assert other["kinds"] == ["DTensor"], "not sharded, so nothing was tested"
        assert other["wrapper"].startswith("FSDP")
        for ours, theirs in zip(one["logs"], other["logs"], strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
            assert ours["grad_norm"] > 0.05, "no gradient was clipped"
        assert [(e["step"], e["loss"]) for e in other["again"]] == [(e["step"], e["loss"]) for e in other["logs"]]
        weights = [load_file(run.adapter_path / WEIGHTS) for run in runs_of("shards", name, two, alone)]
        whole, sharded, resumed = weights
        assert_same_weights(listed(whole), listed(sharded))
        assert all(torch.equal(weight, resumed[key]) for key, weight in sharded.items())


@needs_fsdp2
def test_a_sharded_checkpoint_has_no_pickle_and_one_process_goes_on_from_its_adapter(two, alone):
    whole, sharded, _ = runs_of("shards", "nlft", two, alone)
    checkpoint = sharded.checkpoints_path / "checkpoint-2"
    files = {path.name for path in checkpoint.iterdir()}
    assert files >= {"adapter_model.safetensors", "optimizer.safetensors", "scheduler.json", "manifest.json"}
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    # The same files as without shards, but for each process's random numbers and sums of the log.
    beside = {path.name for path in (whole.checkpoints_path / "checkpoint-2").iterdir()}
    assert {n for n in files ^ beside if "_1." not in n} == set()
    for run in (whole, sharded):
        model = PeftModel.from_pretrained(tiny.model(), run.adapter_path)
        ids = torch.arange(10, 40)[None]
        with torch.no_grad():
            scores = model(input_ids=ids).logits.log_softmax(-1)
        if run is whole:
            expected = scores
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def runs_of(work, name, two, alone):
    alone(work)
    return [
        RunDir(alone.folder / work / name),
        RunDir(two.folder / work / name),
        RunDir(two.folder / work / f"{name}-again"),
    ]


def listed(weights):
    return {name: weight.flatten().tolist() for name, weight in weights.items()}


def test_two_processes_redirect_as_one_does(two, tmp_path):
    one, other = ranks.redirect(tmp_path, 1), two.found("redirect")
    assert other["wrapper"] == "DistributedDataParallel"
    assert all(part > 0 for _, part in one["logged"])
    torch.testing.assert_close(torch.tensor(other["logged"]), torch.tensor(one["logged"]), atol=1e-5, rtol=1e-4)
    assert_same_weights(one["weights"], other["weights"])


def test_all_ranks_take_a_request_at_the_same_step(two, tmp_path):
    one, first, second = ranks.steer(tmp_path / "one", 1), two.found("steer"), two.found("steer", 1)
    assert first == second
    assert (one["steps"], one["scheme"], one["factor"]) == (first["steps"], first["scheme"], first["factor"])
    assert (first["steps"], first["scheme"], first["factor"]) == (4, "cut", 0.25)
    assert_same_weights(one["weights"], first["weights"])
    assert ledger(tmp_path / "one") == ledger(two.folder / "steer")
    assert len(ledger(two.folder / "steer")) == 7
    run = RunDir(two.folder / "steer")
    live = run.snapshot(1)
    assert not live.whole
    assert all(s is not None for s in run.snapshot(0).scores)
    assert sum(s is not None for s in live.scores) == 4, "what both ranks had in their batches"
    assert checkpoint_to_resume(run, "true", 2).name == "checkpoint-1"


def test_a_signal_for_one_process_lets_both_write_the_checkpoint_of_that_step(two):
    for rank in (0, 1):
        found = two.found("terminate", rank)
        assert (found["code"], found["step"]) == (128 + signal.SIGTERM, 2)
        assert found["resumed"] == found["whole"]
    run = RunDir(two.folder / "terminate" / "ended")
    assert ("interrupted", 2) in [(e["ended"], e["step"]) for e in run.events(superseded=True) if "ended" in e]


def test_a_signal_for_one_process_breaks_a_long_step_off_in_both(two):
    for rank in (0, 1):
        found = two.found("terminate_long", rank)
        assert (found["code"], found["step"], found["done"]) == (128 + signal.SIGTERM, 2, 10)
        assert found["resumed"] == found["whole"]
    run = RunDir(two.folder / "terminate_long" / "ended")
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_training_that_is_resumed_in_its_second_epoch_has_that_epochs_order(two, rank):
    for name, found in two.found("epochs", rank).items():
        assert len(found["seen"]) == 4
        assert found["seen"][2:] != found["seen"][:2], f"{name}: both epochs have one order, so nothing is tested"
        assert found["resumed"] == found["seen"][3:], name
        whole, again = found["weights"]
        assert again == whole, name


@needs_fsdp2
def test_a_sharded_model_has_the_gradients_of_a_whole_one(two):
    one, other = ranks.shard(two.folder / "whole", 1), two.found("shard")
    assert "FSDPModule" not in one["classes"]
    assert "FSDPModule" in other["classes"], "not sharded, so nothing was tested"
    assert other["parameters"] == ["DTensor"]
    assert one["redirected"] > 0
    assert one["held"] > 1e-3
    assert len(one["gradients"]) == len(other["gradients"]) == 12
    for name, gradient in one["gradients"].items():
        whole, sharded = torch.tensor(gradient), torch.tensor(other["gradients"][name])
        assert whole.abs().max() > 1e-3
        torch.testing.assert_close(sharded, whole, atol=1e-5, rtol=1e-5)


def assert_same_weights(ours, theirs):
    assert ours
    for name, weight in ours.items():
        torch.testing.assert_close(torch.tensor(weight), torch.tensor(theirs[name]), atol=1e-5, rtol=1e-4)


def ledger(folder):
    return [(e["step"], e["control"], e["old"], e["new"], e["taken"]) for e in RunDir(folder).controls()]
