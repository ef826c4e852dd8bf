"""The public readers that are fuzzed: each makes an input from random numbers, and reads it."""

import asyncio
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from helpers.fuzzing import Target, as_json, odd_text, odd_value, spoiled, spoiled_bytes
from helpers.labelling import opened, write_replies
from helpers.page_runs import make_run
from nlft.collect.opinions import read_opinion
from nlft.commands.parsing import Command
from nlft.config import ALIASES, GivenSetting, checked, declared, settle
from nlft.core.spans import merged_spans, occurrences, quoted_spans, replaced_text, token_spans
from nlft.core.thoughts import without_thoughts
from nlft.data.checks_file import read_checks
from nlft.data.grading import get_grader
from nlft.data.records import Example, as_examples, read_examples, read_questions
from nlft.data.rules_file import read_rules
from nlft.data.span_records import read_spans
from nlft.experiments.arms import plan_arms
from nlft.experiments.settings import CompareSettings, RoundsSettings, TuneSettings
from nlft.label.server import LabelServer
from nlft.models.ledger import Ledger as Answers
from nlft.models.ledger_file import Ledger
from nlft.models.reply_reading import read_reason, read_text
from nlft.page.feedback import Feedback
from nlft.page.live import LiveRun
from nlft.page.server import PageServer
from nlft.sources.columns import Columns
from nlft.sources.formats.registry import FORMATS
from nlft.sources.raw_records import RawRecord
from nlft.training.settings import NLFTOptions
from nlft.yaml_files import yaml_entries

IMPORTS = Path(__file__).parents[1] / "imports"
RECORD = {
    "id": 1, "prompt": "6 * 7?", "completion": "It is 41.", "label": False, "answer": "42",
    "judgment": '"41" is wrong.',
    "spans": [{"start": 6, "end": 8, "replace": "42", "note": "sum"}], "feedback": "short", "keep": False, "score": 3.5,
}  # fmt: skip
CHAT = {**RECORD, "id": "2", "prompt": [{"role": "user", "content": "6 * 7?"}],
        "completion": [{"role": "assistant", "content": "It is 41."}]}  # fmt: skip
ORIGINAL = {"instruction": "6 * 7?", "input": "", "output": "It is 41.", "score": 3, "judgment": "No."}
ORIGINALS = [{"question": "6 * 7?", "ans": "41", "score": 3, "judgment": "No."},
             {"item_id": 3, "question": "6 * 7?", "answer_cot": "42", "answer_value": "42"}]  # fmt: skip
KEY = "the-token"


def _file(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# ---- records and imports ----


def _read_all(path: Path, rng: random.Random, **more: Any) -> None:
    if rng.random() < 0.7:
        read_examples(path, require_judgment=rng.random() < 0.5, **more)
    else:
        read_questions(path, require_answer=rng.random() < 0.3, needed_fields=["score"] * (rng.random() < 0.2), **more)


def records(rng: random.Random, folder: Path) -> None:
    """JSON records: ours, the original project's, as lines, as one document, compressed."""
    rows = [spoiled(rng.choice((RECORD, CHAT, ORIGINAL, *ORIGINALS)), rng) for _ in range(rng.randint(1, 3))]
    ending = rng.choice((".jsonl", ".json", ".ndjson", ".JSONL", ".jsonl.gz", ".json.gz"))
    data = as_json(rows) if ".json" in ending and "jsonl" not in ending else b"\n".join(map(as_json, rows))
    if rng.random() < 0.5:
        data = spoiled_bytes(data, rng)
    if ending.endswith(".gz"):
        data = gzip.compress(data, 1)
        data = spoiled_bytes(data, rng, 1) if rng.random() < 0.3 else data
    _read_all(_file(folder, f"records{ending}", data), rng)


def rows(rng: random.Random, folder: Path) -> None:
    """Rows of a dataset in memory."""
    as_examples([spoiled(rng.choice((RECORD, CHAT, ORIGINAL)), rng) for _ in range(rng.randint(1, 3))])


@cache
def _exports() -> dict[str, tuple[str, bytes]]:
    return {path.name: (path.suffix, path.read_bytes()) for path in sorted(IMPORTS.iterdir())}


def imports(rng: random.Random, folder: Path) -> None:
    """Other tools' exports, spoiled as JSON and as bytes, with any --from and --columns."""
    name = rng.choice([name for name in _exports() if not name.endswith((".csv", ".tsv"))])
    ending, data = _exports()[name]
    if rng.random() < 0.85:
        values = [json.loads(line) for line in data.splitlines() if line.strip()] if ending != ".json" else None
        if values is None:
            data = as_json(spoiled(json.loads(data), rng, 5))
        else:
            data = b"\n".join(as_json(spoiled(value, rng)) for value in values[:4])
    else:
        data = spoiled_bytes(data, rng)
    more: dict[str, Any] = {}
    if rng.random() < 0.4:
        more["from_format"] = rng.choice([known.name for known in FORMATS])
    if rng.random() < 0.4:
        more["columns"] = _columns(rng)
    _read_all(_file(folder, f"export{ending}", data), rng, **more)


def _columns(rng: random.Random) -> str:
    names = ["prompt", "completion", "label", "comment", "answer", "quality", "rating", "reply", "stars:4", "x"]
    parts = []
    for _ in range(rng.randint(1, 3)):
        target, name = rng.choice(names), rng.choice(names) if rng.random() < 0.8 else odd_text(rng)
        parts.append(f"{target}={name}")
    return ",".join(parts)


def column_words(rng: random.Random, folder: Path) -> None:
    """What a user types as --columns."""
    Columns.parse("".join(rng.choice((_columns(rng), odd_text(rng), ",", "=", ":")) for _ in range(rng.randint(1, 3))))


def tables(rng: random.Random, folder: Path) -> None:
    """.csv and .tsv in several encodings."""
    ending, data = _exports()[rng.choice([name for name in _exports() if name.endswith((".csv", ".tsv"))])]
    if rng.random() < 0.5:
        separator = rng.choice(",;\t|")
        cells = [["Frage", "Antwort", "Gut?", "Warum?"]]
        cells += [[odd_text(rng) for _ in range(rng.randint(0, 6))] for _ in range(rng.randint(0, 5))]
        quoted = rng.random() < 0.5
        text = "\n".join(separator.join(f'"{c}"' if quoted else c for c in row) for row in cells)
        data = text.encode(rng.choice(("utf-8", "utf-16", "cp1252")), "replace")
        ending = rng.choice((".csv", ".tsv"))
    _read_all(_file(folder, f"table{ending}", spoiled_bytes(data, rng)), rng, columns=_some_columns(rng))


def _some_columns(rng: random.Random) -> str | None:
    return _columns(rng) if rng.random() < 0.2 else None


@cache
def _workbook() -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    for row in (["prompt", "completion", "label", "when"], ["a", "b", "yes", 2.5], ["c", "d", 0, "today"]):
        book.active.append(row)
    made = io.BytesIO()
    book.save(made)
    return made.getvalue()


def sheets(rng: random.Random, folder: Path) -> None:
    """.xlsx: a spoiled part of the archive, or a spoiled archive."""
    if rng.random() < 0.3:
        data = spoiled_bytes(_workbook(), rng, 2)
    else:
        made = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(_workbook())) as old, zipfile.ZipFile(made, "w") as new:
            names = old.namelist()
            chosen = rng.choice([*names, *["xl/worksheets/sheet1.xml"] * 4])
            for name in names:
                part = old.read(name)
                if name == chosen and rng.random() < 0.9:
                    new.writestr(name, spoiled_bytes(part, rng))
                elif name != chosen:
                    new.writestr(name, part)
        data = made.getvalue()
    _read_all(_file(folder, "book.xlsx", data), rng)


@cache
def _parquet() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    made = io.BytesIO()
    columns = {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False], "judgment": [None, "no"]}
    parquet.write_table(pa.table(columns), made)
    return made.getvalue()


def arrow(rng: random.Random, folder: Path) -> None:
    """.parquet: spoiled bytes."""
    _read_all(_file(folder, "table.parquet", spoiled_bytes(_parquet(), rng)), rng)


# ---- settings ----

CLASSES: tuple[type, ...] = (TuneSettings, CompareSettings, RoundsSettings)


@cache
def _known() -> dict[str, Any]:
    return declared(*CLASSES, NLFTOptions)


def _settings(rng: random.Random) -> dict[str, Any]:
    names = [*_known(), *ALIASES, "saliency"]
    given: dict[str, Any] = {}
    for _ in range(rng.randint(1, 5)):
        name = rng.choice(names) if rng.random() < 0.9 else odd_text(rng)
        given[name] = rng.choice((odd_value(rng), rng.choice((1, 0.5, "1e-4", True, "no", "a", ["a"], [1, 2]))))
    return given


def _yaml(value: Any, rng: random.Random) -> bytes:
    """Write YAML, perhaps spoiled."""
    try:
        data = yaml.safe_dump(value, allow_unicode=True, default_flow_style=rng.random() < 0.3).encode()
    except (UnicodeError, yaml.YAMLError, ValueError):
        data = as_json(value)
    return spoiled_bytes(data, rng) if rng.random() < 0.4 else data


def configs(rng: random.Random, folder: Path) -> None:
    """A YAML file of settings."""
    path = _file(folder, "config.yaml", _yaml(_settings(rng), rng))
    checked(yaml_entries(path), _known())


def plans(rng: random.Random, folder: Path) -> None:
    """A plan's own values, and its arms."""
    if rng.random() < 0.5:
        given = {str(name): value for name, value in _settings(rng).items()}
        checked([GivenSetting("plan", name, value) for name, value in given.items()], _known())
        settle(TuneSettings, {}, given, "plan")
        return
    arm = {
        "title": "a",
        "method": rng.choice(("nlft", "sft", "few-shot", "prompt", "ban", "none")),
        "settings": {"shots": 2, "prompt_template": "{prompt}", "words": ["a"], "tries": 3},
        "examples": "all",
    }
    extra = spoiled({"mine": arm, "other": arm}, rng)
    entries = checked([GivenSetting("plan", "extra_arms", extra)], declared(CompareSettings))
    plan_arms(2, entries["extra_arms"])


def flags(rng: random.Random, folder: Path) -> None:
    """A command line, with or without a YAML file."""
    argv: list[str] = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice([*_known(), *ALIASES, "saliency.gate_fraction", odd_text(rng)])
        argv.append(f"--{name}")
        argv += [rng.choice((odd_text(rng), "1", "0.5", "true", "a"))] if rng.random() < 0.8 else []
    if rng.random() < 0.3:
        argv += ["--config", str(_file(folder, "config.yaml", _yaml(_settings(rng), rng)))]
    Command("nlft tune", "", [TuneSettings], scheme="nlft").parse([word for word in argv if word])


# ---- files of checks, rules and answers ----

CHECKS = [
    {"name": "short", "must": {"max_words": 60}, "say": "Too long."},
    {"name": "plain", "must_not": {"words": ["sleek", "bold"]}, "ignore_case": True},
    {"name": "ends", "must": {"regex": r"\.$"}},
    {"name": "tongue", "must": {"language": "de"}},
    {"name": "kind", "must": {"judge": "Is it kind?"}},
]
RULES = {"rules": [{"name": "praise", "rule": "Do not praise.", "words": ["sleek"], "proposed": [], "examples": 3}]}


def checks(rng: random.Random, folder: Path) -> None:
    """A file of checks."""
    read_checks(_file(folder, "checks.yaml", _yaml(spoiled(CHECKS, rng), rng)))


def rules(rng: random.Random, folder: Path) -> None:
    """A file of rules."""
    path = _file(folder, "rules.yaml", _yaml(spoiled(RULES, rng), rng))
    read_rules(path)
    read_checks(path)


ENTRY = {
    "hash": "ab12" + "0" * 60, "request": "1", "at": "2026-01-01T00:00:00Z", "cost": None,
    "answer": {"text": "42", "tokens": 1, "finish_reason": "stop", "prompt_tokens": 3},
}  # fmt: skip


def ledgers(rng: random.Random, folder: Path) -> None:
    """A ledger, and what is appended to it."""
    lines = [as_json(spoiled(ENTRY, rng) if rng.random() < 0.5 else ENTRY) for _ in range(rng.randint(1, 4))]
    data = b"\n".join(lines) + b"\n" * (rng.random() < 0.7)
    path = _file(folder, "calls.jsonl", spoiled_bytes(data, rng) if rng.random() < 0.5 else data)
    ledger = Ledger(path)
    ledger.append(ledger.entries()[:1])
    assert Ledger(path).entries()[:1] == ledger.entries()[:1]
    assert Answers


def replies(rng: random.Random, folder: Path) -> None:
    """What a server answers."""
    message = {"role": "assistant", "content": [{"type": "text", "text": "42"}, {"type": "refusal", "refusal": "no"}]}
    read_reason(odd_value(rng))
    made = spoiled(message, rng)
    if isinstance(made, dict):
        read_text(made)


# ---- texts ----


def _text(rng: random.Random) -> str:
    pieces = [
        "The answer is 5.",
        "It is 41.",
        '"41" is wrong.',
        "Correction: 42\n",
        "Verdict: wrong",
        "(B)",
        "1,000.5",
        " ",
    ]
    text = "".join(rng.choice((rng.choice(pieces), odd_text(rng))) for _ in range(rng.randint(0, 5)))
    return text.encode("utf-8", "replace").decode()


@cache
def _graders() -> list[Callable[[str, str | None], object]]:
    known: list[Any] = [get_grader("number", extraction=how) for how in ("final", "strict", "flexible", "original")]
    return [*known, get_grader("choice"), get_grader("exact"), get_grader("regex", pattern=r"(\d+)")]


def grades(rng: random.Random, folder: Path) -> None:
    """Replies and standard answers."""
    rng.choice(_graders())(_text(rng), _text(rng) if rng.random() < 0.9 else None)


def opinions(rng: random.Random, folder: Path) -> None:
    """What a judge writes."""
    example = Example(1, "6 * 7?", _text(rng) or "x", False, "42")
    read_opinion(without_thoughts(_text(rng)), rng.choice(("stop", "length")), _text(rng), example)


def spans(rng: random.Random, folder: Path) -> None:
    """Spans in a record, quotes in a judgment."""
    completion, judgment = _text(rng), _text(rng)
    record = RawRecord("row 1", {"spans": spoiled(RECORD["spans"], rng)})
    own = read_spans(record, completion)
    quoted = quoted_spans(completion, judgment)
    if record.problems:
        return
    whole = merged_spans(own, quoted.spans)
    occurrences(completion, [judgment[:20], "a"])
    offsets = [(at, at + 1) for at in range(len(completion))]
    token_spans(completion, offsets, whole)
    replaced_text(completion, whole)


# ---- pages ----


def answer_of(app: Any, method: str, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Ask an application without a socket. Return status and body."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if waiting:
            return waiting.pop()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:8642", "authorization": f"Bearer {KEY}", "content-type": "application/json", **headers}
    raw = [(name.encode(), value.encode("utf-8", "surrogatepass")) for name, value in given.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "path": path.partition("?")[0], "raw_path": path.encode("utf-8", "surrogatepass"),
        "query_string": path.partition("?")[2].encode("utf-8", "replace"),
        "headers": raw, "root_path": "", "scheme": "http", "server": ("127.0.0.1", 8642), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    _loop().run_until_complete(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _map_app(folder: Path) -> Any:
    run = make_run(folder / "run", steps=2)
    live = LiveRun(run)
    live.poll()
    return PageServer([live], who="ann", feedback=Feedback(run)).app(KEY, set())


@cache
def _label_app(folder: Path) -> Any:
    labelling = opened(write_replies(folder / "replies.jsonl", ["A plain board.", "It is 12 cm long."]))
    return LabelServer(labelling, "replies.jsonl").app(KEY, set())


EDIT = {
    "example": 0,
    "id": "farm-0",
    "label": False,
    "judgment": "No.",
    "marks": [{"start": 0, "end": 2, "verdict": "wrong"}],
}
MAP_BODIES: dict[str, Any] = {
    "/api/requests": {"changes": [{"control": "saliency.gate_fraction", "value": 0.5}, {"control": "pause"}]},
    "/api/feedback": {"edits": [EDIT]},
    "/api/rescore": EDIT,
    "/api/export": {"step": 10, "view": {"example": 0, "layer": "tag", "hidden": []}},
}
DECISION = {"label": False, "skipped": False, "judgment": "No.", "feedback": "", "answer": None,
            "spans": [{"start": 0, "end": 2, "replace": "B", "note": "n"}]}  # fmt: skip
LABEL_BODIES: dict[str, Any] = {
    "/api/decide": {"place": 0, "seen": 0, "step": "s", "decision": DECISION},
    "/api/search": {"text": "board"},
    "/api/undo": {},
    "/api/score": {"place": 1, "decision": DECISION},
    "/api/resume": {"place": 1, "begun": "A"},
}


def _post(app: Any, bodies: dict[str, Any], rng: random.Random) -> None:
    path = rng.choice(list(bodies))
    if path == "/api/export" and rng.random() < 0.9:  # it makes a whole page
        path = "/api/requests"
    data = as_json(spoiled(bodies[path], rng))
    data = spoiled_bytes(data, rng, 1) if rng.random() < 0.1 else data
    status, body = answer_of(app, "POST", path, data)
    assert status < 500, (status, path, data[:200])
    assert status < 400 or b'"error"' in body or b'"refused"' in body, (status, body)


def map_bodies(rng: random.Random, folder: Path) -> None:
    """What a page of `nlft map` posts."""
    _post(_map_app(folder), MAP_BODIES, rng)
    for path in (folder / "run" / "requests").glob("*.json"):
        path.unlink()
    kept = sorted((folder / "run" / "feedback").glob("examples-v*.jsonl"))
    for path in kept[:-1]:
        path.unlink()


def label_bodies(rng: random.Random, folder: Path) -> None:
    """What a page of `nlft label` posts."""
    _post(_label_app(folder), LABEL_BODIES, rng)


def addresses(rng: random.Random, folder: Path) -> None:
    """Paths, hosts, origins and cookies."""
    parts = [
        "api",
        "runs",
        "0",
        "steps",
        "10",
        "changes",
        "static",
        "app.js",
        "..",
        "%2e%2e",
        "run.yaml",
        odd_text(rng),
    ]
    path = "/" + "/".join(rng.choice(parts) for _ in range(rng.randint(0, 5)))
    if rng.random() < 0.3:
        path += f"?{rng.choice(('generation', 'steps', 'token', 'x'))}={odd_text(rng)}"
    headers = {}
    for name in ("host", "origin", "cookie", "authorization", "sec-fetch-site"):
        if rng.random() < 0.15:
            headers[name] = rng.choice((odd_text(rng), "127.0.0.1", "http://127.0.0.1:8642", f"nlft-map={KEY}", "null"))
    if "stream" in path:
        return
    status, _ = answer_of(
        _map_app(folder), rng.choice(("GET", "HEAD", "POST", "PUT", "DELETE")), path, b"{}", **headers
    )
    assert status < 500, (status, path, headers)


TARGETS = [
    Target("records", records, share=1.5),
    Target("rows of a dataset", rows, share=1.5),
    Target("imports", imports, share=2),
    Target("--columns", column_words),
    Target("tables", tables),
    Target(".xlsx", sheets, share=0.1),
    Target(".parquet", arrow, share=0.2),
    Target("YAML settings", configs, share=0.5),
    Target("plans and arms", plans, share=0.5),
    # A name too long for the file system ends in a sentence of `nlft.cli`, which is not called here.
    Target("flags", flags, allowed=(OSError,), share=0.05),
    Target("checks", checks, share=0.3),
    Target("rules", rules, share=0.5),
    Target("ledgers", ledgers, share=0.5),
    Target("server replies", replies, (TypeError, KeyError), 1),
    Target("grades", grades, share=2),
    Target("opinions", opinions, share=2),
    Target("spans", spans, share=2),
    Target("bodies for map", map_bodies, share=0.3),
    Target("bodies for label", label_bodies, share=0.5),
    Target("addresses", addresses, share=1),
]
