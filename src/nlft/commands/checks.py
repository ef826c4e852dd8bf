"""Check paths, names and kinds of files before torch is imported. These checks need no model."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from nlft.errors import RecordsError, UserError, display_path, printable, typed
from nlft.launch import asks_for_help
from nlft.sources.raw_records import UNLABELLED
from nlft.sources.settings import AS_IT_SAYS, ReadAs

if TYPE_CHECKING:
    from nlft.data.checks_grader import QuestionNeeds
    from nlft.data.records import Example, Question
    from nlft.sources.reading import Source

_Read = TypeVar("_Read")

CHECKED = (
    "model_name_or_path",
    "adapter",
    "grader",
    "checks",
    "rules",
    "eval_file",
    "test_file",
    "output_dir",
    "out",
    "backend",
    "base_url",
)


def check_names(given: Mapping[str, str]) -> None:
    """Check the given values of the settings in `CHECKED`, by name.

    Raises:
        UserError: a path does not exist, is of the wrong kind or cannot be written, or a grader does not exist.
        ConfigError: the file of checks or of rules has mistakes.
    """
    on_server = "base_url" in given or given.get("backend") == "openai"
    if "model_name_or_path" in given and not on_server:
        _check_model(given["model_name_or_path"])
    if "adapter" in given:
        _check_adapter(given["adapter"])
    if given.get("grader", "auto") not in ("auto", "label", "checks"):
        from nlft.data.grading import get_grader

        get_grader(given["grader"])
    if "checks" in given:
        from nlft.data.checks_file import read_checks

        read_checks(given["checks"])
    if "rules" in given:
        from nlft.data.rules_file import read_rules

        read_rules(given["rules"])
    for name in ("eval_file", "test_file"):
        if name in given and _is_missing(given[name]):
            raise UserError(f"--{name} {given[name]}: does not exist.\n  Check the path.")
    for name in ("output_dir", "out"):
        if name in given:
            _check_writable(Path(given[name]), f"--{name}")


def _is_missing(name: str) -> bool:
    """Return whether the name is a path, not a hub name, and does not exist."""
    path = Path(name)
    looks_local = (
        name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix in (".jsonl", ".ndjson", ".json", ".gz", ".parquet", ".csv", ".tsv", ".xlsx")
    )
    return looks_local and not path.exists()


def _check_model(name: str) -> None:
    path = Path(name)
    where = f"--model_name_or_path {name}"
    if _is_missing(name):
        raise UserError(f"{where}: cannot be loaded: there is no such folder.\n  Give a folder or a hub name.")
    if path.is_file():
        raise UserError(f"{where}: is a file.\n  Give the folder with config.json and safetensors weights.")
    if path.is_dir() and not (path / "config.json").is_file():
        if any((path / name).is_file() for name in ("adapter_config.json", "run.yaml")):
            raise UserError(
                f"{where}: holds an adapter, not a model.\n"
                "  Give it as --adapter, and its base model as --model_name_or_path."
            )
        raise UserError(f"{where}: cannot be loaded: it has no config.json.\n  Give a model's folder or a hub name.")


def _check_adapter(name: str) -> None:
    path = Path(name)
    if _is_missing(name) or path.is_file():
        raise UserError(f"--adapter {name}: no PEFT adapter is there.\n  Give a folder, a run directory or a hub name.")
    refuse_unfinished(name, lambda checkpoint: f"--adapter {display_path(checkpoint)}", f"--adapter {name}")
    places = (path / "adapter_config.json", path / "adapter" / "adapter_config.json", path / "run.yaml")
    if path.is_dir() and not any(place.is_file() for place in places):  # of an unfinished run, loading says more
        kind = "holds a model" if (path / "config.json").is_file() else "has no adapter_config.json"
        raise UserError(
            f"--adapter {name}: no PEFT adapter is there: it {kind}.\n"
            "  Give a folder with adapter_config.json, a run directory or a hub name."
        )


def refuse_unfinished(name: str, use: Callable[[Path], str], where: str | None = None) -> None:
    """Refuse a run that has not written its adapter: it still trains, or has ended early.

    Args:
        name: what the user named.
        use: returns the command, or the flag, that uses a checkpoint instead.
        where: what named it, for the message.

    Raises:
        UserError: says how to go on with the run, and how to use its last checkpoint.
    """
    path = Path(name)
    if not (path / "run.yaml").is_file() or path.parent.name == "checkpoints":
        return
    if (path / "adapter").is_dir() or (path / "adapter_config.json").is_file():
        return
    from nlft.runs.run_dir import RunDir
    from nlft.runs.unfinished import ways_to_go_on

    raise UserError(
        f"{where or display_path(path)}: the run has not written its adapter/.\n{ways_to_go_on(RunDir(path), use)}"
    )


def _check_writable(path: Path, flag: str) -> None:
    """Refuse a path where nothing can be written."""
    if flag == "--output_dir" and path.is_file():
        raise UserError(f"{flag} {display_path(path)}: is a file.\n  Give a folder.")
    if flag == "--output_dir":
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{flag} {printable(str(path))}: is not UTF-8, and safetensors writes no weights under such a name.\n"
                "  Give the folder another name."
            ) from None
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if existing != path and not existing.is_dir():
        raise UserError(f"{flag} {display_path(path)}: {display_path(existing)} is a file.\n  Write to another place.")
    if not os.access(existing, os.W_OK):
        raise UserError(f"{flag} {display_path(path)}: cannot be written.\n  Write to another place.")


def check_out_file(path: Path, *suffixes: str, flag: str = "--out") -> None:
    """Refuse an output file that is a folder or has another ending. Call this before the work.

    Raises:
        UserError: the file cannot be written under this name.
    """
    if path.is_dir():
        raise UserError(f"{flag} {display_path(path)}: is a folder.\n  Give a file name.")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(
            f"{flag} {display_path(path)}: must end in {' or '.join(suffixes)}.\n  Give {path.stem}{suffixes[0]}."
        )
    _check_writable(path, flag)


class EarlyFile(Generic[_Read]):
    """The input file, read before torch is imported if the command line begins with its name."""

    def __init__(self, argv: Sequence[str], read: Callable[[str], _Read]) -> None:
        self.word = argv[0] if argv and not argv[0].startswith("-") and not asks_for_help(argv) else None
        self.read = read
        self.records = read(self.word) if self.word is not None else None

    def get(self, file: str | Path) -> _Read:
        """Return the file's records."""
        if self.records is not None and Path(file) == Path(str(self.word)):
            return self.records
        return self.read(str(file))


def examples_to_train(file: str | Path, reading: ReadAs | None = None) -> "list[Example]":
    """Return the file's examples.

    Args:
        reading: which column is which, and the format, as `read_examples` takes them.

    Raises:
        UserError: the file holds questions; the message names the commands that take them.
        RecordsError: names every record that cannot be used.
    """
    return _examples(file, reading, require_judgment=True)[0]


def examples_to_judge(file: str | Path, reading: ReadAs | None = None) -> "list[Example]":
    """Return the file's examples, with or without judgments. For the errors, see `examples_to_train`."""
    return _examples(file, reading, require_judgment=False)[0]


def examples_with_places(file: str | Path, reading: ReadAs) -> "tuple[list[Example], dict[str | int, str]]":
    """Return what `examples_to_judge` returns, and where in the file each example stands, by its id."""
    examples, source = _examples(file, reading, require_judgment=False)
    return examples, {e.id: record.where for e, record in zip(examples, source.usable(), strict=True)}


def _examples(file: str | Path, reading: ReadAs | None, *, require_judgment: bool) -> "tuple[list[Example], Source]":
    from nlft.data.records import read_questions, source_of_examples

    try:
        return source_of_examples(file, require_judgment=require_judgment, reading=reading or AS_IT_SAYS)
    except RecordsError as error:
        _refuse_unrated(file, reading, error)
        missing = {p.where for p in error.problems if p.field == "completion" and "missing" in p.what}
        if missing != {p.where for p in error.problems}:
            raise
        try:
            questions = read_questions(file, **(reading or AS_IT_SAYS))
        except UserError:
            raise error from None
        where = display_path(file)
        raise UserError(
            f"{where}: holds {len(questions):,} questions, not examples: no record has a completion.\n"
            f"  `nlft sample {where} --out examples.jsonl` answers them; `nlft tune {where}` does all steps.\n"
            "  If a column holds replies, name it: --columns completion=COLUMN."
        ) from error


def _refuse_unrated(file: str | Path, reading: ReadAs | None, error: RecordsError) -> None:
    """Refuse a file of replies that nobody has rated, with the command in which a person rates them."""
    missing = all(p.field == "label" and "missing" in p.what for p in error.problems)
    nothing = all(p.field is None and any(why in p.what for why in UNLABELLED) for p in error.problems)
    if not missing and not nothing:
        return
    from nlft.label.replies import read_replies

    try:
        replies = read_replies(file, reading or AS_IT_SAYS)
    except UserError:
        return
    if replies and not any(one.has_label for one in replies):
        flags = {"--columns": (reading or AS_IT_SAYS)["columns"], "--from": (reading or AS_IT_SAYS)["from_format"]}
        words = [word for flag, value in flags.items() if value for word in (flag, value)]
        raise UserError(
            f"{display_path(file)}: none of the {len(replies):,} replies has a rating: nothing says which are good.\n"
            '  Give each row a rating, yes (good) or no (bad), in a column "rating".\n'
            f"  To rate them in the browser: {typed('nlft', 'label', Path(file), *words)}\n"
            "  If a column holds ratings, name it: --columns label=COLUMN. Of stars, also give the least that is good: "
            "--columns label=COLUMN:4."
        ) from error


def questions_to_answer(
    file: str | Path, needs: "QuestionNeeds | None" = None, reading: ReadAs | None = None
) -> "list[Question]":
    """Return the file's questions. If the file holds examples, print that their completions are not used.

    Args:
        needs, reading: what the questions must have, and how they are read, as `read_questions` takes it.
    """
    from nlft.data.records import read_questions
    from nlft.progress import note
    from nlft.sources.reading import read_source_as

    reading = reading or AS_IT_SAYS
    questions = read_questions(file, **(needs or {}), **reading)
    source = read_source_as(file, reading)
    if Path(file).is_file() and all("completion" in record.fields for record in source.usable()):
        where = display_path(file)
        note(f"{where} holds examples: only their questions are used. To train on them: nlft train {where}")
    return questions
