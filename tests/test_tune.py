"""`nlft tune` on a tiny model: its stages run, leave what they should, are not repeated, and tell what came of them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from helpers.processes import small
from nlft import cli
from nlft.data.records import Example, write_examples
from nlft.errors import UserError
from nlft.experiments.arms import BUILT_IN
from nlft.experiments.demo import run_demo
from nlft.experiments.settings import TUNE_ARMS
from nlft.experiments.tune import Tune
from nlft.results.report import advice, differences, table
from nlft.results.stats import wilson

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from nlft.experiments.demo import run_demo
from helpers.processes import small
if __name__ == "__main__":
    folder = Path(sys.argv[2])
    print(run_demo(folder, sys.argv[3], settings=small(folder), sizes=(8, 4)))
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
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.timeout(900)
def test_the_demo_survives_an_interruption_and_does_not_repeat_what_is_done(tmp_path, model_folder):
    folder = tmp_path / "demo"
    first = start(folder, model_folder, tmp_path)
    while not (folder / "sft-answer" / "result.json").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done = {name: digest for name, digest in digests(folder).items() if not name.startswith("sft-completion")}
    assert "base/result.json" in done

    second = start(folder, model_folder, tmp_path)
    out, err = second.communicate()
    assert second.returncode == 0, err[-3000:]
    assert err.count("done before") == 7
    assert done.items() <= digests(folder).items(), "a finished stage was run again"
    assert "| NLFT " in out
    assert "NLFT against the same training with the branch off" in out
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
    assert table(found) in out


def test_a_folder_with_other_settings_is_refused_and_they_are_named(tmp_path, model_folder):
    settings = small(tmp_path)
    run = Tune("questions.jsonl", {"model_name_or_path": model_folder}, settings)
    run.claim()
    other = Tune("others.jsonl", {"model_name_or_path": model_folder}, replace(settings, seed=1, max_steps=3))
    with pytest.raises(UserError, match=r"holds a run with other settings or data \(file, max_steps, seed\)"):
        other.claim()
    run.claim()
    more = replace(settings, extra_arms={"mine": {"method": "sft"}})
    Tune("questions.jsonl", {"model_name_or_path": model_folder}, more).claim()
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
    assert "Nothing was graded" in printed.out
    train = [json.loads(line)["prompt"] for line in (out / "train.jsonl").read_text().splitlines()]
    test = [json.loads(line)["prompt"] for line in (out / "test.jsonl").read_text().splitlines()]
    assert len(train) == 8
    assert len(test) == 2
    assert not set(train) & set(test), "a question is both trained on and tested on"


def test_wrong_input_is_told_with_exit_code_2(tmp_path, model_folder, capsys):
    (tmp_path / "one.jsonl").write_text('{"prompt": "2 + 2?", "answer": "#### 4"}\n')
    common = ["--model_name_or_path", model_folder, "--output_dir", str(tmp_path / "out")]
    assert cli.main(["tune", str(tmp_path / "one.jsonl"), *common]) == 2
    assert "none can be held out" in capsys.readouterr().err
    assert cli.main(["tune", str(tmp_path / "one.jsonl"), *common, "--arms", "nlft", "magic"]) == 2
    assert "--arms magic: no such arm" in capsys.readouterr().err


def made_up(shares: dict[str, list[bool]]) -> dict:
    def questions(right):
        verdicts = [{"verdict": "right" if r else "wrong"} for r in right]
        return [{"grades": {"strict": {"verdict": "ungraded"}, "flexible": verdict}} for verdict in verdicts]

    return {
        "test": 200,
        "settings": {"extraction": "flexible"},
        "arms": [
            {
                "name": name,
                "title": BUILT_IN[name].title,
                "summary": {
                    "accuracy": {reading: vars(wilson(sum(right), len(right))) for reading in ("strict", "flexible")},
                    "graded_share": {"strict": 0.0, "flexible": 1.0},
                    "mean_tokens": 20,
                    "answer_logp": None,
                },
                "train_seconds": 1,
                "evaluate_seconds": 1,
                "peak_memory_bytes": 1e9,
                "questions": questions(right),
            }
            for name, right in shares.items()
        ],
    }


def test_advice_says_when_prompting_wins_and_when_too_few_questions_were_asked():
    worse = made_up({"base": [True] * 120 + [False] * 80, "nlft": [True] * 60 + [False] * 140})
    assert "don't fine-tune" in advice(worse)[0]
    better = made_up(
        {
            "base": [False] * 200,
            "sft-answer": [True] * 98 + [False] * 102,
            "nlft": [False] * 2 + [True] * 98 + [False] * 100,
        }
    )
    said = " ".join(advice(better))
    assert "over the prompted base" in said
    assert "It cannot be told apart from" in said
    assert any("no difference can be told" in line for line in differences(better))
    assert any("leaves out zero" in line for line in differences(better))


def test_numbers_are_read_as_when_the_examples_were_labelled_and_the_other_reading_is_shown():
    report = made_up({"base": [True] * 3 + [False] * 197, "nlft": [True] * 99 + [False] * 101})
    assert "right of 200, flexible [95%] | strict" in table(report)
    report["settings"]["extraction"] = "strict"
    assert "right of 200, strict [95%] | flexible" in table(report)


def test_the_demo_has_problems_of_its_own(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        "nlft.experiments.demo.Demo",
        lambda file, model, settings: asked.update(file=file, model=model) or Fake(),
    )

    class Fake:
        def run(self):
            return "done"

    assert run_demo(tmp_path, "some-model") == "done"
    rows = [json.loads(line) for line in asked["file"].read_text().splitlines()]
    assert len(rows) == 50
    assert len((tmp_path / "problems" / "test.jsonl").read_text().splitlines()) == 200
