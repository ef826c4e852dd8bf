"""Say in a sentence what another package refuses: something is not installed, nobody is logged in, a setting is wrong.

Errors of our own keep their traceback. With the environment variable NLFT_TRACEBACK, all errors do.
"""

import os
import re
import traceback

from nlft.errors import UserError

TRACEBACK = "NLFT_TRACEBACK"
_TRACKERS = {
    *("wandb", "trackio", "comet_ml", "mlflow", "clearml", "neptune", "dvclive", "swanlab", "azureml", "codecarbon"),
    *("flytekit", "tensorboard", "tensorboardX"),
}
_CHECKS_SETTINGS = {"transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets", "huggingface_hub"}
_MISSING = re.compile(
    r"pip3? install|conda install|not installed|to be installed|is required|requires? .* package", re.I
)


def explain(error: Exception) -> UserError | None:
    """Return an error of another package as the user's error. Return None if our own code may be at fault."""
    if os.environ.get(TRACEBACK):
        return None
    packages = _packages(error)
    said = " ".join(str(error).split()) or type(error).__name__
    said = said if len(said) <= 600 else said[:597] + "..."
    if tracker := next((name for name in reversed(packages) if name in _TRACKERS), None):
        cure = f"Log in to {tracker}, or choose another --report_to. `--report_to none` uses no tracker."
        return UserError(f"the tracker {tracker} failed: {said}\n  {cure}")
    if isinstance(error, ImportError):
        return _missing(error, said)
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


def _missing(error: ImportError, said: str) -> UserError | None:
    name = (error.name or "").partition(".")[0]
    if name == "nlft":
        return None
    cure = f"Install it, for example with `pip install {name}`" if name else "Install it"
    if "install" in said:
        cure = "Install it as the message says"
    return UserError(f"a package is missing or cannot be loaded: {said}\n  {cure}, or leave out what needs it.")


def _packages(error: BaseException) -> list[str]:
    """Return the packages in whose functions the error was on its way, outermost first, and then its own."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = type(error).__module__
    names = [str(name).partition(".")[0] for name in frames]
    own_package = own.partition(".")[0]
    return [*names, own_package] if own_package in _TRACKERS | _CHECKS_SETTINGS else names
