"""What a reader sees at first sight: one telling example, its colours, its sentence; and how the page is walked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from helpers.colours import BLIND, PIXEL, contrast, lab, seen_by
from helpers.map_page import TOKEN, serving, unfold
from helpers.page_runs import LAMP, add_step, event, ledger_line, make_run, strike_run
from nlft.core.quote_links import quote_links
from nlft.page.export import export_map
from nlft.runs.run_dir import RunDir

if TYPE_CHECKING:
    from helpers.browser import OpenPage

pytest_plugins = ["helpers.browser"]

SIZES = [(1440, 900), (1024, 768), (390, 844)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported maps of two runs: `strike` with alternatives, `nlft` with eight examples."""
    home = tmp_path_factory.mktemp("sight")
    runs = {"strike": strike_run(home / "strike"), "nlft": make_run(home / "nlft", steps=3, examples=8, length=60)}
    return {name: export_map(run, home / f"{name}.html") for name, run in runs.items()}


@pytest.fixture
def lamp(files: dict[str, Path], open_page: OpenPage) -> Page:
    return open_page(files["strike"], width=1440)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_effects_are_told_apart_and_text_stays_readable_under_every_colour_blindness(
    files: dict[str, Path], open_page: OpenPage, scheme: Any
) -> None:
    page = open_page(files["strike"], color_scheme=scheme)
    found: dict[str, list[Any]] = {}
    for effect in ("down", "up", "alone"):
        sample = page.locator(f".sample[data-effect={effect}]:not([data-tag], .changed) .ink")
        sample.evaluate("(one) => one.parentElement.style.setProperty('--strength', '1')")
        edges = {"down": "borderBottomColor", "up": "borderTopColor", "alone": "backgroundColor"}
        found[effect] = [sample.evaluate(PIXEL, name) for name in ("color", "backgroundColor", edges[effect])]
    for blindness in (None, *BLIND):
        views = {name: [seen_by(colour, blindness) for colour in three] for name, three in found.items()}
        for name, (ink, fill, edge) in views.items():
            assert contrast(ink, fill) >= 4.5, (name, blindness)
            if name != "alone":
                assert contrast(edge, views["alone"][1]) >= 3, (name, blindness, "an edge is a shape: WCAG 1.4.11")
        for one, other in (("down", "up"), ("down", "alone"), ("up", "alone")):
            assert np.linalg.norm(lab(views[one][1]) - lab(views[other][1])) > 20, (one, other, blindness)


def test_effects_differ_in_shape_and_not_only_in_colour(lamp: Page) -> None:
    expect(lamp.locator("#key-struck")).to_be_visible()
    looks = lamp.locator(".sample[data-effect]:visible .ink").evaluate_all(
        """(all) => all.map((one) => { const style = getComputedStyle(one); const clear = (colour) => colour ===
          getComputedStyle(document.querySelector('.sample[data-effect=alone] .ink')).backgroundColor
          || colour === "rgba(0, 0, 0, 0)";
          return [!clear(style.borderBottomColor), !clear(style.borderTopColor), style.textDecorationLine].join();
        })"""
    )
    assert looks[:4] == ["true,false,none", "false,true,none", "false,false,underline", "false,false,none"]
    assert looks[4:] == ["true,false,line-through", "false,false,line-through"]
    struck = lamp.locator("#example-1 .token[data-tag=struck] .ink").first
    assert struck.evaluate("(one) => getComputedStyle(one).textDecorationLine") == "line-through"


def test_held_words_in_a_row_have_one_thin_line_and_no_box_of_their_own(lamp: Page) -> None:
    held = lamp.locator("#example-1 .token[data-effect=held]")
    looks = held.evaluate_all(
        """(all) => all.map((one) => { const text = getComputedStyle(one.querySelector('.text'));
          const ink = getComputedStyle(one.querySelector('.ink'));
          return [text.textDecorationLine, text.textDecorationThickness, ink.boxShadow, ink.outlineStyle].join();
        })"""
    )
    assert len(looks) > 3
    assert set(looks) == {"underline,1px,none,none"}
    # The space before a word belongs to the underlined text, so that the line does not stop between two words.
    texts = held.locator(".text").evaluate_all("(all) => all.map((one) => one.firstChild.textContent)")
    assert any(text.startswith(" ") for text in texts)
    assert "underline" not in lamp.locator("#example-1 .token[data-effect=down] .text").first.evaluate(
        "(one) => getComputedStyle(one).textDecorationLine"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pale_tints_and_the_line_of_held_words_are_seen_under_every_colour_blindness(
    files: dict[str, Path], open_page: OpenPage, scheme: Any
) -> None:
    """A token with a hundredth of the training signal has a strength of a tenth."""
    page = open_page(files["strike"], color_scheme=scheme)
    found: dict[str, list[Any]] = {}
    for effect, edge in {"down": "borderBottomColor", "up": "borderTopColor", "held": "textDecorationColor"}.items():
        sample = page.locator(f".sample[data-effect={effect}]:not([data-tag], .changed) .ink")
        sample.evaluate("(one) => one.parentElement.style.setProperty('--strength', '0.1')")
        found[effect] = [sample.evaluate(PIXEL, name) for name in ("backgroundColor", edge)]
    plain = page.locator(".sample[data-effect=alone]:not([data-tag], .changed) .ink").evaluate(PIXEL, "backgroundColor")
    for blindness in (None, *BLIND):
        ground = seen_by(plain, blindness)
        fills = {name: seen_by(fill, blindness) for name, (fill, _) in found.items()}
        edges = {name: contrast(seen_by(edge, blindness), ground) for name, (_, edge) in found.items()}
        assert np.linalg.norm(lab(fills["down"]) - lab(ground)) > 8, blindness
        assert np.linalg.norm(lab(fills["up"]) - lab(ground)) > 5, blindness
        assert edges["down"] >= 3, blindness
        assert edges["held"] >= 3, blindness
        assert edges["up"] >= 1.5, blindness


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_first_salient_token_is_on_the_first_screen(
    files: dict[str, Path], open_page: OpenPage, name: str, width: int, height: int
) -> None:
    page = open_page(files[name], width=width, height=height)
    box = page.locator("#first .token:is([data-tag=salient], [data-tag=struck])").first.bounding_box()
    assert box
    assert box["y"] + box["height"] < height
    assert page.evaluate("scrollY") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_most_telling_example_stands_first_and_large_and_the_others_are_strips(lamp: Page) -> None:
    assert lamp.locator("#first article").get_attribute("id") == "example-1"
    expect(lamp.locator("#first .token")).to_have_count(len(LAMP))
    other = lamp.locator("#others article")
    expect(other.locator(".token")).to_have_count(0)
    cells = other.locator(".barcode path").evaluate_all(
        "(all) => all.map((one) => one.getAttribute('d').match(/M/g).length)"
    )
    assert sum(cells) == 3
    other.locator(".toggle").press("Enter")
    expect(other.locator(".token")).to_have_count(3)


def test_run_and_example_say_in_one_sentence_what_happened(lamp: Page) -> None:
    # 2 of 14 tokens with 0.4 each; the other 11 with 0.01 each, and one that is not trained.
    share = round(100 * 0.8 / (0.8 + 11 * 0.01))
    text = lamp.locator("#run-sentence").inner_text()
    for fact in ("2 of 14 tokens", f"{share}% of the loss", "11 others are held"):
        assert fact in text
    text = lamp.locator("#first .sentence").inner_text()
    for fact in (
        "down 2 of 11 tokens",
        f"{round(100 * 0.8 / 0.88)}% of its training signal",
        "holds 8",
        "leaves 1 alone",
    ):
        assert fact in text


def test_sentence_counts_the_disliked_replies_in_which_nothing_else_was_trained(lamp: Page) -> None:
    found = {"tokens": 10, "touched": 2, "others": 0, "held": 0, "loss": 3.0, "touchedLoss": 0.03, "whole": True}
    all_ = [
        {"label": False, "answered": False, "found": found},
        {"label": False, "answered": False, "found": {**found, "others": 4}},
        {"label": True, "answered": False, "found": {**found, "touched": 0, "touchedLoss": 0}},
    ]
    text = lamp.evaluate("(all) => runSentence(all)", all_)
    for fact in ("4 of 30 tokens", "less than 1% of the loss", "in 1 of 2 disliked replies nothing else"):
        assert fact in text
    assert lamp.evaluate("[0, 0.004, 0.01, 0.5, 0.996, 1].map(shareWords)") == [
        "0%", "less than 1%", "1%", "50%", "more than 99%", "100%",
    ]  # fmt: skip


def test_quote_and_its_tokens_light_up_together(lamp: Page) -> None:
    quotes = lamp.locator("#first .quote")
    assert quotes.all_inner_texts() == ['"very sleek"', '"timeless"', '"gorgeous"']
    expect(quotes.nth(2)).to_have_class("quote missing")
    quotes.nth(0).hover()
    assert linked(lamp) == [1, 2]
    quotes.nth(1).focus()
    lamp.mouse.move(0, 0)
    assert linked(lamp) == [8]
    lamp.keyboard.press("Enter")
    assert lamp.evaluate("document.activeElement.textContent") == " timeless"
    expect(quotes.nth(1)).to_have_class("quote linked")
    lamp.locator("#first .token").nth(2).hover()
    expect(quotes.nth(0)).to_have_class("quote linked")
    expect(quotes.nth(1)).to_have_class("quote")


def linked(page: Page) -> list[int]:
    return list(
        page.locator("#first .token").evaluate_all(
            "(all) => all.flatMap((one, at) => (one.classList.contains('linked') ? [at] : []))"
        )
    )


@pytest.mark.parametrize(
    ("judgment", "quotes"),
    [
        ('"SLEEK", "its own", "lee" and "own,"', [[[2, 2]], [[5, 6]], [], [[6, 7]]]),
        ("Says «its lamp», 「timeless」 and ‹very  sleek›.", [[], [[8, 8]], [[1, 2]]]),
        ('"very … lamp" and "timeless!!"', [[[1, 3]], [[8, 8]]]),
        ('"sleek" is wrong.\nCorrection: a "very" plain "lamp".', [[[2, 2]]]),
        ('"very" is right.\n"sleek" is wrong.', [[[2, 2]]]),
        ('"sleek" Correction: "sleek"', [[[2, 2]]]),
        ("No quote, \U0001f600.", None),
    ],
)
def test_quotes_name_the_tokens_that_training_finds_and_corrections_name_none(
    judgment: str, quotes: list[list[list[int]]] | None
) -> None:
    links = quote_links({"judgment": judgment, "feedback": None}, LAMP)
    assert set(links) == ({"judgment"} if quotes else set())
    if quotes:
        assert "".join(text for text, _ in links["judgment"]) == judgment
        assert [places for _, places in links["judgment"] if places is not None] == quotes


def test_a_quote_with_another_apostrophe_or_hyphen_names_its_tokens() -> None:
    tokens = ["You", "’ll", " get", " a", " state", "\u2011of", "\u2011the", "\u2011art", " pan", "</s>"]
    links = quote_links({"judgment": 'No "You\'ll get" and no "state-of-the-art".'}, tokens)
    assert [places for _, places in links["judgment"] if places is not None] == [[[0, 2]], [[4, 7]]]


def test_tooltip_says_what_both_models_would_say_and_the_probability_over_the_steps(lamp: Page) -> None:
    lamp.locator("#first .token").nth(1).hover()
    tooltip = lamp.get_by_role("tooltip")
    expect(tooltip.locator(".token-spark")).to_contain_text("0.3679 at step 0, 0.0498 at step 8")
    columns = tooltip.locator(".instead > div")
    assert columns.nth(0).locator("li").all_inner_texts()[0].split() == ["old", "50%"]
    assert columns.nth(1).locator("li").all_inner_texts()[-1].split() == ["<b>", "1.0%"]
    expect(columns.nth(1).locator("h4")).to_have_text("tuned model, step 8")
    expect(tooltip).not_to_contain_text("likelihood weight")
    lamp.locator("#first .token").nth(1).focus()
    lamp.keyboard.press("y")
    expect(tooltip).to_contain_text("likelihood weight")


def test_run_without_alternatives_or_signal_opens_and_says_what_is_not_known(
    tmp_path: Path, open_page: OpenPage
) -> None:
    run = strike_run(tmp_path / "old", alternatives=False)
    for step in run.snapshot_steps():
        snapshot = run.snapshot(step)
        run.store_snapshot(
            type(snapshot)(
                **{**vars(snapshot), "scores": [type(s)(**{**vars(s), "signal": None}) for s in snapshot.scores]}
            )
        )
    file = run.saliency_path / "examples.json"
    watched = json.loads(file.read_text())
    for one in watched["examples"]:
        del one["spans"]
    file.write_text(json.dumps(watched))
    page = open_page(export_map(run, tmp_path / "old.html"))
    expect(page.locator("#run-sentence")).to_contain_text("2 of 14 tokens; 11 others")
    page.locator("#first .token").nth(1).hover()
    expect(page.get_by_role("tooltip")).to_contain_text("struck: pushed down")
    expect(page.get_by_role("tooltip").locator(".instead")).to_have_count(0)


def test_strike_what_if_tags_as_python_does_and_says_what_it_cannot_compute(lamp: Page) -> None:
    from nlft.core.conditions import EncodedExample
    from nlft.core.spans import TokenSpan
    from nlft.core.strikes import StrikePlan

    class Plain:
        is_fast = False

        def get_vocab(self) -> dict[str, int]:
            return {}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [LAMP[at] for at in ids]

        def decode(self, ids: list[int]) -> str:
            return LAMP[ids[0]]

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [0]}

    spans = [TokenSpan(1, 3, "very sleek"), TokenSpan(8, 9, "timeless")]
    encoded = EncodedExample(
        id="lamp",
        label=False,
        base=[0],
        standard=[0],
        judge=[0],
        completion=list(range(len(LAMP))),
        target=None,
        spans=tuple(spans),
    )
    unfold(lamp)
    tags = "(all) => all.map((one) => ['struck', 'inside'].includes(one.dataset.tag) ? one.dataset.tag : 'held')"
    for pivot, every in (("all", True), ("first", False)):
        lamp.locator("#knob-pivot").select_option(pivot)
        plan = StrikePlan([encoded], Plain(), every_token=every)  # type: ignore[arg-type]
        wanted = ["held"] * len(LAMP)
        for strike in plan.strikes(encoded):
            for at in range(strike.pivots[0], strike.end):
                wanted[at] = "struck" if at in strike.pivots else "inside"
        expect(lamp.locator("#what-if .sum")).to_have_text(
            "" if pivot == "first" else "1 of 14 tokens change: 3 struck instead of 2"
        )
        assert lamp.locator("#first .token").evaluate_all(tags) == wanted
    lamp.locator("#knob-pivot").select_option("contrast")
    expect(lamp.locator("#what-if")).to_contain_text("needs the model")
    lamp.locator("#knob-pivot").select_option("first")
    lamp.locator("#knob-strike_at").select_option("said")
    expect(lamp.locator("#what-if")).to_contain_text("strike_at changes what held tokens may not say")
    lamp.get_by_role("button", name="As recorded", exact=True).click()
    lamp.get_by_label("hold_weight, as a number").fill("0")
    expect(lamp.locator("#run-sentence")).to_contain_text("is 100% of the loss")


def test_three_settings_stand_first_and_the_others_are_behind_advanced(
    files: dict[str, Path], open_page: OpenPage
) -> None:
    page = open_page(files["nlft"], width=1440)
    expect(page.locator("#what-if .knob:visible")).to_have_count(3)
    page.locator("#advanced > summary").click()
    assert page.locator("#what-if .knob:visible").count() > 10


def test_tabs_are_walked_by_arrows_and_opened_by_keys_and_by_the_address(lamp: Page) -> None:
    tabs = lamp.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Map", "Replies", "Feedback", "Curves", "Runs"]
    assert tabs.evaluate_all("(all) => all.map((one) => one.tabIndex)") == [0, -1, -1, -1, -1]
    tabs.nth(0).focus()
    lamp.keyboard.press("ArrowRight")
    lamp.keyboard.press("ArrowRight")
    lamp.keyboard.press("Enter")
    expect(lamp.locator("#panel-feedback")).to_contain_text("It praises:")
    expect(lamp.locator("#panel-map")).to_be_hidden()
    lamp.locator("body").press("5")
    expect(lamp.locator("#panel-runs tbody tr")).to_have_count(1)
    expect(lamp.locator("#panel-runs")).to_contain_text("strike")
    lamp.evaluate("location.hash = 'curves'")
    expect(lamp.locator("#curves figure").first).to_be_visible()
    lamp.evaluate("location.hash = 'example-0'")
    expect(lamp.locator("#example-0 .token").first).to_be_visible()


def test_j_and_k_walk_the_examples_and_the_question_mark_lists_the_keys(
    files: dict[str, Path], open_page: OpenPage
) -> None:
    page = open_page(files["nlft"], width=1440)
    order = page.locator("#examples article").evaluate_all("(all) => all.map((one) => one.id)")
    keys = page.keyboard
    seen = []
    for key in "jjjk":
        keys.press(key)
        seen.append(page.evaluate("document.activeElement.closest('article').id"))
    assert seen == [order[0], order[1], order[2], order[1]]
    expect(page.locator(f"#{order[2]} .token").first).to_be_visible()
    keys.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("next and previous example")
    keys.press("j")
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.closest('article').id") == order[1]


@pytest.mark.parametrize("width", [1440, 390])
def test_at_most_6_tab_stops_stand_before_the_first_completion(
    tmp_path: Path, chromium: Browser, width: int, serve_map: Any
) -> None:
    run = make_run(tmp_path / "farm", steps=3)
    for step in (4, 8):
        run.append_control(ledger_line(f"a{step}", step, "learning_rate", 1.0, 0.5))
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        page = context.new_page()
        page.goto(serve_map(run))
        expect(page.locator("#first .token").first).to_be_visible()
        expect(page.locator(".mark-at").first).to_be_attached()
        stops = 0
        while not page.evaluate("document.activeElement.matches('.token')"):
            page.keyboard.press("Tab")
            stops += 1
            assert stops < 20
        assert stops - 1 <= 6


@pytest.fixture
def serve_map() -> Iterator[Any]:
    """Serve a run's live page, as `nlft map` does. Returns its address, token included."""
    with ExitStack() as stack:
        yield lambda *runs: f"{stack.enter_context(serving(list(runs)))}?token={TOKEN}"


def test_news_move_neither_the_first_example_nor_the_focus(tmp_path: Path, chromium: Browser, serve_map: Any) -> None:
    run = make_run(tmp_path / "farm", steps=2)
    with chromium.new_context(viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        page.goto(serve_map(run))
        expect(page.locator("#first .token").first).to_be_visible()
        first = page.locator("#first article").get_attribute("id")
        page.locator("#first .token").nth(3).focus()
        add_step(run, 20, seed=5)
        run.append_event(event(20))
        expect(page.locator("#where")).to_contain_text("step 20")
        assert page.locator("#first article").get_attribute("id") == first
        assert page.evaluate("document.activeElement.matches('#first .token:nth-of-type(4)')")
        expect(page.locator("#status")).to_contain_text("step 20 of 120")


def test_reduced_motion_is_respected(lamp: Page) -> None:
    lamp.emulate_media(reduced_motion="reduce")
    assert lamp.evaluate(
        """() => [...document.styleSheets].some((sheet) => [...sheet.cssRules].some((rule) =>
          rule.conditionText?.includes('prefers-reduced-motion')))"""
    )
    moving = "(all) => all.filter((one) => parseFloat(getComputedStyle(one).transitionDuration) > 0).length"
    assert lamp.locator("*").evaluate_all(moving) == 0


def test_alternatives_of_a_batch_are_those_of_the_last_whole_step(tmp_path: Path) -> None:
    from nlft.page.steps import shown_at

    run: RunDir = strike_run(tmp_path / "r")
    last = run.snapshot(8)
    run.store_snapshot(type(last)(**{**vars(last), "step": 9, "whole": False, "alternatives": None}))
    _, shown = shown_at(run, run.snapshot_steps(), 9, run.watched())
    assert shown[1] is not None
    assert shown[1].alternatives is not None
    assert shown[1].alternatives["step"] == 8
    assert shown[0] is not None
    assert shown[0].alternatives is None
