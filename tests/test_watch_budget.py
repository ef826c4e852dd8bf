"""Watching costs at most its share, in short runs too: counted in tokens that pass through the model."""

import re
import time
from types import SimpleNamespace

import pytest
import torch

from helpers import training
from nlft.commands.starting import tell_end
from nlft.core.schemes.strike import StrikeSettings
from nlft.runs.run_dir import RunDir
from nlft.training import watching
from nlft.training.watch_budget import _tokens
from nlft.training.watching import WatchCallback


class Passes:
    """Counts tokens of forward passes, a pass with gradient twice: with an adapter its backward costs as much again."""

    def __init__(self, trainer):
        self.work = {"training": 0, "watching": 0}
        self.doing = "training"
        score = trainer._watch._score

        def watching(*args, **options):
            self.doing = "watching"
            try:
                return score(*args, **options)
            finally:
                self.doing = "training"

        trainer._watch._score = watching
        inner = trainer.model.get_base_model().model.embed_tokens
        inner.register_forward_hook(self.count)

    def count(self, module, inputs, output):
        tokens = int((inputs[0] != 0).sum())  # 0 is the padding
        self.work[self.doing] += tokens * (2 if torch.is_grad_enabled() else 1)

    @property
    def share(self):
        return self.work["watching"] / sum(self.work.values())


def train(folder, steps, scheme="nlft", **settings):
    trainer = training.nlft_trainer(
        folder, saliency=scheme, max_steps=steps, watch=4, **{"watch_every": 0, "watch_share": 0.05, **settings}
    )
    passes = Passes(trainer)
    trainer.train()
    return trainer, passes, RunDir(folder)


def seen(run):
    return [sum(scores is not None for scores in run.snapshot(step).scores) for step in run.snapshot_steps()]


@pytest.mark.parametrize("scheme", ["nlft", StrikeSettings(stop_below=0.0)])
@pytest.mark.parametrize("steps", [8, 24])
def test_start_and_end_keep_within_the_share_in_short_runs(tmp_path, scheme, steps):
    trainer, passes, run = train(tmp_path, steps, scheme)
    assert passes.share <= 0.05
    # What was counted before scoring goes through the model, or less: untouched tokens need no alternatives.
    assert 0.5 * trainer._watch.budget.spent <= passes.work["watching"] <= trainer._watch.budget.spent
    assert passes.work["training"] >= 0.95 * trainer._watch.budget.step * steps
    recorded = run.snapshot_steps()
    assert (recorded[0], recorded[-1]) == (0, steps)
    first, last = run.snapshot(0).scores, run.snapshot(steps).scores
    assert sum(scores is not None for scores in first) >= 1
    assert sum(scores is not None for scores in last) >= 1
    for index in range(4):
        assert any(run.snapshot(step).scores[index] is not None for step in recorded)


def test_the_examples_that_are_named_are_scored_at_both_ends(tmp_path):
    """Others are left out, in a training as short as this: those that no step has scored took their place."""
    named = training.examples()[9].id
    for folder, watch_ids in (("named", [named]), ("free", None)):
        _, _, run = train(tmp_path / folder, 3, watch_ids=watch_ids, watch_share=0.01)
        first, last = (run.snapshot(step).scores for step in (0, 3))
        assert any(scores is None for scores in last)
        if watch_ids:
            at = [one.id for one in run.watched()].index(named)
            assert first[at] is not None
            assert last[at] is not None


def test_a_longer_run_scores_all_at_both_ends_and_then_between(tmp_path):
    _, passes, run = train(tmp_path, 56, watch_every=1, watch_batches=False)
    assert run.snapshot_steps(whole=True)[0] == 0
    assert run.snapshot_steps(whole=True)[-1] == 56
    assert set(seen(run)) == {4}
    assert passes.share <= 0.05


def test_the_first_snapshot_has_the_first_batchs_scores_too(tmp_path):
    _, passes, run = train(tmp_path / "with", 8)
    _, other, alone = train(tmp_path / "without", 8, watch_batches=False)
    first, only = run.snapshot(0), alone.snapshot(0)
    scored = [index for index, scores in enumerate(only.scores) if scores is not None]
    assert len(scored) < sum(scores is not None for scores in first.scores) <= 4
    for index in scored:
        assert first.scores[index].base.tolist() == only.scores[index].base.tolist()
    assert not first.whole
    # Without batches, each example is scored at the end at the latest: the map lacks none.
    assert sum(scores is not None for scores in alone.snapshot(8).scores) >= 4 - len(scored)
    assert passes.work["watching"] < other.work["watching"]


def test_a_training_of_3_steps_says_that_it_exceeds_the_share(tmp_path, capsys):
    trainer, passes, run = train(tmp_path, 3)
    assert passes.share > 0.05
    assert trainer._watch.budget.share(3) == pytest.approx(passes.share, abs=0.05)
    assert {
        index for step in run.snapshot_steps() for index, one in enumerate(run.snapshot(step).scores) if one
    } == set(range(4))
    trainer._watch.seconds = 0.25 * trainer.training_seconds
    tell_end(run, trainer)
    told = re.search(r"(\d+\.\d)% of the training, above --watch_share 0.05", capsys.readouterr().out)
    assert told
    assert float(told[1]) == pytest.approx(25, abs=0.11)


def test_the_same_training_scores_the_same_examples_and_trains_the_same_weights(tmp_path):
    one, _, first = train(tmp_path / "a", 8)
    two, _, second = train(tmp_path / "b", 8)
    full, _, _ = train(tmp_path / "c", 8, watch_share=1.0)
    assert [seen(first), first.snapshot_steps()] == [seen(second), second.snapshot_steps()]
    weights = [training.adapter(trainer.model) for trainer in (one, two, full)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])
        assert torch.equal(value, weights[2][name])


def test_a_training_that_may_end_by_dose_counts_on_its_first_steps_only(tmp_path):
    trainer, passes, run = train(tmp_path, 80, StrikeSettings(stop_below=0.9))
    assert trainer.state.global_step == 4
    assert [run.snapshot_steps()[0], run.snapshot_steps()[-1]] == [0, 4]
    assert passes.share <= 0.08, "the rest is the example that each end has in any case, and those without scores"
    assert passes.share == pytest.approx(trainer._watch.budget.share(4), abs=0.02)


def test_a_training_that_is_stopped_early_scores_less_at_its_end(tmp_path):
    asked = training.Ask(tmp_path, {5: [("stop", None)]})
    trainer = training.nlft_trainer(tmp_path, max_steps=56, watch=4, watch_every=0, watch_share=0.05, callbacks=[asked])
    trainer.train()
    run = RunDir(tmp_path)
    assert trainer.state.global_step == 4
    assert seen(run)[0] == 4  # 56 steps could afford it
    assert seen(run)[-1] == 1


class Requests:
    def __init__(self, *found):
        self.found = list(found)

    def has_requests(self):
        return self.found.pop(0) if self.found else False


def bare_watch(tmp_path, **options):
    trainer = training.nlft_trainer(tmp_path / "run", max_steps=1, watch=2, **options)
    trainer.train()
    return trainer, next(one for one in trainer.callback_handler.callbacks if isinstance(one, WatchCallback))


def test_a_scoring_needs_time_for_itself_and_for_the_one_at_the_end(tmp_path):
    trainer, watch = bare_watch(tmp_path)
    trainer.args.watch_share, trainer.steering = 0.5, Requests()
    watch.budget = SimpleNamespace(allows_one_more=lambda steps: True)
    watch.seconds, watch._last_cost, watch._began = 1.0, 1.0, 0.0
    for training_seconds, may in ((6.001, True), (5.999, False)):
        watch._ended = training_seconds
        assert watch._may_score(1) is may


def test_a_scoring_that_gives_way_to_a_request_has_still_cost_its_time(tmp_path, monkeypatch):
    trainer, watch = bare_watch(tmp_path)
    trainer.steering, before = Requests(True), watch.seconds
    monkeypatch.setattr(watching, "score_with_alternatives", lambda *_: time.sleep(0.01) or (None, None))
    watch._last_step = -1
    assert watch._score(trainer.state, trainer.model, range(2), patient=True) is False
    assert 0.01 <= watch.seconds - before < 1


def test_a_snapshot_says_alternatives_if_any_example_has_some(tmp_path):
    trainer, watch = bare_watch(tmp_path)
    kept = []
    watch._writer = SimpleNamespace(submit=lambda write: write())
    watch.run = SimpleNamespace(store_snapshot=kept.append)
    said = {"tokens": []}
    for found in ({0: (None, said)}, {0: (None, None)}):
        watch._submit(7, trainer.state, found)
    assert [one.alternatives for one in kept] == [[said, None], None]


def test_rows_that_no_scheme_asks_for_have_no_tokens(tmp_path):
    uniform, nlft = (training.nlft_trainer(tmp_path / name, saliency=name, watch=0) for name in ("uniform", "nlft"))
    trained = sum(len(one.base) + len(one.completion) for one in uniform.train_dataset[:3])
    assert _tokens(uniform.builder, uniform.train_dataset[:3]) == (trained, 0)
    assert _tokens(nlft.builder, nlft.train_dataset[:3])[1] > 0
