"""Trainers on tiny models: their examples, their settings, and requests to them while they train."""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from helpers import tiny
from nlft.core.schemes.nlft import NLFTSettings
from nlft.data.records import Example, write_examples
from nlft.runs.run_dir import RunDir
from nlft.training.trainer import NLFTConfig, NLFTTrainer

# Random models agree on little: with these some tokens of most wrong samples are mistakes.
REDIRECTED = NLFTSettings(redirect=True, mistake_ratio=1.05, mistake_floor=0.0)


def examples(count=12):
    made = []
    for i in range(count):
        a, b, wrong = 40 + i, 11 + 2 * i, i % 3 != 0
        said = a - b + (3 if wrong else 0)
        made.append(
            Example(
                id=f"e{i}",
                prompt=f"What is {a} minus {b}?",
                completion=f"{a} - {b} = {said}\n#### {said}",
                label=not wrong,
                answer=f"{a} - {b} = {a - b}" + " indeed" * (i % 4),
                judgment=f'"{a} - {b} = {said}" is miscalculated.\nCorrection: it is {a - b}.' if wrong else None,
            )
        )
    return made


def lora(model, **options):
    torch.manual_seed(7)
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **options))


def adapter(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


COMMON = {
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "activation_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "use_cpu": True,
}


def nlft_trainer(folder, data=None, model=None, saliency="nlft", callbacks=None, **settings):
    if settings.get("watch") != 0:
        settings = {"watch_share": 1.0, **settings}  # the snapshots must not depend on the machine's speed
    args = NLFTConfig(output_dir=str(folder), **{**COMMON, **settings})
    return NLFTTrainer(
        model or lora(tiny.model()),
        args,
        data or examples(),
        processing_class=tiny.tokenizer(),
        saliency=saliency,
        callbacks=callbacks,
    )


def two_redirected_steps(folder, size):
    options = {"gradient_accumulation_steps": 1, "max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "watch": 0}
    trainer = nlft_trainer(folder, data=examples(8), saliency=REDIRECTED, per_device_train_batch_size=size, **options)
    trainer.train()
    return trainer


class Ask(TrainerCallback):
    """Writes requests while step `n - 1` ends, so that they can be taken before step `n`."""

    def __init__(self, folder, asked):
        self.run, self.asked, self.ids = RunDir(folder), asked, {}

    def on_train_begin(self, args, state, control, **_):
        if not state.global_step:
            self.on_step_end(args, state, control)

    def on_step_end(self, args, state, control, **_):
        for name, value in self.asked.get(state.global_step + 1, []):
            value = self.ids[value] if name == "undo" and value in self.ids else value
            self.ids[name] = self.run.write_request(name, value, "page")


def in_a_process(command, folder, model, steps):
    """Return the words that start `train` or `tune` in a process of its own, and the training's run."""
    write_examples(folder / "e.jsonl", examples(8))
    out = folder / "out"
    words = [sys.executable, "-m", "nlft", command, folder / "e.jsonl", "--model_name_or_path", model]
    words += ["--dtype", "float32", "--max_steps", steps, "--output_dir", out]
    if command == "tune":
        words += ["--arms", "nlft", "--max_new_tokens", 4, "--keep_truncated", "true", "--test_share", 0.25]
        words += ["--audit", "false"]
    else:
        words += ["--use_cpu", "--watch", 0]
    return [str(word) for word in words], RunDir(out / "nlft" if command == "tune" else out)
