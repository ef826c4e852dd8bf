"""Take a trained model away: export."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from nlft.commands.checks import refuse_unfinished
from nlft.commands.parsing import Command
from nlft.errors import UserError, display_path, typed
from nlft.outputs import refuse_inputs


def export(argv: Sequence[str]) -> None:
    """Run `nlft export`."""
    from nlft.exporting.settings import ExportSettings

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("run", help="a run directory, an adapter's folder or a hub name")
        parser.add_argument("--out", type=Path, help="folder to write, empty or new (default: RUN-TO beside the run)")
        parser.add_argument("--model_name_or_path", help="base model, if it is not where the run says")

    what = "Write the trained model for other programs, load it again, and compare it with the trained one."
    settings, other = Command("nlft export", what, [ExportSettings], [("Export", ExportSettings)], None, add).parse(
        argv
    )
    out = None if settings.to == "vllm" else other.out or beside_run(other.run, settings.to)
    refuse_unfinished(other.run, lambda checkpoint: typed("nlft", "export", checkpoint, *_rest(argv, other.run)))
    if settings.to == "vllm" and other.out:
        raise UserError("--to vllm writes nothing: vLLM loads the adapter where it is.\n  Leave out --out.")
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{display_path(out)} already exists.\n  Choose another --out, or remove it.")
    read = {"RUN": other.run, "--model_name_or_path": other.model_name_or_path, "--verify_file": settings.verify_file}
    refuse_inputs("--out", out, read)
    from nlft.exporting.run import export as write
    from nlft.exporting.source import open_trained

    print("\n".join(write(open_trained(other.run, other.model_name_or_path), settings, out)))


def _rest(argv: Sequence[str], run: str) -> list[str]:
    """Return the command's words without the run."""
    at = list(argv).index(run)
    return [*argv[:at], *argv[at + 1 :]]


def beside_run(run: str, target: str) -> Path:
    """Return the folder that a command writes beside a run, by default."""
    path = Path(run)
    if not path.exists():
        return Path(f"{path.name}-{target}")
    whole = path.resolve()  # "." has no name
    if path.name and whole.name == "adapter" and (path.parent / "run.yaml").is_file():
        return beside_run(str(path.parent), target)
    if path.name and whole.parent.name == "checkpoints" and (path.parent.parent / "run.yaml").is_file():
        return beside_run(str(path.parent.parent), f"{path.name}-{target}")  # not among the checkpoints
    return (path if path.name else whole).with_name(f"{whole.name}-{target}")
