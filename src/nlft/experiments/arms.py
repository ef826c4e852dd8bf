"""Arms: ways to use one and the same file of examples, each trained and evaluated alike, with what it took."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from math import ceil, gcd, inf
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, get_args

import torch

from nlft.collect.sampling import SamplingSettings
from nlft.config import Range, settle
from nlft.core.prompts import Message
from nlft.data.records import Example, Question, as_messages, read_examples, read_questions
from nlft.errors import ConfigError, Problem, UserError, display_path
from nlft.files import write_whole
from nlft.runs.run_dir import RunDir

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
    Arm("few-shot", "4-shot prompting", "few-shot", {"shots": 4}),
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
BUILT_IN = frozenset(ARMS)


def defined(name: str, spec: dict[str, Any]) -> Arm:
    """An arm from a plan's `extra_arms`.

    Raises:
        UserError: the name is taken, or the plan says something that no arm has.
    """
    allowed = {"title", "method", "settings", "examples"}
    kinds = get_args(Arm.__annotations__["examples"])
    problems = [f"{key!r} is none of {', '.join(sorted(allowed))}" for key in spec.keys() - allowed]
    if name in BUILT_IN:
        problems.append("is built in; choose another name")
    if spec.get("method") not in get_args(Method):
        problems.append(f"method {spec.get('method')!r} is none of {', '.join(get_args(Method))}")
    if spec.get("examples", "all") not in kinds:
        problems.append(f"examples {spec['examples']!r} is none of {', '.join(kinds)}")
    settings = spec.get("settings", {})
    if spec.get("method") == "few-shot":
        settings = {"shots": ARMS["few-shot"].settings["shots"], **settings}
        problems += [f"{key!r} is no setting of few-shot" for key in settings.keys() - {"shots"}]
        if not isinstance(settings["shots"], int) or settings["shots"] < 1:
            problems.append(f"shots is {settings['shots']!r}, and should be 1 or more")
    elif spec.get("method") == "none" and settings:
        problems.append("method none has no settings")
    if problems:
        raise UserError(f"extra_arms: {name}: {'; '.join(problems)}.\n  Mend the plan.")
    return Arm(name, **{"title": name, **spec, "settings": settings})


def few_shot(shots: int) -> Arm:
    """The arm that shows so many of the examples in the prompt."""
    return Arm("few-shot", f"{shots}-shot prompting", "few-shot", {"shots": shots})


def claim(arm: Arm, out: Path) -> None:
    """Write `out`/arm.json: what the arm is. A folder must not hold what another definition of its name gave.

    Raises:
        UserError: it does.
    """
    definition = json.loads(json.dumps(asdict(arm)))
    path = out / "arm.json"
    if path.exists() and json.loads(path.read_text()) != definition:
        raise UserError(
            f"{display_path(out)}: was trained with another definition of {arm.name}.\n"
            "  Give the new one another name, or remove that folder."
        )
    write_whole(path, json.dumps(definition, indent=1).encode())


@dataclass
class Budget:
    """What every arm's training has in common."""

    max_steps: Annotated[int, Range(-1, inf)] = field(
        default=-1, metadata={"help": "Optimizer steps of every arm; -1: as many as the epochs over all examples take."}
    )
    num_train_epochs: Annotated[float, Range(0, inf)] = field(
        default=6.0,
        metadata={
            "help": "Passes over the examples; a few dozen need more than are usual. An arm that trains on some of "
            "them alone takes as many steps as the others, and so more passes."
        },
    )
    per_device_train_batch_size: Annotated[int, Range(1, inf)] = field(default=2, metadata={"help": "Examples a step."})
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

    def training(self, examples: int) -> dict[str, Any]:
        """As fields of transformers' TrainingArguments: the same number of steps for every arm, or of seconds.

        Args:
            examples: how many there are, of which an arm may take some alone.
        """
        from nlft.training.callbacks import UNTIL_TIME_IS_UP

        names = ("per_device_train_batch_size", "learning_rate", "activation_checkpointing")
        chosen = {name: getattr(self, name) for name in names}
        chosen["max_steps"] = self.max_steps
        if self.max_steps <= 0:
            passed = self.num_train_epochs * ceil(examples / self.per_device_train_batch_size)
            chosen["max_steps"] = max(1, ceil(passed))
        if self.max_seconds:  # a schedule would have to know the number of steps
            chosen |= {"lr_scheduler_type": "constant", "max_steps": UNTIL_TIME_IS_UP}
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
    from nlft.models.loading import ModelSettings, adapter_fingerprint, load_model, load_tokenizer, lora_config
    from nlft.results.evaluate import evaluate_as_asked

    out.mkdir(parents=True, exist_ok=True)
    settings = ModelSettings(**model)
    tokenizer = load_tokenizer(settings)
    net = load_model(settings, trainable=arm.method in TRAINED)
    start, trainer = time.monotonic(), None
    try:
        found = read_examples(examples)
        chosen = chosen_examples(arm, found, asking.seed)
        if arm.method in TRAINED:
            lora = None if settings.adapter or not settings.use_peft else lora_config(settings, net)
            options = _own_budget(arm, budget).training(len(found))
            trainer = _train(arm, options, chosen, out, net, tokenizer, asking, budget, lora)
            net = trainer.model
    except UserError as error:
        print(f"      skipped: {error}", file=sys.stderr)
        write_whole(out / "result.json", json.dumps({"skipped": str(error)}).encode())
        return
    trained, peak = time.monotonic(), peak_memory_bytes()
    questions = read_questions(test)
    if arm.method == "few-shot":
        questions = with_shots(questions, chosen, asking, arm.settings["shots"])
    # A cell that is trained again must not be given answers of the training before.
    adapter = adapter_fingerprint(str(out)) if arm.method in TRAINED else None
    about = {"model": str(model), "arm": arm.name, "adapter": adapter}
    summary = evaluate_as_asked(net, tokenizer, questions, asking, out / "evaluation.json", about=about)
    result = {
        "summary": asdict(summary),
        "steps": _steps(trainer) if trainer else None,
        "train_seconds": trained - start - _apart(trainer),
        "evaluate_seconds": time.monotonic() - trained,
        "peak_memory_bytes": peak.get("cuda") or peak["host"],
        "peak_memory_with_evaluation_bytes": max(peak_memory_bytes().values()),
        "num_tokens": (_tokens_trained(out) or 0) + (_tokens_trained(out / "warm-up") or 0) or None,
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
        turns += [*as_messages(example.prompt, "user"), {"role": "assistant", "content": example.answer}]
    return [replace(question, prompt=[*turns, *as_messages(question.prompt, "user")]) for question in questions]


def _steps(trainer: Any) -> int:
    """Optimizer steps that were taken, the warm-up's among them."""
    return int(trainer.state.global_step) + int(getattr(trainer, "warm_up_steps", 0))


def _apart(trainer: Any) -> float:
    """Seconds that went into the saliency map, which trains nothing."""
    return float(getattr(trainer, "watch_seconds", 0.0))


def _tokens_trained(run: Path) -> float | None:
    """Tokens in rows with gradient, as the run logged them."""
    logged = [event["num_tokens"] for event in RunDir(run).events() if event.get("num_tokens")]
    return float(logged[-1]) if logged else None


def _own_budget(arm: Arm, budget: Budget) -> Budget:
    """The budget, but for an arm that has epochs of its own."""
    if "num_train_epochs" not in arm.settings:
        return budget
    return replace(budget, num_train_epochs=float(arm.settings["num_train_epochs"]), max_steps=-1)


def _train(
    arm: Arm,
    options: dict[str, Any],
    examples: list[Example],
    out: Path,
    net: Any,
    tokenizer: Any,
    asking: SamplingSettings,
    budget: Budget,
    lora: Any,
) -> Any:
    """The trainer, after it has trained."""
    from nlft.training.callbacks import TimeBudget

    options = {"output_dir": str(out), "seed": asking.seed, "system_prompt": asking.system_prompt, **options}
    if arm.method == "nlft":
        trainer = _nlft(arm, options, examples, net, tokenizer, budget, lora)
    else:
        if arm.method == "reft" and budget.max_seconds:
            options["sft_seconds"] = budget.max_seconds / 2
        make, settings = _baseline(arm, options, asking)
        trainer = make(net, settings, examples, tokenizer, lora)
    if budget.max_seconds:
        seconds = budget.max_seconds / (2 if arm.method == "reft" else 1)
        trainer.add_callback(TimeBudget(seconds, partial(_apart, trainer)))
    trainer.train()
    return trainer


def _nlft(
    arm: Arm,
    options: dict[str, Any],
    examples: list[Example],
    net: Any,
    tokenizer: Any,
    budget: Budget,
    lora: Any,
) -> Any:
    from nlft.core.schemes.registry import get_scheme, scheme_names
    from nlft.training.trainer import NLFTConfig, NLFTTrainer

    own = dict(arm.settings)
    scheme = own.pop("scheme", "nlft")
    if scheme not in scheme_names():
        raise ConfigError([Problem(arm.name, f'"scheme" is {scheme!r}', f"Choose one of {', '.join(scheme_names())}.")])
    saliency = settle(get_scheme(scheme).settings, {}, own.pop("saliency", {}), f"{arm.name}: saliency")
    weight = 0.0 if arm.examples == "right" else budget.answer_weight
    common = {**options, "answer_weight": weight, "watch_every": budget.watch_every}
    args = settle(NLFTConfig, common, own, arm.name)
    return NLFTTrainer(net, args, examples, processing_class=tokenizer, saliency=saliency, peft_config=lora)


def _baseline(arm: Arm, options: dict[str, Any], asking: SamplingSettings) -> tuple[Any, Any]:
    """The trainer's class and its settings.

    Args:
        options: what all arms have in common; the arm's own settings go before them.
    """
    own = arm.settings
    if arm.method == "sft":
        from nlft.training.sft import SFTBaseline, SFTSettings

        return SFTBaseline, settle(SFTSettings, options, own, arm.name)
    from nlft.training.kto import KTOBaseline, KTOSettings
    from nlft.training.reft import ReFTBaseline, ReFTSettings

    # What supervised training can bear breaks these: their own default rate is a quarter of its default.
    supervised = options["learning_rate"]
    gentle = {"learning_rate": supervised / 4, "per_device_train_batch_size": _pair(options)}
    if arm.method == "kto":
        return KTOBaseline, settle(KTOSettings, {**options, **gentle}, own, arm.name)
    # Half of the steps warm up. Each of the others compares `groups` answers to a question: in groups of two both are
    # mostly wrong, and such a step has no gradient. So it may take more samples than a step of the others has examples.
    steps, size = options["max_steps"], _pair({**options, **own})
    groups = own.get("num_generations", 8)
    accumulated = groups // gcd(groups, size)
    shared: dict[str, Any] = {"sft_steps": max(1, steps - steps // 2), "max_steps": max(1, steps // 2)}
    shared |= {"gradient_accumulation_steps": accumulated}
    shared |= {"warmup_learning_rate": supervised, "num_generations": groups, "grader": asking.grader}
    shared |= {"max_completion_length": asking.max_new_tokens, "temperature": 1.0}
    if asking.grader == "number":
        shared["extraction"] = asking.extraction
    return ReFTBaseline, settle(ReFTSettings, {**options, **gentle, **shared}, own, arm.name)


def _pair(options: dict[str, Any]) -> int:
    """The batch size; comparing samples takes two."""
    return max(int(options["per_device_train_batch_size"]), 2)


def peak_memory_bytes() -> dict[str, int]:
    """Peak memory of this process so far: resident on the host, and allocated on the GPU if there is one."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak
