"""The `dft` scheme against its formula written out plainly, in value and gradient."""

import pytest
import torch

from helpers import tiny
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.saliency import ConditionLogprobs
from nlft.core.schemes.dft import DFTSettings, dft_weights
from nlft.core.schemes.registry import get_scheme

DFT = get_scheme("dft")
TEXTS = [("7", False), ("it is 12, as everyone knows", True), ("8 or so", False), ("12", True)]


def encoded():
    encoder = ConditionEncoder(tiny.tokenizer())
    return [
        encoder.encode(id=i, prompt="5 + 7?", completion=text, label=label, answer="12", judgment="bad")
        for i, (text, label) in enumerate(TEXTS)
    ]


def gradient(net, loss):
    return torch.autograd.grad(loss, net.get_input_embeddings().weight)[0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_is_minus_p_held_fast_times_log_p_on_every_token(family):
    net = tiny.model(family)
    examples = encoded()
    plain = []
    for e in examples:
        ids = torch.tensor([e.base + e.completion])
        logp = net(input_ids=ids).logits[0, len(e.base) - 1 : -1].log_softmax(-1)
        said = logp[range(len(e.completion)), e.completion]
        plain.append(-(said.exp().detach() * said).sum())
    expected = torch.stack(plain)
    wanted = gradient(net, expected.sum())

    enable_scoring(net)
    builder = BatchBuilder(0, needs=DFT.needs(DFTSettings()))
    batch = builder.batch(builder(examples))
    assert batch.scored_rows is None, "it asks for no condition but base"
    scored = score_batch(net, batch, builder.needs)
    weights = DFT.weigh(scored.conditions, DFTSettings())
    losses = DFT.losses(weights, scored, DFTSettings()).total
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)
    found = gradient(net, losses.sum())
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_padding_has_no_weight_and_nothing_is_tagged():
    mask = torch.tensor([[True, True, True], [True, False, False]])
    base = torch.tensor([[-0.5, -2.0, -9.0], [-1.0, 0.0, 0.0]])
    weights = dft_weights(ConditionLogprobs(base, mask, torch.tensor([True, False])), DFTSettings())
    torch.testing.assert_close(weights.likelihood, base.exp() * mask)
    assert not weights.unlikelihood.any()
    assert not weights.tag.any()
    assert not weights.gated.any()


def test_it_trains(tmp_path):
    from helpers.training import nlft_trainer

    trainer = nlft_trainer(tmp_path, saliency="dft")
    trainer.train()
    assert len([e for e in trainer.state.log_history if "loss" in e]) == 4
    assert {"standard", "judge"}.isdisjoint(trainer.needs)
