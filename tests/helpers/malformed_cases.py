"""Files that cannot be used, and the table in docs/RECORDS.md of what is said about each.

Run `python tests/helpers/malformed_cases.py --write` after a change to a message.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from nlft.data.records import read_examples
from nlft.errors import RecordsError

DOC = Path(__file__).parents[2] / "docs" / "RECORDS.md"
BEGIN, END = "<!-- generated: malformed -->", "<!-- end -->"

GOOD = {"id": 1, "prompt": "6 * 7?", "completion": "42", "label": True, "answer": "42"}


def record(**changes: object) -> bytes:
    """A good record with some fields changed, these first; a field set to ... is left out."""
    return json.dumps({k: v for k, v in {**changes, **GOOD, **changes}.items() if v is not ...}).encode()


def reply(*messages: object) -> bytes:
    return record(completion=list(messages), prompt=[{"role": "user", "content": "6 * 7?"}])


CASES: dict[str, tuple[str, bytes]] = {
    "an empty file": ("train.jsonl", b""),
    "blank lines only": ("train.jsonl", b"\n \r\n\n"),
    "an empty list": ("train.json", b"[]"),
    "an unknown ending": ("train.txt", b"id,prompt\n"),
    "an old Excel file": ("train.xls", b"\xd0\xcf\x11\xe0"),
    "UTF-16": ("train.jsonl", "{}".encode("utf-16")),
    "Latin-1": ("train.jsonl", record() + b'\n{"id": 2, "prompt": "Caf\xe9?"}\n'),
    "broken JSON after blank lines": ("train.jsonl", b"\n\n" + record()[:-1] + b"\n"),
    "one document over several lines": ("train.jsonl", json.dumps([GOOD], indent=1).encode()),
    "two objects on a line": ("train.jsonl", record() + b" " + record(id=2)),
    "a list on a line": ("train.jsonl", b"[" + record() + b"]"),
    "not an object": ("train.jsonl", b'"6 * 7?"'),
    "a list that is not closed": ("train.json", b"[\n" + record() + b"\n"),
    "broken JSON in a list": ("train.json", b"[\n" + record() + b',\n{"id": }\n]'),
    "lines in a .json file": ("train.json", record() + b"\n" + record(id=2)),
    "nested too deeply": ("train.jsonl", b"[" * 100_000),
    "a number too long to read": ("train.jsonl", b'{"id": ' + b"9" * 5000 + b"}"),
    "a repeated field": ("train.jsonl", b'{"label": false, ' + record()[1:]),
    "NaN": ("train.jsonl", record(score=float("nan"))),
    "a number too large": ("train.jsonl", record()[:-1] + b', "score": 1e999}'),
    "half a character": ("train.jsonl", record(answer="\ud83d")),
    "an id that is neither string nor integer": ("train.jsonl", record(id=True)),
    "an id used before": ("train.jsonl", record() + b"\n" + record(id="1")),
    "an empty prompt": ("train.jsonl", record(prompt=" ")),
    "a misspelt field": ("train.jsonl", record(completion=..., compeltion="42")),
    "null": ("train.jsonl", record(completion=None)),
    "a number for a text": ("train.jsonl", record(answer=42)),
    "a misspelt answer": ("train.jsonl", record(answer=..., anwser="42")),
    "feedback that is no text": ("train.jsonl", record(feedback=["Friendly."])),
    "1 for true": ("train.jsonl", record(label=1)),
    "true in quotes": ("train.jsonl", record(label="true")),
    "wrong without a judgment": ("train.jsonl", record(label=False)),
    "wrong with an empty judgment": ("train.jsonl", record(label=False, judgment="")),
    "a misspelt judgment": ("train.jsonl", record(label=False, judgement="It is 42.")),
    "a judgment that is no text": ("train.jsonl", record(judgment=["It is 42."])),
    "no messages": ("train.jsonl", record(prompt=[])),
    "a message that is not an object": ("train.jsonl", reply("42")),
    "a message without content": ("train.jsonl", reply({"role": "assistant"})),
    "content that is not text": ("train.jsonl", reply({"role": "assistant", "content": [{"text": "42"}]})),
    "a completion by the user": ("train.jsonl", reply({"role": "user", "content": "42"})),
    "a prompt that ends in the reply": (
        "train.jsonl",
        record(prompt=[{"role": "user", "content": "6 * 7?"}, {"role": "assistant", "content": "42"}]),
    ),
    "spans that are no list": ("train.jsonl", record(spans={"start": 0, "end": 1})),
    "a span without integers": ("train.jsonl", record(spans=[{"start": 0, "end": 1}, {"start": 1.5, "end": 2}])),
    "a span past the end": ("train.jsonl", record(spans=[{"start": 0, "end": 3}])),
    "spans that overlap": ("train.jsonl", record(spans=[{"start": 1, "end": 2}, {"start": 0, "end": 2}])),
    "a replacement that is no text": ("train.jsonl", record(spans=[{"start": 0, "end": 1, "replace": 4}])),
    "a misspelt field of a span": ("train.jsonl", record(spans=[{"start": 0, "end": 1, "replacement": "4"}])),
    "an empty revision": ("train.jsonl", record(revision="")),
    "the original's record without output": ("train.jsonl", b'{"id": 1, "instruction": "6?", "answer": "6"}'),
    "the original's score as text": (
        "train.jsonl",
        b'{"id": 1, "instruction": "6?", "output": "6", "answer": "6", "score": "8"}',
    ),
    "several at once": ("train.jsonl", b"\n".join([record(label=0), record(id=2, completion=""), b"{]"])),
}


def refusal(filename: str, content: bytes) -> RecordsError:
    """The error that reading such a file in the working directory gives."""
    Path(filename).write_bytes(content)
    try:
        read_examples(filename)
    except RecordsError as error:
        return error
    raise AssertionError(f"{content[:80]!r} was accepted")


def table() -> str:
    """The table of all cases, with the file's beginning and the message."""
    rows = ["| what is wrong | file | message |", "|---|---|---|"]
    for name, (filename, content) in CASES.items():
        shown = repr(content[:60])[2:-1] + ("…" if len(content) > 60 else "")
        message = str(refusal(filename, content)).replace("\n  ", "<br>").replace("\n", "<br>")
        rows.append(f"| {name} | {filename}: `{shown or ' '}` | {message} |")
    return "\n".join(rows)


def main() -> None:
    before, rest = DOC.read_text(encoding="utf-8").split(BEGIN)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        text = f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
        os.chdir(DOC.parent)
    if sys.argv[1:] == ["--write"]:
        DOC.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
