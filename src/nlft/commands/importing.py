"""Run `nlft import`, and give other commands the flags that say how their file is read."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlft.commands.checks import check_out_file, examples_to_judge
from nlft.commands.earlier import holds_nothing_else, overwrite_flag
from nlft.commands.next_steps import note_next
from nlft.commands.parsing import early_setting, plain_parser
from nlft.errors import display_path
from nlft.launch import asks_for_help
from nlft.outputs import keeping_before, refuse_foreign, refuse_inputs
from nlft.sources.settings import AS_IT_SAYS, ReadAs, ReadingSettings

if TYPE_CHECKING:
    from nlft.data.records import Example


def reading_flags(parser: ArgumentParser) -> None:
    """Add `--columns` and `--from`, for a command that takes them as flags only."""
    columns, from_format = (one.metadata["help"].rstrip(".") for one in fields(ReadingSettings))
    parser.add_argument("--columns", metavar="FIELD=COLUMN,...", help=columns)
    what = from_format.removesuffix(". Also --from")
    parser.add_argument("--from", dest="from_format", metavar="FORMAT", help=what)


def early_reading(prog: str, argv: Sequence[str]) -> ReadAs:
    """Return the two flags before the command reads its arguments: its file is read before that."""
    if asks_for_help(argv):
        return AS_IT_SAYS
    columns, short, from_format = (early_setting(prog, argv, name) for name in ("columns", "from", "from_format"))
    from_format = from_format if short is None else short
    return {
        "columns": None if columns is None else str(columns),
        "from_format": None if from_format is None else str(from_format),
    }


def import_examples(argv: Sequence[str]) -> None:
    """Run `nlft import`."""
    from nlft.data.records import write_examples

    parser = plain_parser("nlft import", "Read a table, or what another tool exported, and write nlft's examples.")
    what = ".csv, .tsv, .xlsx, .jsonl, .ndjson, .json, .jsonl.gz, .parquet, or a dataset as owner/name:config:split"
    parser.add_argument("file", type=Path, help=what)
    parser.add_argument("--out", type=Path, help="examples to write, .jsonl (default: FILE.jsonl here)")
    reading_flags(parser)
    overwrite_flag(parser)
    args = parser.parse_args(argv)
    args.out = args.out or _default_out(args.file)
    check_out_file(args.out, ".jsonl")
    refuse_inputs("--out", args.out, {"FILE": args.file})
    examples = examples_to_judge(args.file, {"columns": args.columns, "from_format": args.from_format})
    refuse_foreign("--out", args.out, lambda path: holds_nothing_else(path, examples), overwrite=args.overwrite)
    with keeping_before(args.out):
        write_examples(args.out, examples)
    print("\n".join(summary(display_path(args.out), examples)))
    without = [e for e in examples if not e.label and not e.judgment and not e.spans]
    by_hand = [] if all(e.answer for e in without) else ["--judge", "human"]  # the judge by rules compares with answers
    if without:
        note_next("nlft", "judge", args.out, *by_hand)
    else:
        note_next("nlft", "audit", args.out)


def _default_out(file: Path) -> Path:
    """Return where the examples go by default: in the current folder, under the name of the file or dataset."""
    stem = file.name.partition(".")[0].partition(":")[0] or "examples"
    out = Path(f"{stem}.jsonl")
    return out if not out.exists() or out.resolve() != file.resolve() else Path(f"{stem}-examples.jsonl")


def summary(name: str, examples: "Sequence[Example]") -> list[str]:
    """Return what was written, and what of it can be trained on."""
    from nlft.data.records import marked_spans, quotes_of

    wrong = [example for example in examples if not example.label]
    s = "s" * (len(examples) != 1)
    lines = [f"{name}: {len(examples):,} example{s}, {len(examples) - len(wrong):,} right, {len(wrong):,} wrong"]
    if wrong:
        said = sum(bool(example.judgment) for example in wrong)
        marked = sum(bool(marked_spans(example)) for example in wrong)
        lines.append(
            f"  {said:,} of the wrong ones have a note; {marked:,} have quoted or marked words, for --scheme strike"
        )
    lost = sum(bool(quotes_of(example).missing) for example in wrong)
    if lost:
        lines.append(f"  in {lost:,} a quote does not stand in the reply, and marks nothing: nlft audit lists them")
    return lines


def reading_words(other: Any) -> list[str]:
    """Return the two flags as a command that is to be typed has them: only those that were given."""
    given = {"--columns": other.columns, "--from": other.from_format}
    return [word for flag, value in given.items() if value for word in (flag, value)]


def namespace_reading(other: Any) -> ReadAs:
    """Return the two flags from the arguments of a command."""
    return {"columns": other.columns, "from_format": other.from_format}
