"""Make the trainer for the commands, and settle whether it starts in a new folder or goes on from a checkpoint."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from nlft.core.conditions import EncodedExample
from nlft.core.limits import limits_of
from nlft.data.old_feedback import feedback_note
from nlft.data.records import Example, marked_spans, quotes_of
from nlft.digests import MANIFEST
from nlft.errors import UserError, display_path
from nlft.models.adapters import adapted
from nlft.models.loading import ModelSettings, load_model, load_tokenizer, lora_config
from nlft.progress import note
from nlft.runs.checkpoints import checkpoints_of, problem_of
from nlft.runs.reading import reading
from nlft.runs.run_dir import RunDir
from nlft.training.checkpoints import check_processes, checkpoint_to_resume
from nlft.training.differences import differences
from nlft.training.manifest import WRITING, recover
from nlft.training.run_record import add_command
from nlft.training.settings import checkpoint_choice
from nlft.training.trainer import NLFTConfig, NLFTTrainer


def nlft_trainer(
    model_settings: ModelSettings,
    args: NLFTConfig,
    examples: list[Any],
    saliency: Any,
    file: Path,
    held_out: list[Any] | None = None,
) -> NLFTTrainer:
    """Make the trainer of `nlft train` and `nlft replay`. Its record has everything that a replay needs.

    Args:
        file: the file of the examples.
        held_out: examples to evaluate on.
    """
    model = load_model(model_settings, trainable=True)
    trainer = NLFTTrainer(
        model,
        args=args,
        train_dataset=examples,
        eval_dataset=held_out,
        processing_class=load_tokenizer(model_settings),
        peft_config=lora_config(model_settings, model) if adds_adapter(model_settings) else None,
        saliency=saliency,
    )
    add_command(trainer.record, model_settings, file)
    note_adapter(trainer.model)
    long = limits_of(model).beyond_training(_lengths(trainer))
    shown = "standard" in trainer.needs
    for line in [*summary_lines(trainer.examples, args.answer_weight, standard=shown), long]:
        if line:
            note(line)
    return trainer


def _lengths(trainer: NLFTTrainer) -> list[int]:
    """Return each example's length in tokens, under its longest prompt."""
    return [
        max(len(e.base), len(e.standard), len(e.judge or [])) + len(e.completion)
        for e in cast("list[EncodedExample]", trainer.train_dataset)
    ]


def note_adapter(model: Any) -> None:
    """Print which layers the model's adapter adapts, if it has one, and their share of the weights."""
    found = adapted(model)
    if found:
        note(found.line())


def where_to_start(run: RunDir, choice: str | bool | None, *, overwrite: bool, world_size: int) -> Path | None:
    """Return the checkpoint to go on from, or None to start at the first step. Nothing is deleted yet.

    Args:
        choice: value of `--resume_from_checkpoint`: true, false, auto, or a checkpoint's folder; None is false.
            `auto` means the last whole checkpoint. Without one, the run starts again, unless it left something else.
        overwrite: whether what an earlier run left may be deleted.

    Raises:
        UserError: the folder has another run's work, or the checkpoint cannot be used.
    """
    wish = checkpoint_choice(choice)
    if wish and overwrite:
        raise UserError(
            f"--overwrite deletes what --resume (--resume_from_checkpoint {choice}) needs.\n  Leave out one of them."
        )
    if wish == "auto":
        return _go_on_or_start(run, world_size)
    if wish:
        return checkpoint_to_resume(run, wish, world_size)
    if (left := what_is_left(run)) and not overwrite:
        raise UserError(
            f"{display_path(run.path)}: holds a run already: {', '.join(left)}.\n"
            "  To go on, add --resume. To keep it, choose another --output_dir. To delete it, add --overwrite."
        )
    return None


def make_room(run: RunDir, checkpoint: Path | None) -> None:
    """Delete what an earlier run left, unless the training goes on from a checkpoint. Say what is deleted.

    Call this right before the training, because a command that is refused must not delete anything.
    """
    if checkpoint is None and (left := what_is_left(run)):
        print(f"{display_path(run.path)}: deleted the run before: {', '.join(left)}", file=sys.stderr)
        run.clear()


def last_checkpoint(run: RunDir, world_size: int) -> Path | None:
    """Return the run's last whole checkpoint. Name the damaged ones after it. Return None if no checkpoint is whole.

    Raises:
        UserError: it was written by another number of processes.
    """
    recover(run)
    for path in reversed(checkpoints_of(run)):
        if (problem := problem_of(path)) is None:
            check_processes(path, world_size)
            return path
        print(f"{display_path(path)} {problem}", file=sys.stderr)
    return None


def own_checkpoint(trainer: Any, run: RunDir) -> Path | None:
    """Return the run's last whole checkpoint, if the trainer would make the same run. Otherwise clear the run.

    A stage that was killed goes on with this. Unlike a user, it never goes on with other settings, examples, versions
    or threads: then it begins again, and says why.

    Args:
        trainer: a `SafeCheckpoints`.
    """
    checkpoint = last_checkpoint(run, trainer.args.world_size)
    if checkpoint is not None:
        with reading(checkpoint):
            found = differences(RunDir(checkpoint).settings(), trainer.record)
        if not found:
            print(f"      going on from {display_path(checkpoint)}", file=sys.stderr)
            return checkpoint
        print(f"      not going on from {display_path(checkpoint)}: {found[0]}", file=sys.stderr)
    if trainer.args.should_save:
        run.clear()
    trainer.accelerator.wait_for_everyone()  # nobody writes into the folder before it is clear
    return None


def _go_on_or_start(run: RunDir, world_size: int) -> Path | None:
    """Return the last whole checkpoint. If the run has no checkpoint, return None.

    Raises:
        UserError: there are only damaged checkpoints, or a result without a checkpoint.
    """
    if (found := last_checkpoint(run, world_size)) is not None:
        return found
    left = ", ".join(what_is_left(run))
    if checkpoints_of(run) or run.adapter_path.is_dir() or run.evaluation_path.is_file() or run.controls():
        raise UserError(
            f"{display_path(run.path)} has no whole checkpoint, but {left}. Starting again would delete this.\n"
            "  Choose another --output_dir; or add --overwrite, and leave out --resume_from_checkpoint."
        )
    if left:
        print(f"{display_path(run.path)}: no checkpoint yet, only {left}. Starting again.", file=sys.stderr)
    return None


def what_is_left(run: RunDir) -> list[str]:
    """Return what an earlier run left in the folder, in words. Empty if there is nothing that a new run would lose."""
    checkpoints = [path.name for path in run.checkpoints_path.glob("*") if path.is_dir() and path.name[0] != "."]
    waiting = list((run.checkpoints_path / WRITING).glob(f"*/{MANIFEST}"))
    said = [
        _lines_left(run.events_path, lambda: [line for line in run.events() if "ended" not in line]),
        checkpoints and f"checkpoints/ with {', '.join(sorted(checkpoints, key=lambda name: (len(name), name)))}",
        waiting and "a whole checkpoint in checkpoints/.writing",
        _lines_left(run.controls_path, run.controls),
        run.adapter_path.is_dir() and "adapter/",
        run.evaluation_path.is_file() and run.evaluation_path.name,
    ]
    return [one for one in said if one]


def _lines_left(path: Path, read: Callable[[], list[Any]]) -> str:
    """Count a file's lines, in words. A file that cannot be read is left too."""
    try:
        count = len(read())
    except UserError:
        return f"a spoilt {path.name}"
    return f"{count} line{'s' * (count > 1)} in {path.name}" if count else ""


def summary_lines(examples: Sequence[Example], answer_weight: float, *, standard: bool = True) -> list[str]:
    """Return what a user should know about the examples before they are trained on, one line for each thing.

    Args:
        standard: whether the scheme reads the standard condition.
    """
    plain = sum(e.answer is None and e.feedback is None for e in examples) if standard else 0
    silent = sum(e.answer is None and e.revision is None for e in examples)
    remarks = [
        spans_line(examples),
        plain
        and f"{plain} of {len(examples)} examples have neither answer nor feedback: they are scored under the plain "
        "prompt alone",
        answer_weight > 0
        and silent
        and f"{silent} of {len(examples)} examples have no answer or revision for --answer_weight to train",
        feedback_note(examples),
    ]
    return [line for line in remarks if line]


def spans_line(examples: Sequence[Example]) -> str:
    """Count the marked spans, and the quotes that mark nothing. Return an empty text if there are neither."""
    marked = [count for e in examples if (count := len(marked_spans(e)))]
    lost = sum(len(quotes_of(e).missing) for e in examples)
    if not marked and not lost:
        return ""
    line = f"spans: {sum(marked)} in {len(marked)} of {len(examples)} examples"
    return f"{line}; {lost} quotes are not in their completion (nlft audit lists them)" if lost else line


def adds_adapter(settings: ModelSettings) -> bool:
    """Whether training adds a new adapter. Otherwise it continues with a saved adapter, or trains all weights."""
    return bool(settings.use_peft) and not settings.adapter
