"""A run, an audit, a comparison and an evaluation show themselves in a notebook, and a training has one bar there."""

import re
import shutil
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.page_runs import add_step, example, make_run
from helpers.training import examples
from nlft import ComparisonResult, Run, UserError, audit
from nlft.notebook.magic import folders_of, nlft_map
from nlft.results.evaluate import Evaluation
from nlft.results.stats import wilson
from nlft.runs.run_dir import RunDir

pytest_plugins = ["helpers.browser"]

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose texts try to be markup, in a folder whose name does."""
    path = tmp_path_factory.mktemp("runs") / "a<b>"
    made = make_run(path, steps=1)
    watched = [example(index) for index in range(4)]
    watched[0].tokens[3] = EVIL
    made.write_watched(watched)
    for step in (10, 20):
        add_step(made, step)
    made.append_event({"step": 20, "loss": 0.5, "time": "2026-01-05T10:00:00.000+00:00"})
    return path


def test_a_run_shows_its_state_its_losses_and_the_first_examples_alone_on_its_own(run, open_page, tmp_path):
    shown = Run(run)._repr_html_()
    card, frame = shown.split("<iframe ")
    assert "training" in card
    assert "a&lt;b&gt;" in card
    assert "0.5" in card
    assert "2 more" in card
    assert 'sandbox="allow-scripts"' in frame
    assert "<script" not in frame, "the page travels as an attribute"
    assert len(shown) < 400_000
    (tmp_path / "cell.html").write_text(f"<!doctype html><html lang=en><meta charset=utf-8><body>{shown}</body></html>")
    page = open_page(tmp_path / "cell.html")
    inside = page.frame_locator("iframe")
    inside.get_by_text("farm-0").first.wait_for()
    assert inside.get_by_text("onerror=alert(1)").count()  # as text: a dialog or a request would fail `open_page`
    assert inside.get_by_text("farm-2").count() == 0
    assert page.evaluate("() => { try { return !!frames[0].document } catch { return false } }") is False


def test_a_map_has_all_examples_and_can_be_saved_and_compared(run, tmp_path):
    shown = Run(run).map(against=run)
    page = unescape(shown._repr_html_())
    assert all(f'"farm-{index}"' in page for index in range(4))
    assert shown.save(tmp_path / "map.html").stat().st_size > 100_000
    assert "map" in repr(shown)
    assert "training" in repr(Run(run))
    shown.save(tmp_path / "map.html")  # nlft wrote it
    notes = tmp_path / "notes.html"
    notes.write_text("mine")
    with pytest.raises(UserError, match=r"notes\.html[^\n]*\n.*overwrite=True"):
        shown.save(notes)
    assert notes.read_text() == "mine"
    assert shown.save(notes, overwrite=True).stat().st_size > 100_000


def test_a_home_folder_is_found_and_a_spoilt_or_removed_run_still_shows_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    made = make_run(tmp_path / "runs" / "farm", steps=1)
    found = Run("~/runs/farm")
    assert found.path == made.path
    assert found.map("~/runs/farm").save("~/map.html") == tmp_path / "map.html"
    assert "srcdoc" in nlft_map("~/runs/farm")._repr_html_()
    events = made.events_path.read_bytes()
    made.events_path.write_text('{"step": []}\n{"loss": "x"}\n')
    assert "events.jsonl" in found._repr_html_()
    made.events_path.write_bytes(events)
    made.settings_path.write_text("saliency: [")
    assert "run.yaml" in found._repr_html_()
    assert "iframe" not in found._repr_html_()
    assert "farm" in repr(found)
    shutil.rmtree(made.path)
    assert "run.yaml" in found._repr_html_()
    assert "farm" in repr(found)


def test_a_run_without_a_map_says_why_and_a_folder_without_a_run_is_refused(tmp_path):
    bare = RunDir(tmp_path / "bare")
    bare.write_settings({"method": "sft", "model_name_or_path": "m"})
    bare.start_events(None)
    shown = Run(tmp_path / "bare")._repr_html_()
    assert "waiting" in shown
    assert "--watch 8" in shown
    assert "iframe" not in shown
    with pytest.raises(UserError, match="run directory"):
        Run(tmp_path)


def test_the_magic_takes_one_run_or_two_and_says_what_is_wrong_without_a_traceback(run):
    from IPython.core.error import UsageError

    assert "srcdoc" in nlft_map(f"'{run}'")._repr_html_()
    assert "srcdoc" in nlft_map(f"'{run}' '{run}'")._repr_html_()
    for line in ("", "no/such/run", "a b c", "'"):
        with pytest.raises(UsageError, match=r"run|RUN"):
            nlft_map(line)


def test_an_audit_shows_its_worst_findings_as_text_and_stays_small():
    from dataclasses import replace

    many = [replace(one, id=f"{EVIL}{i}", judgment=None) for i, one in enumerate(examples(200))]
    shown = audit(many, name=EVIL)._repr_html_()
    assert "<img" not in shown
    assert "<script" not in shown
    assert "and 128 more" in shown, "133 wrong ones have no judgment, and 5 of them are listed"
    assert len(shown) < 40_000


def test_a_comparison_shows_its_verdict_and_its_page(tmp_path):
    found = ComparisonResult(DOCS / "compare-small.json")
    shown = found._repr_html_()
    assert found.verdict.split(":")[0] in unescape(shown)
    assert 'sandbox=""' in shown
    with pytest.raises(UserError, match=r"compare\.json"):
        ComparisonResult(tmp_path)
    (tmp_path / "compare.json").write_text('{"format_version": 3}')
    with pytest.raises(UserError, match="verdict"):
        ComparisonResult(tmp_path)


def test_an_evaluation_shows_its_rates_and_not_its_answers():
    rates = {"<all>": wilson(3, 4)}
    shown = Evaluation(4, rates, {"<all>": 1.0}, 7.0, 1.0)._repr_html_()
    assert "&lt;all&gt;" in shown
    assert "75.0%" in shown


CELLS = (
    "import sys, warnings; sys.path.insert(0, {tests!r}); warnings.simplefilter('ignore')\n"
    "from helpers.training import nlft_trainer\nfrom nlft import Run\n%load_ext nlft",
    "nlft_trainer('runs/a', max_steps=2, watch=2, disable_tqdm=False).train();",
    "Run('runs/a')",
    "%nlft_map runs/a",
)


def test_in_a_notebook_a_training_shows_one_bar_and_the_map_is_inline(tmp_path):
    tests = str(Path(__file__).parent)
    cells = [nbformat.v4.new_code_cell(text.replace("{tests!r}", repr(tests))) for text in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    _, trained, run, drawn = (cell.outputs for cell in notebook.cells)
    bars = [output.data["text/html"] for output in trained if "data" in output and "text/html" in output.data]
    assert len(bars) == 1, "transformers' own table of losses is not shown beside ours"
    assert re.search(r'<progress value="2" max="2".*training: 100% 2/2 .*loss=', bars[0])
    told = "".join(output["text"] for output in trained if output.get("name") == "stderr")
    assert re.fullmatch(r"warning: step 2: .* was tagged or struck\.\n.*nlft audit.*\n", told), "no bar as text"
    assert "finished" in run[0].data["text/html"]
    assert "srcdoc" in run[0].data["text/html"]
    assert "srcdoc" in drawn[0].data["text/html"]
    assert sys.executable


def test_on_windows_a_backslash_separates_folders_and_elsewhere_it_quotes():
    line = r"C:\runs\a 'D:\my runs\b'"
    assert folders_of(line, windows=True) == [r"C:\runs\a", r"D:\my runs\b"]
    assert folders_of(r"runs/my\ run 'x y' runs/#1", windows=False) == ["runs/my run", "x y", "runs/#1"]
