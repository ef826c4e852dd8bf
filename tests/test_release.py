"""The wheel and the source archive have every file of the package, and the wheel works outside the source tree."""

import json
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked() -> set[str]:
    """The files of the package: those that git follows, or all if this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True)
    if not listed.returncode:
        return {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    every = (path for path in (ROOT / "src" / "nlft").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(ROOT / "src").as_posix() for path in every}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy, so that the tree gets no build folder."""
    home = tmp_path_factory.mktemp("release")
    pytest.importorskip("setuptools", minversion="77", reason="setuptools is too old to build with")
    for name in ("pyproject.toml", "README.md", "LICENSE", *(f"src/{name}" for name in sorted(tracked()))):
        (home / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "tree" / name).write_bytes((ROOT / name).read_bytes())
    out = home / "dist"
    for what in ("wheel", "sdist"):
        script = f"import sys; from setuptools import build_meta; print(build_meta.build_{what}(sys.argv[1]))"
        (out / what).mkdir(parents=True)
        words = [sys.executable, "-c", script, str(out / what)]
        done = subprocess.run(words, cwd=home / "tree", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_the_wheel_and_the_source_archive_have_every_file_of_the_package(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("wheel/*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if not name.startswith("nlft-")}
    assert packed == tracked()
    assert {"nlft/results/keep.jsonl", "nlft/py.typed", "nlft/templates/base.css", "nlft/page/static/app.js"} <= packed
    with tarfile.open(next(built.glob("sdist/*.tar.gz"))) as archive:
        inside = {name.partition("/src/")[2] for name in archive.getnames() if "/src/nlft/" in name}
    assert tracked() <= inside


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel. What the wheel needs is that of this environment, which comes after it."""
    pytest.importorskip("pip", reason="pip is not installed")
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    python = next(path for path in (home / "bin" / "python", home / "Scripts" / "python.exe") if path.exists())
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A line of a .pth file adds a folder, and none of that folder's own .pth files: so not this checkout either.
    (site / "what-it-needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(built.glob("wheel/*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    return python


def run(*words: object, cwd: Path | None = None) -> str:
    """Run a program that knows nothing of this checkout. Return what it prints."""
    outside = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_installed_wheel_works_outside_the_tree(installed: Path, tmp_path: Path) -> None:
    nlft = installed.with_name("nlft")
    where = Path(run(installed, "-c", "import nlft; print(nlft.__file__)", cwd=tmp_path).strip())
    assert where.is_relative_to(installed.parents[1])
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    assert run(nlft, "--version", cwd=tmp_path) == f"nlft {project['version']}\n"
    told = run(nlft, "env", cwd=tmp_path)
    assert all(needed in told for needed in ("torch", "transformers", "peft", "trl"))
    for name in ("map", "train", "build"):
        assert f"nlft {name}" in run(nlft, name, "--help", cwd=tmp_path)
    (tmp_path / "table.csv").write_text("prompt,completion,label\nHi?,Hello.,1\nBye?,What?,0\n")
    run(nlft, "import", "table.csv", "--out", "examples.jsonl", cwd=tmp_path)
    assert [json.loads(line)["label"] for line in (tmp_path / "examples.jsonl").read_text().splitlines()] == [
        True,
        False,
    ]
    for name in ("page/static/app.js", "templates/base.css", "page/templates"):
        assert (where.parent / name).exists(), name


def test_the_source_archive_makes_the_same_wheel(built: Path, tmp_path: Path) -> None:
    with tarfile.open(next(built.glob("sdist/*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    run(sys.executable, "-c", script, tmp_path, cwd=tree)
    names = []
    for folder in (built / "wheel", tmp_path):
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            names.append(sorted(wheel.namelist()))
    assert names[0] == names[1]
