"""The command through its own entry point: what it prints, and the code it exits with."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from helpers.malformed_cases import CASES
from helpers.training import examples
from nlft import cli
from nlft.data.records import read_examples, write_examples


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "examples.jsonl"
    write_examples(path, examples(6))
    return path


def nlft(*argv):
    return cli.main([str(a) for a in argv])


TRAIN = ["--use_cpu", "--max_steps", "2", "--per_device_train_batch_size", "2", "--disable_tqdm", "true", "--dtype"]
TRAIN += ["float32", "--save_strategy", "no"]


def test_help_names_every_command_and_exits_with_0(capsys):
    assert nlft("--help") == 0
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in cli.COMMANDS)
    assert nlft("--version") == 0


HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "openai")
ASK_FOR_HELP = f"""
import sys
from nlft.cli import main
try:
    main([sys.argv[1], "--help"])
except SystemExit as end:
    assert end.code in (0, None)
print("imported:", *({set(HEAVY)} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_short_has_ours_first_and_imports_nothing_heavy(command):
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, command],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        check=True,
    )
    *lines, imported = done.stdout.splitlines()
    assert imported == "imported:"
    assert lines[0].startswith(f"usage: nlft {command}")
    assert len(lines) <= 90
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    if "Settings of transformers:" in lines:
        ours, theirs = text.split("Settings of transformers:")
        assert "--learning_rate" in ours
        assert "--gradient_accumulation_steps" in theirs
        assert theirs.count("\n  --") <= 12


def test_help_all_lists_every_setting(capsys):
    from nlft.training.trainer import NLFTConfig

    with pytest.raises(SystemExit):
        nlft("train", "--help-all")
    shown = capsys.readouterr().out
    missing = [f.name for f in fields(NLFTConfig) if f.init and f"--{f.name}" not in shown]
    assert not missing


def test_python_m_nlft_is_the_command():
    done = subprocess.run([sys.executable, "-m", "nlft", "--version"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("nlft ")


def test_quiet_prints_results_and_errors_only(tmp_path, data, model_folder, capsys):
    for quiet in ([], ["--quiet"]):
        out = tmp_path / f"build{len(quiet)}.jsonl"
        assert nlft("build", data, "--out", out, "--size", "2", *quiet) == 0
        said = capsys.readouterr()
        assert f"build{len(quiet)}.jsonl: 2 rows" in said.out
        assert ("next: " in said.out) == (not quiet)
    assert nlft("train", "none.jsonl", "--model_name_or_path", model_folder, "--quiet") == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_the_scheme_and_its_settings_come_from_yaml_and_flags(tmp_path, data, model_folder):
    config = tmp_path / "c.yaml"
    config.write_text("scheme: cut\nsave_strategy: no\nsaliency.inappropriate_ratio: 1.5\n")
    options = ["--config", config, "--model-name-or-path", model_folder, *TRAIN[:-2], "--output-dir"]
    assert nlft("train", data, *options, tmp_path / "run") == 0
    assert "scheme: cut" in (tmp_path / "run" / "run.yaml").read_text()
    config.write_text("scheme: uniform\n\nsaliency:\n  mistake_ratio: 2\n")
    assert nlft("train", data, *options, tmp_path / "other") == 2


def test_29892_problems_fit_a_screen(tmp_path, capsys):
    path = tmp_path / "broken.jsonl"
    path.write_text("".join(json.dumps({"completion": f"{n}", "label": n}) + "\n" for n in range(7473)))
    assert nlft("train", path, "--model_name_or_path", "never-loaded") == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) < 40
    assert "broken.jsonl:1" in said


def test_train_evaluate_and_map_work_together(tmp_path, data, model_folder, capsys):
    run = tmp_path / "run"
    model = ["--model_name_or_path", model_folder]
    assert nlft("train", data, *model, *TRAIN, "--output_dir", run, "--answer_weight", "1", "--watch", "4") == 0
    told = capsys.readouterr().out
    assert "adapter: " in told
    assert "scoring the watched examples for the map took" in told
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"{i}?", "answer": f"#### {i}"}) + "\n" for i in range(5)))
    short = ["--max_new_tokens", "5", "--dtype", "float32"]
    assert nlft("evaluate", questions, *model, "--adapter", run, *short) == 0
    told = capsys.readouterr().out
    assert "strict" in told
    assert "flexible" in told
    found = json.loads((run / "evaluation.json").read_text())
    assert len(found["questions"]) == 5
    assert found["adapter"]["sha256"]
    page = tmp_path / "map.html"
    assert nlft("map", run, "--html", page) == 0
    assert "<!doctype html>" in page.read_text().lower()


def test_sft_trains_each_target_and_writes_a_run_directory(tmp_path, data, model_folder, capsys):
    for target, rows in [("answer", 6), ("completion", 2), ("all-completions", 6)]:
        run = tmp_path / target
        options = ["--model_name_or_path", model_folder, *TRAIN, "--output_dir", run, "--target", target]
        assert nlft("sft", data, *options) == 0
        assert f"rows: {rows}\n" in (run / "run.yaml").read_text()
        assert (run / "adapter" / "adapter_model.safetensors").is_file()
        assert (run / "events.jsonl").stat().st_size
        assert not [p for p in run.rglob("*") if p.suffix in (".bin", ".pt", ".pth")]


def test_an_adapter_can_be_trained_on_further(tmp_path, data, model_folder):
    first, second = tmp_path / "first", tmp_path / "second"
    model = ["--model_name_or_path", model_folder]
    assert nlft("train", data, *model, *TRAIN, "--output_dir", first) == 0
    assert nlft("train", data, *model, *TRAIN, "--output_dir", second, "--adapter", first) == 0
    weights = [(r / "adapter" / "adapter_model.safetensors").read_bytes() for r in (first, second)]
    assert weights[0] != weights[1]


def test_a_run_is_not_overwritten_unasked(tmp_path, data, model_folder, capsys):
    options = [data, "--model_name_or_path", model_folder, *TRAIN, "--output_dir", tmp_path / "run"]
    assert nlft("train", *options) == 0
    assert nlft("train", *options) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert nlft("train", *options, "--overwrite") == 0


def test_training_on_cut_off_completions_is_not_done_in_silence(tmp_path, data, model_folder, capsys):
    read = read_examples(data)
    cut = [replace(read[0], extra={"finish_reason": "length"}), replace(read[1], extra={"finish_reason": "stop"})]
    write_examples(data, [*cut, *read[2:]])
    assert nlft("train", data, "--model_name_or_path", model_folder, *TRAIN, "--output_dir", tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert f"1 of 6 completions were cut off by a length limit ({read[0].id})" in told
    assert "nlft build" in told


def test_interrupted_training_goes_on_from_its_checkpoint(tmp_path, data, model_folder):
    options = [data, "--model_name_or_path", model_folder, *TRAIN[:-1], "steps", "--save_steps", "1"]
    assert nlft("train", *options, "--output_dir", tmp_path / "run", "--max_steps", "1") == 0
    more = ["--max_steps", "3", "--resume_from_checkpoint", "true", "--anyway"]
    assert nlft("train", *options, "--output_dir", tmp_path / "run", *more) == 0
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if "loss" in e] == [1, 2, 3]


def test_judge_fills_in_what_is_missing_and_leaves_the_rest(tmp_path):
    path = tmp_path / "e.jsonl"
    mine = replace(examples(6)[1], judgment="My own words.")
    bare = replace(examples(6)[2], judgment=None)
    write_examples(path, [mine, bare])
    assert nlft("judge", path) == 0
    first, second = read_examples(path)
    assert first.judgment == "My own words."
    assert '"42 - 15 = 30"' in second.judgment


def test_settings_come_from_yaml_and_flags_override_them(tmp_path, data, model_folder):
    config = tmp_path / "c.yaml"
    saliency = "saliency: {mistake_ratio: 2, mistake_floor: 0.02}"
    config.write_text(f"model_name_or_path: {model_folder}\nlearning_rate: 1e-3\n{saliency}\nwatch: 0\n")
    options = ["--config", config, *TRAIN, "--output_dir", tmp_path / "run", "--saliency.mistake_ratio", "3"]
    assert nlft("train", data, *options) == 0
    text = (tmp_path / "run" / "run.yaml").read_text()
    assert "mistake_ratio: 3.0" in text
    assert "mistake_floor: 0.02" in text
    assert "learning_rate: 0.001" in text


WRONG_INPUT = [
    (["nonsense"], "'nonsense' is not a command"),
    (["trian", "DATA"], "`nlft train`"),
    (["finetune", "DATA"], "`nlft train`"),
    (["eval", "DATA"], "`nlft evaluate`"),
    (["train", "MODEL"], "the following arguments are required: file"),
    (["train", "DATA"], "--model_name_or_path is missing"),
    (["train", "none.jsonl", "MODEL"], "none.jsonl"),
    (["train", "QUESTIONS", "MODEL"], "`nlft sample questions.jsonl"),
    (["sft", "QUESTIONS", "MODEL"], "`nlft tune questions.jsonl`"),
    (["train", "DATA", "MODEL", "--saliency.mistake_ratio", "0.5"], "--saliency.mistake_ratio: is 0.5"),
    (["train", "DATA", "MODEL", "--saliency.mistake_ratio", "high"], "--saliency.mistake_ratio: is 'high'"),
    (["train", "DATA", "MODEL", "--saliency.mistake_rate", "2"], "--saliency.mistake_ratio?"),
    (["train", "DATA", "MODEL", "--mistake_ratio", "2"], "--saliency.mistake_ratio?"),
    (["train", "DATA", "MODEL", "--scheme", "uniform", "--saliency.mistake_ratio", "2"], "of scheme uniform"),
    (["train", "DATA", "MODEL", "--scheme", "magic"], "'magic'"),
    (["train", "DATA", "MODEL", "--rounds", "3"], "nlft rounds FILE"),
    (["train", "DATA", "MODEL", "--patience", "2"], "--patience"),
    (["train", "DATA", "MODEL", "--learning_rat", "2"], "Did you mean --learning_rate?"),
    (["train", "DATA", "MODEL", "--foo", "2"], "`nlft train --help` lists the arguments"),
    (["train", "DATA", "MODEL", "--lr", "2"], "Did you mean --learning_rate?"),
    (["train", "DATA", "MODEL", "--epochs=2"], "Did you mean --num_train_epochs?"),
    (["train", "DATA", "MODEL", "--batch_size", "2"], "Did you mean --per_device_train_batch_size?"),
    (["tune", "DATA", "MODEL", "--resume"], "goes on by itself"),
    (["train", "DATA", "MODEL", "--lora-rank", "2"], "Did you mean --lora_r?"),
    (["train", "DATA", "MODEL", "--max_seq_length", "99"], "Did you mean --max_length?"),
    (["sample", "QUESTIONS", "MODEL", "--out", "s.jsonl", "--output_dir", "x"], "Did you mean --out?"),
    (["sample", "QUESTIONS", "MODEL", "--out", "s.jsonl", "--max_tokens", "9"], "Did you mean --max_new_tokens?"),
    (["sample", "QUESTIONS", "MODEL", "--out", "s.csv"], ".jsonl"),
    (["sample", "QUESTIONS", "MODEL", "--out", "."], "is a folder"),
    (["sample", "QUESTIONS", "--model", "x", "--out", "s.jsonl"], "Did you mean --model_name_or_path?"),
    (["map", "no-run", "--prot", "1"], "Did you mean --port?"),
    (["train", "DATA", "--model_name_or_path", "no/such"], "no/such"),
    (["train", "DATA", "--model_name_or_path", "./no-such"], "no-such"),
    (["train", "DATA", "--model_name_or_path", "DATA"], "is a file"),
    (["kto", "DATA", "MODEL", "--output_dir", os.fsdecode(b"caf\xe9")], "caf\\udce9: is not UTF-8"),
    (["train", "DATA", "MODEL", "--adapter", "no/such"], "--adapter no/such"),
    (["train", "DATA", "MODEL", "--adapter", "FOLDER"], "holds a model"),
    (["train", "DATA", "MODEL", "--eval_file", "none.jsonl"], "--eval_file none.jsonl"),
    (["train", "DATA", "MODEL", "--lora_target_modules", "nosuch"], "nosuch"),
    (["train", "DATA", "MODEL", "--seed", "-1"], "--seed"),
    (["train", "DATA", "MODEL", "--num_train_epochs", "1e300"], "--num_train_epochs"),
    (["kto", "DATA", "MODEL", "--output_dir", "run", "--max_steps", "9999999999"], "--max_steps"),
    (["train", "DATA", "MODEL", "--report_to", "no-such-tracker"], "no-such-tracker"),
    (["train", "DATA", "MODEL", "--max_length", "20"], "over max_length 20"),
    (["train", "DATA", "MODEL", "--judge_prompt_template", "x"], "has no {prompt}"),
    (["train", "DATA", "MODEL", "--resume_from_checkpoint", "true"], "no checkpoint to resume from"),
    (["merge", "MODEL", "--out", "m"], "--adapter is missing"),
    (["sft", "DATA", "MODEL", "--target", "nothing"], "invalid choice"),
    (["evaluate", "DATA", "MODEL"], "--out is missing"),
    (["evaluate", "DATA", "MODEL", "--out", "o.json", "--grader", "no.such:thing"], "no.such"),
    (["map", "no-run", "--html", "m.html"], "does not exist"),
    (["map", "."], "run.yaml"),
    (["judge", "none.jsonl"], "none.jsonl"),
]


@pytest.mark.parametrize(("argv", "told"), WRONG_INPUT, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_wrong_input_is_one_clear_message_and_exit_code_2(
    argv, told, data, model_folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": [str(data)], "MODEL": ["--model_name_or_path", model_folder], "FOLDER": [model_folder]}
    Path("questions.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n")
    places["QUESTIONS"] = ["questions.jsonl"]
    argv = [word for part in argv for word in places.get(part, [part])]
    extra = [*TRAIN, "--output_dir", "run"] if argv[0] in ("train", "sft") else []
    assert nlft(*argv, *extra) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_no_malformed_file_gives_a_traceback(tmp_path, capsys, monkeypatch):
    """The files of docs/RECORDS.md through the real command."""
    monkeypatch.chdir(tmp_path)
    assert len(CASES) >= 20
    for name, content in CASES.values():
        Path(name).write_bytes(content)
        assert nlft("train", name, "--model_name_or_path", "never-loaded", "--output_dir", "run") == 2, name
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert "Traceback" not in told


def test_the_installed_command_runs(tmp_path):
    command = shutil.which("nlft", path=str(Path(sys.executable).parent))
    assert command
    done = subprocess.run([command, "map", "nowhere", "--html", "x"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere")


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_early_causes_no_traceback(argv):
    process = subprocess.Popen(
        [sys.executable, "-m", "nlft", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    process.stderr.close()


IMPORTING = """
import gc, sys
from nlft.commands import parsing
from nlft.commands.parsing import Command

def load():
    waiting.append(not gc.isenabled())
    import torch  # noqa: F401
    return []

waiting, known = [], "torch" in sys.modules
for _ in range(2):
    Command("nlft x", "", [], load=load).parse([])
    waiting += [gc.isenabled(), gc.get_freeze_count()]
print(known, waiting[:2], waiting[2] > 10_000, waiting[3:5], waiting[2] == waiting[5])
"""


def test_while_torch_is_imported_no_garbage_is_collected_and_what_came_is_never_looked_at():
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True)
    assert done.stdout == "False [True, True] True [False, True] True\n"
