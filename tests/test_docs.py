"""Pages: each is linked from README, no link is dead, lines are short, and the names that they give exist."""

import re
from pathlib import Path

import pytest

import nlft

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ENTRY_POINTS = {"schemes", "graders"}  # groups in which other packages register theirs; no modules
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def anchors(page):
    """The headings of a page, as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_links_every_page():
    assert len(PAGES) >= 15
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http:", "https:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_outside_a_table_is_over_120_characters(page):
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_files_and_targets_that_contributing_names_exist():
    named = set(re.findall(r"`?\b((?:src|tests|benchmarks|docs)/[\w./-]*)", CONTRIBUTING))
    assert len(named) >= 15
    assert [name for name in sorted(named) if not (ROOT / name.rstrip(".")).exists()] == []
    targets = set(re.findall(r"`make (\w+)`", CONTRIBUTING))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(targets) >= 5
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_scripts_named_in_pages_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b((?:benchmarks|examples|tests)/[\w/-]+\.(?:py|yaml|jsonl|ipynb))", text):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"(?<![/\w])nlft\.([a-z_.]*[a-z])", text)) - ENTRY_POINTS:
        assert exists(name.split(".")), f"nlft.{name}"


def exists(parts):
    """Whether a dotted name is a package, a module, something in a module, or a name of the public API."""
    path = ROOT / "src" / "nlft"
    if parts[0] in nlft.__all__:
        return True
    for i, part in enumerate(parts):
        module = path / f"{part}.py"
        if module.exists():
            return i + 1 == len(parts) or parts[i + 1] in module.read_text(encoding="utf-8")
        path = path / part
        if not path.is_dir():
            return False
    return True
