"""The page of `nlft label` as a person uses it: a real server, a real Chromium, and what is on disk afterwards."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from helpers import tiny
from helpers.labelling import opened, served, states, write_replies
from helpers.waiting import until
from nlft.core.spans import Span
from nlft.data.records import read_examples
from nlft.label.labelling import default_out
from nlft.label.model import LabelProcess

pytest_plugins = ["helpers.browser"]

Open = Callable[[str], Page]


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """One browser profile for the file. Its pages may have logged nothing but a lost connection or a refusal."""
    from helpers.browser import Watch  # not above: pytest is to import its plugin first

    made = chromium.new_context(viewport={"width": 1024, "height": 768})
    watch = Watch()
    made.on("page", watch.follow)
    yield made
    made.close()
    assert [one for one in watch.complaints if "net::ERR_" not in one and "status of 4" not in one] == []
    assert all(address.startswith("http://127.0.0.1:") for address in watch.requests)


@pytest.fixture
def open_at(context: BrowserContext) -> Iterator[Open]:
    pages: list[Page] = []

    def open_page(url: str) -> Page:
        pages.append(context.new_page())
        pages[-1].goto(url)
        expect(pages[-1].locator("#title")).not_to_be_empty()
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def at(page: Page, number: int) -> None:
    expect(page.locator("#title")).to_contain_text(re.compile(rf"^Reply {number:,} "))


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


@pytest.fixture
def start() -> Iterator[Callable[[Path], tuple[subprocess.Popen[str], str]]]:
    """Starts `nlft label` as a process of its own."""
    servers: list[subprocess.Popen[str]] = []

    def started(file: Path) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "nlft.cli", "label", str(file), "--port", "0"]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert servers[-1].stdout
        return servers[-1], servers[-1].stdout.readline().split()[1]

    yield started
    for server in servers:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


def test_six_replies_by_keyboard_then_a_killed_server_and_the_next_one_goes_on(
    tmp_path: Path, open_at: Open, start: Callable[[Path], tuple[subprocess.Popen[str], str]]
) -> None:
    texts = ["A delightful board.", "A plain board.", "A lovely pan.", "Wow!", "A pan of steel.", "An iconic cup."]
    file = write_replies(tmp_path / "replies.jsonl", texts)
    before, out = file.read_bytes(), default_out(file)
    server, url = start(file)
    page = open_at(url)
    assert "token" not in page.url
    expect(page.locator("#where")).to_contain_text("replies.labelled.jsonl")
    at(page, 1)
    press(page, "2", "r", "ArrowRight", "ArrowRight", "w")  # write over the second word
    page.keyboard.type("blue")
    press(page, "Escape", "e")
    page.keyboard.type('"delightful" praises; j and 1 are only letters here.')
    press(page, "Control+Enter")
    at(page, 2)
    press(page, "1", "e")
    page.keyboard.type("States facts.")
    press(page, "Escape", "j")
    at(page, 3)
    press(page, "r", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "x")  # a strike alone makes it disliked
    press(page, "j", "s", "j")
    at(page, 5)
    press(page, "1", "j")
    at(page, 6)
    press(page, "2")
    expect(page.locator("#counts")).to_contain_text("4 of 6 labelled")
    expect(page.locator("#counts")).to_contain_text("1 without a reason")
    expected = [
        (False, (Span(2, 12, "blue"),), None, '"delightful" praises; j and 1 are only letters here.'),
        (True, (), "States facts.", None),
        (False, (Span(2, 12),), None, None),
        (True, (), None, None),
    ]
    until(lambda: len(read_examples(out)) == 4 if out.exists() and out.stat().st_size else False)
    assert [(e.label, e.spans, e.feedback, e.judgment) for e in read_examples(out)] == expected
    journal = default_out(file).with_name("replies.labelled.decisions.jsonl")
    until(lambda: "replies-6" in journal.read_text(encoding="utf-8"))  # the counts show before the answer is there
    server.kill()
    server.wait()
    press(page, "1")
    expect(page.locator("#trouble")).to_contain_text("Not saved")  # it says so, and keeps the decision

    server, url = start(file)
    again = open_at(url)
    at(again, 6)  # where the last decision was made
    expect(again.locator("#badge")).to_have_text("disliked, no reason yet")
    press(again, "u", "u")
    at(again, 5)
    expect(again.locator("#badge")).to_have_text("not labelled")
    press(again, "Control+Shift+Z")
    expect(again.locator("#badge")).to_have_text("liked")
    again.reload()
    at(again, 5)
    again.get_by_role("button", name="Redo").click()  # the page was loaded anew, and the server knows what was undone
    at(again, 6)
    expect(again.locator("#badge")).to_have_text("disliked, no reason yet")
    press(again, "Control+y")
    expect(again.locator("#said")).to_contain_text("nothing to redo")
    press(again, "Control+z", "u")
    at(again, 5)
    expect(again.locator("#badge")).to_have_text("not labelled")
    press(again, "e")
    again.keyboard.type("abc")
    press(again, "Control+z", "Escape")  # in a field, the keys change its letters
    expect(again.locator("#badge")).to_have_text("not labelled")
    again.locator("#why").fill("")
    press(again, "Escape", "1", "k", "k", "k")
    at(again, 2)
    expect(again.locator("#why")).to_have_value("States facts.")
    again.locator("#filter").select_option("s")
    at(again, 4)
    again.locator("#filter").select_option("")
    press(again, "Escape", "/")
    again.keyboard.type("ICONIC")
    expect(again.locator("#found")).to_have_text("1 found")
    at(again, 6)
    press(again, "Escape", "?")
    expect(again.locator("#then")).to_contain_text(f"nlft train {out}")
    assert [(e.label, e.spans, e.feedback, e.judgment) for e in read_examples(out)] == expected
    assert file.read_bytes() == before


ODD = "Für 👩‍👩‍👧 e\u0301lan \u202eevil <b>bold</b> 💙x"


def test_what_is_selected_with_the_mouse_is_struck_in_code_points_and_no_character_is_cut(
    tmp_path: Path, open_at: Open
) -> None:
    labelling = opened(write_replies(tmp_path / "odd.jsonl", [ODD]))
    with served(labelling) as url:
        page = open_at(url)
        reply = page.locator("#reply")
        assert reply.locator("b").count() == 0
        expect(reply).to_contain_text("U+202E")  # the mark that would turn the text round
        expect(reply).to_contain_text("👩‍👩‍👧")  # one picture, not its parts
        found = {}
        for words, part in {"é": "\u0301l", "bold": "bold", "heart": "💙"}.items():
            page.evaluate(
                """(part) => {
                    const walker = document.createTreeWalker(document.getElementById("reply"), NodeFilter.SHOW_TEXT);
                    while (!walker.nextNode().data.includes(part)) continue;
                    const start = walker.currentNode.data.indexOf(part);
                    getSelection().setBaseAndExtent(walker.currentNode, start, walker.currentNode, start + part.length);
                }""",
                part,
            )
            found[words] = page.evaluate("getSelection().toString()")
            page.locator("#strike").click()
            expect(page.locator("#said")).to_contain_text("Struck")
        expect(page.locator("#spans li")).to_have_count(3)
        until(lambda: len(labelling.now[0].spans) == 3)
        struck = [ODD[span.start : span.end] for span in labelling.now[0].spans]
        assert struck == ["e\u0301l", "bold", "💙"]  # the accent keeps its letter
        page.get_by_role("button", name="Do not strike").first.click()
        until(lambda: len(labelling.now[0].spans) == 2)
        box = reply.bounding_box()
        assert box is not None
        reply.locator("[data-at]").first.dblclick(position={"x": 8, "y": 8})
        press(page, "x")
        until(lambda: ODD[slice(labelling.now[0].spans[0].start, labelling.now[0].spans[0].end)] == "Für")


def test_two_tabs_on_one_reply_never_replace_each_other_in_silence(tmp_path: Path, open_at: Open) -> None:
    labelling = opened(write_replies(tmp_path / "r.jsonl", ["One.", "Two."]))
    with served(labelling) as url:
        one, two = open_at(url), open_at(url)
        press(one, "1", "e")
        one.keyboard.type("Short.")
        press(one, "Escape")
        until(lambda: labelling.now[0].feedback == "Short.")
        press(two, "2", "e")
        two.keyboard.type("Curt.")
        press(two, "Escape")
        expect(two.locator("#trouble")).to_contain_text("Short.")
        expect(two.locator("#trouble")).to_contain_text("Curt.")
        assert labelling.now[0].feedback == "Short."
        two.get_by_role("button", name="Keep mine").click()
        until(lambda: labelling.now[0].judgment == "Curt.")
        press(one, "s")
        expect(one.locator("#trouble")).to_contain_text("Curt.")
        one.get_by_role("button", name="Take theirs").click()
        expect(one.locator("#why")).to_have_value("Curt.")
        assert labelling.undo() == 0
        assert states(labelling) == ["liked", "unlabelled"], "what was replaced by choice can be undone"


def test_each_reader_takes_back_own_steps_also_over_plain_http(
    tmp_path: Path, open_at: Open, chromium: Browser
) -> None:
    labelling = opened(write_replies(tmp_path / "r.jsonl", ["One.", "Two."]))
    other = chromium.new_context()
    other.add_init_script("delete Crypto.prototype.randomUUID")  # which a page of another machine has only over HTTPS
    with served(labelling) as url:
        ann, bob = open_at(url), other.new_page()
        press(ann, "1")
        until(lambda: labelling.now[0].label)
        bob.goto(f"{url}#2")
        at(bob, 2)
        press(bob, "2")
        until(lambda: labelling.now[1].label is False)
        ann.reload()
        at(ann, 1)
        press(ann, "u")
        until(lambda: labelling.now[0].label is None)
        press(ann, "u")
        expect(ann.locator("#said")).to_contain_text("nothing to undo")
        assert labelling.now[1].label is False
        press(bob, "u")
        until(lambda: labelling.now[1].label is None)
        other.close()


def test_words_stay_in_sight_and_follow_the_label_when_a_label_is_taken_back(tmp_path: Path, open_at: Open) -> None:
    labelling = opened(write_replies(tmp_path / "r.jsonl", ["One.", "Two."]))
    with served(labelling) as url:
        page = open_at(url)
        why = page.locator("#why")
        press(page, "1", "e")
        page.keyboard.type("Short and friendly.")
        press(page, "Escape", "1")
        expect(page.locator("#badge")).to_have_text("not labelled")
        expect(why).to_have_value("Short and friendly.")
        press(page, "e", "End")
        page.keyboard.type(" Nice.")
        press(page, "Escape", "2")
        expect(why).to_have_value("Short and friendly. Nice.")
        until(lambda: labelling.now[0].label is False)
        assert (labelling.now[0].judgment, labelling.now[0].feedback) == ("Short and friendly. Nice.", "")


class Here(LabelProcess):
    """The model's worker in this process: another one would take seconds to import torch."""

    def __init__(self, folder: Path) -> None:
        from nlft.training.label_worker import LabelModel

        self.name, self.adapter, self.max_new_tokens = "tiny", None, 5
        self.worker = LabelModel(str(folder), None, self.max_new_tokens)
        self.asked: list[dict[str, Any]] = []

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        import json

        from nlft.training.rescore_worker import answers

        self.asked.append(question)
        return next(answers(self.worker, iter([json.dumps(question)])))

    def kill(self) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Here:
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return Here(folder)


LIT = "() => [...CSS.highlights.values()].reduce((sum, one) => sum + one.size, 0)"


def test_tokens_light_up_while_one_types_and_the_model_goes_on_from_what_is_written_over(
    tmp_path: Path, open_at: Open, model: Here
) -> None:
    labelling = opened(write_replies(tmp_path / "r.jsonl", ["It is 12 long.", "Other."]))
    with served(labelling, model) as url:
        page = open_at(url)
        expect(page.locator("#model")).to_contain_text("Like or dislike")
        press(page, "2", "e")
        page.keyboard.type("The number is not right.", delay=5)
        expect(page.locator("#effect")).to_be_visible()
        assert len([one for one in model.asked if "score" in one]) <= 3, "not one question for each key"
        assert model.asked[-1]["score"]["judgment"] == "The number is not right."
        cells = page.locator("#tokens [role=option]")
        expect(cells).to_have_count(len("It is 12 long.") + 1)
        assert page.evaluate(LIT) > 0
        press(page, "Escape", "r", "ArrowRight", "ArrowRight", "ArrowRight", "w")
        page.keyboard.type("34")
        press(page, "Escape", "g")
        expect(page.locator("#going-on")).to_be_visible()
        assert model.asked[-1]["resume"]["begun"] == "It is 34"
        press(page, "d")
        expect(page.locator("#going-on")).to_be_hidden()
        until(lambda: labelling.now[0].spans and labelling.now[0].spans[0].replace == "34")
        assert labelling.now[0].answer is None, "nothing is recorded that was not taken"
        press(page, "g")
        expect(page.locator("#going-on")).to_be_visible()
        press(page, "a")
        until(lambda: labelling.now[0].answer)
        assert read_examples(labelling.out)[0].answer == labelling.now[0].answer
        assert str(labelling.now[0].answer).startswith("It is 34")
        press(page, "j")
        at(page, 2)
        expect(page.locator("#effect")).to_be_hidden()
        assert page.evaluate(LIT) == 0


def test_without_a_model_the_page_says_what_is_absent_and_fits_a_phone_in_both_schemes(
    tmp_path: Path, open_at: Open
) -> None:
    long_word = "x" * 300
    labelling = opened(write_replies(tmp_path / "r.jsonl", [f"Text {long_word} end.", "Two."]))
    with served(labelling) as url:
        page = open_at(url)
        expect(page.locator("#where")).to_contain_text("--model_name_or_path")
        page.set_viewport_size({"width": 390, "height": 844})
        press(page, "r", "ArrowRight", "x")
        expect(page.locator("#spans li")).to_have_count(1)
        assert page.locator("#spans .resume").count() == 0
        colours = set()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
        for name in ("Like", "Dislike", "Skip", "Undo", "Redo", "Next", "Keys"):
            box = page.get_by_role("button", name=re.compile(rf"^{name}\b")).bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= 844, name
        unnamed = page.evaluate(
            "[...document.querySelectorAll('button, input, textarea, select')].filter((one) => "
            "!(one.textContent.trim() || one.ariaLabel || one.labels?.length)).map((one) => one.outerHTML)"
        )
        assert unnamed == []


NEXT_PAINT = """async () => {
    const times = [];
    for (let count = 0; count < 20; count++) {
        const before = document.getElementById("title").textContent;
        const start = performance.now();
        document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
        while (document.getElementById("title").textContent === before) await new Promise((go) => setTimeout(go));
        await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
        times.push(performance.now() - start);
    }
    return times;
}"""


# From a key to the server's answer, which comes after both files are written.
NEXT_SAVED = """async () => {
    const count = () => performance.getEntriesByType("resource").filter((one) => one.name.endsWith("decide")).length;
    performance.clearResourceTimings();
    const start = performance.now();
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "s", bubbles: true }));
    while (!count()) await new Promise((go) => setTimeout(go));
    return performance.now() - start;
}"""


def test_5000_replies_are_shown_turned_over_and_saved_quickly(tmp_path: Path, open_at: Open) -> None:
    """The bounds are for a busy machine; docs/LABEL.md has the figures. With -s, this prints them."""
    text = "This board is made of oak and has a groove for the juice. " * 12
    labelling = opened(write_replies(tmp_path / "many.jsonl", [f"{number}: {text}" for number in range(5000)]))
    with served(labelling) as url:
        page = open_at(url)
        drawn = "performance.getEntriesByName('nlft-drawn')[0]?.startTime"
        page.wait_for_function(drawn)
        shown = page.evaluate(drawn)
        page.locator("#reply").focus()
        times = page.evaluate(NEXT_PAINT)
        at(page, 21)
        page.locator("#number").fill("5000")
        press(page, "Enter")
        at(page, 5000)
        press(page, "Escape", "1")
        until(lambda: labelling.now[4999].label)
        expect(page.locator("#counts")).to_contain_text("1 of 5,000 labelled")
        page.evaluate(NEXT_SAVED)
        saves = [page.evaluate(NEXT_SAVED) for _ in range(9)]
        print(
            f"first reply {shown:.0f} ms, key to paint {statistics.median(times):.0f}, {max(times):.0f}, "
            f"key to disk {statistics.median(saves):.0f}, {max(saves):.0f} ms"
        )
        assert shown < 20_000
        assert statistics.median(times) < 1000
        assert statistics.median(saves) < 2000
