"""Guards: what each one sees, what it does about it, and that it names the step and the examples."""

import pytest
import torch
from transformers import TrainerCallback

from helpers import tiny
from helpers.training import COMMON, REDIRECTED, examples, nlft_trainer
from nlft.baselines.sft import SFTBaseline, SFTSettings
from nlft.core.schemes.nlft import NLFTSettings
from nlft.errors import NLFTError, UserError
from nlft.models.loading import default_lora
from nlft.runs.run_dir import RunDir
from nlft.training.guards import GUARDS, Guards, guard_actions

QUIET = {"loss": 2.0}
STEPS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, "train_sampling_strategy": "sequential"}
ALARMS = {
    "loss": ([{"loss": 2.0}], {"loss": 11.5}, "11.5"),
    "entropy": ([{"loss": 2.0, "entropy": 2.0}], {"loss": 2.0, "entropy": 0.1}, "0.1"),
    "length": (
        [{"loss": 0.0, "completions/mean_length": 50.0}],
        {"loss": 0.0, "completions/mean_length": 9.0},
        "9",
    ),
    "unlikelihood": ([QUIET], {"loss": 4.0, "nlft/unlikelihood_loss": 3.5}, "3.5"),
    "kl": ([{"loss": 2.0, "kl": 0.2}], {"loss": 2.0, "kl": 1.25}, "1.25"),
}


@pytest.fixture
def trainer(tmp_path):
    made = nlft_trainer(tmp_path, watch=0, **STEPS)
    made._in_step = [["e3", "e4"]]
    return made


def guards_of(trainer, *chosen):
    found = Guards(trainer, list(chosen))
    found.on_train_begin(trainer.args, trainer.state, trainer.control)
    return found


def log(guards, line, step=7):
    guards.trainer.state.global_step = step
    guards.on_log(guards.trainer.args, guards.trainer.state, guards.trainer.control, logs=line)


@pytest.mark.parametrize("name", ALARMS)
@pytest.mark.parametrize("action", ["warn", "pause", "stop"])
def test_each_guard_sees_its_alarm_once_and_does_what_it_is_told(trainer, capsys, name, action):
    before, alarm, number = ALARMS[name]
    guards = guards_of(trainer, f"{name}={action}")
    for line in before:
        log(guards, line, step=1)
    assert capsys.readouterr().err == ""
    if action == "stop":
        with pytest.raises(NLFTError) as stopped:
            log(guards, alarm)
        told = str(stopped.value)
    else:
        log(guards, alarm)
        told = capsys.readouterr().err
    assert "step 7" in told
    assert "'e3', 'e4'" in told
    assert number in told
    log(guards, alarm, step=8)
    assert capsys.readouterr().err == "", "a guard speaks once"
    sent = [request.control for request in RunDir(trainer.args.output_dir).pending_requests()]
    assert sent == (["pause"] if action == "pause" else [])


# The first line, a line at the edge of what a guard allows, and one beyond it.
EDGES = {
    "loss": ({"loss": 2.0}, {"loss": 11.0}, {"loss": 11.001}),
    "loss below 0": ({"loss": -2.0}, {"loss": 11.0}, {"loss": 11.001}),
    "entropy": ({"loss": 2.0, "entropy": 2.0}, {"loss": 2.0, "entropy": 0.2}, {"loss": 2.0, "entropy": 0.199}),
    "length": (
        {"loss": 0.0, "completions/mean_length": 50.0},
        {"loss": 0.0, "completions/mean_length": 10.0},
        {"loss": 0.0, "completions/mean_length": 9.99},
    ),
    "unlikelihood": (QUIET, {**QUIET, "nlft/unlikelihood_loss": 3.0}, {**QUIET, "nlft/unlikelihood_loss": 3.01}),
    "kl": (QUIET, {**QUIET, "kl": 1.0}, {**QUIET, "kl": 1.01}),
}


@pytest.mark.parametrize("name", EDGES)
def test_a_guard_is_silent_up_to_its_edge(trainer, capsys, name):
    guards = guards_of(trainer)
    first, edge, beyond = EDGES[name]
    for line in (first, edge, first):
        log(guards, line)
    assert capsys.readouterr().err == ""
    log(guards, beyond)
    assert "warning: step 7" in capsys.readouterr().err


def test_the_kl_of_a_held_training_is_that_of_the_hold_without_its_weight(tmp_path, capsys):
    trainer = nlft_trainer(tmp_path, watch=0, saliency=NLFTSettings(hold_weight=4.0), **STEPS)
    trainer._in_step = [["e1"]]
    guards = guards_of(trainer)
    log(guards, {"loss": 2.0, "nlft/hold_loss": 4.0, "kl": 9.0})
    assert capsys.readouterr().err == ""
    log(guards, {"loss": 2.0, "nlft/hold_loss": 4.04})
    assert "1.01" in capsys.readouterr().err


@pytest.mark.parametrize(("scheme", "labels", "told"), [("nlft", 2, 1), ("nlft", 1, 0), ("uniform", 2, 0)])
def test_that_nothing_is_tagged_is_told_only_where_a_scheme_looks_for_it_in_wrong_replies(
    tmp_path, capsys, scheme, labels, told
):
    data = [one for one in examples() if labels == 2 or one.label]
    guards = guards_of(nlft_trainer(tmp_path, data=data, saliency=scheme, watch=0, **STEPS))
    guards.trainer._in_step = [["e1"]]
    guards.on_epoch_end(guards.trainer.args, guards.trainer.state, guards.trainer.control)
    assert capsys.readouterr().err == "", "no line was logged in that epoch"
    log(guards, {"loss": 1.0, "nlft/salient_fraction": 0.0})
    guards.on_epoch_end(guards.trainer.args, guards.trainer.state, guards.trainer.control)
    assert capsys.readouterr().err.count("tagged or struck") == told
    log(guards, {"loss": 1.0, "nlft/salient_fraction": 0.0, "nlft/struck_probability": 0.5})
    guards._spoken.clear()
    guards.on_epoch_end(guards.trainer.args, guards.trainer.state, guards.trainer.control)
    assert "tagged or struck" not in capsys.readouterr().err


def test_numbers_that_are_missing_or_not_finite_alarm_nobody(trainer, capsys):
    guards = guards_of(trainer, *(f"{name}=stop" for name in GUARDS))
    odd = [None, float("nan"), float("inf"), "much", True]
    for value in odd:
        log(guards, {"loss": value, "entropy": value, "kl": value, "nlft/unlikelihood_loss": value})
    log(guards, {"eval_loss": 1e9})
    log(guards, {"train_loss": 1e9})
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["loss", "loss=", "loss=shout", "nothing=stop", "=", ""])
def test_an_unknown_guard_or_action_is_refused_with_the_right_ones(text):
    with pytest.raises(UserError) as refused:
        guard_actions([text])
    for name in (*GUARDS, "warn", "pause", "stop"):
        assert name in str(refused.value)


def test_a_method_without_requests_cannot_be_paused(tmp_path):
    args = SFTSettings(output_dir=str(tmp_path), target="answer", engine="trl", guard=["loss=pause"], **COMMON)
    net = tiny.model()
    with pytest.raises(UserError, match="loss=stop"):
        SFTBaseline(net, args, examples(), tiny.tokenizer(), default_lora(net))


def exploding(trainer, at, factor=1e3):
    """Let the loss grow after a step, as a rate that is too high does."""
    compute = trainer.compute_loss

    def growing(*args, **options):
        loss = compute(*args, **options)
        grown = torch.tensor(factor if trainer.state.global_step >= at else 1.0)
        for name, (top, bottom) in trainer._metrics["train"].items():
            if name == "loss":
                trainer._metrics["train"][name] = (top * grown, bottom)
        return loss

    trainer.compute_loss = growing


def test_an_exploding_loss_stops_and_keeps_the_last_checkpoint(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9, "watch": 0}
    trainer = nlft_trainer(tmp_path, guard=["loss=stop"], **STEPS, **options)
    exploding(trainer, at=2)
    with pytest.raises(NLFTError) as stopped:
        trainer.train()
    assert not isinstance(stopped.value, UserError), "the exit code is 1"
    said = str(stopped.value)
    assert "step 3" in said
    assert "'e4', 'e5'" in said
    assert "checkpoint-2" in said
    run = RunDir(tmp_path)
    assert sorted(path.name for path in run.checkpoints_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    assert not run.adapter_path.exists()
    assert run.events()[-1]["ended"] == "diverged"


def test_an_exploding_loss_pauses_until_a_person_resumes(tmp_path, capsys):
    class Person(TrainerCallback):
        def on_log(self, args, state, control, **_):
            if any(request.control == "pause" for request in RunDir(tmp_path).pending_requests()):
                RunDir(tmp_path).write_request("resume", None, "page")

    trainer = nlft_trainer(tmp_path, guard=["loss=pause"], watch=0, **STEPS)
    trainer.add_callback(Person())
    exploding(trainer, at=2)
    trainer.train()
    steered = [(line["control"], line["who"], line["step"]) for line in RunDir(tmp_path).controls() if line["taken"]]
    assert steered == [("pause", "guard loss", 4), ("resume", "page", 4)]
    assert "paused" in capsys.readouterr().err


def test_an_epoch_in_which_nothing_is_tagged_or_everything_is_gated_is_told_once(tmp_path, capsys):
    trainer = nlft_trainer(tmp_path, watch=0, **STEPS)
    guards = guards_of(trainer)
    for tagged, gated in ((0.0, 0.0), (0.0, 0.0), (0.4, 1.0), (0.4, 1.0)):
        trainer._in_step = [["e1", "e2"]]  # both are wrong
        guards.trainer.last_sums = {"nlft/gated_fraction": (2 * gated, 2.0)}  # of two wrong replies
        log(guards, {"loss": 1.0, "nlft/salient_fraction": tagged, "nlft/gated_fraction": gated})
        guards.on_epoch_end(trainer.args, trainer.state, trainer.control)
    told = capsys.readouterr().err
    assert told.count("tagged or struck") == 1
    assert told.count("gate_fraction") == 1
    assert told.index("tagged or struck") < told.index("gate_fraction")


def test_a_resumed_run_is_measured_against_the_beginning_of_the_whole_run(trainer, tmp_path, capsys):
    RunDir(tmp_path).append_event({"step": 1, "loss": 0.5})
    trainer.state.global_step = 9
    guards = guards_of(trainer)
    log(guards, {"loss": 7.0}, step=10)
    assert "0.5" in capsys.readouterr().err


def test_a_good_training_alarms_nobody(tmp_path, capsys):
    stops = [f"{name}=stop" for name in GUARDS]
    nlft_trainer(tmp_path, watch=0, saliency=REDIRECTED, guard=stops).train()
    assert "warning" not in capsys.readouterr().err
