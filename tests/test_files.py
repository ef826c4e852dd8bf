"""Files that are there whole or not at all, also when they are written in parts."""

import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from nlft.errors import UserError
from nlft.files import csp_hash, render_page, shared_style, write_output, write_whole


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
