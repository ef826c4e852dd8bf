"""README's command lines and Python run as pasted, and its figures are those of the kept files.

The lines run here in a folder with the repository's examples/. Tests reach no hub and must be quick, so three things
differ: the model's name becomes the folder of a tiny random model, each command gets the limits below, and the demo
gets a few problems and settings of that size.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.processes import small_habit
from nlft import cli
from nlft.experiments import demo

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import demo_page  # noqa: E402

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

SHORT = ["--max_new_tokens", "4", "--limit", "6"]
TRAINING = ["--max_steps", "2", "--use_cpu", "--dtype", "float32", "--save_strategy", "no"]
LIMITS = {
    "audit": ["--dtype", "float32"],
    "train": TRAINING,
    "sample": SHORT,
    "build": ["--keep_truncated"],  # a random model never ends its answers
    "evaluate": SHORT,
    "tune": [*SHORT, "--max_steps", "2", "--keep_truncated", "--arms", "base", "nlft"],
    "compare": [*SHORT[:2], "--max_steps", "2", "--sizes", "2", "--seeds", "1", "--folds", "2", "--keep_truncated"],
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def command_lines():
    """Every line of README's shell blocks, continued lines joined, without comments."""
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture
def clone(tmp_path, monkeypatch, model_folder):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nlft.experiments.demo.bring_model", lambda folder: Path(model_folder))
    few = replace(demo.TASKS["habit"], settings=small_habit, sizes=(6, 4))
    monkeypatch.setattr("nlft.experiments.demo.TASKS", {"habit": few})
    return tmp_path


def in_small(words, model_folder):
    """A command line of README with the tiny model and the limits."""
    command, *rest = words
    given = [model_folder if word == MODEL else word for word in rest]
    return [command, *given, *LIMITS.get(command, [])]


@pytest.mark.timeout(900)
def test_every_line_runs_as_pasted(clone, model_folder):
    lines = command_lines()
    assert lines[0] == ["make", "setup", "&&", ".", ".venv/bin/activate"]
    assert all(words[0] == "nlft" for words in lines[1:])
    assert {words[1] for words in lines[1:]} >= {
        "demo",
        "tune",
        "audit",
        "train",
        "map",
        "sample",
        "evaluate",
        "compare",
    }
    for words in lines[1:]:
        assert cli.main(in_small(words[1:], model_folder)) == 0, " ".join(words)
    assert (clone / "map.html").exists()
    assert (clone / "runs" / "catalogue" / "adapter" / "adapter_config.json").exists()
    for block in blocks("python"):
        script = block.replace(MODEL, model_folder).replace(
            "answer_weight=1.0", "answer_weight=1.0, max_steps=2, use_cpu=True"
        )
        assert script != block
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_shell_blocks_are_posix_and_name_no_variable():
    for block in blocks("sh"):
        assert subprocess.run(["sh", "-n"], input=block, text=True, check=False).returncode == 0
        assert "$" not in block


def test_files_that_the_lines_read_are_in_the_repository():
    read = {word for words in command_lines() for word in words if word.startswith("examples/")}
    assert len(read) == 3
    assert all((ROOT / name).exists() for name in read)


def test_commands_named_anywhere_in_readme_exist():
    named = set(re.findall(r"`nlft ([a-z]+)", TEXT)) | {words[1] for words in command_lines()[1:]}
    assert len(named) >= 9
    assert named <= set(cli.COMMANDS)


def test_before_and_after_is_that_of_a_demo_that_was_kept():
    kept = json.loads(demo_page.NUMBERS.read_text(encoding="utf-8"))
    assert demo_page.page(kept, TEXT) == TEXT, "run python benchmarks/demo_page.py write"
    praises = {arm: found["praises"] for arm, found in kept["arms"].items()}
    assert set(praises) == set(demo_page.TITLES)
    assert {len(one) for one in praises.values()} == {64}
    assert kept["arms"]["strike"]["kl_task"] < kept["arms"]["sft-completion"]["kl_task"]


def test_figures_of_the_comparison_are_those_of_the_kept_file():
    report = json.loads((ROOT / "docs" / "compare-problems.json").read_text(encoding="utf-8"))
    said = " ".join(TEXT.split())
    for name in ("base", "nlft", "sft-answer"):
        share = next(arm["share"] for arm in report["arms"] if arm["arm"] == name)
        assert f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]" in said, name
    for other in ("sft-answer", "control"):
        gap = next(c["gap"] for c in report["contrasts"] if (c["ours"], c["theirs"]) == ("nlft", other))
        assert f"{100 * gap['value']:+.1f} points [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]" in said, other
