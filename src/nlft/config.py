"""Settings: a YAML file and flags that override it, to the dataclasses they are handed.

Flags are made by transformers' parser from the dataclasses' own fields. What it leaves unchecked (YAML values'
types, equal keys, ranges) is checked here, and every problem is reported at once.
"""

import difflib
import types
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from enum import Enum
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from nlft.errors import ConfigError, Problem, UserError, display_path

QUESTIONS = "questions with standard answers: .jsonl, .json, .parquet, or a dataset as owner/name:config:split"

_Class = TypeVar("_Class")


@dataclass(frozen=True)
class Range:
    """The values that a number may take, both ends included. Stands in `Annotated`; the page's sliders and the
    refusals of the trainer come from it as well."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high  # false for NaN

    def __str__(self) -> str:
        if self.high == inf:
            return f"{self.low:g} or more"
        return f"{self.low:g} to {self.high:g}"


def override(base: type, name: str, default: object = MISSING, also: str = "") -> Any:
    """A field for a setting that `base` declares, with another default, or with another type in the annotation.

    Args:
        default: the new default; without it the base's default stays.
        also: more text for the setting's description.
    """
    declared = next(f for f in fields(base) if f.name == name)
    metadata = {**declared.metadata, "help": declared.metadata["help"] + also}
    chosen: Any = default if default is not MISSING else declared.default
    if isinstance(chosen, list):
        return field(default_factory=lambda: list(chosen), metadata=metadata)
    return field(default=chosen, metadata=metadata)


def with_defaults(**defaults: object) -> Callable[[type[_Class]], type[_Class]]:
    """Give settings that base classes declare other defaults. Stands under `@dataclass`; type and range stay."""

    def change(cls: type[_Class]) -> type[_Class]:
        hints = get_type_hints(cls, include_extras=True)
        bases = [base for base in cls.__mro__[1:] if is_dataclass(base)]
        for name, default in defaults.items():
            base = next(base for base in bases if name in {f.name for f in fields(base)})
            setattr(cls, name, override(base, name, default))
        cls.__annotations__ = {**cls.__annotations__, **{name: hints[name] for name in defaults}}
        return cls

    return change


def parse(
    prog: str,
    description: str,
    settings: Sequence[type[Any]],
    argv: Sequence[str],
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None,
) -> tuple[Any, ...]:
    """Read `--config FILE` and flags into one instance of each dataclass, and a namespace of the other arguments.

    Args:
        settings: dataclasses; their field names must not overlap.
        add_arguments: adds what is no setting, such as the input file.

    Raises:
        ConfigError: unknown keys or flags, wrong types, values out of range: all of them.
    """
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:
            # argparse would print two screens of flags before the one line that matters.
            raise UserError(f"{prog}: {message}\n  `{prog} --help` lists all arguments.")

    parser = Parser(list(settings), prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings; flags override it.")
    add_arguments(parser)
    before = ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", type=Path)
    config = before.parse_known_args(argv)[0].config
    if config is not None:
        parser.set_defaults(**read_config(config, settings))
    try:
        *instances, unknown = parser.parse_args_into_dataclasses(list(argv), return_remaining_strings=True)
    except ValueError as error:  # TrainingArguments checks some combinations itself
        raise UserError(f"{prog}: {error}") from error
    known = [option for action in parser._actions for option in action.option_strings]
    problems = [_unknown(flag, flag, known) for flag in unknown if flag.startswith("-")]
    problems += [Problem(word, "is one word too many", f"See `{prog} --help`.") for word in unknown if not problems]
    if problems:
        raise ConfigError(problems)
    if len(instances) == len(settings):
        instances.append(Namespace())
    check_ranges(*instances[:-1])
    return tuple(instances)


def read_config(path: Path, settings: Sequence[type[Any]]) -> dict[str, Any]:
    """The YAML file's values by field name, each checked against its field's type.

    Raises:
        ConfigError: everything that is wrong with the file, with its line.
        UserError: the file cannot be read.
    """
    where = display_path(path)
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read: {error}\n  Give a YAML file of settings.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: is not YAML: {error}") from error
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{where}: holds no settings.\n  Write one `name: value` a line.")
    hints = {name: hint for cls in settings for name, hint in _hints(cls).items()}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for key_node, value_node in node.value:
        line = f"{where}:{key_node.start_mark.line + 1}"
        key = key_node.value
        if key in values:
            problems.append(Problem(line, f'"{key}" is set a second time', "Keep one of the two lines."))
            continue
        value = _checked(line, key, _construct(value_node), hints, problems)
        if key in hints:
            values[key] = value
    if problems:
        raise ConfigError(problems)
    return values


def settle(cls: type[Any], common: dict[str, Any], own: dict[str, Any], where: str) -> Any:
    """An instance of the dataclass from values that a program chose, and over them some that a user wrote in a plan.

    Args:
        where: what to call the plan's place in a message.

    Raises:
        ConfigError: everything that is wrong with the user's values.
    """
    hints, problems = _hints(cls), list[Problem]()
    values = {key: _checked(where, key, value, hints, problems) for key, value in own.items()}
    if problems:
        raise ConfigError(problems)
    instance = cls(**{**common, **values})
    check_ranges(instance)
    return instance


def _hints(cls: type[Any]) -> dict[str, Any]:
    """The types of the dataclass's settings, by name."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls) if f.init}


def _checked(where: str, key: str, value: Any, hints: dict[str, Any], problems: list[Problem]) -> Any:
    """The value as the setting wants it; None, and one problem more, if there is no such setting or it cannot be."""
    if key not in hints:
        problems.append(_unknown(where, key, hints))
        return None
    try:
        return coerce(value, hints[key])
    except ValueError as error:
        problems.append(Problem(where, f'"{key}" is {value!r}', f"{error}."))
        return None


def coerce(value: Any, hint: Any) -> Any:
    """The YAML value as the hint wants it. YAML reads `1e-4` as a string; a float field takes it all the same.

    Raises:
        ValueError: it is of another type; the message says what is wanted.
    """
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return coerce(value, args[0])
    if origin in (Union, types.UnionType):
        for option in args:
            try:
                return coerce(value, option)
            except ValueError:
                continue
    elif origin is Literal:
        if value in args:
            return value
        raise ValueError(f"Choose one of {', '.join(map(str, args))}")
    elif origin in (list, Sequence):
        if isinstance(value, list):
            return [coerce(item, args[0]) for item in value]
    elif _fits(value, origin or hint):
        return float(value) if hint is float else value
    raise ValueError(f"Give {_in_words(hint)}")


def _fits(value: Any, kind: type[Any]) -> bool:
    """Whether a YAML value may stand for a plain type; true and false are no numbers."""
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            float(value)
        except ValueError:
            return False
        return True
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def check_ranges(*instances: Any) -> None:
    """Hold every field that has a `Range` to it, and every field that has choices.

    Raises:
        ConfigError: all values out of range.
    """
    problems = []
    for instance in instances:
        hints = get_type_hints(type(instance), include_extras=True)
        for field_ in fields(instance):
            limit = range_of(hints[field_.name])
            value = getattr(instance, field_.name)
            if limit is not None and value is not None and value not in limit:
                problems.append(_out_of_range(field_, value, limit))
    if problems:
        raise ConfigError(problems)


def range_of(hint: Any) -> Range | None:
    """The `Range` in an annotation, if it has one."""
    if get_origin(hint) in (Union, types.UnionType):
        return next((found for option in get_args(hint) if (found := range_of(option))), None)
    return next((extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)), None)


def _out_of_range(field_: Field[Any], value: Any, limit: Range) -> Problem:
    return Problem(f"--{field_.name}", f"is {value}", f"Give {limit}. ({field_.metadata.get('help', '')})")


def _unknown(where: str, name: str, known: Any) -> Problem:
    close = difflib.get_close_matches(name, known, n=1)
    cure = f"Did you mean {close[0]}?" if close else "See --help for what there is."
    return Problem(where, f'"{name}" is no setting', cure)


def _construct(node: yaml.Node) -> Any:
    return yaml.SafeLoader("").construct_object(node, deep=True)


def _in_words(hint: Any) -> str:
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text", type(None): "null"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_in_words(option) for option in get_args(hint))
    if get_origin(hint) in (list, Sequence):
        return "a list"
    return words.get(hint, "a mapping" if get_origin(hint) is dict or hint is dict else str(hint))


class _PlainParser(ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{self.prog}: {message}\n  `{self.prog} --help` lists all arguments.")


def plain_parser(prog: str, description: str) -> ArgumentParser:
    """A parser for commands without a settings dataclass; its errors are ours."""
    return _PlainParser(prog=prog, description=description, allow_abbrev=False)
