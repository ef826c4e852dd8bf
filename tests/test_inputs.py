"""A folder of stages after a user edited a file in it."""

import json
from pathlib import Path

import pytest

from nlft.errors import UserError
from nlft.experiments.arms import BUILT_IN, defined_arm, record_arm
from nlft.experiments.cells import cell_result
from nlft.experiments.inputs import StageRecord, cell_inputs, changed_inputs, record_cell
from nlft.experiments.settings import TuneSettings
from nlft.experiments.staged import Stage, Staged

NAMES = ["sampled.jsonl", "judged.jsonl", "examples.jsonl"]


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    (tmp_path / "train.jsonl").write_text("1\n")
    return Staged("questions.jsonl", {}, TuneSettings(output_dir=str(tmp_path)))


def run(staged: Staged) -> list[str]:
    """Run stages that copy the file before theirs. Return those that ran."""
    ran = []

    def stage(before: str, name: str) -> Stage:
        def copy() -> None:
            ran.append(name)
            (staged.folder / name).write_text((staged.folder / before).read_text())

        return name, name, copy

    staged.run_stages([stage(*pair) for pair in zip(["train.jsonl", *NAMES], NAMES, strict=False)])
    return ran


def test_nothing_is_done_twice_without_an_edit(staged):
    assert run(staged) == NAMES
    assert run(staged) == []


def test_an_edited_file_stays_and_what_was_made_from_it_is_made_again(staged, capsys):
    run(staged)
    (staged.folder / "judged.jsonl").write_text("by hand\n")
    assert run(staged) == ["examples.jsonl"]
    told = capsys.readouterr().err
    assert "judged.jsonl was edited" in told
    assert (staged.folder / "examples.jsonl").read_text() == "by hand\n"
    assert run(staged) == []


def test_an_edit_is_never_made_again_from_an_earlier_file_that_changed_too(staged, capsys):
    run(staged)
    (staged.folder / "train.jsonl").write_text("2\n")
    (staged.folder / "judged.jsonl").write_text("by hand\n")
    assert run(staged) == ["sampled.jsonl", "examples.jsonl"]
    assert (staged.folder / "judged.jsonl").read_text() == "by hand\n"
    assert "sampled.jsonl changed too" in capsys.readouterr().err


def test_a_folder_of_an_older_version_is_taken_as_it_is(staged):
    run(staged)
    (staged.folder / "stages.json").unlink()
    (staged.folder / "judged.jsonl").write_text("by hand\n")
    assert run(staged) == []
    (staged.folder / "judged.jsonl").write_text("again by hand\n")
    assert run(staged) == ["examples.jsonl"]


def test_a_cell_knows_that_its_questions_changed(tmp_path):
    for name in ("examples.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("1\n2\n")
    run_folder = tmp_path / "nlft"
    run_folder.mkdir()
    assert changed_inputs(run_folder, cell_inputs(tmp_path)) == []  # of an older version
    record_cell(run_folder, cell_inputs(tmp_path))
    assert changed_inputs(run_folder, cell_inputs(tmp_path)) == []
    (tmp_path / "test.jsonl").write_text("1\n")
    assert changed_inputs(run_folder, cell_inputs(tmp_path)) == ["test.jsonl"]


SPOILT = ["", "{", "[]", "{}", "null", '"x"', '{"settings": 3, "sha256": []}', "\x00"]


@pytest.mark.parametrize("text", SPOILT)
def test_a_spoilt_file_of_the_folder_is_one_message_with_its_name(staged, text):
    run_folder = staged.folder / "nlft"
    run_folder.mkdir()
    for name in ("settings.json", "stages.json"):
        (staged.folder / name).write_text(text)
    for name in ("arm.json", "result.json", "evaluation.json", "inputs.json"):
        (run_folder / name).write_text(text)
    with pytest.raises(UserError, match=r"settings\.json"):
        staged.record_settings()
    with pytest.raises(UserError, match="nlft"):
        cell_result(run_folder, "final")
    with pytest.raises(UserError, match="nlft"):
        record_arm(BUILT_IN["nlft"], run_folder)
    if not text.startswith("{") or text == "{":
        for read in (lambda: StageRecord(staged.folder).state("judged.jsonl"), lambda: changed_inputs(run_folder, {})):
            (staged.folder / "judged.jsonl").write_text("1\n")
            with pytest.raises(UserError, match=r"stages\.json|inputs\.json"):
                read()


def test_a_result_without_its_evaluation_is_one_message(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"summary": {"answer_logp": None}}))
    with pytest.raises(UserError, match=r"evaluation\.json"):
        cell_result(tmp_path, "final")


@pytest.mark.parametrize("settings", ["text", ["x"], 3, None])
def test_settings_of_an_arm_that_are_no_mapping_are_refused(settings):
    with pytest.raises(UserError, match="settings"):
        defined_arm("mine", {"method": "few-shot", "settings": settings})
