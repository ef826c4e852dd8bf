"""The wheel and the source archive have every file of the package, and the wheel works outside the source tree."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


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


def test_the_wheel_works_outside_the_tree(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("wheel/*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    # As in an environment that has the wheel and what it needs: the unpacked wheel comes before this checkout.
    run = "import sys; sys.path.insert(0, sys.argv.pop(1)); import nlft; print(nlft.__file__); "
    run += "from nlft.cli import main; sys.exit(main(sys.argv[1:]))"
    for words in (["--version"], ["map", "--help"], ["train", "--help"], ["build", "--help"]):
        done = subprocess.run(
            [sys.executable, "-P", "-c", run, str(tmp_path / "site"), *words],
            cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        where, said = done.stdout.split("\n", 1)
        assert Path(where).is_relative_to(tmp_path / "site")
        assert said.strip()
