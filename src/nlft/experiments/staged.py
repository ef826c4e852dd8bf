"""Run stages in one folder. Each stage writes a file, and is not repeated once that file exists."""

import gc
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, fields
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar

from nlft import __version__
from nlft.digests import sha256_of
from nlft.errors import NLFTError, UserError, display_path
from nlft.experiments import stages
from nlft.experiments.inputs import STAGE_FILES, StageRecord
from nlft.experiments.settings import TuneSettings
from nlft.files import read_json, write_whole
from nlft.library_errors import message_and_code
from nlft.outputs import refuse_inputs
from nlft.processes import end_with_parent, terminable
from nlft.progress import hide_bars, quiet_libraries
from nlft.runs.lock import owning
from nlft.streams import mute_lost, outliving_readers

if TYPE_CHECKING:
    from nlft.models.loading import ModelSettings

_PRELOADED = ("nlft.baselines.reft", "nlft.experiments.arm_run", "nlft.models.loaded")

Stage = tuple[str, str, Callable[[], None]]
"""The stage's title, the file whose existence shows that the stage is done, and the function that runs it."""


class Staged:
    """A folder, its settings, and the stages that turn a file into a dataset in it."""

    may_change: ClassVar[tuple[str, ...]] = ()  # settings that a later run in the folder may change

    def __init__(self, file: Path | str, model: dict[str, Any], settings: TuneSettings) -> None:
        """
        Args:
            file: questions with standard answers, or examples.
            model: fields of `ModelSettings`, including `model_name_or_path`.
        """
        self.file = str(file)
        self.model = model
        self.settings = settings
        self.folder = Path(settings.output_dir)

    def run(self) -> str:
        """Own the folder, and do the work that is not done yet. Return the result in words.

        Raises:
            UserError: another process works in the folder.
        """
        with owning(self.folder):
            return self.work()

    def work(self) -> str:
        """Do the work that is not done yet. Return the result in words."""
        raise NotImplementedError

    def data_stages(self) -> list[Stage]:
        """Return the stages that turn the file into examples.jsonl and test.jsonl."""
        judging = partial(stages.judge_stage, self.folder, self.job())
        return [
            (
                "questions for training and for the test",
                "test.jsonl",
                partial(stages.split_stage, self.folder, self.job()),
            ),
            ("the model's answers", "sampled.jsonl", self.own_process(stages.sample_stage)),
            (
                "judgments",
                "judged.jsonl",
                judging if self.settings.judge == "rules" else self.own_process(stages.judge_stage),
            ),
            ("the dataset", "examples.jsonl", partial(stages.build_stage, self.folder, self.job())),
        ]

    def run_stages(self, work: list[Stage]) -> None:
        """Run the stages that are not done yet, and those that read a file which was edited since.

        A stage's own file that was edited stays, and the later stages read it.

        Raises:
            UserError: the input of a stage is wrong.
            NLFTError: a stage failed. The results of the earlier ones are kept.
        """
        for number, (title, done, function) in enumerate(work, start=1):
            title = f"[{number}/{len(work)}] {title}"
            if self._is_done(title, done):
                continue
            start, inputs = time.monotonic(), self.stage_record().inputs(done)
            function()
            self.stage_record().record(done, inputs)
            print(f"      {time.monotonic() - start:.0f} s", file=sys.stderr)

    def _is_done(self, title: str, done: str) -> bool:
        """Say what will be done with a stage. Return whether its file stays as it is."""
        record = self.stage_record()
        state, changed = record.state(done)
        if state == "edited":
            record.record(done, record.inputs(done))
            also = f". {', '.join(changed)} changed too: remove {done} to make it again from there" if changed else ""
            print(f"{title}: {done} was edited; going on from it{also}", file=sys.stderr)
        elif state == "stale":
            print(f"{title}: again, because {', '.join(changed)} changed", file=sys.stderr)
            self.discard(done)
        else:
            print(f"{title}: done before" if state == "done" else title, file=sys.stderr)
        return state in ("done", "edited")

    def stage_record(self) -> StageRecord:
        """Return what the folder's stages wrote and read."""
        return StageRecord(self.folder)

    def discard(self, done: str) -> None:
        """Remove what a stage must not find when it runs again. Most stages write their file as a whole."""

    def job(self) -> dict[str, Any]:
        """Return the input of a stage as JSON values, so that it can be passed to another process."""
        return {"file": self.file, "model": self.model, "settings": asdict(self.settings)}

    def record_settings(self) -> None:
        """Record the settings and data in the folder. Runs with different settings or data would mix up their results.

        Raises:
            UserError: the folder holds a run with other settings or data; the message names them.
        """
        given = {"FILE": self.file, "--test_file": self.settings.test_file, "--checks": self.settings.checks}
        read = {**given, "--rules": self.settings.rules, **{f"--{name}": value for name, value in self.model.items()}}
        refuse_inputs("--output_dir", self.folder, read, STAGE_FILES)
        self.folder.mkdir(parents=True, exist_ok=True)
        mine, digests = json.loads(json.dumps({"nlft": __version__, **self.job()}, default=str)), self._digests()
        for name in self.may_change:
            del mine["settings"][name]
        path = self.folder / "settings.json"
        if path.exists():
            theirs = read_json(path, "remove it if you know that settings and data are the same")
            kept = theirs.pop("sha256", {})
            if not isinstance(kept, dict) or not isinstance(theirs.get("settings"), dict):
                raise UserError(
                    f"{display_path(path)}: does not hold the settings of a run.\n  Choose another --output_dir."
                )
            theirs["settings"] = {k: v for k, v in theirs["settings"].items() if k not in self.may_change}
            # A version before may not know a setting: it did what the default does today.
            known = {name: value for name, value in _defaults(self.settings).items() if name in mine["settings"]}
            differing = _differing(mine, {**theirs, "settings": {**known, **theirs["settings"]}}) + [
                f"{name} has been edited" for name in digests if kept.get(name, digests[name]) != digests[name]
            ]
            if differing:
                raise UserError(
                    f"{display_path(self.folder)}: holds a run with other settings or data "
                    f"({', '.join(differing[:5])}).\n  Remove it, or choose another --output_dir."
                )
            digests = {**kept, **digests}
        write_whole(path, json.dumps({**mine, "sha256": digests}, indent=1).encode())

    def _digests(self) -> dict[str, str]:
        """Return the SHA-256 of the input files. They show whether a file was edited."""
        settings = self.settings
        given = (self.file, settings.test_file, settings.checks, settings.rules)
        paths = [Path(name) for name in given if name]
        return {str(path): sha256_of(path) for path in paths if path.is_file()}

    def own_process(self, function: Callable[..., None], *args: object) -> Callable[[], None]:
        """Return a function that runs `function` in a new process, which has its own peak memory."""

        def run() -> None:
            process = self.begin(split_machine(1)[0], function, *args)
            with ending_with_us([process]):
                process.join()
            check_ended(process)

        return run

    def begin(self, resources: "Resources", function: Callable[..., None], *args: object) -> BaseProcess:
        """Start the function in a new process, with the given part of the machine. Return the process."""
        process: BaseProcess = _processes().Process(
            target=_quietly, args=(resources, function, self.folder, self.job(), *args)
        )
        process.name = function.__name__.removesuffix("_stage")
        mute_lost()  # a process prints before `_quietly` begins: what it imports may warn
        process.start()
        return process


@dataclass(frozen=True)
class Resources:
    """The part of the machine that a process gets.

    Attributes:
        threads: CPU threads; None: torch's default.
        gpu: the GPU that the process sees, as CUDA_VISIBLE_DEVICES names it; None: all GPUs.
        bars: whether to show progress bars. Bars of parallel processes would overwrite each other.
    """

    threads: int | None = None
    gpu: str | None = None
    bars: bool = True


def split_machine(count: int) -> list[Resources]:
    """Split the machine among `count` processes: cores evenly, GPUs round-robin.

    Each process gets one GPU, because nlft's trainers do not use several GPUs in one process.
    """
    import torch

    there = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    gpus = named[:there] or [str(i) for i in range(there)]
    threads = max(1, torch.get_num_threads() // count) if count > 1 else None
    return [Resources(threads, gpus[i % len(gpus)] if len(gpus) > 1 else None, count == 1) for i in range(count)]


@contextmanager
def ending_with_us(processes: Iterable[BaseProcess]) -> Iterator[None]:
    """Stop all processes if the code that waits for them is stopped. A training gets 10 seconds to save."""
    try:
        yield
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(10)
            process.kill()
            process.join()
        raise


def check_ended(process: BaseProcess) -> None:
    """Raise the error of an ended process, if it had one.

    Raises:
        UserError: the user's input was wrong.
        NLFTError: the process failed.
    """
    if process.exitcode:
        kind = UserError if process.exitcode == 2 else NLFTError
        raise kind(f"stage {process.name} stopped; see above.\n  Finished stages are kept: run the command again.")


def model_fields(settings: "ModelSettings") -> dict[str, Any]:
    """Return the fields of the settings that differ from their defaults."""
    given = {one: getattr(settings, one.name) for one in fields(settings)}
    return {one.name: value for one, value in given.items() if value != _default(one)}


def _processes() -> Any:
    """Return the context that starts processes.

    They start from a server process that has imported the common modules once and does nothing else.

    With CUDA, each process starts from scratch. The reason is that an import may initialise CUDA, and a forked process
    cannot initialise it again.
    """
    import torch

    if "forkserver" not in multiprocessing.get_all_start_methods() or torch.cuda.device_count():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@outliving_readers()
def _quietly(resources: Resources, function: Callable[..., None], *args: object) -> None:
    """Run the function in a child process as a command does: with quiet libraries, error messages and exit codes."""
    # What the server process imported lives until the end. A full collection, with which each training ends, would walk
    # through it, and so copy its memory.
    gc.freeze()
    Thread(target=end_with_parent, daemon=True).start()
    quiet_libraries()
    _use(resources)
    # Ctrl-C reaches every process of the terminal, and so does its end. The parent takes both, and ends this one with
    # SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        with terminable():
            function(*args)
    except Exception as error:
        told = message_and_code(error)
        if told is None:
            raise
        print(told[0], file=sys.stderr)
        sys.exit(told[1])


def _use(resources: Resources) -> None:
    if resources.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = resources.gpu
    if resources.threads is not None:
        import torch

        torch.set_num_threads(resources.threads)
    if not resources.bars:
        hide_bars()


def _defaults(settings: TuneSettings) -> dict[str, Any]:
    """Return the defaults of the settings that a settings.json holds, as JSON values."""
    found = {one.name: _default(one) for one in fields(settings) if _default(one) is not MISSING}
    kept: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return kept


def _default(one: Field[Any]) -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _differing(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Return the settings that differ, by name."""
    names = [name for name in ("nlft", "file", "model") if mine.get(name) != theirs.get(name)]
    ours, others = mine["settings"], theirs.get("settings", {})
    return names + [
        name for name in ours | others if name not in ours or name not in others or ours[name] != others[name]
    ]
