"""A team's page: behind a proxy under a path, with a shared token and one that may only look; under attack and load."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from helpers.labelling import opened, write_replies
from helpers.page_runs import add_step, make_run
from nlft.errors import UserError
from nlft.label.server import LabelServer
from nlft.page import connections
from nlft.page.access import READ_TOKEN, TOKEN, Access, access_flags, host_name, port_number, read_access
from nlft.page.connections import listen
from nlft.page.export import export_map, live_export
from nlft.page.feedback import Feedback
from nlft.page.live import LiveRun
from nlft.page.runs_server import RunsServer
from nlft.page.server import PageServer
from nlft.page.serving import Served, web_server
from nlft.runs.listing import RunList
from nlft.runs.run_dir import RunDir

ALL, LOOK = "a" * 20, "b" * 20
HERE = "http://127.0.0.1:8642"
STOP = {"changes": [{"control": "stop", "value": None}]}
EDITS = {"edits": [{"example": 0, "id": "farm-0", "label": False, "judgment": "No.", "marks": []}]}
DECISION = {"label": True, "skipped": False, "judgment": "", "feedback": "Short.", "spans": [], "answer": None}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "farm", steps=2)


def page_of(run: RunDir) -> PageServer:
    return PageServer([LiveRun(run)], who="ann", feedback=Feedback(run))


def headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---- tokens ----


def test_the_token_for_reading_may_look_and_write_the_page_but_not_steer_or_edit(run: RunDir) -> None:
    access = Access(ALL, LOOK)
    with TestClient(page_of(run).app(access, set()), base_url=HERE) as client:
        for token, steers in ((ALL, True), (LOOK, False)):
            about = client.get("/api/runs", headers=headers(token)).json()
            assert (about["read_only"], about["feedback"]) == (not steers, steers)
            assert client.get("/api/runs/0/steps/10", headers=headers(token)).status_code == 200
            assert (
                client.post("/api/export", json={"step": None, "view": {}}, headers=headers(token)).status_code == 200
            )
        for path, body in (("/api/requests", STOP), ("/api/feedback", EDITS), ("/api/rescore", EDITS["edits"][0])):
            refused = client.post(path, json=body, headers=headers(LOOK))
            assert (refused.status_code, set(refused.json())) == (403, {"error"}), path
            cookie = {"Cookie": f"nlft-map={LOOK}", "Origin": HERE}
            assert client.post(path, json=body, headers=cookie).status_code == 403, path
        assert list(run.pending_requests()) == []
        assert not (run.path / "feedback").exists()
        assert client.post("/api/requests", json=STOP, headers=headers(ALL)).status_code == 202
        client.cookies.clear()
        assert client.get("/api/runs", headers=headers("c" * 20)).status_code == 401


def test_each_reader_keeps_the_token_it_came_with_in_its_cookie(run: RunDir) -> None:
    for token in (ALL, LOOK):
        with TestClient(page_of(run).app(Access(ALL, LOOK, "/nlft"), set()), base_url=HERE) as client:
            cookie = client.get(f"/nlft/?token={token}").headers["set-cookie"]
            assert cookie == f"nlft-map={token}; Path=/nlft; HttpOnly; SameSite=Strict"


def test_the_token_for_reading_sees_replies_and_labels_none(tmp_path: Path) -> None:
    labelling = opened(write_replies(tmp_path / "replies.jsonl", ["A board.", "A stool."]))
    app = LabelServer(labelling, "replies.jsonl").app(Access(ALL, LOOK), set())
    body = {"place": 0, "seen": labelling.revisions[0], "step": "", "decision": DECISION}
    with TestClient(app, base_url=HERE) as client:
        assert client.get("/api/rows/0", headers=headers(LOOK)).status_code == 200
        assert client.post("/api/search", json={"text": "board"}, headers=headers(LOOK)).json() == {"places": [0]}
        for path in ("decide", "undo", "score", "resume"):
            assert client.post(f"/api/{path}", json=body, headers=headers(LOOK)).status_code == 403
        assert labelling.now[0].label is None
        assert client.post("/api/decide", json=body, headers=headers(ALL)).status_code == 200
        assert labelling.now[0].label is True
    labelling.close()


def test_the_list_of_runs_knows_the_token_for_reading_too(run: RunDir) -> None:
    listed = RunsServer(RunList(run.path.parent), page_of)
    with TestClient(listed.app(Access(ALL, LOOK, "/nlft"), set()), base_url=HERE) as client:
        assert len(client.get("/nlft/api/list", headers=headers(LOOK)).json()["runs"]) == 1
        assert client.get("/nlft/run/0/api/runs", headers=headers(LOOK)).json()["read_only"] is True
        assert client.post("/nlft/run/0/api/requests", json=STOP, headers=headers(LOOK)).status_code == 403


def test_an_exported_map_names_no_folder_of_this_machine_also_if_a_snapshot_is_damaged(run: RunDir) -> None:
    add_step(run, 30)
    damaged = run.saliency_path / "step-00000030.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    live = LiveRun(run)
    run.events_path.write_text('{"step": []}\n')
    with pytest.warns(UserWarning, match="step"):
        pages = [live_export([live], None, {})]
    run.events_path.write_text("")
    with pytest.warns(UserWarning, match="step"):
        pages.append(export_map(run, run.path.with_name("m.html")).read_text(encoding="utf-8"))
    for page in pages:
        assert "30 (damaged" in page
        assert "step-00000030.safetensors" in page
        assert str(run.path.parent) not in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf_8_break_no_page_and_no_export(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    run = make_run(tmp_path / name, steps=2)
    listed = RunsServer(RunList(tmp_path), page_of)
    labelling = opened(write_replies(tmp_path / f"{name}.jsonl", ["One."]))
    label_page = LabelServer(labelling, f"{name}.jsonl")
    asked = {"/api/list": listed, "/run/0/api/runs": listed, "/api/about": label_page}
    for path, server in asked.items():
        with TestClient(server.app(Access(ALL), set()), base_url=HERE) as client:
            answer = client.get(path, headers=headers(ALL))
            assert answer.status_code == 200, path
            assert "caf\\udce9" in answer.text, path
    labelling.close()
    assert "<title>caf\\udce9" in "".join(export_map(run, tmp_path / "m.html").read_text(encoding="utf-8").split("\n"))


def test_ports_and_host_names_are_checked_before_anything_is_served() -> None:
    for text in ("70000", "-1", "x", "", "٣", "9" * 5000):
        with pytest.raises((ArgumentTypeError, ValueError)):
            port_number(text)
    assert [port_number(text) for text in ("0", "65535")] == [0, 65535]
    named = ("team.example:8443", "https://Team.example:8443/nlft", "team.example", "::1", "[::1]:80", "10.0.0.1:9")
    assert [host_name(text) for text in named] == [*["team.example"] * 3, "::1", "::1", "10.0.0.1"]
    for text in ("", ":80", "https://", "[::1"):
        with pytest.raises(ArgumentTypeError):
            host_name(text)


def parsed(*argv: str) -> Namespace:
    parser = ArgumentParser()
    access_flags(parser)
    return parser.parse_args(argv)


def test_tokens_come_from_files_or_the_environment_and_never_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [read_access(parsed()) for _ in range(2)]
    assert drawn[0].token != drawn[1].token
    assert not drawn[0].shared
    monkeypatch.setenv(TOKEN, ALL)
    monkeypatch.setenv(READ_TOKEN, LOOK)
    assert read_access(parsed("--root_path", "/a/nlft/")) == Access(ALL, LOOK, "/a/nlft", shared=True)
    (tmp_path / "team").write_text("d" * 30 + "\n")
    assert read_access(parsed("--token", str(tmp_path / "team"))).token == "d" * 30
    monkeypatch.setenv(READ_TOKEN, ALL)
    with pytest.raises(UserError, match="same token"):
        read_access(parsed())
    monkeypatch.delenv(READ_TOKEN)
    with pytest.raises(UserError, match="--token: ") as caught:
        read_access(parsed("--token", "e" * 24))  # a token instead of a file is not repeated in the message
    assert "e" * 24 not in str(caught.value)
    (tmp_path / "short").write_text("secret")
    with pytest.raises(UserError, match="16 to 200") as caught:
        read_access(parsed("--token", str(tmp_path / "short")))
    assert "secret\n" not in str(caught.value)
    for root in ("nlft", "/a b", "/a\n", "//x", "/a;b"):
        with pytest.raises(UserError, match="--root_path"):
            read_access(parsed("--root_path", root))


def test_a_token_that_was_given_is_not_printed(run: RunDir) -> None:
    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0", "--root_path", "/nlft"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, TOKEN: ALL}
    )
    try:
        assert started.stdout
        address = started.stdout.readline().split()[1]
        assert address.endswith("/nlft/?token=TOKEN")
        base = address.partition("?")[0]
        assert httpx.get(f"{base}api/runs", headers=headers(ALL)).status_code == 200
        assert httpx.get(f"{base}api/runs").status_code == 401
        assert ALL not in Path(f"/proc/{started.pid}/cmdline").read_text() or sys.platform != "linux"
    finally:
        started.terminate()
        rest = started.communicate(timeout=10)[0]
    assert ALL not in address + rest


# ---- behind a proxy ----


@contextlib.contextmanager
def in_thread(server: Any, *, sockets: list[socket.socket]) -> Iterator[int]:
    thread = threading.Thread(target=server.run, kwargs={"sockets": sockets})
    thread.start()
    try:
        yield sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def served(page: Served, access: Access | str, hosts: set[str]) -> Iterator[int]:
    listening = listen("127.0.0.1", 0, 0)
    server = web_server(page, listening, access, hosts)
    with in_thread(server, sockets=[listening]) as port:
        yield port
        server.stop()


@contextlib.contextmanager
def proxied(port: int, path: str, *, strips: bool) -> Iterator[str]:
    """A proxy that shows the page under a path of its own address, with or without the path taken away."""

    async def pass_on(request: Request) -> Response:
        inner = request.url.path.removeprefix(path) if strips else request.url.path
        async with httpx.AsyncClient() as client:
            answer = await client.request(
                request.method,
                f"http://127.0.0.1:{port}{inner or '/'}?{request.url.query}",
                headers=[(name, value) for name, value in request.headers.items() if name != "connection"],
                content=await request.body(),
            )
        kept = {name: value for name, value in answer.headers.items() if name not in ("content-length", "date")}
        return Response(answer.content, answer.status_code, kept)

    methods = ["GET", "POST"]
    app = Starlette(routes=[Route(path, pass_on), Route(path + "/{rest:path}", pass_on, methods=methods)])
    listening = listen("127.0.0.1", 0, 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    with in_thread(server, sockets=[listening]) as own:
        yield f"http://127.0.0.1:{own}{path}"


@pytest.mark.parametrize("strips", [True, False])
def test_the_page_works_behind_a_proxy_under_a_path(run: RunDir, strips: bool) -> None:
    access = Access(ALL, root_path="/team/nlft")
    with served(page_of(run), access, set()) as port, proxied(port, "/team/nlft", strips=strips) as base:
        with httpx.Client(follow_redirects=True) as browser:
            page = browser.get(f"{base}/?token={ALL}")
            assert "Saliency map" in page.text
            assert browser.cookies.jar._cookies["127.0.0.1"].keys() == {"/team/nlft"}  # type: ignore[attr-defined]
            assert browser.get(f"{base}/static/app.js").status_code == 200
            assert browser.get(f"{base}/api/runs").json()["runs"]
            origin = base.removesuffix("/team/nlft")
            assert browser.post(f"{base}/api/requests", json=STOP, headers={"Origin": origin}).status_code == 202
            assert browser.post(f"{base}/api/requests", json=STOP, headers={"Origin": HERE}).status_code == 403
            if not strips:
                assert browser.get(base).text == browser.get(f"{base}/").text
        assert httpx.get(f"{base}/api/runs").status_code == 401
    assert len(list(run.pending_requests())) == 1


# ---- attack and load ----

NASTY = [
    "<script>alert(1)</script>",
    "</script><b>",
    "\u202eevil",
    "\x1b[31mred",
    "__proto__",
    "constructor",
    "\u2066x",
]


def test_what_users_and_models_wrote_reaches_the_file_as_data_only(tmp_path: Path) -> None:
    run = make_run(tmp_path / "farm", steps=1)
    path = run.path / "saliency" / "examples.json"
    text = path.read_text(encoding="utf-8")
    known = json.loads(text)
    rows = known if isinstance(known, list) else known["examples"]
    for row, nasty in zip(rows * 9, NASTY, strict=False):
        row |= {"id": nasty, "prompt": nasty * 3, "answer": nasty, "judgment": f'"{nasty}"'}
        row["tokens"] = [nasty, *row["tokens"][1:]]
    path.write_text(json.dumps(known), encoding="utf-8")
    page = export_map(RunDir(run.path), tmp_path / "map.html").read_text(encoding="utf-8")
    for nasty in NASTY[:4]:
        assert nasty not in page.partition("<body")[2].replace('<script>"use strict"', ""), nasty
    assert "\x1b" not in page
    assert "\u202e" not in page


ASK = f"GET /api/runs/0/changes HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ALL}\r\n\r\n".encode()


def resident() -> int:
    """Return the memory of this process in KiB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("polls", "listeners", "half_open"),
    [(300, 40, 40), pytest.param(10_000, 200, 300, marks=pytest.mark.long)],
    ids=["some", "10,000"],
)
@pytest.mark.parametrize("kind", ["map", "label"])
def test_polls_listeners_and_half_open_requests_cost_no_memory_and_shut_nobody_out(
    kind: str, polls: int, listeners: int, half_open: int, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEADERS_WITHIN", 1.0)
    labelling = opened(write_replies(tmp_path / "replies.jsonl", ["A board."]))
    page: Any = page_of(run) if kind == "map" else LabelServer(labelling, "replies.jsonl")
    path = "/api/runs/0/changes" if kind == "map" else "/api/about"
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 3 * (listeners + half_open):
        pytest.skip("this process may open too few files")
    with served(page, ALL, set()) as port, contextlib.ExitStack() as open_ones:
        for number in range(listeners + half_open):
            one = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
            stream = f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ALL}\r\n\r\n"
            slow = "POST /api/requests HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"
            with contextlib.suppress(OSError):
                one.sendall((stream if number < listeners and kind == "map" else slow).encode())
        before, slowest = 0, 0.0
        with httpx.Client(headers=headers(ALL), timeout=20) as client:
            for number in range(polls):
                start = time.monotonic()
                assert client.get(f"http://127.0.0.1:{port}{path}").status_code == 200
                slowest = max(slowest, time.monotonic() - start)
                if number == polls // 3:
                    before = resident()
        grown = resident() - before
    labelling.close()
    print(f"{kind}: {polls} polls, {listeners} listeners, {half_open} half-open: {grown} KiB, slowest {slowest:.2f} s")
    assert grown < 8 * 1024
    assert slowest < 10


def test_prototype_names_and_bidi_in_what_is_posted_are_stored_as_text(tmp_path: Path) -> None:
    labelling = opened(write_replies(tmp_path / "replies.jsonl", ["A board.", "A stool."]))
    app = LabelServer(labelling, "replies.jsonl").app(ALL, set())
    with TestClient(app, base_url=HERE) as client:
        for nasty in NASTY:
            decision = {**DECISION, "feedback": nasty, "__proto__": {"label": False}, "constructor": nasty}
            body = {"place": 0, "seen": labelling.revisions[0], "step": "", "decision": decision, "__proto__": 1}
            assert client.post("/api/decide", json=body, headers=headers(ALL)).status_code == 200
            row = client.get("/api/rows/0", headers=headers(ALL))
            assert row.json()["decision"]["feedback"] == nasty
            assert row.headers["content-type"] == "application/json"
            assert row.headers["x-content-type-options"] == "nosniff"
    labelling.close()
