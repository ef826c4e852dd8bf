"""The page's own files: template, style and scripts, as the server hands them out and as one file carries them.

The scripts are ES modules. The server sends them as they are; for the exported file they are put one after the other
in the order of their imports, without the words `import` and `export`, as one script needs neither. For that, no two
of them may declare the same name at the top level; a test checks it.
"""

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

STYLES = ("map.css", "panels.css")
_IMPORT = re.compile(r'^import\s[^;]*?from "\./([\w-]+\.js)";\n', re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|let|class)", re.MULTILINE)


def static_files() -> dict[str, bytes]:
    """Every file of the page by name; nothing else is ever served."""
    folder = files("nlft.page") / "static"
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.name.endswith((".js", ".css"))}


def plotly_path() -> Path:
    """plotly.js as the installed package holds it; the package itself is not imported."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"


def live_page() -> str:
    """The page that the server sends: its style and scripts are files of their own, as its policy demands."""
    links = '<link rel="icon" href="data:,">' + "".join(
        f'<link rel="stylesheet" href="static/{name}">' for name in STYLES
    )
    parts = {
        "title": "Saliency map",
        "head": links,
        "end": '<script type="module" src="static/start-live.js"></script>',
    }
    return _fill(parts)


def file_page(title: str, data: dict[str, Any], *, curves: bool = False) -> str:
    """The page as one file. Its policy names its style and each of its scripts by their hashes.

    Args:
        data: what `start-file.js` reads: the runs with their steps.
        curves: carry plotly.js as well, which is 4.8 MB.
    """
    style = "".join(text_of(name) for name in STYLES)
    scripts = [bundled("start-file.js")]
    if curves:
        scripts.insert(0, plotly_path().read_text(encoding="utf-8"))
    assert "</style" not in style, "it would end the page's style block"
    blocks = [script.replace("</script", "<\\/script").replace("<!--", "<\\!--") for script in scripts]
    hashes = " ".join(f"'{_hash(block)}'" for block in blocks)
    empty = f" '{_hash('')}'" if curves else ""
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src '{_hash(style)}'{empty}; "
        "base-uri 'none'; form-action 'none'"
    )
    carried = f'<script type="application/json" id="data">{json_block(data)}</script>\n'
    parts = {
        "title": html.escape(title),
        "head": f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style}</style>',
        "end": carried + "\n".join(f"<script>{block}</script>" for block in blocks),
    }
    return _fill(parts)


def bundled(entry: str) -> str:
    """One script out of a module and all that it imports, each after what it imports itself."""
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
    """JSON that nothing in it can break out of a script block with: ASCII, without `<`, `>` or `&`."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def text_of(name: str) -> str:
    """A file of the page as text."""
    return (files("nlft.page") / "static" / name).read_text(encoding="utf-8")


def _fill(parts: dict[str, str]) -> str:
    # One pass: what a model wrote may itself read "{{end}}".
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], text_of("map.html"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
