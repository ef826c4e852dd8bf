"""`condition_logprobs: epoch` and `frozen`: when the conditions are scored, and what a batch gets of them."""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nlft.core.base_below import find_peft, peft_model
from nlft.core.batches import BatchBuilder
from nlft.core.conditions import EncodedExample
from nlft.core.hold import Plan
from nlft.core.schemes.scheme import Scheme
from nlft.core.snapshot import SCORING_TOKENS, ConditionSnapshot, Kept, plan_digest, rows_to_score, score_conditions
from nlft.errors import NLFTError, UserError, display_path
from nlft.progress import note, progress
from nlft.training.condition_cache import (
    ConditionCache,
    default_folder,
    fingerprint,
    model_parts,
    read_snapshot,
    write_snapshot,
)
from nlft.training.manifest import saving
from nlft.training.run_record import environment

KEPT = frozenset({"standard", "judge", "band", "hold"})
_UNKEPT = {
    "hidden": "it reads hidden states, which are not kept",
    "logits": "it reads the base's whole logits at struck tokens, which are not kept",
}
_LISTS = ("examples", "held out")
_OTHER = "other examples"


def unkept(scheme: Scheme, settings: Any) -> str | None:
    """Return why a scheme cannot use conditions that were scored before, or None."""
    needs = scheme.needs(settings) - {"pivots"}
    for name in sorted(needs - KEPT):
        return _UNKEPT.get(name, f"it reads {name}, which is not kept")
    extra = scheme.extra_loss(settings)
    if extra is not None:
        return f"{extra.name} chooses its targets from hidden states of standard, which are not kept"
    return None


def refuse_unkept(scheme: Scheme, settings: Any, model: torch.nn.Module, mode: str) -> None:
    """Refuse a scheme that cannot train in this mode, or with this model.

    Args:
        mode: value of `condition_logprobs`.

    Raises:
        UserError: the scheme reads what is not kept; or it holds the model to a base that nothing keeps.
    """
    holds = "hold" in scheme.needs(settings)
    if mode == "live":
        if holds:
            peft_model(model)
        return
    if (why := unkept(scheme, settings)) is not None:
        raise UserError(
            f"--condition_logprobs {mode} with scheme {scheme.name}: {why}.\n"
            "  Leave out --condition_logprobs, or change the scheme or this setting."
        )
    if mode == "epoch" and holds and find_peft(model) is None:
        raise UserError(
            "--condition_logprobs epoch without an adapter: the base that holds the model would move with each epoch.\n"
            "  Set --condition_logprobs frozen, or train an adapter."
        )


class KeptConditions(TrainerCallback):  # type: ignore[misc]
    """Scores of the training and the held-out examples, taken before the first step or at each epoch's start.

    `frozen` finds them on disk, or scores them and writes them there. `epoch` keeps them in memory, and a checkpoint
    has those of its epoch. Training and held-out examples are scored apart: whether there are held-out ones changes no
    training.
    """

    def __init__(self, trainer: Any, train: Sequence[EncodedExample], held_out: Sequence[EncodedExample]) -> None:
        """
        Args:
            trainer: an `NLFTTrainer`. Its builder's needs and plan say what is kept.

        Raises:
            UserError: an engine splits the model over processes.
        """
        self.trainer, self.mode = trainer, trainer.args.condition_logprobs
        self.lists = [examples for examples in (train, held_out) if examples]
        self.snapshots: list[ConditionSnapshot] = []
        self._others: list[ConditionSnapshot] = []  # of lists that were evaluated and are none of the run's
        self._plan = b""
        self._kept_needs: frozenset[str] = frozenset()
        sharded = any(isinstance(weight, DTensor) for weight in trainer.model.parameters())
        if self.mode != "live" and (sharded or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise UserError(
                f"--condition_logprobs {self.mode} with FSDP or DeepSpeed: only a whole model scores conditions.\n"
                "  Leave out --condition_logprobs, or start with DDP."
            )

    @property
    def live(self) -> bool:
        """Whether each step scores the conditions."""
        return bool(self.trainer.args.scores_live)

    def before_first_step(self, *, resumes: bool) -> None:
        """Load or score the conditions of `frozen`, while the model is as it was before the first step.

        Args:
            resumes: the model will get a checkpoint's weights. Then scores that this trainer has stay.

        Raises:
            UserError: the checkpoint's run was scored by another model.
        """
        if self.live or (resumes and self.snapshots):
            return
        self._choose()
        if self.mode != "frozen" or not self._kept_needs:
            return
        parts = self.trainer.steering.from_main(self._parts)
        model = fingerprint({name: parts[name] for name in ("weights", "adapters")})
        was = self.trainer.resumed.scored_by if resumes and self.trainer.resumed else None
        if was not in (None, model):
            raise UserError(
                "--condition_logprobs frozen: the model before the first step is another one than the run began with, "
                "so the rest of the run would read other scores.\n"
                "  Go on with the model, the adapter and the data type that the run began with, or start in another "
                "--output_dir."
            )
        names, self.snapshots = self._frozen(dict(zip(_LISTS, self.lists, strict=False)), parts)
        self._others = []
        self._tell_tail()
        folder = str(self._cache.folder.resolve())
        self.trainer.record["condition_cache"] = {"folder": folder, "fingerprints": names, "model": model}

    def before_evaluation(self, examples: Sequence[EncodedExample]) -> None:
        """Score examples that were not scored before: an evaluation may come before the training, or be of others.

        Raises:
            UserError: the model of `frozen` has been trained since.
        """
        if self.live or not self.trainer.builder.needs & KEPT or self._snapshot_of(self.trainer.builder, examples):
            return
        if self.mode == "frozen" and self.trainer.state.global_step:
            raise UserError(
                "--condition_logprobs frozen: the conditions of other examples were not scored before the first step.\n"
                "  Give these examples as eval_dataset, or evaluate them before the training."
            )
        if not self._kept_needs:
            self._choose()
        if self.mode == "frozen":
            self._others += self._frozen({_OTHER: examples}, self.trainer.steering.from_main(self._parts))[1]
        else:
            self._others.append(self._score(examples, _OTHER))

    def _choose(self) -> None:
        """Follow the active scheme: what is kept, and what is struck."""
        self._kept_needs = self.trainer.builder.needs & KEPT
        self._plan = self._plan_now(self.trainer.builder.plan)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        builder = self.trainer.builder
        if not self.live and "hold" in builder.needs and self._plan != self._plan_now(builder.plan):
            # Pivots that a checkpoint brings may differ from those that were chosen before.
            raise NLFTError(
                "the struck tokens of the checkpoint are not those whose base was scored.\n"
                "  Start the run again, or set --condition_logprobs live."
            )
        if self.mode == "epoch":
            self.snapshots, self._others = self._scored_now(self._epochs_checkpoint(state)), []
            self._taken_at = state.global_step

    def _epochs_checkpoint(self, state: TrainerState) -> Path | None:
        return Path(self.trainer.resumed_from) if _inside_an_epoch(state) else None

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.mode == "epoch" and state.global_step != self._taken_at:
            self.snapshots, self._others = self._scored_now(), []
            self._taken_at = state.global_step

    def attach(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a batch with the scores that the active scheme reads of its examples."""
        return batch | self.known(self.trainer.builder, batch["examples"])

    def known(self, builder: BatchBuilder, examples: Sequence[EncodedExample]) -> dict[str, torch.Tensor]:
        """Return what a builder's scheme reads of examples; nothing if the conditions are live or it reads none.

        Raises:
            NLFTError: an example was not scored.
        """
        if self.live or not builder.needs & KEPT:
            return {}
        if (found := self._snapshot_of(builder, examples)) is not None:
            return builder.known(examples, *found)
        ids = ", ".join(repr(one.id) for one in examples)
        raise NLFTError(f"the conditions of these examples were not scored together: {ids}.")

    def _snapshot_of(
        self, builder: BatchBuilder, examples: Sequence[EncodedExample]
    ) -> tuple[ConditionSnapshot, list[int]] | None:
        """Return the snapshot that has all these examples, and their places in it. None if there is none."""
        plan = builder.plan if "hold" in builder.needs else None
        for snapshot in (*self.snapshots, *self._others):
            if (places := snapshot.places(examples, plan)) is not None:
                return snapshot, places
        return None

    def refusal(self, scheme: str, settings: Mapping[str, Any]) -> str | None:
        """Return why a change while the run trains would need what was not scored. None if it may happen."""
        if self.live:
            return None
        found = self.trainer.schemes[scheme]
        chosen = found.settings(**settings)
        needs = found.needs(chosen) & KEPT
        if (why := unkept(found, chosen)) is not None:
            return f"condition_logprobs is {self.mode}, and {why}"
        missing = sorted(needs - self._kept_needs)
        if missing:
            return f"condition_logprobs is {self.mode}, and {', '.join(missing)} was not scored for this run"
        if "hold" in needs and self._plan_now(self.trainer.builder.plan_of(found, chosen)) != self._plan:
            return f"condition_logprobs is {self.mode}, and the base was scored for other struck tokens"
        return None

    def write(self, folder: Path) -> None:
        """Write the epoch's scores into a checkpoint. Those of `frozen` can be scored again by the starting model."""
        for at, snapshot in enumerate(self.snapshots if self.mode == "epoch" else ()):
            with saving(display_path(folder)):
                write_snapshot(folder / _file(at), _LISTS[at], snapshot)

    def _kept(self) -> Kept:
        args, builder = self.trainer.args, self.trainer.builder
        return Kept(self._kept_needs, builder.plan, args.hold_mass, args.hold_tokens)

    def _plan_now(self, plan: Plan) -> bytes:
        return plan_digest(plan, [one for examples in self.lists for one in examples])

    def _parts(self) -> dict[str, Any]:
        """Return what the scores depend on besides the examples."""
        trainer = self.trainer
        return {
            **model_parts(trainer.model),
            **environment(),
            "autocast": [trainer.args.bf16, trainer.args.fp16],
            "matmul": torch.get_float32_matmul_precision(),
            "shape": ["right", SCORING_TOKENS, trainer.builder.pad_token_id, trainer.args.logit_chunk_mib],
        }

    @property
    def _cache(self) -> ConditionCache:
        return ConditionCache(Path(self.trainer.args.condition_cache or default_folder()))

    def _frozen(
        self, lists: Mapping[str, Sequence[EncodedExample]], parts: Mapping[str, Any]
    ) -> tuple[list[str], list[ConditionSnapshot]]:
        """Return the fingerprints and the scores of lists: from the disk, or scored and written there.

        Args:
            parts: see `_parts`.
        """
        kept = self._kept()
        names = [fingerprint({**parts, "examples": kept.digest(examples)}) for examples in lists.values()]
        found = zip(names, lists.items(), strict=True)
        return names, [self._loaded(name, what, examples) for name, (what, examples) in found]

    def _loaded(self, name: str, what: str, examples: Sequence[EncodedExample]) -> ConditionSnapshot:
        """Read the scores of one list. If any process lacks them, all score, and the file is written."""
        cache = self._cache
        found = cache.load(name)
        has = [found is not None]
        if self.trainer.args.world_size > 1:
            has = gather_object(has)
        if found is not None and all(has):
            self._tell(f"{what}: scores of the conditions from {display_path(cache.path(name))}")
            return found
        found = self._score(examples, what)
        if self.trainer.is_local_process_zero():
            size = cache.store(name, found)
            if size is not None:
                self._tell(f"scores of the conditions: {size / 2**20:.1f} MiB in {display_path(cache.path(name))}")
        return found

    def _tell_tail(self) -> None:
        """Say how much of a held base's probability is in its kept tokens: the rest is held as one bucket."""
        if "hold" not in self._kept_needs:
            return
        tensors = self.snapshots[0].tensors
        tail = tensors["top_tail"][tensors["top_counts"] > 0].exp()
        if len(tail):
            held, least = 1 - float(tail.mean()), 1 - float(tail.max())
            self._tell(
                f"the kept tokens of the base hold {held:.2%} of its probability on average, {least:.1%} at least"
            )

    def _scored_now(self, checkpoint: Path | None = None) -> list[ConditionSnapshot]:
        """Score the lists with the model as it is now. Take those that a checkpoint has from there."""
        if not self._kept_needs:
            return []
        files = [checkpoint and checkpoint / _file(at) for at in range(len(self.lists))]
        return [
            _from_checkpoint(file, what) if file and file.is_file() else self._score(examples, what)
            for file, what, examples in zip(files, _LISTS, self.lists, strict=False)
        ]

    def _score(self, examples: Sequence[EncodedExample], what: str) -> ConditionSnapshot:
        args, kept = self.trainer.args, self._kept()
        total = ceil(rows_to_score(examples, kept) / args.world_size)
        hidden = args.disable_tqdm or not self.trainer.is_world_process_zero()
        with (
            progress(f"scoring the conditions ({what})", total, "row", disable=hidden) as bar,
            torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []),
        ):
            return score_conditions(
                self.trainer.model,
                examples,
                kept,
                self.trainer.builder.pad_token_id,
                rank=args.process_index,
                ranks=args.world_size,
                autocast=self.trainer.accelerator.autocast(),
                share=(lambda own: gather_object([own])) if args.world_size > 1 else (lambda own: [own]),
                advance=bar.update,
            )

    def _tell(self, line: str) -> None:
        if self.trainer.is_world_process_zero():
            note(line)


def _from_checkpoint(file: Path, what: str) -> ConditionSnapshot:
    try:
        return read_snapshot(file, what)
    except ValueError as error:
        raise UserError(
            f"{display_path(file)}: {error}.\n  Resume from a checkpoint at the end of an epoch, or train anew."
        ) from error


def _file(at: int) -> str:
    return f"conditions-{at}.safetensors"


def _inside_an_epoch(state: TrainerState) -> bool:
    part = float(state.epoch or 0) % 1
    return bool(state.global_step) and 1e-6 < part < 1 - 1e-6
