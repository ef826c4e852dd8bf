"""Train and evaluate one arm, and record the time, memory and steps that it took."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from nlft.collect.sampling import SamplingSettings
from nlft.config import settle
from nlft.core.prompts import SystemPromptSettings
from nlft.data.records import Example, read_examples, read_questions
from nlft.data.rules_file import words_of
from nlft.errors import ConfigError, Problem, UserError
from nlft.experiments.arm_data import as_prompted, chosen_examples, with_what_is_read
from nlft.experiments.arms import Arm
from nlft.experiments.curves import Curve, Exam
from nlft.experiments.rule_arms import read_rules_if, with_rules
from nlft.experiments.settings import Budget, CurveSettings
from nlft.files import write_whole
from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
from nlft.planning.shortage import telling_what_fits
from nlft.results.settings import CollateralSettings
from nlft.runs.run_dir import RunDir
from nlft.training.callbacks import TimeBudget
from nlft.training.interrupts import interruptible
from nlft.training.settings import ConditionSettings
from nlft.training.start import own_checkpoint

if TYPE_CHECKING:
    from nlft.training.trainer import NLFTTrainer

CHECKPOINTS = 10  # of an arm's training, over its steps; a killed one goes on from the last


def run_arm(
    arm: Arm,
    *,
    examples: Path,
    test: Path,
    out: Path,
    model: dict[str, Any],
    asking: SamplingSettings,
    budget: Budget,
    collateral: CollateralSettings | None = None,
    base_answers: Path | None = None,
    rules: Path | str | None = None,
    revised: Path | None = None,
    curve: CurveSettings | None = None,
) -> None:
    """Train and evaluate one arm. Write the costs, or the reason for skipping the arm, to `out`/result.json.

    Args:
        examples: file of examples.
        test: file of questions.
        out: the arm's run directory.
        model: fields of `ModelSettings`.
        asking: how to ask questions and grade answers. The prompts of the examples stay as they are.
        collateral: settings of the collateral of a trained arm; None: do not measure it.
        base_answers: ledger of the base model's answers, which cells can share. Default: one beside evaluation.json.
        rules: file of rules, for the arms that show, ban or strike them.
        revised: file of revised replies, for the arms that train on them.
        curve: the steps after which a trained arm is evaluated too; None: only at the end.
    """
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "curve", ignore_errors=True)  # of a run that was killed
    settings = ModelSettings(**model)
    net, tokenizer = load_model(settings, trainable=arm.is_trained), load_tokenizer(settings)
    questions = read_questions(test, require_answer=False)
    training, points, start = None, None, time.monotonic()
    try:
        pool = read_examples(examples)
        known = read_rules_if(rules)
        arm, chosen = with_rules(arm, known, pool), chosen_examples(arm, pool, asking.seed, known, revised)
        asked = as_prompted(arm, questions, chosen, asking)
        exam = Exam(arm, model, tokenizer, asking, asked, chosen, pool, words_of(known), collateral, base_answers, out)
        if arm.is_trained:
            points = Curve(exam, curve) if curve is not None and curve.curve else None
            lora = None if settings.adapter or not settings.use_peft else lora_config(settings, net)
            training = ArmTraining(arm, chosen, len(pool), out, net, tokenizer, lora, asking, budget, points).train()
            net = training.model
    except UserError as error:
        print(f"      skipped: {error}", file=sys.stderr)
        write_whole(out / "result.json", json.dumps({"skipped": str(error)}).encode())
        return
    trained, peak = time.monotonic(), peak_memory_bytes()
    found = points.finish(steps_taken(training)) if training and points else exam.at_end(net)
    costs = {
        "steps": steps_taken(training) if training else None,
        "train_seconds": trained - start - seconds_beside(training, points),
        "evaluate_seconds": time.monotonic() - trained + (points.seconds if points else 0.0),
        **_memory_and_tokens(out, peak),
    }
    write_whole(out / "result.json", json.dumps({**found, **costs}).encode())


def _memory_and_tokens(out: Path, peak: dict[str, int]) -> dict[str, Any]:
    """Return the memory and the tokens of result.json.

    Args:
        peak: peak memory at the end of the training.
    """
    return {
        "peak_memory_bytes": peak.get("cuda") or peak["host"],
        "peak_memory_with_evaluation_bytes": max(peak_memory_bytes().values()),
        "num_tokens": (_tokens_trained(out) or 0) + (_tokens_trained(out / "warm-up") or 0) or None,
    }


@dataclass(frozen=True)
class ArmTraining:
    """The training of one arm.

    Attributes:
        examples: the arm's examples.
        all_examples: number of examples of the comparison, which determines the number of steps.
        out: the arm's run directory.
        lora: shape of a new adapter. None: continue with the model's own adapter, or train all weights.
        curve: evaluates the arm during the training; None: nothing does.
    """

    arm: Arm
    examples: list[Example]
    all_examples: int
    out: Path
    net: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lora: LoraConfig | None
    asking: SamplingSettings
    budget: Budget
    curve: Curve | None = None

    def train(self) -> Trainer:
        """Train, and return the trainer.

        Raises:
            UserError: the arm's settings or examples do not suit its method.
        """
        trainer = self._nlft() if self.arm.method == "nlft" else self._baseline()
        if self.budget.max_seconds:
            seconds = self.budget.max_seconds / (2 if self.arm.method == "reft" else 1)
            trainer.add_callback(TimeBudget(seconds, partial(seconds_beside, trainer, self.curve)))
        if self.curve is not None:
            self.curve.trainer = trainer
            trainer.add_callback(self.curve)
        run = RunDir(self.out)
        keeps = self._keeps_checkpoints()
        checkpoint = own_checkpoint(trainer, run) if keeps else None
        with interruptible(trainer, run, tell=False) if keeps else nullcontext(), telling_what_fits(trainer):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        for folder in (run.checkpoints_path, RunDir(self.out / "warm-up").checkpoints_path):
            shutil.rmtree(folder, ignore_errors=True)  # the result needs them no longer
        return trainer

    def _keeps_checkpoints(self) -> bool:
        """Whether a killed training can go on: not if seconds end it, or if a curve measures it on the way."""
        return not self.budget.max_seconds and self.curve is None

    def _options(self) -> dict[str, Any]:
        """Return the training arguments that all arms share."""
        about: dict[str, Any] = {"output_dir": str(self.out), "seed": self.asking.seed}
        shared = {f.name: getattr(self.asking, f.name) for f in fields(SystemPromptSettings)}
        mine = self.arm.settings
        if self.arm.method == "kto":  # it takes two examples at least, see `baseline_trainer`
            mine = {"per_device_train_batch_size": max(2, self.budget.per_device_train_batch_size), **mine}
        own = self.budget.training(self.all_examples, mine)
        if self._keeps_checkpoints() and not {"save_strategy", "save_steps"} & self.arm.settings.keys():
            every = max(1, own["max_steps"] // CHECKPOINTS)
            own |= {"save_strategy": "steps", "save_steps": every, "save_total_limit": 1}
        return {**about, **shared, **own}

    def _nlft(self) -> "NLFTTrainer":
        from nlft.core.schemes.registry import get_scheme, scheme_names
        from nlft.training.trainer import NLFTConfig, NLFTTrainer

        own, name = dict(self.arm.settings), self.arm.name
        scheme = own.pop("scheme", "nlft")
        if scheme not in scheme_names():
            raise ConfigError([Problem(name, f'"scheme" is {scheme!r}', f"Choose one of {', '.join(scheme_names())}.")])
        saliency = settle(get_scheme(scheme).settings, {}, own.pop("saliency", {}), f"{name}: saliency")
        weight = 0.0 if self.arm.examples == "right" else self.budget.answer_weight
        scored = {f.name: getattr(self.budget, f.name) for f in fields(ConditionSettings)}
        common = {**self._options(), **scored, "answer_weight": weight}
        if own.get("watch") != 0 or own.get("watch_ids"):
            common["watch_every"] = self.budget.watch_every
        return NLFTTrainer(
            self.net,
            settle(NLFTConfig, common, own, name),
            with_what_is_read(self.examples, get_scheme(scheme), saliency),
            processing_class=self.tokenizer,
            saliency=saliency,
            peft_config=self.lora,
        )

    def _baseline(self) -> Trainer:
        options = self._options()
        if self.arm.method == "reft" and self.budget.max_seconds:
            options["sft_seconds"] = self.budget.max_seconds / 2
        make, settings = baseline_trainer(self.arm, options, self.asking)
        return make(self.net, settings, self.examples, self.tokenizer, self.lora)


def baseline_trainer(
    arm: Arm, options: dict[str, Any], asking: SamplingSettings
) -> tuple[Callable[..., Trainer], object]:
    """Return the trainer's class and its settings.

    Args:
        options: the training arguments that all arms share. The arm's own settings override them.
    """
    own = dict(arm.settings)
    if arm.method == "sft":
        from nlft.baselines.sft import SFTSettings, sft_trainer

        # Kept comparisons trained with TRL. An arm of its own may set `engine: nlft`.
        return sft_trainer, settle(SFTSettings, {"engine": "trl", **options}, own, arm.name)
    from nlft.baselines.kto import KTOBaseline, KTOSettings
    from nlft.baselines.reft import ReFTBaseline, ReFTSettings

    # These methods diverge at the rate of supervised training. Their default rate is a quarter of its default.
    supervised = options["learning_rate"]
    gentle = {"learning_rate": supervised / 4, "per_device_train_batch_size": _two_or_more(options)}
    if arm.method == "dpo":
        from nlft.baselines.dpo import DPOBaseline, DPOSettings

        return DPOBaseline, settle(DPOSettings, {**options, "learning_rate": supervised / 4}, own, arm.name)
    if arm.method == "kto":
        return KTOBaseline, settle(KTOSettings, {**options, **gentle}, own, arm.name)
    # Half of the steps warm up. Each other step compares `groups` answers to one question. In groups of two, both
    # answers are mostly wrong, and such a step has no gradient. So a step may take more samples than other arms do.
    steps, size = options["max_steps"], _two_or_more({**options, **own})
    groups = own.get("num_generations", 8)
    accumulated = groups // gcd(groups, size)
    shared: dict[str, Any] = {"sft_steps": max(1, steps - steps // 2), "max_steps": max(1, steps // 2)}
    shared |= {"gradient_accumulation_steps": accumulated}
    shared |= {"warmup_learning_rate": supervised, "num_generations": groups, "grader": asking.grader}
    shared |= {"max_completion_length": asking.max_new_tokens, "temperature": 1.0}
    if asking.grader == "number":
        shared["extraction"] = asking.extraction
    return ReFTBaseline, settle(ReFTSettings, {**options, **gentle, **shared}, own, arm.name)


def _two_or_more(options: dict[str, Any]) -> int:
    """Set the batch size to at least 2, because the method compares samples."""
    return max(int(options["per_device_train_batch_size"]), 2)


def steps_taken(trainer: Trainer) -> int:
    """Return the number of optimizer steps taken, including those of a warm-up."""
    return int(trainer.state.global_step) + int(getattr(trainer, "warm_up_steps", 0))


def seconds_beside(trainer: Trainer | None, curve: Curve | None) -> float:
    """Return the seconds that were spent on the saliency map and on the curve, and not on training."""
    return float(getattr(trainer, "watch_seconds", 0.0)) + (curve.seconds if curve else 0.0)


def _tokens_trained(run: Path) -> float | None:
    """Return the number of tokens in rows with gradient, from the run's log."""
    logged = [event["num_tokens"] for event in RunDir(run).events() if event.get("num_tokens")]
    return float(logged[-1]) if logged else None


def peak_memory_bytes() -> dict[str, int]:
    """Return the peak memory of this process so far: resident on the host, and allocated on the GPU if there is one."""
    try:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    except ImportError:  # Windows
        import psutil  # type: ignore[import-untyped]  # accelerate needs it, so it is there

        memory = psutil.Process().memory_info()
        peak = {"host": int(getattr(memory, "peak_wset", memory.rss))}
    if torch.cuda.is_available():
        peak["cuda"] = torch.cuda.max_memory_allocated()
    return peak
