"""Edited feedback scored at once by the run's own model, in a process apart from the page's server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from nlft import cli
from nlft.data.records import write_examples
from nlft.errors import NLFTError
from nlft.page.feedback import Edit
from nlft.page.rescoring import Rescorer
from nlft.result_commands import feedback_dataset
from nlft.training.rescoring import newest_adapter
from nlft.training.run_dir import RunDir
from test_trainer import examples

pytest_plugins = ["browser"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> RunDir:
    folder = tmp_path_factory.mktemp("trained")
    write_examples(folder / "examples.jsonl", examples())
    options = {
        "model_name_or_path": model, "output_dir": folder / "run", "max_steps": 3, "dtype": "float32", "watch": 4,
        "save_strategy": "no", "learning_rate": 0.01, "lora_r": 4, "disable_tqdm": "true",
    }  # fmt: skip
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert cli.main(["train", str(folder / "examples.jsonl"), *flags, "--use_cpu"]) == 0
    return RunDir(folder / "run")


@pytest.fixture(scope="module")
def rescorer(run: RunDir, model: Path) -> Iterator[Rescorer]:
    made = Rescorer(run, str(model))
    yield made
    made.close()


def header_and_arrays(data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    start = 4 + int.from_bytes(data[:4], "little")
    header = json.loads(data[4:start])
    kinds = {"tag": "u1", "band": "<f2"}
    places = header["scores"][0]["arrays"].items()
    return header, {
        name: np.frombuffer(data, kinds.get(name, "<f4"), count, start + offset) for name, (offset, count) in places
    }


def score(rescorer: Rescorer, run: RunDir, index: int, **changes: Any) -> dict[str, Any]:
    example = run.watched()[index]
    edit = Edit(index, **{"label": example.label, "judgment": example.judgment, **changes})
    return header_and_arrays(rescorer.score(edit, len(example.tokens)))[1]


def wrong_and_right(run: RunDir) -> tuple[int, int]:
    labels = [example.label for example in run.watched()]
    return labels.index(False), labels.index(True)


def test_unchanged_feedback_gets_the_scores_that_the_run_recorded_last(rescorer: Rescorer, run: RunDir) -> None:
    recorded = run.snapshot(run.snapshot_steps()[-1]).scores
    for index in wrong_and_right(run):
        found, was = score(rescorer, run, index), recorded[index]
        assert was is not None
        for name in ("base", "standard", "judge", "likelihood", "unlikelihood"):
            if getattr(was, name) is not None:
                np.testing.assert_allclose(found[name], getattr(was, name), atol=1e-5)
        assert found["tag"].tolist() == was.tag.tolist()


def test_another_judgment_changes_what_judge_says_and_nothing_else(rescorer: Rescorer, run: RunDir) -> None:
    index, _ = wrong_and_right(run)
    before, after = score(rescorer, run, index), score(rescorer, run, index, judgment="The sum is off by ten.")
    assert np.array_equal(before["base"], after["base"])
    assert np.array_equal(before["standard"], after["standard"])
    assert np.abs(before["judge"] - after["judge"]).max() > 1e-3


def test_a_completion_called_right_loses_its_judge_row_and_one_called_wrong_gets_one(
    rescorer: Rescorer, run: RunDir
) -> None:
    wrong, right = wrong_and_right(run)
    assert "judge" not in score(rescorer, run, wrong, label=True)
    assert "judge" in score(rescorer, run, right, label=False, judgment="The last line is wrong.")


def test_what_cannot_be_scored_is_told_and_the_next_question_is_answered(rescorer: Rescorer, run: RunDir) -> None:
    index, _ = wrong_and_right(run)
    with pytest.raises(NLFTError, match="not re-scored: "):
        score(rescorer, run, index, judgment="Correction: 12.")  # all of it is kept from the judge prompt
    assert score(rescorer, run, index)["base"].size
    with pytest.raises(NLFTError, match=r"tokens of the completion, and the run's 3\.\n.*--model"):
        rescorer.score(Edit(index, False, "No."), 3)


def test_a_missing_model_or_file_and_a_dead_process_are_told_in_a_sentence(
    run: RunDir, model: Path, tmp_path: Path
) -> None:
    for name, file, reason in [("no-such-model", None, "no-such-model"), (str(model), tmp_path / "no", "--data")]:
        broken = Rescorer(run, name, file)
        for _ in range(2):
            with pytest.raises(NLFTError, match=reason):
                broken.score(Edit(0, True, None), 3)
        broken.close()
    killed = Rescorer(run, str(model))
    killed._process.kill()
    with pytest.raises(NLFTError, match="has ended"):
        killed.score(Edit(0, True, None), 3)
    killed.close()


def test_versions_hold_the_runs_whole_file_while_it_is_there_as_it_was(run: RunDir, tmp_path: Path) -> None:
    assert len(feedback_dataset(run, None) or []) == len(examples())
    changed = RunDir(tmp_path / "changed")
    settings = run.settings()
    changed.write_settings({**settings, "data": {**settings["data"], "examples": 1}})
    assert feedback_dataset(changed, None) is None
    changed.write_settings({**settings, "data": {**settings["data"], "file": str(tmp_path / "gone.jsonl")}})
    assert feedback_dataset(changed, None) is None


def test_the_newest_adapter_that_is_whole_is_taken(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert newest_adapter(run) is None
    for step in (9, 10, 11):
        (run.checkpoints_path / f"checkpoint-{step}").mkdir(parents=True)
        if step < 11:
            (run.checkpoints_path / f"checkpoint-{step}" / "adapter_model.safetensors").touch()
    assert newest_adapter(run) == run.checkpoints_path / "checkpoint-10"
    run.adapter_path.mkdir()
    (run.adapter_path / "adapter_model.safetensors").touch()
    assert newest_adapter(run) == run.adapter_path


def test_an_edit_is_rescored_on_the_page_while_the_server_holds_no_torch(
    run: RunDir, model: Path, chromium: Any
) -> None:
    from playwright.sync_api import expect

    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0", "--model", str(model)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        page = chromium.new_page()
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.stdout.readline().split()[1])
        index, _ = wrong_and_right(run)
        card = page.locator(f"#example-{index}")
        card.get_by_role("button", name="Edit feedback").click()
        strips = f"[...document.querySelectorAll('#example-{index} .strip')].map((one) => one.style.cssText)"
        before = page.evaluate(strips)
        card.locator("textarea").fill("The sum is off by ten.")
        expect(card.locator(".caption").first).to_contain_text("re-scored with the edited feedback", timeout=60_000)
        assert page.evaluate(strips) != before
        page.get_by_role("button", name="Save as a new version").click()
        saved = f"Saved as feedback/examples-v2.jsonl of the run: {len(examples())} examples, 1 changed."
        expect(page.locator("#drafts")).to_contain_text(saved)
        card.locator("textarea").fill("The sum is off by eleven.")
        expect(card.locator(".caption").first).to_contain_text("re-scored with the edited feedback", timeout=60_000)
        card.get_by_role("button", name="Undo these edits").click()
        expect(card.locator(".caption").first).not_to_contain_text("re-scored")
        assert page.evaluate(strips) == before
        assert complaints == []
        maps = Path(f"/proc/{server.pid}/maps").read_text()
        resident = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())
        assert "torch" not in maps
        assert resident
        assert int(resident[1]) < 100_000
        page.close()
    finally:
        server.terminate()
        server.communicate(timeout=20)
