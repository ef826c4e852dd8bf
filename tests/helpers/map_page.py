"""Serve a map, and what tests do on it before they look: open the examples, show why, open the folded settings."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page

from nlft.page.connections import listen
from nlft.page.feedback import Feedback
from nlft.page.live import LiveRun
from nlft.page.server import PageServer
from nlft.page.serving import web_server
from nlft.runs.run_dir import RunDir

TOKEN = "the-token"


@contextmanager
def serving(runs: list[RunDir], port: int = 0, token: str = TOKEN, **options: Any) -> Iterator[str]:
    page = PageServer([LiveRun(run) for run in runs], who="ann", feedback=Feedback(runs[0]), **options)
    listening = listen("127.0.0.1", port, 0)
    server = web_server(page, listening, token, set())
    thread = threading.Thread(target=server.serve_until_stopped, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:  # else a test that fails keeps the whole run from ending
        server.stop()
        thread.join(30)


def open_all(page: Page) -> None:
    """Open every example's card."""
    page.evaluate("document.querySelectorAll('.toggle[aria-expanded=false]').forEach((one) => one.click())")


def explain_all(page: Page) -> None:
    """Open every example, and show its ratios and tags."""
    open_all(page)
    page.evaluate("document.querySelectorAll('.why[aria-expanded=false]').forEach((one) => one.click())")


def unfold(page: Page) -> None:
    """Open every folded part of the side panel, whatever the width."""
    page.evaluate("document.querySelectorAll('#panel details').forEach((one) => { one.open = true; })")
