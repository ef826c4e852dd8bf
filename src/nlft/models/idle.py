"""Refuse settings of a model or a server that would have no effect. Imports no torch."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from nlft.config import is_set, shown_of
from nlft.errors import ConfigError, Problem
from nlft.models.settings import SERVER_LIMITS

_OF_4_BITS = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")


def refuse_idle_model(model: Any) -> None:
    """Refuse settings of 4 bits without 4 bits, and a revision of a folder.

    Args:
        model: the settings of a model, as a command reads them.

    Raises:
        ConfigError: every such setting.
    """
    problems = []
    if not getattr(model, "load_in_4bit", True):
        problems += _set(model, _OF_4_BITS, "--load_in_4bit is false", "Add --load_in_4bit true, or leave it out.")
    name = getattr(model, "model_name_or_path", None)
    if name and Path(name).is_dir():
        problems += _set(model, ("model_revision",), f"{name} is a folder, which has no revisions", "Leave it out.")
    if problems:
        raise ConfigError(problems)


def refuse_idle_server(backend: Any, *, judge_on_server: bool = False) -> None:
    """Refuse settings of a server where a local model answers.

    Args:
        backend: a `BackendSettings`.
        judge_on_server: whether a judge of the checks is on a server, which has the same limits.

    Raises:
        ConfigError: every such setting.
    """
    if backend.backend == "openai":
        return
    names = ("api_key_env", *(() if judge_on_server else SERVER_LIMITS))
    cure = "Add --base_url ADDRESS or --backend openai, or leave it out."
    if problems := _set(backend, names, "a local model answers, and only a server reads it", cure):
        raise ConfigError(problems)


def _set(settings: Any, names: tuple[str, ...], why: str, cure: str) -> list[Problem]:
    """Report the settings of these names that differ from their defaults."""
    return [
        Problem(f"--{one.name}", f"is {shown_of(settings, one.name)}, but {why}", cure)
        for one in fields(settings)
        if one.name in names and is_set(settings, one)
    ]
