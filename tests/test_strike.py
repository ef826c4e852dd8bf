"""`strike` against its formula, written out slowly, one token at a time, with whole logits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import TrainerCallback

from helpers import tiny
from helpers.pieces import piece_tokenizer
from helpers.striking import (
    SETTINGS,
    STRIKE,
    TOKENIZER,
    batch_of_five,
    example,
    gradients,
    records,
    scored,
    trained,
    trainer,
)
from helpers.training import COMMON, adapter, lora
from nlft.commands.starting import tell_end
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.hold import Role
from nlft.core.logprobs import causal_lm, enable_scoring
from nlft.core.schemes.registry import get_scheme
from nlft.core.schemes.strike import StrikeSettings
from nlft.core.snapshot import plan_digest
from nlft.core.spans import Span, quoted_spans
from nlft.data.records import Example
from nlft.errors import NLFTError, UserError
from nlft.experiments import curves
from nlft.runs.run_dir import RunDir
from nlft.training.pivots import candidates
from nlft.training.striking import StrikeShareSampler, struck_lines
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def log_softmax(net, prompt, completion):
    logits = net(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1)


def slow_loss(net, one, plan, settings):
    """L of one example, by the formula: loops, whole logits, no masks."""

    def both(ids):
        with torch.no_grad(), net.disable_adapter():
            base = log_softmax(net, one.base, ids)
        return base, log_softmax(net, one.base, ids)

    def kl(base, now, banned=(), temperature=1.0):
        allowed = [k for k in range(len(base)) if k not in banned]
        q = (base[allowed] / temperature).log_softmax(0)
        return (q.exp() * (q - now[allowed])).sum()

    base, now = both(one.completion)
    inside = {t for span in one.spans for t in range(span.start, span.end)}
    words = set() if one.kept else set(plan.words)
    struck, held, kept, banned_there, replaced = [], [], [], [], []

    def likely(base):
        return base.exp()[list(plan.words)].sum() > settings.keep_mass

    for span in one.spans:
        text = "".join(TOKENIZER.convert_ids_to_tokens(one.completion[span.start : span.end]))
        beginnings = {k for token, k in TOKENIZER.get_vocab().items() if text.startswith(token) and token != "Ġ"}
        banned = {*plan.first_tokens, one.completion[span.start], *beginnings}
        struck.append(kl(base[span.start], now[span.start], banned, settings.strike_temperature))
    for t, token in enumerate(one.completion):
        if t not in inside:
            banned = words if token not in words else set()
            held.append(kl(base[t], now[t], banned))
            if banned and likely(base[t]):
                banned_there.append(held[-1])
            if one.kept and likely(base[t]):
                kept.append(kl(base[t], now[t]))
    if one.patched:
        base, now = both(one.patched.ids)
        ((start, end),) = one.patched.places
        end = max(end, start + 1)
        replaced.append(-sum(now[t, one.patched.ids[t]] for t in range(start, end)))
        for t in range(end, len(one.patched.ids)):
            banned = words if one.patched.ids[t] not in words else set()
            held.append(kl(base[t], now[t], banned))
            if banned and likely(base[t]):
                banned_there.append(held[-1])

    def mean(values):
        return sum(values) / len(values) if values else torch.tensor(0.0)

    return (
        settings.strike_weight * mean(struck)
        + settings.hold_weight * mean(held)
        + settings.keep_weight * mean(kept)
        + settings.ban_weight * mean(banned_there)
        + settings.replace_weight * mean(replaced)
    )


@pytest.mark.parametrize("family", ["llama", "gemma", "gemma2", "qwen3"])
def test_loss_and_gradient_are_those_of_the_formula(family):
    net, examples = trained(family), batch_of_five()
    found, losses, plan = scored(net, examples)
    expected = torch.stack([slow_loss(net, one, plan, SETTINGS) for one in examples])
    torch.testing.assert_close(losses.total / found.lengths, expected, atol=1e-5, rtol=1e-5)
    assert {name for name, part in losses.more.items() if part.detach().abs().sum() > 0} == set(losses.more)
    assert len(losses.more) == 5
    for ours, theirs in zip(
        gradients(net, (losses.total / found.lengths).sum()), gradients(net, expected.sum()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def distance_to_base(net):
    """The largest KL(base || model) of any token of a liked reply, at which nothing is banned."""
    found, _, _ = scored(net, [example("a", "a sleek, flat pan", label=True, kept=True)])
    return float(found.held.kl.detach().max())


def test_holding_alone_leaves_the_model_where_it_was(tmp_path):
    plain = [replace(one, label=True, judgment=None) for one in records()]
    run = trainer(tmp_path, plain, max_steps=10)
    run.train()
    assert run.state.global_step == 10
    assert distance_to_base(run.model.eval()) < 1e-6
    moved = trainer(tmp_path, records(), max_steps=10)
    moved.train()
    assert distance_to_base(moved.model.eval()) > 1e-3


def test_a_sample_without_spans_is_only_held():
    net = trained()
    _, losses, _ = scored(net, [example("a", "a sleek pan", "sleek"), example("b", "a flat pan")])
    assert losses.more["strike"][0] > 0
    assert losses.more["strike"][1] == 0
    assert losses.more["hold"][1] > 0
    assert losses.more["keep"][1] == 0


def test_a_liked_reply_is_trained_if_it_has_no_mark_whatever_its_replacement_changes():
    settings = replace(SETTINGS, like_weight=1.0)
    marked = {
        "none": example("a", "a pan, flat", label=True),
        "adds": example("b", "a pan, flat", "pan", label=True, replace="pan set"),
        "unchanged": example("c", "a pan, flat", "pan", label=True, replace="pan"),
        "kept": example("d", "a pan, flat", label=True, kept=True),
        "wrong": example("e", "a pan, flat"),
    }
    net = trained()
    found, losses, plan = scored(net, list(marked.values()), settings)
    nll = -(found.logp * found.conditions.mask).sum(1)
    for at, (name, one) in enumerate(marked.items()):
        expected = nll[at].item() if name == "none" else 0.0
        assert losses.likelihood[at].item() == pytest.approx(expected), name
        assert plan.marks(one)[0].graded == [name == "none"] * len(one.completion)
    assert any(g is not None and g.abs().max() > 0 for g in gradients(net, losses.likelihood.sum()))


def test_training_makes_what_is_struck_rare_and_ends_by_dose(tmp_path, capsys):
    run = trainer(tmp_path, max_steps=200, learning_rate=5e-3, saliency=StrikeSettings(stop_below=0.0037))
    run.train()
    logs = [log for log in run.state.log_history if "nlft/struck_probability" in log]
    assert run.state.global_step < 200
    assert run.state.global_step % 4 == 0
    assert logs[-1]["nlft/struck_probability"] < 0.0037 < logs[0]["nlft/struck_probability"]
    assert logs[-1]["nlft/dose_per_strike"] > 1
    tell_end(RunDir(tmp_path), run)
    told = capsys.readouterr().out
    assert f"ended at step {run.state.global_step} of 200" in told
    assert "--saliency.stop_below 0.0037" in told


def test_a_resumed_run_ends_as_the_whole_one_does(tmp_path):
    settings = {"max_steps": 12, "save_strategy": "steps", "save_steps": 5, "learning_rate": 5e-3}
    whole = trainer(tmp_path / "whole", **settings)
    whole.train()
    cut = trainer(tmp_path / "cut", **settings)
    cut.add_callback(StopAt(5))
    cut.train()
    resumed = trainer(tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(RunDir(tmp_path / "cut").checkpoints_path / "checkpoint-5"))
    for name, expected in adapter(whole.model).items():
        assert torch.equal(adapter(resumed.model)[name], expected), name
    assert torch.equal(resumed._dose.doses, whole._dose.doses)
    assert torch.equal(resumed._dose.probability, whole._dose.probability)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        control.should_training_stop = state.global_step >= self.step
        control.should_save = control.should_training_stop


@pytest.mark.parametrize(("batch", "share", "least"), [(2, 0.5, 1), (4, 0.5, 2), (3, 0.9, 3), (4, 0.0, 0)])
def test_each_batch_has_its_share_of_struck_replies(batch, share, least):
    struck = [i % 6 == 0 for i in range(24)]
    sampler = StrikeShareSampler(struck, batch, share, seed=3)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert len(orders[-1]) == 24 == len(sampler)
        for start in range(0, 24 - batch + 1, batch):
            assert sum(struck[i] for i in orders[-1][start : start + batch]) >= least
        assert {i for i in orders[-1] if struck[i]} == {0, 6, 12, 18}
    assert orders[0] != orders[1]
    if share < 0.9:
        assert {i for order in orders for i in order} == set(range(24)), "an example never took part"


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_step_takes_the_same_examples_however_it_is_cut_and_each_part_has_its_share(micro):
    struck = [i % 6 == 0 for i in range(27)]  # the last step has 3 places

    def steps(micro):
        order = list(StrikeShareSampler(struck, 8, 0.5, seed=3, micro=micro))
        return [order[start : start + 8] for start in range(0, 27, 8)]

    assert [sorted(step) for step in steps(micro)] == [sorted(step) for step in steps(8)]
    for step in steps(micro)[:-1]:
        shares = [sum(struck[i] for i in step[at : at + micro]) for at in range(0, 8, micro)]
        assert sum(shares) == 4
        assert max(shares) - min(shares) <= 1


def test_words_are_struck_everywhere_only_if_one_token_spells_them():
    short = example("a", "a pan, sleek", "pan")
    longer = example("b", "it is sleekish", "sleekish")
    whole = example("c", "so sleek", "sleek")
    ids = TOKENIZER.get_vocab()

    def words(*examples):
        plan = STRIKE.plan(examples, TOKENIZER, StrikeSettings())
        return {TOKENIZER.convert_ids_to_tokens(token) for token in plan.words}

    assert words(short) == set()  # three letters
    assert words(longer) == set()  # its first token is another word
    assert words(whole) == {"Ġsleek"}
    assert words(example("d", "-", listed=["modern"])) == {"Ġmodern"}
    plan = STRIKE.plan([longer], TOKENIZER, StrikeSettings())
    assert ids["Ġsleek"] in plan.first_tokens
    assert ids["Ġs"] in plan.marks(longer)[0].bans[longer.spans[0].start]


def test_kept_replies_and_said_leave_the_words_alone():
    kept, wrong = example("a", "a flat pan", label=True, kept=True), example("b", "so sleek a pan", "sleek")
    liked = example("c", "a flat pan", label=True)
    plan = STRIKE.plan([kept, liked, wrong], TOKENIZER, StrikeSettings())
    assert set(plan.marks(kept)[0].bans) == {()}
    assert set(plan.marks(kept)[0].roles) == {Role.KEPT}
    assert set(plan.marks(liked)[0].bans) == {plan.words}
    assert plan.words in plan.marks(wrong)[0].bans
    said = STRIKE.plan([kept, liked, wrong], TOKENIZER, StrikeSettings(strike_at="said"))
    assert sum(bool(bans) for bans in said.marks(wrong)[0].bans) == 1


def test_common_beginnings_of_span_and_replacement_are_not_struck():
    one = example("a", "so sleek flat", "sleek flat", replace="sleek pan")
    plan = STRIKE.plan([one], TOKENIZER, StrikeSettings())
    completion, patched = plan.marks(one)
    sleek, flat, pan = (TOKENIZER.get_vocab()[token] for token in ("Ġsleek", "Ġflat", "Ġpan"))
    assert completion.roles[one.completion.index(sleek)] == Role.HELD
    assert completion.roles[one.completion.index(flat)] == Role.STRUCK
    assert patched.roles[one.patched.ids.index(sleek)] == Role.FREE
    assert patched.roles[one.patched.ids.index(pan)] == Role.REPLACED


UNCHANGED = {
    "one": ("it is sleek now", [(6, 11, "sleek")]),
    "the whole reply": ("sleek", [(0, 5, "sleek")]),
    "inside a token": ("it is sleek now", [(7, 9, "le")]),
    "two in one token": ("it is sleek now", [(6, 7, "sl"), (7, 8, "")]),
    "the last word": ("it is sleek", [(6, 11, "sleek")]),
}


def spanned(completion, spans, **more):
    encoder = ConditionEncoder(TOKENIZER)
    marked = [Span(*span) for span in spans]
    return encoder.encode(
        id="a", prompt="Say", completion=completion, label=False, judgment="No.", spans=marked, **more
    )


@pytest.mark.parametrize("pivot", ["first", "all"])
@pytest.mark.parametrize(("completion", "spans"), UNCHANGED.values(), ids=UNCHANGED)
def test_a_replacement_that_changes_nothing_strikes_and_trains_nothing(completion, spans, pivot):
    one = spanned(completion, spans)
    plan = STRIKE.plan([one], TOKENIZER, StrikeSettings(pivot=pivot))
    assert plan.rows(one) == []
    (marks,) = plan.marks(one)
    assert set(marks.roles) == {Role.HELD}
    assert (plan.words, plan.first_tokens) == ((), ())
    assert not plan.is_struck(one)
    assert len(plan.unchanged(one)) == 1


def test_a_replacement_that_changes_nothing_leaves_the_others_of_its_reply_alone():
    alone = spanned("a sleek, modern pan", [(9, 15, "flat")])
    both = spanned("a sleek, modern pan", [(2, 7, "sleek"), (9, 15, "flat")])
    plans = [STRIKE.plan([one], TOKENIZER, StrikeSettings()) for one in (alone, both)]
    assert plans[0].marks(alone) == plans[1].marks(both)
    assert both.patched.ids == alone.patched.ids
    assert [mark.replacements for mark in plans[1].marks(both)] == [0, 1]


def test_a_replacement_that_only_adds_is_trained_and_its_reply_counts_as_struck():
    one = spanned("it is sleek now", [(6, 11, "sleek and flat")])
    plan = STRIKE.plan([one], TOKENIZER, StrikeSettings())
    assert Role.STRUCK not in plan.marks(one)[0].roles
    assert Role.REPLACED in plan.marks(one)[1].roles
    assert plan.is_struck(one)


def test_a_reply_whose_replacement_changes_nothing_is_no_struck_one_of_a_step(tmp_path):
    same = Example("same", "Describe pan 9.", "a sleek pan", False, judgment="No.", spans=(Span(2, 7, "sleek"),))
    run = trainer(tmp_path, [*records(3), same])
    sampler = run._get_train_sampler()
    assert sampler.struck == [1, 2]


def test_full_fine_tuning_and_a_trained_head_are_refused(tmp_path):
    args = NLFTConfig(output_dir=str(tmp_path), **COMMON)
    with pytest.raises(UserError, match="hold_weight"):
        NLFTTrainer(
            tiny.model(vocabulary=len(TOKENIZER)),
            args,
            records(),
            processing_class=TOKENIZER,
            saliency="strike",
            peft_config=None,
        )
    net = lora(tiny.model(vocabulary=len(TOKENIZER)), modules_to_save=["lm_head"])
    enable_scoring(net)
    with pytest.raises(NLFTError, match="LM head"):
        scored(net, batch_of_five())


@pytest.mark.parametrize("name", ["nlft", "cut", "dft", "uniform"])
def test_every_scheme_can_hold_the_tokens_that_it_does_not_push_down(name):
    net, scheme, examples = trained(), get_scheme(name), tiny.encoded()
    settings = scheme.settings(hold_weight=0.8)
    builder = BatchBuilder(0, needs=scheme.needs(settings))
    found = score_batch(net, builder.batch(builder(examples)), builder.needs)
    weights = scheme.weigh(found.conditions, settings)
    losses = scheme.losses(weights, found, settings)
    bare = scheme.settings()
    assert "hold" not in scheme.needs(bare)
    for row, one in enumerate(examples):
        with torch.no_grad(), net.disable_adapter():
            base = log_softmax(net, one.base, one.completion)
        now = log_softmax(net, one.base, one.completion)
        kl = (base.exp() * (base - now)).sum(-1)
        held = kl[weights.unlikelihood[row, : len(kl)] == 0].mean()
        torch.testing.assert_close(losses.more["hold"][row] / len(kl), 0.8 * held, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses.total, losses.likelihood + losses.unlikelihood + losses.more["hold"])
    # The gradient through the log-probabilities is that of the run without the hold.
    plain_builder = BatchBuilder(0, needs=scheme.needs(bare))
    plain = score_batch(net, plain_builder.batch(plain_builder(examples)), plain_builder.needs)
    expected = scheme.losses(scheme.weigh(plain.conditions, bare), plain, bare).total.sum()
    for ours, theirs in zip(
        gradients(net, (losses.total - losses.more["hold"]).sum()), gradients(net, expected), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_run_goes_on_when_the_pivots_or_the_scheme_change_while_it_trains(tmp_path):
    run = trainer(tmp_path, max_steps=6)
    changes = {2: ("strike", {"stop_below": 0, "pivot": "all"}), 4: ("uniform", {"hold_weight": 1.0})}
    run.add_callback(Change(run, changes))
    run.train()
    assert run.state.global_step == 6
    assert run._dose.doses.tolist() == [4.0] * 4  # the steps with `uniform` are no dose


def test_the_dose_is_that_of_the_tokens_that_are_struck_now(tmp_path):
    """A token that is no longer struck would keep its last probability, and the run would never end by dose."""
    quoted = [
        replace(e, judgment=e.judgment and f'It praises: "{" ".join(e.completion.split()[1:3])}".') for e in records()
    ]
    run = trainer(tmp_path, quoted, max_steps=6, saliency=StrikeSettings(stop_below=0, pivot="all"))
    every = run._dose.tokens
    run.add_callback(Change(run, {2: ("strike", {"stop_below": 0}), 4: ("strike", {"stop_below": 0, "pivot": "all"})}))
    seen = {}
    run.add_callback(Note(lambda step: seen.update({step: (run._dose.tokens, run._dose.doses.tolist())})))
    run.train()
    firsts, doses = seen[3]
    assert len(firsts) == len(every) // 2 > 0
    assert set(firsts) < set(every)
    assert doses == [3.0] * len(firsts), "two as one of all, and one alone"
    assert dict(zip(*seen[6], strict=True)) == {token: 6.0 if token in firsts else 4.0 for token in every}


def test_a_resumed_dose_is_taken_over_for_the_same_tokens_alone(tmp_path):
    one, other = trainer(tmp_path / "a"), trainer(tmp_path / "b", [records()[1], *records(9)[6:]])
    one._dose.doses, one._dose.probability = torch.full((4,), 3.0), torch.full((4,), 0.25)
    one._dose.write(tmp_path)
    other.resumed_from = tmp_path
    other._dose.restore()
    common = [token in one._dose.tokens for token in other._dose.tokens]
    assert True in common
    assert False in common
    assert other._dose.doses.tolist() == [3.0 if known else 0.0 for known in common]
    assert other._dose.probability.isnan().tolist() == [not known for known in common]


def test_a_run_that_changes_to_strike_ends_by_dose_too(tmp_path):
    run = trainer(tmp_path, max_steps=200, learning_rate=5e-3, saliency=get_scheme("uniform").settings(hold_weight=1.0))
    run.add_callback(Change(run, {2: ("strike", {"stop_below": 0.0037})}))
    assert run._dose is None
    run.train()
    logs = [log["nlft/struck_probability"] for log in run.state.log_history if "nlft/struck_probability" in log]
    assert logs[-1] < 0.0037 < logs[0]
    assert 2 < run.state.global_step < 200


def test_a_run_that_strikes_nothing_logs_no_dose_and_its_curve_has_none(tmp_path):
    run = trainer(tmp_path, [replace(e, label=True, judgment=None) for e in records()], max_steps=2)
    run.train()
    assert not any("nlft/dose_per_strike" in log for log in run.state.log_history)
    assert curves.Curve._dose(SimpleNamespace(trainer=run)) is None


class Note(TrainerCallback):
    def __init__(self, note):
        self.note = note

    def on_step_end(self, args, state, control, **_):
        self.note(state.global_step)


class Change(TrainerCallback):
    def __init__(self, run, changes):
        self.run, self.changes = run, changes

    def on_step_end(self, args, state, control, **_):
        if state.global_step in self.changes:
            self.run.use_scheme(*self.changes[state.global_step])


def test_words_are_looked_up_without_the_tokens_that_begin_a_text():
    tokenizer = tiny.tokenizer(words=(" sleek",))
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", tokenizer.convert_tokens_to_ids("<|end|>"))]
    )
    assert len(tokenizer(" sleek")["input_ids"]) == 2
    plan = STRIKE.plan([example("c", "so sleek", "sleek")], tokenizer, StrikeSettings())
    assert {tokenizer.convert_ids_to_tokens(token) for token in plan.words} == {"Ġsleek"}


BEGUN = {
    "a function word begins a phrase": ('"with sleek pan"', "with sleek pan", {}, set(), ("with",)),
    "whatever its case": ('"With sleek pan"', "With sleek pan", {}, set(), ("with",)),
    "quoted alone": ('"with"', "pan with pan", {}, {"with"}, ()),
    "quoted alone with a comma": ('"with,"', "pan with, pan", {}, {"with"}, ()),
    "quoted alone elsewhere": ('"with sleek pan" "with"', "with sleek pan with", {}, {"with"}, ()),
    "listed": ('"with sleek pan"', "with sleek pan", {"listed": ("with",)}, {"with"}, ()),
    "another word begins a phrase": ('"sleek with pan"', "so sleek with pan", {}, {"sleek"}, ()),
    "a phrase in another language": ('"diese pan"', "diese pan", {}, set(), ("diese",)),
}


@pytest.mark.parametrize(("judgment", "completion", "listed", "everywhere", "only_said"), BEGUN.values(), ids=BEGUN)
def test_a_function_word_that_begins_a_quote_is_struck_only_there(judgment, completion, listed, everywhere, only_said):
    pieces = (" with", "with", "With", " diese", "diese", " sleek")
    tokenizer = tiny.tokenizer(words=pieces)
    spans = quoted_spans(completion, judgment).spans
    encoder = ConditionEncoder(tokenizer, **listed)
    one = encoder.encode(id="a", prompt="Say", completion=completion, label=False, judgment=judgment, spans=spans)
    plan = STRIKE.plan([one], tokenizer, StrikeSettings())
    assert set(plan.whole_words) == everywhere
    assert {tokenizer.decode([token]).strip().lower() for token in plan.words} == everywhere
    assert plan.only_said == only_said
    assert one.completion[one.spans[0].start] in plan.first_tokens, "it is struck where it was said"


def test_a_run_says_and_records_what_it_strikes_everywhere(tmp_path, capsys):
    same = Example("same", "Describe pan 9.", "a flat pan", False, judgment="No.", spans=(Span(2, 6, "flat"),))
    inside = (Span(2, 4, "fl"), Span(4, 6))  # two marks in one token
    halved = Example("halved", "Describe pan 8.", "a sleek pan", False, judgment="No.", spans=inside)
    run = trainer(tmp_path / "run", [*records(6), same, halved])
    told = capsys.readouterr().out
    assert "struck at every token of reviewed replies: modern, sleek" in told
    assert "1 replacements are what was said" in told
    assert "1 replacements are not trained" in told
    assert "'halved'" in told
    run.train()
    struck = {"everywhere": ["modern", "sleek"], "only_said": [], "unchanged_replacements": 1}
    struck["dropped_replacements"] = {"halved": 1}
    assert RunDir(tmp_path / "run").settings()["struck"] == struck
    trainer(tmp_path / "said", saliency=StrikeSettings(stop_below=0, strike_at="said"))
    assert "struck" not in capsys.readouterr().out


def test_what_is_struck_is_told_in_a_few_lines():
    words = [f"word{n}" for n in range(15)]
    record = {"everywhere": words, "only_said": ["with"], "unchanged_replacements": 0, "dropped_replacements": {}}
    first, second = struck_lines(record)
    assert "word11 and 3 more" in first
    assert "word12" not in first
    assert "--strike_words" in second


PIECES = (" sleek", " durable", " Durable", " flat", " pan", " a")


@pytest.mark.parametrize("kind", ["llama", "gemma", "mistral", "bytes"])
def test_listed_words_are_banned_by_the_token_in_which_they_begin(kind):
    tokenizer = tiny.tokenizer(words=PIECES) if kind == "bytes" else piece_tokenizer(kind, PIECES)
    encoder = ConditionEncoder(tokenizer, listed=("durable", "unlisted", "flat pan", "!"))
    one = encoder.encode(id="a", prompt="Say", completion="so sleek", label=False, judgment="No.", spans=[Span(3, 8)])
    plan = STRIKE.plan([one], tokenizer, StrikeSettings())

    def text(token):
        return tokenizer.convert_ids_to_tokens(token).replace("▁", " ").replace("Ġ", " ")

    assert sorted(map(text, plan.first_tokens)) == sorted([" sleek", " durable", "u", " flat", "!"])
    assert {text(token) for token in plan.words} == {" sleek", " durable", " Durable"}
    banned = set(map(text, plan.marks(one)[0].bans[one.spans[0].start]))
    assert {" durable", " flat"} < banned
    assert " " not in banned


@pytest.mark.parametrize("kind", ["llama", "gemma", "mistral"])
@pytest.mark.parametrize("completion", ["✨ sleek pan", "a ✨ pan", "✨"])
def test_the_space_that_a_tokenizer_writes_apart_is_not_struck_in_place_of_the_word(kind, completion):
    tokenizer = piece_tokenizer(kind, PIECES)
    encoder = ConditionEncoder(tokenizer, listed=("漂亮",))
    at = completion.index("✨")
    one = encoder.encode(id="a", prompt="Say", completion=completion, label=False, spans=[Span(at, at + 1)])
    plan = STRIKE.plan([one], tokenizer, StrikeSettings())
    [strike] = plan.strikes(one)
    space = tokenizer.convert_tokens_to_ids("▁")
    assert tokenizer.convert_ids_to_tokens([one.completion[pivot] for pivot in strike.pivots]) == ["<0xE2>"]
    assert space not in plan.first_tokens
    assert space not in {token for bans in plan.marks(one)[0].bans for token in bans}
    assert candidates(tokenizer, one.completion, one.spans[0]) == list(strike.pivots)


@pytest.mark.parametrize("end", [3, 4])
def test_white_space_is_struck_if_a_marked_text_begins_with_it(end):
    tokenizer = piece_tokenizer("gemma", PIECES)
    spans = [Span(1, end)]
    one = ConditionEncoder(tokenizer).encode(id="a", prompt="Say", completion="a  ✨", label=False, spans=spans)
    plan = STRIKE.plan([one], tokenizer, StrikeSettings())
    assert [strike.pivots for strike in plan.strikes(one)] == [(1,)]
    assert one.spans[0].start == 1


@pytest.mark.parametrize("lead", [" ", "\n"])
def test_a_slow_tokenizer_bans_the_first_token_that_is_no_space(lead, monkeypatch):
    tokenizer = tiny.own_tokenizer(words=PIECES)
    plan = STRIKE.plan([example("d", "-")], tokenizer, StrikeSettings())
    expected = plan._ids("unlisted", lead)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    assert plan._ids("unlisted", lead) == expected


@pytest.mark.parametrize(("scheme", "copies"), [("strike", 8), ("uniform", 4)])
def test_a_chunk_has_room_for_the_logits_of_the_base_as_well_as_its_own(scheme, copies):
    net, bytes_ = trained(), 2**15
    enable_scoring(net, chunk_bytes=bytes_)
    rows = []
    hook = causal_lm(net).get_output_embeddings().register_forward_hook(lambda _, given, out: rows.append(len(out)))
    if scheme == "strike":
        scored(net, batch_of_five())
    else:
        builder = BatchBuilder(0, needs=frozenset({"base"}))
        score_batch(net, builder.batch(builder(batch_of_five())), builder.needs)
    hook.remove()
    assert max(rows) == bytes_ // (4 * copies * len(TOKENIZER))


def test_another_replacement_is_another_plan_for_kept_rows():
    first, second = (example("a", "it is sleek", "sleek", replace=word) for word in ("flat", "modern"))
    plan = STRIKE.plan([first], TOKENIZER, StrikeSettings(strike_at="said"))
    marks = [[(one.roles, one.bans) for one in plan.marks(each)] for each in (first, second)]
    assert marks[0] == marks[1], "only the rows' ids differ"
    assert plan_digest(plan, [first]) == plan_digest(plan, [replace(first, id="b")])
    assert plan_digest(plan, [first]) != plan_digest(plan, [second])


def test_a_data_seed_of_0_orders_the_examples(tmp_path):
    for settings, seed in (({"data_seed": 0}, 0), ({"data_seed": 7}, 7), ({}, 5)):
        made = trainer(tmp_path, seed=5, **settings)
        assert made._get_train_sampler().seed == seed
