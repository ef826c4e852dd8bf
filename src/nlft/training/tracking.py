"""trackio: what transformers' own integration logs, and the map, replies before and after, and alerts.

If it fails, it says so once, with the cure, and the run goes on.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TrackioCallback

from nlft.core.logprobs import evaluating
from nlft.core.prompts import as_messages, prompt_text
from nlft.core.strikes import StrikePlan
from nlft.data.phrases import commoner_phrases
from nlft.data.records import Example
from nlft.data.template_columns import inputs_of
from nlft.errors import UserError
from nlft.models.answerer import CompletionRequest, complete
from nlft.models.loaded import loaded_answerer
from nlft.page.export import map_data, map_page
from nlft.runs.run_dir import RunDir
from nlft.training.hub_places import HubPlace, first_not_private
from nlft.training.trackers import guard_trackers, warn_failed

NAME = "trackio"
REPLIES, REPLY_TOKENS = 8, 128  # asked before and after training: at most this many, each at most this long
MAP_STEPS = 20


def follow_with_trackio(trainer: Trainer, run: RunDir) -> None:
    """Put `TrackioReport` in the place of transformers' callback, if the trainer has that one, and guard the others.

    Call this after the other callbacks are added: it reads what they write.
    """
    guard_trackers(trainer)
    if trainer.pop_callback(TrackioCallback) is not None:
        trainer.add_callback(TrackioReport(trainer, run))


class TrackioReport(TrackioCallback):  # type: ignore[misc]
    """Logs what transformers' callback logs, and the map, replies before and after, and alerts.

    The alerts: an epoch that gated every wrong example, a scheme that has nothing to strike, and phrases that became
    common in the replies.
    """

    def __init__(self, trainer: Any, run: RunDir) -> None:
        """
        Args:
            trainer: any of our trainers. Only an `NLFTTrainer` has watched examples, and so a map and replies.
        """
        super().__init__()
        self.trainer, self.run = trainer, run
        self.failed = False
        self._alerted: set[str] = set()
        self._asked: list[Example] = []
        self._before: Sequence[str] | None = None
        self._gated = self._summed = (0.0, 0.0)  # gated and wrong examples: of the epoch, and in the trainer's sums

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **more: Any
    ) -> None:
        self._guarded(lambda: super(TrackioReport, self).on_train_begin(args, state, control, model=model, **more))
        self._guarded(lambda: self._start(args, state))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        logs: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        logs = logs or {}
        if "loss" in logs:
            self._summed = (0.0, 0.0)  # the trainer's sums start anew after each log line
        self._guarded(lambda: super(TrackioReport, self).on_log(args, state, control, model=model, logs=logs, **more))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._guarded(self._count_gated)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        gated, wrong = self._gated
        self._gated = (0.0, 0.0)
        if wrong and gated == wrong:
            what = f"So much of each of the {wrong:.0f} wrong replies is salient that the rest has no weight."
            self._alert("Everything is gated", f"{what} Raise --saliency.gate_fraction.", state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        self._guarded(lambda: self._finish(args, state))
        self._guarded(lambda: super(TrackioReport, self).on_train_end(args, state, control, **more))

    def on_predict(self, *args: Any, **more: Any) -> None:
        self._guarded(lambda: super(TrackioReport, self).on_predict(*args, **more))

    def on_push_begin(self, *args: Any, **more: Any) -> None:
        self._guarded(lambda: super(TrackioReport, self).on_push_begin(*args, **more))

    def _guarded(self, work: Callable[[], object]) -> None:
        """Do it. After an error, warn once and do nothing more: a run must not end because its tracker does."""
        if self.failed:
            return
        try:
            work()
        except Exception as error:  # a full disk, a lost network, a refused login: whatever it raises
            self.failed = True
            warn_failed(NAME, error)

    def _count_gated(self) -> None:
        """Add the step's gated and wrong examples. A log line has only their ratio, which is 0 without a wrong one."""
        pair = getattr(self.trainer, "_metrics", {}).get("train", {}).get("nlft/gated_fraction")
        if pair is None or isinstance(pair, list):  # TRL's trainers have metrics of their own
            return
        now = (float(pair[0]), float(pair[1]))
        old = self._summed
        self._gated = (self._gated[0] + now[0] - old[0], self._gated[1] + now[1] - old[1])
        self._summed = now

    def _start(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        plan = getattr(getattr(self.trainer, "builder", None), "plan", None)
        if isinstance(plan, StrikePlan) and not any(map(plan.is_struck, self.trainer.builder.examples)):
            what = "No judgment quotes its reply, and no part is marked. Run `nlft audit` on the examples."
            self._alert("Nothing is struck", what, state)
        self._asked = self._watched_examples() if args.world_size == 1 and self._may_hold_texts(args) else []
        if self._asked and not state.global_step:  # a resumed run has been trained already
            self._before = self._replies(args)

    def _finish(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero or not self._may_hold_texts(args):
            return
        logged: dict[str, Any] = {}
        try:
            page = map_page([map_data(RunDir(self.run.path), max_steps=MAP_STEPS)])
            logged["map"] = self._trackio.Html(page, caption="Saliency map")
        except UserError:  # a baseline, or --watch 0: there is no map
            pass
        if self._asked:
            after = self._replies(args)
            logged["replies/after"] = self._traces(after, "after", state.global_step)
            if self._before is not None:
                logged["replies/before"] = self._traces(self._before, "before", 0)
                self._tell_habits(self._before, after, state)
        if logged:
            self._trackio.log(logged)

    def _traces(self, texts: Sequence[str], when: str, step: int) -> list[Any]:
        return [
            self._trackio.Trace(
                messages=[*as_messages(example.prompt), {"role": "assistant", "content": text}],
                metadata={"when": when, "step": step, "example": str(example.id)},
            )
            for example, text in zip(self._asked, texts, strict=True)
        ]

    def _tell_habits(self, before: Sequence[str], after: Sequence[str], state: TrainerState) -> None:
        """Raise an alert if phrases became common in the replies."""
        prompts = [prompt_text(example.prompt) for example in self._asked]
        if risen := commoner_phrases(list(zip(prompts, before, after, strict=True))):
            told = ", ".join(f"“{one.text}” {one.before} → {one.after}" for one in risen[:5])
            self._alert("A new habit", f"Became commoner in {len(after)} replies: {told}.", state)

    def _alert(self, title: str, text: str, state: TrainerState) -> None:
        """Raise an alert in trackio, each one once."""
        if state.is_world_process_zero and title not in self._alerted:
            self._alerted.add(title)
            level = self._trackio.AlertLevel.WARN
            self._guarded(lambda: self._trackio.alert(title=title, text=text, level=level))

    def _may_hold_texts(self, args: TrainingArguments) -> bool:
        """Whether the user's texts may go to the tracker: only if every place of its records on the hub is private."""
        open_to_all = first_not_private(self._places(args), made_private=bool(args.hub_private_repo))
        if open_to_all is None:
            return True
        if "public" not in self._alerted:
            self._alerted.add("public")
            name, private = open_to_all.name, "--hub_private_repo true makes a new one private"
            cure = f"Make it private in its settings on the hub; {private}." if name else f"{private}."
            warnings.warn(
                f"{open_to_all.flag}: {NAME}'s {open_to_all.kind} {name or 'for the records'} may be public, so the "
                f"map and the replies, which hold texts of your examples, are not logged. {cure}",
                stacklevel=2,
            )
        return False

    def _places(self, args: TrainingArguments) -> list[HubPlace]:
        """Return the places on the hub that get the records: of a Space, its copy after the training, and a bucket.

        A push to the hub copies local records to such a Space too.
        """
        places = []
        if self._space_id is not None:
            places.append(HubPlace(self._space_id, "space", f"--trackio_space_id {self._space_id}"))
        elif not args.push_to_hub:
            return []
        bucket = args.trackio_bucket_id or getattr(self._trackio.context_vars.current_run.get(), "_bucket_id", None)
        if bucket:
            places.append(HubPlace(bucket, "bucket", "--trackio_bucket_id"))
        if args.trackio_static_space_id is not False:
            flag = "--push_to_hub" if self._space_id is None else "--trackio_static_space_id"
            places.append(HubPlace(self._static_space_id or args.trackio_static_space_id or None, "space", flag))
        return places

    def _watched_examples(self) -> list[Example]:
        watch = getattr(self.trainer, "_watch", None)
        ids = {one.id for one in watch.watched} if watch else set()
        return [example for example in self.trainer.examples if example.id in ids][:REPLIES] if ids else []

    def _replies(self, args: Any) -> Sequence[str]:
        """Let the model answer the prompts of the watched examples. Greedy, so no random number is drawn."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        with evaluating(model):
            answerer = loaded_answerer(
                model,
                self.trainer.processing_class,
                max_new_tokens=REPLY_TOKENS,
                batch_size=REPLIES,
                system_prompt=args.system_prompt,
                inputs=args.template_inputs(),
            )
            asked = [CompletionRequest(str(one.id), one.prompt, inputs_of(one.extra)) for one in self._asked]
            return [answer.text for answer in complete(asked, answerer, f"{NAME}: replies")]
