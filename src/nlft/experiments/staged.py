"""Work in stages, in one folder: each leaves a file, and is not repeated once that is there."""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from nlft import __version__
from nlft.errors import NLFTError, UserError, display_path
from nlft.experiments import stages
from nlft.experiments.settings import TuneSettings
from nlft.files import write_whole
from nlft.progress import hide_bars, quiet_libraries

Stage = tuple[str, str, Callable[[], None]]
"""(title, the file that shows that it is done, what to do)."""


class Staged:
    """A folder, the settings that it was made with, and the stages from a file to a dataset in it."""

    may_change: ClassVar[tuple[str, ...]] = ()  # settings that a later run in the same folder may have otherwise

    def __init__(self, file: Path | str, model: dict[str, Any], settings: TuneSettings) -> None:
        """
        Args:
            file: questions with standard answers, or examples.
            model: fields of `ModelSettings`, `model_name_or_path` among them.
        """
        self.file = str(file)
        self.model = model
        self.settings = settings
        self.folder = Path(settings.output_dir)

    def data_stages(self) -> list[Stage]:
        """From the file to examples.jsonl and test.jsonl."""
        judging = partial(stages.judge, self.folder, self.job())
        return [
            ("questions for training and for the test", "test.jsonl", partial(stages.split, self.folder, self.job())),
            ("the model's answers", "sampled.jsonl", self.own_process(stages.sample)),
            (
                "judgments",
                "judged.jsonl",
                judging if self.settings.judge == "rules" else self.own_process(stages.judge),
            ),
            ("the dataset", "examples.jsonl", partial(stages.build, self.folder, self.job())),
        ]

    def run_stages(self, work: list[Stage]) -> None:
        """Do what is not done yet.

        Raises:
            UserError: a stage finds the input wrong.
            NLFTError: a stage failed; those before it are kept.
        """
        for number, (title, done, function) in enumerate(work, start=1):
            title = f"[{number}/{len(work)}] {title}"
            if (self.folder / done).exists():
                print(f"{title}: done before", file=sys.stderr)
                continue
            print(title, file=sys.stderr)
            start = time.monotonic()
            function()
            print(f"      {time.monotonic() - start:.0f} s", file=sys.stderr)

    def job(self) -> dict[str, Any]:
        """What a stage needs to know; a process of its own gets it as plain data."""
        return {"file": self.file, "model": self.model, "settings": asdict(self.settings)}

    def claim(self) -> None:
        """Make the folder ours, or refuse it if it holds a run with other settings or data: they would be mixed up.

        Raises:
            UserError: it names what differs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        mine, digests = json.loads(json.dumps({"nlft": __version__, **self.job()}, default=str)), self._digests()
        for name in self.may_change:
            del mine["settings"][name]
        path = self.folder / "settings.json"
        if path.exists():
            theirs = json.loads(path.read_text())
            kept = theirs.pop("sha256", {})
            differing = _differing(mine, theirs) + [
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
        """SHA-256 of the files that the work is on; what is edited must not be taken for what was worked on."""
        paths = [Path(name) for name in (self.file, self.settings.test_file) if name]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}

    def own_process(self, function: Callable[..., None], *args: Any) -> Callable[[], None]:
        """The function in a process of its own, so that its peak memory is its own."""

        def run() -> None:
            process = self.begin(shares(1)[0], function, *args)
            with ending_with_us([process]):
                process.join()
            check(process)

        return run

    def begin(self, share: "Share", function: Callable[..., None], *args: Any) -> Any:
        """Start the function in a process of its own, with that share of the machine; returns the process."""
        process = _processes().Process(target=_quietly, args=(share, function, self.folder, self.job(), *args))
        process.name = function.__name__
        process.start()
        return process


@dataclass(frozen=True)
class Share:
    """What a process may have of the machine.

    Attributes:
        threads: None: as many as torch takes.
        gpu: the one that it sees, as CUDA_VISIBLE_DEVICES names it; None: all there are.
        bars: whether its progress is shown; bars of several processes would write over each other.
    """

    threads: int | None = None
    gpu: str | None = None
    bars: bool = True


def shares(count: int) -> list[Share]:
    """The machine, divided among so many processes: cores evenly, GPUs in turn, one each, for no trainer here takes
    several in one process."""
    import torch

    there = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    gpus = named[:there] or [str(i) for i in range(there)]
    threads = max(1, torch.get_num_threads() // count) if count > 1 else None
    return [Share(threads, gpus[i % len(gpus)] if len(gpus) > 1 else None, count == 1) for i in range(count)]


@contextmanager
def ending_with_us(processes: Iterable[Any]) -> Iterator[None]:
    """Stop the processes, all at once, if what waits for them is stopped."""
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


def check(process: Any) -> None:
    """Say what an ended process said.

    Raises:
        UserError: it found the user's input wrong.
        NLFTError: it failed.
    """
    if process.exitcode:
        kind = UserError if process.exitcode == 2 else NLFTError
        raise kind(f"stage {process.name} stopped; see above.\n  What is done is kept: run it again.")


def model_fields(settings: Any) -> dict[str, Any]:
    """Those fields of `ModelSettings` that are not at their defaults."""
    chosen = {}
    for f in fields(settings):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if getattr(settings, f.name) != default:
            chosen[f.name] = getattr(settings, f.name)
    return chosen


def _processes() -> Any:
    """Where processes are started: from a server that has imported what all of them need, once, and runs nothing.

    With CUDA each starts from nothing instead: what is imported may look for devices, and no fork may do so again.
    """
    import torch

    if "forkserver" not in multiprocessing.get_all_start_methods() or torch.cuda.device_count():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nlft.training.reft", "nlft.results.evaluate"])
    return context


def _quietly(share: Share, function: Callable[..., None], *args: Any) -> None:
    """Run in a child process as the command does: no library's chatter, errors as messages, exit codes."""
    Thread(target=_end_with_parent, daemon=True).start()
    quiet_libraries()
    _take(share)
    try:
        function(*args)
    except KeyboardInterrupt:  # a terminal's Ctrl-C reaches every process; the parent answers it
        sys.exit(130)
    except NLFTError as error:
        print(f"{'error' if isinstance(error, UserError) else 'failed'}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


def _end_with_parent() -> None:
    """However the parent ends: nothing must go on that a second start would do beside it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _take(share: Share) -> None:
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    if share.threads is not None:
        import torch

        torch.set_num_threads(share.threads)
    if not share.bars:
        hide_bars()


def _differing(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The settings that are not the same, by name."""
    names = [name for name in ("nlft", "file", "model") if mine.get(name) != theirs.get(name)]
    ours, others = mine["settings"], theirs.get("settings", {})
    return names + [
        name for name in ours | others if name not in ours or name not in others or ours[name] != others[name]
    ]
