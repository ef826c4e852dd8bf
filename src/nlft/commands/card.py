"""Run `nlft card`."""

from collections.abc import Sequence
from pathlib import Path

from nlft.commands.parsing import plain_parser
from nlft.errors import UserError, display_path
from nlft.progress import note


def card(argv: Sequence[str]) -> None:
    """Run `nlft card`."""
    parser = plain_parser("nlft card", "Write a run's model card again, with the results that are known by now.")
    parser.add_argument("run", type=Path, help="a run directory that has finished")
    parser.add_argument(
        "--examples",
        type=int,
        default=0,
        metavar="N",
        help="show N watched examples with their texts. The default shows none: a card is published.",
    )
    args = parser.parse_args(argv)
    from nlft.runs.model_card import write_card
    from nlft.runs.run_dir import RunDir
    from nlft.runs.unfinished import ways_to_go_on

    run = RunDir.open(args.run)
    if not run.adapter_path.is_dir():
        raise UserError(
            f"{display_path(run.path)}: the run has not written its adapter/, which a model card describes.\n"
            f"{ways_to_go_on(run)}"
        )
    if args.examples < 0:
        raise UserError(f"--examples {args.examples}: must be 0 or more.\n  Leave it out to show none.")
    print(f"model card: {display_path(write_card(run, examples=args.examples))}")
    note(f"to publish it: hf upload NAME {display_path(run.adapter_path)}")
