"""A training that diverges stops, names the step and the examples, and leaves no adapter."""

from itertools import count

import pytest
import torch

from helpers import tiny
from helpers.training import examples, nlft_trainer
from nlft.baselines.dpo import DPOBaseline, DPOSettings
from nlft.baselines.kto import KTOBaseline, KTOSettings
from nlft.baselines.reft import ReFTBaseline, ReFTSettings
from nlft.baselines.sft import SFTSettings, sft_trainer
from nlft.data.records import Example
from nlft.errors import NLFTError, UserError
from nlft.models.loading import default_lora
from nlft.runs.run_dir import RunDir

ONE_BY_ONE = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "train_sampling_strategy": "sequential",
}


def test_an_exploding_rate_stops_at_the_next_step_and_names_its_examples(tmp_path):
    trainer = nlft_trainer(tmp_path, learning_rate=1e30, **ONE_BY_ONE)
    with pytest.raises(NLFTError) as caught:
        trainer.train()
    assert not isinstance(caught.value, UserError), "the exit code is 1"
    said = str(caught.value)
    assert "step 2" in said
    assert "nan" in said
    assert "'e2', 'e3'" in said
    assert "'e0'" not in said
    assert "--learning_rate" in said
    run = RunDir(tmp_path)
    assert not run.adapter_path.exists()
    assert [(event["step"], event.get("ended")) for event in run.events()] == [(1, None), (1, "diverged")]
    assert all(torch.isfinite(torch.tensor(event["loss"])) for event in run.events() if "loss" in event)


def test_only_the_examples_of_the_bad_micro_batch_are_named(tmp_path):
    data = examples(4)
    trainer = nlft_trainer(tmp_path, data=data, **{**ONE_BY_ONE, "gradient_accumulation_steps": 2})
    compute = trainer.compute_loss

    def broken(model, inputs, *args, **options):
        loss = compute(model, inputs, *args, **options)
        return loss * (torch.nan if any(one.id == "e3" for one in inputs["examples"]) else 1)

    trainer.compute_loss = broken
    with pytest.raises(NLFTError, match="step 1") as caught:
        trainer.train()
    assert "'e2', 'e3'" in str(caught.value)
    assert "'e1'" not in str(caught.value)


def test_a_gradient_that_is_not_finite_stops_too_before_it_reaches_the_weights(tmp_path):
    trainer = nlft_trainer(tmp_path, **ONE_BY_ONE)
    weight = next(p for p in trainer.model.parameters() if p.requires_grad)
    weight.register_hook(lambda grad: torch.full_like(grad, torch.inf))
    with pytest.raises(NLFTError, match=r"step 1: the gradient norm is (inf|nan)") as caught:
        trainer.train()
    assert "'e0', 'e1'" in str(caught.value)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_last_good_checkpoint_is_kept_and_no_bad_one_is_written(tmp_path):
    trainer = nlft_trainer(tmp_path, save_strategy="steps", save_steps=1, max_steps=4, **ONE_BY_ONE)

    class Break(type(trainer._progress)):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                with torch.no_grad():
                    next(p for p in trainer.model.parameters() if p.requires_grad)[0] = torch.inf

    trainer.callback_handler.callbacks.insert(0, Break())
    with pytest.raises(NLFTError, match="step 3: 1 of ") as caught:
        trainer.train()
    run = RunDir(tmp_path)
    assert "checkpoint-2" in str(caught.value)
    assert [path.name for path in run.checkpoints_path.iterdir() if path.name != ".writing"] == ["checkpoint-2"]
    assert (run.checkpoints_path / "checkpoint-2" / "manifest.json").is_file()
    assert not run.adapter_path.exists()


def test_a_diverged_run_names_its_examples_beside_a_folder_with_another_name(tmp_path):
    (tmp_path / "checkpoints" / "checkpoint-best").mkdir(parents=True)
    trainer = nlft_trainer(tmp_path, **ONE_BY_ONE)
    next(p for p in trainer.model.parameters() if p.requires_grad).register_hook(
        lambda g: torch.full_like(g, torch.inf)
    )
    with pytest.raises(NLFTError, match=r"(?s)step 1: .*'e0', 'e1'") as caught:
        trainer.train()
    assert "checkpoint-best" not in str(caught.value)


def test_weights_that_the_last_step_broke_are_not_written(tmp_path):
    with pytest.raises(NLFTError, match=r"step 1: .* not finite"):
        nlft_trainer(tmp_path, learning_rate=1e38, max_steps=1, weight_decay=1.0, **ONE_BY_ONE).train()
    assert not RunDir(tmp_path).adapter_path.exists()


def test_a_rate_that_few_models_survive_is_said(tmp_path, capsys):
    nlft_trainer(tmp_path, learning_rate=1.0, max_steps=1, **ONE_BY_ONE).train()
    assert "--learning_rate 1:" in capsys.readouterr().err


def test_float16_may_skip_steps_while_it_looks_for_its_scale(tmp_path):
    trainer = nlft_trainer(tmp_path)
    trainer._losses, trainer._in_step = [torch.tensor(1.0)], [["e0"]]
    trainer.accelerator.scaler = object()
    for _ in range(20):
        trainer._check_step(torch.tensor(torch.inf))
    with pytest.raises(NLFTError, match="gradient norm"):
        trainer._check_step(torch.tensor(torch.inf))


EXAMPLES = [
    Example(f"e{n}", f"What is {n} + 1?", f"It is {n}.", n % 2 == 1, f"#### {n + 1}", "No.", revision=f"{n + 1}")
    for n in range(4)
]
COMMON = {
    "max_steps": 4,
    "learning_rate": 1e30,
    "activation_checkpointing": False,
    "report_to": "none",
    "use_cpu": True,
}


ANSWERS = count()


def next_one(completion, answer):
    """Half of each group is right, so that there is a gradient."""
    return next(ANSWERS) % 2 == 0


def baseline(method, folder, **changed):
    net, size = tiny.model(), {"per_device_train_batch_size": 2}
    shared = {"output_dir": str(folder), **size, **COMMON, **changed}
    if method.startswith("sft"):
        args = SFTSettings(target="all-completions", engine=method[4:], save_strategy="no", **shared)
        return sft_trainer(net, args, EXAMPLES, tiny.tokenizer(), default_lora(net))
    if method == "kto":
        return KTOBaseline(net, KTOSettings(**shared), EXAMPLES, tiny.tokenizer(), default_lora(net))
    if method == "dpo":
        return DPOBaseline(net, DPOSettings(**shared), EXAMPLES, tiny.tokenizer(), default_lora(net))
    args = ReFTSettings(
        **shared, num_generations=2, max_completion_length=6, sft_epochs=0.0, grader="test_divergence:next_one"
    )
    return ReFTBaseline(net, args, EXAMPLES, tiny.tokenizer(), default_lora(net))


@pytest.mark.parametrize("method", ["sft-nlft", "sft-trl", "kto", "dpo", "reft"])
def test_trls_trainers_stop_as_well_and_log_no_zero_for_it(tmp_path, method):
    with pytest.raises(NLFTError, match="diverged at step 2") as caught:
        baseline(method, tmp_path).train()
    named = {e.id for e in EXAMPLES if repr(e.id) in str(caught.value)}
    assert 1 <= len(named) <= 2
    run = RunDir(tmp_path)
    assert not run.adapter_path.exists()
    assert [(event["step"], event.get("ended")) for event in run.events()] == [(1, None), (1, "diverged")]


def test_another_error_of_a_step_is_not_called_a_divergence(tmp_path, monkeypatch):
    trainer = nlft_trainer(tmp_path / "run", watch=0)
    monkeypatch.setattr(trainer, "compute_loss", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no memory")))
    with pytest.raises(RuntimeError, match="no memory") as found:
        trainer.train()
    assert not isinstance(found.value, NLFTError)


def test_one_process_gathers_nothing(tmp_path, monkeypatch):
    trainer = nlft_trainer(tmp_path / "run", watch=0)
    trainer._in_step = [["e1"], ["e2"]]
    monkeypatch.setattr("accelerate.utils.gather_object", lambda ids: [*ids, "of another process"])
    said = str(trainer._diverged("it broke", [True, False], everywhere=True))
    assert "'e1'" in said
    assert "e2" not in said
    assert "another process" not in said
