"""A signal ends a training with a checkpoint from which it goes on as if nothing had happened."""

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import termios
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerCallback

from helpers import tiny
from helpers.kills import untimed
from helpers.training import COMMON, REDIRECTED, adapter, examples, in_a_process, lora, nlft_trainer
from helpers.waiting import until
from nlft.baselines.kto import KTOBaseline, KTOSettings
from nlft.baselines.reft import ReFTBaseline, ReFTSettings
from nlft.baselines.sft import SFTSettings, sft_trainer
from nlft.processes import Terminated
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.runs.run_dir import RunDir
from nlft.training import interrupts
from nlft.training.interrupts import TerminationCallback, interruptible
from nlft.training.trainer import NLFTConfig, NLFTTrainer

LONG = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4, "logging_steps": 2, "save_total_limit": 9}


def dropping():
    return lora(tiny.model(), lora_dropout=0.2)


def nlft_run(folder, **settings):
    return nlft_trainer(folder, model=dropping(), saliency=REDIRECTED, watch=0, **{**LONG, **settings})


def sft_run(folder, engine="nlft", **settings):
    args = SFTSettings(output_dir=str(folder), target="answer", engine=engine, **{**COMMON, **LONG, **settings})
    return sft_trainer(dropping(), args, examples(), tiny.tokenizer(), None)


def trl_run(folder, **settings):
    return sft_run(folder, "trl", **settings)


def kto_run(folder, **settings):
    args = KTOSettings(output_dir=str(folder), **{**COMMON, **LONG, "per_device_train_batch_size": 2, **settings})
    return KTOBaseline(dropping(), args, examples(24), tiny.tokenizer(), None)


def reft_run(folder, **settings):
    options = {"num_generations": 2, "sft_epochs": 0, "max_completion_length": 4, "per_device_train_batch_size": 2}
    args = ReFTSettings(output_dir=str(folder), **{**COMMON, **LONG, **options, **settings})
    args.grader = "test_interrupts:even"
    return ReFTBaseline(dropping(), args, examples(12), tiny.tokenizer(), None)


def even(completion, answer):
    return len(completion) % 2 == 0


def lines(folder):
    return [untimed(event) for event in RunDir(folder).events()]


def terminated(trainer, at, number=signal.SIGTERM):
    """Train, with a signal inside micro-batch `at`, from 1. Return the number of micro-batches that were trained."""
    done, step = [], trainer.training_step

    def training_step(*args, **kwargs):
        loss = step(*args, **kwargs)
        done.append(loss)
        if len(done) == at:
            os.kill(os.getpid(), number)
        return loss

    trainer.training_step = training_step
    with pytest.raises(Terminated) as ended, interruptible(trainer, RunDir(trainer.args.output_dir)):
        trainer.train()
    assert ended.value.exit_code == 128 + number
    return len(done)


class InTheStep(TrainerCallback):
    """SIGTERM in the step after `step`, between its first micro-batches."""

    def __init__(self, step):
        self.step = step

    def on_substep_end(self, args, state, control, **_):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def assert_goes_on_as_unbroken(make, folder, **settings):
    whole, again = make(folder / "whole", **settings), make(folder / "ended", **settings)
    whole.train()
    again.train(resume_from_checkpoint=True)
    for one, other in zip(lines(folder / "ended"), lines(folder / "whole"), strict=True):
        assert one == other
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name


@pytest.mark.parametrize("make", [nlft_run, sft_run, trl_run, kto_run, reft_run])
@pytest.mark.parametrize(("at", "kept"), [(6, 1), (11, 2), (13, 3)], ids=["between", "before a line", "new epoch"])
def test_a_signal_in_a_long_step_leaves_the_last_whole_one_and_the_resumed_run_is_the_unbroken_one(
    tmp_path, make, at, kept, capsys
):
    assert terminated(make(tmp_path / "ended"), at) == at, "it ends after that micro-batch"
    told = capsys.readouterr().err
    assert f"step {kept}" in told
    (checkpoint,) = checkpoints_of(RunDir(tmp_path / "ended"))
    assert checkpoint.name == f"checkpoint-{kept}"
    assert problem_of(checkpoint) is None
    assert_goes_on_as_unbroken(make, tmp_path)


@pytest.mark.parametrize("cut", [2, 3, 4], ids=["first epoch", "its end", "second epoch"])
def test_reinforcement_goes_on_with_the_questions_of_its_epoch(tmp_path, cut):
    each = {"save_strategy": "steps", "save_steps": 1}
    whole, again = reft_run(tmp_path / "whole", **each), reft_run(tmp_path / "whole", **each)
    whole.train()
    unbroken = lines(tmp_path / "whole")
    assert whole.rewards.answers == 6 * 8
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoints" / f"checkpoint-{cut}"))
    assert again.rewards.answers == whole.rewards.answers
    assert lines(tmp_path / "whole") == unbroken
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path):
    each = {"save_strategy": "steps", "save_steps": 1}
    trainer = nlft_run(tmp_path / "ended", **each)
    assert terminated(trainer, 6) == 6
    assert [path.name for path in checkpoints_of(RunDir(tmp_path / "ended"))] == ["checkpoint-1"]
    trainer = nlft_run(tmp_path / "ended", **each)  # resumed at 1, and ended again before a whole step
    written = (tmp_path / "ended/checkpoints/checkpoint-1/manifest.json").stat().st_mtime_ns
    trainer.add_callback(InTheStep(1))
    with pytest.raises(Terminated), interruptible(trainer, RunDir(tmp_path / "ended")):
        trainer.train(resume_from_checkpoint=True)
    assert (tmp_path / "ended/checkpoints/checkpoint-1/manifest.json").stat().st_mtime_ns == written
    assert_goes_on_as_unbroken(nlft_run, tmp_path, **each)


def test_a_signal_in_the_first_step_ends_at_once(tmp_path, capsys):
    assert terminated(nlft_run(tmp_path), 2) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert checkpoints_of(RunDir(tmp_path)) == []


def test_a_closed_terminal_leaves_a_checkpoint_however_often_it_is_told(tmp_path, capsys):
    trainer = nlft_run(tmp_path / "ended")
    step = trainer.training_step

    def told_again(*args, **kwargs):
        if trainer.termination.asked is None and trainer.state.global_step == 1:
            for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
                os.kill(os.getpid(), number)
        return step(*args, **kwargs)

    trainer.training_step = told_again
    assert terminated(trainer, 99, signal.SIGHUP) < 99
    assert "SIGHUP: writing a checkpoint" in capsys.readouterr().err
    assert [path.name for path in checkpoints_of(RunDir(tmp_path / "ended"))] == ["checkpoint-1"]
    assert_goes_on_as_unbroken(nlft_run, tmp_path)


def test_nohup_keeps_a_training_from_a_closed_terminal(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = nlft_run(tmp_path, max_steps=2)
        trainer.add_callback(AtEachStep(signal.SIGHUP))
        with interruptible(trainer, RunDir(tmp_path)):
            trainer.train()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.state.global_step == 2
    assert trainer.termination.asked is None


class AtEachStep(TrainerCallback):
    def __init__(self, number):
        self.number = number

    def on_step_end(self, args, state, control, **_):
        os.kill(os.getpid(), self.number)


class AtTheEnd(TrainerCallback):
    def on_train_end(self, args, state, control, **_):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_after_the_last_step_lets_the_adapter_be_written(tmp_path, capsys):
    trainer = nlft_run(tmp_path, max_steps=2)
    with interruptible(trainer, RunDir(tmp_path)):
        trainer.add_callback(AtTheEnd())
        trainer.train()
    assert "checkpoint" not in capsys.readouterr().err
    assert (tmp_path / "adapter/adapter_model.safetensors").exists()


@pytest.mark.parametrize("command", ["train", pytest.param("tune", marks=pytest.mark.long)])
def test_a_training_outlives_its_terminal_until_it_has_saved(tmp_path, model_folder, command, request):
    """What it prints then goes nowhere, instead of ending it with an error."""
    words, run = in_a_process(command, tmp_path, model_folder, 100_000)
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    request.addfinalizer(process.kill)
    shown = []

    def trains():
        with contextlib.suppress(BlockingIOError):
            shown.append(os.read(ours, 100_000))
        assert process.poll() is None, shown[-3:]
        return sum("loss" in event for event in run.events()) > 2

    until(trains, seconds=180)
    os.close(ours)  # as a window that is closed
    assert process.wait(60) == 128 + signal.SIGHUP
    (checkpoint,) = checkpoints_of(run)
    assert problem_of(checkpoint) is None
    assert run.events()[-1]["ended"] == "interrupted"


class DuringEvaluation(TrainerCallback):
    def on_prediction_step(self, args, state, control, **_):
        if state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_an_evaluation_leaves_the_random_numbers_of_training(tmp_path):
    def made(folder):
        options = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 2, "watch": 0}
        args = NLFTConfig(output_dir=str(tmp_path / folder), **{**COMMON, **LONG, **options})
        held_out = examples(16)[12:]
        return NLFTTrainer(dropping(), args, examples(), eval_dataset=held_out, processing_class=tiny.tokenizer())

    trainer = made("ended")
    trainer.add_callback(DuringEvaluation())
    with pytest.raises(Terminated), interruptible(trainer, RunDir(tmp_path / "ended")):
        trainer.train()
    whole, again = made("whole"), made("ended")
    whole.train()
    again.train(resume_from_checkpoint=True)
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name


def test_processes_ask_each_other_about_once_a_second(monkeypatch):
    """All of them at the same micro-batch, however fast each is."""
    now, asked = [0.0, 0.0], [[], []]
    shared = []

    class Fake:
        def __init__(self, rank):
            self.args = SimpleNamespace(world_size=2)
            self.accelerator = SimpleNamespace(device=torch.device("cpu"), gather=lambda own: self.gathered(own))
            self.rank = rank

        def gathered(self, own):
            asked[self.rank].append(round(now[self.rank] / seconds))
            shared.append(own)
            return torch.cat([own, torch.tensor([0.0, 0.25])])  # the slower process takes a quarter of a second

    for rank, seconds in ((0, 0.01), (1, 0.25)):
        monkeypatch.setattr(interrupts.time, "monotonic", lambda rank=rank: now[rank])
        callback = TerminationCallback(Fake(rank))
        for _ in range(20):
            now[rank] += seconds
            assert not callback._is_asked_in_step()
    assert asked[0] == asked[1] == [1, 5, 9, 13, 17]
    assert {float(one[0]) for one in shared} == {0.0}
