"""`ftpo` against its formula, written out plainly, one struck token at a time."""

from dataclasses import replace

import pytest
import torch

from helpers.striking import TOKENIZER, trained, trainer
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.hold import Role
from nlft.core.schemes.ftpo import FTPOSettings
from nlft.core.schemes.registry import get_scheme
from nlft.core.spans import Span, quoted_spans
from nlft.runs.run_dir import RunDir

FTPO = get_scheme("ftpo")
SETTINGS = FTPOSettings(
    margin=1.5, min_p=0.3, most_alternatives=6, off_target_weight=0.3, target_weight=0.7, free_change=0.05, stop_below=0
)


def example(id, completion, *marked, label=False, replace=None):
    found = [quoted_spans(completion, f'"{text}"').spans[0] for text in marked]
    spans = [Span(span.start, span.end, replace) for span in found]
    judgment = None if label else "It praises."
    encode = ConditionEncoder(TOKENIZER).encode
    return encode(id=id, prompt="Say", completion=completion, label=label, judgment=judgment, spans=spans)


def batch():
    return [
        example("a", "a sleek, modern pan", "sleek", "modern"),
        example("b", "a flat pan", label=True),
        example("c", "it is sleek", "sleek", replace="flat"),
    ]


def losses(net, examples, settings=SETTINGS):
    plan = FTPO.plan(examples, TOKENIZER, settings)
    builder = BatchBuilder(0, needs=FTPO.needs(settings), plan=plan)
    scored = score_batch(net, builder.batch(builder(examples)), builder.needs)
    return FTPO.losses(FTPO.weigh(scored.conditions, settings), scored, settings), scored, plan


def plain_loss(net, one, plan, settings):
    """The mean over one example's struck tokens, by the formula."""
    ids = torch.tensor([[*one.base, *one.completion]])
    with torch.no_grad(), net.disable_adapter():
        base = net(input_ids=ids).logits[0, len(one.base) - 1 : -1].float()
    now = net(input_ids=ids).logits[0, len(one.base) - 1 : -1].float()
    bans, found = plan.marks(one)[0].bans, []
    for strike in plan.strikes(one):
        (t,) = strike.pivots
        y, z, b = one.completion[t], now[t], base[t]
        order = [c for c in b.argsort(descending=True).tolist() if c not in bans[t]]
        p = b.softmax(0)
        likely = [c for rank, c in enumerate(order) if p[c] >= settings.min_p * p.max() or rank < 4]
        chosen = likely[: settings.most_alternatives]
        assert 4 <= len(chosen) <= 6
        total = 0
        for c in chosen:
            delta = float((z[c] - z[y]).detach())
            weight = min(1.0, max(0.0, (settings.margin - delta) / settings.margin))
            total = total + weight * torch.log1p(torch.exp(settings.margin - (z[c] - z[y])))
        rest = [k for k in range(len(z)) if k not in {y, *chosen}]
        total = total + settings.off_target_weight * ((z[rest] - b[rest]) ** 2).mean()
        over = [max(abs(z[k] - b[k]) - settings.free_change, torch.tensor(0.0)) ** 2 for k in [y, *chosen]]
        found.append(total + settings.target_weight * sum(over) / len(over))
    return sum(found) / len(found) if found else torch.tensor(0.0)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_loss_and_gradient_are_those_of_the_formula(family):
    net, examples = trained(family), batch()
    ours, scored, plan = losses(net, examples)
    expected = torch.stack([plain_loss(net, one, plan, SETTINGS) for one in examples])
    assert (expected > 0).tolist() == [True, False, True]
    torch.testing.assert_close(ours.total / scored.lengths, expected, atol=1e-5, rtol=1e-5)
    parameters = [p for p in net.parameters() if p.requires_grad]
    plain = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    fast = torch.autograd.grad((ours.total / scored.lengths).sum(), parameters, allow_unused=True)
    assert max(float(g.abs().max()) for g in plain if g is not None) > 1e-3
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_only_rows_of_struck_tokens_are_made():
    _, scored, _ = losses(trained("llama"), batch())
    assert scored.held.struck.now.shape == (3, len(TOKENIZER))  # three struck tokens of 40 or so
    assert [TOKENIZER.convert_ids_to_tokens(int(token)) for token in scored.held.struck.said] == [
        "Ġsleek",
        "Ġmodern",
        "Ġsleek",
    ]


def test_training_makes_what_is_struck_rarer(tmp_path):
    run = trainer(tmp_path, saliency=FTPOSettings(stop_below=0), max_steps=12, learning_rate=5e-3)
    run.train()
    found = [log["nlft/struck_probability"] for log in run.state.log_history if "nlft/struck_probability" in log]
    assert found[-1] < found[0]


def test_a_reply_without_strikes_alone_is_only_held():
    net, (_, liked, _) = trained("llama"), batch()
    found, scored, _ = losses(net, [liked], FTPOSettings(hold_weight=1.0))
    assert scored.held.struck.now.shape == (0, len(TOKENIZER))
    assert found.more["ftpo"].tolist() == [0.0]
    assert found.total.item() == found.more["hold"].item() > 0


def test_watched_replies_without_strikes_are_scored_too(tmp_path):
    run = trainer(tmp_path, saliency=FTPOSettings(stop_below=0), max_steps=1, watch=6)
    run.train()
    assert len(RunDir.open(tmp_path).snapshot_steps()) == 2


@pytest.mark.parametrize(("completion", "others"), [("sleek", 1), ("a sleek, modern pan", 5)])
def test_tokens_that_are_not_struck_are_held_as_a_mean(completion, others):
    one = example("a", completion, "sleek")
    net = trained()
    found, scored, _ = losses(net, [one], replace(SETTINGS, hold_weight=0.6))
    held = (scored.held.role[0] == Role.HELD) | (scored.held.role[0] == Role.KEPT)
    assert int(held.sum()) == others
    expected = 0.6 * scored.lengths[0] * scored.held.kl[0][held].mean()
    assert expected.item() > 0
    torch.testing.assert_close(found.more["hold"][0], expected)


@pytest.mark.parametrize(
    ("beside", "name", "value", "idle"),
    [
        ({"most_alternatives": 6}, "fewest_alternatives", 30, True),
        ({"most_alternatives": 6}, "fewest_alternatives", 2, False),
        ({"most_alternatives": 4}, "min_p", 0.3, True),
        ({"most_alternatives": 20}, "min_p", 0.3, False),
        ({"min_p": 0.0}, "fewest_alternatives", 2, True),
        ({"target_weight": 0.0}, "free_change", 0.01, True),
        ({}, "free_change", 0.01, False),
    ],
)
def test_a_setting_that_changes_no_loss_is_called_idle(beside, name, value, idle):
    """`fewest_alternatives` above the most has the effect of the most."""
    base = FTPOSettings(**{"min_p": 0.999, "target_weight": 0.7, **beside})
    if name == "fewest_alternatives" and value > base.most_alternatives:
        base = replace(base, fewest_alternatives=base.most_alternatives)
    varied = replace(base, **{name: value})
    net = trained()
    before, after = (losses(net, batch(), cfg)[0].total.tolist() for cfg in (base, varied))
    assert (before == after) == idle == (name in FTPO.idle(varied))
