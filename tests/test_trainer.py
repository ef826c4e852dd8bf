"""NLFTTrainer: equal to TRL where it should be, exact on resume."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Trainer, TrainerControl, TrainerState
from transformers.integrations.neftune import activate_neftune

from helpers import tiny
from helpers.training import COMMON, adapter, examples, lora, nlft_trainer
from helpers.waiting import until
from nlft.baselines.dpo import DPOSettings
from nlft.baselines.kto import KTOSettings
from nlft.baselines.reft import ReFTSettings
from nlft.baselines.sft import SFTBaseline, SFTSettings
from nlft.core.condition_scores import is_noisy
from nlft.core.saliency import Tag
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.nlft_original import OriginalSettings
from nlft.errors import ProblemsError, UserError
from nlft.models.loading import default_lora, wrap
from nlft.runs.run_dir import RunDir
from nlft.training.callbacks import UNTIL_TIME_IS_UP, RunDirCallback, _ends_by_steps
from nlft.training.checkpoints import checkpoint_to_resume
from nlft.training.sharding import _saved_names
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def test_uniform_with_token_trains_as_trls_sft_trainer_does(tmp_path):
    """Same ids, same order, float32: the losses of every step, and the adapters at the end, agree."""
    ours = nlft_trainer(tmp_path / "ours", saliency="uniform", loss_normalization="token")
    ours.train()
    args = SFTSettings(output_dir=str(tmp_path / "trl"), engine="trl", target="all-completions", **COMMON)
    theirs = SFTBaseline(lora(tiny.model()), args, examples(), tiny.tokenizer(), None)
    theirs.train()
    steps = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (ours, theirs)]
    assert len(steps[0]) == len(steps[1]) == 4
    torch.testing.assert_close(torch.tensor(steps[0]), torch.tensor(steps[1]), atol=1e-5, rtol=1e-5)
    accuracy = [[e["mean_token_accuracy"] for e in t.state.log_history if "loss" in e] for t in (ours, theirs)]
    torch.testing.assert_close(torch.tensor(accuracy[0]), torch.tensor(accuracy[1]), atol=0.05, rtol=0)
    trained = adapter(theirs.model)
    assert len(trained) > 10
    for name, weight in adapter(ours.model).items():
        torch.testing.assert_close(weight, trained[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("coefficient", [None, 0.0])
def test_a_mixture_of_experts_has_one_objective_in_sft_and_uniform(tmp_path, coefficient):
    """TRL would add the router's load balancing, which NLFT does not have, by the coefficient in the model's config."""
    data = examples(6)
    options = COMMON if coefficient is None else {**COMMON, "router_aux_loss_coef": coefficient}
    ours = nlft_trainer(
        tmp_path / "ours", data, tiny.model("mixtral"), saliency="uniform", loss_normalization="token", watch=0
    )
    ours.train()
    args = SFTSettings(output_dir=str(tmp_path / "trl"), engine="trl", target="all-completions", **options)
    net = tiny.model("mixtral")
    assert net.config.router_aux_loss_coef > 0
    torch.manual_seed(args.seed)  # both adapters start alike
    theirs = SFTBaseline(wrap(net, default_lora(net)), args, data, tiny.tokenizer(), None)
    theirs.train()
    steps = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (ours, theirs)]
    assert len(steps[0]) == len(steps[1]) == 2
    torch.testing.assert_close(torch.tensor(steps[0]), torch.tensor(steps[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [KTOSettings, DPOSettings, ReFTSettings])
def test_no_baseline_adds_load_balancing_unless_asked(tmp_path, settings):
    assert settings(output_dir=str(tmp_path), use_cpu=True).router_aux_loss_coef == 0
    assert settings(output_dir=str(tmp_path), use_cpu=True, router_aux_loss_coef=0.1).router_aux_loss_coef == 0.1


def test_batches_by_length_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"train_sampling_strategy.*group_by_length"):
        NLFTConfig(output_dir=str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True)


def test_uniform_with_token_has_the_gradients_of_trls_sft_trainer(tmp_path):
    ours = nlft_trainer(tmp_path / "ours", saliency="uniform", loss_normalization="token")
    args = SFTSettings(output_dir=str(tmp_path / "trl"), engine="trl", target="all-completions", **COMMON)
    theirs = SFTBaseline(lora(tiny.model()), args, examples(), tiny.tokenizer(), None)
    features = ours.builder(ours.train_dataset[:5])
    ours.model.train(), theirs.model.train()
    ours.get_batch_samples(iter([features]), 1, torch.device("cpu"))
    ours.compute_loss(ours.model, features).backward()
    batch = theirs.data_collator([theirs.train_dataset[i] for i in range(5)])
    items = (batch["labels"][:, 1:] != -100).sum()
    theirs.compute_loss(theirs.model, batch, num_items_in_batch=items).backward()
    grads = {name: p.grad for name, p in theirs.model.named_parameters() if p.requires_grad}
    assert any(g.abs().max() > 1e-4 for g in grads.values())
    for name, p in ours.model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, grads[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_batch_size_and_accumulation_do_not_change_the_training(tmp_path, normalization):
    runs = []
    for size, accumulation in [(6, 1), (1, 6)]:
        trainer = nlft_trainer(
            tmp_path / f"{size}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            loss_normalization=normalization,
            answer_weight=0.7,
        )
        trainer.train()
        runs.append((adapter(trainer.model), [e["loss"] for e in trainer.state.log_history if "loss" in e]))
    torch.testing.assert_close(torch.tensor(runs[0][1]), torch.tensor(runs[1][1]), atol=1e-4, rtol=1e-4)
    for name, weight in runs[0][0].items():
        torch.testing.assert_close(weight, runs[1][0][name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("scheme", ["nlft", "nlft-original", "uniform"])
def test_a_mixed_batch_gives_each_sample_the_loss_it_has_alone(tmp_path, scheme):
    trainer = nlft_trainer(tmp_path, saliency=scheme)
    trainer.model.eval()
    data = trainer.train_dataset[:6]
    assert len({e.label for e in data}) == 2

    def loss(part):
        with torch.no_grad():
            return float(trainer.compute_loss(trainer.model, trainer.builder(part)))

    alone = [loss([e]) for e in data]
    assert abs(loss(data) - sum(alone) / 6) < 1e-4 * max(1, abs(loss(data)))


def test_answer_weight_adds_the_answers_nll_with_its_own_denominator(tmp_path):
    plain = nlft_trainer(tmp_path / "a")
    weighted = nlft_trainer(tmp_path / "b", answer_weight=0.5)
    data = plain.train_dataset[:4]
    for trainer in (plain, weighted):
        trainer.model.eval()
    with torch.no_grad():
        without = plain.compute_loss(plain.model, plain.builder(data))
        with_ = weighted.compute_loss(weighted.model, weighted.builder(data))
        nll = []
        for e in data:
            ids = torch.tensor([[*e.base, *e.target]])
            logp = plain.model(input_ids=ids).logits.log_softmax(-1)[0, len(e.base) - 1 : -1]
            nll.append(-logp.gather(1, torch.tensor(e.target)[:, None]).mean())
    torch.testing.assert_close(with_ - without, 0.5 * torch.stack(nll).mean(), atol=1e-5, rtol=1e-5)


def attention_dropout():
    net = tiny.model()
    for layer in net.model.layers:
        layer.self_attn.attention_dropout = 0.3  # what a model reads from its config; no module stands for it
    return lora(net, init_lora_weights=False)


NOISE = {
    "lora_dropout": (lambda: lora(tiny.model(), lora_dropout=0.5, init_lora_weights=False), {}),
    "attention_dropout": (attention_dropout, {}),
    "neftune": (lambda: lora(tiny.model(), init_lora_weights=False), {"neftune_noise_alpha": 5.0}),
    "none": (lambda: lora(tiny.model(), init_lora_weights=False), {}),
}
# A random model is sure of nothing: with these there are salient tokens, from which the neighbourhood is walked.
LOOSE = NLFTSettings(mistake_ratio=1.0, mistake_floor=0.0, certain_threshold=0.01, neighbour_similarity=0.3)

LOOSE_ORIGINAL = OriginalSettings(ratio=1.0, judge_floor=0.0, correct_threshold=0.3, cluster_distance=0.1)


def ragged(count=6):
    """Completions and answers of different lengths; some examples have no answer."""
    made = examples(count)
    return [
        replace(one, completion=one.completion + " so" * at, answer=None if at % 3 == 0 else one.answer, judgment="No.")
        for at, one in enumerate(made)
    ]


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_each_length_and_each_denominator_is_the_samples_own(tmp_path, normalization):
    """The loss of a window of two ragged micro-batches, against the formula on the model's own softmaxes."""
    options = {"saliency": "uniform", "loss_normalization": normalization, "answer_weight": 0.7}
    trainer = nlft_trainer(tmp_path, data=ragged(), **options)
    nll, answers = [], []

    def nll_of(prompt, ids):
        logp = trainer.model(input_ids=torch.tensor([[*prompt, *ids]])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        return -logp.gather(1, torch.tensor(ids)[:, None]).sum()

    with torch.no_grad():
        for one in trainer.train_dataset:
            nll.append((nll_of(one.base, one.completion), len(one.completion)))
            if one.target:
                answers.append((nll_of(one.base, one.target), len(one.target)))
    assert len({length for _, length in nll}) == 6
    assert 0 < len(answers) < 6

    def mean(parts):
        if normalization == "sample":
            return sum(loss / length for loss, length in parts) / len(parts)
        return sum(loss for loss, _ in parts) / sum(length for _, length in parts)

    trainer.model.train()
    batches = [trainer.builder(trainer.train_dataset[:4]), trainer.builder(trainer.train_dataset[4:])]
    trainer.get_batch_samples(iter(batches), 2, torch.device("cpu"))
    loss = sum(trainer.compute_loss(trainer.model, batch).detach() for batch in batches)
    torch.testing.assert_close(loss, mean(nll) + 0.7 * mean(answers), atol=1e-4, rtol=1e-5)


def test_what_is_logged_over_several_steps_is_the_mean_over_these_steps(tmp_path):
    settings = {"gradient_accumulation_steps": 2, "num_train_epochs": 2, "answer_weight": 0.5}
    each, together = (
        [
            event
            for trainer in [nlft_trainer(tmp_path / str(steps), logging_steps=steps, **settings)]
            if trainer.train()
            for event in trainer.state.log_history
            if "loss" in event
        ]
        for steps in (1, 2)
    )
    assert [event["step"] for event in together] == [2, 4]
    for event, first, second in zip(together, each[::2], each[1::2], strict=True):
        for name in ("loss", "nlft/likelihood_loss", "nlft/answer_loss"):
            assert event[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-4)


@pytest.mark.parametrize("scheme", [replace(LOOSE, gate_fraction=0.1), replace(LOOSE_ORIGINAL, salient_fraction=0.1)])
def test_the_gated_fraction_is_one_of_the_wrong_samples(tmp_path, scheme):
    seen = []
    trainer = nlft_trainer(tmp_path, saliency=scheme, max_steps=1, gradient_accumulation_steps=4, watch=0)
    weigh = trainer.scheme.weigh
    spied = replace(trainer.scheme, weigh=lambda lp, s: seen.append((lp, weigh(lp, s))) or seen[-1][1])
    trainer.schemes[spied.name] = spied
    trainer.train()
    gated = wrong = 0
    for read, weights in seen:
        salient = (weights.tag == Tag.SALIENT).sum(1) / read.mask.sum(1)
        gated += int((~read.label & (salient > 0.1)).sum())
        wrong += int((~read.label).sum())
    assert 0 < gated <= wrong < 12
    logged = next(event for event in trainer.state.log_history if "loss" in event)
    assert logged["nlft/gated_fraction"] == pytest.approx(gated / wrong)


@pytest.mark.parametrize("scheme", [LOOSE, LOOSE_ORIGINAL])
@pytest.mark.parametrize("noise", NOISE)
def test_noise_reaches_the_loss_and_no_tag(tmp_path, noise, scheme):
    make, settings = NOISE[noise]
    trainer = nlft_trainer(tmp_path, model=make(), saliency=scheme, **settings)
    if settings:
        activate_neftune(trainer.model, 5.0, trainer.accelerator)
    seen, weigh = [], trainer.scheme.weigh
    trainer.scheme = replace(trainer.scheme, weigh=lambda lp, s: seen.append((lp, weigh(lp, s))) or seen[-1][1])
    features = trainer.builder(trainer.train_dataset[:6])
    trainer.model.train()
    trainer.get_batch_samples(iter([features]), 1, torch.device("cpu"))
    losses = {trainer.compute_loss(trainer.model, features).item() for _ in range(3)}
    assert len(losses) == (1 if noise == "none" else 3)
    (first, weights), *others = seen
    assert {int(tag) for tag in weights.tag.unique()} >= {Tag.SALIENT, Tag.NEIGHBOUR}
    for read, again in others:
        assert torch.equal(again.tag, weights.tag)
        assert torch.equal(again.likelihood, weights.likelihood)
        assert torch.equal(read.base, first.base)


@pytest.mark.parametrize("noise", NOISE)
def test_base_is_scored_once_more_only_if_the_training_is_noisy(noise, tmp_path):
    make, settings = NOISE[noise]
    assert nlft_trainer(tmp_path, model=make(), **settings)._noisy == (noise != "none")
    assert not is_noisy(lora(tiny.model("gemma2")))
    assert is_noisy(tiny.model("gpt2")), "GPT-2 has dropout by default"


def test_the_run_directory_holds_what_it_should_and_no_pickle(tmp_path):
    trainer = nlft_trainer(tmp_path, save_strategy="epoch", watch=4, watch_every=2, answer_weight=1.0)
    trainer.train()
    run = RunDir.open(tmp_path)
    settings = run.settings()
    assert settings["method"] == "nlft"
    assert settings["saliency"]["mistake_ratio"] == 1.5
    assert {"torch", "transformers", "nlft"} <= set(settings["versions"])
    events = [e for e in run.events() if "loss" in e]
    assert [e["step"] for e in events] == [1, 2, 3, 4]
    for name in (
        "mean_token_accuracy", "num_tokens", "tokens_per_second", "eta_seconds", "nlft/salient_fraction",
        "nlft/gated_fraction", "nlft/likelihood_loss", "nlft/unlikelihood_loss", "nlft/answer_loss", "learning_rate",
    ):  # fmt: skip
        assert all(isinstance(e[name], float) for e in events), name
    parts = ("nlft/likelihood_loss", "nlft/unlikelihood_loss", "nlft/answer_loss")
    assert all(abs(sum(e[p] for p in parts) - e["loss"]) < 1e-4 for e in events)
    assert run.snapshot_steps(whole=True) == [0, 2, 4]
    watched = run.watched()
    assert [w.label for w in watched].count(True) == 2
    for step in run.snapshot_steps(whole=True):
        for example, scores in zip(watched, run.snapshot(step).scores, strict=True):
            assert len(scores.base) == len(scores.tag) == len(example.tokens)
            assert (scores.judge is None) == example.label
            assert scores.band.shape == (len(example.tokens), 17)
    assert "".join(watched[0].tokens) == "40 - 11 = 29\n#### 29<|end|>"
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"run.yaml", "events.jsonl", "adapter_model.safetensors", "manifest.json"} <= {p.name for p in files}
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(tmp_path.rglob(".*"))
    assert "nlft" in (run.adapter_path / "README.md").read_text()


def test_the_trained_adapter_loads_and_changes_the_model(tmp_path):
    trainer = nlft_trainer(tmp_path)
    trainer.train()
    ids = torch.tensor([[6, 7, 8, 9]])
    loaded = PeftModel.from_pretrained(tiny.model(), tmp_path / "adapter")
    with torch.no_grad():
        ours, bare = trainer.model.eval()(ids).logits, tiny.model()(ids).logits
        torch.testing.assert_close(loaded(ids).logits, ours, atol=1e-5, rtol=1e-5)
    assert (ours - bare).abs().max() > 1e-3


def test_the_loss_goes_down_on_the_mistakes_and_the_answers(tmp_path):
    settings = NLFTSettings(gate_fraction=1.0)
    trainer = nlft_trainer(tmp_path, saliency=settings, num_train_epochs=8, answer_weight=1.0)
    trainer.train()
    events = [e for e in trainer.state.log_history if "loss" in e]
    assert events[-1]["nlft/answer_loss"] < 0.8 * events[0]["nlft/answer_loss"]
    assert events[-1]["loss"] < events[0]["loss"]


@pytest.mark.parametrize(("epoch", "told"), [(None, 0), (0.0, 0), (1.9999999, 2), (2.0, 2)])
def test_samplers_are_told_which_epoch_begins(tmp_path, epoch, told):
    found = []
    loader = SimpleNamespace(sampler=SimpleNamespace(set_epoch=found.append))
    report = RunDirCallback(RunDir(tmp_path), {})
    report.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None, train_dataloader=loader)
    assert found == [told]


def test_operations_are_counted_as_trainer_counts_them(tmp_path):
    trainer = nlft_trainer(tmp_path, watch=0)
    for shape in ((1, 1), (2, 7), (3, 5)):
        inputs = {"input_ids": torch.zeros(shape, dtype=torch.long)}
        assert trainer.floating_point_ops(inputs) == Trainer.floating_point_ops(trainer, inputs) > 0
    assert trainer.floating_point_ops({}) == 0


def test_resume_is_bit_identical(tmp_path):
    whole = nlft_trainer(
        tmp_path / "whole", save_strategy="steps", save_steps=2, save_total_limit=9, num_train_epochs=3
    )
    whole.train()
    source = RunDir(tmp_path / "whole").checkpoints_path
    names = sorted(p.name for p in source.iterdir())
    assert names == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    (tmp_path / "again" / "checkpoints").mkdir(parents=True)
    (source / "checkpoint-2").rename(tmp_path / "again" / "checkpoints" / "checkpoint-2")
    (tmp_path / "again" / "events.jsonl").write_text('{"step": 2, "loss": 1}\n{"step": 3, "loss": 1}\n')
    run = RunDir(tmp_path / "again")
    again = nlft_trainer(run.path, num_train_epochs=3)
    again.train(resume_from_checkpoint=str(checkpoint_to_resume(run, "true", 1)))
    for name, weight in adapter(whole.model).items():
        assert torch.equal(weight, adapter(again.model)[name]), name
    steps = [e["step"] for e in run.events() if "loss" in e]
    assert steps == [2, 3, 4, 5, 6], "what the checkpoint did not hold is superseded"
    assert [e["step"] for e in run.events(superseded=True) if e.get("superseded")] == [3]


def test_a_partial_checkpoint_is_refused(tmp_path):
    trainer = nlft_trainer(tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    run = RunDir(tmp_path)
    path = checkpoint_to_resume(run, "true", 1)
    (path / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"optimizer.safetensors is missing"):
        checkpoint_to_resume(run, "true", 1)
    (path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"no manifest.json"):
        checkpoint_to_resume(run, str(path), 1)


def test_examples_that_do_not_fit_are_all_named(tmp_path):
    data = examples()
    data[2] = replace(data[2], answer="very " * 100)
    data[5] = replace(data[5], prompt="long " * 100)
    with pytest.raises(ProblemsError) as caught:
        nlft_trainer(tmp_path, data=data, max_length=220)
    assert "'e2'" in str(caught.value)
    assert "'e5'" in str(caught.value)
    assert "max_length" in str(caught.value)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_any_causal_lm_trains_with_the_default_adapter(tmp_path, family):
    trainer = nlft_trainer(tmp_path, model=tiny.model(family), max_steps=2, activation_checkpointing=True)
    trainer.train()
    assert isinstance(trainer.model, PeftModel)
    moved = [n for n, p in trainer.model.named_parameters() if "lora_B" in n and p.abs().max() > 0]
    assert moved
    assert all(p.dtype == torch.float32 for n, p in trainer.model.named_parameters() if "lora_" in n)


def test_a_base_model_without_a_chat_template_trains_on_plain_text(tmp_path):
    args = NLFTConfig(output_dir=str(tmp_path), **{**COMMON, "max_steps": 2})
    trainer = NLFTTrainer(lora(tiny.model()), args, examples(), processing_class=tiny.tokenizer(chat=False))
    trainer.train()
    assert len([e for e in trainer.state.log_history if "loss" in e]) == 2
    prompt = trainer.processing_class.decode(trainer.train_dataset[0].base)
    assert prompt == "What is 40 minus 11?\n"


def test_the_adapter_is_float32_over_a_bfloat16_base(tmp_path):
    trainer = nlft_trainer(tmp_path, model=tiny.model(dtype=torch.bfloat16), max_steps=1)
    trainer.train()
    kinds = {(p.requires_grad, p.dtype) for p in trainer.model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(t.dtype == torch.float32 for t in saved.values())


def test_evaluation_reports_the_loss_on_held_out_examples(tmp_path):
    trainer = NLFTTrainer(
        lora(tiny.model()),
        NLFTConfig(output_dir=str(tmp_path), **COMMON, eval_strategy="epoch"),
        examples(9),
        eval_dataset=examples(12)[9:],
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    found = [e for e in trainer.state.log_history if "eval_loss" in e]
    assert len(found) == 2
    assert all(e["eval_loss"] > 0 and 0 <= e["eval_nlft/salient_fraction"] <= 1 for e in found)


@pytest.mark.parametrize("normalization", ["sample", "token"])
def test_the_held_out_loss_does_not_depend_on_the_batch_size(tmp_path, normalization):
    """Not before a training either, which then has no line in the run's log."""
    found = []
    for size in (1, 2, 3, 7):
        settings = {"loss_normalization": normalization, "answer_weight": 1.0, "watch": 0}
        trainer = NLFTTrainer(
            lora(tiny.model()),
            NLFTConfig(output_dir=str(tmp_path), **COMMON, **settings, per_device_eval_batch_size=size),
            examples(6),
            eval_dataset=ragged(7),
            processing_class=tiny.tokenizer(),
        )
        found.append(trainer.evaluate()["eval_loss"])
        with torch.no_grad():  # of one batch with all of them, as it was
            trainer.model.eval()
            whole = float(trainer.compute_loss(trainer.model, trainer.builder(trainer.eval_dataset)))
    assert found == pytest.approx([whole] * 4, rel=1e-5)
    assert trainer.state.log_history[-1]["eval_loss"] == found[-1]
    assert not RunDir(tmp_path).events()


def test_rows_of_a_dataset_are_as_good_as_examples(tmp_path):
    from dataclasses import asdict

    from datasets import Dataset

    rows = Dataset.from_list([{k: v for k, v in asdict(e).items() if k != "extra"} for e in examples()])
    trainer = nlft_trainer(tmp_path, data=rows, max_steps=1)
    assert trainer.examples == examples()


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_trackers_get_the_metrics(tmp_path, tracker, monkeypatch):
    pytest.importorskip(tracker, reason=f"{tracker} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tb"))
    trainer = nlft_trainer(tmp_path / "run", max_steps=2, report_to=tracker)
    trainer.train()
    if tracker == "wandb":
        import wandb

        wandb.finish()

    def written():
        files = [p for p in tmp_path.rglob("*") if p.is_file() and ("tfevents" in p.name or p.suffix == ".wandb")]
        return any(b"salient_fraction" in p.read_bytes() for p in files)

    until(written)  # wandb's own process writes its file, also after `finish`


def test_without_watched_examples_no_time_counts(tmp_path):
    trainer = nlft_trainer(tmp_path / "run", watch=0, max_steps=1)
    assert (trainer.watch_seconds, trainer.training_seconds) == (0.0, 0.0)
    assert nlft_trainer(tmp_path / "other", max_steps=1).training_seconds >= 0.0


def test_a_rank_saves_its_random_state_before_the_main_process_has_made_the_folder(tmp_path):
    trainer = nlft_trainer(tmp_path / "run", watch=0, max_steps=1)
    trainer.train()
    trainer._save_rng_state(str(tmp_path / "late" / "checkpoint-1"))
    assert any((tmp_path / "late" / "checkpoint-1").glob("rng_state*"))
    trainer._load_optimizer_and_scheduler(None)  # older versions of transformers ask without a checkpoint
    assert trainer.resumed_from is None


def test_a_resume_of_which_nothing_is_known_is_listed_as_a_change_of_everything(tmp_path):
    trainer = SimpleNamespace(start_log=lambda: None, find_best=lambda: None, resumed=None)
    callback = RunDirCallback(RunDir(tmp_path), {})
    callback.trainer = trainer
    callback.on_train_begin(None, TrainerState(global_step=3, max_steps=5), TrainerControl())
    callback._heart.stop()
    assert RunDir(tmp_path).settings()["resumed"] == [{"step": 3, "changed": ["everything"]}]


@pytest.mark.parametrize(
    ("steps", "known"), [(UNTIL_TIME_IS_UP // 2 - 1, True), (UNTIL_TIME_IS_UP // 2, False), (UNTIL_TIME_IS_UP, False)]
)
def test_a_training_that_ends_by_time_has_no_known_number_of_steps(steps, known):
    assert _ends_by_steps(TrainerState(max_steps=steps)) is known


def test_only_an_adapters_weights_have_other_names_in_their_file():
    assert _saved_names(tiny.model()) == {}
    names = _saved_names(lora(tiny.model()))
    assert names
    assert all("default" in name and "default" not in saved for name, saved in names.items())


@pytest.mark.parametrize("kind", ["nlft", "sft"])
def test_to_drop_the_only_batch_is_refused(tmp_path, kind):
    settings = {"per_device_train_batch_size": 16, "dataloader_drop_last": True}
    if kind == "nlft":
        made = nlft_trainer(tmp_path, **settings)
    else:
        args = SFTSettings(output_dir=str(tmp_path), target="answer", engine="trl", **{**COMMON, **settings})
        made = SFTBaseline(lora(tiny.model()), args, examples(), tiny.tokenizer(), None)
    with pytest.raises(UserError, match=r"12 of 16 rows.*--dataloader_drop_last"):
        made.train()
