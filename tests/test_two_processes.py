"""Two processes over gloo compute what one does: with DDP, and with a model that FSDP2 shards."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from helpers import ranks, tiny
from nlft.runs.run_dir import RunDir
from nlft.training.checkpoints import checkpoint_to_resume

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


def test_two_processes_train_as_one_does(two, tmp_path):
    """DDP over gloo: the wrapped model is called, so gradients are reduced; losses are those of the whole batch."""
    alone, together = ranks.train(tmp_path, 1), two.found("train")
    assert list(alone) == ["sample", "token", "strike"]
    for name, one in alone.items():
        other = together[name]
        assert other["wrapper"] == "DistributedDataParallel"
        assert len(one["logs"]) == 2
        for ours, theirs in zip(one["logs"], other["logs"], strict=True):
            for key in ours.keys() & {"loss", "nlft/strike_loss", "nlft/hold_loss", "nlft/replace_loss", *DOSE}:
                assert theirs[key] == pytest.approx(ours[key], abs=1e-5), (name, key)
        assert_same_weights(one["weights"], other["weights"])
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
