"""examples/minimal_loop.py against the trainer, on the same tiny model."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import tiny
from helpers.training import lora, nlft_trainer
from nlft.data.records import as_examples

FILE = Path(__file__).parent.parent / "examples" / "minimal_loop.py"


def test_its_losses_are_the_trainers(tmp_path):
    spec = importlib.util.spec_from_file_location("minimal_loop", FILE)
    loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)
    ours = loop.losses(lora(tiny.model()), tiny.tokenizer(), loop.EXAMPLES, steps=4, learning_rate=1e-3)
    trainer = nlft_trainer(
        tmp_path,
        data=as_examples([{"id": number, **example} for number, example in enumerate(loop.EXAMPLES)]),
        per_device_train_batch_size=3,
        gradient_accumulation_steps=1,
        num_train_epochs=4,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        weight_decay=0.0,
        logging_steps=1,
        watch=0,
    )
    losses = []
    step = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: losses.append(step(*args, **kwargs)) or losses[-1]
    trainer.train()
    assert len(ours) == 4
    assert ours[-1] < ours[0]
    assert [loss.item() for loss in losses] == pytest.approx(ours, abs=1e-6)


def test_it_runs_as_a_script(model_folder):
    done = subprocess.run([sys.executable, str(FILE), model_folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"step {n}" for n in range(1, 5)]
