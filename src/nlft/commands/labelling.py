"""Run the command in which a person labels replies: label."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nlft.commands.checks import check_names, check_out_file
from nlft.commands.importing import namespace_reading, reading_flags, reading_words
from nlft.commands.next_steps import SMALL_MODEL, note_next
from nlft.commands.parsing import address_flags, plain_parser
from nlft.errors import RecordsError, UserError, display_path, typed
from nlft.outputs import refuse_inputs
from nlft.page.ports import USUAL_PORTS

if TYPE_CHECKING:
    from nlft.label.labelling import Labelling

MAX_NEW_TOKENS = 256


def label(argv: Sequence[str]) -> None:
    """Run `nlft label`."""
    parser = plain_parser("nlft label", "Say in the browser which replies you like, and why. The file is only read.")
    parser.add_argument("file", type=Path, help="replies: records with prompt and completion. They need no label")
    reading_flags(parser)
    parser.add_argument(
        "--out", type=Path, help="labelled replies to write (default: FILE.labelled.jsonl, beside FILE)"
    )
    parser.add_argument(
        "--model_name_or_path",
        "--model",
        metavar="NAME",
        help="model that shows what your words do to each token, and goes on from changed words: folder or hub name",
    )
    parser.add_argument("--adapter", metavar="NAME", help="adapter on that model: a run directory or a folder")
    parser.add_argument(
        "--max_new_tokens",
        type=int,
        default=MAX_NEW_TOKENS,
        help=f"maximum length of what the model writes on, in tokens (default: {MAX_NEW_TOKENS})",
    )
    address_flags(parser, USUAL_PORTS["label"])
    args = parser.parse_args(argv)
    named = {"model_name_or_path": args.model_name_or_path, "adapter": args.adapter}
    check_names({name: value for name, value in named.items() if value is not None})
    if args.adapter and not args.model_name_or_path:
        raise UserError("--adapter needs a model.\n  Name its base model with --model_name_or_path.")
    if args.max_new_tokens < 1:
        raise UserError(f"--max_new_tokens is {args.max_new_tokens}.\n  Give at least 1.")
    from nlft.label.labelling import Labelling, decisions_path, default_out
    from nlft.label.replies import read_replies

    out = args.out or default_out(args.file)
    check_out_file(out, ".jsonl")
    for flag, path in (("--out", out), ("The file of decisions", decisions_path(out))):
        refuse_inputs(flag, path, {"FILE": args.file, **{f"--{k}": v for k, v in named.items()}})
    with _told_of_questions(args.file, args.model_name_or_path):
        replies = read_replies(args.file, namespace_reading(args))
    _serve(Labelling(replies, out), args)


@contextmanager
def _told_of_questions(file: Path, model: str | None) -> Iterator[None]:
    """Run a reading inside this context. If the file holds questions only, say which command answers them."""
    try:
        yield
    except RecordsError as error:
        if any(p.field != "completion" or "missing" not in p.what for p in error.problems):
            raise
        out = file.with_name(f"{file.name.partition('.')[0]}-replies.jsonl")
        sample = typed("nlft", "sample", file, "--model_name_or_path", model or SMALL_MODEL, "--out", out)
        raise UserError(
            f"{display_path(file)}: holds questions: no record has a reply to label.\n"
            f"  To answer them first: {sample}\n"
            "  If a column holds replies, name it: --columns completion=COLUMN."
        ) from error


def _serve(labelling: "Labelling", args: Namespace) -> None:
    """Serve the page, then print what is labelled and what to do next."""
    from nlft.label.model import LabelProcess
    from nlft.label.server import next_command, serve_label
    from nlft.page.access import read_access

    name, model = args.model_name_or_path, None
    try:
        if name:
            model = LabelProcess(name, args.adapter, args.max_new_tokens)
        if labelling.elsewhere:
            print(
                f"{labelling.elsewhere} decisions in {display_path(labelling.journal.path)} are about replies that "
                f"{display_path(args.file)} no longer has. They stay in that file."
            )
        hosts, access = {args.host, *args.allow_host}, read_access(args)
        serve_label(labelling, args.file, args.host, args.port, hosts=hosts, model=model, access=access)
    finally:
        if model is not None:
            model.close()
        labelling.close()
    print("\n".join(_summary(labelling)))
    if labelling.out.is_file() and labelling.out.stat().st_size:
        print(f"next: {next_command(labelling, name, args.adapter)}")
    else:
        note_next("nlft", "label", args.file, *reading_words(args), *(["--out", args.out] if args.out else []))


def _summary(labelling: "Labelling") -> list[str]:
    """Say what the output holds, and what it lacks."""
    counts = labelling.counts()
    lines = [f"{display_path(labelling.out)}: {counts['liked']} liked, {counts['disliked']} disliked"]
    if not labelling.out.is_file():
        lines = ["Nothing was decided, so nothing was written."]
    if counts["unfinished"]:
        lines.append(f"{counts['unfinished']} disliked without a reason: say why, or strike words. They are left out.")
    if counts["skipped"]:
        lines.append(f"{counts['skipped']} skipped: they are left out.")
    if counts["unlabelled"]:
        lines.append(f"{counts['unlabelled']} not labelled yet.")
    return lines
