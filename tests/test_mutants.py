"""`make mutants`: its mutants change what code does, the copy is put back, and survivors are printed."""

import re
from itertools import product
from pathlib import PurePosixPath

import pytest

from mutation import __main__ as command
from mutation.lists import PROJECT, drawn_mutants, modules, named_mutants
from mutation.mutator import mutants_of, reads_otherwise
from mutation.reach import reach_of
from mutation.trial import BrokenTrial, Copy, place_of

FILE = PurePosixPath("src/nlft/thing.py")
THING = b'''"""Count what is kept: 1 of 2."""

LIMIT = 2


def kept(numbers: "list[int]", all_of_them: bool = False) -> int:
    """Return 1 more than the count, or 0."""
    total = 0
    for number in numbers:
        if number < 1 and not all_of_them:
            continue
        total += min(number, LIMIT) + 1
        if total == 5:
            break
    return total * 3 + 1
'''
CHECK = """from nlft.thing import kept


def test_sums():
    assert kept([1, 2]) == 16
"""


def outcomes(source):
    names = {}
    exec(compile(source, "thing", "exec"), names)
    given = [*product(range(-1, 4), repeat=3), (2, 3, 1, 1)]
    found = []
    for numbers, all_of_them in product(given, ((), (True,))):
        try:
            found.append(names["kept"](numbers, *all_of_them))
        except Exception as error:
            found.append(type(error))
    return found


def test_every_mutant_of_a_function_changes_what_it_returns():
    usual = outcomes(THING)
    mutants = mutants_of(FILE, THING)
    kinds = {"constant", "comparison", "arithmetic", "and/or", "twin", "dropped exit", "without not"}
    assert {mutant.kind for mutant in mutants} == kinds
    for mutant in mutants:
        changed = mutant.applied(THING)
        assert reads_otherwise(mutant, THING)
        assert outcomes(changed) != usual, mutant.lines(THING)
        before, after = mutant.lines(THING)
        assert before == THING.decode().splitlines()[mutant.line - 1].strip()
        assert after == changed.decode().splitlines()[mutant.line - 1].strip()


def test_calls_are_dropped_and_texts_annotations_and_assertions_left_alone():
    source = b'''
def f(x: int = 1, y: "float | None" = None) -> "int | None":
    """Doc 1."""
    assert x > 0
    log(f"{x + 1}")
    if x:
        raise ValueError("1" + "2")
    return "a" + g(x, key=-x, rest=zip(x, x, strict=True))
'''
    head = 'def f(x: int = {}, y: "float | None" = None) -> "int | None":'
    assert [mutant.lines(source) for mutant in mutants_of(FILE, source)] == [
        (head.format(1), head.format(0)),
        (head.format(1), head.format(2)),
        ('log(f"{x + 1}")', "pass"),
        ("if x:", "if not (x):"),
        ('raise ValueError("1" + "2")', "pass"),
        tuple(f'return "a" + g(x, key={key}, rest=zip(x, x, strict=True))' for key in ("-x", "x")),
    ]


def test_a_change_that_is_no_python_or_the_same_program_is_not_drawn():
    ways = {">=": True, "> =": False, ">  ": False}
    for new, expected in ways.items():
        assert reads_otherwise(place_of(FILE, b"x = 1 > 2\n", ">", new, "named"), b"x = 1 > 2\n") == expected


# Trials, in a small project.


@pytest.fixture
def project(tmp_path):
    """A project whose package has one module, and a test that leaves some of its mutants alive."""
    home = tmp_path / "project"
    lists = {
        "named": "[]",
        "nearest": f"- {{modules: [{FILE}], tests: [tests/test_thing.py]}}",
        "equivalent": "[]",
    }
    files = {FILE: THING.decode(), "src/nlft/__init__.py": "", "tests/test_thing.py": CHECK, "pyproject.toml": ""}
    files |= {f"tests/mutation/{name}.yaml": text for name, text in lists.items()}
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    return home


def list_named(project, *changes):
    entries = (
        f"- {{name: {name}, file: {FILE}, old: {old!r}, new: {new!r}, tests: [tests/test_thing.py]}}\n"
        for name, old, new in changes
    )
    (project / "tests/mutation/named.yaml").write_text("".join(entries))


def test_a_mutant_is_noticed_or_not_and_the_module_is_put_back(project, tmp_path):
    copy = Copy.of(project, tmp_path / "copy")
    noticed = {
        # One after the other, of one length: compiled modules of the one before must not be taken for them.
        new: copy.notices(place_of(FILE, THING, "total * 3 + 1", new, "named"), ["tests/test_thing.py"])
        for new in ("total * 3 + 2", "total * 3 + 3", "total * 3 | 1", "total * 4 + 1")
    }
    assert noticed == dict.fromkeys(["total * 3 + 2", "total * 3 + 3", "total * 3 | 1", "total * 4 + 1"], "failed")
    assert not copy.notices(place_of(FILE, THING, "total == 5", "total == 6", "named"), ["tests/test_thing.py"])
    assert (copy.root / FILE).read_bytes() == (project / FILE).read_bytes() == THING


def test_tests_that_take_much_longer_notice_too_and_this_is_told_apart(project, tmp_path):
    copy = Copy.of(project, tmp_path / "copy")
    copy.baselines["tests/test_thing.py",] = -15  # so that the limit is 0 s
    assert copy.notices(place_of(FILE, THING, "* 3", "* 4", "named"), ["tests/test_thing.py"]) == "slow"


def test_tests_that_fail_without_a_mutant_notice_nothing_and_are_reported(project, tmp_path):
    (project / "tests/test_thing.py").write_text(CHECK.replace("16", "17"))
    copy = Copy.of(project, tmp_path / "copy")
    with pytest.raises(BrokenTrial, match="tests/test_thing"):
        copy.notices(place_of(FILE, THING, "* 3", "* 4", "named"), ["tests/test_thing.py"])
    with pytest.raises(BrokenTrial, match="tests/test_gone"):
        copy.notices(place_of(FILE, THING, "* 3", "* 4", "named"), ["tests/test_gone.py"])


@pytest.mark.long
def test_survivors_are_printed_and_the_exit_code_says_so(project, capsys):
    list_named(project, ("thrice", "* 3", "* 4"), ("five is where it ends", "== 5", "== 6"))
    assert command.main(["--drawn", "0"], project) == 1
    printed = capsys.readouterr().out
    assert "named mutants: 1 of 2 survive\n  src/nlft/thing.py: five is where it ends\n" in printed
    assert re.search(r"^noticed  src/nlft/thing.py:15 .*thrice", printed, re.MULTILINE)
    assert command.main(["--drawn", "0", "--named", "thrice"], project) == 0


@pytest.mark.long
def test_drawn_mutants_are_counted_and_more_than_one_in_twenty_is_too_many(project, capsys):
    assert command.main(["--drawn", "8", "--seed", "1"], project) == 1
    printed = capsys.readouterr().out
    count = printed.count("SURVIVES")
    assert 0 < count < 8
    assert f"drawn mutants: {count} of 8 survive" in printed
    assert f"that is {count / 8:.1%}" in printed
    assert printed.count("\n    - ") == printed.count("\n    + ") == count


@pytest.mark.long
def test_drawn_mutants_run_the_tests_that_reach_their_lines_and_name_the_one_that_notices(project, tmp_path, capsys):
    (project / "tests/test_other.py").write_text(
        "from nlft.thing import LIMIT\n\n\ndef test_nothing(tmp_path, monkeypatch):\n"
        "    monkeypatch.chdir(tmp_path)\n    assert LIMIT\n"
    )
    copy = Copy.of(project, tmp_path / "copy")
    reach = reach_of(copy.root, tmp_path / "kept" / "reach.json")
    assert set(reach.seconds) == {"tests/test_thing.py::test_sums", "tests/test_other.py::test_nothing"}
    for old, new, expected in (
        ("* 3", "* 4", ["tests/test_thing.py::test_sums"]),  # in a function, which one test calls
        ("LIMIT = 2", "LIMIT = 3", ["tests/test_thing.py::test_sums"]),  # on import: those that reach the module
    ):
        mutant = place_of(FILE, THING, old, new, "named")
        assert reach.tests(mutant, THING, [], 60) == expected
        assert copy.noticed_by(mutant, expected, 1) == (expected[0] if old == "* 3" else "")
    # A test that fails without the mutant as well notices nothing.
    (copy.root / "tests/test_broken.py").write_text("def test_it():\n    raise SystemError\n")
    broken = ["tests/test_broken.py::test_it", "tests/test_other.py::test_nothing"]
    assert copy.noticed_by(place_of(FILE, THING, "* 3", "* 4", "named"), broken, 1) == ""
    assert reach_of(copy.root, tmp_path / "kept" / "reach.json") != reach  # tests have changed, so they ran again
    before = (tmp_path / "kept" / "reach.json").stat().st_mtime_ns
    reach_of(copy.root, tmp_path / "kept" / "reach.json")
    assert (tmp_path / "kept" / "reach.json").stat().st_mtime_ns == before


def test_a_mutant_whose_text_is_not_there_is_an_error(project, capsys):
    list_named(project, ("thrice", "* 3", "* 4"), ("gone", "* 7", "* 8"), ("twice there", "total", "0"))
    assert command.main(["--drawn", "0"], project) == 2
    said = capsys.readouterr().err
    assert "thrice" not in said
    for words in ("gone", "0 times", "* 7", "twice there", "named.yaml"):
        assert words in said


def test_an_equivalent_mutant_is_not_drawn_and_a_stale_entry_is_an_error(project):
    every = drawn_mutants(1000, 0, project)
    line, becomes = "if total == 5:", "if total == 6:"
    entry = f"- {{file: {FILE}, line: {line!r}, becomes: {becomes!r}, why: of no matter}}\n"
    (project / "tests/mutation/equivalent.yaml").write_text(entry)
    rest = drawn_mutants(1000, 0, project)
    assert [m for m, _ in every if m.lines(THING) != (line, becomes)] == [m for m, _ in rest]
    assert len(every) == len(rest) + 1
    (project / "tests/mutation/equivalent.yaml").write_text(entry.replace("== 6", "== 9"))
    with pytest.raises(BrokenTrial, match="== 9"):
        drawn_mutants(1000, 0, project)


# The lists of this project.


def test_every_named_mutant_changes_a_program_and_names_tests_that_are_there():
    every = named_mutants()
    assert len(every) > 50
    for one in every:
        source = (PROJECT / one.mutant.file).read_bytes()
        if one.mutant.file.suffix == ".py":
            assert reads_otherwise(one.mutant, source), one.name
        else:
            assert one.mutant.applied(source) != source, one.name
        for path in (*one.tests, *one.wider):
            assert (PROJECT / path.partition("::")[0]).is_file(), f"{one.name}: {path}"
    assert len({one.name for one in every}) == len(every)


def test_mutants_are_drawn_from_every_module_that_decides_a_number():
    drawn = modules()
    source = PROJECT / "src/nlft"
    rooms = [
        *source.glob("core/**/*.py"),
        *source.glob("training/*.py"),
        *source.glob("baselines/*.py"),
        *source.glob("data/answers/*.py"),
    ]
    paths = {PurePosixPath(path.relative_to(PROJECT).as_posix()) for path in rooms if path.name != "__init__.py"}
    others = ["data/grading", "results/stats", "results/components", "results/power", "results/clusters", "page/guard"]
    assert set(drawn) == paths | {PurePosixPath(f"src/nlft/{name}.py") for name in others}
    for tests in drawn.values():
        assert [path for path in tests if not (PROJECT / path).is_file()] == []


def test_a_seed_draws_the_same_mutants_and_more_of_them_only_add():
    few, many, others = drawn_mutants(20, 0), drawn_mutants(40, 0), drawn_mutants(20, 1)
    assert many[:20] == few
    assert few != others
    assert len({mutant for mutant, _ in many}) == 40
