"""No output replaces an input, or what a user wrote by hand."""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import tiny
from nlft.cli import main
from nlft.commands.earlier import kept_notes, taken_up
from nlft.core.spans import Span
from nlft.data.records import Example, write_examples
from nlft.errors import UserError
from nlft.outputs import is_our_json, is_our_page, keeping_before, refuse_foreign, refuse_inputs

QUESTIONS = [{"id": at, "prompt": f"What is {at}+1?", "answer": str(at + 1)} for at in range(3)]
EXAMPLES = [{**question, "completion": "It is 9.", "label": False, "judgment": "No."} for question in QUESTIONS]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    both = {"q.jsonl": QUESTIONS, "e.jsonl": EXAMPLES, "events.jsonl": EXAMPLES, "examples.jsonl": EXAMPLES}
    for name, rows in both.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path


MODEL = ["--model_name_or_path", "model"]


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["sample", "q.jsonl", "--out", "q.jsonl", *MODEL], "q.jsonl"),
        (["sample", "q.jsonl", "--out", "e.jsonl", *MODEL], "e.jsonl"),  # its judgments are hand-written
        (["build", "e.jsonl", "--out", "./e.jsonl"], "e.jsonl"),
        (["judge", "e.jsonl", "--out", "q.jsonl"], "q.jsonl"),
        (["audit", "e.jsonl", "--json", "notes.json"], "notes.json"),
        (["audit", "e.jsonl", "--json", "e.jsonl"], "e.jsonl"),
        (["audit", "e.jsonl", "--html", "link.jsonl"], "e.jsonl"),
        (["audit", "e.jsonl", "--html", "hard.jsonl"], "e.jsonl"),
        (["audit", "e.jsonl", "--html", "notes.html"], "notes.html"),
        (["evaluate", "q.jsonl", "--out", "notes.json", *MODEL], "notes.json"),
        (["merge", "--adapter", "adapter", "--out", "adapter", *MODEL], "adapter/adapter_config.json"),
        (["train", "events.jsonl", "--output_dir", ".", "--overwrite", *MODEL], "events.jsonl"),
        (["sft", "e.jsonl", "--output_dir", "model", "--overwrite", *MODEL], "model/config.json"),
        (
            ["train", "e.jsonl", "--adapter", "adapter", "--output_dir", "adapter", "--overwrite", *MODEL],
            "adapter/adapter_config.json",
        ),
        (["tune", "examples.jsonl", "--output_dir", ".", *MODEL], "examples.jsonl"),
        (["compare", "examples.jsonl", "--output_dir", str(Path("x") / ".."), *MODEL], "examples.jsonl"),
    ],
)
def test_a_command_never_replaces_what_it_reads_or_what_it_did_not_write(
    home: Path, argv: list[str], kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "link.jsonl").symlink_to(home / "e.jsonl")
    os.link(home / "e.jsonl", home / "hard.jsonl")
    (home / "notes.json").write_text('{"mine": true}')
    (home / "notes.html").write_text("<p>mine</p>")
    before = (home / kept).read_bytes()
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert "--out" in told or "--html" in told or "--json" in told
    assert "Give" in told
    assert (home / kept).read_bytes() == before


def test_an_earlier_output_is_replaced_and_any_file_if_the_user_says_so(home: Path) -> None:
    for _ in range(2):
        assert main(["audit", "e.jsonl", "--json", "a.json", "--html", "a.html"]) == 0
        assert main(["build", "e.jsonl", "--out", "b.jsonl"]) == 0
    Path("a.html").write_text("<p>mine</p>")
    assert main(["audit", "e.jsonl", "--html", "a.html", "--overwrite"]) == 0
    assert is_our_page(home / "a.html")


def test_a_second_judge_keeps_what_was_written_by_hand_since(home: Path) -> None:
    rows = [{**row, "judgment": None} for row in EXAMPLES]
    (home / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["judge", "s.jsonl", "--out", "j.jsonl"]) in (0, 1)
    judged = [json.loads(line) for line in Path("j.jsonl").read_text().splitlines()]
    judged[1]["judgment"] = "By hand."
    (home / "j.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
    assert main(["judge", "s.jsonl", "--out", "j.jsonl"]) in (0, 1)
    assert json.loads(Path("j.jsonl").read_text().splitlines()[1])["judgment"] == "By hand."


def test_a_second_call_with_overwrite_goes_on_from_what_the_first_one_wrote(home: Path) -> None:
    spans = (Span(0, 2, note="Not this."),)
    given = Example(1, "q?", "It is 9.", False, judgment="No.", revision="It is 8.", spans=spans, feedback="Short.")

    def goes_on(earlier: Example, *redone: str, labels: bool = True) -> bool:
        write_examples(home / "o.jsonl", [earlier])
        with suppress(UserError):
            return taken_up([given], home / "o.jsonl", home / "e.jsonl", labels=labels, redone=redone) == [earlier]
        return False

    more = (*spans, Span(3, 5, note="It fails."))
    judged = replace(given, judgment="It fails.", spans=more, extra={"judge_verdict": "wrong"})
    assert goes_on(replace(given, spans=more)), "a judge marks more"
    assert goes_on(judged, "judgment")
    assert not goes_on(judged)
    assert not goes_on(replace(judged, spans=()), "judgment")
    assert goes_on(replace(judged, spans=(), feedback="Dry."), "judgment", "spans", "feedback")
    assert goes_on(replace(given, revision="It is 7."), "revision")
    assert not goes_on(replace(given, revision="It is 7."), "judgment")
    assert not goes_on(replace(given, completion="It is 7."), "judgment", "revision")


def test_judge_and_overwrite_run_twice(home: Path) -> None:
    command = ["judge", "e.jsonl", "--out", "o.jsonl", "--overwrite"]
    assert main(command) == 0
    assert "No." not in (home / "o.jsonl").read_text()
    assert main(command) == 0


def test_a_folder_beside_or_below_an_input_is_no_input(home: Path) -> None:
    refuse_inputs("--output_dir", home / "adapter" / "more", {"--adapter": home / "adapter"})
    refuse_inputs(
        "--output_dir", home / "runs", {"FILE": [home / "q.jsonl"], "--model": "owner/name", "--config": None}
    )
    with pytest.raises(UserError, match=r"--out .*q\.jsonl"):
        refuse_inputs("--out", home / "runs" / ".." / "q.jsonl", {"FILE": home / "q.jsonl"})
    with pytest.raises(UserError, match="--adapter"):
        refuse_inputs("--output_dir", home, {"--adapter": home / "adapter"})


def test_a_file_that_cannot_be_read_is_not_ours(home: Path) -> None:
    spoilt = home / "a.json"
    spoilt.write_bytes(b'{"summary": "\xff')
    with pytest.raises(UserError, match="--overwrite"):
        refuse_foreign("--json", spoilt, is_our_json("summary"))
    refuse_foreign("--json", spoilt, is_our_json("summary"), overwrite=True)
    spoilt.write_bytes(b"")
    refuse_foreign("--json", spoilt, is_our_json("summary"))


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def sampled(home: Path) -> list[str]:
    """The command that has written `s.jsonl`."""
    tiny.model().save_pretrained(home / "model")
    tiny.own_tokenizer().save_pretrained(home / "model")
    command = ["sample", "q.jsonl", *MODEL, "--out", "s.jsonl", "--max_new_tokens"]
    assert main([*command, "4"]) == 0
    return command


def test_sample_again_keeps_what_was_written_to_the_same_answers(
    home: Path, sampled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "s.jsonl"
    rows = answers(out)
    rows[0] |= {"label": True}
    rows[1] |= {"judgment": "No.", "mood": "bad"}
    write_rows(out, rows)
    by_hand = out.read_bytes()
    assert main([*sampled, "4"]) == 0
    now = answers(out)
    assert now[0]["label"] is True
    assert (now[1]["judgment"], now[1]["mood"]) == ("No.", "bad")
    # Other answers: what was written fits none of them.
    by_hand = out.read_bytes()
    capsys.readouterr()
    assert main([*sampled, "5"]) == 2
    assert "holds 2 examples" in capsys.readouterr().err
    assert out.read_bytes() == by_hand
    assert main([*sampled, "5", "--overwrite"]) == 0
    told = capsys.readouterr().out
    kept = next(path for path in home.glob("s.jsonl.bak*") if path.read_bytes() == by_hand)
    assert kept.name in told
    assert "--max_new_tokens 10" in told


def test_answers_that_are_graded_anew_keep_what_people_said_and_lose_what_belonged_to_the_old_label(home: Path) -> None:
    """`nlft sample` gets the same answers with other labels from another grader."""
    answer = Example(1, "q?", "10 apples", False, extra={"verdict": "wrong", "finish_reason": "stop"})
    new = replace(answer, label=True, extra=answer.extra | {"verdict": "right"})
    mark, by_judge = Span(0, 2, note="Not this."), Span(3, 4, note="It fails.")
    judged = {"judgment": "It fails.", "spans": (by_judge, mark)}

    def noted(now: Example, before: Example) -> Example:
        write_examples(home / "s.jsonl", [before])
        return kept_notes([now], home / "s.jsonl", overwrite=False)[0]

    now = noted(new, replace(answer, **judged, extra=answer.extra | {"judge_verdict": "wrong"}))
    assert (now.label, now.judgment, now.spans, now.extra) == (True, None, (mark,), new.extra)
    assert noted(answer, replace(new, keep=True)) == replace(new, keep=True)
    labelled = replace(answer, label=True, extra={"finish_reason": "stop"})  # a changed label drops the verdict
    assert noted(answer, labelled) == labelled


def test_build_again_keeps_what_was_added_to_its_output_or_refuses(home: Path) -> None:
    rows = [{**row, "judgment": None, "label": True} for row in EXAMPLES]
    write_rows(home / "pool.jsonl", rows)
    command = ["build", "pool.jsonl", "--out", "o.jsonl"]
    assert main(command) == 0
    assert main(command) == 0
    assert not list(home.glob("o.jsonl.bak*"))  # nothing changed
    built = answers(home / "o.jsonl")
    built[0]["judgment"] = "By hand."
    write_rows(home / "o.jsonl", built)
    assert main(command) == 0
    assert answers(home / "o.jsonl")[0]["judgment"] == "By hand."
    built[1]["completion"] = "My own words."
    write_rows(home / "o.jsonl", built)
    assert main(command) == 2
    assert answers(home / "o.jsonl") == built
    assert main([*command, "--overwrite"]) == 0
    assert any(answers(path) == built for path in home.glob("o.jsonl.bak*"))


def test_a_report_keeps_only_the_one_before(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "r.html.bak").write_text("a user's own file of that name")
    for text in ("report one", "report two", "report three"):
        with keeping_before(home / "r.html", report=lambda path: path.read_text().startswith("report")):
            (home / "r.html").write_text(text)
    assert (home / "r.html.bak2").read_text() == "report two"
    assert (home / "r.html.bak").read_text() == "a user's own file of that name"
    assert not (home / "r.html.bak3").exists()
    assert "r.html.bak" in capsys.readouterr().out
    with suppress(KeyError), keeping_before(home / "r.html"):  # the copy stays if the work fails half-way
        (home / "r.html").write_text("half")
        raise KeyError
    assert (home / "r.html.bak3").read_text() == "report three"
