"""Files that are there whole or not at all, also when they are written in parts."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from nlft import files
from nlft.errors import UserError
from nlft.files import append_whole, cache_folder, csp_hash, render_page, shared_style, write_output, write_whole
from nlft.label.journal import Journal
from nlft.page.feedback import Feedback
from nlft.path_settings import whole_path
from nlft.runs.json_lines import read_jsonl
from nlft.runs.run_dir import RunDir


def test_parts_come_one_after_the_other_while_the_old_file_stands(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", []
    out.write_bytes(b"old")

    def parts() -> Iterator[bytes]:
        for part in (b"a\n", b"", b"bc"):
            seen.append(out.read_bytes())
            yield part

    write_whole(out, parts())
    assert seen == [b"old"] * 3
    assert out.read_bytes() == b"a\nbc"
    assert list(tmp_path.iterdir()) == [out]


def test_writers_with_one_process_id_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in two containers with a common folder."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    out = tmp_path / "out"

    def parts() -> Iterator[bytes]:
        yield b"first"
        write_whole(out, b"the other one")
        yield b", last"

    write_whole(out, parts())
    assert out.read_bytes() == b"first, last"
    assert list(tmp_path.iterdir()) == [out]


def test_without_a_home_folder_the_cache_folder_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "nlft"
    with pytest.raises(ValueError, match="HOME"):
        whole_path("output_dir", "~/x")


def test_parts_are_never_held_together(tmp_path: Path) -> None:
    tracemalloc.start()
    write_whole(tmp_path / "out", (bytes([n]) * 2**20 for n in range(32)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out").stat().st_size == 32 * 2**20
    assert peak < 4 * 2**20


def test_parts_that_end_in_an_error_leave_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_whole(out, b"old")

    def parts() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_output(out, parts())
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("data", [b"new", [b"n", b"ew"]])
def test_a_full_disk_is_one_message_with_the_file_and_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | list[bytes]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_output(tmp_path / "out", b"old")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"out: No space left on device\.\n  Write to another place\."):
        write_output(tmp_path / "out", data)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"old")]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package with a template of its own."""
    templates = tmp_path / "a_room_with_a_page" / "templates"
    templates.mkdir(parents=True)
    (templates.parent / "__init__.py").touch()
    (templates / "page.html").write_text(
        '{% extends "base.html" %}{% block title %}{{ name }}{% endblock %}{% block body %}{{ name }}{% endblock %}'
    )
    monkeypatch.syspath_prepend(tmp_path)
    return "a_room_with_a_page"


def test_a_page_escapes_what_it_is_given_and_names_its_style_by_hash(room):
    made = render_page(room, "page.html", "p { color: red }", name="<script>alert('{{ 1 }}')</script>")
    assert made.count("&lt;script&gt;alert(&#39;{{ 1 }}&#39;)&lt;/script&gt;") == 2
    assert "<script" not in made
    style = made.partition("<style>")[2].partition("</style>")[0]
    assert style == shared_style() + "p { color: red }"
    policy = made.partition('Policy" content="')[2].partition('"')[0]
    assert policy == f"default-src 'none'; style-src '{csp_hash(style)}'; base-uri 'none'; form-action 'none'"


def test_a_value_that_a_page_lacks_is_an_error(room):
    with pytest.raises(UndefinedError, match="name"):
        render_page(room, "page.html", "")


# Lines of JSON

WHOLE = b'{"step": 1, "id": "a", "text": "x", "control": "save", "who": "cli", "new": null, "taken": true}\n'


@pytest.mark.parametrize("before", [b"", WHOLE])
@pytest.mark.parametrize("torn", [b'{"step": 2, "id": "b", "te', b"{", b"\xff{"])
def test_a_torn_last_line_is_told_by_readers_and_writers_also_if_it_is_the_only_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, before: bytes, torn: bytes
) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    for name in ("events.jsonl", "controls.jsonl", "label.jsonl", "other.jsonl"):
        (run.path / name).write_bytes(before + torn)
    journal = Journal(run.path / "label.jsonl")
    reads = {
        "events.jsonl": run.events,
        "controls.jsonl": run.controls,
        "label.jsonl": journal.lines,
        "other.jsonl": lambda: append_whole(run.path / "other.jsonl", b"{}\n"),
    }
    for name, read in reads.items():
        monkeypatch.setattr("nlft.progress._NOTED", set())
        found = read()
        told = capsys.readouterr().err
        assert name in told, name
        assert f"{len(torn)} bytes" in told
        if found is not None:
            assert len(found) == before.count(b"\n")
    assert (run.path / "other.jsonl").read_bytes() == before + b"{}\n"
    journal.close()


def test_a_last_line_that_lacks_only_its_end_is_read_and_nothing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}, {"step": 2}]
    append_whole(tmp_path / "a.jsonl", b'{"step": 3}\n')
    assert [line["step"] for line in read_jsonl(tmp_path / "a.jsonl")] == [1, 2, 3]
    assert capsys.readouterr().err == ""


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """By path, what a file held when the disk was last waited for; a folder's names for a folder."""
    found: dict[str, bytes] = {}
    flush = os.fsync

    def recorded(file: int) -> None:
        flush(file)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        found[str(path)] = (
            b" ".join(sorted(os.fsencode(p.name) for p in path.iterdir())) if path.is_dir() else (path.read_bytes())
        )

    monkeypatch.setattr(files.os, "fsync", recorded)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files have no names here")
def test_decisions_have_reached_the_disk_when_they_count_as_kept(tmp_path: Path, flushed: dict[str, bytes]) -> None:
    """What a person decides: labels, blind choices, changes of a run, edits of feedback. A power cut takes none."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    journal = Journal(tmp_path / "label.jsonl")
    journal.append({"text": "a", "label": True})
    run.append_control({"step": 1, "id": "a"})
    feedback = Feedback(run)
    version = feedback._write([{"id": "e1", "judgment": "Dull."}])
    feedback._log([], "page", version.name)
    append_whole(tmp_path / "score.jsonl", b"{}\n")
    written = [journal.path, run.controls_path, version, tmp_path / "score.jsonl"]
    for path in written:
        aside = [data for name, data in flushed.items() if Path(name).parent == path.parent and not Path(name).is_dir()]
        assert path.read_bytes() in aside, path.name
        assert os.fsencode(path.name) in flushed[str(path.parent)], "its name too"
    run.append_event({"step": 1})
    assert str(run.events_path) not in flushed, "a line for each step waits for nothing: a resume writes it again"
    journal.close()


def test_lines_that_the_disk_did_not_take_are_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_whole(tmp_path / "a.jsonl", b"{}\n")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        append_whole(tmp_path / "a.jsonl", b"[]\n")
    assert (tmp_path / "a.jsonl").read_bytes() == b"{}\n"
