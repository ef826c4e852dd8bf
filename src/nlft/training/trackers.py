"""Trackers of transformers, such as wandb: one that is missing or fails is one warning, and the run goes on."""

import os
import warnings
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import integration_utils
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from nlft.library_errors import said_by

_EXTRAS = {"trackio", "wandb", "tensorboard"}  # extras of this package
_PACKAGES = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "dagshub": "dagshub mlflow", "flyte": "flytekit"}
_SWITCHES = {  # what decides in the environment whether transformers uses a tracker
    "kubeflow": "start the run as a Kubeflow TrainJob, which sets KUBEFLOW_TRAINER_SERVER_URL",
    "mlflow": "remove the environment variable DISABLE_MLFLOW_INTEGRATION",
}
_EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def cure_of(name: str) -> str:
    """Return what makes a tracker work: a command that installs it, or what it needs in the environment."""
    if name == "kubeflow" or (name == "mlflow" and os.environ.get("DISABLE_MLFLOW_INTEGRATION")):
        return _SWITCHES[name]
    return f"pip install 'nlft[{name}]'" if name in _EXTRAS else f"pip install {_PACKAGES.get(name, name)}"


def without_missing_trackers(args: TrainingArguments) -> None:
    """Take out of `report_to` what cannot be used here, and warn once for each."""
    for name in [name for name in args.report_to or [] if name in INTEGRATION_TO_CALLBACK]:
        try:
            if name == "trackio":
                import_module(name)
            is_there = getattr(integration_utils, f"is_{name}_available", None)
            if is_there is not None and not is_there():  # a callback that fails halfway may complain again at its end
                raise ImportError("a package or a setting of it is missing")
            INTEGRATION_TO_CALLBACK[name]()  # says what is missing
        except Exception as error:  # it may import several packages, and an old one among them may raise anything
            args.report_to = [other for other in args.report_to if other != name]
            if os.environ.get("RANK", "0") == "0":
                warnings.warn(
                    f"--report_to {name}: it cannot be used ({type(error).__name__}: {said_by(error)}), so this run "
                    f"does not log to it. The run's own files are complete. To log to it: {cure_of(name)}",
                    stacklevel=4,
                )


def guard_trackers(trainer: Trainer) -> None:
    """Let no tracker's error end the run: each warns once, and is then left alone."""
    kinds = {kind: name for name, kind in INTEGRATION_TO_CALLBACK.items()}
    for callback in trainer.callback_handler.callbacks:
        if type(callback) in kinds:
            _guard(callback, kinds[type(callback)])


def _guard(callback: TrainerCallback, name: str) -> None:
    failed: list[bool] = []

    def guarded(event: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(event)
        def safe(*args: Any, **more: Any) -> Any:
            if failed:
                return None
            try:
                return event(*args, **more)
            except Exception as error:  # a refused login, a lost network, a full disk: whatever it raises
                failed.append(True)
                warn_failed(name, error)
                return None

        return safe

    for event in _EVENTS:
        setattr(callback, event, guarded(getattr(callback, event)))


def warn_failed(name: str, error: Exception) -> None:
    """Say that a tracker has failed. Its error may repeat an address with a password, which is left out."""
    cure = "" if name == "kubeflow" else f" Try its newest version: {cure_of(name)} --upgrade"
    warnings.warn(
        f"{name} failed ({type(error).__name__}: {said_by(error)}), so this run no longer logs to it. Training "
        f"continues, and the run's own files are complete.{cure}",
        stacklevel=2,
    )
