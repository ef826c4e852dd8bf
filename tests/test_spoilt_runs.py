"""A run directory from anywhere: each spoilt file is named, with its line, and no command ends in a traceback.

The corrupter is seeded. `pytest -m long tests/test_spoilt_runs.py` tries many more.
"""

import contextlib
import json
import random
import shutil
import time
from pathlib import Path

import pytest
import yaml

from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples
from nlft.digests import check_manifest
from nlft.errors import NLFTError, UserError
from nlft.experiments.arms import few_shot, record_arm
from nlft.experiments.cells import cell_result
from nlft.experiments.inputs import StageRecord, changed_inputs
from nlft.experiments.settings import TuneSettings
from nlft.experiments.staged import Staged
from nlft.page.live import LiveRun
from nlft.runs.card_facts import known_of
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.runs.controls import state_of
from nlft.runs.listing import RunList
from nlft.runs.model_card import write_card
from nlft.runs.run_dir import FORMAT_VERSION, RunDir
from nlft.training.start import last_checkpoint, what_is_left

NAMES = (
    *("run.yaml", "events.jsonl", "controls.jsonl", "heartbeat.json", "saliency/examples.json"),
    *("adapter/manifest.json", "adapter/adapter_config.json", "evaluation.json", "collateral.json"),
    *("checkpoints/checkpoint-2/manifest.json", "checkpoints/checkpoint-2/run.yaml", "run.lock"),
    "saliency/step-00000002.safetensors",
)
SECONDS = 10.0  # the longest call; each takes a few milliseconds


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder):
    """A small run of `nlft train`, with everything that a run can have."""
    folder = tmp_path_factory.mktemp("whole")
    write_examples(folder / "examples.jsonl", examples())
    options = {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 9,
        "max_steps": 2,
        "watch": 2,
        "watch_share": 1,
    }
    options |= {"per_device_train_batch_size": 3, "use_cpu": True, "dtype": "float32", "logging_steps": 1, "lora_r": 2}
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    argv = [str(folder / "examples.jsonl"), "--model_name_or_path", model_folder, "--output_dir", str(folder / "run")]
    assert cli.main(["train", *argv, *flags]) == 0
    run = RunDir(folder / "run")
    run.write_request("save", None, "page")
    line = {"id": "a", "step": 2, "time": "t", "who": "cli", "control": "learning_rate", "old": 1.0, "new": 0.5}
    run.append_control({**line, "taken": True, "reason": None})
    run.evaluation_path.write_text('{"format_version": 1, "summary": {"accuracy": {}}, "questions": []}')
    run.collateral_path.write_text("{}")
    (run.path / "run.lock").write_text('{"pid": 1}')
    return folder, [*argv, *flags]


@pytest.fixture
def copied(whole, tmp_path):
    folder, argv = whole
    shutil.copytree(folder, tmp_path / "w")
    return RunDir(tmp_path / "w" / "run"), [word.replace(str(folder), str(tmp_path / "w")) for word in argv]


BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
)
WHOLE_FILES = [
    *(b"", b"{}", b"[]", b"null", b"3", b'"text"', b"\0" * 50, b"\xff\xfe\xff", b"[" * 20_000, b"{" * 20_000),
    *(
        b'{"a":' * 20_000,
        b"- " * 20_000,
        BOMB.encode(),
        b"a: &a [*a]",
        b"1: 2\n",
        b"{}\n[]\n3\n",
        b"!!python/name:os.system",
    ),
    b'{"format_version": "one"}',
    b'{"step": "x"}\n',
    b'{"step": 1e400}\n{"step": 9999999999999999999999999}\n',
]
ODD = [None, True, -1, 10**400, 1e308, float("nan"), "", "x" * 5000, "\ud800", [], {}, [[]], {"a": {"b": []}}, "\0"]


def odd_value(content, rng):
    """Put a strange value at a random place of a structure."""
    at, parent = content, None
    while isinstance(at, dict | list) and at and (parent is None or rng.random() < 0.8):
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        parent, at = (at, key), at[key]
    if parent is not None:
        holder, key = parent
        if isinstance(holder, dict) and rng.random() < 0.3:
            del holder[key]
        else:
            holder[key] = rng.choice(ODD)
    return content


def spoil(path, rng):
    """Spoil a file in one of many ways."""
    data = path.read_bytes() if path.is_file() else b""
    how = rng.randrange(6)
    if how == 0 or not data:
        data = rng.choice(WHOLE_FILES)
    elif how == 1:
        data = data[: rng.randrange(len(data))]
    elif how == 2:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    elif how == 3:
        at = rng.randrange(len(data))
        data = data[:at] + rng.choice([b"\0", b"\xff", b"\n", b"}", b"[", b"{}\n", b"  "]) + data[at:]
    elif path.suffix == ".yaml":
        data = yaml.safe_dump(odd_value(yaml.safe_load(data), rng)).encode()
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in data.splitlines()]
        data = "".join(json.dumps(one) + "\n" for one in odd_value(lines, rng)).encode()
    elif path.suffix == ".json":
        data = json.dumps(odd_value(json.loads(data), rng)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def read_everything(run):
    """Every reader that commands and the page call. Each may refuse with a `NLFTError`; nothing else."""
    readers = [
        *(run.settings, run.events, run.controls, run.watched, run.heartbeat, run.snapshot_steps, run.pending_requests),
        *(lambda: run.snapshot(2), lambda: state_of(run.settings(), run.controls()), lambda: known_of(run, examples=2)),
        *(lambda: write_card(run, examples=2), lambda: last_checkpoint(run, 1), lambda: what_is_left(run)),
        *(lambda: [problem_of(one) for one in checkpoints_of(run)], lambda: check_manifest(run.adapter_path)),
        *(lambda: RunList(run.path.parent).rows(), lambda: follow(run)),
    ]
    for read in readers:
        began = time.monotonic()
        with contextlib.suppress(NLFTError, FileNotFoundError):
            read()
        assert time.monotonic() - began < SECONDS, read


def follow(run):
    live = LiveRun(run)
    live.about()
    live.changes(-1, -1, 0, 0)
    live.poll()
    json.dumps([live.version, live.state()])


def fuzz(run, seed, tries):
    rng = random.Random(seed)
    kept = {name: (run.path / name).read_bytes() for name in NAMES}
    for at in range(tries):
        spoiled = rng.sample(NAMES, rng.choice([1, 1, 1, 2]))
        for name in spoiled:
            spoil(run.path / name, rng)
        try:
            read_everything(run)
        except Exception as error:
            error.add_note(
                f"try {at} of seed {seed}: {spoiled}: {[(run.path / n).read_bytes()[:300] for n in spoiled]}"
            )
            raise
        for name in spoiled:
            (run.path / name).write_bytes(kept[name])


def test_no_spoilt_file_of_a_run_is_a_traceback(copied, capsys):
    fuzz(copied[0], seed=0, tries=50)


COMMANDS = {
    "map": lambda run, argv: ["map", str(run.path), "--html", str(run.path.parent / "map.html")],
    "card": lambda run, argv: ["card", str(run.path)],
    "replay": lambda run, argv: ["replay", str(run.path), "--anyway"],
    "resume": lambda run, argv: ["train", *argv, "--resume"],
    "evaluate": lambda run, argv: [
        *("evaluate", argv[0], "--adapter", str(run.path), "--model_name_or_path", argv[2], "--max_new_tokens", "1"),
        *("--limit", "1", "--overwrite"),
    ],
    "export": lambda run, argv: ["export", str(run.path), "--to", "vllm", "--model_name_or_path", argv[2]],
}
SPOILT = [
    ("run.yaml", BOMB.encode(), ["map", "card", "replay", "evaluate", "export"]),
    ("run.yaml", b"format_version: 2\n", ["map", "card", "replay", "export"]),
    ("run.yaml", b"[" * 20_000, ["map", "replay"]),
    ("events.jsonl", b'{"step": 1}\n[]\n', ["card", "resume"]),
    ("controls.jsonl", b"\xff\n", ["card", "replay", "resume"]),
    ("saliency/examples.json", b'{"format_version": 1, "examples": [{}]}', ["map"]),
    ("checkpoints/checkpoint-2/manifest.json", b"[]", []),
    ("adapter/adapter_config.json", b"{}", ["evaluate", "export"]),
    ("evaluation.json", b'{"summary": 3}', []),
]


@pytest.mark.parametrize(("name", "content", "refused"), SPOILT, ids=[f"{n}-{c[:8]!r}" for n, c, _ in SPOILT])
def test_no_command_ends_in_a_traceback_over_a_spoilt_file(copied, capsys, name, content, refused):
    run, argv = copied
    (run.path / name).write_bytes(content)
    for command in refused or ("map", "card", "resume"):
        code = cli.main(COMMANDS[command](run, argv))
        told = capsys.readouterr().err
        assert code == (2 if command in refused else 0), (command, told)
        if refused:
            assert Path(name).name in told, (command, told)
            assert "CSafeLoader" not in told


def test_a_newer_format_is_refused_by_every_reader_with_both_versions(copied):
    run, _ = copied
    newer = FORMAT_VERSION + 1
    run.write_settings({**run.settings(), "format_version": newer})
    watched = run.saliency_path / "examples.json"
    watched.write_text(json.dumps({**json.loads(watched.read_text()), "format_version": newer}))
    for read in (run.settings, run.watched):
        with pytest.raises(UserError) as refused:
            read()
        assert str(newer) in str(refused.value)
        assert str(FORMAT_VERSION) in str(refused.value)
        assert "upgrade" in str(refused.value)
    manifest = run.checkpoints_path / "checkpoint-2" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format_version": newer}))
    assert str(newer) in problem_of(manifest.parent)


def test_the_line_of_a_spoilt_file_is_named(copied):
    run, _ = copied
    lines = run.events_path.read_bytes().splitlines(keepends=True)
    run.events_path.write_bytes(lines[0] + b'{"step": "three"}\n' + b"".join(lines[1:]))
    with pytest.raises(UserError, match=r"events\.jsonl:2.*step.*three"):
        run.events()
    run.settings_path.write_text("scheme: nlft\nseed: [1\nfile: x\n")
    with pytest.raises(UserError, match=r"run\.yaml:3"):
        run.settings()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_one_flipped_bit_of_an_adapter_is_refused_by_name(copied, capsys, name):
    run, argv = copied
    path = run.adapter_path / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert cli.main(COMMANDS["evaluate"](run, argv)) == 2
    told = capsys.readouterr().err
    assert name in told
    assert "checkpoint-2" in told


@pytest.mark.parametrize("name", ["optimizer.safetensors", "adapter_model.safetensors"])
def test_one_flipped_bit_of_a_checkpoint_is_named_and_the_one_before_is_taken(copied, capsys, name):
    run, _ = copied
    path = run.checkpoints_path / "checkpoint-2" / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert last_checkpoint(run, 1).name == "checkpoint-1"
    told = capsys.readouterr().err
    assert "checkpoint-2" in told
    assert name in told


def test_a_spoilt_run_can_still_be_replaced(copied, capsys):
    run, argv = copied
    run.events_path.write_bytes(b"[]\n")
    assert cli.main(["train", *argv]) == 2
    assert "events.jsonl" in capsys.readouterr().err
    assert cli.main(["train", *argv, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("settings.json", lambda folder: Staged("q", {}, TuneSettings(output_dir=str(folder))).record_settings()),
        ("stages.json", lambda folder: StageRecord(folder).state("test.jsonl")),
        ("inputs.json", lambda folder: changed_inputs(folder, {})),
        ("arm.json", lambda folder: record_arm(few_shot(2), folder)),
        ("result.json", lambda folder: cell_result(folder, "final")),
        ("failed.json", lambda folder: cell_result(folder, "final")),
    ],
)
def test_spoilt_files_of_stages_are_no_traceback(tmp_path, name, read):
    (tmp_path / "test.jsonl").write_text("")
    for content in WHOLE_FILES:
        (tmp_path / name).write_bytes(content)
        with contextlib.suppress(UserError):
            read(tmp_path)


def test_a_run_of_another_umask_is_readable_by_the_same_people(whole):
    folder, _ = whole
    modes = {oct(path.stat().st_mode & 0o777) for path in (folder / "run").rglob("*") if path.is_file()}
    assert len(modes) == 1


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_thousands_of_spoilt_files_are_no_traceback(copied, capsys, seed):
    fuzz(copied[0], seed, tries=2000)
