"""Arms: ways to use one and the same file of examples, each trained and evaluated alike, with what it took."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from nlft.config import Range
from nlft.core.conditions import Message, Prompt
from nlft.data.collect import SamplingSettings
from nlft.data.records import Example, Question, read_examples, read_questions
from nlft.errors import UserError
from nlft.files import write_whole
from nlft.training.run_dir import RunDir

Method = Literal["none", "few-shot", "sft", "kto", "reft", "nlft"]
TRAINED = ("sft", "kto", "reft", "nlft")


@dataclass(frozen=True)
class Arm:
    """One way to use the examples.

    Attributes:
        method: what is done with the model.
        settings: fields of that method's settings, besides the budget that all arms share. For nlft, `scheme` and
            `saliency` say how tokens are weighed.
        examples: which examples: `all`, `right` ones alone, or `shuffled`, all with the wrong ones' judgments moved
            from each to another.
    """

    name: str
    title: str
    method: Method
    settings: dict[str, Any] = field(default_factory=dict)
    examples: Literal["all", "right", "shuffled"] = "all"


_ARMS = [
    Arm("base", "prompted base", "none"),
    Arm("few-shot", "few-shot prompting", "few-shot", {"shots": 4}),
    Arm("sft-answer", "SFT on answers", "sft", {"target": "answer"}),
    Arm("sft-completion", "SFT on right completions", "sft", {"target": "completion"}),
    Arm("kto", "KTO", "kto"),
    Arm("reft", "ReFT", "reft"),
    Arm("nlft", "NLFT", "nlft"),
    Arm("control", "NLFT, branch off", "nlft", {"saliency": {"branch_weight": 0.0}}),
    Arm("shuffled", "NLFT, judgments shuffled", "nlft", examples="shuffled"),
    Arm("uniform-right", "uniform on right completions", "nlft", {"scheme": "uniform"}, "right"),
]
ARMS = {arm.name: arm for arm in _ARMS}


@dataclass
class Budget:
    """What every arm's training has in common."""

    max_steps: Annotated[int, Range(-1, inf)] = field(
        default=-1, metadata={"help": "Optimizer steps of every arm; -1: as many as the epochs take."}
    )
    num_train_epochs: Annotated[float, Range(0, inf)] = field(
        default=3.0, metadata={"help": "Passes over the examples."}
    )
    per_device_train_batch_size: Annotated[int, Range(1, inf)] = field(default=4, metadata={"help": "Examples a step."})
    learning_rate: Annotated[float, Range(0, inf)] = field(
        default=2e-4, metadata={"help": "Initial learning rate of AdamW."}
    )
    answer_weight: Annotated[float, Range(0, inf)] = field(
        default=1.0, metadata={"help": "lambda: how much of the standard answer's NLL NLFT adds."}
    )
    max_seconds: Annotated[float | None, Range(1, inf)] = field(
        default=None,
        metadata={"help": "Stop each arm's training after so many seconds, at a constant learning rate."},
    )
    activation_checkpointing: bool = field(
        default=True, metadata={"help": "Recompute activations in backward: less memory, some 20% slower."}
    )
    watch_every: Annotated[int, Range(0, inf)] = field(
        default=10, metadata={"help": "Score the saliency map's examples every so many steps."}
    )

    def training(self) -> dict[str, Any]:
        """As fields of transformers' TrainingArguments."""
        names = ("max_steps", "num_train_epochs", "per_device_train_batch_size", "learning_rate")
        chosen = {name: getattr(self, name) for name in (*names, "activation_checkpointing")}
        if self.max_seconds:  # a schedule would have to know the number of steps
            chosen["lr_scheduler_type"] = "constant"
        return {**chosen, "save_strategy": "no"}


def run_arm(
    arm: Arm,
    *,
    examples: Path,
    test: Path,
    out: Path,
    model: dict[str, Any],
    asking: SamplingSettings,
    budget: Budget,
) -> None:
    """Train and evaluate one arm; `out`/result.json says what it took, or why it could not be.

    Args:
        examples, test: files of examples and of questions.
        out: the arm's run directory.
        model: fields of `ModelSettings`.
        asking: how questions are asked and graded. The examples' own prompts have been asked already.
    """
    from nlft.training.model import ModelSettings, load_model, load_tokenizer, peak_memory_bytes

    out.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(**model)
    tokenizer = load_tokenizer(settings)
    net = load_model(settings, trainable=arm.method in TRAINED)
    start = time.monotonic()
    try:
        chosen = chosen_examples(arm, read_examples(examples), asking.seed)
        if arm.method in TRAINED:
            net = _train(arm, chosen, out, net, tokenizer, asking, budget)
    except UserError as error:
        print(f"      skipped: {error}", file=sys.stderr)
        write_whole(out / "result.json", json.dumps({"skipped": str(error)}).encode())
        return
    trained = time.monotonic()
    questions = read_questions(test)
    if arm.method == "few-shot":
        questions = with_shots(questions, chosen, asking, arm.settings["shots"])
    result = {
        "summary": asdict(_evaluate(net, tokenizer, questions, out, asking, {"model": str(model), "arm": arm.name})),
        "train_seconds": trained - start,
        "evaluate_seconds": time.monotonic() - trained,
        "peak_memory_bytes": max(peak_memory_bytes().values()),
        "num_tokens": _tokens_trained(out),
    }
    write_whole(out / "result.json", json.dumps(result).encode())


def chosen_examples(arm: Arm, examples: Sequence[Example], seed: int) -> list[Example]:
    """The arm's examples.

    Raises:
        UserError: none are left, or there are too few wrong ones to move their judgments.
    """
    if arm.examples == "right":
        right = [example for example in examples if example.label]
        if not right:
            raise UserError("no example is right.\n  Sample more, or leave this arm out.")
        return right
    if arm.examples == "shuffled":
        return with_shuffled_judgments(examples, seed)
    return list(examples)


def with_shuffled_judgments(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples with the wrong ones' judgments moved round a random cycle, so that none keeps its own.

    Raises:
        UserError: fewer than two are wrong.
    """
    wrong = [at for at, example in enumerate(examples) if not example.label]
    if len(wrong) < 2:
        raise UserError("fewer than two examples are wrong, so no judgment can be moved.\n  Leave this arm out.")
    Random(seed).shuffle(wrong)
    moved = list(examples)
    for here, there in zip(wrong, wrong[1:] + wrong[:1], strict=True):
        moved[here] = replace(examples[here], judgment=examples[there].judgment)
    return moved


def with_shots(
    questions: Sequence[Question], examples: Sequence[Example], asking: SamplingSettings, shots: int
) -> list[Question]:
    """The questions after `shots` examples with their standard answers, as earlier turns of the conversation.

    The examples are the first of a seeded shuffle, one a prompt, the same for every question.
    """
    by_prompt = {str(example.prompt): example for example in examples}
    drawn = list(by_prompt.values())
    Random(asking.seed).shuffle(drawn)
    turns: list[Message] = []
    for example in drawn[:shots]:
        turns += [*_messages(example.prompt), {"role": "assistant", "content": example.answer}]
    return [replace(question, prompt=[*turns, *_messages(question.prompt)]) for question in questions]


def _tokens_trained(run: Path) -> float | None:
    """Tokens in rows with gradient, as the run logged them."""
    logged = [event["num_tokens"] for event in RunDir(run).events() if event.get("num_tokens")]
    return float(logged[-1]) if logged else None


def _messages(prompt: Prompt) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _train(
    arm: Arm, examples: list[Example], out: Path, net: Any, tokenizer: Any, asking: SamplingSettings, budget: Budget
) -> Any:
    from nlft.training.callbacks import TimeBudget
    from nlft.training.model import default_lora

    common = {"output_dir": str(out), "seed": asking.seed, "system_prompt": asking.system_prompt}
    options = {**common, **budget.training(), **arm.settings}
    if arm.method == "nlft":
        trainer = _nlft(options, examples, net, tokenizer, budget, targets=arm.examples != "right")
    else:
        if arm.method == "reft" and budget.max_seconds:
            options["sft_seconds"] = budget.max_seconds / 2
        make, settings = _baseline(arm.method, options, asking)
        trainer = make(net, settings, examples, tokenizer, default_lora(net))
    if budget.max_seconds:
        trainer.add_callback(TimeBudget(budget.max_seconds / (2 if arm.method == "reft" else 1)))
    trainer.train()
    return trainer.model


def _nlft(
    options: dict[str, Any], examples: list[Example], net: Any, tokenizer: Any, budget: Budget, *, targets: bool
) -> Any:
    from nlft.core.schemes import SCHEMES
    from nlft.training.trainer import NLFTConfig, NLFTTrainer

    saliency = SCHEMES[options.pop("scheme", "nlft")].settings(**options.pop("saliency", {}))
    weight = options.pop("answer_weight", budget.answer_weight if targets else 0.0)
    args = NLFTConfig(**options, answer_weight=weight, watch_every=budget.watch_every)
    return NLFTTrainer(net, args, examples, processing_class=tokenizer, saliency=saliency)


def _baseline(method: str, options: dict[str, Any], asking: SamplingSettings) -> tuple[Any, Any]:
    """The trainer's class and its settings."""
    if method == "sft":
        from nlft.training.baselines import SFTBaseline, SFTSettings

        return SFTBaseline, SFTSettings(**options)
    from nlft.training.feedback_baselines import KTOBaseline, KTOSettings, ReFTBaseline, ReFTSettings

    if method == "kto":
        options["per_device_train_batch_size"] = max(options["per_device_train_batch_size"], 2)
        return KTOBaseline, KTOSettings(**options)
    # Half of the steps warm up. A step of the other half takes as many samples as a step takes examples.
    steps = options["max_steps"]
    if steps > 0:
        options |= {"sft_steps": steps - steps // 2, "max_steps": steps // 2}
    else:
        half = options["num_train_epochs"] / 2
        options |= {"sft_epochs": half, "num_train_epochs": half}
    size = options["per_device_train_batch_size"]
    options.setdefault("num_generations", next(n for n in (8, 4, 2, max(size, 2)) if max(size, 2) % n == 0))
    options |= {"per_device_train_batch_size": max(size, 2), "max_completion_length": asking.max_new_tokens}
    return ReFTBaseline, ReFTSettings(grader=asking.grader, temperature=1.0, **options)


def _evaluate(
    net: Any, tokenizer: Any, questions: list[Question], out: Path, asking: SamplingSettings, about: dict[str, Any]
) -> Any:
    from nlft.core.conditions import ConditionEncoder, Templates
    from nlft.results.evaluate import EvaluationSettings, evaluate

    return evaluate(
        net,
        ConditionEncoder(tokenizer, Templates(system_prompt=asking.system_prompt)),
        questions,
        EvaluationSettings(
            grader=asking.grader,
            prompt_template=asking.prompt_template,
            max_new_tokens=asking.max_new_tokens,
            eval_batch_size=asking.batch_size,
            system_prompt=asking.system_prompt,
        ),
        out / "evaluation.json",
        about=about,
    )
