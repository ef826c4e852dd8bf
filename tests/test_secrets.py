"""Nothing secret is written or printed, and no file of ours is a pickle: what the commands leave is read whole."""

import zipfile
from pathlib import Path

import pytest
import wandb

from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples

CANARIES = {
    name: f"canary-{name.lower().replace('_', '-')}-5f3a9c"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "NLFT_TOKEN", "NLFT_READ_TOKEN")
}
SHORT = ["--use_cpu", "--max_steps", "2", "--per_device_train_batch_size", "2", "--disable_tqdm", "true"]
SHORT += ["--dtype", "float32", "--save_strategy", "steps", "--save_steps", "1"]


def is_pickle(data: bytes) -> bool:
    """Whether a file is a pickle of protocol 2 or later, as all programs write them."""
    return len(data) > 3 and data[0] == 0x80 and data[1] in range(2, 6) and data.rstrip(b"\n").endswith(b".")


def parts(path: Path) -> list[tuple[str, bytes]]:
    """A file, and what is in it if it is an archive."""
    found = [(str(path), path.read_bytes())]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [(f"{path}!{name}", archive.read(name)) for name in archive.namelist()]
    return found


@pytest.mark.filterwarnings("ignore")
def test_no_key_of_the_environment_is_in_any_file_or_message_and_no_file_is_a_pickle(
    tmp_path: Path, model_folder: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, canary in CANARIES.items():
        monkeypatch.setenv(name, canary)
    for name, place in (("WANDB_DIR", "wandb"), ("TENSORBOARD_LOGGING_DIR", "boards"), ("TRACKIO_DIR", "trackio")):
        monkeypatch.setenv(name, str(tmp_path / place))
        (tmp_path / place).mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads WANDB_DIR once a process
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "a folder with späces" / "examples.jsonl"
    data.parent.mkdir()
    write_examples(data, examples(6))
    model = ["--model_name_or_path", model_folder]
    run = tmp_path / "läufe" / "train"
    commands = [
        ["train", data, *model, *SHORT, "--output_dir", run, "--report_to", "wandb"],
        *(
            [name, data, *model, *SHORT, "--output_dir", tmp_path / "runs" / name, "--report_to", "tensorboard"]
            for name in ("sft", "kto")
        ),
        ["train", data, *model, "--output_dir", run, "--no_such_flag", "1"],
        ["map", run, "--html", tmp_path / "map.html", "--csv", tmp_path / "tokens.csv"],
        ["card", run],
        ["audit", data, "--json", tmp_path / "audit.json"],
        ["env"],
    ]
    codes = [cli.main([str(word) for word in command]) for command in commands]
    assert codes == [2 if "--no_such_flag" in command else 0 for command in commands], capfd.readouterr().err[-2000:]
    told = capfd.readouterr()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"run.yaml", "adapter_model.safetensors", "map.html", "trainer_state.json"} <= {path.name for path in files}
    assert any("tfevents" in path.name for path in files)
    assert any(path.suffix == ".wandb" for path in files)
    for name, canary in CANARIES.items():
        assert canary not in told.out + told.err, name
    for path in files:
        for where, content in parts(path):
            assert not [name for name, canary in CANARIES.items() if canary.encode() in content], where
            assert not is_pickle(content), where
            assert not where.endswith((".pkl", ".pt", ".pth", ".bin")), where
