"""What a person needs to read the map untaught: nothing hides the reason; every mark and number is named."""

from __future__ import annotations

import itertools
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from helpers.colours import PIXEL, contrast, lab, linear
from helpers.map_page import TOKEN, explain_all, open_all, serving, unfold
from helpers.page_runs import add_step, event, ledger_line, make_run, strike_run
from nlft.page.export import export_map
from nlft.runs.run_dir import RunDir

if TYPE_CHECKING:
    from helpers.browser import OpenPage

pytest_plugins = ["helpers.browser"]

SIZES = [(1440, 900), (1024, 768), (390, 844)]
# The pairs of a popup and something that it covers, of all that explains the colours.
COVERED = """() => {
  const box = document.getElementById("tooltip").getBoundingClientRect();
  const explains = "#run-sentence, #run-counts, #tokens-key, .sentence, .odd, .said-by, .token.shown .ink";
  return [...document.querySelectorAll(explains)].filter((one) => one.checkVisibility()).filter((one) => {
    const { left, right, top, bottom } = one.getBoundingClientRect();
    return left < box.right - 1 && right > box.left + 1 && top < box.bottom - 1 && bottom > box.top + 1;
  }).map((one) => `${one.id || one.className}: ${one.textContent.slice(0, 40)}`);
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("reading")
    runs = {"strike": strike_run(home / "strike"), "nlft": make_run(home / "nlft", steps=3, examples=4, length=60)}
    return {name: export_map(run, home / f"{name}.html") for name, run in runs.items()}


@pytest.fixture
def lamp(files: dict[str, Path], open_page: OpenPage) -> Page:
    return open_page(files["strike"], width=1440)


# ---- the numbers of a token ----


@pytest.mark.parametrize("explained", [False, True])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_numbers_of_a_token_cover_neither_the_sentence_nor_the_judgment_nor_the_key(
    files: dict[str, Path], open_page: OpenPage, name: str, width: int, height: int, explained: bool
) -> None:
    page = open_page(files[name], width=width, height=height)
    expect(page.locator(".spark .trace").first).to_be_attached()
    (explain_all if explained else open_all)(page)
    cards = page.locator("article")
    for card in cards.all()[:2]:
        cells = card.locator(".token")
        count = cells.count()
        for index in {0, 1, 2, count // 2, count - 2, count - 1}:
            cells.nth(index).focus()
            tooltip = page.get_by_role("tooltip")
            expect(tooltip).to_contain_text(f"token {index + 1} of {count}")
            assert page.evaluate(COVERED) == [], (index, count)
            inner, outer = tooltip.bounding_box(), card.bounding_box()
            assert inner
            assert outer
            assert outer["x"] <= inner["x"]
            assert inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 0.5
            assert outer["y"] <= inner["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_numbers_under_a_line_push_only_what_stands_below(files: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(files["nlft"], width=390, height=1800)  # nothing needs to scroll
    expect(page.locator(".spark .trace").first).to_be_attached()
    cells = page.locator("#first .token")
    expect(cells.first).to_be_visible()
    tops = "(all) => all.map((one) => one.querySelector('.ink').getBoundingClientRect().top)"
    before = cells.evaluate_all(tops)
    cells.nth(20).hover()
    tooltip = page.get_by_role("tooltip").bounding_box()
    assert tooltip
    after = cells.evaluate_all(tops)
    assert after[:21] == before[:21]
    moved = next(at for at in range(21, len(after)) if after[at] > before[at] + 1)
    assert before[moved] > before[20] + 5, "the rest of the token's own line stays"
    assert after[moved] >= tooltip["y"] + tooltip["height"]
    page.keyboard.press("Escape")
    assert cells.evaluate_all(tops) == before


def test_pointing_between_two_lines_keeps_the_numbers(files: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(files["nlft"], width=390, height=844)
    page.locator("#first .token").nth(3).hover()
    box = page.locator("#first .room").bounding_box()
    assert box
    page.mouse.move(box["x"] + 20, box["y"] + box["height"] / 2)
    expect(page.get_by_role("tooltip")).to_contain_text("token 4 of 60")
    page.mouse.move(5, 5)
    expect(page.get_by_role("tooltip")).to_be_hidden()


@pytest.mark.parametrize("width", [1440, 390])
def test_numbers_go_with_their_card(files: dict[str, Path], open_page: OpenPage, width: int) -> None:
    page = open_page(files["nlft"], width=width)
    page.locator("#first .token").nth(3).hover()
    tooltip = page.get_by_role("tooltip")
    expect(tooltip).to_be_visible()
    page.evaluate("document.querySelector('#first .toggle').click()")
    page.evaluate("document.getElementById('previous').click()")
    expect(page.locator("#where")).to_contain_text("step 10")
    expect(tooltip).to_be_hidden()
    page.mouse.move(0, 0)  # else it points at a token again
    page.evaluate("document.querySelector('#first .toggle').click()")
    page.locator("#first .token").nth(4).focus()
    expect(tooltip).to_contain_text("token 5 of 60")
    page.locator("#sort").select_option("file")  # the card moves
    page.locator("article .token").nth(2).focus()
    expect(tooltip).to_contain_text("token 3 of 60")


def test_a_tap_shows_the_whole_popup_and_the_page_says_that_one_can_tap(
    files: dict[str, Path], chromium: Browser
) -> None:
    with chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as context:
        page = context.new_page()
        page.goto(files["strike"].resolve().as_uri())
        expect(page.locator("#first .ask:visible")).to_have_count(1)
        expect(page.locator("#first .ask:visible")).to_contain_text("tap")
        page.locator("#first .token").nth(8).tap()
        tooltip = page.get_by_role("tooltip")
        expect(tooltip).to_contain_text("timeless")
        box = tooltip.bounding_box()
        assert box
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 844
        page.locator("#run-sentence").tap()
        expect(tooltip).to_be_hidden()


def test_end_of_turn_stands_as_such_and_its_numbers_name_it(lamp: Page) -> None:
    last = lamp.locator("#first .token").last
    expect(last.locator(".ink")).to_have_text("end of turn")
    expect(last).to_have_attribute("aria-label", re.compile("^end of turn"))
    last.hover()
    tooltip = lamp.get_by_role("tooltip")
    for words in ("<|im_end|>", "end-of-turn token", "stops"):
        expect(tooltip).to_contain_text(words)
    ends = ["<|im_end|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "<eos>"]
    assert lamp.evaluate("(all) => all.map(endsTurn)", ends) == [True] * len(ends)
    assert (
        lamp.evaluate("(all) => all.map(endsTurn)", ["end", "<b>", "<|x|>", "<send>", "<p>the end</p>"]) == [False] * 5
    )


def test_parts_of_words_among_the_alternatives_are_announced(lamp: Page) -> None:
    lamp.locator("#first .token").nth(1).hover()
    expect(lamp.get_by_role("tooltip").locator(".instead")).to_contain_text("beginning of a word")


# ---- the key ----


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_key_names_every_mark_that_the_map_has(
    files: dict[str, Path], open_page: OpenPage, width: int, height: int
) -> None:
    words = ["pushed down", "pushed up", "held", "left alone", "box", "the fuller the colour"]
    of_strike = ["quoted or marked", "not trained"]
    page = open_page(files["strike"], width=width, height=height)
    expect(page.locator("#key-struck")).to_be_visible()
    shown = page.locator("#tokens-key").inner_text()
    assert [one for one in words + of_strike if one not in shown] == []
    rows = page.locator("#rows-key").inner_text()
    assert [one for one in ("pushed down", "pushed up", "held", "left alone", "taller") if one not in rows] == []
    page = open_page(files["nlft"], width=width, height=height)
    expect(page.locator("#first .token[data-effect]").first).to_be_visible()
    shown = page.locator("#tokens-key").inner_text()
    assert [one for one in words if one not in shown] == []
    assert [one for one in of_strike if one in shown] == [], "a mark that this run has not"
    expect(page.locator("#key-changed")).to_be_hidden()
    unfold(page)
    page.locator("#knob-mistake_ratio").fill("60")
    expect(page.locator("#key-changed")).to_be_visible()


def test_key_of_what_a_reader_wants_instead_is_there_where_one_says_it(tmp_path: Path, open_page: OpenPage) -> None:
    run = strike_run(tmp_path / "run")
    assert open_page(export_map(run, tmp_path / "a.html")).locator("#key-instead:visible").count() == 0
    watched = run.watched()
    run.write_watched([watched[0], replace(watched[1], replacements={"2": " plain"})])
    page = open_page(export_map(run, tmp_path / "b.html"))
    expect(page.locator("#key-instead")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_box_around_a_token_has_a_neutral_colour(files: dict[str, Path], open_page: OpenPage, scheme: Any) -> None:
    page = open_page(files["strike"], color_scheme=scheme)
    page.locator("#first .token").nth(1).focus()
    boxes = {"#first .token:focus .ink": "outlineColor", ".sample.chosen .ink": "outlineColor"}
    found = [page.locator(where).evaluate(PIXEL, name) for where, name in boxes.items()]
    page.mouse.move(0, 0)
    page.locator("#first .quote").first.hover()
    found.append(page.locator("#first .token.linked .ink").last.evaluate(PIXEL, "outlineColor"))
    found.append(page.locator("#first .quote.linked").first.evaluate(PIXEL, "outlineColor"))
    assert found == [found[0]] * 4
    assert max(found[0]) - min(found[0]) < 16, "as grey as the text, and not as blue as pushed up"


def test_held_and_left_alone_differ_in_a_row_as_line_and_dots(lamp: Page) -> None:
    paths = lamp.evaluate(
        """() => {
          const zeros = new Float32Array(4), names = ["plain", "held"];
          const tag = Uint8Array.of(1, 1, 0, 0);
          const verdict = { likelihood: zeros, unlikelihood: zeros, tag, names, signal: null };
          return barcodePaths({ base: zeros }, verdict);
        }"""
    )
    cells = {
        look: [(float(x), float(width)) for x, width in re.findall(r"M([\d.]+) [\d.]+h([\d.]+)", path)]
        for look, path in paths.items()
    }
    (one, width), (other, _) = cells["held"]
    assert one + width == other, "a line without a gap"
    (one, width), (other, _) = cells["alone"]
    assert one + 2 * width < other, "dots"


def test_triangles_of_the_slider_are_explained_where_there_are_some(tmp_path: Path, chromium: Browser) -> None:
    run = make_run(tmp_path / "farm", steps=3)
    with ExitStack() as stack:
        page = served(stack, chromium, run)
        expect(page.locator("#marks-key")).to_be_hidden()
        run.append_control(ledger_line("a", 10, "learning_rate", 1.0, 0.5))
        expect(page.locator(".mark-at")).to_have_count(1)
        expect(page.locator("#marks-key")).to_be_visible()
        expect(page.locator("#marks-key")).to_contain_text("change to the run")


def served(stack: ExitStack, chromium: Browser, run: RunDir, width: int = 1440) -> Page:
    address = stack.enter_context(serving([run]))
    context = stack.enter_context(chromium.new_context(viewport={"width": width, "height": 900}))
    page = context.new_page()
    page.goto(f"{address}?token={TOKEN}")
    expect(page.locator("#first .token").first).to_be_visible()
    return page


# ---- the counts ----


@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_counts_say_what_they_are_of_and_add_up(files: dict[str, Path], open_page: OpenPage, name: str) -> None:
    page = open_page(files[name], width=1440)
    touched, total = map(int, re.findall(r"touched (\d+) of (\d+)", page.locator("#run-sentence").inner_text())[0])
    rows = [re.findall(r"touched (\d+) of (\d+)", text)[0] for text in page.locator(".amount").all_inner_texts()]
    assert (sum(int(one) for one, _ in rows), sum(int(all_) for _, all_ in rows)) == (touched, total)
    counts = page.locator("#run-counts").inner_text()
    others, parts = re.findall(r"The other (\d+): (.*)\.$", counts)[0]
    assert int(others) == total - touched
    assert sum(int(one) for one in re.findall(r"\d+", parts)) == int(others)
    disliked, liked = {"strike": (1, 1), "nlft": (2, 2)}[name]
    bad, good = {"strike": ("disliked", "liked"), "nlft": ("wrong", "right")}[name]
    assert f"{len(rows)} watched replies ({disliked} {bad}, {liked} {good})" in counts
    assert f"at step {page.locator('#where').inner_text().split()[1].rstrip(',')}" in counts
    assert {"strike": "Touched tokens are struck", "nlft": "Touched tokens are salient"}[name] in counts
    if name == "strike":
        assert "1 the rest of a quote" in counts
        expect(page.locator("#first .sentence")).to_contain_text("leaves 1 alone, the rest of a quote")
        expect(page.locator("#others .amount")).to_have_text("touched 0 of 3, all held")


@pytest.mark.parametrize(
    ("scheme", "tags", "quoted", "said"),
    [
        ("strike", [0, 4, 5, 0, 0], [[1, 2]], ["Rest of a quote, crossed out but not trained: “b”."]),
        ("strike", [0, 4, 0, 4, 0], [[1, 1]], ["Struck, but not quoted here: “d” (marked, or quoted in other words)."]),
        ("strike", [6, 4, 6, 6, 6], [[1, 1], [3, 4]], ["Quoted, but not struck: “d e”."]),
        ("nlft", [1, 1, 0, 1, 0], [[3, 3]], ["Touched, but not quoted: “a x”"]),
        ("nlft", [0, 0, 0, 1, 0], [[3, 4]], ["Quoted, but not touched: “e”"]),
        ("nlft", [0, 0, 0, 1, 0], [[3, 3]], []),
        ("nlft", [1, 1, 1, 1, 1], [], []),
    ],
)
def test_where_quotes_and_marks_differ_a_sentence_says_so(
    lamp: Page, scheme: str, tags: list[int], quoted: list[list[int]], said: list[str]
) -> None:
    found = lamp.evaluate(
        """([tag, quoted]) => oddSentences(["a", " x", " b", " d", " e"], quoted,
          { tag, names: ["plain", "salient", "neighbour", "gated", "struck", "inside", "held"] })""",
        [tags, quoted],
    )
    assert len(found) == len(said)
    assert all(one.startswith(start) for one, start in zip(found, said, strict=True)), scheme


def test_odd_cases_stand_on_the_card(lamp: Page) -> None:
    expect(lamp.locator("#first .odd")).to_contain_text("“sleek”")
    lamp.locator("#first .token").nth(2).hover()
    expect(lamp.get_by_role("tooltip")).to_contain_text("rest of a quote: not trained")


def test_both_sets_of_numbers_say_what_they_are_of_and_from_which_step(tmp_path: Path, chromium: Browser) -> None:
    run = make_run(tmp_path / "farm", steps=3)
    with ExitStack() as stack:
        page = served(stack, chromium, run)
        last = run.events()[-1]["step"]
        expect(page.locator("#sparks-of")).to_have_text(f"All that was trained, logged at step {last}")
        expect(page.locator("#what-if .sum")).to_contain_text("Only the 4 watched replies, scored at step 20:")
        run.append_event(event(last + 1))
        expect(page.locator("#sparks-of")).to_contain_text(f"logged at step {last + 1}")
        page.locator("#step").fill("1")
        expect(page.locator("#what-if .sum")).to_contain_text("scored at step 10:")
        scores = [None, *run.snapshot(20).scores[1:]]
        add_step(run, 30, scores=scores, whole=False)
        page.locator("#latest").click()
        expect(page.locator("#what-if .sum")).to_contain_text("scored at steps 20 to 30:")


# ---- dark, narrow, plain ----


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_disabled_buttons_are_seen_and_read(files: dict[str, Path], open_page: OpenPage, scheme: Any) -> None:
    page = open_page(files["nlft"], color_scheme=scheme, width=1440)
    expect(page.locator("#first .token[data-effect]").first).to_be_visible()
    rest = page.locator("button:disabled:visible")
    assert rest.count() >= 2
    for one in rest.all():
        assert one.evaluate("(one) => getComputedStyle(one).opacity") == "1"
        paper = linear(page.locator("#runbar").evaluate(PIXEL, "backgroundColor"))
        assert contrast(linear(one.evaluate(PIXEL, "color")), paper) >= 4.5
        assert contrast(linear(one.evaluate(PIXEL, "borderTopColor")), paper) >= 3
        styles = "(one) => getComputedStyle(one).borderTopStyle"
        assert one.evaluate(styles) != page.locator("#theme").evaluate(styles)


def test_weak_tints_are_seen_in_the_dark_and_grow_with_the_share(files: dict[str, Path], open_page: OpenPage) -> None:
    page = open_page(files["strike"], color_scheme="dark")
    ground = lab(linear(page.locator("#tokens-key .sample[data-effect=held] .ink").evaluate(PIXEL, "backgroundColor")))
    for effect, least in (("down", 20), ("up", 14)):
        sample = page.locator(f".sample[data-effect={effect}]:not([data-tag]) .ink")
        distances = []
        for strength in ("0.05", "0.3", "0.6", "1"):
            sample.evaluate("(one, s) => one.parentElement.style.setProperty('--strength', s)", strength)
            distances.append(np.linalg.norm(lab(linear(sample.evaluate(PIXEL, "backgroundColor"))) - ground))
        assert distances[0] > least, effect
        assert all(b > a + 3 for a, b in itertools.pairwise(distances)), (effect, distances)


@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_phone_cuts_no_label_and_tells_the_prompt_from_the_reply(
    files: dict[str, Path], open_page: OpenPage, name: str
) -> None:
    page = open_page(files[name], width=390, height=844)
    expect(page.locator(".spark .trace").first).to_be_attached()
    labels = page.locator(".spark span, .spark b")
    assert labels.count() >= 6
    cut = """(all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth)
      .map((one) => one.textContent)"""
    assert labels.evaluate_all(cut) == []
    assert page.locator(".spark").evaluate_all(cut) == []
    expect(page.locator("#first h3", has_text="Prompt")).to_be_visible()
    expect(page.locator("#first h3", has_text="Reply")).to_be_visible()
    expect(page.locator("#tokens-key")).to_contain_text("the fuller the colour")


@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_page_speaks_plainly(files: dict[str, Path], open_page: OpenPage, name: str) -> None:
    page = open_page(files[name], width=1440)
    expect(page.locator(".spark .trace").first).to_be_attached()
    open_all(page)
    unfold(page)
    page.get_by_role("tab", name="Curves").click()
    expect(page.locator("#curves figure").first).to_be_visible()
    text = page.locator("#curves").inner_text()
    page.get_by_role("tab", name="Map").click()
    text += page.locator("body").inner_text()
    for word in ("ikelihood part", "re-tagged", "Parts of strike", "gated wrong samples", "<|im_end|>", "touches"):
        assert word not in text
    if name == "nlft":
        assert "of it, pushing down" in text
        assert "tokens change" in text
    sparks = page.evaluate("CHARTS.map((one) => one.spark ?? one.title)")
    assert "Loss at struck words" in sparks
