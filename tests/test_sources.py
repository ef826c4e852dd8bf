"""Where records come from: JSON, parquet, datasets by name, and the original project's files."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.errors import RecordsError, UserError
from nlft.sources.reading import read_source

GSM8K = [
    {"question": "48/2?", "answer": "48/2 = <<48/2=24>>24\n#### 24"},
    {"question": "6 * 7?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"},
    {"question": "3 + 4?", "answer": "7\n#### 7"},
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_parquet(name: str, rows: list[dict]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    parquet.write_table(pa.table({column: [row.get(column) for row in rows] for column in columns}), name)
    return name


def write_json(name: str, value: object) -> str:
    text = "\n".join(map(json.dumps, value)) if name.endswith(".jsonl") else json.dumps(value)
    Path(name).write_text(text, encoding="utf-8")
    return name


def problems(read, *args, **options):
    with pytest.raises(RecordsError) as error:
        read(*args, **options)
    return error.value.problems


# Parquet.


def test_parquet_and_jsonl_of_the_same_rows_read_equal():
    write_json("train.jsonl", GSM8K)
    assert read_questions(write_parquet("train.parquet", GSM8K)) == read_questions("train.jsonl")


def test_all_of_gsm8k_reads_equal_from_parquet():
    path = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "train.jsonl"
    if not path.exists():
        pytest.skip("GSM8K is not beside the project")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    questions = read_questions(write_parquet("train.parquet", rows))
    assert len(questions) == 7473
    assert questions == read_questions(path)


def test_examples_read_equal_from_parquet_with_messages_and_nulls():
    examples = [
        Example(1, [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}], True, "s"),
        Example(
            2,
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "name": "Ann"}],
            [{"role": "assistant", "content": "b"}],
            False,
            "s",
            "It is not b.",
            extra={"score": 2.5, "topic": ["x"]},
        ),
    ]
    write_examples("e.jsonl", examples)
    rows = [json.loads(line) for line in Path("e.jsonl").read_text().splitlines()]
    assert read_examples(write_parquet("e.parquet", rows)) == examples


def test_every_bad_row_is_named_with_its_place():
    rows = [*GSM8K, {"question": "", "answer": "1"}, {"question": "5?", "answer": None}, *GSM8K]
    found = problems(partial(read_questions, require_answer=True), write_parquet("gsm.parquet", rows))
    assert [(p.where, p.field) for p in found] == [("gsm.parquet row 4", "question"), ("gsm.parquet row 5", "answer")]
    assert "missing" in found[1].what


def test_a_missing_column_is_reported_once():
    rows = [{"question": f"{n}?", "solution": "1"} for n in range(500)]
    assert {q.answer for q in read_questions(write_parquet("gsm.parquet", rows))} == {None}
    (found,) = problems(partial(read_questions, require_answer=True), "gsm.parquet")
    assert (found.where, found.field) == ("gsm.parquet", "answer")
    assert "500 rows" in found.what


def test_other_columns_of_a_question_table_are_ignored():
    rows = [row | {"level": 3, "image": b"\xff"} for row in GSM8K]
    assert read_questions(write_parquet("g.parquet", rows))[0] == Question("g-1", "48/2?", "48/2 = 24\n#### 24")


OTHERS = [  # a column's value, and what the example keeps of it
    (date(2024, 1, 1), "2024-01-01"),
    (datetime(2024, 1, 1), "2024-01-01"),
    (datetime(2024, 1, 1, 12, 30), "2024-01-01 12:30:00"),
    (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01 00:00:00+00:00"),
    (pa.array([1704067201000000001], pa.timestamp("ns")), "2024-01-01 00:00:01.000000001"),
    (pa.array([10**7], pa.date32()), "29349-01-26"),
    (time(12, 30), "12:30:00"),
    (timedelta(hours=1), "1:00:00"),
    (float("nan"), None),
    (float("inf"), "inf"),
    ([1.5, float("nan")], [1.5, None]),
    ({"when": date(2024, 1, 1)}, {"when": "2024-01-01"}),
    (b"text", "text"),
    (b"\xff\xd8", None),
    ({"bytes": b"\xff", "path": "x"}, None),
]


@pytest.mark.parametrize(("value", "kept"), OTHERS, ids=range(len(OTHERS)))
@pytest.mark.parametrize("names", [("prompt", "completion", "label"), ("Frage", "Antwort", "Gut?")])
def test_no_value_of_an_unread_column_makes_a_table_unusable(value, kept, names, capsys, monkeypatch):
    monkeypatch.setattr("nlft.progress._NOTED", set())
    table = {
        names[0]: ["q"],
        names[1]: ["a"],
        names[2]: [True],
        "extra": value if isinstance(value, pa.Array) else [value],
    }
    parquet.write_table(pa.table(table), "e.parquet")
    [example] = read_examples("e.parquet")
    assert (example.prompt, example.extra.get("extra")) == ("q", kept)
    assert ("left out: 1 x column 'extra'" in capsys.readouterr().err) == ("xff" in str(value))


def test_bytes_that_are_no_text_are_refused_in_a_field_of_ours():
    rows = [{"id": 1, "prompt": b"q", "completion": "a", "label": True}]
    assert read_examples(write_parquet("e.parquet", rows))[0].prompt == "q"
    found = problems(read_examples, write_parquet("e.parquet", [{**rows[0], "prompt": b"\xff"}]))
    assert {(p.where, p.field) for p in found} == {("e.parquet row 1", "prompt")}
    assert "bytes" in found[0].what


def test_a_row_that_is_not_utf_8_is_refused_and_the_others_are_checked():
    text = pa.array([b"q", b"\xff", b"q"]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, text.buffers())
    parquet.write_table(pa.table({"question": broken, "answer": ["a", "b", ""]}), "q.parquet")
    found = problems(partial(read_questions, require_answer=True), "q.parquet")
    assert [(p.where, p.field) for p in found] == [("q.parquet row 2", None), ("q.parquet row 3", "answer")]


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "is not parquet"), (b"PAR1 but no more", "is not parquet"), (None, "cannot be read")]
)
def test_a_file_that_is_not_parquet_is_one_clear_error(content, what):
    if content is not None:
        Path("x.parquet").write_bytes(content)
    (found,) = problems(read_questions, "x.parquet")
    assert found.where == "x.parquet"
    assert found.what.startswith(what)
    assert found.cure.endswith(".")


def test_an_empty_table_holds_no_records():
    parquet.write_table(pa.table({"question": pa.array([], pa.string())}), "x.parquet")
    assert "no records" in problems(read_questions, "x.parquet")[0].what


def test_parquet_is_read_without_pandas_or_torch():
    write_parquet("g.parquet", GSM8K)
    code = (
        "import sys; from nlft.data.records import read_questions; n = len(read_questions('g.parquet'));"
        "print(n, {'pandas', 'torch', 'datasets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == (
        "3 set()\n"
    )


# Datasets by name, in the cache that an earlier load has left.


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of `datasets` that holds openai/gsm8k (main: train and test; socratic: train) and own/single."""
    from datasets import load_dataset

    root = tmp_path_factory.mktemp("cache")
    rows = root / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, GSM8K)), encoding="utf-8")
    for name, config, splits in [
        ("openai___gsm8k", "main", ["train", "test"]),
        ("openai___gsm8k", "socratic", ["train"]),
        ("own___single", "default", ["train"]),
    ]:
        load_dataset("json", data_files=dict.fromkeys(splits, str(rows)), cache_dir=str(root / f"{name}-{config}"))
        (info,) = (root / f"{name}-{config}").rglob("dataset_info.json")
        place = root / name / config / "0.0.0" / "abc"
        place.parent.mkdir(parents=True)
        info.parent.rename(place)
        written = json.loads((place / "dataset_info.json").read_text())
        short = name.rpartition("_")[2]
        (place / "dataset_info.json").write_text(
            json.dumps(written | {"config_name": config, "dataset_name": short, "builder_name": short})
        )
        for arrow in place.glob("json-*.arrow"):
            arrow.rename(place / arrow.name.replace("json-", f"{short}-"))
    return root


@pytest.fixture
def offline(cache, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_a_dataset_is_read_by_name_with_configuration_and_split():
    assert read_questions("openai/gsm8k:main:test")[1] == Question("gsm8k-test-2", "6 * 7?", "6 * 7 = 42\n#### 42")
    assert read_source("openai/gsm8k:main:train").records[2].where == "openai/gsm8k[train] row 3"
    sliced = read_questions("openai/gsm8k:main:test[1:]")
    assert sliced[0] == Question("gsm8k-test[1:]-1", "6 * 7?", "6 * 7 = 42\n#### 42")
    assert len(read_questions("openai/gsm8k:main:test[:2]")) == 2
    assert len(read_questions("own/single")) == len(read_questions("own/single::train")) == 3


@pytest.mark.usefixtures("offline")
def test_several_splits_are_listed_to_choose_from():
    with pytest.raises(UserError, match="openai/gsm8k:main: ") as error:
        read_questions("openai/gsm8k:main")
    assert "openai/gsm8k:main:train, openai/gsm8k:main:test" in str(error.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("openai/gsm8k:main:dev", "dev"),
        ("openai/gsm8k:none:train", "main"),
        ("openai/gsm8k", "socratic"),
        ("no/such:main:train", "HF_HUB_OFFLINE is set"),
        ("such:main", "HF_HUB_OFFLINE is set"),
        ("no/such", "no/such"),
    ],
)
def test_a_dataset_that_cannot_be_loaded_is_one_clear_error(name, told):
    with pytest.raises(UserError) as error:
        read_questions(name)
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    assert told in message
    assert "\n  " in message


@pytest.mark.usefixtures("offline")
def test_bad_rows_of_a_dataset_are_named():
    found = problems(read_examples, "openai/gsm8k:main:train")
    assert {p.field for p in found} == {"completion", "prompt", "label"}
    assert all(p.where == "openai/gsm8k[train]" and "3 rows" in p.what for p in found)


@pytest.mark.usefixtures("offline")
def test_a_local_path_wins_over_a_dataset_of_that_name():
    Path("openai").mkdir()
    Path("openai/gsm8k").write_text("{}")
    assert problems(read_questions, "openai/gsm8k")[0].where == "openai/gsm8k"


def test_a_name_with_a_file_ending_is_never_looked_up_on_the_hub():
    for name in ("data/train.jsonl", "data/train.csv", "./train", "/no/where", "data/x/train"):
        assert problems(read_questions, name)[0].what


# The original project's files.

ASKED = [{"id": 17, "question": "48/2?", "answer": "48/2 = <<48/2=24>>24\n#### 24"}]
JUDGED = [
    {**ASKED[0], "ans": "24\n#### 24", "judgment": None},
    {"id": 4, "question": "6 * 7?", "answer": "42\n#### 42", "ans": "#### 41", "judgment": "It is miscounted."},
]
SYSTEM = "\nSolve it.\n"


def as_final(record: dict) -> dict:
    return {
        "id": record["id"],
        "instruction": SYSTEM,
        "input": record["question"],
        "output": record["ans"],
        "judgment": record["judgment"],
        "answer": record["answer"],
    }


def test_the_original_s_questions_are_read():
    assert read_questions(write_json("gsm8k_train.json", ASKED)) == [Question(17, "48/2?", "48/2 = 24\n#### 24")]


def test_a_judged_chunk_is_read_as_examples_and_as_questions():
    name = write_json("chunk.json", JUDGED)
    assert read_examples(name) == [
        Example(17, "48/2?", "24\n#### 24", True, ASKED[0]["answer"]),
        Example(4, "6 * 7?", "#### 41", False, "42\n#### 42", "It is miscounted."),
    ]
    assert [q.answer for q in read_questions(name)] == ["48/2 = 24\n#### 24", "42\n#### 42"]


def test_a_judged_chunk_may_end_in_a_comma_as_the_original_writes_it():
    """Its script puts a comma after every record but the last of all the data, so in every chunk but the last."""
    text = "[\n" + "".join(json.dumps(record, indent=4) + ",\n" for record in JUDGED) + "\n]"
    Path("chunk_0_2.json").write_text(text)
    assert read_examples("chunk_0_2.json") == read_examples(write_json("chunk.json", JUDGED))
    for broken in ("[{},,]", "[,]", "[{} {}]", "[{},"):
        Path("chunk.json").write_text(broken)
        assert any("not JSON" in p.what for p in problems(read_examples, "chunk.json"))


def test_a_placeholder_for_a_judgment_is_not_a_judgment():
    waiting = [JUDGED[0], JUDGED[1] | {"judgment": "TODO: waiting for GPT4 to generate judgment"}]
    for name, rows in [("chunk.json", waiting), ("final.json", list(map(as_final, waiting)))]:
        write_json(name, rows)
        example = read_examples(name, require_judgment=False)[1]
        assert (example.label, example.judgment) == (False, None)
        (found,) = problems(read_examples, name)
        assert found.field == "judgment"
        assert f"nlft judge {name} --out judged.jsonl" in found.cure


def test_final_datasets_are_read_from_json_and_parquet():
    rows = list(map(as_final, JUDGED))
    examples = read_examples(write_json("NLFT2.json", rows))
    assert [(e.label, e.prompt) for e in examples] == [(True, f"{SYSTEM}\n48/2?"), (False, f"{SYSTEM}\n6 * 7?")]
    assert read_examples(write_parquet("NLFT2.parquet", rows)) == examples
    bare = [row | {"instruction": ""} for row in rows]
    assert read_examples(write_json("bare.json", bare))[0].prompt == "48/2?"


def test_reft_rows_are_read_as_questions():
    row = {"item_id": "gsm8k_17", "question": "48/2?", "answer_cot": ASKED[0]["answer"], "answer_value": "24"}
    assert read_questions(write_json("ReFT1.json", [row])) == [Question("gsm8k_17", "48/2?", "48/2 = 24\n#### 24")]


@pytest.mark.parametrize(("change", "field"), [({"ans": 3}, "ans"), ({"question": ""}, "question")])
def test_a_bad_judged_record_is_refused_by_the_original_s_name(change, field):
    (found,) = problems(read_examples, write_json("chunk.jsonl", [JUDGED[0], JUDGED[1] | change]))
    assert (found.where, found.field) == ("chunk.jsonl:2", field)
