"""Ray: connect to it, and let copies of a model answer in its workers, on one machine or on several."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from platform import node
from typing import Any

from nlft import __version__
from nlft.errors import NLFTError, UserError
from nlft.models.answerer import Answerer, CompletionRequest, Generated, estimated_prompt_tokens
from nlft.models.settings import ExecutorSettings

TRIES_AGAIN = 3
"""How often a task is done again whose worker was killed. A task that failed by itself is not."""

_Pairs = list[tuple[int, Generated]]


class RayModel:
    """A local model as an answerer, of which each worker of Ray has a copy.

    A worker gets `batch_size` requests at a time. If it dies, another one gets them.
    """

    def __init__(
        self,
        opened: Callable[[], Answerer],
        executor: ExecutorSettings,
        *,
        batch_size: int,
        max_new_tokens: int,
        system_prompt: str | None,
    ) -> None:
        """
        Args:
            opened: opens a worker's copy of the model, in the worker.

        Raises:
            UserError: Ray is not installed, no machine has what a worker needs, or the model cannot be loaded.
        """
        self.max_new_tokens = max_new_tokens
        self._opened, self._executor = opened, executor
        self._batch_size, self._system_prompt = batch_size, system_prompt
        self._closing = ExitStack()
        self._ray = self._closing.enter_context(connected())
        first = self._worker()
        try:
            identity, why = self._ray.get(first.begin.remote())
        except self._ray.exceptions.RayError as error:
            raise UserError(f"--executor ray: a worker died while it loaded the model.\n  {error}") from error
        if why:
            raise UserError(why)
        self._identity: dict[str, Any] = identity
        self._idle = [first]

    @property
    def identity(self) -> dict[str, Any]:
        """The identity of a worker's model, as it would have here."""
        return self._identity

    def answer(self, requests: Sequence[CompletionRequest]) -> Iterator[_Pairs]:
        """Answer the requests, the longest prompts first, in as many workers as Ray has room for.

        Raises:
            NLFTError: a worker could not answer, or the workers of the same requests died several times.
        """
        order = sorted(range(len(requests)), key=lambda at: -self._length(requests[at]))
        waiting = [order[at : at + self._batch_size] for at in range(0, len(order), self._batch_size)]
        tries: dict[int, int] = {}
        busy: dict[Any, tuple[Any, list[int]]] = {}
        try:
            while waiting or busy:
                room = self._room
                while waiting and len(busy) < room:
                    worker, part = (self._idle.pop() if self._idle else self._worker()), waiting.pop(0)
                    busy[worker.answer.remote([requests[at] for at in part])] = (worker, part)
                (done,), _ = self._ray.wait(list(busy), num_returns=1)
                worker, part = busy.pop(done)
                try:
                    answers, why = self._ray.get(done)
                except self._ray.exceptions.RayError as error:
                    self._ray.kill(worker)  # one that was not lost would keep its place
                    tries[part[0]] = tries.get(part[0], 0) + 1
                    self._raise_if_again(error, tries[part[0]], len(part))
                    waiting.insert(0, part)
                    continue
                self._idle.append(worker)
                if why:
                    raise NLFTError(why)
                yield [(part[at], answer) for at, answer in answers]
        finally:
            for worker, _ in busy.values():
                self._ray.kill(worker)

    def _raise_if_again(self, error: Exception, tries: int, requests: int) -> None:
        """Raise if a task failed by itself, or if its workers were lost too often."""
        said = " ".join(str(error).split())
        if isinstance(error, self._ray.exceptions.RayTaskError):
            raise NLFTError(f"--executor ray: a worker failed: {said}") from error
        if tries > TRIES_AGAIN:
            raise NLFTError(
                f"--executor ray: {tries} workers died while they answered the same {requests} requests: {said}\n"
                "  Lower --batch_size."
            ) from error

    def _length(self, request: CompletionRequest) -> int:
        return estimated_prompt_tokens(request, self._system_prompt)

    @property
    def _room(self) -> int:
        """Number of workers that fit on all machines, besides what others use."""
        cpus, gpus = self._needs()
        has = [one["Resources"] for one in self._ray.nodes() if one["Alive"]]
        fits = (min(one.get("CPU", 0) // cpus, one.get("GPU", 0) // gpus if gpus else 10**6) for one in has)
        return max(1, int(sum(fits)))

    def _needs(self) -> tuple[float, float]:
        gpus = self._executor.ray_gpus
        gpus = float(bool(self._ray.cluster_resources().get("GPU"))) if gpus is None else gpus
        return self._executor.ray_cpus, gpus

    def _worker(self) -> Any:
        cpus, gpus = self._needs()
        check_resources(self._ray.nodes(), cpus, gpus)
        made = self._ray.remote(num_cpus=cpus, num_gpus=gpus)(_Worker)
        return made.remote(__version__, os.getcwd(), self._opened)


class _Worker:
    """A copy of the model, in a process of its own. It loads the model when it is first asked."""

    def __init__(self, version: str, cwd: str, opened: Callable[[], Answerer]) -> None:
        self.version, self.cwd, self.opened = version, cwd, opened
        self.model: Any = None

    def begin(self) -> tuple[dict[str, Any], str | None]:
        """Return the model's identity, and what is wrong, if anything is."""
        why = self._loaded()
        return ({}, why) if why else (self.model.identity, None)

    def answer(self, requests: list[CompletionRequest]) -> tuple[_Pairs, str | None]:
        """Return (index, answer) pairs, and what is wrong, if anything is."""
        from nlft.library_errors import explain

        if why := self._loaded():
            return [], why
        try:
            return [pair for pairs in self.model.answer(requests) for pair in pairs], None
        except Exception as error:
            return [], f"{node()}: {explain(error) or f'{type(error).__name__}: {error}'}"

    def _loaded(self) -> str | None:
        from nlft.library_errors import explain

        if self.model is not None:
            return None
        if why := cannot_work(self.version, self.cwd):
            return why
        try:
            self.model = self.opened()
        except Exception as error:
            return str(explain(error) or f"{node()}: {type(error).__name__}: {error}")
        return None


def cannot_work(version: str, cwd: str, *places: str) -> str | None:
    """Make a worker ready: its folder, quiet libraries. Return why it cannot work for the process that asks, if so.

    Args:
        version: of nlft, there.
        cwd: the folder there, from which the settings name files.
        places: further folders that this machine must see.
    """
    from nlft.progress import hide_bars, quiet_libraries

    quiet_libraries()
    hide_bars()
    for place in (cwd, *places):
        if not Path(place).is_dir():
            return f"{node()}: {place} is not there. All machines of Ray must share it."
    if version != __version__:
        return f"{node()}: nlft is {__version__} there, but {version} where the command runs."
    os.chdir(cwd)
    return None


@contextmanager
def connected() -> Iterator[Any]:
    """Connect to the Ray that RAY_ADDRESS or `ray start` names. Without one, start one on this machine, and end it.

    Raises:
        UserError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--executor ray: Ray is not installed.\n  Type `pip install 'nlft[ray]'`, or leave out --executor."
        ) from error
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=True)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def check_resources(nodes: Iterable[Mapping[str, Any]], cpus: float, gpus: float) -> None:
    """Refuse tasks that fit on no machine. Ray would wait for one forever."""
    has = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(one.get("CPU", 0) >= cpus and one.get("GPU", 0) >= gpus for one in has):
        most = max((one.get("CPU", 0), one.get("GPU", 0)) for one in has) if has else (0, 0)
        raise UserError(
            f"no machine of Ray has {cpus:g} CPUs and {gpus:g} GPUs for a task; the largest has {most[0]:g} and "
            f"{most[1]:g}.\n  Lower --ray_cpus or --ray_gpus."
        )
