"""Evaluate an arm: at the end of its training, at the steps of its curve, and on its training prompts."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from nlft.collect.sampling import SamplingSettings
from nlft.core.conditions import ConditionEncoder
from nlft.core.logprobs import evaluating
from nlft.core.strikes import StrikePlan
from nlft.data.checks_grader import needs_of_questions
from nlft.data.encoding import encode_examples
from nlft.data.records import Example, Question, training_texts
from nlft.data.template_columns import inputs_of
from nlft.digests import write_manifest
from nlft.experiments.arms import Arm
from nlft.experiments.settings import CurveSettings
from nlft.experiments.stages import asked_text, question_asked
from nlft.files import json_bytes, write_whole
from nlft.models.answerer import Answerer, CompletionRequest, complete
from nlft.models.banning import BanningModel, ban_outcome
from nlft.models.fingerprints import adapter_fingerprint
from nlft.models.ledger import Ledgered
from nlft.models.ledger_file import Ledger
from nlft.models.loaded import loaded_answerer
from nlft.models.loading import ModelSettings
from nlft.models.local import LocalModel, base_of
from nlft.models.opening import local_name
from nlft.models.saved_adapters import WEIGHTS
from nlft.models.settings import CallSettings
from nlft.results.beside import Reference, divergence, reply_of, struck_ids
from nlft.results.curves import CurvePoint, OnTraining, chosen_step, curve_point
from nlft.results.evaluate import Evaluation, deciding_reading, evaluate
from nlft.results.settings import CollateralSettings, EvaluationSettings, as_asked
from nlft.runs.model_card import CARD, write_card
from nlft.runs.run_dir import RunDir
from nlft.training.callbacks import RunDirCallback
from nlft.training.step_start import own_random_numbers
from nlft.training.striking import StrikeDose


@dataclass(frozen=True)
class Exam:
    """What one arm is asked, and what its answers are compared with.

    Attributes:
        model: fields of `ModelSettings`.
        questions: the test questions, with the prompts of an arm that prompts.
        examples: the arm's examples.
        pool: all examples of the comparison.
        words: the words of the comparison's rules.
        collateral: settings of the collateral; None: do not measure it.
        base_answers: ledger of the base model's answers, which cells can share; None: none is kept.
        out: the arm's run directory. Finished answers are kept in evaluation.calls.jsonl.
    """

    arm: Arm
    model: dict[str, Any]
    tokenizer: PreTrainedTokenizerBase
    asking: SamplingSettings
    questions: Sequence[Question]
    examples: Sequence[Example]
    pool: Sequence[Example]
    words: Sequence[str]
    collateral: CollateralSettings | None
    base_answers: Path | None
    out: Path

    @property
    def measures_collateral(self) -> bool:
        """Whether the model is asked more for it. What a prompt changes is read from the test replies alone."""
        return self.collateral is not None and self.arm.is_trained

    def on_test(self, net: PreTrainedModel, place: Path, **about: Any) -> Evaluation:
        """Ask the test questions, and write evaluation.json into `place`.

        Args:
            about: additional fields of the file.
        """
        tuned, wanted = self._tuned(net), self._wanted()
        about = {"model": str(self.model), "arm": self.arm.name, **about}
        reference = self._reference(tuned) if self.measures_collateral else None
        file = place / "evaluation.json"
        return evaluate(self._kept(tuned), self.questions, wanted, file, about=about, reference=reference)

    def at_end(self, net: PreTrainedModel) -> dict[str, Any]:
        """Ask the test questions once, and return what result.json says of the answers."""
        adapter = adapter_fingerprint(str(self.out)) if self.arm.is_trained else None
        evaluation = self.on_test(net, self.out, adapter=adapter)
        return {"summary": evaluation.as_json(), **self._outcome(evaluation)}

    def on_training(self, net: PreTrainedModel) -> OnTraining:
        """Ask the prompts of all examples of the comparison, each prompt once, without those of kept replies.

        A kept reply is out of the rule's scope, so it may break the rule.

        KL is measured where collateral is, on at most `kl_replies` of the base's answers.
        """
        tuned, wanted = self._tuned(net), replace(as_asked(self.asking), prompt_template="{prompt}")
        needed = needs_of_questions(self.asking.checks).get("needed_fields", ())
        scope = [one for one in self.pool if not one.keep] or self.pool
        by_prompt = {asked_text(one): question_asked(one, needed) for one in reversed(scope)}
        questions = [replace(one, id=f"train:{one.id}") for one in by_prompt.values()]
        answers = evaluate(self._kept(tuned), questions, wanted)
        deciding = answers.accuracy[deciding_reading(answers.accuracy, self.asking.extraction)]
        kl = None
        if self.collateral is not None and self.collateral.kl_replies:
            reference = self._reference(tuned)
            assert reference.base is not None
            requests = [
                CompletionRequest(str(q.id), q.prompt, inputs_of(q.extra))
                for q in questions[: self.collateral.kl_replies]
            ]
            befores = complete(requests, reference.base, "training prompts: base model")
            replies = [(asked, reply_of(one)) for asked, one in zip(requests, befores, strict=True)]
            kl = divergence(tuned, replies, reference.struck).outside
        return OnTraining(deciding.n - deciding.count, deciding.n, kl)

    def _outcome(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return more fields of result.json: how many test answers have a banned word, for an arm that bans words."""
        if self.arm.method != "ban":
            return {}
        return {"ban": ban_outcome([answer.output for answer in evaluation.answers], **self.arm.settings)}

    def _wanted(self) -> EvaluationSettings:
        wanted = replace(as_asked(self.asking), cluster=getattr(self.asking, "cluster", None))
        if not self.measures_collateral:
            return wanted
        bounds = {f.name: getattr(self.collateral, f.name) for f in fields(CollateralSettings)}
        return replace(wanted, **{**bounds, "collateral": True})

    def _tuned(self, net: PreTrainedModel) -> LocalModel:
        asked = as_asked(self.asking)
        plain = loaded_answerer(
            net,
            self.tokenizer,
            max_new_tokens=asked.max_new_tokens,
            batch_size=asked.eval_batch_size,
            system_prompt=asked.system_prompt,
            inputs=asked.template_inputs(),
        )
        return BanningModel(plain, **self.arm.settings) if self.arm.method == "ban" else plain

    def _kept(self, tuned: LocalModel) -> Ledgered:
        return Ledgered(tuned, Ledger(self.out / "evaluation.calls.jsonl"), CallSettings())

    def _reference(self, tuned: LocalModel) -> Reference:
        """Return what a trained arm's adapter is compared with. The base model's name does not depend on the arm.

        The same tokens are struck for every arm, whether the arm strikes them or not: the first ones of the marked
        spans, and of the rules' words in the examples. Otherwise the KL of two arms would cover different tokens.
        """
        encoder = ConditionEncoder(self.tokenizer, tuned.encoder.templates, None, self.words)
        name = local_name(ModelSettings(**self.model), tuned.model, self.tokenizer)
        base: Answerer = base_of(tuned, {**name, "adapter": None})
        if self.base_answers is not None:
            base = Ledgered(base, Ledger(self.base_answers), CallSettings())
        encoded = encode_examples(self.pool, encoder)
        plan = StrikePlan(encoded, self.tokenizer, everywhere=False)
        return Reference(base, training_texts(self.examples), struck_ids(plan, encoded))


@dataclass(frozen=True)
class _Taken:
    """A measured step: its point of the curve, the summary of its evaluation, and its folder."""

    point: CurvePoint
    summary: dict[str, Any]
    place: Path


@dataclass(eq=False)
class Curve(TrainerCallback):  # type: ignore[misc]
    """Evaluates an arm after some optimizer steps. Changes no weight and no random number of the training.

    Attributes:
        trainer: the arm's trainer; set before the training starts.
        seconds: time that the measurements during the training took.
    """

    exam: Exam
    settings: CurveSettings
    trainer: Any = None
    seconds: float = 0.0
    _taken: dict[int, _Taken] = field(default_factory=dict)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = int(state.global_step) + int(getattr(self.trainer, "warm_up_steps", 0))
        if step not in self.settings.curve:
            return
        start = time.monotonic()
        self._measure(step)
        passed = time.monotonic() - start
        self.seconds += passed
        if hasattr(self.trainer, "show_pause"):
            self.trainer.show_pause(passed)
            return
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, RunDirCallback):
                callback.add_pause(passed)

    def finish(self, end: int) -> dict[str, Any]:
        """Measure the end of the training, choose a step if the settings say so, and write evaluation.json.

        Args:
            end: number of optimizer steps taken.

        Returns:
            Fields of result.json: the summary of the arm's result, the points of the curve, and the chosen step.
        """
        if end not in self._taken:
            self._measure(end)
        missed = [str(step) for step in self.settings.curve if step not in self._taken]
        if missed:
            why = "a warm-up is not measured" if int(missed[0]) < end else f"training ended after step {end}"
            print(f"      curve: no measurement at step {', '.join(missed)}: {why}", file=sys.stderr)
        points = [taken.point for _, taken in sorted(self._taken.items())]
        chosen = chosen_step(points) if self.settings.choose_dose else end
        if chosen != end:
            self._keep_adapter(chosen, end)
        taken, out = self._taken[chosen], self.exam.out
        evaluation = json.loads((taken.place / "evaluation.json").read_text(encoding="utf-8"))
        evaluation["adapter"] = adapter_fingerprint(str(out))
        write_whole(out / "evaluation.json", json_bytes(evaluation, indent=1))
        more = {"chosen_step": chosen} if self.settings.choose_dose else {}
        return {"summary": taken.summary, "curve": [point.as_json() for point in points], **more}

    def _measure(self, step: int) -> None:
        net, place = self.trainer.model, self.exam.out / "curve" / f"step-{step}"
        with evaluating(net), own_random_numbers():
            evaluation = self.exam.on_test(net, place, adapter=None, step=step)
            training = self.exam.on_training(net) if self.settings.choose_dose else None
        if self.settings.choose_dose:
            self.trainer.save_model(str(place / "adapter"))
        extraction = self.exam.asking.extraction
        point = curve_point(step, evaluation, extraction, dose=self._dose(), training=training)
        self._taken[step] = _Taken(point, evaluation.as_json(), place)

    def _dose(self) -> float | None:
        """Return how often a struck token was trained on average, if the arm strikes any."""
        followed = [one for one in self.trainer.callback_handler.callbacks if isinstance(one, StrikeDose)]
        return followed[0].metrics().get("nlft/dose_per_strike") if followed else None

    def _keep_adapter(self, chosen: int, end: int) -> None:
        """Make the adapter of the chosen step the result of the run."""
        run = RunDir(self.exam.out)
        write_whole(run.adapter_path / WEIGHTS, (self._taken[chosen].place / "adapter" / WEIGHTS).read_bytes())
        write_manifest(run.adapter_path, CARD)
        run.write_settings({**run.settings(), "chosen_step": {"step": chosen, "of": end}})
        write_card(run)
