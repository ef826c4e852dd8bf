"""Writes the settings tables of docs/SALIENCY.md from the settings' own fields, with `--write`."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nlft.config import range_of
from nlft.core.schemes.registry import usable_schemes

PAGE = Path(__file__).parents[2] / "docs" / "SALIENCY.md"
BEGIN, END = "<!-- generated: settings -->\n", "<!-- end -->"


def settings_tables() -> str:
    """One table a scheme that has settings."""
    parts = []
    for scheme in usable_schemes().values():
        hints = get_type_hints(scheme.settings, include_extras=True)
        rows = [
            f"| `{f.name}` | {f.default} | {_values(hints[f.name])} | {f.metadata['help']} |"
            for f in fields(scheme.settings)
        ]
        if rows:
            head = ["| setting | default | range | |", "|---|---|---|---|"]
            parts.append("\n".join([f"`{scheme.name}`", "", *head, *rows, ""]))
    return "\n".join(parts)


def _values(hint: Any) -> str:
    """What a setting may be: its range, yes or no, or its choices."""
    if hint is bool:
        return "True, False"
    return str(range_of(hint) or ", ".join(map(str, get_args(hint))))


def page_with_tables() -> str:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + settings_tables() + END + rest.partition(END)[2]


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page_with_tables(), encoding="utf-8")
