"""The demo's stages on a tiny model: they run, leave what they should, and are not repeated."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import tiny
from nlft.demo import ARMS, Demo, Plan, table
from nlft.errors import UserError

SMALL = Plan(train=8, test=4, max_new_tokens=6, generation_batch=4, max_steps=2, batch=2, watch_every=1)
# A random model gets nothing right, so the arm on right completions has nothing to train on; see below.
TINY_ARMS = [arm for arm in ARMS if arm.name in ("base", "sft-answer", "nlft", "control")]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import nlft.demo
from test_demo import SMALL, TINY_ARMS
if __name__ == "__main__":
    nlft.demo.ARMS[:] = TINY_ARMS
    print(nlft.demo.Demo(Path(sys.argv[2]), sys.argv[3], SMALL).run())
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
    done = {name: digest for name, digest in digests(folder).items() if name.startswith(("base", "sft-answer", "t"))}
    assert "base/result.json" in done

    second = start(folder, model_folder, tmp_path)
    out, err = second.communicate()
    assert second.returncode == 0, err[-3000:]
    assert err.count("done before") == 4
    assert done.items() <= digests(folder).items(), "a finished stage was run again"
    assert "| NLFT " in out
    assert "NLFT against the same training with the branch off" in out
    report = json.loads((folder / "demo.json").read_text())
    assert [arm["name"] for arm in report["arms"]] == [arm.name for arm in TINY_ARMS]
    for arm in report["arms"]:
        assert len(arm["questions"]) == SMALL.test
        assert all(q["grades"]["strict"]["verdict"] in ("right", "wrong", "ungraded") for q in arm["questions"])
        assert arm["peak_memory_bytes"] > 1e8
    assert (folder / "map.html").stat().st_size > 10_000
    assert table(report) in out


def test_a_folder_of_another_demo_is_refused(tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="holds a demo with other settings"):
        Demo(tmp_path, "some-model", SMALL).run()
