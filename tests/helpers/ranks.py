"""What tests compute once in one process, and once in two: `torchrun ... ranks.py FOLDER` computes all of it.

Each function takes the folder for its files and the number of processes, and returns what can be written as JSON. One
start of two processes does for all tests, since each process takes seconds to import torch.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, TrainerCallback

from helpers import striking, tiny
from helpers.training import COMMON, Ask, adapter, examples, lora, nlft_trainer, two_redirected_steps
from nlft.core.batches import BatchBuilder
from nlft.core.condition_scores import score_batch
from nlft.core.conditions import ConditionEncoder
from nlft.core.hold import Role
from nlft.core.logprobs import causal_lm, enable_scoring
from nlft.core.schemes.nlft import NLFTSettings
from nlft.core.schemes.registry import get_scheme
from nlft.models.loading import default_lora, wrap
from nlft.runs.run_dir import RunDir
from nlft.training import interrupts
from nlft.training.interrupts import interruptible
from nlft.training.sharding import FSDP2_FROM
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def train(folder: Path, processes: int) -> dict[str, Any]:
    """Two steps by each way to normalise the loss, by `strike`, and both with conditions that were scored before."""
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
    for name in ("sample", "token", "strike", "frozen", "epoch", "frozen-strike"):
        mode, _, scheme = name.partition("-")
        kept = {"condition_logprobs": mode} if mode in ("frozen", "epoch") else {}
        kept |= {"condition_cache": str(folder / "cache")} if mode == "frozen" else {}
        if "strike" in (mode, scheme):
            trainer = striking.trainer(folder / name, data=marked, saliency=contrast, **kept, **steps)
        elif kept:
            trainer = nlft_trainer(folder / name, data=examples(8), **kept, **steps)
        else:
            options = {"answer_weight": 0.5, "loss_normalization": name, "watch": 2, **steps}
            trainer = nlft_trainer(folder / name, data=examples(8), **options)
        passes: list[int] = []
        trainer.model.get_base_model().model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        found[name] = {
            "wrapper": type(trainer.model_wrapped).__name__,
            "logs": logs,
            "weights": _weights(trainer),
            "passes": len(passes),
        }
    return found


def supervise(folder: Path, processes: int) -> dict[str, Any]:
    """Two steps of `nlft sft` on our own core, on rows of different lengths."""
    from nlft.baselines.sft import SFTSettings, sft_trainer

    steps = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.5, "per_device_train_batch_size": 2}
    shared = {**COMMON, **steps, "gradient_accumulation_steps": 2 // processes}
    args = SFTSettings(output_dir=str(folder), engine="nlft", target="answer", **shared)
    trainer = sft_trainer(lora(tiny.model()), args, examples(8), tiny.tokenizer(), None)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    return {"wrapper": type(trainer.model_wrapped).__name__, "logs": logs, "weights": _weights(trainer)}


def held_out(folder: Path, processes: int) -> dict[str, Any]:
    """The loss of seven held-out examples: two processes fill their last batch up with one that was there."""
    options = {"loss_normalization": "token", "answer_weight": 1.0, "watch": 0, "per_device_eval_batch_size": 2}
    data = [replace(one, answer=one.answer if at % 3 else None) for at, one in enumerate(examples(11))]
    trainer = NLFTTrainer(
        lora(tiny.model()),
        NLFTConfig(output_dir=str(folder), **COMMON, **options),
        data[:4],
        eval_dataset=data[4:],
        processing_class=tiny.tokenizer(),
    )
    return {"loss": trainer.evaluate()["eval_loss"]}


def alike(folder: Path, processes: int) -> dict[str, Any]:
    """Ten steps of four examples by each of four schemes, with trained answers: gradients, losses, forwards."""
    found = {}
    for name in ("nlft", "uniform", "cut", "strike"):
        options = {
            "max_steps": 10,
            "learning_rate": 1e-3,
            "max_grad_norm": 1e6,  # the gradients stay as they are
            "per_device_train_batch_size": 4 // processes,
            "gradient_accumulation_steps": 1,
            "answer_weight": 0.5,
            "watch": 0,
        }
        if name == "strike":  # one strike in a batch at least, so most are on one rank alone
            trainer = striking.trainer(folder / name, data=striking.records(8), strike_share=0.25, **options)
        else:
            trainer = nlft_trainer(folder / name, data=examples(8), saliency=name, **options)
        noted = _Noted(trainer)
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found[name] = {
            "wrapper": type(trainer.model_wrapped).__name__,
            "losses": losses,
            "gradients": noted.gradients,
            "forwards": noted.forwards,
            "wrong": noted.wrong,
            "struck": noted.struck,
        }
    return found


class _Noted(TrainerCallback):  # type: ignore[misc]
    """Notes the gradients of the first step, and each step's forwards, wrong examples and struck tokens."""

    def __init__(self, trainer: Any) -> None:
        self.gradients: dict[str, list[float]] = {}
        self.forwards: list[int] = []
        self.wrong: list[int] = []
        self.struck: list[int] = []
        causal_lm(trainer.model).register_forward_pre_hook(self._called)
        self._compute, trainer.compute_loss = trainer.compute_loss, self._computed
        trainer.add_callback(self)

    def _called(self, *_: Any) -> None:
        self.forwards[-1] += 1

    def _computed(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        self.forwards.append(0)
        self.wrong.append(int((~inputs["label"]).sum()))
        self.struck.append(int((inputs["hold_role"] == Role.STRUCK).sum()) if "hold_role" in inputs else 0)
        return self._compute(model, inputs, *rest, **more)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not self.gradients:
            self.gradients = {n: p.grad.flatten().tolist() for n, p in model.named_parameters() if p.requires_grad}


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


def terminate(folder: Path, processes: int) -> dict[str, Any]:
    """SIGTERM for the last process in its second step; then the same training, resumed, and one that nothing ended."""
    return _terminated(folder, processes, accumulated=1, at=2)


def terminate_long(folder: Path, processes: int) -> dict[str, Any]:
    """The same with four micro-batches a step: SIGTERM in the second one of the third step, of one process."""
    interrupts.AGREE_SECONDS, usual = 0.0, interrupts.AGREE_SECONDS  # these micro-batches take milliseconds
    try:
        return _terminated(folder, processes, accumulated=4, at=10)
    finally:
        interrupts.AGREE_SECONDS = usual


def _terminated(folder: Path, processes: int, *, accumulated: int, at: int) -> dict[str, Any]:
    def made(name: str) -> Any:
        size = {"per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": accumulated}
        options = {"max_steps": 4, "watch": 0, "optim": "sgd", "learning_rate": 0.5}
        model = lora(tiny.model(), lora_dropout=0.2)
        return nlft_trainer(folder / name, data=examples(8 * accumulated), model=model, **size, **options)

    trainer = made("ended")
    step, done = trainer.training_step, 0

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        if done == at and _rank() == processes - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    trainer.training_step = counted
    try:
        with interruptible(trainer, RunDir(folder / "ended")):
            trainer.train()
        code = 0
    except SystemExit as ended:
        code = ended.code
    resumed = made("ended")
    resumed.train(resume_from_checkpoint=True)
    whole = made("whole")  # this sets the seed
    whole.train()
    found = {"code": code, "step": trainer.state.global_step, "done": done}
    return {**found, "resumed": _weights(resumed), "whole": _weights(whole)}


def epochs(folder: Path, processes: int) -> dict[str, Any]:
    """Four steps, two in each epoch; then the last one again, from a checkpoint within the second epoch."""
    options = {
        "max_steps": 4,
        "optim": "sgd",
        "learning_rate": 0.5,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 5,
    }
    options |= {"per_device_train_batch_size": 4 // processes, "gradient_accumulation_steps": 1, "watch": 0}
    found = {}
    for name, make, data in (("nlft", nlft_trainer, examples(8)), ("strike", striking.trainer, striking.records(8))):
        whole = make(folder / name, data=data, **options)
        seen: list[list[Any]] = []
        _note_examples(whole, seen)
        whole.train()
        again = make(folder / f"{name}-again", data=data, **options)
        resumed: list[list[Any]] = []
        _note_examples(again, resumed)
        again.train(resume_from_checkpoint=str(folder / name / "checkpoints" / "checkpoint-3"))
        found[name] = {"seen": seen, "resumed": resumed, "weights": [_weights(whole), _weights(again)]}
    return found


def _note_examples(trainer: Any, seen: list[list[Any]]) -> None:
    step = trainer.training_step

    def noted(model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        seen.append([one.id for one in inputs["examples"]])
        return step(model, inputs, *rest, **more)

    trainer.training_step = noted


def shards(folder: Path, processes: int) -> dict[str, Any]:
    """Four steps under FSDP2, if there are several processes; then the last two again, from a checkpoint of step 2.

    The ranks' batches differ: in strikes, in labels, in how many chunks of logits they need.
    """
    common = {
        "max_steps": 4,
        "optim": "adamw_torch",
        "learning_rate": 0.01,
        "per_device_train_batch_size": 4 // processes,
        "gradient_accumulation_steps": 1,
        "max_grad_norm": 0.05,  # so that clipping has an effect at each step
        "answer_weight": 0.5,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 5,
        "watch": 2,
        "activation_checkpointing": True,
    }
    if processes > 1:
        common |= {"fsdp": True, "fsdp_config": {"version": 2}}
    found = {}
    for name in ("nlft", "strike"):
        data = striking.records(8) if name == "strike" else examples(8)
        make = striking.trainer if name == "strike" else nlft_trainer
        home = folder / name
        trainer = make(home, data=data, **common)
        causal_lm(trainer.model)._nlft_chunk_bytes = 2**15  # seven places in a chunk
        kinds = _Kinds()
        trainer.callback_handler.callbacks.insert(0, kinds)  # before the watched examples are scored
        trainer.train()
        again = make(folder / f"{name}-again", data=data, **common)
        causal_lm(again.model)._nlft_chunk_bytes = 2**15
        again.train(resume_from_checkpoint=str(home / "checkpoints" / "checkpoint-2"))
        found[name] = {
            "kinds": kinds.found,
            "wrapper": type(trainer.model_wrapped).__name__,
            "logs": [log for log in trainer.state.log_history if "loss" in log],
            "again": [log for log in again.state.log_history if "loss" in log],
        }
    return found


class _Kinds(TrainerCallback):  # type: ignore[misc]
    """Notes the classes of the parameters before the first forward. After it, FSDP2 keeps some of them whole."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.found = sorted({type(p).__name__ for p in model.parameters()})


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


WORK: tuple[Callable[[Path, int], dict[str, Any]], ...] = (
    train, supervise, held_out, alike, redirect, steer, terminate, terminate_long, epochs,
    *((shard, shards) if torch.__version__ >= FSDP2_FROM else ())
)  # fmt: skip


def main(folder: Path) -> None:
    wanted = sys.argv[2:]
    for work in WORK:
        name = work.__name__
        if wanted and name not in wanted:
            continue
        found = work(folder / name, int(os.environ["WORLD_SIZE"]))
        (folder / f"{name}-{_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
