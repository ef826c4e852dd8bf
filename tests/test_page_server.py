"""The page's server: who may ask it, what it answers, what it writes, and what it costs."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from helpers.page_runs import add_step, event, example, ledger_line, make_run, record
from nlft.commands.results import check_feedback
from nlft.data.records import as_record, read_examples, write_examples
from nlft.errors import UserError
from nlft.page import connections
from nlft.page.application import LONGEST_BODY
from nlft.page.connections import listen
from nlft.page.events import MOST_ROWS, Events, JsonlTail, thin
from nlft.page.export import csv_parts, export_csv, live_export
from nlft.page.feedback import Feedback
from nlft.page.guard import HEADERS, POLICY, Guard
from nlft.page.live import LiveRun
from nlft.page.server import LOOK_EVERY, PageServer
from nlft.page.serving import web_server
from nlft.runs.run_dir import RunDir, WatchedExample

TOKEN = "the-token"
HERE = "http://127.0.0.1:8642"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
COOKIE = {"Cookie": f"nlft-map={TOKEN}", "Origin": HERE}
GETS = ["/", "/static/app.js", "/static/chart.js", "/api/runs", "/api/runs/0/changes", "/api/runs/0/steps/10"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "farm", steps=3)


def client_of(run: RunDir, **options: Any) -> TestClient:
    page = PageServer([LiveRun(run)], who="ann", feedback=Feedback(run), **options)
    return TestClient(page.app(TOKEN, set()), base_url=HERE, raise_server_exceptions=True)


@pytest.fixture
def client(run: RunDir) -> Iterator[TestClient]:
    with client_of(run) as made:
        yield made


def ask(client: TestClient, *changes: dict[str, Any]) -> Any:
    return client.post("/api/requests", json={"changes": list(changes)}, headers=BEARER)


def test_files_that_are_no_requests_do_not_stop_the_page(client: TestClient, run: RunDir) -> None:
    Path(os.fsdecode(os.fsencode(run.requests_path) + b"/\xff.json")).write_text("{")
    (run.requests_path / "x.json").mkdir()
    answer = client.get("/api/runs/0/changes", headers=BEARER)
    assert answer.status_code == 200
    assert all("the file " in one["problem"] for one in answer.json()["waiting"])
    assert len(answer.json()["waiting"]) == 2


def waiting(run: RunDir) -> list[tuple[str, Any, str]]:
    return [(r.control, r.value, r.who) for r in run.pending_requests()]


# ---- who may ask ----


@pytest.mark.parametrize("path", [*GETS, "/nothing", "/api/stream", "/api/runs/0/tokens.csv"])
def test_nothing_is_told_without_the_token(client: TestClient, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer other"}, {"Cookie": "nlft-map=other"}, {"Authorization": TOKEN[:-1]}):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401, headers
        assert "nlft map" in answer.json()["error"]
        assert "set-cookie" not in answer.headers
    assert client.get(path + "?token=other").status_code == 401


def test_token_in_the_first_address_becomes_a_cookie_that_scripts_and_other_sites_cannot_use(
    client: TestClient,
) -> None:
    answer = client.get(f"/?token={TOKEN}")
    assert answer.status_code == 200
    assert answer.headers["set-cookie"] == f"nlft-map={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert client.get("/api/runs").status_code == 200  # the client has kept it
    assert "set-cookie" not in client.get("/api/runs").headers


@pytest.mark.parametrize("other", ['prefs={"a": [1]}', "a@b[0]=1", "=x", "\xe9=y"])
def test_odd_cookie_of_another_app_does_not_lock_the_page_out(client: TestClient, other: str) -> None:
    for cookies in (f"{other}; nlft-map={TOKEN}", f"nlft-map={TOKEN}; {other}"):
        assert client.get("/api/runs", headers={"Cookie": cookies.encode("latin-1")}).status_code == 200
    assert client.get("/api/runs", headers={"Cookie": other.encode("latin-1")}).status_code == 401


def test_every_server_draws_its_own_token(run: RunDir) -> None:
    tokens = set()
    for _ in range(2):
        with served(run) as (_, url):
            tokens.add(url.partition("token=")[2])
    assert len(tokens) == 2
    assert all(len(token) >= 32 for token in tokens)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "127.0.0.1:8642.evil.example", "", "10.0.0.7"],
)
def test_name_that_another_site_made_point_here_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/api/runs", headers={**BEARER, "Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:9000", "LOCALHOST", "[::1]:8642"])
def test_own_names_are_known_through_a_tunnel_of_any_port(client: TestClient, host: str) -> None:
    assert client.get("/api/runs", headers={**BEARER, "Host": host}).status_code == 200


def test_more_names_are_known_only_if_asked_for(run: RunDir) -> None:
    page = PageServer([LiveRun(run)], who="ann")
    with TestClient(page.app(TOKEN, {"gpu-7.lab"}), base_url="http://gpu-7.lab") as client:
        assert client.get("/api/runs", headers=BEARER).status_code == 200
        assert client.get("/api/runs", headers={**BEARER, "Host": "10.0.0.7"}).status_code == 421
    with TestClient(page.app(TOKEN, {"0.0.0.0"}), base_url="http://10.0.0.7:8642") as client:
        assert client.get("/api/runs", headers=BEARER).status_code == 200
        assert client.get("/api/runs", headers={**BEARER, "Host": "evil.example"}).status_code == 421


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://127.0.0.1:9999",
        "http://localhost:8642",
        "null",
        "https://evil.example:8642",
        "http://[",
    ],
)
def test_page_of_another_origin_can_neither_read_nor_ask(client: TestClient, run: RunDir, origin: str) -> None:
    headers = {"Cookie": f"nlft-map={TOKEN}", "Origin": origin}
    assert client.get("/api/runs", headers=headers).status_code == 403
    body = {"changes": [{"control": "stop", "value": None}]}
    assert client.post("/api/requests", json=body, headers=headers).status_code == 403
    assert waiting(run) == []


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_browser_that_says_the_asker_is_another_site_is_believed(client: TestClient, site: str) -> None:
    headers = {"Cookie": f"nlft-map={TOKEN}", "Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/runs", headers=headers).status_code == 403
    navigation = {**headers, "Sec-Fetch-Mode": "navigate"}  # somebody followed a link to the page
    assert client.get("/", headers=navigation).status_code == 200


def test_form_of_another_site_changes_nothing_though_the_cookie_comes_with_it(client: TestClient, run: RunDir) -> None:
    body = {"changes": [{"control": "stop", "value": None}]}
    cookie = {"Cookie": f"nlft-map={TOKEN}"}
    assert client.post("/api/requests", json=body, headers=cookie).status_code == 403
    assert client.post("/api/requests", data=body, headers=COOKIE).status_code == 415
    assert waiting(run) == []
    assert client.post("/api/requests", json=body, headers=COOKIE).status_code == 202


@pytest.mark.parametrize("path", [*GETS, "/nothing", "/api/runs/0/steps/999"])
def test_every_answer_carries_the_strict_policy(client: TestClient, path: str) -> None:
    for headers in (BEARER, {}):
        answer = client.get(path, headers=headers)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert "unsafe" not in POLICY
    assert "http" not in POLICY
    assert "*" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self'; ")


def test_no_other_site_may_show_the_page_in_a_frame(client: TestClient) -> None:
    answer = client.get("/", headers=BEARER)
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_only_http_requests_reach_the_page() -> None:
    reached: list[Any] = []
    sent: list[Any] = []

    async def app(*_: object) -> None:
        reached.append(_)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "websocket", "path": "/", "query_string": f"token={TOKEN}".encode(), "headers": []}
    asyncio.run(Guard(app, TOKEN, set(), "nlft-map")(scope, receive, send))
    assert not reached
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_answers_are_not_kept_by_anyone_but_the_library(client: TestClient) -> None:
    for path in GETS:
        kept = client.get(path, headers=BEARER).headers["cache-control"]
        assert kept == "no-store"


# ---- nothing that is sent names a path ----


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/../templates/map.html",
        "/static/map.html",
        "/static//etc/passwd",
        "/static/%00",
        "/api/runs/1/steps/10",
        "/api/runs/0/steps/11",
        "/api/runs/-1/changes",
        f"/api/runs/0/steps/{'9' * 5000}",
        f"/api/runs/{'9' * 5000}/changes",
        "/api/runs/0/steps/٣",
        "/api/runs/0/steps/../../../run.yaml",
        "/api/runs/%2fetc/changes",
        "/run.yaml",
        "/docs",
        "/openapi.json",
    ],
)
def test_only_known_names_and_numbers_lead_anywhere(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=BEARER)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("query", ["generation=x", "steps=-1", "events=1e9", "controls=99999999999999", "events=٣"])
def test_counts_must_be_plain_numbers(client: TestClient, query: str) -> None:
    assert client.get(f"/api/runs/0/changes?{query}", headers=BEARER).status_code == 400


def test_body_too_long_or_of_another_kind_is_refused(client: TestClient, run: RunDir) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}

    def status(content: bytes | str) -> int:
        return client.post("/api/requests", content=content, headers=headers).status_code

    assert status("x" * (LONGEST_BODY + 1)) == 413
    assert status("{") == 400
    assert status("[" * 100_000) == 400
    assert status("[]") == 400
    assert status('{"changes": []}') == 400
    assert status('{"changes": [{"control": 1}]}') == 400
    assert status(json.dumps({"changes": [{"control": "save"}] * 51})) == 400
    assert client.get("/api/requests", headers=BEARER).status_code == 405
    assert waiting(run) == []


# ---- what it answers ----


def test_changes_hold_only_what_is_new(client: TestClient, run: RunDir) -> None:
    def changes(**have: int) -> dict[str, Any]:
        query = "&".join(f"{name}={value}" for name, value in have.items())
        return dict(client.get(f"/api/runs/0/changes?{query}", headers=BEARER).json())

    first = changes()
    assert first["steps"] == [0, 10, 20]
    assert first["events"]["count"] == len(first["events"]["columns"]["loss"]) == 20
    assert first["state"] == "training"
    have = {"generation": first["generation"], "steps": first["steps_seen"], "events": 20, "controls": 0}
    second = changes(**have)
    assert second["steps"] is None
    assert second["events"]["columns"]["loss"] == []
    run.append_event(event(21))
    run.append_control(ledger_line("a", 21, "learning_rate", 1.0, 0.5))
    add_step(run, 30)
    time.sleep(0.4)  # the server looks now and then, not at every question
    third = changes(**have)
    assert third["steps"] == [0, 10, 20, 30]
    assert third["events"]["columns"]["step"] == [21]
    assert [line["id"] for line in third["controls"]] == ["a"]
    assert third["steering"]["values"]["learning_rate"] == 0.5
    assert third["steering"]["undoable"] == ["a"]


def check_news(run: RunDir, lines: Iterator[bytes]) -> None:
    """Each step that is written comes over the stream by itself."""
    before = json.loads(next(lines))
    for step in (30, 40, 50):
        add_step(run, step)
        news = json.loads(next(lines))
        assert news != before
        before = news


def test_news_come_over_a_stream_and_the_server_looks_for_them_several_times_a_second(run: RunDir) -> None:
    with served(run) as (_, url), stream_of(url) as lines:
        check_news(run, lines)
    assert LOOK_EVERY <= 0.3


def test_resumed_run_makes_pages_fetch_everything_again(run: RunDir) -> None:
    live = LiveRun(run)
    generation = live.generation
    run.start_events(10)
    live.poll()
    assert live.generation > generation
    assert live.steps == [0, 10]
    assert len(live.events) == 10
    assert live.changes(generation, 1, 20, 0)["events"]["count"] == 10


def test_of_a_run_that_is_cleared_nothing_is_left_once_it_begins_again(run: RunDir) -> None:
    live = LiveRun(run)
    generation = live.generation
    run.clear()
    for _ in range(2):
        live.poll()
        assert str(live.problem).startswith("cannot read ")
        assert run.path.name in str(live.problem)
        assert (live.generation, live.steps) == (generation, [0, 10, 20])  # a page that asks for a step has it already
    run.write_settings(record())
    live.poll()
    assert live.generation > generation
    assert (live.problem, live.steps, live.examples, live.state()) == (None, [], [], "waiting")


def test_old_batches_that_are_dropped_do_not(tmp_path: Path) -> None:
    live = LiveRun(make_run(tmp_path / "farm", steps=4, every=1))
    generation, seen = live.generation, live.steps_seen
    (live.run.saliency_path / "step-00000001.safetensors").unlink()
    live.poll()
    assert live.steps == [0, 2, 3]
    assert live.generation == generation
    assert live.steps_seen == seen + 1


def test_torn_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = JsonlTail(path)
    assert tail.read() == (False, [])
    path.write_bytes(b'{"step": 1}\n{"st')
    assert tail.read() == (False, [{"step": 1}])
    with path.open("ab") as file:
        file.write(b'ep": 2}\nnot json\n[1]\n')
    assert tail.read() == (False, [{"step": 2}])
    path.write_bytes(b'{"step": 7}\n')  # cut: what was read before no longer holds
    assert tail.read() == (True, [{"step": 7}])
    path.unlink()
    assert tail.read() == (True, [])


def test_a_log_that_was_begun_again_in_a_file_of_the_same_number_is_read_from_its_start(tmp_path: Path) -> None:
    """A file system gives the number of a removed file to the next one; this writes into the same file."""
    path = tmp_path / "events.jsonl"
    first = b"".join(b'{"step": %d, "time": "a%d"}\n' % (step, step) for step in range(100))
    path.write_bytes(first)
    tail = JsonlTail(path)
    assert len(tail.read()[1]) == 100
    path.write_bytes(first + b'{"step": 100}\n')
    assert tail.read() == (False, [{"step": 100}])
    path.write_bytes(first.replace(b'"a', b'"b') + first)
    replaced, lines = tail.read()
    assert (replaced, len(lines), lines[0]["time"]) == (True, 200, "b0")


def test_events_with_gaps_keep_their_rows_apart() -> None:
    events = Events()
    for one in [{"step": 1, "loss": 2.0}, {"step": 2, "eval_loss": 1.5, "flag": True}, {"no": "step"}]:
        events.append(one)
    events.append({"step": 3, "loss": None, "superseded": False})
    events.append({"step": 4, "loss": 1.0, "superseded": True})
    found = events.since(0)
    assert found["count"] == 3
    assert found["columns"] == {
        "step": [1, 2, 3],
        "time": [None] * 3,
        "loss": [2, None, None],
        "eval_loss": [None, 1.5, None],
    }


def test_long_runs_are_thinned_with_their_extremes_kept() -> None:
    values = [1.0 + step % 7 / 100 for step in range(50_000)]
    values[20_001], values[30_003] = 9.0, -9.0
    values[40_000] = float("nan")
    kept = thin(range(50_000), values, MOST_ROWS)
    assert len(kept) <= MOST_ROWS + 3
    assert {0, 49_999, 20_001, 30_003, 40_000} <= set(kept)
    assert kept == sorted(kept)


def test_step_that_cannot_be_read_says_why_and_the_others_are_shown(client: TestClient, run: RunDir) -> None:
    file = run.saliency_path / "step-00000010.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    answer = client.get("/api/runs/0/steps/10", headers=BEARER)
    assert answer.status_code == 404
    assert "damaged" in answer.json()["error"]
    assert client.get("/api/runs/0/steps/20", headers=BEARER).status_code == 200


def test_run_without_examples_or_steps_is_served_all_the_same(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "sft")
    run.write_settings({"method": "sft"})
    with client_of(run) as client:
        (about,) = client.get("/api/runs", headers=BEARER).json()["runs"]
        assert (about["examples"], about["schemes"]) == ([], {})
        found = client.get("/api/runs/0/changes", headers=BEARER).json()
        assert (found["steps"], found["state"], found["steering"]) == ([], "waiting", None)
        assert "takes no requests" in ask(client, {"control": "save", "value": None}).text
        run.append_event(event(1))
        time.sleep(0.4)
        assert client.get("/api/runs/0/changes", headers=BEARER).json()["state"] == "training"
        run.append_event({"step": 1, "train_runtime": 3.0})
        time.sleep(0.4)
        assert client.get("/api/runs/0/changes", headers=BEARER).json()["state"] == "finished"


def test_numbers_that_json_has_no_word_for_are_null(tmp_path: Path) -> None:
    run = make_run(tmp_path / "farm", steps=2)
    run.write_settings(record(seed=float("inf")))
    with client_of(run) as client:
        (about,) = client.get("/api/runs", headers=BEARER).json()["runs"]
        assert about["seed"] is None


# ---- steering ----


def test_request_is_a_file_with_control_value_and_asker(client: TestClient, run: RunDir) -> None:
    answer = ask(client, {"control": "learning_rate", "value": 0.5}, {"control": "pause", "value": None})
    assert answer.status_code == 202
    assert waiting(run) == [("learning_rate", 0.5, "ann"), ("pause", None, "ann")]
    assert [r.id for r in run.pending_requests()] == answer.json()["ids"]


def test_refused_change_says_why_and_takes_the_whole_request_with_it(client: TestClient, run: RunDir) -> None:
    answer = ask(client, {"control": "learning_rate", "value": 0.5}, {"control": "saliency.gate_fraction", "value": 2})
    assert answer.status_code == 422
    assert answer.json()["refused"] == [{"control": "saliency.gate_fraction", "reason": "give 0 to 1"}]
    assert "no held-out" in ask(client, {"control": "evaluate"}).text or "holds no examples" in answer.text + (
        ask(client, {"control": "evaluate"}).text
    )
    assert ask(client, {"control": "../../etc", "value": 1}).status_code == 422
    assert waiting(run) == []


def test_settings_of_a_scheme_can_be_asked_for_along_with_it_or_right_after(client: TestClient, run: RunDir) -> None:
    ratio = {"control": "saliency.inappropriate_ratio", "value": 1.3}
    assert ask(client, ratio).status_code == 422
    assert ask(client, {"control": "scheme", "value": "cut"}, ratio).status_code == 202
    assert ask(client, {"control": "saliency.inappropriate_weight", "value": 2.0}).status_code == 202
    assert [control for control, _, _ in waiting(run)] == [
        "scheme",
        "saliency.inappropriate_ratio",
        "saliency.inappropriate_weight",
    ]


def test_finished_run_takes_no_requests(client: TestClient, run: RunDir) -> None:
    run.append_event({"step": 20, "train_runtime": 12.0})
    time.sleep(0.4)
    client.get("/api/runs", headers=BEARER)
    assert "finished" in ask(client, {"control": "save"}).text


def test_read_only_page_shows_but_changes_nothing(run: RunDir) -> None:
    with client_of(run, read_only=True) as client:
        assert client.get("/api/runs", headers=BEARER).json()["read_only"] is True
        assert client.get("/api/runs/0/steps/10", headers=BEARER).status_code == 200
        assert ask(client, {"control": "save"}).status_code == 403
        edits = {"edits": [{"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": []}]}
        assert client.post("/api/feedback", json=edits, headers=BEARER).status_code == 403
    assert waiting(run) == []
    assert not (run.path / "feedback").exists()


def test_of_several_requests_that_find_no_room_none_is_left(
    client: TestClient, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Path.write_bytes, []

    def full(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    changes = [{"control": "learning_rate", "value": 0.5}, {"control": "save", "value": None}]
    answer = ask(client, *changes)
    assert (answer.status_code, "No space left" in answer.json()["error"]) == (422, True)
    assert list(run.requests_path.iterdir()) == []
    assert ask(client, *changes).status_code == 202
    assert [control for control, _, _ in waiting(run)] == ["learning_rate", "save"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"'])
def test_body_that_is_not_quite_json_is_refused(client: TestClient, run: RunDir, value: str) -> None:
    bodies = {
        "requests": f'{{"changes": [{{"control": "learning_rate", "value": {value}}}]}}',
        "feedback": f'{{"edits": [{{"example": 0, "id": "farm-0", "label": false, "judgment": {value}}}]}}',
        "export": f'{{"step": null, "view": {{"search": {value}}}}}',
    }
    for path, body in bodies.items():
        answer = client.post(f"/api/{path}", content=body, headers={**BEARER, "Content-Type": "application/json"})
        assert (answer.status_code, "JSON" in answer.json()["error"]) == (400, True), path
    assert waiting(run) == []


def test_page_never_gets_half_a_look(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveRun(run)
    run.append_event(event(21))
    append, begun, go_on = Events.append, threading.Event(), threading.Event()

    def slow(events: Events, line: dict[str, Any]) -> None:
        begun.set()
        assert go_on.wait(10)
        append(events, line)

    monkeypatch.setattr(Events, "append", slow)
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(live.poll)
        assert begun.wait(10)
        asking = pool.submit(live.changes, 0, 0, 0, 0)
        with pytest.raises(TimeoutError):
            asking.result(0.2)
        go_on.set()
        looking.result(10)
        assert asking.result(10)["events"]["count"] == 21


def test_steps_that_wait_in_memory_are_bounded_in_bytes(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveRun(run)
    size = len(live.step(0))
    monkeypatch.setattr("nlft.page.live.KEPT_BYTES", int(size * 2.5))
    for step in (10, 20, 0):
        assert live.step(step)
    assert list(live._packed) == [20, 0]


# ---- feedback ----


def save(client: TestClient, *edits: dict[str, Any]) -> Any:
    return client.post("/api/feedback", json={"edits": list(edits)}, headers=BEARER)


def edit(index: int, judgment: str, *, label: bool = False, marks: list[Any] | None = None) -> dict[str, Any]:
    said = {"label": label, "judgment": judgment, "marks": marks or []}
    return {"example": index, "id": f"farm-{index}", **said}


def test_feedback_is_a_new_version_each_time_and_the_latest_is_built_on(client: TestClient, run: RunDir) -> None:
    assert save(client, edit(0, "The 34 is wrong.", marks=[[2, 4, "wrong"]])).json() == {
        "file": "feedback/examples-v2.jsonl",
        "examples": 4,
        "changed": 1,
        "whole": False,
    }
    assert save(client, edit(1, "So is this.")).json()["file"] == "feedback/examples-v3.jsonl"
    second, third = (read_examples(run.path / "feedback" / f"examples-v{version}.jsonl") for version in (2, 3))
    assert [e.judgment for e in second[:2]] == ["The 34 is wrong.", None]
    assert [e.judgment for e in third[:2]] == ["The 34 is wrong.", "So is this."]
    assert [e.label for e in third] == [False, False, False, True]
    assert third[0].completion == "".join(example(0).tokens[:-1])
    log = [json.loads(line) for line in (run.path / "feedback" / "edits.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["who"]) for entry in log] == [("farm-0", "ann"), ("farm-1", "ann")]
    assert log[0]["marks"] == [{"start": 2, "end": 4, "verdict": "wrong"}]


def test_saved_feedback_can_be_changed_back_and_a_reloaded_page_has_it(client: TestClient, run: RunDir) -> None:
    original = run.watched()[0].judgment
    assert original
    save(client, edit(0, "Not so."), edit(1, "Nor so."))
    said = client.get("/api/runs", headers=BEARER).json()["saved"]
    assert said == [
        {"example": 0, "id": "farm-0", "label": False, "judgment": "Not so."},
        {"example": 1, "id": "farm-1", "label": False, "judgment": "Nor so."},
    ]
    assert save(client, edit(0, original)).json()["changed"] == 1
    assert [e["example"] for e in client.get("/api/runs", headers=BEARER).json()["saved"]] == [1]


def test_versions_saved_at_once_each_hold_what_the_others_changed(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = Feedback(run)
    write = Feedback._write

    def slow(self: Feedback, records: list[dict[str, Any]]) -> Path:
        time.sleep(0.1)
        return write(self, records)

    monkeypatch.setattr(Feedback, "_write", slow)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda index: feedback.save([_edit(index)], run.watched(), "ann"), range(4)))
    assert feedback.versions() == [2, 3, 4, 5]
    newest = read_examples(run.path / "feedback" / "examples-v5.jsonl")
    assert [e.judgment for e in newest] == ["wrong"] * 4
    assert sorted(p.suffix for p in feedback.folder.iterdir()) == [".jsonl"] * 5


def test_feedback_on_an_earlier_runs_examples_is_not_said_of_others_by_the_same_id(run: RunDir) -> None:
    feedback = Feedback(run)
    feedback.save([_edit(0), _edit(1)], run.watched(), "ann")
    first, *others = run.watched()
    run.write_watched([replace(first, prompt="How many hens?"), *others])
    feedback.save([_edit(2)], run.watched(), "ann")
    newest = {e.id: e for e in read_examples(run.path / "feedback" / "examples-v3.jsonl")}
    assert (newest["farm-0"].prompt, newest["farm-0"].judgment) == ("How many hens?", first.judgment)
    assert [newest[f"farm-{index}"].judgment for index in (1, 2)] == ["wrong", "wrong"]


def test_version_that_cannot_be_read_is_named_and_the_page_still_opens(client: TestClient, run: RunDir) -> None:
    (run.path / "feedback").mkdir()
    (run.path / "feedback" / "examples-v2.jsonl").write_text("{\n")
    assert client.get("/api/runs", headers=BEARER).json()["saved"] == []
    answer = save(client, edit(0, "x"))
    assert (answer.status_code, "examples-v2.jsonl" in answer.text) == (422, True)


def test_with_the_dataset_a_version_holds_all_of_it_and_the_original_stays_as_it_is(
    run: RunDir, tmp_path: Path
) -> None:
    original = tmp_path / "examples.jsonl"
    watched = list(run.watched())
    rows = [
        {
            "id": e.id,
            "prompt": [{"role": "user", "content": e.prompt}],
            "completion": [{"role": "assistant", "content": "".join(e.tokens[:-1])}],
            "label": e.label,
            "answer": e.answer,
            **({} if e.label else {"judgment": e.judgment}),
            "source": "mine",
        }
        for e in [*watched, replace(watched[0], id="not watched")]
    ]
    original.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = original.read_bytes()
    feedback = Feedback(run, [as_record(e) for e in read_examples(original)])
    page = PageServer([LiveRun(run)], who="ann", feedback=feedback)
    with TestClient(page.app(TOKEN, set()), base_url=HERE) as client:
        assert save(client, edit(2, "Another judgment.")).json()["whole"] is True
    found = read_examples(run.path / "feedback" / "examples-v2.jsonl")
    assert original.read_bytes() == before
    expected = read_examples(original)
    assert len(found) == 5
    assert found[2].judgment == "Another judgment."
    assert [replace(e, judgment=None) for e in found] == [replace(e, judgment=None) for e in expected]
    write_examples(tmp_path / "again.jsonl", found)


def test_dataset_without_the_edited_example_is_refused(run: RunDir) -> None:
    feedback = Feedback(run, [{"id": "other", "label": True}])
    with pytest.raises(UserError, match="farm-0' is not in the dataset"):
        feedback.save([_edit(0)], run.watched(), "ann")
    assert feedback.versions() == []


def _edit(index: int) -> Any:
    from nlft.page.feedback import Edit

    return Edit(index, f"farm-{index}", False, "wrong")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"example": 9, "label": False, "judgment": "x"}, "example 9"),
        ({"example": True, "label": False, "judgment": "x"}, "not True"),
        ({"example": "../x", "label": False, "judgment": "x"}, "example"),
        ({"example": 0, "id": "farm-0", "label": False, "judgment": " "}, "no judgment"),
        ({"example": 0, "id": "farm-0", "label": False, "judgment": "x" * 20_001}, "20001 characters"),
        ({"example": 0, "id": "farm-0", "label": "no", "judgment": "x"}, "needs a label"),
        (
            {"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": [[0, 41, "wrong"]]},
            "outside its tokens",
        ),
        (
            {"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": [[2, 2, "wrong"]]},
            "outside its tokens",
        ),
        (
            {"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": [[0, 1, "bad"]]},
            "outside its tokens",
        ),
        ({"example": 0, "id": "farm-1", "label": False, "judgment": "x"}, "farm-1"),
        ({"example": 0, "label": False, "judgment": "x"}, "farm-0"),
        ({"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": 5}, "list of marks"),
        (
            {"example": 0, "id": "farm-0", "label": False, "judgment": "x", "marks": [[0, 1, "wrong"]] * 1001},
            "1000 marks",
        ),
        (7, "not None"),
    ],
)
def test_crooked_feedback_is_refused_with_its_reason_and_writes_nothing(
    client: TestClient, run: RunDir, bad: Any, reason: str
) -> None:
    answer = client.post("/api/feedback", json={"edits": [bad, edit(1, "fine")]}, headers=BEARER)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]
    assert save(client).status_code == 422
    assert not (run.path / "feedback").exists()


def test_ids_that_a_browser_would_round_reach_the_file_as_they_are(client: TestClient, run: RunDir) -> None:
    ids = [2**53 + 1 + at for at in range(len(run.watched()))]
    run.write_watched([replace(example, id=id) for example, id in zip(run.watched(), ids, strict=True)])
    client.get("/api/runs/0/changes", headers=BEARER)
    shown = client.get("/api/runs", headers=BEARER).json()["runs"][0]["examples"]
    assert [one["id"] for one in shown] == [str(id) for id in ids], "as text"
    assert save(client, {**edit(0, "Too short."), "id": shown[0]["id"]}).status_code == 200
    assert json.loads((run.path / "feedback" / "examples-v2.jsonl").read_text().splitlines()[0])["id"] == ids[0]
    assert client.get("/api/runs", headers=BEARER).json()["saved"][0]["id"] == shown[0]["id"]


def test_a_long_judgment_of_the_run_itself_does_not_block_an_edit(client: TestClient, run: RunDir) -> None:
    long = "x" * 20_001
    run.write_watched([replace(example, judgment=long) for example in run.watched()])
    client.get("/api/runs/0/changes", headers=BEARER)
    assert save(client, edit(0, long, marks=[[0, 1, "wrong"]])).status_code == 200
    assert save(client, edit(0, long + "x")).status_code == 422


def test_nothing_is_rescored_without_a_model(client: TestClient, run: RunDir) -> None:
    body = {"example": 0, "id": "farm-0", "label": False, "judgment": "No."}
    assert client.get("/api/runs", headers=BEARER).json()["rescores"] is False
    answer = client.post("/api/rescore", json=body, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]) == (403, "This page was started without --model.")
    client.cookies.clear()
    assert client.post("/api/rescore", json=body).status_code == 401


def test_version_that_exists_is_never_written_over(run: RunDir) -> None:
    feedback = Feedback(run)
    (run.path / "feedback").mkdir()
    (run.path / "feedback" / "examples-v2.jsonl").write_text("mine\n" * 0)
    feedback._latest = lambda examples: []  # type: ignore[method-assign]
    feedback.versions = list  # type: ignore[method-assign]  # as another server sees it a moment too early
    assert feedback._write([]).name == "examples-v3.jsonl"
    assert sorted(p.name for p in (run.path / "feedback").iterdir()) == ["examples-v2.jsonl", "examples-v3.jsonl"]


def test_a_disk_without_hard_links_takes_versions_too_and_replaces_none(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    feedback = Feedback(run)
    for version in (2, 3):
        assert feedback.save([_edit(version)], run.watched(), "ann")["file"] == f"feedback/examples-v{version}.jsonl"
    (feedback.folder / "examples-v4.jsonl").touch()  # another server has taken the name, and not written yet
    assert feedback.save([_edit(0)], run.watched(), "ann")["file"] == "feedback/examples-v5.jsonl"
    assert [e.judgment for e in read_examples(feedback.folder / "examples-v5.jsonl")][2:] == ["wrong", "wrong"]
    assert (feedback.folder / "examples-v4.jsonl").read_bytes() == b""
    assert not list(feedback.folder.glob(".*"))


def test_an_edit_that_no_training_could_read_is_refused_with_its_example(run: RunDir) -> None:
    example, *others = run.watched()
    run.write_watched([replace(example, tokens=["<|im_end|>"]), *others])  # a reply without text
    feedback = Feedback(run, check=check_feedback)
    with pytest.raises(UserError, match="farm-0"):
        feedback.save([_edit(0)], run.watched(), "ann")
    assert feedback.versions() == []
    assert feedback.save([_edit(1)], run.watched(), "ann")["changed"] == 1


def test_a_judgment_that_is_longer_than_a_reader_may_write_stays_as_it_is(run: RunDir) -> None:
    long = "x" * 30_000
    run.write_watched([replace(run.watched()[0], judgment=long), *run.watched()[1:]])
    with client_of(run) as client:
        assert save(client, edit(0, long, marks=[[2, 4, "wrong"]])).json()["changed"] == 1
        assert save(client, edit(0, long + "y")).status_code == 422


# ---- sharing ----


@pytest.mark.parametrize("step", [-1, 10**12, True, 1.5, "1"])
def test_export_of_what_is_no_step_is_refused(client: TestClient, step: Any) -> None:
    answer = client.post("/api/export", json={"step": step, "view": {}}, headers=BEARER)
    assert (answer.status_code, "step" in answer.text) == (400, True)


def test_csv_of_all_steps_is_made_a_step_at_a_time(client: TestClient, run: RunDir, tmp_path: Path) -> None:
    parts = list(csv_parts(run))
    assert [len(part.splitlines()) for part in parts] == [1, 160, 160, 160]
    written = export_csv(run, tmp_path / "tokens.csv").read_text()
    assert client.get("/api/runs/0/tokens.csv", headers=BEARER).text == "".join(parts) == written


def test_csv_has_a_line_a_token_and_no_formula(tmp_path: Path) -> None:
    run = make_run(tmp_path / "farm", steps=1, examples=0)
    tokens = ['=HYPERLINK("http://x")', "+1", "a,b", '"', "\n", "\x00", "\x1b[31m", "\u202eabc", "end"]
    run.write_watched([WatchedExample("=1+1", False, "p", "a", "j", tokens)])
    add_step(run, 3)
    rows = list(csv.reader("".join(csv_parts(run, 3)).splitlines()))
    assert rows[0][:5] == ["step", "example", "label", "position", "token"]
    assert [json.loads(row[4]) for row in rows[1:]] == tokens
    assert {row[1] for row in rows[1:]} == {'"=1+1"'}
    for row in rows[1:]:
        assert all(re.fullmatch(r'(-?[\d.]+(e-?\d+)?|"[ -~]*"|wrong|)', field) for field in row), row
    scores = run.snapshot(3).scores[0]
    assert scores
    assert np.allclose([float(row[8]) for row in rows[1:]], scores.base, rtol=1e-6)


def test_a_step_that_cannot_be_read_is_named_in_the_csv_and_refused_alone(client: TestClient, run: RunDir) -> None:
    torn = run.saliency_path / "step-00000010.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    one = client.get("/api/runs/0/tokens.csv?step=10", headers=BEARER)
    assert (one.status_code, "step 10" in one.json()["error"]) == (422, True)
    with pytest.warns(UserWarning, match="step 10"):
        text = client.get("/api/runs/0/tokens.csv", headers=BEARER).text
    (left,) = [row for row in csv.DictReader(text.splitlines()) if row["step"] == "10"]
    assert "left out" in json.loads(left["tag"])
    assert (left["token"], left["base"]) == ("", "")
    with pytest.warns(UserWarning, match="10"):
        page = live_export([LiveRun(run)], None, {})
    assert "Left out unreadable steps: 10" in page
    for private in (str(run.path), run.path.parent.name):
        assert private not in text + page


def test_csv_of_a_missing_step_is_refused(client: TestClient) -> None:
    answer = client.get("/api/runs/0/tokens.csv?step=11", headers=BEARER)
    assert answer.status_code == 422
    assert "no such step" in answer.json()["error"]
    answer = client.get("/api/runs/0/tokens.csv", headers=BEARER)
    assert len(answer.text.splitlines()) == 1 + 3 * 4 * 40


def test_export_is_a_whole_page_that_the_browser_saves_and_does_not_open(client: TestClient) -> None:
    body = {"step": 20, "view": {"step": 20}, "path": "/etc/passwd"}
    answer = client.post("/api/export", json=body, headers=BEARER)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.text.startswith("<!doctype html>")
    assert client.post("/api/export", json={"step": "x", "view": {}}, headers=BEARER).status_code == 400
    assert client.post("/api/export", json={"step": 11, "view": {}}, headers=BEARER).status_code == 422


# ---- the process ----


class served:  # in small letters: it reads as a phrase
    """`nlft map RUN` in a process of its own."""

    def __init__(self, run: RunDir, *options: str) -> None:
        command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0", *options]
        environment = {k: v for k, v in os.environ.items() if k != "SSH_CONNECTION"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> tuple[subprocess.Popen[str], str]:
        assert self.process.stdout
        return self.process, self.process.stdout.readline().split()[1]

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


class stream_of:
    """The data lines of a page's stream."""

    def __init__(self, url: str) -> None:
        from urllib.request import Request, urlopen

        address, _, token = url.partition("?token=")
        self.answer = urlopen(Request(f"{address}api/stream", headers={"Authorization": f"Bearer {token}"}), timeout=20)

    def __enter__(self) -> Iterator[bytes]:
        return (line.removeprefix(b"data: ") for line in self.answer if line.startswith(b"data: "))

    def __exit__(self, *_: object) -> None:
        self.answer.close()


def test_command_listens_on_this_machine_alone_and_stays_below_100_megabytes_without_torch(run: RunDir) -> None:
    with served(run) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        port = int(re.search(r":(\d+)/", url)[1])  # type: ignore[index]
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))  # also this machine, but not the address that it listens on
        with stream_of(url) as lines:
            next(lines)
            status = Path(f"/proc/{process.pid}/status").read_text()
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        assert resident < 100
        assert "torch" not in maps


def test_interrupt_ends_the_server_at_once_though_pages_listen(run: RunDir) -> None:
    with served(run) as (process, url), stream_of(url) as lines:
        next(lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) in (0, 130, -signal.SIGINT)
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def test_page_that_hangs_keeps_nobody_else_waiting(run: RunDir) -> None:
    with served(run) as (_, url):
        host, port = re.search(r"//([\d.]+):(\d+)", url).groups()  # type: ignore[union-attr]
        token = url.partition("token=")[2]
        hanging = []
        for _ in range(20):
            one = socket.create_connection((host, int(port)))
            one.sendall(f"GET /api/stream HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
            hanging.append(one)  # and never reads
        with stream_of(url) as lines:
            check_news(run, lines)
        for one in hanging:
            one.close()


class answering:
    """A server of the page in a thread."""

    def __init__(self, run: RunDir) -> None:
        self.socket = listen("127.0.0.1", 0, 0)
        self.server = web_server(PageServer([LiveRun(run)], who="ann"), self.socket, TOKEN, set())
        self.thread = threading.Thread(target=self.server.serve_until_stopped)

    def __enter__(self) -> tuple[str, int]:
        self.thread.start()
        host, port = self.socket.getsockname()
        return host, port

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


ASKING = f"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()


def test_requests_on_an_open_connection_do_not_wait_for_each_other(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without TCP_NODELAY each answer on an open connection waits 40 ms for the one before to be acknowledged."""
    prepare, found = asyncio.base_events._set_nodelay, []

    def looking(sock: socket.socket) -> None:
        prepare(sock)
        found.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(asyncio.base_events, "_set_nodelay", looking)
    with answering(run) as place, socket.create_connection(place) as connection:
        for _ in range(3):
            connection.sendall(ASKING)
            answer = b""
            while b"\r\n\r\n" not in answer or b'"rescores"' not in answer:
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200")
    assert found
    assert all(found)


def test_connections_that_send_no_request_are_closed_and_shut_nobody_out(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_WITHIN", 0.5)
    monkeypatch.setattr(connections, "most_connections", lambda: 20)
    with answering(run) as place:
        half_open = [socket.create_connection(place) for _ in range(60)]
        for one in half_open:
            with contextlib.suppress(OSError):
                one.sendall(b"GET / HT")
        with socket.create_connection(place, timeout=10) as connection:
            connection.sendall(ASKING)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        for one in half_open:
            one.settimeout(10)
            with contextlib.suppress(ConnectionError):
                assert one.recv(100) == b""  # closed, without an answer
            one.close()


def test_browser_that_leaves_while_it_sends_leaves_no_traceback(run: RunDir) -> None:
    with served(run) as (process, url):
        host, port = re.search(r"//([\d.]+):(\d+)", url).groups()  # type: ignore[union-attr]
        token = url.partition("token=")[2]
        head = f"POST /api/requests HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        with socket.create_connection((host, int(port))) as leaving:
            leaving.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 500\r\n\r\n{{".encode())
        with stream_of(url) as lines:
            next(lines)
        process.send_signal(signal.SIGINT)
        process.wait(5)
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def test_taken_port_is_refused_if_asked_for_and_replaced_if_not() -> None:
    with listen("127.0.0.1", 0, 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port} "):
            listen("127.0.0.1", port, 0)
        with listen("127.0.0.1", None, port) as other:
            assert other.getsockname()[1] != port


def test_command_writes_html_and_csv_without_serving(run: RunDir, tmp_path: Path) -> None:
    out = [str(tmp_path / "map.html"), str(tmp_path / "tokens.csv")]
    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--html", out[0], "--csv", out[1]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *told, following = done.stdout.splitlines()
    assert told == [f"map: {out[0]}", f"tokens: {out[1]}"]
    assert following.startswith("next: ")
    assert out[0] in following
    assert all(Path(path).stat().st_size > 1000 for path in out)
