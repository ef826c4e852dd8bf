"""Guards: what a log line may say before the training is stopped, paused or warned about.

A loss, a gradient norm or a weight that is not finite always stops the training; see `nlft.training.divergence`.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.errors import UserError
from nlft.runs.run_dir import RunDir
from nlft.training.divergence import IDS_SHOWN
from nlft.training.settings import GUARD_ACTIONS, GUARDS, GuardAction

FAR_ABOVE, FARTHER_BY = 3.0, 5.0
"""A loss above `FAR_ABOVE` times the first one, and `FARTHER_BY` more, explodes."""
COLLAPSED = 0.1
"""An entropy below this part of the first one has collapsed."""
SHORT = 0.2
"""Sampled replies below this part of their first mean length have collapsed."""
MOST_UNLIKELIHOOD = 3.0
"""Nats per token: the mean of -log(1 - p) at tokens to avoid. A model that says them always has far more."""
MOST_KL = 1.0
"""Nats per token between the model and its base, where the base is to be kept."""

_CURES = {
    "loss": "Lower --learning_rate.",
    "entropy": "Train fewer steps, or lower --learning_rate.",
    "length": "Raise --beta, or lower --learning_rate.",
    "unlikelihood": "Lower --learning_rate, or add right examples.",
    "kl": "Lower --learning_rate or the steps; raise --saliency.hold_weight or --beta.",
    "tagged": "Run `nlft audit` on the examples; the judgments change no token's probability enough.",
    "gated": "Raise --saliency.gate_fraction, or run `nlft audit` on the examples.",
}


def guard_actions(chosen: Sequence[str] | None) -> dict[str, GuardAction]:
    """Return what each guard does.

    Args:
        chosen: texts NAME=ACTION.

    Raises:
        UserError: there is no such guard or action.
    """
    actions: dict[str, GuardAction] = dict.fromkeys(GUARDS, "warn")
    for text in chosen or ():
        name, _, action = str(text).partition("=")
        if name not in GUARDS or action not in GUARD_ACTIONS:
            raise UserError(
                f"--guard {text}: is not NAME=ACTION.\n"
                f"  NAME is one of {', '.join(GUARDS)}; ACTION is one of {', '.join(GUARD_ACTIONS)}."
            )
        actions[name] = action
    return actions


@dataclass
class _Epoch:
    """What the log lines of one epoch said."""

    lines: int = 0
    tagged: int = 0
    wrong: float = 0
    gated: float = 0


class Guards(TrainerCallback):  # type: ignore[misc]
    """Looks at each log line, and at the end of each epoch. A guard speaks once."""

    def __init__(self, trainer: Any, chosen: Sequence[str] | None) -> None:
        """
        Args:
            trainer: a `StopsWhenDiverged`. A `pause` needs one that takes requests.
            chosen: the setting `guard`.

        Raises:
            UserError: a guard or an action does not exist, or the method cannot be paused.
        """
        self.trainer, self.actions = trainer, guard_actions(chosen)
        paused = [name for name, action in self.actions.items() if action == "pause"]
        if paused and not hasattr(trainer, "steering"):
            raise UserError(
                f"--guard {paused[0]}=pause: only `nlft train` can be paused.\n  Use {paused[0]}=stop or warn."
            )
        self._first: dict[str, float] = {}
        self._spoken: set[str] = set()
        self._epoch = _Epoch()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._first, self._spoken, self._epoch = {}, set(), _Epoch()
        if args.should_save:
            _warn_of_warm_up(args, state.max_steps)
        for event in RunDir(args.output_dir).events() if state.global_step else []:
            for name, key in (("loss", "loss"), ("entropy", "entropy"), ("length", "completions/mean_length")):
                if (value := _number(event, key)) is not None:  # a resumed run began where the whole run began
                    self._first.setdefault(name, value)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs is None or "loss" not in logs:  # an evaluation, or the last line
            return
        self._collect(logs)
        for name, what in self._of_line(logs):
            self._speak(name, what, state.global_step)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        epoch, self._epoch = self._epoch, _Epoch()
        if epoch.lines and not epoch.tagged and self._looks_for_tokens():
            self._speak("tagged", "in a whole epoch, no token of a wrong reply was tagged or struck", state.global_step)
        if epoch.wrong and epoch.gated == epoch.wrong:
            what = "in a whole epoch, every wrong reply was gated: so much is salient that the rest has no weight"
            self._speak("gated", what, state.global_step)

    def _collect(self, logs: Mapping[str, Any]) -> None:
        if "nlft/salient_fraction" not in logs:
            return
        self._epoch.lines += 1
        self._epoch.tagged += logs["nlft/salient_fraction"] > 0 or "nlft/struck_probability" in logs
        gated, wrong = self.trainer.last_sums.get("nlft/gated_fraction", (0.0, 0.0))  # all ranks have the same
        self._epoch.gated += gated
        self._epoch.wrong += wrong

    def _looks_for_tokens(self) -> bool:
        """Whether the scheme looks for tokens to tag, and there are wrong replies to find them in."""
        scheme = self.trainer.scheme
        looks = scheme.strikes or "judge" in self.trainer.needs
        return bool(looks and any(not one.label for one in self.trainer.examples))

    def _of_line(self, logs: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the guards that the line alarms, each with what it saw."""
        found = []
        loss, entropy, length = (_number(logs, name) for name in ("loss", "entropy", "completions/mean_length"))
        first = {n: self._first.setdefault(n, v) for n, v in (("loss", loss), ("entropy", entropy)) if v is not None}
        if loss is not None and loss > FAR_ABOVE * abs(first["loss"]) + FARTHER_BY:
            rate = f"--learning_rate is {self.trainer.args.learning_rate:g}"
            found.append(("loss", f"the loss is {loss:.3g}, far above the first, {first['loss']:.3g}; {rate}"))
        if entropy is not None and entropy < COLLAPSED * first["entropy"]:
            found.append(("entropy", f"the entropy is {entropy:.3g} nats, and began at {first['entropy']:.3g}"))
        if length is not None and length < SHORT * self._first.setdefault("length", length):
            found.append(("length", f"replies have {length:.3g} tokens, and began with {self._first['length']:.3g}"))
        mass, kl = _number(logs, "nlft/unlikelihood_loss"), self._kl(logs)
        if mass is not None and mass > MOST_UNLIKELIHOOD:
            found.append(("unlikelihood", f"the unlikelihood is {mass:.3g} nats per token, over {MOST_UNLIKELIHOOD:g}"))
        if kl is not None and kl > MOST_KL:
            found.append(("kl", f"the KL to the base is {kl:.3g} nats per token, over {MOST_KL:g}"))
        return found

    def _kl(self, logs: Mapping[str, Any]) -> float | None:
        """Return the KL to the base in nats per token, where the method measures it: `strike` and ReFT."""
        weight = float(getattr(getattr(self.trainer, "saliency", None), "hold_weight", 0.0) or 0.0)
        held = _number(logs, "nlft/hold_loss")
        return held / weight if held is not None and weight else _number(logs, "kl")

    def _speak(self, name: str, what: str, step: int) -> None:
        """Warn, pause or stop, once.

        Raises:
            Diverged: the action is `stop`.
        """
        if name in self._spoken:
            return
        self._spoken.add(name)
        action, trainer = self.actions[name], self.trainer
        if action == "stop":
            raise trainer.guard_error(what, step, f"{_CURES[name]} --guard {name}=warn goes on.")
        if trainer.args.should_save:
            ids = ", ".join(map(repr, trainer.ids_in_step()[:IDS_SHOWN])) or "unknown"
            head = "paused after step" if action == "pause" else "warning: step"
            print(f"{head} {step}: {what}.\n  Examples in that step: {ids}. {_CURES[name]}", file=sys.stderr)
            if action == "pause":
                RunDir(trainer.args.output_dir).write_request("pause", None, f"guard {name}")


def _warn_of_warm_up(args: TrainingArguments, steps: int) -> None:
    """Warn about a warm-up that is as long as the training. Its first step has the rate 0, and each next one more."""
    warm_up = args.get_warmup_steps(steps)
    if warm_up and warm_up >= steps:
        highest = args.learning_rate * (steps - 1) / warm_up
        print(
            f"warning: the warm-up has {warm_up:,} steps, and the training {steps:,}: the learning rate never reaches "
            f"{args.learning_rate:g}. Its highest value is {highest:.3g}.\n"
            "  Lower --warmup_steps, or train more steps.",
            file=sys.stderr,
        )


def _number(logs: Mapping[str, Any], name: str) -> float | None:
    value = logs.get(name)
    return float(value) if isinstance(value, int | float) and isfinite(value) else None
