"""Rows 16 to 19, 22, 26 and 30: full and read-only disks, large files, other users, foreign code."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import load_file

from helpers.attack import Place, child, ended, nlft, refused, row
from helpers.attack.processes import train
from helpers.kill_kinds import words_of
from helpers.kills import of_run
from helpers.training import examples
from nlft.data.records import write_examples
from nlft.experiments.demo import write_problems
from nlft.runs.run_dir import RunDir
from nlft.training.steering import Steering

NO_MOUNT = "not tried: only root may mount a small disk"


class Disk:
    """A small file system in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def mount(self, kib: int) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(self.path)]
        return bool(shutil.which("mount")) and subprocess.run(words, capture_output=True).returncode == 0

    def change(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True, capture_output=True)


@contextlib.contextmanager
def disk(place: Place, kib: int) -> Iterator[Disk | None]:
    """A disk of so many KiB, or None where this user may mount nothing."""
    made = Disk(Path(tempfile.mkdtemp(dir=place.folder)) / "disk")
    if not made.mount(kib):
        yield None
        return
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(made.path)], check=True)


def kib(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4 for path in folder.rglob("*") if path.is_file())


@row(16, "full disk, scheduled checkpoints: train, sft", "16 tracebacks", slow=True)
def _(place: Place) -> str:
    file, told = place.folder / "examples.jsonl", []
    write_examples(file, examples())
    common = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "max_steps": 4, "use_cpu": None}
    common |= {"per_device_train_batch_size": 3, "dtype": "float32", "disable_tqdm": "true", "lora_r": 2}
    for name, own in (("train", {"watch": 0}), ("sft", {"target": "answer"})):
        whole = place.folder / name
        done = nlft(*words_of(name, file, place.model, whole, **common, **own))
        assert done.code == 0, done.text
        wanted, size = of_run(whole)["adapter"], kib(whole)
        for share in (0.2, 0.4, 0.6, 0.8):
            with disk(place, int(share * size)) as small:
                if small is None:
                    return NO_MOUNT
                words = words_of(name, file, place.model, small.path / "run", **common, **own)
                full = nlft(*words)
                refused(full, "disk")
                assert not (small.path / "run" / "adapter").exists()
                small.change("size=20m")
                again = nlft(*words, "--resume")
                assert again.code == 0, again.text
                assert of_run(small.path / "run")["adapter"] == wanted
                told.append(full)
    return f"{len(told)} full disks: a sentence, and with room the resumed run ends as the unbroken one"


@row(17, "full disk: evaluate, sample", "2 tracebacks of 6", slow=True)
def _(place: Place) -> str:
    write_problems(place.folder / "problems", 4, 24)
    asked = [place.folder / "problems" / "test.jsonl", "--model_name_or_path", place.model, "--dtype", "float32"]
    asked += ["--max_new_tokens", 40]
    tries = 0
    for command, name in (("evaluate", "evaluation.json"), ("sample", "samples.jsonl")):
        assert nlft(command, *asked, "--out", place.folder / name).code == 0
        wanted = answers(place.folder / name)
        for size in (8, 12, 16):
            with disk(place, size) as small:
                if small is None:
                    return NO_MOUNT
                words = [command, *asked, "--out", small.path / name]
                refused(nlft(*words), "disk")
                assert not (small.path / name).exists()
                small.change("size=20m")
                again = nlft(*words)
                assert again.code == 0, again.text
                assert answers(small.path / name) == wanted
                tries += 1
    return f"{tries} full disks: a sentence each; with room the same answers"


def answers(path: Path) -> list[str]:
    if path.suffix == ".json":
        return [one["output"] for one in json.loads(path.read_text())["questions"]]
    return [json.loads(line)["completion"] for line in path.read_text().splitlines()]


def filler(run: RunDir, ballast: Path, left: int) -> Callable[[Steering, int], None]:
    """In place of `take_requests`: ask for a save at step 3, when so many KiB are free, and make room after it."""
    take, asked = Steering.take_requests, []

    def filling(self: Steering, step: int) -> None:
        if step == 3 and not asked:
            asked.append(run.write_request("save", None, "page"))
            ballast.write_bytes(b"\0" * max(0, shutil.disk_usage(ballast.parent).free - left * 1024))
        take(self, step)
        ballast.unlink(missing_ok=True)

    return filling


@row(18, "full disk when a save is asked for", "7 of 7 runs died", slow=True)
def _(place: Place) -> str:
    refusals, room = 0, (4, 20, 60, 100, 130)
    for left in room:
        with disk(place, 20_000) as small:
            if small is None:
                return NO_MOUNT
            run = RunDir(small.path / "run")
            filling = filler(run, small.path / "ballast", left)
            with mock.patch.object(Steering, "take_requests", filling):
                told = nlft(*train(place, run.path, save_strategy="no"))
            assert told.code == 0, told.text
            assert (run.adapter_path / "adapter_model.safetensors").is_file()
            lines = run.controls()
            assert len(lines) == 1, lines
            line = lines[0]
            refusals += not line["taken"]
            assert not line["taken"] or left > 60, line
            assert line["taken"] or "disk" in line["reason"] or "space" in line["reason"]
            assert len(list(run.checkpoints_path.glob("checkpoint-*"))) == int(line["taken"])
    return f"{len(room)} saves, {refusals} refused with the reason; every run went on to its adapter"


@row(19, "read-only output", "5 tracebacks of 10 commands", slow=True)
def _(place: Place) -> str:
    write_problems(place.folder / "problems", 4, 4)
    run, model = place.folder / "run", ["--model_name_or_path", place.model]
    assert nlft(*train(place, run, max_steps=1, save_strategy="no", watch=2)).code == 0
    file, questions = place.folder / "examples.jsonl", place.folder / "problems" / "test.jsonl"
    asked = [*model, "--max_new_tokens", 2]
    trained = {"max_steps": 1, "use_cpu": None, "save_strategy": "no"}
    with disk(place, 4000) as small:
        if small is None:
            return NO_MOUNT
        (small.path / "a file").write_text("here")
        small.change("ro")
        commands = {}
        for where in (small.path, small.path / "a file"):
            commands |= {
                f"train {where}": train(place, where / "r"),
                f"sft {where}": words_of("sft", file, place.model, where / "r", target="answer", **trained),
                f"kto {where}": words_of("kto", file, place.model, where / "r", **trained),
                f"reft {where}": words_of("reft", questions, place.model, where / "r", **trained),
                f"rounds {where}": ["rounds", questions, *model, "--output_dir", where / "r", "--max_new_tokens", 2],
                f"tune {where}": ["tune", questions, *model, "--output_dir", where / "r", "--max_new_tokens", 2],
                f"compare {where}": ["compare", file, *model, "--output_dir", where / "r", "--max_new_tokens", 2],
                f"sample {where}": ["sample", questions, *asked, "--out", where / "s.jsonl"],
                f"evaluate {where}": ["evaluate", questions, *asked, "--out", where / "e.json"],
                f"judge {where}": ["judge", file, "--out", where / "j.jsonl"],
                f"build {where}": ["build", file, "--out", where / "b.jsonl"],
                f"audit {where}": ["audit", file, "--html", where / "a.html"],
                f"merge {where}": ["merge", "--adapter", run, *model, "--out", where / "merged"],
                f"replay {where}": ["replay", run, "--output_dir", where / "again"],
                f"map {where}": ["map", run, "--html", where / "m.html"],
                f"import {where}": ["import", file, "--out", where / "i.jsonl"],
            }
        for name, words in commands.items():
            try:
                refused(nlft(*words))
            except Exception as error:
                raise AssertionError(name) from error
        assert [path.name for path in small.path.iterdir()] == ["a file"]
    return f"{len(commands)} commands, each refused in a sentence"


@row(22, "10,000 examples: read, audit, build, judge, train", "12 to 16 s to read .json", slow=True)
def _(place: Place) -> str:
    made = [
        {"id": f"e{at}", "prompt": f"What is {at} + {at % 97}?", "completion": f"It is {at + at % 97 + at % 3}.",
         "label": at % 3 == 0, "answer": f"#### {at + at % 97}", "judgment": None if at % 3 == 0 else "The sum is off."}
        for at in range(10_000)
    ]  # fmt: skip
    lines, whole = place.folder / "e.jsonl", place.folder / "e.json"
    lines.write_text("".join(json.dumps(one) + "\n" for one in made))
    whole.write_text(json.dumps(made, indent=1))
    took = {}
    for name, words in {
        "build .jsonl": ["build", lines, "--out", place.folder / "b1.jsonl"],
        "build .json": ["build", whole, "--out", place.folder / "b2.jsonl"],
        "audit": ["audit", lines],
        "judge": ["judge", lines, "--out", place.folder / "j.jsonl"],
        "train": train(place, place.folder / "run", max_steps=2, save_strategy="no"),
    }.items():
        words = ["train", lines, *words[2:]] if name == "train" else words
        start = time.process_time()
        told = nlft(*words, seconds=600)
        took[name] = time.process_time() - start
        assert told.code == 0, (name, told.text[-1500:])
    assert took["build .json"] < 2 * took["build .jsonl"]
    assert max(took.values()) < 120
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert peak < 4
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()) + f"; {peak:.1f} GiB with all before"


@row(26, "another local user reads, and writes a request", "could read run.yaml and prompts")
def _(place: Place) -> str:
    if os.geteuid():
        return "not tried: only root may become another user"
    found = {}
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        for name, mask in (("usual", 0o022), ("private", 0o077)):
            before = os.umask(mask)
            try:
                told = nlft(*train(place, Path(home) / name, max_steps=1, watch=2))
            finally:
                os.umask(before)
            assert told.code == 0, told.text
            code, _ = ended(child(lambda name=name: as_nobody(Path(home) / name), place.folder / "log"), 30)
            found[name] = code
    assert found == {"usual": 2, "private": 0}, (found, (place.folder / "log").read_text())
    return "writes nothing; reads all of a run with umask 022, nothing with 077: the modes are the user's, and agree"


def as_nobody(run: Path) -> int:
    """Return 1 if another user may write into a run, plus 2 if it may read all of it, plus 4 if it may read a part."""
    files = [path for path in run.rglob("*") if path.is_file()]
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    writes, reads = False, []
    for folder in (run, run / "requests", run / "checkpoints"):
        with contextlib.suppress(OSError):
            (folder / "x.json").write_text("{}")
            writes = True
    for path in files:
        reads.append(False)
        with contextlib.suppress(OSError):
            path.read_bytes()
            reads[-1] = True
    return writes + 2 * all(reads) + 4 * (any(reads) and not all(reads))


class _Payload:
    """A pickle that writes a file when it is opened."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.sign}'",)


@row(30, "foreign code: pickles, auto_map, tags in YAML, scripts as data", "2 of 10 ran or were read", slow=True)
def _(place: Place) -> str:
    sign, tries = place.folder / "ran", []
    bomb = pickle.dumps(_Payload(sign))
    code = f"open({str(sign)!r}, 'w')\nclass M: pass\n"
    run = place.folder / "run"
    assert nlft(*train(place, run, max_steps=2)).code == 0
    assert nlft(*train(place, place.folder / "whole", max_steps=2)).code == 0

    def model(name: str) -> Path:
        return Path(shutil.copytree(place.model, place.folder / name))

    def tried(name: str, *words: object, refuse: bool = True) -> None:
        with mock.patch("builtins.input", return_value="y"):
            told = nlft(*words)
        assert not sign.exists(), name
        if refuse:
            refused(told)
        else:
            assert told.code == 0, (name, told.text[-1500:])
        tries.append(name)

    def on(folder: Path, *more: object) -> list[object]:
        questions = place.folder / "q.jsonl"
        questions.write_text('{"id": 1, "prompt": "2 + 3?", "answer": "5"}\n')
        out = place.folder / f"out-{len(tries)}.json"
        return ["evaluate", questions, "--model_name_or_path", folder, "--max_new_tokens", 2, "--out", out, *more]

    only = model("pickled")
    (only / "model.safetensors").unlink()
    (only / "pytorch_model.bin").write_bytes(bomb)
    tried("model .bin", *on(only))
    beside = model("beside")
    (beside / "pytorch_model.bin").write_bytes(bomb)
    tried(".bin beside safetensors", *on(beside), refuse=False)
    for name, file in (("model", "config.json"), ("tokenizer", "tokenizer_config.json")):
        own = model(f"own-{name}")
        (own / "own.py").write_text(code)
        kinds = {"AutoConfig": "own.M", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.M", None]}
        changed = json.loads((own / file).read_text()) | {"auto_map": kinds}
        if name == "model":
            changed["model_type"] = "own"
        (own / file).write_text(json.dumps(changed))
        tried(f"auto_map of a {name}", *on(own), refuse=name == "model")
    adapter = Path(shutil.copytree(run / "adapter", place.folder / "adapter"))
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    tried("adapter .bin", *on(Path(place.model), "--adapter", adapter))
    (adapter / "adapter_model.bin").write_bytes(bomb)
    tried("adapter that is a bomb", *on(Path(place.model), "--adapter", adapter))
    for path in RunDir(run).checkpoints_path.glob("checkpoint-*"):
        for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "scaler.pt"):
            (path / name).write_bytes(bomb)
    shutil.rmtree(run / "adapter")
    tried("pickles in a checkpoint", *train(place, run, max_steps=2), "--resume", refuse=False)
    assert of_run(run)["adapter"] == of_run(place.folder / "whole")["adapter"]
    tag = f"!!python/object/apply:os.system ['touch {sign}']\n"
    (place.folder / "c.yaml").write_text(f"learning_rate: {tag}")
    tried("tag in a config", *train(place, place.folder / "r2"), "--config", place.folder / "c.yaml")
    (run / "run.yaml").write_text(f"format_version: 1\nscheme: {tag}")
    tried("tag in run.yaml", "map", run, "--html", place.folder / "m.html")
    (place.folder / "data.py").write_text(code)
    tried("script as data", "audit", place.folder / "data.py")
    (place.folder / "data.pkl").write_bytes(bomb)
    tried("pickle as data", "audit", place.folder / "data.pkl")
    return f"{len(tries)} tries, nothing ran: {', '.join(tries)}"
