"""A name of the wrong kind ends in one sentence with the command that was meant."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from helpers import tiny
from nlft.cli import COMMANDS, main
from nlft.commands.meant import check_meant, kind_of
from nlft.digests import write_manifest
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir

ROW = '{"id": 1, "prompt": "p", "completion": "c", "label": true}\n'
TAKE_RUNS = ("map", "card", "replay", "chat", "export", "merge")
TAKE_FILES = ("label", "audit", "evaluate", "train", "judge", "revise", "build", "import", "sample", "rounds")
TAKE_FILES += ("sft", "reft", "kto", "tune", "compare")
KINDS = ("file", "run", "checkpoint", "adapter", "model", "runs", "folder")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One thing of each kind, under its name, as commands leave them."""
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("prompt,completion,label\np,c,yes\n")
    Path("trained.jsonl").write_text(ROW)
    run = RunDir(Path("runs/a"))
    run.write_settings(
        {"model": {"model_name_or_path": "base"}, "data": {"file": str(Path("trained.jsonl").resolve())}}
    )
    for adapter in (run.adapter_path, run.checkpoints_path / "checkpoint-3", Path("alone")):
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}')
    RunDir(run.checkpoints_path / "checkpoint-3").write_settings({})
    write_manifest(run.checkpoints_path / "checkpoint-3", world_size=1)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("model/model.safetensors").touch()
    Path("compared/200/0/nlft").mkdir(parents=True)
    shutil.copy(run.settings_path, "compared/200/0/nlft/run.yaml")
    Path("compared/compare.json").write_text("{}")
    Path("data").mkdir()
    Path("data/examples.jsonl").write_text(ROW)
    return tmp_path


NAMES = {"file": "x.csv", "run": "runs/a", "checkpoint": "runs/a/checkpoints/checkpoint-3", "adapter": "alone"}
NAMES |= {"model": "model", "runs": "compared", "folder": "data"}


def refusal(command: str, *words: str) -> str | None:
    try:
        check_meant(command, words)
    except UserError as error:
        return str(error)
    return None


def test_each_kind_of_place_is_known(places: Path) -> None:
    assert {kind: kind_of(name) for kind, name in NAMES.items()} == {kind: kind for kind in KINDS}
    assert kind_of("not/there") is None, "a hub name, or a run that is still to begin"
    assert kind_of("typo.xlsx") == "file"
    assert {*TAKE_RUNS, *TAKE_FILES} <= COMMANDS.keys()


@pytest.mark.parametrize("command", TAKE_RUNS + TAKE_FILES)
def test_a_name_of_another_kind_ends_in_a_command_that_takes_what_it_names(places: Path, command: str) -> None:
    taken = []
    for kind, name in NAMES.items():
        told = refusal(command, name)
        if told is None:
            taken.append(kind)
            continue
        first, *more = told.split("\n")
        assert name in first
        assert len(more) == 1, "one sentence"
        line = more[0][more[0].index("nlft ") :].partition(", and then: ")[0]
        _, named, place, *_ = shlex.split(line)
        assert named in COMMANDS
        if place not in ("FILE", "QUESTIONS", "RUN", "--examples"):
            assert refusal(named, place) is None, f"{line} is refused too"
    expected = {"map": ["run", "runs", "folder"], "merge": ["run", "checkpoint", "adapter"]}
    expected |= {name: [*expected["merge"], "model"] for name in ("chat", "export")}
    assert taken == expected.get(command, ["run"] if command in TAKE_RUNS else ["file"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["map", "x.csv"], "nlft map --examples x.csv --model "),
        (["map", "x.csv", "--model", "tiny"], "nlft map --examples x.csv --model tiny"),
        (["map", "typo.jsonl"], "nlft map --examples typo.jsonl"),
        (["map", "runs/a", "x.csv"], "nlft map --examples x.csv"),
        (["map", "runs/a/adapter"], "nlft map runs/a"),
        (["map", "runs/a/run.yaml"], "nlft map runs/a"),
        (["map", "alone"], "nlft chat alone"),
        (["map", "model"], "nlft map --examples FILE --model model"),
        (["chat", "compared"], "nlft chat compared/200/0/nlft"),
        (["chat", "x.csv"], "nlft train x.csv "),
        (["chat", "model"], "nlft chat model --model_name_or_path BASE"),
        (["export", "compared", "--to", "gguf"], "nlft export compared/200/0/nlft --to gguf"),
        (["merge", "model"], "nlft export model"),
        (["card", "runs/a/checkpoints/checkpoint-3"], "nlft card runs/a"),
        (["label", "runs/a"], "nlft label trained.jsonl"),
        (["label", "model"], "nlft label FILE --model model"),
        (["audit", "runs/a/adapter"], "nlft audit trained.jsonl"),
        (["audit", "data"], "nlft audit data/examples.jsonl"),
        (["train", "alone"], "nlft train FILE --model_name_or_path BASE --adapter alone"),
        (["evaluate", "runs/a"], "nlft evaluate QUESTIONS --model_name_or_path base --adapter runs/a"),
        (["evaluate", "model"], "nlft evaluate FILE --model_name_or_path model"),
    ],
)
def test_the_command_that_was_meant_is_named(places: Path, capsys: Any, words: list[str], said: str) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def ended(run: RunDir, **last: Any) -> None:
    """Make a run that has ended without its adapter."""
    shutil.rmtree(run.adapter_path, ignore_errors=True)
    with run.events_path.open("a") as log:
        log.write(json.dumps({"step": 3, "time": "2026-01-01T00:00:00+00:00", **last}) + "\n")
    go_on = "nlft train x.csv --output_dir runs/a --resume"
    run.write_heartbeat({"time": "2026-01-01T00:00:00+00:00", "step": 3, "command": go_on, "folder": str(Path.cwd())})


@pytest.mark.parametrize("last", [{"ended": "interrupted"}, {"ended": "failed"}, {}])
def test_a_run_that_ended_early_names_the_command_to_go_on_and_the_checkpoint_to_use(
    places: Path, capsys: Any, last: dict[str, Any]
) -> None:
    run = RunDir(Path("runs/a"))
    ended(run, **last)
    checkpoint = "runs/a/checkpoints/checkpoint-3"
    for words, use in [
        (["export", "runs/a", "--to", "gguf"], f"nlft export {checkpoint} --to gguf"),
        (["merge", "runs/a"], f"nlft merge {checkpoint}"),
        (["evaluate", "x.csv", "--model_name_or_path", "base", "--adapter", "runs/a"], f"--adapter {checkpoint}"),
    ]:
        if words[0] == "evaluate":
            Path("x.csv").write_text("prompt,answer\np,1\n")
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "nlft train x.csv --output_dir runs/a --resume" in said
        assert use in said
    shutil.rmtree(run.checkpoints_path)
    for command in ("export", "merge", "chat", "card"):
        assert main([command, "runs/a"]) == 2
        said = capsys.readouterr().err
        assert "nlft train x.csv --output_dir runs/a --resume" in said
        assert "no whole checkpoint" in said


def test_a_checkpoint_that_is_damaged_is_not_named_and_one_that_trains_is_waited_for(places: Path, capsys: Any) -> None:
    from nlft.runs.heartbeat import this_process

    run = RunDir(Path("runs/a"))
    ended(run)
    for number in (9, 10):
        folder = run.checkpoints_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
        write_manifest(folder, world_size=1)
    assert main(["export", "runs/a"]) == 2
    assert "checkpoint-10" in capsys.readouterr().err
    (run.checkpoints_path / "checkpoint-10" / "adapter_config.json").write_text("{ }")
    assert main(["export", "runs/a"]) == 2
    assert "checkpoint-9" in capsys.readouterr().err
    run.write_heartbeat({**(run.heartbeat() or {}), **this_process(), "time": "2999-01-01T00:00:00+00:00"})
    assert main(["export", "runs/a"]) == 2
    said = capsys.readouterr().err
    assert "nlft map runs/a" in said
    assert "--resume" not in said


def test_what_is_made_of_a_checkpoint_or_an_adapter_goes_beside_its_run(places: Path) -> None:
    from nlft.commands.exporting import beside_run

    assert beside_run("runs/a/checkpoints/checkpoint-3", "gguf") == Path("runs/a-checkpoint-3-gguf")
    assert beside_run("runs/a/adapter", "merged") == beside_run("runs/a", "merged") == Path("runs/a-merged")
    assert beside_run("alone", "gguf") == Path("alone-gguf")


def test_merge_takes_a_run_with_its_adapter_and_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.model("llama", 3).save_pretrained("base")
    tiny.tokenizer().save_pretrained("base")
    torch.manual_seed(0)
    loaded = AutoModelForCausalLM.from_pretrained("base")
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(loaded, config).save_pretrained("runs/a/adapter")
    RunDir(Path("runs/a")).write_settings({"model": {"model_name_or_path": "base"}})
    assert main(["merge", "runs/a"]) == 0
    by_run = AutoModelForCausalLM.from_pretrained("runs/a-merged").state_dict()
    assert main(["merge", "--model_name_or_path", "base", "--adapter", "runs/a", "--out", "flags"]) == 0
    by_flags = AutoModelForCausalLM.from_pretrained("flags").state_dict()
    assert by_run.keys() == by_flags.keys()
    assert all(torch.equal(by_run[name], weight) for name, weight in by_flags.items())
    capsys.readouterr()
    assert main(["merge", "--model_name_or_path", "base", "--adapter", "runs/a"]) == 2
    assert "--out" in capsys.readouterr().err


def test_a_missing_run_or_none_names_the_last_one(places: Path, capsys: Any) -> None:
    for words in (["chat"], ["export"], ["merge"], ["card"], ["map"], ["export", "nothere"], ["chat", "runs/b"]):
        assert main(words) == 2
        assert f"nlft {words[0]} runs/a\n" in capsys.readouterr().err
    shutil.rmtree("runs")
    assert main(["chat"]) == 2
    assert "nlft train" in capsys.readouterr().err


@pytest.mark.parametrize("rows", ["prompt,reply\np,c\nq,d\n", "prompt,reply,ok\np,c,\nq,d,\n"])
def test_replies_without_any_rating_lead_to_label_and_questions_to_sample(places: Path, capsys: Any, rows: str) -> None:
    Path("unrated.csv").write_text(rows)
    for words in (["import"], ["audit"], ["train", "--model_name_or_path", "model", "--output_dir", "runs/b"]):
        assert main([words[0], "unrated.csv", *words[1:]]) == 2
        assert "nlft label unrated.csv\n" in capsys.readouterr().err
    Path("half.csv").write_text("prompt,reply,ok\np,c,\nq,d,yes\n")
    assert main(["import", "half.csv"]) == 0, "some are rated"
    Path("q.csv").write_text("question\nwhy?\n")
    assert main(["label", "q.csv", "--model", "model"]) == 2
    said = capsys.readouterr().err
    assert "nlft sample q.csv --model_name_or_path model --out q-replies.jsonl" in said


def test_import_writes_under_the_files_name_by_default(places: Path, capsys: Any) -> None:
    assert main(["import", "x.csv"]) == 0
    assert Path("x.jsonl").is_file()
    assert "nlft audit x.jsonl" in capsys.readouterr().out
    assert main(["import", "trained.jsonl"]) == 0
    assert Path("trained.jsonl").read_text() == ROW
    assert Path("trained-examples.jsonl").is_file()


def test_a_missing_model_is_named_by_example(places: Path, capsys: Any) -> None:
    for words in (["train", "x.csv", "--output_dir", "runs/b"], ["map", "--examples", "x.csv"]):
        assert main(words) == 2
        assert "HuggingFaceTB/SmolLM2-135M-Instruct" in capsys.readouterr().err
