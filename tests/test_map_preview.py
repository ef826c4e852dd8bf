"""What snapshots keep for the map beside the scores, and the map of a file before any training."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny
from helpers.striking import TOKENIZER, trained
from helpers.training import nlft_trainer
from nlft.cli import main
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.saliency import Tag
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.spans import Span, quoted_spans
from nlft.runs.run_dir import RunDir
from nlft.training.said_instead import CHOICES
from nlft.training.watching import score_with_alternatives


def encoded(completion, *marked, label=False):
    spans = [Span(s.start, s.end, None) for m in marked for s in quoted_spans(completion, f'"{m}"').spans[:1]]
    encoder = ConditionEncoder(TOKENIZER)
    return encoder.encode(
        id="a", prompt="Say", completion=completion, label=label, answer="-", judgment="It praises.", spans=spans
    )


@pytest.fixture(scope="module")
def net():
    """A model whose adapter has moved away from the base."""
    return trained()


def first_choices(net, one, at):
    ids = torch.tensor([[*one.base, *one.completion]])
    with torch.no_grad():
        top = net(input_ids=ids).logits[0, len(one.base) + at - 1].float().softmax(-1).topk(CHOICES)
    return [(TOKENIZER.decode([k]), p) for k, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


@pytest.mark.parametrize("name", ["strike", "nlft"])
def test_snapshots_hold_the_first_choices_of_base_and_tuned_model_at_touched_tokens(net, name):
    one = encoded("a sleek, modern pan", "sleek", "modern")
    scheme = get_scheme(name)
    settings = StrikeSettings() if name == "strike" else NLFTSettings(mistake_ratio=1.0001, mistake_floor=0.0)
    plan = scheme.plan([one], TOKENIZER, settings)
    scores, said = score_with_alternatives(net, one, 0, scheme, settings, plan, TOKENIZER)
    touched = (scores.tag == (Tag.STRUCK if name == "strike" else Tag.SALIENT)).nonzero()[0].tolist()
    assert said["at"] == touched
    assert touched
    for place, at in enumerate(touched):
        with net.disable_adapter():
            base = first_choices(net, one, at)
        for found, wanted in ((said["now"][place], first_choices(net, one, at)), (said["base"][place], base)):
            assert [text for text, _ in found] == [text for text, _ in wanted]
            assert [p for _, p in found] == pytest.approx([p for _, p in wanted], rel=0.01)
    assert said["now"] != said["base"]
    json.dumps(said)


def test_model_without_an_adapter_has_no_base_beside_it():
    bare = tiny.model(vocabulary=len(TOKENIZER))
    enable_scoring(bare)
    settings = NLFTSettings(mistake_ratio=1.0001, mistake_floor=0.0)
    scores, said = score_with_alternatives(
        bare, encoded("a sleek pan"), 0, get_scheme("nlft"), settings, None, TOKENIZER
    )
    assert (scores.tag == Tag.SALIENT).any()
    assert said is None


def test_signal_of_strike_adds_up_to_the_examples_loss(net):
    one = encoded("a sleek, modern pan", "sleek, modern")
    strike = get_scheme("strike")
    settings = StrikeSettings(ban_weight=0.7, strike_weight=1.5, hold_weight=0.6, keep_mass=0.001)
    plan = strike.plan([one], TOKENIZER, settings)
    builder = BatchBuilder(0, needs=strike.needs(settings), plan=plan)
    found = score_batch(net, builder.batch(builder([one])), builder.needs)
    losses = strike.losses(strike.weigh(found.conditions, settings), found, settings)
    scores, _ = score_with_alternatives(net, one, 0, strike, settings, plan, TOKENIZER)
    total = sum(part.item() for part in losses.more.values()) / len(one.completion)
    assert scores.signal.sum() == pytest.approx(total, rel=1e-4)
    assert scores.signal[scores.tag == Tag.INSIDE].max() == 0


def test_signal_of_kept_scores_is_that_of_the_models_own_probabilities(tmp_path):
    """The weights stem from kept scores, so what a token adds to the loss follows from its probability of now."""
    kept = {"condition_logprobs": "frozen", "condition_cache": str(tmp_path / "cache")}
    loose = NLFTSettings(mistake_ratio=1.0001, mistake_floor=0.0)
    nlft_trainer(tmp_path, saliency=loose, max_steps=3, learning_rate=0.05, **kept).train()
    scores = [one for one in RunDir(tmp_path).snapshot(3).scores if one is not None]
    assert any(one.unlikelihood.any() for one in scores)
    for one in scores:
        now = one.current.astype(np.float64)
        pushed = one.likelihood * now + one.unlikelihood * np.log1p(-np.exp(now))
        np.testing.assert_allclose(one.signal, -pushed / len(now), rtol=1e-3, atol=1e-6)
    assert max(np.abs(one.current - one.base).max() for one in scores) > 0.01


def write(path: Path) -> Path:
    rows = [
        {"id": "a", "prompt": "A pan?", "completion": "a sleek pan", "label": False, "judgment": '"sleek" is praise.'},
        {"id": "b", "prompt": "A pot?", "completion": "a flat pot", "label": True, "feedback": "It is short."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_map_of_a_file_shows_what_feedback_would_touch_before_any_training(tmp_path, model_folder, capsys):
    file = write(tmp_path / "shop.jsonl")
    page = tmp_path / "map.html"
    command = f"map --examples {file} --model_name_or_path {model_folder} --scheme strike --html {page}"
    assert main(shlex.split(command)) in (0, None)
    told = capsys.readouterr()
    assert "2 of 2 examples" in told.out
    assert f"nlft train {file}" in told.out.splitlines()[-1].replace("'", "")
    data = json.loads(page.read_text().split('id="data">')[1].split("</script>")[0])
    (run,) = data["runs"]
    assert (run["run"], run["preview"], run["changes"]["steps"]) == ("shop", True, [0])
    assert [one["id"] for one in run["examples"]] == ["a", "b"]
    assert run["examples"][0]["spans"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--examples", "FILE"], "--model_name_or_path"),
        (["runs/a", "--examples", "FILE", "--model", "m"], "takes no run"),
        (["--examples", "FILE", "--model", "m", "--scheme", "uniform"], "uniform reads no feedback"),
        ([], "--examples FILE"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_its_cure(tmp_path, capsys, words, said):
    file = str(write(tmp_path / "shop.jsonl"))
    assert main(["map", *[file if word == "FILE" else word for word in words]]) == 2
    assert said in capsys.readouterr().err
