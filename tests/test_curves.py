"""The curve of an arm: measured beside its training, and the choice of a dose on the training prompts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from helpers import tiny
from nlft.collect.sampling import SamplingSettings
from nlft.data.records import Example, write_examples
from nlft.errors import UserError
from nlft.experiments import curves
from nlft.experiments.arm_run import run_arm
from nlft.experiments.arms import BUILT_IN
from nlft.experiments.curves import Curve, Exam
from nlft.experiments.settings import Budget, CurveSettings, TuneSettings
from nlft.experiments.tune import Tune
from nlft.results.curves import CurvePoint, OnTraining, chosen_step, kl_at, mean_curve, points_of
from nlft.results.settings import CollateralSettings


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, examples whose wrong replies quote a word, checks, and test questions."""
    folder = tmp_path_factory.mktemp("curves")
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    examples = [
        Example(n, f"Describe item {n}.", "a fine cup" if n % 2 else "a cup", n % 2 == 0, None, _judgment(n))
        for n in range(6)
    ]
    examples.append(Example("advert", "Write an advert.", "a fine cup", True, keep=True))
    write_examples(folder / "examples.jsonl", examples)
    checks = [{"name": "no-e", "must_not": {"contains": "e"}}, {"name": "short", "must": {"max_words": 2}}]
    (folder / "checks.yaml").write_text(yaml.safe_dump(checks))
    lines = [json.dumps({"id": n, "prompt": f"Describe lamp {n}."}) for n in range(4)]
    (folder / "test.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "keep.jsonl").write_text('{"id": "k", "prompt": "Why?"}\n')
    return folder


def _judgment(n):
    return 'It praises: "fine".' if n % 2 else None


def run(place, out, arm="strike", *, curve=None):
    run_arm(
        BUILT_IN[arm],
        examples=place / "examples.jsonl",
        test=place / "test.jsonl",
        out=out,
        model={"model_name_or_path": str(place / "model"), "lora_r": 2, "lora_dropout": 0.2, "dtype": "float32"},
        asking=SamplingSettings(max_new_tokens=6, checks=str(place / "checks.yaml")),
        budget=Budget(max_steps=3, learning_rate=3e-2, per_device_train_batch_size=2, answer_weight=0.0),
        collateral=CollateralSettings(keep=str(place / "keep.jsonl")),
        base_answers=place / "base.jsonl",
        curve=curve,
    )
    return json.loads((out / "result.json").read_text())


def weights(out):
    return (out / "adapter" / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def runs(place, tmp_path_factory):
    """The folder and the result of two arms, without a curve and with one."""
    folder = tmp_path_factory.mktemp("runs")
    curve = {"plain": None, "curve": CurveSettings(curve=[1, 2])}
    found = {}
    for arm in ("strike", "sft-completion"):
        for name, wanted in curve.items():
            out = folder / f"{arm}-{name}"
            found[arm, name] = out, run(place, out, arm, curve=wanted)
    return found


@pytest.mark.parametrize("arm", ["strike", "sft-completion"])
def test_a_curve_changes_nothing_of_the_training(runs, arm):
    (plain_out, plain), (out, found) = runs[arm, "plain"], runs[arm, "curve"]
    assert weights(plain_out) == weights(out)
    assert found["summary"] == plain["summary"]
    assert "curve" not in plain
    at_end = [json.loads((folder / "evaluation.json").read_text()) for folder in (plain_out, out)]
    assert at_end[0]["collateral"]["figures"] == at_end[1]["collateral"]["figures"]
    assert at_end[0]["adapter"]["sha256"] == at_end[1]["adapter"]["sha256"]


@pytest.mark.parametrize("arm", ["strike", "sft-completion"])
def test_a_curve_has_what_each_step_gives_on_the_test_questions(runs, arm):
    out, found = runs[arm, "curve"]
    points = points_of(found)
    assert [point.step for point in points] == [1, 2, 3], "the end is a point too"
    assert all(point.kl > 0 and point.kl_elsewhere > 0 and point.questions == 4 for point in points)
    assert len({point.kl for point in points}) == 3
    assert points[2].right == found["summary"]["accuracy"]["all checks"]["count"]
    doses = [point.dose for point in points]
    if arm == "strike":
        assert 0 < doses[0] < doses[1] < doses[2]
    else:
        assert doses == [None] * 3
    step = json.loads((out / "curve" / "step-1" / "evaluation.json").read_text())
    assert (step["step"], len(step["questions"])) == (1, 4)
    assert step["collateral"]["figures"]["task"]["kl"] == pytest.approx(points[0].kl)


def test_the_same_tokens_are_struck_from_the_kl_of_every_arm(runs):
    counts = set()
    for arm in ("strike", "sft-completion"):
        evaluation = json.loads((runs[arm, "plain"][0] / "evaluation.json").read_text())
        task = evaluation["collateral"]["sets"]["task"]
        assert len(task["kl_each"]) == 4
        assert sum(tokens for _, tokens in task["kl_each"]) == task["kl"]["tokens"]
        counts.add((task["kl"]["tokens"], task["kl"]["struck_tokens"]))
    assert len(counts) == 1


def test_the_dose_is_chosen_on_the_training_prompts_alone(place, tmp_path, monkeypatch):
    ask, asked, violations = curves.evaluate, [], iter([3, 5, 6])
    on_training = Exam.on_training

    def evaluated(model, questions, *args, **kwargs):
        asked.append({str(question.prompt) for question in questions})
        return ask(model, questions, *args, **kwargs)

    def told(self, net):  # the training prompts say that step 1 is best
        found.append(on_training(self, net))
        return replace(found[-1], violations=next(violations))

    found = []
    monkeypatch.setattr(curves, "evaluate", evaluated)
    monkeypatch.setattr(Exam, "on_training", told)
    result = run(place, tmp_path, curve=CurveSettings(curve=[1, 2], choose_dose=True))
    training = {f"Describe item {n}." for n in range(6)}  # the kept reply is out of the rule's scope
    assert asked == [{f"Describe lamp {n}." for n in range(4)}, training] * 3, "one test and one choice for each step"
    assert result["chosen_step"] == 1
    assert all(one.prompts == 6 and one.kl > 0 for one in found)
    assert [point.training.kl for point in points_of(result)] == [one.kl for one in found]
    step = json.loads((tmp_path / "curve" / "step-1" / "evaluation.json").read_text())
    kept = json.loads((tmp_path / "evaluation.json").read_text())
    assert kept["adapter"] is not None
    assert {**step, "adapter": None} == {**kept, "adapter": None}
    assert result["summary"] == step["summary"]
    assert weights(tmp_path) == weights(tmp_path / "curve" / "step-1")
    assert weights(tmp_path) != weights(tmp_path / "curve" / "step-3")
    assert "step 1 of 3" in (tmp_path / "adapter" / "README.md").read_text()


def test_a_cell_that_was_killed_gives_the_same_curve_when_it_runs_again(place, runs, tmp_path, monkeypatch):
    whole_out, whole = runs["strike", "curve"]
    ask = Exam.on_test

    def killed(self, net, folder, **about):
        if about.get("step") == 2:
            raise KeyboardInterrupt
        return ask(self, net, folder, **about)

    monkeypatch.setattr(Exam, "on_test", killed)
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path, curve=CurveSettings(curve=[1, 2]))
    assert not (tmp_path / "result.json").exists()
    answered = (tmp_path / "evaluation.calls.jsonl").read_text()
    (tmp_path / "curve" / "step-9").mkdir()
    monkeypatch.setattr(Exam, "on_test", ask)
    again = run(place, tmp_path, curve=CurveSettings(curve=[1, 2]))
    assert again["curve"] == whole["curve"]
    assert weights(tmp_path) == weights(whole_out)
    assert (tmp_path / "evaluation.calls.jsonl").read_text().startswith(answered)
    assert not (tmp_path / "curve" / "step-9").exists()


def test_seconds_of_the_curve_do_not_count_as_training(place, tmp_path, monkeypatch):
    passed = iter(range(0, 10_000, 1000))
    monkeypatch.setattr(curves.time, "monotonic", lambda: next(passed))
    told = []
    curve = Curve(SimpleNamespace(), CurveSettings(curve=[2]), SimpleNamespace(show_pause=told.append))
    curve._measure = lambda step: None
    for step in (1, 2, 3):
        curve.on_step_end(None, SimpleNamespace(global_step=step), None)
    assert (curve.seconds, told) == (1000.0, [1000])


def test_steps_that_were_not_measured_are_said(tmp_path, capsys):
    curve = Curve(
        SimpleNamespace(out=tmp_path),
        CurveSettings(curve=[1, 6, 9]),
        SimpleNamespace(warm_up_steps=2, show_pause=print),
    )
    file = tmp_path / "evaluation.json"
    file.write_text("{}")

    def measure(step):
        curve._taken[step] = curves._Taken(point(step, 1), {}, tmp_path)

    curve._measure = measure
    curve.on_step_end(None, SimpleNamespace(global_step=4), None)
    curve.finish(7)
    assert "1, 9" in capsys.readouterr().err
    assert sorted(curve._taken) == [6, 7]


# The rules


def point(step, right, of=4, kl=None, training=None, tokens=10):
    form = {"words": 5.0, "ends": 1.0, "repetition": 0.0}
    return CurvePoint(step, right, of, **form, kl=kl, kl_tokens=tokens, training=training)


@pytest.mark.parametrize(
    ("seen", "prompts", "step"),
    [
        ([(9, 0.1), (5, 0.2), (1, 0.3)], 32, 24),  # far fewest violations
        ([(9, 0.1), (2, 0.2), (1, 0.3)], 32, 12),  # one reply more is chance, and the model changed less
        ([(9, 0.1), (3, 0.2), (1, 0.3)], 32, 24),  # two replies are more than that
        ([(9, 0.1), (3, 0.2), (1, 0.3)], 100, 12),  # two of 100 are within 2 points
        ([(4, None), (4, None), (4, None)], 32, 6),  # without KL the earliest
        ([(4, 0.3), (4, 0.2), (4, 0.2)], 32, 12),
    ],
)
def test_the_least_kl_wins_among_steps_that_differ_by_chance(seen, prompts, step):
    points = [
        point(at, 0, training=OnTraining(count, prompts, kl)) for at, (count, kl) in zip((6, 12, 24), seen, strict=True)
    ]
    assert chosen_step(points) == step
    for right in range(4):  # the test questions have no say
        assert chosen_step([CurvePoint(**{**vars(p), "right": (right + p.step) % 4}) for p in points]) == step


def test_kl_at_equal_violation_lies_on_the_straight_line_between_two_steps():
    curve = [point(6, 6, 10, 0.1), point(12, 8, 10, 0.5), point(24, 7, 10, 0.9)]  # violations .4, .2, .3
    assert kl_at(curve, 0.3, 0.8) == pytest.approx(0.3)
    assert kl_at(curve, 0.6, 0.8) == pytest.approx(0.05), "the curve starts at the base"
    assert kl_at(curve, 0.2, 0.8) == pytest.approx(0.5)
    assert kl_at(curve, 0.1, 0.8) is None
    assert kl_at(curve, 0.9, 0.8) == 0.0
    assert kl_at([point(6, 6, 10)], 0.5, 0.8) is None


def test_a_mean_curve_weighs_answers_and_tokens():
    results = [
        {"curve": [point(6, 1, 4, 0.1, tokens=30).as_json(), point(9, 2, 4, 0.3).as_json()]},
        {"curve": [point(6, 4, 6, 0.3, tokens=10).as_json()]},
        {},
    ]
    first, last = mean_curve(json.loads(json.dumps(results)))
    assert (first.step, first.right, first.questions, first.kl_tokens) == (6, 5, 10, 40)
    assert first.violation == pytest.approx(0.5)
    assert first.kl == pytest.approx(0.15)
    assert (last.step, last.kl) == (9, pytest.approx(0.3))
    results[1]["curve"][0]["kl"] = None
    assert mean_curve(results)[0].kl is None


def test_settings_of_a_curve_that_cannot_be_measured_are_refused(tmp_path):
    assert TuneSettings(curve=[24, 6, 12]).curve == [6, 12, 24]
    for wrong, named in (
        ({"curve": [0]}, "--curve"),
        ({"curve": [3, 3]}, "--curve"),
        ({"choose_dose": True}, "--choose_dose"),
        ({"curve": [3], "grader": "label"}, "--grader label"),
    ):
        with pytest.raises(UserError, match=named):
            TuneSettings(**wrong)
    model = {"model_name_or_path": "m", "use_peft": False}
    with pytest.raises(UserError, match="--use_peft"):
        Tune("q.jsonl", model, TuneSettings(curve=[3], choose_dose=True, output_dir=str(tmp_path))).record_settings()
