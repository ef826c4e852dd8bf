"""A real training of SmolLM2's first layers, its map in another process, and a real browser that steers it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, expect

from helpers.map_page import open_all, unfold
from helpers.real import first_layers
from helpers.waiting import LONG, until
from nlft.core.saliency import ConditionLogprobs
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.data.problems import generate_problems
from nlft.data.records import Example, write_examples
from nlft.runs.run_dir import RunDir, Snapshot

pytest_plugins = ["helpers.browser"]

RATE = 1e-5
# The trainer steps far faster than the page draws on some machines: the last test stops it, not the last step.
STEPS = 5000


def problems() -> list[Example]:
    """Short worked problems; every other one has its last number wrong, and is judged."""
    made = []
    for index, question in enumerate(generate_problems(4, seed=5)):
        label = index % 2 == 1
        said = question.answer
        if not label:
            said = re.sub(r"(\d+)$", lambda m: str(int(m[1]) + 1), said)
        judgment = None if label else f'"{said.splitlines()[-1]}" is not the right result.'
        made.append(Example(f"p{index}", question.prompt, said, label, question.answer, judgment))
    return made


@dataclass
class Live:
    """A training that goes on, the server of its map, and the address."""

    run: RunDir
    training: subprocess.Popen[str]
    server: subprocess.Popen[str]
    url: str

    def lines(self, control: str) -> list[dict[str, Any]]:
        return [line for line in self.run.controls() if line["control"] == control]

    def losses(self) -> dict[int, dict[str, Any]]:
        return {event["step"]: event for event in self.run.events() if "loss" in event}


def serve(run: RunDir, *options: str) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0", *options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    return server, server.stdout.readline().split()[1]


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    model = first_layers(6, folder / "model")
    write_examples(folder / "examples.jsonl", problems())
    run = RunDir(folder / "run")
    options = {
        "model_name_or_path": model, "output_dir": run.path, "max_steps": STEPS, "per_device_train_batch_size": 1,
        "learning_rate": RATE, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no",
        "dtype": "float32", "activation_checkpointing": "false", "watch": 4, "watch_every": 0, "disable_tqdm": "true",
    }  # fmt: skip
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with (folder / "training.txt").open("w") as said:
        command = [sys.executable, "-m", "nlft.cli", "train", str(folder / "examples.jsonl"), *flags]
        training = subprocess.Popen(command, stdout=said, stderr=said, text=True)
    try:
        until(lambda: run.snapshot_steps() or training.poll() is not None, 300)
        assert training.poll() is None, (folder / "training.txt").read_text()
        server, url = serve(run)
        found = Live(run, training, server, url)
        yield found
        end(found.server)
    finally:
        end(training)


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """One browser profile. Its pages may have logged nothing, and asked nobody but the server."""
    made = chromium.new_context(viewport={"width": 1440, "height": 1000})
    from helpers.browser import PATIENCE_MS, Watch  # not above: pytest is to import its plugin first

    watch = Watch()
    made.on("page", watch.follow)
    made.set_default_timeout(LONG * 1000)
    expect.set_options(timeout=LONG * 1000)
    yield made
    made.close()
    expect.set_options(timeout=PATIENCE_MS)
    assert [one for one in watch.complaints if "net::ERR_" not in one] == []
    assert all(re.match(r"(http://127\.0\.0\.1:\d+/|blob:)", address) for address in watch.requests)


@pytest.fixture
def page(live: Live, context: BrowserContext) -> Page:
    """The map of a run that trains, paused or not, with nothing tried and the learning rate as scheduled."""
    made = context.new_page()
    made.goto(live.url)
    expect(made.locator(".token[data-tag]").first).to_be_visible()
    open_all(made)
    unfold(made)
    if "paused" in made.locator("#status").inner_text():  # an earlier test may have failed
        resume(made)
    return made


def shown_step(page: Page) -> int:
    found = re.match(r"step (\d+)", page.locator("#where").inner_text())
    return int(found[1]) if found else -1


def press(page: Page, name: str) -> None:
    page.locator("#runbar").get_by_role("button", name=name, exact=True).click()


def pause(page: Page) -> None:
    press(page, "Pause")
    expect(page.locator("#status")).to_contain_text("paused")


def settled(live: Live, page: Page) -> None:
    """Wait for the last step of a paused run, which is written in the background, to be on the page."""
    next_step = live.lines("pause")[-1]["step"]
    last = max(next_step - 2, 0)  # a batch's snapshot is named after the steps before it
    until(lambda: last in live.run.snapshot_steps())
    until(lambda: shown_step(page) >= last)


def resume(page: Page) -> None:
    press(page, "Resume")
    expect(page.locator("#status")).to_contain_text("training")


def set_rate(page: Page, factor: str) -> None:
    page.get_by_label("learning rate factor, as a number").fill(factor)
    page.get_by_role("button", name="Apply the learning rate factor").click()


def recorded_loss(snapshot: Snapshot, labels: list[bool], settings: NLFTSettings) -> float:
    """The loss of a batch from what was recorded of its tokens, weighed by the given settings: the paper's formula."""
    losses = []
    for scores, label in zip(snapshot.scores, labels, strict=True):
        if scores is None:
            continue
        base, standard = torch.tensor(scores.base)[None], torch.tensor(scores.standard)[None]
        judge = base if scores.judge is None else torch.tensor(scores.judge)[None]
        mask = torch.ones_like(base, dtype=torch.bool)
        band = torch.tensor(scores.band)[None]
        given = ConditionLogprobs(
            base=base, standard=standard, judge=judge, mask=mask, label=torch.tensor([label]), band=band
        )
        weights = get_scheme("nlft").weigh(given, settings)
        log1mp = torch.log1p(-base.double().exp()).clamp(min=-50)
        total = weights.likelihood.double() * base + weights.unlikelihood.double() * log1mp
        losses.append(-total.sum().item() / base.shape[1])
    return sum(losses) / len(losses)


def test_new_steps_appear_by_themselves(live: Live, page: Page) -> None:
    before = shown_step(page)
    expect(page.locator("#where")).not_to_contain_text(re.compile(rf"^step {before},"))
    for _ in range(3):
        newest = max(live.run.snapshot_steps())
        until(lambda n=newest: shown_step(page) >= n)
    assert shown_step(page) > before
    expect(page.locator("#status")).to_contain_text(re.compile(rf"training · step \d+ of {STEPS} · .* left"))
    assert page.locator("article").count() == 4


def test_a_slider_retags_without_asking_anyone_and_the_run_goes_on_as_it_is(live: Live, page: Page) -> None:
    pause(page)
    settled(live, page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    tags = "[...document.querySelectorAll('.token')].map((token) => token.dataset.tag)"
    before = page.evaluate(tags)
    page.get_by_label("certain_threshold, as a number").fill("0.0001")
    expect(page.locator("#what-if .sum b")).not_to_have_text(re.compile("^0 of"))
    after = page.evaluate(tags)
    told = int(page.locator("#what-if .sum b").inner_text().split()[0])
    assert told == sum(old != new for old, new in zip(before, after, strict=True)) > 0
    assert [url for url in asked if "/api/requests" in url or "/steps/" in url] == []
    assert live.lines("saliency.certain_threshold") == []
    page.get_by_role("button", name="As recorded", exact=True).click()
    expect(page.locator("#what-if .sum b")).to_have_text(re.compile("^0 of"))
    assert page.evaluate(tags) == before
    resume(page)


def test_an_applied_setting_and_learning_rate_are_in_force_from_the_ledgers_step_and_undo_ends_them(
    live: Live, page: Page
) -> None:
    page.get_by_label("nll_weight, as a number").fill("3")
    page.get_by_role("button", name="Apply to the run").click()
    ledger = page.get_by_role("list", name="Requests")
    expect(ledger.locator("li.taken", has_text="nll_weight 1 → 3")).to_be_visible()
    set_rate(page, "0.25")
    expect(ledger.locator("li.taken", has_text="learning_rate 1 → 0.25")).to_be_visible()
    first_setting = live.lines("saliency.nll_weight")[-1]["step"]
    first_rate = live.lines("learning_rate")[-1]["step"]
    until(lambda: max(live.losses()) >= first_rate + 3)
    pause(page)
    settled(live, page)
    check_losses(live, first_setting, NLFTSettings(), NLFTSettings(nll_weight=3))
    rates = {step: event["learning_rate"] for step, event in live.losses().items()}
    assert rates[first_rate - 1] == pytest.approx(RATE)
    assert [rates[s] for s in rates if s >= first_rate] == pytest.approx([RATE / 4] * (max(rates) - first_rate + 1))
    assert page.locator("#marks .mark-at").count() >= 2
    for name, old, new in (("learning_rate", "1", "0.25"), ("nll_weight", "1", "3")):
        words, undone = f"{name} {old} → {new}", f"undone: {name} {new} → {old}"
        ledger.locator("li.taken", has_text=words).last.get_by_role("button", name=re.compile("^Undo")).click()
        expect(ledger.locator("li.taken", has_text=undone)).to_be_visible()
        expect(ledger.locator("li.waits")).to_have_count(0)  # the list is drawn for the last time before the next click
    resume(page)
    back = live.lines("learning_rate")[-1]
    assert (back["new"], back["undoes"]) == (1, live.lines("learning_rate")[-2]["id"])
    until(lambda: max(live.losses()) >= back["step"] + 3)
    until(lambda: max(live.run.snapshot_steps()) >= back["step"] + 2)  # they are written in the background
    assert live.losses()[back["step"]]["learning_rate"] == pytest.approx(RATE)
    check_losses(live, live.lines("saliency.nll_weight")[-1]["step"], NLFTSettings(nll_weight=3), NLFTSettings())


def check_losses(live: Live, first: int, before: NLFTSettings, after: NLFTSettings) -> None:
    """Each logged loss is that of its batch's recorded tokens under the settings of its step, and of no others."""
    labels = [example.label for example in live.run.watched()]
    checked = []
    for step in (first - 1, first, first + 1, first + 2):  # with a whole epoch among them: it has right examples
        if step - 1 not in live.run.snapshot_steps():
            continue
        snapshot, loss = live.run.snapshot(step - 1), live.losses()[step]["loss"]
        own, other = (after, before) if step >= first else (before, after)
        assert recorded_loss(snapshot, labels, own) == pytest.approx(loss, rel=1e-3)
        if any(label and scores is not None for label, scores in zip(labels, snapshot.scores, strict=True)):
            assert recorded_loss(snapshot, labels, other) != pytest.approx(loss, rel=1e-2)
            checked.append(step >= first)
    assert True in checked


def test_a_value_out_of_range_is_refused_in_the_page_and_again_in_the_trainer(live: Live, page: Page) -> None:
    set_rate(page, "99")
    expect(page.locator("#steer .said")).to_have_text("learning_rate: give 0 to 10.")
    assert [line for line in live.lines("learning_rate") if line["new"] == 99] == []
    live.run.write_request("learning_rate", 99, "someone")
    refused = page.get_by_role("list", name="Requests").locator("li.refused", has_text="learning_rate 99")
    expect(refused).to_contain_text("refused: give 0 to 10, someone")


def test_reload_keeps_what_is_pinned_shown_and_tried(live: Live, page: Page) -> None:
    pause(page)
    settled(live, page)
    last = shown_step(page)
    page.get_by_role("button", name="Pin").last.click()
    page.get_by_label("certain_threshold, as a number").fill("0.001")
    page.locator("#search").fill("p")
    page.locator("#previous").click()
    expect(page.locator("#where")).not_to_contain_text(re.compile(rf"^step {last},"))  # all is drawn with it
    at = shown_step(page)
    retagged = page.locator("#what-if .sum b").inner_text()
    page.reload()
    expect(page.locator("article").first.get_by_role("button", name="Pin")).to_have_attribute("aria-pressed", "true")
    assert shown_step(page) == at
    assert page.locator("#search").input_value() == "p"
    assert page.get_by_label("certain_threshold, as a number").input_value() == "0.001"
    assert page.locator("#what-if .sum b").inner_text() == retagged
    assert "token=" not in page.url
    resume(page)


def test_8_pages_at_once_all_get_the_next_steps(live: Live, context: BrowserContext, page: Page) -> None:
    pages = [page, *(context.new_page() for _ in range(7))]
    for one in pages[1:]:
        one.goto(live.url)
    for one in pages:
        expect(one.locator(".token[data-tag]").first).to_be_attached()
    wanted = max(live.run.snapshot_steps()) + 2
    for one in pages:
        until(lambda p=one: shown_step(p) >= wanted)


def test_killing_the_server_leaves_the_training_alone_and_the_page_says_so(live: Live, page: Page) -> None:
    end(live.server)
    step = max(live.losses())
    expect(page.locator("#status")).to_have_class(re.compile("lost"))
    until(lambda: max(live.losses()) >= step + 2)
    assert live.training.poll() is None
    live.server, live.url = serve(live.run)
    page.goto(live.url)
    expect(page.locator("#status")).not_to_have_class(re.compile("lost"))


def test_stop_ends_the_training_with_its_adapter_and_the_controls_say_why_they_rest(live: Live, page: Page) -> None:
    press(page, "Stop")
    assert live.training.wait(LONG) == 0
    assert (live.run.adapter_path / "adapter_model.safetensors").is_file()
    expect(page.locator("#status")).to_contain_text("finished")
    expect(page.locator("#steer .reason")).to_have_text("The run has finished.")
    assert all(page.locator("#steer .actions button").evaluate_all("(all) => all.map((one) => one.disabled)"))
    said = Path(live.run.path.parent / "training.txt").read_text()
    assert "Warning" not in said, said
    assert os.path.getsize(live.run.events_path) > 0
