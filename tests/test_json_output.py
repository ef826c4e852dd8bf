"""`--json`: standard output is one JSON document; the exit codes stay, and no secret is in it."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from helpers import tiny
from helpers.fault_proxy import AnsweringServer
from helpers.training import examples
from nlft import cli
from nlft.data.records import write_examples
from nlft.results.comparison_report import read_report
from nlft.results.settings import EvaluationSettings

DOCS = (Path(__file__).parent.parent / "docs" / "JSON.md").read_text(encoding="utf-8")
SECRET = "sk-not-for-others-4711"


def documented(command: str) -> set[str]:
    """The keys that the page lists for a command."""
    section = DOCS.split(f"## {command}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    write_examples(tmp_path / "e.jsonl", examples(6))
    rows = [{"id": f"q{i}", "question": f"What is {i} + {i}?", "answer": f"#### {2 * i}"} for i in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_an_audit_prints_one_document_and_its_report_goes_to_standard_error(place, capsys):
    assert cli.main(["audit", "e.jsonl", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["format_version"], found["examples"]) == (1, 6)
    assert set(found) == documented("audit")
    assert found["summary"].split(";")[0] in said.err
    assert cli.main(["audit", "e.jsonl", "--json", "a.json"]) == 0
    assert json.loads(Path("a.json").read_text()) == found
    assert not Path("-").exists()


def test_a_plan_and_the_environment_print_what_the_page_lists(place, capsys):
    tiny.FAMILIES["llama"]().save_pretrained("m")
    assert cli.main(["plan", "m", "e.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == documented("plan")
    section = DOCS.split("## plan\n")[1]
    assert all(f"`{key}`" in section for key in found["cards"][0] if key != "card")
    assert cli.main(["env", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == documented("env")


def test_an_input_that_would_be_the_output_is_refused_with_the_right_order(place, capsys):
    assert cli.main(["audit", "--json", "e.jsonl"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "nlft audit e.jsonl --json" in said.err
    assert cli.main(["audit", "--json", "--grader", "label", "e.jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 6


def test_an_evaluation_prints_its_file_without_the_key(place, capsys):
    with AnsweringServer() as server:
        given = ["--model_name_or_path", "stub", "--base_url", server.url, "--max_new_tokens", "20", "--out", "v.json"]
        assert cli.main(["evaluate", "q.jsonl", *given, "--dry_run", "--json"]) == 0
        assert "4 requests" in json.loads(capsys.readouterr().out)["dry_run"]
        assert cli.main(["evaluate", "q.jsonl", *given, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads(Path("v.json").read_text())
    assert json.loads(said.out)["summary"]["questions"] == 4
    settings = {field.name for field in fields(EvaluationSettings)}
    assert set(json.loads(said.out)) - settings == documented("evaluate") - {"collateral"}
    assert "every answer: v.json" in said.err
    assert SECRET not in said.out


def test_after_an_error_standard_output_is_empty_and_the_exit_code_is_2(place, capsys):
    (place / "empty.jsonl").write_text("")
    assert cli.main(["audit", "empty.jsonl", "--json"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "empty.jsonl" in said.err


@pytest.mark.parametrize("report", ["compare-small", "compare-habits"])
def test_the_page_lists_every_key_of_a_comparison(report):
    found = set(read_report(Path(__file__).parent.parent / "docs" / f"{report}.json"))
    needed = {
        "format_version",
        "nlft",
        "model",
        "settings",
        "questions",
        "verdict",
        "verdict_data",
        "arms",
        "contrasts",
    }
    assert needed <= found <= documented("compare and tune")
