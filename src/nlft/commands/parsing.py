"""Read a command's flags and YAML file into settings. Show its help without torch."""

from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nlft.commands.checks import CHECKED, check_names
from nlft.commands.help import Section, command_help
from nlft.commands.next_steps import SMALL_MODEL
from nlft.config import SALIENCY, Declared, GivenSetting, check_ranges, checked, closest, declared, from_text
from nlft.errors import ConfigError, Problem, UserError
from nlft.models.idle import refuse_idle_model
from nlft.path_settings import PATHS, whole_path
from nlft.processes import importing
from nlft.yaml_files import yaml_entries

if TYPE_CHECKING:
    from nlft.core.schemes.scheme import Scheme

NEEDED = {
    "model_name_or_path": f"Give a folder or a hub name, such as {SMALL_MODEL}.",
    "adapter": "Name what to merge: nlft merge RUN, or --adapter with an adapter's folder or a hub name.",
}

_IMPORT_FIRST = "Convert the file first, with this flag: nlft import FILE --out examples.jsonl."
_BY_ITSELF = "Leave it out: the same command goes on by itself, and repeats nothing that is finished."

# Replaced flags, and the text to type instead, by command ("" for all).
_MOVED = {
    ("", "columns"): _IMPORT_FIRST,
    ("", "from"): _IMPORT_FIRST,
    ("nlft tune", "resume"): _BY_ITSELF,
    ("nlft compare", "resume"): _BY_ITSELF,
    ("nlft rounds", "resume"): _BY_ITSELF,
    ("nlft train", "rounds"): "Rounds are a command: nlft rounds FILE --rounds 3.",
    ("nlft train", "base_url"): "Training needs the model's weights: --model_name_or_path FOLDER or a hub name.",
}


class PlainParser(ArgumentParser):
    """argparse's parser with nlft's errors. An error takes one line, without two screens of flags before it."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        raise UserError(f"{self.prog}: {message}\n  `{self.prog} --help` lists the arguments.")


def _no_arguments(parser: ArgumentParser) -> None:
    """Add nothing."""


def early_setting(prog: str, argv: Sequence[str], name: str) -> object:
    """Return a setting's value from its flag, or else from the --config file, before a command reads its arguments.

    Raises:
        UserError: the flag has no value, or the file cannot be read.
    """
    words = _words(argv)
    text = _flag_text(prog, words, name)
    if text is not None:
        return text
    given = next((entry for entry in _config_entries(prog, words) if entry.key == name), None)
    return given and _early_value(given)


def _early_value(entry: GivenSetting) -> object:
    """Return a setting's value before the full reading, which tells what is wrong with a path."""
    try:
        return whole_path(entry.key, entry.text)
    except ValueError:
        return None


def _config_entries(prog: str, words: Sequence[str]) -> list[GivenSetting]:
    """Return the settings of the --config file, if there is one.

    Raises:
        UserError: there are two, or the file cannot be read.
    """
    before = PlainParser(prog=prog, add_help=False, allow_abbrev=False)
    before.add_argument("--config", action="append", default=[])
    files = before.parse_known_args(words)[0].config
    if len(files) > 1:
        raise UserError(
            f"{prog}: --config is given {len(files)} times: {', '.join(files)}.\n"
            "  Write all settings into one file. Flags override it."
        )
    return yaml_entries(Path(files[0])) if files else []


def _flag_text(prog: str, argv: Sequence[str], name: str) -> str | None:
    before = PlainParser(prog=prog, add_help=False, allow_abbrev=False)
    before.add_argument(f"--{name}")
    text: str | None = getattr(before.parse_known_args(argv)[0], name)
    return text


@dataclass(frozen=True)
class Command:
    """A command's arguments.

    Attributes:
        prog: the command as the user types it, such as `nlft train`.
        settings: dataclasses of settings that can be imported without torch; the help shows them.
        sections: the help's headings, each with the class or the field names under it. The default is one heading for
            each class.
        load: imports and returns the dataclasses that a run fills in, in the same order. The default is `settings`.
            These dataclasses may have more fields, which `--help-all` lists.
        add_arguments: adds the arguments that are not settings, such as the input file.
        needs: settings that must be given.
        scheme: the saliency scheme whose settings `--saliency.NAME` sets, unless a setting `scheme` names another.
    """

    prog: str
    description: str
    settings: Sequence[type]
    sections: Sequence[Section] = ()
    load: Callable[[], Sequence[type]] | None = None
    add_arguments: Callable[[ArgumentParser], None] = _no_arguments
    needs: Sequence[str] = ()
    scheme: str | None = None

    def parse(self, argv: Sequence[str]) -> tuple[Any, ...]:
        """Read `--config FILE` and flags.

        Return an instance of each dataclass, the scheme's settings if the command takes them, and a namespace of the
        other arguments.

        Raises:
            ConfigError: all unknown keys and flags, wrong types, and values out of range.
        """
        with importing():
            return _Reading(self, _words(argv)).result()

    def help(self, *, everything: bool) -> str:
        """Return the text that `--help` prints, or `--help-all` with `everything`."""
        parser = PlainParser(prog=self.prog, add_help=False)
        self.add_arguments(parser)
        sections = self.sections or [(_title(cls), cls) for cls in self.settings]
        full = self.load() if everything and self.load else self.settings
        return command_help(self.prog, self.description, parser, sections, full, everything=everything)


class _Reading:
    """The state while one command line is read."""

    def __init__(self, command: Command, argv: list[str]) -> None:
        self.command = command
        if {"-h", "--help", "--help_all"} & set(argv):
            print(command.help(everything="--help_all" in argv))
            raise SystemExit(0)
        self.argv, self.saliency_flags = _split_saliency(argv) if command.scheme else (argv, [])

    def result(self) -> tuple[Any, ...]:
        """Return the result of `Command.parse`."""
        entries = _config_entries(self.command.prog, self.argv)
        self._check_early(entries)
        weighing = []
        if self.command.scheme:
            own = [e for e in entries if e.key.startswith(SALIENCY)]
            entries = [e for e in entries if not e.key.startswith(SALIENCY)]
            weighing = [self._scheme_settings(own, entries)]
        classes = self.classes
        values = checked(entries, self._known(classes))
        *instances, other = self._instances(classes, values)
        for one in instances:
            refuse_idle_model(one)
        return (*instances, *weighing, other)

    @cached_property
    def classes(self) -> Sequence[type]:
        """Return the dataclasses that the run fills in."""
        return self.command.load() if self.command.load else self.command.settings

    def _early(self, name: str) -> str | None:
        """Return a flag's text before the flags are parsed. Return None if the flag is not given."""
        return _flag_text(self.command.prog, self.argv, name)

    def _check_early(self, entries: Sequence[GivenSetting]) -> None:
        """Check what can be checked before torch is imported."""
        read = {entry.key: _early_value(entry) for entry in entries}
        given = {name: value for name, value in read.items() if isinstance(value, str)}
        for name in dict.fromkeys([*CHECKED, *self.command.needs]):
            text = self._early(name)
            if text is not None:
                given[name] = text
        there = {entry.key for entry in entries if entry.value}  # the full reading tells what is wrong with it
        missing = [name for name in self.command.needs if not given.get(name) and name not in there]
        if missing and not self._wrong_flags():
            raise UserError("\n".join(f"--{name} is missing.\n  {NEEDED[name]}" for name in missing))
        check_names(given)

    def _wrong_flags(self) -> bool:
        """Return whether the command line has flags that only the full reading can judge."""
        ours = {*declared(*self.command.settings), *_aliases(self.command.settings)}
        parser = PlainParser(prog=self.command.prog, add_help=False, allow_abbrev=False)
        self.command.add_arguments(parser)
        ours_too = {option[2:] for action in parser._actions for option in action.option_strings}
        names = [word[2:].partition("=")[0] for word in self.argv if word.startswith("--")]
        return any(name not in ours and name not in ours_too and name != "config" for name in names)

    def _known(self, classes: Sequence[type]) -> Mapping[str, Declared]:
        known = declared(*classes)
        if self.command.scheme:
            known |= {f"{SALIENCY}{name}": setting for name, setting in declared(self._scheme().settings).items()}
        return known

    def _scheme(self, entries: Sequence[GivenSetting] = ()) -> "Scheme":
        from nlft.core.schemes.registry import get_scheme

        if not hasattr(self, "_found"):
            name = self.command.scheme
            if any("scheme" in declared(cls) for cls in self.command.settings):
                given = [str(e.value) for e in entries if e.key == "scheme"]
                name = self._early("scheme") or (given[0] if given else name)
            self._found = get_scheme(str(name))
        return self._found

    def _scheme_settings(self, own: Sequence[GivenSetting], entries: Sequence[GivenSetting]) -> Any:
        """Return the scheme's settings from the file and the flags. Flags override the file."""
        scheme = self._scheme(entries)
        known = {f"{SALIENCY}{name}": setting for name, setting in declared(scheme.settings).items()}
        problems = [_not_of_scheme(e.where, e.key, scheme, known) for e in own if e.key not in known]
        problems += [_not_of_scheme(f, f[2:], scheme, known) for f, _ in self.saliency_flags if f[2:] not in known]
        if problems:
            raise ConfigError(problems)
        values = checked(own, known)
        for flag, text in self.saliency_flags:
            try:
                values[flag[2:]] = from_text(text, known[flag[2:]].hint)
            except ValueError as error:
                problems.append(Problem(flag, f"is {text!r}", f"{error}."))
        if problems:
            raise ConfigError(problems)
        settings = scheme.settings(**{name.removeprefix(SALIENCY): value for name, value in values.items()})
        check_ranges(settings, prefix=SALIENCY)
        return settings

    def _instances(self, classes: Sequence[type], values: dict[str, Any]) -> tuple[Any, ...]:
        from transformers import HfArgumentParser

        class Parser(PlainParser, HfArgumentParser):  # type: ignore[misc]
            pass

        made: Any = Parser  # mypy does not follow transformers
        parser = made(list(classes), prog=self.command.prog, add_help=False, allow_abbrev=False)
        parser.add_argument("--config", type=Path)
        self.command.add_arguments(parser)
        parser.set_defaults(**values)
        words = parser.parse_known_args(self.argv)[1]
        if words:  # before the dataclasses are made: they would say that a misspelt setting is missing
            self._refuse(words, [option for action in parser._actions for option in action.option_strings], classes)
        try:
            instances = list(parser.parse_args_into_dataclasses(self.argv))
        except (UserError, MemoryError, ImportError):
            raise
        except Exception as error:  # TrainingArguments checks some values itself, and raises what it likes
            said = str(error) or type(error).__name__
            raise UserError(f"{self.command.prog}: {said}\n  Correct the setting that it names.") from error
        if len(instances) == len(classes):
            instances.append(Namespace())
        check_ranges(*instances[:-1])
        return tuple(instances)

    def _refuse(self, words: Sequence[str], options: Sequence[str], classes: Sequence[type]) -> None:
        """Raise ConfigError for words that the parser does not know."""
        known = [option[2:] for option in options if option.startswith("--") and "-" not in option[2:]]
        known = list(dict.fromkeys([*known, *self._known(classes)]))
        problems = []
        for flag in [word.partition("=")[0] for word in words if word.startswith("-")]:
            problems.append(_flag_problem(self.command.prog, flag, known))
        if not problems:
            cure = f"See `{self.command.prog} --help`."
            problems = [Problem(word, "is an unexpected argument", cure) for word in words]
        if problems:
            raise ConfigError(problems)


def _aliases(classes: Sequence[type]) -> set[str]:
    """Return the other names of the classes' settings as flags, without hyphens."""
    return {alias[2:] for cls in classes for one in fields(cls) for alias in one.metadata.get("aliases", ())}


def _flag_problem(prog: str, flag: str, known: Sequence[str]) -> Problem:
    name = flag.lstrip("-")
    close = closest(name, known)
    cure = f"Did you mean --{close}?" if close else f"`{prog} --help` lists the arguments."
    moved = _MOVED.get((prog, name)) or _MOVED.get(("", name))
    return Problem(flag, f"is not an argument of `{prog}`", moved or cure)


def _not_of_scheme(where: str, key: str, scheme: "Scheme", known: Mapping[str, Declared]) -> Problem:
    close = closest(key, list(known))
    has = ", ".join(name.removeprefix(SALIENCY) for name in known) or "none"
    cure = f"Did you mean --{close}?" if close else f"Its settings: {has}. Or choose another --scheme."
    return Problem(where, f'"{key}" is not a setting of scheme {scheme.name}', cure)


def _underscored(word: str) -> str:
    """Replace hyphens in a flag's name: `--model-name-or-path=x` becomes `--model_name_or_path=x`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _words(argv: Sequence[str]) -> list[str]:
    """Return a command line with underscores in the flags' names, and with whole paths.

    Raises:
        ConfigError: a path begins with a variable.
    """
    words = [_underscored(word) for word in argv]
    problems = []
    for at, word in enumerate(words):
        flag, equals, text = word.partition("=")
        if not flag.startswith("--") or flag[2:] not in PATHS or not (equals or words[at + 1 :]):
            continue
        text = text if equals else words[at + 1]
        try:
            whole = whole_path(flag[2:], text)
        except ValueError as error:
            problems.append(Problem(flag, f"is {text}", f"{error}."))
            continue
        words[at if equals else at + 1] = f"{flag}={whole}" if equals else whole
    if problems:
        raise ConfigError(problems)
    return words


def _split_saliency(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the other words, and each `--saliency.NAME` with its value. A flag without a value is true."""
    rest, flags = list[str](), list[tuple[str, str]]()
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith(f"--{SALIENCY}"):
            rest.append(word)
            continue
        flag, equals, value = word.partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("--") else "true"
        flags.append((flag, value))
    return rest, flags


def _title(cls: type) -> str:
    return (cls.__doc__ or cls.__name__).split("\n")[0].rstrip(".")


class _NoSettings(PlainParser):
    """The parser of a command without settings."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Read the arguments. For a flag that does not exist, the error suggests the right spelling."""
        chosen, words = super().parse_known_args(_words(args), namespace)
        known = [option[2:] for action in self._actions for option in action.option_strings]
        for word in words:
            flag = word.partition("=")[0]
            if flag.startswith("-"):
                raise ConfigError([_flag_problem(self.prog, flag, known)])
            raise UserError(f"{word}: is an unexpected argument.\n  See `{self.prog} --help`.")
        return chosen


def plain_parser(prog: str, description: str) -> ArgumentParser:
    """Make a parser for a command without settings.

    Like other commands, it has `--help-all` and both spellings of flags.
    """
    parser = _NoSettings(prog=prog, description=description, allow_abbrev=False, add_help=False)
    parser.add_argument("-h", "--help", action="help", help="show this help message and exit")
    parser.add_argument("--help_all", action="help", help=SUPPRESS)
    return parser


LOCAL = "127.0.0.1"


def address_flags(parser: ArgumentParser, port: int) -> None:
    """Add the flags of a command that serves a page. `port` is the usual one."""
    from nlft.page.access import access_flags, host_name, port_number

    parser.add_argument("--host", default=LOCAL, help="address to listen on (default: localhost only)")
    parser.add_argument("--port", type=port_number, help=f"port to listen on (default: {port}, or a free one)")
    parser.add_argument(
        "--allow_host",
        action="append",
        default=[],
        type=host_name,
        metavar="NAME",
        help="another host name that browsers may use for this server",
    )
    access_flags(parser)
