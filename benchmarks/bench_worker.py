"""Train one arm of `benchmarks/bench.py`, count its tokens, and tell how long each pass over its rows takes."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import torch
from bench_arms import Arm, Kind, Options
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from nlft.baselines.sft import SFTSettings, sft_trainer
from nlft.core.conditions import EncodedExample, Row, pad, row
from nlft.core.heads import decoder_of
from nlft.core.limits import limits_of
from nlft.core.logprobs import causal_lm
from nlft.core.loss import Window, normalize
from nlft.core.saliency import ConditionLogprobs
from nlft.core.schemes.nlft_original import OriginalSettings, guarded_log, original_losses, original_weights
from nlft.core.schemes.registry import get_scheme
from nlft.data.encoding import encode_examples
from nlft.data.problems import generate_problems
from nlft.data.records import Example
from nlft.errors import NLFTError
from nlft.experiments.arm_run import peak_memory_bytes
from nlft.models.loading import ModelSettings, default_lora, load_model, load_tokenizer, wrap
from nlft.progress import quiet_libraries
from nlft.training.callbacks import show_own_progress
from nlft.training.prompting import training_encoder
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def make_examples(tokenizer: PreTrainedTokenizerBase, options: Options, kind: Kind) -> list[Example]:
    """Make the rows: English sentences of about the wanted numbers of tokens, whatever the tokenizer is."""
    rng, count = Random(0), options.batch * options.batches
    text = [part for one in generate_problems(60, seed=0) for part in (one.prompt, str(one.answer).split("####")[0])]
    words = " ".join(text).split()

    def about(tokens: float) -> str:
        start, size = rng.randrange(len(words) // 2), max(1, int(tokens))
        taken = (words[start:] + words * (1 + 2 * size // len(words)))[: 2 * size]
        ids = tokenizer(" ".join(taken), add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in ids["offset_mapping"]]
        return " ".join(taken)[: ends[min(size, len(ends)) - 1]].rstrip()

    made = []
    for at in range(count):
        factor = 1 + options.spread * (2 * ((7 * at) % count) / max(1, count - 1) - 1)
        label = {"right": True, "wrong": False, "mixed": at % 3 == 0}[kind]
        prompt, completion = about(factor * options.prompt), about(factor * options.completion)
        quoted = " ".join(completion.split()[1:4]) or completion
        shown, judgment = about(factor * options.shown), f'"{quoted}" is wrong. {about(factor * options.judgment)}'
        made.append(Example(f"row {at}", prompt, completion, label, shown, None if label else judgment))
    return made


def make_trainer(arm: Arm, options: Options, folder: Path) -> Trainer:
    """Make an arm's trainer, on the model that the options describe.

    Raises:
        NLFTError: the arm cannot train with these settings.
    """
    settings = ModelSettings(model_name_or_path=options.model, dtype=options.dtype)
    net, tokenizer = load_model(settings, trainable=True), load_tokenizer(settings)
    torch.manual_seed(0)
    if options.vocabulary:
        net.resize_token_embeddings(options.vocabulary, mean_resizing=False)
    examples = make_examples(tokenizer, options, arm.data)
    adapter = default_lora(net) if options.weights == "lora" else None
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": options.batch,
        "num_train_epochs": options.warm_up + options.rounds,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "activation_checkpointing": options.checkpointing,
        "max_length": None,
        "use_cpu": options.cpu,
        **arm.settings,
    }
    if arm.trainer == "sft":
        return sft_trainer(net, _still(SFTSettings(target="all-completions", **common)), examples, tokenizer, adapter)
    scheme = get_scheme(common.pop("scheme", "nlft-original"))
    saliency = scheme.settings(**common.pop("saliency", {}))
    if arm.trainer == "peer":
        return OriginalStep(wrap(net, adapter), _still(NLFTConfig(**common)), examples, tokenizer)
    args = _still(NLFTConfig(watch=0, answer_weight=options.answer_weight, **common))
    return NLFTTrainer(net, args, examples, processing_class=tokenizer, saliency=saliency, peft_config=adapter)


def _still(args: Any) -> Any:
    """Set the learning rate to 0: every arm sees the same weights in every round. The optimizer still does its work.

    The settings refuse a rate of 0 when they are made, because a user's training would change nothing.
    """
    args.learning_rate = 0.0
    return args


class OriginalStep(Trainer):
    """The step of the published code, written plainly: three sequences of each example in one batch, all with gradient.

    The logits of all positions become float32, and their softmax is taken over the whole vocabulary.
    """

    def __init__(self, model: Any, args: NLFTConfig, examples: Sequence[Example], tokenizer: Any) -> None:
        encoder = training_encoder(tokenizer, args, limits_of(model))
        self.encoded = encode_examples(examples, encoder)
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if args.activation_checkpointing:
            model.enable_input_require_grads()
        super().__init__(model=model, args=args, train_dataset=self.encoded, data_collator=self.rows)
        show_own_progress(self)

    def rows(self, examples: Sequence[EncodedExample]) -> dict[str, Any]:
        """Pad each example's three rows: bases, then standards, then judges. A right example has no judge prompt."""
        prompts = [[e.base for e in examples], [e.standard for e in examples], [e.judge or e.base for e in examples]]
        made: list[Row] = [row(p, e.completion) for part in prompts for p, e in zip(part, examples, strict=True)]
        padded = pad(made, self.pad)
        lengths = torch.tensor([len(e.completion) for e in examples])
        return {
            "input_ids": padded.input_ids,
            "attention_mask": padded.attention_mask,
            "starts": torch.tensor([one.start for one in made]),
            "said": pad([row([], e.completion) for e in examples], 0).input_ids,
            "lengths": lengths,
            "label": torch.tensor([e.label for e in examples]),
        }

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        said, lengths, starts = inputs["said"], inputs["lengths"], inputs["starts"]
        size, width = said.shape
        out = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
            use_cache=False,
        )
        p = out.logits.float().softmax(-1)
        steps = torch.arange(width, device=said.device)
        mask = steps < lengths[:, None]

        def read(rows: int, start: Tensor) -> Tensor:
            """Probabilities of the said tokens in the rows from `rows` on, at the positions that begin at `start`."""
            at = (start[:, None] - 1 + steps).clamp(max=p.shape[1] - 1)
            return p[torch.arange(rows, rows + size, device=said.device)[:, None], at, said].masked_fill(~mask, 1)

        base, standard, judge = (read(n * size, starts[n * size : (n + 1) * size]) for n in range(3))
        misread = torch.where(inputs["label"][:, None], base, read(2 * size, starts[:size]))
        states = (starts[:size, None] - 1 + steps).clamp(max=p.shape[1] - 1)
        hidden = out.hidden_states[-1][torch.arange(size, device=said.device)[:, None], states].detach()
        known = [guarded_log(one.detach()) * mask for one in (base, standard, judge)]
        scores = ConditionLogprobs(known[0], mask, inputs["label"], known[1], known[2], hidden=hidden)
        weights = original_weights(scores, OriginalSettings())
        losses = original_losses(weights, guarded_log(base), guarded_log(misread) * mask)
        return normalize(losses.total, lengths, Window(size, int(lengths.sum())), "sample")


@dataclass(frozen=True)
class Counts:
    """Tokens of one pass over the rows, without padding, that a step of this kind cannot do without.

    Attributes:
        trained: tokens that go through the decoder forward and backward.
        scored: tokens that go through it forward only.
        head_trained, head_scored: positions at the LM head, likewise.
    """

    trained: int
    scored: int
    head_trained: int
    head_scored: int

    def cost(self, backward: int, head: float) -> float:
        """Return the cost in units of one token's way forward through the decoder.

        Args:
            backward: units of one token's way back.
            head: units of one position's way forward through the LM head. Its way back costs as much.
        """
        return self.trained * (1 + backward) + self.scored + head * (2 * self.head_trained + self.head_scored)


def counted(arm: Arm, trainer: Any) -> Counts:
    """Count one pass of an arm from its rows."""
    if arm.trainer == "peer":
        rows = trainer.rows(trainer.encoded)
        return Counts(int(rows["attention_mask"].sum()), 0, 3 * int(rows["lengths"].sum()), 0)
    if arm.trainer == "sft":
        rows = list(trainer.train_dataset)
        trained = sum(len(one["input_ids"]) for one in rows)
        return Counts(trained, 0, sum(label != -100 for one in rows for label in one["labels"]), 0)
    examples = list(trainer.train_dataset)
    features = trainer.builder(examples)
    trained, said = int(features["attention_mask"].sum()), int((features["labels"] != -100).sum())
    if arm.frozen:
        return Counts(trained, 0, said, 0)
    tokens = head = 0
    if "scored_input_ids" in features:
        tokens, head = int(features["scored_attention_mask"].sum()), int((features["scored_labels"] != -100).sum())
    if "hold" in trainer.needs:  # the frozen base reads the trained rows once more
        tokens, head = tokens + trained, head + said
    return Counts(trained, tokens, said, head)


def units(model: Any, options: Options) -> tuple[int, float, int]:
    """Return a token's cost backward, a position's cost at the head, and what the unit is: a token forward in the
    decoder. The unit is in floating-point operations: two for each weight.

    Backward costs one unit for the activations' gradient, one more if all weights are trained, and one more if
    activations are computed again. A head costs what its share of the multiplications is.
    """
    net = causal_lm(model)
    head, embedding = net.get_output_embeddings(), net.get_input_embeddings()
    decoder = {id(p): p.numel() for n, p in decoder_of(net).named_parameters() if "lora_" not in n}
    decoder.pop(id(embedding.weight), None)
    weights = sum(decoder.values())
    return 1 + (options.weights == "all") + options.checkpointing, head.weight.numel() / weights, 2 * weights


class Turns(TrainerCallback):  # type: ignore[misc]
    """Lets a training go on for one pass each time it is told to, and reports how long the pass took."""

    def __init__(self, connection: Connection, passes: int) -> None:
        self.connection, self.left = connection, passes

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        if self.left and not hasattr(self, "start"):
            self.connection.send({"loaded": peak_memory_bytes()})
        self.connection.recv()
        _wait_for_device()
        self.start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        _wait_for_device()
        seconds, cpu = time.perf_counter() - self.start[0], time.process_time() - self.start[1]
        self.left -= 1
        self.connection.send({"seconds": seconds, "cpu": cpu, "peak": peak_memory_bytes()})
        if not self.left:
            self.connection.recv()  # what follows must not disturb the others


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def work(connection: Connection, arm: Arm, options: Options) -> None:
    """Train one arm in a process of its own, a pass at a time. Send what it found, or why it cannot train."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = make_trainer(arm, options, Path(folder))
            trainer.add_callback(Turns(connection, options.warm_up + options.rounds))
            trainer.train()
            backward, head, operations = units(trainer.model, options)
            counts = counted(arm, trainer)
            connection.send(
                {
                    "tokens": asdict(counts),
                    "cost": counts.cost(backward, head),
                    "units": {"backward": backward, "head": head, "operations": operations},
                    "device": str(trainer.args.device),
                }
            )
        except NLFTError as error:
            connection.send({"skipped": str(error).splitlines()[0]})
