"""The table of an attack on an early version, tried again row by row.

`pytest -m "long or not long" -rP tests/test_attack.py` tries all rows and prints the table. Without `-m`, the rows that
take over ten seconds are left out.
"""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.attack import (  # noqa: F401  each module adds its rows
    ROWS,
    Place,
    Row,
    child,
    ended,
    files,
    inputs,
    kills,
    page,
    processes,
)
from helpers.waiting import until

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the rows fork processes"),
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),
]
TODAY: dict[int, str] = {}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """A child that is forked after this process has used several threads may wait for them for ever."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


def line(row: Row) -> str:
    return f"| {row.number} | {row.tried} | {row.before} | {TODAY.get(row.number, 'not tried: in the long mode')} |"


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.long if row.slow else ()) for _, row in sorted(ROWS.items())],
    ids=lambda row: f"{row.number}",
)
def test_what_the_attack_tried_holds_today(row: Row, tmp_path: Path, model_folder: str, shared: Path) -> None:
    TODAY[row.number] = "BREAKS"
    with warnings.catch_warnings():
        TODAY[row.number] = row.attempt(Place(tmp_path, model_folder, shared))
    print(line(row))


@pytest.mark.parametrize("one", list(processes.ENDS), ids=lambda one: one.name)
def test_a_signal_ends_a_child_also_if_this_process_ignores_it(one: signal.Signals, tmp_path: Path) -> None:
    started = tmp_path / "started"

    def work() -> int:
        started.touch()
        try:
            time.sleep(9)
        except KeyboardInterrupt:
            return 130
        return 0

    before = signal.signal(one, signal.SIG_IGN)
    try:
        number = child(work, tmp_path / "log")
        until(started.exists)
        os.kill(number, one)
        code, _ = ended(number, 20)
    finally:
        signal.signal(one, before)
    assert code == (130 if one == signal.SIGINT else -one)


def table() -> str:
    head = ["| row | tried | broke before | today |", "|---|---|---|---|"]
    return "\n".join([*head, *(line(row) for _, row in sorted(ROWS.items()))])


def test_the_table_has_every_row_of_the_attack() -> None:
    assert sorted(ROWS) == list(range(1, 31))
    print(table())


@pytest.mark.long
def test_the_whole_table_is_printed() -> None:
    print(table())
    assert "BREAKS" not in TODAY.values()
