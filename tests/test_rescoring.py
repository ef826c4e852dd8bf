"""Edited feedback scored at once by the run's own model, in a process apart from the page's server."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from helpers import tiny
from helpers.map_page import explain_all, open_all
from helpers.training import examples
from nlft import cli
from nlft.commands.results import feedback_dataset
from nlft.data.records import write_examples
from nlft.errors import NLFTError, UserError
from nlft.page.connections import listen
from nlft.page.feedback import Edit, Feedback
from nlft.page.live import LiveRun
from nlft.page.model_process import AskedProcess
from nlft.page.rescorer import Rescorer
from nlft.page.server import PageServer, page_of
from nlft.page.serving import serve_map, web_server
from nlft.runs.run_dir import RunDir
from nlft.training import rescore_worker as rescoring
from nlft.training.rescore_worker import newest_adapter

pytest_plugins = ["helpers.browser"]


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
        "save_strategy": "no", "watch_share": 1, "learning_rate": 0.01, "lora_r": 4, "disable_tqdm": "true",
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
    edit = Edit(index, example.id, **{"label": example.label, "judgment": example.judgment, **changes})
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
    with pytest.raises(NLFTError, match=r" \d+ tokens .* 3 in the run\.\n.*--model"):
        rescorer.score(Edit(index, run.watched()[index].id, False, "No."), 3)
    with pytest.raises(NLFTError, match="started again with other examples"):
        rescorer.score(Edit(index, "another", False, "No."), 3)


def test_a_missing_file_and_a_dead_process_are_told_in_a_sentence(run: RunDir, model: Path, tmp_path: Path) -> None:
    broken = Rescorer(run, str(model), tmp_path / "no")
    for _ in range(2):
        with pytest.raises(NLFTError, match="--data"):
            broken.score(Edit(0, run.watched()[0].id, True, None), 3)
    broken.close()
    killed = Rescorer(run, str(model))
    killed._process.kill()
    with pytest.raises(NLFTError, match="has ended"):
        killed.score(Edit(0, run.watched()[0].id, True, None), 3)
    killed.close()


def test_half_a_line_of_a_killed_process_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO('{a set}\n{"ready": true}\n{"scor')
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: SimpleNamespace(stdin=io.StringIO(), stdout=said))
    assert "`nlft map`" in AskedProcess("module", command="nlft map").ask({"example": 0})["error"]


def test_a_missing_model_is_told_in_a_sentence_and_what_lies_in_the_working_folder_is_not_run(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "safetensors.py").write_text("open('ran', 'w')\n")
    monkeypatch.chdir(tmp_path)
    broken = Rescorer(RunDir(run.path.resolve()), "no-such-model")
    for _ in range(2):
        with pytest.raises(NLFTError, match="no-such-model"):
            broken.score(Edit(0, run.watched()[0].id, True, None), 3)
    broken.close()
    assert not (tmp_path / "ran").exists()


def test_versions_hold_the_runs_whole_file_while_it_is_there_as_it_was(run: RunDir, tmp_path: Path) -> None:
    assert len(feedback_dataset(run, None) or []) == len(examples())
    changed = RunDir(tmp_path / "changed")
    settings = run.settings()
    changed.write_settings({**settings, "data": {**settings["data"], "examples": 1}})
    assert feedback_dataset(changed, None) is None
    changed.write_settings({**settings, "data": {**settings["data"], "file": str(tmp_path / "gone.jsonl")}})
    assert feedback_dataset(changed, None) is None


def test_feedback_is_not_saved_with_other_replies_that_have_the_same_ids(run: RunDir, tmp_path: Path) -> None:
    """The file was sampled again after the training: same ids, same number, another reply."""
    watched = run.watched()[0]
    other = tmp_path / "again.jsonl"
    again = [replace(e, completion="Another reply.") if e.id == watched.id else e for e in examples()]
    write_examples(other, again)
    settings, started = run.settings(), RunDir(tmp_path / "run")
    started.write_settings(settings)
    started.write_watched(run.watched())
    feedback = Feedback(started, partial(feedback_dataset, started, None))
    assert len(feedback.dataset or []) == len(again)
    # The run is started again on the other file, then its file changes once more.
    started.write_settings({**settings, "data": {**settings["data"], "file": str(other)}})
    assert feedback_dataset(started, None) is feedback.dataset is None
    said = feedback.save([Edit(0, watched.id, False, "No.")], started.watched(), "ann")
    assert (said["whole"], said["examples"]) == (False, len(run.watched()))
    for refused in (feedback_dataset, lambda run, file: rescoring.watched_records(run, file, settings["data"])):
        with pytest.raises(UserError, match=rf"again.jsonl.*{watched.id!r}"):
            refused(started, other)
    remarked = tmp_path / "remarked.jsonl"  # other judgments about the same replies are welcome
    write_examples(remarked, [e if e.label else replace(e, judgment="Quite wrong.") for e in examples()])
    assert len(feedback_dataset(started, remarked) or []) == len(again)


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
    os.utime(run.adapter_path / "adapter_model.safetensors", (1, 1))  # and then the run was resumed
    assert newest_adapter(run) == run.checkpoints_path / "checkpoint-10"


def test_an_adapter_that_is_saved_meanwhile_scores_the_next_edit(run: RunDir, model: Path, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    copy = RunDir(tmp_path / "run")
    made = rescoring.RescoreModel(copy, str(model), None)
    one = copy.watched()[0]
    question = {"example": 0, "id": one.id, "label": one.label, "judgment": one.judgment}
    before = made.answer(question)["arrays"]
    assert made.answer(question)["arrays"] == before
    later = copy.checkpoints_path / "checkpoint-9"
    shutil.copytree(copy.adapter_path, later)
    (later / "manifest.json").unlink()  # it has the digests of the other weights
    weights = load_file(later / rescoring.WEIGHTS)
    save_file({name: tensor * 3 for name, tensor in weights.items()}, later / rescoring.WEIGHTS)
    assert made.answer(question)["arrays"] != before
    assert made.adapter == later


def test_no_failure_of_one_answer_ends_the_process() -> None:
    class Failing:
        def answer(self, request: Any) -> Any:
            raise request_errors.pop()

    request_errors: list[Exception] = [OSError("disk"), RuntimeError("memory"), NLFTError("prompt")]
    told = list(rescoring.answers(Failing(), iter(["{}"] * 3)))  # type: ignore[arg-type]
    assert told == [{"error": "prompt"}, {"error": "memory"}, {"error": "disk"}]


def slow_rescorer(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Rescorer:
    """One whose process says that it is ready, and never answers."""
    script = "print('{}', flush=True)\nimport time\ntime.sleep(600)"
    command = [sys.executable, "-c", script]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: process)
    made = Rescorer(run, "any")
    monkeypatch.undo()
    return made


def test_a_server_that_waits_for_its_model_can_be_stopped(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_rescorer(run, monkeypatch)
    page = PageServer([LiveRun(run)], who="ann", feedback=Feedback(run), rescorer=slow)
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(page, listening, "token", set())
    serving = threading.Thread(target=server.serve_until_stopped, daemon=True)
    serving.start()
    one = run.watched()[0]
    body = json.dumps({"example": 0, "id": one.id, "label": one.label, "judgment": one.judgment})
    headers = {"Authorization": "Bearer token", "Content-Type": "application/json"}
    asking = []
    for _ in range(50):  # more than the server has threads
        asking.append(http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=20))
        asking[-1].request("POST", "/api/rescore", body, headers)
    looking = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=20)
    looking.request("GET", "/api/runs", headers=headers)
    assert looking.getresponse().status == 200  # other routes go on meanwhile
    for one_asking in asking[1:]:
        one_asking.close()
    looking.close()
    server.stop()
    answer = asking[0].getresponse()
    assert (answer.status, "has ended" in answer.read().decode()) == (422, True)
    asking[0].close()
    serving.join(20)
    assert not serving.is_alive()
    slow.close()


def test_an_address_that_is_taken_leaves_no_process_behind(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = slow_rescorer(run, monkeypatch)
    page = page_of([run], read_only=False, dataset=None, rescorer=slow)
    with listen("127.0.0.1", 0, 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} "):
            serve_map(page, "127.0.0.1", port, hosts=set())
    assert slow._process.wait(20) is not None
    slow.close()


def test_typing_on_takes_back_what_the_model_was_asked(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, chromium: Any
) -> None:
    slow = slow_rescorer(run, monkeypatch)
    page_server = PageServer([LiveRun(run)], who="ann", feedback=Feedback(run), rescorer=slow)
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(page_server, listening, "token", set())
    serving = threading.Thread(target=server.serve_until_stopped, daemon=True)
    serving.start()
    page = chromium.new_page()
    page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/?token=token")
    index, _ = wrong_and_right(run)
    card = page.locator(f"#example-{index}")
    card.wait_for()
    open_all(page)
    card.get_by_role("button", name="Edit feedback").click()
    with page.expect_request("**/api/rescore"):
        card.locator("textarea").fill("The sum is off by one.")
    with page.expect_event("requestfailed") as given_up, page.expect_request("**/api/rescore"):
        card.locator("textarea").fill("The sum is off by two.")
    assert given_up.value.url.endswith("/api/rescore")
    page.close()
    server.stop()
    serving.join(20)
    assert not serving.is_alive()
    slow.close()


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
        card.wait_for()
        explain_all(page)
        card.get_by_role("button", name="Edit feedback").click()
        strips = f"[...document.querySelectorAll('#example-{index} .strip')].map((one) => one.style.cssText)"
        expect(card.locator(".token[data-tag]").first).to_be_visible()  # the editor is there before the step has come
        before = page.evaluate(strips)
        card.locator("textarea").fill("The sum is off by ten.")
        expect(card.locator(".caption").first).to_contain_text("re-scored with the edited feedback", timeout=60_000)
        assert page.evaluate(strips) != before
        page.get_by_role("button", name="Save as a new version").click()
        saved = f"Saved as feedback/examples-v2.jsonl of the run: {len(examples())} examples, 1 changed."
        expect(page.locator("#drafts")).to_contain_text(saved)
        card.locator("textarea").fill("The sum is off by eleven.")
        expect(card.locator(".caption").first).to_contain_text("re-scored with the edited feedback", timeout=60_000)
        card.get_by_role("button", name="Undo edits").click()
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


def test_each_answer_arrives_while_the_input_is_still_open():
    code = (
        "from types import SimpleNamespace\n"
        "from nlft.training.rescore_worker import serve\n"
        "serve(lambda: (SimpleNamespace(answer=lambda asked: {'got': asked}), {'model': 'tiny'}))\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        watchdog = threading.Timer(120, worker.kill)  # without an answer, the reading below would wait for ever
        watchdog.start()
        assert json.loads(worker.stdout.readline()) == {"ready": True, "model": "tiny"}
        for number in (1, 2):
            worker.stdin.write(json.dumps({"asked": number}) + "\n")
            worker.stdin.flush()
            assert json.loads(worker.stdout.readline()) == {"got": {"asked": number}}
        watchdog.cancel()
        worker.stdin.close()
        assert worker.wait(60) == 0
