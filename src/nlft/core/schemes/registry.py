"""Find a saliency scheme by name: a file of this package, a registered one, or another package's entry point.

A scheme's file is imported when the scheme is requested. Importing this module imports no torch.
"""

import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

from nlft.core import schemes
from nlft.core.plugins import broken, load_plug_in, package_of, plug_ins, refuse_clash
from nlft.core.schemes.scheme import Scheme
from nlft.errors import UserError

GROUP = "nlft.schemes"
DEFAULT_SCHEME = "nlft"
_registered: dict[str, Scheme] = {}


def scheme_names() -> list[str]:
    """Return the names of all schemes: built in, registered, and of other packages. Import none of them."""
    return list(dict.fromkeys([*_built_in(), *_registered, *plug_ins(GROUP)]))


def get_scheme(name: str) -> Scheme:
    """Return the scheme of that name. Import only its file.

    Raises:
        UserError: no scheme has this name, several have it, or the package that offers it is broken.
    """
    built_in, offered = _built_in(), plug_ins(GROUP).get(name, [])
    owners = ["nlft"] * (name in built_in) + ["register_scheme"] * (name in _registered)
    refuse_clash("scheme", name, [*owners, *map(package_of, offered)])
    if name in built_in:
        return import_module(f"{schemes.__name__}.{built_in[name]}").SCHEME  # type: ignore[no-any-return]
    if name in _registered:
        return _registered[name]
    if offered:
        return _load(offered[0])
    close = difflib.get_close_matches(name, scheme_names(), n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    raise UserError(f"There is no scheme {name!r}.\n  {hint}Choose one of {', '.join(scheme_names())}.")


def register_scheme(scheme: Scheme) -> None:
    """Register a scheme under its name for the rest of this process.

    Raises:
        UserError: it is not a `Scheme`, or another scheme has its name.
    """
    if not isinstance(scheme, Scheme):
        raise UserError(f"{scheme!r} is not a Scheme.\n  Give an instance of nlft.Scheme.")
    if _registered.get(scheme.name) is scheme:
        return
    _refuse_taken(scheme)
    _registered[scheme.name] = scheme


def scheme_of(saliency: object) -> tuple[Scheme, Any]:
    """Return the scheme and its settings.

    Args:
        saliency: a scheme's name, its settings object, or a `Scheme`. A name or a `Scheme` means default settings.

    Raises:
        UserError: no scheme has this name or these settings, or another scheme has the name of this `Scheme`.
    """
    if isinstance(saliency, str):
        scheme = get_scheme(saliency)
        return scheme, scheme.settings()
    if isinstance(saliency, Scheme):
        if saliency.name in scheme_names() and get_scheme(saliency.name) is not saliency:
            _refuse_taken(saliency)
        return saliency, saliency.settings()
    for scheme in usable_schemes().values():
        if isinstance(saliency, scheme.settings):
            return scheme, saliency
    raise UserError(
        f"{saliency!r} is not a saliency scheme.\n"
        f"  Give one of {', '.join(scheme_names())}, the settings object of one, or a Scheme."
    )


def usable_schemes(own: Scheme | None = None) -> dict[str, Scheme]:
    """Return every scheme that can be imported, by name. Leave out broken and clashing plug-ins.

    Args:
        own: a scheme to add, registered or not.
    """
    usable = {}
    for name in scheme_names():
        try:
            usable[name] = get_scheme(name)
        except UserError:
            continue
    return usable | ({own.name: own} if own else {})


def _built_in() -> dict[str, str]:
    """Return scheme name -> module for each file in this folder that holds a scheme. The default scheme is first."""
    modules = {m.name for m in pkgutil.iter_modules(schemes.__path__)} - {"registry", "scheme"}
    names = {module.replace("_", "-"): module for module in sorted(modules)}
    return {DEFAULT_SCHEME: names.pop(DEFAULT_SCHEME), **names}


def _load(plug_in: EntryPoint) -> Scheme:
    scheme = load_plug_in(plug_in, "scheme")
    if not isinstance(scheme, Scheme) or scheme.name != plug_in.name:
        what = f"a Scheme named {scheme.name!r}" if isinstance(scheme, Scheme) else type(scheme).__name__
        raise broken(plug_in, "scheme", f"is {what}; {plug_in.value} must be a Scheme of that name")
    return scheme


def _refuse_taken(scheme: Scheme) -> None:
    if scheme.name in scheme_names():
        raise UserError(f"There is a scheme {scheme.name!r} already.\n  Give yours another name: Scheme(name=...).")
