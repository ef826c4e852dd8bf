"""Answers are optional: what needs one says so, and feedback is shown but never trained."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from helpers import tiny
from helpers.scripted_model import ScriptedModel
from nlft.auditing.run import audit
from nlft.auditing.settings import AuditSettings
from nlft.collect.judging import relabel, rules_judge
from nlft.collect.revising import RevisionSettings, revise_examples
from nlft.collect.sampling import sample_answers
from nlft.core.batches import BatchBuilder, counts_of
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.loss import normalize, windows_of
from nlft.data.encoding import check_targets, encode
from nlft.data.export import rows_for, sft_texts
from nlft.data.grading import get_grader
from nlft.data.old_feedback import holds_feedback
from nlft.data.records import Example, Question, read_examples, read_questions, write_examples
from nlft.data.training_file import data_fingerprint
from nlft.errors import RecordsError, UserError
from nlft.experiments.settings import TuneSettings
from nlft.experiments.stages import split_stage
from nlft.results.evaluate import evaluate
from nlft.results.settings import EvaluationSettings
from nlft.training.start import summary_lines

EXAMPLES = Path(__file__).parent.parent / "examples"
SHOP, PROBLEMS = EXAMPLES / "repair-shop.jsonl", EXAMPLES / "problems-test.jsonl"
LIKED = Example("liked", "q?", "Sorry! It is ready at 3.", True, feedback="Owns the mistake.")
PLAIN = Example("plain", "q?", "Sorry!", True)
ANSWERED = Example("answered", "q?", "Sorry!", True, "It is 3.", feedback="Short.")
BLAMED = Example("blamed", "q?", "No.", False, judgment='"No." is rude.')


def test_examples_without_an_answer_survive_a_file(tmp_path):
    write_examples(tmp_path / "a.jsonl", [LIKED, PLAIN, ANSWERED, BLAMED])
    assert read_examples(tmp_path / "a.jsonl") == [LIKED, PLAIN, ANSWERED, BLAMED]
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert "answer" not in rows[0]
    assert "feedback" not in rows[1]
    assert [q.answer for q in read_questions(tmp_path / "a.jsonl")] == [None, None, "It is 3.", None]
    (tmp_path / "q.jsonl").write_text('{"prompt": "a?", "answer": null}\n{"prompt": "b?", "awnser": "3"}\n')
    with pytest.raises(RecordsError, match="awnser") as error:
        read_questions(tmp_path / "q.jsonl")
    assert {p.where[-9:] for p in error.value.problems} == {"q.jsonl:2"}


def test_the_standard_condition_shows_the_answer_else_the_feedback_else_nothing():
    encoder = ConditionEncoder(tiny.tokenizer())
    liked, plain, answered = (encode(encoder, e) for e in (LIKED, PLAIN, ANSWERED))
    shown = [encoder.tokenizer.decode(e.standard) for e in (liked, plain, answered)]
    assert "Owns the mistake." in shown[0]
    assert plain.standard == plain.base
    assert "It is 3." in shown[2]
    assert "Short." not in shown[2]


def test_feedback_is_never_a_target():
    encoder = ConditionEncoder(tiny.tokenizer())
    encoded = [encode(encoder, e) for e in (LIKED, PLAIN, ANSWERED, replace(LIKED, revision="Own words."))]
    targets = [e.target and encoder.tokenizer.decode(e.target[:-1]) for e in encoded]
    assert targets == [None, None, "It is 3.", "Own words."]
    with pytest.raises(UserError, match=r"answer_weight 0\.5.* 2 "):
        check_targets(encoded[:2], 0.5)
    check_targets(encoded[:2], 0)
    check_targets(encoded, 0.5)


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_a_missing_answer_changes_no_answer_loss(normalization):
    encoder, model = ConditionEncoder(tiny.tokenizer()), tiny.model()
    enable_scoring(model)
    liked, answered = encode(encoder, LIKED), encode(encoder, ANSWERED)
    losses = []
    for examples in ([answered], [liked, answered], [liked]):
        builder = BatchBuilder(0, needs=frozenset(), answers=True)
        features = builder(examples)
        scored = score_batch(model, builder.batch(features), frozenset())
        _, window = windows_of(counts_of(features))
        loss = normalize(-scored.answer_logp.sum(1), scored.answer_lengths, window, normalization)
        losses.append(loss.item())
    assert losses[0] > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == 0
    assert torch.isfinite(torch.tensor(losses)).all()


def test_graders_that_need_an_answer_name_the_questions_without_one():
    questions = [Question(1, "1 + 1?", "2"), Question("open", "Hello?")]
    model = ScriptedModel(lambda text, nth: pytest.fail("the model was asked"))
    for refused in (
        lambda: sample_answers(questions, model, "{prompt}", get_grader("number")),
        lambda: evaluate(model, questions, EvaluationSettings(grader="exact")),
        lambda: relabel([ANSWERED, replace(LIKED, id="open")], get_grader("choice")),
        lambda: revise_examples([replace(BLAMED, id="open")], model, RevisionSettings()),
    ):
        with pytest.raises(RecordsError) as error:
            refused()
        assert "'open'" in str(error.value)
        assert "`answer`" in str(error.value)
        assert len(error.value.problems) == 1


def test_sampling_leaves_out_what_it_cannot_compare_and_keeps_what_says_nothing():
    replies = {"a": "It is 2", "b": "It is 3", "c": "It is 2 or 3", "d": "I cannot say", "e": "It is 4"}
    model = ScriptedModel(lambda text, nth: replies[text[0]])
    questions = [Question(name, f"{name}: 1 + 1?", "2" if name != "e" else "4 and 9") for name in replies]
    examples = sample_answers(questions, model, "{prompt}", get_grader("number"))
    assert [(e.id, e.label, e.extra["verdict"]) for e in examples] == [
        ("a", True, "right"),
        ("b", False, "wrong"),
        ("d", False, "ungraded"),
    ]
    assert len(sample_answers(questions, model, "{prompt}", get_grader("label"))) == 5, "a person labels them"


def test_sampling_keeps_a_reply_that_did_not_end_because_it_has_no_final_answer_yet():
    model = ScriptedModel(lambda text, nth: ("It is 2 or 3", "length" if text[0] == "a" else "unknown"))
    questions = [Question(name, f"{name}: 1 + 1?", "2") for name in "ab"]
    examples = sample_answers(questions, model, "{prompt}", get_grader("number"))
    found = [(e.id, e.label, e.extra["verdict"], e.extra["finish_reason"]) for e in examples]
    assert found == [("a", False, "ungraded", "length"), ("b", False, "ungraded", "unknown")]


def test_a_label_stays_if_the_reply_cannot_be_compared():
    kept = [replace(ANSWERED, completion="It is 2 or 3", label=label) for label in (True, False)]
    assert relabel(kept, get_grader("number")) == kept


def test_a_function_that_needs_no_answer_grades_without_one(tmp_path, monkeypatch):
    (tmp_path / "own_graders.py").write_text(
        "def polite(said, answer): return 'please' in said\ndef strict(said, answer): return said == answer.strip()\n"
    )
    monkeypatch.chdir(tmp_path)
    model = ScriptedModel(lambda text, nth: "Yes, please")
    questions = [Question("open", "Hello?")]
    (example,) = sample_answers(questions, model, "{prompt}", get_grader("own_graders:polite"))
    assert (example.label, example.answer) == (True, None)
    with pytest.raises(UserError, match=r"(?s)own_graders:strict.*None"):
        relabel([LIKED], get_grader("own_graders:strict"))


def test_likelihood_needs_answers():
    with pytest.raises(RecordsError, match="'open'") as error:
        evaluate(
            tiny.model(), [Question("open", "Hello?")], EvaluationSettings(grader="label"), tokenizer=tiny.tokenizer()
        )
    assert "likelihood" in str(error.value)


def test_tune_never_trains_or_scores_feedback(tmp_path):
    settings = asdict(TuneSettings(grader="label"))
    with pytest.raises(RecordsError) as error:
        split_stage(tmp_path, {"file": str(SHOP), "settings": settings})
    assert len(error.value.problems) == 24
    assert "--grader label" in str(error.value)
    assert "nlft train" in str(error.value)
    old = tmp_path / "old.jsonl"
    old.write_text(SHOP.read_text().replace('"feedback":', '"answer":'))
    with pytest.raises(UserError, match=r"(?s)old\.jsonl.*`feedback`"):
        split_stage(tmp_path, {"file": str(old), "settings": settings})
    with pytest.raises(RecordsError, match="number"):
        split_stage(tmp_path, {"file": str(SHOP), "settings": {**settings, "grader": "number"}})
    assert not (tmp_path / "train.jsonl").exists()


def test_old_files_are_told_by_answers_that_share_no_word_with_right_completions():
    new = read_examples(SHOP)
    old = [replace(e, answer=e.feedback, feedback=None) for e in new]
    assert (holds_feedback(old), holds_feedback(new), holds_feedback(old[:8])) == (True, False, False)
    replies = [replace(e, answer=e.completion.upper() + " Bye.") for e in old]
    problems = [Example(q.id, q.prompt, q.answer, True, q.answer) for q in read_questions(PROBLEMS)]
    assert (holds_feedback(replies), holds_feedback(problems)) == (False, False)
    lines = audit(old, settings=AuditSettings(grader="label")).lines()
    assert any("`feedback`" in line for line in lines)
    assert any("`feedback`" in line for line in summary_lines(old, 0))


def test_the_training_summary_counts_what_is_missing():
    lines = summary_lines([LIKED, PLAIN, ANSWERED], 0.5)
    assert [line.split(" ex")[0] for line in lines] == ["1 of 3", "2 of 3"]
    assert "--answer_weight" in lines[1]
    assert len(summary_lines([LIKED, PLAIN, ANSWERED], 0)) == 1
    assert summary_lines([ANSWERED], 1) == []


def test_exports_name_the_records_without_an_answer_that_they_need():
    examples = [LIKED, PLAIN, ANSWERED]
    assert sft_texts(LIKED, "answer") == []
    for tool in ("sft", "reft"):
        with pytest.raises(RecordsError, match="`answer`") as error:
            rows_for(examples, tool, form="text")
        assert len(error.value.problems) == 2
        assert [row["completion"] for row in rows_for([ANSWERED], tool, form="text").rows] == ["It is 3."]
    assert len(rows_for(examples, "kto", form="text").rows) == 3
    with pytest.raises(RecordsError, match=r'"liked".*\n.*answer') as error:
        rows_for(examples, "original", form="text")
    assert len(error.value.problems) == 2
    (row,) = rows_for([ANSWERED], "original", form="text").rows
    assert row["feedback"] == "Short."


def test_the_rest_works_without_an_answer():
    report = audit([LIKED, PLAIN, ANSWERED, BLAMED], settings=AuditSettings(grader="number"))
    assert any(note.startswith("3 of 4 ") for note in report.notes)
    assert {f.kind for f in report.findings if f.id == "liked"} <= {"unfinished"}
    assert rules_judge([BLAMED])[0].refused


def test_the_fingerprint_of_examples_without_feedback_is_the_old_one():
    assert data_fingerprint([ANSWERED]) != data_fingerprint([replace(ANSWERED, feedback=None)])
    old = replace(ANSWERED, feedback=None)
    assert data_fingerprint([old]).startswith("d6576eb8770bedc9")
