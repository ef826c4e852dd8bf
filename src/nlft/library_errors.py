"""Say in a sentence what another package or the machine refuses.

A package is missing, nobody is logged in, a setting is wrong, weights are cut, the disk or the memory is full. Errors
of our own keep their traceback. With the environment variable NLFT_TRACEBACK, all errors do.
"""

import errno
import os
import re
import traceback
from collections.abc import Iterator

from nlft.errors import NLFTError, UserError, display_path, printable, without_passwords

TRACEBACK = "NLFT_TRACEBACK"
_TRACKERS = {
    *("wandb", "trackio", "comet_ml", "mlflow", "clearml", "neptune", "dvclive", "swanlab", "azureml", "codecarbon"),
    *("flytekit", "dagshub", "tensorboard", "tensorboardX"),
}
_CHECKS_SETTINGS = {"transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "huggingface_hub"}
_MISSING = re.compile(
    r"pip3? install|conda install|not installed|to be installed|is required|requires? .* package", re.I
)
_NO_MEMORY = re.compile(
    r"out of memory|can'?t allocate memory|cannot allocate memory|not enough memory|unable to allocate"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|std::bad_alloc",
    re.I,
)
_DISK_FULL = re.compile(  # numpy's `tofile` says only how much it could write
    r"no space left on device|disk quota exceeded|os error (?:28|122)\b|writer failed writing"
    r"|(?<!\d)\d+ requested and \d+ written",
    re.I,
)
_TOO_LARGE = re.compile(r"file too large|os error 27\b", re.I)
_READ_ONLY = re.compile(r"read-only file system|os error (?:30|13|1)\b", re.I)
_CUT_WEIGHTS = re.compile(
    r"deserializing header|MetadataIncompleteBuffer|HeaderTooLarge|HeaderTooSmall|InvalidHeader|incomplete metadata"
    r"|PytorchStreamReader|invalid load key|pickle data was truncated|weights_only",
    re.I,
)
_OTHER_SHAPE = re.compile(r"size mismatch for|loading state_dict|ignore_mismatched_sizes", re.I)
_NO_GPU = re.compile(
    r"no NVIDIA driver|driver version is insufficient|no kernel image is available|no CUDA GPUs are available"
    r"|not compiled with CUDA|CUDA error|NCCL error",
    re.I,
)
_MAKES_OPTIMIZERS = {"create_optimizer", "create_scheduler", "create_optimizer_and_scheduler"}
MEMORY_CURE = (
    "Lower --per_device_train_batch_size (raise --gradient_accumulation_steps by as much), --max_length or "
    "--max_new_tokens; where a command has them, --batch_size or --eval_batch_size. Also --dtype bfloat16 and "
    "--load_in_4bit true need less. End other programs that use the memory."
)
_DISK_CURE = "Free some space, or write to another place. What was finished before is kept: run the command again."
_SIZE_CURE = "Raise the limit (`ulimit -f`), or write to a disk that takes larger files. Then run the command again."
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK, errno.ESTALE, errno.ETXTBSY, errno.EBUSY}


def explain(error: BaseException) -> NLFTError | None:
    """Return an error of another package or of the machine in a sentence, with its cure.

    Returns:
        A `UserError` if the user's input is at fault (exit code 2), an `NLFTError` if the machine is (exit code 1), or
        None if our own code may be at fault.
    """
    if isinstance(error, NLFTError):
        return error
    if os.environ.get(TRACEBACK) or isinstance(error, BrokenPipeError | AssertionError):
        return None
    for link in _causes(error):
        if told := _of_machine(link):
            return told
    return _of_package(error)


def message_and_code(error: BaseException) -> tuple[str, int] | None:
    """Return what to print of an error, and the exit code. Return None if the error keeps its traceback."""
    told = explain(error)
    if told is None:
        return None
    wrong_input = isinstance(told, UserError)
    text = without_passwords(f"{'error' if wrong_input else 'failed'}: {told}")
    return printable(text), 2 if wrong_input else 1


def out_of_memory(error: BaseException) -> str | None:
    """Return what a package or the machine says if an error is about memory that ran out; else None."""
    if os.environ.get(TRACEBACK):
        return None
    return next((said_by(link) for link in _causes(error) if _is_of_memory(link)), None)


def _is_of_memory(error: BaseException) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return True
    plain = isinstance(error, RuntimeError | OSError) or type(error) is Exception
    return plain and bool(getattr(error, "errno", None) == errno.ENOMEM or _NO_MEMORY.search(said_by(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and the errors that caused it: a package may wrap a full disk into an error of its own."""
    seen = set[int]()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _of_machine(error: BaseException) -> NLFTError | None:
    """Return what the memory, the disk, the file system or the GPU refuses."""
    said = said_by(error)
    names = {cls.__name__ for cls in type(error).__mro__}
    plain = isinstance(error, RuntimeError | OSError) or type(error) is Exception or "SafetensorError" in names
    if _is_of_memory(error):
        return NLFTError(f"out of memory: {said}\n  {MEMORY_CURE}")
    if not plain:
        return None
    if getattr(error, "errno", None) in _FULL or _DISK_FULL.search(said):
        return NLFTError(f"the disk is full: {said}\n  {_DISK_CURE}")
    if getattr(error, "errno", None) == errno.EFBIG or _TOO_LARGE.search(said):
        return NLFTError(f"a file is too large for this place: {said}\n  {_SIZE_CURE}")
    if isinstance(error, OSError) and error.errno is not None and not type(error).__module__.startswith("huggingface"):
        return _of_file(error, said)
    if isinstance(error, OSError):
        return None
    if _READ_ONLY.search(said):
        return UserError(f"a file cannot be written: {said}\n  Write to another place.")
    if _CUT_WEIGHTS.search(said):
        return UserError(
            f"a file of weights cannot be read: {said}\n  Copy or download it again: it is cut or damaged."
        )
    if _OTHER_SHAPE.search(said):
        cure = "Give weights and a config.json, or an adapter and a model, that belong together."
        return UserError(f"weights do not fit the model: {said}\n  {cure}")
    if _NO_GPU.search(said):
        cure = f"Check `nvidia-smi` and `nlft env`; CUDA_VISIBLE_DEVICES= uses the CPU. {TRACEBACK}=1 shows where."
        return NLFTError(f"the GPU cannot be used: {said}\n  {cure}")
    if said.startswith("Symlink loop from"):  # what pathlib raises up to Python 3.12
        return UserError(
            f"{said.replace('Symlink loop from', 'a loop of symbolic links:')}\n  Make it point to a file."
        )
    if isinstance(error, RecursionError):
        where = next((name for name in _packages(error) if name in ("yaml", "json")), None)
        told = f"a {where.upper()} file is nested too deeply" if where else None
        return UserError(f"{told}.\n  Write it with fewer levels.") if told else None
    return None


def _of_file(error: OSError, said: str) -> NLFTError:
    """Return what the operating system refuses. Our own OSErrors lose their traceback too, but not their place."""
    names = [str(name) for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
    shown = " and ".join(printable(display_path(name)) for name in names)
    what = f"{shown}: {error.strerror}." if shown else f"{said}."
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return NLFTError(f"the network failed: {what}\n  Check the connection, and run the command again.")
    if error.errno in _MACHINE:
        return NLFTError(f"{what}\n  Check the disk and the limits of the machine, and run the command again.")
    cures: dict[type[OSError], str] = {
        FileNotFoundError: "Check the path.",
        FileExistsError: "A file is in the way: remove it, or write to another place.",
        NotADirectoryError: "A file is in the way: remove it, or write to another place.",
        IsADirectoryError: "It is a folder: name a file.",
        PermissionError: "Change its permissions, or use another place.",
    }
    cure = next((cure for kind, cure in cures.items() if isinstance(error, kind)), "Use another place.")
    return UserError(f"{what}\n  {cure} {TRACEBACK}=1 shows where it happens.")


def _of_package(error: BaseException) -> UserError | None:
    """Return what another package refuses."""
    packages, said = _packages(error), said_by(error)
    if tracker := next((name for name in reversed(packages) if name in _TRACKERS), None):
        cure = f"Log in to {tracker}, or choose another --report_to. `--report_to none` uses no tracker."
        return UserError(f"the tracker {tracker} failed: {said}\n  {cure}")
    if isinstance(error, ImportError):
        return _missing(error, said)
    if isinstance(error, TypeError | KeyError | ValueError) and _functions(error) & _MAKES_OPTIMIZERS:
        return unmade_optimizer(error)
    if not packages or packages[-1] not in _CHECKS_SETTINGS:
        return None
    if isinstance(error, RuntimeError | ValueError) and _MISSING.search(said):
        return UserError(f"something is not installed: {said}\n  Install it, or leave out the setting that needs it.")
    if "huggingface_hub" in type(error).__module__:
        return UserError(f"the Hugging Face hub refuses: {said}\n  Log in with `hf auth login`, or use a local folder.")
    if isinstance(error, ValueError | NotImplementedError):
        cure = f"Change the setting that it names. {TRACEBACK}=1 shows where it happens."
        return UserError(f"{packages[-1]} refuses: {said}\n  {cure}")
    return None


def unmade_optimizer(error: BaseException) -> UserError:
    """Return what torch or transformers refuses about an optimizer or its schedule."""
    return UserError(
        f"the optimizer or the schedule cannot be made: {said_by(error)}\n"
        "  Correct --optim, --optim_args, --lr_scheduler_type or --lr_scheduler_kwargs."
    )


def _missing(error: ImportError, said: str) -> UserError | None:
    name = (error.name or "").partition(".")[0]
    if name == "nlft":
        return None
    cure = f"Install it, for example with `pip install {name}`" if name else "Install it"
    if "install" in said:
        cure = "Install it as the message says"
    return UserError(f"a package is missing or cannot be loaded: {said}\n  {cure}, or leave out what needs it.")


def said_by(error: BaseException) -> str:
    """Return the error's text on one line, printable, without passwords, without an end mark.

    It has at most 600 characters.
    """
    said = printable(without_passwords(" ".join(str(error).split()))).rstrip(".") or type(error).__name__
    return said if len(said) <= 600 else said[:597] + "..."


def _functions(error: BaseException) -> set[str]:
    """Return the names of the functions in which the error was on its way."""
    return {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}


def _packages(error: BaseException) -> list[str]:
    """Return the packages in whose functions the error was on its way, outermost first, and then its own."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = type(error).__module__
    names = [str(name).partition(".")[0] for name in frames]
    own_package = own.partition(".")[0]
    return [*names, own_package] if own_package in _TRACKERS | _CHECKS_SETTINGS else names
