"""`nlft replay`: a steered run trained again reaches the same adapter bit for bit, or says why it would not."""

import csv
import json
import shutil
import threading
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from helpers.training import examples, nlft_trainer
from nlft import cli
from nlft.data.records import write_examples
from nlft.models.loading import ModelSettings
from nlft.models.saved_adapters import WEIGHTS
from nlft.runs.run_dir import RunDir
from nlft.training.replay import adapter_difference, recorded_settings


def nlft(*argv):
    return cli.main([str(a) for a in argv])


def train(data, model, out, *more, steps=24):
    return nlft(
        *("train", data, "--model_name_or_path", model, "--output_dir", out, "--dtype", "float32", "--use_cpu"),
        *(
            "--max_steps",
            steps,
            "--per_device_train_batch_size",
            2,
            "--learning_rate",
            "1e-2",
            "--disable_tqdm",
            "true",
        ),
        *("--lora_r", 4, "--lora_dropout", 0.1, "--lora_target_modules", "gate_proj", "up_proj", "--watch_every", 50),
        *("--warmup_steps", 2, "--lr_scheduler_type", "cosine", "--answer_weight", 0.3, *more),
    )


def someone(run, asked, failed):
    """Asks for one thing after another: at steps at least as far as told, each once the one before is answered."""

    def work():
        try:
            for step, requests in asked:
                wait_for(lambda s=step: len([e for e in run.events() if "loss" in e]) >= s)
                ids = {run.write_request(control, value, "page") for control, value in requests}
                wait_for(lambda i=ids: i <= {e["id"] for e in run.controls()})
        except AssertionError as error:
            failed.append(error)
            run.write_request("resume", None, "page")

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.002)


STEERING = [
    (0, [("pause", None)]),
    (0, [("learning_rate", 2.5), ("resume", None)]),
    (2, [("saliency.mistake_ratio", 1.05), ("pause", None)]),
    (2, [("saliency.gate_fraction", 1), ("learning_rate", 11), ("save", None), ("resume", None)]),
    (5, [("scheme", "cut")]),
    (7, [("scheme", "nlft"), ("saliency.after_mistake", "zero"), ("pause", None)]),
    (7, [("learning_rate", 0.3), ("resume", None)]),
]


@pytest.fixture(scope="module")
def steered(tmp_path_factory, model_folder):
    """A run of the real command that somebody steered from outside."""
    folder = tmp_path_factory.mktemp("steered")
    write_examples(folder / "examples.jsonl", examples())
    run, failed = RunDir(folder / "run"), []
    thread = someone(run, STEERING, failed)
    assert train(folder / "examples.jsonl", model_folder, run.path) == 0
    thread.join()
    assert not failed
    return run


def test_a_replay_of_a_steered_run_reaches_the_same_adapter_bit_for_bit(steered, tmp_path, capsys):
    assert nlft("replay", steered.path, "--output_dir", tmp_path / "again") == 0
    assert "the same adapter as that of" in capsys.readouterr().out
    again = RunDir(tmp_path / "again")
    ours, theirs = (load_file(r.adapter_path / "adapter_model.safetensors") for r in (steered, again))
    assert len(ours) >= 8
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def changes(run):
        kept = ("id", "step", "who", "control", "old", "new")
        return [
            [e[k] for k in kept]
            for e in run.controls()
            if e["taken"] and e["control"] not in ("pause", "resume", "save")
        ]

    assert changes(steered) == changes(again)
    assert len(changes(steered)) == 7
    assert len({step for _, step, *_ in changes(steered)}) >= 4
    losses = [[(e["step"], e["loss"], e["learning_rate"]) for e in r.events() if "loss" in e] for r in (steered, again)]
    assert losses[0] == losses[1]
    assert not again.checkpoints_path.exists()
    assert again.settings()["replay_of"] == str(steered.path.resolve())


def test_without_its_controls_the_run_would_have_reached_another_adapter(steered, tmp_path, model_folder):
    """Otherwise the test above could not fail."""
    assert train(steered.settings()["data"]["file"], model_folder, tmp_path / "plain") == 0
    count, unlike, largest = adapter_difference(steered.adapter_path, tmp_path / "plain" / "adapter")
    assert unlike == count
    assert largest > 1e-3


def test_the_adapter_of_a_replay_that_differs_is_a_failure(steered, tmp_path, capsys):
    copy = RunDir(shutil.copytree(steered.path, tmp_path / "copy"))
    lines = [json.loads(line) for line in copy.controls_path.read_text().splitlines()]
    kept = [line for line in lines if line["control"] != "learning_rate"]
    copy.controls_path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert nlft("replay", copy.path) == 1
    error = capsys.readouterr().err
    assert "tensors differ from those of" in error
    assert (tmp_path / "copy-replay" / "adapter").is_dir()
    assert nlft("replay", copy.path) == 2
    assert "holds a run already" in capsys.readouterr().err


def edited(steered, folder, change):
    copy = RunDir(shutil.copytree(steered.path, folder))
    settings = copy.settings()
    change(settings)
    copy.settings_path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return copy


def test_everything_that_differs_is_listed_and_anyway_goes_on(steered, tmp_path, capsys):
    def change(settings):
        settings["versions"]["torch"] = "1.0"
        settings["versions"]["peft"] = "0.1"
        settings["threads"] += 3
        settings["device"] = "Abacus"
        settings["processes"] = 8
        settings["data"]["sha256"] = "0" * 64
        settings["resumed"] = [{"step": 4, "changed": ["training.learning_rate"]}]
        settings["training"]["max_steps"] = 2

    copy = edited(steered, tmp_path / "copy", change)
    assert nlft("replay", copy.path) == 2
    error = capsys.readouterr().err
    for told in (
        *("torch: was 1.0", "peft: was 0.1", "threads: was", "device: was Abacus", "processes: was 8"),
        *(
            "data: was 0000",
            "was resumed at step 4 with another training.learning_rate",
            "--anyway",
            "OMP_NUM_THREADS=",
        ),
    ):
        assert told in error
    assert "Traceback" not in error
    assert not (tmp_path / "copy-replay").exists()
    assert nlft("replay", copy.path, "--anyway") == 0
    told = capsys.readouterr()
    assert "differs: torch was 1.0" in told.err
    assert "tensors differ from those of" in told.out


def test_other_examples_are_refused(steered, tmp_path, capsys):
    data = tmp_path / "examples.jsonl"
    write_examples(data, examples(11))
    copy = edited(steered, tmp_path / "copy", lambda s: s["data"].update(file=str(data)))
    assert nlft("replay", copy.path) == 2
    assert "data: was" in capsys.readouterr().err
    data.unlink()
    assert nlft("replay", copy.path) == 2
    assert "examples.jsonl" in capsys.readouterr().err


def test_a_stopped_run_is_replayed_to_where_it_stopped(tmp_path, model_folder):
    write_examples(tmp_path / "e.jsonl", examples())
    run, failed = RunDir(tmp_path / "run"), []
    thread = someone(run, [(3, [("learning_rate", 2)]), (5, [("stop", None)])], failed)
    assert train(tmp_path / "e.jsonl", model_folder, run.path, steps=400) == 0
    thread.join()
    assert not failed
    assert nlft("replay", run.path) == 0
    last = [[e["step"] for e in r.events() if "loss" in e][-1] for r in (run, RunDir(tmp_path / "run-replay"))]
    assert last[0] == last[1] < 400


def test_a_run_that_was_resumed_is_replayed_in_one_go(tmp_path, model_folder):
    """Interrupted after a stop, and gone on with; what the checkpoint did not hold was taken again."""
    write_examples(tmp_path / "e.jsonl", examples())
    run, failed = RunDir(tmp_path / "run"), []
    options = ["--save_strategy", "steps", "--save_steps", 4, "--save_total_limit", 99]
    asked = [(0, [("pause", None)]), (0, [("learning_rate", 2), ("resume", None)]), (6, [("scheme", "cut")])]
    thread = someone(run, [*asked, (10, [("stop", None)])], failed)
    assert train(tmp_path / "e.jsonl", model_folder, run.path, *options, steps=60) == 0
    thread.join()
    assert not failed
    shutil.rmtree(run.checkpoints_path / f"checkpoint-{run.controls()[-1]['step'] - 1}")
    resume = ["--resume_from_checkpoint", "true"]
    assert train(tmp_path / "e.jsonl", model_folder, run.path, *options, *resume, steps=60) == 0
    assert [e["step"] for e in run.events() if "loss" in e][-1] == 60
    assert "stop" not in [e["control"] for e in run.controls()]
    assert nlft("replay", run.path) == 0


def test_held_out_examples_are_scored_after_each_epoch_and_change_nothing(tmp_path, model_folder):
    write_examples(tmp_path / "data.jsonl", examples(8))
    write_examples(tmp_path / "held.jsonl", examples(3))
    plain, run = RunDir(tmp_path / "plain"), RunDir(tmp_path / "run")
    assert train(tmp_path / "data.jsonl", model_folder, plain.path, steps=9) == 0
    assert train(tmp_path / "data.jsonl", model_folder, run.path, "--eval_file", tmp_path / "held.jsonl", steps=9) == 0
    found = [e for e in run.events() if "eval_loss" in e]
    assert [e["step"] for e in found] == [4, 8, 9]
    assert len({e["eval_loss"] for e in found}) == 3
    assert all(0 <= e["eval_mean_token_accuracy"] <= 1 for e in found)
    assert "evaluate" in plain.settings()["unavailable"]
    assert "evaluate" not in run.settings()["unavailable"]
    assert adapter_difference(plain.adapter_path, run.adapter_path)[1:] == (0, 0.0)
    assert nlft("replay", run.path) == 0


def test_held_out_examples_alone_are_enough_to_choose_the_best_checkpoint(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "data.jsonl", examples(4))
    best = ["--eval_file", tmp_path / "data.jsonl", "--load_best_model_at_end", "true"]
    assert train(tmp_path / "data.jsonl", model_folder, tmp_path / "no", *best, "--save_strategy", "no") == 2
    assert "--save_strategy" in capsys.readouterr().err
    assert train(tmp_path / "data.jsonl", model_folder, tmp_path / "run", *best, steps=2) == 0
    assert RunDir(tmp_path / "run").settings()["best"]["step"] in (1, 2)


def test_evaluating_on_nothing_is_refused(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "data.jsonl", examples(4))
    assert train(tmp_path / "data.jsonl", model_folder, tmp_path / "run", "--eval_strategy", "epoch") == 2
    assert "Give --eval_file" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_refused_with_the_cure(tmp_path, capsys, model_folder):
    assert nlft("replay", tmp_path / "none") == 2
    assert "does not exist" in capsys.readouterr().err
    nlft_trainer(tmp_path / "python", max_steps=1).train()
    assert nlft("replay", tmp_path / "python") == 2
    assert "trained from Python" in capsys.readouterr().err
    RunDir(tmp_path / "sft").write_settings({"method": "sft"})
    assert nlft("replay", tmp_path / "sft") == 2
    assert "is sft" in capsys.readouterr().err


def test_rates_that_followed_from_evaluations_are_not_replayed(steered, tmp_path, capsys):
    def change(settings):
        settings["training"]["lr_scheduler_type"] = "reduce_lr_on_plateau"

    assert nlft("replay", edited(steered, tmp_path / "plateau", change).path) == 2
    assert "reduce_lr_on_plateau" in capsys.readouterr().err


def test_a_run_from_python_is_replayed_from_python(tmp_path):
    run = RunDir(tmp_path / "run")
    one = nlft_trainer(run.path)
    run.write_request("learning_rate", 3, "me")  # what was asked before the trainer was made is refused
    one.train()
    two = nlft_trainer(tmp_path / "again")
    two.steering.replay(run.controls())
    two.train()
    assert adapter_difference(run.adapter_path, tmp_path / "again" / "adapter")[1] == 0
    three = nlft_trainer(tmp_path / "plain")
    three.train()
    assert adapter_difference(run.adapter_path, tmp_path / "plain" / "adapter")[1] > 0


def test_run_yaml_gives_back_every_setting(steered, tmp_path):
    model, args, saliency, file = recorded_settings(steered, tmp_path / "x")
    assert isinstance(model, ModelSettings)
    assert (model.dtype, model.lora_r, model.lora_target_modules) == ("float32", 4, ["gate_proj", "up_proj"])
    assert (args.learning_rate, args.max_steps, args.warmup_steps, args.answer_weight) == (1e-2, 24, 2, 0.3)
    assert (args.output_dir, args.save_strategy, args.report_to) == (str(tmp_path / "x"), "no", [])
    assert saliency.mistake_ratio == 1.5
    assert file.name == "examples.jsonl"
    assert steered.settings()["adapter_config"]["lora_dropout"] == 0.1


def test_a_recorded_setting_that_no_longer_exists_does_not_stop_a_replay(steered, tmp_path, monkeypatch):
    record = steered.settings()
    record["training"]["some_older_setting"] = "live"
    monkeypatch.setattr(RunDir, "settings", lambda run: record)
    _, args, _, _ = recorded_settings(steered, tmp_path / "x")
    assert not hasattr(args, "some_older_setting")
    assert args.max_steps == 24


def test_a_run_on_a_table_with_its_own_column_names_records_them_and_is_replayed_with_them(
    tmp_path, model_folder, capsys
):
    table = tmp_path / "antworten.csv"
    rows = [
        (one.prompt, one.completion.replace("\n", " "), 5 if one.label else 1, one.judgment, one.answer)
        for one in examples(6)
    ]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Frage", "Text", "Sterne", "Warum", "Soll"), *rows])
    config = tmp_path / "train.yaml"
    config.write_text("columns: prompt=Frage,completion=Text,label=Sterne:4,judgment=Warum,answer=Soll\n")
    assert train(table, model_folder, tmp_path / "run", "--config", config, steps=2) == 0
    data = RunDir(tmp_path / "run").settings()["data"]
    assert (data["examples"], data["right"]) == (6, 2)
    assert data["columns"] == "prompt=Frage,completion=Text,label=Sterne:4,judgment=Warum,answer=Soll"
    assert "from_format" not in data
    assert nlft("replay", tmp_path / "run") == 0
    assert "bit for bit" in capsys.readouterr().out
    wrong = ["--columns", "prompt=Nirgends,completion=Text,label=Sterne:4"]
    assert train(table, model_folder, tmp_path / "other", *wrong, steps=2) == 2
    assert "Nirgends" in capsys.readouterr().err
    assert train(table, model_folder, tmp_path / "other", "--columns", "prompt=Frage,completion=Text,label=Sterne:4",
                 "--from", "argilla", steps=2) == 2  # fmt: skip
    assert "Argilla" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("mode", ["frozen", "epoch"])
def test_a_run_whose_conditions_were_scored_before_is_replayed(tmp_path, model_folder, monkeypatch, capsys, mode):
    """Also where nothing is left of the cache. Held-out examples are scored apart, so a replay without them agrees."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_examples(tmp_path / "data.jsonl", examples(8))
    write_examples(tmp_path / "held.jsonl", examples(3))
    run = RunDir(tmp_path / "run")
    more = ["--condition_logprobs", mode, "--eval_file", tmp_path / "held.jsonl"]
    assert train(tmp_path / "data.jsonl", model_folder, run.path, *more, steps=9) == 0
    assert run.settings()["training"]["condition_logprobs"] == mode
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert nlft("replay", run.path) == 0
    assert "the same adapter as that of" in capsys.readouterr().out


def test_tensors_that_differ_are_counted_one_by_one(tmp_path):
    ours = {"a": torch.zeros(2), "b": torch.ones(2), "c": torch.ones(2)}
    for name, tensors in (
        ("ours", ours),
        ("nearly", {**ours, "b": torch.tensor([1.0, 1.5])}),
        ("twice", {"a": torch.full((2,), 3.0), "b": torch.tensor([1.0, 1.5]), "c": ours["c"]}),
        ("larger", {**ours, "b": torch.ones(3)}),
        ("less", {"a": ours["a"], "b": ours["b"]}),
    ):
        (tmp_path / name).mkdir()
        save_file(tensors, tmp_path / name / WEIGHTS)
    found = {name: adapter_difference(tmp_path / "ours", tmp_path / name) for name in ("ours", "nearly", "twice")}
    assert found == {"ours": (3, 0, 0.0), "nearly": (3, 1, 0.5), "twice": (3, 2, 3.0)}
    assert adapter_difference(tmp_path / "ours", tmp_path / "larger") == (3, 1, float("inf"))
    assert adapter_difference(tmp_path / "ours", tmp_path / "less") == (3, 1, float("inf"))
    assert adapter_difference(tmp_path / "less", tmp_path / "ours") == (3, 1, float("inf"))
