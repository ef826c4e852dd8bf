"""The same steps, however they are taken: in micro-batches, with activations computed again, with the map watching."""

import pytest
import torch
from safetensors.torch import load_file

from helpers.training import examples
from nlft import cli
from nlft.core.schemes.registry import scheme_names
from nlft.data.records import write_examples
from nlft.runs.run_dir import RunDir

STEPS = 10
TRAIN = ["--use_cpu", "--dtype", "float32", "--max_steps", STEPS, "--optim", "sgd", "--learning_rate", "0.05"]
TRAIN += ["--lr_scheduler_type", "constant", "--logging_steps", 1, "--save_strategy", "steps", "--save_steps", 1]
TRAIN += ["--save_total_limit", STEPS, "--disable_tqdm", "true", "--lora_dropout", 0]
WHOLE = ["--per_device_train_batch_size", 8, "--gradient_accumulation_steps", 1]
PARTS = ["--per_device_train_batch_size", 1, "--gradient_accumulation_steps", 8]
PLAIN, AGAIN = ["--activation_checkpointing", "false"], ["--activation_checkpointing", "true"]
ALONE, WATCHED = ["--watch", 0], ["--watch", 4, "--watch_every", 1, "--watch_share", 1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_folder):
    """Return what a training through the command logs, and its first gradient: of B, because A's is 0 in a new LoRA."""
    folder = tmp_path_factory.mktemp("same")
    write_examples(folder / "e.jsonl", examples(24))

    def run(scheme, *options):
        out = folder / f"run-{len(list(folder.iterdir()))}"
        command = ["train", folder / "e.jsonl", "--model_name_or_path", model_folder, "--output_dir", out]
        command += ["--scheme", scheme, *(["--saliency.stop_below", 0] if scheme in ("strike", "ftpo") else [])]
        assert cli.main([str(word) for word in [*command, *TRAIN, *options]]) == 0
        losses = [event["loss"] for event in RunDir(out).events() if "loss" in event]
        weights = load_file(RunDir(out).checkpoints_path / "checkpoint-1" / "adapter_model.safetensors")
        gradient = torch.cat([weights[name].flatten() for name in sorted(weights) if "lora_B" in name])
        assert len(losses) == STEPS
        assert gradient.norm() > 0
        return losses, gradient

    return run


def agree(one, other):
    losses, gradient = one
    assert other[0] == pytest.approx(losses, abs=1e-4)
    assert (other[1] - gradient).norm() <= 1e-5 * gradient.norm()


# Those that the others are variants of. The long mode has all.
OFTEN = {"nlft", "strike", "uniform", "cut"}


@pytest.mark.parametrize(
    "scheme", [pytest.param(name, marks=() if name in OFTEN else pytest.mark.long) for name in scheme_names()]
)
def test_micro_batches_checkpointing_and_the_map_change_no_step(trained, scheme):
    agree(trained(scheme, *WHOLE, *PLAIN, *ALONE), trained(scheme, *PARTS, *AGAIN, *WATCHED))
