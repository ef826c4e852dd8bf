"""Run `nlft map --examples`: the map of what feedback would touch, before any training."""

import tempfile
from argparse import Namespace
from pathlib import Path

from nlft.commands.next_steps import SMALL_MODEL
from nlft.errors import UserError, display_path, typed
from nlft.progress import note


def map_examples(args: Namespace, hosts: set[str]) -> None:
    """Score a file's examples with an untrained model, then serve their map, or write it.

    Args:
        args: what `nlft map` was given.
        hosts: host names that browsers may use for the server.

    Raises:
        UserError: options are missing or contradict each other.
    """
    if args.run is not None:
        raise UserError("--examples shows a file before any training, so it takes no run.\n  Leave out one of them.")
    if args.model is None:
        raise UserError(
            f"--examples needs the model that would be trained.\n  Add it, such as --model_name_or_path {SMALL_MODEL}."
        )
    from nlft.commands.importing import namespace_reading, reading_words
    from nlft.data.records import read_examples
    from nlft.page.access import read_access
    from nlft.page.export import export_csv, export_map
    from nlft.page.server import page_of
    from nlft.page.serving import serve_map
    from nlft.training.preview import preview

    access, examples = read_access(args), read_examples(args.examples, **namespace_reading(args))
    shown = min(args.watch, len(examples))
    note(f"scoring {shown} of {len(examples)} examples of {display_path(args.examples)} (--watch {args.watch})")
    with tempfile.TemporaryDirectory(prefix="nlft-map-") as home:
        folder = Path(home) / args.examples.stem
        run = preview(examples, args.examples, args.model, folder, scheme=args.scheme, watch=args.watch)
        train = ["nlft", "train", args.examples, "--model_name_or_path", args.model, "--scheme", args.scheme]
        train += reading_words(args)
        if args.html:
            print(f"map: {display_path(export_map(run, args.html))}")
        if args.csv:
            print(f"tokens: {display_path(export_csv(run, args.csv))}")
        print(f"train on them: {typed(*train, '--output_dir', f'runs/{args.examples.stem}')}", flush=True)
        if not (args.html or args.csv):
            serve_map(page_of([run], read_only=True, dataset=None), args.host, args.port, hosts=hosts, access=access)
