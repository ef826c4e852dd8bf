"""`condition_logprobs: epoch` and `frozen`: the scores that training reads, where they are, and what changes them."""

import contextlib
import itertools
import multiprocessing
import os
import shutil
import time
from dataclasses import replace

import pytest
import torch
from peft import FourierFTConfig, LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from transformers import TrainerCallback

from helpers import striking, tiny
from helpers.training import COMMON, REDIRECTED, Ask, adapter, examples, lora, nlft_trainer
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder, pad_rows
from nlft.core.hold import HoldEverything
from nlft.core.logprobs import enable_scoring, score
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.core.snapshot import ConditionSnapshot, Kept, score_conditions
from nlft.core.spans import Span
from nlft.data.records import Example
from nlft.errors import UserError
from nlft.runs.run_dir import RunDir
from nlft.training import condition_cache
from nlft.training.condition_cache import ConditionCache, fingerprint, model_parts, weights_digest
from nlft.training.trainer import NLFTConfig, NLFTTrainer
from nlft.training.watching import score_alone

LOOSE = NLFTSettings(mistake_ratio=1.0, mistake_floor=0.0, certain_threshold=0.01, neighbour_similarity=0.3)
WHOLE = {"hold_mass": 1.0, "hold_tokens": 100_000}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Each test has a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nlft" / "conditions"


def losses(trainer):
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def trained(make, *args, **settings):
    trainer = make(*args, **settings)
    trainer.train()
    return trainer


def assert_same_run(one, other):
    assert losses(one) == losses(other)
    ours, theirs = adapter(one.model), adapter(other.model)
    assert len(ours) > 4
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


# The scores, and what a step costs


@pytest.mark.parametrize("saliency", [LOOSE, "cut", "rlsd", "strike", NLFTSettings(hold_weight=0.5)])
def test_a_first_frozen_step_is_that_of_live_conditions(tmp_path, saliency):
    """Before the first step the model is the one that scored, so weights, losses and gradients agree."""
    make = striking.trainer if saliency == "strike" else nlft_trainer
    holds = saliency == "strike" or getattr(saliency, "hold_weight", 0) > 0
    assert_same_first_step(tmp_path, make, WHOLE if holds else {}, saliency=saliency)


def marked(id, text, replace=None, **more):
    spans = (Span(at := "a sleek, modern pan".index(text), at + len(text), replace),) if text else ()
    return Example(id=id, prompt="Describe it.", completion="a sleek, modern pan", spans=spans, answer="-", **more)


MARKED = {
    "two places": [marked("a", "sleek", label=False), marked("b", "modern", label=False)],
    "two replacements": [marked("a", "sleek", "flat", label=False), marked("b", "sleek", "very flat", label=False)],
    "two of one length": [marked("a", "sleek", "flat", label=False), marked("b", "sleek", "pan", label=False)],
    "kept and not": [marked("a", "", label=True), marked("b", "", label=True, keep=True),
                     marked("c", "sleek", label=False)],
}  # fmt: skip


@pytest.mark.parametrize("case", MARKED)
def test_examples_of_one_reply_with_other_marks_have_each_its_own_base(tmp_path, case):
    assert_same_first_step(tmp_path, striking.trainer, WHOLE, data=MARKED[case])


def assert_same_first_step(folder, make, kept, **options):
    found = {}
    for mode in ("live", "frozen"):
        more = {} if mode == "live" else kept
        trainer = make(folder / mode, condition_logprobs=mode, watch=0, **options, **more)
        trainer.before_first_step(resumes=False)
        features = trainer._as_needed(trainer.builder(trainer.train_dataset[:5]))
        trainer.model.train()
        trainer.get_batch_samples(iter([features]), 1, torch.device("cpu"))
        loss = trainer.compute_loss(trainer.model, features)
        loss.backward()
        grads = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
        found[mode] = loss.item(), grads
    assert found["frozen"][0] == pytest.approx(found["live"][0], abs=1e-5)
    assert any(grad.abs().max() > 1e-4 for grad in found["live"][1].values())
    for name, grad in found["live"][1].items():
        torch.testing.assert_close(found["frozen"][1][name], grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("saliency", ["nlft", "cut", "rlsd", "strike"])
def test_a_frozen_step_makes_no_forward_but_the_one_with_gradient(tmp_path, saliency):
    make = striking.trainer if saliency == "strike" else nlft_trainer
    counts = {}
    for mode in ("live", "frozen"):
        trainer = make(tmp_path / mode, saliency=saliency, condition_logprobs=mode, max_steps=3, watch=0)
        passes = []
        trainer.add_callback(CountPasses(trainer, passes))
        trainer.train()
        counts[mode] = passes
    batches = 3 * COMMON["gradient_accumulation_steps"]
    assert counts["frozen"] == [True] * batches
    assert len(counts["live"]) == 2 * batches


class CountPasses(TrainerCallback):
    """Notes for each pass through the decoder whether it has a gradient, from the first step on."""

    def __init__(self, trainer, passes):
        self.trainer, self.passes = trainer, passes

    def on_train_begin(self, args, state, control, **_):
        decoder = self.trainer.model.get_base_model().model
        decoder.register_forward_hook(lambda *_: self.passes.append(torch.is_grad_enabled()))


def test_each_example_gets_its_own_scores_however_many_processes_share_the_work():
    net = lora(tiny.model(), init_lora_weights=False)
    enable_scoring(net)
    given = tiny.encoded()
    kept = Kept(frozenset({"standard", "judge", "band"}), HoldEverything(), 1.0, 10)
    whole = score_conditions(net, given, kept, 0)
    for at, one in enumerate(given):
        for name, prompt in {"base": one.base, "standard": one.standard, "judge": one.judge or one.base}.items():
            with torch.no_grad():
                alone = score(net, pad_rows([(prompt, one.completion)], 0)).logp[0]
            torch.testing.assert_close(whole.scores(name, at), alone, atol=1e-5, rtol=1e-5)
    passes, parts = [], []
    for rank in range(2):
        with contextlib.suppress(KeyError):  # one process alone lacks the other's scores
            score_conditions(net, given, kept, 0, rank=rank, ranks=2, share=lambda own: parts.append(own) or [{}],
                             advance=lambda rows, rank=rank: passes.append(rank))  # fmt: skip
    assert passes.count(0) == passes.count(1) == 2, "all processes make equally many passes"
    shared = score_conditions(net, given, kept, 0, share=lambda own: parts)
    assert whole.tensors.keys() == shared.tensors.keys()
    assert all(torch.equal(tensor, shared.tensors[name]) for name, tensor in whole.tensors.items())


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_where_rotary_angles_follow_the_length_each_example_is_scored_and_held_as_if_alone(kind):
    """A step's live scores, its distances to the base, kept ones and the map's: whatever stands in the batch."""
    model, words = tiny.turning(kind, limit=150), "so to say, "
    net = lora(model, init_lora_weights=False)
    enable_scoring(net)
    encoder, scheme = ConditionEncoder(tiny.tokenizer()), get_scheme("nlft")
    settings = NLFTSettings(hold_weight=0.5)
    needs, given = scheme.needs(settings) | {"hold"}, []
    for at, (text, label) in enumerate([("7", False), (words * 12, False), ("12", True), (words * 9, True)]):
        given.append(encoder.encode(id=at, prompt="5 + 7?", completion=text, label=label, answer="5 + 7 = 12",
                                    judgment=None if label else f"{text} is wrong."))  # fmt: skip
    builder = BatchBuilder(0, needs=needs)

    def read(examples):
        net.zero_grad()
        scored = score_batch(net, builder.batch(builder(examples)), needs)
        (scored.held.kl.sum() + scored.logp.sum()).backward()
        return scored, [p.grad.clone() for p in net.parameters() if p.requires_grad]

    mixed, gradient = read(given)
    turned, _ = read(given[::-1])
    alone = [read([one]) for one in given]
    keeps = Kept(frozenset({"standard", "judge", "hold"}), HoldEverything(), 1.0, 10_000)
    kept = score_conditions(net, given, keeps, 0)
    for total, *parts in zip(gradient, *(grads for _, grads in alone), strict=True):
        torch.testing.assert_close(total, sum(parts), atol=1e-4, rtol=1e-4)
    for at, (one, _) in enumerate(alone):
        count = len(given[at].completion)
        shown = score_alone(net, given[at], 0, scheme, settings)
        for name in ("base", "standard", "judge"):
            own = getattr(one.conditions, name)[0]
            for found in (getattr(mixed.conditions, name)[at], getattr(turned.conditions, name)[-1 - at]):
                torch.testing.assert_close(found[:count], own, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(kept.scores(name, at), own, atol=1e-5, rtol=1e-5)
            if (on_map := getattr(shown, name)) is not None:
                torch.testing.assert_close(torch.from_numpy(on_map.copy()), own, atol=1e-5, rtol=1e-5)
        for found in (mixed.held.kl[at], turned.held.kl[-1 - at]):
            torch.testing.assert_close(found[:count], one.held.kl[0], atol=1e-5, rtol=1e-5)


# The cache


@pytest.mark.parametrize("saliency", [LOOSE, "strike"])
def test_a_cold_and_a_warm_cache_train_the_same_bytes(tmp_path, home, saliency):
    """With dropout, which draws random numbers at each step: filling the cache draws none."""
    make = striking.trainer if saliency == "strike" else dropping
    cold, warm = (
        trained(make, tmp_path / name, saliency=saliency, condition_logprobs="frozen") for name in ("cold", "warm")
    )
    assert_same_run(cold, warm)
    (file,) = home.iterdir()
    assert RunDir(tmp_path / "warm").settings()["condition_cache"]["fingerprints"] == [file.stem]
    one, other = ((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("cold", "warm"))
    assert one == other


def dropping(folder, **settings):
    return nlft_trainer(folder, model=lora(tiny.model(), lora_dropout=0.3), **settings)


def test_scoring_draws_no_random_numbers_and_leaves_the_mode(tmp_path):
    trainer = dropping(tmp_path, condition_logprobs="frozen")
    trainer.model.train()
    before = torch.random.get_rng_state()
    trainer.before_first_step(resumes=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert trainer.model.training
    assert len(trainer.kept.snapshots) == 1


def test_runs_share_a_cache_while_the_adapter_adds_nothing(tmp_path, home):
    for seed, rank in ((1, 4), (2, 8)):
        torch.manual_seed(seed)
        net = get_peft_model(tiny.model(), LoraConfig(r=rank, target_modules="all-linear"))
        nlft_trainer(tmp_path / "run", model=net, condition_logprobs="frozen").before_first_step(resumes=False)
        assert len(list(home.iterdir())) == 1
    moved = lora(tiny.model(), init_lora_weights=False)
    nlft_trainer(tmp_path / "run", model=moved, condition_logprobs="frozen").before_first_step(resumes=False)
    assert len(list(home.iterdir())) == 2
    net = tiny.model()
    torch.manual_seed(7)
    other = get_peft_model(net, LoraConfig(r=4, lora_alpha=9, target_modules="all-linear", init_lora_weights=False))
    for one, same in zip(moved.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, same), "then the scale alone tells them apart"
    nlft_trainer(tmp_path / "run", model=other, condition_logprobs="frozen").before_first_step(resumes=False)
    assert len(list(home.iterdir())) == 3


def other_weight():
    net = tiny.model()
    with torch.no_grad():
        net.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    return lora(net)


CHANGES = {
    "data": lambda: {"data": [replace(examples()[0], completion="40 - 11 = 28"), *examples()[1:]]},
    "order": lambda: {"data": examples()[::-1]},
    "template": lambda: {"judge_prompt_template": "{prompt}\nBeware: {judgment}"},
    "system prompt": lambda: {"system_prompt": "Be brief."},
    "weights": lambda: {"model": other_weight()},
    "dtype": lambda: {"model": lora(tiny.model(dtype=torch.bfloat16))},
    "attention": lambda: {"model": eager()},
    "family": lambda: {"model": lora(tiny.model("qwen3"))},
    "scheme": lambda: {"saliency": "cut"},
    "hold": lambda: {"saliency": NLFTSettings(hold_weight=1.0)},
    "chunks": lambda: {"logit_chunk_mib": 1},
    "autocast": lambda: {"bf16": True},
}


def eager():
    net = tiny.model()
    net.set_attn_implementation("eager")
    return lora(net)


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_scores_depend_on_makes_a_new_cache(tmp_path, home, change):
    options = {"condition_logprobs": "frozen", "watch": 0}
    nlft_trainer(tmp_path / "one", **options).before_first_step(resumes=False)
    nlft_trainer(tmp_path / "again", learning_rate=0.5, seed=3, **options).before_first_step(resumes=False)
    assert len(list(home.iterdir())) == 1
    nlft_trainer(tmp_path / "other", **options, **CHANGES[change]()).before_first_step(resumes=False)
    assert len(list(home.iterdir())) == 2


@pytest.mark.parametrize("settings", [{"strike_at": "said"}, {"strike_temperature": 2.0}])
def test_what_is_struck_is_part_of_the_fingerprint(tmp_path, home, settings):
    for saliency in (striking.WHOLE, replace(striking.WHOLE, strike_weight=2.0), replace(striking.WHOLE, **settings)):
        striking.trainer(tmp_path / "run", saliency=saliency, condition_logprobs="frozen").before_first_step(
            resumes=False
        )
    assert len(list(home.iterdir())) == 2


def test_versions_threads_and_the_device_are_part_of_the_fingerprint(tmp_path, home, monkeypatch):
    from nlft.training import kept_conditions

    known = kept_conditions.environment()
    changes = [{}, {"versions": {**known["versions"], "torch": "9"}}, {"threads": 99}, {"device": "Abacus"}]
    for count, change in enumerate(changes, 1):
        monkeypatch.setattr(kept_conditions, "environment", lambda change=change: {**known, **change})
        nlft_trainer(tmp_path / "run", condition_logprobs="frozen").before_first_step(resumes=False)
        assert len(list(home.iterdir())) == count


def test_scores_by_the_longest_row_of_a_batch_are_not_taken_from_an_earlier_version():
    """Only of models to whose scores it made a difference."""
    assert "angles" in model_parts(tiny.turning("longrope"))
    assert "angles" not in model_parts(tiny.model())


def test_every_byte_of_every_weight_counts():
    tensors = {"a": torch.zeros(3, 2), "b": torch.ones(2, dtype=torch.bfloat16)}
    seen = {weights_digest(tensors.items())}
    for name, place in (("a", (2, 1)), ("b", 1)):
        other = {key: value.clone() for key, value in tensors.items()}
        other[name][place] = 0.5
        seen.add(weights_digest(other.items()))
    seen.add(weights_digest({"a": torch.zeros(2, 3), "b": tensors["b"]}.items()))
    seen.add(weights_digest({"a": tensors["a"], "c": tensors["b"]}.items()))
    assert len(seen) == 5


def test_an_adapter_that_changes_nothing_yet_counts_as_none_until_one_weight_is_trained():
    def digest(a, b):
        return weights_digest({"x.lora_A.default": torch.tensor(a), "x.lora_B.default": torch.tensor(b)}.items())

    assert digest([1.0], [0.0, 0.0]) == digest([2.0], [0.0, 0.0])
    assert digest([1.0], [0.0, 1.0]) != digest([2.0], [0.0, 1.0])


def drawn(*configs):
    """A model with adapters whose weights depend on nothing but their shapes."""
    net = get_peft_model(tiny.model(), configs[0])
    for at, config in enumerate(configs[1:]):
        net.add_adapter(f"more{at}", config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.count("_proj") and ".base_layer." not in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return net


SCALES = {
    "lora": lambda scale: LoraConfig(r=4, lora_alpha=scale, target_modules=["up_proj"]),
    "loha": lambda scale: LoHaConfig(r=4, alpha=scale, target_modules=["up_proj"]),
    "lokr": lambda scale: LoKrConfig(r=4, alpha=scale, target_modules=["up_proj"]),
    "fourierft": lambda scale: FourierFTConfig(n_frequency=50, scaling=float(scale), target_modules=["up_proj"]),
}


@pytest.mark.parametrize("kind", SCALES)
def test_an_adapters_scale_is_part_of_the_fingerprint_of_any_kind(kind):
    one, other = (drawn(SCALES[kind](scale)) for scale in (8, 64))
    assert weights_digest(one.state_dict().items()) == weights_digest(other.state_dict().items())
    assert fingerprint(model_parts(one)) == fingerprint(model_parts(drawn(SCALES[kind](8))))
    assert fingerprint(model_parts(one)) != fingerprint(model_parts(other))


def test_which_adapter_is_on_is_part_of_the_fingerprint():
    net = drawn(*[LoraConfig(r=4, target_modules=["up_proj"])] * 2)
    first = fingerprint(model_parts(net))
    net.set_adapter("more0")
    second = fingerprint(model_parts(net))
    with net.disable_adapter():
        assert len({first, second, fingerprint(model_parts(net))}) == 3
    net.set_adapter("default")
    assert fingerprint(model_parts(net)) == first


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def replaced(path):
    """By whole scores of something else."""
    trainer = nlft_trainer(path.parent / "x", condition_logprobs="frozen", saliency="cut")
    trainer.before_first_step(resumes=False)
    (other,) = set(path.parent.glob("*.safetensors")) - {path}
    shutil.move(other, path)


@pytest.mark.parametrize("damage", [truncate, flip, empty, replaced])
def test_a_damaged_cache_is_told_and_made_again(tmp_path, home, damage):
    cold = trained(nlft_trainer, tmp_path / "cold", condition_logprobs="frozen", watch=0)
    (file,) = home.iterdir()
    whole = file.read_bytes()
    damage(file)
    with pytest.warns(UserWarning, match=f"{file.name}.*damaged"):
        again = trained(nlft_trainer, tmp_path / "again", condition_logprobs="frozen", watch=0)
    assert_same_run(cold, again)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path, home):
    cold = trained(nlft_trainer, tmp_path / "cold", condition_logprobs="frozen", watch=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="--condition_cache"):
        other = trained(
            nlft_trainer, tmp_path / "a", condition_logprobs="frozen", watch=0, condition_cache=str(tmp_path / "file")
        )
    assert_same_run(cold, other)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_full_disk_leaves_no_half_file(tmp_path, home, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(condition_cache, "save_file", full)
    with pytest.warns(UserWarning, match="No space left"):
        trained(nlft_trainer, tmp_path / "run", condition_logprobs="frozen", watch=0)
    assert list(home.iterdir()) == []


def test_two_processes_that_write_the_same_file_leave_it_whole(tmp_path):
    snapshot = ConditionSnapshot({"keys": torch.zeros(1, 16, dtype=torch.uint8), "base": torch.arange(50_000.0)})
    cache = ConditionCache(tmp_path)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=lambda: [cache.store("a" * 32, snapshot) for _ in range(20)]) for _ in range(2)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        found = cache.load("a" * 32)
        if found is not None:
            seen += 1
            assert torch.equal(found.tensors["base"], snapshot.tensors["base"])
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen > 0
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 32 + ".safetensors"]


def test_files_that_no_run_read_for_a_month_are_deleted_and_no_other(tmp_path):
    cache = ConditionCache(tmp_path)
    snapshot = ConditionSnapshot({"keys": torch.zeros(1, 16, dtype=torch.uint8)})
    names = [letter * 32 for letter in "abc"]
    for name in names:
        cache.store(name, snapshot)
    (tmp_path / "mine.safetensors").write_text("x")
    left = tmp_path / f".{names[0]}.safetensors.123.tmp"
    left.write_text("half")
    old = time.time() - 40 * 86400
    for path in tmp_path.iterdir():
        os.utime(path, (old, old))
    for name, hours in (("of-two-days", 48), ("of-an-hour", 1)):  # a killed process left it; another one may write it
        half = tmp_path / f".{names[0]}.safetensors.{name}.tmp"
        half.write_text("half")
        os.utime(half, (time.time() - hours * 3600,) * 2)
    assert cache.load(names[1]) is not None
    cache.store(names[2], snapshot)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{names[1]}.safetensors", f"{names[2]}.safetensors", "mine.safetensors",
        f".{names[0]}.safetensors.of-an-hour.tmp",
    }  # fmt: skip


# Resume, epoch, evaluation


EACH = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 99, "num_train_epochs": 3}


@pytest.mark.parametrize("mode", ["frozen", "epoch"])
@pytest.mark.parametrize("step", [2, 3])
@pytest.mark.parametrize("saliency", [LOOSE, "strike"])
def test_a_resumed_run_has_the_scores_of_the_whole_one(tmp_path, home, mode, step, saliency):
    """Step 2 ends an epoch; step 3 is inside one. The scores of `frozen` are made again where the file is gone."""
    make = striking.trainer if saliency == "strike" else dropping
    options = {"saliency": saliency, "condition_logprobs": mode, **EACH}
    if saliency == "strike":
        options |= {"per_device_train_batch_size": 2, "data": striking.records(8)}
    whole = trained(make, tmp_path / "run", **options)
    assert whole.state.max_steps == 6
    shutil.rmtree(home, ignore_errors=True)
    again = make(tmp_path / "run", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoints" / f"checkpoint-{step}"))
    assert_same_run(whole, again)


def started(folder, scale, sha):
    """A training that began with an adapter, in memory and by its record."""
    net = lora(tiny.model(), init_lora_weights=False)
    with torch.no_grad():
        next(p for name, p in net.named_parameters() if "lora_B" in name).mul_(scale)
    trainer = nlft_trainer(folder, model=net, condition_logprobs="frozen", watch=0, max_steps=2, **EACH)
    trainer.record["starting_adapter"] = sha and {"name": "mine", "sha256": sha}
    return trainer


@pytest.mark.parametrize("sha", [None, "ab"])
def test_frozen_goes_on_only_with_the_model_that_scored(tmp_path, home, sha):
    """Whether the record names the adapter, as that of a command, or not."""
    started(tmp_path / "run", 1.0, sha).train()
    checkpoint = str(tmp_path / "run" / "checkpoints" / "checkpoint-1")
    for scale, now in ((1.0, sha), (2.0, sha and "cd")):
        again = started(tmp_path / "run", scale, now)
        again.args.learning_rate *= 2
        again.record["training"]["learning_rate"] *= 2
        if scale == 1.0:
            again.train(resume_from_checkpoint=checkpoint, anyway=True)
            continue
        with pytest.raises(UserError, match="starting adapter" if sha else "--condition_logprobs frozen"):
            again.train(resume_from_checkpoint=checkpoint, anyway=True)
    assert len(list(home.iterdir())) == 1


def test_epoch_scores_again_at_each_epochs_start_and_frozen_never(tmp_path):
    read = {}
    for mode in ("epoch", "frozen"):
        trainer = nlft_trainer(tmp_path / mode, saliency=LOOSE, condition_logprobs=mode, watch=0, num_train_epochs=3)
        seen = read[mode] = []
        trainer.add_callback(AtEachStep(lambda t=trainer, seen=seen: seen.append(t.kept.snapshots[0].tensors)))
        trainer.train()
    standard = {mode: [tensors["standard"] for tensors in each] for mode, each in read.items()}
    assert all(torch.equal(one, standard["frozen"][0]) for one in standard["frozen"])
    assert torch.equal(standard["epoch"][0], standard["frozen"][0])
    changed = [not torch.equal(*pair) for pair in itertools.pairwise(standard["epoch"])]
    assert changed == [False, True, False, True, False]


class AtEachStep(TrainerCallback):
    def __init__(self, note):
        self.note = note

    def on_step_end(self, args, state, control, **_):
        self.note()


def test_held_out_examples_are_scored_apart_and_change_no_training(tmp_path, home):
    plain = trained(nlft_trainer, tmp_path / "plain", condition_logprobs="frozen", data=examples(8), watch=0)
    args = NLFTConfig(
        output_dir=str(tmp_path / "run"),
        **{**COMMON, "condition_logprobs": "frozen", "eval_strategy": "epoch", "watch": 0},
    )
    other = NLFTTrainer(
        lora(tiny.model()), args, examples(8), eval_dataset=examples(12)[8:], processing_class=tiny.tokenizer()
    )
    other.train()
    assert_same_run(plain, other)
    assert len(list(home.iterdir())) == 2
    evaluated = [log["eval_loss"] for log in other.state.log_history if "eval_loss" in log]
    assert len(set(evaluated)) == 2


def without_events(folder, mode, **settings):
    args = NLFTConfig(output_dir=str(folder), **{**COMMON, "condition_logprobs": mode, "watch": 0, **settings})
    trainer = NLFTTrainer(lora(tiny.model()), args, examples(6), examples(9)[6:], processing_class=tiny.tokenizer())
    trainer.remove_callback(trainer.recorder)
    return trainer


@pytest.mark.parametrize("mode", ["frozen", "epoch"])
def test_an_evaluation_before_the_training_scores_what_it_needs(tmp_path, home, mode):
    expected = without_events(tmp_path, "live").evaluate()["eval_loss"]
    trainer = without_events(tmp_path, mode)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-5)
    other = trainer.train_dataset[1:4]
    live = without_events(tmp_path, "live").evaluate(other)["eval_loss"]
    assert trainer.evaluate(other)["eval_loss"] == pytest.approx(live, abs=1e-5)
    assert len(list(home.glob("*"))) == (2 if mode == "frozen" else 0)
    trainer.train()
    assert len(trainer.kept.snapshots) == 2
    assert [trainer.evaluate(given)["eval_loss"] > 0 for given in (None, other[:2])] == [True, True]


def test_frozen_refuses_to_score_other_examples_with_the_trained_model(tmp_path):
    trainer = without_events(tmp_path, "frozen", max_steps=1)
    trainer.train()
    other = nlft_trainer(tmp_path / "other", data=examples(12)[9:]).train_dataset
    with pytest.raises(UserError, match="--condition_logprobs frozen"):
        trainer.evaluate(other)


# Schemes


def test_dft_weighs_by_the_probability_of_the_step_and_not_of_the_snapshot(tmp_path):
    live, frozen = (
        trained(
            nlft_trainer, tmp_path / mode, saliency=get_scheme("dft").settings(hold_weight=0.1), watch=0,
            condition_logprobs=mode, **({} if mode == "live" else WHOLE),
        )
        for mode in ("live", "frozen")
    )  # fmt: skip
    assert losses(frozen) == pytest.approx(losses(live), rel=1e-3)


REFUSED = {
    "redirect": (REDIRECTED, "redirect"),
    "nlft-original": ("nlft-original", "hidden"),
    "ftpo": ("ftpo", "logits"),
}


@pytest.mark.parametrize("mode", ["frozen", "epoch"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_scheme_that_reads_what_is_not_kept_is_refused_by_name(tmp_path, mode, case):
    saliency, named = REFUSED[case]
    make = striking.trainer if case == "ftpo" else nlft_trainer
    with pytest.raises(UserError, match=rf"--condition_logprobs {mode}.*{named}"):
        make(tmp_path, saliency=saliency, condition_logprobs=mode)


def test_a_change_while_the_run_trains_that_needs_unscored_conditions_is_refused(tmp_path):
    asked = {
        2: [("scheme", "cut"), ("saliency.inappropriate_ratio", 1.4)],
        3: [("scheme", "strike"), ("scheme", "nlft")],
        4: [("saliency.hold_weight", 1.0), ("saliency.redirect", True), ("saliency.mistake_ratio", 1.2)],
    }
    trainer = nlft_trainer(
        tmp_path, condition_logprobs="frozen", watch=2, num_train_epochs=3, callbacks=[Ask(tmp_path, asked)]
    )
    trainer.train()
    lines = {(line["step"], line["control"], line["new"]): line for line in RunDir(tmp_path).controls()}
    taken = {key for key, line in lines.items() if line["taken"]}
    assert taken == {
        (2, "scheme", "cut"), (2, "saliency.inappropriate_ratio", 1.4), (3, "scheme", "nlft"),
        (4, "saliency.mistake_ratio", 1.2),
    }  # fmt: skip
    assert "hold" in lines[3, "scheme", "strike"]["reason"]
    assert "hold" in lines[4, "saliency.hold_weight", 1.0]["reason"]
    assert "redirect" in lines[4, "saliency.redirect", True]["reason"]
    assert trainer.state.global_step == 6


def test_other_struck_tokens_than_those_that_were_scored_are_refused(tmp_path):
    asked = {2: [("saliency.strike_at", "said"), ("saliency.strike_weight", 3.0)]}
    trainer = striking.trainer(tmp_path, condition_logprobs="epoch", max_steps=3)
    trainer.add_callback(Ask(tmp_path, asked))
    trainer.train()
    taken = {line["control"]: line["taken"] for line in RunDir(tmp_path).controls()}
    assert taken == {"saliency.strike_at": False, "saliency.strike_weight": True}


# The map


@pytest.mark.parametrize("saliency", [LOOSE, "strike"])
def test_the_map_shows_the_scores_that_training_uses_and_the_current_ones_beside_them(tmp_path, saliency):
    make = striking.trainer if saliency == "strike" else nlft_trainer
    trained(make, tmp_path, saliency=saliency, condition_logprobs="frozen", watch=6, watch_every=2, watch_share=1.0,
            max_steps=4)  # fmt: skip
    run = RunDir(tmp_path)
    first, *others = (run.snapshot(step) for step in (0, 2, 4))
    assert first.whole
    for at, before in enumerate(first.scores):
        torch.testing.assert_close(torch.tensor(before.base), torch.tensor(before.current), atol=1e-5, rtol=1e-5)
        for other in others:
            after = other.scores[at]
            assert (after.base == before.base).all()
            assert (after.tag == before.tag).all()
            assert abs(after.current - before.current).max() > 1e-3
    if saliency == "strike":
        assert any(one for one in others[-1].alternatives)
    live = run.snapshot(1)
    assert not live.whole
    assert any(scores is not None and scores.current is not None for scores in live.scores)
