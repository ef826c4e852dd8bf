"""Read the page's own files: style and scripts. The server sends them. An exported file contains them.

The scripts are ES modules. The server sends them unchanged. For an exported file they are joined in the order of their
imports, without the words `import` and `export`, because a single script needs neither. So two scripts must not
declare the same name at the top level. A test checks this.
"""

import json
import re
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from nlft.files import render_page, shared_style

STYLES = ("map.css", "panels.css")
LIVE_STYLES = ("replies.css",)  # of what an exported file does not have
_IMPORT = re.compile(r'^import\s[^;]*?from "\./([\w-]+\.js)";\n', re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|let|class)", re.MULTILINE)


def static_files() -> dict[str, bytes]:
    """Read every file of the page, by name. The server serves no other files."""
    folder = files("nlft.page") / "static"
    own = {f.name: f.read_bytes() for f in folder.iterdir() if f.name.endswith((".js", ".css"))}
    return {**own, "base.css": shared_style().encode()}


def live_page() -> str:
    """Return the page that the server sends. Its content policy requires style and scripts to be separate files."""
    return render_page(
        "nlft.page", "map.html", title="Saliency map", style="", style_files=("base.css", *STYLES, *LIVE_STYLES)
    )


def list_page() -> str:
    """Return the page that lists a folder's runs."""
    return render_page("nlft.page", "runs.html", title="Runs", style="", style_files=("base.css", *STYLES))


def file_page(title: str, data: dict[str, Any]) -> str:
    """Return the page as one file. Its content policy names the hashes of its style and its script.

    Args:
        data: data for `start-file.js`: the runs with their steps.
    """
    script = bundled("start-file.js").replace("</script", "<\\/script").replace("<!--", "<\\!--")
    carried = {"data": Markup(json_block(data)), "script": Markup(script)}
    style = "".join(text_of(name) for name in STYLES)
    return render_page("nlft.page", "map.html", style, title=title, **carried)


def bundled(entry: str) -> str:
    """Join a module and its imports into one script. Each module follows the modules that it imports."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for needed in _IMPORT.findall(text_of(name)):
                visit(needed)
            order.append(name)

    visit(entry)
    bodies = [_EXPORT.sub("", _IMPORT.sub("", text_of(name))) for name in order]
    return '"use strict";\n' + "".join(bodies)


def json_block(data: dict[str, Any]) -> str:
    """Write JSON that cannot end its script block: ASCII, without `<`, `>` or `&`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def text_of(name: str) -> str:
    """Read a file of the page as text."""
    return (files("nlft.page") / "static" / name).read_text(encoding="utf-8")
