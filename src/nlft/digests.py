"""The SHA-256 of files, kept beside them: one flipped bit is found by name."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nlft.files import write_whole

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_of(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """Return the size and the SHA-256 of each file, by its name in the folder."""
    kept = sorted(files)
    return {
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in kept},
        "sha256": {str(path.relative_to(folder)): sha256_of(path) for path in kept},
    }


def damage(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Return which file of a folder is not as its manifest says, in words. None if all are.

    Raises:
        TypeError, ValueError, KeyError, AttributeError: the manifest is not as nlft wrote it.
    """
    sizes, sums = dict(manifest["files"]), dict(manifest.get("sha256", {}))
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            return f"is not whole: {name} is missing or cut off"
        if name in sums and sha256_of(file) != sums[name]:
            return f"is damaged: {name} is not as it was written"
    return None


def write_manifest(folder: Path, *leave_out: str, **more: Any) -> None:
    """Write the manifest of a folder.

    Args:
        leave_out: names of files that may change later.
        more: further fields of the manifest.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, *leave_out)]
    content = {"format_version": FORMAT_VERSION, **more, **manifest_of(folder, files)}
    write_whole(folder / MANIFEST, json.dumps(content).encode())


def saved_number(folder: Path) -> int | None:
    """Return which save of its run a folder is, by its manifest: 1 for the first one. The clock may be set back.

    Return 0 if an older version wrote the manifest, and None if there is none, or none that can be read.
    """
    try:
        return int(json.loads((folder / MANIFEST).read_bytes()).get("saved", 0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def check_manifest(folder: Path) -> str | None:
    """Return what is wrong with a folder that may have a manifest. None if nothing is, or if it has none."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return damage(folder, json.loads(path.read_bytes()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return f"has a {MANIFEST} that cannot be read ({error})"
