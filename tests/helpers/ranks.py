"""What tests compute once in one process, and once in two: `torchrun ... ranks.py FOLDER` computes all of it.

Each function takes the folder for its files and the number of processes, and returns what can be written as JSON. One
start of two processes does for all tests, since each process takes seconds to import torch.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from helpers import striking, tiny
from helpers.training import COMMON, Ask, adapter, examples, lora, nlft_trainer, two_redirected_steps
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import enable_scoring
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.models.loading import default_lora, wrap


def train(folder: Path, processes: int) -> dict[str, Any]:
    """Two steps by each way to normalise the loss, and by `strike`."""
    steps = {
        "max_steps": 2,
        "optim": "sgd",
        "learning_rate": 0.5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2 // processes,
    }
    flat = (striking.Span(2, 7, "flat"),)
    marked = [replace(one, spans=flat if one.id == "e1" else ()) for one in striking.records(8)]
    marked[4] = replace(marked[4], judgment=f'It is too long: "{marked[4].completion}".')
    contrast = replace(striking.WHOLE, pivot="contrast")  # the main process chooses; its choice is broadcast
    found = {}
    for name in ("sample", "token", "strike"):
        if name == "strike":
            trainer = striking.trainer(folder / name, data=marked, saliency=contrast, **steps)
        else:
            options = {"answer_weight": 0.5, "loss_normalization": name, "watch": 2, **steps}
            trainer = nlft_trainer(folder / name, data=examples(8), **options)
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        found[name] = {"wrapper": type(trainer.model_wrapped).__name__, "logs": logs, "weights": _weights(trainer)}
    return found


def supervise(folder: Path, processes: int) -> dict[str, Any]:
    """Two steps of `nlft sft` on our own core, on rows of different lengths."""
    from nlft.training.sft import SFTSettings, sft_trainer

    steps = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5, "per_device_train_batch_size": 2}
    shared = {**COMMON, **steps, "gradient_accumulation_steps": 2 // processes}
    args = SFTSettings(output_dir=str(folder), engine="nlft", target="answer", **shared)
    trainer = sft_trainer(lora(tiny.model()), args, examples(8), tiny.tokenizer(), None)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {"wrapper": type(trainer.model_wrapped).__name__, "logs": logs, "weights": _weights(trainer)}


def redirect(folder: Path, processes: int) -> dict[str, Any]:
    """Two steps with `redirect`, four examples each."""
    trainer = two_redirected_steps(folder, 4 // processes)
    logged = [[e["loss"], e["nlft/redirect_loss"]] for e in trainer.state.log_history if "loss" in e]
    return {"wrapper": type(trainer.model_wrapped).__name__, "logged": logged, "weights": _weights(trainer)}


def steer(folder: Path, processes: int) -> dict[str, Any]:
    """Training with a request before most steps, which only the first process writes."""
    asked = {
        2: [("learning_rate", 0.25), ("saliency.mistake_ratio", 1.2), ("save", None)],
        3: [("scheme", "cut")],
        4: [("pause", None), ("undo", "pause")],
        5: [("stop", None)],
    }
    trainer = nlft_trainer(
        folder,
        data=examples(8),
        per_device_train_batch_size=4 // processes,
        gradient_accumulation_steps=1,
        num_train_epochs=8,
        optim="sgd",
        learning_rate=0.5,
        watch=8,
        watch_every=0,
        callbacks=[Ask(folder, asked)] if _rank() == 0 else None,
    )
    trainer.train()
    return {
        "steps": trainer.state.global_step,
        "scheme": trainer.scheme.name,
        "factor": trainer.steering.factor,
        "weights": _weights(trainer),
    }


def shard(folder: Path, processes: int) -> dict[str, Any]:
    """Gradients of a model that FSDP2 shards over the processes, if there are several."""
    options: dict[str, Any] = {"dtype": torch.float32}
    if processes > 1:
        from transformers.distributed import DistributedConfig

        options["distributed_config"] = DistributedConfig(fsdp_size=processes)
    model = AutoModelForCausalLM.from_pretrained(folder.parent / "model", **options)
    kinds = sorted({type(p).__name__ for p in model.parameters()})
    torch.manual_seed(0)
    net = wrap(model, default_lora(model))
    for name, weight in net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, 0.02)  # at zero, lora_A would have no gradient
    enable_scoring(net, 2**12)  # small chunks: several of them
    redirected, held = _backward(net, processes)
    gradients = {}
    for name, weight in net.named_parameters():
        if weight.grad is not None:
            if processes > 1:
                dist.all_reduce(weight.grad)
            gradients[name] = weight.grad.tolist()
    classes = [c.__name__ for c in type(net.get_base_model()).__mro__]
    return {"parameters": kinds, "classes": classes, "gradients": gradients, "redirected": redirected, "held": held}


def _backward(net: torch.nn.Module, processes: int) -> tuple[float, float]:
    """Adds the gradients of this process's examples; returns its redirected and its held loss."""
    encoder = ConditionEncoder(tiny.tokenizer())
    given = [
        encoder.encode(
            id=i, prompt=f"Q{i}?", completion="a" * (3 + i), label=i % 3 == 0, answer="#### 4", judgment="bad"
        )
        for i in range(4)
    ]
    builder = BatchBuilder(0, needs=frozenset({"standard", "judge", "band", "hold"}), answers=True)
    batch = builder.batch(builder(given[_rank() :: processes]))
    every_token = NLFTSettings(redirect=True, contradiction=True, contradiction_base=0.0, contradiction_standard=1.0)
    extra = get_scheme("nlft").extra_loss(every_token)
    scored = score_batch(net, batch, builder.needs, choose=extra.choose)
    loss = -((scored.logp + 0.5 * scored.log1mp) * scored.conditions.mask).sum() - scored.answer_logp.sum()
    redirected, held = scored.extra_losses.sum(), scored.held.kl.sum()
    (loss + 10 * redirected + 100 * held).backward()
    return redirected.item(), held.item()


def _weights(trainer: Any) -> dict[str, list[float]]:
    return {n.replace("module.", ""): w.flatten().tolist() for n, w in adapter(trainer.model).items()}


def _rank() -> int:
    return int(os.environ.get("RANK", 0))


WORK: tuple[Callable[[Path, int], dict[str, Any]], ...] = (train, supervise, redirect, steer, shard)


def main(folder: Path) -> None:
    for work in WORK:
        name = work.__name__
        found = work(folder / name, int(os.environ["WORLD_SIZE"]))
        (folder / f"{name}-{_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
