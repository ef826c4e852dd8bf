"""Run `nlft map`: serve a run's page, wait for a run, list the runs of a folder, or write files."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.chat import chat_flags, chat_settings
from nlft.commands.earlier import overwrite_flag
from nlft.commands.importing import reading_flags
from nlft.commands.next_steps import note_next
from nlft.commands.parsing import LOCAL, address_flags, plain_parser
from nlft.commands.results import check_feedback, feedback_dataset
from nlft.errors import UserError, display_path
from nlft.outputs import begins_with, is_our_page, keeping_before, refuse_foreign, refuse_inputs
from nlft.page.ports import USUAL_PORTS
from nlft.streams import outliving_readers

if TYPE_CHECKING:
    from nlft.page.server import PageServer
    from nlft.page.serving import Served
    from nlft.runs.run_dir import RunDir


def map(argv: Sequence[str]) -> None:
    """Run `nlft map`."""
    parser = plain_parser("nlft map", "See what the feedback does to every token, live, and steer the run.")
    parser.add_argument(
        "run", type=Path, nargs="?", help="a run directory, now or soon; or a folder of runs, to list them"
    )
    parser.add_argument("against", type=Path, nargs="?", help="another run, to show next to it")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one self-contained page instead of serving")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every token's numbers instead of serving")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the run's training file, if it has been moved")
    parser.add_argument(
        "--model",
        "--model_name_or_path",
        metavar="NAME",
        help="model that scores edited feedback, or the file of --examples: a folder or hub name",
    )
    _preview_flags(parser)
    parser.add_argument(
        "--read_only", action="store_true", help="show the run, but accept no edits or changes of settings"
    )
    address_flags(parser, USUAL_PORTS["map"])
    chat_flags(parser)
    overwrite_flag(parser)
    args = parser.parse_args(argv)
    hosts = {args.host, *args.allow_host}
    _refuse_map_files(args)
    chat = chat_settings(args)
    if args.examples is not None:
        if chat is not None:
            raise UserError("--chat needs a run, but --examples has none.\n  Leave out one of them.")
        from nlft.commands.preview import map_examples

        map_examples(args, hosts)
        return
    if args.columns or args.from_format:
        raise UserError("--columns and --from say how --examples is read.\n  Add --examples FILE, or leave them out.")
    if args.run is None:
        raise UserError("nlft map: RUN is missing.\n  Name a run directory, or add --examples FILE.")
    from nlft.runs.run_dir import RunDir

    if args.html or args.csv:
        _write(args, [RunDir.open(path) for path in (args.run, args.against) if path is not None])
        return
    if args.model and args.read_only:
        raise UserError("--model is for edited feedback, but --read_only allows no edits.\n  Leave one of them out.")
    from nlft.page.access import read_access
    from nlft.page.serving import serve_map

    access = read_access(args)
    with _served(args, chat) as page:
        serve_map(page, args.host, args.port, hosts=hosts, access=access)


def _preview_flags(parser: ArgumentParser) -> None:
    what = "before any training: show what the feedback in this file would touch. Needs --model_name_or_path"
    parser.add_argument("--examples", type=Path, metavar="FILE", help=what)
    parser.add_argument("--scheme", default="nlft", help="with --examples: the scheme that would train (default: nlft)")
    reading_flags(parser)
    what = "with --examples: maximum number of examples to score (default: 32)"
    parser.add_argument("--watch", type=int, default=32, metavar="COUNT", help=what)


def _refuse_map_files(args: Namespace) -> None:
    """Refuse files to write that are read, or that are not such a file of ours."""
    if not (args.html or args.csv):
        return
    for flag, out in (("--html", args.html), ("--csv", args.csv)):
        refuse_inputs(flag, out, {"--data": args.data, "--examples": args.examples})
    refuse_foreign("--html", args.html, is_our_page, overwrite=args.overwrite)
    refuse_foreign("--csv", args.csv, _is_our_csv, overwrite=args.overwrite)


def _is_our_csv(path: Path) -> bool:
    from nlft.page.export import CSV_COLUMNS

    return begins_with(",".join(CSV_COLUMNS))(path)


@contextmanager
def _served(args: Namespace, chat: "dict[str, Any] | None") -> "Iterator[Served]":
    """Make what the server shows: a run, a run that is still to begin, or a list of runs."""
    from nlft.page.conversation import Conversation
    from nlft.page.rescorer import Rescorer
    from nlft.page.server import page_of
    from nlft.runs.run_dir import RunDir

    alone = not (args.against or args.model or args.data or chat)
    if alone and args.run.is_dir() and not (args.run / "run.yaml").is_file():
        from nlft.runs.listing import RunList, find_runs

        if find_runs(args.run):
            from nlft.page.runs_server import RunsServer

            yield RunsServer(RunList(args.run), partial(_page_of, read_only=args.read_only))
            return
    if alone and not args.run.is_file() and not (args.run / "run.yaml").is_file() and not _holds_other_work(args.run):
        print(f"{display_path(args.run)}: no run is there yet. {_beside(args.run)}Waiting for it to begin.", flush=True)
        run = RunDir(args.run)
        yield _page_of(run, read_only=args.read_only)
        return
    runs = [RunDir.open(path) for path in (args.run, args.against) if path is not None]
    dataset = partial(feedback_dataset, runs[0], args.data)
    if args.data:
        dataset()  # a wrong file is an error before the page is served
    rescorer = Rescorer(runs[0], args.model, args.data) if args.model else None
    named = {"model_name_or_path": args.model} if args.model else {}
    conversation = Conversation(runs[0].path, named if chat is None else chat, at_once=chat is not None)
    options: dict[str, Any] = {"check": check_feedback, "rescorer": rescorer, "conversation": conversation}
    try:
        yield page_of(runs, read_only=args.read_only, dataset=dataset, **options)
    finally:
        for process in (rescorer, conversation):
            if process is not None:
                process.close()


def _holds_other_work(path: Path) -> bool:
    """Return whether a folder has files, and none that a run has. No run will begin there."""
    from nlft.runs.lock import LOCK
    from nlft.runs.run_dir import RunDir

    held = {entry.name for entry in path.iterdir()} - {LOCK} if path.is_dir() else set[str]()
    return bool(held) and not held & RunDir(path).own_names


def _page_of(run: "RunDir", *, read_only: bool = False) -> "PageServer":
    """Make the page of a run that no flag says more about. The run may be still to begin."""
    from nlft.page.conversation import Conversation
    from nlft.page.server import page_of

    options: dict[str, Any] = {"dataset": partial(feedback_dataset, run, None), "check": check_feedback}
    return page_of([run], read_only=read_only, conversation=Conversation(run.path, {}, at_once=False), **options)


def _beside(path: Path) -> str:
    """Name the runs beside a path without a run: the name may be misspelt."""
    from nlft.runs.listing import find_runs

    names = (
        [run.name for run in find_runs(path.parent) if run.parent == path.parent][:5] if path.parent.is_dir() else []
    )
    return f"Runs beside it: {', '.join(names)}. " if names else ""


def _write(args: Namespace, runs: "list[RunDir]") -> None:
    """Write the page or the numbers as files."""
    from nlft.page.export import export_csv, export_map

    with keeping_before(args.html, report=is_our_page), keeping_before(args.csv, report=_is_our_csv):
        if args.html:
            against = runs[1] if len(runs) > 1 else None
            print(f"map: {display_path(export_map(runs[0], args.html, against=against))}")
        if args.csv:
            print(f"tokens: {display_path(export_csv(runs[0], args.csv))}")
    note_next("python", "-m", "webbrowser", args.html) if args.html else note_next("head", "-n", "3", args.csv)


@outliving_readers()
def serve_beside(path: Path) -> None:
    """Serve a run's page from a process of its own, beside the training that started it, and open it in a browser.

    Ctrl-C in the terminal is for the training. This process ends with the one that started it.
    """
    from threading import Thread

    from nlft.page.serving import serve_map
    from nlft.processes import end_with_parent
    from nlft.runs.run_dir import RunDir

    if hasattr(os, "setsid"):
        os.setsid()
    Thread(target=end_with_parent, daemon=True).start()
    serve_map(_page_of(RunDir(path)), LOCAL, None, hosts={LOCAL}, opens=True)
