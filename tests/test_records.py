"""Examples on disk: bad records are refused with line and cure, and written examples read back equal."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import malformed_cases
from helpers.malformed_cases import CASES, GOOD, record, refusal
from nlft.data.records import (
    Example,
    Question,
    completion_text,
    read_examples,
    read_questions,
    revision_text,
    write_examples,
)
from nlft.data.template_columns import inputs_of
from nlft.errors import RecordsError, UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(content: bytes | str, name: str = "train.jsonl", **options) -> list[Example]:
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_examples(name, **options)


def questions(*records: dict) -> list[Question]:
    Path("q.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return read_questions("q.jsonl")


# Refusals.


def test_there_are_many_malformed_files():
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_each_malformed_file_is_refused_with_place_and_cure(name):
    filename, content = CASES[name]
    problems = refusal(filename, content).problems
    assert problems
    for problem in problems:
        assert problem.where.startswith(filename)
        assert problem.what.endswith((".", "?"))
        assert problem.cure.endswith(".")
        assert str(problem).isprintable() or "\n" in str(problem)


def test_the_table_of_malformed_files_is_current():
    text = malformed_cases.DOC.read_text(encoding="utf-8")
    written = text.split(malformed_cases.BEGIN)[1].split(malformed_cases.END)[0]
    assert written.strip() == malformed_cases.table(), "run: python tests/helpers/malformed_cases.py --write"


def test_all_bad_records_are_reported_at_once():
    problems = refusal("train.jsonl", b"\n".join([record(label=0, prompt=""), b"{", record(prompt=3)])).problems
    assert [(p.where, p.field) for p in problems] == [
        ("train.jsonl:1", "label"),
        ("train.jsonl:1", "prompt"),
        ("train.jsonl:2", None),
    ]


def test_an_id_used_before_is_reported_with_the_record_s_other_problems():
    problems = refusal("train.jsonl", record() + b"\n\n" + record(prompt="")).problems
    assert [(p.where, p.field) for p in problems] == [("train.jsonl:3", "prompt"), ("train.jsonl:3", "id")]
    assert "train.jsonl:1" in problems[1].what


def test_error_names_the_line_after_blank_lines_and_crlf():
    assert refusal("train.jsonl", record() + b"\r\n\r\n \n" + record(answer="")).problems[0].where.endswith(":4")


def test_records_of_a_list_know_their_true_lines():
    content = b"[\n" + record(prompt="") + b",\n\n\n" + record(id=2, label=3) + b", " + record(id=3, prompt="")
    problems = refusal("train.json", content + b"\n]\n").problems
    assert [(p.where, p.field) for p in problems] == [
        ("train.json:2", "prompt"),
        ("train.json:5 record 2", "label"),
        ("train.json:5 record 3", "prompt"),
    ]


@pytest.mark.parametrize("reading", [read_examples, read_questions])
def test_an_id_used_before_is_refused_in_a_list_on_one_line(reading):
    Path("one.json").write_text(json.dumps([{**GOOD, "prompt": text} for text in "abc"]), encoding="utf-8")
    with pytest.raises(RecordsError) as told:
        reading("one.json")
    places = [(p.where, p.field, p.what.partition("same as at ")[2]) for p in told.value.problems]
    assert places == [(f"one.json:1 record {at}", "id", "one.json:1 record 1.") for at in (2, 3)]
    numbers = b", ".join(record(id=at, label=3) for at in range(7)) + b", " + record(id=7)
    assert "one.json:1 record 2, one.json:1 record 3" in str(refusal("one.json", b"[" + numbers + b"]"))


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_problem_that_a_record_has_several_times_is_one_problem_of_that_record(name):
    spans = [{"start": 0, "end": 1, "note": note} for note in "abc"]
    assert [p.field for p in refusal(name, record(spans=spans)).problems] == ["spans"]
    twice = b'{"role": "user", "role": "user", "content": "q"}'
    content = record(prompt=0).replace(b'"prompt": 0', b'"prompt": [' + twice + b", " + twice + b"]")
    assert content.count(twice) == 2
    assert [p.field for p in refusal(name, content).problems] == ["role"]
    both = [{**GOOD, "id": 1, "spans": spans}, {**GOOD, "id": 2}]
    text = json.dumps(both) if name == "x.json" else "\n".join(map(json.dumps, both))
    (problem,) = refusal(name, text.encode()).problems
    assert (problem.where, problem.field) == ("x.json:1 record 1" if name == "x.json" else "x.jsonl:1", "spans")


def test_line_separators_inside_strings_do_not_end_a_line():
    content = '{"id": 0, "answer": "\u2028\x85"}\n'.encode() + record(prompt="")
    assert [p.where for p in refusal("train.jsonl", content).problems][-1] == "train.jsonl:2"


@pytest.mark.parametrize("name", ["no-such.jsonl", "no-such.json", ".", "folder.jsonl", "train", "locked.jsonl"])
def test_a_path_that_cannot_be_read_is_named(name, monkeypatch):
    Path("folder.jsonl").mkdir()
    if name == "locked.jsonl":
        Path(name).write_bytes(record())

        def denied(*_: object) -> bytes:  # permissions do not stop root, who may be running this
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(RecordsError) as error:
        read_examples(name)
    assert error.value.problems[0].where == name
    assert error.value.problems[0].cure


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:0123456789ab\\u \n', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(content):
    for name in ("train.jsonl", "train.json"):
        with suppress(RecordsError):
            assert read(content, name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "judgment", "revision", "instruction", "output", "input", "score", "correct", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content"]), inner),
            max_leaves=6,
        ),
    )
)
def test_any_object_is_read_or_refused(fields):
    content = json.dumps({**GOOD, **fields})
    for reader in (read_examples, read_questions):
        Path("train.jsonl").write_text(content, encoding="utf-8")
        with suppress(RecordsError):
            assert len(reader("train.jsonl")) == 1


# Reading.


def test_a_record_is_read_as_it_is():
    assert read(record(finish_reason="stop")) == [
        Example(1, "6 * 7?", "42", True, "42", extra={"finish_reason": "stop"})
    ]


def test_a_byte_order_mark_is_accepted():
    assert read(b"\xef\xbb\xbf" + record()) == read(record())
    assert read(b"\xef\xbb\xbf[" + record() + b"]", "train.json") == read(record())


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_byte_order_marks_of_files_that_were_joined_are_passed_over(ending):
    mark, rows = (
        "\ufeff",
        [json.dumps({**GOOD, "id": str(i), "prompt": "\ufeffa\ufeff"}, ensure_ascii=False) for i in range(3)],
    )
    if ending == ".json":
        rows = [f"[{rows[0]},", f"{rows[1]},", f"{rows[2]}]"]
    text = "\r\n".join(mark * (1 + i) + row for i, row in enumerate(rows)) + f"\n{mark}\n"
    Path(f"x{ending}").write_text(text, encoding="utf-8", newline="")
    assert [(e.id, e.prompt) for e in read_examples(f"x{ending}")] == [(str(i), "\ufeffa\ufeff") for i in range(3)]


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_what_ails_every_record_is_said_once(ending):
    rows = [{"id": str(i), "prompt": "1 + 1?", "completion": "#### 2", "lable": True} for i in range(300)]
    text = json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    Path(f"x{ending}").write_text(text)
    with pytest.raises(RecordsError) as told:
        read_examples(f"x{ending}")
    [problem] = told.value.problems
    assert (problem.where, problem.field) == (f"x{ending}", "label")
    assert "300" in problem.what
    assert "lable" in problem.what
    if ending == ".jsonl":
        Path("x.jsonl").write_text(
            text + json.dumps({"id": "one", "prompt": 5, "completion": "", "label": True}) + "\n"
        )
        with pytest.raises(RecordsError) as told:
            read_examples("x.jsonl")
        assert len(told.value.problems) == 302
        assert len(str(told.value).splitlines()) < 15


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


@pytest.mark.parametrize(("column", "value"), [("tools", TOOLS), ("chat_template_kwargs", {"enable_thinking": False})])
def test_what_a_record_gives_to_the_chat_template_is_kept_and_used(column, value):
    rows = [{**GOOD, "id": "a", column: value}, {**GOOD, "id": "b", column: json.dumps(value)}, {**GOOD, "id": "c"}]
    Path("x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples, questions = read_examples("x.jsonl"), read_questions("x.jsonl")
    for items in (examples, questions):
        assert [inputs_of(item.extra).as_json() for item in items] == [{column: value}, {column: value}, {}]
    write_examples("y.jsonl", examples)
    assert read_examples("y.jsonl") == examples
    Path("q.jsonl").write_text("".join(json.dumps(question.as_record()) + "\n" for question in questions))
    assert read_questions("q.jsonl") == questions


@pytest.mark.parametrize(
    ("column", "value"),
    [("tools", {"x": 1}), ("tools", ["weather"]), ("tools", "weather"), ("chat_template_kwargs", [1]),
     ("chat_template_kwargs", "fast")],
)  # fmt: skip
@pytest.mark.parametrize("read_some", [read_examples, read_questions])
def test_a_column_for_the_chat_template_of_another_form_is_refused(read_some, column, value):
    Path("x.jsonl").write_text(json.dumps({**GOOD, column: value}) + "\n")
    with pytest.raises(RecordsError) as told:
        read_some("x.jsonl")
    [problem] = told.value.problems
    assert (problem.where, problem.field) == ("x.jsonl:1", column)


def test_what_a_table_fills_with_null_does_not_reach_the_chat_template():
    tool = {"name": "weather", "parameters": {"day": {"type": "string"}, "place": None}}
    found = inputs_of({"tools": [tool], "chat_template_kwargs": {"enable_thinking": None, "effort": "low"}})
    assert found.as_json() == {
        "tools": [{"name": "weather", "parameters": {"day": {"type": "string"}}}],
        "chat_template_kwargs": {"effort": "low"},
    }


def test_one_object_may_be_a_json_file():
    assert read(json.dumps(GOOD, indent=2), "train.json") == read(record())


def test_a_missing_judgment_may_be_allowed():
    assert read(record(label=False), require_judgment=False)[0].judgment is None
    assert read(record(label=True, judgment=" "))[0].judgment is None


def test_a_blank_completion_is_an_answer_too():
    assert read(record(completion=" "))[0].completion == " "


USER = [{"role": "user", "content": "6 * 7?"}]
ASSISTANT = [{"role": "assistant", "content": "42"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("6 * 7?", ASSISTANT, "42"), (USER, ASSISTANT, ASSISTANT)),
        ((USER, "42", "42"), (USER, ASSISTANT, ASSISTANT)),
        ((USER, ASSISTANT, ASSISTANT), (USER, ASSISTANT, ASSISTANT)),
        (("6 * 7?", "42", ASSISTANT), ("6 * 7?", "42", "42")),
    ],
)
def test_mixtures_of_text_and_messages_become_one_form(given, expected):
    prompt, completion, revision = given
    (example,) = read(record(prompt=prompt, completion=completion, revision=revision))
    assert (example.prompt, example.completion, example.revision) == expected
    assert completion_text(example) == revision_text(example) == "42"


ORIGINAL = {"id": 3, "instruction": "Add.", "input": "1 2", "output": "4", "judgment": "No.", "answer": "3"}


def test_an_original_record_is_converted():
    assert read(json.dumps(ORIGINAL)) == [Example(3, "Add.\n1 2", "4", False, "3", "No.")]
    assert read(json.dumps(ORIGINAL | {"input": ""}))[0].prompt == "Add."


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"score": 7}, True),
        ({"score": 6.9}, False),
        ({"score": 9, "label": False}, True),
        ({"score": None, "correct": True}, True),
        ({"label": True}, True),
        ({"judgment": ""}, True),
        ({"judgment": "No."}, False),
    ],
)
def test_an_original_record_s_label_is_found(fields, label):
    assert read(json.dumps(ORIGINAL | fields))[0].label is label


def test_the_fields_that_decide_an_original_record_s_label_are_kept():
    assert read(json.dumps(ORIGINAL | {"score": 8}))[0].extra == {"score": 8}


# Writing.

TEXT = st.text(
    alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from('\u2028\u2029\x85\n\r\x00😀\\"'),
    min_size=1,
    max_size=12,
)
SOLID = TEXT.filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def examples(draw):
    def message(role):
        return [{"role": role, "content": draw(SOLID)}]

    in_messages, label = draw(st.booleans()), draw(st.booleans())
    judgment = draw(SOLID if not label else st.none() | SOLID)
    revised = draw(st.booleans())
    return Example(
        id=draw(st.integers() | SOLID),
        prompt=[{"role": "system", "content": ""}, *message("user")] if in_messages else draw(SOLID),
        completion=message("assistant") if in_messages else draw(SOLID),
        label=label,
        answer=draw(SOLID),
        judgment=judgment,
        revision=None if not revised else message("assistant") if in_messages else draw(SOLID),
        extra=draw(st.dictionaries(TEXT.map(lambda name: f"x_{name}"), JSON, max_size=2)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(examples(), min_size=1, max_size=4, unique_by=lambda example: str(example.id)))
def test_written_examples_read_back_equal(written):
    write_examples("train.jsonl", written)
    assert read_examples("train.jsonl") == written
    assert Path("train.jsonl").read_bytes().count(b"\n") == len(written)


def test_fields_are_written_in_order_and_without_nulls():
    write_examples("new/train.jsonl", [Example("é", "p", "c", False, "a", "j", extra={"x": 1, "id": 9})])
    fields = '"id": "é", "prompt": "p", "completion": "c", "label": false, "answer": "a", "judgment": "j", "x": 1'
    assert Path("new/train.jsonl").read_text(encoding="utf-8") == "{" + fields + "}\n"


def test_a_failed_write_leaves_the_old_file(monkeypatch):
    example = Example(1, "p", "c", True, "a")
    write_examples("train.jsonl", [example])
    before = Path("train.jsonl").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_examples("train.jsonl", [example, Example(2, "p", "c", True, "a", extra={"x": float("nan")})])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"train\.jsonl: No space left on device"):
        write_examples("train.jsonl", [])
    assert [path.name for path in Path().iterdir()] == ["train.jsonl"]
    assert Path("train.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["train.json", "train", "folder.jsonl", "file/train.jsonl"])
def test_an_unwritable_path_is_an_error_with_a_cure(name):
    Path("folder.jsonl").mkdir()
    Path("file").touch()
    with pytest.raises(UserError, match="\n  "):
        write_examples(name, [])


# Questions.


def test_questions_come_in_several_forms():
    assert questions(
        {"prompt": "p <<1>>", "answer": "a <<1>>", "id": "x"},
        {"question": "48/2?", "answer": "48/2 = <<48/2=24>>24\n#### 24"},
        GOOD | {"finish_reason": "stop", "id": 5},
        ORIGINAL,
        {"prompt": USER, "answer": "42"},
    ) == [
        Question("x", "p <<1>>", "a <<1>>"),
        Question("q-2", "48/2?", "48/2 = 24\n#### 24"),
        Question(5, "6 * 7?", "42"),
        Question(3, "Add.\n1 2", "3"),
        Question("q-5", USER, "42"),
    ]


def test_a_question_keeps_its_other_fields_and_writes_them_back():
    record = {"id": "b", "prompt": "p", "answer": "a", "item": "bottle", "grams": 300}
    found = questions(record)
    assert found == [Question("b", "p", "a", {"item": "bottle", "grams": 300})]
    assert found[0].as_record() == record


def test_an_example_gives_its_question_only_the_fields_that_are_needed():
    Path("e.jsonl").write_text(json.dumps(GOOD | {"finish_reason": "stop", "item": "bottle"}), encoding="utf-8")
    assert read_questions("e.jsonl", needed_fields={"item"})[0].extra == {"item": "bottle"}
    assert read_questions("e.jsonl")[0].extra == {}


def test_questions_may_lack_an_answer_if_nothing_needs_it_but_not_a_needed_field():
    rows = [{"prompt": "p", "item": "bottle"}, {"prompt": "q", "answer": ""}, {"prompt": "r", "item": ["a"]}]
    rows += [{"prompt": "s", "item": " "}, {"prompt": "t", "item": 0}]
    Path("o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert [q.answer for q in read_questions("o.jsonl", require_answer=False)] == [None] * 5
    with pytest.raises(RecordsError) as caught:
        read_questions("o.jsonl", require_answer=False, needed_fields={"item"})
    places = [(p.where, p.field) for p in caught.value.problems]
    assert places == [("o.jsonl:2", "item"), ("o.jsonl:3", "item"), ("o.jsonl:4", "item")]


def test_generated_ids_count_records_not_lines():
    Path("train.jsonl").write_text('\n\n{"question": "q", "answer": "a"}\n', encoding="utf-8")
    assert read_questions("train.jsonl")[0].id == "train-1"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({"question": "", "answer": "a"}, "question"),
        ({"answer": "a"}, "prompt"),
        ({"prompt": "p", "answer": "a", "compeltion": "b"}, "compeltion"),
        ({"prompt": "p", "question": "p", "answer": "a"}, "question"),
        ({"prompt": "p", "answer": "a", "id": "q-2"}, "id"),
    ],
)
def test_a_bad_question_is_refused_with_its_field(record, field):
    with pytest.raises(RecordsError) as error:
        questions(record, {"prompt": "p", "answer": "a"})
    assert [p.field for p in error.value.problems] == [field]


def test_importing_the_data_modules_loads_nothing_heavy():
    code = (
        "import sys, nlft.data.records, nlft.data.grading, nlft.data.problems, nlft.collect.rules;"
        "print(sorted({'torch', 'transformers', 'numpy', 'pandas', 'trl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
