"""The table of an attack on an early version, tried again: `pytest -m long -rP tests/test_attack.py`.

Each row has what was lost then, and the tests that try the same now. It prints both columns. Rows that need many kills
or a real full disk are tried as far as their tests go.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parent


class Row(NamedTuple):
    """A row of the table: what was tried, what was lost then, and the tests that try it now."""

    tried: str
    then: str
    now: tuple[str, ...]


def _of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{file}.py::{name}" for name in names)


ROWS = [
    Row("a killed training goes on", "loss and tokens of the first step after each resume (2)",
        _of("test_resume", "test_a_killed_and_resumed_run_logs_and_ends_as_an_unbroken_one")),
    Row("a kill while a checkpoint replaces another", "6 of 8",
        _of("test_resume", "test_a_kill_while_a_checkpoint_replaces_another_loses_neither")),
    Row("a save pending at resume", "5 of 8",
        _of("test_resume",
            "test_a_checkpoint_that_is_asked_for_before_the_first_step_leaves_the_resumed_one_as_it_is")),
    Row("two processes on one ledger, killed again and again", "0 lost",
        _of("test_ledger", "test_killed_again_and_again_nothing_logged_is_asked_again_and_nothing_is_lost")),
    Row("other input on resume", "18 silently another adapter, 23 tracebacks",
        _of("test_resume", "test_another_setting_or_example_is_refused_by_name",
            "test_another_model_or_adapter_is_refused_by_name", "test_other_weights_under_the_same_name_are_refused")),
    Row("a full disk", "16 tracebacks, 7 runs",
        _of("test_resume", "test_a_full_disk_refuses_a_checkpoint_that_was_asked_for",
            "test_a_real_full_disk_is_survived")),
    Row("models and adapters that are damaged, foreign or pickled", "24 tracebacks, 4 adapters taken for good",
        ("test_broken_models.py",)),
    Row("an output that is an input", "overwritten",
        _of("test_outputs", "test_a_command_never_replaces_what_it_reads_or_what_it_did_not_write")),
    Row("page: hosts, origins, tokens, paths, bodies", "2 harmless of 171", ("test_page_server.py",)),
    Row("page: half-open, listeners, 10,000 polls", "locks out at the file limit",
        _of("test_page_access", "test_polls_listeners_and_half_open_requests_cost_no_memory_and_shut_nobody_out")),
    Row("markup, bidi, escapes", "a hostile run.yaml makes the page throw",
        _of("test_page_access", "test_what_users_and_models_wrote_reaches_the_file_as_data_only",
            "test_prototype_names_and_bidi_in_what_is_posted_are_stored_as_text")),
    Row("adversarial strings of 1 to 100 kB", "46 of 2,685 over 1 s", ("test_linear_time.py",)),
    Row("secrets in files and messages", "0; wandb records flags",
        _of("test_secrets", "test_no_key_of_the_environment_is_in_any_file_or_message_and_no_file_is_a_pickle")),
    Row("fuzzing of readers", "181 faults in 110,550 inputs (without run directories)", ("test_fuzz.py",)),
]  # fmt: skip


def test_every_test_of_the_table_exists() -> None:
    for row in ROWS:
        for name in row.now:
            file, _, test = name.partition("::")
            tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
            functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert not test or test in functions, name


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.tried)
def test_what_was_lost_then_holds_now(row: Row) -> None:
    names = [str(TESTS / name) for name in row.now]
    quick = [] if "test_fuzz.py" in row.now else ["-m", "long or not long"]  # the long fuzzing is a test of its own
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *quick, *names]
    done = subprocess.run(words, cwd=TESTS.parent, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.strip()]
    print(f"| {row.tried} | then: {row.then} | now: {said[-1] if said else done.stderr[-200:]} |")
    assert done.returncode == 0, done.stdout[-3000:]
