"""What `nlft label` reads and writes: every decision at once, none lost, none replaced, the original untouched."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.labelling import TOKEN, decide, opened, served, states, write_replies
from nlft import cli
from nlft.core.spans import Span
from nlft.data.records import Example, read_examples, write_examples
from nlft.errors import UserError
from nlft.label.decisions import LONGEST, MOST_SPANS, Decision, read_decision, refuse_too_long
from nlft.label.labelling import Outdated, decisions_path, default_out
from nlft.label.replies import read_replies

TEXTS = ["A delightful board.", "A plain board.", "It is 12 cm long.", "Wow!"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_replies(tmp_path / "replies.jsonl", TEXTS)


def test_what_is_decided_is_what_the_reader_of_train_accepts_and_the_original_stays(file: Path) -> None:
    before = file.read_bytes()
    labelling = opened(file)
    decide(
        labelling, 0, label=False, judgment='"delightful" praises.', spans=[{"start": 2, "end": 12, "replace": "blue"}]
    )
    assert read_examples(labelling.out) == [
        Example(
            "replies-1",
            "Describe product 1.",
            TEXTS[0],
            False,
            None,
            '"delightful" praises.',
            spans=(Span(2, 12, "blue"),),
        )
    ]
    decide(labelling, 1, label=True, feedback=" Short. ")
    decide(labelling, 2, label=False)  # nobody says what is wrong, so a training would refuse it
    decide(labelling, 3, skipped=True)
    found = read_examples(labelling.out)
    assert [(e.label, e.judgment, e.feedback) for e in found[1:]] == [(True, None, "Short.")]
    assert states(labelling) == ["disliked", "liked", "unfinished", "skipped"]
    decide(labelling, 2, spans=[{"start": 6, "end": 8}])
    assert [e.spans for e in read_examples(labelling.out)] == [(Span(2, 12, "blue"),), (), (Span(6, 8),)]
    assert file.read_bytes() == before
    labelling.close()


def test_a_killed_server_loses_nothing_and_the_next_one_goes_on_and_undoes_what_the_first_did(file: Path) -> None:
    first = opened(file)
    decide(first, 0, label=True)
    for words in ("Sh", "Short a", "Short and true."):
        decide(first, 0, "typing", feedback=words)
    decide(first, 1, label=False)
    first.journal._lock.close()  # as the system does when a process is killed
    with first.journal.path.open("ab") as torn:
        torn.write(b'{"id": "replies-3", "tex')
    again = opened(file)
    assert states(again)[:2] == ["liked", "unfinished"]
    assert again.last_place == 1
    assert again.now[0].feedback == "Short and true."
    decide(again, 2, skipped=True)
    assert [again.undo(), again.undo(), again.undo()] == [2, 1, 0]
    assert (again.now[0].label, again.now[0].feedback) == (True, ""), "typed words are one step"
    assert [again.undo(), again.undo()] == [0, None]
    assert states(again) == ["unlabelled"] * 4
    assert again.out.read_bytes() == b""
    assert len(again.journal.lines()) == 10, "an undo is a line too: the history is whole"
    again.close()


def test_what_was_undone_is_done_again_after_a_restart_too_until_something_new_is_decided(file: Path) -> None:
    first = opened(file)
    decide(first, 0, label=True)
    for words in ("Sh", "Short and true."):
        decide(first, 0, "typing", feedback=words)
    decide(first, 1, label=True)
    whole = first.out.read_bytes()
    assert first.redo() is None
    assert [first.undo(), first.undo()] == [1, 0]
    assert (first.now[0].label, first.now[0].feedback, first.now[1].label) == (True, "", None)
    assert first.redo() == 0
    assert first.now[0].feedback == "Short and true."
    first.journal._lock.close()  # as the system does when a process is killed

    again = opened(file)
    assert (again.now[0].feedback, again.now[1].label, again.last_place) == ("Short and true.", None, 0)
    assert again.redo() == 1
    assert again.out.read_bytes() == whole
    assert again.redo() is None
    assert [again.undo(), again.undo(), again.undo()] == [1, 0, 0]
    assert again.undo() is None
    assert [again.redo(), again.redo(), again.redo(), again.redo()] == [0, 0, 1, None]
    assert again.out.read_bytes() == whole
    assert again.undo() == 1
    decide(again, 2, skipped=True)
    assert again.redo() is None, "a new decision ends what can be done again"
    again.close()

    last = opened(file)
    assert last.redo() is None
    assert states(last) == ["liked", "unlabelled", "skipped", "unlabelled"]
    last.close()


def test_a_reader_takes_back_only_own_steps_also_after_a_restart(file: Path) -> None:
    labelling = opened(file)
    decide(labelling, 0, "ann-1", label=True)
    decide(labelling, 1, "bob-1", label=True)
    decide(labelling, 2, "ann-2", feedback="Sh")
    decide(labelling, 3, "bob-2", label=True)
    decide(labelling, 2, "ann-2", feedback="Short.")  # one step, though somebody else wrote meanwhile
    assert labelling.undo("ann") == 2
    assert labelling.now[2].feedback == ""
    assert labelling.undo("eve") is None
    decide(labelling, 0, "bob-3", label=False)
    with pytest.raises(Outdated, match="reply 1 "):
        labelling.undo("ann")
    assert labelling.redo("bob") is None
    assert labelling.redo("ann") == 2, "the other's decision ends nothing that is about another reply"
    assert labelling.undo("ann") == 2
    decide(labelling, 2, "bob-4", skipped=True)
    assert labelling.redo("ann") is None, "but it does so about the same reply"
    labelling.close()

    again = opened(file)
    assert [again.undo("bob"), again.undo("bob"), again.undo("ann"), again.undo("ann")] == [2, 0, 0, None]
    assert again.redo("ann") == 0
    assert again.redo("bob") == 0
    assert again.undo("bob") == 0
    again.close()

    last = opened(file)
    assert states(last) == ["liked", "liked", "unlabelled", "liked"]
    assert last.redo("eve") == 0, "a page at another port has another name, and takes all of the earlier steps"
    assert [last.undo("eve") for _ in range(5)] == [0, 0, 3, 1, None]
    assert last.redo("eve") == 1
    last.close()


def test_a_second_server_on_the_same_output_is_refused_and_one_on_another_is_not(file: Path, tmp_path: Path) -> None:
    first = opened(file)
    with pytest.raises(UserError, match=r"replies\.labelled\.decisions\.jsonl: .*\n.*--out"):
        opened(file)
    opened(file, tmp_path / "other.jsonl").close()
    assert not (tmp_path / "other.decisions.jsonl").exists(), "nothing was decided, so nothing is left"
    first.close()
    opened(file).close()


def test_what_somebody_else_wrote_into_the_output_is_not_replaced(file: Path) -> None:
    labelling = opened(file)
    decide(labelling, 0, label=True)
    with labelling.out.open("a") as out:
        out.write("mine\n")
    with pytest.raises(UserError, match=r"replies\.labelled\.jsonl"):
        decide(labelling, 1, label=True)
    assert states(labelling)[1] == "unlabelled"
    labelling.out.rename(file.with_name("away.jsonl"))  # as the message says
    decide(labelling, 1, label=True)
    assert len(read_examples(labelling.out)) == 2
    os.utime(labelling.out, (1, 1))  # a copy or a backup changes no more than the time
    decide(labelling, 2, label=True)
    assert len(read_examples(labelling.out)) == 3
    file.with_name("away.jsonl").replace(labelling.out)
    labelling.close()
    with pytest.raises(UserError, match=r"replies\.labelled\.jsonl.*did not write"):
        opened(file)
    assert labelling.out.read_text().endswith("mine\n")


def test_a_page_that_has_not_seen_the_last_change_cannot_replace_it(file: Path) -> None:
    labelling = opened(file)
    seen = labelling.revisions[0]
    decide(labelling, 0, label=True, feedback="Theirs.")
    with pytest.raises(Outdated):
        labelling.decide(0, {**labelling.now[0].as_json(), "feedback": "Mine."}, seen, "")
    assert labelling.now[0].feedback == "Theirs."
    labelling.close()


def test_decisions_about_replies_that_have_changed_stay_in_their_file_and_out_of_the_output(file: Path) -> None:
    labelling = opened(file)
    for place in range(3):
        decide(labelling, place, label=True)
    labelling.close()
    write_replies(file, ["Another text.", *TEXTS[1:2], *TEXTS[3:]])
    again = opened(file)
    assert again.elsewhere == 2
    assert [e.completion for e in read_examples(again.out)] == [TEXTS[1]]
    assert len(again.journal.lines()) == 3
    again.close()


def test_another_file_of_the_same_name_never_empties_the_output(file: Path) -> None:
    labelling = opened(file)
    decide(labelling, 0, label=True)
    labelling.close()
    other = file.with_suffix(".csv")
    other.write_text("prompt,completion\nDescribe product 9.,An iron board.\n")
    assert default_out(other) == labelling.out
    with pytest.raises(UserError, match=r"replies\.labelled\.jsonl[^\n]* 1 [^\n]*\n.*--out"):
        opened(other)
    assert len(read_examples(labelling.out)) == 1
    opened(file).close()


def test_labels_and_fields_that_a_file_has_are_kept_and_a_changed_label_drops_the_old_verdict(tmp_path: Path) -> None:
    file = tmp_path / "answered.jsonl"
    graded = {"verdict": "right", "item": "7"}
    write_examples(
        file,
        [
            Example("a", "q?", "1", True, "1", extra=graded),
            Example("b", [{"role": "user", "content": "q?"}], [{"role": "assistant", "content": "2"}], False, "1"),
            Example("c", "q?", "3", False, "1", "Off by two.", feedback="Short."),
        ],
    )
    labelling = opened(file)
    assert states(labelling) == ["liked", "unfinished", "disliked"]
    decide(labelling, 1, label=True)
    decide(labelling, 0, label=False, judgment="Curt.")
    found = {e.id: e for e in read_examples(labelling.out)}
    assert found["a"].extra == {"item": "7"}
    assert found["b"].completion == [{"role": "assistant", "content": "2"}]
    assert (found["c"].judgment, found["c"].feedback) == ("Off by two.", "Short.")
    assert found["a"].answer == "1"
    labelling.close()


def test_words_about_a_liked_reply_are_no_feedback_once_it_is_disliked(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    examples = [Example("a", "q?", "1", True, feedback="Nice."), Example("b", "q?", "2", False, None, "Off.", "3")]
    write_examples(file, [*examples, Example("c", "q?", "3", False, None, "Off.", feedback="Short.")])
    labelling = opened(file)
    decide(labelling, 0, label=None, feedback="Short and friendly.")
    decide(labelling, 0, label=False, judgment="Too long.")  # the feedback is still in the decision
    decide(labelling, 1, feedback="Short and friendly.")
    decide(labelling, 2, judgment="Off by two.")
    found = [(e.judgment, e.feedback) for e in read_examples(labelling.out)]
    assert found == [("Too long.", None), ("Off.", None), ("Off by two.", "Short.")], "the file's own feedback stays"
    decide(labelling, 0, label=True)
    assert read_examples(labelling.out)[0].feedback == "Short and friendly.", "a way back keeps the words"
    labelling.close()


def test_ids_are_made_where_they_are_missing_and_none_is_given_twice(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    rows: list[dict[str, Any]] = [{"id": "r-2"}, {}, {"id": None}, {"label": True}]
    file.write_text("".join(json.dumps({"prompt": "q?", "completion": "a", **row}) + "\n" for row in rows))
    replies = read_replies(file)
    assert [reply.example.id for reply in replies] == ["r-2", "r-2#2", "r-3", "r-4"]
    assert [reply.has_label for reply in replies] == [False, False, False, True]
    assert default_out(file).name == "r.labelled.jsonl"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spans": [{"start": 0, "end": 4}, {"start": 3, "end": 5}]}, "overlap"),
        ({"spans": [{"start": 4, "end": 4}]}, "from 4 to 4"),
        ({"spans": [{"start": 0, "end": 10}]}, "9 characters"),
        ({"spans": [{"start": False, "end": 3}]}, "from False"),
        ({"spans": [{"start": 0, "end": 1, "replace": 4}]}, "not text"),
        ({"spans": None}, "spans"),
        ({"label": 1}, "label"),
        ({"judgment": "x" * (LONGEST + 1)}, "20,001"),
        ({"spans": [{"start": 0, "end": 1, "note": "x" * (LONGEST + 1)}]}, "20,001"),
        ({"feedback": None}, "feedback"),
        ({"answer": " "}, "answer"),
    ],
)
def test_a_decision_that_no_file_could_hold_is_refused(change: dict[str, Any], told: str) -> None:
    whole = {"label": None, "skipped": False, "judgment": "", "feedback": "", "spans": [], "answer": None}
    with pytest.raises(UserError, match=told):
        refuse_too_long(read_decision({**whole, **change}, "nine char"), Decision())


def test_what_the_file_itself_holds_may_be_of_any_length(tmp_path: Path) -> None:
    file, long = tmp_path / "r.jsonl", "x" * (LONGEST + 1)
    spans = tuple(Span(at, at + 1) for at in range(MOST_SPANS + 1))
    write_examples(file, [Example("a", "q?", "y" * 3000, False, None, long, spans=(*spans, Span(2000, 2001, long)))])
    labelling = opened(file)
    decide(labelling, 0, spans=labelling.now[0].as_json()["spans"][1:])
    decide(labelling, 0, label=True, judgment="", feedback=long)
    for change in (
        {"feedback": long + "x"},
        {"spans": [*labelling.now[0].as_json()["spans"], *([{"start": 0, "end": 1}] * 2)]},
    ):
        with pytest.raises(UserError):
            decide(labelling, 0, **change)
    labelling.close()
    write_examples(file, [Example("a", "q?", "y" * 3000, False, None, "Short.")])
    again = opened(file)
    assert again.now[0].feedback == long, "what was decided before stays, too"
    again.close()


def ask(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    host = url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=20)
    given = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, given)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, json.loads(text) if text.startswith((b"{", b"[")) else text.decode()


def test_only_the_page_itself_may_read_or_change_anything(file: Path) -> None:
    labelling = opened(file)
    whole = {"place": 0, "seen": 0, "decision": {**labelling.now[0].as_json(), "label": True}}
    with served(labelling) as url:
        for path in ("/", "/api/about", "/api/rows/0", "/static/label.js"):
            assert ask(url, path, Authorization="Bearer no")[0] == 401
            assert ask(url, path)[0] == 200
        for path in ("/api/decide", "/api/undo", "/api/redo", "/api/search", "/api/score", "/api/resume"):
            assert ask(url, path, whole, Authorization="")[0] == 401
            assert ask(url, path, whole, Host="evil.example")[0] == 421
            assert ask(url, path, whole, Origin="http://evil.example")[0] == 403
            assert ask(url, path, b"x" * 1_100_000)[0] == 413
            assert ask(url, path, whole, **{"Content-Type": "text/plain"})[0] == 415
        assert labelling.now[0].label is None
        for path in ("/static/../server.py", "/static/label.html", "/api/rows/4", "/api/rows/-1", "/api/rows/x"):
            assert ask(url, path)[0] == 404
        assert ask(url, "/api/decide", {**whole, "place": 4})[0] == 404
        assert ask(url, "/api/decide", b'{"place": 0, "seen": 0, "decision": {"judgment": "\\ud83d"}}')[0] == 400
        assert ask(url, "/api/decide", {**whole, "decision": {}})[0] == 422
        assert ask(url, "/api/score", whole)[0] == 403, "there is no model"
        status, found = ask(url, "/api/decide", whole)
        assert (status, found["counts"]["liked"], found["states"]) == (200, 1, "+---")
        status, found = ask(url, "/api/decide", whole)
        assert (status, found["row"]["revision"]) == (409, 1)
        assert ask(url, "/api/search", {"text": "BOARD"}) == (200, {"places": [0, 1]})
        assert ask(url, "/api/undo", {})[1]["row"]["decision"]["label"] is None
        assert ask(url, "/api/redo", {})[1]["row"]["decision"]["label"] is not None
        assert ask(url, "/api/redo", {})[1]["row"] is None
        assert ask(url, "/api/undo", {"who": "eve"})[1]["row"] is None
        assert ask(url, "/api/undo", {"who": 1})[0] == 400
        assert ask(url, "/api/undo", {})[1]["row"]["decision"]["label"] is None
        for seen, reader in enumerate(("ann", "bob"), labelling.revisions[0]):
            decision = {**labelling.now[0].as_json(), "feedback": reader, "label": True}
            change = {"place": 0, "seen": seen, "decision": decision, "step": f"{reader}-1"}
            assert ask(url, "/api/decide", change)[0] == 200
        assert ask(url, "/api/undo", {"who": "ann"})[0] == 409


def test_the_command_says_where_it_writes_and_ends_with_the_command_that_trains(file: Path) -> None:
    labelling = opened(file)
    decide(labelling, 0, label=False, spans=[{"start": 2, "end": 12}])
    labelling.close()
    command = [sys.executable, "-m", "nlft.cli", "label", str(file), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout
    said = [server.stdout.readline() for _ in range(3)]
    assert re.match(r"label: http://127\.0\.0\.1:\d+/\?token=\S+\n", said[0])
    assert str(default_out(file)) in said[1]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (second.returncode, "Traceback" in second.stderr) == (2, False)
    assert str(decisions_path(default_out(file))) in second.stderr
    server.send_signal(signal.SIGINT)
    rest, errors = server.communicate(timeout=60)
    assert (server.returncode, errors) == (0, "")
    assert "1 disliked" in rest
    assert "3 not labelled" in rest
    last = rest.splitlines()[-1]
    assert last.startswith(f"next: nlft train {default_out(file)} --scheme strike ")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--out", "FILE"], "--out"),
        (["--out", "x.csv"], ".jsonl"),
        (["--model_name_or_path", "/nowhere/at/all"], "no such folder"),
        (["--adapter", "FOLDER"], "--adapter"),
        (["--max_new_tokens", "0"], "--max_new_tokens"),
    ],
)
def test_what_cannot_work_is_refused_before_the_page_is_served(
    file: Path, argv: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    words = [{"FILE": str(file), "FOLDER": str(file.parent)}.get(word, word) for word in argv]
    assert cli.main(["label", str(file), *words]) == 2
    assert told in capsys.readouterr().err
    assert os.listdir(file.parent) == [file.name]


def test_5000_replies_open_and_are_saved_quickly(tmp_path: Path) -> None:
    text = "This board is made of oak and has a groove for the juice. " * 12
    file = write_replies(tmp_path / "many.jsonl", [f"{at}: {text}" for at in range(5000)], label=True, feedback="Good.")
    start = time.perf_counter()
    labelling = opened(file)
    assert time.perf_counter() - start < 20
    seconds = []
    for place in range(0, 5000, 250):
        start = time.perf_counter()
        decide(labelling, place, label=False, judgment="Dull.")
        seconds.append(time.perf_counter() - start)
    assert statistics.median(seconds) < 0.5
    assert len(read_examples(labelling.out)) == 5000
    labelling.close()
