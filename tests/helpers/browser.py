"""Fixtures that open a page in a real Chromium, and watch what it logs and what it asks for.

A test module that wants them says `pytest_plugins = ["helpers.browser"]`.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, ViewportSize, expect, sync_playwright

PATIENCE_MS = 30_000  # of an `expect`, as of an action: a machine with busy cores draws late, and is not wrong

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Watch:
    """What pages did that a reader would not see."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("dialog", self._refuse)
        page.on("request", lambda request: self.requests.append(request.url))

    def _refuse(self, dialog: Dialog) -> None:
        if dialog.type == "beforeunload":  # a page with an unsaved edit asks whether to leave it
            return dialog.accept()
        self.complaints.append(f"dialog: {dialog.message}")
        return dialog.dismiss()


OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for a file: its event loop must not outlive the file. A machine without one skips, and says so."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("NO BROWSER TESTS RUN: `chromium` is not on the PATH, so what the page does goes unchecked")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[OpenPage]:
    """Opens local files. At the test's end, none may have logged anything, or asked for another file."""
    watch = Watch()
    contexts: list[BrowserContext] = []
    opened: list[str] = []

    def open_file(
        path: Path, *, color_scheme: Literal["light", "dark"] = "light", width: int = 1200, height: int = 900
    ) -> Page:
        context = chromium.new_context(
            color_scheme=color_scheme, viewport=ViewportSize(width=width, height=height), offline=True
        )
        contexts.append(context)
        page = context.new_page()
        watch.follow(page)
        opened.append(path.resolve().as_uri())
        page.goto(opened[-1])
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert watch.complaints == []
    assert watch.requests == opened
