"""Two walks, as people would do them. A product person's: a spreadsheet, the page, training, a talk, a served model.
A researcher's: the map of a run that begins, another strike and another setting while it trains, and its end.

The product person sees no JSON, and types the commands that the page and the commands before have printed.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from playwright.sync_api import Browser, Page, expect
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import tiny
from helpers.map_page import open_all, unfold
from helpers.real import smollm2
from helpers.spreadsheets import rows, write_excel
from helpers.waiting import LONG, until
from nlft import cli
from nlft.data.records import Example, read_examples, write_examples
from nlft.exporting.llama_server import serving
from nlft.runs.run_dir import RunDir

pytest_plugins = ["helpers.browser"]

UNRATED = (1, 8)  # rows whose cells "Gut?" and "Warum?" are empty: one that says how long a thing is, one that praises


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model whose tokenizer llama.cpp knows."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny.own_tokenizer(words=(" ist", " der", " die"))  # llama.cpp loads no file without merges
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save_pretrained(folder)
    tiny.model(vocabulary=len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_from_a_spreadsheet_to_a_served_model(small: Path, chromium: Browser, capsys: pytest.CaptureFixture) -> None:
    walk(small, chromium, capsys, "--dtype", "float32", "--max_steps", "2")


@pytest.mark.long
def test_from_a_spreadsheet_to_a_served_model_with_smollm2(chromium: Browser, capsys: pytest.CaptureFixture) -> None:
    walk(smollm2(), chromium, capsys, "--max_steps", "6")


def walk(model: Path, chromium: Browser, capsys: pytest.CaptureFixture, *training: str) -> None:
    labelled = label_the_spreadsheet(chromium)
    examples = read_examples(labelled)
    assert [sum(e.label is wanted for e in examples) for wanted in (True, False)] == [16, 8]
    struck = examples[UNRATED[1]]
    assert [struck.completion[s.start : s.end] for s in struck.spans] == ["unvergleichlich"]
    assert "unnötiges Lob" in (struck.judgment or "")

    run = Path("runs/katalog")
    more = ["--model_name_or_path", str(model), "--output_dir", str(run), "--watch", "0", *training]
    told = do(capsys, "train", str(labelled), "--scheme", "strike", "--disable_tqdm", "true", "--use_cpu", *more)
    assert RunDir(run).adapter_path.is_dir()
    assert "next: nlft " in told
    assert "spans: " in told

    told = talk(run, capsys)
    assert read_examples("runs/examples-next.jsonl")[0].judgment == "Zu laut."
    assert "next: nlft train " in told

    told = do(capsys, "export", str(run), "--to", "gguf", "--out", "mitgenommen", "--verify_file", str(labelled))
    (exported,) = Path("mitgenommen").glob("*.gguf")
    assert exported.name in told
    ask_the_served(exported, run, model)


def label_the_spreadsheet(chromium: Browser) -> Path:
    """Rate the two replies that have no rating yet, in the page of `nlft label`. Return the file that it names."""
    table = rows()
    for place in UNRATED:
        table[place][3:] = [None, None]
    file = write_excel(Path("Rückmeldungen März.xlsx"), [["Nr.", "Frage", "Antwort", "Gut?", "Warum?"], *table])
    before = file.read_bytes()
    command = [sys.executable, "-m", "nlft.cli", "label", str(file), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    page = chromium.new_page()
    try:
        assert server.stdout
        page.goto(server.stdout.readline().split()[1])
        at(page, UNRATED[0] + 1)  # the first reply without a rating
        page.keyboard.press("1")
        for number in range(UNRATED[0] + 2, UNRATED[1] + 2):
            page.keyboard.press("j")
            at(page, number)
        page.keyboard.press("2")
        expect(page.locator("#badge")).to_contain_text("disliked")
        page.locator("#reply").evaluate(
            """(root) => {
                const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
                for (let node = walker.nextNode(); node; node = walker.nextNode()) {
                    const at = node.data.indexOf("unvergleichlich");
                    if (at >= 0) getSelection().setBaseAndExtent(node, at, node, at + "unvergleichlich".length);
                }
            }"""
        )
        page.keyboard.press("x")
        page.keyboard.press("e")
        page.keyboard.type("unnötiges Lob")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#counts")).to_contain_text("24 of 24 labelled")
        # The words go to the server while the page is closed, and the server must not end before.
        until(lambda: any("unnötiges Lob" in path.read_text(encoding="utf-8") for path in Path().rglob("*.jsonl*")))
    finally:
        page.close()
        os.killpg(server.pid, signal.SIGINT)
        rest = server.communicate(timeout=60)[0]
    assert file.read_bytes() == before, "the spreadsheet is never written to"
    words = shlex.split(re.findall(r"nlft train .*", rest)[-1])
    return Path(words[2])


def at(page: Page, number: int) -> None:
    expect(page.locator("#title")).to_contain_text(re.compile(rf"^Reply {number} "))


def do(capsys: pytest.CaptureFixture, *words: str) -> str:
    """Run a command, and return what it printed."""
    code = cli.main(list(words))
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out + printed.err


def talk(run: Path, capsys: pytest.CaptureFixture) -> str:
    """Ask the three models one question, and reject the trained one's reply."""
    typed = "Wie ist der Bürostuhl?\n/bad tuned Zu laut.\n/quit\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(typed))
        told = do(capsys, "chat", str(run), "--rule", "Lobe nicht.", "--max_new_tokens", "8")
    for side in ("base", "rule", "tuned"):
        assert f"── {side} " in told
    return told


def ask_the_served(exported: Path, run: Path, model: Path) -> None:
    """The served model gives the same reply as the trained one here."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(RunDir(run).adapter_path)
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), RunDir(run).adapter_path)
    tuned = tuned.merge_and_unload().float()
    messages = [{"role": "user", "content": "Wie ist die Bürste?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = tuned.generate(**given, max_new_tokens=6, do_sample=False)[0, given["input_ids"].shape[1] :]
    with serving(exported, context=512) as server:
        client = openai.OpenAI(base_url=f"{server.address}/v1", api_key=server.key)
        answer = client.chat.completions.create(model="nlft", messages=messages, max_tokens=6, temperature=0)
    assert answer.choices[0].message.content == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.long
def test_a_researcher_edits_a_strike_while_it_trains(small: Path, chromium: Browser) -> None:
    """The page waits for the run, shows it live, saves another strike for the next run, and steers this one."""
    said = [("A sleek lamp.", False, 'It praises: "sleek".'), ("A lamp of steel.", True, None)]
    said += [("A lovely cup, so lovely.", False, 'It praises: "lovely".'), ("A cup for tea.", True, None)]
    examples = [Example(f"e{at}", f"Describe thing {at}.", *one[:2], None, one[2]) for at, one in enumerate(said)]
    write_examples("examples.jsonl", examples)
    run = RunDir("runs/live")
    mapped = subprocess.Popen(
        [sys.executable, "-m", "nlft.cli", "map", str(run.path), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    command = [
        "train",
        "examples.jsonl",
        "--scheme",
        "strike",
        "--model_name_or_path",
        str(small),
        "--dtype",
        "float32",
    ]
    command += ["--output_dir", str(run.path), "--max_steps", "100000", "--save_strategy", "no", "--watch", "4"]
    command += ["--watch_every", "5", "--saliency.stop_below", "0", "--disable_tqdm", "true", "--use_cpu"]
    training = None
    page = chromium.new_page()
    try:
        assert mapped.stdout
        page.goto(next(line for line in mapped.stdout if line.startswith("map: ")).split()[1])
        expect(page.locator("#others")).to_contain_text("Waiting for this run to begin")
        with open("training.txt", "w") as told:
            training = subprocess.Popen([sys.executable, "-m", "nlft.cli", *command], stdout=told, stderr=told)
        until(lambda: run.snapshot_steps() or training.poll() is not None)
        assert training.poll() is None, Path("training.txt").read_text()
        expect(page.locator("#status")).to_contain_text("training", timeout=LONG * 1000)
        expect(page.locator(".token[data-tag=struck]").first).to_be_visible()
        at = next(at for at, watched in enumerate(run.watched()) if watched.id == "e2")
        open_all(page)
        card = page.locator(f"#example-{at}")
        card.get_by_role("button", name="Edit feedback").click()
        card.locator(".token").first.click()
        card.get_by_role("button", name="Mark wrong (W)").click()
        page.get_by_role("button", name="Save as a new version").click()
        expect(page.locator("#drafts")).to_contain_text("Saved as feedback/examples-v2.jsonl")
        edited = {e.id: e for e in read_examples(run.path / "feedback" / "examples-v2.jsonl")}["e2"]
        assert edited.spans or '"' in (edited.judgment or "")
        assert edited != examples[2]

        unfold(page)
        page.get_by_label("strike_weight, as a number").fill("2")
        page.get_by_role("button", name="Apply to the run").click()
        taken = until(lambda: [line for line in run.controls() if line.get("control") == "saliency.strike_weight"])
        assert taken[-1]["new"] == 2
        until(lambda: (run.events() or [{}])[-1].get("step", 0) > taken[-1]["step"])
        page.get_by_role("button", name="Stop").click()
        assert training.wait(LONG) == 0, Path("training.txt").read_text()
        expect(page.locator("#status")).to_contain_text("finished")
        assert RunDir(run.path).adapter_path.is_dir()
    finally:
        page.close()
        for process in (mapped, training):
            if process is not None:
                process.kill()
                process.wait()
                if process.stdout:
                    process.stdout.close()
