"""Errors: their kinds, their messages, and pickling."""

import importlib
import json
import logging
import os
import pickle
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import nlft
from helpers.page_runs import make_run
from helpers.training import examples
from nlft.cli import main
from nlft.data.records import write_examples
from nlft.errors import ConfigError, NLFTError, Problem, ProblemsError, RecordsError, UserError
from nlft.library_errors import explain, message_and_code
from nlft.progress import quiet_libraries


def subclasses(cls):
    return {cls} | {deeper for sub in cls.__subclasses__() for deeper in subclasses(sub)}


def all_errors():
    for module in pkgutil.walk_packages(nlft.__path__, "nlft."):
        if not module.name.endswith(("__main__", "rescore_worker")):
            importlib.import_module(module.name)
    return {cls for cls in subclasses(NLFTError) if cls.__module__.startswith("nlft.")}


def test_every_error_survives_pickling():
    problems = [Problem("a.jsonl:1", "is bad", "Fix it.", "label"), Problem("--x", "is 3", "Give 2.")]
    found = all_errors()
    assert len(found) >= 6
    for cls in found:
        error = cls(problems) if issubclass(cls, ProblemsError) else cls("something\n  cure")
        read = pickle.loads(pickle.dumps(error))
        assert type(read) is cls
        assert str(read) == str(error)
        assert getattr(read, "problems", None) == getattr(error, "problems", None)


def test_errors_can_be_caught_as_pythons_own():
    assert issubclass(NLFTError, RuntimeError)
    assert issubclass(UserError, ValueError)


def test_alike_problems_are_grouped_and_five_groups_are_shown():
    problems = [Problem(f"q.jsonl:{n}", "is missing", "Add it.", field) for n in range(1, 7474) for field in "abc"]
    problems += [Problem(f"q.jsonl:{n}", f"is {'x' * n}", f"Give {'y' * n}.", "d") for n in range(1, 5)]
    error = RecordsError(problems)
    text = str(error)
    assert error.problems == problems
    assert len(text.splitlines()) < 25
    for word in ("22,423 problems", "7 kinds", "q.jsonl:1", "2, 3, 4, 5, 6 and 7,467 more", "and 2 more kinds"):
        assert word in text, word


def test_values_do_not_keep_alike_problems_apart():
    error = RecordsError([Problem(f"q.jsonl:{n}", f"id 'q{n}' is used twice", "Rename one.") for n in range(1, 9)])
    assert "1 kind:" in str(error)


@pytest.mark.parametrize("kind", [ProblemsError, RecordsError])
def test_few_problems_are_listed_in_full(kind):
    text = str(kind([Problem("e.jsonl:1", "is bad", "Fix."), Problem("e.jsonl:2", "is bad", "Fix.")]))
    assert text == "2 problems:\ne.jsonl:1: is bad\n  Fix.\ne.jsonl:2: is bad\n  Fix."


def test_every_bad_setting_is_listed():
    text = str(ConfigError([Problem(f"--setting_{n}", "is 3", "Give 2.") for n in range(9)]))
    assert all(f"--setting_{n}: is 3" in text for n in range(9))


def raised_in(package, code):
    """Run code as if it stood in a package, and return what it raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(compile(code, f"{package}.py", "exec"), {"__name__": f"{package}.inner"})
    return caught.value


@pytest.mark.parametrize(
    ("package", "code", "told"),
    [
        (
            "transformers",
            "raise RuntimeError('XCallback requires x to be installed. Run `pip install x`.')",
            "pip install x",
        ),
        ("transformers", "raise ImportError('Using `bits` needs bits: `pip install bits`')", "pip install bits"),
        ("trl", "import no_such_package_at_all", "no_such_package_at_all"),
        ("wandb", "class UsageError(Exception): pass\nraise UsageError('api_key not configured')", "wandb"),
        ("mlflow", "raise ConnectionError('nobody answers at localhost:5000')", "--report_to none"),
        ("peft", "raise ValueError('Target modules nosuch not found')", "nosuch"),
        ("bitsandbytes", "raise RuntimeError('CUDA is required, but is not installed')", "CUDA"),
        ("torch", "def create_scheduler(): dict(1)\ncreate_scheduler()", "--lr_scheduler_kwargs"),
    ],
)
def test_what_another_package_refuses_is_one_message(package, code, told):
    error = explain(raised_in(package, code))
    assert isinstance(error, UserError)
    assert told in str(error)
    assert len(str(error).splitlines()) == 2


def test_passwords_of_addresses_are_cut_out_of_messages_logs_and_warnings(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # undone at the end
    made = logging.getLogRecordFactory()
    quiet_libraries()
    quiet_libraries()
    logger = logging.getLogger("some.library")
    logger.addHandler(handler := logging.StreamHandler())
    try:
        logger.warning("retrying %s in %d s", "http://bob:secret@hub.example/api", 2)
        text = warnings.formatwarning("no answer of http://tok-secret@h.example:9 ", UserWarning, "f.py", 1, "")
        error = raised_in("transformers", "raise ValueError('http://bob:p:secret@h.example/x?a=b@c, http://h/a@b')")
    finally:
        logger.removeHandler(handler)
        logging.setLogRecordFactory(made)
    told, _ = message_and_code(error)
    shown = capsys.readouterr().err
    for printed in (
        told,
        str(explain(error)),
        text,
        shown,
        message_and_code(UserError("http://a:secret@h.example"))[0],
    ):
        assert "secret" not in printed
        assert "://h.example" in printed or "http://hub.example/api in 2 s" in printed
    assert "/x?a=b@c, http://h/a@b" in told, "other words with @ stay"


@pytest.mark.parametrize(
    ("package", "code"),
    [
        ("nlft", "raise ValueError('x')"),
        ("nlft", "from nlft import no_such_name\n"),
        ("nlft", "raise AssertionError"),
        ("torch", "raise RuntimeError('shapes differ')"),
        ("peft", "{}['x']"),
    ],
)
def test_what_may_be_our_own_fault_keeps_its_traceback(package, code):
    assert explain(raised_in(package, code)) is None


FULL = "class SafetensorError(Exception): pass\nraise SafetensorError('I/O error: No space left (os error 28)')"
NO_MEMORY = "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA: tried 2 GiB')"
WRAPPED = "try:\n    raise OSError(28, 'No space')\nexcept OSError as e:\n    raise RuntimeError('x') from e"


@pytest.mark.parametrize(
    ("package", "code", "told"),
    [
        ("torch", NO_MEMORY, "batch_size"),
        ("torch", "raise RuntimeError('DefaultCPUAllocator: can\\'t allocate memory: you tried 9')", "max_length"),
        ("nlft", "raise MemoryError", "memory"),
        ("safetensors", FULL, "disk is full"),
        ("tokenizers", "raise Exception('No space left on device (os error 28)')", "disk is full"),
        ("nlft", "raise OSError(28, 'No space left on device', 'out.jsonl')", "disk is full"),
        ("nlft", WRAPPED, "disk"),
        ("torch", "raise RuntimeError('Found no NVIDIA driver on your system')", "GPU"),
        ("requests", "raise ConnectionError(111, 'Connection refused')", "network"),
    ],
)
def test_what_the_machine_lacks_is_one_message_with_exit_code_1(package, code, told):
    text, exit_code = message_and_code(raised_in(package, code))
    assert exit_code == 1
    assert text.startswith("failed: ")
    assert told in text
    assert len(text.splitlines()) == 2


@pytest.mark.parametrize(
    ("package", "code", "told"),
    [
        ("nlft", "raise PermissionError(13, 'Permission denied', 'runs/run.yaml')", "runs/run.yaml"),
        ("nlft", "raise FileExistsError(17, 'File exists', 'runs')", "runs"),
        ("nlft", "raise OSError(30, 'Read-only file system', 'runs')", "Read-only"),
        ("safetensors", "raise Exception('Error while deserializing header: incomplete metadata')", "weights"),
        ("torch", "raise RuntimeError('Error(s) in loading state_dict for X: size mismatch for a.b')", "size mismatch"),
        ("yaml", "def f(): f()\nf()", "nested"),
    ],
)
def test_what_the_user_can_mend_is_one_message_with_exit_code_2(package, code, told):
    text, exit_code = message_and_code(raised_in(package, code))
    assert exit_code == 2
    assert text.startswith("error: ")
    assert told in text


def test_a_full_disk_is_known_by_number_or_text():
    assert "disk is full" in str(explain(OSError(28, "x")))
    assert "disk is full" in str(explain(Exception("No space left on device (os error 28)")))
    assert "disk is full" not in str(explain(OSError(13, "x")))


def test_messages_obey_no_control_character(tmp_path, capsys):
    file = tmp_path / "e.jsonl"
    rows = [{"id": "a\x9b31m\u202eb", "prompt": "p", "completion": "c", "label": True}] * 2
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"\u202e\\u009b": 1}\n')
    assert main(["audit", str(file)]) == 2
    told = capsys.readouterr().err
    assert r"\x9b31m\u202e" in told
    assert told.replace("\n", "").isprintable()


def test_a_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("NLFT_TRACEBACK", "1")
    assert explain(raised_in("wandb", "raise ValueError('x')")) is None


@pytest.mark.parametrize("flags", [["audit", "LOOP"], ["import", "LOOP", "--out", "x.jsonl"], ["map", "LOOP"]])
def test_a_loop_of_symbolic_links_is_a_sentence(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("loop.jsonl").symlink_to("loop.jsonl")
    Path("e.jsonl").write_text('{"id": 1, "prompt": "p", "completion": "c", "label": true}\n')
    assert main([flag.replace("LOOP", "loop.jsonl") for flag in flags]) == 2
    assert "loop.jsonl" in capsys.readouterr().err
    assert main(["audit", "e.jsonl", "--json", "loop.jsonl"]) == 2
    assert "loop.jsonl" in capsys.readouterr().err


def test_a_token_that_was_given_as_a_flag_is_not_printed(tmp_path, model_folder, capsys):
    write_examples(tmp_path / "e.jsonl", examples(4))
    words = ["train", tmp_path / "e.jsonl", "--model_name_or_path", model_folder, "--output_dir", tmp_path / "run"]
    assert main([*map(str, words), "--hub_token", "hf_SECRETSECRET", "--use_cpu"]) == 2
    told = "".join(capsys.readouterr())
    assert "--hub_token" in told
    assert "SECRET" not in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", ["run.yaml", "events.jsonl", "controls.jsonl", "heartbeat.json"])
def test_a_pipe_in_a_runs_folder_is_refused_and_nothing_waits(name, tmp_path, capsys):
    make_run(tmp_path / "run", steps=2)
    (tmp_path / "run" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "run" / name)
    code = (
        f"from nlft.cli import main; main(['map', {str(tmp_path / 'run')!r}, '--html', {str(tmp_path / 'x.html')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert (tmp_path / "x.html").exists() or name in done.stderr
