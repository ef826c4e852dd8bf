"""A run's state from outside: real trainings that are interrupted or killed, and the pages that tell of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from helpers import tiny
from helpers.page_runs import event, make_run, record
from helpers.training import examples
from helpers.waiting import until
from nlft.cli import main
from nlft.data.records import write_examples
from nlft.page.live import LiveRun
from nlft.runs.heartbeat import is_alive, this_process
from nlft.runs.listing import RunList
from nlft.runs.run_dir import RunDir
from nlft.runs.state import run_state

pytest_plugins = ["helpers.browser"]

ENDLESS = ["--max_steps", "100000", "--save_strategy", "no", "--watch", "0", "--use_cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space in its name, a tiny model and examples."""
    home = tmp_path_factory.mktemp("a home")
    tiny.model().save_pretrained(home / "model")
    tiny.own_tokenizer().save_pretrained(home / "model")
    write_examples(home / "e.jsonl", examples(4))
    return home


def begin(home: Path, name: str) -> tuple[subprocess.Popen[str], RunDir]:
    """Start a training in a process of its own. Return once it has logged two steps."""
    command = ["-m", "nlft", "train", "e.jsonl", "--model_name_or_path", "model", "--output_dir", name, *ENDLESS]
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Started in the background, pytest ignores SIGINT, and a child of its would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    run = RunDir(home / name)
    until(lambda: process.poll() is not None or len(run.events()) > 1)
    assert process.poll() is None, process.communicate()[0]
    return process, run


@pytest.fixture(scope="module")
def killed(home: Path) -> RunDir:
    process, run = begin(home, "killed")
    assert LiveRun(run).state() == "training"
    process.kill()
    process.communicate()
    return run


def test_ctrl_c_writes_a_checkpoint_and_names_the_command_that_goes_on(home: Path) -> None:
    process, run = begin(home, "stopped run")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[0]
    assert process.returncode == 130
    (kept,) = run.checkpoints_path.glob("checkpoint-*")
    assert kept.name in said
    line = next(line for line in said.splitlines() if line.startswith("next: "))
    assert "--output_dir 'stopped run'" in line
    assert line.endswith("--resume")
    assert said.index("nlft map 'stopped run'") < said.index("Ctrl-C")
    last = run.events()[-1]
    assert (last["ended"], last["reason"]) == ("interrupted", "Ctrl-C")
    assert LiveRun(run).state() == "interrupted"
    steps = last["step"]
    argv = ["train", "e.jsonl", "--model_name_or_path", "model", "--output_dir", "stopped run", *ENDLESS, "--resume"]
    argv[argv.index("100000")] = str(steps + 1)
    before = Path.cwd()
    os.chdir(home)
    try:
        assert main([*argv, "--anyway"]) == 0
    finally:
        os.chdir(before)
    assert [e["step"] for e in run.events() if "loss" in e] == list(range(1, steps + 2))
    assert not [e for e in run.events() if "ended" in e]  # the log is that of a run that was not interrupted
    assert LiveRun(run).state() == "finished"


def test_a_killed_run_is_dead_at_once_takes_no_requests_and_says_how_to_go_on(killed: RunDir) -> None:
    live = LiveRun(killed)
    step = killed.events()[-1]["step"]
    changes = live.changes(0, 0, 0, 0)
    assert changes["state"] == "dead"
    assert changes["command"].endswith("--resume")
    assert changes["folder"] == str(killed.path.parent)
    ids, refused = live.send_requests([("pause", None)], "me")
    assert ids == []
    assert f"after step {step}" in refused[0][1]
    assert "--resume" in refused[0][1]
    assert killed.pending_requests() == []


def test_a_number_that_another_process_has_by_now_is_not_the_trainer() -> None:
    me = this_process()
    assert is_alive(me)
    assert not is_alive({**me, "started": "another time"})
    assert not is_alive({**me, "pid": 2**22 + 1})


def test_a_long_step_is_not_taken_for_a_dead_process_and_a_silent_machine_is() -> None:
    now, me = time.time(), this_process()
    line = {"step": 5}

    def seen(seconds: float, **more: Any) -> str:
        written = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - seconds))
        return run_state(line, beat={**me, "time": written, **more}, now=now).name

    assert seen(5) == "training"
    assert seen(100) == "training"
    assert seen(3600) == "stalled"  # it is there, but its thread does not write
    assert seen(20, machine="another") == "training"
    assert seen(100, machine="another") == "dead"


def test_a_run_of_an_earlier_version_is_dead_after_an_hour_of_silence() -> None:
    now = time.time()
    assert run_state({"step": 5}, logged=now - 60, now=now).name == "training"
    assert run_state({"step": 5}, logged=now - 4000, now=now).name == "dead"
    assert run_state({"step": 5, "train_runtime": 3.0}, logged=now - 4000, now=now).name == "finished"
    assert run_state(None, now=now).name == "waiting"


def test_200_runs_are_listed_quickly_with_state_scheme_model_and_loss(tmp_path: Path, killed: RunDir) -> None:
    ends = {"finished": {"train_runtime": 9.0}, "interrupted": {"ended": "interrupted"}, "training": {}}
    for number in range(200):
        run = RunDir(tmp_path / f"size-{number % 4}" / f"run-{number}")
        run.write_settings(record("strike" if number % 2 else "nlft"))
        run.start_events(None)
        for step in range(1, 20):
            run.append_event(event(step))
        run.append_event(event(20, loss=0.25, **list(ends.values())[number % 3]))
    listed = RunList(tmp_path)
    start = time.monotonic()
    rows = dict(listed.rows())
    first, start = time.monotonic() - start, time.monotonic()
    assert dict(listed.rows()) == rows
    again = time.monotonic() - start
    assert len(rows) == 200
    by_name = {row.name: row for row in rows.values()}
    row = by_name["size-1/run-1"]
    assert (row.state, row.step, row.steps, row.scheme) == ("interrupted", 20, 120, "strike")
    assert (row.model, row.loss) == ("SmolLM2-135M-Instruct", 0.25)
    assert {row.state for row in rows.values()} == set(ends)
    assert first < 20  # on an idle core: 1 s
    assert again < 5
    assert [row.state for _, row in RunList(killed.path.parent).rows() if row.name == "killed"] == ["dead"]


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts `nlft map`. Returns a client with the page's token."""
    started: list[subprocess.Popen[str]] = []
    clients: list[httpx.Client] = []

    def open_map(*argv: object) -> tuple[httpx.Client, str]:
        command = [sys.executable, "-m", "nlft", "map", *map(str, argv), "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("map: "):
                break
        address, _, token = said.rpartition("map: ")[2].strip().partition("/?token=")
        clients.append(httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=60))
        return clients[-1], said

    yield open_map
    for client in clients:
        client.close()
    for process in started:
        process.terminate()
        process.communicate()


def test_map_waits_for_a_run_that_does_not_exist_and_shows_it_when_it_begins(serve: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "other", steps=1)
    client, said = serve(tmp_path / "soon")
    assert "soon" in said
    assert "other" in said  # the name may be misspelt
    have = {"generation": 0, "steps": 0, "events": 0, "controls": 0}
    assert client.get("/api/runs/0/changes", params=have).json()["state"] == "waiting"
    assert client.get("/api/runs").json()["runs"][0]["begun"] is False
    make_run(tmp_path / "soon", steps=3)
    about = until(lambda: (runs := client.get("/api/runs").json()["runs"])[0]["begun"] and runs[0])
    assert len(about["examples"]) == 4
    assert client.get("/api/runs/0/changes", params=have).json()["steps"] == [0, 10, 20]


def test_map_of_a_folder_lists_its_runs_and_opens_each_by_its_number(serve: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "one", steps=2)
    make_run(tmp_path / "deep" / "two", steps=3)
    client, _ = serve(tmp_path)
    runs = {run["name"]: run for run in client.get("/api/list").json()["runs"]}
    assert sorted(runs) == ["deep/two", "one"]
    for name, steps in (("one", [0, 10]), ("deep/two", [0, 10, 20])):
        at = f"/run/{runs[name]['number']}"
        assert client.get(f"{at}/").status_code == 200
        found = client.get(f"{at}/api/runs/0/changes").json()
        assert found["steps"] == steps
    for path in ("/run/7/", "/run/%2e%2e/", "/run/one/", "/static/none.js"):
        assert client.get(path).status_code == 404
    bare = httpx.get(client.base_url, headers={"Authorization": "Bearer wrong"})
    assert bare.status_code == 401
    assert "one" not in bare.text


def test_the_list_of_a_folder_is_seen_in_a_browser_and_leads_to_a_run_and_back(
    serve: Any, tmp_path: Path, chromium: Browser
) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / name, steps=2)
    _, said = serve(tmp_path)
    complaints: list[str] = []
    page = chromium.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(said.rpartition("map: ")[2].strip())
    rows = page.locator("#runs tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator("#folder")).not_to_be_empty()
    assert page.locator("h1").evaluate("node => getComputedStyle(node).fontFamily") != "Times New Roman"
    rows.filter(has_text="two").get_by_role("link").first.click()
    expect(page.locator("bdi", has_text="two").first).to_be_attached()
    assert page.url.partition("?")[0].rstrip("/").rpartition("/")[2].isdigit()
    page.get_by_role("tab", name="Runs").click()
    page.get_by_role("link", name="All runs of this folder").click()
    expect(rows).to_have_count(2)
    assert complaints == []
    page.close()


def test_a_refused_command_claims_no_folder_and_deletes_no_run(home: Path, tmp_path: Path, killed: RunDir) -> None:
    model = ["--model_name_or_path", str(home / "model")]
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps({"id": i, "prompt": f"{i}?", "answer": "1"}) + "\n" for i in range(4)))
    assert (
        main(["tune", str(questions), *model, "--test_share", "0.01", "--output_dir", str(tmp_path / "new" / "tune")])
        == 2
    )
    assert not (tmp_path / "new").exists()
    before = killed.events_path.read_bytes()
    refused = ["--max_length", "8", "--overwrite", "--use_cpu"]  # only the trainer knows how long the examples are
    assert main(["train", str(home / "e.jsonl"), *model, "--output_dir", str(killed.path), *refused]) == 2
    assert killed.events_path.read_bytes() == before
    assert main(["train", str(home / "e.jsonl"), *model, "--output_dir", str(tmp_path / "new"), *refused]) == 2
    assert not (tmp_path / "new").exists()
