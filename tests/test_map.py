"""The exported map: one file that loads nothing, shows the numbers it was given, and trusts no model."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from helpers.map_page import explain_all
from nlft.errors import UserError
from nlft.page.bundle import json_block
from nlft.page.export import MAX_STEPS, export_map, map_data, thin_steps
from nlft.runs.run_dir import RunDir, Snapshot, TokenScores, WatchedExample

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from helpers.browser import OpenPage

pytest_plugins = ["helpers.browser"]

TAGS = ["plain", "salient", "neighbour", "gated", "contradiction", "my-own-tag"]
WRONG = WatchedExample(
    id="marbles",
    label=False,
    prompt="Tom has 64 marbles and gives away 35. How many are left?",
    answer="64 - 35 = 29\n#### 29",
    judgment='"64 - 35 = 34" is wrong.',
    tokens=["64", " -", " 35", " =", " 34", "\n", "#### 34", "<|im_end|>"],
)
RIGHT = WatchedExample(
    id=7, label=True, prompt="6 * 7?", answer="42", judgment=None, tokens=["It", " is", " 42", "<|im_end|>"]
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "<!--<script>",
    "<img src=x onerror=alert(3)>",
    "javascript:alert(4)",
    "{{script}}",
    "\x1b[31mred",
    "a\x00b",
    "\u202egnp.exe",
    "line\u2028separator",
    "\u200b",
    "]]>&amp;&lt;",
    "\u0301",
    "<|im_end|>",
]


def scores(length: int, *, judged: bool = True, **changes: Any) -> TokenScores:
    """Every token at probability 0.5 under all conditions, plain, with likelihood weight 1."""
    half = np.full(length, math.log(0.5), np.float32)
    even = TokenScores(
        base=half,
        standard=half.copy(),
        judge=half.copy() if judged else None,
        likelihood=np.ones(length, np.float32),
        unlikelihood=np.zeros(length, np.float32),
        tag=np.zeros(length, np.uint8),
    )
    return replace(even, **changes)


def logs(*probabilities: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.log(np.array(probabilities, np.float32))


def snapshot(step: int, *per_example: TokenScores) -> Snapshot:
    return Snapshot(step, step / 30, "nlft", {"mistake_ratio": 1.5}, TAGS, list(per_example))


def new_run(path: Path, examples: list[WatchedExample], snapshots: list[Snapshot]) -> RunDir:
    run = RunDir(path)
    run.write_settings({"scheme": "nlft"})
    run.write_watched(examples)
    for one in snapshots:
        run.store_snapshot(one)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two examples over three steps; at step 20 the judgment makes the wrong " 34" four times likelier."""
    wrong = scores(
        8,
        base=logs(0.5, 0.5, 0.5, 0.5, 0.1, 0.5, 0.9, 0.99),
        judge=logs(0.5, 0.4, 0.5, 0.5, 0.4, 0.5, 0.9, 0.99),
        standard=logs(0.5, 0.5, 0.5, 1.0, 0.01, 0.5, 0.0001, 0.99),
        likelihood=np.array([0.7, 0.7, 0.7, 0, 0, 0, 0, 0.99], np.float32),
        unlikelihood=np.array([0, 0, 0, 0, 1.25, 0, 0.5, 0], np.float32),
        tag=np.array([0, 0, 0, 3, 1, 2, 4, 5], np.uint8),
    )
    right = scores(4, judged=False, standard=logs(0.5, 0.5, 0.99, 0.5), tag=np.array([0, 0, 1, 0], np.uint8))
    flat = snapshot(10, scores(8), scores(4, judged=False))
    return new_run(
        tmp_path / "run-a",
        [replace(WRONG, quotes={"judgment": [['"64 - 35 = 34"', [[0, 4]]], [" is wrong.", None]]}), RIGHT],
        [flat, snapshot(20, wrong, right), replace(flat, step=30, epoch=1.0)],
    )


@pytest.fixture
def hostile_run(tmp_path: Path) -> RunDir:
    text = "".join(HOSTILE)
    example = WatchedExample(id=text, label=False, prompt=text, answer=text, judgment=text, tokens=HOSTILE)
    name = "<b>run & co"
    one = replace(snapshot(1, scores(len(HOSTILE))), scheme="<i>", tag_names=["</script>"])
    return new_run(tmp_path / name, [example], [one])


# ---- the file ----


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text of style and script blocks, as a parser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("style", "script") and data.strip():
            self.blocks.append((self.found[-1][0], data))


def exported(run: RunDir, tmp_path: Path) -> str:
    return export_map(run, tmp_path / "map.html").read_text(encoding="utf-8")


def embedded(page: str) -> dict[str, Any]:
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block
    (run,) = json.loads(block[1])["runs"]
    return dict(run)


def carried(data: dict[str, Any], step: int) -> tuple[dict[str, Any], bytes]:
    """One step's header and arrays, as page/steps.py says that they lie."""
    packed = base64.b64decode(data["packed"][str(step)])
    start = 4 + int.from_bytes(packed[:4], "little")
    return json.loads(packed[4:start]), packed[start:]


def test_page_refers_to_nothing_outside_itself(run: RunDir, tmp_path: Path) -> None:
    page = exported(run, tmp_path)
    found = Elements(page).found
    assert len(found) > 30
    for _, attributes in found:
        assert "src" not in attributes
        assert "style" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert not {"link", "img", "iframe", "base", "object", "form"} & {tag for tag, _ in found}
    assert re.findall(r"https?:|@import|url\(|fetch\(|XMLHttp|WebSocket|innerHTML|eval\(", page) == []


def test_policy_allows_only_the_two_blocks_whose_hashes_it_names(hostile_run: RunDir, tmp_path: Path) -> None:
    elements = Elements(exported(hostile_run, tmp_path))
    (policy,) = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    (style,) = [text for tag, text in elements.blocks if tag == "style"]
    _data, script = [text for tag, text in elements.blocks if tag == "script"]

    def sha256(text: str) -> str:
        return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; script-src '{sha256(script)}'; style-src '{sha256(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_hostile_text_neither_ends_the_data_block_nor_changes(hostile_run: RunDir, tmp_path: Path) -> None:
    page = exported(hostile_run, tmp_path)
    assert len([tag for tag, _ in Elements(page).found if tag == "script"]) == 2
    assert embedded(page)["examples"][0]["tokens"] == HOSTILE
    assert "<title>&lt;b&gt;run &amp; co: saliency map</title>" in page


def test_json_block_is_plain_ascii_without_markup() -> None:
    text = json_block({"a": "</script><!-- \u2028\u2029 & é 😀"})
    assert re.fullmatch(r"[ -~]*", text)
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!-- \u2028\u2029 & é 😀"}


def test_numbers_travel_as_they_were_recorded(tmp_path: Path) -> None:
    odd = scores(4, judged=False, base=np.array([-0.123456, -0.00001, np.nan, -np.inf], np.float32))
    header, arrays = carried(map_data(new_run(tmp_path / "r", [RIGHT], [snapshot(1, odd)])), 1)
    (entry,) = header["scores"]
    assert sorted(entry["arrays"]) == ["base", "likelihood", "standard", "tag", "unlikelihood"]
    start, length = entry["arrays"]["base"]
    assert np.array_equal(np.frombuffer(arrays, "<f4", length, start), odd.base, equal_nan=True)
    start, length = entry["arrays"]["tag"]
    assert np.array_equal(np.frombuffer(arrays, "u1", length, start), odd.tag)
    assert header["sources"][0]["settings"] == {"mistake_ratio": 1.5}


def test_example_that_a_step_did_not_score_is_shown_as_it_was_scored_last(tmp_path: Path) -> None:
    first = snapshot(10, scores(8, base=np.full(8, -3, np.float32)), scores(4, judged=False))
    partial = replace(snapshot(20, scores(8), scores(4, judged=False)), whole=False)
    partial.scores[0] = None
    data = map_data(new_run(tmp_path / "r", [WRONG, RIGHT], [first, partial]))
    header, arrays = carried(data, 20)
    assert [header["sources"][entry["source"]]["step"] for entry in header["scores"]] == [10, 20]
    start, length = header["scores"][0]["arrays"]["base"]
    assert np.frombuffer(arrays, "<f4", length, start).tolist() == [-3.0] * 8


def test_hundred_steps_of_eight_long_examples_stay_below_15_megabytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def noise() -> TokenScores:
        def log_probabilities() -> np.ndarray[Any, np.dtype[np.float32]]:
            return -random.exponential(2, 200).astype(np.float32)

        return TokenScores(
            base=log_probabilities(),
            standard=log_probabilities(),
            judge=log_probabilities(),
            likelihood=random.random(200, np.float32),
            unlikelihood=random.random(200, np.float32),
            tag=random.integers(0, 3, 200, np.uint8),
        )

    examples = [replace(WRONG, id=index, tokens=[" token"] * 200) for index in range(8)]
    run = new_run(tmp_path / "r", examples, [snapshot(step, *(noise() for _ in range(8))) for step in range(100)])
    size = export_map(run, tmp_path / "map.html").stat().st_size
    assert 1e6 < size < 15e6


def test_thinning_keeps_first_and_last_and_is_even() -> None:
    assert thin_steps([3, 5, 8], 3) == [3, 5, 8]
    assert thin_steps(list(range(0, 101, 10)), 3) == [0, 50, 100]
    for count in range(2, 40):
        kept = thin_steps(list(range(40)), count)
        assert (kept[0], kept[-1], len(kept)) == (0, 39, count)
    with pytest.raises(UserError, match="2 or more"):
        thin_steps([1, 2, 3], 1)


def test_thinned_page_says_so(run: RunDir, tmp_path: Path) -> None:
    export_map(run, tmp_path / "map.html", max_steps=2)
    data = embedded((tmp_path / "map.html").read_text())
    assert data["changes"]["steps"] == [int(step) for step in data["packed"]] == [10, 30]
    (note,) = data["notes"]
    assert "2 of 3 recorded steps" in note
    assert map_data(run)["notes"] == []
    assert MAX_STEPS >= 100


@pytest.mark.parametrize("keep", [0, 5, 60, -3])
def test_torn_snapshot_is_left_out_and_named(run: RunDir, keep: int) -> None:
    file = run.saliency_path / "step-00000020.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.warns(UserWarning, match=r"20 \(damaged"):
        data = map_data(run)
    assert data["changes"]["steps"] == [int(step) for step in data["packed"]] == [10, 30]
    assert "20 (damaged" in data["notes"][0]


def test_snapshot_of_other_examples_is_left_out_and_named(run: RunDir) -> None:
    run.store_snapshot(snapshot(40, scores(8)))
    with pytest.warns(UserWarning, match=r"40 \(.*examples"):
        assert map_data(run)["changes"]["steps"] == [10, 20, 30]


def test_run_whose_every_snapshot_is_torn_is_refused(run: RunDir, tmp_path: Path) -> None:
    for file in run.saliency_path.glob("*.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="step 10 "):
        export_map(run, tmp_path / "map.html")
    assert not (tmp_path / "map.html").exists()


def test_damaged_list_of_examples_is_refused(run: RunDir) -> None:
    (run.saliency_path / "examples.json").write_text("{")
    with pytest.raises(UserError, match=r"saliency/examples.json"):
        map_data(run)


def test_run_that_watched_nothing_is_told_to_watch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no examples(.|\n)*--watch 8"):
        map_data(new_run(tmp_path / "r", [], []))
    with pytest.raises(UserError, match=r"not recorded(.|\n)*--watch 8"):
        map_data(new_run(tmp_path / "s", [WRONG], []))


def test_missing_folder_and_folder_for_a_file_are_refused(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        export_map(run, tmp_path / "nowhere" / "map.html")
    with pytest.raises(UserError, match="is a folder"):
        export_map(run, tmp_path)


def test_export_needs_no_torch() -> None:
    code = "import nlft.page.export, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- the page, in a browser ----


@pytest.fixture
def page(run: RunDir, tmp_path: Path, open_page: OpenPage) -> Page:
    """The map of `run`, at step 20, with every example open and explained."""
    opened = open_page(export_map(run, tmp_path / "map.html"))
    explain_all(opened)
    opened.get_by_role("button", name="Previous step").click()
    return opened


def token(page: Page, index: int, example: int = 0) -> Locator:
    return page.locator(f"#example-{example} .token").nth(index)


# A colour as red, green, blue in 0..255, however the style sheet wrote it.
PIXEL = """
const pixel = (colour) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
"""


def strip_colour(page: Page, index: int, condition: str, example: int = 0) -> tuple[float, ...]:
    strip = token(page, index, example).locator(f"[data-condition={condition}]")
    found = strip.evaluate("(element) => {" + PIXEL + "return pixel(getComputedStyle(element).backgroundColor); }")
    return tuple(found)


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG 2's contrast ratio of two sRGB colours."""

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_file_draws_its_curves_by_itself(run: RunDir, tmp_path: Path, open_page: OpenPage) -> None:
    for step in (1, 2, 3):
        run.append_event({"step": step, "loss": 2.5 / step, "nlft/salient_fraction": None if step == 2 else 0.25})
    page = open_page(export_map(run, tmp_path / "map.html"))
    page.get_by_role("tab", name="Curves").click()
    page.locator("#curves .trace").first.wait_for(state="attached")
    figures = page.locator("#curves figure:not([hidden])")
    assert [text.split("\n")[0].strip() for text in figures.locator("figcaption").all_inner_texts()] == [
        "Loss",
        "Salient and gated",
    ]
    assert "0.8333" in figures.nth(0).inner_text()
    points = [path.get_attribute("d").count(" ") for path in page.locator("#curves .trace").all()]
    assert points == [3, 2], "a step without a value has no point"


def test_every_token_is_shown_and_joined_they_read_as_the_completion(page: Page) -> None:
    shown = page.locator("#example-0 .token > .text").all_text_contents()
    assert shown == ["64", " -", " 35", " =", " 34", "↵", "#### 34", "end of turn"]
    assert page.locator("#example-0 br").count() == 1
    above, below = token(page, 5).bounding_box(), token(page, 6).bounding_box()
    assert above
    assert below
    assert below["y"] > above["y"]


@pytest.mark.parametrize(("color_scheme", "neutral"), [("light", (255, 255, 255)), ("dark", (27, 28, 31))])
def test_strips_are_red_and_green_where_the_ratio_is_above_one_and_neutral_elsewhere(
    run: RunDir, tmp_path: Path, open_page: OpenPage, color_scheme: str, neutral: tuple[float, ...]
) -> None:
    page = open_page(export_map(run, tmp_path / "map.html"), color_scheme=color_scheme)
    explain_all(page)
    page.get_by_role("button", name="Previous step").click()
    red, green, blue = strip_colour(page, 4, "judge")  # 0.4 / 0.1
    assert red > 1.5 * max(green, blue)
    assert strip_colour(page, 4, "standard") == neutral  # 0.01 / 0.1
    red, green, blue = strip_colour(page, 3, "standard")  # 1.0 / 0.5
    assert green > 1.1 * max(red, blue)
    assert strip_colour(page, 3, "judge") == neutral  # 1
    assert strip_colour(page, 1, "judge") == neutral  # 0.8


def test_right_completion_has_only_the_row_of_the_standard_answer(page: Page) -> None:
    right = page.locator("#example-1")
    assert right.locator("[data-condition=judge]").count() == 0
    assert right.locator("[data-condition=standard]").count() == len(RIGHT.tokens)
    assert "one row: standard / base" in right.locator(".caption").text_content()
    assert right.locator("h3").all_text_contents() == ["Prompt", "Reply", "Standard answer"]
    assert right.locator(".badge").text_content() == "✓ right"
    red, green, _blue = strip_colour(page, 2, "standard", example=1)
    assert green > red


def test_colour_strength_grows_with_the_logarithm_and_saturates_at_eight(page: Page) -> None:
    ratios = [None, 0, 0.9, 1, math.sqrt(8), 2, 8, 1000]
    strengths = page.evaluate("(ratios) => ratios.map(strength)", ratios)
    assert strengths == pytest.approx([0, 0, 0, 0, 0.5, 1 / 3, 1, 1])


def test_numbers_read_well_at_both_ends(page: Page) -> None:
    def call(function: str, argument: object) -> object:
        return page.evaluate(f"(argument) => {function}(argument)", argument)

    assert call("formatProbability", math.log(0.42134)) == "0.4213"
    assert call("formatProbability", math.log(3.1e-7)) == "3.1e-7"
    assert call("formatProbability", 0) == "1.0000"
    assert call("formatProbability", None) == "unknown"
    assert call("formatRatio", 4) == "×4.00"
    assert call("formatRatio", 12345) == "×1.2e+4"
    assert call("formatRatio", None) == "unknown"
    assert page.evaluate("[effect(0, 1), effect(1, 0), effect(0, 0)]") == [
        "pushed down",
        "pushed up",
        "left alone",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" 34", " 34"),
        ("  ", "··"),
        (".\n\n", ".↵↵"),
        ("\tx", "⇥x"),
        ("\r", "CR"),
        ("\x00\x1b[0m\x7f", "NULESC[0mU+007F"),
        ("\u202ea\u2066", "U+202EaU+2066"),
        ("\ufeff\u00ad\u2028\u00a0", "U+FEFFU+00ADU+2028U+00A0"),
        ("\u3164\U000e0041", "U+3164U+E0041"),
        ("", "∅"),
        ("\u0301", "◌\u0301"),
        ("e\u0301 naïve 数学 😀", "e\u0301 naïve 数学 😀"),
    ],
)
def test_invisible_characters_become_visible(page: Page, text: str, shown: str) -> None:
    assert page.evaluate("(text) => visibleText(text)", text) == shown


def test_slider_buttons_and_play_move_between_steps(page: Page) -> None:
    slider, where = page.get_by_role("slider", name="Step", exact=True), page.locator("#where")
    assert where.inner_text() == "step 20, epoch 0.67 (snapshot 2 of 3), scheme nlft"
    assert token(page, 4).get_attribute("data-tag") == "salient"
    slider.fill("0")
    assert where.inner_text() == "step 10, epoch 0.33 (snapshot 1 of 3), scheme nlft"
    assert slider.get_attribute("aria-valuetext") == where.inner_text()
    assert token(page, 4).get_attribute("data-tag") == "plain"
    assert strip_colour(page, 4, "judge") == (255, 255, 255)
    assert page.get_by_role("button", name="Previous step").is_disabled()
    page.get_by_role("button", name="Next step").click()
    assert token(page, 4).get_attribute("data-tag") == "salient"
    page.clock.install(time=0)
    page.clock.pause_at(3600)  # else a slow machine looks for the other word when it is over
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause playing").wait_for()
    page.clock.run_for(1000)
    page.get_by_role("button", name="Play", exact=True).wait_for()  # it stops at the end
    assert where.inner_text().startswith("step 30")


def test_arrow_keys_walk_the_tokens_and_the_tooltip_tells_tag_weights_and_probabilities(page: Page) -> None:
    tooltip = page.get_by_role("tooltip")
    token(page, 0).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == " 34"
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tooltip"
    facts = tooltip.inner_text()
    for fact in [
        "pushed down",
        "5 of 8",
        "salient",
        "0.1000",
        "0.4000  ×4.00",
        "0.0100  ×0.100",
        "0.000",
        "1.250",
    ]:
        assert fact in facts
    page.keyboard.press("ArrowDown")
    assert "8 of 8" in tooltip.inner_text()  # nearest on the line below
    page.keyboard.press("ArrowUp")
    assert re.search("[45] of 8", tooltip.inner_text())  # the nearest above, by the width of the letters
    page.keyboard.press("End")
    page.keyboard.press("ArrowRight")
    assert "8 of 8" in tooltip.inner_text()
    assert "my-own-tag" in tooltip.inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowLeft")
    assert "1 of 8" in tooltip.inner_text()
    page.keyboard.press("Escape")
    assert tooltip.is_hidden()


def test_comma_and_full_stop_change_the_step_under_a_focused_token(page: Page) -> None:
    token(page, 4).focus()
    page.keyboard.press(",")
    assert "plain" in page.get_by_role("tooltip").inner_text()
    page.keyboard.press(".")
    assert "salient" in page.get_by_role("tooltip").inner_text()
    assert token(page, 4).evaluate("(cell) => cell === document.activeElement")


def test_a_completion_is_one_tab_stop(page: Page) -> None:
    assert page.locator(".token[tabindex='0']").count() == 2
    token(page, 0).focus()
    page.keyboard.press("End")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('#example-0 .quote')")
    assert token(page, 7).get_attribute("tabindex") == "0"


def test_pointing_shows_the_tooltip_and_leaving_returns_to_the_focused_token(page: Page) -> None:
    tooltip = page.get_by_role("tooltip")
    token(page, 4).hover()
    assert "5 of 8" in tooltip.inner_text()
    page.get_by_role("heading", name="Saliency map").hover()
    assert tooltip.is_hidden()
    token(page, 0).focus()
    token(page, 4).hover()
    assert "5 of 8" in tooltip.inner_text()
    page.get_by_role("heading", name="Saliency map").hover()
    assert "1 of 8" in tooltip.inner_text()


def test_tags_differ_in_line_style_and_not_only_in_colour(page: Page) -> None:
    looks = page.evaluate(
        """() => [...document.querySelectorAll("#tags dt > .text")].map((text) => {
          const style = getComputedStyle(text);
          return [text.textContent, style.textDecorationLine + " " + style.textDecorationStyle];
        })"""
    )
    assert [name for name, _ in looks] == TAGS
    assert len({look for _, look in looks}) == len(TAGS)


def test_salient_share_is_told_per_example(page: Page) -> None:
    shares = [page.locator(f"#example-{index} .share").text_content() or "" for index in (0, 1)]
    assert shares[0].startswith("salient 1 of 8 tokens (12.5%), gated 1 (12.5%)")
    assert shares[1] == "salient 1 of 4 tokens (25.0%)"


def test_search_and_label_filter_the_cards(page: Page) -> None:
    def visible() -> tuple[list[str], str]:
        cards = [card.get_attribute("id") or "" for card in page.locator("article").all() if card.is_visible()]
        return cards, page.locator("#count").inner_text()

    page.get_by_role("searchbox").fill("MARBLES away")
    assert visible() == (["example-0"], "1 of 2 examples")
    page.get_by_role("searchbox").fill("")
    page.get_by_role("combobox", name="Which completions").select_option("right")
    assert visible() == (["example-1"], "1 of 2 examples")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("by_toggle", [False, True])
def test_text_contrast_is_at_least_4_5(
    run: RunDir, tmp_path: Path, open_page: OpenPage, theme: str, by_toggle: bool
) -> None:
    system = {"light": "dark", "dark": "light"}[theme] if by_toggle else theme
    page = open_page(export_map(run, tmp_path / "map.html"), color_scheme=system)
    explain_all(page)
    page.get_by_role("button", name="Previous step").click()
    if by_toggle:
        while page.locator("html").get_attribute("data-theme") != theme:
            page.get_by_role("button", name="Theme").click()
    token(page, 4).focus()
    token(page, 5).hover()
    pairs = page.evaluate(
        "() => {"
        + PIXEL
        + """
        const hasText = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        const shown = (one) => one.checkVisibility() && hasText(one) && !one.disabled;
        return [...document.querySelectorAll("body *")].filter(shown).map((one) => {
          let under = one;
          while (getComputedStyle(under).backgroundColor === "rgba(0, 0, 0, 0)") under = under.parentElement;
          const colours = [getComputedStyle(one).color, getComputedStyle(under).backgroundColor];
          return [one.textContent, ...colours.map(pixel)];
        }); }"""
    )
    assert len(pairs) > 60
    assert ("dark" if sum(pairs[0][2]) < 380 else "light") == theme
    for text, ink, paper in pairs:
        assert contrast(tuple(ink), tuple(paper)) >= 4.5, text


def test_hostile_text_shows_as_text_and_runs_nowhere(hostile_run: RunDir, tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(export_map(hostile_run, tmp_path / "map.html"))
    shown = page.locator("#example-0 .token > .text").all_text_contents()
    assert shown == [
        *HOSTILE[:6],
        "ESC[31mred",
        "aNULb",
        "U+202Egnp.exe",
        "lineU+2028separator",
        "U+200B",
        "]]>&amp;&lt;",
        "◌\u0301",
        "end of turn",
    ]
    assert page.locator("main script, main img").count() == 0
    assert page.locator("#example-0").get_by_text("<script>alert(1)</script>").count() >= 4
    assert page.locator("#run").inner_text() == "<b>run & co"
    assert page.locator("#where").inner_text().endswith("scheme <i>")
    token(page, 0).focus()
    assert "</script>" in page.get_by_role("tooltip").inner_text()


def test_right_to_left_token_does_not_reorder_its_neighbours(tmp_path: Path, open_page: OpenPage) -> None:
    tokens = ["one", " שלום", " 1", "2", " עולם", " three"]
    run = new_run(tmp_path / "r", [replace(WRONG, tokens=tokens)], [snapshot(1, scores(6))])
    page = open_page(export_map(run, tmp_path / "map.html"))
    lefts = page.evaluate("[...document.querySelectorAll('.token')].map((cell) => cell.offsetLeft)")
    assert lefts == sorted(lefts)


def test_right_to_left_completion_flows_and_walks_from_right_to_left(tmp_path: Path, open_page: OpenPage) -> None:
    run = new_run(tmp_path / "r", [replace(WRONG, tokens=["שלום", " עולם", " 12"])], [snapshot(1, scores(3))])
    page = open_page(export_map(run, tmp_path / "map.html"))
    lefts = page.evaluate("[...document.querySelectorAll('.token')].map((cell) => cell.offsetLeft)")
    assert lefts == sorted(lefts, reverse=True)
    token(page, 0).focus()
    page.keyboard.press("ArrowLeft")
    assert "2 of 3" in page.get_by_role("tooltip").inner_text()


def test_page_fits_400_pixels(hostile_run: RunDir, tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(export_map(hostile_run, tmp_path / "map.html"), width=400)
    for index in (0, len(HOSTILE) - 1):
        token(page, index).focus()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_notes_stand_on_the_page(run: RunDir, tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(export_map(run, tmp_path / "map.html", max_steps=2))
    assert page.get_by_role("note").inner_text().startswith("Shows 2 of 3 recorded steps")


def test_missing_number_is_called_unknown(tmp_path: Path, open_page: OpenPage) -> None:
    odd = scores(4, judged=False, standard=np.array([np.nan, 0, 0, 0], np.float32))
    run = new_run(tmp_path / "r", [RIGHT], [snapshot(1, odd)])
    page = open_page(export_map(run, tmp_path / "map.html"))
    explain_all(page)
    assert strip_colour(page, 0, "standard") == (255, 255, 255)
    token(page, 0).focus()
    assert "unknown" in page.get_by_role("tooltip").inner_text()
