"""Run `nlft env`: versions, devices, and what works here. It prints no environment variable."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nlft.commands.json_output import json_flag, printing_json
from nlft.commands.next_steps import note_next
from nlft.commands.parsing import plain_parser
from nlft.models.machine import about_python, devices, features, package_versions

GIB = 2**30


def env(argv: Sequence[str]) -> None:
    """Run `nlft env`."""
    what = "Versions, devices, and what works here or why it does not, for a bug report. It prints nothing secret."
    parser = plain_parser("nlft env", what)
    json_flag(parser)
    asked = parser.parse_args(argv)
    with printing_json(asked.json) as document:
        found = environment()
        document.update(found)
        print("\n".join(environment_lines(found)))
        note_next("nlft", "demo")


def environment() -> dict[str, Any]:
    """Return the result of `nlft env`, as JSON."""
    versions, found = package_versions(), devices()
    return {
        "format_version": 1,
        **about_python(),
        "versions": versions,
        "devices": found,
        "features": [asdict(one) for one in features(versions, found)],
    }


def environment_lines(found: dict[str, Any]) -> list[str]:
    """Show the result of `nlft env` as text."""
    versions, device = found["versions"], found["devices"]
    there = [f"{name} {version}" for name, version in versions.items() if version]
    missing = [name for name, version in versions.items() if not version]
    memory = f", {device['memory'] / GIB:.1f} GiB of memory" if device["memory"] else ""
    cards = [
        f"CUDA card: {card['name']}, {card['memory'] / GIB:.1f} GiB, compute capability {card['compute_capability']}"
        for card in device["cuda"]
    ]
    built = f"torch is built for CUDA {device['cuda_of_torch']}" if device["cuda_of_torch"] else "torch has no CUDA"
    width = max(len(one["name"]) for one in found["features"])
    return [
        f"Python {found['python']}, {found['platform']}",
        *there,
        f"not installed: {', '.join(missing) or 'none'}",
        f"CPU: {device['threads']} threads{memory}",
        *(cards or [f"CUDA cards: none ({built})"]),
        f"MPS: {'yes' if device['mps'] else 'no'}",
        *(f"{one['name']:{width}}  {'yes' if one['works'] else 'no '}  {one['why']}" for one in found["features"]),
    ]
