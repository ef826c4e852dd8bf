"""What models and judges write when they loop is read in linear time: 100 kB of anything in a second."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.degenerate import PIECES, WORST
from helpers.limits import cpu_limit, has_timers
from helpers.readers import READERS, text_of
from nlft.data.records import read_examples
from nlft.sources.raw_records import read_raw

SMALL, LARGE = 10_000, 100_000
SUSPICIOUS, ALLOWED = 0.03, 1.0  # CPU seconds for SMALL and for LARGE


def cpu_seconds(reader: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    with cpu_limit(3 * ALLOWED):
        reader(text)
    return time.process_time() - start


@pytest.mark.skipif(not has_timers, reason="Windows has no timers that stop a pattern")
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("pieces", [WORST, pytest.param(PIECES, marks=pytest.mark.long)], ids=["worst", "all"])
def test_a_degenerate_text_of_100_kb_is_read_in_a_second(name: str, pieces: list[str]) -> None:
    read, slow = READERS[name], {}
    for piece in pieces:
        try:
            if cpu_seconds(read, text_of(piece, SMALL)) < SUSPICIOUS:
                continue
            took = cpu_seconds(read, text_of(piece, LARGE))
        except TimeoutError:
            took = 3 * ALLOWED
        if took > ALLOWED:
            slow[piece] = took
    assert not slow


def test_a_json_document_is_read_as_fast_as_lines(tmp_path: Path) -> None:
    rows = [
        {"id": at, "prompt": f"What is {at} + 3?", "completion": f"It is\n{at}.", "label": False, "judgment": "No sum."}
        for at in range(4000)
    ]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "e.json").write_text(json.dumps(rows, indent=1))
    took = {}
    for file in sorted(tmp_path.iterdir()) * 3:
        start = time.process_time()
        found = read_examples(file)
        took[file.suffix] = min(took.get(file.suffix, 9.0), time.process_time() - start)
        assert len(found) == len(rows)
    assert took[".json"] < 1.6 * took[".jsonl"]  # 1.2 when nothing else runs; counting lines per record took 4


def test_the_lines_of_a_json_document_are_counted_right(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text('[\n\n{"id": 1},\n{"id":\n 2},\n\n\n{"id": 3}, 4]')
    ends = ["3", "4", "8 record 3", "8 record 4"]  # two records on one line are told apart by their number
    assert [record.where.removeprefix(f"{file}:") for record in read_raw(file)] == ends
