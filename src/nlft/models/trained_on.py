"""Whether a base is the one that an adapter was trained on: by the weights that its run recorded, else by name."""

import re
from contextlib import suppress
from pathlib import Path

from nlft.errors import NLFTError, UserError, display_path
from nlft.models.saved_adapters import CONFIG, adapter_files
from nlft.models.weights_check import weights_fingerprint
from nlft.progress import note
from nlft.runs.base import Base, adapters_base, home_of, recorded_base
from nlft.runs.reading import SPOILT
from nlft.runs.run_dir import RunDir


def other_base(adapter: str, name: str, commit: str | None = None) -> str | None:
    """Say how a base model is another one than an adapter was trained on. None if it is the same, or nothing is known.

    Args:
        adapter: a folder, a run directory or a hub name; or the folder of a run that trained all weights.
        name: the base's folder or hub name.
        commit: the hub's commit, if the base came from the hub.
    """
    trained = _trained_on(adapter)
    if trained is None or not name:
        return None
    was, now = trained.weights, _weights_now(name, commit, trained)
    if was and now and len(was) == len(now):  # else one is a commit, and the other one is of files
        if was == now:
            return None
        then = ", whose weights were others then" if same_model(trained.name, name) else ""
        return f"was trained on {display_path(trained.name)}{then}"
    return None if same_model(trained.name, name) else f"was trained on {display_path(trained.name)}"


def note_other_base(adapter: str, name: str, commit: str | None = None) -> bool:
    """Warn if the base is another one than the adapter was trained on. See `other_base` for the arguments.

    Returns:
        Whether it is another one.
    """
    other = other_base(adapter, name, commit)
    if other:
        note(
            f"warning: --adapter {adapter} {other}, but --model_name_or_path is {name}. On another model than its own, "
            "an adapter does not do what it was trained for."
        )
    return bool(other)


def refuse_changed_base(run: str, base: str) -> None:
    """Refuse a base that is where the run says, but has other weights than the run began with.

    Raises:
        UserError: says how to use it anyway.
    """
    if other := other_base(run, base):
        raise UserError(
            f"{display_path(run)}: {other}.\n"
            "  Put the run's base model back there, or give its new place as --model_name_or_path.\n"
            f"  To use the model that is there now all the same, name it: --model_name_or_path {display_path(base)}"
        )


def _weights_now(name: str, commit: str | None, trained: Base) -> str | None:
    """Return what identifies a base's weights now: the commit of a folder in the hub's cache, if a commit is known."""
    cached = re.search(r"models--[^/\\]+[/\\]snapshots[/\\]([0-9a-f]{40})", name)
    if cached and len(trained.weights or "") == len(cached[1]):
        return cached[1]
    return weights_fingerprint(name, commit)


def _trained_on(adapter: str) -> Base | None:
    """Return the base that an adapter's run recorded, or the one that the adapter names."""
    home = home_of(Path(adapter))
    if home is not None:
        with suppress(NLFTError, OSError, *SPOILT):  # whoever reads the run's file says what is wrong with it
            if found := recorded_base(RunDir(home).settings()):
                return found
    with suppress(OSError, ValueError):
        return adapters_base(adapter_files(adapter, weights=False) / CONFIG)
    return None


def same_model(one: str, other: str) -> bool:
    """Whether two names can stand for the same base model.

    A folder is the same under a relative and an absolute path, copied (by its weights), and in the hub's cache. A hub
    name can stand for a folder of that name.
    """
    one, other = _hub_name(one), _hub_name(other)
    here, there = Path(one), Path(other)
    if one == other or here.resolve() == there.resolve():
        return True
    if here.is_dir() and there.is_dir():
        found = weights_fingerprint(one, None)
        return found is not None and found == weights_fingerprint(other, None)
    if here.is_absolute() and there.is_absolute():
        return False
    # A relative path from another working folder, or a hub name with the folder that it was downloaded to.
    shorter, longer = sorted((here.parts, there.parts), key=len)
    is_hub_name = len(shorter) == 2
    return longer[-len(shorter) :] == shorter or (is_hub_name and longer[-1] == shorter[-1])


def _hub_name(name: str) -> str:
    """Return the hub name of a folder in the hub's cache; other names as they are."""
    cached = re.search(r"models--([^/\\]+)[/\\]snapshots[/\\]", name)
    return cached[1].replace("--", "/") if cached else name
