"""Write the text of a command's `--help`: short, grouped, as wide as the terminal. Imports no torch."""

import types
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from shutil import get_terminal_size
from textwrap import wrap
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

Section = tuple[str, "type | Sequence[str]"]

_LEFT = 30  # columns for a flag and its value
_WIDEST = 110


class HelpRow:
    """One argument, with its spelling and its description."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def lines(self, width: int) -> list[str]:
        """Return the argument as lines. If the name is long, the description starts on the next line."""
        indent = " " * _LEFT
        head = f"  {self.name}"
        if len(head) + 2 > _LEFT and len(head) + 2 + len(self.text) <= width:
            return [f"{head}  {self.text}"]
        body = wrap(self.text, width - _LEFT) or [""]
        if len(head) + 2 > _LEFT:
            return [head, *(indent + line for line in body)]
        return [f"{head:{_LEFT}}{body[0]}", *(indent + line for line in body[1:])]


def command_help(
    prog: str,
    description: str,
    parser: ArgumentParser,
    sections: Sequence[Section],
    settings: Sequence[type],
    *,
    everything: bool,
) -> str:
    """Return the text that `nlft COMMAND --help` prints.

    Args:
        parser: has the arguments that are not settings.
        settings: dataclasses. With `everything`, list all their fields, else only the fields that the sections name.
    """
    width = min(get_terminal_size().columns, _WIDEST)
    rows = {name: row for cls in settings for name, row in _rows(cls)}
    actions = [action for action in parser._actions if action.help != SUPPRESS]
    words = " ".join(_usage(action) for action in actions if not action.option_strings)
    usage = " ".join(filter(None, [f"usage: {prog}", words, "[--config FILE] [--NAME VALUE ...]"]))
    lines = [usage, "", *wrap(description, width)]
    own = [HelpRow(_typed(action), action.help or "") for action in actions]
    own += [HelpRow("--config FILE", "YAML file of settings. Flags override it.")] if settings else []
    own += [HelpRow("--quiet", "Print results and errors only.")]
    listed = [("Arguments", own)]
    for title, names in sections:
        wanted = own_first(names) if isinstance(names, type) else names
        listed.append((title, [rows.pop(name) for name in wanted if name in rows]))
    if everything:
        listed.append(("More settings", list(rows.values())))
    for title, group in listed:
        if group:
            lines += ["", f"{title}:", *(line for row in group for line in row.lines(width))]
    if settings and not everything:
        lines += ["", f"`{prog} --help-all` lists all settings."]
    return "\n".join(lines)


def own_first(cls: type) -> list[str]:
    """Return the names of a dataclass's fields, its own fields before the fields of its bases.

    Leave out the rare ones: only `--help-all` lists them.
    """
    at = {
        name: n for n, base in reversed(list(enumerate(cls.__mro__))) for name in vars(base).get("__annotations__", {})
    }
    return sorted((f.name for f in fields(cls) if f.name not in rare_names(cls)), key=lambda name: at[name])


def rare_names(cls: type) -> set[str]:
    """Return the names in `rare` of a dataclass and of its bases."""
    return {name for base in cls.__mro__ for name in vars(base).get("rare", ())}


def _rows(cls: type) -> Iterator[tuple[str, HelpRow]]:
    hints = get_type_hints(cls)
    for field in fields(cls):
        if field.init:
            yield field.name, HelpRow(f"--{field.name} {_value(hints[field.name], field)}".rstrip(), _described(field))


def _described(field: Field[Any]) -> str:
    """Return the setting's description and its default."""
    text = " ".join(str(field.metadata.get("help", "")).split())
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    if default is False or default in (None, MISSING, [], {}) or "(default: " in text:
        return text
    shown = " ".join(map(str, default)) if isinstance(default, list) else str(getattr(default, "value", default))
    shown = shown.lower() if isinstance(default, bool) else shown
    return text if len(shown) > 60 or "\n" in shown else f"{text} [{shown}]"


def _value(hint: object, field: Field[Any]) -> str:
    """Return the placeholder for the value after the flag."""
    choices = field.metadata.get("choices")
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        hint = options[0] if len(options) == 1 or bool not in options else bool
    if get_origin(hint) is Literal:
        choices = get_args(hint)
    if choices:
        return "|".join(map(str, choices))
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if get_origin(hint) is list:
        return f"{_word(get_args(hint)[0])} ..."
    if hint is bool:
        return "" if field.default is False else "true|false"
    return _word(hint)


def _word(kind: object) -> str:
    words: dict[object, str] = {int: "N", float: "X", str: "TEXT"}
    return words.get(kind, "TEXT")


def _usage(action: Action) -> str:
    name = str(action.metavar or action.dest).upper()
    return {"?": f"[{name}]", "+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _typed(action: Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest).upper()
    value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
    if action.choices:
        value = " " + "|".join(map(str, action.choices))
    return action.option_strings[0] + value
