"""`nlft tune` on a tiny model: its stages run, leave what they should, are not repeated, and tell what came of them."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from helpers.processes import small, small_habit
from nlft import cli
from nlft.data.checks_file import read_checks
from nlft.data.records import Example, read_examples, write_examples
from nlft.errors import UserError
from nlft.experiments.demo import TASKS, run_demo
from nlft.experiments.settings import TUNE_ARMS
from nlft.experiments.tune import Tune

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nlft.experiments.demo import run_demo
from helpers.processes import small
if __name__ == "__main__":
    folder = Path(sys.argv[2])
    print(run_demo(folder, sys.argv[3], task="arithmetic", settings=small(folder), sizes=(8, 4)))
"""


def start(folder, model_folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = os.path.dirname(__file__)
    return subprocess.Popen(
        [sys.executable, str(script), here, str(folder), model_folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def digests(folder):
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "run.lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.timeout(900)
@pytest.mark.long
def test_the_demo_survives_an_interruption_and_does_not_repeat_what_is_done(tmp_path, model_folder, capfd):
    folder = tmp_path / "demo"
    first = start(folder, model_folder, tmp_path)
    while not (folder / "sft-answer" / "result.json").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = {name: digest for name, digest in digests(folder).items() if not name.startswith("sft-completion")}
    # A model card is written again when its arm's results are known.
    done = {name: digest for name, digest in done.items() if not name.endswith("README.md")}
    assert "base/result.json" in done
    stages = json.loads((folder / "stages.json").read_text())  # the record of what was done grows
    del done["stages.json"]

    out = run_demo(folder, model_folder, task="arithmetic", settings=small(folder), sizes=(8, 4))
    err = capfd.readouterr().err
    assert err.count("done before") == 7
    assert done.items() <= digests(folder).items(), "a finished stage was run again"
    assert stages.items() <= json.loads((folder / "stages.json").read_text()).items()
    assert "NLFT against NLFT, branch off" in out
    found = json.loads((folder / "demo.json").read_text())
    assert [arm["name"] for arm in found["arms"]] == list(TUNE_ARMS)
    for arm in found["arms"]:
        if arm["name"] == "sft-completion":  # a random model gets nothing right
            assert "no example is labelled right" in arm["skipped"] or "right" in arm["skipped"]
            continue
        assert len(arm["questions"]) == 4
        assert all(q["grades"]["strict"]["verdict"] in ("right", "wrong", "ungraded") for q in arm["questions"])
        assert arm["peak_memory_bytes"] > 1e8
    assert (folder / "map.html").stat().st_size > 10_000
    assert (folder / "audit.html").stat().st_size > 1_000
    assert (folder / "demo.html").stat().st_size > 1_000
    assert '<a href="demo.html">' in (folder / "audit.html").read_text()
    page = (folder / "demo.html").read_text()
    assert all(f'<a href="{name}">' in page for name in ("audit.html", "map.html"))
    assert found["verdict"] in out
    assert found["verdict_data"]["kind"] in ("do_not_train", "more_questions", "too_close")
    assert [c["theirs"] for c in found["contrasts"]] == ["base", "sft-answer", "control"]
    assert found["settings"]["seeds"] == [0]
    assert all(arm["title"] in out for arm in found["arms"])


def test_a_folder_with_other_settings_is_refused_and_they_are_named(tmp_path, model_folder):
    settings = small(tmp_path)
    run = Tune("questions.jsonl", {"model_name_or_path": model_folder}, settings)
    run.record_settings()
    other = Tune("others.jsonl", {"model_name_or_path": model_folder}, replace(settings, seed=1, max_steps=3))
    with pytest.raises(UserError, match=r"holds a run with other settings or data \(file, max_steps, seed\)"):
        other.record_settings()
    run.record_settings()
    written = json.loads((run.folder / "settings.json").read_text())
    for name, value, refused in (("chat_template_kwargs", None, False), ("max_steps", 2, True)):
        assert written["settings"].pop(name) == value
        (run.folder / "settings.json").write_text(json.dumps(written))
        if refused:  # it is not the default
            with pytest.raises(UserError, match=r"\(max_steps\)"):
                run.record_settings()
        else:  # as a version before wrote it, which did not know the setting
            run.record_settings()
    shutil.rmtree(run.folder)
    run.record_settings()
    more = replace(settings, extra_arms={"mine": {"method": "sft"}})
    Tune("questions.jsonl", {"model_name_or_path": model_folder}, more).record_settings()
    assert more.arms[-1] == "mine"


def test_open_ended_examples_are_tuned_on_and_nothing_is_graded(tmp_path, model_folder, capsys):
    examples = [
        Example(
            id=f"{n}{label}",
            prompt=f"Write a line to guest {n}.",
            completion="Dear guest, welcome." if label else "Hey you.",
            label=label,
            answer="Polite and short.",
            judgment=None if label else "It is rude.",
        )
        for n in range(6)
        for label in (True, False)
    ]
    write_examples(tmp_path / "letters.jsonl", examples)
    flags = "--grader label --max_new_tokens 8 --max_steps 1 --audit false --arms base nlft --test_share 0.34"
    out = tmp_path / "out"
    code = cli.main(
        [
            "tune",
            f"{tmp_path}/letters.jsonl",
            "--model_name_or_path",
            model_folder,
            f"--output_dir={out}",
            *flags.split(),
        ]
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err[-2000:]
    assert "log-likelihood of answers" in printed.out
    report = json.loads((out / "tune.json").read_text())
    assert report["verdict_data"]["kind"] == "nothing_graded"
    assert report["contrasts"] == report["unmade"] == []
    assert report["verdict"] in printed.out
    train = [json.loads(line)["prompt"] for line in (out / "train.jsonl").read_text().splitlines()]
    test = [json.loads(line)["prompt"] for line in (out / "test.jsonl").read_text().splitlines()]
    assert len(train) == 8
    assert len(test) == 2
    assert not set(train) & set(test), "a question is both trained on and tested on"


def test_wrong_input_is_told_with_exit_code_2(tmp_path, model_folder, capsys):
    (tmp_path / "one.jsonl").write_text('{"prompt": "2 + 2?", "answer": "#### 4"}\n')
    common = ["--model_name_or_path", model_folder, "--output_dir", str(tmp_path / "out")]
    assert cli.main(["tune", str(tmp_path / "one.jsonl"), *common]) == 2
    assert "--test_file" in capsys.readouterr().err
    assert cli.main(["tune", str(tmp_path / "one.jsonl"), *common, "--arms", "nlft", "magic"]) == 2
    assert "--arms magic" in capsys.readouterr().err


def test_an_arm_that_fails_is_marked_and_tried_again_and_the_others_go_on(tmp_path, model_folder, capfd):
    write_examples(tmp_path / "few.jsonl", [Example(n, f"{n} + 1?", "#### 9", True, f"#### {n + 1}") for n in range(6)])
    plan = "extra_arms: {broken: {method: sft, settings: {dataset_num_proc: -3}}}\n"
    (tmp_path / "plan.yaml").write_text(plan)
    flags = "--max_new_tokens 4 --max_steps 1 --audit false --arms base sft-answer --keep_truncated true"
    command = ["tune", str(tmp_path / "few.jsonl"), "--config", str(tmp_path / "plan.yaml"), *flags.split()]
    command += ["--model_name_or_path", model_folder, "--output_dir", str(tmp_path / "out")]
    for times in (1, 2):
        assert cli.main(command) == 0
        report = json.loads((tmp_path / "out" / "tune.json").read_text())
        results = {arm["name"]: arm for arm in report["arms"]}
        assert results["broken"]["failed"]
        assert results["sft-answer"]["results"]
        assert capfd.readouterr().err.count("done before") == (0 if times == 1 else 6)


def test_each_task_of_the_demo_has_questions_of_its_own(tmp_path):
    for name, count in (("arithmetic", (50, 200)), ("habit", (32, 64))):
        task = TASKS[name]
        assert task.sizes == count
        task.write(tmp_path / name, *task.sizes)
        rows = {part: (tmp_path / name / f"{part}.jsonl").read_text().splitlines() for part in ("train", "test")}
        assert tuple(len(rows[part]) for part in ("train", "test")) == count
        prompts = {part: {json.loads(row)["prompt"] for row in lines} for part, lines in rows.items()}
        assert not prompts["train"] & prompts["test"]
    habit = [json.loads(row)["item"] for row in rows["train"]]
    assert not set(habit) & {json.loads(row)["item"] for row in rows["test"]}, "test items must not be trained on"


def test_the_products_of_the_demo_are_those_of_the_examples():
    examples = Path(__file__).parent.parent / "examples"
    there = files("nlft.experiments") / "catalogue"
    named = {"train.jsonl": "read-1.jsonl", "checks.yaml": "praise-checks.yaml"}
    for name in ("train.jsonl", "test.jsonl", "checks.yaml", "rules.yaml"):
        assert (there / name).read_bytes() == (examples / f"catalogue-{named.get(name, name)}").read_bytes()


def test_the_demos_checks_know_words_that_no_note_of_the_demo_quotes(tmp_path):
    TASKS["habit"].write(tmp_path, 32, 64)
    examples = read_examples(tmp_path / "train.jsonl")
    assert sum(not example.label for example in examples) == 30
    quoted = " ".join(example.judgment for example in examples if not example.label).lower()
    words = next(check for check in read_checks(tmp_path / "checks.yaml") if check.name == "no-praise").texts
    assert len(words) == 75
    assert len([word for word in words if word not in quoted]) > 50


def test_the_demo_of_a_habit_shows_notes_replies_collateral_and_the_map(tmp_path, model_folder):
    folder = tmp_path / "demo"
    settings = small_habit(folder)
    told = run_demo(folder, model_folder, settings=settings, sizes=(6, 4))
    report = json.loads((folder / "demo.json").read_text())
    assert [arm["name"] for arm in report["arms"]] == ["base", "rule", "rule-reworded", "sft-completion", "strike"]
    assert report["verdict"] in told
    assert "the rule in the prompt" in told
    example = next(one for one in read_examples(folder / "examples.jsonl") if not one.label)
    assert example.judgment.split(":")[0] in told
    assert (folder / "map.html").stat().st_size > 10_000
    assert str(folder / "strike" / "adapter") in told
    assert "KL" in told
