"""Tell a user who names the wrong kind of thing which command was meant.

Some commands take a run, others a file of records. A run instead of a file, a file instead of a run, an adapter, a
merged model and the folder of a comparison each lead to one sentence with a command to type.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from nlft.commands.next_steps import SMALL_MODEL
from nlft.errors import NLFTError, UserError, display_path, typed
from nlft.launch import asks_for_help
from nlft.runs.listing import find_runs
from nlft.runs.run_dir import RunDir
from nlft.sources.reading import is_file_name

FILE, RUN, CHECKPOINT, ADAPTER, MODEL, RUNS, FOLDER = "file", "run", "checkpoint", "adapter", "model", "runs", "folder"

_TAKE_RUNS = {
    "map": (RUN, RUNS, FOLDER),
    "card": (RUN,),
    "replay": (RUN,),
    "chat": (RUN, CHECKPOINT, ADAPTER, MODEL),
    "export": (RUN, CHECKPOINT, ADAPTER, MODEL),
    "merge": (RUN, CHECKPOINT, ADAPTER),
}
_TAKE_FILES = (
    *("label", "audit", "evaluate", "train", "judge", "revise", "build", "import", "sample", "rounds"),
    *("sft", "reft", "kto", "tune", "compare"),
)
_WHAT = {
    FILE: "is a file, not a run",
    RUN: "is a run",
    CHECKPOINT: "is a checkpoint of a run",
    ADAPTER: "is an adapter",
    MODEL: "is a model",
    RUNS: "is a folder of runs",
    FOLDER: "is a folder",
}
_WITH_MODEL = {"label": "--model", "map": "--model"}


def check_meant(command: str, words: Sequence[str]) -> None:
    """Refuse a first argument of another kind than the command takes.

    Args:
        words: the command's arguments. Only names before the first flag are looked at.

    Raises:
        UserError: says what the name is, and which command to type.
    """
    if asks_for_help(words) or command not in (*_TAKE_RUNS, *_TAKE_FILES):
        return
    if command in _TAKE_RUNS and not words:
        before = "\n  Before any training: nlft map --examples FILE --model MODEL" if command == "map" else ""
        raise UserError(f"nlft {command}: RUN is missing.\n  {_runs_near(command, Path(), 'here')}{before}")
    names = words[: next((at for at, word in enumerate(words) if word.startswith("-")), len(words))]
    for name in names[: 2 if command == "map" else 1]:
        kind, path = kind_of(name), Path(name)
        if command in _TAKE_RUNS and kind is not None and kind not in _TAKE_RUNS[command]:
            cure = _for_run_command(command, kind, path, words[len(names) :])
        elif command in _TAKE_FILES and kind not in (None, FILE):
            cure = _for_file_command(command, kind, path)
        elif command in _TAKE_RUNS and command != "map" and kind is None and _is_missing(name):
            near = _runs_near(command, path.parent, "beside it")
            raise UserError(f"nlft {command}: {name} does not exist.\n  {near}")
        else:
            continue
        what = _WHAT[kind] if path.exists() else "does not exist, and is the name of a file, not of a run"
        raise UserError(f"nlft {command}: {display_path(path)} {what}.\n  {cure}")


def kind_of(name: str) -> str | None:
    """Return what a name stands for. None if nothing has it and it may be a hub name or a run that is to begin."""
    path = Path(name)
    if path.is_file() or (not path.exists() and is_file_name(name)):
        return FILE
    if not path.is_dir():
        return None
    if path.parent.name == "checkpoints" and (path.parent.parent / "run.yaml").is_file():
        return CHECKPOINT
    if (path / "run.yaml").is_file():
        return RUN
    if (path / "adapter_config.json").is_file() or (path / "adapter" / "adapter_config.json").is_file():
        return ADAPTER
    if (path / "config.json").is_file():
        return MODEL
    return RUNS if find_runs(path) else FOLDER


def _is_missing(name: str) -> bool:
    """Return whether a name that nothing here has is a path, and not the hub's: `runs/b` beside other runs is one."""
    return name.count("/") != 1 or name.startswith((".", "/", "~")) or any(Path(name).parent.glob("*/run.yaml"))


def _runs_near(command: str, folder: Path, where: str) -> str:
    """Name the run of a folder that was written last, or how to begin one."""
    records = sorted([*folder.glob("*/run.yaml"), *folder.glob("runs/*/run.yaml")], key=lambda at: at.stat().st_mtime)
    if records:
        return f"The last run {where}: {typed('nlft', command, records[-1].parent)}"
    return f"There is no run {where}. Give a run directory, the --output_dir of an `nlft train`."


def _for_run_command(command: str, kind: str, path: Path, flags: Sequence[str]) -> str:
    run = _run_around(path)
    if run is not None:
        return f"Name the run: {typed('nlft', command, run, *flags)}"
    if kind == FILE and command == "map":
        model: list[str] = [] if {"--model", "--model_name_or_path"} & set(flags) else ["--model", SMALL_MODEL]
        return f"To see what its feedback would touch: {typed('nlft', 'map', '--examples', path, *model, *flags)}"
    if kind == FILE:
        out = Path("runs") / (path.name.partition(".")[0] or "run")
        train = typed("nlft", "train", path, "--model_name_or_path", SMALL_MODEL, "--output_dir", out)
        return f"To train on it: {train}, and then: {typed('nlft', command, out)}"
    if kind == RUNS:
        return f"Name one of its {len(find_runs(path))} runs: {typed('nlft', command, find_runs(path)[0], *flags)}"
    if kind == ADAPTER:
        return f"Without its run it has no map and no record. To talk to it: {typed('nlft', 'chat', path)}"
    if kind == MODEL and command == "map":
        return f"To see what feedback would touch: {typed('nlft', 'map', '--examples', 'FILE', '--model', path)}"
    if kind == MODEL and command == "merge":
        return f"It is merged already. To take it away: {typed('nlft', 'export', path)}"
    if kind == MODEL:
        return f"Name the run that trained it: nlft {command} RUN"
    return f"It holds no run. To begin one: {typed('nlft', 'train', 'FILE', '--output_dir', path / 'a')}"


def _for_file_command(command: str, kind: str, path: Path) -> str:
    run = path if kind == RUN else _run_around(path)
    model = _WITH_MODEL.get(command, "--model_name_or_path")
    file = _training_file(run) if run is not None else _file_in(path)
    if command in ("evaluate", "sample") and kind in (RUN, CHECKPOINT, ADAPTER):
        return f"Name the questions first: {typed('nlft', command, 'QUESTIONS', *_adapted(path, run))}"
    if kind in (ADAPTER, MODEL) and run is None:
        flags: list[str | Path] = [model, path] if kind == MODEL else [model, "BASE", "--adapter", path]
        return f"Name the file first: {typed('nlft', command, 'FILE', *flags)}"
    if run is not None and file is not None:
        return f"Name a file. The run was trained on this one: {typed('nlft', command, file)}"
    if file is not None:
        return f"Name a file in it: {typed('nlft', command, file)}"
    return f"Name a file: nlft {command} FILE"


def _run_around(path: Path) -> Path | None:
    """Return the run that a path is in: of a checkpoint, of its adapter, or of one of its own files."""
    around = path.resolve().parents
    inside = [folder for folder in around[:2] if (folder / "run.yaml").is_file()]
    return Path(display_path(inside[-1])) if inside else None


def _training_file(run: Path) -> Path | None:
    with suppress(NLFTError, OSError, AttributeError):
        file = Path((RunDir(run).settings().get("data") or {}).get("file") or "")
        return file if file.is_file() else None
    return None


def _file_in(folder: Path) -> Path | None:
    """Return a file of records in a folder: the examples of `nlft tune`, or the first one."""
    found = sorted(path for path in folder.iterdir() if path.is_file() and is_file_name(path.name, records=True))
    return next((path for path in found if path.stem == "examples"), found[0] if found else None)


def _adapted(path: Path, run: Path | None) -> list[str | Path]:
    from nlft.runs.base import recorded_base

    base = None
    if run is not None:
        with suppress(NLFTError, OSError, AttributeError):
            base = recorded_base(RunDir(run).settings())
    revision = ["--model_revision", base.revision] if base and base.revision else []
    return ["--model_name_or_path", base.name if base else "BASE", *revision, "--adapter", path]
