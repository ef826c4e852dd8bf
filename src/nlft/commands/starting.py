"""Start a training as a command does, and end it: where it starts, what it prints, how to go on."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.next_steps import note_next, with_flags
from nlft.config import is_secret
from nlft.errors import UserError, display_path, typed
from nlft.outputs import refuse_inputs
from nlft.progress import note

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from nlft.data.records import Example
    from nlft.runs.run_dir import RunDir

_NOTHING_ELSE = Namespace(anyway=False, map=False)
_ONCE = ("--overwrite", "--resume", "--map")  # what a command that goes on does not repeat


def file_argument(parser: ArgumentParser, what: str) -> None:
    parser.add_argument("file", type=Path, help=what)


def training_arguments(parser: ArgumentParser) -> None:
    file_argument(parser, "examples: .jsonl, .csv, .xlsx, .parquet, another tool's export (docs/IMPORT.md)")
    parser.add_argument("--resume", action="store_true", help="Go on from the last checkpoint, or start.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the run that output_dir holds.")
    parser.add_argument("--map", action="store_true", help="Serve the map while it trains, and open it.")
    parser.add_argument("--anyway", action="store_true", help="Resume even if settings or examples changed.")


def owning_output(args: "TrainingArguments") -> AbstractContextManager[None]:
    """Own the run directory, in the first process. Begin before an earlier run's files are looked at.

    Raises:
        UserError: another process writes there.
    """
    from nlft.runs.lock import owning

    return owning(args.output_dir) if args.process_index == 0 else nullcontext()


def refuse_input_folders(args: Any, other: Namespace, model: Any, **files: str | None) -> None:
    """Refuse an output_dir that is or holds what the command reads: --overwrite and new files could replace it."""
    read = {"FILE": other.file, "--model_name_or_path": model.model_name_or_path, "--adapter": model.adapter}
    from nlft.runs.run_dir import RunDir

    read |= {f"--{name}": file for name, file in files.items()}
    refuse_inputs("--output_dir", args.output_dir, read, RunDir(args.output_dir).own_names)


def examples_and_run(
    examples: "list[Example]", other: Namespace, args: "TrainingArguments"
) -> "tuple[list[Example], RunDir, Path | None]":
    """Return the examples, the run directory, and the checkpoint to go on from.

    Without a checkpoint, the run directory must not hold another run's files, unless they may be deleted.
    """
    from nlft.data.records import is_unfinished
    from nlft.runs.run_dir import RunDir
    from nlft.training.sharding import check_start
    from nlft.training.start import where_to_start

    check_start(args)
    cut_off = [example.id for example in examples if is_unfinished(example)]
    if cut_off:
        first = ", ".join(str(id) for id in cut_off[:3])
        unknown = any(example.extra.get("finish_reason") == "unknown" for example in examples)
        how = "were cut off by a length limit" + (", or ended for an unknown reason" if unknown else "")
        print(
            f"warning: {other.file}: {len(cut_off)} of {len(examples)} completions {how} "
            f"({first}{', ...' if len(cut_off) > 3 else ''}), and are trained on.\n"
            "  `nlft build` leaves them out; `nlft sample --max_new_tokens` with more lets them end.",
            file=sys.stderr,
        )
    run, choice = RunDir(args.output_dir), args.resume_from_checkpoint
    if getattr(other, "resume", False):
        if choice is not None:
            raise UserError(f"--resume: --resume_from_checkpoint {choice} is given, too.\n  Leave out one of them.")
        choice = args.resume_from_checkpoint = "auto"  # the trainer then renders with the run's day
    with args.main_process_first():
        checkpoint = where_to_start(run, choice, overwrite=other.overwrite, world_size=args.world_size)
    return examples, run, checkpoint


def going_on(prog: str, argv: Sequence[str]) -> str:
    """Return the command that goes on with an interrupted training. It leaves out what is secret."""
    names = [word.removeprefix("--").split("=")[0] for word in argv if word.startswith("--")]
    left_out = ["resume_from_checkpoint", *filter(is_secret, names)]
    words = with_flags([word for word in argv if word not in _ONCE], **dict.fromkeys(left_out))
    return typed(*prog.split(), *words, "--resume")


def run_training(
    trainer: Any,
    run: "RunDir",
    checkpoint: Path | None,
    *,
    command: str | None = None,
    other: Namespace = _NOTHING_ELSE,
) -> None:
    """Train, from the checkpoint if there is one. If this is interrupted, say how to go on.

    Args:
        command: what the user types to go on, see `going_on`.
        other: the command's arguments `anyway` and `map`.
    """
    from nlft.planning.shortage import telling_what_fits
    from nlft.training.interrupts import interruptible
    from nlft.training.start import make_room

    if trainer.args.should_save:
        make_room(run, checkpoint)
        note(f"map: {typed('nlft', 'map', run.path)}")
    trainer.command = command
    beside = _map_beside(run) if other.map and trainer.args.should_save else nullcontext()
    with beside, interruptible(trainer, run), telling_what_fits(trainer):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None, anyway=other.anyway)


@contextmanager
def _map_beside(run: "RunDir") -> Iterator[None]:
    """Serve the run's page while it trains. In a terminal, keep the page after the training until Ctrl-C."""
    from nlft.commands.map import serve_beside

    server = get_context("spawn").Process(target=serve_beside, args=(run.path,), daemon=True)
    server.start()
    try:
        yield
        if sys.stdin.isatty() and server.is_alive():
            print("The training is done. The map is served until you press Ctrl-C.", flush=True)
            with suppress(KeyboardInterrupt):
                server.join()
    finally:
        server.terminate()
        server.join()


def tell_end(run: "RunDir", trainer: Any) -> None:
    """Print where the adapter is, what watching took, and what to do next."""
    if not trainer.args.should_save:
        return
    if why := getattr(getattr(trainer, "_dose", None), "ended", None):
        print(why)
    best = run.settings().get("best")
    chosen = f" (step {best['step']}, the best checkpoint)" if best else ""
    print(f"adapter: {display_path(run.adapter_path)}{chosen}")
    watched = getattr(trainer, "watch_seconds", 0.0)
    if watched:
        share, most = watched / max(trainer.training_seconds, watched), trainer.args.watch_share
        over = f", above --watch_share {most:g}, because the training was short" if share > most else ""
        print(
            f"scoring the watched examples for the map took {watched:.1f} s, {share:.1%} of the training{over} "
            "(--watch, --watch_every, --watch_share)"
        )
    note_next("nlft", "map", run.path)
