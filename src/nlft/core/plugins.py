"""Find what other packages add through entry points, by name. Import it only when it is used."""

from importlib.metadata import EntryPoint, entry_points

from nlft.errors import UserError


def plug_ins(group: str) -> dict[str, list[EntryPoint]]:
    """Return the entry points of a group by name, without importing them."""
    offered: dict[str, list[EntryPoint]] = {}
    for entry_point in entry_points(group=group):
        offered.setdefault(entry_point.name, []).append(entry_point)
    return offered


def package_of(plug_in: EntryPoint) -> str:
    """Return the name of the package that offers an entry point."""
    return plug_in.dist.name if plug_in.dist else plug_in.value


def load_plug_in(plug_in: EntryPoint, kind: str) -> object:
    """Import the object that an entry point names.

    Args:
        kind: word for the object in a message: `scheme`, `grader`.

    Raises:
        UserError: the import fails, for whatever reason.
    """
    try:
        return plug_in.load()
    except Exception as error:  # another package's module may raise anything
        raise broken(plug_in, kind, f"cannot be imported: {type(error).__name__}: {error}") from error


def broken(plug_in: EntryPoint, kind: str, why: str) -> UserError:
    """Make the error for a plug-in that cannot be used."""
    package = package_of(plug_in)
    return UserError(
        f"The {kind} {plug_in.name!r} of the package {package} {why}.\n"
        f"  Fix or uninstall {package}, or choose another {kind}."
    )


def refuse_clash(kind: str, name: str, owners: list[str]) -> None:
    """Refuse a name that several places give to different things.

    Args:
        owners: the places, packages last.

    Raises:
        UserError: there is more than one place.
    """
    if len(owners) > 1:
        raise UserError(
            f"Several {kind}s have the name {name!r}. They come from {', '.join(owners)}.\n"
            f"  Uninstall {owners[-1]}, or rename its {kind}."
        )
