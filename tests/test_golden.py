"""`nlft-original` against the 24 recorded cases: masks, weights, losses, gradients, at the file's tolerances."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import tiny
from helpers.training import lora
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.logprobs import enable_scoring
from nlft.core.saliency import ConditionLogprobs, TokenWeights
from nlft.core.schemes.nlft_original import (
    OriginalSettings,
    guarded_log,
    original_cluster,
    original_losses,
    original_token_weights,
    original_weights,
)
from nlft.core.schemes.registry import get_scheme

GOLDEN = Path(__file__).parent / "golden"
CASES = json.loads((GOLDEN / "nlft_reference_cases.json").read_text())["cases"]


def flat(nested):
    return torch.tensor([float(value) for sample in nested for value in sample], dtype=torch.float32)


def masks(nested):
    return torch.tensor([value for sample in nested for value in sample])


def settings_of(case):
    names = ("threshold", "ratio", "judge_floor", "salient_fraction", "cluster_distance", "correct_threshold")
    return OriginalSettings(**{name: case["params"][name] for name in names})


def weigh(case):
    given = case["inputs"]
    hidden = torch.cat([torch.tensor(sample, dtype=torch.float32) for sample in given["hidden"]])
    judge = None if given["p_judge"] is None else flat(given["p_judge"])
    return original_token_weights(flat(given["p_base"]), judge, flat(given["p_standard"]), hidden, settings_of(case))


def test_all_recorded_cases_are_here():
    assert len(CASES) == 24


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_masks_and_weights_are_those_of_the_original(case):
    salient, cluster, weight = weigh(case)
    assert torch.equal(salient, masks(case["expected"]["salient"]))
    assert torch.equal(cluster, masks(case["expected"]["cluster"]))
    torch.testing.assert_close(weight, flat(case["expected"]["weight"]), atol=2e-5, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_losses_and_gradients_are_those_of_the_original(case):
    salient, _, weight = weigh(case)
    expected = case["expected"]
    p_base = flat(case["inputs"]["p_base"]).requires_grad_()
    mistakes = salient & (case["branch"] == "incorrect")
    branch = -(weight * guarded_log(torch.where(mistakes, 1 - p_base, p_base))).mean()
    nll = -flat(case["inputs"]["p_wrap_row_at_base_labels"]).log().mean()
    for name, ours in [("branch_loss", branch), ("nll_loss", nll), ("total_loss", 10 * (branch + nll))]:
        torch.testing.assert_close(ours.detach(), torch.tensor(float(expected[name])), rtol=1e-5, atol=0, msg=name)
    (gradient,) = torch.autograd.grad(branch, p_base)
    close = {"rtol": 2e-5, "atol": 1e-6}
    torch.testing.assert_close(gradient, flat(expected["grad_branch_wrt_p_base"]), **close)
    torch.testing.assert_close(gradient * p_base.detach(), flat(expected["grad_branch_wrt_logp_base"]), **close)


# exp(log(p)) is p only to rounding: cases that sit on a threshold are equal on probabilities alone (above).
SINGLE = [
    c
    for c in CASES
    if c["batch_size"] == 1
    and c["expected"]["total_loss"] != "inf"
    and (c["edge"] is None or c["edge"] == "probabilities 0 and 1")
]


def test_the_cases_on_the_path_of_training_are_not_few():
    assert len(SINGLE) == 15


@pytest.mark.parametrize("case", SINGLE, ids=lambda c: c["id"])
def test_what_training_computes_from_log_probabilities_is_the_same(case):
    """The path that the trainer takes, logarithms in, for the cases with one sample, as in training."""
    given, expected = case["inputs"], case["expected"]
    right = case["branch"] == "correct"
    logp = flat(given["p_base"]).log()[None].requires_grad_()
    logprobs = ConditionLogprobs(
        base=logp.detach(),
        mask=torch.ones_like(logp, dtype=torch.bool),
        label=torch.tensor([right]),
        standard=flat(given["p_standard"]).log()[None],
        judge=logp.detach() if right else flat(given["p_judge"]).log()[None],
        hidden=torch.tensor(given["hidden"]),
    )
    weights = original_weights(logprobs, settings_of(case))
    losses = original_losses(weights, logp, flat(given["p_wrap_row_at_base_labels"]).log()[None])
    total = losses.total.sum() / logp.shape[1]
    assert isinstance(weights, TokenWeights)
    torch.testing.assert_close(total.detach(), torch.tensor(float(expected["total_loss"])), rtol=1e-5, atol=0)
    ours = weights.likelihood + weights.unlikelihood
    torch.testing.assert_close(ours[0], flat(expected["weight"]), atol=2e-5, rtol=0)


def test_in_training_a_wrong_samples_nll_is_read_in_its_judge_row_at_the_base_rows_positions():
    """The one declared misreading, with gradient, against whole softmaxes."""
    net, examples = lora(tiny.model()).eval(), tiny.encoded()
    expected = []
    for example in examples:
        prompt = example.base if example.label else example.judge
        logits = net(input_ids=torch.tensor([[*prompt, *example.completion]])).logits[0].log_softmax(-1)
        # Positions past the end of a shorter judge row hold padding; with these examples there are none.
        read = range(len(example.base) - 1, len(example.base) - 1 + len(example.completion))
        expected.append(sum(logits[at, token] for at, token in zip(read, example.completion, strict=True)))
    enable_scoring(net)
    scheme, settings = get_scheme("nlft-original"), OriginalSettings()
    builder = BatchBuilder(0, needs=scheme.needs(settings), extra_rows=scheme.extra_rows)
    scored = score_batch(net, builder.batch(builder(examples)), builder.needs)
    assert scored.extra.sample.tolist() == [at for at, e in enumerate(examples) if not e.label]
    nothing = replace_weights(scheme.weigh(scored.conditions, settings))
    losses = scheme.losses(nothing, scored, settings).total
    torch.testing.assert_close(losses, -10 * torch.stack(expected), atol=1e-3, rtol=1e-5)
    assert losses.sum().requires_grad
    assert len(scored.top1) == len(examples), "the extra rows do not count towards the accuracy"


def replace_weights(weights):
    """The same with no weight anywhere: what is left of the loss is the NLL."""
    zeros = torch.zeros_like(weights.likelihood)
    return replace(weights, likelihood=zeros, unlikelihood=zeros)


def test_a_walk_of_the_original_stops_at_exactly_the_distance():
    salient, hidden = torch.tensor([True, False]), torch.eye(2)  # 1 - cosine is exactly 1
    assert original_cluster(salient, hidden, 1.0).tolist() == [True, False]
    assert original_cluster(salient, hidden, 0.5).tolist() == [True, True]
