"""Schemes and graders of other packages: found through entry points, and harmless when they are not used."""

import shutil
import subprocess
import sys

import pytest
import torch

from helpers.training import examples, nlft_trainer
from nlft.cli import main
from nlft.core.saliency import plain_likelihood
from nlft.core.schemes.cut import SCHEME as CUT
from nlft.core.schemes.cut import CutSettings
from nlft.core.schemes.registry import get_scheme, register_scheme, scheme_names, scheme_of, usable_schemes
from nlft.core.schemes.scheme import Scheme
from nlft.data.grading import get_grader
from nlft.data.records import write_examples
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir

PLUG_IN = """
from dataclasses import dataclass
from nlft.core.saliency import plain_likelihood
from nlft.core.schemes.scheme import Scheme, setting

@dataclass(frozen=True)
class WrongSettings:
    wrong_factor: float = setting(0.5, "Weight of wrong samples' tokens.")

def weigh(logprobs, settings):
    return plain_likelihood(logprobs.mask, (~logprobs.label).float() * settings.wrong_factor)

SCHEME = Scheme("wrong-only", WrongSettings, weigh, lambda _: frozenset())

def polite(completion, answer, word="please"):
    return word in completion
"""
BROKEN = "raise RuntimeError('no such device')\n"


def install(folder, name, source, entry_points):
    """Install a package of one module with pip, into a folder of its own."""
    project = folder / f"{name}-project"
    project.mkdir()
    (project / f"{name}.py").write_text(source)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "1"\n[tool.setuptools]\npy-modules = ["{name}"]\n' + entry_points
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    target = folder / name
    subprocess.run([*pip, "--target", str(target), str(project)], check=True, capture_output=True, text=True)
    return str(target)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plug-ins")
    schemes, graders = '[project.entry-points."nlft.schemes"]\n', '[project.entry-points."nlft.graders"]\n'
    return {
        "ten_lines": install(
            folder,
            "ten_lines",
            PLUG_IN,
            f'{schemes}wrong-only = "ten_lines:SCHEME"\n{graders}polite = "ten_lines:polite"\n',
        ),
        "broken_one": install(
            folder,
            "broken_one",
            BROKEN,
            f'{schemes}shaky = "broken_one:SCHEME"\n{graders}shaky = "broken_one:grade"\n',
        ),
        "second_one": install(
            folder,
            "second_one",
            PLUG_IN,
            f'{schemes}wrong-only = "second_one:SCHEME"\nother-name = "second_one:SCHEME"\nodd = "second_one:polite"\n'
            f'{graders}polite = "second_one:polite"\nodd = "second_one:__name__"\n',
        ),
    }


def test_a_ten_line_package_adds_a_scheme_and_a_grader(installed, monkeypatch, tmp_path, model_folder):
    monkeypatch.syspath_prepend(installed["ten_lines"])
    assert "wrong-only" in scheme_names()
    trainer = nlft_trainer(tmp_path / "run", saliency="wrong-only", max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1
    record = RunDir.open(tmp_path / "run").settings()
    assert record["scheme"] == "wrong-only"
    assert record["saliency"] == {"wrong_factor": 0.5}
    assert [control["name"] for control in record["schemes"]["wrong-only"]] == ["wrong_factor"]

    flags = ["--scheme", "wrong-only", "--max_steps", "1", "--use_cpu", "true", "--dtype", "float32"]
    write_examples(tmp_path / "examples.jsonl", examples())
    command = [
        "train",
        str(tmp_path / "examples.jsonl"),
        "--model_name_or_path",
        model_folder,
        "--output_dir",
        str(tmp_path / "cli"),
    ]
    assert main([*command, *flags]) == 0
    assert RunDir.open(tmp_path / "cli").settings()["scheme"] == "wrong-only"

    assert get_grader("polite")("7, please", "7").grade == "right"
    assert get_grader("polite", word="thanks")("7, please", "7").grade == "wrong"


def test_a_broken_package_is_named_when_it_is_used_and_does_no_harm_otherwise(installed, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(installed["broken_one"])
    assert "shaky" in scheme_names()
    with pytest.raises(UserError, match=r"(?s)'shaky'.*broken_one.*no such device.*uninstall broken_one"):
        get_scheme("shaky")
    with pytest.raises(UserError, match=r"(?s)'shaky'.*broken_one.*no such device"):
        get_grader("shaky")
    trainer = nlft_trainer(tmp_path / "run", saliency=CutSettings(), max_steps=1)
    trainer.train()
    assert "shaky" not in RunDir.open(tmp_path / "run").settings()["schemes"]
    assert get_grader("number")("#### 7", "#### 7").grade == "right"


def test_a_package_that_is_installed_or_removed_meanwhile_is_noticed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    before = scheme_names()
    late = tmp_path / "late-1.dist-info"
    late.mkdir()
    (late / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1\n")
    (late / "entry_points.txt").write_text("[nlft.schemes]\nlate = late:SCHEME\n")
    assert scheme_names() == [*before, "late"]
    shutil.rmtree(late)
    assert scheme_names() == before


def test_two_packages_with_one_name_are_both_named(installed, monkeypatch):
    for name in ("ten_lines", "second_one"):
        monkeypatch.syspath_prepend(installed[name])
    with pytest.raises(UserError, match=r"(?s)'wrong-only'.*(ten_lines, second_one|second_one, ten_lines)"):
        get_scheme("wrong-only")
    with pytest.raises(UserError, match=r"(?s)'polite'.*(ten_lines, second_one|second_one, ten_lines)"):
        get_grader("polite")
    assert "wrong-only" not in usable_schemes()
    assert scheme_of("cut") == (CUT, CutSettings())


def test_an_entry_point_must_be_a_scheme_of_its_name_or_a_function(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed["second_one"])
    with pytest.raises(UserError, match=r"(?s)second_one.*'wrong-only'"):
        get_scheme("other-name")
    with pytest.raises(UserError, match=r"(?s)second_one.*function"):
        get_scheme("odd")
    with pytest.raises(UserError, match=r"(?s)second_one.*str"):
        get_grader("odd")


def test_a_scheme_can_be_given_registered_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr("nlft.core.schemes.registry._registered", {})

    def weigh(logprobs, settings):
        return plain_likelihood(logprobs.mask, torch.ones(len(logprobs.label)))

    mine = Scheme("mine", CutSettings, weigh, lambda _: frozenset())
    assert scheme_of(mine) == (mine, CutSettings())
    trainer = nlft_trainer(tmp_path / "run", saliency=mine, max_steps=1)
    trainer.train()
    assert RunDir.open(tmp_path / "run").settings()["scheme"] == "mine"
    assert "mine" not in scheme_names()
    register_scheme(mine)
    register_scheme(mine)
    assert scheme_of("mine") == (mine, CutSettings())
    for name in ("mine", "nlft"):
        with pytest.raises(UserError, match=name):
            register_scheme(Scheme(name, CutSettings, weigh, lambda _: frozenset()))
        with pytest.raises(UserError, match=name):
            scheme_of(Scheme(name, CutSettings, weigh, lambda _: frozenset()))
    with pytest.raises(UserError, match="Scheme"):
        register_scheme("nlft")


def test_every_built_in_scheme_has_a_file_that_ends_with_it():
    names = scheme_names()
    assert names[0] == "nlft"
    assert set(names) >= {"nlft", "nlft-original", "cut", "rlsd", "dft", "uniform"}
    assert [get_scheme(name).name for name in names] == names


def test_looking_schemes_up_imports_no_torch():
    code = (
        "import sys, nlft.core.prompts\n"
        "from nlft.core.schemes.registry import scheme_names\n"
        "print(len(scheme_names()) > 5, 'torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "True False\n"
    )
