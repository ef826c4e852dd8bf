"""The live page in a real browser, over runs that are files alone: everything that a reader can do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from helpers.map_page import TOKEN, explain_all, open_all, serving, unfold
from helpers.page_runs import add_step, event, example, ledger_line, make_run, record
from nlft.data.records import read_examples
from nlft.page.feedback import Edit, Feedback
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample

if TYPE_CHECKING:
    from helpers.browser import OpenPage

pytest_plugins = ["helpers.browser"]

TAGS = "[...document.querySelectorAll('.token')].map((token) => token.dataset.tag)"
Show = Callable[..., Page]


@pytest.fixture
def show(chromium: Browser) -> Iterator[Show]:
    """Serves runs and opens their page. None may have logged anything, or asked anyone but the server."""
    from helpers.browser import Watch  # not above: pytest is to import its plugin first

    watch = Watch()
    addresses = []
    with ExitStack() as stack:

        def opened(*runs: RunDir, scheme: Any = "light", **options: Any) -> Page:
            addresses.append(stack.enter_context(serving(list(runs), **options)))
            context = chromium.new_context(viewport={"width": 1440, "height": 1000}, color_scheme=scheme)
            stack.callback(context.close)
            page = context.new_page()
            watch.follow(page)
            page.goto(f"{addresses[-1]}?token={TOKEN}")
            drawn = ".token[data-tag]" if runs[0].snapshot_steps() else "article, .note"
            expect(page.locator(drawn).first).to_be_visible()
            open_all(page)
            unfold(page)
            return page

        yield opened
    assert [one for one in watch.complaints if "422" not in one and "409" not in one] == []
    assert all(url.startswith((*addresses, "blob:")) for url in watch.requests)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path / "farm")


def pending(run: RunDir) -> list[tuple[str, Any]]:
    return [(request.control, request.value) for request in run.pending_requests()]


def asked(run: RunDir, page: Page, count: int = 1) -> list[tuple[str, Any]]:
    expect(page.locator(".ledger .waits")).to_have_count(count)
    return pending(run)


def answer(run: RunDir, step: int, old: Any, **more: Any) -> dict[str, Any]:
    """Take the oldest request, as the trainer does."""
    request = run.pending_requests()[0]
    line = ledger_line(request.id, step, request.control, old, request.value) | more
    run.append_control(line)
    run.remove_request(request)
    return line


def drawn(page: Page) -> None:
    """Wait for the page to draw what it was told: it does so once a frame."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def tags(page: Page) -> Any:
    drawn(page)
    return page.evaluate(TAGS)


def ids(page: Page) -> list[str]:
    drawn(page)  # text contents: the browser renders no article that is out of sight, and gives '' as its inner text
    return page.locator("#examples article:not([hidden]) h2 bdi").all_text_contents()


def knob(page: Page, name: str) -> Any:
    return page.get_by_label(f"{name}, as a number")


# ---- what is shown ----


def test_examples_can_be_searched_sorted_and_pinned(run: RunDir, show: Show) -> None:
    page = show(run)
    assert sorted(ids(page)) == ["farm-0", "farm-1", "farm-2", "farm-3"]
    page.locator("#sort").select_option("file")
    assert ids(page) == ["farm-0", "farm-1", "farm-2", "farm-3"]
    page.locator("#sort").select_option("label")
    assert ids(page) == ["farm-0", "farm-2", "farm-1", "farm-3"]
    page.locator("#sort").select_option("share")
    drawn(page)
    amounts = page.locator("article .amount").all_text_contents()
    shares = [int(text.split()[1]) for text in amounts]
    assert shares == sorted(shares, reverse=True)
    assert len(set(shares)) > 1
    page.locator("#sort").select_option("change")
    assert sorted(ids(page)) == ["farm-0", "farm-1", "farm-2", "farm-3"]
    page.locator("#sort").select_option("file")
    page.locator("#example-2").get_by_role("button", name="Pin").click()
    assert ids(page)[0] == "farm-2"
    page.locator("#search").fill("EGGS farm-3")
    assert ids(page) == ["farm-3"]
    page.locator("#search").fill("")
    page.locator("#label").select_option("right")
    assert ids(page) == ["farm-1", "farm-3"]


def test_slider_goes_back_in_time_and_play_goes_forward_to_the_last_step(run: RunDir, show: Show) -> None:
    page = show(run)
    expect(page.locator("#where")).to_contain_text("step 50")
    page.locator("#step").fill("3")
    expect(page.locator("#where")).to_contain_text("step 30")
    add_step(run, 60)
    expect(page.locator("#latest")).to_have_text("Latest (3 newer)")
    expect(page.locator("#where")).to_contain_text("step 30")
    page.locator("#play").click()
    expect(page.locator("#where")).to_contain_text("step 60")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()


def test_two_steps_stand_side_by_side_with_the_differences_marked(run: RunDir, show: Show) -> None:
    add_step(run, 60, seed=9)
    page = show(run)
    page.locator("#beside").select_option("0")
    page.locator("#other-step").fill("0")
    expect(page.locator("#example-0 .side b").nth(1)).to_have_text("Step 0")
    differences(page)


def test_two_runs_stand_side_by_side_with_the_differences_marked(run: RunDir, tmp_path: Path, show: Show) -> None:
    page = show(run, make_run(tmp_path / "barn", seed=9))
    page.locator("#beside").select_option("1")
    expect(page.locator("#example-0 .side b").nth(1)).to_have_text("barn, step 50")
    differences(page)
    page.get_by_role("tab", name="Curves").click()
    expect(page.locator(".keys-of li", has_text="faint: barn").first).to_be_visible()


def differences(page: Page) -> None:
    """The marked tokens are those whose tags differ, on both sides, and the caption counts them."""
    found = 0
    for card in page.locator("article").all():
        sides = card.locator(".side").evaluate_all(
            "(sides) => sides.map((side) => [...side.querySelectorAll('.token')].map("
            "(token) => [token.dataset.tag, token.classList.contains('changed')]))"
        )
        for (one, marked), (other, also) in zip(*sides, strict=True):
            assert marked == also == (one != other)
        number = sum(marked for _, marked in sides[0])
        caption = card.locator(".side").nth(1).locator(".caption")
        expect(caption).to_contain_text(f"{number} tokens with another tag" if number else "the same tags")
        found += number
    assert found > 0


def test_curves_show_what_was_logged_and_each_value_under_the_pointer(run: RunDir, show: Show) -> None:
    run.append_event(event(51, 120, eval_loss=1.2, eval_mean_token_accuracy=0.61))
    page = show(run)
    expect(page.locator(".spark")).to_have_count(4)
    page.locator(".spark").first.click()
    expect(page.locator(".plot .trace").first).to_be_attached()
    titles = page.locator("#curves figure:not([hidden]) figcaption").all_inner_texts()
    assert [title.split("\n")[0].strip() for title in titles] == [
        "Loss", "Learning rate", "Salient and gated", "Accuracy", "Tokens per second",
    ]  # fmt: skip
    assert page.locator(".keys-of").first.locator("li").all_inner_texts() == [
        "loss", "likelihood", "unlikelihood", "held out",
    ]  # fmt: skip
    expect(page.locator(".keys-of li", has_text="held-out tokens")).to_be_visible()
    expect(page.locator("#status")).to_contain_text("left")
    charts = page.locator("#curves figure:not([hidden])")
    assert charts.first.locator(".tick").count() >= 4
    assert charts.locator(".plot .trace").count() == 10
    assert charts.first.locator(".trace.single").count() == 1  # the held-out loss was logged once
    assert charts.first.locator(".mark-line").count() == sum(line["taken"] for line in run.controls())
    box = charts.first.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 9, box["y"] + 60)
    said = charts.first.locator(".said-at")
    last = run.events()[-1]
    expect(said).to_contain_text(f"step {last['step']}")
    expect(said).to_contain_text(f"loss {last['loss']:.4g}")
    expect(said).to_contain_text("held out 1.2")
    page.mouse.click(box["x"] + 50, box["y"] + 60)
    expect(page.locator("#where")).to_contain_text(re.compile(f"^step {run.snapshot_steps()[0]},"))
    page.mouse.move(0, 0)
    expect(said).to_be_hidden()


def test_open_ended_example_has_red_rows_where_it_is_disliked_and_green_ones_where_it_is_liked(
    tmp_path: Path, show: Show
) -> None:
    """As in the paper's figure: written feedback, and no number that could be graded."""
    shop = Path(__file__).parent.parent / "examples" / "repair-shop.jsonl"
    liked, disliked = (next(e for e in read_examples(shop) if e.label is label) for label in (True, False))
    run = RunDir(tmp_path / "shop")
    run.write_settings(record())
    watched = [
        WatchedExample(
            e.id, e.label, e.prompt, None, e.judgment, [*re.findall(r"\s?\S+", e.completion), "<|end|>"], e.feedback
        )
        for e in (disliked, liked)
    ]  # type: ignore[arg-type]
    run.write_watched(watched)
    run.store_snapshot(Snapshot(1, 0.1, "nlft", {}, ["plain"], [lifted(watched[0]), lifted(watched[1])]))
    page = show(run)
    explain_all(page)
    for index, (condition, channel) in enumerate([("judge", 0), ("standard", 1)]):
        colours = page.locator(f"#example-{index} .strip[data-condition={condition}]").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
        )
        assert len(colours) == len(watched[index].tokens)
        strong = [rgb(page, colour) for colour in colours[::2]]
        assert all(one[channel] == max(one) and one[channel] - min(one) > 0.25 for one in strong)
    assert page.locator("#example-1 .strip[data-condition=judge]").count() == 0
    expect(page.locator("#example-0")).to_contain_text("It never says whether the squeal is dangerous")
    expect(page.locator("#example-0 .badge")).to_have_text("✗ disliked")


def test_struck_tokens_are_crossed_out_and_what_should_stand_there_follows_them(tmp_path: Path, show: Show) -> None:
    run = RunDir(tmp_path / "struck")
    run.write_settings(record())
    hostile = "<b>plain</b>"
    tokens = ["A", " very", " sleek", " lamp", " of", " its", " own", ".", "<|end|>"]
    watched = WatchedExample("lamp", False, "q?", None, '"very sleek"', tokens, None, {"2": hostile, "6": ""})
    run.write_watched([watched])
    assert run.watched() == [watched]
    names = ["plain", "salient", "neighbour", "gated", "struck", "inside"]
    tags = np.array([0, 4, 5, 0, 4, 5, 5, 0, 0], np.uint8)
    scores = replace(lifted(watched), tag=tags, likelihood=(tags == 0).astype(np.float32))
    run.store_snapshot(Snapshot(1, 0.1, "strike", {}, names, [scores]))
    page = show(run)
    cells = page.locator("#example-0 .token")
    lines = cells.locator(".ink").evaluate_all("(all) => all.map((one) => getComputedStyle(one).textDecorationLine)")
    assert [at for at, line in enumerate(lines) if line == "line-through"] == [1, 2, 4, 5, 6]
    expect(page.locator("#example-0 .replacement")).to_have_text([hostile, "∅"])
    expect(cells.nth(2)).to_have_attribute("aria-label", re.compile(f"inside, replaced by {re.escape(hostile)}"))
    expect(cells.nth(6)).to_have_attribute("aria-label", re.compile("inside, replaced by nothing"))
    assert (
        page.locator("#example-0 .tokens")
        .evaluate("(all) => all.innerText.replace(/\\s+/g, '')")
        .startswith(f"Averysleek{hostile}lampofitsown∅")
    )
    expect(page.locator("#example-0 .share")).to_contain_text("struck 2 of 9 tokens")
    expect(page.locator("#example-0 .share")).not_to_contain_text("salient")
    expect(page.locator("body")).not_to_contain_text("tokens change")
    cells.nth(4).focus()
    expect(page.locator("#tooltip")).to_contain_text("struck: pushed down")


def lifted(example: WatchedExample) -> TokenScores:
    """Every other token eight times likelier under the condition that the feedback is in, and no likelier elsewhere."""
    length = len(example.tokens)
    base = np.full(length, -3, np.float32)
    raised = base + np.where(np.arange(length) % 2 == 0, np.log(8), 0).astype(np.float32)
    weights = np.ones(length, np.float32)
    standard, judge = (raised, None) if example.label else (base, raised)
    return TokenScores(base, standard, judge, weights, weights * 0, np.zeros(length, np.uint8))


def rgb(page: Page, colour: str) -> list[float]:
    """Red, green and blue of any CSS colour, 0 to 1."""
    found: list[float] = page.evaluate(
        """(colour) => {
          const canvas = document.createElement("canvas").getContext("2d");
          canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((one) => one / 255);
        }""",
        colour,
    )
    return found


def test_hostile_texts_and_names_show_as_text_on_the_live_page(tmp_path: Path, show: Show) -> None:
    hostile = ["<script>document.title=1</script>", "javascript:1", "\x1b[31m", "\u202eabc", "a\x00b", "<img src=x>"]
    run = make_run(tmp_path / "<b>run", steps=0)
    text = "".join(hostile)
    run.write_watched([WatchedExample(text, False, text, text, text, hostile)])
    run.store_snapshot(Snapshot(1, 0.1, "nlft", {}, ["<i>"], [lifted(run.watched()[0])]))
    run.append_event(event(1))
    run.append_control(ledger_line("a", 1, "<script>1</script>", None, None, "<img src=x onerror=1>"))
    page = show(run)
    expect(page.locator(".token")).to_have_count(6)
    shown = page.locator(".token > .text").all_text_contents()
    assert shown == [hostile[0], hostile[1], "ESC[31m", "U+202Eabc", "aNULb", hostile[5]]
    assert page.locator("main script, main img, aside img, aside script, a[href^='javascript']").count() == 0
    expect(page.locator(".ledger")).to_contain_text("<script>1</script>")
    assert page.title() == "<b>run: saliency map"


# ---- what if ----


def test_every_setting_and_the_scheme_can_be_tried_over_all_examples(run: RunDir, show: Show) -> None:
    page = show(run)
    before = tags(page)
    expect(page.locator("#what-if .knobs .knob")).to_have_count(len(record()["schemes"]["nlft"]))
    page.locator("#knob-mistake_ratio").fill("60")
    expect(page.locator("#what-if .sum")).to_contain_text(re.compile(r"[1-9]\d* of 160 tokens change in \d"))
    after = tags(page)
    told = int(page.locator("#what-if .sum b").inner_text().split()[0])
    assert told == sum(one != other for one, other in zip(before, after, strict=True))
    rows = page.locator("#what-if .facts tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows][:3] == [
        "salient tokens",
        "disliked replies with too much marked",
        "loss",
    ]
    assert all(len(row.split("\t")) == 3 and row.split("\t")[2] for row in rows)
    page.locator("#try-scheme").select_option("uniform")
    expect(page.locator("#what-if .knobs .knob")).to_have_count(len(record()["schemes"]["uniform"]))
    assert set(tags(page)) == {"plain"}
    page.get_by_role("button", name="As recorded", exact=True).click()
    assert tags(page) == before


def test_controls_whose_conditions_were_not_scored_are_disabled_and_say_why(tmp_path: Path, show: Show) -> None:
    run = make_run(tmp_path / "farm", steps=0)
    half = [replace(lifted(one), standard=None) for one in run.watched()]
    run.store_snapshot(Snapshot(1, 0.1, "cut", defaults("cut"), ["plain"], half))
    page = show(run, read_only=True)
    reason = page.locator("#what-if .body")
    expect(reason).to_contain_text("nlft needs standard and band, which this step did not score.")
    assert page.locator("#try-scheme option[value=nlft]").is_disabled()
    assert page.locator("#try-scheme option[value=uniform]").is_enabled()
    run.store_snapshot(Snapshot(2, 0.2, "nlft", defaults("nlft"), ["plain"], half))
    expect(page.locator("#where")).to_contain_text("step 2")
    knobs = page.locator("#what-if .knobs input")
    assert knobs.count() > 10
    assert all(knobs.evaluate_all("(all) => all.map((one) => one.disabled)"))
    expect(reason).to_contain_text("nlft needs")


def test_what_was_turned_to_where_a_condition_is_missing_can_be_turned_back(tmp_path: Path, show: Show) -> None:
    run = make_run(tmp_path / "farm", steps=0)
    half = [replace(lifted(one), judge=None) for one in run.watched()]
    run.store_snapshot(Snapshot(1, 0.1, "rlsd", defaults("rlsd"), ["plain"], half))
    page = show(run, read_only=True)
    contrast = page.locator("#knob-credit_contrast")
    contrast.check()
    expect(page.locator("#what-if .body")).to_contain_text("rlsd needs judge, which this step did not score.")
    expect(page.locator("#knob-credit_clip")).to_be_disabled()
    contrast.uncheck()
    expect(page.locator("#knob-credit_clip")).to_be_enabled()
    expect(page.locator("#what-if .body")).not_to_contain_text("rlsd needs")


def defaults(scheme: str) -> dict[str, Any]:
    return {control["name"]: control["default"] for control in record()["schemes"][scheme]}


def test_a_number_out_of_a_settings_range_is_refused_in_its_field(run: RunDir, show: Show) -> None:
    page = show(run)
    before = tags(page)
    knob(page, "mistake_floor").fill("7")
    expect(page.locator(".knob.refused input.value")).to_have_attribute("title", "give 0 to 1")
    assert tags(page) == before
    assert page.get_by_role("button", name="Apply to the run").is_disabled()
    assert pending(run) == []


# ---- steering ----


def test_apply_asks_for_what_differs_and_each_answer_stands_in_ledger_and_timeline(run: RunDir, show: Show) -> None:
    page = show(run)
    knob(page, "mistake_ratio").fill("2.5")
    page.get_by_role("button", name="Apply to the run").click()
    assert asked(run, page) == [("saliency.mistake_ratio", 2.5)]
    line = answer(run, 40, 1.5)
    taken = page.locator(".ledger .taken", has_text="mistake_ratio 1.5 → 2.5")
    expect(taken).to_contain_text("taken, ann")
    expect(page.locator("#marks .mark-at")).to_have_attribute("title", "mistake_ratio 1.5 → 2.5, from step 40")
    expect(page.locator(".ledger .waits")).to_have_count(0)  # what still waits must not be taken for the next request
    taken.get_by_role("button", name="Undo").click()
    assert asked(run, page) == [("undo", line["id"])]
    answer(run, 45, 2.5, control="saliency.mistake_ratio", new=1.5, undoes=line["id"])
    expect(page.locator(".ledger .taken").first).to_contain_text("undone: mistake_ratio 2.5 → 1.5")
    mark = page.locator("#marks .mark-at")
    expect(mark).to_have_attribute("title", re.compile("from step 40; .* 2.5 → 1.5, from step 45"))
    mark.click()
    expect(page.locator("#where")).to_contain_text("step 40")


def test_apply_leaves_alone_what_the_reader_did_not_turn_though_an_earlier_step_had_it_otherwise(
    run: RunDir, show: Show
) -> None:
    run.append_control(ledger_line("1", 45, "saliency.mistake_ratio", 1.5, 4))
    add_step(run, 60, settings=defaults("nlft") | {"mistake_ratio": 4})
    page = show(run)
    knob(page, "gate_fraction").fill("0.25")
    expect(knob(page, "mistake_ratio")).to_have_value("4")
    page.locator("#step").fill("0")
    expect(page.locator("#where")).to_contain_text("step 0")
    expect(knob(page, "mistake_ratio")).to_have_value("1.5")
    expect(page.locator(".knob.turned")).to_have_count(1)
    page.get_by_role("button", name="Apply to the run").click()
    assert asked(run, page) == [("saliency.gate_fraction", 0.25)]


def test_news_take_no_focus_from_ledger_and_timeline(run: RunDir, show: Show) -> None:
    page = show(run)
    run.append_control(ledger_line("a", 30, "learning_rate", 1.0, 0.5))
    buttons = [page.locator(".ledger .taken").get_by_role("button", name="Undo"), page.locator("#marks .mark-at")]
    for step, button in zip((51, 52), buttons, strict=True):
        button.focus()
        run.append_event(event(step))
        expect(page.locator("#status")).to_contain_text(f"step {step}")
        expect(button).to_be_focused()


def test_every_action_and_a_scheme_that_cannot_be_shown_can_be_asked_for(tmp_path: Path, show: Show) -> None:
    run = make_run(tmp_path / "farm")
    run.write_settings(record(unavailable={}))
    page = show(run)
    for name in ("Pause", "Save now", "Evaluate now", "Stop"):
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator(".ledger .waits").filter(has_text=name.split()[0].lower())).to_be_visible()
    assert pending(run) == [("pause", None), ("save", None), ("evaluate", None), ("stop", None)]
    page.locator("#try-scheme").select_option("nlft-original")
    expect(page.locator("#what-if .body")).to_contain_text("nlft-original needs whole hidden states")
    page.get_by_role("button", name="Apply to the run").click()
    expect(page.locator(".ledger .waits")).to_have_count(5)
    assert ("scheme", "nlft-original") in pending(run)


def test_what_the_run_cannot_do_is_disabled_with_its_reason(run: RunDir, show: Show) -> None:
    page = show(run)
    held = page.get_by_role("button", name="Evaluate now")
    expect(held).to_be_disabled()
    expect(held).to_have_attribute("title", "this run holds no examples out")


def test_read_only_page_offers_nothing_that_changes_anything(run: RunDir, show: Show) -> None:
    page = show(run, read_only=True)
    expect(page.locator("#steer .reason")).to_have_text("This page is read-only.")
    for name in ("Pause", "Stop", "Apply to the run", "Edit feedback"):
        assert page.get_by_role("button", name=name, exact=True).locator("visible=true").count() == 0
    page.locator("#knob-mistake_ratio").fill("60")
    expect(page.locator("#what-if .sum b")).not_to_have_text(re.compile("^0 of"))


def test_after_a_restart_of_the_server_a_page_that_is_opened_anew_keeps_up(run: RunDir, chromium: Browser) -> None:
    with chromium.new_context() as context:
        earlier, later = context.new_page(), context.new_page()
        with serving([run]) as address:
            with earlier.expect_response(lambda answer: answer.url.endswith("api/stream")):
                earlier.goto(f"{address}?token={TOKEN}")
            expect(earlier.locator("#status.lost")).to_have_count(0)
        with serving([run], int(address.rstrip("/").rpartition(":")[2]), "another") as address:
            with earlier.expect_response(lambda answer: answer.url.endswith("api/stream") and answer.status == 401):
                pass  # after which a browser does not try again by itself
            expect(earlier.locator("#status.lost")).to_be_visible()
            later.goto(f"{address}?token=another")
            expect(later.locator("#where")).to_contain_text("step 50")
            add_step(run, 60)
            run.append_event(event(60))
            for page in (later, earlier):
                expect(page.locator("#where")).to_contain_text("step 60")
                expect(page.locator("#status.lost")).to_have_count(0)


# ---- feedback ----


def test_edited_judgments_and_marked_tokens_are_saved_as_a_new_version(run: RunDir, show: Show) -> None:
    page = show(run)
    card = page.locator("#example-1")
    card.get_by_role("button", name="Edit feedback").click()
    card.locator(".token").nth(2).click()
    card.locator(".token").nth(4).click(modifiers=["Shift"])
    card.get_by_role("button", name="Mark wrong (W)").click()
    quoted = "".join(run.watched()[1].tokens[2:5]).strip()
    expect(card.locator("textarea")).to_have_value(f'"{quoted}" is wrong.')
    assert card.locator(".token[data-mark=wrong]").count() == 3
    page.reload()  # an edited example opens by itself
    expect(card.locator(".token[data-mark=wrong]")).to_have_count(3)
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#drafts")).to_contain_text("Saved as feedback/examples-v2.jsonl")
    saved = {e.id: e for e in read_examples(run.path / "feedback" / "examples-v2.jsonl")}
    assert (saved["farm-1"].label, saved["farm-1"].judgment) == (False, f'"{quoted}" is wrong.')
    assert saved["farm-0"].judgment == run.watched()[0].judgment


def test_saved_feedback_is_edited_on_and_can_be_changed_back(run: RunDir, show: Show) -> None:
    page = show(run)
    card = page.locator("#example-0")
    card.get_by_role("button", name="Edit feedback").click()
    original = card.locator("textarea").input_value()

    def saved(judgment: str, version: int) -> str | None:
        card.locator("textarea").fill(judgment)
        page.get_by_role("button", name="Save as a new version").click()
        expect(page.locator("#drafts")).to_contain_text(f"examples-v{version}.jsonl")
        return read_examples(run.path / "feedback" / f"examples-v{version}.jsonl")[0].judgment

    assert saved("FIRST", 2) == "FIRST"
    expect(card.locator("textarea")).to_have_value("FIRST")
    page.reload()
    expect(page.locator(".token[data-tag]").first).to_be_visible()
    open_all(page)
    expect(card.locator("textarea")).to_have_value("FIRST")
    card.get_by_role("button", name="Edit feedback").click()
    assert saved("FIRST SECOND", 3) == "FIRST SECOND"
    assert saved(original, 4) == original


def write_feedback(page: Page, index: int, judgment: str) -> None:
    expect(page.locator(".token[data-tag]").first).to_be_visible()
    open_all(page)
    card = page.locator(f"#example-{index}")
    if card.locator("textarea").is_hidden():
        card.get_by_role("button", name="Edit feedback").click()
    card.locator("textarea").fill(judgment)


def test_drafts_belong_to_their_run_alone_and_are_not_left_without_a_question(
    tmp_path: Path, chromium: Browser
) -> None:
    """Two runs whose folders have the same name are shown one after the other at one address, in one tab."""
    first, second = (make_run(tmp_path / name / "nlft", steps=1, seed=seed) for seed, name in enumerate("ab"))
    second.write_watched([replace(e, tokens=[" other", *e.tokens[1:]]) for e in second.watched()])
    left: list[str] = []
    page = chromium.new_page()
    page.on("dialog", lambda dialog: (left.append(dialog.type), dialog.accept()))
    bar = page.locator("#drafts")
    with serving([first]) as address:
        page.goto(f"{address}?token={TOKEN}")
        write_feedback(page, 0, "An hour of work on a.")
        expect(bar).to_contain_text("1 example edited")
    for run, judgment in ((second, second.watched()[0].judgment), (first, "An hour of work on a.")):
        with serving([run], int(address.rstrip("/").rpartition(":")[2])):
            page.goto(f"{address}?token={TOKEN}")
            expect(page.locator(".token[data-tag]").first).to_be_visible()
            open_all(page)
            expect(page.locator("#example-0 textarea")).to_have_value(str(judgment))
            expect(bar).to_be_visible(visible=run is first)
            if run is second:
                write_feedback(page, 1, "Something on b.")
                expect(bar).to_contain_text("1 example edited")
    page.close()
    assert left == ["beforeunload"] * 2


def test_a_failed_save_is_told_until_the_next_edit(run: RunDir, show: Show) -> None:
    ids = [2**53 + 1 + at for at in range(4)]  # a browser rounds such numbers
    run.write_watched([replace(e, id=id) for e, id in zip(run.watched(), ids, strict=True)])
    page = show(run)
    failed, save = page.locator("#drafts [role=alert]"), page.get_by_role("button", name="Save as a new version")
    write_feedback(page, 0, "Quite wrong.")
    (run.path / "feedback").write_text("in the way")
    save.click()
    expect(failed).to_contain_text("feedback")
    expect(page.locator("#drafts")).to_contain_text("1 example edited")
    (run.path / "feedback").unlink()
    page.locator("#example-0 textarea").fill("Wrong.")
    expect(failed).to_be_empty()
    save.click()
    expect(page.locator("#drafts")).to_contain_text("examples-v2.jsonl")
    assert {e.id: e.judgment for e in read_examples(run.path / "feedback" / "examples-v2.jsonl")}[ids[0]] == "Wrong."


def test_a_judgment_that_another_page_has_saved_is_replaced_only_if_the_reader_says_so(run: RunDir, show: Show) -> None:
    page = show(run)
    for index in (0, 2):
        write_feedback(page, index, f"Mine of {index}.")
    edits = [Edit(index, f"farm-{index}", False, f"Theirs of {index}.") for index in (0, 2)]
    Feedback(run).save(edits, run.watched(), "bob")
    save, failed = page.get_by_role("button", name="Save as a new version"), page.locator("#drafts [role=alert]")
    with page.expect_response(lambda answer: answer.url.endswith("/feedback") and answer.status == 409):
        save.click()
    expect(failed.locator("p")).to_have_count(2)
    expect(failed).to_contain_text("Theirs of 0.")
    failed.locator("p", has_text="farm-0").get_by_role("button", name="Keep mine").click()
    failed.get_by_role("button", name="Take theirs").click()
    expect(page.locator("#example-2 textarea")).to_have_value("Theirs of 2.")
    save.click()
    expect(page.locator("#drafts")).to_contain_text("examples-v3.jsonl")
    newest = {e.id: e.judgment for e in read_examples(run.path / "feedback" / "examples-v3.jsonl")}
    assert (newest["farm-0"], newest["farm-2"]) == ("Mine of 0.", "Theirs of 2.")


def test_drafts_of_a_run_that_is_started_again_with_other_examples_are_dropped(run: RunDir, show: Show) -> None:
    page = show(run)
    for index in (0, 1):
        page.locator(f"#example-{index}").get_by_role("button", name="Edit feedback").click()
        page.locator(f"#example-{index} textarea").fill(f"About farm-{index}.")
    others = [example(4, 30), run.watched()[1]]
    run.clear()
    run.write_settings(record())  # and the examples a moment later
    expect(page.locator("#examples .note")).to_contain_text("--watch 8")
    run.start_events(None)
    run.start_controls(None)
    run.write_watched(others)
    add_step(run, 0)
    run.append_event(event(1))
    expect(page.locator("#example-0 h2 bdi")).to_have_text("farm-4")
    open_all(page)
    expect(page.locator("#drafts")).to_contain_text("1 example edited")
    assert page.locator("#example-0 textarea").input_value() == others[0].judgment
    assert page.locator("#example-1 textarea").input_value() == "About farm-1."
    expect(page.locator("#where")).to_contain_text("step 0")
    knob(page, "mistake_ratio").fill("3")
    knob(page, "mistake_ratio").press("Enter")
    expect(page.locator("#what-if .sum")).to_contain_text("of 2 examples")
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.locator("#drafts")).to_contain_text("examples-v2.jsonl")
    newest = {e.id: e.judgment for e in read_examples(run.path / "feedback" / "examples-v2.jsonl")}
    assert newest == {"farm-4": others[0].judgment, "farm-1": "About farm-1."}


# ---- sharing ----


def test_shared_file_opens_without_a_server_and_its_sliders_retag(
    run: RunDir, tmp_path: Path, show: Show, open_page: OpenPage
) -> None:
    page = show(run)
    page.locator("#step").fill("2")
    page.locator("#search").fill("farm")
    page.locator("#share summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="HTML file").click()
    assert download.value.suggested_filename == "farm-map.html"
    download.value.save_as(tmp_path / "shared.html")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of this step").click()
    download.value.save_as(tmp_path / "tokens.csv")
    assert len((tmp_path / "tokens.csv").read_text().splitlines()) == 1 + 4 * 40
    alone = open_page(tmp_path / "shared.html")
    expect(alone.locator("#where")).to_contain_text("step 20")
    assert alone.locator("#search").input_value() == "farm"
    unfold(alone)
    open_all(alone)
    before = tags(alone)
    alone.locator("#knob-mistake_ratio").fill("60")
    expect(alone.locator("#what-if .sum b")).not_to_have_text(re.compile("^0 of"))
    assert tags(alone) != before


# ---- by keyboard ----


def test_tab_reaches_everything_that_can_be_used_and_nothing_traps_it(run: RunDir, show: Show) -> None:
    page = show(run)
    run.append_control(ledger_line("a", 30, "learning_rate", 1.0, 0.5))
    expect(page.locator(".ledger .taken")).to_be_visible()
    page.locator("#example-0").get_by_role("button", name="Edit feedback").click()
    page.evaluate("document.activeElement.blur(); document.body.tabIndex = -1; document.body.focus()")
    reachable: int = page.evaluate(
        """() => [...document.querySelectorAll(
          "button, select, input, textarea, summary, a[href], .token[tabindex='0'], .quote[tabindex='0']")]
          .filter((one) => !one.disabled && one.tabIndex === 0 && one.checkVisibility() && one.type !== "radio")
          .map((one, place) => { one.dataset.place = place; return one; }).length"""
    )
    assert reachable > 50
    reached = set()
    for _ in range(reachable + 60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement?.dataset.place ?? null"))
    missed = {str(place) for place in range(reachable)} - reached
    html = "(one) => one.outerHTML.slice(0, 120)"
    assert [page.locator(f"[data-place='{place}']").evaluate(html) for place in missed] == []
    # What Tab passes over is inside a group of buttons, where the arrow keys reach it.
    for group in ("#tabs", "#tools", "#runbar"):
        buttons = page.locator(f"{group} :is(button, summary):enabled:visible").evaluate_all(
            "(all) => all.filter((one) => !one.closest('.sheet')).length"
        )
        page.locator(f"{group} :is(button, summary)[tabindex='0']").first.focus()
        seen = set()
        for _ in range(buttons):
            seen.add(page.evaluate("document.activeElement.outerHTML"))
            page.keyboard.press("ArrowRight")
        assert len(seen) >= buttons - 1, group  # two marks may look the same


def test_a_run_is_steered_and_feedback_given_without_a_mouse(run: RunDir, show: Show) -> None:
    page = show(run)
    keys = page.keyboard
    knob(page, "mistake_ratio").focus()
    keys.press("Control+A")
    keys.type("2.5")
    apply = page.get_by_role("button", name="Apply to the run")
    expect(apply).to_be_enabled()  # it is once what was typed is drawn, and cannot be focused before
    apply.focus()
    keys.press("Enter")
    assert asked(run, page) == [("saliency.mistake_ratio", 2.5)]
    page.get_by_label("learning rate factor, as a number").focus()
    keys.press("Control+A")
    keys.type("0.5")
    keys.press("Enter")
    assert asked(run, page, 2)[-1] == ("learning_rate", 0.5)
    page.locator("#theme").press("/")
    keys.type("farm-0")
    assert ids(page) == ["farm-0"]
    page.locator("#example-0").get_by_role("button", name="Edit feedback").press("Enter")
    page.locator("#example-0 .token").first.focus()
    keys.press("ArrowRight")
    keys.press("Shift+ArrowRight")
    keys.press("w")
    expect(page.locator("#example-0 .token[data-mark=wrong]")).to_have_count(2)
    page.get_by_role("button", name="Save as a new version").press("Enter")
    expect(page.locator("#drafts")).to_contain_text("Saved as feedback/examples-v2.jsonl")
    lines = (run.path / "feedback" / "edits.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["marks"] == [{"start": 1, "end": 3, "verdict": "wrong"}]
    page.locator("#step").press("ArrowLeft")
    expect(page.locator("#where")).to_contain_text("step 40")
