"""Rows 1 to 10: commands that are killed and go on."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from helpers.attack import Place, nlft, row
from helpers.fault_proxy import AnsweringServer, answer_to
from helpers.kill_kinds import TRAINING, kill, words_of
from helpers.kills import Tally, by_operation, forked, of_run
from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples
from nlft.experiments.demo import write_problems
from nlft.runs.run_dir import RunDir
from nlft.training.manifest import recover
from nlft.training.start import last_checkpoint
from nlft.training.steering import Steering


def nothing_lost(*tallies: Tally) -> str:
    for tally in tallies:
        assert tally.lost == []
    count, runs = sum(tally.kills for tally in tallies), sum(tally.runs for tally in tallies)
    return f"{count} kills over {runs} runs: same adapters, events and controls; 0 lost"


@row(
    1,
    "train, killed at random times: dropout and accumulation; bf16; DoRA",
    "loss and tokens after a resume",
    slow=True,
)
def _(place: Place) -> str:
    counts = {"train": 8, "bf16": 4, "dora": 4}
    return nothing_lost(*(kill(name, place.folder / name, place.model, n, seed=n) for name, n in counts.items()))


@row(2, "train, killed while a checkpoint is written", "nothing", slow=True)
def _(place: Place) -> str:
    return nothing_lost(kill("train", place.folder, place.model, 8, seed=3, within=".writing", draw=by_operation))


@row(3, "train, killed at a chosen operation on files", "nothing", slow=True)
def _(place: Place) -> str:
    return nothing_lost(kill("train", place.folder, place.model, 16, seed=5, draw=by_operation))


@row(4, "steered with saves, killed while requests are taken", "5 of 8 runs had another adapter", slow=True)
def _(place: Place) -> str:
    found = nothing_lost(kill("train", place.folder, place.model, 6, seed=7, within="requests", draw=by_operation))
    run = place.folder / "try-1" / "run"
    told = nlft("replay", run, "--output_dir", place.folder / "again")
    assert told.code == 0, told.text
    assert of_run(place.folder / "again")["adapter"] == of_run(run)["adapter"]
    return f"{found}; a replay of a killed run has its adapter"


@row(5, "steered without saves, killed", "nothing", slow=True)
def _(place: Place) -> str:
    return nothing_lost(kill("steered", place.folder, place.model, 8, seed=11)) + "; each request answered once"


@row(6, "killed while a checkpoint replaces one of the same step", "6 of 8 kills left none to resume from", slow=True)
def _(place: Place) -> str:
    write_examples(place.folder / "examples.jsonl", examples())
    counted = {}

    def start(out: Path, save: bool) -> int:
        take, run = Steering.take_requests, RunDir(out)

        def asking(self: Steering, step: int) -> None:
            if save and step == 5 and not run.controls(superseded=True):
                run.write_request("save", None, "page")  # step 4 has its checkpoint
            take(self, step)

        Steering.take_requests = asking  # type: ignore[method-assign]  # in a forked process
        settings = {**TRAINING, "watch": 0, "save_total_limit": 1}
        return cli.main(words_of("train", place.folder / "examples.jsonl", place.model, out, **settings, resume=None))

    for save in (False, True):
        out = place.folder / f"whole-{save}" / "run"
        out.parent.mkdir()
        how, counted[save] = forked(lambda out=out, save=save: start(out, save), out, within="checkpoint-4")
        assert how == "done"
    wanted = of_run(place.folder / "whole-False" / "run")["adapter"]
    first = next(at for at in range(counted[True], 0, -max(1, counted[False] // 8)) if at <= counted[True] // 2)
    points = sorted({*range(first, counted[True] + 1, max(1, (counted[True] - first) // 8))})
    kills = 0
    for at in points:
        out = place.folder / f"at-{at}" / "run"
        out.parent.mkdir()
        how, _ = forked(lambda out=out: start(out, True), out, at_operation=at, within="checkpoint-4")
        assert how == "killed", at
        kills += 1
        recover(RunDir(out))
        last = last_checkpoint(RunDir(out), 1)
        assert last is not None, f"no checkpoint after a kill at operation {at} of {counted[True]}"
        how, _ = forked(lambda out=out: start(out, False), out)
        assert (how, of_run(out)["adapter"]) == ("done", wanted)
    return f"{kills} kills: a whole checkpoint each time, and the same adapter; 0 lost"


@row(7, "sft, kto, reft and DPO, killed", "kto and reft saved nothing by default", slow=True)
def _(place: Place) -> str:
    counts = {"sft": 4, "kto": 4, "reft": 4, "dpo": 3}
    return nothing_lost(*(kill(name, place.folder / name, place.model, n, seed=n + 1) for name, n in counts.items()))


@row(8, "tune, rounds and compare, killed", "the stage or cell that was cut began anew", slow=True)
def _(place: Place) -> str:
    counts = {"tune": 5, "rounds": 4, "compare": 3}
    found = nothing_lost(*(kill(name, place.folder / name, place.model, n, seed=n + 2) for name, n in counts.items()))
    return f"{found}; a cut arm goes on from its checkpoint"


@row(
    9,
    "sample: two processes on one ledger of a paid server, killed",
    "nothing: 48 repeats, under way at kills",
    slow=True,
)
def _(place: Place) -> str:
    count, concurrency, kills, rng = 120, 4, 0, random.Random(1)
    questions, ledger = place.folder / "q.jsonl", place.folder / "answers.calls.jsonl"
    rows = [{"id": f"q{at}", "prompt": f"What is {at}+1?", "answer": str(at + 1)} for at in range(count)]
    questions.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with AnsweringServer(seconds=0.05) as server:

        def sampling(number: int) -> subprocess.Popen[bytes]:
            words = ["sample", questions, "--out", place.folder / f"{number}.jsonl", "--ledger", ledger, "--base_url"]
            words += [server.url, "--model_name_or_path", "m", "--concurrency", concurrency]
            started = [sys.executable, "-m", "nlft", *map(str, words)]
            log = (place.folder / f"{number}.log").open("ab")
            return subprocess.Popen(started, stdout=log, stderr=log)

        both = [sampling(number) for number in (0, 1)]
        while kills < 6:
            asked = len(server.bodies)
            while len(server.bodies) < asked + 6 and any(one.poll() is None for one in both):
                time.sleep(0.01)
            if all(one.poll() is not None for one in both):
                break
            victim = rng.randrange(2)
            both[victim].send_signal(signal.SIGKILL)
            both[victim].wait()
            kills += 1
            both[victim] = sampling(victim)
        for number, one in enumerate(both):
            assert one.wait(timeout=120) == 0, (place.folder / f"{number}.log").read_text()[-2000:]
        asked = [json.dumps(body["messages"], sort_keys=True) for body in server.bodies]
    repeats = len(asked) - len(set(asked))
    assert kills >= 4
    assert len(set(asked)) == count
    assert repeats <= concurrency * kills
    for number in (0, 1):
        replies = [json.loads(text) for text in (place.folder / f"{number}.jsonl").read_text().splitlines()]
        assert len(replies) == count
        expected = {one["id"]: answer_to([{"role": "user", "content": one["prompt"]}]) for one in rows}
        assert sum(one["completion"] in expected.values() for one in replies) == count
    return f"{kills} kills: {count} answers, {repeats} repeats, all under way at a kill (bound {concurrency * kills})"


@row(10, "evaluate, killed, its log torn, killed again", "never started again", slow=True)
def _(place: Place) -> str:
    write_problems(place.folder / "problems", 4, 16)
    whole, cut = place.folder / "whole" / "run", place.folder / "cut" / "run"

    def start(out: Path) -> int:
        asked = ["evaluate", place.folder / "problems" / "test.jsonl", "--model_name_or_path", place.model, "--dtype"]
        asked += ["float32", "--max_new_tokens", 5, "--eval_batch_size", 2, "--out", out / "evaluation.json"]
        return cli.main([str(word) for word in asked])

    for out in (whole, cut):
        out.mkdir(parents=True)
    how, count = forked(lambda: start(whole), whole, within="calls")
    assert how == "done", (whole.parent / "killed.log").read_text()
    kills = 0
    for at, torn in ((count // 3, b'{"hash": "8c'), (count // 3, b"\xff\x00{"), (count // 4, b"[1,"), (2, b'{"a"')):
        how, _ = forked(lambda: start(cut), cut, at_operation=max(2, at), within="calls")
        kills += how == "killed"
        log = cut / "evaluation.calls.jsonl"
        log.write_bytes((log.read_bytes() if log.exists() else b"") + torn)
    how, _ = forked(lambda: start(cut), cut)
    assert how == "done", (cut.parent / "killed.log").read_text()[-2000:]
    assert kills >= 2
    found = [json.loads((out / "evaluation.json").read_text())["questions"] for out in (whole, cut)]
    assert found[0] == found[1]
    return f"{kills} kills and 4 torn lines: it goes on, and the result is the unbroken one's"
