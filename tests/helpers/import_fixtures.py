"""The files of tests/imports, and the tables of docs/IMPORT.md that are made from them, with `--write`."""

import re
import sys
from pathlib import Path

from nlft.data.records import Example, completion_text, examples_of, marked_spans
from nlft.sources.formats.registry import FORMATS
from nlft.sources.raw_records import RawRecord
from nlft.sources.reading import Source, read_source

FOLDER = Path(__file__).parents[1] / "imports"
PAGE = Path(__file__).parents[2] / "docs" / "IMPORT.md"
BEGIN, END = "<!-- generated: imports -->\n", "<!-- end -->"
FIXTURES = {
    "a German Excel's .csv": "excel-german.csv",
    "a .tsv": "table.tsv",
    "a French table": "french.csv",
    "a Spanish table": "spanish.csv",
    "an Italian table": "italian.csv",
    "a Portuguese table": "portuguese.csv",
    "`feedback` beside `comment`": "feedback-like.csv",
    "JSON with other names": "other-names.ndjson",
    "OpenAI, chat fine-tuning": "openai-chat.jsonl",
    "`messages`, with a rating": "messages.jsonl",
    "OpenAI, preference fine-tuning": "openai-preference.jsonl",
    "chosen and rejected (TRL)": "pairs.jsonl",
    "ShareGPT, LLaMA-Factory": "sharegpt.json",
    "Argilla": "argilla.json",
    "Label Studio": "label-studio.json",
    "Label Studio, JSON-MIN": "label-studio-min.json",
    "promptfoo": "promptfoo.json",
    "Langfuse": "langfuse.json",
    "LangSmith": "langsmith.jsonl",
    "Open WebUI": "open-webui.json",
}
_TEXT = 60  # characters of a reply that the table shows


def imported(name: str) -> tuple[Source, list[Example]]:
    """The source of a fixture, and its examples."""
    source = read_source(FOLDER / name)
    return source, examples_of(source)


def by_id(name: str) -> dict[str | int, Example]:
    return {example.id: example for example in imported(name)[1]}


def unused(name: str) -> list[str | None]:
    """Why the fixture's records that cannot be examples cannot."""
    return [record.unused for record in imported(name)[0].records if record.unused]


def import_tables() -> str:
    """One table of all fixtures, and one a fixture with its examples."""
    head = "| file | `--from` | records | examples | right | wrong | words marked or quoted | not used, left out |"
    rows, details = [head, "|" + "---|" * 8], []
    for title, name in FIXTURES.items():
        source, examples = imported(name)
        right = sum(example.label for example in examples)
        marked = sum(bool(marked_spans(example)) for example in examples)
        passed = "<br>".join(_cell(line) for line in (*_empty(source), *source.passed_over()))
        counts = f"{_records(source.records)} | {len(examples)} | {right} | {len(examples) - right} | {marked}"
        rows.append(f"| {title} | {f'`{source.format}`' if source.format else ''} | {counts} | {passed} |")
        details += ["", f"{title}:", "", "| id | reply | label | in words | marked |", "|---|---|---|---|---|"]
        details += map(_row, examples)
    return "\n".join([*rows, *details]) + "\n"


def _records(records: list[RawRecord]) -> int:
    return sum(not record.repeats for record in records)


def _empty(source: Source) -> list[str]:
    return [line for line in source.told if "empty" in line]


def _row(example: Example) -> str:
    reply = completion_text(example)
    words = example.judgment or example.feedback or ""
    marked = ", ".join(f"“{reply[span.start : span.end]}”" for span in marked_spans(example))
    label = "right" if example.label else "wrong"
    return f"| {example.id} | {_cell(reply[:_TEXT])} | {label} | {_cell(words)} | {_cell(marked)} |"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def page_with_tables() -> str:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + import_tables() + END + rest.partition(END)[2]


assert {*FIXTURES.values()} == {path.name for path in FOLDER.iterdir()}
assert {f.name for f in FORMATS} <= {Path(name).stem for name in FIXTURES.values()}

if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page_with_tables(), encoding="utf-8")
