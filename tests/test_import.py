"""Spreadsheets and other tools' exports become examples, and nothing of them is dropped without a word."""

import gzip
import json
import re
import sys
import zipfile
from copy import deepcopy
from datetime import datetime
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from helpers import import_fixtures
from helpers.import_fixtures import FOLDER, by_id, unused
from helpers.spreadsheets import HEAD, rows, write_excel
from nlft.cli import main
from nlft.data.records import as_examples, completion_text, marked_spans, read_examples, read_questions, write_examples
from nlft.errors import RecordsError, UserError
from nlft.label.replies import read_replies
from nlft.progress import _NOTED
from nlft.sources import reading
from nlft.sources.columns import AS_NAMED, Columns, field_named
from nlft.sources.formats.registry import convert, find_format, unwrapped
from nlft.sources.label_words import read_label
from nlft.sources.raw_records import RawRecord, read_raw
from nlft.sources.reading import read_source


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _NOTED.clear()
    return tmp_path


def write_csv(name: str, table: list[list[object]], *, separator=",", encoding="utf-8", end="\r\n") -> str:
    lines = [separator.join('"' + str(cell).replace('"', '""') + '"' for cell in row) for row in table]
    Path(name).write_bytes(end.join(lines).encode(encoding))
    return name


def texts(examples) -> list[tuple]:
    return [(e.id, e.prompt, e.completion, e.label, e.judgment, e.feedback) for e in examples]


def refusal(read, *args, **options) -> str:
    with pytest.raises(UserError) as error:
        read(*args, **options)
    return str(error.value)


# Tables.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("separator", [";", ",", "\t", "|"])
def test_a_table_reads_equal_in_every_encoding_and_with_every_separator(encoding, separator):
    table = [HEAD[:5], *rows()]
    write_csv("feedback.csv", table, separator=separator, encoding=encoding)
    examples = read_examples("feedback.csv")
    assert len(examples) == 24
    assert examples[2].prompt == "Wie ist das Öllicht?"
    assert (examples[2].label, examples[2].judgment) == (False, "Lob: „großartig“")
    assert [e.label for e in examples].count(True) == 16
    assert examples[0].feedback == "Maße!"


def test_excel_s_unicode_text_is_read():
    write_csv("feedback.csv", [HEAD[:5], *rows()], separator="\t", encoding="utf-16")
    write_csv("plain.csv", [HEAD[:5], *rows()])
    assert texts(read_examples("feedback.csv")) == texts(read_examples("plain.csv"))


def test_the_encoding_the_separator_and_the_columns_are_told_once(capsys):
    write_csv("feedback.csv", [HEAD[:5], *rows()], separator=";", encoding="cp1252")
    read_examples("feedback.csv")
    read_examples("feedback.csv")
    told = capsys.readouterr().err
    assert "prompt=Frage,completion=Antwort,label=Gut?,comment=Warum?" in told
    assert told.count("Windows-1252") == told.count("semicolon") == told.count("--columns") == 1


def test_a_first_line_that_names_the_separator_is_obeyed():
    Path("x.csv").write_text("sep=|\nprompt|reply|ok\na,b;c|d|ja\n")
    assert texts(read_examples("x.csv")) == [("x-1", "a,b;c", "d", True, None, None)]


def test_the_separator_is_found_where_no_name_is_known():
    Path("x.csv").write_text("A;B;C\nq, r;a, b, c;ja\nq, s;a, b, d;ja\n")
    assert [e.completion for e in read_examples("x.csv", columns="prompt=A,completion=B,label=C")] == [
        "a, b, c",
        "a, b, d",
    ]


JOINED = "prompt,reply,good,comment\n"


@pytest.mark.parametrize("mark", ["", "\ufeff", "\ufeff\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_row_that_repeats_the_names_is_passed_over_where_files_were_joined(mark, encoding, capsys):
    parts = [f"{mark}{JOINED}q1,r1,yes,\n", f"{mark}{JOINED.title()}q2,r2,no,bad\n", f'{mark}"q3, x",r3,yes,\n']
    Path("x.csv").write_bytes("".join(parts).encode(encoding))
    assert [(e.prompt, e.label) for e in read_examples("x.csv")] == [("q1", True), ("q2", False), ("q3, x", True)]
    assert "1 row that repeats the names" in capsys.readouterr().err


def test_marks_of_utf_8_are_passed_over_in_a_file_that_is_read_as_windows_1252():
    rows = f"{JOINED}q1,größer,yes,\n".encode("cp1252")
    Path("x.csv").write_bytes(b"\xef\xbb\xbf" + rows + b"\xef\xbb\xbf" + rows)
    assert [e.completion for e in read_examples("x.csv")] == ["größer", "größer"]


def test_joined_files_may_each_name_their_separator():
    Path("x.csv").write_text("sep=;\n" + "\ufeffsep=;\n".join(["prompt;reply;ok\na;b,c;ja\n"] * 2), "utf-8-sig")
    assert [e.completion for e in read_examples("x.csv")] == ["b,c", "b,c"]


def test_a_mark_inside_a_cell_is_the_cells_own():
    Path("x.csv").write_text(f'{JOINED}q1,"one\n\ufefftwo",yes,\n', "utf-8")
    assert read_examples("x.csv")[0].completion == "one\n\ufefftwo"


@pytest.mark.parametrize("names", ["reply,prompt,good,comment", "prompt,reply,ok,comment", "Prompt,Reply,good"])
def test_joined_tables_with_other_columns_are_refused(names):
    Path("x.csv").write_text(f"{JOINED}q1,r1,yes,\n{names}\nr2,q2,yes,\n")
    said = refusal(read_examples, "x.csv")
    assert "row 3" in said
    assert "names of row 1" in said


def test_a_repeated_row_of_names_is_passed_over_in_a_spreadsheet_too():
    names = ["prompt", "reply", "ok"]
    write_excel(Path("x.xlsx"), [[*names, None], ["q", "a", "yes"], names, ["r", "b", "yes"]])
    assert [e.prompt for e in read_examples("x.xlsx")] == ["q", "r"]


def test_line_breaks_and_quotes_in_cells_stay():
    write_csv("x.csv", [["prompt", "reply", "ok"], ['Say "no".', 'one\r\ntwo "three"', "yes"]])
    assert texts(read_examples("x.csv"))[0][1:3] == ('Say "no".', 'one\ntwo "three"')


def test_spans_of_a_table_count_the_characters_of_its_cells():
    reply, spans = "one\r\ntwo\r\nA durable pan", '[{"start": 0, "end": 3}, {"start": 12, "end": 19}]'
    table = [["prompt", "completion", "label", "judgment", "spans"], ["q", reply, "no", "Dull.", spans]]
    write_csv("x.csv", table)
    write_csv("x.tsv", table, separator="\t")
    write_excel(Path("x.xlsx"), table)
    for name in ("x.csv", "x.tsv", "x.xlsx"):
        [example] = read_examples(name)
        assert [example.completion[span.start : span.end] for span in example.spans] == ["one", "durable"], name
    write_csv("long.csv", [table[0], [*table[1][:4], '[{"start": 12, "end": 24}]']])
    assert "21 characters" in refusal(read_examples, "long.csv")


def test_a_cell_may_be_longer_than_csv_s_own_limit():
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a" * 200_000, "yes"]])
    assert len(read_examples("x.csv")[0].completion) == 200_000


def test_a_text_that_excel_cut_is_not_used(capsys):
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a" * 32_767, "yes"], ["q", "a", "yes"]])
    assert [e.id for e in read_examples("x.csv")] == ["x-2"]
    assert "32,767 characters, where Excel cuts (row 2)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('prompt,reply,ok\nq,"a,yes\n', ["x.csv row 2"]),
        ("prompt,reply,ok\nq,a,b,c,yes\n", ["x.csv row 2", "5 cells"]),
        ("prompt,reply,ok\n,a,yes\n", ["x.csv row 2", '"prompt" is missing']),
        ("prompt,reply,ok\nq,a,maybe\n", ["x.csv row 2", '"ok" is "maybe"']),
        ("prompt,reply,ok\nq,a,4\n", ["x.csv row 2", '"ok" is "4"', "--columns label=ok:4"]),
        ("id,prompt,reply,ok\n1,q,a,yes\n1,q,b,yes\n", ["x.csv row 3", '"1"', "x.csv row 2"]),
        ("prompt,reply,reply,ok\nq,a,b,yes\n", ["x.csv row 1", "reply"]),
        ("prompt,reply,answer text,ok\n", ["x.csv", "no records"]),
        ("a,b\nc,d\n", ["x.csv", "a, b", "--columns prompt="]),
        ("prompt,reply,response,ok\nq,a,b,yes\n", ["--columns completion=reply or --columns completion=response"]),
        ("prompt,reply\nq,a\n", ["x.csv row 2", '"label" is missing', "--columns"]),
        ("", ["x.csv", "no records"]),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_place_and_cure(text, told):
    Path("x.csv").write_text(text)
    message = refusal(read_examples, "x.csv")
    for part in told:
        assert part in message
    assert "\n  " in message


def test_a_broken_row_does_not_hide_the_others():
    write_csv("x.csv", [["prompt", "reply", "ok"], ["", "a", "yes"], ["q", "a", "yes"], ["q", "b", "hm"]])
    with pytest.raises(RecordsError) as error:
        read_examples("x.csv")
    assert [(p.where, p.field) for p in error.value.problems] == [("x.csv row 2", "prompt"), ("x.csv row 4", "ok")]


def test_empty_rows_and_rows_without_a_rating_are_counted(capsys):
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a", "yes"], ["", "", ""], ["q", "b", ""], ["q", "c", "no"]])
    assert [(e.id, e.completion) for e in read_examples("x.csv", require_judgment=False)] == [
        ("x-1", "a"),
        ("x-3", "c"),
    ]
    told = capsys.readouterr().err
    assert "1 empty row" in told
    assert "1 x no label (row 4)" in told


def test_a_table_without_any_rating_says_so():
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a", ""], ["q", "b", ""]])
    assert "2 x no label (rows 2, 3)" in refusal(read_examples, "x.csv")


def test_columns_are_as_the_user_says():
    write_csv("x.csv", [["Text A", "Text B", "stars", "why"], ["q", "a", "4", "short"], ["q", "b", "2", "long"]])
    read = read_examples("x.csv", columns="prompt=Text A,completion=text b,label=stars:3")
    assert texts(read) == [("x-1", "q", "a", True, None, "short"), ("x-2", "q", "b", False, "long", None)]


@pytest.mark.parametrize("columns", ["prompt", "prompt=", "reply=x", "prompt=a,prompt=b", "prompt=nowhere"])
def test_a_choice_of_columns_that_says_nothing_is_refused(columns):
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a", "yes"]])
    assert "--columns" in refusal(read_examples, "x.csv", columns=columns)


def test_other_columns_are_kept_and_a_system_prompt_goes_before_the_prompt():
    write_csv("x.csv", [["system", "prompt", "reply", "ok", "channel"], ["Be brief.", "q", "a", "yes", "mail"]])
    (example,) = read_examples("x.csv")
    assert example.prompt == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]
    assert (completion_text(example), example.extra) == ("a", {"channel": "mail"})


def test_what_nlft_wrote_as_a_table_reads_back():
    table = [["id", "prompt", "completion", "label", "judgment", "feedback", "keep", "spans"]]
    table += [["a", "q", "so fine", "False", "", "", "", '[{"start": 0, "end": 2, "note": "n"}]']]
    table += [["b", "q", "r", "True", "", "clear", "true", ""]]
    write_csv("x.csv", table)
    one, two = read_examples("x.csv")
    assert [(s.start, s.end, s.note) for s in one.spans] == [(0, 2, "n")]
    assert (two.feedback, two.keep) == ("clear", True)


def test_a_table_of_questions_keeps_its_standard_answers():
    write_csv("x.csv", [["Question", "Answer", "Topic"], ["48/2?", "48/2 = <<48/2=24>>24", "sums"]])
    (question,) = read_questions("x.csv", needed_fields=["Topic"])
    assert (question.id, question.prompt, question.answer) == ("x-1", "48/2?", "48/2 = 24")
    assert question.extra == {"Topic": "sums"}
    write_csv("y.csv", [["Question", "Answer", "Good?"], ["48/2?", "24", "yes"]])
    assert texts(read_examples("y.csv")) == [("y-1", "48/2?", "24", True, None, None)]


def test_100_000_rows_are_read_row_by_row():
    lines = (f'{n};"Wie groß ist {n}?";"Etwa {n}, oder mehr.";{"ja" if n % 3 else "nein"}\n' for n in range(100_000))
    with Path("x.csv").open("w", encoding="utf-8") as file:
        file.writelines(["id;Frage;Antwort;Gut?\n", *lines])
    records = read_source("x.csv").records
    assert len(records) == 100_000
    assert records[-1].where == "x.csv row 100001"
    assert records[-1].fields["completion"] == "Etwa 99999, oder mehr."


# Ratings and names.


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *(
            (word, True)
            for word in ("yes", " Ja ", "TRUE", "WAHR", "1", "1.0", "1,0", "👍", "👍🏽", "✔️", "Right", "gut")
        ),
        *((word, True) for word in ("Oui", "VRAI", "bonne réponse", "J’aime", "sí", "SI", "Sì", "Sim", "Me gusta")),
        *((word, False) for word in ("Non", "faux", "Mauvaise", "não", "NAO", "falso", "sbagliato", "no me gusta")),
        *((word, False) for word in ("no", "Nein", "FALSCH", "0", "-1", "👎", "✗", "wrong", "bad answer")),
        *((word, bool(word)) for word in (1, True, 0, False)),
        *((word, None) for word in ("", "maybe", "-", "+", " - ", "4", 0.5, None, "n/a", [], "x")),
        (-1, False),
    ],
)
def test_a_rating_is_read_as_people_write_it(value, label):
    assert read_label(value) is label


def test_from_which_number_on_a_reply_is_right_is_the_user_s_choice():
    said = [("1,000", 500), ("-1,000", -500), ("1.000", 0.5), ("0,812", 0.5), ("2.500", 3000), ("4.500", 4)]
    assert [read_label(value, least) for value, least in said] == [None, None, True, True, False, True]
    write_csv("x.csv", [["q", "reply", "views"], ["a?", "b", "1,000"]])
    assert "1000" in refusal(read_examples, "x.csv", columns="prompt=q,label=views:500")
    assert [Columns.parse("label=stars:4").label(stars) for stars in (5, "4", 3.9, "ja")] == [True, True, False, True]


@pytest.mark.parametrize(
    ("name", "target"),
    [("Kunden-Frage", None), ("FRAGE", "prompt"), ("model_output", "completion"), ("Gut?", "label"),
     *((name, "prompt") for name in ("Invite", "Eingabe", "Pregunta", "Domanda", "Pergunta", "question")),
     *((name, "completion") for name in ("Réponse", "REPONSE", "Antwort", "Respuesta", "Risposta", "Resposta")),
     *((name, "label") for name in ("Bon ?", "Gut?", "¿Bueno?", "Buono?", "Bom?")),
     *((name, "comment") for name in ("Commentaire", "Kommentar", "Comentario", "Commento", "Comentário")),
     ("Was ist falsch?", "judgment"), ("What's wrong?", "judgment"), ("Begründung:", "comment"), ("colour", None)],
)  # fmt: skip
def test_a_column_is_known_by_its_name(name, target):
    assert field_named(name) == target


# Excel.


def test_a_workbook_reads_as_the_same_table_does(capsys):
    table = [[*row, datetime(2026, 3, 1)] for row in rows()]
    write_excel(Path("feedback.xlsx"), [HEAD, *table], title="Rückmeldungen, März")
    write_csv("plain.csv", [HEAD[:5], *rows()])
    examples = read_examples("feedback.xlsx")
    assert texts(examples) == texts(read_examples("plain.csv"))
    assert examples[0].extra == {"Geprüft am": "2026-03-01"}
    assert "names stand in row 2" in capsys.readouterr().err


def test_names_over_two_rows_numbers_and_truth_values_are_read():
    table = [["Frage", "Modell", None], [None, "Antwort", "Bewertung"], [12, 2.5, True], [3.0, "b", False], [None] * 3]
    write_excel(Path("x.xlsx"), table)
    assert texts(read_examples("x.xlsx", require_judgment=False)) == [
        ("x-1", "12", "2.5", True, None, None),
        ("x-2", "3", "b", False, None, None),
    ]


def test_of_a_formula_its_value_is_read_and_one_without_a_value_is_named():
    write_excel(Path("empty.xlsx"), [["prompt", "reply", "ok"], ["q", '="a"&"b"', "ja"]])
    message = refusal(read_examples, "empty.xlsx")
    assert "empty.xlsx row 2" in message
    assert "column 2" in message
    with zipfile.ZipFile("empty.xlsx") as old, zipfile.ZipFile("full.xlsx", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("sheet1.xml"):
                data, changed = re.subn(rb'(<c r="B2")[^>]*>(<f>.*?</f>)<v>?</v>', rb'\1 t="str">\2<v>ab</v>', data)
                assert changed == 1
            new.writestr(name, data)
    assert read_examples("full.xlsx")[0].completion == "ab"


def test_the_sheet_with_known_names_is_read_and_the_others_are_named(capsys):
    from openpyxl import Workbook

    book = Workbook()
    book.active.title = "Notes"
    book.active.append(["made in March"])
    for row in [["prompt", "reply", "ok"], ["q", "a", "yes"]]:
        (book["Data"] if "Data" in book.sheetnames else book.create_sheet("Data")).append(row)
    book.save("x.xlsx")
    assert len(read_examples("x.xlsx")) == 1
    assert "'Data' is read; not used: 'Notes'" in capsys.readouterr().err


def test_a_file_that_is_no_workbook_and_a_missing_package_are_told(monkeypatch):
    Path("x.xlsx").write_bytes(b"prompt,reply\n")
    assert "save it again as .xlsx" in refusal(read_examples, "x.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    assert "pip install 'nlft[excel]'" in refusal(read_examples, "x.xlsx")


# JSON.


def test_compressed_lines_read_as_plain_ones_do():
    rows = [{"prompt": "q", "completion": "a", "label": True}] * 3
    text = "".join(json.dumps(row) + "\n" for row in rows)
    Path("x.jsonl").write_text(text)
    Path("y.ndjson").write_text(text)
    with gzip.open("x.jsonl.gz", "wt") as file:
        file.write(text)
    assert read_examples("x.jsonl.gz") == read_examples("x.jsonl")
    assert [e.id for e in read_examples("y.ndjson")] == ["y-1", "y-2", "y-3"]
    Path("torn.jsonl.gz").write_bytes(Path("x.jsonl.gz").read_bytes()[:-9])
    assert "gzip" in refusal(read_examples, "torn.jsonl.gz")


def test_ids_are_made_from_the_place_and_stay():
    rows = [{"prompt": "q", "completion": str(n), "label": True, **({"id": "own"} if n == 1 else {})} for n in range(3)]
    Path("x.json").write_text(json.dumps(rows))
    first = read_examples("x.json")
    assert [e.id for e in first] == ["x-1", "own", "x-3"]
    assert read_examples("x.json") == first


# Other tools. tests/imports has the files, and docs/IMPORT.md what comes out of each.


def test_the_tables_of_the_page_are_current():
    assert import_fixtures.PAGE.read_text(encoding="utf-8") == import_fixtures.page_with_tables(), (
        "run tests/helpers/import_fixtures.py --write"
    )


def test_a_conversation_s_last_taught_reply_is_the_completion():
    found = by_id("openai-chat.jsonl")
    first, weighed, _ = found.values()
    assert first.prompt[0] == {"role": "system", "content": "You write for a shop's catalogue."}
    assert completion_text(weighed) == "A kettle of steel for 1.7 litres."
    assert [m["role"] for m in weighed.prompt] == ["user", "assistant", "user"]
    assert found["openai-chat-3"].prompt == "Describe a lamp."
    assert all(example.label for example in found.values())
    assert "tool calls" in unused("openai-chat.jsonl")[0]
    rated = by_id("messages.jsonl")
    assert (rated["m1"].label, rated["m1"].feedback) == (True, "Only facts.")
    assert (rated["m2"].label, rated["m2"].judgment) == (False, 'It praises: "stunning".')


def test_a_conversation_whose_last_reply_is_not_to_be_learned_ends_before_it():
    turns = [("user", "q", None), ("assistant", "a", None), ("user", "r", None), ("assistant", "b", 0)]
    messages = [{"role": r, "content": c, **({} if w is None else {"weight": w})} for r, c, w in turns]
    Path("x.jsonl").write_text(json.dumps({"messages": messages}))
    assert texts(read_examples("x.jsonl"))[0][1:3] == ("q", "a")


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("pairs.jsonl", [f"pairs-{n}-{side}" for n in (1, 2, 3, 4) for side in ("chosen", "rejected")]),
        ("openai-preference.jsonl", [
            "openai-preference-1-preferred_output", "openai-preference-1-non_preferred_output",
            "openai-preference-2-preferred_output",
        ]),
    ],
)  # fmt: skip
def test_each_side_of_a_pair_is_one_example(name, ids):
    found = by_id(name)
    assert list(found) == ids
    assert all(example.label is not ("rejected" in key or "non_" in key) for key, example in found.items())
    assert len(read_questions(FOLDER / name)) == sum(e.label for e in found.values()), "each prompt is asked once"


def test_the_prompt_that_both_sides_share_is_found():
    found = by_id("pairs.jsonl")
    assert found["pairs-3-rejected"].prompt == "Describe a rug."
    assert completion_text(found["pairs-4-chosen"]) == "A broom with a handle of ash."
    assert "Describe a broom." in found["pairs-4-chosen"].prompt


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so sleek"}]


@pytest.mark.parametrize("key", ["messages", "conversations"])
def test_what_a_conversation_s_record_says_about_its_reply_is_kept(key, capsys):
    spans = [{"start": 3, "end": 8, "note": "praise"}]
    rows = [
        {"label": False, "judgment": "bad", "feedback": "short", "spans": spans},
        {"label": True, "keep": True, "feedback": "short", "comment": "clear"},
        {"spans": spans},
        {"judgment": "It is wrong."},
        {"feedback": "dislike"},
        {"system prompt": "S"},
    ]
    write_lines("m.jsonl", *({key: TURNS, **row} for row in rows))
    found = read_examples("m.jsonl", require_judgment=False)
    assert [(e.label, e.judgment, e.feedback, e.keep) for e in found] == [
        (False, "bad", "short", False),
        (True, None, "short\nclear", True),
        (False, None, None, False),
        (False, "It is wrong.", None, False),
        (False, None, None, False),
        (True, None, None, False),
    ]
    assert [[(s.start, s.end, s.note) for s in e.spans] for e in found[:3]] == [
        [(3, 8, "praise")],
        [],
        [(3, 8, "praise")],
    ]
    assert [turn["role"] for turn in found[5].prompt] == ["system", "user"]
    assert "spans" in refusal(
        read_examples, write_lines("m.jsonl", {key: TURNS, "label": False, "spans": [{"start": 99}]})
    )


@pytest.mark.parametrize("key", ["prompt", "conversations"])
def test_a_pair_keeps_what_is_about_its_prompt_and_counts_what_is_about_one_reply(key, capsys):
    asked = "q" if key == "prompt" else [{"from": "human", "value": "q"}]
    sides = {"chosen": "a", "rejected": "b"} if key == "prompt" else {
        name: {"from": "gpt", "value": text} for name, text in (("chosen", "a"), ("rejected", "b"))
    }  # fmt: skip
    more = {
        "system": "S",
        "answer": "#### 3",
        "judgment": "bad",
        "keep": True,
        "topic": "sums",
        "tools": [{"name": "f"}],
    }
    both = read_examples(write_lines("p.jsonl", {key: asked, **sides, **more}), require_judgment=False)
    for example in both:
        assert [turn["role"] for turn in example.prompt] == ["system", "user"]
        assert (example.answer, example.judgment, example.extra["topic"]) == ("#### 3", None, "sums")
        assert ("tools" in example.extra) is (key == "prompt")
    told = capsys.readouterr().err
    assert "1 x a judgment" in told
    assert "1 x a keep" in told
    assert ("the list of tools" in told) is (key == "conversations")


def test_a_conversation_without_a_reply_is_a_question(capsys):
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "q"}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    write_lines("q.jsonl", {"messages": asked, "id": "a", "answer": "3", "tools": tools}, {"messages": asked[1:]})
    first, second = read_questions("q.jsonl")
    assert (first.id, first.prompt, first.answer, first.extra) == ("a", asked, "3", {"tools": tools})
    assert (second.id, second.prompt) == ("q-2", "q")
    assert "no reply" in refusal(read_examples, "q.jsonl")


@pytest.mark.parametrize("key", ["messages", "conversations"])
@pytest.mark.parametrize("system", [None, "S"])
def test_a_conversation_that_goes_on_after_its_last_reply_asks_its_last_message(key, system):
    names = ("role", "content") if key == "messages" else ("from", "value")
    turns = [{"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "r"), ("user", "more?"))]
    written = [dict(zip(names, turn.values(), strict=True)) for turn in turns]
    beside = {"system": system} if system else {}
    before = [{"role": "system", "content": system}] if system else []
    unlearned = [*written, {names[0]: "assistant", names[1]: "s", "weight": 0}, {names[0]: "user", names[1]: "and?"}]
    called = [*written, {names[0]: "assistant", names[1]: None, "tool_calls": [{"id": "c"}], "weight": 0}, written[0]]
    rows = [{key: one, **beside} for one in (written, written[:2], unlearned, *([called] * (key == "messages")))]
    write_lines("q.jsonl", *rows)
    asked = [one.prompt for one in read_questions("q.jsonl")]
    first = [*before, turns[0]] if system else "q"
    assert asked[0] == [*before, *turns]
    assert asked[1] == first
    assert [turn["content"] for turn in asked[2]][-3:] == ["more?", "s", "and?"]
    assert len(asked) == 3, "what calls tools is not asked"
    assert [one.prompt for one in read_examples("q.jsonl")][:2] == [first] * 2
    assert len(read_examples("q.jsonl")) == len(rows)


def test_sharegpt_s_conversations_pairs_and_ratings_are_read():
    found = by_id("sharegpt.json")
    assert [m["role"] for m in found["s1"].prompt] == ["system", "user", "assistant", "user"]
    assert found["s2"].label is False
    assert (found["s3-chosen"].label, found["s3-rejected"].label) == (True, False)


def test_argilla_s_marked_parts_choices_and_remarks_are_read():
    found = by_id("argilla.json")
    assert (found["a1"].label, found["a1"].judgment) == (False, "A clock is not timeless.")
    assert [(s.start, s.end, s.note) for s in found["a1"].spans] == [(2, 10, "praise")]
    assert (found["a2"].label, found["a2"].feedback) == (True, "Measures, no praise.")
    assert found["a3"].revision == "A bag of linen."
    assert [(s.start, s.end) for s in found["a3"].spans] == [(3, 13)], "two people's marks overlap and are joined"
    assert len(unused("argilla.json")) == 2


def test_argilla_s_exported_dataset_is_read_as_its_records():
    flat = {
        "id": "f", "prompt": "q", "response": "so fine", "_server_id": "s", "status": "completed",
        "quality.responses": ["bad", "good"], "quality.responses.users": ["u", "v"],
        "quality.responses.status": ["submitted", "discarded"], "quality.suggestion": "good",
        "marks.responses": [[{"start": 0, "end": 2, "label": "filler"}]], "marks.responses.users": ["u"],
    }  # fmt: skip
    Path("x.jsonl").write_text(json.dumps(flat))
    (example,) = read_examples("x.jsonl")
    assert (example.id, example.label, example.spans[0].note) == ("f", False, "filler")


def test_label_studio_s_offsets_count_an_emoji_twice_and_the_marked_text_decides():
    example = by_id("label-studio.json")[1]
    (span,) = example.spans
    assert completion_text(example)[span.start : span.end] == "breathtaking"
    assert span.note == "praise; no one can measure it"
    assert (example.label, example.judgment) == (False, "It praises the tent.")


def test_stars_are_a_rating_once_the_user_says_from_which_on_a_reply_is_right():
    assert 3 not in by_id("label-studio.json")
    starred = read_examples(FOLDER / "label-studio.json", columns="label=stars:4")
    assert {example.id: example.label for example in starred} == {1: False, 3: True}
    (starred,) = read_examples(FOLDER / "langfuse.json", columns="label=stars:5", require_judgment=False)
    assert (starred.id, starred.label) == ("t4", False)


def test_a_rating_that_no_record_has_is_refused():
    assert "'stras'" in refusal(read_examples, FOLDER / "langfuse.json", columns="label=stras:4")


def test_promptfoo_s_rating_by_hand_and_comment_come_before_the_assertions():
    found = by_id("promptfoo.json")
    assert (found["p1"].label, found["p1"].judgment) == (False, 'Drop "must-have".')
    assert found["p2"].judgment == 'The text praises the saw: "perfect".'
    assert found["p2"].prompt[0]["role"] == "system"
    assert (found["p3"].label, found["p3"].feedback) == (True, None)


def test_langfuse_s_scores_go_by_their_names():
    found = by_id("langfuse.json")
    assert (found["t1"].label, marked_spans(found["t1"])[0].start) == (False, 4)
    assert (found["t2"].label, found["t3"].label) == (True, True)
    assert found["t3"].prompt == "Describe a pump."
    assert "only ids" in unused("langfuse.json")[-1]


def test_langsmith_s_feedback_and_corrections_are_read():
    found = by_id("langsmith.jsonl")
    assert (found["run-1"].prompt, found["run-1"].label) == ("Describe a piano.", False)
    assert found["run-1"].revision == "A piano with 88 keys."
    assert (found["run-2"].label, found["run-2"].feedback) == (True, "True to the data sheet.")


def test_open_webui_s_thumbs_are_about_the_branch_that_leads_to_the_reply():
    found = by_id("open-webui.json")
    assert found["w1"].prompt == [
        {"role": "system", "content": "You write for a catalogue."},
        {"role": "user", "content": "Describe a pen."},
    ]
    assert found["w1"].judgment == 'Not factually correct\nNot "unbeatable".'
    assert (completion_text(found["w2"]), len(found["w2"].prompt)) == ("30 ml.", 3)


def test_replies_that_were_rated_in_a_chat_are_read():
    feedback = json.loads((FOLDER / "open-webui.json").read_text())[0]
    chat = feedback["snapshot"]["chat"]
    chat["chat"]["history"]["messages"]["b"]["annotation"] = {"rating": -1, "comment": 'Not "unbeatable".'}
    Path("chats.json").write_text(json.dumps([chat]))
    (example,) = read_examples("chats.json")
    assert (example.id, example.label, example.judgment) == ("c1-b", False, 'Not "unbeatable".')


def test_a_file_that_may_be_of_two_formats_names_both_and_the_flag_decides():
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    both = {"messages": turns, "chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "b"}]}
    Path("x.jsonl").write_text(json.dumps(both))
    message = refusal(read_examples, "x.jsonl")
    assert "--from messages or --from pairs" in message
    assert len(read_examples("x.jsonl", from_format="messages")) == 1
    assert len(read_examples("x.jsonl", from_format="pairs", require_judgment=False)) == 2
    assert "--from" in refusal(read_examples, "x.jsonl", from_format="argilla")
    assert "argilla" in refusal(read_examples, "x.jsonl", from_format="argila")


def test_the_command_for_a_dataset_of_two_formats_names_it_as_it_was_typed(monkeypatch):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    record = RawRecord("own/both[train] row 1", {"messages": turns, "chosen": turns, "rejected": turns})
    monkeypatch.setattr(reading, "read_hub", lambda *told: ("own/both[train]", "train", [record]))
    assert "nlft import own/both::train --out" in refusal(read_examples, "own/both::train")


def test_our_own_records_are_never_taken_for_another_tool_s():
    row = {"id": 1, "prompt": "q", "completion": "a", "label": True, "messages": [{"role": "user", "content": "x"}]}
    Path("x.jsonl").write_text(json.dumps({**row, "scores": [], "input": 1, "output": 2}))
    assert read_examples("x.jsonl")[0].completion == "a"


def test_inputs_besides_the_prompt_are_named():
    run = {"id": "r", "run_type": "llm", "inputs": {"question": "q", "context": "c"}, "outputs": {"output": "a"}}
    Path("x.jsonl").write_text(json.dumps({**run, "feedback": [{"key": "rating", "score": 1}]}))
    (record,) = read_source("x.jsonl").records
    assert record.left_out == ["input 'context'"]
    assert read_examples("x.jsonl", columns="prompt=context")[0].prompt == "c"


def places(value, path=()):
    """The path to each part of a JSON value, outermost first."""
    if path:
        yield path
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(part, (*path, key))


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir() if ".json" in path.name))
def test_whatever_stands_in_a_part_of_an_export_no_reader_fails(name):
    records = unwrapped(name, list(read_raw(FOLDER / name)), None)
    known, tried = find_format(name, records, None), 0
    for record in records:
        for *path, last in places(record.fields):
            for odd in (None, "x", 1.5, ["x"], {"a": 1}, []):
                tried += 1
                fields = deepcopy(record.fields)
                at = fields
                for key in path:
                    at = at[key]
                at[last] = odd
                given = RawRecord("x:1", fields)
                assert all(isinstance(made, RawRecord) for made in convert(known, [given], "x", AS_NAMED))
    assert tried > 100


# Through the command line.


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_a_spreadsheet_is_imported_and_audited(kind, capsys):
    if kind == "csv":
        write_csv("feedback.csv", [HEAD[:5], *rows()], separator=";", encoding="cp1252")
    else:
        write_excel(Path("feedback.xlsx"), [HEAD[:5], *rows()], title="Rückmeldungen")
    assert main(["import", f"feedback.{kind}", "--out", "examples.jsonl"]) == 0
    told = capsys.readouterr().out
    assert "24 examples, 16 right, 8 wrong" in told
    assert "8 have quoted or marked words" in told
    assert "nlft audit examples.jsonl" in told
    assert main(["audit", "examples.jsonl", "--grader", "label", "--json", "a.json"]) == 0
    assert main(["audit", f"feedback.{kind}", "--grader", "label", "--json", "b.json"]) == 0
    first, second = (json.loads(Path(name).read_text()) for name in ("a.json", "b.json"))
    assert first["findings"] == second["findings"]
    assert "großartig" in capsys.readouterr().out


def test_import_replaces_only_what_holds_nothing_else(capsys):
    write_csv("x.csv", [["prompt", "reply", "ok"], ["q", "a", "yes"], ["q", "b", "no"]])
    assert main(["import", "x.csv", "--out", "x.jsonl"]) == 0
    assert "next: nlft judge x.jsonl --judge human" in capsys.readouterr().out
    assert main(["import", "x.csv", "--out", "x.jsonl"]) == 0
    examples = read_examples("x.jsonl", require_judgment=False)
    write_examples("x.jsonl", [examples[0]])
    Path("x.jsonl").write_text(Path("x.jsonl").read_text().replace('"a"', '"changed"'))
    assert main(["import", "x.csv", "--out", "x.jsonl"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_commands_take_the_flags_of_columns_and_those_that_read_no_examples_say_to_import_first(capsys):
    write_csv("x.csv", [["A", "B", "C", "D"], ["q", "so fine", "5", ""], ["q", "b", "1", 'It says "b".']])
    columns = ["--columns", "prompt=A,completion=B,label=C:4,comment=D"]
    assert main(["build", "x.csv", "--out", "x.jsonl", *columns]) == 0
    assert [e.label for e in read_examples("x.jsonl")].count(True) == 1
    assert main(["export", "runs/x", "--to", "gguf", *columns]) == 2
    assert "nlft import" in capsys.readouterr().err


def test_tune_and_compare_split_a_table_by_the_columns_that_their_settings_name(tmp_path):
    from dataclasses import asdict

    from nlft.experiments.settings import CompareSettings, RoundsSettings, TuneSettings
    from nlft.experiments.stages import holds_examples, split_stage

    rows = [["Frage", "Text", "Sterne", "Warum", "Antwort"]]
    rows += [
        [f"q{at}", f"reply {at}", "5" if at % 2 else "1", "" if at % 2 else '"reply" is bad', f"{at}"]
        for at in range(10)
    ]
    write_csv("x.csv", rows)
    columns = "prompt=Frage,completion=Text,label=Sterne:4,judgment=Warum,answer=Antwort"
    settings = TuneSettings(columns=columns, test_share=0.2)
    assert RoundsSettings(columns=columns).reading() == CompareSettings(columns=columns).reading() == settings.reading()
    assert holds_examples("x.csv", settings.reading())
    split_stage(tmp_path, {"file": "x.csv", "settings": asdict(settings), "model": {}})
    train = read_examples(tmp_path / "train.jsonl")
    assert (len(train), sum(e.label for e in train)) == (8, sum(int(e.prompt[1:]) % 2 for e in train))


def test_a_second_file_is_read_by_the_same_columns_where_it_has_them(tmp_path, capsys):
    from dataclasses import asdict

    from nlft.experiments.settings import TuneSettings
    from nlft.experiments.stages import read_test, split_stage

    columns, judged = "prompt=P,completion=C,label=L:4,judgment=J", ["P", "C", "L", "J", "S"]
    write_csv("x.csv", [judged, *([f"q{at}", f"r{at}", "5", "", f"{at}"] for at in range(4))])
    columns += ",answer=S"
    write_csv("test.csv", [["P", "S"], ["asked", "7"]])
    job = {"file": "x.csv", "settings": asdict(TuneSettings(columns=columns, test_file="test.csv")), "model": {}}
    split_stage(tmp_path, job)
    assert [(q.prompt, q.answer) for q in read_test(tmp_path)] == [("asked", "7")]
    assert "test.csv: --columns: this file has no column 'C' or 'L' or 'J'" in capsys.readouterr().err

    # Records of our own, and those of JSON with other names, have none of the columns or some.
    Path("ours.jsonl").write_text('{"id": 1, "prompt": "p", "completion": "c", "label": true}\n')
    Path("theirs.jsonl").write_text('{"P": "p", "C": "c", "L": 5}\n')
    for name in ("ours.jsonl", "theirs.jsonl"):
        (example,) = read_examples(name, columns=columns, if_there=True)
        assert (example.prompt, example.completion, example.label) == ("p", "c", True)
    assert "'P' or 'C'" in capsys.readouterr().err
    with pytest.raises(UserError, match="'P'"):
        read_examples("ours.jsonl", columns=columns)


def test_a_second_file_may_have_another_format(capsys):
    Path("ours.jsonl").write_text('{"id": 1, "prompt": "p", "completion": "c", "label": true}\n')
    (example,) = read_examples("ours.jsonl", from_format="argilla", if_there=True)
    assert example.completion == "c"
    assert "--from argilla" in capsys.readouterr().err
    with pytest.raises(UserError, match="Argilla"):
        read_examples("ours.jsonl", from_format="argilla")
    same = read_examples(FOLDER / "argilla.json", from_format="argilla")
    assert read_examples(FOLDER / "argilla.json", from_format="argilla", if_there=True) == same
    starred = read_examples(FOLDER / "langfuse.json", columns="label=stras:4", require_judgment=False, if_there=True)
    assert "no rating 'stras'" in capsys.readouterr().err
    assert starred == read_examples(FOLDER / "langfuse.json", require_judgment=False)


def test_the_audit_and_the_held_out_loss_read_their_second_file_by_the_columns(capsys):
    from nlft.commands.training import _held_out
    from nlft.sources.settings import ReadingSettings, if_there

    columns = "prompt=P,completion=C,label=L:4,judgment=J"
    rows = [["P", "C", "L", "J"], ["q", "a", "5", ""], ["w", "b", "1", 'It says "b".']]
    write_csv("x.csv", rows)
    write_csv("test.csv", [["P"], ["q"], ["z"]])
    assert main(["audit", "x.csv", "--test_file", "test.csv", "--columns", columns]) == 0
    assert "1 of" in capsys.readouterr().out
    kept = _held_out("x.csv", SimpleNamespace(eval_strategy="epoch"), if_there(ReadingSettings(columns).reading()))
    assert [example.completion for example in kept] == ["a", "b"]


def test_a_hub_name_that_became_a_windows_path_is_still_a_hub_name(monkeypatch):
    asked = []
    monkeypatch.setattr(reading, "read_hub", lambda *told: asked.append(told[:4]) or (told[0], "train", []))
    read_source(PureWindowsPath("openai/gsm8k:main:train"))
    assert asked == [("openai/gsm8k:main:train", "openai/gsm8k", "main", "train")]


def write_lines(name: str, *rows: dict) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def test_replies_without_a_rating_are_read_by_common_names_where_none_is_needed(capsys):
    for row in ({"question": "a?", "reply": "b"}, {"prompt": "a?", "response": "b"}):
        (reply,) = read_replies(write_lines("r.jsonl", row))
        assert (reply.example.prompt, reply.example.completion) == ("a?", "b")
    assert "label" in refusal(read_examples, "r.jsonl")
    (question,) = read_questions(write_lines("q.jsonl", {"question": "a?", "answer": "#### 3", "input": "x"}))
    assert question.prompt == "a?"
    write_csv("f.csv", [["Question", "Svar"], ["a?", "b"]])
    assert main(["import", "f.csv", "--out", "x.jsonl"]) == 2
    assert "--columns completion=COLUMN" in capsys.readouterr().err


def test_a_system_prompt_beside_a_reply_or_a_pair_goes_before_the_prompt():
    system = {"system": "Be brief", "prompt": "a?"}
    write_lines("own.jsonl", {**system, "completion": "good", "label": True, "note": "kept"})
    write_lines("pairs.jsonl", {**system, "chosen": "good", "rejected": "bad"})
    for name in ("own.jsonl", "pairs.jsonl"):
        for example in read_examples(name, require_judgment=False):
            assert [turn["role"] for turn in example.prompt] == ["system", "user"]
            assert example.prompt[0]["content"] == "Be brief"
    assert read_examples("own.jsonl")[0].extra["note"] == "kept"


@pytest.mark.parametrize(
    "names",
    [("instruction", "output", "rating"), ("question", "ans", "thumbs"), ("prompt", "completion", "rating")],
)
def test_a_rating_beside_our_names_or_the_original_project_s_is_the_label(names, capsys):
    rows = [["a?", "good", "good", "short"], ["b?", "bad", "👎", 'too "bad"'], ["c?", "odd", "", ""]]
    table = [dict(zip((*names, "comment"), row, strict=True)) for row in rows]
    write_csv("t.csv", [[*names, "comment"], *rows])
    write_lines("t.jsonl", *table)
    read = [texts(read_examples(name)) for name in ("t.jsonl", "t.csv")]
    assert read[0] == read[1]
    assert [(row[3], row[4], row[5]) for row in read[0]] == [(True, None, "short"), (False, 'too "bad"', None)]
    told = capsys.readouterr().err
    assert f"prompt={names[0]},completion={names[1]},label={names[2]}" in told
    assert "no label" in told
    assert [question.prompt for question in read_questions("t.jsonl")] == ["a?", "b?", "c?"]
    if "prompt" not in names:
        rows = [{**row, "input": "in full", "judgment": ""} for row in table[:2]]
        examples = read_examples(write_lines("i.jsonl", *rows))
        assert [(e.prompt, e.label) for e in examples] == [("a?\nin full", True), ("b?\nin full", False)]
        assert [e.label for e in as_examples(rows)] == [True, False]


def test_stars_beside_our_names_are_no_rating_until_the_user_says_from_which_on(capsys):
    row = {"output": "a", "rating": 4, "comment": "c"}
    assert "label=rating:4" in refusal(read_examples, write_lines("o.jsonl", {"instruction": "q", **row}))
    (example,) = read_examples("o.jsonl", columns="label=rating:4")
    assert (example.label, example.feedback) == (True, "c")
    write_lines("own.jsonl", {"prompt": "q", "completion": "a", "rating": 4})
    assert main(["audit", "own.jsonl"]) == 2
    assert "label=rating:4" in capsys.readouterr().err
    (reply,) = read_replies("own.jsonl")
    assert not reply.has_label, "a number that nobody called a rating does not keep a person from rating"


def test_the_original_project_s_own_fields_decide_before_a_rating_by_another_name(capsys):
    row = {"instruction": "q", "output": "a", "judgment": None, "verdict": "wrong"}
    assert read_examples(write_lines("o.jsonl", row))[0].label is True
    assert read_examples(write_lines("o.jsonl", {**row, "score": 8, "rating": "bad"}))[0].label is True
    both = [{"instruction": "q", "output": "a", "score": 8}, {"instruction": "q", "output": "a", "rating": "bad"}]
    assert "label" in refusal(read_examples, write_lines("o.jsonl", *both))
    read_examples(write_lines("o.jsonl", {"instruction": "q", "output": "a", "comment": "too long"}))
    assert "not read: comment" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("name", ["system", "System prompt"])
def test_a_system_prompt_goes_before_a_question_in_every_file(form, name):
    rows = [{"id": "a", "prompt": "a?", name: "Be brief.", "answer": "1"}]
    if form == "csv":
        write_csv("q.csv", [list(rows[0]), list(rows[0].values())])
    elif form == "jsonl":
        write_lines("q.jsonl", *rows)
    else:
        parquet.write_table(pa.Table.from_pylist(rows), "q.parquet")
    (question,) = read_questions(f"q.{form}")
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a?"}]
    assert (question.prompt, question.answer, question.extra) == (turns, "1", {})
    write_lines("again.jsonl", question.as_record())
    assert read_questions("again.jsonl") == [question]


USER, REPLY = {"role": "user", "content": "hi"}, {"role": "assistant", "content": 'It\'s "so"'}


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("write", [json.dumps, repr])
def test_messages_that_a_table_holds_as_text_are_messages(write, form):
    own = {"prompt": [{"role": "system", "content": "S"}, USER], "completion": [REPLY], "answer": [REPLY]}
    own |= {"revision": [REPLY]}
    pair = {"chosen": [USER, REPLY], "rejected": [USER, {**REPLY, "content": "no"}]}
    for name, row in (("own", {key: write(value) for key, value in own.items()} | {"label": "true"}), ("pair", pair)):
        cells = {key: value if isinstance(value, str) else write(value) for key, value in row.items()}
        if form == "csv":
            write_csv(f"{name}.csv", [["id", *cells], ["a", *cells.values()]])
        else:
            typed = {**cells, "label": True} if name == "own" else cells
            parquet.write_table(pa.Table.from_pylist([{"id": "a", **typed}]), f"{name}.parquet")
    (example,) = read_examples(f"own.{form}")
    assert (example.prompt, example.completion, example.revision) == (own["prompt"], [REPLY], [REPLY])
    assert (example.answer, example.label) == (REPLY["content"], True)
    if form == "parquet":  # a .csv needs a column that is known
        both = read_examples("pair.parquet", require_judgment=False)
        assert [(e.prompt, e.completion) for e in both] == [("hi", REPLY["content"]), ("hi", "no")]


def test_text_in_a_table_that_only_looks_like_messages_is_text_or_refused():
    for text in ('[{"type": "button"}]', "[1, 2]", '[{"role": "king"}]', "[so it is", '[{"value": 3, "x": 1}]'):
        write_csv("x.csv", [["prompt", "completion", "label"], ["q", text, "yes"]])
        assert read_examples("x.csv")[0].completion == text
    for text in ("[{'role': 'user', 'content': 'hi'}\n {'role': 'user', 'content': 'w'}]", '[{"role": "us'):
        write_csv("x.csv", [["prompt", "completion", "label"], [text, "a", "yes"]])
        assert "JSON" in refusal(read_examples, "x.csv")
    chat = json.dumps([USER, REPLY])
    write_csv("x.csv", [["prompt", "completion", "label"], ["q", chat, "yes"]])
    assert "user, assistant" in refusal(read_examples, "x.csv")
    own = write_lines("own.jsonl", {"id": 1, "prompt": "q", "completion": chat, "label": True})
    assert read_examples(own)[0].completion == chat, "JSON has lists, so a text is a text"


def test_a_system_prompt_of_rows_and_one_that_a_check_names_are_used():
    (example,) = as_examples([{"prompt": "q", "completion": "a", "label": True, "system": "Be brief."}])
    assert [turn["content"] for turn in example.prompt] == ["Be brief.", "q"]
    write_lines("q.jsonl", {"question": "q", "system": "Be brief."})
    (question,) = read_questions("q.jsonl", needed_fields=["system"])
    assert [turn["content"] for turn in question.prompt] == ["Be brief.", "q"]
    assert question.extra == {"system": "Be brief."}
    own = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "q"}]
    (question,) = read_questions(write_lines("q.jsonl", {"prompt": own, "system": "Be brief."}))
    assert (question.prompt, question.extra) == (own, {"system": "Be brief."})


def test_alpaca_s_system_prompt_and_history_go_before_the_prompt(capsys):
    row = {"instruction": "q", "input": "in full", "output": "a", "system": "Be brief.", "history": [["x", "y"]]}
    (example,) = read_examples(write_lines("a.jsonl", row))
    assert [(turn["role"], turn["content"]) for turn in example.prompt] == [
        ("system", "Be brief."), ("user", "x"), ("assistant", "y"), ("user", "q\nin full")
    ]  # fmt: skip
    assert (example.completion, example.extra) == ([{"role": "assistant", "content": "a"}], {})
    (question,) = read_questions("a.jsonl")
    assert question.prompt == example.prompt
    parquet.write_table(pa.Table.from_pylist([row]), "a.parquet")
    assert read_questions("a.parquet")[0].prompt == example.prompt
    (example,) = read_examples(write_lines("b.jsonl", {**row, "history": [["x"]]}))
    assert [turn["role"] for turn in example.prompt] == ["system", "user"]
    assert "left out: 1 x a history" in capsys.readouterr().err


def test_more_words_and_names_are_ratings(capsys):
    write_lines("v.jsonl", *({"question": "a?", "reply": "b", "vote": word} for word in ("thumbs_up", "thumbs-down")))
    assert [e.label for e in read_examples("v.jsonl", require_judgment=False)] == [True, False]
    write_csv("t.csv", [["prompt", "reply", "👍/👎"], ["a?", "b", "👍"]])
    assert read_examples("t.csv")[0].label is True


def test_feedback_that_holds_only_like_and_dislike_is_the_rating(capsys):
    rows = [["a?", "good", "like", "nice"], ["b?", "bad", "dislike", 'too "bad"']]
    names = ["question", "reply", "feedback", "comment"]
    write_csv("t.csv", [names, *rows])
    write_lines("t.jsonl", *(dict(zip(names, row, strict=True)) for row in rows))
    write_lines("own.jsonl", *({"prompt": row[0], "completion": row[1], "feedback": row[2]} for row in rows))
    for name in ("t.csv", "t.jsonl"):
        right, wrong = read_examples(name)
        assert (right.label, right.feedback, wrong.label, wrong.judgment) == (True, "nice", False, 'too "bad"')
        assert "label=feedback,comment=comment" in capsys.readouterr().err
    assert [one.label for one in read_examples("own.jsonl", require_judgment=False)] == [True, False]
    write_csv("words.csv", [["question", "reply", "feedback", "liked"], ["a?", "good", "like", "yes"]])
    assert read_examples("words.csv")[0].feedback == "like", "beside a rating, feedback is words"
    write_csv("mixed.csv", [["question", "reply", "feedback"], ["a?", "good", "like"], ["b?", "bad", "It praises."]])
    assert "label" in refusal(read_examples, "mixed.csv")


def test_label_studios_flat_records_are_read(capsys):
    found = by_id("label-studio-min.json")
    bad, good = found["1-101"], found["2-102"]
    assert (bad.label, bad.judgment, good.label) == (False, "It praises the tent.", True)
    assert [completion_text(bad)[span.start : span.end] for span in bad.spans] == ["breathtaking"]
    assert [span.note for span in bad.spans] == ["praise"]
    assert (bad.extra["topic"], good.feedback) == ("camping", None), "a field of the task is no remark"
    assert found["2-105"].feedback == "short\nsays the length", "another person's annotation of the same task"
    records = json.loads((FOLDER / "label-studio-min.json").read_text(encoding="utf-8"))
    own = [{"completion" if name == "response" else name: value for name, value in r.items()} for r in records[:2]]
    Path("own.json").write_text(json.dumps(own), encoding="utf-8")
    assert [one.label for one in read_examples("own.json")] == [False, True], "the task's fields may have our names"
    stars = read_examples(str(FOLDER / "label-studio-min.json"), columns="label=stars:4", require_judgment=False)
    assert [one.label for one in stars if str(one.id).startswith("3-")] == [True]


def test_a_word_in_a_field_of_a_flat_task_is_a_rating_only_if_all_of_its_words_are(capsys):
    task = {"annotator": 1, "prompt": "q", "reply": "a"}

    def labels(*fields: dict) -> list:
        rows = [{**task, "id": at, "annotation_id": at, **more} for at, more in enumerate(fields)]
        Path("k.json").write_text(json.dumps(rows), encoding="utf-8")
        return [record.fields.get("label") for record in read_source("k.json").records]

    assert labels({"sex": "male"}, {"sex": "female"}) == [None, None]
    assert labels({"sex": "male"}, {"sex": "male"}) == [None, None]
    assert labels({"quality": "good", "sex": "male"}, {"quality": "bad", "sex": "female"}) == [True, False]
    assert labels({"sex": "male", "tone": {"choices": ["good"]}}) == [True], "a result is a rating under any name"
    assert labels({"sex": "male", "approved by mail": True}) == [None]
    assert "label=sex" in refusal(read_examples, "k.json")


def test_what_may_be_a_remark_and_is_not_read_is_said(capsys):
    write_csv("t.csv", [["prompt", "response", "liked", "why liked"], ["a?", "good", "yes", "nice"]])
    assert read_examples("t.csv")[0].extra["why liked"] == "nice"
    assert "not read: why liked" in capsys.readouterr().err
    write_csv("p.csv", [["prompt", "chosen", "rejected", "comment"], ["a?", "good", "bad", 'too "bad"']])
    read_examples("p.csv", require_judgment=False)
    assert "a comment" in capsys.readouterr().err


def test_open_webuis_draws_are_not_used_and_thoughts_are_no_part_of_a_reply(capsys):
    (record, *_) = json.loads((FOLDER / "open-webui.json").read_text(encoding="utf-8"))
    text = json.dumps(record)
    draw = json.loads(re.sub(r'"rating": -?1\b', '"rating": 0', text, count=1))
    Path("draw.json").write_text(json.dumps([draw]), encoding="utf-8")
    assert "draw" in refusal(read_examples, "draw.json", from_format="open-webui", require_judgment=False)
    (plain,) = read_examples(_file([record]), from_format="open-webui", require_judgment=False)
    thought = '<details type=\\"reasoning\\" done=\\"true\\">hm, </details>'
    reply = json.dumps(completion_text(plain))[1:-1]
    thinking = json.loads(text.replace(f'"{reply}"', f'"{thought}{reply}"'))
    assert json.dumps(thinking) != text
    (read,) = read_examples(_file([thinking]), from_format="open-webui", require_judgment=False)
    assert read.completion == plain.completion
    assert "thoughts" in capsys.readouterr().err


def _file(records: list) -> str:
    Path("webui.json").write_text(json.dumps(records), encoding="utf-8")
    return "webui.json"
