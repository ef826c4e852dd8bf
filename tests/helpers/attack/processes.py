"""Rows 11 to 15 and 20: several processes, what a resume is given, and signals."""

import contextlib
import functools
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

from helpers import tiny
from helpers.attack import Place, child, ended, nlft, refused, row
from helpers.kill_kinds import TRAINING, words_of
from helpers.kills import launched, of_run
from helpers.training import examples
from helpers.waiting import until
from nlft import cli
from nlft.data.records import write_examples
from nlft.experiments.demo import write_problems
from nlft.runs import lock
from nlft.runs.checkpoints import problem_of
from nlft.runs.run_dir import RunDir
from nlft.training.trainer import NLFTTrainer

SMALL = {**TRAINING, "watch": 0, "save_steps": 1, "save_total_limit": 9, "num_train_epochs": 2}
PAIR = {**SMALL, "lora_dropout": 0, "per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}


def train(place: Place, out: Path, **settings: object) -> list[str]:
    file = place.folder / "examples.jsonl"
    if not file.exists():
        write_examples(file, examples())
    chosen = {**SMALL, **settings}
    if chosen["save_strategy"] == "no":
        del chosen["save_steps"], chosen["save_total_limit"]  # which have no effect then
    return [str(word) for word in words_of("train", file, place.model, out, **chosen)]


def pair(place: Place) -> Path:
    """A run of two processes, started by torchrun. It is trained once for all rows."""
    out = place.shared / "pair" / "run"
    if not out.exists():
        out.parent.mkdir()
        write_examples(place.shared / "examples.jsonl", examples())
        how, _ = launched(lambda: two(place, out), out)
        assert how == "done", (out.parent / "killed.log").read_text()[-3000:]
    return out


def two(place: Place, out: Path) -> list[str]:
    return words_of("train", place.shared / "examples.jsonl", place.model, out, **PAIR, resume=None)


@row(11, "two processes over gloo beside one: loss and gradient norm", "nothing: equal to 1e-6", slow=True)
def _(place: Place) -> str:
    out = place.folder / "alone"
    settings = {**PAIR, "per_device_train_batch_size": 2}
    pair(place)
    told = nlft(*words_of("train", place.shared / "examples.jsonl", place.model, out, **settings))
    assert told.code == 0, told.text
    logs = [[one for one in RunDir(run).events() if "loss" in one] for run in (pair(place), out)]
    assert len(logs[0]) == len(logs[1]) >= 4
    worst = 0.0
    for theirs, ours in zip(*logs, strict=True):
        for name in ("loss", "grad_norm"):
            worst = max(worst, abs(theirs[name] - ours[name]) / abs(ours[name]))
    assert worst < 1e-4
    return f"{len(logs[0])} steps by torchrun, largest relative difference {worst:.0e}"


@row(12, "one of two processes killed, resumed with two", "nothing", slow=True)
def _(place: Place) -> str:
    wanted, seconds = of_run(pair(place)), []
    for victim in (0, 1):
        out = place.folder / f"victim-{victim}" / "run"
        out.parent.mkdir()
        start = time.monotonic()
        at = {0: 90, 1: 12}[victim]
        how, _ = launched(lambda out=out: two(place, out), out, at_operation=at, victim=victim, within="/run")
        assert how == "killed"
        seconds.append(time.monotonic() - start)
        how, _ = launched(lambda out=out: two(place, out), out)
        assert how == "done", (out.parent / "killed.log").read_text()[-3000:]
        assert of_run(out) == wanted
    return f"2 kills: torchrun ended within {max(seconds):.0f} s of its start; same adapter and events"


@row(13, "a checkpoint of two processes, resumed by one", "nothing: refused", slow=True)
def _(place: Place) -> str:
    out = place.folder / "run"
    shutil.copytree(pair(place), out)
    shutil.rmtree(out / "adapter")
    settings = {**PAIR, "resume_from_checkpoint": "true"}
    told = nlft(*words_of("train", place.shared / "examples.jsonl", place.model, out, **settings))
    refused(told, "2 processes")
    return "refused, with both numbers"


@row(
    14,
    "two trainings or tunes in one folder; torchrun on CPUs without --use_cpu",
    "3 tracebacks, mixed logs",
    slow=True,
)
def _(place: Place) -> str:
    out, tuned = place.folder / "run", place.folder / "tune"
    tuned.mkdir()
    write_problems(place.folder / "problems", 4, 4)

    def owner() -> int:
        def wait(*_: object, **__: object) -> None:
            with lock.owning(tuned):
                (place.folder / "begun").write_text("")
                time.sleep(100)

        NLFTTrainer.before_first_step = wait  # type: ignore[method-assign]  # in a forked process
        return cli.main(train(place, out))

    train(place, out)
    number = child(owner, place.folder / "log")
    try:
        until((place.folder / "begun").exists)
        tune = ["tune", place.folder / "problems" / "train.jsonl", "--model_name_or_path", place.model]
        sft = ["sft", *train(place, out)[1:6], "--use_cpu", "--target", "answer"]
        commands = [train(place, out), [*train(place, out), "--resume"], [*train(place, out), "--overwrite"]]
        commands += [[*tune, "--output_dir", tuned], sft]
        with mock.patch.object(lock.owning.__wrapped__, "__defaults__", ("choose another --output_dir", 0.0)):  # type: ignore[attr-defined]
            for command in commands:
                refused(nlft(*command), str(number), "--output_dir")
    finally:
        os.killpg(number, signal.SIGKILL)
        os.waitpid(number, 0)
    together = place.folder / "torchrun" / "run"
    together.parent.mkdir()
    words = train(place, together)
    at = words.index("--use_cpu")
    how, _ = launched(lambda: words[:at] + words[at + 2 :], together)
    if how == "done":  # accelerate has connected them
        steps = [event["step"] for event in RunDir(together).events() if "loss" in event]
        assert steps == sorted(set(steps))
    else:
        assert "--use_cpu" in (together.parent / "killed.log").read_text()
    told = nlft(*train(place, out), "--resume", "--max_steps", "1")
    assert told.code == 0, told.text
    assert str(number) in told.text
    started = "trains once" if how == "done" else "is refused"
    return f"{len(commands)} second owners refused by name, a dead one's lock taken over; torchrun {started}"


OTHER_SETTINGS = {
    "scheme": "cut",
    "seed": 1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "num_train_epochs": 5,
    "learning_rate": 0.02,
    "weight_decay": 0.1,
    "warmup_steps": 1,
    "lora_alpha": 3,
    "lora_r": 4,
    "lora_dropout": 0.3,
    "lora_target_modules": "q_proj",
    "use_rslora": "true",
    "dtype": "bfloat16",
    "optim": "sgd",
    "use_peft": "false",
    "saliency.mistake_ratio": 1.1,
    "answer_weight": 0.5,
}


def flipped(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": flipped,
    "zeros": lambda data: data[: len(data) // 2] + b"\0" * (len(data) - len(data) // 2),
    "half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


@row(15, "corrupted checkpoints and other inputs on resume", "18 other adapters, 23 tracebacks", slow=True)
def _(place: Place) -> str:
    whole = place.folder / "whole"
    assert nlft(*train(place, whole)).code == 0
    wanted, last = of_run(whole)["adapter"], max(RunDir(whole).checkpoints_path.glob("checkpoint-*"))

    def copy(name: str) -> Path:
        out = Path(shutil.copytree(whole, place.folder / name, dirs_exist_ok=True))
        shutil.rmtree(out / "adapter")
        return out

    spoilt = 0
    for path in sorted(last.iterdir()):
        for how, spoil in list(SPOILERS.items())[spoilt % 2 :: 2]:
            out = copy("spoilt")
            target = RunDir(out).checkpoints_path / last.name / path.name
            if len(path.read_bytes()) < 20:
                continue
            target.write_bytes(spoil(path.read_bytes()))
            told = nlft(*train(place, out), "--resume")
            assert told.code == 0, (path.name, how, told.text[-1500:])
            assert of_run(out)["adapter"] == wanted, (path.name, how)
            assert last.name in told.text, (path.name, how, told.text[-1500:])
            spoilt += 1
            shutil.rmtree(out)
    made, file = examples(), place.folder / "other.jsonl"
    edited = [replace(made[0], judgment="It is off by three."), *made[1:]]
    refusals = 0
    for data in (edited, made[::-1], made[:6], made + [replace(one, id=f"{one.id}b") for one in made]):
        write_examples(file, data)
        told = nlft("train", file, *train(place, copy("other"))[2:], "--resume")
        refused(told, "data")
        refusals += 1
    for name, value in OTHER_SETTINGS.items():
        how = [] if name == "use_peft" else ["was "]  # other settings have no effect then, and that is said first
        refused(nlft(*train(place, copy("other"), **{name: value}), "--resume"), name, *how)
        refusals += 1
    for family, seed in (("llama", 5), ("qwen3", 0)):
        other = place.folder / family
        tiny.model(family, seed=seed).save_pretrained(other)
        tiny.tokenizer().save_pretrained(other)
        words = train(replace(place, model=str(other)), copy("other"))
        refused(nlft(*words, "--resume"), "model_name_or_path")
        refusals += 1
    return f"{spoilt} spoilt files: the one before is taken, same adapter; {refusals} other inputs refused"


@row(
    20,
    "SIGINT once and twice, SIGTERM, SIGHUP: train, tune",
    "no checkpoint on SIGTERM",
    slow=True,
)
def _(place: Place) -> str:
    whole = place.folder / "whole"
    rare = {"save_steps": 3}  # so the checkpoint after step 1 or 2 is that of a signal
    assert nlft(*train(place, whole, **rare)).code == 0
    wanted, slowest, resumed = of_run(whole)["adapter"], 0.0, 0
    for name, signals in {
        "int": [signal.SIGINT],
        "term": [signal.SIGTERM],
        "hup": [signal.SIGHUP],
        "int-int": [signal.SIGINT, signal.SIGINT],
    }.items():
        out = place.folder / name
        work = functools.partial(slow_training, place, out, **rare)
        seconds = interrupted(work, out / "events.jsonl", signals, out, later=0.1)
        slowest, told = max(slowest, seconds), out.with_suffix(".log").read_text()
        assert "Traceback" not in told, told[-2000:]
        if name != "int-int":
            kept = [path for path in RunDir(out).checkpoints_path.glob("checkpoint-*") if problem_of(path) is None]
            assert len(kept) == 1
            assert kept[0].name in told
            assert "--resume" in told
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(out / "adapter")
        assert nlft(*train(place, out, **rare), "--resume").code == 0
        assert of_run(out)["adapter"] == wanted, name
        resumed += 1
    return f"{resumed} trainings ended within {slowest:.1f} s and go on to the same adapter; tune: {tune_ended(place)}"


ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""The exit code after a signal."""


def slow_training(place: Place, out: Path, **settings: object) -> int:
    step = NLFTTrainer.training_step

    def slow(self: NLFTTrainer, *rest: object, **more: object) -> object:
        time.sleep(0.2)
        return step(self, *rest, **more)

    NLFTTrainer.training_step = slow  # type: ignore[method-assign]  # in a forked process
    return cli.main(train(place, out, **settings))


def interrupted(
    work: Callable[[], int], sign: Path, signals: list[signal.Signals], out: Path, later: float = 0.0
) -> float:
    """Send signals to a child's process alone, after a file has a line. Return the seconds that it then took.

    Args:
        later: seconds after the line.
    """
    number = child(work, out.with_suffix(".log"))
    until(lambda: sign.exists() and sign.read_bytes().count(b"\n") >= 1)
    time.sleep(later)
    for one in signals:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, one)
        time.sleep(0.05)
    code, seconds = ended(number, 30)
    seconds += 0.05  # the last sleep
    assert code == ENDS[signals[0]], (code, out.with_suffix(".log").read_text()[-2000:])
    until(lambda: not alive(number), 20)
    return seconds


def alive(group: int) -> bool:
    """Whether any process of a group is there still."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def tune_ended(place: Place) -> str:
    file = place.folder / "problems"
    write_problems(file, 8, 4)
    found = []
    for name, one in (("int", signal.SIGINT), ("term", signal.SIGTERM), ("hup", signal.SIGHUP)):
        out = place.folder / f"tune-{name}"
        words = ["tune", file / "train.jsonl", "--model_name_or_path", place.model, "--output_dir", out]
        words += ["--max_new_tokens", 4, "--max_steps", 4, "--dtype", "float32", "--limit", 4, "--test_share", 0.25]
        words += ["--keep_truncated", "true", "--arms", "base", "nlft"]
        log = out / "sampled.calls.jsonl"
        seconds = interrupted(lambda words=words: cli.main([str(word) for word in words]), log, [one], out)
        found.append(f"{seconds:.1f} s")
        assert "Traceback" not in (told := out.with_suffix(".log").read_text()), told[-2000:]
    return f"{', '.join(found)}, and no process is left"
