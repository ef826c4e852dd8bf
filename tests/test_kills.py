"""Killed at random moments and resumed, each command ends with what an unbroken run ends with, bit for bit.

`pytest -m long -rP tests/test_kills.py` tries over 100 kills, and prints how many were tried and what was lost.
"""

import json
import multiprocessing
import os

import pytest

from helpers.kills import Tally, of_run, tried, untimed
from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples
from nlft.experiments import staged
from nlft.experiments.demo import write_problems
from nlft.runs.controls import WITHOUT_EFFECT_ON_WEIGHTS
from nlft.runs.run_dir import RunDir
from nlft.training.steering import Steering

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forked processes"),
    pytest.mark.timeout(3600),
]
TRAINING = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "num_train_epochs": 3, "lora_r": 2}
TRAINING |= {"save_strategy": "steps", "save_steps": 2, "use_cpu": True, "dtype": "float32", "logging_steps": 1}
TRAINING |= {"learning_rate": 1e-2, "lora_dropout": 0.1, "activation_checkpointing": False, "disable_tqdm": True}
OWN = {
    "train": {"watch": 2, "watch_share": 1.0, "watch_every": 2},
    "sft": {"target": "answer", "logging_steps": 3},
    "kto": {},
    "reft": {"sft_steps": 3, "sft_epochs": 0, "max_steps": 4, "num_generations": 2, "max_completion_length": 5},
}
OWN["reft"] |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}


def command(name, file, model, out, **settings):
    words = [word for key, value in settings.items() for word in (f"--{key}", *([] if value is None else [str(value)]))]
    return cli.main([name, str(file), "--model_name_or_path", model, "--output_dir", str(out), *words])


def steered(run):
    """Ask for a save after step 3 and for another rate at step 5, once each, as a user does who watches the run."""
    for request in run.pending_requests():
        run.remove_request(request)  # the killed run was asked, and the user asks again
    take = Steering.take_requests

    def asking(self, step):
        known = {line["control"] for line in run.controls(superseded=True)}  # a resume takes them again
        if step == 4 and "save" not in known:
            run.write_request("save", None, "page")
        if step == 5 and "learning_rate" not in known:
            run.write_request("learning_rate", 0.5, "page")
        take(self, step)

    Steering.take_requests = asking  # in a forked process


def trained(name, folder, model):
    write_examples(folder / "examples.jsonl", examples())

    def start(out):
        if name == "train":
            steered(RunDir(out))
        return command(name, folder / "examples.jsonl", model, out, **{**TRAINING, **OWN[name]}, resume=None)

    return start, of_run


def in_stages(name, folder, model):
    write_problems(folder / "problems", 12, 4)
    own = {
        "tune": {"arms": "base nlft sft-answer kto reft", "batch_size": 8, "limit": 6, "test_share": 0.25},
        "compare": {
            "arms": "base nlft sft-completion",
            "sizes": "4",
            "seeds": "0",
            "comparisons": "nlft:sft-completion",
        },
        "rounds": {"rounds": 2, "patience": 2, "samples_per_question": 2, "watch": 1, "held_out_share": 0.3},
    }[name]
    shared = {"max_new_tokens": 4, "max_steps": 4, "dtype": "float32", "keep_truncated": "true"}
    if name == "compare":
        shared |= {"test_file": folder / "problems" / "test.jsonl"}
    if name == "rounds":
        shared |= {"use_cpu": None, "save_strategy": "steps", "save_steps": 1, "temperature": 1.0}
    words = [
        word
        for key, value in {**shared, **own}.items()
        for word in (f"--{key}", *([] if value is None else str(value).split()))
    ]

    def start(out):
        staged._processes = lambda: multiprocessing.get_context("fork")  # a fork server's imports take seconds
        file = str(folder / "problems" / "train.jsonl")
        return cli.main([name, file, "--model_name_or_path", model, "--output_dir", str(out), *words])

    return start, of_stages


def of_stages(folder):
    """What each stage and each run of a folder must end with."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in ("train.jsonl", "test.jsonl", "sampled.jsonl", "judged.jsonl", "examples.jsonl"):
            found[name] = path.read_text()
        elif path.name == "evaluation.json":
            found[name] = [one["output"] for one in json.loads(path.read_text())["questions"]]
        elif (
            path.name == "run.yaml" and path.parent.parent.name != "checkpoints" and (path.parent / "adapter").is_dir()
        ):
            found[name] = of_run(path.parent)
    assert found
    return found


MAKE = {**dict.fromkeys(OWN, trained), **dict.fromkeys(("tune", "compare", "rounds"), in_stages)}


def kill(name, folder, model, kills, seed) -> Tally:
    start, look = MAKE[name](name, folder, model)
    tally = tried(start, look, folder, kills=kills, seed=seed)
    print(tally.line(name))
    return tally


def test_a_killed_training_ends_as_an_unbroken_one(tmp_path, model_folder):
    """Five kills, over a run with dropout, accumulation, a map, and requests while it trains."""
    tally = kill("train", tmp_path, model_folder, 5, seed=2)
    assert tally.kills == 5
    assert tally.lost == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kills"),
    [("train", 30), ("sft", 16), ("kto", 16), ("reft", 14), ("rounds", 12), ("tune", 12), ("compare", 10)],
)
def test_no_kill_loses_anything(tmp_path, model_folder, name, kills):
    tally = kill(name, tmp_path, model_folder, kills, seed=len(name))
    assert tally.kills >= kills
    assert tally.lost == []


def test_what_the_comparison_leaves_out_is_only_the_clock():
    assert "save" in WITHOUT_EFFECT_ON_WEIGHTS
    assert untimed({"step": 1, "time": "now", "loss": 2.0, "eta_seconds": 3}) == '{"loss": 2.0, "step": 1}'
