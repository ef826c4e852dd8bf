"""Write docs/API.md from the code itself: `python tests/helpers/docs_api.py --write`."""

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import nlft
from nlft.config import range_of

PAGE = Path(__file__).parents[2] / "docs" / "API.md"
HEAD = """# The Python API

Import every name on this page from `nlft`: `from nlft import NLFTTrainer`. `import nlft` by itself is quick and brings
no torch: each name is imported from its module when it is first used. All other modules may change between versions.

This page is generated from the code by `python tests/helpers/docs_api.py --write`.
"""


def page() -> str:
    """The whole page."""
    text = "\n".join([HEAD, *(_entry(name) for name in nlft.__all__)])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _entry(name: str) -> str:
    public = getattr(nlft, name)
    parts = [f"## `{name}`\n", f"From `{public.__module__}`.\n"]
    if _takes_settings(public):
        parts += [_prose(public), _settings_table(public)]
    else:
        parts += [f"```python\n{_signature(name, public)}\n```\n", _prose(public)]
        init = vars(public).get("__init__") if inspect.isclass(public) else None
        if init is not None and init.__doc__ and not is_dataclass(public):
            parts.append(_text(inspect.cleandoc(init.__doc__)))
        parts += [_method(public, method) for method in _methods(public)]
    return "\n".join(part for part in parts if part)


def _takes_settings(public: Any) -> bool:
    """Whether it is a dataclass of settings: each field with a help text."""
    return is_dataclass(public) and any("help" in f.metadata for f in fields(public))


def _prose(public: Any) -> str:
    return _text(inspect.getdoc(public) or "") if "__doc__" in vars(public) or inspect.isfunction(public) else ""


def _text(docstring: str) -> str:
    """A docstring as Markdown: its sections keep their layout in a text block."""
    head, *sections = docstring.split("\n\n")
    prose, block = [head], []
    for section in sections:
        is_section = section.split("\n")[0].rstrip(":") in ("Args", "Returns", "Raises", "Yields", "Attributes")
        (block if is_section or block else prose).append(section)
    if head.split("\n")[0] in ("Args:", "Raises:"):
        prose, block = [], [head, *block]
    body = "\n\n".join(prose) + "\n" if prose else ""
    return body + ("\n" * bool(body) + "```text\n" + "\n\n".join(block) + "\n```\n" if block else "")


def _own_constructor(public: type) -> bool:
    return any("__init__" in vars(cls) for cls in public.__mro__ if cls.__module__.startswith("nlft."))


def _signature(name: str, public: Any) -> str:
    if inspect.isclass(public) and issubclass(public, Exception) and not _own_constructor(public):
        return f"{name}(message: str)"  # an exception without a constructor of its own
    signature = inspect.signature(public)
    items = [_parameter(p) for p in signature.parameters.values() if p.name != "self"]
    keyword = next((i for i, p in enumerate(signature.parameters.values()) if p.kind is p.KEYWORD_ONLY), None)
    if keyword is not None:
        items.insert(keyword, "*")
    returns = "" if inspect.isclass(public) or signature.return_annotation is signature.empty else _returns(signature)
    one_line = f"{name}({', '.join(items)}){returns}"
    return one_line if len(one_line) <= 100 else f"{name}(\n    " + ",\n    ".join(items) + f",\n){returns}"


def _returns(signature: inspect.Signature) -> str:
    return f" -> {_type(signature.return_annotation)}"


def _parameter(parameter: inspect.Parameter) -> str:
    has_type = parameter.annotation is not parameter.empty
    text = parameter.name + (f": {_type(parameter.annotation)}" if has_type else "")
    if parameter.default is parameter.empty:
        return text
    shown = repr(parameter.default)
    default = "..." if shown.startswith("<") or len(shown) > 60 else shown
    return f"{text} = {default}" if has_type else f"{text}={default}"


def _type(hint: Any) -> str:
    text = hint if isinstance(hint, str) else inspect.formatannotation(hint)
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)  # the class's name alone, without its modules


def _methods(public: Any) -> list[str]:
    if not inspect.isclass(public):
        return []
    own = [
        name
        for name, member in vars(public).items()
        if not name.startswith("_") and isinstance(member, classmethod | property) | inspect.isfunction(member)
    ]
    inherited = {name for cls in public.__mro__[1:] for name in vars(cls)}
    return [name for name in own if name not in inherited and vars(public)[name].__doc__]


def _method(public: Any, name: str) -> str:
    member = vars(public)[name]
    if isinstance(member, property):
        return f"### `{public.__name__}.{name}`\n\n{_text(inspect.getdoc(member) or '')}"
    shown = _signature(name, getattr(public, name))
    return f"### `{public.__name__}.{name}`\n\n```python\n{shown}\n```\n\n{_text(inspect.getdoc(member) or '')}"


def _settings_table(public: Any) -> str:
    """The settings that this project declares; a class of TrainingArguments has many more of its base's."""
    hints = get_type_hints(public, include_extras=True)
    ours = [f for f in fields(public) if "help" in f.metadata and _is_ours(public, f.name)]
    rows = [f"| `{f.name}` | {_default(f)} | {_values(hints[f.name])} | {f.metadata['help']} |" for f in ours]
    more = len(fields(public)) - len(ours)
    note = f"It also takes the {more} settings of `transformers.TrainingArguments`.\n\n" if more > 20 else ""
    return note + "| setting | default | values | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _is_ours(public: Any, name: str) -> bool:
    declared = next(cls for cls in public.__mro__ if name in vars(cls).get("__annotations__", {}))
    return declared.__module__.startswith("nlft.")


def _default(field: Any) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value is None:
        return "none"
    return f"`{value!r}`" if isinstance(value, str) else f"`{value}`"


def _values(hint: Any) -> str:
    limit = range_of(hint)
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = {bool: "True, False", str: "text", int: "whole number", float: "number"}.get(hint)
    if limit is not None:
        return str(limit)
    options = [a for a in get_args(hint) if a is not type(None)]
    if options and all(isinstance(a, str | int) for a in options):
        return ", ".join(map(str, options))
    return kind or _type(hint).replace("|", "or")


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page(), encoding="utf-8")
