"""Files of recorded results: what was found before, and what is found now."""

import json
from pathlib import Path
from typing import Any


def write(made: dict[str, Any], path: Path) -> None:
    """Write a line per entry, so that a change can be read."""
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in made.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def changed(made: dict[str, Any], path: Path) -> list[str]:
    """Return a line per entry that is not as recorded."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return [
        f"{name!r} was {kept.get(name)}, is {made.get(name)}"
        for name in {**kept, **made}
        if kept.get(name) != made.get(name)
    ]
