"""A full disk: every command that writes ends in a sentence, and leaves nothing that looks whole and is not."""

import json
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from helpers.exporting import EXAMPLES, network, tokenizer
from helpers.labelling import decide, opened, states, write_replies
from helpers.training import nlft_trainer
from nlft import cli
from nlft.data.records import read_examples, write_examples
from nlft.errors import UserError
from nlft.models.ledger import Ledger
from nlft.models.loading import ModelSettings, load_model

QUESTIONS = [{"id": f"q{i}", "prompt": f"What is {i} plus 2?", "answer": str(i + 2)} for i in range(6)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # a ledger keeps its lock open


@contextmanager
def room(disk: Path, size: int) -> Iterator[None]:
    """Leave some bytes on the disk, in whole blocks."""
    ballast = disk / ".ballast"
    ballast.write_bytes(b"0" * max(0, shutil.disk_usage(disk).free - size))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no file of more bytes, as `ulimit -f` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and an adapter in a run directory, a table, questions."""
    folder = tmp_path_factory.mktemp("trained")
    network("llama").save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")  # the adapter names the folder
    tokenizer().save_pretrained(folder / "base")
    torch.manual_seed(0)
    get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).save_pretrained(
        folder / "run" / "adapter"
    )
    (folder / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    write_examples(folder / "verify.jsonl", EXAMPLES)
    rows = "".join(f"What is {i}?,It is {i}. {'really ' * 200},{i % 2}\n" for i in range(60))
    (folder / "table.csv").write_text("prompt,completion,label\n" + rows)
    return folder


def merged(trained: Path, out: Path) -> list[str]:
    base = ["--model_name_or_path", str(trained / "base"), "--adapter", str(trained / "run")]
    return ["merge", *base, "--out", str(out / "model"), "--dtype", "float32"]


def exported(target: str) -> Callable[[Path, Path], list[str]]:
    def command(trained: Path, out: Path) -> list[str]:
        words = ["export", str(trained / "run"), "--to", target, "--out", str(out / "model")]
        return [*words, *(["--verify_file", str(trained / "verify.jsonl")] if target in ("gguf", "ollama") else [])]

    return command


def imported(trained: Path, out: Path) -> list[str]:
    return ["import", str(trained / "table.csv"), "--out", str(out / "examples.jsonl")]


def sampled(trained: Path, out: Path) -> list[str]:
    words = ["sample", str(trained / "q.jsonl"), "--model_name_or_path", str(trained / "base")]
    return [
        *words,
        "--out",
        str(out / "sampled.jsonl"),
        "--max_new_tokens",
        "8",
        "--samples_per_question",
        "2",
        "--temperature",
        "1",
    ]


COMMANDS = {
    "merge": merged,
    **{f"export --to {to}": exported(to) for to in ("merged", "gguf", "ollama", "mlx-adapter")},
    "import": imported,
    "sample": sampled,
}
REFUSED = ("disk is full", "No space left", "too large", "cannot write")


def assert_told(told: str) -> None:
    assert any(words in told for words in REFUSED), told
    assert "Traceback" not in told
    assert told.count("\n  ") >= 1, "it says what to do"


def assert_nothing_looks_whole(out: Path) -> None:
    assert not (out / "model").exists()
    assert not (out / "examples.jsonl").exists()
    assert not (out / "sampled.jsonl").exists()
    assert not list(out.rglob("*.tmp")), "what is half-written takes room that is missing"
    for path in out.glob("*.calls.jsonl"):
        Ledger(path)  # answers that were paid for; half a last line is told and left out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_ends_in_a_sentence_and_with_room_the_same_command_does_its_work(
    disk: Path, trained: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[name](trained, disk)
    refused = 0
    for size in (0, 8_192, 65_536):
        with room(disk, size):
            code = cli.main(command)
        told = capsys.readouterr().err
        if code:
            refused += 1
            assert code in (1, 2)
            assert_told(told)
            assert_nothing_looks_whole(disk)
        else:
            assert size, "there is no room at all"
            break
    assert refused >= (2 if name in ("merge", "import") or "export" in name else 1)
    if refused == 3:
        assert cli.main(command) == 0, capsys.readouterr().err
    if name == "merge":
        load_model(ModelSettings(model_name_or_path=str(disk / "model")), trainable=False)
    if name == "sample":
        assert len(read_examples(disk / "sampled.jsonl", require_judgment=False)) == 12


@pytest.mark.parametrize("name", ["merge", "export --to gguf", "export --to mlx-adapter", "import", "sample"])
def test_a_limit_on_the_size_of_files_ends_in_a_sentence(
    tmp_path: Path, trained: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    for size in (10, 1500):
        with largest_file(size):
            code = cli.main(COMMANDS[name](trained, tmp_path / "out"))
        assert code in (1, 2)
        assert_told(capsys.readouterr().err)
        assert_nothing_looks_whole(tmp_path / "out")


def test_a_card_that_cannot_be_written_leaves_the_old_one(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nlft_trainer(disk / "run", watch=0, max_steps=1).train()
    card = disk / "run" / "adapter" / "README.md"
    before = card.read_bytes()
    with room(disk, 0):
        assert cli.main(["card", str(disk / "run")]) in (1, 2)
    assert_told(capsys.readouterr().err)
    assert card.read_bytes() == before
    assert not list(disk.rglob("*.tmp"))
    assert cli.main(["card", str(disk / "run")]) == 0


def test_a_label_that_cannot_be_written_is_refused_and_the_earlier_ones_stay(disk: Path) -> None:
    labelling = opened(write_replies(disk / "replies.jsonl", [f"A board, {i}. {'Oak. ' * 200}" for i in range(40)]))
    decide(labelling, 0, label=True)

    def decide_all() -> None:  # a block may have room for some
        for place in range(1, 40):
            decide(labelling, place, label=False, judgment="Dull. " * 100)

    with room(disk, 0), pytest.raises(UserError, match="space"):
        decide_all()
    assert states(labelling)[0] == "liked"
    decide(labelling, 39, label=True)
    disliked = states(labelling).count("disliked")
    assert 0 <= disliked < 38
    kept = read_examples(labelling.out)
    assert [one.label for one in kept] == [True, *[False] * disliked, True]
    labelling.close()
